"""What finished work stands on: files that were replaced, touched or copied, and labels that were corrected, since."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.command_line import Cli, Ended
from tests.tiny import IMAGES, refused, save_tiny
from tests.training_runs import make_clips, make_images, recipe, splits
from uniformer.checkpoints.save import verify
from uniformer.datasets.open import open_dataset
from uniformer.datasets.sums import item_sums
from uniformer.evaluation.features import load_features
from uniformer.support.files import PIECE, content_sum
from uniformer.training.loop import fit
from uniformer.training.state import read_state, write_state

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- the sum ---------------------------------------------------------------------------------------------------------


def test_a_sum_tells_contents_and_no_names_or_times(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for size in (0, 1, PIECE, 2 * PIECE):
        one.write_bytes(b"x" * size)
        shutil.copyfile(one, other)
        os.utime(other, ns=(0, 0))
        assert content_sum(one, with_time=True) == content_sum(other, with_time=True) > 0
        for place in {0, size // 2, size - 1} if size else ():
            data = bytearray(one.read_bytes())
            data[place] ^= 1
            other.write_bytes(data)
            assert content_sum(one) != content_sum(other)
    assert content_sum(tmp_path / "none") == 0


def test_nothing_waits_for_a_pipe_among_the_files(cli: Cli, tmp_path: Path) -> None:
    net, data = save_tiny(tmp_path / "net.safetensors", IMAGES), tmp_path / "data"
    make_images(data, 3)
    pipe = next(iter(sorted(data.rglob("*.png"))))
    pipe.unlink()
    os.mkfifo(pipe)
    assert content_sum(pipe) == content_sum("/dev/zero") == 0
    for command in (
        ("data", "scan", data, "--workers", 0, "--out", tmp_path / "scan"),
        ("eval", net, data, "--split", "train", "--workers", 0, "--class-order", "numbers", "--out", tmp_path / "eval"),
        ("train", data, "--checkpoint", net, "--out", tmp_path / "run", "loop.max_bad_fraction=0.5"),
    ):
        ended = cli(*command)
        assert f"{pipe}: expected an image, found something that is not a regular file" in ended.out + ended.err


def test_of_a_large_file_whose_middle_is_not_looked_at_the_time_counts_where_it_is_asked_for(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"x" * (2 * PIECE + 1))
    shutil.copy2(one, other)
    assert content_sum(one, with_time=True) == content_sum(other, with_time=True)
    os.utime(other, ns=(0, 0))
    assert content_sum(one) == content_sum(other)
    assert content_sum(one, with_time=True) != content_sum(other, with_time=True)
    for place in (0, -1):
        data = bytearray(one.read_bytes())
        data[place] ^= 1
        other.write_bytes(data)
        assert content_sum(one) != content_sum(other)


def test_a_folder_of_frames_and_a_part_of_a_video_are_items_of_their_own(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for name in ("1.png", "2.png"):
        (frames / name).write_bytes(name.encode())
    before = content_sum(frames)
    assert before == content_sum(shutil.copytree(frames, tmp_path / "copy"))
    (frames / "2.png").write_bytes(b"2.pnG")
    assert content_sum(frames) != before
    shutil.copy(Path(__file__), tmp_path / "a.mp4")
    (tmp_path / "list.csv").write_text("path,label,start,end\na.mp4,x,0,1\na.mp4,x,1,2\na.mp4,y,,\n")
    sums = item_sums(open_dataset(tmp_path / "list.csv"))
    assert len(set(sums.tolist())) == 3
    assert sums[2] == content_sum(tmp_path / "a.mp4")


# ---- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes in train/ and val/, and the list of the second."""
    folder = make_images(tmp_path / "images")
    names = [f"val/{name}/{i}.png" for name in ("blue", "red") for i in range(4)]
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{name},{name.split('/')[1]}\n" for name in names))
    return folder


@pytest.fixture
def run(images: Path, tmp_path: Path, cli: Cli) -> Callable[..., Ended]:
    net = save_tiny(tmp_path / "net.safetensors", IMAGES)

    def called(verb: str, out: str, *more: object) -> Ended:
        order = ["--class-order", "numbers"] if verb == "eval" else []
        out_of = ["--out", tmp_path / out, "--device", "cpu", "--workers", 0]
        return cli(verb, net, images / "list.csv", *order, *out_of, *more)

    return called


def redraw(path: Path) -> None:
    """Another picture under the same name."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def scores_of(folder: Path) -> dict[str, bytes]:
    with np.load(folder / "scores.npz") as arrays:
        return {name: arrays[name].tobytes() for name in arrays.files}


def test_an_evaluation_does_only_the_replaced_files_again(
    run: Callable[..., Ended], images: Path, tmp_path: Path
) -> None:
    assert run("eval", "a").status == 0
    answers = tmp_path / "a" / "answers" / "rows-0.bin"
    size = answers.stat().st_size
    for path in sorted((images / "val" / "red").iterdir()):  # touched and copied anew: nothing is to be done
        shutil.copy(path, path.with_suffix(".copy"))
        os.replace(path.with_suffix(".copy"), path)
        os.utime(path, ns=(0, 0))
    assert run("eval", "a").status == 0
    assert answers.stat().st_size == size
    redraw(images / "val" / "blue" / "2.png")
    assert run("eval", "a").status == run("eval", "b").status == 0
    assert scores_of(tmp_path / "a") == scores_of(tmp_path / "b")
    assert answers.stat().st_size == size + size // 8
    assert run("eval", "a").status == 0
    assert answers.stat().st_size == size + size // 8


def test_an_evaluation_goes_by_the_labels_as_they_are_now(
    run: Callable[..., Ended], images: Path, tmp_path: Path
) -> None:
    run("eval", "a")
    text = (images / "list.csv").read_text()
    (images / "list.csv").write_text(text.replace("val/red/0.png,red", "val/red/0.png,blue"))
    assert run("eval", "a").status == run("eval", "b").status == 0
    assert scores_of(tmp_path / "a") == scores_of(tmp_path / "b")


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
@pytest.mark.parametrize("change", ["file", "label"])
def test_features_are_of_the_files_and_labels_as_they_are_now(
    form: str, change: str, run: Callable[..., Ended], images: Path, tmp_path: Path
) -> None:
    assert run("features", "a", "--form", form).status == 0
    (shard,) = (tmp_path / "a").glob(f"*.{form}")
    before = shard.stat().st_mtime_ns
    os.utime(images / "val" / "red" / "0.png", ns=(0, 0))
    assert run("features", "a", "--form", form).status == 0
    assert shard.stat().st_mtime_ns == before
    if change == "file":
        redraw(images / "val" / "red" / "0.png")
    else:
        text = (images / "list.csv").read_text()
        (images / "list.csv").write_text(text.replace("val/red/0.png,red", "val/red/0.png,blue"))
    assert run("features", "a", "--form", form).status == run("features", "b", "--form", form).status == 0
    mine, anew = load_features(tmp_path / "a"), load_features(tmp_path / "b")
    assert mine.features.tobytes() == anew.features.tobytes()
    assert mine.labels.tolist() == anew.labels.tolist()
    assert mine.labels.tolist().count(0) == (5 if change == "label" else 4)


def test_a_probe_and_a_classifier_are_fitted_to_what_is_there_now(
    run: Callable[..., Ended], images: Path, tmp_path: Path, cli: Cli
) -> None:
    lines = (images / "list.csv").read_text().splitlines()
    (images / "test.csv").write_text("\n".join([lines[0], *lines[3:7]]) + "\n")
    train = ["train", images / "list.csv", f"data.val={images / 'test.csv'}", "--device", "cpu", "data.workers=0"]
    net = tmp_path / "net.safetensors"

    def everything(suffix: str) -> list[object]:
        probe = ["--probe", "linear", "--train", images / "list.csv", "--out", tmp_path / f"probe{suffix}"]
        assert cli("eval", net, images / "test.csv", *probe, "--device", "cpu", "--workers", 0).status == 0
        assert cli(*train, "--checkpoint", net, "--out", tmp_path / f"train{suffix}").status == 0
        scores = json.loads((tmp_path / f"probe{suffix}" / "metrics.json").read_text())["metrics"]
        path = tmp_path / f"train{suffix}" / "model.safetensors"
        weights = {name: tensor.tobytes() for name, tensor in load_file(path).items()}
        return [scores, weights, verify(path)[0].to_json()]

    before = everything("")
    for name in ("val/blue/0.png,blue", "val/red/3.png,red"):
        text = (images / "list.csv").read_text()
        other = ",red" if "blue" in name else ",blue"
        (images / "list.csv").write_text(text.replace(name, name.split(",")[0] + other))
    redraw(images / "val" / "red" / "1.png")
    assert everything("") == everything(".anew") != before


# ---- manifests -------------------------------------------------------------------------------------------------------


def test_a_scan_looks_again_at_what_was_replaced_and_at_nothing_else(images: Path, tmp_path: Path, cli: Cli) -> None:
    journal, victim = tmp_path / "scan" / "files.jsonl", images / "val" / "red" / "1.png"

    def scan() -> tuple[int, int]:
        ended = cli("data", "scan", images / "list.csv", "--workers", 0, "--out", tmp_path / "scan")
        return ended.status, len(journal.read_text().splitlines())

    looked_at = scan()[1]
    times = os.stat(victim)
    os.utime(images / "val" / "red" / "2.png", ns=(0, 0))
    assert scan() == (0, looked_at)
    victim.write_bytes(b"x" * times.st_size)  # damaged, and as long and as old as before
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert scan()[0] == 1
    marked = open_dataset(tmp_path / "scan")
    assert [item.path for item in marked if not item.readable] == [str(victim)]


def test_a_clip_is_encoded_anew_only_where_it_was_replaced(tmp_path: Path, cli: Cli) -> None:
    clips = make_clips(tmp_path / "clips", train=2) / "train"

    def prepare() -> dict[str, int]:
        done = cli("data", "prepare", clips, "--workers", 0, "--short-side", 32, "--out", tmp_path / "out")
        assert done.status == 0
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "fast").iterdir()}

    before = prepare()
    os.utime(clips / "fast" / "0.mp4", ns=(0, 0))
    assert prepare() == before
    shutil.copy2(clips / "slow" / "1.mp4", clips / "fast" / "1.mp4")
    assert {name for name, time in prepare().items() if time != before[name]} == {"1.mp4"}


# ---- training --------------------------------------------------------------------------------------------------------


def test_a_training_run_does_not_go_on_with_other_labels(images: Path, tmp_path: Path) -> None:
    train_set, val_set = splits(images)
    chosen = recipe({"schedule": {"epochs": 1}})
    fit(chosen, train_set, val_set, out=tmp_path / "run", device="cpu")
    for changed, words in (
        ((replace(train_set, labels=train_set.labels[::-1].copy()), val_set), r"\(labels: \w+ there, \w+ here\)"),
        ((train_set, replace(val_set, labels=val_set.labels[::-1].copy())), r"\(validated labels: "),
    ):
        with refused(f"is of a run on other data {words}"):
            fit(chosen, *changed, out=tmp_path / "run", device="cpu")
    state = read_state(tmp_path / "run" / "state.pt")
    for name in ("labels", "validated labels"):  # as earlier versions wrote it
        del state["data"][name]
    write_state(tmp_path / "run" / "state.pt", {key: value for key, value in state.items() if key != "format"})
    fit(chosen, train_set, val_set, out=tmp_path / "run", device="cpu")

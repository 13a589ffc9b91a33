"""The command line as users meet it: formats, exit statuses, one line for what is wrong, resuming after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from tests import odd_media
from tests.tiny import CLIPS, IMAGES, save_tiny, tiny_model
from uniformer.checkpoint import to_reference
from uniformer.cli import main

COMMAND = [sys.executable, "-m", "uniformer.cli"]


class Ended(NamedTuple):
    status: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process, which spares importing torch each time."""

    def run(*args: object) -> Ended:
        capfd.readouterr()
        try:
            status = main([str(a) for a in args])
        except SystemExit as error:
            status = int(error.code or 0)
        sys.stdout.flush()
        return Ended(status, *capfd.readouterr())

    return run


def spawn(*args: object, shell: str = "", env: dict[str, str] | None = None, **options: object) -> Ended:
    """Run a command in a process of its own, or through a shell that has it as "$@"."""
    command = ["sh", "-c", shell, "sh", *COMMAND] if shell else COMMAND
    done = subprocess.run(
        [*command, *map(str, args)], text=True, capture_output=True, env={**os.environ, **(env or {})}, **options
    )  # type: ignore[call-overload]
    return Ended(done.returncode, done.stdout, done.stderr)


def one_line(ended: Ended, *words: str) -> None:
    """Bad input: status 2, exactly one line on standard error, nothing on standard output."""
    assert (ended.status, ended.out) == (2, ""), ended
    assert ended.err.startswith("uniformer")
    assert ended.err.count("\n") == 1, ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of clips and of images; videos, images, and files that are neither."""
    root = tmp_path_factory.mktemp("cli")
    save_tiny(root / "clips.safetensors", CLIPS)
    save_tiny(root / "images.safetensors", IMAGES)
    videos = root / "videos"
    (videos / "inside").mkdir(parents=True)
    odd_media.h264(videos)
    odd_media.gif(videos / "inside")
    (root / "broken.mp4").write_bytes(b"This is no video.\n" * 99)
    for folder in ("frames", "photos"):
        (root / folder).mkdir()
        for number in (1, 2, 10):
            Image.fromarray(odd_media.picture(number)).save(root / folder / f"img_{number}.png")
    return root


def predict(cli: Cli, media: Path, *args: object, net: str = "clips") -> Ended:
    return cli("predict", "--checkpoint", media / f"{net}.safetensors", *args)


def sources(ended: Ended) -> list[str]:
    return [json.loads(line)["source"] for line in ended.out.splitlines()]


# ---- formats ---------------------------------------------------------------------------------------------------------


def test_table(cli: Cli, media: Path) -> None:
    ended = predict(cli, media, media / "videos/h264.mp4", "--top-k", 2)
    assert (ended.status, ended.err) == (0, "")
    name, first, second = ended.out.splitlines()
    assert name == str(media / "videos/h264.mp4")
    assert "class of number" in first
    assert float(first.split("%")[0]) >= float(second.split("%")[0]) > 0


def test_jsonl(cli: Cli, media: Path) -> None:
    ended = predict(cli, media, media / "videos/h264.mp4", "--format", "jsonl", "--clips", 3)
    (result,) = map(json.loads, ended.out.splitlines())
    assert [len(clip) for clip in result["frames"]] == [4, 4, 4]
    assert len(result["labels"]) == 5
    assert (result["checkpoint"], result["fps"]) == ("tiny.test", 25)


def test_csv_into_a_file(cli: Cli, media: Path, tmp_path: Path) -> None:
    ended = predict(cli, media, media / "videos", media / "broken.mp4", "--out", tmp_path / "a.csv", "--top-k", 3)
    assert (ended.status, ended.out) == (1, "")
    rows = list(csv.DictReader((tmp_path / "a.csv").open(newline="")))
    assert [(row["source"], row["rank"]) for row in rows[:6]] == [
        (str(media / "videos" / name), rank) for name in ("h264.mp4", "inside/animated.gif") for rank in "123"
    ]
    assert rows[6]["source"] == str(media / "broken.mp4")
    assert "expected a video" in rows[6]["error"]
    assert len(rows) == 7


def test_failures_do_not_stop_the_others(cli: Cli, media: Path) -> None:
    files = [media / "none.mp4", media / "videos/h264.mp4", media / "broken.mp4"]
    ended = predict(cli, media, *files, "--format", "jsonl")
    assert ended.status == 1
    assert [("error" in json.loads(line)) for line in ended.out.splitlines()] == [True, False, True]
    first, second, summary, *names = ended.err.splitlines()
    assert first.startswith(f"uniformer: {media / 'none.mp4'}")
    assert second.startswith(f"uniformer: {media / 'broken.mp4'}")
    assert summary == "2 of 3 files failed:"
    assert names == [f"  {media / 'none.mp4'}", f"  {media / 'broken.mp4'}"]


# ---- what arguments mean ---------------------------------------------------------------------------------------------


def test_lists_folders_and_patterns(cli: Cli, media: Path, tmp_path: Path) -> None:
    videos = [str(media / "videos/h264.mp4"), str(media / "videos/inside/animated.gif")]
    listed = tmp_path / "list.txt"
    listed.write_text(f"\ufeff# two videos\r\n{videos[0]}\r\n\r\n{videos[1]}\r\n", encoding="utf-8")
    for argument in (listed, media / "videos", media / "videos/**/*.*"):
        assert sources(predict(cli, media, argument, "--format", "jsonl")) == videos, argument
    frames = predict(cli, media, media / "frames", "--format", "jsonl")
    assert sources(frames) == [str(media / "frames")]
    assert json.loads(frames.out)["num_frames"] == 3
    photos = predict(cli, media, media / "frames", "--format", "jsonl", net="images")
    assert sources(photos) == [str(media / f"frames/img_{n}.png") for n in (1, 2, 10)]


def test_paths_of_a_list_are_relative_to_it(cli: Cli, media: Path) -> None:
    (media / "list.txt").write_text("videos/h264.mp4\n")
    assert sources(predict(cli, media, media / "list.txt", "--format", "jsonl")) == [str(media / "videos/h264.mp4")]


def test_list_on_standard_input(media: Path) -> None:
    args = ("predict", "-", "--checkpoint", "images.safetensors", "--format", "jsonl")
    ended = spawn(*args, input="photos/img_1.png\nphotos/img_2.png\n", cwd=media)
    assert (ended.status, sources(ended)) == (0, ["photos/img_1.png", "photos/img_2.png"]), ended.err


def test_names_that_are_not_utf8(cli: Cli, media: Path, tmp_path: Path) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")
    Path(name).write_bytes((media / "photos/img_1.png").read_bytes())
    out = tmp_path / "a.jsonl"
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png\n")
    assert predict(cli, media, tmp_path / "list.txt", "--out", out, net="images").status == 0
    again = predict(cli, media, name, "--out", out, "--resume", net="images")
    assert (again.status, again.err) == (0, "1 files had a result already\n")
    assert out.read_bytes().count(b"\n") == 1
    table = predict(cli, media, name, net="images")
    assert table.status == 0
    assert "caf\\udce9.png" in table.out


# ---- going on --------------------------------------------------------------------------------------------------------


def results(path: Path) -> dict[str, int]:
    """Rows per source of a whole, readable file of results."""
    text, count = path.read_text(), {}
    assert text.endswith("\n")
    lines = text.splitlines()
    if path.suffix == ".csv":
        assert lines.count(lines[0]) == 1
        rows = [row["source"] for row in csv.DictReader(lines)]
    else:
        rows = [json.loads(line)["source"] for line in lines]
    for source in rows:
        count[source] = count.get(source, 0) + 1
    return count


@pytest.fixture(scope="module")
def many(media: Path) -> Path:
    folder = media / "many"
    folder.mkdir()
    for number in range(120):
        os.link(media / "videos/h264.mp4", folder / f"{number:03}.mp4")
    return folder


def test_resume_after_a_kill(cli: Cli, media: Path, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    command = [*COMMAND, "predict", str(many), "--checkpoint", str(media / "clips.safetensors"), "--out", str(out)]
    child = subprocess.Popen(command, start_new_session=True)
    while child.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < 5):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 5 <= out.read_bytes().count(b"\n") < 120
    assert predict(cli, media, many, "--out", out, "--resume").status == 0
    assert results(out) == {str(many / f"{n:03}.mp4"): 1 for n in range(120)}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_resume_after_a_line_cut_short(suffix: str, cli: Cli, media: Path, tmp_path: Path) -> None:
    """Whatever byte a kill stopped at, a resumed run ends with the results of one that was not killed."""
    photos, out = media / "photos", tmp_path / f"a.{suffix}"
    run = lambda *more: predict(cli, media, photos, "--out", out, "--top-k", 3, *more, net="images")  # noqa: E731
    assert run().status == 0
    whole, labels = out.read_bytes(), 3 if suffix == "csv" else 1
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in {0, 1, len(whole) - 1, len(whole), *ends, *(e - 3 for e in ends), *(e + 5 for e in ends[:-1])}:
        out.write_bytes(whole[:cut])
        ended = run("--resume")
        assert ended.status == 0, ended
        assert results(out) == {str(photos / f"img_{n}.png"): labels for n in (1, 2, 10)}, cut


def test_resume_tries_failures_again(cli: Cli, media: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "a.jsonl", tmp_path / "a.csv"):
        late = tmp_path / f"late{out.suffix}.png"
        assert predict(cli, media, media / "photos", late, "--out", out, net="images").status == 1
        late.write_bytes((media / "photos/img_1.png").read_bytes())
        ended = predict(cli, media, media / "photos", late, "--out", out, "--resume", net="images")
        assert (ended.status, ended.err) == (0, "3 files had a result already\n")
        assert set(results(out).values()) == {5 if out.suffix == ".csv" else 1}


def test_resume_does_not_touch_a_file_of_something_else(cli: Cli, media: Path, tmp_path: Path) -> None:
    for name, text in (("a.jsonl", "my notes\nand more\n"), ("a.csv", "name,age\nAnna,7\n"), ("b.jsonl", "[1]\n[2]\n")):
        (tmp_path / name).write_text(text)
        ended = predict(cli, media, media / "photos", "--out", tmp_path / name, "--resume", net="images")
        one_line(ended, f"{tmp_path / name}: expected results of `uniformer predict`, found line 1")
        assert (tmp_path / name).read_text() == text


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def test_bad_input_is_one_line(cli: Cli, media: Path, tmp_path: Path) -> None:
    photo, net = media / "photos/img_1.png", ("--checkpoint", media / "images.safetensors")
    one_line(cli("predict", photo, "--checkpoint", "uniformer_smal.in1k"), "unknown checkpoint", "uniformer_small.in1k")
    one_line(cli("predict", photo, "--checkpoint", tmp_path / "none.pth"), "no checkpoint at")
    one_line(cli("predict", photo, "--checkpoint", photo), "is no checkpoint, or a damaged one")
    one_line(cli("predict", photo, *net, "--clips", 2), "expected one clip for a network of images")
    one_line(cli("predict", photo, *net, "--batch-size", 0), "expected batch_size of at least 1, got 0")
    one_line(cli("predict", photo, *net, "--device", "abacus"), "cannot compute on device 'abacus'")
    one_line(cli("predict", photo, *net, "--resume"), "--resume needs --out")
    one_line(cli("predict", photo, *net, "--resume", "--out", tmp_path / "a.txt"), "--format jsonl or csv")
    one_line(cli("predict", photo, *net, "--out", tmp_path / "no/such/a.jsonl"), "cannot write", "no/such/a.jsonl")
    one_line(cli("predict", photo, *net, "--out", tmp_path), "cannot write")
    one_line(cli("predict", photo, *net, "--show-sampling", photo / "x"), "cannot write")
    one_line(cli("predict", media / "*.nothing", *net), "nothing matches")
    one_line(cli("predict", tmp_path, *net), "expected a folder with images in it, found none")
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    one_line(cli("predict", tmp_path / "empty.txt", *net), "expected a list of files, found none")
    one_line(cli("predict", photo, "--checkpoint", "x" * 300), "unknown checkpoint")


@pytest.mark.parametrize(
    "args",
    [
        (), ("sing",), ("predict",), ("predict", "a", "--top-k", "many"), ("predict", "a", "--crops", "2"),
        ("predict", "a", "--dtype", "int8"), ("predict", "a", "--backend", "x"), ("predict", "a", "--no-such"),
        ("models", "a", "b"), ("verify",), ("convert", "a"),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_line(args: tuple[str, ...], cli: Cli) -> None:
    one_line(cli(*args))


def test_offline_in_a_process_of_its_own(media: Path, tmp_path: Path) -> None:
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "UNIFORMER_CHECKPOINTS": str(tmp_path)}
    ended = spawn("predict", media / "photos/img_1.png", "--checkpoint", "uniformer_small.k400_16x8", env=env)
    one_line(ended, "cannot fetch uniformer_small_k400_16x8.pth", "offline", str(tmp_path))


def test_interrupted(media: Path, many: Path) -> None:
    paths = [str(many)] * 100  # enough that the signal comes long before the end
    command = [*COMMAND, "predict", *paths, "--checkpoint", str(media / "clips.safetensors"), "--format", "jsonl"]
    child = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert (child.returncode, err) == (130, "uniformer: interrupted\n")


# ---- pictures of the sampling ----------------------------------------------------------------------------------------


def test_show_sampling_one(cli: Cli, media: Path, tmp_path: Path) -> None:
    video, sheet = media / "videos/h264.mp4", tmp_path / "sheet.png"
    assert predict(cli, media, video, "--crops", 3, "--show-sampling", sheet).status == 0
    with Image.open(sheet) as image:
        image.load()
        head, row = 112 + 2 * 8, 14 + 112 + 14 + 8
        assert image.size == (560, head + 14 + 6 * row + 8)  # two clips of three crops
        assert len(image.getcolors(1 << 24) or ()) > 100


def test_show_sampling_of_several_with_equal_names(cli: Cli, media: Path, tmp_path: Path) -> None:
    files = [media / "photos/img_1.png", media / "frames/img_1.png", media / "photos/img_2.png"]
    assert predict(cli, media, *files, "--show-sampling", tmp_path / "sheets", net="images").status == 0
    assert sorted(p.name for p in (tmp_path / "sheets").iterdir()) == [
        "img_1.png.2.sampling.png", "img_1.png.sampling.png", "img_2.png.sampling.png"
    ]  # fmt: skip


# ---- the other commands ----------------------------------------------------------------------------------------------


def test_models(cli: Cli) -> None:
    table = cli("models", "*k400*")
    assert table.status == 0
    assert "uniformer_small.k400_16x4 " in table.out
    assert "…" not in table.out  # nothing cut
    few = cli("models", "--dataset", "Kinetics-600", "--arch", "uniformer_base_video", "--json")
    records = [json.loads(line) for line in few.out.splitlines()]
    assert {(r["dataset"], r["arch"]) for r in records} == {("Kinetics-600", "uniformer_base_video")}
    assert all(r["input"]["sampling"] == "dense" and r["scores"]["top1"] > 80 for r in records)
    one = cli("models", "uniformer_small.k400_16x8")
    assert one.out.startswith("uniformer_small.k400_16x8\n")
    assert "uniformer_small_k400_16x8.pth" in one.out
    everything = cli("models")
    assert everything.out.splitlines()[-1].startswith(f"{len(everything.out.splitlines()) - 2} checkpoints.")
    one_line(cli("models", "*nothing*"), "no published checkpoint matches '*nothing*'")
    one_line(cli("models", "uniformer_smal.in1k"), "did you mean 'uniformer_small.in1k'")
    one_line(cli("models", "--task", "singing"), "no checkpoint has task 'singing'")


def test_verify(cli: Cli, media: Path, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    assert cli("verify", path) == Ended(0, f"{path}: intact (tiny.test, 7 classes)\n", "")
    data = bytearray(path.read_bytes())
    data[-100] ^= 0xFF
    path.write_bytes(data)
    ended = cli("verify", path)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"{path}: the tensors are not the ones that were saved")
    one_line(cli("verify", tmp_path / "none.safetensors"), "no checkpoint at")
    torch.save(to_reference(tiny_model().state_dict()), tmp_path / "a.pth")
    one_line(cli("verify", tmp_path / "a.pth"), "carries no proof to verify")


def test_convert(cli: Cli, tmp_path: Path) -> None:
    state = to_reference(tiny_model().state_dict())
    torch.save({"model": state}, tmp_path / "a.pth")
    one_line(cli("convert", tmp_path / "a.pth", tmp_path / "b"), "expected head_dim")
    one_line(cli("convert", tmp_path / "a.pth", tmp_path / "b", "--head-dim", 0), "expected head_dim of at least 1")
    one_line(cli("convert", tmp_path / "a.pth", tmp_path / "b", "--head-dim", 16, "--averaged"), "no averaged weights")
    ended = cli("convert", tmp_path / "a.pth", tmp_path / "b", "--head-dim", 16)
    assert ended.status == 0
    assert f"{len(state)} tensors loaded, 0 inflated, 0 new, 0 ignored" in ended.out
    assert "head_dim 16 from the caller" in ended.out
    assert ended.out.endswith(f"wrote {tmp_path / 'b'}\n")
    assert cli("verify", tmp_path / "b").status == 0
    assert cli("convert", tmp_path / "b", tmp_path / "c.pth").status == 0
    back = torch.load(tmp_path / "c.pth", weights_only=True)
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


# ---- processes -------------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error() -> None:
    for args in (("models",), ("models", "--json"), ("--help",)):
        ended = spawn(*args, shell='"$@" | head -1')
        assert ended.out.count("\n") == 1
        assert ended.err == ""


def test_a_full_disk_is_one_line(cli: Cli, media: Path) -> None:
    ended = spawn("models", shell='"$@" > /dev/full')
    assert (ended.status, ended.err) == (2, "uniformer: No space left on device\n")
    ended = predict(cli, media, media / "photos", "--out", "/dev/full", "--format", "jsonl", net="images")
    one_line(ended, "cannot write /dev/full: No space left on device")


def test_a_terminal_that_cannot_show_a_character_is_no_error() -> None:
    ended = spawn("models", "uniformer_small.in1k", env={"PYTHONIOENCODING": "ascii"})
    assert (ended.status, ended.err) == (0, "")


LOADED = """
import sys
from uniformer.cli import main
sys.argv = sys.argv[1:]
try:
    main()
except SystemExit:
    pass
print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}))
"""


def loaded(*args: object) -> set[str]:
    """The top packages that a command imports."""
    done = subprocess.run([sys.executable, "-c", LOADED, "uniformer", *map(str, args)], text=True, capture_output=True)
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "LOADED", done
    return set(last[1:])


def test_help_and_models_import_no_torch() -> None:
    heavy = {"torch", "torchvision", "timm", "av", "numpy", "PIL", "huggingface_hub", "safetensors"}
    assert not loaded("--help") & heavy
    assert not loaded("models", "*k400*") & heavy


def test_predict_imports_neither_torchvision_nor_timm(media: Path) -> None:
    packages = loaded("predict", media / "videos/h264.mp4", "--checkpoint", media / "clips.safetensors")
    assert {"torch", "av"} <= packages
    assert not packages & {"torchvision", "timm", "huggingface_hub", "rich"}

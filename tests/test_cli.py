"""`uniformer predict` as users meet it: formats, what arguments mean, one line for what is wrong."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests import odd_media
from tests.command_line import Cli, one_line, predict, sources, spawn
from tests.tiny import CLIPS, IMAGES
from uniformer.reports.sampling import fed_in_words

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


def test_a_warning_is_one_line(media: Path, tmp_path: Path) -> None:
    damaged = odd_media.truncated(tmp_path)
    ended = spawn("predict", "--checkpoint", media / "clips.safetensors", damaged, "--format", "jsonl")
    assert ended.status == 0
    (line,) = ended.err.splitlines()
    assert line.startswith(f"uniformer: warning: {damaged}: ")
    assert "frames are readable" in line


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
    assert (again.status, again.err) == (0, "1 file had a result already\n")
    assert out.read_bytes().count(b"\n") == 1
    table = predict(cli, media, name, net="images")
    assert table.status == 0
    assert "caf\\udce9.png" in table.out


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def test_bad_input_is_one_line(cli: Cli, media: Path, tmp_path: Path) -> None:
    photo, net = media / "photos/img_1.png", ("--checkpoint", media / "images.safetensors")
    one_line(cli("predict", photo, "--checkpoint", "uniformer_smal.in1k"), "unknown checkpoint", "uniformer_small.in1k")
    one_line(cli("predict", photo, "--checkpoint", tmp_path / "none.pth"), "no checkpoint at")
    one_line(cli("predict", photo, "--checkpoint", photo), "is no checkpoint, or a damaged one")
    one_line(cli("predict", photo, *net, "--clips", 2), "expected one clip for a network of images")
    one_line(cli("predict", photo, *net, "--batch-size", 0), "argument --batch-size: expected a whole number from 1")
    one_line(cli("predict", photo, *net, "--device", "abacus"), "cannot compute on device 'abacus'")
    one_line(cli("predict", photo, *net, "--resume"), "--resume needs --out")
    one_line(cli("predict", photo, *net, "--resume", "--out", tmp_path / "a.txt"), "--format jsonl or csv")
    one_line(cli("predict", photo, *net, "--out", photo / "no/such/a.jsonl"), "cannot write", "no/such")
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
        ("sing",), ("predict",), ("predict", "a", "--top-k", "many"), ("predict", "a", "--crops", "2"),
        ("predict", "a", "--precision", "int8"), ("predict", "a", "--backend", "x"), ("predict", "a", "--no-such"),
        ("models", "a", "b"), ("verify",), ("convert", "a"),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_line(args: tuple[str, ...], cli: Cli) -> None:
    one_line(cli(*args))


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("uniformer data make rooms", "x --train 4"), ("uniformer data scan", "x --full y"),
        ("uniformer predict", "x --bogus"), ("uniformer train", "x --bogus a=1"), ("uniformer", "--bogus"),
    ],
)  # fmt: skip
def test_arguments_nobody_knows_are_told_by_the_command_they_were_given_to(command: str, args: str, cli: Cli) -> None:
    ended = cli(*command.split()[1:], *args.split())
    one_line(ended, f"{command}: unrecognized arguments: ", f"(see `{command} --help`)")


def test_offline_in_a_process_of_its_own(media: Path, tmp_path: Path) -> None:
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "UNIFORMER_CHECKPOINTS": str(tmp_path)}
    ended = spawn("predict", media / "photos/img_1.png", "--checkpoint", "uniformer_small.k400_16x8", env=env)
    one_line(ended, "cannot fetch uniformer_small_k400_16x8.pth", "offline", str(tmp_path))


# ---- pictures of the sampling ----------------------------------------------------------------------------------------


def test_show_sampling_one(cli: Cli, media: Path, tmp_path: Path) -> None:
    video, sheet = media / "videos/h264.mp4", tmp_path / "sheet.png"
    assert predict(cli, media, video, "--crops", 3, "--show-sampling", sheet).status == 0
    with Image.open(sheet) as image:
        image.load()
        head, row = 112 + 2 * 8, 14 + 112 + 14 + 8
        assert image.size == (560, head + 14 + 6 * row + 8)  # two clips of three crops
        assert len(image.getcolors(1 << 24) or ()) > 100


def test_what_was_fed_in_words() -> None:
    assert fed_in_words(IMAGES) == "1 view"
    assert fed_in_words(replace(IMAGES, crops=3)) == "3 views"
    clips = replace(CLIPS, frames=8, clips=1, crops=1, sampling="sparse", stride=None)
    assert fed_in_words(clips) == "1 x 1 view of 8 frames, one of each segment"
    clips = replace(clips, clips=4, crops=3, sampling="dense", stride=1)
    assert fed_in_words(clips) == "4 x 3 views of 8 frames, at stride 1"


def test_show_sampling_of_several_with_equal_names(cli: Cli, media: Path, tmp_path: Path) -> None:
    files = [media / "photos/img_1.png", media / "frames/img_1.png", media / "photos/img_2.png"]
    assert predict(cli, media, *files, "--show-sampling", tmp_path / "sheets", net="images").status == 0
    assert sorted(p.name for p in (tmp_path / "sheets").iterdir()) == [
        "img_1.png.2.sampling.png", "img_1.png.sampling.png", "img_2.png.sampling.png"
    ]  # fmt: skip

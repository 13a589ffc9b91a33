"""Nobody's file is harmed: no verb writes over what it reads, nor over anything else that nobody said may go.

Real files and the real command line; each refusal is one line, and all files are afterwards as they were.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import odd_media
from tests.command_line import Cli, Ended, one_line
from tests.tiny import CLIPS, IMAGES, refused, save_tiny, tiny_model
from tests.training_processes import ended, said, start_command
from uniformer.checkpoints.keys import to_reference
from uniformer.checkpoints.save import convert
from uniformer.support.files import as_given, atomic_path, check_outputs, clear_away, distinct_names, folder_to_fill


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks, videos, photographs, frames and lists."""
    folder = tmp_path_factory.mktemp("originals")
    save_tiny(folder / "clips.safetensors", CLIPS)
    save_tiny(folder / "images.safetensors", IMAGES)
    convert(folder / "images.safetensors", folder / "hub")
    torch.save({"model": to_reference(tiny_model().state_dict())}, folder / "net.bin")
    for name in ("a", "b"):
        (folder / "v" / name).mkdir(parents=True)
        odd_media.encode(folder / "v" / name / f"{name}.mp4", frames=8)
    for name in ("photos/one.png", "photos/two.png", "frames/0.png", "frames/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(odd_media.picture(len(name))).save(folder / name)
    for suffix in ("csv", "html", "pth", "txt", "xml"):
        (folder / f"names.{suffix}").write_text("".join(f"class {number}\n" for number in range(7)))
    (folder / "list.txt").write_text("photos/one.png\nphotos/two.png\n")
    (folder / "train.csv").write_text("path,label\n" + "".join(f"v/{n}/{n}.mp4,{i}\n" for i, n in enumerate("ab")))
    return folder


@pytest.fixture
def place(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them in a folder with a space in its name, which is the current one; links to some beside."""
    folder = tmp_path / "my files"
    shutil.copytree(originals, folder)
    (folder / "link.mp4").symlink_to("v/a/a.mp4")
    os.link(folder / "v/a/a.mp4", folder / "hard.mp4")
    (folder / "w").symlink_to("v")
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file's bytes and every link's aim."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def cannot_write(ended: Ended, *words: str) -> None:
    """As `one_line`, but that what the data were taken for may be said before."""
    one_line(ended._replace(out=""), "cannot write ", *words)


IMAGE, CLIP = ("--checkpoint", "images.safetensors"), ("--checkpoint", "clips.safetensors")
OVER_INPUTS = {
    "a video": ("predict", "v/a/a.mp4", *CLIP, "--out", "v/a/a.mp4"),
    "by another way": ("predict", "v/a/a.mp4", *CLIP, "--out", "v/../v/a/a.mp4"),
    "by its whole path": ("predict", "v/a/a.mp4", *CLIP, "--out", "{here}/v/a/a.mp4"),
    "a linked folder": ("predict", "w/a/a.mp4", *CLIP, "--out", "v/a/a.mp4"),
    "a symbolic link": ("predict", "v/a/a.mp4", *CLIP, "--out", "link.mp4"),
    "through a link": ("predict", "link.mp4", *CLIP, "--out", "v/a/a.mp4"),
    "a hard link": ("predict", "v/a/a.mp4", *CLIP, "--out", "hard.mp4"),
    "one of a folder": ("predict", "photos", *IMAGE, "--out", "photos/two.png"),
    "one of a list": ("predict", "list.txt", *IMAGE, "--out", "photos/two.png"),
    "one of a pattern": ("predict", "photos/*.png", *IMAGE, "--out", "photos/two.png"),
    "a list": ("predict", "list.txt", *IMAGE, "--out", "list.txt"),
    "a frame": ("predict", "frames", *CLIP, "--out", "frames/1.png"),
    "a network": ("predict", "photos", *IMAGE, "--out", "images.safetensors"),
    "a part of a network": ("predict", "photos", "--checkpoint", "hub", "--out", "hub/config.json"),
    "a picture by its sheet": ("predict", "photos/one.png", *IMAGE, "--show-sampling", "photos/one.png"),
    "videos re-encoded": ("data", "prepare", "v", "--workers", "0", "--out", "v"),
    "re-encoded by another way": ("data", "prepare", "v", "--workers", "0", "--out", "v/../v"),
    "re-encoded through a link": ("data", "prepare", "v", "--workers", "0", "--out", "w"),
    "a list divided": ("data", "split", "train.csv", "--out", ".", "--fractions", "train=0.5,val=0.5"),
    "a film's videos": ("demo", "v/a/a.mp4", "v/b/b.mp4", "--out", "v/a/a.mp4"),
    "a film by the folder of its results": ("demo", "v/a", "v/b", *CLIP, "--out", "v/a"),
    "converted": ("convert", "images.safetensors", "images.safetensors"),
    "converted folder": ("convert", "hub", "hub"),
    "converted into its folder": ("convert", "hub", "hub/model.safetensors"),
    "exported": ("export", "net.bin", "net.xml", "--head-dim", "16"),
    "names of classes": ("predict", "photos", *IMAGE, "--classes", "names.txt", "--out", "names.txt"),
    "names, by a sheet": (
        "predict",
        "photos/one.png",
        *IMAGE,
        "--classes",
        "names.txt",
        "--show-sampling",
        "names.txt",
    ),
    "names, converted": ("convert", "net.bin", "names.pth", "--head-dim", "16", "--classes", "names.pth"),
    "names, exported": ("export", "images.safetensors", "names.xml", "--classes", "names.xml"),
    "names, by a page": ("demo", "v/a/a.mp4", *CLIP, "--classes", "names.html", "--out", "names.html"),
    "names, divided": (
        *("data", "split", "train.csv", "--classes", "names.csv", "--out", "."),
        *("--fractions", "names=0.5,val=0.5"),
    ),
    "names, evaluated": ("eval", "clips.safetensors", "v", "--classes", "report.html", "--out", "."),
    "a list evaluated": ("eval", "clips.safetensors", "metrics.json", "--out", "."),
}


@pytest.mark.parametrize("what", OVER_INPUTS)
def test_no_input_is_written_over(what: str, cli: Cli, place: Path) -> None:
    """Not with --overwrite either."""
    if what == "a list evaluated":
        (place / "metrics.json").write_text(json.dumps([{"path": "v/a/a.mp4", "label": 0}]))
    if what == "names, evaluated":
        (place / "names.txt").rename("report.html")
    before = contents(place)
    command = [part.format(here=place) for part in OVER_INPUTS[what]]
    for more in (["--overwrite"], []):
        cannot_write(cli(*command, *more))
        assert contents(place) == before


OVER_OTHERS: dict[str, tuple[str, tuple[str, ...]]] = {  # what is there, and a command that would replace it
    "answers": ("old.jsonl", ("predict", "photos", *IMAGE, "--out", "old.jsonl")),
    "a linked file": ("old.csv", ("predict", "photos", *IMAGE, "--out", "link.csv")),
    "a sheet": ("old.png", ("predict", "photos/one.png", *IMAGE, "--show-sampling", "old.png")),
    "one of several sheets": (
        "s/two.png.sampling.png",
        ("predict", "photos", *IMAGE, "--show-sampling", "s", "--out", "new.jsonl"),
    ),
    "a list": ("val.csv", ("data", "split", "v", "--out", ".", "--fractions", "train=0.5,val=0.5")),
    "a re-encoded video": ("new/a/a.mp4", ("data", "prepare", "v", "--workers", "0", "--out", "new")),
    "a manifest": ("v.scan/all.manifest", ("data", "scan", "v", "--workers", "0")),
    "scores": ("out/report.html", ("eval", "clips.safetensors", "v", "--workers", "0", "--out", "out")),
    "a page": ("page.html", ("demo", "--out", "page.html")),
    "a timeline": ("out/timeline.csv", ("demo", "v/a/a.mp4", "--out", "out")),
    "a network": ("old.pth", ("convert", "images.safetensors", "old.pth")),
    "a network's folder": ("old/config.json", ("convert", "images.safetensors", "old")),
    "exported weights": ("old.bin", ("export", "images.safetensors", "old.xml")),
}


@pytest.mark.parametrize("what", OVER_OTHERS)
def test_nothing_else_is_replaced_unless_that_is_said(what: str, cli: Cli, place: Path) -> None:
    name, command = OVER_OTHERS[what]
    (place / "link.csv").symlink_to("old.csv")
    (place / name).parent.mkdir(exist_ok=True, parents=True)
    (place / name).write_text("of some other origin")
    before = contents(place)
    cannot_write(cli(*command), "--overwrite")
    assert contents(place) == before


def test_a_network_s_folder_holds_nothing_else(cli: Cli, place: Path) -> None:
    """Not with --overwrite either."""
    (place / "mine").mkdir()
    (place / "mine/notes.txt").write_text("mine")
    before = contents(place)
    for folder, other in (("mine", "notes.txt"), (".", "clips.safetensors"), (place / "v", "a")):
        for more in (["--overwrite"], []):
            ended = cli("convert", "images.safetensors", folder, *more)
            one_line(ended, f"cannot write into {folder}: expected an empty folder", f"found {other}")
    assert contents(place) == before
    (place / "empty").mkdir()
    assert cli("convert", "images.safetensors", "empty").status == 0
    assert cli("convert", "images.safetensors", "empty", "--overwrite").status == 0
    assert cli("verify", "empty").status == 0


def test_two_results_do_not_share_a_file(cli: Cli, place: Path) -> None:
    before = contents(place)
    command = ("predict", "photos/one.png", *IMAGE, "--out", "new.png", "--show-sampling")
    (place / "here").symlink_to(".")
    for sheet in ("new.png", "photos/../new.png", "here/new.png"):
        cannot_write(cli(*command, sheet), "two results")
    (place / "here").unlink()
    assert contents(place) == before


def test_every_source_has_a_sheet_of_its_own(cli: Cli, place: Path) -> None:
    names = ["x/a.png", "y/a.png", "z/a.png.2", "z/a.png", "w2/a.png.2"]
    for number, name in enumerate(names):
        (place / name).parent.mkdir(exist_ok=True)
        Image.fromarray(odd_media.picture(number)).save(place / name, "png")
    assert cli("predict", *names, *IMAGE, "--show-sampling", "new").status == 0
    sheets = {path.read_bytes() for path in (place / "new").iterdir()}
    assert len(sheets) == len(names)
    assert distinct_names([*names, ".", ".."]) == [
        *("a.png", "a.png.2", "a.png.2.2", "a.png.3", "a.png.2.3"),
        *(place.name, place.parent.name),
    ]


@pytest.mark.parametrize("parts", ["../v=0.5,val=0.5", "a/b=0.5,val=0.5", "{here}=0.5,val=0.5", "=0.5,val=0.5"])
def test_a_part_is_a_file_in_the_folder_of_the_parts(parts: str, cli: Cli, place: Path) -> None:
    before = contents(place)
    parts = parts.format(here=place / "v")
    ended = cli("data", "split", "v", "--out", "new", "--fractions", parts)
    one_line(ended, "expected --fractions like train=0.8,val=0.2, got")
    assert contents(place) == before


def test_no_part_is_dropped_and_none_is_of_an_unknown_size(cli: Cli, place: Path) -> None:
    for parts in ("train=0.1,train=0.5,val=0.5", "a=0.5, a=0.5,b=0.5", "train=half,val=0.5"):
        one_line(cli("data", "split", "v", "--out", "new", "--fractions", parts), "expected --fractions like")
    for parts in ("train=nan,val=0.5", "train=inf,val=-inf", "train=1e308,val=1e308", "train=1,val=0"):
        ended = cli("data", "split", "v", "--out", "new", "--fractions", parts)
        one_line(ended._replace(out=""), "expected at least two positive fractions that add up to 1")
    assert not (place / "new").exists()


TIMINGS = r'"timings": {.*?}'


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt"])
def test_with_overwrite_the_first_answer_replaces_what_is_there(suffix: str, cli: Cli, place: Path) -> None:
    out = place / f"old.{suffix}"
    for command in (("predict", "none.png", "--checkpoint", "none.pth"), ("predict", "*.none", *IMAGE)):
        out.write_text("before")
        one_line(cli(*command, "--out", out, "--overwrite"))
        assert out.read_text() == "before", "nothing is touched before work"
    assert cli("predict", "photos", *IMAGE, "--out", out, "--overwrite").status == 0
    fresh = place / f"new.{suffix}"
    assert cli("predict", "photos", *IMAGE, "--out", fresh).status == 0
    assert re.sub(TIMINGS, "", out.read_text()) == re.sub(TIMINGS, "", fresh.read_text())
    (place / "link").symlink_to(out.name)
    assert cli("predict", "photos/one.png", *IMAGE, "--out", "link", "--format", "csv", "--overwrite").status == 0
    assert (place / "link").is_symlink()
    assert out.read_text().startswith("source,")
    assert not [path for path in place.rglob(".*") if path.is_file()]


def test_results_appear_when_there_is_something_to_show(cli: Cli, place: Path) -> None:
    one_line(cli("predict", "*.none", *IMAGE, "--out", "new.jsonl"), "nothing matches")
    one_line(cli("predict", "photos", "--checkpoint", "none.pth", "--out", "new.jsonl"), "no checkpoint at")
    assert not [path for path in place.iterdir() if "new" in path.name]


def test_results_within_a_folder_that_is_read_are_gone_on_with(cli: Cli, place: Path) -> None:
    command = ("predict", "photos", *IMAGE, "--out", "photos/new.jsonl", "--resume")
    assert cli(*command).status == 0
    before = contents(place)
    assert cli(*command).err == (
        "uniformer: warning: photos: left out files that are no images: 1 (new.jsonl)\n2 files had a result already\n"
    )
    assert contents(place) == before


def test_repeated_work_replaces_its_own(cli: Cli, place: Path) -> None:
    for command in (
        ("data", "scan", "v", "--workers", 0),
        ("data", "prepare", "v", "--workers", 0, "--out", "new"),
        ("eval", "clips.safetensors", "train.csv", "--workers", 0, "--class-order", "numbers", "--out", "v"),
        ("features", "clips.safetensors", "train.csv", "--workers", 0, "--out", "v"),
    ):
        first, again = cli(*command), cli(*command)
        assert first.status == again.status == 0, (first, again)


def test_two_runs_into_one_file(place: Path) -> None:
    """Started together: the first to come has the file, the other one ends in one line."""
    (place / "many").mkdir()
    for number in range(150):
        os.link(place / "v/a/a.mp4", place / "many" / f"{number:03}.mp4")
    command = ["predict", "many", *CLIP, "--out", "same.jsonl"]
    outputs = [place.with_name(name) for name in ("one", "other")]
    statuses = list(map(ended, [start_command(command, place, says=out) for out in outputs]))
    assert sorted(statuses) == [0, 2]
    refusal = said(outputs[statuses.index(2)])
    assert refusal.startswith("uniformer: ")
    assert refusal.count("\n") == 1
    assert "same.jsonl is in use by " in refusal or "same.jsonl: it is there already" in refusal
    found = [json.loads(line)["source"] for line in (place / "same.jsonl").read_text().splitlines()]
    assert found == [f"many/{number:03}.mp4" for number in range(150)]
    assert not list(place.glob(".same*"))


@pytest.mark.parametrize(
    "command",
    [
        ["demo", "bad.mp4", *CLIP, "--out", "made/deep", "--draw", "drawn"],
        ["demo", "bad.mp4", "worse.mp4", *CLIP, "--out", "made"],
        ["demo", "bad.mp4", *CLIP, "--out", "made/deep/page.html"],
        ["predict", "bad.mp4", *CLIP, "--draw", "made/drawn", "--show-sampling", "made/sheets"],
        ["explain", "bad.mp4", *CLIP, "--out", "made/deep"],
    ],
)
def test_who_fails_leaves_no_empty_folders(place: Path, cli: Cli, command: list[str]) -> None:
    for name in ("bad.mp4", "worse.mp4"):
        (place / name).write_bytes(b"no video")
    before = contents(place)
    ended = cli(*command)
    assert ended.status in (1, 2)
    assert "bad.mp4" in ended.err
    assert contents(place) == before
    assert not [name for name in ("made", "drawn") if (place / name).exists()]


# ---- the rule itself -------------------------------------------------------------------------------------------------


def test_the_rule(place: Path) -> None:
    check_outputs(["new"], ["v/a/a.mp4", "an.id", "https://example.org/a.mp4", "x\0y"])
    check_outputs(["list.txt"], ["photos", None, ("list.txt",)], overwrite=True)
    with refused("cannot write v: it is a folder, expected a file name"):
        check_outputs(["new", "v"], [], overwrite=True)
    with refused(r"cannot write list.txt: it is there already; give another name, or --overwrite to replace it"):
        check_outputs(["new", "list.txt"], ["photos"])
    with refused(r"cannot write w/a/a.mp4: it would replace the input v; give another name"):
        check_outputs(["w/a/a.mp4"], ["v"], overwrite=True)
    with refused(r"cannot write 'a\\x00b.json': a name holds no NUL"), atomic_path("a\0b.json"):
        pass
    with refused("cannot write x+/deep: File name too long"), folder_to_fill("new/folder", f"{'x' * 300}/deep"):
        pass
    assert not os.path.lexists("new")


def test_files_are_called_as_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    line = f"{tmp_path}/here/a.jpg: as {tmp_path}/data/b.jpg, files in {tmp_path}/data"
    assert as_given(line, "../data") == "a.jpg: as ../data/b.jpg, files in ../data"
    assert as_given(line, tmp_path / "data") == line
    assert as_given(f"files in {tmp_path}/here") == "files in ."
    others = f"/mnt{tmp_path}/here/a.jpg {tmp_path}/here2/a.jpg"
    assert as_given(others) == others


def test_only_what_a_kill_left_is_cleared_away(tmp_path: Path) -> None:
    for name in ("a.csv", "b", "c.manifest"):
        with atomic_path(tmp_path / name) as temporary:
            shutil.copytree(temporary.parent, tmp_path / "copy")
        (tmp_path / "copy").rename(tmp_path / temporary.parent.name)
    others = [
        ".a.csv.lock",
        ".a.csv.0a1b2c3.csv",
        ".a.csv.0a1b2c3d.txt",
        ".b.0a1b2c3d.b",
        ".d.csv.0a1b2c3d.csv",
        ".bashrc",
    ]
    for name in others:
        (tmp_path / name).touch()
    clear_away(tmp_path / name for name in ("a.csv", "b", "c.manifest", "gone/e.csv"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "a.csv", "b", "c.manifest"])

"""The camera-motion benchmark as it is written: it moves as its name says, by measurement; again, and after a kill, in
the same bytes."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.command_line import Cli, one_line
from tests.measured_motion import AXIS, THERE_AND_BACK, in_picture, motion, read
from tests.training_processes import ended, kill, said, start_command
from uniformer.camera_motion import doom, photos
from uniformer.camera_motion.classes import CLASSES, LOOK_ALIKES
from uniformer.camera_motion.geometry import rays, rotations
from uniformer.camera_motion.make import FRAMES, SIZE, Chunk, Request, make, make_chunk
from uniformer.camera_motion.visibility import Parallax
from uniformer.datasets.open import find_splits, open_dataset
from uniformer.errors import InputError, MissingExtra

if importlib.util.find_spec("skimage") is None:
    pytest.skip("needs scikit-image", allow_module_level=True)
needs_vizdoom = pytest.mark.skipif(importlib.util.find_spec("vizdoom") is None, reason="needs vizdoom")

FEW = {"train": 3, "val": 0, "test": 1, "worlds": ["photos"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All classes, once, in the photograph world."""
    out = tmp_path_factory.mktemp("made") / "set"
    make(out, train=20, val=0, test=0, worlds=["photos"], workers=0)
    return out


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips of two splits."""
    out = tmp_path_factory.mktemp("few") / "set"
    result = make(out, **FEW, workers=0)
    assert (result.clips, result.new) == (4, 4)
    return out


def record(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "paths.jsonl").read_text().splitlines()]


# ----------------------------------------------------------------------------------------------- the photograph world


def test_the_picture_moves_as_the_name_says(made: Path) -> None:
    other_way = []  # what is followed, or passes close before the lens, may be most of what this measures
    for entry in record(made):
        frames, label = read(made / entry["path"]), entry["class"]
        assert frames.shape == (FRAMES, *SIZE)
        if label in AXIS:
            if in_picture(frames[::3], *AXIS[label]).sum() < 0.015:
                other_way.append(label)
        elif label in THERE_AND_BACK:
            ways = in_picture(frames, *THERE_AND_BACK[label])
            assert ways[: len(ways) * 3 // 8].sum() > 0.01, label
            assert ways[-len(ways) * 3 // 8 :].sum() < -0.01, label
        else:
            moved = motion(frames)[:, :2] / 160
            assert np.abs(np.cumsum(moved, 0)).max() < (0.025 if label == "static" else 0.3)
            assert (np.abs(moved).sum() > 0.25) == (label == "shake")
    assert len(other_way) <= 2, other_way  # of 14; by dense flow 1,307 of 1,330 go as they are called (docs)


def test_the_record_says_what_the_camera_did(made: Path) -> None:
    for entry in record(made):
        poses = np.array(entry["poses"])
        assert poses.shape == (FRAMES, 7)
        if entry["class"] in AXIS:
            axis, sign = AXIS[entry["class"]]
            assert (poses[-1] - poses[0])[axis] * sign > 0
        assert (made / entry["path"]).stat().st_size == entry["bytes"]
        moves = entry["class"].startswith(("truck", "pedestal", "push", "pull"))
        assert Parallax(*entry["parallax"]).is_visible if moves else entry["parallax"] is None


def test_twins_that_only_parallax_tells_apart_are_of_one_size(made: Path) -> None:
    sizes = {entry["class"]: entry["size"] for entry in record(made)}
    for one_way, other_way in zip(LOOK_ALIKES[::2], LOOK_ALIKES[1::2], strict=True):
        assert len({sizes[name] for name in (*one_way, *other_way)}) == 1, one_way


def test_training_can_open_it(made: Path, few: Path) -> None:
    manifest = open_dataset(made, split="train")
    assert list(manifest.classes or ()) == list(CLASSES)
    assert manifest.class_counts().tolist() == [1] * 20
    assert sorted(find_splits(few)) == ["test", "train"]
    assert len(open_dataset(few, split="test")) == 1


def same_clips(first: Path, second: Path) -> bool:
    paths = [entry["path"] for entry in record(first)]
    same = [(first / path).read_bytes() == (second / path).read_bytes() for path in (*paths, "paths.jsonl")]
    return all(same) and len(paths) == len(list(second.rglob("*.mp4")))


def test_more_processes_the_same_bytes(few: Path, tmp_path: Path) -> None:
    make(tmp_path, **FEW, workers=2)
    assert same_clips(few, tmp_path)
    make(tmp_path / "other", **FEW, seed=1, workers=0)
    assert not any(
        (tmp_path / "other" / e["path"]).read_bytes() == (few / e["path"]).read_bytes()
        for e in record(few)
        if (tmp_path / "other" / e["path"]).exists()
    )


def test_a_killed_run_goes_on(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    command = ["data", "make", "camera-motion", str(out), "--worlds", "photos", "--workers", "0"]
    command += ["--train", "3", "--val", "0", "--test", "1"]
    in_the_middle = lambda: any(out.glob("train/*/photos*.mp4"))  # noqa: E731 - of the first three
    assert kill(start_command(command, tmp_path, says=out), in_the_middle), said(out)
    next(out.glob("train/*/photos*.mp4")).with_name(".photos_00000.mp4.0a1b2c3d.mp4").write_bytes(b"half a file")
    assert ended(start_command(command, tmp_path, says=out)) == 0, said(out)
    assert "train: 3 clips, 1 of each of 3 classes\n" in said(out)
    assert re.search(r"^made \d+ \(\d+ drawn\) in \d+ s: [\d.]+ clips/s$", said(out), re.MULTILINE)
    assert same_clips(few, out)
    assert not list(out.rglob(".*"))


def test_what_is_there_is_not_made_again(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(few, out)
    lost = next(out.rglob("train/*/*.mp4"))
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in (out / "test").rglob("*.mp4")}
    assert make(out, **FEW, workers=0).new == 3  # those that are made together
    assert same_clips(few, out)
    assert before == {path: path.stat().st_mtime_ns for path in (out / "test").rglob("*.mp4")}
    with pytest.raises(InputError, match="settings it was begun with, found another value of 'seed'"):
        make(out, **FEW, seed=1, workers=0)


# ------------------------------------------------------------------------------------------------------------- ViZDoom


@needs_vizdoom
def test_a_level_is_filmed_as_the_names_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Request(0, 20, 0, 0, ("doom",), None)
    labels = ("pan_left", "tilt_up", "roll_right", "zoom_in", "pedestal_up", "static")
    chunk = Chunk("val", 1, "doom", labels)
    entries = make_chunk(chunk, out=tmp_path / "once", recipe=recipe, pictures={})
    again = make_chunk(chunk, out=tmp_path / "twice", recipe=recipe, pictures={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once", "twice"]  # the game's files lie elsewhere
    assert {entry["class"] for entry in entries} == set(labels)
    assert entries == again
    for entry in entries:
        assert (tmp_path / "once" / entry["path"]).read_bytes() == (tmp_path / "twice" / entry["path"]).read_bytes()
        frames, poses = read(tmp_path / "once" / entry["path"]), np.array(entry["poses"])
        if entry["class"] == "static":
            assert np.abs(np.cumsum(motion(frames)[:, :2], 0)).max() <= 4
            continue
        axis, sign = AXIS[entry["class"]]
        assert (poses[-1] - poses[0])[axis] * sign > 0
        assert in_picture(frames, axis, sign).sum() > 0.03, entry["class"]


@needs_vizdoom
def test_a_relative_folder_is_the_one_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A game changes the folder of its process."""
    monkeypatch.chdir(tmp_path)
    assert make(Path("my set"), train=1, val=0, test=0, worlds=["doom"], workers=0).clips == 1
    (entry,) = record(tmp_path / "my set")
    assert (tmp_path / "my set" / entry["path"]).stat().st_size == entry["bytes"]


@needs_vizdoom
def test_turning_the_game_and_turning_back_in_the_picture_cancel() -> None:
    """The lens of the game, its stretch and how it looks up and down: only with the right ones nothing moves."""
    with doom.open_level("freedoom2.wad", "MAP03", 3) as level:
        level.game.send_game_command("freeze")
        spot = next(s for s in level.spots if level.go_to(np.array(s), 40.0) is not None)
        assert spot is not None
        level.rise(20)
        looks = rotations(np.array([8.0]), np.array([5.0]), np.array([10.0])) @ rays(np.array([50.0]))

        here = level.eyes

        def seen(yaw: float, up: float) -> npt.NDArray[np.uint8]:
            for _ in range(3):
                level.move(here, 40.0 - yaw, up)
            angle, true_up = level.looks
            view = doom.turned([level.screen()], np.array([40.0 - angle]), np.array([true_up]), looks, SIZE)
            return view[0].mean(0).byte().numpy()

        straight = seen(0, 0)
        for yaw, up in ((20.0, 0.0), (0.0, 15.0), (0.0, -12.0), (-10.0, 8.0)):
            ways = motion(np.stack([straight, seen(yaw, up)]))[0]
            assert np.abs(ways / (1, 1, 0.02, 0.02)).max() <= 1, (yaw, up, ways)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_one_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("data", "make", "camera-motion", tmp_path / "set")
    one_line(cli(*command, "--worlds", "dom"), "unknown world 'dom'", "did you mean 'doom'")
    one_line(cli("data", "make", "camera", tmp_path / "set"), "invalid choice: 'camera'")
    for arguments, message in (
        ({"train": -1}, "expected a number of train clips from 0 up, got -1"),
        ({"train": 0}, "expected at least one clip to make"),
        ({"worlds": []}, "expected at least one world of doom, photos, got none"),
        ({"seed": -3}, "expected a seed from 0 up, got -3"),
        ({"photo_folder": tmp_path / "none"}, "none: expected a folder of photographs, found none"),
        ({"photo_folder": tmp_path}, "expected photographs, found no picture"),
    ):
        with pytest.raises(InputError, match=message):
            make(
                tmp_path / "set", **({"train": 1, "val": 0, "test": 0, "worlds": ["photos"], "workers": 0} | arguments)
            )
    monkeypatch.setitem(sys.modules, "vizdoom", None)  # as where it is not installed
    with pytest.raises(MissingExtra, match=r"pip install 'uniformer\[camera-motion\]'"):
        make(tmp_path / "set", train=1, val=0, test=0)
    assert not (tmp_path / "set").exists()


def test_a_bad_photograph_among_good_ones_is_left_out(few: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    bad = [name for name in (f"bad{i}.png" for i in range(20)) if photos.split_of_name(name) == "train"]
    for name in bad:
        (folder / name).write_bytes(b"no picture")
    message = rf"^{len(bad)} of {len(bad) + 7} photographs left out, the first: .*bad\d+\.png: expected an image"
    with pytest.warns(UserWarning, match=message):
        make(tmp_path / "set", **FEW, photo_folder=folder, workers=0)
    assert same_clips(few, tmp_path / "set")
    listed = json.loads((tmp_path / "set" / "about.json").read_text())["photographs"]["train"]
    assert not set(bad) & set(listed)


def test_photographs_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png: expected an image, found a file that does not open as one"):
        photos.load_photo(tmp_path / "a.png")
    Image.new("RGB", (400, 20)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"expected at least 160 x 160 pixels, found 400 x 20"):
        photos.load_photo(tmp_path / "a.png")

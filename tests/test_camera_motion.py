"""The camera-motion benchmark: what is written moves as its name says, by measurement; again, and after a kill, in the
same bytes; and no world is in two splits."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from tests.command_line import COMMAND, one_line, spawn
from tests.measured_motion import AXIS, IN_PICTURE, THERE_AND_BACK, in_picture, motion, read
from uniformer.camera_motion import doom, photos
from uniformer.camera_motion.classes import CLASSES, MIRRORED, REVERSED
from uniformer.camera_motion.geometry import (
    parallax,
    picture,
    plane_homographies,
    rays,
    rotations,
    shrink,
    whole,
    window_of,
)
from uniformer.camera_motion.make import FRAMES, SIZE, Chunk, Recipe, make, make_chunk, plan
from uniformer.camera_motion.paths import AXES, PITCH, ROLL, YAW, ZOOM, X, Y, Z, draw_path
from uniformer.camera_motion.visibility import (
    Parallax,
    is_as_large,
    is_hidden,
    shows_something,
    size_in_picture,
    visible_parallax,
)
from uniformer.data.flips import flip_sensitive
from uniformer.data.sources import find_splits, open_source
from uniformer.errors import InputError, MissingExtra

if importlib.util.find_spec("skimage") is None:
    pytest.skip("needs scikit-image", allow_module_level=True)
needs_vizdoom = pytest.mark.skipif(importlib.util.find_spec("vizdoom") is None, reason="needs vizdoom")

FEW = {"train": 4, "val": 0, "test": 2, "worlds": ["photos"]}


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
    assert (result.clips, result.new) == (6, 6)
    return out


def record(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "paths.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------- measuring what is seen


def test_the_measurement_knows_a_motion_that_it_is_shown() -> None:
    noise = shrink(torch.rand(1, 480, 640, generator=torch.Generator().manual_seed(0)) * 255, 2)
    for axis, (component, sign) in IN_PICTURE.items():
        if axis in (X, Y, Z):
            continue
        poses = np.zeros((5, 7))
        poses[:, axis] = np.linspace(0, 0.4 if axis == ZOOM else 12, 5)
        looks = rotations(poses[:, YAW], poses[:, PITCH], poses[:, ROLL]) @ rays(60 * 0.7 ** poses[:, ZOOM])
        plane = plane_homographies(
            np.array([0, 0, 1.0]), np.array([1.0, 0, 0]), np.array([0, -0.75, 0]), np.zeros((5, 3)), looks
        )
        seen = motion(picture(noise, plane, whole(SIZE))[0][:, 0].byte().numpy()).sum(0)
        expected = np.zeros(4)
        expected[component] = sign
        scale = np.array([10, 10, 0.1, 0.1])
        assert np.sign(seen[component]) == sign, (AXES[axis], seen)
        assert np.abs(seen / scale).argmax() == component, (AXES[axis], seen)


# ------------------------------------------------------------------------------------------------------ classes, paths


def test_names_and_their_partners() -> None:
    assert len(CLASSES) == 20
    assert list(CLASSES) == sorted(CLASSES)
    for partner in (REVERSED, MIRRORED):
        assert partner.keys() == CLASSES.keys()
        assert all(partner[partner[name]] == name for name in CLASSES)
    assert {name for name in CLASSES if REVERSED[name] == name} == {"static", "shake", *THERE_AND_BACK}
    found = flip_sensitive(list(CLASSES))  # what training must not mirror, known by the words in the names
    assert {a: b for pair in found for a, b in (pair, pair[::-1])} == {a: b for a, b in MIRRORED.items() if a != b}


@pytest.mark.parametrize("label", CLASSES)
def test_a_path_goes_where_its_class_says(label: str) -> None:
    for seed in range(30):
        path = draw_path(label, np.random.default_rng(seed))
        poses = path.poses(np.linspace(0, 1, 49))
        width = 2 * np.tan(np.radians(path.fov) / 2)
        shift = (poses - poses[0]) / (width, width, 1, path.fov, path.fov, 60, 1)
        if label in AXIS:
            axis, sign = AXIS[label]
            assert shift[-1, axis] * sign > 0.04
            others = np.delete(np.abs(shift[-1]), axis)
            assert others.max() < 0.6 * abs(shift[-1, axis])
            played_back = shift[::-1] - shift[-1]
            partner, other_sign = AXIS[REVERSED[label]]
            assert played_back[-1, partner] * other_sign > 0.04
        elif label in THERE_AND_BACK:
            axis, sign = THERE_AND_BACK[label]
            turn = np.abs(shift[:, axis]).argmax()
            assert 15 < turn < 33
            assert shift[turn, axis] * sign > 0.08
            assert abs(shift[-1, axis]) < 0.4 * abs(shift[turn, axis])
        else:
            assert np.abs(shift[-1]).max() < 0.05
            spread = float(np.hypot(*shift[:, [YAW, PITCH]].std(0)))
            assert spread < 0.018 if label == "static" else np.abs(shift - shift.mean(0)).max() > 0.015
        assert path.fields_of_view(poses).min() > 30
        assert path.fields_of_view(poses).max() < 92


def test_an_unknown_class_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown class 'pan_lft' \(did you mean 'pan_left'"):
        draw_path("pan_lft", np.random.default_rng(0))


def test_what_a_camera_sees() -> None:
    """Axes and senses, each by hand: a plane at distance 2, half a width of 1, seen with a right angle of view."""
    still = np.zeros(1)
    forward = rotations(still, still, still) @ rays(still + 90)
    plane = (np.array([0, 0, 2.0]), np.array([1.0, 0, 0]), np.array([0, -1.0, 0]))
    there = plane_homographies(*plane, np.zeros((1, 3)), forward)[0]
    a, b, near = there @ (0.5, 0, 1)  # right edge of the plane: 1 / 2
    assert (a / near, b, near) == pytest.approx((1, 0, 0.5))
    turned = rotations(still + 45, still, still)[0] @ (0, 0, 1)
    assert turned[0] == pytest.approx(np.sqrt(0.5))  # yaw is to the right
    assert (rotations(still, still + 30, still)[0] @ (0, 0, 1))[1] == pytest.approx(0.5)  # pitch is up
    assert (rotations(still, still, still + 30)[0] @ (0, 1, 0))[0] == pytest.approx(0.5)  # roll: the top to the right
    window = window_of(there[None], SIZE)
    assert window is not None
    edges = (window.rows.start, window.rows.stop, window.columns.start, window.columns.stop)
    assert edges == pytest.approx((20, 100, 40, 120), abs=1)
    assert window_of(plane_homographies(*plane, np.array([[0, 0, 3.0]]), forward), SIZE) is None  # it is behind


def test_parallax_is_what_turning_and_zooming_cannot_show() -> None:
    width = 2 * np.tan(np.radians(60) / 2)
    room = np.full((12, 16), 0.5)  # a wall at distance 2
    room[8:] = 1.0  # and before it, in a third of the picture, something at distance 1
    aside = np.array([0.2 * width, 0, 0])
    assert parallax(room, aside, 60) == pytest.approx((0.2 - 0.1, 0.1))
    assert parallax(room, -aside[[1, 0, 2]], 60) == pytest.approx((0.2 - 0.1, 0.1))
    bottom = np.abs(whole((12, 16)).points().numpy()[:2].reshape(2, 12, 16)[:, 8:])  # halves of a width from the middle
    grown = np.hypot(*bottom) / 2 * (1 / (1 - 0.2) - 1 / (1 - 0.1))  # more than the wall does
    assert grown.min() < parallax(room, np.array([0, 0, 0.2]), 60)[0] < grown.max()
    assert parallax(np.full((12, 16), 0.5), aside, 60) == pytest.approx((0, 0.1))
    room[8:] = 0.5
    room[11] = 1.0  # a twelfth is too little to be seen
    assert parallax(room, aside, 60) == pytest.approx((0, 0.1))


def test_only_moves_must_show_parallax() -> None:
    wall = np.ones((12, 16))
    for label in CLASSES:
        path = draw_path(label, np.random.default_rng(0))
        moves = label.startswith(("truck", "pedestal", "push", "pull"))
        seen = visible_parallax(wall, path)
        assert (seen is not None) == moves, label
        assert is_hidden(seen) == moves, label
    assert not is_hidden(Parallax(width=0.02, share=0.2))
    assert is_hidden(Parallax(width=0.019, share=0.9))  # slow: little of the width
    assert is_hidden(Parallax(width=0.1, share=0.19))  # fast: little of what there is to see


@pytest.mark.parametrize("label", CLASSES)
def test_a_move_is_as_large_as_its_size_where_the_median_distance_is_one(label: str) -> None:
    moments = np.linspace(0, 1, 49)
    for seed in range(5):
        path = draw_path(label, np.random.default_rng(seed))
        poses = path.poses(moments)
        travelled = poses[:, Z] - poses[0, Z]
        wall = np.ones((49, 6, 8)) / (1 - travelled)[:, None, None]  # at distance 1 when it starts
        seen = size_in_picture(wall, poses, path)
        assert (seen is None) == (not path.motion[:3].any())
        if seen is None:
            assert is_as_large(seen, path)
            continue
        assert seen == pytest.approx(path.size, rel=0.06)
        wall[:, :2] = 5.0  # a third that is near does not count, nor do moves look larger
        assert size_in_picture(wall, poses, path) == pytest.approx(seen)
        assert is_as_large(seen, path)
        assert not is_as_large(size_in_picture(wall / 1.3, poses, path), path)
        assert not is_as_large(size_in_picture(wall * 1.3, poses, path), path)


def test_shrink_is_the_mean_of_squares() -> None:
    values = torch.rand(3, 13, 17)
    expected = torch.nn.functional.avg_pool2d(values, 4)
    torch.testing.assert_close(shrink(values, 4), expected)
    assert shrink(values, 1) is values


# ----------------------------------------------------------------------------------------------- the photograph world


def test_the_picture_moves_as_the_name_says(made: Path) -> None:
    for entry in record(made):
        frames, label = read(made / entry["path"]), entry["class"]
        assert frames.shape == (FRAMES, *SIZE)
        if label in AXIS:
            assert in_picture(frames[::3], *AXIS[label]).sum() > 0.015, label
        elif label in THERE_AND_BACK:
            ways = in_picture(frames, *THERE_AND_BACK[label])
            assert ways[: len(ways) * 3 // 8].sum() > 0.01, label
            assert ways[-len(ways) * 3 // 8 :].sum() < -0.01, label
        else:
            moved = motion(frames)[:, :2] / 160
            assert np.abs(np.cumsum(moved, 0)).max() < (0.025 if label == "static" else 0.3)
            assert (np.abs(moved).sum() > 0.25) == (label == "shake")


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
    for pair in ("pan truck", "tilt pedestal", "zoom push", "zoom pull"):
        first, second = (
            [size for name, size in sizes.items() if re.fullmatch(rf"{kind}_[a-z]+", name)] for kind in pair.split()
        )
        assert {*first} == {*second}, pair
        assert len({*first}) == 1


def test_training_can_open_it(made: Path, few: Path) -> None:
    manifest = open_source(made, split="train")
    assert list(manifest.classes or ()) == list(CLASSES)
    assert manifest.class_counts().tolist() == [1] * 20
    assert sorted(find_splits(few)) == ["test", "train"]
    assert len(open_source(few, split="test")) == 2


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
    arguments = ["data", "make", "camera-motion", out, "--worlds", "photos", "--workers", 0]
    arguments += ["--train", 4, "--val", 0, "--test", 2]
    process = subprocess.Popen([*COMMAND, *map(str, arguments)])
    while len(list(out.glob("train/*/photos*.mp4"))) < 2:  # in the middle of the first four
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    next(out.glob("train/*/photos*.mp4")).with_name(".photos_00000.mp4.cut.mp4").write_bytes(b"half a file")
    done = spawn(*arguments)
    assert done.status == 0, done.err
    assert "train: 4 clips, 1 of each of 4 classes\n" in done.out
    assert re.search(r"^made \d+ \(\d+ drawn\) in \d+ s: [\d.]+ clips/s$", done.out, re.MULTILINE)
    assert same_clips(few, out)
    assert not list(out.rglob(".*"))


def test_what_is_there_is_not_made_again(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(few, out)
    lost = next(out.rglob("train/*/*.mp4"))
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in (out / "test").rglob("*.mp4")}
    assert make(out, **FEW, workers=0).new == 4  # those that are made together
    assert same_clips(few, out)
    assert before == {path: path.stat().st_mtime_ns for path in (out / "test").rglob("*.mp4")}
    with pytest.raises(InputError, match="settings it was begun with, found another value of 'seed'"):
        make(out, **FEW, seed=1, workers=0)


# -------------------------------------------------------------------------------------------------------------- splits


def test_no_world_is_in_two_splits() -> None:
    levels = [level for split in doom.LEVELS.values() for level in split]
    assert len(levels) == len(set(levels)) == 68
    assert {split: len(levels) for split, levels in doom.LEVELS.items()} == {"train": 51, "val": 9, "test": 8}
    names = [name for split in photos.PHOTOS.values() for name in split]
    assert len(names) == len(set(names))
    assert all(path.is_file() for split in photos.PHOTOS for path in photos.find_photos(split, None))


def test_a_photograph_keeps_its_split_when_others_come(tmp_path: Path) -> None:
    def splits() -> dict[str, str]:
        own = {split: set(photos.find_photos(split, None)) for split in photos.PHOTOS}
        return {p.name: s for s in own for p in set(photos.find_photos(s, tmp_path)) - own[s]}

    for i in range(0, 60, 2):
        (tmp_path / f"{i}.png").touch()
    before = splits()
    for i in range(1, 60, 2):
        (tmp_path / f"{i}.png").touch()
    assert len(before) == 30
    assert before.items() <= splits().items()
    assert set(splits().values()) == {"train", "val", "test"}


def test_a_plan_is_balanced_and_takes_turns() -> None:
    chunks = list(plan(Recipe(90, 20, 5, 0, ("doom", "photos"), None)))
    assert [(c.split, c.world, len(c.labels)) for c in chunks] == [
        ("train", "doom", 20),
        ("train", "photos", 20),
        ("train", "doom", 20),
        ("train", "photos", 20),
        ("train", "doom", 10),
        ("val", "doom", 20),
        ("test", "doom", 5),
    ]
    assert all(len(set(c.labels)) == len(c.labels) for c in chunks)


def test_what_shows_nothing_is_seen_to_show_nothing() -> None:
    spots = torch.rand(1, 3, 15, 20, generator=torch.Generator().manual_seed(0)) * 255
    texture = torch.nn.functional.interpolate(spots, size=SIZE, mode="bilinear")
    still = texture.expand(4, -1, -1, -1)
    moving = torch.stack([texture[0].roll(9 * i, -1) for i in range(4)])
    assert shows_something(moving, moves=True)
    assert shows_something(still, moves=False)
    assert not shows_something(still, moves=True)
    assert not shows_something(moving * 0.02, moves=True)  # too dark
    assert not shows_something(moving * 0.02 + 120, moves=True)  # a bare wall
    corner = still.clone()
    corner[1:, :, :20, :20] = 255
    assert not shows_something(corner, moves=True)


# ------------------------------------------------------------------------------------------------------------- ViZDoom


@needs_vizdoom
def test_a_level_is_filmed_as_the_names_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(0, 20, 0, 0, ("doom",), None)
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


def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("data", "make", "camera-motion", tmp_path / "set")
    one_line(spawn(*command, "--worlds", "dom"), "unknown world 'dom'", "did you mean 'doom'")
    one_line(spawn("data", "make", "camera", tmp_path / "set"), "invalid choice: 'camera'")
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
    message = rf"^{len(bad)} of {len(bad) + 7} photographs left out, the first: .*bad\d+\.png: expected a picture"
    with pytest.warns(UserWarning, match=message):
        make(tmp_path / "set", **FEW, photo_folder=folder, workers=0)
    assert same_clips(few, tmp_path / "set")
    listed = json.loads((tmp_path / "set" / "about.json").read_text())["photographs"]["train"]
    assert not set(bad) & set(listed)


def test_photographs_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png: expected a picture, found none that can be read"):
        photos.load_photo(tmp_path / "a.png")
    Image.new("RGB", (400, 20)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"expected at least 160 x 160 pixels, found 400 x 20"):
        photos.load_photo(tmp_path / "a.png")

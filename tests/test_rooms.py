"""The set "rooms": what is said of its pictures is so, and it is made again, and after a kill, in the same bytes."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import Cli, one_line
from tests.training_processes import ended, kill, said, start_command
from uniformer.datasets.annotated import annotated_kind, open_annotated
from uniformer.doom import coco, views
from uniformer.doom.game import LEVELS
from uniformer.doom.make import SPLIT_LEVELS, Request, make, plan
from uniformer.errors import InputError, MissingExtra
from uniformer.reading.run_lengths import decode_mask

needs_vizdoom = pytest.mark.skipif(importlib.util.find_spec("vizdoom") is None, reason="needs vizdoom")

FEW = {"pictures": 24, "size": "320x240"}
ARGUMENTS = ("--pictures", "24", "--size", "320x240", "--workers", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures to train on and four to validate, out of three games."""
    out = tmp_path_factory.mktemp("rooms") / "set"
    result = make(out, **FEW, workers=1)
    assert (result.pictures, result.new) == (24, 24)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def instances(folder: Path, split: str) -> dict:
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


# ----------------------------------------------------------------------------------------------------- what is written


@needs_vizdoom
def test_masks_boxes_and_label_maps_agree(made: Path) -> None:
    met = set[str]()
    for split, count in (("train", 20), ("val", 4)):
        found = instances(made, split)
        assert [c["name"] for c in found["categories"]] == list(views.THINGS)
        assert len(found["images"]) == count
        for image in found["images"]:
            picture = Image.open(made / image["file_name"])
            assert picture.size == (image["width"], image["height"]) == (320, 240)
            labels = Image.open(made / image["file_name"].replace("images", "labels").replace(".jpg", ".png"))
            assert labels.getpalette()[: 3 * len(coco.PALETTE)] == [c for color in coco.PALETTE for c in color]
            values = np.asarray(labels)
            assert np.isin(values, [*range(len(coco.CLASSES)), 255]).all()
            covered = np.zeros((240, 320), bool)
            for annotation in (a for a in found["annotations"] if a["image_id"] == image["id"]):
                mask = decode_mask(annotation["segmentation"])
                rows, columns = np.nonzero(mask)
                x, y, width, height = annotation["bbox"]
                assert (x, y) == (columns.min(), rows.min())
                assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
                assert annotation["area"] == mask.sum()
                kind = coco.CLASSES.index(views.THINGS[annotation["category_id"] - 1])
                is_solid = (values[mask] == kind).all()
                assert is_solid or (values[mask] == 255).all()
                assert annotation["iscrowd"] == (mask.sum() < 64 or not is_solid)
                assert not (covered & mask).any()  # each pixel is of what stands before all else
                covered |= mask
                met.add(kind)
            assert (values[~covered] < len(views.SURFACES)).mean() > 0.99  # the rest is of no class: fireballs
    assert len(met) >= 6


@needs_vizdoom
def test_training_can_open_it(made: Path) -> None:
    """Both ways: boxes and masks by COCO's files, and label maps with their names and colors."""
    assert annotated_kind(made) == "detection"
    things = open_annotated(made, split="val")
    assert (things.task, things.has_masks, things.classes) == ("detection", True, views.THINGS)
    listed = instances(made, "val")["annotations"]
    found = [things.annotations(row) for row in range(len(things))]
    assert [len(f) for f in found] == [sum(a["image_id"] == i for a in listed) for i in range(1, 5)]
    assert [f.crowd.sum() for f in found] == [
        sum(a["iscrowd"] for a in listed if a["image_id"] == i) for i in range(1, 5)
    ]
    assert all((f.masks(240, 320).sum((1, 2)) == f.areas).all() for f in found)
    maps = open_annotated(made, split="val", task="segmentation")
    assert (maps.task, maps.classes, len(maps)) == ("segmentation", coco.CLASSES, 4)
    assert maps.details["palette"] == [list(color) for color in coco.PALETTE]
    assert (maps.label_map(1) == np.asarray(Image.open(made / "labels/val/000001.png"))).all()
    assert {finding.title for finding in things.findings} <= {"crowds"}
    assert not maps.findings


@needs_vizdoom
def test_things_are_seen_where_a_network_can_find_them(made: Path) -> None:
    """The classes are looked at by turns: every picture shows something of a size to be found."""
    found = instances(made, "train")
    seen = {a["image_id"] for a in found["annotations"] if not a["iscrowd"]}
    assert seen == {image["id"] for image in found["images"]}
    record = [json.loads(line) for line in (made / "views.jsonl").read_text().splitlines()]
    assert len({entry["aim"] for entry in record}) >= 5
    for entry in record:
        assert np.asarray(Image.open(made / entry["path"]).convert("L")).std() > 12
        assert any(views.THINGS[a["category_id"] - 1] == entry["aim"] for a in entry["annotations"])


@needs_vizdoom
def test_floors_and_ceilings_end_at_the_horizon() -> None:
    """Where the camera looks up or down, the row that divides them has hardly any of either: they end farther on."""
    rng, near = np.random.default_rng(0), []
    with views.open_level("freedoom2.wad", "MAP03", 3, (480, 640)) as level:
        for _ in range(12):
            view = level.take(rng)
            assert view is not None
            row = views.horizon((480, 640), view.facts["up"])
            near.append(np.isin(view.classes[row - 2 : row + 2], (1, 2)).mean())
            assert (view.classes[:row] != 1).all()
            assert (view.classes[row:] != 2).all()
    assert np.mean(near) < 0.02
    assert np.isin(view.classes, (1, 2)).mean() > 0.1


# ----------------------------------------------------------------------------------------------------------- by itself


def test_no_level_is_in_two_splits() -> None:
    assert {split: len(levels) for split, levels in SPLIT_LEVELS.items()} == {"train": 51, "val": 17}
    assert sorted(level for levels in SPLIT_LEVELS.values() for level in levels) == sorted(LEVELS)


@needs_vizdoom
def test_pictures_are_of_their_splits_levels(made: Path) -> None:
    for line in (made / "views.jsonl").read_text().splitlines():
        entry = json.loads(line)
        assert entry["level"] in json.loads((made / "about.json").read_text())["levels"][entry["split"]]


def test_a_plan_takes_the_levels_by_turns() -> None:
    chunks = list(plan(Request(90, "640x480", 0)))
    assert [(c.split, c.number, c.first, c.count) for c in chunks] == [
        *(("train", i, 10 * i, 10) for i in range(7)),
        ("train", 7, 70, 5),
        ("val", 0, 0, 10),
        ("val", 1, 10, 5),
    ]
    assert chunks[-1].paths[-1] == "images/val/000014.jpg"


def test_a_camera_sees_over_no_wall_and_has_room() -> None:
    walls = np.array([[0.0, -100, 0, 100]])
    here, there = np.array([-50.0, 0]), np.array([50.0, 0])
    assert not views.is_open(here, there, walls)
    assert views.is_open(here, np.array([-10.0, 90]), walls)
    assert views.is_open(here, there, walls + np.array([0, 200, 0, 200]))  # past its end
    assert not views.is_open(np.array([-20.0, 0]), np.array([-90.0, 0]), walls)  # too near
    assert views.is_open(here, there, np.empty((0, 4)))


# ------------------------------------------------------------------------------------------------ again, after a kill


@needs_vizdoom
def test_a_killed_run_goes_on_in_the_same_bytes(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    command = ["data", "make", "rooms", str(out), *ARGUMENTS]
    assert kill(start_command(command, tmp_path, says=out), (out / "images/train/000002.jpg").exists), said(out)
    assert not (out / "annotations").exists()
    (out / "labels/train/.000001.png.0a1b2c3d.png").write_bytes(b"half a file")
    assert ended(start_command(command, tmp_path, says=out)) == 0, said(out)
    assert re.search("^train: monster ", said(out), re.M)
    assert files(out) == files(made)


@needs_vizdoom
def test_what_is_there_is_not_made_again(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(made, out)
    (out / "labels/val/000002.png").write_bytes(b"damaged")
    before = {path: path.stat().st_mtime_ns for path in (out / "images/train").iterdir()}
    assert make(out, **FEW, workers=1).new == 4  # those of its game
    assert files(out) == files(made)
    assert before == {path: path.stat().st_mtime_ns for path in (out / "images/train").iterdir()}
    with pytest.raises(InputError, match=r"holds pictures of another run \(seed differ\)"):
        make(out, **FEW, seed=1, workers=1)
    assert files(out) == files(made)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_one_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "notes.txt").write_text("mine")
    one_line(cli("data", "make", "rooms", own), "expected a new folder or a set to go on with, found 'notes.txt'")
    one_line(cli("data", "make", "rooms", own / "notes.txt"), "expected a folder to write to")
    one_line(cli("data", "make", "room", own), "invalid choice: 'room'")
    for arguments, message in (
        ({"pictures": 1}, "expected at least 2 pictures, one to train and one to validate, got 1"),
        ({"seed": -3}, "expected a seed from 0 up, got -3"),
        ({"size": "640"}, r"expected a size of 320x240, .*, got '640' \(did you mean '640x480'"),
    ):
        with pytest.raises(InputError, match=message):
            make(tmp_path / "set", **({"workers": 1} | arguments))
    monkeypatch.setitem(sys.modules, "vizdoom", None)  # as where it is not installed
    with pytest.raises(MissingExtra, match=r"pip install 'uniformer\[rooms\]'"):
        make(tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert files(own) == {"notes.txt": b"mine"}

"""`uniformer data scan` of annotated pictures: what is broken or odd in files and annotations is found and drawn."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.annotated_sets import (
    HEIGHT,
    WIDTH,
    coco_set,
    coco_table,
    found,
    instance,
    label_map,
    picture,
    pose_set,
    values_of,
    write_json,
)
from tests.command_line import Cli, one_line
from uniformer.config import Scaling
from uniformer.datasets.annotated import open_annotated
from uniformer.datasets.annotated_scan import scan_annotated
from uniformer.datasets.statement import statement
from uniformer.reading import pictures
from uniformer.reading.dense_options import SegmentationAugment
from uniformer.reading.label_png import from_png, to_png
from uniformer.tasks.segmentation_scores import Cells
from uniformer.training.batches import Place
from uniformer.training.dense_batches import dense_samples


@pytest.fixture
def bad_set(tmp_path: Path) -> Path:
    """COCO's form, with every fault of the files."""
    root = coco_set(tmp_path / "set")
    for i in range(3):
        picture(root / f"train2017/train_{i}.jpg", 10 + i)
    (root / "train2017/train_0.jpg").write_bytes(b"no picture")
    picture(root / "train2017/train_2.jpg", 3, size=(WIDTH, HEIGHT))
    picture(root / "train2017/other.jpg", 4)
    shutil.copy(root / "train2017/train_1.jpg", root / "val2017/val_1.jpg")
    os.remove(root / "val2017/val_0.jpg")
    return root


def test_every_fault_is_found_and_left_out(bad_set: Path, tmp_path: Path) -> None:
    sets = {split: open_annotated(bad_set, split=split) for split in ("train", "val")}
    result = scan_annotated(sets, tmp_path / "out", workers=0)
    assert found(result) == {
        "unreadable": ("error", 1),
        "missing in val": ("error", 1),
        "sizes differ": ("error", 1),
        "copies across splits": ("error", 1),
        "crowds in train": ("note", 1),
        "crowds in val": ("note", 1),
        "empty pictures in train": ("note", 1),
        "not listed in train": ("note", 1),
    }
    assert not result.is_fit
    assert [data.usable().item_names() for data in result.sets.values()] == [
        ("train2017/train_1.jpg",),
        ("val2017/val_1.jpg",),
    ]
    by_title = {finding.title: finding for finding in result.findings}
    assert by_title["sizes differ"].examples[0][1:] == ("annotated as 60x40", "is 40x60")
    lines = (tmp_path / "out/files.jsonl").read_text().splitlines()
    assert sum("train_" in line for line in lines) >= 3


def test_a_scan_goes_on_where_it_stopped(bad_set: Path, tmp_path: Path) -> None:
    data = open_annotated(bad_set, split="train")
    first = scan_annotated(data, tmp_path / "out", workers=0)
    journal = (tmp_path / "out/files.jsonl").read_bytes()
    picture(bad_set / "train2017/train_0.jpg", 99)
    second = scan_annotated(data, tmp_path / "out", workers=0)
    added = (tmp_path / "out/files.jsonl").read_bytes().removeprefix(journal)
    assert added.count(b"\n") == 1
    assert found(first).keys() - found(second).keys() == {"unreadable"}


def test_label_maps_are_looked_at(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for i in range(4):
        picture(root / f"images/{i}.jpg", i)
        label_map(root / f"labels/{i}.png", values_of(i, 2))
    label_map(root / "labels/1.png", values_of(1)[:-1])
    label_map(root / "labels/2.png", values_of(2, 9))
    (root / "labels/3.png").write_bytes(b"no picture")
    result = scan_annotated(open_annotated(root, classes=["a", "b", "c"]), tmp_path / "out", workers=2)
    assert found(result) == {"label maps": ("error", 3), "empty classes in all": ("warning", 1)}
    said = {Path(path).name: why for path, why in result.findings[0].examples}
    assert "expected a label map of 60x40, as its picture, found 60x39" in said["1.png"]
    assert "expected values of the 3 classes, 0 .. 2, found" in said["2.png"]
    assert "expected an image" in said["3.png"]
    assert result.sets["all"].usable().item_names() == ("images/0.jpg",)


def test_label_maps_are_taken_as_large_as_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value by value, though pictures of that size are read as smaller copies; here such are those of 16384 pixels."""
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1 << 14)
    monkeypatch.setattr(pictures, "STRIP", 1 << 12)
    height, width = 210, 290
    labels = np.zeros((height, width), np.uint8)
    labels[::2, 1::3], labels[-1, -1], labels[0] = 1, 2, 255
    label_map(tmp_path / "set/masks/a.png", labels)
    (tmp_path / "set/images").mkdir()
    Image.new("L", (width, height)).save(tmp_path / "set/images/a.png")
    data = open_annotated(tmp_path / "set")
    assert max(data.picture(0).size) < 200
    assert np.array_equal(data.label_map(0), labels)
    assert scan_annotated(data, tmp_path / "out", workers=0).is_fit
    spec, augment = Scaling(64, 64, by="nothing"), SegmentationAugment(shortest=64, longest=64, crop=(64, 64))
    (one,) = [dense_samples(data, spec, augment).batch([Place(0, 0, 0)])]
    assert one.label_maps is not None
    assert set(one.label_maps.unique().tolist()) <= {0, 1, 2, 255}
    counted = Cells.counted(0, labels, np.ones_like(labels), 3)
    assert counted.table(3)[:, 1].tolist() == np.bincount(labels[labels < 3]).tolist()
    assert np.array_equal(from_png(to_png(labels)), labels)


def test_the_command_says_what_was_found_and_draws_it(bad_set: Path, tmp_path: Path, cli: Cli) -> None:
    ended = cli("data", "scan", bad_set, "--out", tmp_path / "out", "--workers", 0, "--quiet")
    assert (ended.status, ended.err) == (1, "")
    lines = ended.out.splitlines()
    assert lines[0].startswith(
        f"train: {bad_set}: COCO JSON, train for detection; 3 pictures, 3 instances, 2 classes in"
    )
    assert "error: pictures of another size than annotated: 1" in lines
    assert f"  {bad_set}/train2017/train_2.jpg: annotated as 60x40: is 40x60" in lines
    assert "note: val: crowds, which are neither learnt from nor counted: 1" in lines
    assert lines[-1] == "next: mend what the errors say, and scan again: only new and changed files are looked at"
    page = (tmp_path / "out/report.html").read_text()
    assert "train: as annotated" in page
    assert page.count("data:image/jpeg") >= 2
    assert sorted(os.listdir(tmp_path / "out")) == ["files.jsonl", "report.html"]


def test_what_was_said_of_the_set_is_said_to_training(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pose_set(tmp_path / "both kinds")
    for options, wanted in (
        (("--task", "pose"), "uniformer train 'both kinds' --checkpoint topdown.uniformer_small.coco_256x192"),
        (("--task", "detection", "--split", "val"), "uniformer train 'both kinds' --split val"),
        ((), "uniformer train 'both kinds'"),
    ):
        assert cli("data", "scan", "both kinds", "--workers", 0, *options).out.endswith(f"\nnext: {wanted}\n"), options


CROWD = instance(1, 101, 1, (5, 6, 20, 30), iscrowd=1, segmentation={"size": [40, 60], "counts": [400, 800, 1200]})
UNMARKED = instance(1, 101, 1, (5, 6, 20, 30), keypoints=[0] * 9, num_keypoints=0)


@pytest.mark.parametrize("people", [[CROWD], [], [UNMARKED]])
def test_a_set_without_anything_to_learn_is_not_said_to_be_trained_on(people: list, tmp_path: Path, cli: Cli) -> None:
    ended = cli("data", "scan", pose_set(tmp_path / "set", people), "--workers", 0, "--task", "pose")
    assert ended.out.endswith("\nnext: mark key points of people: nothing can be learnt from this set\n")
    table = coco_table(["a.jpg"], [CROWD | {"image_id": 100, "category_id": 7}] if people == [CROWD] else [])
    picture(tmp_path / "boxes/a.jpg")
    write_json(tmp_path / "boxes/things.json", table)
    ended = cli("data", "scan", tmp_path / "boxes", "--workers", 0)
    assert ended.out.endswith("\nnext: annotate instances, not crowds alone: nothing can be learnt from this set\n")


def test_files_are_called_as_the_user_calls_them(
    bad_set: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clips" / "a").mkdir(parents=True)
    (tmp_path / "clips" / "a" / "broken.jpg").write_bytes(b"no picture")
    picture(tmp_path / "clips" / "a" / "1.jpg")
    picture(tmp_path / "clips" / "b" / "2.jpg", 1)
    (tmp_path / "elsewhere").mkdir()
    for here, up in ((tmp_path, ""), (tmp_path / "elsewhere", "../")):
        monkeypatch.chdir(here)
        for source, file in ((f"{up}{bad_set.name}", "train2017/train_0.jpg"), (f"{up}clips", "a/broken.jpg")):
            said = cli("data", "scan", source, "--workers", 0).out
            assert f"  {source}/{file}: expected an image" in said
            assert str(tmp_path) not in said
        assert str(tmp_path / "clips/a/broken.jpg") in cli("data", "scan", tmp_path / "clips", "--workers", 0).out


def test_key_points_and_label_maps_are_drawn(tmp_path: Path, cli: Cli) -> None:
    root = pose_set(tmp_path / "people")
    assert cli("data", "scan", root, "--task", "pose", "--workers", 0).status == 0
    assert "all: as annotated" not in (page := (tmp_path / "people.scan/report.html").read_text())
    assert "val: as annotated" in page
    picture(tmp_path / "maps/images/a.jpg")
    label_map(tmp_path / "maps/masks/a.png", values_of(0))
    ended = cli("data", "scan", tmp_path / "maps", "--workers", 0)
    assert (ended.status, ended.out.splitlines()[-1]) == (0, f"next: uniformer train {tmp_path}/maps")
    assert "all: as annotated" in (tmp_path / "maps.scan/report.html").read_text()


def test_what_is_not_for_annotated_pictures_is_refused(tmp_path: Path, cli: Cli) -> None:
    root = coco_set(tmp_path)
    one_line(cli("data", "scan", root, "--full"), "expected no --full for annotated pictures, got it")
    one_line(cli("data", "scan", root, "--task", "segmentation"), "for segmentation", "found some for detection")
    one_line(cli("data", "split", root, "--out", tmp_path / "x"), "found pictures annotated for detection")
    one_line(cli("data", "scan", root, "--split", "test"), "expected one of its splits (train, val)")
    table = json.loads((root / "annotations/instances_val2017.json").read_text())
    (root / "annotations/instances_val2017.json").write_text(json.dumps({**table, "images": 3}))
    one_line(cli("data", "scan", root), "instances_val2017.json: expected annotations in COCO's JSON")


def test_the_statement_before_training_says_what_is_odd(bad_set: Path) -> None:
    lines = list(statement({"val": open_annotated(bad_set, split="val")}))
    assert lines[1:] == [
        "val: pictures that are listed and not there: 1 (val2017/val_0.jpg)",
        "val: crowds, which are neither learnt from nor counted: 1 (val2017/val_1.jpg: annotation 3, box 0, 0, 60, 40)",
    ]
    labels = open_annotated(bad_set, split="val", classes=["dog", "bird", "cat"])
    assert "val: of 3 classes without a sample: 1 (bird)" in list(statement({"val": labels}))
    assert np.array_equal(labels.class_counts(), [2, 0, 1])

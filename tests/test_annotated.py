"""Data sets with boxes, masks, key points: recognised by looking, read as arrays, what is odd in them said."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.annotated_sets import (
    CATEGORIES,
    HEIGHT,
    JOINTS,
    WIDTH,
    coco_set,
    coco_table,
    found,
    instance,
    picture,
    pose_set,
    write,
    write_json,
    yolo_set,
)
from tests.fuzz_annotated import fuzz
from uniformer.datasets.annotated import AnnotatedSet, annotated_kind, find_annotated_splits, open_annotated
from uniformer.datasets.annotated_open import annotated_for_evaluation, annotated_for_training
from uniformer.datasets.layouts import NoSuchSplit
from uniformer.errors import InputError, MissingExtra
from uniformer.labels import load_classes, load_details
from uniformer.reading.pictures import upright_size


def one(folder: Path, *annotations: Any, **more: Any) -> AnnotatedSet:
    """A set of one picture, 60 wide and 40 high."""
    picture(folder / "a.jpg")
    return open_annotated(write_json(folder / "a.json", coco_table(["a.jpg"], annotations, **more)))


# ---- COCO's JSON -----------------------------------------------------------------------------------------------------


def test_coco_folders_are_read_by_split(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    assert annotated_kind(root) == "detection"
    assert find_annotated_splits(root) == ["train", "val"]
    with pytest.raises(NoSuchSplit, match=r"expected one of its splits \(train, val\)"):
        open_annotated(root)
    data = open_annotated(root, split="train")
    assert (data.task, data.kind, data.classes, len(data), data.has_masks) == (
        "detection",
        "image",
        ("dog", "cat"),
        3,
        True,
    )
    assert "classes in the order of their ids" in data.origin
    assert [os.path.relpath(data.path(i), root) for i in range(3)] == [f"train2017/train_{i}.jpg" for i in range(3)]
    assert [len(data.annotations(i)) for i in range(3)] == [1, 2, 0]
    assert data.class_counts().tolist() == [2, 1]
    both = data.annotations(1)
    assert both.boxes.tolist() == [[5, 6, 25, 16], [0, 0, 60, 40]]
    assert (both.boxes.dtype, both.labels.dtype, both.areas.dtype) == (np.float32, np.int64, np.float64)
    assert (both.labels.tolist(), both.crowd.tolist(), both.areas.tolist()) == ([1, 0], [False, True], [100, 1200])
    masks = both.masks(40, 60)
    assert masks[0].nonzero()[0].min() == 6
    assert masks.sum((1, 2)).tolist() == [200, 800]
    assert masks[1].T.reshape(-1).nonzero()[0][[0, -1]].tolist() == [400, 1199]
    assert found(data) == {"crowds": ("note", 1), "empty pictures": ("note", 1)}
    assert data.picture(0).size == (60, 40)


def test_a_set_is_divided_and_sent_to_other_processes(tmp_path: Path) -> None:
    data = open_annotated(coco_set(tmp_path), split="train")
    part = pickle.loads(pickle.dumps(data.select([2, -2])))
    assert part.item_names() == ("train2017/train_2.jpg", "train2017/train_1.jpg")
    assert [len(part.annotations(i)) for i in range(2)] == [0, 2]
    assert (part.annotations(1).masks(40, 60) == data.annotations(1).masks(40, 60)).all()
    assert part.annotations(-1).boxes.tolist() == data.annotations(1).boxes.tolist()
    assert (part.path(-1), part.labels_of(-1)) == (data.path(1), (0, 1))
    assert len(data.select(np.array([True, False, False])).labels) == 1
    os.remove(data.path(0))
    again = open_annotated(tmp_path, split="train")
    assert found(again)["missing"] == ("error", 1)
    assert again.usable().item_names() == ("train2017/train_1.jpg", "train2017/train_2.jpg")


def test_key_points_are_classes_of_a_pose_set(tmp_path: Path) -> None:
    root = pose_set(tmp_path)
    assert annotated_kind(root) == "detection"  # both are there: boxes, unless key points are asked for
    data = open_annotated(root, task="pose")
    assert (data.task, data.classes, data.box_classes) == ("pose", tuple(JOINTS), ("person",))
    assert data.details == {"skeleton": [[0, 1], [0, 2]], "sigmas": [0.05] * 3, "flip_pairs": [[1, 2]]}
    inside = data.annotations(1)
    assert inside.keypoints is not None
    assert inside.keypoints.tolist() == [[[10, 11, 2], [20, 21, 1], [0, 0, 0]]]
    assert (data.class_counts().tolist(), data.has_masks, inside.areas.tolist()) == ([1, 1, 0], False, [300])
    os.remove(root / "annotations/instances_val2017.json")
    assert annotated_kind(root) == "pose"
    assert open_annotated(root, task="detection", split="val").classes == ("person",)


def test_classes_of_coco_stand_as_published(tmp_path: Path) -> None:
    names = load_classes("COCO 2017")
    shuffled = [{"id": 500 - i, "name": name} for i, name in enumerate(names)]
    data = one(tmp_path, instance(1, 100, 500, (1, 1, 9, 9)), categories=shuffled)
    assert (data.classes, data.labels.tolist()) == (names, [0])
    assert "as COCO 2017 orders them" in data.origin


def test_names_of_windows_are_read(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    table = coco_table([r"images\a.jpg"], [instance(1, 100, 7, (1, 1, 9, 9))])
    data = open_annotated(write_json(tmp_path / "a.json", table))
    assert (data.item_names(), data.usable().item_names()) == (("images/a.jpg",),) * 2


def test_pictures_with_any_ending_are_there(tmp_path: Path) -> None:
    for name in ("a.bin", ".b.jpg", "c.bin"):
        picture(tmp_path / "a.jpg").rename(tmp_path / name)
    data = open_annotated(write_json(tmp_path / "a.json", coco_table(["a.bin", ".b.jpg"], [])))
    assert data.usable().item_names() == ("a.bin", ".b.jpg")
    assert found(data) == {"empty pictures": ("note", 2)}


def test_classes_are_told_by_name(tmp_path: Path) -> None:
    one(tmp_path, instance(1, 100, 7, (1, 1, 9, 9)))
    data = open_annotated(tmp_path / "a.json", classes=["bird", "Cat", "dog"])
    assert (data.classes, data.labels.tolist()) == (("bird", "Cat", "dog"), [1])
    with pytest.raises(InputError, match="expected one of the 2 classes, got 'dog'"):
        open_annotated(tmp_path / "a.json", classes=["bird", "cat"])


def test_what_roboflow_writes_is_read(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
    ]
    for split in ("train", "valid"):
        picture(tmp_path / split / "a.jpg")
        table = coco_table(["a.jpg"], [instance(1, 100, 1, (1, 1, 9, 9), segmentation=[])], categories)
        write_json(tmp_path / split / "_annotations.coco.json", table)
    data = open_annotated(tmp_path, split="val")
    assert (data.classes, data.labels.tolist(), data.has_masks) == (("cat",), [0], False)
    assert found(data)["categories"] == ("note", 1)
    assert data.path(0) == str(tmp_path / "valid/a.jpg")


def test_boxes_come_from_polygons_where_there_are_none(tmp_path: Path) -> None:
    data = one(tmp_path, instance(1, 100, 7, (2, 3, 4, 5)) | {"bbox": None, "area": None})
    assert data.annotations(0).boxes.tolist() == [[2, 3, 6, 8]]
    assert data.annotations(0).areas.tolist() == [20]


def test_it_is_read_as_by_cocos_own_code(tmp_path: Path) -> None:
    """As the evaluator's reader does: boxes, areas, crowds, and every pixel of every mask."""
    from faster_coco_eval import COCO

    rng = np.random.default_rng(0)
    crowd = {"size": [40, 60], "counts": [700, 9, 31, 10, 1650]}
    annotations = []
    for number in range(1, 41):
        x, y, w, h = rng.uniform((0, 0, 3, 3), (30, 20, 30, 20)).round(2).tolist()
        angles = np.sort(rng.uniform(0, 2 * np.pi, (int(rng.integers(1, 3)), 7)), axis=1)
        points = np.stack([x + w / 2 + np.cos(angles) * w / 2, y + h / 2 + np.sin(angles) * h / 2], -1)
        more = {"segmentation": points.round(2).reshape(len(points), -1).tolist(), "area": w * h / 3}
        if number % 10 == 0:
            more = {"segmentation": crowd, "iscrowd": 1}
        annotations.append(instance(number, 100 + int(rng.integers(3)), int(rng.choice([3, 7])), (x, y, w, h), **more))
    names = [picture(tmp_path / f"{i}.jpg").name for i in range(3)]
    file = write_json(tmp_path / "a.json", coco_table(names, annotations))
    data, theirs = open_annotated(file), COCO(str(file))
    assert len(data.labels) == 40
    for row in range(3):
        ours = data.annotations(row)
        entries = theirs.loadAnns(theirs.getAnnIds(imgIds=[100 + row]))
        boxes = np.array([entry["bbox"] for entry in entries])
        boxes[:, 2:] += boxes[:, :2]
        assert np.array_equal(ours.boxes, boxes.astype(np.float32))
        assert ours.areas.tolist() == [entry["area"] for entry in entries]
        assert ours.crowd.tolist() == [bool(entry["iscrowd"]) for entry in entries]
        assert [data.classes[label] for label in ours.labels] == [
            theirs.cats[entry["category_id"]]["name"] for entry in entries
        ]
        assert np.array_equal(ours.masks(40, 60), np.stack([theirs.annToMask(entry) for entry in entries]).astype(bool))


def test_what_lies_beside_and_is_not_used_is_said(tmp_path: Path) -> None:
    root = coco_set(tmp_path)
    write_json(root / "annotations/all.json", json.loads((root / "annotations/instances_val2017.json").read_text()))
    assert find_annotated_splits(root) == ["train", "val"]
    assert open_annotated(root, split="val").origin.endswith("; left out: all.json")
    assert open_annotated(root / "annotations/all.json").item_names() == ("val2017/val_0.jpg", "val2017/val_1.jpg")
    write_json(root / "annotations/instances_val_2.json", TABLE)
    with pytest.raises(InputError, match=r"expected one list of split val, found instances_val2017\.json, insta"):
        open_annotated(root, split="val")


def test_key_points_of_coco_come_with_what_was_published(tmp_path: Path) -> None:
    names = list(load_classes("COCO 2017 keypoints"))
    picture(tmp_path / "a.jpg")
    person = {"id": 1, "name": "person", "keypoints": names, "skeleton": [[16, 14]]}
    table = coco_table(["a.jpg"], [instance(1, 100, 1, (1, 1, 9, 9), keypoints=[1, 1, 2] * 17)], [person])
    data = open_annotated(write_json(tmp_path / "a.json", table))
    assert (data.task, data.details) == ("pose", load_details("COCO 2017 keypoints"))
    assert open_annotated(tmp_path / "a.json", classes=names).classes == tuple(names)
    with pytest.raises(InputError, match="expected its own key points as classes, nose, left_eye"):
        open_annotated(tmp_path / "a.json", classes=names[::-1])
    person["skeleton"] = [[1, 18]]
    table["categories"] = [person]
    with pytest.raises(InputError, match="expected a skeleton of pairs of 1 to 17"):
        open_annotated(write_json(tmp_path / "a.json", table))
    table["categories"] = [{**person, "keypoints": list(map(str, range(257)))}]
    with pytest.raises(InputError, match="expected at most 256 key points, found 257"):
        open_annotated(write_json(tmp_path / "a.json", table))


def test_splits_are_chosen_as_for_other_sets(tmp_path: Path) -> None:
    root = coco_set(tmp_path / "set")
    train, val, left = annotated_for_training(root)
    assert (train.item_names()[0], len(val or ()), left) == ("train2017/train_0.jpg", 2, [])
    train, val, left = annotated_for_training(root, split="val")
    assert (len(train), val, left) == (2, None, ["neither trained nor validated on: train"])
    other = coco_set(tmp_path / "other")
    train, val, left = annotated_for_training(root, other, classes=["cat", "bird", "dog"])
    assert val is not None
    assert (val.root, val.item_names()[0], val.classes) == (str(other), "val2017/val_0.jpg", train.classes)
    assert left == ["neither trained nor validated on: val"]
    assert annotated_for_evaluation(root).item_names() == ("val2017/val_0.jpg", "val2017/val_1.jpg")
    assert annotated_for_evaluation(train) is train
    one_split = pose_set(tmp_path / "people")
    assert annotated_for_evaluation(one_split, task="pose").task == "pose"
    assert annotated_for_training(one_split, task="pose")[1] is None


# ---- what is odd, and what is malformed ------------------------------------------------------------------------------


def test_what_cannot_be_used_is_left_out_and_said(tmp_path: Path) -> None:
    square = (5, 5, 9, 9)
    data = one(
        tmp_path,
        instance(1, 100, 7, square),
        instance(2, 100, 7, (5, 5, 0, 9)),  # no area
        instance(3, 100, 7, (70, 5, 9, 9)),  # outside
        instance(4, 100, 7, (50, 5, 19, 9)),  # partly
        instance(5, 100, 7, square),  # a double
        instance(6, 99, 7, square),  # of no picture
        instance(7, 100, 9, square),  # of no class
        instance(7, 100, 3, square, segmentation=[[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]),  # no polygons; an id twice
        instance(9, 100, 3, (6, 6, 9, 9), segmentation=[[1, 2, 1e9, 4, 5, 6]]),
        instance(10, 100, 3, (7, 6, 9, 9), segmentation={"size": [50, 60], "counts": [3000]}),
        instance(11, 100, 3, (8, 6, 9, 9), segmentation={"size": [40, 60], "counts": [3000]}),
        instance(12, 100, 3, (9, 6, 9, 9), segmentation={"size": [40, 60], "counts": "hello \u2013 you"}),
        instance(13, 100, 3, (10, 6, 9, 9), segmentation="polygon"),
        instance(19, 100, 3, (13, 6, 9, 9), segmentation={"size": [2**31, 0], "counts": []}),
        instance(14, 100, 3, (11, 6, 9, 9), area=-5),
        instance(18, 100, 3, (12, 6, 9, 9), area=0),
        instance(15, 100, 3, square, bbox=[float("nan"), 6, 9, 9]),
        instance(16, 100, 3, square, bbox=[1, 6, 10**400, 9]),
        instance(17, 100, 3, square, bbox="box", segmentation=[]),
    )
    assert found(data) == {
        "unknown pictures": ("error", 1),
        "unknown classes": ("error", 1),
        "masks of other sizes": ("error", 1),
        "damaged masks": ("error", 4),
        "empty boxes": ("warning", 4),
        "boxes outside": ("warning", 1),
        "empty polygons": ("warning", 2),
        "absurd polygons": ("warning", 1),
        "no mask": ("warning", 6),
        "doubles": ("warning", 1),
        "areas": ("warning", 1),
        "no area": ("warning", 1),
        "boxes beyond": ("note", 1),
        "ids": ("note", 1),
    }
    assert [f.level for f in data.findings] == sorted(
        (f.level for f in data.findings), key=["error", "warning", "note"].index
    )
    by_title = {finding.title: finding for finding in data.findings}
    assert by_title["empty polygons"].examples[0] == ("a.jpg", "annotation 8, box 5, 5, 14, 14")
    assert by_title["boxes outside"].examples == (("a.jpg", "annotation 3, box 70, 5, 79, 14"),)
    assert by_title["empty boxes"].text == "boxes without an area, or that are none, left out: 4"
    inside = data.annotations(0)
    assert len(inside) == 11
    assert np.isfinite(inside.boxes).all()
    assert inside.areas[-2:].tolist() == [81, 0]
    assert inside.masks(40, 60).any((1, 2)).tolist() == [True] * 3 + [False] * 6 + [True] * 2


def test_key_points_that_are_none_are_left_out_and_said(tmp_path: Path) -> None:
    def person(number: int, points: Any) -> dict[str, Any]:
        return instance(number, 100, 1, (5, 6, 20 + number, 30), keypoints=points)

    wrong = [[1, 2, 2] * 2, [1, None, 2] * 3, "none", [float("nan"), 2, 2] * 3, [1, 2, 3] * 3]
    usable = [[10, 10, 2, 80, 10, 2, 0, 0, 0], [0] * 9, None]
    root = pose_set(tmp_path, [person(i, points) for i, points in enumerate([*wrong, *usable])])
    data = open_annotated(root, task="pose")
    assert found(data) == {
        "key point counts": ("error", 3),
        "key points": ("error", 2),
        "key points outside": ("warning", 1),
        "no key points": ("note", 2),
        "empty pictures": ("note", 1),
    }
    assert len(data.annotations(0)) == 3


def test_pictures_of_another_size_are_refused_where_they_are_read(tmp_path: Path) -> None:
    data = one(tmp_path, instance(1, 100, 7, (1, 1, 9, 9)))
    picture(tmp_path / "a.jpg", size=(WIDTH, HEIGHT))
    with pytest.raises(InputError, match="expected a picture of 60x40, as annotated, found 40x60, as it is turned"):
        data.picture(0)


def test_photos_that_are_turned_count_as_they_are_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    lying = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(lying).save(tmp_path / "a.jpg", exif=exif)  # 60 wide and 40 high, seen upright
    upright = {"id": 100, "file_name": "a.jpg", "width": HEIGHT, "height": WIDTH}
    for image in (upright, {"id": 100, "file_name": "a.jpg"}):
        data = open_annotated(write_json(tmp_path / "a.json", {**TABLE, "images": [image]}))
        assert (data.size(0), upright_size(data.picture(0))) == ((WIDTH, HEIGHT), (WIDTH, HEIGHT))
    data = open_annotated(write_json(tmp_path / "a.json", TABLE))
    with pytest.raises(InputError, match="expected a picture of 60x40, as annotated, found 40x60, as it is turned"):
        data.picture(0)


def test_polygons_need_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = one(tmp_path, instance(1, 100, 7, (1, 1, 9, 9)))
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)  # as where it is not installed
    with pytest.raises(MissingExtra, match=r"needs the package 'faster-coco-eval': pip install 'uniformer\[dense\]'"):
        data.annotations(0).masks(40, 60)


TABLE = coco_table(["a.jpg"], [instance(1, 100, 7, (1, 1, 9, 9))])
A = {"id": 1, "file_name": "a.jpg"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"images": [A, {"id": 1, "file_name": "b.jpg"}]}, "picture 2: expected each id once, found 1 twice"),
        ({"images": ["a.jpg"]}, "picture 1: expected an object with id, found 'a.jpg'"),
        ({"images": [{**A, "id": True}]}, "expected an object with id"),
        ({"images": [{**A, "height": 10**30, "width": 4}]}, "expected height as 1 to 1048576 pixels"),
        ({"images": [{**A, "height": 1 << 20, "width": 1 << 20}]}, "picture 1: expected at most 234881024 pixels"),
        ({"images": [{**A, "height": "high"}]}, "expected height as 1 to 1048576 pixels, found high"),
        ({"images": [A, {"id": 2, "file_name": "../../passwd.jpg"}]}, "which leaves it"),
        ({"images": [A, {"id": 2, "file_name": "..\\b.jpg"}]}, "which leaves it"),
        ({"images": [A, {"id": 2, "file_name": "/etc/passwd"}]}, "which leaves it"),
        ({"images": [A, {"id": 2}]}, "picture 2: expected the name of a picture, found 'None'"),
        ({"images": []}, "expected pictures, found none listed"),
        ({"categories": []}, "expected categories, found none"),
        ({"categories": [*CATEGORIES, {"id": 7, "name": "cow"}]}, "expected each id once, found 7 twice"),
        ({"categories": [*CATEGORIES, {"id": 8, "name": "cat"}]}, "expected categories of different names"),
        ({"categories": [{"id": 7, "name": 5}]}, "expected the name of a class, found '5'"),
        ({"annotations": [{"image_id": [1]}]}, "annotation 1: expected an object with image_id"),
        ({"annotations": {"1": 2}}, "found something else at character"),
        ({"annotations": None}, "found no annotations"),
    ],
)
def test_malformed_files_are_refused_in_one_line(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    table = {key: value for key, value in {**TABLE, **changed}.items() if value is not None}
    file = write_json(tmp_path / "a.json", table)
    with pytest.raises(InputError) as caught:
        open_annotated(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[:-9], "found something else at character"),
        (lambda text: text.replace('"id": 100,', '"id": 100', 1), "Expecting ',' delimiter"),
        (lambda text: text + "]", "more behind the object"),
        (lambda text: text.replace('"annotations": [', '"annotations": [' + "[" * 200_000, 1), "nested too deep"),
        (lambda text: text.replace("100", "9" * 5000, 1), "integer string conversion"),
    ],
)
def test_damaged_json_is_refused_in_one_line(spoil: Any, words: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    file = write_json(tmp_path / "a.json", TABLE)
    file.write_text(spoil(file.read_text()))
    with pytest.raises(InputError) as caught:
        open_annotated(file)
    assert words in str(caught.value)


def test_pictures_that_are_nowhere_are_refused(tmp_path: Path) -> None:
    file = write_json(tmp_path / "annotations/instances_val.json", TABLE)
    with pytest.raises(InputError, match=r"expected pictures such as a\.jpg in .*found none of 1 looked for"):
        open_annotated(file)


def two_settings(root: Path) -> Path:
    settings = (yolo_set(root) / "data.yaml").read_text()
    for name in "ab":
        (root / f"{name}.yaml").write_text(settings)
    os.remove(root / "data.yaml")
    return root


def test_what_is_no_annotated_set_is_refused(tmp_path: Path) -> None:
    assert annotated_kind(tmp_path) is None
    assert annotated_kind(tmp_path / "missing") is None
    with pytest.raises(InputError, match=r"found nothing there"):
        open_annotated(tmp_path / "missing")
    write_json(tmp_path / "list.json", [{"path": "a.mp4", "label": "x"}])
    write_json(tmp_path / "captions.json", {"images": [{"file_name": "a"}], "annotations": [{"caption": "x"}]})
    with pytest.raises(InputError, match=r"expected one file with a YOLO data set's settings, found a\.yaml, b\.yaml"):
        annotated_kind(two_settings(tmp_path / "yolo"))
    write(tmp_path / "classes/a.yaml", "services: {train: [names, {")
    write(tmp_path / "classes/b.yml", "x" * (1 << 18) + "x")
    (tmp_path / "classes/c.yaml").write_bytes(b"\xff\0\xff")
    (tmp_path / "classes/d.xml").symlink_to("/proc/self/mem")  # a file that is there and cannot be read
    assert annotated_kind(tmp_path / "classes") is None
    with pytest.raises(
        InputError, match=r"b\.yml: expected a YOLO data set's settings, found a file of more than 0\.25 MB"
    ):
        annotated_kind(tmp_path / "classes/b.yml")
    for name in ("list.json", "captions.json"):
        assert annotated_kind(tmp_path / name) is None
    with pytest.raises(InputError, match="expected annotations for pose, in COCO's JSON, YOLO's folders"):
        open_annotated(coco_set(tmp_path / "set"), task="pose")
    with pytest.raises(InputError, match="expected task detection, segmentation, pose, got 'boxes'"):
        open_annotated(tmp_path, task="boxes")  # type: ignore[arg-type]


# ---- much of it ------------------------------------------------------------------------------------------------------


def test_a_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """10 MB of JSON, of which the arrays are the polygons' numbers."""
    names = [f"{i}.jpg" for i in range(64)]
    polygon = [[round(10 + 0.37 * i % 25, 2) for i in range(40)]]
    many = [instance(i, 100 + i % 64, 7, (1, 1, 9, 9), segmentation=polygon, note="x" * 100) for i in range(20_000)]
    write_json(tmp_path / "instances_val.json", coco_table(names, many))
    picture(tmp_path / "0.jpg")
    size = (tmp_path / "instances_val.json").stat().st_size
    code = (
        "import sys\nfrom tests.memory import peak_kilobytes\n"
        "from uniformer.datasets.annotated import open_annotated\nbefore = peak_kilobytes()\n"
        "data = open_annotated(sys.argv[1])\nprint(len(data.labels), peak_kilobytes() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "instances_val.json"],
        cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True,
    )  # fmt: skip
    count, kilobytes = map(int, done.stdout.split())
    assert count == 20_000
    assert kilobytes * 1024 < 3 * size  # json.loads alone takes seven times


def test_damaged_sets_end_in_one_line(tmp_path: Path) -> None:
    fuzz(tmp_path, 60, 7)

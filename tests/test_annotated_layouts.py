"""YOLO's folders, Pascal VOC's XML, pictures beside label maps, ADE20K."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.annotated_sets import (
    HEIGHT,
    OBJECT,
    WIDTH,
    coco_set,
    found,
    label_map,
    picture,
    values_of,
    voc_set,
    voc_xml,
    write,
    yolo_set,
)
from uniformer.datasets.annotated import annotated_kind, find_annotated_splits, open_annotated
from uniformer.errors import InputError
from uniformer.labels import load_classes, load_palette

# ---- YOLO ------------------------------------------------------------------------------------------------------------


def test_yolo_folders_are_read(tmp_path: Path) -> None:
    root = yolo_set(tmp_path)
    assert (annotated_kind(root), find_annotated_splits(root)) == ("detection", ["train", "val"])
    data = open_annotated(root, split="train")
    assert (data.classes, data.item_names()) == (("cat", "dog"), ("images/train/0.jpg", "images/train/1.jpg"))
    inside = data.annotations(0)
    assert inside.boxes.tolist() == [[15, 15, 45, 25], [6, 4, 30, 20]]
    assert (inside.labels.tolist(), inside.areas.tolist()) == ([1, 0], [300, pytest.approx(192)])
    assert inside.masks(HEIGHT, WIDTH).any((1, 2)).tolist() == [False, True]
    assert found(data) == {"no mask": ("warning", 1), "empty pictures": ("note", 1)}
    assert open_annotated(root / "data.yaml", split="val").item_names() == ("images/val/0.jpg", "images/val/1.jpg")


@pytest.mark.parametrize(
    "settings",
    [
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n",  # as Roboflow writes
        "path: ../datasets/mine\ntrain: train/images\nval: [valid/images]\nnames:\n  0: cat\n  1: dog\n",
        "train: list.txt\nval: valid/images\nnames: {1: dog, 0: cat}\n",
    ],
)
def test_settings_name_folders_in_many_ways(settings: str, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / "images/a.jpg")
        write(tmp_path / split / "labels/a.txt", "1 0.5 0.5 0.5 0.5")
    write(tmp_path / "list.txt", "./train/images/a.jpg\n")
    write(tmp_path / "data.yaml", settings)
    for split, folder in (("train", "train"), ("val", "valid")):
        data = open_annotated(tmp_path, split=split)
        assert (data.item_names(), data.classes) == ((f"{folder}/images/a.jpg",), ("cat", "dog"))
        assert data.annotations(0).boxes.tolist() == [[15, 10, 45, 30]]


def test_lists_of_windows_are_read_and_stay_in_the_folder(tmp_path: Path) -> None:
    root = yolo_set(tmp_path, "train: list.txt\nnames: [cat, dog]\n")
    write(root / "list.txt", ".\\images\\train\\0.jpg\n")
    data = open_annotated(root, split="train")
    assert (data.usable().item_names(), len(data.labels)) == (("images/train/0.jpg",), 2)
    write(root / "list.txt", "images/train/0.jpg\n../0.jpg\n")
    with pytest.raises(
        InputError, match=r"list\.txt, line 2: expected a picture inside .*found '\.\./0\.jpg', which leaves"
    ):
        open_annotated(root, split="train")


@pytest.mark.parametrize("form", ["yolo", "voc", "maps", "maps in folders"])
def test_of_several_folders_of_one_split_none_is_guessed(form: str, tmp_path: Path) -> None:
    for name in ("train", "train_2"):
        if form == "yolo":
            picture(tmp_path / f"images/{name}/a.jpg")
            write(tmp_path / f"labels/{name}/a.txt", "0 .5 .5 .5 .5")
        elif form == "voc":
            picture(tmp_path / f"{name}/a.jpg")
            write(tmp_path / f"{name}/a.xml", voc_xml(OBJECT.format("dog", 0, 1)))
        else:
            images, masks = ("{}/images", "{}/masks") if form == "maps in folders" else ("images/{}", "masks/{}")
            picture(tmp_path / images.format(name) / "a.jpg")
            label_map(tmp_path / masks.format(name) / "a.png", values_of(0))
    with pytest.raises(InputError, match="expected one folder of split train, found train, train_2: name the one to"):
        open_annotated(tmp_path, split="train")


def test_a_split_that_is_not_there_is_said(tmp_path: Path) -> None:
    root = yolo_set(tmp_path, "train: images/train\nval: images/val\ntest: images/test\nnames: [cat, dog]\n")
    assert find_annotated_splits(root) == ["train", "val"]
    assert open_annotated(root, split="val").origin.endswith("; left out: test, whose folder is not there")


def test_folders_without_settings_are_read_by_number(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", "2 0.5 0.5 0.5 0.5")
    data = open_annotated(tmp_path)
    assert (data.classes, data.labels.tolist()) == (("0", "1", "2"), [2])
    assert "3 classes by number" in data.origin
    write(tmp_path / "classes.txt", "a\nb\nc\nd\n")
    assert open_annotated(tmp_path).classes == tuple("abcd")
    assert open_annotated(tmp_path, classes=["x", "y", "z"]).labels.tolist() == [2]


def test_lines_that_are_no_instances_are_said(tmp_path: Path) -> None:
    root = yolo_set(tmp_path)
    lines = ("0 0.5 0.5", "0.5 0.5 0.5 0.1 0.1", "cat 0.5 0.5 0.1 0.1", "7 0.5 0.5 0.1 0.1", "0 nan 0.5 0.1 0.1")
    write(root / "labels/train/0.txt", "\n".join((*lines, "nan 1 1 1 1", "1e400 1 1 1 1", "0 1 1 1 1 1 1 1")))
    (root / "labels/train/1.txt").write_bytes(b"\0\1\2")
    (root / "images/train/1.jpg").write_bytes(b"no picture")
    data = open_annotated(root, split="train")
    assert found(data) == {
        "label lines": ("error", 6),
        "unknown classes": ("error", 1),
        "damaged labels": ("error", 1),
        "unreadable": ("error", 1),
        "empty boxes": ("warning", 1),
        "empty pictures": ("note", 2),
    }
    assert data.usable().item_names() == ("images/train/0.jpg",)


def test_yolo_key_points_are_read(tmp_path: Path) -> None:
    names = "kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\ntrain: images/train\nval: images/val\nnames: {0: person}\n"
    root = yolo_set(tmp_path, names)
    write(root / "labels/train/0.txt", "0 0.5 0.5 0.5 0.5 0.5 0.5 2 0.1 0.1 1 0 0 0\n0 0.5 0.5 0.5 0.5\n")
    assert annotated_kind(root) == "pose"
    data = open_annotated(root, split="train")
    assert (data.classes, data.box_classes, data.details["flip_pairs"]) == (("0", "1", "2"), ("person",), [[1, 2]])
    keypoints = data.annotations(0).keypoints
    assert keypoints is not None
    assert keypoints.tolist() == [[[30, 20, 2], [6, 4, 1], [0, 0, 0]]]
    assert found(data)["label lines"] == ("error", 1)
    assert open_annotated(root, split="val").annotations(0).keypoints.shape == (0, 3, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("train: ../../elsewhere\nnames: [a]\n", "expected a folder or a list of pictures below"),
        ("train: images/train\nnames: {1: a}\n", "expected names numbered from 0"),
        ("train: images/train\nnames: [a, a]\n", "expected names, each once"),
        ('train: images/train\nnames: ["a\\nb"]\n', "expected names, each once"),
        ("train: images/train\nnames: &a [*a]\n", "an alias"),
        ("train: images/train\nnames: [a\n", "in YAML, found something else"),
        ("val: images/val\nvalid: images/train\nnames: [a]\n", "expected each split once, found val, valid"),
        ("train: images/train\nnames: [a]\nkpt_shape: [0, 3]\n", "expected kpt_shape"),
        ("train: images/train\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: [0, 0]\n", "expected flip_idx"),
        ("train: images/train\nnames: [a]\nkpt_shape: [3, 3]\nflip_idx: [1, 2, 0]\n", "expected flip_idx"),
        ("train: images/train\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: ['1', '0']\n", "expected flip_idx"),
        ("train: images/train\nnames: " + "[" * 1000, "in YAML, found something else"),
        ("train: !!python/object/apply:os.system [ls]\nnames: [a]\n", "in YAML, found something else"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: str, words: str, tmp_path: Path) -> None:
    root = yolo_set(tmp_path, settings)
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        open_annotated(root, split="train")


# ---- Pascal VOC ------------------------------------------------------------------------------------------------------


def test_voc_is_read(tmp_path: Path) -> None:
    root = voc_set(tmp_path)
    assert (annotated_kind(root), find_annotated_splits(root)) == ("detection", ["train", "val"])
    data = open_annotated(root, split="train")
    assert (data.classes, data.item_names()) == (("bird", "cat", "dog"), ("JPEGImages/a.jpg", "JPEGImages/c.jpg"))
    inside = data.annotations(0)
    assert (inside.boxes.tolist(), inside.labels.tolist()) == ([[10, 4, 30, 25], [0, 4, 30, 25]], [2, 1])
    assert (inside.crowd.tolist(), inside.shapes) == ([False, True], None)
    with pytest.raises(InputError, match="expected annotations with masks, found boxes only"):
        inside.masks(HEIGHT, WIDTH)
    val = open_annotated(root, split="val")
    assert (val.classes, val.size(0)) == (data.classes, (HEIGHT, WIDTH))
    assert found(data) == {"crowds": ("note", 1), "empty pictures": ("note", 1), "not listed": ("note", 1)}


def test_damaged_xml_is_said_and_entities_are_not_read(tmp_path: Path) -> None:
    root = voc_set(tmp_path)
    write(root / "ImageSets/Main/train.txt", "a\nb\nc\nd\n")
    secret = write(tmp_path / "secret.txt", "classified")
    bomb = f'<!DOCTYPE annotation [<!ENTITY x SYSTEM "file://{secret}">]>{voc_xml(OBJECT.format("&x;", 0, 1))}'
    write(root / "Annotations/b.xml", bomb)
    write(root / "Annotations/a.xml", (root / "Annotations/a.xml").read_text().replace(f">{WIDTH}<", f">{'9' * 9999}<"))
    write(root / "Annotations/c.xml", "<annotation><object>")
    write(root / "Annotations/e.xml", "<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>")
    data = open_annotated(root, split="train")
    assert (data.classes, len(data.labels)) == (("cat", "dog"), 2)
    said = {finding.title: finding for finding in data.findings}
    assert [row[0] for row in said["damaged labels"].examples] == ["Annotations/b.xml", "Annotations/c.xml"]
    assert "DOCTYPE" in said["damaged labels"].examples[0][1]
    assert said["missing"].examples == (("d.jpg",),)


def test_voc_names_pictures_by_the_files_names(tmp_path: Path) -> None:
    for place in ("1", "2"):
        picture(tmp_path / f"JPEGImages/{place}/a.jpg")
    picture(tmp_path / "JPEGImages/b.jpg")
    nameless = OBJECT.format("", 0, 1)
    write(tmp_path / "Annotations/a.xml", voc_xml(OBJECT.format("dog", 0, 11), nameless))
    write(tmp_path / "Annotations/other.xml", voc_xml().replace("elsewhere.jpg", r"C:\sets\b.jpg"))
    data = open_annotated(tmp_path)
    assert (data.usable().item_names(), len(data.labels)) == (("JPEGImages/1/a.jpg", "JPEGImages/b.jpg"), 1)
    said = {finding.title: finding for finding in data.findings}
    assert {title: said[title].level for title in said} == {
        "no class": "error", "same names": "warning", "empty pictures": "note"
    }  # fmt: skip
    assert said["same names"].examples == (("JPEGImages/2/a.jpg", "not JPEGImages/1/a.jpg"),)


# ---- label maps ------------------------------------------------------------------------------------------------------


def segmentation_set(root: Path, labels: str = "masks") -> Path:
    for split in ("train", "val"):
        for i in range(2):
            picture(root / f"images/{split}/{i}.jpg", i)
            label_map(root / labels / f"{split}/{i}.png", values_of(i), palette=[value % 256 for value in range(768)])
    return root


def test_pictures_beside_label_maps_are_read(tmp_path: Path) -> None:
    root = segmentation_set(tmp_path)
    assert (annotated_kind(root), find_annotated_splits(root)) == ("segmentation", ["train", "val"])
    write(root / "classes.txt", "sky\nroad\ntree\ncar\n")
    data = open_annotated(root, split="val")
    assert (data.task, data.classes, len(data)) == ("segmentation", ("sky", "road", "tree", "car"), 2)
    labels = data.label_map(1)
    assert labels.dtype == np.uint8
    assert (labels == values_of(1)).all()
    assert data.details == {"palette": [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]}
    assert len(data.annotations(0)) == 0
    assert (data.select([1]).label_map(0) == labels).all()
    os.remove(root / "classes.txt")
    numbered = open_annotated(root, split="train")
    assert numbered.classes == ("0", "1", "2")
    assert "as many as the label maps have values" in numbered.origin


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_values_are_what_the_file_says_at_every_depth(bits: int, tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    values = values_of(0, 2)
    values[0] = 0
    path = tmp_path / "labels/a.png"
    path.parent.mkdir()
    if bits == 16:
        Image.fromarray(values.astype(np.uint16)).save(path)
    elif bits == 1:
        Image.fromarray(values.astype(bool)).save(path)
    else:
        grey_png(path, values, bits)
    assert (open_annotated(tmp_path, classes=["a", "b"]).label_map(0) == values).all()


def grey_png(path: Path, values: np.ndarray, bits: int) -> None:
    """A grey PNG of so many bits, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    planes = (values[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(len(values), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in planes)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_label_maps_that_are_wrong_are_refused(tmp_path: Path) -> None:
    root = segmentation_set(tmp_path)
    write(root / "classes.txt", "sky\nroad\n")
    data = open_annotated(root, split="train")
    with pytest.raises(InputError, match=r"expected values of the 2 classes, 0 \.\. 1, found 2"):
        data.label_map(0)
    label_map(root / "masks/train/0.png", values_of(0)[:-1])
    with pytest.raises(InputError, match="expected a label map of 60x40, as its picture, found 60x39"):
        data.label_map(0)
    picture(root / "masks/train/0.png")
    with pytest.raises(InputError, match="expected a label map of one value a pixel, found a picture in colours"):
        data.label_map(0)
    Image.fromarray(values_of(0).astype(np.uint16) + 300).save(root / "masks/train/0.png")
    with pytest.raises(InputError, match=r"expected a label map with whole values in 0 \.\. 255, found 300 \.\. 555"):
        data.label_map(0)
    os.remove(root / "masks/train/0.png")
    label_map(root / "masks/train/5.png", values_of(0))
    data = open_annotated(root, split="train")
    assert found(data) == {"no label map": ("error", 1), "no picture": ("note", 1)}
    assert data.usable().item_names() == ("images/train/1.jpg",)
    with pytest.raises(InputError, match="expected a label map of the same name, found none"):
        data.label_map(0)
    with pytest.raises(InputError, match="expected label maps, found a set for detection"):
        open_annotated(coco_set(tmp_path / "boxes"), split="val").label_map(0)


@pytest.mark.parametrize("value", [0.7, np.nan, np.inf])
def test_fractions_are_no_classes(value: float, tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    values = values_of(0).astype(np.float32)
    path = tmp_path / "masks/a.tif"
    path.parent.mkdir()
    Image.fromarray(values).save(path)
    assert (open_annotated(tmp_path).label_map(0) == values_of(0)).all()
    values[3, 3] = value
    Image.fromarray(values).save(path)
    with pytest.raises(InputError, match="expected a label map with whole values in 0"):
        open_annotated(tmp_path, classes=["a", "b", "c"]).label_map(0)


def test_black_and_white_masks_are_no_classes(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    label_map(tmp_path / "masks/a.png", 255 * (values_of(0, 2) % 2))
    with pytest.raises(InputError, match="expected label maps with two classes and more, found no value but 0 and 255"):
        open_annotated(tmp_path)
    data = open_annotated(tmp_path, classes=["ground", "thing"])
    assert found(data) == {"black and white": ("error", 1)}
    assert "of which 255 is no class: write 1 for it" in data.findings[0].text
    picture(tmp_path / "images/0.jpg")
    said = {one.title: one.examples for one in open_annotated(tmp_path, classes=["ground", "thing"]).findings}
    assert said == {"black and white": (("masks/a.png",),), "no label map": (("images/0.jpg",),)}


def test_ade20k_counts_from_one(tmp_path: Path) -> None:
    for split, name in (("training", "train"), ("validation", "val")):
        picture(tmp_path / f"images/{split}/ADE_{name}_00000001.jpg")
        values = values_of(0, 151)
        values[0] = 0
        label_map(tmp_path / f"annotations/{split}/ADE_{name}_00000001.png", values)
    data = open_annotated(tmp_path, split="val")
    assert (annotated_kind(tmp_path), data.classes) == ("segmentation", load_classes("ADE20K"))
    assert data.details["palette"] == [list(colour) for colour in load_palette("ADE20K")]
    labels = data.label_map(0)
    assert (labels[0] == 255).all()
    assert (labels[values > 0] == values[values > 0] - 1).all()
    assert "0 is unlabelled" in data.origin


def test_voc_label_maps_follow_their_lists(tmp_path: Path) -> None:
    root = voc_set(tmp_path)
    for name in "ab":
        label_map(root / f"SegmentationClass/{name}.png", values_of(1), palette=[value % 256 for value in range(768)])
    write(root / "ImageSets/Segmentation/train.txt", "a\n")
    write(root / "ImageSets/Segmentation/val.txt", "b\nd\n")
    assert annotated_kind(root) == "detection"
    data = open_annotated(root, task="segmentation", split="val")
    assert (data.item_names(), found(data)) == (
        ("JPEGImages/b.jpg",), {"missing": ("error", 1), "not listed": ("note", 2)}
    )  # fmt: skip
    assert (data.label_map(0) == values_of(1)).all()

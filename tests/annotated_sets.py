"""Small annotated data sets of every layout, as tools write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.scan import ScanResult

HEIGHT, WIDTH = 40, 60


def found(what: AnnotatedSet | ScanResult) -> dict[str, tuple[str, int]]:
    """Level and count of each finding, by its title."""
    return {finding.title: (finding.level, finding.count) for finding in what.findings}


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """A picture of noise, (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def instance(number: int, image: int, category: int, box: Sequence[float], **more: Any) -> dict[str, Any]:
    """An annotation; its polygon is the box."""
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    common = {"id": number, "image_id": image, "category_id": category, "bbox": list(box), "iscrowd": 0}
    return common | {"area": w * h / 2, "segmentation": [polygon]} | more


CATEGORIES = [{"id": 7, "name": "cat", "supercategory": "animal"}, {"id": 3, "name": "dog", "supercategory": "animal"}]


def coco_table(
    names: Sequence[str], annotations: Sequence[Any], categories: Sequence[Any] = CATEGORIES
) -> dict[str, Any]:
    """The file's content, in the order of COCO's own; pictures have the ids 100, 101, ..."""
    images = [{"id": 100 + i, "file_name": n, "height": HEIGHT, "width": WIDTH} for i, n in enumerate(names)]
    return {"info": {"year": 2026}, "images": images, "annotations": list(annotations), "categories": list(categories)}


def write_json(path: Path, table: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))
    return path


def coco_set(root: Path) -> Path:
    """`annotations/instances_{train,val}2017.json`, beside the pictures of each."""
    for split, count in (("train", 3), ("val", 2)):
        names = [f"{split}_{i}.jpg" for i in range(count)]
        for i, name in enumerate(names):
            picture(root / f"{split}2017" / name, i)
        annotations = [
            instance(1, 101, 7, (5, 6, 20, 10)),
            instance(2, 100, 3, (1.5, 2, 30, 30)),
            instance(3, 101, 3, (0, 0, 60, 40), iscrowd=1, segmentation={"size": [40, 60], "counts": [400, 800, 1200]}),
        ]
        write_json(root / f"annotations/instances_{split}2017.json", coco_table(names, annotations))
    return root


JOINTS = ["nose", "left_hand", "right_hand"]
PERSON = [{"id": 1, "name": "person", "keypoints": JOINTS, "skeleton": [[1, 2], [1, 3]]}]


def pose_set(root: Path, annotations: Sequence[Any] | None = None) -> Path:
    """`person_keypoints_val2017.json` beside `instances_val2017.json`."""
    for i in range(2):
        picture(root / "val2017" / f"{i}.jpg", i)
    points = [10, 11, 2, 20, 21, 1, 0, 0, 0]
    usual = [instance(1, 101, 1, (5, 6, 20, 30), keypoints=points, num_keypoints=2)]
    table = coco_table(["0.jpg", "1.jpg"], usual if annotations is None else annotations, PERSON)
    write_json(root / "annotations/person_keypoints_val2017.json", table)
    boxes = [{k: v for k, v in entry.items() if k != "keypoints"} for entry in usual]
    categories = [{"id": 1, "name": "person"}]
    write_json(root / "annotations/instances_val2017.json", coco_table(["0.jpg", "1.jpg"], boxes, categories))
    return root


def label_map(path: Path, values: Any, palette: Sequence[int] | None = None) -> Path:
    """A PNG of one value a pixel, grey or with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette is not None:
        image.putpalette(list(palette))  # which makes it one of the palette's places
    image.save(path)
    return path


def values_of(seed: int, classes: int = 3) -> np.ndarray:
    """(HEIGHT, WIDTH) labels in blocks, with a border of 255."""
    coarse = np.random.default_rng(seed).integers(0, classes, (4, 6))
    values = np.kron(coarse, np.ones((10, 10), int))
    values[0] = 255
    return values


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def yolo_set(root: Path, settings: str = "train: images/train\nval: images/val\nnames: [cat, dog]\n") -> Path:
    for split in ("train", "val"):
        for i in range(2):
            picture(root / f"images/{split}/{i}.jpg", i)
    write(root / "labels/train/0.txt", "1 0.5 0.5 0.5 0.25\n0 0.1 0.1 0.5 0.1 0.1 0.5\n\n")
    write(root / "labels/train/1.txt", "")
    write(root / "data.yaml", settings)
    return root


OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>30</xmax><ymax>25</ymax></bndbox></object>"
)


def voc_xml(*objects: str, size: str = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>") -> str:
    return f"<annotation><filename>elsewhere.jpg</filename>{size}{''.join(objects)}</annotation>"


def voc_set(root: Path) -> Path:
    for name in "abc":
        picture(root / f"JPEGImages/{name}.jpg")
    write(root / "Annotations/a.xml", voc_xml(OBJECT.format("dog", 0, 11), OBJECT.format("cat", 1, 1)))
    write(root / "Annotations/b.xml", voc_xml(OBJECT.format("bird", 0, 1), size=""))
    write(root / "Annotations/c.xml", voc_xml())
    write(root / "ImageSets/Main/train.txt", "a\nc\n")
    write(root / "ImageSets/Main/val.txt", "b\n")
    write(root / "ImageSets/Main/dog_train.txt", "a  1\n")
    return root

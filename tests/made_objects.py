"""Made sets of objects and answers with all that COCO's measure treats apart: crowds, ties, empty pictures, sizes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as official_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from uniformer.datasets.strings import Strings
from uniformer.tasks.coco import Objects
from uniformer.tasks.detections import Detections
from uniformer.tasks.poses import Poses

CLASSES, POINTS = 5, 7
SIGMAS = np.linspace(0.03, 0.1, POINTS)


def sizes_of(count: int) -> np.ndarray:
    return np.stack([120 + np.arange(count) % 7 * 20, 150 + np.arange(count) % 5 * 30], axis=1)


def boxes_in(rng: np.random.Generator, count: int, size: np.ndarray) -> np.ndarray:
    """From a few pixels to most of the picture, in quarters of a pixel, as lists have them."""
    sides = np.exp(rng.uniform(np.log(4), np.log(size[::-1] * 0.9), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * (size[::-1] - sides)
    return (np.round(np.concatenate([corner, corner + sides], axis=1) * 4) / 4).astype(np.float32)


def mask_of(box: np.ndarray, size: np.ndarray) -> str:
    """An ellipse in the box."""
    y, x = np.mgrid[: size[0], : size[1]]
    centre, half = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 1) / 2
    inside = ((x + 0.5 - centre[0]) / half[0]) ** 2 + ((y + 0.5 - centre[1]) / half[1]) ** 2 <= 1
    return official_masks.encode(np.asfortranarray(inside.astype(np.uint8)))["counts"].decode()


def points_in(rng: np.random.Generator, boxes: np.ndarray, seen: float) -> np.ndarray:
    points = boxes[:, None, :2] + rng.uniform(0, 1, (len(boxes), POINTS, 2)) * (boxes[:, None, 2:] - boxes[:, None, :2])
    visible = np.where(rng.random((len(boxes), POINTS, 1)) < seen, 2, 0)
    return np.concatenate([np.where(visible > 0, points, 0), visible], axis=2).astype(np.float32)


def made(seed: int, pictures: int = 24) -> tuple[Objects, Objects, np.ndarray]:
    """Truths, answers and sizes. The last class has no objects; three pictures have none, three no answer."""
    rng, sizes = np.random.default_rng(seed), sizes_of(pictures)
    there, said = [], []
    for item, size in enumerate(sizes):
        count = 0 if item % 8 == 1 else int(rng.integers(1, 7))
        truth = boxes_in(rng, count, size)
        labels = rng.integers(0, CLASSES - 1, count)
        points = points_in(rng, truth, 0.8)
        points[rng.random(count) < 0.2] = 0  # nothing marked: ignored
        masks = Strings.pack(mask_of(box, size) for box in truth)
        areas = np.array(
            [official_masks.area({"size": size.tolist(), "counts": m.encode()}) for m in masks], np.float64
        )
        rows = np.full(count, item)
        there.append(
            Objects(rows, labels, truth, areas=areas, crowd=rng.random(count) < 0.2, keypoints=points, masks=masks)
        )
        said.append(answers(rng, item, size, there[-1], 0 if item % 8 == 2 else 130 if item == 5 else 9))
    return Objects.joined(there), Objects.joined(said), sizes


def answers(rng: np.random.Generator, item: int, size: np.ndarray, truth: Objects, more: int) -> Objects:
    """Near the truth, some with another label, and as many others; scores in tenths, so that many are equal."""
    near = np.flatnonzero(rng.random(len(truth)) < 0.9) if more else np.zeros(0, np.int64)
    moved = truth.boxes[near] + rng.normal(0, 2, (len(near), 4)).astype(np.float32)
    boxes = np.concatenate([moved.clip(0, np.tile(size[::-1], 2)), boxes_in(rng, more, size)])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    labels = np.concatenate([truth.labels[near], rng.integers(0, CLASSES, more)])
    labels = np.where(rng.random(len(labels)) < 0.1, rng.integers(0, CLASSES, len(labels)), labels)
    assert truth.keypoints is not None
    points = np.concatenate([truth.keypoints[near], points_in(rng, boxes[len(near) :], 1)])
    points[..., :2] += rng.normal(0, 1.5, points[..., :2].shape)
    scores = np.round(rng.random(len(boxes)) / 2 + 0.4 * (np.arange(len(boxes)) < len(near)), 1).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    masks = Strings.pack(mask_of(box, size) for box in boxes[order])
    return Objects(
        np.full(len(boxes), item),
        labels[order],
        boxes[order].astype(np.float32),
        scores[order],
        keypoints=points[order].astype(np.float32),
        masks=masks,
    )


def official(truths: Objects, found: Objects, sizes: np.ndarray, kind: str) -> COCOeval:
    """pycocotools' own measure, from files as COCO has them."""
    images = [{"id": 100 + i, "height": int(h), "width": int(w)} for i, (h, w) in enumerate(sizes)]
    dataset = {"images": images, "categories": [{"id": 10 * k + 1, "name": str(k)} for k in range(CLASSES)]}
    gt, dt = COCO(), COCO()
    gt.dataset = json.loads(json.dumps({**dataset, "annotations": entries(truths, sizes, kind)}))
    gt.createIndex()
    results = json.loads(json.dumps(entries(found, sizes, kind)))
    if results:
        dt = gt.loadRes(results)
    else:
        dt.dataset = {**dataset, "annotations": []}
        dt.createIndex()
    run = COCOeval(gt, dt, {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}[kind])
    if kind == "keypoints":
        run.params.kpt_oks_sigmas = SIGMAS
    run.evaluate(), run.accumulate(), run.summarize()
    return run


def entries(objects: Objects, sizes: np.ndarray, kind: str) -> list[dict[str, Any]]:
    """Annotations or results; of results only what their kind has."""
    found = []
    for i in range(len(objects)):
        item, (x1, y1, x2, y2) = int(objects.item[i]), objects.boxes[i].astype(float).tolist()
        entry: dict[str, Any] = {"image_id": 100 + item, "category_id": 10 * int(objects.labels[i]) + 1}
        is_truth = objects.scores is None
        if is_truth or kind == "box":
            entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        if kind == "mask":
            assert objects.masks is not None
            entry["segmentation"] = {"size": sizes[item].tolist(), "counts": objects.masks[i]}
        if kind == "keypoints":
            assert objects.keypoints is not None
            entry["keypoints"] = objects.keypoints[i].astype(float).reshape(-1).tolist()
        if is_truth:
            assert objects.areas is not None
            assert objects.crowd is not None
            assert objects.keypoints is not None
            entry |= {"id": i + 1, "area": float(objects.areas[i]), "iscrowd": int(objects.crowd[i])}
            entry["num_keypoints"] = int((objects.keypoints[i, :, 2] > 0).sum())
        else:
            assert objects.scores is not None
            entry["score"] = float(objects.scores[i])
        found.append(entry)
    return found


# ---- as data sets and answers ----------------------------------------------------------------------------------------

KINDS = ("cat", "dog", "bus", "cup", "kite")


def write_set(root: Path, truths: Objects, sizes: np.ndarray, order: Sequence[int], *, people: bool = False) -> Path:
    """COCO's folders with pictures, annotations and `KINDS` in some order; or people with their key points."""
    folder = root / "val2017"
    folder.mkdir(parents=True)
    for i, (height, width) in enumerate(sizes.tolist()):
        pixels = np.random.default_rng(i).integers(60, 180, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)[:height, :width]).save(folder / f"{100 + i:012}.jpg")
    images = [
        {"id": 100 + i, "file_name": f"{100 + i:012}.jpg", "height": h, "width": w}
        for i, (h, w) in enumerate(sizes.tolist())
    ]
    masks = entries(truths, sizes, "mask")
    annotations = [a | m for a, m in zip(entries(truths, sizes, "keypoints"), masks, strict=True)]
    categories: list[dict[str, Any]] = [{"id": place + 1, "name": KINDS[k]} for place, k in enumerate(order)]
    if people:
        points = {"keypoints": [f"point {k}" for k in range(POINTS)], "skeleton": [[1, 2], [2, 3], [3, 4]]}
        annotations = [{**a, "category_id": 1} for a in annotations]
        categories = [{"id": 1, "name": "person", **points}]
    else:
        ids = {10 * k + 1: place + 1 for place, k in enumerate(order)}
        annotations = [
            {k: v for k, v in a.items() if "keypoints" not in k} | {"category_id": ids[a["category_id"]]}
            for a in annotations
        ]
    table = {"images": images, "annotations": annotations, "categories": categories}
    name = "person_keypoints" if people else "instances"
    (root / "annotations").mkdir()
    (root / f"annotations/{name}_val2017.json").write_text(json.dumps(table))
    return root


def detections_of(found: Objects, sizes: np.ndarray, item: int, names: tuple[str, ...] = KINDS) -> Detections:
    """What a detector would say of a picture."""
    rows = np.flatnonzero(found.item == item)
    assert found.scores is not None
    assert found.masks is not None
    height, width = sizes[item].tolist()
    masks = tuple({"size": [height, width], "counts": found.masks[i]} for i in rows)
    return Detections(
        height=height, width=width, boxes=found.boxes[rows], scores=found.scores[rows], labels=found.labels[rows],
        names=names, masks=masks,
    )  # fmt: skip


def poses_of(found: Objects, sizes: np.ndarray, item: int) -> Poses:
    """What a pose network would say of a picture."""
    rows = np.flatnonzero(found.item == item)
    assert found.scores is not None
    assert found.keypoints is not None
    height, width = sizes[item].tolist()
    points = found.keypoints[rows]
    names = tuple(f"point {k}" for k in range(POINTS))
    return Poses(
        height=height, width=width, keypoints=points, boxes=found.boxes[rows], scores=found.scores[rows], names=names
    )

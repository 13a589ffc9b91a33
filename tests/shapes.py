"""Pictures of coloured shapes on grey noise, annotated for each dense task: plain to see, once a network has learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = {"square": (220, 60, 40), "disc": (40, 90, 220)}  # class -> colour
KEYPOINTS = {"head": (240, 220, 40), "left_hand": (230, 40, 40), "right_hand": (40, 60, 230)}


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.integers(90, 130, (size, size, 3)).astype(np.uint8)


def _shapes(rng: np.random.Generator, size: int) -> list[tuple[int, np.ndarray]]:
    """A class and the pixels (size, size) of a shape in two of the quarters of a picture."""
    half, found = size // 2, []
    y, x = np.mgrid[:size, :size]
    for quarter in rng.permutation(4)[:2].tolist():
        side = int(rng.integers(half // 2, half - 4))
        top, left = (int(rng.integers(0, half - side)) + half * part for part in divmod(quarter, 2))
        label = int(rng.integers(2))
        if label == 0:
            mask = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
        else:
            radius = side / 2
            mask = (y + 0.5 - top - radius) ** 2 + (x + 0.5 - left - radius) ** 2 <= radius**2
        found.append((label, mask))
    return found


def runs_of(mask: np.ndarray) -> list[int]:
    """COCO's plain run lengths of a mask, column by column, zeros first."""
    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()


def detection_set(folder: Path, count: int = 4, size: int = 64, *, masks: bool = True, seed: int = 0) -> Path:
    """A folder with COCO's JSON: two shapes a picture, each with its box and mask."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        pixels = _noise(rng, size)
        for label, mask in _shapes(rng, size):
            pixels[mask] = list(CLASSES.values())[label]
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            x, y, x2, y2 = (int(n) for n in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            entry = {"bbox": [x, y, x2 - x, y2 - y], "area": int(mask.sum()), "iscrowd": 0}
            if masks:
                entry["segmentation"] = {"size": [size, size], "counts": runs_of(mask)}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, **entry})
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": size, "width": size})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


def segmentation_set(folder: Path, count: int = 4, size: int = 64, seed: int = 0) -> Path:
    """`images` beside `annotations`: 0 is the ground, then the classes."""
    rng = np.random.default_rng(seed)
    for part in ("images", "annotations"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        pixels, labels = _noise(rng, size), np.zeros((size, size), np.uint8)
        for label, mask in _shapes(rng, size):
            pixels[mask], labels[mask] = list(CLASSES.values())[label], label + 1
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray(labels).save(folder / "annotations" / f"{number}.png")
    return folder


def pose_set(folder: Path, count: int = 4, size: int = 96, seed: int = 0) -> Path:
    """One figure a picture: a head above two hands, each a disc of its colour."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    y, x = np.mgrid[:size, :size]
    for number in range(count):
        pixels, points = _noise(rng, size), []
        for (low, high), colour in zip(((0.4, 0.6), (0.2, 0.35), (0.65, 0.8)), KEYPOINTS.values(), strict=True):
            across = float(rng.uniform(low, high) * size)
            down = float(rng.uniform(0.2, 0.35) * size if (low, high) == (0.4, 0.6) else rng.uniform(0.5, 0.8) * size)
            pixels[(y + 0.5 - down) ** 2 + (x + 0.5 - across) ** 2 <= 16] = colour
            points += [across, down, 2]
        entry = {"bbox": [8, 8, size - 16, size - 16], "area": (size - 16) ** 2 / 2, "iscrowd": 0, "category_id": 1}
        annotations.append({"id": number + 1, "image_id": number, "keypoints": points, "num_keypoints": 3, **entry})
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": size, "width": size})
    person = {"id": 1, "name": "person", "keypoints": list(KEYPOINTS), "skeleton": [[1, 2], [1, 3]]}
    content = {"images": images, "annotations": annotations, "categories": [person]}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return folder

"""The set "rooms" in memory: pictures in the size that networks are fed, with their truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from uniformer.reading.run_lengths import decode_mask

Bytes = npt.NDArray[np.uint8]


class Batch(NamedTuple):
    """Pictures and what is in them."""

    pictures: Tensor  #: (B, 3, H, W) in 0..1
    boxes: list[Tensor]  #: (M, 4) of each x1, y1, x2, y2 in its pixels
    labels: list[Tensor]  #: (M,) from 0 up
    masks: list[Tensor]  #: (M, H, W) 0 or 1; empty lists where nobody asked for them
    maps: Tensor  #: (B, H, W) classes, 255 for none


@dataclass(frozen=True, eq=False)
class Split:
    """The pictures of a split and their truth, crowd left out."""

    root: Path
    truth: Path  #: the annotation file
    images: list[dict[str, Any]]  #: of it
    pictures: Bytes  #: (N, H, W, 3)
    maps: Bytes  #: (N, H, W)
    instances: list[list[dict[str, Any]]]  #: of each picture, as in the file

    def batch(self, rows: list[int], truths: list[int], flips: list[bool], *, with_masks: bool = False) -> Batch:
        """Pictures `rows` with the truth of `truths`, which are others in the control; those of `flips` mirrored."""
        turn = np.array(flips)[:, None, None]
        pictures = np.where(turn[..., None], self.pictures[rows][:, :, ::-1], self.pictures[rows])
        maps = np.where(turn, self.maps[truths][:, :, ::-1], self.maps[truths])
        height, width = maps.shape[1:]
        boxes, labels, masks = [], [], []
        for row, is_flipped in zip(truths, flips, strict=True):
            found = self.instances[row]
            scale = np.array([width / self.images[row]["width"], height / self.images[row]["height"]] * 2)
            corners = np.array([a["bbox"] for a in found], float).reshape(-1, 4)
            corners[:, 2:] += corners[:, :2]
            corners *= scale
            if is_flipped:
                corners[:, [0, 2]] = width - corners[:, [2, 0]]
            boxes.append(torch.from_numpy(corners).float())
            labels.append(torch.tensor([a["category_id"] - 1 for a in found], dtype=torch.long))
            if with_masks:
                cut = [
                    shrunk(decode_mask(a["segmentation"]), (height, width))[:, :: -1 if is_flipped else 1]
                    for a in found
                ]
                masks.append(torch.from_numpy(np.array(cut, np.float32).reshape(-1, height, width)))
        return Batch(as_floats(pictures), boxes, labels, masks, torch.from_numpy(maps).long())


def as_floats(pictures: Bytes) -> Tensor:
    """(B, H, W, 3) -> (B, 3, H, W) in 0..1, channels last in memory."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def shrunk(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A mask in another size, each pixel as the nearest one was."""
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, mask.shape, strict=True))
    return mask[rows[:, None], columns]


def label_map(root: Path, image: dict[str, Any]) -> Image.Image:
    return Image.open(root / image["file_name"].replace("images/", "labels/").replace(".jpg", ".png"))


def read_split(root: Path, name: str, size: tuple[int, int], count: int | None) -> Split:
    """The first `count` pictures of a split, or all, brought to `size` (H, W)."""
    path = root / "annotations" / f"instances_{name}.json"
    found = json.loads(path.read_text("utf-8"))
    images = found["images"][:count]
    height, width = size
    pictures = np.empty((len(images), height, width, 3), np.uint8)
    maps = np.empty((len(images), height, width), np.uint8)
    instances: list[list[dict[str, Any]]] = [[] for _ in images]
    rows = {image["id"]: row for row, image in enumerate(images)}
    for annotation in found["annotations"]:
        if annotation["image_id"] in rows and not annotation["iscrowd"]:
            instances[rows[annotation["image_id"]]].append(annotation)
    for row, image in enumerate(images):
        with Image.open(root / image["file_name"]) as picture:
            pictures[row] = picture.resize((width, height), Image.Resampling.BILINEAR)
        with label_map(root, image) as labelled:
            maps[row] = labelled.resize((width, height), Image.Resampling.NEAREST)
    return Split(root, path, images, pictures, maps, instances)

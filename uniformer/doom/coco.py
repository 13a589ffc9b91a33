"""What is in a view as COCO annotations, and the file of a split made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from uniformer.doom.views import SURFACES, THINGS, View
from uniformer.reading.run_lengths import encode_mask

SMALL = 64  #: visible pixels below which an instance is marked as crowd: it is there, and nobody need find it
CLASSES = (*SURFACES, *THINGS)  #: of the label maps, by their values
PALETTE = (
    (96, 96, 96), (140, 92, 48), (64, 72, 150),  # walls grey, floors brown, ceilings blue
    (220, 40, 40), (240, 170, 30), (60, 220, 220), (50, 120, 240), (230, 110, 190), (250, 240, 70),
    (150, 60, 220), (255, 220, 160), (40, 160, 60), (120, 200, 80), (190, 190, 200), (120, 20, 60),
)  # fmt: skip


def annotations_of(view: View) -> list[dict[str, Any]]:
    """Of each thing that is to be seen: category, box, area and mask. Ids are those of the file, given later."""
    found = []
    for kind, mask, is_solid in view.things:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        area = int(mask.sum())
        found.append(
            {
                "category_id": THINGS.index(kind) + 1,
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "area": area,
                "iscrowd": int(area < SMALL or not is_solid),
                "segmentation": encode_mask(mask),
            }
        )
    return found


def instances(pictures: Sequence[dict[str, Any]], size: tuple[int, int], about: str) -> dict[str, Any]:
    """The file of a split: `pictures` have a "path" and the "annotations" of their view; `size` is height and width."""
    height, width = size
    images: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, 1):
        images.append({"id": number, "file_name": picture["path"], "height": height, "width": width})
        for annotation in picture["annotations"]:
            found.append({"id": len(found) + 1, "image_id": number, **annotation})
    categories = [{"id": i, "name": name, "supercategory": "thing"} for i, name in enumerate(THINGS, 1)]
    return {"info": {"description": about}, "images": images, "annotations": found, "categories": categories}

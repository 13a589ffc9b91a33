"""Polygons as masks, filled as COCO's own code does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uniformer.datasets.instances import Floats
from uniformer.errors import InputError, MissingExtra
from uniformer.reading.run_lengths import Mask

FARTHEST = 1 << 16  #: a polygon's coordinates in pixels: drawing takes memory for the length of its edges


def polygons_to_mask(polygons: Sequence[Floats], height: int, width: int) -> Mask:
    """(H, W): the union of polygons, each (P, 2) of x and y in pixels; False where there are none.

    Raises `InputError` for fewer than three points or coordinates beyond `FARTHEST`, and `MissingExtra`.
    """
    if not polygons:
        return np.zeros((height, width), bool)
    if not all(len(polygon) >= 3 and (np.abs(polygon) <= FARTHEST).all() for polygon in polygons):
        raise InputError(f"expected polygons of three points and more, within {FARTHEST} pixels, found others")
    try:
        from faster_coco_eval.core import mask as coco
    except ImportError:
        raise MissingExtra("faster-coco-eval", "dense", "drawing polygons as COCO does") from None
    runs = coco.frPyObjects([polygon.reshape(-1).tolist() for polygon in polygons], height, width)
    return np.asarray(coco.decode(coco.merge(runs)), bool)

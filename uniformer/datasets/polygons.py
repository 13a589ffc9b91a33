"""Shapes of instances as masks: polygons are filled as COCO's own code does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uniformer.datasets.instances import Floats
from uniformer.errors import InputError, load_extra
from uniformer.reading.run_lengths import RunLengths, compressed

FARTHEST = 1 << 16  #: a polygon's coordinates in pixels: drawing takes memory for the length of its edges


def mask_of(shape: Sequence[Floats] | Mapping[str, Any], height: int, width: int) -> RunLengths:
    """A shape in a picture as compressed run lengths: the union of polygons, each (P, 2) of x and y in pixels, or run
    lengths in any form. Of no polygons nothing.

    Raises `InputError` for run lengths that are damaged or of another size, for polygons of fewer than three points or
    with coordinates beyond `FARTHEST`, and `MissingExtra` for polygons.
    """
    if not isinstance(shape, Mapping):
        return _filled(shape, height, width)
    runs = compressed(shape)
    if runs["size"] != [height, width]:
        found = "x".join(map(str, reversed(runs["size"])))
        raise InputError(f"expected a mask of {width}x{height}, as its picture, found one of {found}")
    return runs


def _filled(polygons: Sequence[Floats], height: int, width: int) -> RunLengths:
    if not polygons:
        return compressed({"size": [height, width], "counts": [height * width]})
    if not all(len(polygon) >= 3 and (np.abs(polygon) <= FARTHEST).all() for polygon in polygons):
        raise InputError(f"expected polygons of three points and more, within {FARTHEST} pixels, found others")
    coco = load_masks()
    runs = coco.frPyObjects([polygon.reshape(-1).tolist() for polygon in polygons], height, width)
    return compressed(coco.merge(runs))


def load_masks() -> Any:
    """COCO's functions of masks, or `MissingExtra`."""
    return load_extra("faster_coco_eval.core", "faster-coco-eval", "dense", "drawing polygons as COCO does").mask

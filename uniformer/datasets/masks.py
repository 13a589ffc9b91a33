"""Masks as COCO writes them: polygons, and lengths of runs down the columns (RLE), plain or packed into text.

Runs are counted from the top left, column by column, zeros first. Packed, each is the difference from the run two
places before, in digits of five bits, lowest first, as characters from '0' on.
Source: T.-Y. Lin et al., "Microsoft COCO" (ECCV 2014), and the format of its annotation files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from uniformer.errors import InputError, MissingExtra

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

FARTHEST = 1 << 16  #: a polygon's coordinates in pixels: drawing takes memory for the length of its edges
MOST_PIXELS = 1 << 28  #: of a mask


def unpacked(text: str | bytes) -> Ints:
    """The runs (N,) that a packed text says. Raises `InputError` for another text."""
    try:
        digits = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise InputError("expected packed runs, found a text that is not ASCII") from None
    if not len(digits):
        return digits
    if digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise InputError("expected packed runs, found a damaged text")
    is_last = digits & 32 == 0
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    sizes = np.diff(np.append(starts, len(digits)))
    if sizes.max() > 10:  # 50 bits
        raise InputError("expected packed runs, found one of too many digits")
    place = np.arange(len(digits)) - np.repeat(starts, sizes)
    runs = np.add.reduceat((digits & 31) << 5 * place, starts)
    runs -= ((digits[is_last] & 16) << 1) << 5 * (sizes - 1)  # the sign is the highest bit
    for first in (1, 2):  # differences from the run two before, but for the first three
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def packed(runs: Ints) -> str:
    """Runs (N,) as a packed text."""
    differences = runs.copy()
    differences[3:] -= runs[1:-2]
    text = []
    for number in differences.tolist():
        while True:
            digit, number = number & 31, number >> 5
            is_last = number == (-1 if digit & 16 else 0)
            text.append(chr(48 + digit + (0 if is_last else 32)))
            if is_last:
                break
    return "".join(text)


def checked_rle(rle: Any) -> dict[str, Any]:
    """A COCO RLE with its runs packed: {"size": [height, width], "counts": text}.

    Raises `InputError` where the runs do not add up to the size, or it is something else.
    """
    size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise InputError("expected a mask with its size [height, width], found none")
    height, width = size
    if height * width > MOST_PIXELS:
        raise InputError(f"expected a mask of at most {MOST_PIXELS} pixels, found {width}x{height}")
    runs = _runs(counts)
    if (runs < 0).any() or (runs > height * width).any() or int(runs.sum()) != height * width:
        raise InputError(f"expected runs that add up to the {height * width} pixels of {width}x{height}, found others")
    return {"size": [height, width], "counts": counts if isinstance(counts, str) else packed(runs)}


def _runs(counts: Any) -> Ints:
    if isinstance(counts, str | bytes):
        return unpacked(counts)
    if isinstance(counts, list) and all(type(n) is int and 0 <= n <= MOST_PIXELS for n in counts):
        return np.array(counts, np.int64)
    raise InputError("expected the runs of a mask as numbers or a packed text, found something else")


def rle_to_mask(rle: dict[str, Any]) -> Mask:
    """(H, W) of a COCO RLE. Raises `InputError` as `checked_rle` does."""
    rle = checked_rle(rle)
    runs, (height, width) = unpacked(rle["counts"]), rle["size"]
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def mask_to_rle(mask: Mask) -> dict[str, Any]:
    """The COCO RLE of a mask (H, W)."""
    flat = np.asarray(mask, bool).T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return {"size": list(mask.shape), "counts": packed(runs.astype(np.int64))}


def polygons_to_mask(polygons: Sequence[npt.NDArray[np.float64]], height: int, width: int) -> Mask:
    """(H, W): the union of polygons, each (P, 2) of x and y in pixels, filled as COCO's own code does.

    Raises `InputError` for coordinates beyond `FARTHEST`, and `MissingExtra`.
    """
    mask = np.zeros((height, width), bool)
    if not polygons:
        return mask
    if not all(is_drawable(polygon) for polygon in polygons):
        raise InputError(f"expected polygons of points within {FARTHEST} pixels, found others")
    try:
        from faster_coco_eval.core import mask as coco
    except ImportError:
        raise MissingExtra("faster-coco-eval", "dense", "drawing polygons as COCO does") from None
    rles = coco.frPyObjects([polygon.reshape(-1).tolist() for polygon in polygons], height, width)
    return np.asarray(coco.decode(coco.merge(rles)), bool)


def is_drawable(polygon: npt.NDArray[np.float64]) -> bool:
    """At least three points, none of them absurd."""
    return len(polygon) >= 3 and bool((np.abs(polygon) <= FARTHEST).all())

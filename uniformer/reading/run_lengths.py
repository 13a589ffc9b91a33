"""Masks as COCO writes them: the lengths of runs of equal pixels, down the columns, as text. NumPy only.

    {"size": [height, width], "counts": "..."}

Counts alternate, pixels outside first. From the fourth on the text holds the difference from the count two before, five
bits a character, the lowest first; bit 5 says that more follow. That is the compressed form of pycocotools, to the
byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from uniformer.errors import InputError, shown

RunLengths: TypeAlias = dict[str, Any]
Mask: TypeAlias = NDArray[np.bool_]

_CHARACTERS = 7  # that a difference of two counts of up to 2**31 may have
_FIRST = 48  # the character that stands for 0
_MOST = 1 << 31  # pixels of a mask, and more than a side has


def encode_mask(mask: NDArray[Any]) -> RunLengths:
    """A mask (H, W), true or not 0 inside, as its run lengths."""
    height, width = mask.shape
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start = [0] if flat.size and flat[0] else []  # no pixels outside before the first one inside
    ends = np.concatenate([start, [0], changes, [flat.size]]).astype(np.int64)
    return {"size": [height, width], "counts": _text(ends[1:] - ends[:-1])}


def decode_mask(runs: Mapping[str, Any]) -> Mask:
    """Run lengths, compressed or as a list of counts, as a mask: bool (H, W).

    Raises `InputError` where they are damaged or do not fill the size they name.
    """
    height, width = _size(runs)
    counts = counts_of(runs)
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape((height, width), order="F")


def counts_of(runs: Mapping[str, Any]) -> NDArray[np.int64]:
    """The lengths of the runs. Raises `InputError` as `decode_mask`."""
    height, width = _size(runs)
    written = runs["counts"]
    if isinstance(written, str | bytes):
        counts = _read(written.encode("utf-8", "surrogatepass") if isinstance(written, str) else written)
    else:
        counts = _listed(written)
    if (counts < 0).any() or (counts > _MOST).any() or counts.sum() != height * width:
        raise InputError(f"expected runs that fill {height} x {width} pixels, got {shown(counts.tolist())}")
    return counts


def _size(runs: Mapping[str, Any]) -> tuple[int, int]:
    size = runs.get("size") if isinstance(runs, Mapping) else None
    if not isinstance(size, Sequence) or len(size) != 2 or not all(type(n) is int and 0 <= n < _MOST for n in size):
        raise InputError(f"expected a mask with its size [height, width], got {shown(runs)}")
    if size[0] * size[1] > _MOST or "counts" not in runs:
        raise InputError(f"expected a mask of up to {_MOST} pixels with its counts, got {shown(runs)}")
    return size[0], size[1]


def _listed(counts: Any) -> NDArray[np.int64]:
    if not isinstance(counts, Sequence) or not all(type(n) is int and 0 <= n <= _MOST for n in counts):
        raise InputError(f"expected the counts of a mask as text or whole numbers, got {shown(counts)}")
    return np.array(counts, np.int64)


def compressed(runs: Mapping[str, Any]) -> RunLengths:
    """The same with its counts as text, however they were written. Raises `InputError` as `decode_mask`."""
    counts, written = counts_of(runs), runs["counts"]
    if isinstance(written, bytes):
        written = written.decode("ascii")
    return {"size": list(_size(runs)), "counts": written if isinstance(written, str) else _text(counts)}


def _text(counts: NDArray[np.int64]) -> str:
    values = counts.copy()
    values[3:] -= counts[1:-2]
    letters = np.empty((len(values), _CHARACTERS), np.uint8)
    used = np.zeros((len(values), _CHARACTERS), bool)
    goes_on = np.ones(len(values), bool)
    for place in range(_CHARACTERS):
        used[:, place] = goes_on
        bits = values & 31
        values = values >> 5
        goes_on = goes_on & np.where(bits & 16, values != -1, values != 0)
        letters[:, place] = _FIRST + bits + 32 * goes_on
    return letters[used].tobytes().decode("ascii")


def _read(text: bytes) -> NDArray[np.int64]:
    bits = np.frombuffer(text, np.uint8).astype(np.int64) - _FIRST
    ends = np.flatnonzero(bits & 32 == 0)
    if ((bits < 0) | (bits > 63)).any() or (len(bits) and (not len(ends) or ends[-1] != len(bits) - 1)):
        raise InputError(f"expected the counts of a mask, got {shown(text[:60])}")
    firsts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    lengths = ends - firsts + 1 if len(ends) else np.empty(0, np.int64)
    if (lengths > _CHARACTERS).any():
        raise InputError(f"expected counts of up to {_MOST}, got {shown(text[:60])}")
    if not len(ends):
        return np.empty(0, np.int64)
    places = np.arange(len(bits)) - np.repeat(firsts, lengths)
    values = np.add.reduceat((bits & 31) << 5 * places, firsts)
    values -= np.where(bits[ends] & 16, 1 << 5 * lengths, 0)  # a negative difference
    for parity in (1, 2):  # each count but the first three is that two before, and a difference
        values[parity::2] = values[parity::2].cumsum()
    return values

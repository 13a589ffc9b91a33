"""Pictures and clips that are nearly the same: fingerprints that survive re-encoding, and the search for near ones.

A fingerprint has 256 bits: of a picture one difference hash of 16 x 16, of a clip four of 8 x 8 at fixed parts of its
length. A bit says whether a small grey version gets brighter from one pixel to the next.

Source: N. Krawetz, "Kind of like that" (2013).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniformer.errors import InputError

Fingerprints = npt.NDArray[np.uint8]

# Real clips at half the size, saved as JPEG of quality 70, differ from themselves in 0 to 8 bits; different clips, also
# of one scene from two sides, in 93 and more.
NEAR = 15  #: bits of 256 by which copies differ at most
MOMENTS = (1 / 8, 3 / 8, 5 / 8, 7 / 8)  # of a clip's length
_BANDS = 16  # of 16 bits: prints that differ in fewer bits than there are bands agree in a whole band
_FLAT = 4.0  # standard deviation in grey levels below which the bits are noise

_ONES = np.array([bin(value).count("1") for value in range(256)], np.uint8)


def moments(num_frames: int) -> list[int]:
    """The frames that a clip's fingerprint is made of."""
    return [min(int(num_frames * moment), num_frames - 1) for moment in MOMENTS]


def perceptual_hash(pictures: Sequence[npt.NDArray[np.uint8]]) -> bytes | None:
    """Of one picture or of the frames at `moments`, each (H, W, 3). None where they are too flat to tell apart."""
    side = 16 if len(pictures) == 1 else 8
    small = [
        np.asarray(Image.fromarray(picture).convert("L").resize((side + 1, side), Image.Resampling.BOX), np.float32)
        for picture in pictures
    ]
    if np.median([image.std() for image in small]) < _FLAT:
        return None
    return b"".join(np.packbits(image[:, 1:] > image[:, :-1]).tobytes() for image in small)


def near_groups(prints: Fingerprints, near: int = NEAR) -> list[list[int]]:
    """Rows of `prints` (N, 32) that are linked by steps of at most `near` bits, in groups of two and more.

    Rows that close agree in one of sixteen bands, and only such rows are compared. Raises `InputError` for `near` of 16
    and more, where that is not so.
    """
    if not 0 <= near < _BANDS:
        raise InputError(f"expected near in 0 .. {_BANDS - 1} bits, got {near}")
    unique, where = np.unique(prints, axis=0, return_inverse=True)
    where = where.reshape(-1)
    links = []
    for band in range(_BANDS):
        keys = np.ascontiguousarray(unique[:, 2 * band : 2 * band + 2]).view(np.uint16)[:, 0]
        order = np.argsort(keys, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
            for place, row in enumerate(rows[:-1]):
                later = rows[place + 1 :]
                distance = _ONES[unique[later] ^ unique[row]].sum(1, dtype=np.int64)
                links += [(int(row), int(other)) for other in later[distance <= near]]
    parent = _linked(len(unique), links)
    return groups_of(parent[i] for i in where.tolist())


def groups_of(keys: Iterable[object]) -> list[list[int]]:
    """Places with the same key, in groups of two and more; None is no key."""
    places: dict[object, list[int]] = {}
    for place, key in enumerate(keys):
        if key is not None:
            places.setdefault(key, []).append(place)
    return [group for group in places.values() if len(group) > 1]


def _linked(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` things the smallest one that a chain of links leads to."""
    parent = list(range(count))

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in links:
        low, high = sorted((top(a), top(b)))
        parent[high] = low
    return [top(i) for i in range(count)]

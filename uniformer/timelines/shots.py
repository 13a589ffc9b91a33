"""Where a video cuts from one shot to the next, found while it streams by. Hard cuts only.

Two frames are of different shots if they look different however one is shifted against the other (so that a pan is no
cut), far more different than frames around them (so that a shaking camera is none), and in other colours (so that
something that crosses the picture is none), and if the few frames on either side do so too (so that a flash is none).
Fades and dissolves are not found: the motion of the camera goes on through them as if they were one shot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniformer.reading.pictures import Pixels

# Set on made-up films (real clips and moving photographs cut together, with flashes, noise, flicker) and on real ones:
# docs/demo.md says what is found in them.
AROUND = 8  # frames on either side whose change from one to the next is taken for the usual one
FLASH = 3  # frames on either side of a cut that must be unlike each other
CHANGE = 10.0  # levels of 255 that a cut changes the picture by at least
UNLIKE = 0.4  # the least, by `_unlike`, that frames of different shots are
_STILL = 6.0  # levels that even a quiet shot may change by

_WIDTH, _HEIGHT, _SHIFT, _BINS = 16, 12, 2, 8

T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """What is kept of a frame to compare it with others."""

    picture: NDArray[np.float32]  #: (12, 16, 3) less the mean colour, which the exposure changes
    colours: NDArray[np.float64]  #: (512,) share of the pixels in each of 8 x 8 x 8 colours


def look_at(frame: Pixels) -> Look:
    """uint8 RGB (H, W, 3) of any size."""
    step = max(1, min(frame.shape[0] // (8 * _HEIGHT), frame.shape[1] // (8 * _WIDTH)))
    some = np.ascontiguousarray(frame[::step, ::step])
    small = np.asarray(Image.fromarray(some).resize((_WIDTH, _HEIGHT), Image.Resampling.BOX), np.float32)
    bins = (some >> 5).reshape(-1, 3) @ np.array([_BINS**2, _BINS, 1])
    counts = np.bincount(bins, minlength=_BINS**3)
    return Look(small - small.mean((0, 1)), counts / counts.sum())


def change(a: Look, b: Look) -> float:
    """Mean difference of two pictures in levels of 255, where one is shifted so that they fit best."""
    return min(float(np.abs(a.picture[here] - b.picture[there]).mean()) for here, there in _OVERLAPS)


def recoloured(a: Look, b: Look) -> float:
    """Share of the pixels that changed their colour, 0..1."""
    return float(np.abs(a.colours - b.colours).sum() / 2)


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Where two rows of this length meet if one is shifted against the other."""
    return slice(max(shift, 0), size + min(shift, 0)), slice(max(-shift, 0), size + min(-shift, 0))


_SHIFTS = range(-_SHIFT, _SHIFT + 1)
_OVERLAPS = [
    tuple(zip(_overlap(down, _HEIGHT), _overlap(across, _WIDTH), strict=True)) for down in _SHIFTS for across in _SHIFTS
]


@dataclass
class _Seen(Generic[T]):
    item: T
    look: Look
    change: float  #: from the frame before


def with_cuts(frames: Iterable[tuple[T, Look]]) -> Iterator[tuple[T, bool]]:
    """Each item again, in order, with whether it is the first of a shot; `AROUND` frames later than it came.

    The first item of all begins a shot. No more than `2 * AROUND + 1` frames are held.
    """
    held: deque[_Seen[T]] = deque()  # up to AROUND before the one at `place`, then it, then those after it
    place = 0
    for item, look in frames:
        held.append(_Seen(item, look, change(held[-1].look, look) if held else 0.0))
        if len(held) > place + AROUND:
            yield held[place].item, _is_cut(held, place)
            if place == AROUND:
                held.popleft()
            else:
                place += 1
    for rest in range(place, len(held)):
        yield held[rest].item, _is_cut(held, rest)


def _is_cut(held: Sequence[_Seen[T]], place: int) -> bool:
    if place == 0 or held[place].change < CHANGE:
        return place == 0
    seen = list(held)
    sides = seen[max(place - AROUND, 1) : place], seen[place + 1 : place + 1 + AROUND]
    usual = max(median([s.change for s in side] or [0.0]) for side in sides)
    before, after = seen[max(place - FLASH, 0) : place], seen[place : place + FLASH]
    return all(_unlike(a.look, b.look, usual) >= UNLIKE for a in before for b in after)


def _unlike(a: Look, b: Look, usual: float) -> float:
    """How much the picture changes, in terms of what is usual here, times the share of it that changes its colour."""
    return change(a, b) / (usual + _STILL) * recoloured(a, b)

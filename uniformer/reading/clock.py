"""When each frame is shown: the times that a file gives, mended where they cannot be true.

Frames are in the order in which they are shown, whatever their times say. A time that does not lie between those of its
neighbours costs that frame's own; a clock that is set back, or jumps ahead, goes on from the frame before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LONG = 60  # seconds for which a frame may be shown without the file saying so ...
UNUSUAL = 100  # ... or as many times as long as usual, in a film of a frame a minute
DAY = 24 * 3600  # seconds beyond which no file is believed
HELD = 2  # times the mean: a last frame that is shown so long ends the video when it says, others after the mean


class Clock(NamedTuple):
    """Times in ticks of the stream."""

    ticks: npt.NDArray[Any]  #: when each frame is shown, rising, (N,): integers as stored, floats where mended
    hold: int | None  #: how long the last one is, where that is longer than usual
    mended: int  #: frames whose own time was not taken, and jumps


def clock_of(stamps: Sequence[int | None], holds: Sequence[int], second: float, length: int | None) -> Clock | None:
    """The clock of frames in the order shown; None where fewer than half of them have a time to go by.

    Args:
        stamps: their times as stored.
        holds: how long the file says each is shown; 0 where it does not.
        second: ticks of a second.
        length: how long the file says the whole is shown.
    """
    known = np.array([stamp for stamp in stamps if stamp is not None], np.float64)
    steps = np.diff(known)
    if 2 * len(known) < len(stamps) or (len(steps) and not (steps > 0).any()):
        return None
    usual = float(np.sort(steps[steps > 0])[(np.count_nonzero(steps > 0) - 1) // 2]) if len(steps) else 0.0  # a median
    longest = max(LONG * second, UNUSUAL * usual)

    def is_told(place: int, gap: float) -> bool:
        """Whether the frame at `place` is said to be shown for so long, and by the file as a whole too."""
        return gap <= 1.1 * holds[place] and length is not None and gap <= min(length, DAY * second)

    hold = holds[-1] if holds and (holds[-1] <= longest or is_told(-1, holds[-1])) else 0
    if len(known) == len(stamps) and (steps > 0).all():
        jumps = [place for place in np.flatnonzero(steps > longest).tolist() if not is_told(place, steps[place])]
        if not jumps:
            return _clock(np.array(stamps, np.int64), hold, 0)
    ticks, mended = _mended(stamps, usual, lambda place, gap: gap <= longest or is_told(place, gap))
    return None if 2 * mended > len(stamps) else _clock(ticks, hold, mended)


def _clock(ticks: npt.NDArray[Any], hold: int, mended: int) -> Clock:
    mean = float(ticks[-1] - ticks[0]) / max(len(ticks) - 1, 1)
    return Clock(ticks, hold if mean and hold > HELD * mean else None, mended)


def _mended(
    stamps: Sequence[int | None], usual: float, is_gap: Callable[[int, float], bool]
) -> tuple[npt.NDArray[np.float64], int]:
    """Ticks that rise, and how many stamps were not taken or begin anew. `is_gap(place, gap)`: whether the frame at
    `place` can be followed by the next one known after so long."""
    taken: list[tuple[int, float]] = []  # place, tick
    shift = 0.0  # from the stamps to the ticks
    mended = 0
    known = [(place, stamp) for place, stamp in enumerate(stamps) if stamp is not None]
    for (place, stamp), after in zip(known, [*known[1:], None], strict=True):
        if taken:
            last, tick = taken[-1]
            gap = stamp + shift - tick
            fits = gap > 0 and is_gap(place - 1, gap)
            if after is not None:
                then, next_gap = after[0], after[1] + shift - tick
                is_nearer = abs(next_gap - usual * (then - last)) < abs(gap - usual * (place - last))
                if next_gap > 0 and is_gap(then - 1, next_gap) and (not fits or (next_gap <= gap and is_nearer)):
                    mended += 1  # one bad stamp: the next goes on as before
                    continue
            if not fits:
                mended += 1
                if after is None:
                    continue
                # The clock was set: it goes on from here
                shift = tick + usual * (place - last) - stamp
        taken.append((place, stamp + shift))
    places, ticks = (np.array(column, np.float64) for column in zip(*taken, strict=True))
    every = np.arange(len(stamps))
    made = np.interp(every, places, ticks)
    step = (ticks[-1] - ticks[0]) / max(places[-1] - places[0], 1)
    made += np.minimum(every - places[0], 0) * step + np.maximum(every - places[-1], 0) * step  # beyond either end
    return made, mended + len(stamps) - len(known)

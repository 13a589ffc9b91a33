"""What a timeline is made of: windows, and the rows that those of a shot become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uniformer.labels import plain_name
from uniformer.timelines.fit import Amounts, Step, Steps, total
from uniformer.timelines.levels import Levels

STEPS = 4  # windows begin this often within the length of one

TOO_SHORT = "(too short to tell)"
CSV_FIELDS = ("shot", "start", "end", "motion", "confidence")
LEVEL_FIELDS = ("direction", "kind", "unsure", "also")  #: of checkpoints with levels, and where it was asked for
AMOUNT_FIELDS = ("widths", "heights", "doublings", "degrees", "parallax", "shake")  #: where they were measured


@dataclass(frozen=True)
class Segment:
    """A stretch of a shot with one motion."""

    shot: int  #: from 1
    start: float  #: seconds from the first frame of the video
    end: float
    motion: str  #: the class; "" where the shot is too short to tell
    confidence: float | None  #: mean probability of the class over the stretch
    direction: str = ""  #: of the class, as the checkpoint's levels have it
    kind: str = ""  #: of the class; "" where its direction says all
    unsure: str = ""  #: "direction", or else "kind", where it is less probable than was asked for
    also: tuple[str, ...] = ()  #: other directions that it goes in
    amounts: Amounts | None = None  #: how far, where that was measured

    @property
    def said(self) -> str:
        """The row in words, as sure as it is."""
        if not self.motion:
            return TOO_SHORT
        if self.unsure == "direction":
            return f"unsure ({plain_name(self.motion)}?)"
        words = f"{self.direction} ({self.kind}?)" if self.unsure == "kind" else self.motion
        return plain_name(" + ".join([words, *self.also]))

    @property
    def confidence_said(self) -> str:
        """How sure that is, in percent; "" of a shot too short to tell."""
        return "" if self.confidence is None else f"{100 * self.confidence:.0f} %"

    @property
    def amounts_said(self) -> str:
        """How far it goes, in words: what shows of it."""
        if self.amounts is None or not self.motion:
            return ""
        parts = [
            f"{getattr(self.amounts, name):+.2f} {unit}"
            for name, unit, least in _SAID
            if abs(getattr(self.amounts, name)) >= least
        ]
        return ", ".join(parts)

    def values(self, fields: Sequence[str]) -> tuple[Any, ...]:
        """What columns of these names say of it."""
        amounts = self.amounts
        known: dict[str, Any] = {
            "shot": self.shot, "start": round(self.start, 3), "end": round(self.end, 3), "motion": self.motion,
            "confidence": None if self.confidence is None else round(self.confidence, 4), "direction": self.direction,
            "kind": self.kind, "unsure": self.unsure, "also": "+".join(self.also),
        } | {
            field: amounts and round(getattr(amounts, name), 4)
            for field, name in zip(AMOUNT_FIELDS, ("x", "y", "growth", "roll", "parallax", "shake"), strict=True)
        }  # fmt: skip
        return tuple(known[field] for field in fields)


_SAID = (("x", "widths", 0.02), ("y", "heights", 0.02), ("growth", "doublings", 0.03), ("roll", "degrees", 2.0))


@dataclass(frozen=True)
class Window:
    """What the network was fed once, and what it said."""

    shot: int
    start: float  #: seconds
    end: float
    frames: tuple[int, ...]
    probabilities: NDArray[np.float32]  #: (K,), joined with what was measured


class Shot(NamedTuple):
    """A shot that has ended."""

    number: int
    start: float
    end: float
    steps: NDArray[np.float64] = np.zeros((0, len(Step._fields)))  #: (N, 9), of `timelines.fit`


def rows_of(
    shot: Shot, windows: Sequence[Window], names: Sequence[str], step: float, levels: Levels, least: float | None
) -> list[Segment]:
    """What a shot's windows say, each for the time nearest to its middle; neighbours that go the same way merged.

    `least`: the probability below which a row is unsure of its direction or else its kind; none where nobody asked.
    """
    if not windows:
        return [Segment(shot.number, shot.start, shot.end, "", None)]
    middles = _middles(windows)
    near = np.abs(middles[:, None] - middles) < 1.5 * step  # the window and its neighbours
    smooth = near @ np.stack([w.probabilities for w in windows]) / near.sum(1, keepdims=True)  # (N, K)
    bounds = borders(windows, shot.start, shot.end)
    ways = levels.by_direction(smooth)  # (N, D)
    best = ways.argmax(1)
    begins = [i for i in range(len(best)) if i == 0 or best[i] != best[i - 1]]
    rows = []
    for first, last in zip(begins, [*begins[1:], len(best)], strict=True):
        weights, way = np.diff(bounds[first : last + 1]), best[first]
        of_classes = np.average(smooth[first:last], weights=weights, axis=0)
        place = int(np.where(levels.of == way, of_classes, -1).argmax())
        confidence = float(np.average(smooth[first:last, place], weights=weights))
        row = Segment(shot.number, float(bounds[first]), float(bounds[last]), names[place], confidence)
        if least is not None:
            of_way = float(np.average(ways[first:last, way], weights=weights))
            row = _with_levels(row, levels, place, of_way, least)
        rows.append(_with_amounts(row, levels, shot.steps, STEPS * step))
    return rows


def _with_levels(row: Segment, levels: Levels, place: int, of_way: float, least: float) -> Segment:
    unsure = "direction" if of_way < least else "kind" if levels.kinds[place] and (row.confidence or 0) < least else ""
    return replace(row, direction=levels.directions[levels.of[place]], kind=levels.kinds[place], unsure=unsure)


def _with_amounts(row: Segment, levels: Levels, steps: Steps, window: float) -> Segment:
    amounts = total(steps, row.start, row.end)
    also = () if row.unsure == "direction" else levels.also(row.direction, amounts, window)
    return replace(row, amounts=amounts, also=also)


def borders(windows: Sequence[Window], start: float, end: float) -> NDArray[np.float64]:
    """Where in a shot the word passes from one of its N windows to the next, half-way between their middles: (N + 1,)
    seconds, from the shot's start to its end."""
    middles = _middles(windows)
    return np.concatenate([[start], (middles[1:] + middles[:-1]) / 2, [end]])


def _middles(windows: Sequence[Window]) -> NDArray[np.float64]:
    return np.array([(w.start + w.end) / 2 for w in windows])

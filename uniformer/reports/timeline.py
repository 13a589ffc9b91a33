"""A timeline as one HTML page: what the network saw, when, and how sure it was.

Moving pictures are animated WebP inside, which stands still where the reader wants no animation.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from uniformer.labels import plain_name
from uniformer.reading.frames import VideoReader
from uniformer.reading.sources import Media
from uniformer.reading.video import open_video
from uniformer.reports.charts import Wide, line, picture, rect, svg, text
from uniformer.reports.page import write_page
from uniformer.reports.pictures import moving, still
from uniformer.tasks.vocabulary import VOCABULARIES, load_vocabulary
from uniformer.timelines.timeline import Segment, Timeline, Window, borders

CARDS = 48  # rows shown with pictures: each takes some 60 kB and the decoding of a window
_AT_ONCE = 1 << 28  # bytes of frames read together
_WIDE, _STRIP = 240, 480  # pixels of a moving picture, and of the strip of frames below it, which is shown at half size
_COLUMNS = 500  # moments drawn at most: longer videos are drawn in as many parts
_CLASSES, _CUTS = 24, 150  # drawn at most


@dataclass(frozen=True)
class Truth:
    """What is known to have happened, and the row of the timeline that stands for it."""

    motion: str
    start: float  #: seconds
    end: float
    row: Segment

    @property
    def is_found(self) -> bool:
        return self.row.motion == self.motion


class _Card(NamedTuple):
    """A row as it is shown, and what truly happened, where that is known."""

    row: Segment
    truth: Truth | None
    still: str  #: the middle frame of its surest window
    moving: str
    strip: str  #: all frames of that window
    bars: list[tuple[str, float, str]]


def write_timeline_page(path: str | os.PathLike[str], timeline: Timeline, video: Media, *, title: str) -> None:
    """Write the page. `video` is read once more for its pictures. Raises `InputError` where it cannot be written."""
    lines = [f"{'What the camera does' if _names_motion(timeline) else 'What is seen when'}, by {timeline.checkpoint}"]
    write_page(path, "timeline.html", {"title": title, "lines": lines, **content(timeline, video)})


def content(timeline: Timeline, video: Media, truths: Sequence[Truth] = ()) -> dict[str, Any]:
    """What the template shows: all but title and lines."""
    cards, cuts = list(_cards(timeline, video, truths)), _cuts(timeline)
    shots, said = timeline.rows[-1].shot, len({row.motion for row in timeline.rows if row.motion})
    noun = "motion" if _names_motion(timeline) else "label"
    measured = any(row.amounts for row in timeline.rows)
    return {
        "tiles": [
            (shots, "shot found" if shots == 1 else "shots found"),
            (clock(timeline.duration), "length"),
            (said, noun if said == 1 else f"different {noun}s"),
        ],
        "noun": noun,
        "notes": timeline.notes,
        "chart": _chart(timeline, cards, cuts, truths),
        "cuts": cuts,
        "cards": cards,
        "of": len(truths) or sum(bool(row.motion) for row in timeline.rows),
        "rows": [
            (row.shot, clock(row.start), clock(row.end), row.said, row.confidence_said) + (row.amounts_said,) * measured
            for row in timeline.rows
        ],
        "head": ("shot", "start", "end", noun, "confidence") + ("how far",) * measured,
        "clock": clock,
        "plain_name": plain_name,
    }


def _names_motion(timeline: Timeline) -> bool:
    """Whether the classes are motions of the camera, and not actions or whatever else another network knows."""
    said = set(timeline.classes)
    return {"pan_left", "tilt_up", "static"} <= said or any(
        said <= {*words.words.values(), words.other} for words in map(load_vocabulary, VOCABULARIES)
    )


def clock(seconds: float) -> str:
    """'0:04.1': minutes and seconds."""
    minutes, rest = divmod(round(10 * seconds), 600)
    return f"{minutes}:{rest / 10:04.1f}"


# ---- pictures --------------------------------------------------------------------------------------------------------


def _cards(timeline: Timeline, video: Media, truths: Sequence[Truth]) -> Iterator[_Card]:
    """A card per truth, or else per row; where there are too many, some of them, evenly spread."""
    pairs: list[tuple[Segment, Truth | None]] = [(truth.row, truth) for truth in truths]
    pairs = [(row, truth) for row, truth in pairs or [(row, None) for row in timeline.rows] if row.motion]
    shown = np.linspace(0, len(pairs) - 1, min(len(pairs), CARDS)).round().astype(int)
    with warnings.catch_warnings(), open_video(video) as reader:
        warnings.simplefilter("ignore")  # the timeline tells of damage
        for row, truth in (pairs[number] for number in shown):
            window = _surest(timeline, row)
            frames = list(_small_frames(reader, window.frames))
            milliseconds = round(1000 * (window.end - window.start) / len(frames))
            best = np.argsort(-window.probabilities)[:3].tolist()
            shares = [(plain_name(timeline.classes[k]), float(window.probabilities[k])) for k in best]
            bars = [(name, share, f"{100 * share:.0f} %") for name, share in shares]
            middle = still(frames[len(frames) // 2])
            yield _Card(row, truth, middle, moving(frames, milliseconds), still(_strip(frames)), bars)


def _surest(timeline: Timeline, row: Segment) -> Window:
    """The window in a row's stretch that is surest of its motion."""
    place = timeline.classes.index(row.motion)
    own = [window for window in timeline.windows if window.shot == row.shot]
    inside = [window for window in own if row.start <= (window.start + window.end) / 2 <= row.end]
    return max(inside or own, key=lambda window: float(window.probabilities[place]))


def _small_frames(reader: VideoReader, numbers: Sequence[int]) -> Iterator[Image.Image]:
    at_once = max(1, _AT_ONCE // (reader.info.width * reader.info.height * 3))
    for first in range(0, len(numbers), at_once):
        for frame in reader.read(numbers[first : first + at_once]):
            image = Image.fromarray(frame)
            image.thumbnail((_WIDE, _WIDE), Image.Resampling.BOX)
            yield image


def _strip(frames: Sequence[Image.Image]) -> Image.Image:
    """The frames that the network was fed, in two rows, or in more of eight."""
    across = min(max(-(-len(frames) // 2), 4), 8)
    wide = _STRIP // across
    high = round(wide * frames[0].height / frames[0].width)
    sheet = Image.new("RGB", (wide * across, high * -(-len(frames) // across)))
    for number, frame in enumerate(frames):
        row, column = divmod(number, across)
        sheet.paste(frame.resize((wide, high)), (column * wide, row * high))
    return sheet


# ---- the chart -------------------------------------------------------------------------------------------------------

_LEFT, _ACROSS, _FILM, _STEP = 6, 870, 58, 21  # pixels: left of the time, the time, pictures above it, one class


def _cuts(timeline: Timeline) -> list[float]:
    """The times of all cuts, or none where their lines would hide what is between them."""
    cuts = [row.start for before, row in pairwise(timeline.rows) if row.shot != before.shot]
    return cuts if len(cuts) <= _CUTS else []


def _chart(timeline: Timeline, cards: Sequence[_Card], cuts: Sequence[float], truths: Sequence[Truth]) -> Wide:
    """Time from left to right, a line for each class, darker where it is more probable."""
    starts, ends, shares = _columns(timeline)
    scale = _ACROSS / max(timeline.duration, 1e-6)
    drawn = _drawn(timeline, shares, truths)
    names = [plain_name(timeline.classes[place]) for place in drawn]
    parts = list(_film_strip(cards, scale))
    film = _FILM if parts else 0
    bottom = film + _STEP * len(drawn)
    for number, (place, name) in enumerate(zip(drawn, names, strict=True)):
        top = film + _STEP * number
        parts.append(line(_LEFT, top + _STEP, _LEFT + _ACROSS, top + _STEP))
        for start, end, share in zip(starts, ends, shares[:, place], strict=True):
            if share >= 0.04:
                title = f"{name}, {clock(start)} – {clock(end)}: {100 * share:.0f} %"
                parts.append(_box(start, end, top, scale, "bar", title, share))
    parts += [line(_LEFT + cut * scale, 0, _LEFT + cut * scale, bottom, "cut") for cut in cuts]
    for truth in truths:
        top = film + _STEP * drawn.index(timeline.classes.index(truth.motion))
        parts.append(_box(truth.start, truth.end, top, scale, "right" if truth.is_found else "wrong", "filmed"))
    parts += _ticks(timeline.duration, scale, bottom)
    return Wide(names, film, _STEP, svg(_LEFT + _ACROSS + 26, bottom + 22, parts, "probabilities over time"))


def _columns(timeline: Timeline) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What to draw when: starts (N,), ends (N,) and probabilities (N, K); for many windows, means over equal parts."""
    rows = {number: list(own) for number, own in groupby(timeline.rows, key=lambda row: row.shot)}
    starts: list[float] = []
    ends: list[float] = []
    for number, own in groupby(timeline.windows, key=lambda window: window.shot):
        bounds = borders(list(own), rows[number][0].start, rows[number][-1].end).tolist()
        starts += bounds[:-1]
        ends += bounds[1:]
    shares = np.array([w.probabilities for w in timeline.windows], float).reshape(-1, len(timeline.classes))
    if len(starts) <= _COLUMNS:
        return np.array(starts), np.array(ends), shares
    edges = np.linspace(0, timeline.duration, _COLUMNS + 1)
    part = np.clip(np.searchsorted(edges, (np.array(starts) + ends) / 2) - 1, 0, _COLUMNS - 1)
    there = np.unique(part)
    return edges[there], edges[there + 1], np.stack([shares[part == number].mean(0) for number in there])


def _drawn(timeline: Timeline, shares: NDArray[np.float64], truths: Sequence[Truth]) -> list[int]:
    """The classes that get a line, in their order: what was said or is true, and what was at times probable."""
    wanted = {timeline.classes.index(row.motion) for row in timeline.rows if row.motion}
    wanted |= {timeline.classes.index(truth.motion) for truth in truths}
    most = shares.max(0, initial=0)
    by_share = sorted(range(len(timeline.classes)), key=lambda place: (place not in wanted, -most[place]))
    return sorted(place for place in by_share[:_CLASSES] if place in wanted or most[place] >= 0.15)


def _film_strip(cards: Sequence[_Card], scale: float) -> Iterator[Markup]:
    """The middle frame of each card above its time, where there is room."""
    for card in cards:
        place = card.truth or card.row
        width = (place.end - place.start) * scale - 2
        if width >= 30:
            yield picture(_LEFT + place.start * scale + 1, 0, min(width, 110), _FILM - 6, card.still)


def _ticks(duration: float, scale: float, bottom: float) -> Iterator[Markup]:
    steps = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
    step = next((step for step in steps if duration / step <= 12), 14400)
    for number in range(int(duration / step + 1e-6) + 1):
        anchor = "middle" if number else "start"
        yield text(_LEFT + number * step * scale, bottom + 16, clock(number * step), anchor, "faint")


def _box(
    start: float, end: float, top: float, scale: float, kind: str, title: str, opacity: float | None = None
) -> Markup:
    inset = 1 if opacity is None else 0  # half a frame's line
    width = max((end - start) * scale - 2 * inset, 0.5)
    return rect(_LEFT + start * scale + inset, top + 2, width, _STEP - 3, kind, title, opacity)

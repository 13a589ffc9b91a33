"""A timeline as one HTML page that needs nothing else: what the network saw, when, how sure it was, and whether right.

No script, no font and no file from elsewhere; moving pictures are animated WebP inside. It follows the reader's choice
of light or dark, and stands still where the reader wants no animation.
"""

from __future__ import annotations

import base64
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniformer.camera_motion.film import CREDITS, Take, Verdict
from uniformer.reading.frames import VideoReader
from uniformer.reading.video import open_video
from uniformer.reports.html import line, safe, svg, text, tile
from uniformer.support.files import atomic_path
from uniformer.timelines.timeline import Row, Timeline, Window, borders, plain_name

CARDS = 48  # rows shown with pictures: each takes some 60 kB and the decoding of a window
_AT_ONCE = 1 << 28  # bytes of frames read together
_WIDE, _STRIP = 240, 480  # pixels of a moving picture, and of the strip of frames below it, which is shown at half size
_COLUMNS = 500  # moments drawn at most: longer videos are drawn in as many parts
_CLASSES = 24  # drawn at most

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --faint: #5c6b7a; --paper: #fff; --line: #dfe5eb; --soft: #f4f6f9;
  --blue: #2f6db5; --tint: #cfdff2; --good: #1a7f4b; --bad: #c2412d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --faint: #9fb0c0; --paper: #14181d; --line: #303a45;
  --soft: #1d242c; --blue: #6aa5ee; --tint: #27466b; --good: #4cc38a; --bad: #f0836f; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1100px;
  margin: 1.6rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin: 0 0 .1rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 1.8rem 0 .5rem; }
p.sub, p.key, footer { color: var(--faint); margin: .2rem 0; overflow-wrap: anywhere; }
p.key, footer { font-size: .85rem; } footer { margin-top: 2rem; border-top: 1px solid var(--line); padding-top: .6rem; }
p.note { border-left: 4px solid var(--bad); background: var(--soft); padding: .4rem .8rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: .35rem .8rem; min-width: 5rem; }
.tile b { display: block; font-size: 1.25rem; font-weight: 600; } .tile span { color: var(--faint); font-size: .85rem; }
svg { display: block; max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg text.faint { fill: var(--faint); } svg line { stroke: var(--line); } svg line.cut { stroke: var(--faint); }
svg rect.p { fill: var(--blue); } svg rect.right, svg rect.wrong { fill: none; stroke-width: 2; }
svg rect.right { stroke: var(--good); } svg rect.wrong { stroke: var(--bad); stroke-dasharray: 5 3; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(196px, 1fr)); gap: .8rem; }
.card { border: 1px solid var(--line); border-radius: 8px; overflow: hidden; font-size: .85rem; }
.card img { display: block; width: 100%; max-height: 300px; object-fit: contain; background: #000; }
.card .body { padding: .45rem .6rem .55rem; }
.card small { display: block; color: var(--faint); } .card b { font-size: 1rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
.bar { display: flex; justify-content: space-between; margin-top: 2px; padding: 0 .35rem; font-size: .8rem;
  border-radius: 3px; background: linear-gradient(90deg, var(--tint) var(--share), transparent var(--share)); }
.bar span:last-child { font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; border-bottom: 2px solid var(--line); padding: .25rem .5rem; font-weight: 600; }
td { border-bottom: 1px solid var(--line); padding: .22rem .5rem; } .n { text-align: right;
  font-variant-numeric: tabular-nums; }
summary { cursor: pointer; color: var(--blue); }
"""


@dataclass(frozen=True)
class _Card:
    """What is shown of a row: its surest window, and what was filmed, where that is known."""

    row: Row
    window: Window
    take: Take | None
    pictures: tuple[Image.Image, ...] = ()


def write_page(
    path: str | os.PathLike[str], timeline: Timeline, video: Path, verdicts: Sequence[Verdict] = (), *, title: str
) -> None:
    """Write the page. `video` is read once more for its pictures. Raises `InputError` where it cannot be written."""
    cards = list(_with_pictures(video, _cards(timeline, verdicts)))
    parts = [
        f"<h1>{safe(title)}</h1>",
        f'<p class="sub">{safe(_summary(timeline, verdicts))}</p>',
        *(f'<p class="note">{safe(note)}</p>' for note in timeline.notes),
        f'<div class="tiles">{"".join(_tiles(timeline, verdicts))}</div>',
        "<h2>Over time</h2>",
        _chart(timeline, cards, verdicts),
        f'<p class="key">{safe(_key(verdicts))}</p>',
        "<h2>Shot by shot</h2>" if verdicts else "<h2>Motion by motion</h2>",
        f'<div class="cards" id="cards">{"".join(map(_card, cards, [timeline.classes] * len(cards)))}</div>',
        _left_out(timeline, cards, verdicts),
        _table(timeline, is_open=not verdicts and len(timeline.rows) <= 60),
        f"<footer>{safe(_footer(verdicts))}</footer>",
    ]
    with atomic_path(path) as temporary:
        temporary.write_text(_document(title, parts), "utf-8", errors="replace")


def _document(title: str, parts: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{safe(title)}</title><style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


# ---- words -----------------------------------------------------------------------------------------------------------


def _summary(timeline: Timeline, verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return f"What the camera does, by {timeline.checkpoint}"
    return f"{timeline.checkpoint} on a film made on the spot: its shots were cut apart and named without being told"


def _tiles(timeline: Timeline, verdicts: Sequence[Verdict]) -> Iterator[str]:
    if verdicts:
        yield tile(f"{sum(v.is_right for v in verdicts)} of {len(verdicts)}", "right")
    shots, motions = timeline.rows[-1].shot, len({row.motion for row in timeline.rows if row.motion})
    yield tile(str(shots), "shot found" if shots == 1 else "shots found")
    yield tile(_clock(timeline.duration), "length")
    yield tile(str(motions), "motion" if motions == 1 else "different motions")


def _key(verdicts: Sequence[Verdict]) -> str:
    words = "The stronger the colour, the more probable. Upright lines are cuts that were found."
    if verdicts:
        words += " Boxes are what was filmed: green where the network says so, dashed red where it says something else."
    return words


def _left_out(timeline: Timeline, cards: Sequence[_Card], verdicts: Sequence[Verdict]) -> str:
    rows = len(verdicts) or sum(bool(row.motion) for row in timeline.rows)
    if rows <= len(cards):
        return ""
    return f'<p class="key">Pictures of {len(cards)} of {rows}, evenly spread. The table has all.</p>'


def _footer(verdicts: Sequence[Verdict]) -> str:
    words = "The frames shown are those that the network saw. Probabilities are its own word. "
    if not verdicts:
        return words + "Fades and dissolves are not taken for cuts."
    return words + CREDITS


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(10 * seconds), 600)
    return f"{minutes}:{rest / 10:04.1f}"


# ---- pictures --------------------------------------------------------------------------------------------------------


def _cards(timeline: Timeline, verdicts: Sequence[Verdict]) -> Iterator[_Card]:
    """A card per verdict, or else per row; where there are too many, some of them, evenly spread."""
    pairs: list[tuple[Row, Take | None]] = [(v.row, v.take) for v in verdicts]
    pairs = pairs or [(row, None) for row in timeline.rows]
    pairs = [(row, take) for row, take in pairs if row.motion]
    if len(pairs) > CARDS:
        pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, CARDS).round().astype(int)]
    for row, take in pairs:
        yield _Card(row, _surest(timeline, row), take)


def _surest(timeline: Timeline, row: Row) -> Window:
    """The window in a row's stretch that is surest of its motion."""
    place = timeline.classes.index(row.motion)
    own = [window for window in timeline.windows if window.shot == row.shot]
    inside = [window for window in own if row.start <= (window.start + window.end) / 2 <= row.end]
    return max(inside or own, key=lambda window: float(window.probabilities[place]))


def _with_pictures(video: Path, cards: Iterable[_Card]) -> Iterator[_Card]:
    with warnings.catch_warnings(), open_video(video) as reader:
        warnings.simplefilter("ignore")  # the timeline tells of damage
        for card in cards:
            yield _Card(card.row, card.window, card.take, tuple(_small_frames(reader, card.window.frames)))


def _small_frames(reader: VideoReader, numbers: Sequence[int]) -> Iterator[Image.Image]:
    at_once = max(1, _AT_ONCE // (reader.info.width * reader.info.height * 3))
    for first in range(0, len(numbers), at_once):
        for frame in reader.read(numbers[first : first + at_once]):
            image = Image.fromarray(frame)
            image.thumbnail((_WIDE, _WIDE), Image.Resampling.BOX)
            yield image


def _data(image: Image.Image, **options: object) -> str:
    """An image as an address that holds it."""
    data, form = io.BytesIO(), "WEBP" if "save_all" in options else "JPEG"
    image.save(data, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def _moving(card: _Card) -> str:
    first, *rest = card.pictures
    pause = round(1000 * (card.window.end - card.window.start) / len(card.pictures))
    moving = _data(first, save_all=True, append_images=rest, duration=pause, quality=55, method=2)
    still = _data(card.pictures[len(card.pictures) // 2], quality=75)
    return (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{still}">'
        f'<img alt="what the camera saw" src="{moving}"></picture>'
    )


def _strip(pictures: Sequence[Image.Image]) -> str:
    """The frames that the network was fed, in two rows, or in more of eight."""
    across = min(max(-(-len(pictures) // 2), 4), 8)
    wide = _STRIP // across
    high = round(wide * pictures[0].height / pictures[0].width)
    sheet = Image.new("RGB", (wide * across, high * -(-len(pictures) // across)))
    for number, picture in enumerate(pictures):
        row, column = divmod(number, across)
        sheet.paste(picture.resize((wide, high)), (column * wide, row * high))
    return f'<img alt="frames that the network saw" src="{_data(sheet, quality=70)}">'


def _card(card: _Card, classes: Sequence[str]) -> str:
    row, take = card.row, card.take
    if take is None:
        said = f"<b>{safe(plain_name(row.motion))}</b>"
    elif take.motion == row.motion:
        said = f'<b class="good">✓ {safe(plain_name(row.motion))}</b>'
    else:
        said = f'<b class="bad">✗ {safe(plain_name(row.motion))}</b><div>was: {safe(plain_name(take.motion))}</div>'
    best = np.argsort(-card.window.probabilities)[:3]
    bars = "".join(_bar(classes[place], float(card.window.probabilities[place])) for place in best)
    times = f"<small>shot {row.shot}, {_clock(row.start)} – {_clock(row.end)}</small>"
    return f'<div class="card">{_moving(card)}{_strip(card.pictures)}<div class="body">{said}{times}{bars}</div></div>'


def _bar(name: str, share: float) -> str:
    words = f"<span>{safe(plain_name(name))}</span><span>{100 * share:.0f} %</span>"
    return f'<div class="bar" style="--share: {100 * share:.1f}%">{words}</div>'


def _table(timeline: Timeline, *, is_open: bool) -> str:
    rows = "".join(
        f'<tr><td class="n">{row.shot}</td><td class="n">{_clock(row.start)}</td><td class="n">{_clock(row.end)}</td>'
        f"<td>{safe(plain_name(row.motion) or '(too short to tell)')}</td>"
        f'<td class="n">{"" if row.confidence is None else f"{100 * row.confidence:.0f} %"}</td></tr>'
        for row in timeline.rows
    )
    head = '<tr><th class="n">shot</th><th class="n">start</th><th class="n">end</th><th>motion</th>'
    return (
        f"<h2>Table</h2><details{' open' * is_open}><summary>{len(timeline.rows)} rows"
        f'</summary><table id="rows"><thead>{head}<th class="n">confidence</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></details>"
    )


# ---- the chart -------------------------------------------------------------------------------------------------------

_LEFT, _ACROSS, _FILM, _STEP = 158, 900, 58, 21  # pixels: names of classes, the time, pictures, one class


def _chart(timeline: Timeline, cards: Sequence[_Card], verdicts: Sequence[Verdict]) -> str:
    """Time from left to right, a line for each class, darker where it is more probable."""
    starts, ends, shares = _columns(timeline)
    scale = _ACROSS / max(timeline.duration, 1e-6)
    drawn = _drawn(timeline, shares, verdicts)
    parts = list(_film_strip(cards, scale))
    bottom = _FILM + _STEP * len(drawn)
    for number, place in enumerate(drawn):
        top = _FILM + _STEP * number
        parts.append(line(_LEFT, top + _STEP, _LEFT + _ACROSS, top + _STEP))
        parts.append(text(_LEFT - 8, top + 15, plain_name(timeline.classes[place])[:26], "end"))
        for start, end, share in zip(starts, ends, shares[:, place], strict=True):
            if share >= 0.04:
                title = f"{plain_name(timeline.classes[place])}, {_clock(start)} – {_clock(end)}: {100 * share:.0f} %"
                parts.append(_box(start, end, top, scale, "p", f' fill-opacity="{share:.2f}"', title))
    parts += _cut_lines(timeline, scale, bottom)
    for verdict in verdicts:
        top = _FILM + _STEP * drawn.index(timeline.classes.index(verdict.take.motion))
        kind = "right" if verdict.is_right else "wrong"
        parts.append(_box(verdict.take.start, verdict.take.end, top, scale, kind, "", "filmed"))
    parts += _ticks(timeline.duration, scale, bottom)
    return svg(_LEFT + _ACROSS + 26, bottom + 22, parts, "probabilities-over-time")


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


def _drawn(timeline: Timeline, shares: NDArray[np.float64], verdicts: Sequence[Verdict]) -> list[int]:
    """The classes that get a line, in their order: what was said or filmed, and what was at times probable."""
    wanted = {timeline.classes.index(row.motion) for row in timeline.rows if row.motion}
    wanted |= {timeline.classes.index(verdict.take.motion) for verdict in verdicts}
    most = shares.max(0, initial=0)
    by_share = sorted(range(len(timeline.classes)), key=lambda place: (place not in wanted, -most[place]))
    return sorted(place for place in by_share[:_CLASSES] if place in wanted or most[place] >= 0.15)


def _film_strip(cards: Sequence[_Card], scale: float) -> Iterator[str]:
    """The middle frame of each card above its time, where there is room."""
    for card in cards:
        start, end = (card.take.start, card.take.end) if card.take else (card.row.start, card.row.end)
        width = (end - start) * scale - 2
        if width >= 30:
            address = _data(card.pictures[len(card.pictures) // 2], quality=70)
            place = f'x="{_LEFT + start * scale + 1:.1f}" y="0" width="{min(width, 110):.1f}" height="{_FILM - 6}"'
            yield f'<image {place} preserveAspectRatio="xMidYMid slice" href="{address}"/>'


def _cut_lines(timeline: Timeline, scale: float, bottom: float) -> Iterator[str]:
    for before, row in zip(timeline.rows, timeline.rows[1:], strict=False):
        if row.shot != before.shot:
            x = _LEFT + row.start * scale
            yield f'<line class="cut" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{bottom}"/>'


def _ticks(duration: float, scale: float, bottom: float) -> Iterator[str]:
    steps = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
    step = next((step for step in steps if duration / step <= 12), 14400)
    for number in range(int(duration / step + 1e-6) + 1):
        yield text(_LEFT + number * step * scale, bottom + 16, _clock(number * step), "middle", "faint")


def _box(start: float, end: float, top: float, scale: float, kind: str, more: str, title: str) -> str:
    inset = 0 if kind == "p" else 1  # half a frame's line
    x, width = _LEFT + start * scale + inset, max((end - start) * scale - 2 * inset, 0.5)
    place = f'x="{x:.2f}" y="{top + 2}" width="{width:.2f}" height="{_STEP - 3}"'
    return f'<rect class="{kind}" {place}{more}><title>{safe(title)}</title></rect>'

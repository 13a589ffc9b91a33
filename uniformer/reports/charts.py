"""Drawings as inline SVG. They are coloured by classes of style.css, so that they can be read in light and in dark."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

SIDE = 250  # pixels of a square chart: with its words it fits a phone
LEFT, TOP = 50, 8  # pixels beside it
SHARES = (0, 0.2, 0.4, 0.6, 0.8, 1.0)  # that are named along it


class Wide(NamedTuple):
    """A drawing that scrolls beside the names of its rows."""

    names: list[str]
    top: int  #: pixels above the first row
    step: int  #: pixels of a row
    drawing: Markup


def svg(width: float, height: float, parts: Iterable[Markup], name: str) -> Markup:
    """A drawing of this size in pixels; `name` is what a screen reader says."""
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return _element("svg", f'role="img" aria-label="{name}" {size}', Markup("").join(parts))


def rect(
    x: float, y: float, width: float, height: float, kind: str, title: str = "", opacity: float | None = None
) -> Markup:
    """A box; `title` shows under the mouse."""
    place = f'class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    strength = "" if opacity is None else f' fill-opacity="{opacity:.2f}"'
    return _element("rect", place + strength, _element("title", "", title) if title else "")


def picture(x: float, y: float, width: float, height: float, address: str) -> Markup:
    """An image that fills its place."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return _element("image", f'{place} preserveAspectRatio="xMidYMid slice" href="{address}"')


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "") -> Markup:
    return _element("line", f'class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"')


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "", turn: float = 0) -> Markup:
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    return _element("text", f'class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}', words)


def _element(tag: str, attributes: str, inside: str = "") -> Markup:
    """All text that goes into a drawing is escaped here; `Markup` is let through."""
    return Markup(f"<{tag} {attributes}>{escape(inside)}</{tag}>")


def heat_map(counts: npt.NDArray[np.integer], names: Sequence[str], name: str) -> Wide:
    """(K, K) counts, each row coloured by its shares; the numbers are written where they fit."""
    size, top = len(names), 130
    cell = max(18, min(34, 640 // size))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = []
    for i in range(size):
        parts.append(text(cell * (i + 0.5) + 4, top - 6, _short(names[i], 20), turn=-50))
        for j in range(size):
            x, y, count = cell * j, top + cell * i, int(counts[i, j])
            opacity = 0.05 + 0.95 * float(shares[i, j]) ** 0.7
            title = f"{names[i]} taken for {names[j]}: {count}"
            parts.append(rect(x, y, cell - 1, cell - 1, "heat", title, opacity))
            if count:
                kind = "on strong" if opacity > 0.745 else "on"  # from there on the other ink can be read better
                parts.append(text(x + cell / 2, y + cell / 2 + 4, str(count), "middle", kind))
    return Wide(list(names), top, cell, svg(cell * size + 100, top + cell * size + 4, parts, name))


def _short(words: str, most: int) -> str:
    """Cut in the middle: names often differ at the end."""
    tail = most // 2 - 1
    return words if len(words) <= most else f"{words[: most - 1 - tail].rstrip()}…{words[-tail:].lstrip()}"


def columns(
    layers: Sequence[tuple[str, Sequence[float], Sequence[str]]],
    ticks: Sequence[str],
    x_name: str,
    y_name: str,
    name: str,
    *,
    diagonal: bool = False,
) -> Markup:
    """Upright bars over equal parts of 0 to 1, with layers of (kind, heights in 0 to 1, titles) one upon the other.

    `ticks` are the words along the upright axis, from 0 to 1; `diagonal` draws where height and place are the same.
    """
    parts = _axes(ticks, x_name, y_name)
    left, top, bottom = LEFT, TOP, TOP + SIDE
    width = SIDE / len(layers[0][1])
    base = np.full(len(layers[0][1]), float(bottom))
    for kind, heights, titles in layers:
        for number, (height, title) in enumerate(zip(heights, titles, strict=True)):
            if title:
                high = max(SIDE * height, 1.5)
                base[number] -= high
                parts.append(rect(left + number * width + 1, base[number], width - 2, high, kind, title))
    if diagonal:
        parts.append(line(left, bottom, left + SIDE, top, "dashed"))
    return svg(left + SIDE + 12, bottom + 40, parts, name)


def curves(lines: Sequence[tuple[str, Sequence[float], str]], x_name: str, y_name: str, name: str) -> Markup:
    """Lines over 0 to 1, of (kind, heights in 0 to 1 at equal steps, title)."""
    parts = _axes([f"{share:g}" for share in SHARES], x_name, y_name)
    for kind, heights, title in lines:
        parts.append(_polyline(kind, np.linspace(0, SIDE, len(heights)).tolist(), heights, title))
    return svg(LEFT + SIDE + 12, TOP + SIDE + 40, parts, name)


def trace(
    lines: Sequence[tuple[str, Sequence[float], Sequence[float], str]],
    x_ticks: Sequence[str],
    y_ticks: Sequence[str],
    x_name: str,
    y_name: str,
    name: str,
) -> Markup:
    """Lines of ("bar" or "other", places in 0 to `SIDE`, heights in 0 to 1, words), with a key to their colours on the
    right, where they do not end."""
    parts = _axes(y_ticks, x_name, y_name, x_ticks)
    key = TOP + 6 if all(heights[-1] < 0.7 for _, _, heights, _ in lines) else TOP + SIDE - 18 * len(lines)
    for number, (kind, places, heights, words) in enumerate(lines):
        parts.append(_polyline("second" if kind == "other" else "", places, heights, words))
        parts += [circle(LEFT + x, TOP + SIDE * (1 - y), kind) for x, y in list(zip(places, heights, strict=True))[-1:]]
        top = key + 18 * number
        parts += [rect(LEFT + SIDE - 12, top, 10, 10, kind), text(LEFT + SIDE - 18, top + 9, words, "end")]
    return svg(LEFT + SIDE + 12, TOP + SIDE + 40, parts, name)


def apart(drawings: Sequence[Markup], title: str) -> str:
    """Drawings side by side as a file of their own, on white; its colours are those of style.css in the light."""
    style = files("uniformer.reports").joinpath("templates", "style.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", style.partition("@media")[0]))
    rules = "\n".join(rule for rule in style.splitlines() if rule.startswith("svg "))
    rules = re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], rules)
    wide, high = LEFT + SIDE + 12, TOP + SIDE + 40
    parts = [_element("g", f'transform="translate({wide * place} 0)"', one) for place, one in enumerate(drawings)]
    ground = f'<rect width="100%" height="100%" fill="{colours["paper"]}"/>'
    drawing = svg(wide * len(drawings), high, [Markup(f"<style>{rules}</style>{ground}"), *parts], str(escape(title)))
    return str(drawing).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def circle(x: float, y: float, kind: str) -> Markup:
    return _element("circle", f'class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"')


def _polyline(kind: str, places: Sequence[float], heights: Sequence[float], title: str) -> Markup:
    """Heights of 0 to 1 in a square chart, at `places` in pixels from its left."""
    points = " ".join(f"{LEFT + x:.1f},{TOP + SIDE * (1 - y):.1f}" for x, y in zip(places, heights, strict=True))
    return _element("polyline", f'class="{kind}" points="{points}"', _element("title", "", title))


def _axes(ticks: Sequence[str], x_name: str, y_name: str, x_ticks: Sequence[str] | None = None) -> list[Markup]:
    """The grid of a square chart over 0 to 1, with words: `ticks` along the upright axis, from 0 to 1, and `x_ticks`
    along the other, by default the shares themselves."""
    bottom = TOP + SIDE
    parts = []
    for share, word in zip(SHARES, x_ticks or [f"{share:g}" for share in SHARES], strict=True):
        parts.append(line(LEFT + SIDE * share, TOP, LEFT + SIDE * share, bottom))
        parts.append(text(LEFT + SIDE * share, bottom + 16, word, "middle", "faint"))
    for y, word in zip(np.linspace(bottom, TOP, len(ticks)).tolist(), ticks, strict=True):
        parts += [line(LEFT, y, LEFT + SIDE, y), text(LEFT - 6, y + 4, word, "end", "faint")]
    parts.append(text(LEFT + SIDE / 2, bottom + 34, x_name, "middle"))
    return [*parts, text(14, TOP + SIDE / 2, y_name, "middle", turn=-90)]

"""Parts of self-contained HTML pages: no script, no font, no file from elsewhere. Drawings are inline SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

BLUE, ORANGE, GREY, INK = "#2f6db5", "#e07b39", "#d9dee5", "#1f2933"  # blue and orange part for colour-blind eyes too

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2933; background: #fff; max-width: 1080px; margin: 2rem auto;
  padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p.sub { color: #52606d; margin: .1rem 0; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1.2rem 0; }
.tile { border: 1px solid #d9dee5; border-radius: 8px; padding: .5rem .8rem; min-width: 5.2rem; }
.tile b { display: block; font-size: 1.25rem; font-weight: 600; } .tile span { color: #52606d; font-size: .85rem; }
p.note { border-left: 4px solid #e07b39; background: #fdf3ec; padding: .5rem .9rem; margin: .5rem 0; }
.row { display: flex; flex-wrap: wrap; gap: 1.6rem; align-items: flex-start; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; border-bottom: 2px solid #d9dee5; padding: .3rem .5rem; font-weight: 600; }
td { border-bottom: 1px solid #edf0f3; padding: .28rem .5rem; vertical-align: top; overflow-wrap: anywhere; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: .9rem; }
.card { border: 1px solid #d9dee5; border-radius: 8px; overflow: hidden; font-size: .85rem; }
.card .pic { display: block; width: 100%; height: 130px; object-fit: contain; background: #1f2933; color: #9aa5b1;
  text-align: center; line-height: 130px; }
.card div { padding: .45rem .6rem; overflow-wrap: anywhere; } .card small { color: #52606d; }
details { margin: .6rem 0; } summary { cursor: pointer; color: #2f6db5; }
b.error { color: #c22; } b.warning { color: #a65300; } b.note { color: #52606d; }
svg { max-width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: #1f2933; }
svg text.faint { fill: #52606d; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document. An empty icon is named so that a browser asks nobody for one."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def safe(text: str) -> str:
    """Text for a page: escaped, and without the lone surrogates of file names that are no UTF-8."""
    return escape(text.encode("utf-8", "replace").decode())


def tile(value: str, name: str) -> str:
    return f'<div class="tile"><b>{safe(value)}</b><span>{safe(name)}</span></div>'


def note(text: str) -> str:
    return f'<p class="note">{safe(text)}</p>'


def table(header: Sequence[str], rows: Iterable[Sequence[str | int | float]], name: str = "") -> str:
    """Numbers stand right, with one decimal if any; texts left. `name` is its id. No header where that is empty."""
    rows = [list(row) for row in rows]
    width = len(header) or max(map(len, rows), default=0)
    numeric = [bool(rows) and all(not isinstance(row[i], str) for row in rows if i < len(row)) for i in range(width)]

    def cells(tag: str, values: Sequence[str | int | float]) -> str:
        return "".join(
            f"<{tag}{' class=' + chr(34) + 'n' + chr(34) if n else ''}>{_cell(v)}</{tag}>"
            for v, n in zip(values, numeric, strict=bool(header))
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    id_ = f' id="{name}"' if name else ""
    head = f"<thead><tr>{cells('th', header)}</tr></thead>" if header else ""
    return f"<table{id_}>{head}<tbody>\n{body}\n</tbody></table>"


def _cell(value: str | int | float) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.1f}"
    return safe(str(value))


def folded(summary: str, content: str, *, badge: str = "", is_open: bool = False) -> str:
    """Content that opens at a click; a `badge` ("error", "warning", "note") stands before the summary."""
    mark = f'<b class="{badge}">{badge}</b> ' if badge else ""
    return f"<details{' open' * is_open}><summary>{mark}{safe(summary)}</summary>{content}</details>"


def card(pixels: npt.NDArray[np.uint8] | None, content: str) -> str:
    """A picture with something below it, for a `<div class="cards">`."""
    return f'<div class="card">{picture(pixels)}<div>{content}</div></div>'


def picture(pixels: npt.NDArray[np.uint8] | None, height: int = 160) -> str:
    """uint8 RGB (H, W, 3) as a small inlined JPEG; a placeholder for None."""
    if pixels is None:
        return '<span class="pic">no picture</span>'
    image = Image.fromarray(pixels)
    image.thumbnail((height * 2, height))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return f'<img class="pic" alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'


# ---- drawings --------------------------------------------------------------------------------------------------------


def svg(width: float, height: float, parts: Iterable[str], name: str) -> str:
    """A drawing of this size; `name` is its id and what a screen reader says."""
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg id="{name}" role="img" aria-label="{name}" {size}>{"".join(parts)}</svg>'


def rect(x: float, y: float, width: float, height: float, fill: str, title: str = "") -> str:
    """A box; `title` shows under the mouse."""
    inside = f"<title>{safe(title)}</title>" if title else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}">{inside}</rect>'


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = GREY, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{dashed}/>'


def text(x: float, y: float, words: str, anchor: str = "start", style: str = "", turn: float = 0) -> str:
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}{turned}>{safe(words)}</text>'


def short(words: str, most: int = 28) -> str:
    """Cut in the middle: names often differ at the end."""
    tail = most // 2 - 1
    return words if len(words) <= most else f"{words[: most - 1 - tail].rstrip()}…{words[-tail:].lstrip()}"


def bars(rows: Sequence[tuple[str, float, str]], name: str, fill: str = BLUE, *, ticks: bool = True) -> str:
    """Horizontal bars: (what, share in 0..1, words behind the bar). NaN draws no bar. `ticks` are of percents."""
    step, left, width = 18, 210, 420
    parts = [
        line(left + width * tick, 2, left + width * tick, step * len(rows) + 2)
        for tick in (0, 0.25, 0.5, 0.75, 1)
        if ticks or not tick
    ]
    for number, (what, share, words) in enumerate(rows):
        y = number * step + 3
        parts.append(text(left - 8, y + 11, short(what, 32), "end"))
        if share == share:
            parts.append(rect(left, y, max(width * share, 1), step - 5, fill, f"{what}: {words}"))
        parts.append(text(left + width + 8, y + 11, words, "start", "faint"))
    bottom = step * len(rows) + 15 * ticks
    if ticks:
        parts += [text(left + width * t, bottom, f"{100 * t:g} %", "middle", "faint") for t in (0, 0.5, 1)]
    return svg(left + width + 110, bottom + 6, parts, name)


def heat_map(counts: npt.NDArray[np.integer], names: Sequence[str], name: str) -> str:
    """(K, K) counts, each row coloured by its shares; the numbers are written where they fit."""
    size = len(names)
    cell, left, top = max(14.0, min(34.0, 640 / size)), 190, 130
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = []
    for i in range(size):
        middle = top + cell * (i + 0.5) + 4
        parts.append(text(left - 6, middle, short(names[i]), "end"))
        parts.append(text(left + cell * (i + 0.5) + 4, top - 6, short(names[i], 20), "start", "", -50))
        for j in range(size):
            x, y, count = left + cell * j, top + cell * i, int(counts[i, j])
            title = f"{names[i]} taken for {names[j]}: {count}"
            parts.append(rect(x, y, cell - 1, cell - 1, _shade(float(shares[i, j])), title))
            if count and cell >= 20:
                ink = "#fff" if shares[i, j] > 0.55 else INK
                parts.append(f'<text x="{x + cell / 2:.1f}" y="{middle:.1f}" text-anchor="middle" style="fill:{ink}">')
                parts.append(f"{count}</text>")
    return svg(left + cell * size + 100, top + cell * size + 4, parts, name)


def _shade(share: float) -> str:
    """From nearly white to dark blue."""
    low, high = np.array([243, 246, 250]), np.array([20, 72, 138])
    r, g, b = (low + (high - low) * share**0.7).round().astype(int)
    return f"#{r:02x}{g:02x}{b:02x}"


def axes(left: float, top: float, side: float, x_name: str, y_name: str) -> list[str]:
    """A square frame of two shares, with ticks and names."""
    parts = []
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = left + side * tick, top + side * (1 - tick)
        parts += [line(x, top, x, top + side), line(left, y, left + side, y)]
        parts.append(text(x, top + side + 14, f"{tick:g}", "middle", "faint"))
        parts.append(text(left - 6, y + 4, f"{tick:g}", "end", "faint"))
    parts.append(text(left + side / 2, top + side + 31, x_name, "middle"))
    parts.append(text(14, top + side / 2, y_name, "middle", "", -90))
    return parts

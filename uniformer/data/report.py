"""What a scan found, as one HTML page that needs nothing else: tables, bars drawn in SVG, small pictures inside."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from uniformer.data.findings import FileRecord, Finding
from uniformer.data.frames import Pixels, load_image
from uniformer.data.manifest import Kind, Manifest
from uniformer.data.video import open_video
from uniformer.errors import InputError
from uniformer.files import atomic_path

PICTURES = 48  #: in one report at most: each takes some 5 kB and the decoding of a frame
_WIDE = 160  # pixels of a picture
_BARS = 400  # classes drawn in one chart; more are cut into as many parts

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1rem } td, th { padding: .15rem .8rem .15rem 0; text-align: left;
vertical-align: top; overflow-wrap: break-word } th { font-weight: 600 }
.error { color: #c22 } .warning { color: #b60 } .note { color: #777 }
details { margin: .4rem 0 } summary { cursor: pointer }
figure { display: inline-block; margin: .2rem; width: 160px; vertical-align: top }
figcaption { font-size: 11px; line-height: 1.2; overflow-wrap: anywhere } svg { display: block; max-width: 100% }
svg rect { fill: #47a } svg text { font: 11px system-ui, sans-serif; fill: currentColor }
"""


def write_report(
    path: Path, sets: Mapping[str, Manifest], records: Mapping[str, FileRecord], findings: Sequence[Finding]
) -> None:
    """Write the page. Raises `InputError` where it cannot be written."""
    kinds = {manifest.path(i): manifest.kind for manifest in sets.values() for i in range(len(manifest))}
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        "<title>Data set report</title><style>",
        _STYLE,
        "</style><h1>Data set report</h1>",
        _summary(sets, records),
        "<h2>Findings</h2>",
        *(_details(finding, kinds, left) for finding, left in _with_pictures_left(findings)),
        "" if findings else "<p>Nothing to report.</p>",
        *(_charts(split, manifest, records) for split, manifest in sets.items()),
    ]
    with atomic_path(path) as temporary:
        # A name that is no valid text is shown with question marks.
        temporary.write_text("\n".join(parts), "utf-8", errors="replace")


def _summary(sets: Mapping[str, Manifest], records: Mapping[str, FileRecord]) -> str:
    rows = []
    for split, manifest in sets.items():
        found = [records[path] for path in dict.fromkeys(manifest.path(i) for i in range(len(manifest)))]
        seconds = sum(record.duration or 0 for record in found)
        codecs = sorted({record.codec for record in found if record.codec})
        rows.append(
            (
                split,
                manifest.kind,
                f"{len(manifest):,}",
                f"{len(manifest.classes):,}",
                f"{sum(record.error is not None for record in found):,}",
                f"{sum(record.size for record in found) / 1e6:,.1f} MB",
                f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s" if seconds else "",
                " ".join(codecs),
                manifest.origin,
            )
        )
    names = ("split", "kind", "rows", "classes", "unreadable", "size", "length", "codecs", "read as")
    return _table(rows, names)


def _with_pictures_left(findings: Iterable[Finding]) -> Iterable[tuple[Finding, int]]:
    left = PICTURES
    for finding in findings:
        yield finding, left
        left -= min(left, len(finding.paths))


def _details(finding: Finding, kinds: Mapping[str, Kind], pictures: int) -> str:
    more = finding.count - len(finding.examples)
    figures = "".join(_figure(path, kinds[path]) for path in finding.paths[:pictures] if path in kinds)
    return (
        f"<details{' open' if finding.level == 'error' else ''}><summary><b class={finding.level}>{finding.level}</b> "
        f"<b>{escape(finding.title)}</b>: {escape(finding.text)}</summary>{figures}{_table(finding.examples)}"
        f"{f'<p>and {more:,} more</p>' if more > 0 and finding.examples else ''}</details>"
    )


def _table(rows: Iterable[Sequence[str]], names: Sequence[str] = ()) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _figure(path: str, kind: Kind) -> str:
    picture = _first_picture(path, kind)
    if picture is None:
        return ""
    image = Image.fromarray(picture)
    image.thumbnail((_WIDE, _WIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=70)
    text = base64.b64encode(data.getvalue()).decode()
    name = escape("/".join(Path(path).parts[-2:]))
    return f"<figure><img alt='' src='data:image/jpeg;base64,{text}'><figcaption>{name}</figcaption></figure>"


def _first_picture(path: str, kind: Kind) -> Pixels | None:
    """The middle frame. None where the file cannot be read any more: the report is written all the same."""
    try:
        if kind == "image":
            return load_image(Path(path))
        with warnings.catch_warnings(), open_video(path) as reader:
            warnings.simplefilter("ignore")
            return reader.read([reader.info.num_frames // 2])[0]
    except InputError:
        return None


def _charts(split: str, manifest: Manifest, records: Mapping[str, FileRecord]) -> str:
    counts = manifest.class_counts()
    order = np.argsort(-counts, kind="stable")
    bars = "".join(
        _bars([(manifest.classes[i], int(counts[i])) for i in order[low : low + _BARS]], int(counts.max(initial=1)))
        for low in range(0, len(order), _BARS)
    )
    lengths = np.array([r.frames for i in range(len(manifest)) if (r := records[manifest.path(i)]).frames], np.float64)
    histogram = ""
    if manifest.kind != "image" and len(lengths):
        heights, edges = np.histogram(lengths, bins=min(24, max(int(np.ptp(lengths)), 1)))
        named = [(f"{a:.0f} to {b:.0f} frames", int(n)) for a, b, n in zip(edges, edges[1:], heights, strict=False)]
        histogram = f"<h2>{escape(split)}: length</h2>{_bars(named, int(heights.max()))}"
    return f"<h2>{escape(split)}: rows of each class</h2>{bars}{histogram}"


def _bars(named: Sequence[tuple[str, int]], highest: int) -> str:
    """Horizontal bars, a name before and the number behind each."""
    step, before, wide = 16, 260, 420  # pixels
    lines = []
    for place, (name, count) in enumerate(named):
        length, y = wide * count / max(highest, 1), place * step
        text = name if len(name) < 42 else name[:40] + "…"
        lines.append(
            f"<text x='{before - 6}' y='{y + 12}' text-anchor='end'>{escape(text)}<title>{escape(name)}</title></text>"
            f"<rect x='{before}' y='{y + 2}' width='{length:.1f}' height='{step - 4}'/>"
            f"<text x='{before + length + 6:.1f}' y='{y + 12}'>{count:,}</text>"
        )
    return f"<svg width='{before + wide + 80}' height='{step * len(named)}' role='img'>{''.join(lines)}</svg>"

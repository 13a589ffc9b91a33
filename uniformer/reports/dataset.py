"""What a scan found, as one HTML page that needs nothing else: tables, bars drawn in SVG, small pictures inside."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from uniformer.datasets.findings import FileRecord, Finding
from uniformer.datasets.manifest import Kind, Manifest
from uniformer.errors import InputError
from uniformer.reading.frames import Pixels, load_image
from uniformer.reading.video import open_video
from uniformer.reports import html
from uniformer.support.files import atomic_path

PICTURES = 48  #: in one report at most: each takes some 10 kB and the decoding of a frame
_BARS = 400  # classes drawn in one chart; more are cut into as many parts


def write_report(
    path: Path, sets: Mapping[str, Manifest], records: Mapping[str, FileRecord], findings: Sequence[Finding]
) -> None:
    """Write the page. Raises `InputError` where it cannot be written."""
    page = html.page("Data set report", _parts(sets, records, findings))
    with atomic_path(path) as temporary:
        temporary.write_text(page, "utf-8")


def _parts(
    sets: Mapping[str, Manifest], records: Mapping[str, FileRecord], findings: Sequence[Finding]
) -> Iterator[str]:
    kinds = {manifest.path(i): manifest.kind for manifest in sets.values() for i in range(len(manifest))}
    yield "<h1>Data set report</h1>"
    yield from (f'<p class="sub">{html.safe(f"{split}: {part.origin}")}</p>' for split, part in sets.items())
    yield _summary(sets, records)
    yield "<h2>Findings</h2>"
    yield from (_details(finding, kinds, left) for finding, left in _with_pictures_left(findings))
    if not findings:
        yield "<p>Nothing to report.</p>"
    for split, manifest in sets.items():
        yield from _charts(split, manifest, records)


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
            )
        )
    names = ("split", "kind", "rows", "classes", "unreadable", "size", "length", "codecs")
    return html.table(names, rows, "sets")


def _with_pictures_left(findings: Iterable[Finding]) -> Iterable[tuple[Finding, int]]:
    left = PICTURES
    for finding in findings:
        yield finding, left
        left -= min(left, len(finding.paths))


def _details(finding: Finding, kinds: Mapping[str, Kind], pictures: int) -> str:
    more = finding.count - len(finding.examples)
    cards = "".join(_card(path, kinds[path]) for path in finding.paths[:pictures] if path in kinds)
    content = f'<div class="cards">{cards}</div>' if cards else ""
    if finding.examples:
        content += html.table((), finding.examples)
        content += f"<p>and {more:,} more</p>" if more > 0 else ""
    summary = f"{finding.title}: {finding.text}"
    return html.folded(summary, content, badge=finding.level, is_open=finding.level == "error")


def _card(path: str, kind: Kind) -> str:
    """Nothing where the file cannot be read any more."""
    pixels = _first_picture(path, kind)
    return "" if pixels is None else html.card(pixels, html.safe("/".join(Path(path).parts[-2:])))


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


def _charts(split: str, manifest: Manifest, records: Mapping[str, FileRecord]) -> Iterator[str]:
    counts = manifest.class_counts()
    order = np.argsort(-counts, kind="stable")
    yield f"<h2>{html.safe(split)}: rows of each class</h2>"
    for low in range(0, len(order), _BARS):
        named = [(manifest.classes[i], int(counts[i])) for i in order[low : low + _BARS]]
        yield _bars(named, int(counts.max(initial=1)), f"classes-{split}-{low}")
    lengths = np.array([r.frames for i in range(len(manifest)) if (r := records[manifest.path(i)]).frames], np.float64)
    if manifest.kind != "image" and len(lengths):
        heights, edges = np.histogram(lengths, bins=min(24, max(int(np.ptp(lengths)), 1)))
        named = [(f"{a:.0f} to {b:.0f} frames", int(n)) for a, b, n in zip(edges, edges[1:], heights, strict=False)]
        yield f"<h2>{html.safe(split)}: length</h2>"
        yield _bars(named, int(heights.max()), f"lengths-{split}")


def _bars(named: Sequence[tuple[str, int]], highest: int, name: str) -> str:
    return html.bars([(what, n / max(highest, 1), f"{n:,}") for what, n in named], html.safe(name), ticks=False)

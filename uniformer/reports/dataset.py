"""What a scan of a data set found, as one HTML page: tables, bars, small pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniformer.datasets.findings import FileRecord, Finding
from uniformer.datasets.manifest import Kind, Manifest
from uniformer.datasets.scan import ScanResult
from uniformer.errors import counted
from uniformer.reports.page import write_page
from uniformer.reports.pictures import thumbnail

BINS = 24  #: of lengths at most
PICTURES = 48  #: on one page at most: each takes some 10 kB and the decoding of a frame


def write_dataset_page(path: str | os.PathLike[str], result: ScanResult) -> None:
    """Write the page of a scan. Raises `InputError` where it cannot be written."""
    kinds = {m.path(i): m.kind for m in result.sets.values() for i in range(len(m))}
    splits = result.sets.items()
    content = {
        "title": "Data set report",
        "lines": [f"{split}: {manifest.origin}" for split, manifest in splits],
        "sets": [_facts(split, manifest, result.records) for split, manifest in splits],
        "findings": list(_findings(result.findings, kinds)),
        "charts": [chart for split, manifest in splits for chart in _charts(split, manifest, result.records)],
    }
    write_page(path, "dataset.html", content)


def _facts(split: str, manifest: Manifest, records: Mapping[str, FileRecord]) -> tuple[str, ...]:
    """A row of the table of splits."""
    found = [records[path] for path in dict.fromkeys(manifest.path(i) for i in range(len(manifest)))]
    seconds = sum(record.duration or 0 for record in found)
    return (
        split,
        manifest.kind,
        f"{len(manifest):,}",
        f"{len(manifest.classes):,}",
        f"{sum(record.error is not None for record in found):,}",
        f"{sum(record.size for record in found) / 1e6:,.1f} MB",
        f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s" if seconds else "",
        " ".join(sorted({record.codec for record in found if record.codec})),
    )


def _findings(
    findings: Sequence[Finding], kinds: Mapping[str, Kind]
) -> Iterator[tuple[Finding, list[tuple[str, str]]]]:
    """Each with its pictures and their names, of files that can be read."""
    left = PICTURES
    for finding in findings:
        shown = [(thumbnail(path, kinds[path]), path) for path in finding.paths[:left] if path in kinds]
        yield finding, [(picture, "/".join(Path(path).parts[-2:])) for picture, path in shown if picture]
        left -= min(left, len(finding.paths))


def _charts(split: str, manifest: Manifest, records: Mapping[str, FileRecord]) -> Iterator[dict[str, Any]]:
    counts = manifest.class_counts()
    order = np.argsort(-counts, kind="stable").tolist()
    named = [(manifest.classes[i], int(counts[i])) for i in order]
    yield {"title": f"{split}: rows of each class", "id": f"classes-{split}", "rows": _bars(named)}
    lengths = np.array([r.frames for i in range(len(manifest)) if (r := records[manifest.path(i)]).frames], np.int64)
    if manifest.kind != "image" and len(lengths):
        yield {"title": f"{split}: length", "id": f"lengths-{split}", "rows": _bars(_binned(lengths))}


def _binned(lengths: NDArray[np.int64]) -> list[tuple[str, int]]:
    """How many clips have which length, in bins of whole frames; those that are empty are left out."""
    least, step = int(lengths.min()), int(np.ptp(lengths)) // BINS + 1
    counts = np.bincount((lengths - least) // step).tolist()
    firsts = [least + step * number for number in range(len(counts))]
    names = [counted(a, "frame") if step == 1 else f"{a} to {a + step - 1} frames" for a in firsts]
    return [(name, count) for name, count in zip(names, counts, strict=True) if count]


def _bars(named: Sequence[tuple[str, int]]) -> list[tuple[str, float, str]]:
    highest = max((n for _, n in named), default=0)
    return [(what, n / max(highest, 1), f"{n:,}") for what, n in named]

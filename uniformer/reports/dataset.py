"""What a scan of a data set found, as one HTML page: tables, bars, small pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.findings import FileRecord, Finding
from uniformer.datasets.manifest import Kind
from uniformer.datasets.scan import ScanResult
from uniformer.datasets.statement import AnySet
from uniformer.errors import InputError, MissingExtra, counted
from uniformer.reading.pictures import Pixels, file_to_pixels
from uniformer.reports.page import write_page
from uniformer.reports.pictures import still, thumbnail
from uniformer.tasks.drawing import Thing, colour_of, draw_people, draw_things
from uniformer.tasks.segmentations import Segmentation

BINS = 24  #: of lengths at most
SAMPLES, SAMPLE_SIZE = 12, (480, 320)  #: pictures of an annotated set with what is in them; width and height at most
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
        "samples": [(split, list(_samples(data))) for split, data in splits if isinstance(data, AnnotatedSet)],
        "charts": [chart for split, manifest in splits for chart in _charts(split, manifest, result.records)],
    }
    write_page(path, "dataset.html", content)


def _facts(split: str, manifest: AnySet, records: Mapping[str, FileRecord]) -> tuple[str, ...]:
    """A row of the table of splits."""
    paths = dict.fromkeys(manifest.path(i) for i in range(len(manifest)))
    found = [records[path] for path in paths if path in records]  # an annotated picture may not be there
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


def _samples(data: AnnotatedSet) -> Iterator[tuple[str, str]]:
    """Pictures all over a set with what is in them drawn, and their names; those that cannot be read are left out."""
    data = data.usable()
    for row in np.unique(np.linspace(0, len(data) - 1, SAMPLES).round().astype(int)).tolist() if len(data) else ():
        try:
            path = data.path(row)
            image = drawn(data, row, file_to_pixels(data.picture(row), path))
        except InputError:
            continue  # which the findings say
        image.thumbnail(SAMPLE_SIZE)
        yield still(image), "/".join(Path(path).parts[-2:])


def drawn(data: AnnotatedSet, row: int, pixels: Pixels) -> Image.Image:
    """A picture, uint8 RGB (H, W, 3), with what a set says is in it. Raises `InputError` as `label_map` does."""
    if data.maps is not None:
        return _with_map(data, data.label_map(row), pixels)
    inside = data.annotations(row)
    try:
        masks = list(inside.masks(*pixels.shape[:2])) if inside.shapes is not None else [None] * len(inside)
    except MissingExtra:
        masks = [None] * len(inside)
    names = data.box_classes or data.classes
    things = [
        Thing((box[0], box[1], box[2], box[3]), names[label] + " (crowd)" * crowd, colour_of(label), mask)
        for box, label, crowd, mask in zip(
            inside.boxes.tolist(), inside.labels.tolist(), inside.crowd.tolist(), masks, strict=True
        )
    ]
    if inside.keypoints is None:
        return draw_things(pixels, things)
    points, seen = inside.keypoints[..., :2], inside.keypoints[..., 2] > 0
    skeleton = [(one, other) for one, other in data.details["skeleton"]]
    return draw_people(pixels, points, seen, data.classes, skeleton, things)


def _with_map(data: AnnotatedSet, labels: Pixels, pixels: Pixels) -> Image.Image:
    palette = tuple((red, green, blue) for red, green, blue in data.details.get("palette", ()))
    height, width = labels.shape
    return Segmentation(labels=labels, classes=data.classes, palette=palette, height=height, width=width).draw(pixels)


def _charts(split: str, manifest: AnySet, records: Mapping[str, FileRecord]) -> Iterator[dict[str, Any]]:
    if isinstance(manifest, AnnotatedSet) and manifest.maps is not None:
        return
    counts = manifest.class_counts()
    order = np.argsort(-counts, kind="stable").tolist()
    named = [(manifest.classes[i], int(counts[i])) for i in order]
    what = "instances" if isinstance(manifest, AnnotatedSet) else "rows"
    yield {"title": f"{split}: {what} of each class", "id": f"classes-{split}", "rows": _bars(named)}
    if manifest.kind == "image":
        return
    lengths = np.array([r.frames for i in range(len(manifest)) if (r := records[manifest.path(i)]).frames], np.int64)
    if len(lengths):
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

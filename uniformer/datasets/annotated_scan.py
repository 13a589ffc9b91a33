"""Looking at every picture and label map of annotated sets, as `scan` does at those of a manifest.

pictures in parallel -> files.jsonl (a journal: a killed scan goes on), label maps in parallel -> findings
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.findings import (
    EXAMPLES,
    Finding,
    Found,
    Level,
    Records,
    on_classes,
    on_copies,
    rows_of,
    worst_first,
)
from uniformer.datasets.label_maps import read_labels
from uniformer.datasets.manifest import Kind
from uniformer.datasets.scan import JOURNAL, REPORT, ScanResult, check_names, inspect_all, silent
from uniformer.errors import InputError
from uniformer.labels import IGNORED
from uniformer.reading.pictures import strips
from uniformer.support.jobs import run_parallel
from uniformer.support.progress import OnProgress
from uniformer.support.resume import open_journal

Sets = Mapping[str, AnnotatedSet]


class MapJob(NamedTuple):
    """A label map to look at."""

    split: str
    row: int
    path: str
    size: tuple[int, int]  #: of its picture, height and width
    classes: int
    zero_is_unlabelled: bool


def scan_annotated(
    sets: AnnotatedSet | Sets,
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> ScanResult:
    """Look at every picture and label map of a set, or of several splits; what was found is kept in the folder `out`.

    Beside what is odd in the annotations (`AnnotatedSet.findings`): pictures that cannot be read or have another size
    than annotated, copies, label maps that are damaged, of another size, or have values beyond the classes. Arguments
    and errors are those of `scan.scan`. The sets in the result have what is broken marked: `usable()` leaves it out.
    """
    named = dict(sets) if isinstance(sets, Mapping) else {"all": sets}
    files: dict[str, Kind] = {data.path(row): "image" for data in named.values() for row in _rows(data)}
    if not files:
        raise InputError("expected a data set to look at, got no pictures")
    check_names(named)
    folder, count = Path(out), os.cpu_count() or 1 if workers is None else workers
    with open_journal(folder / JOURNAL, [folder / REPORT], [], resume=resume, overwrite=overwrite) as journal:
        records = inspect_all(files, journal, None, False, count, progress or silent)
    found = Found()
    pixels = {name: np.zeros(len(data.classes), np.int64) for name, data in named.items()}
    marked = {name: _marked(data, records, found) for name, data in named.items()}
    bad = _look_at_maps(marked, pixels, found, count)
    marked = {name: _without(data, bad.get(name, [])) for name, data in marked.items()}
    there_only = {name: data.usable() for name, data in marked.items()}
    findings = worst_first(
        (
            *(_named(finding, name, data) for name, data in named.items() for finding in data.findings),
            *found.findings(),
            *on_copies(there_only, rows_of(there_only), records),
            *(_without_pixels(named, pixels) if any(data.maps for data in named.values()) else on_classes(named)),
        )
    )
    return ScanResult(marked, records, tuple(findings), folder / REPORT, {})


def _rows(data: AnnotatedSet) -> list[int]:
    """Of the pictures that are there."""
    return list(range(len(data))) if data.readable is None else np.flatnonzero(data.readable).tolist()


def _marked(data: AnnotatedSet, records: Records, found: Found) -> AnnotatedSet:
    """Less the pictures that cannot be read; those of another size than annotated are said, and go too."""
    bad = []
    for row in _rows(data):
        path = data.path(row)
        record, (height, width) = records[path], data.sizes[row].tolist()
        if record.error is not None:
            found.add("error", "unreadable", "pictures that cannot be read, left out", path, record.error)
        elif (record.height, record.width) != (height, width):
            sizes = f"annotated as {width}x{height}", f"is {record.width}x{record.height}"
            found.add("error", "sizes differ", "pictures of another size than annotated", path, *sizes, path=path)
        else:
            continue
        bad.append(row)
    return _without(data, bad)


def _look_at_maps(
    sets: Sets, pixels: Mapping[str, npt.NDArray[np.int64]], found: Found, workers: int
) -> dict[str, list[int]]:
    """The rows of each split whose label map is of no use; `pixels` of each class are counted."""
    bad: dict[str, list[int]] = {}
    jobs = [job for name, data in sets.items() for job in _map_jobs(name, data)]
    for job, answer in run_parallel(inspect_map, jobs, workers if len(jobs) > 1 else 0):
        if isinstance(answer, list):
            pixels[job.split] += answer
            continue
        why = "crashes the decoder" if answer is None else answer.removeprefix(f"{job.path}: ")
        found.add("error", "label maps", "label maps that are of no use, left out", job.path, why)
        bad.setdefault(job.split, []).append(job.row)
    return bad


def _map_jobs(name: str, data: AnnotatedSet) -> Iterator[MapJob]:
    if data.maps is None:
        return
    for row in _rows(data):
        path, (height, width) = os.path.join(data.root, data.maps.paths[row]), data.sizes[row].tolist()
        yield MapJob(name, row, path, (height, width), len(data.classes), data.maps.zero_is_unlabelled)


def inspect_map(job: MapJob) -> list[int] | str:
    """Pixels of each class in a label map; a text says why it is of no use."""
    try:
        labels = read_labels(Path(job.path), job.size, job.classes, job.zero_is_unlabelled)
    except InputError as error:
        return str(error)
    counts = sum(np.bincount(labels[rows].ravel(), minlength=IGNORED + 1) for rows in strips(*labels.shape))
    return np.asarray(counts)[: job.classes].tolist()


def _without(data: AnnotatedSet, rows: list[int]) -> AnnotatedSet:
    if not rows:
        return data
    readable = np.ones(len(data), bool) if data.readable is None else data.readable.copy()
    readable[rows] = False
    return replace(data, readable=readable)


def _named(finding: Finding, split: str, data: AnnotatedSet) -> Finding:
    """What was odd in one set among several, with paths by which its pictures are found."""
    paths = tuple(os.path.join(data.root, path) for path in finding.paths)
    return replace(finding, title=f"{finding.title} in {split}", text=f"{split}: {finding.text}", paths=paths)


def _without_pixels(sets: Sets, pixels: Mapping[str, npt.NDArray[np.int64]]) -> Iterator[Finding]:
    """Classes that no label map has."""
    for split, data in sets.items():
        rows = [(data.classes[label], f"class {label}") for label in np.flatnonzero(pixels[split] == 0).tolist()]
        text = f"{split}: classes of {len(data.classes)} without a pixel: {len(rows)}"
        level: Level = "warning" if split in ("train", "all") else "note"
        yield Finding(level, f"empty classes in {split}", text, len(rows), tuple(rows[:EXAMPLES]))

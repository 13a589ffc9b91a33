"""Looking at every file of a data set before hours are spent on it: what can be read, what is short, what is double.

files in parallel -> files.jsonl (a journal: a killed scan goes on) -> findings and <split>.manifest
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from uniformer.config import InputSpec
from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.duplicates import MOMENTS, moments, perceptual_hash
from uniformer.datasets.findings import FileRecord, Finding, find
from uniformer.datasets.manifest import Kind, Manifest
from uniformer.errors import InputError
from uniformer.reading.pictures import Pixels, Undecodable, file_to_pixels, open_image, upright_size
from uniformer.reading.sampling import clip_indices
from uniformer.reading.video import open_video
from uniformer.support.files import bytes_of, content_sum
from uniformer.support.jobs import run_parallel
from uniformer.support.progress import OnProgress
from uniformer.support.resume import Journal, open_journal
from uniformer.support.settings import from_table

JOURNAL, REPORT = "files.jsonl", "report.html"


@dataclass(frozen=True)
class ScanResult:
    """What a scan found."""

    #: By split: as given, with the unreadable files marked, and the frame counts found.
    sets: Mapping[str, Manifest | AnnotatedSet]
    records: dict[str, FileRecord]  #: by path
    findings: tuple[Finding, ...]  #: worst first
    report: Path  #: where `uniformer data scan` puts the page of it
    manifests: dict[str, Path]  #: by split: where `sets` are saved; none of annotated ones

    @property
    def is_fit(self) -> bool:
        """Nothing was found that would spoil a training or its evaluation."""
        return all(finding.level != "error" for finding in self.findings)


def scan(
    sets: Manifest | Mapping[str, Manifest],
    out: str | os.PathLike[str],
    *,
    spec: InputSpec | None = None,
    workers: int | None = None,
    resume: bool = True,
    full: bool = False,
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> ScanResult:
    """Look at every file of a manifest, or of several splits, and write what was found to the folder `out`.

    There: `<split>.manifest` for training (`open_dataset(out, split=...)` reads it), and `files.jsonl`, by which a scan
    that was stopped goes on, and a later one looks at new and changed files only. The page for people, which
    `uniformer data scan` writes as well, is `reports.dataset.write_dataset_page(result.report, result)`.

    Args:
        spec: what the network will be fed: the first and last frame of its test clips are decoded, and videos shorter
            than a clip are listed. None decodes the first and last frame.
        workers: processes; None takes one a core, 0 works in this one. A file that crashes the decoder is then fatal.
        resume: False begins anew.
        full: decode every frame of every video.
        overwrite: replace a report and manifests in `out` that no scan wrote.
        progress: called with (files done, of how many).

    Raises:
        InputError: there is no row to look at, or `out` cannot be written, has files of another origin, or is another
            run's. Files that cannot be read raise nothing.
    """
    named = dict(sets) if isinstance(sets, Mapping) else {"all": sets}
    files = {manifest.path(i): manifest.kind for manifest in named.values() for i in range(len(manifest))}
    if not files:
        raise InputError("expected a data set to look at, got no rows")
    check_names(named)
    folder, count = Path(out), os.cpu_count() or 1 if workers is None else workers
    saved = {name: folder / f"{name}.manifest" for name in named}
    outputs, inputs = [folder / REPORT, *saved.values()], [m.file for m in named.values() if m.file]
    with open_journal(folder / JOURNAL, outputs, inputs, resume=resume, overwrite=overwrite) as journal:
        records = inspect_all(files, journal, spec, full, count, progress or silent)
        marked = {name: _marked(manifest, records) for name, manifest in named.items()}
        for name, manifest in marked.items():
            manifest.save(saved[name])
    findings = tuple(find(named, records, spec))
    return ScanResult(marked, records, findings, folder / REPORT, saved)


def check_names(splits: Iterable[str]) -> None:
    for name in splits:
        if Path(name).name != name:
            raise InputError(f"expected names of splits that files can have, got {name!r}")


def silent(done: int, total: int) -> None: ...


# ---------------------------------------------------------------------------------------------------------- one file


def inspect(job: tuple[str, Kind], spec: InputSpec | None = None, full: bool = False) -> FileRecord:
    """Open one file (path, kind), decode the frames wanted of it, and say what it is. Raises nothing for a bad file."""
    path, kind = job
    record = FileRecord(path, *_stamp(path), _looked_for(spec, full))
    try:
        facts = _inspect_image(Path(path)) if kind == "image" else _inspect_video(path, spec, full)
    except InputError as error:
        return replace(record, error=str(error).removeprefix(f"{path}: "))
    return replace(record, **facts)


def _inspect_image(path: Path) -> dict[str, Any]:
    try:
        image = open_image(path)
    except Undecodable:
        raise InputError("expected an image, found a damaged one or another kind of file") from None
    height, width = upright_size(image)
    return {
        "frames": 1,
        "width": width,
        "height": height,
        "codec": path.suffix.lower()[1:],
        "print": _hex(perceptual_hash([file_to_pixels(image, path)])),
    }


def _inspect_video(path: str, spec: InputSpec | None, full: bool) -> dict[str, Any]:
    with warnings.catch_warnings(), open_video(path) as reader:
        warnings.simplefilter("ignore")  # what the reader warns of is in reader.warnings
        info = reader.info
        wanted = [0, info.num_frames - 1]
        if spec is not None and spec.is_video:
            indices = clip_indices(spec, info.num_frames)
            wanted = [int(indices.min()), int(indices.max())]
        # One by one, of which the fingerprint's are kept: frames may be of 8K, and all of a film where `full`.
        numbers, frames = [*moments(info.num_frames), *wanted], dict[int, Pixels]()
        for places, picture in reader.each(numbers):
            frames |= {place: picture for place in places if place < len(MOMENTS)}
        if full and not reader.warnings:
            readable = sum(1 for _ in reader.all_pictures())
            if readable < info.num_frames:
                reader.warnings.append(f"{readable} of {info.num_frames} frames are readable")
    warning = reader.warnings[0].removeprefix(f"{path}: ") if reader.warnings else None
    return {
        "frames": info.num_frames,
        "fps": info.fps,
        "duration": info.duration,
        "width": info.width,
        "height": info.height,
        "codec": info.codec,
        "print": _hex(perceptual_hash([frames[place] for place in range(len(MOMENTS))])),
        "warning": warning,
    }


def _looked_for(spec: InputSpec | None, full: bool) -> str:
    """What a record depends on beside the file."""
    clip = "ends" if spec is None or not spec.is_video else f"{spec.sampling} {spec.frames}x{spec.stride}x{spec.clips}"
    return f"{clip}, every frame" if full else clip


def _stamp(path: str) -> tuple[int, int]:
    """What tells a file, or a folder of frames, from others, and its bytes."""
    return content_sum(path, with_time=True), bytes_of(path)


def digest(path: str) -> str | None:
    """Of a file's content, or of all files' in a folder. None if it cannot be read."""
    total = hashlib.blake2b(digest_size=16)
    try:
        files = [e.path for e in os.scandir(path) if e.is_file()] if os.path.isdir(path) else [path]
        for file in sorted(files):
            with open(file, "rb") as f:
                total.update(hashlib.file_digest(f, partial(hashlib.blake2b, digest_size=16)).digest())
    except OSError:
        return None
    return total.hexdigest()


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


# --------------------------------------------------------------------------------------------------------- all files


def inspect_all(
    files: Mapping[str, Kind], journal: Journal, spec: InputSpec | None, full: bool, workers: int, progress: OnProgress
) -> dict[str, FileRecord]:
    """What each file is, by its path, from the journal where it is there already."""
    records: dict[str, FileRecord] = {}

    def left() -> Iterator[tuple[str, Kind]]:
        for path, kind in files.items():
            record = _record(journal.entries.get(path, {}))
            wanted = (*_stamp(path), _looked_for(spec, full))
            if record is not None and (record.sum, record.size, record.looked_for) == wanted:
                records[path] = record
                continue
            yield path, kind

    for (path, _), answer in run_parallel(partial(inspect, spec=spec, full=full), left(), workers):
        if answer is None:
            crashed = "expected a file that can be decoded, found one that crashes the decoder"
            answer = FileRecord(path, *_stamp(path), _looked_for(spec, full), error=crashed)
        records[path] = answer
        journal.add(asdict(answer))
        progress(len(records), len(files))
    progress(len(files), len(files))
    return _digested({path: records[path] for path in files}, journal, workers)


def _record(entry: dict[str, Any]) -> FileRecord | None:
    """None for an entry that another version wrote, or something else."""
    try:
        record = from_table(FileRecord, entry)
        bytes.fromhex(record.print or "")
    except (TypeError, ValueError):
        return None
    return record


def _digested(records: dict[str, FileRecord], journal: Journal, workers: int) -> dict[str, FileRecord]:
    """With a digest of each file that shares its size with another: only such can be copies."""
    sizes: dict[int, int] = {}
    for record in records.values():
        sizes[record.size] = sizes.get(record.size, 0) + 1
    missing = [r.path for r in records.values() if r.size and sizes[r.size] > 1 and r.digest is None]
    for path, answer in run_parallel(digest, missing, workers if len(missing) > 1 else 0):
        records[path] = replace(records[path], digest=answer)
        journal.add(asdict(records[path]))
    return records


def _marked(manifest: Manifest, records: Mapping[str, FileRecord]) -> Manifest:
    """With the frames counted and the unreadable rows marked."""
    found = [records[manifest.path(i)] for i in range(len(manifest))]
    counts = np.array([-1 if record.frames is None else record.frames for record in found], np.int32)
    return replace(
        manifest,
        frames=None if manifest.kind == "image" else counts,
        readable=np.array([record.error is None for record in found], np.bool_),
        file=None,
    )

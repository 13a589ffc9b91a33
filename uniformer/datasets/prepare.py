"""Before training: divide a data set into splits, write lists, and re-encode videos so that clips are cheap to read."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.video.stream import VideoStream

from uniformer.config import InputSpec, did_you_mean
from uniformer.datasets.layouts import CLASSES_FILE
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.strings import Strings
from uniformer.errors import InputError, counted
from uniformer.labels import is_whole
from uniformer.reading.frames import VideoReader
from uniformer.reading.sampling import clip_indices
from uniformer.reading.video import open_video
from uniformer.support.csv_text import csv_line
from uniformer.support.files import atomic_path, bytes_of, clear_away, content_sum, write_whole
from uniformer.support.jobs import run_parallel
from uniformer.support.progress import OnProgress
from uniformer.support.resume import open_journal
from uniformer.support.texts import read_text

JOURNAL, MANIFEST = "prepared.jsonl", "prepared.manifest"

CODECS = ("h264", "mjpeg")

_TICKS = 90_000  # a second, of the files written: frames of 24, 25, 30 and 30000/1001 fps take whole ticks
_TIMED = 8  # videos that the gain is measured on
_TIMED_CLIP = InputSpec(frames=16, stride=4, sampling="dense")

# ------------------------------------------------------------------------------------------------------------ splits


def split(manifest: Manifest, fractions: Mapping[str, float], *, seed: int) -> dict[str, Manifest]:
    """Divide the rows at random, `fractions` to each split, the same way for the same seed.

    Rows of one group (recording) stay together. Every split gets its share of every class to within two rows, and of
    all rows to within one, where groups allow: they are dealt out class after class, each to the split that lacks most.
    The largest split gets the first of every class, so that no class is missing in training.

    Raises `InputError` unless there are at least two splits whose fractions are positive and add up to 1.
    """
    names, shares = list(fractions), np.array(list(fractions.values()), np.float64)
    if len(names) < 2 or not ((shares > 0) & (shares < 1)).all() or abs(shares.sum() - 1) > 1e-6:  # NaN is neither
        raise InputError(f"expected at least two positive fractions that add up to 1, got {dict(fractions)}")
    counts = manifest.class_counts()
    units = _units(manifest)
    main = [_rarest(manifest, unit, counts) for unit in units]
    order = np.random.default_rng(seed).permutation(len(units)).tolist()
    order.sort(key=lambda unit: (main[unit], -len(units[unit])))  # stable: at random where equal
    chosen = np.empty(len(manifest), np.int64)
    lacking = np.zeros(len(names))  # rows each split is behind its share of those dealt out
    home, before = int(shares.argmax()), None
    for unit in order:
        lacking += shares * len(units[unit])
        to = home if main[unit] != before else int(lacking.argmax())
        lacking[to] -= len(units[unit])
        chosen[units[unit]] = to
        before = main[unit]
    return {name: manifest.select(np.flatnonzero(chosen == i)) for i, name in enumerate(names)}


def _units(manifest: Manifest) -> list[list[int]]:
    """Rows that must stay together."""
    if manifest.group is None:
        return [[row] for row in range(len(manifest))]
    units: dict[int, list[int]] = {}
    for row, group in enumerate(manifest.group.tolist()):
        units.setdefault(group if group >= 0 else -1 - row, []).append(row)
    return list(units.values())


def _rarest(manifest: Manifest, rows: list[int], counts: npt.NDArray[np.int64]) -> int:
    """The class that a group counts for: the rarest of its labels, -1 where it has none."""
    return min((c for row in rows for c in manifest.labels_of(row)), key=lambda c: (counts[c], c), default=-1)


def write_list(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """A CSV list that `open_dataset` reads back, and the classes' names in `classes.txt` beside it.

    Paths below the list's folder are written relative to it. Marks of unreadable files are not written.

    Raises `InputError` where a file cannot be written, or `classes.txt` is there with other names.
    """
    path = Path(path)
    columns = {
        "start": manifest.start is not None,
        "end": manifest.end is not None,
        "frames": manifest.frames is not None,
        "group": manifest.group is not None,
    }
    extra = [name for name, is_there in columns.items() if is_there]
    names = "".join(f"{name}\n" for name in manifest.classes)
    are_numbers = all(map(is_whole, manifest.classes))  # which a number in the list is taken to name
    beside = path.parent / CLASSES_FILE
    if beside.exists() and read_text(beside, "names of classes") != names:
        raise InputError(f"{beside}: expected the names of the {len(manifest.classes)} classes of {path}, found others")
    here = os.path.abspath(path.parent)
    clear_away([path, beside])
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as f,
    ):
        f.write(csv_line(["path", "label", *extra]))
        for item in manifest:
            file = os.path.abspath(item.path)
            file = os.path.relpath(file, here) if file.startswith(os.path.join(here, "")) else file
            labels = "|".join(manifest.classes[label] if are_numbers else str(label) for label in item.labels)
            f.write(csv_line([file, labels, *(getattr(item, name) for name in extra)]))
    if not beside.exists():
        write_whole(beside, names)


# --------------------------------------------------------------------------------------------------------- re-encode


@dataclass(frozen=True)
class Encoding:
    """How videos are written: in mp4, without sound, upright.

    H.264 is small; MJPEG, every frame a picture of its own, is large and the quickest to read: of short clips of small
    frames four times as quick (docs/log.md).
    """

    short_side: int = 256  #: pixels; smaller videos keep their size
    gop: int = 16  #: H.264: frames from one keyframe to the next at most: how many are decoded to reach any one
    codec: str = "h264"  #: or "mjpeg"
    crf: int = 18  #: H.264: constant quality, 0 (lossless) to 51
    preset: str = "fast"  #: of x264
    scale: int = 2  #: MJPEG: of its quantisers, 1 (best) to 31

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise InputError(
                f"expected the codec {' or '.join(CODECS)}, got {self.codec!r}{did_you_mean(self.codec, CODECS)}"
            )
        if self.short_side < 2 or self.gop < 1 or not 0 <= self.crf <= 51:
            raise InputError(f"expected short_side of 2 up, gop of 1 up, crf in 0 .. 51, got {self}")


@dataclass(frozen=True)
class PrepareResult:
    """What `prepare` wrote."""

    manifest: Manifest  #: the rows whose files could be read, pointing to the new files
    path: Path  #: where it is saved
    failed: dict[str, str]  #: file -> why it could not be read
    bytes_before: int  #: of the files that were re-encoded
    bytes_after: int
    seconds_before: float  #: to open a file and read a clip of 16 frames, every fourth: median over a few files
    seconds_after: float

    def __str__(self) -> str:
        return (
            f"{self.bytes_before / 1e6:.1f} MB became {self.bytes_after / 1e6:.1f} MB; a clip of 16 frames is read in "
            f"{1000 * self.seconds_after:.0f} instead of {1000 * self.seconds_before:.0f} ms; "
            f"{counted(len(self.failed), 'file')} could not be read"
        )


def reencode(
    manifest: Manifest,
    out: str | os.PathLike[str],
    *,
    short_side: int = 256,
    gop: int = 16,
    codec: str = "h264",
    workers: int | None = None,
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> PrepareResult:
    """Re-encode a set's videos into the folder `out`: small, upright, with keyframes close together, without sound.

    Every frame is kept, with its time. A frame that cannot be decoded is replaced by the one before it; files without
    any are left out and listed. A run that was stopped goes on. Writes `prepared.manifest`, which `open_dataset` reads.
    Colours come back about one level of 255 darker: FFmpeg rounds down on the way to RGB, once more than before.

    Args:
        codec: "h264", or "mjpeg" for files several times as large that are read several times as fast.
        workers: processes; None takes one a core, 0 works in this one.
        overwrite: replace files in `out` that no earlier run wrote.
        progress: called with (files done, of how many).

    Raises:
        InputError: the set is not made of video files, none can be read, or `out` cannot be written: another run has
            it, or a video would replace itself or a file of another origin.
    """
    if manifest.kind != "video":
        raise InputError(f"expected a set of video files to re-encode, got one of kind {manifest.kind!r}")
    out, encoding = Path(out), Encoding(short_side, gop, codec)
    targets = _targets(manifest)
    count = os.cpu_count() or 1 if workers is None else workers
    outputs = [out / name for name in (MANIFEST, *targets.values())]
    inputs = [*targets, *filter(None, [manifest.file])]
    with open_journal(out / JOURNAL, outputs, inputs, overwrite=overwrite) as journal:
        done = {path for path in targets if _is_done(journal.entries.get(path), path, out / targets[path], encoding)}
        jobs = [(path, str(out / target)) for path, target in targets.items() if path not in done]
        for folder in {os.path.dirname(target) for _, target in jobs}:
            os.makedirs(folder, exist_ok=True)
        for number, ((path, _), answer) in enumerate(run_parallel(partial(_job, encoding=encoding), jobs, count), 1):
            journal.add(answer or _entry(path, encoding, error="it crashes the decoder"))
            if progress is not None:
                progress(len(done) + number, len(targets))
        return _result(manifest, targets, {path: journal.entries[path] for path in targets}, out)


def _result(
    manifest: Manifest, targets: Mapping[str, str], entries: Mapping[str, dict[str, Any]], out: Path
) -> PrepareResult:
    good = {path: target for path, target in targets.items() if entries[path]["error"] is None}
    if not good:
        first = next(iter(entries.values()), {"error": "no rows"})
        raise InputError(f"expected videos to re-encode, found none of {len(targets)} readable: {first['error']}")
    moved = _moved(manifest, good, entries, out)
    moved.save(out / MANIFEST)
    some = list(good)[:: max(len(good) // _TIMED, 1)][:_TIMED]
    return PrepareResult(
        manifest=moved,
        path=out / MANIFEST,
        failed={path: entry["error"] for path, entry in entries.items() if entry["error"] is not None},
        bytes_before=sum(entries[path]["size"] for path in good),
        bytes_after=sum(bytes_of(out / target) for target in good.values()),
        seconds_before=float(np.median([seconds_to_read(path) for path in some])),
        seconds_after=float(np.median([seconds_to_read(out / good[path]) for path in some])),
    )


def seconds_to_read(path: str | os.PathLike[str]) -> float:
    """Wall time to open a video and read the frames of its first test clip."""
    begin = time.perf_counter()
    with warnings.catch_warnings(), open_video(path) as reader:
        warnings.simplefilter("ignore")
        for _ in reader.each(clip_indices(_TIMED_CLIP, reader.info.num_frames)[0]):
            pass
    return time.perf_counter() - begin


def _targets(manifest: Manifest) -> dict[str, str]:
    """Each file's new path, relative: as below the root, with the suffix .mp4 (a.avi.mp4 where a.mp4 is taken)."""
    targets: dict[str, str] = {}
    taken: set[str] = set()
    for path in dict.fromkeys(manifest.path(i) for i in range(len(manifest))):
        relative = os.path.relpath(path, manifest.root)
        if relative.startswith(os.pardir):  # an absolute path elsewhere
            relative = os.path.relpath(os.path.abspath(path), os.path.abspath(os.sep))
        stem = os.path.splitext(relative)[0]
        target = f"{stem}.mp4" if f"{stem}.mp4" not in taken else f"{relative}.mp4"
        while target in taken:
            target = f"{target[:-4]}_.mp4"
        taken.add(target)
        targets[path] = target
    return targets


def _moved(manifest: Manifest, good: Mapping[str, str], entries: Mapping[str, dict[str, Any]], out: Path) -> Manifest:
    """The rows of the good files, their paths and frame counts replaced."""
    kept = manifest.select([i for i in range(len(manifest)) if manifest.path(i) in good])
    old = [kept.path(i) for i in range(len(kept))]
    return replace(
        kept,
        paths=Strings.pack(good[path] for path in old),
        frames=np.array([entries[path]["frames"] for path in old], np.int32),
        readable=None,
        root=os.path.abspath(out),
        origin=f"{out}: re-encoded from {manifest.origin}",
    )


def _entry(path: str, encoding: Encoding, *, frames: int | None = None, error: str | None = None) -> dict[str, Any]:
    held = {"sum": content_sum(path, with_time=True), "size": bytes_of(path)}
    return {"path": path, **held, "as": str(encoding), "frames": frames, "error": error}


def _is_done(entry: dict[str, Any] | None, path: str, target: Path, encoding: Encoding) -> bool:
    if entry is None or {**entry, "frames": None, "error": None} != _entry(path, encoding):
        return False
    error, frames = (entry.get(name) for name in ("error", "frames"))
    return isinstance(error, str) if error is not None else type(frames) is int and target.is_file()


class _Unreadable(InputError):
    """A file's own fault, which others need not suffer for; a full disk is none."""


def _job(job: tuple[str, str], encoding: Encoding) -> dict[str, Any]:
    path, target = job
    try:
        with warnings.catch_warnings(), _opened(path) as reader:
            warnings.simplefilter("ignore")
            with atomic_path(target) as temporary:
                encode(reader, temporary, encoding)
            return _entry(path, encoding, frames=reader.info.num_frames)
    except _Unreadable as error:
        return _entry(path, encoding, error=str(error).removeprefix(f"{path}: "))


def _opened(path: str) -> VideoReader:
    try:
        return open_video(path)
    except InputError as error:
        raise _Unreadable(str(error)) from None


def encode(reader: VideoReader, path: Path, encoding: Encoding) -> None:
    """Write all frames of a video, with their times. Raises `InputError` if none can be decoded, `OSError` if the disk
    refuses."""
    info = reader.info
    scale = min(encoding.short_side / min(info.width, info.height), 1)
    width, height = (max(2 * round(side * scale / 2), 2) for side in (info.width, info.height))  # yuv420p: even sides
    ticks = _rising(np.rint(reader.times(range(info.num_frames)) * _TICKS).astype(np.int64))
    if encoding.codec == "mjpeg":
        name, pixels, options = "mjpeg", "yuvj420p", {"qmin": str(encoding.scale), "qmax": str(encoding.scale)}
    else:
        name, pixels = "libx264", "yuv420p"
        options = {"crf": str(encoding.crf), "preset": encoding.preset, "g": str(encoding.gop)}
    try:
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
            rate = Fraction(info.fps or 25).limit_denominator(1001)
            stream = cast(VideoStream, container.add_stream(name, rate=rate, options=options))
            stream.width, stream.height, stream.pix_fmt = width, height, pixels
            stream.codec_context.time_base = Fraction(1, _TICKS)
            for picture, number in _without_gaps(reader):
                frame = av.VideoFrame.from_ndarray(picture).reformat(width, height, pixels, interpolation="AREA")
                frame.pts, frame.time_base = int(ticks[number]), Fraction(1, _TICKS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise _Unreadable(f"{info.path}: cannot be re-encoded: {error.strerror}") from None


def _without_gaps(reader: VideoReader) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    """Every frame and its number; the one before (first: after) stands in for one that cannot be decoded."""
    last: npt.NDArray[np.uint8] | None = None
    next_number = 0
    for number, picture in reader.all_pictures():
        try:
            pixels = np.ascontiguousarray(picture())
        except InputError as error:
            raise _Unreadable(str(error)) from None
        for missing in range(next_number, number):
            yield pixels if last is None else last, missing
        yield pixels, number
        last, next_number = pixels, number + 1
    if last is None:
        raise _Unreadable(f"{reader.info.path}: expected a video, found no frame that can be decoded")
    for missing in range(next_number, reader.info.num_frames):
        yield last, missing


def _rising(ticks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The nearest times after each other, where frames share one: an encoder wants each at its own."""
    steps = np.arange(len(ticks))
    return np.maximum.accumulate(ticks - steps) + steps

"""From what is known of each file to what a person should know of a data set before training on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from uniformer.config import InputSpec
from uniformer.datasets.duplicates import groups_of, near_groups
from uniformer.datasets.manifest import Manifest
from uniformer.errors import counted, shown
from uniformer.labels import flip_sensitive

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")  #: the worst first

EXAMPLES = 50  #: of one finding that are kept: the report is for reading
_MANY = 10  # classes are called unbalanced from this ratio on


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a scan found out about one file, or folder of frames."""

    path: str
    sum: int  #: `content_sum` of the file; with `looked_for`, what says that the record still holds
    size: int  #: bytes, of a folder of frames all together
    looked_for: str
    error: str | None = None  #: why it cannot be read
    warning: str | None = None  #: what is wrong though it can be read
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None  #: seconds
    width: int | None = None
    height: int | None = None
    codec: str | None = None
    print: str | None = None  #: `duplicates.perceptual_hash`, hexadecimal
    digest: str | None = None  #: of the content; only taken where another file has the same size


Records = Mapping[str, FileRecord]
Sets = Mapping[str, Manifest]


class Pictured(Protocol):
    """What findings on copies and classes need of a data set, a `Manifest` or an `AnnotatedSet`."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def start(self) -> object: ...  #: None where rows are whole files
    def __len__(self) -> int: ...
    def path(self, index: int) -> str: ...
    def labels_of(self, index: int) -> tuple[int, ...]: ...
    def class_counts(self) -> npt.NDArray[np.int64]: ...


AnySets = Mapping[str, Pictured]


@dataclass(frozen=True)
class Finding:
    """One thing found, in one line, with examples."""

    level: Level  #: an error spoils training or its evaluation, a warning may, a note is good to know
    title: str
    text: str
    count: int  #: how many files, groups or classes
    examples: tuple[tuple[str, ...], ...] = ()  #: rows of the report's table; paths first
    paths: tuple[str, ...] = ()  #: files worth a picture


class Found:
    """What was odd in a data set: how often, and the first examples."""

    def __init__(self) -> None:
        self._found = dict[str, Finding]()

    def add(self, level: Level, title: str, text: str, *example: str, path: str | None = None) -> None:
        """One more of a kind; `example` is a row of the report's table, `path` a picture worth showing."""
        self.add_all(level, title, text, [example], 1, [path] if path else [])

    def add_all(
        self, level: Level, title: str, text: str, examples: Iterable[tuple[str, ...]], count: int, paths: Iterable[str]
    ) -> None:
        """`count` more of a kind, with some of them as examples."""
        if not count:
            return
        old = self._found.get(title)
        total = count + (old.count if old else 0)
        table = tuple(tuple(shown(cell, 300) for cell in row) for row in examples)
        rows = ((old.examples if old else ()) + table)[:EXAMPLES]
        shown_paths = tuple(dict.fromkeys((*(old.paths if old else ()), *paths)))[: EXAMPLES // 2]
        self._found[title] = Finding(level, title, f"{text}: {total}", total, rows, shown_paths)

    def findings(self) -> tuple[Finding, ...]:
        """The worst first."""
        return tuple(worst_first(self._found.values()))


@dataclass(frozen=True)
class SetRow:
    """A row of a set, its file's record beside it."""

    split: str
    number: int
    path: str


def find(sets: Sets, records: Records, spec: InputSpec | None = None) -> list[Finding]:
    """Everything found in sets as their sources describe them, worst first."""
    rows = rows_of(sets)
    return worst_first(
        (
            *on_files(rows, records),
            *_shorter(sets, records, spec),
            *_wrong_lists(sets, records),
            *on_copies(sets, rows, records),
            *_same_source(sets),
            *on_classes(sets),
            *_sides(sets),
            *_rates(sets, records, spec),
        )
    )


def rows_of(sets: AnySets) -> list[SetRow]:
    return [SetRow(split, i, data.path(i)) for split, data in sets.items() for i in range(len(data))]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Those that found something."""
    return sorted((finding for finding in findings if finding.count), key=lambda finding: LEVELS.index(finding.level))


def on_files(rows: Iterable[SetRow], records: Records) -> Iterator[Finding]:
    paths = list(dict.fromkeys(row.path for row in rows))
    bad = [(path, records[path].error or "") for path in paths if records[path].error]
    yield finding("error", "unreadable", "files that cannot be read, marked in the saved manifests", bad)
    odd = [(path, records[path].warning or "") for path in paths if records[path].warning]
    yield finding("warning", "damaged", "damaged files of which a part can be read", odd, _firsts(odd))


def _shorter(sets: Sets, records: Records, spec: InputSpec | None) -> Iterator[Finding]:
    """Clips that repeat frames to fill a network's window."""
    if spec is None or not spec.is_video:
        return
    window = spec.frames * (spec.stride or 1) if spec.sampling == "dense" else spec.frames
    short = []
    for manifest in sets.values():
        for item in manifest:
            record = records[item.path]
            frames = record.frames
            if item.start is not None and item.end is not None and frames and record.fps:
                frames = min(frames, round((item.end - item.start) * record.fps))
            if frames is not None and frames < window:
                short.append((frames, item.path))
    table = [(path, counted(frames, "frame")) for frames, path in sorted(short)]
    text = f"clips shorter than the network's window of {window} frames"
    yield finding("warning", "short", text, table, _firsts(table))


def _wrong_lists(sets: Sets, records: Records) -> Iterator[Finding]:
    late = [
        (item.path, f"{item.start:g} to {item.end:g} s", f"lasts {record.duration:.2f} s")
        for manifest in sets.values()
        if manifest.start is not None
        for item in manifest
        if (record := records[item.path]).duration is not None
        and item.end is not None
        and item.end > record.duration + 0.5  # lists are often rounded to seconds
    ]
    other = [
        (item.path, f"{item.frames} in the list", f"{found} on the disk")
        for manifest in sets.values()
        if manifest.frames is not None and manifest.kind == "frames"
        for item in manifest
        if item.frames is not None and (found := records[item.path].frames) not in (None, item.frames)
    ]
    yield finding("warning", "frame counts", "folders with another number of frames than the list says", other)
    yield finding("error", "segments", "segments that end after their video", late)


def on_copies(sets: AnySets, rows: list[SetRow], records: Records) -> Iterator[Finding]:
    rows = [row for row in rows if records[row.path].error is None and sets[row.split].start is None]
    exact = groups_of(records[row.path].digest or row.path for row in rows)
    yield from _copy_findings(sets, rows, exact, "copies", "exact copies")
    taken = {i for group in exact for i in group[1:]}
    printed = [i for i, row in enumerate(rows) if records[row.path].print and i not in taken]
    if printed:
        prints = np.frombuffer(bytes.fromhex("".join(records[rows[i].path].print or "" for i in printed)), np.uint8)
        near = [[printed[i] for i in group] for group in near_groups(prints.reshape(len(printed), -1))]
        yield from _copy_findings(sets, rows, near, "near copies", "nearly the same pictures")


def _copy_findings(
    sets: AnySets, rows: list[SetRow], groups: list[list[int]], title: str, what: str
) -> Iterator[Finding]:
    """What groups of like rows mean: within one split, across splits, under different labels."""
    within, across = ([g for g in groups if (len({rows[i].split for i in g}) > 1) == is_across] for is_across in (0, 1))
    torn = [g for g in groups if len({sets[rows[i].split].labels_of(rows[i].number) for i in g}) > 1]
    worst: Level = "error" if title == "copies" else "warning"
    kinds: list[tuple[Level, str, str, list[list[int]]]] = [
        (worst, f"{title} across splits", "in more than one split", across),
        ("warning", f"{title}, other labels", "under different labels", torn),
        ("note", title, "within a split", within),
    ]
    for level, name, where, some in kinds:
        table = [tuple(f"{rows[i].split}: {rows[i].path}" for i in g[:4]) for g in some]
        yield finding(level, name, f"groups of {what} {where}", table, tuple(rows[i].path for g in some for i in g[:2]))


def _same_source(sets: Sets) -> Iterator[Finding]:
    """By the names of the recordings (UCF101's groups, Kinetics' videos), where the manifests know them."""
    splits: dict[str, set[str]] = {}
    for split, manifest in sets.items():
        if manifest.group is not None and manifest.group_names is not None:
            for number in np.unique(manifest.group[manifest.group >= 0]):
                splits.setdefault(manifest.group_names[int(number)], set()).add(split)
    shared = [(name, ", ".join(sorted(where))) for name, where in splits.items() if len(where) > 1]
    yield finding("error", "recordings across splits", "recordings with clips in more than one split", shared)


def on_classes(sets: AnySets) -> Iterator[Finding]:
    """Whether splits have the same, and whether there is enough of each."""
    names = {manifest.classes for manifest in sets.values()}
    if len(names) > 1:
        lists = [(split, counted(len(m.classes), "class"), ", ".join(m.classes[:5])) for split, m in sets.items()]
        yield finding("error", "classes differ", "splits with classes of their own (open one with the other's)", lists)
    for split, manifest in sets.items():
        counts = manifest.class_counts()
        empty = [(manifest.classes[i], f"class {i}") for i in np.flatnonzero(counts == 0)]
        level: Level = "warning" if split in ("train", "all") else "note"
        yield finding(level, f"empty classes in {split}", "classes without a row", empty)
        if len(counts) and counts.max() >= _MANY * max(counts[counts > 0].min(initial=counts.max()), 1):
            order = np.argsort(counts)
            table = [(manifest.classes[i], counted(counts[i], "row")) for i in (*order[:5], *order[-5:])]
            text = f"classes: the largest has {counted(counts.max(), 'row')}, the smallest {counts[counts > 0].min()}"
            yield Finding("note", f"unbalanced in {split}", text, len(counts), tuple(table))


def _sides(sets: Sets) -> Iterator[Finding]:
    pairs = flip_sensitive(next(iter(sets.values())).classes)
    yield finding(
        "warning", "sides", "classes, or pairs of them, that name a side, so that training mirrors nothing", pairs
    )


def _rates(sets: Sets, records: Records, spec: InputSpec | None) -> Iterator[Finding]:
    """Frame rates far from those that a network was trained with: its strides then cover another time."""
    if spec is None or spec.fps is None or spec.sampling != "dense":
        return
    odd = [
        (path, f"{fps:.2f} frames per second")
        for path in dict.fromkeys(m.path(i) for m in sets.values() for i in range(len(m)))
        if (fps := records[path].fps) and not spec.fps / 1.5 <= fps <= spec.fps * 1.5
    ]
    yield finding("note", "frame rates", f"videos far from the network's {spec.fps:g} frames per second", odd)


def _firsts(table: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(row[0] for row in table)


def finding(
    level: Level, title: str, text: str, table: Iterable[tuple[str, ...]], paths: tuple[str, ...] = ()
) -> Finding:
    """What every row of the table is; nothing was found where it is empty."""
    table = tuple(table)
    return Finding(level, title, f"{text}: {len(table)}", len(table), table[:EXAMPLES], paths[: EXAMPLES // 2])

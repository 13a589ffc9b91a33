"""A data set as a table: which files, which labels, which part of each file. Arrays only, so that it stays small.

Ten million rows of Python objects cost gigabytes, and again in every worker of a data loader, whose reference counts
copy each page they touch. Here a row costs its path and a dozen bytes, and a manifest read from its file is mapped:
all workers share the same pages, and only the file's name travels to them.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from uniformer.datasets.strings import Strings, check_offsets, offsets_of, spans
from uniformer.errors import InputError, shown
from uniformer.labels import LONGEST_NAME, unfit, whole_number
from uniformer.support.files import atomic_path
from uniformer.support.safetensors_header import TensorEntry, read_header
from uniformer.support.texts import parse_json

if TYPE_CHECKING:
    from uniformer.datasets.samples import TorchDataset
    from uniformer.reading.options import Augment
    from uniformer.reading.pipeline import SpecSource

Kind = Literal["image", "video", "frames"]
KINDS = ("image", "video", "frames")  #: image files, video files, folders of frames
FORMAT = "uniformer manifest 1"  #: in the header of a saved manifest

MAX_CLASSES = 1 << 24  #: of labels without names: more is a column misread
MOST_ROWS = 1 << 20  #: of a classifier whose rows they are


@dataclass(frozen=True)
class Item:
    """One row."""

    path: str
    labels: tuple[int, ...]  #: rows of the classifier; exactly one unless the manifest is multi-label
    start: float | None = None  #: seconds from the first frame; None for the whole file
    end: float | None = None
    frames: int | None = None  #: how many the file has, None if not known yet
    group: str | None = None  #: the recording it was cut from: rows of one group belong in one split
    readable: bool = True  #: False where a scan could not decode it

    @property
    def span(self) -> tuple[float, float] | None:
        """The part of the video, start and end in seconds; None for all of it."""
        return None if self.start is None or self.end is None else (self.start, self.end)


@dataclass(frozen=True, eq=False)
class Manifest:
    """A data set. `manifest[i]` is an `Item`; see `from_items`, `save`, `load`.

    Raises `InputError` where the arrays disagree in length or a label is outside the classes.
    """

    kind: Kind
    classes: tuple[str, ...]  #: position = label
    paths: Strings  #: relative to `root`, or absolute
    labels: npt.NDArray[np.int32]  #: (N,), or all rows' labels one after the other where `label_offsets` is given
    label_offsets: npt.NDArray[np.int64] | None = None  #: (N + 1,) of a multi-label set
    start: npt.NDArray[np.float64] | None = None  #: (N,) seconds, NaN for the whole file
    end: npt.NDArray[np.float64] | None = None
    frames: npt.NDArray[np.int32] | None = None  #: (N,), -1 where not known
    group: npt.NDArray[np.int32] | None = None  #: (N,) places in `group_names`, -1 for none
    group_names: Strings | None = None
    readable: npt.NDArray[np.bool_] | None = None  #: (N,) as a scan found; None before one
    root: str = ""
    origin: str = ""  #: one line that says how the source was understood
    numbers_from: int | None = None  #: where nobody named the classes: the number that stands for row 0
    file: str | None = field(default=None, compare=False)  #: where the arrays are mapped from

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"expected a manifest of kind {', '.join(KINDS)}, got {self.kind!r}")
        rows = len(self)
        for name in ("start", "end", "frames", "group", "readable"):
            column = getattr(self, name)
            if column is not None and column.shape != (rows,):
                raise InputError(f"expected {rows} values of {name}, one a path, got {column.shape}")
        if self.label_offsets is None and len(self.labels) != rows:
            raise InputError(f"expected {rows} labels, one a path, got {len(self.labels)}")
        if self.label_offsets is not None:
            if len(self.label_offsets) != rows + 1:
                raise InputError(
                    f"expected the labels of {rows} rows, got {len(self.label_offsets) - 1} rows of labels"
                )
            check_offsets("labels", self.label_offsets, len(self.labels))
        _check_names(self.classes)
        numbers = [whole_number(name) for name in self.classes] if self.numbers_from is not None else []
        if not all(n is not None and 0 <= n - (self.numbers_from or 0) < MAX_CLASSES for n in numbers):
            raise InputError(f"expected classes numbered from {self.numbers_from}, got other names")
        if self.group is not None and self.group.max(initial=-1) >= len(self.group_names or ()):
            raise InputError(f"expected groups with names, got {len(self.group_names or ())} names for more groups")
        if len(self.labels):
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or (self.classes and high >= len(self.classes)):
                raise InputError(f"expected labels in 0 .. {len(self.classes) - 1}, got labels in {low} .. {high}")

    @classmethod
    def from_items(
        cls,
        items: Iterable[Item],
        *,
        kind: Kind,
        classes: Sequence[str],
        root: str | os.PathLike[str] = "",
        origin: str = "",
        multi_label: bool = False,
    ) -> Manifest:
        """Takes the items one by one, so that a generator of any length will do.

        Raises `InputError` for a row with other than one label, unless `multi_label`, and as the class does.
        """
        columns = _Columns(multi_label)
        paths = Strings.pack(columns.take(items))
        return cls(
            kind=kind, classes=tuple(classes), paths=paths, root=os.fspath(root), origin=origin, **columns.arrays()
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        i = index % len(self)
        start, end, frames, group = (
            None if column is None else column[i].item() for column in (self.start, self.end, self.frames, self.group)
        )
        return Item(
            path=self.path(i),
            labels=self.labels_of(i),
            start=None if start is None or start != start else start,  # NaN
            end=None if end is None or end != end else end,
            frames=None if frames is None or frames < 0 else frames,
            group=None if group is None or group < 0 or self.group_names is None else self.group_names[group],
            readable=self.readable is None or bool(self.readable[i]),
        )

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    def path(self, index: int) -> str:
        """Where row `index` lies: under `root` unless its path is absolute."""
        return os.path.join(self.root, self.paths[index])

    def labels_of(self, index: int) -> tuple[int, ...]:
        if self.label_offsets is None:
            return (int(self.labels[index]),)
        return tuple(self.labels[self.label_offsets[index] : self.label_offsets[index + 1]].tolist())

    @property
    def is_multi_label(self) -> bool:
        return self.label_offsets is not None

    def item_names(self) -> tuple[str, ...]:
        """The path of every row as it stands here, with the part in seconds where one is meant: 'a.mp4#3.5-7'."""
        if self.start is None or self.end is None:
            return tuple(self.paths)
        spans = zip(self.paths, self.start.tolist(), self.end.tolist(), strict=True)
        return tuple(path if start != start else f"{path}#{start:g}-{end:g}" for path, start, end in spans)

    def label_array(self, classes: int) -> npt.NDArray[Any]:
        """The labels of every row: int32 (N,), or bool (N, classes) of a multi-label set."""
        if not self.is_multi_label:
            return np.array(self.labels, np.int32)
        labels = np.zeros((len(self), classes), bool)
        for i in range(len(self)):
            labels[i, list(self.labels_of(i))] = True
        return labels

    def class_counts(self) -> npt.NDArray[np.int64]:
        """Rows of each class, (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def select(self, indices: Sequence[int] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Manifest:
        """The given rows, in the order given: row numbers (from the end where negative) or a mask of all rows."""
        rows = np.asarray(indices)
        rows = np.flatnonzero(rows) if rows.dtype == bool else np.arange(len(self))[rows.astype(np.int64)]
        taken: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[rows]
            for name in ("start", "end", "frames", "group", "readable")
        }
        if self.label_offsets is None:
            taken["labels"] = self.labels[rows]
        else:
            starts, ends = self.label_offsets[:-1][rows], self.label_offsets[1:][rows]
            taken["labels"] = self.labels[spans(starts, ends)]
            taken["label_offsets"] = offsets_of(ends - starts)
        return replace(self, paths=self.paths.take(rows), file=None, **taken)

    def by_number(self) -> Manifest:
        """Where nobody named the classes: each label is the row of a classifier that its number says. Else as it is.

        Raises `InputError` for more rows than a classifier has.
        """
        if self.numbers_from is None:
            return self
        rows = np.array([(whole_number(name) or 0) - self.numbers_from for name in self.classes], np.int32)
        if (rows == np.arange(len(rows))).all():
            return self
        if int(rows.max()) >= MOST_ROWS:
            raise InputError(f"expected labels that are rows of a classifier, below {MOST_ROWS}, got {int(rows.max())}")
        names = tuple(str(row + self.numbers_from) for row in range(int(rows.max()) + 1))
        return replace(self, labels=rows[self.labels], classes=names, file=None)

    def usable(self) -> Manifest:
        """The rows that a scan could read; all of them before one."""
        return self if self.readable is None or self.readable.all() else self.select(self.readable)

    def torch_dataset(
        self, spec: SpecSource, *, training: bool = True, augment: Augment | None = None, seed: int = 0
    ) -> TorchDataset:
        """The rows as a map-style `torch.utils.data.Dataset`, for any `DataLoader` and loop of one's own.

        `[i]` is what the network is fed for row i, and its label: an int, or 0 and 1 for each class, float32 (K,), of a
        multi-label set. In training: one clip (3, T, h, w) drawn from the video, or the picture (3, h, w), augmented;
        the draws follow from (seed, epoch, i) alone, whatever the workers, and `set_epoch` says which epoch it is. Not
        in training: the test views, (V, 3, ...), or (3, ...) where the input has one.

        Args:
            spec: an `InputSpec`, a `Contract`, or a checkpoint whose input is taken.
            augment: for training; None takes `Augment`'s defaults, and no mirroring where class names say a side.

        Raises:
            InputError: the items are not what the network is fed. Later, for a row: its file cannot be read; `usable`
                leaves out those that a scan found.
        """
        from uniformer.datasets.samples import TorchDataset
        from uniformer.reading.pipeline import input_of, usual_augment

        fed, _ = input_of(spec)
        if augment is not None and not training:
            raise InputError("expected augment with training=True only, got it for test views")
        if training:
            augment = augment or usual_augment(fed, self.classes)
        return TorchDataset(self, fed, augment, seed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """One safetensors file, written whole or not at all. Raises `InputError` where it cannot be written."""
        from safetensors.numpy import save_file

        facts: dict[str, Any] = {name: getattr(self, name) for name in _FACTS} | {"root": os.path.abspath(self.root)}
        facts |= {} if self.numbers_from is None else {"numbers_from": self.numbers_from}
        # Bytes that are no text, in a folder's name, come as lone surrogates, which JSON's escapes carry.
        metadata = {"format": FORMAT, "manifest": json.dumps(facts)}
        with atomic_path(path) as temporary:
            save_file({k: np.ascontiguousarray(v) for k, v in _arrays(self).items()}, temporary, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Manifest:
        """Map a saved manifest: nothing is read until it is used. Raises `InputError` for any other file."""
        metadata, arrays = _map_file(Path(path))
        try:
            facts = _facts(parse_json(metadata["manifest"], str(path), "a saved manifest"))
            strings: dict[str, Any] = {
                name: Strings(arrays.pop(f"{name}.blob"), arrays.pop(f"{name}.offsets"))
                for name in ("paths", "group_names")
                if f"{name}.blob" in arrays
            }
            columns: dict[str, Any] = {**facts, **strings, **arrays}
            return cls(**columns, file=os.path.abspath(path))
        except InputError as error:
            raise InputError(f"{path}: expected a saved manifest, found a damaged one: {error}") from None
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            why = shown(f"{type(error).__name__}: {error}", 200)
            raise InputError(f"{path}: expected a saved manifest, found one with other fields: {why}") from None

    def __reduce__(self) -> Any:
        if self.file is not None:  # a worker maps the same file
            return Manifest.load, (self.file,)
        return Manifest, tuple(getattr(self, f.name) for f in fields(self))


def is_saved_manifest(path: str | os.PathLike[str]) -> bool:
    try:
        _map_file(Path(path))
    except InputError:
        return False
    return True


class _Columns:
    """The columns of `from_items` as they grow; `take` passes the paths on."""

    def __init__(self, multi_label: bool):
        self._multi_label = multi_label
        self._labels, self._label_offsets = array("i"), array("q", [0])
        self._start, self._end = array("d"), array("d")
        self._frames, self._group = array("i"), array("i")
        self._readable = bytearray()
        self._group_ids: dict[str, int] = {}

    def take(self, items: Iterable[Item]) -> Iterator[str]:
        for item in items:
            if len(item.labels) != 1 and not self._multi_label:
                raise InputError(f"{item.path}: expected one label, got {len(item.labels)}")
            self._labels.extend(item.labels)
            self._label_offsets.append(len(self._labels))
            self._start.append(np.nan if item.start is None else item.start)
            self._end.append(np.nan if item.end is None else item.end)
            self._frames.append(-1 if item.frames is None else item.frames)
            ids = self._group_ids
            self._group.append(-1 if item.group is None else ids.setdefault(item.group, len(ids)))
            self._readable.append(item.readable)
            yield item.path

    def arrays(self) -> dict[str, Any]:
        """The columns by name; one that no row filled is left out."""
        start, end = np.frombuffer(self._start), np.frombuffer(self._end)
        frames, group = np.frombuffer(self._frames, np.int32), np.frombuffer(self._group, np.int32)
        readable = np.frombuffer(bytes(self._readable), np.bool_)
        is_cut = not (np.isnan(start).all() and np.isnan(end).all())
        return {
            "labels": np.frombuffer(self._labels, np.int32),
            "label_offsets": np.frombuffer(self._label_offsets, np.int64) if self._multi_label else None,
            "start": start if is_cut else None,
            "end": end if is_cut else None,
            "frames": frames if (frames >= 0).any() else None,
            "group": group if self._group_ids else None,
            "group_names": Strings.pack(self._group_ids) if self._group_ids else None,
            "readable": None if readable.all() else readable,
        }


def _arrays(manifest: Manifest) -> dict[str, npt.NDArray[Any]]:
    """Every array there is, by the name it is saved under."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name in (f.name for f in fields(manifest)):
        value = getattr(manifest, name)
        if isinstance(value, Strings):
            found[f"{name}.blob"], found[f"{name}.offsets"] = value.blob, value.offsets
        elif isinstance(value, np.ndarray):
            found[name] = value
    return found


def _check_names(names: tuple[str, ...]) -> None:
    """Raises `InputError` for what cannot be the name of a class. All at once, as a network may have a million."""
    text = "\n".join(names)
    if not names or (
        text.isascii() and len(text.splitlines()) == len(names) and len(max(names, key=len)) < LONGEST_NAME
    ):
        return
    for name in names:
        if why := unfit(name):
            raise InputError(f"expected names of classes, found {why}: '{shown(name)}'")


_FACTS = ("kind", "classes", "root", "origin")  # beside the arrays


def _facts(facts: Any) -> dict[str, Any]:
    """What a saved manifest says beside its arrays. Raises `TypeError`, or as a mapping does, for anything else."""
    found = {name: facts[name] for name in _FACTS}
    for name, value in found.items():
        texts = value if name == "classes" else [value]
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            raise TypeError(f"{name} is {shown(value)}")
    numbers_from = facts.get("numbers_from")
    if numbers_from is not None and type(numbers_from) is not int:
        raise TypeError(f"numbers_from is {shown(numbers_from)}")
    return {**found, "classes": tuple(found["classes"]), "numbers_from": numbers_from}


#: safetensors' name of the numbers in each column, where they are not int32.
_OTHERS = {
    "paths.blob": "U8",
    "group_names.blob": "U8",
    "readable": "BOOL",
    "start": "F64",
    "end": "F64",
    "paths.offsets": "I64",
    "group_names.offsets": "I64",
    "label_offsets": "I64",
}
_DTYPES = {"U8": "u1", "BOOL": "?", "I32": "<i4", "I64": "<i8", "F64": "<f8"}  # safetensors' names and numpy's


def _map_file(path: Path) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Metadata and arrays of a safetensors file, mapped read-only: the package's own reader copies."""
    header = read_header(path, "a saved manifest")
    if header is None or header.metadata.get("format") != FORMAT:
        found = "another kind of file" if header is None else shown(repr(header.metadata.get("format")))
        raise InputError(f"{path}: expected a saved manifest ({FORMAT!r}), found {found}")
    size = path.stat().st_size - header.start
    data = np.memmap(path, np.uint8, "r", header.start) if size else np.empty(0, np.uint8)
    try:
        return header.metadata, {name: _column(data, name, entry) for name, entry in header.tensors.items()}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: expected a saved manifest, found one with other columns: {shown(error)}") from None


def _column(data: npt.NDArray[np.uint8], name: str, entry: TensorEntry) -> npt.NDArray[Any]:
    if entry.dtype != _OTHERS.get(name, "I32") or len(entry.shape) != 1:
        raise ValueError(f"{shown(name)} of {shown(entry.dtype)} {shown(entry.shape)}")
    column = data[entry.begin : entry.end].view(_DTYPES[entry.dtype]).reshape(entry.shape)
    return np.asarray(column)  # not memmap, whose every slice would carry its bookkeeping

"""What a segmenter said of a data set, and how good that is: `SegmentationScores`. numpy only.

Intersections and unions are summed over the set before they are divided, as the published figures are (mmsegmentation,
`mean_iou`). A picture without an answer is never left out in silence: its pixels are missed, unless the caller asks to
skip it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uniformer.errors import InputError, check_word
from uniformer.labels import IGNORED
from uniformer.reading.pictures import strips
from uniformer.support.files import make_folder, write_whole
from uniformer.tasks.score_files import facts_of, read_npz, told_by, write_npz
from uniformer.tasks.scores import Missing, shares_of

FORMAT = "uniformer segmentation scores 1"
PREDICTIONS = "predictions"  #: the folder of label maps
CELLS = ("item", "true", "said", "count")  # columns
TOLD = ("paths", "classes", "palette")  # beside the arrays

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cells:
    """Pixels counted by picture, true class and answer: one row for each that occurs."""

    item: Ints  #: (C,), the picture's row in its data set
    true: Ints  #: (C,)
    said: Ints  #: (C,); K for pixels without an answer
    count: Ints  #: (C,), pixels

    @classmethod
    def counted(cls, item: int, true: npt.NDArray[Any], said: npt.NDArray[Any] | None, classes: int) -> Cells:
        """Of one picture: labels (H, W), those that are `IGNORED` left out; `said` is None without an answer."""
        counts = np.zeros(classes * (classes + 1), np.int64)
        for rows in strips(*true.shape):
            valid, part = true[rows] != IGNORED, None if said is None else said[rows]
            answers = classes if part is None else part[valid].astype(np.int64).clip(0, classes)
            counts += np.bincount(true[rows][valid].astype(np.int64) * (classes + 1) + answers, minlength=len(counts))
        cells = np.flatnonzero(counts)
        return cls(np.full(len(cells), item), *np.divmod(cells, classes + 1), counts[cells])

    @classmethod
    def joined(cls, parts: Sequence[Cells]) -> Cells:
        empty = np.zeros(0, np.int64)
        return cls(*(np.concatenate([empty, *(getattr(part, name) for part in parts)]) for name in CELLS))

    def select(self, rows: npt.NDArray[Any]) -> Cells:
        """Some rows, by their places or as bool (C,)."""
        return Cells(*(getattr(self, name)[rows] for name in CELLS))

    def table(self, classes: int) -> Ints:
        """(K, K + 1): pixels of class `row` that were taken for class `column`, the last for no answer."""
        table = np.zeros((classes, classes + 1), np.int64)
        np.add.at(table, (self.true, self.said), self.count)
        return table


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """A segmenter's answers for N pictures and K classes, counted against the truth."""

    cells: Cells
    ok: npt.NDArray[np.bool_]  #: (N,), whether there is an answer
    paths: tuple[str, ...]  #: of the pictures
    classes: tuple[str, ...]  #: position = label
    places: npt.NDArray[np.uint8]  #: (256,): the class that each label of the data's maps is; `IGNORED` for none
    palette: tuple[tuple[int, int, int], ...] = ()  #: colours of the classes, if they have some
    errors: Mapping[int, str] = field(default_factory=dict)  #: why a picture has no answer
    answers: Mapping[int, bytes] = field(default_factory=dict)  #: label maps as PNG by row; not kept with the scores

    def __post_init__(self) -> None:
        count, classes, cells = len(self.paths), len(self.classes), self.cells
        if self.ok.shape != (count,) or self.places.shape != (256,):
            raise InputError(f"expected marks of {count} pictures, got {self.ok.shape}")
        for name, end in (("item", count), ("true", classes), ("said", classes + 1)):
            column = getattr(cells, name)
            if len(column) != len(cells.count) or (len(column) and not 0 <= column.min() <= column.max() < end):
                raise InputError(f"expected pixels with {name} in 0 .. {end - 1}, got others")

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, label: int) -> str:
        return self.classes[label]

    @cached_property
    def table(self) -> Ints:
        """The confusion matrix of the set, (K, K + 1): `Cells.table`."""
        return self.cells.table(len(self.classes))

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(K,), whether the data have the class: others are in no mean."""
        return np.isin(np.arange(len(self.classes)), self.places)

    def select(self, rows: npt.NDArray[Any]) -> SegmentationScores:
        """The given pictures: a mask, or numbers that rise."""
        rows = np.arange(len(self))[rows]
        place = np.full(len(self), -1)
        place[rows] = np.arange(len(rows))
        mine = self.cells.select(place[self.cells.item] >= 0)
        return replace(
            self,
            cells=replace(mine, item=place[mine.item]),
            ok=self.ok[rows],
            paths=tuple(self.paths[i] for i in rows),
            errors={int(place[i]): why for i, why in self.errors.items() if place[i] >= 0},
            answers={int(place[i]): png for i, png in self.answers.items() if place[i] >= 0},
        )

    def metrics(self, missing: Missing = "error") -> dict[str, float]:
        """Every measure by name, in 0..1: miou, macc (means over the classes) and aacc (the share of pixels that are
        right). `missing="skip"` leaves pictures without an answer out.

        Raises `InputError` when there is nothing to score, and for another word as `missing`.
        """
        check_word("missing", missing, Missing)
        counted = self if missing == "error" or self.ok.all() else self.select(self.ok)
        if not counted.table.any():
            raise InputError(f"expected at least one labelled pixel to score, got none in {len(counted)} pictures")
        each = per_class(counted.table)
        return {
            "items": float(len(counted)),
            "failed": float((~self.ok).sum()),
            "miou": _mean(each.overlap[counted.known]),
            "macc": _mean(each.accuracy[counted.known]),
            "aacc": float(each.right.sum() / each.true.sum()),
        }

    def facts(self) -> dict[str, Any]:
        """What metrics.json says beside the measures: of each class its pixels, how many were said and were right."""
        each = per_class(self.table)
        columns = zip(each.true.tolist(), each.said.tolist(), each.right.tolist(), each.overlap.tolist(), strict=True)
        return {
            "classes": [
                {"name": self.name(k), "pixels": true, "said": said, "right": right, "iou": None if iou != iou else iou}
                for k, (true, said, right, iou) in enumerate(columns)
            ]
        }

    def by_picture(self) -> npt.NDArray[np.float64]:
        """The mean overlap of the classes that are in each picture or its answer, (N,); NaN without labelled pixels."""
        found = np.full(len(self), np.nan)
        order = np.argsort(self.cells.item, kind="stable")
        items, first = np.unique(self.cells.item[order], return_index=True)
        for item, rows in zip(items.tolist(), np.split(order, first[1:]), strict=True):
            table = self.cells.select(rows).table(len(self.classes))
            found[item] = _mean(per_class(table).overlap[self.known])
        return found

    # ---- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .npz file, without the label maps."""
        arrays = {name: getattr(self.cells, name) for name in CELLS}
        write_npz(path, facts_of(self, FORMAT, TOLD), {**arrays, "ok": self.ok, "places": self.places})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SegmentationScores:
        """Read what `save` wrote. Raises `InputError` for any other file."""

        def made(facts: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> SegmentationScores:
            told = {**told_by(facts, TOLD), **{name: arrays.pop(name) for name in ("ok", "places")}}
            told["palette"] = tuple((int(r), int(g), int(b)) for r, g, b in told["palette"])
            return cls(Cells(**arrays), **told)

        return read_npz(path, FORMAT, made)

    def save_answers(self, folder: str | os.PathLike[str]) -> dict[str, Path]:
        """Write each answer's label map as a PNG into the folder `predictions`: its path."""
        paths = answer_paths(folder, self.paths)
        make_folder(Path(folder, PREDICTIONS))
        for row, png in self.answers.items():
            write_whole(paths[row], png)
        return {PREDICTIONS: Path(folder, PREDICTIONS)}


@dataclass(frozen=True)
class PerClass:
    """Pixels of each class: true ones, those said, those that are both; shares are NaN of nothing. All (K,)."""

    true: Ints
    said: Ints
    right: Ints

    @property
    def overlap(self) -> npt.NDArray[np.float64]:
        """Intersection over union."""
        return shares_of(self.right, self.true + self.said - self.right)

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """The share of the class's pixels that are right."""
        return shares_of(self.right, self.true)


def per_class(table: Ints) -> PerClass:
    """Of a confusion matrix (K, K + 1)."""
    return PerClass(table.sum(axis=1), table[:, :-1].sum(axis=0), np.diagonal(table).copy())


def _mean(shares: npt.NDArray[np.float64]) -> float:
    """Of those that are none of nothing."""
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if len(known) else float("nan")


def answer_names(paths: Sequence[str]) -> list[str]:
    """Of each picture's label map: the picture's name, its folders' names before it where several have one name."""
    stems = [Path(path).stem for path in paths]
    if len({stem.casefold() for stem in stems}) < len(stems):
        stems = ["-".join(Path(path).with_suffix("").parts).strip("/-") for path in paths]
    if len({stem.casefold() for stem in stems}) < len(stems):
        stems = [f"{row + 1}-{stem}" for row, stem in enumerate(stems)]
    return [f"{stem}.png" for stem in stems]


def answer_paths(folder: str | os.PathLike[str], pictures: Sequence[str]) -> list[Path]:
    """Where `save_answers` writes."""
    return [Path(folder, PREDICTIONS, name) for name in answer_names(pictures)]

"""All instances of a data set as a few arrays: boxes, classes, masks, key points; a coordinate is eight bytes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from uniformer.datasets.strings import Strings, offsets_of, spans
from uniformer.reading.run_lengths import RunLengths

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

Shape = list[Floats] | RunLengths  #: polygons, each (P, 2) of x and y, or run lengths


@dataclass(frozen=True, eq=False)
class Shapes:
    """The masks of M instances."""

    points: Floats  #: (P, 2) of all polygons
    polygons: Ints  #: (Q + 1,): where each polygon begins in `points`
    starts: Ints  #: (M + 1,): where each instance begins in `polygons`
    runs: Strings  #: M packed masks, "" for polygons
    sizes: npt.NDArray[np.int32]  #: (M, 2): height, width of the packed masks

    def __getitem__(self, row: int) -> Shape:
        if runs := self.runs[row]:
            return {"size": self.sizes[row].tolist(), "counts": runs}
        ends = self.polygons[self.starts[row] : self.starts[row + 1] + 1].tolist()
        return [self.points[begin:end] for begin, end in pairwise(ends)]

    def counts(self) -> Ints:
        """(M,): polygons of each, or 1 for a packed mask; 0 where there is no mask."""
        return np.diff(self.starts) + self.are_packed()

    def are_packed(self) -> Bools:
        """(M,)"""
        return np.diff(self.runs.offsets) > 0

    def owners(self) -> Ints:
        """(Q,): the instance of each polygon."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def keep(self, polygons: Bools) -> Shapes:
        """Less the polygons that are not marked (Q,)."""
        counts = np.bincount(self.owners()[polygons], minlength=len(self.starts) - 1)
        return Shapes(*self._of(polygons), offsets_of(counts), self.runs, self.sizes)

    def take(self, rows: Ints) -> Shapes:
        """Of the given instances, in the order given."""
        starts, ends = self.starts[:-1][rows], self.starts[1:][rows]
        chosen = self._of(spans(starts, ends))
        return Shapes(*chosen, offsets_of(ends - starts), self.runs.take(rows), self.sizes[rows])

    def _of(self, polygons: Bools | Ints) -> tuple[Floats, Ints]:
        """Points of these, and where each polygon begins in them."""
        begins, ends = self.polygons[:-1][polygons], self.polygons[1:][polygons]
        return self.points[spans(begins, ends)], offsets_of(ends - begins)


@dataclass(frozen=True, eq=False)
class Instances:
    """The M instances of N pictures, those of one together: `offsets[i]` to `offsets[i + 1]` are picture i's."""

    offsets: Ints  #: (N + 1,)
    boxes: npt.NDArray[np.float32]  #: (M, 4) x1, y1, x2, y2
    labels: npt.NDArray[np.int32]  #: (M,)
    crowd: Bools  #: (M,)
    areas: Floats  #: (M,)
    shapes: Shapes | None = None  #: None where the set has no masks
    keypoints: npt.NDArray[np.float32] | None = None  #: (M, K, 3)

    @classmethod
    def none(cls, pictures: int) -> Instances:
        """Of a set whose labels are maps."""
        boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
        return cls(np.zeros(pictures + 1, np.int64), boxes, labels, np.zeros(0, bool), np.zeros(0))

    def learnt(self) -> Bools:
        """(M,): neither crowds, nor people without a key point that is marked."""
        return ~self.crowd & (True if self.keypoints is None else (self.keypoints[..., 2] > 0).any(1))

    def take(self, pictures: Ints) -> Instances:
        """Of the given pictures, in the order given."""
        starts, ends = self.offsets[:-1][pictures], self.offsets[1:][pictures]
        rows = spans(starts, ends)
        return Instances(
            offsets_of(ends - starts),
            self.boxes[rows],
            self.labels[rows],
            self.crowd[rows],
            self.areas[rows],
            None if self.shapes is None else self.shapes.take(rows),
            None if self.keypoints is None else self.keypoints[rows],
        )

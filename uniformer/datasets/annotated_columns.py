"""What is in the pictures of a data set, as arrays that grow while its files are read, and what was odd in them.

118,000 pictures with 860,000 instances are gigabytes as Python's objects; here a coordinate costs its eight bytes.
What cannot be used is left out, and counted in a `Finding`; nothing is mended in silence.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from uniformer.datasets.findings import EXAMPLES, Found, Level
from uniformer.datasets.instances import Bools, Floats, Instances, Ints, Shapes
from uniformer.datasets.polygons import FARTHEST
from uniformer.datasets.strings import Strings, offsets_of, spans
from uniformer.errors import InputError, shown
from uniformer.labels import unfit

MOST_SIDE = 1 << 20  #: of a picture, pixels
MOST_KEYPOINTS = 1 << 8  #: of an instance: what has none takes as much memory as what has all
_SLACK = 1.0  # pixels by which boxes and points may leave a picture before it is said: they are often rounded


@dataclass(eq=False)
class Columns:
    """Pictures and instances as a reader meets them. An instance names its picture and its class by their numbers, -1
    for one that is not there; it may come before either."""

    found: Found = field(default_factory=Found)
    paths: list[str] = field(default_factory=list)  #: relative to the data set
    sizes: array[int] = field(default_factory=lambda: array("i"))  #: height, width of each picture; -1: not known
    pictures: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("i"))
    boxes: array[float] = field(default_factory=lambda: array("d"))  #: x, y, width, height; NaN: by its polygons
    areas: array[float] = field(default_factory=lambda: array("d"))  #: NaN: the box's
    crowd: bytearray = field(default_factory=bytearray)
    points: array[float] = field(default_factory=lambda: array("d"))
    polygons: array[int] = field(default_factory=lambda: array("q"))  #: points of each
    shapes: array[int] = field(default_factory=lambda: array("q"))  #: polygons of each instance
    no_polygons: array[int] = field(default_factory=lambda: array("q"))  #: the instance of each that is none
    runs: list[str] = field(default_factory=list)
    run_sizes: array[int] = field(default_factory=lambda: array("i"))
    keypoints: array[float] = field(default_factory=lambda: array("d"))
    keypoint_counts: array[int] = field(default_factory=lambda: array("q"))  #: numbers of each instance: 3 K

    def add_picture(self, path: str, height: int = -1, width: int = -1) -> int:
        self.paths.append(path)
        self.sizes.extend((height, width))
        return len(self.paths) - 1

    def add_instance(
        self,
        picture: int,
        label: int,
        box: Iterable[float],
        *,
        area: float = np.nan,
        is_crowd: bool = False,
        polygons: Iterable[array[float]] = (),
        rle: dict[str, Any] | None = None,
        keypoints: array[float] | None = None,
    ) -> None:
        """`box` is x, y, width, height in pixels. Polygons are x, y, x, y, ...; one that is none is left out."""
        self.pictures.append(picture)
        self.labels.append(label)
        self.boxes.extend(box)
        self.areas.append(area)
        self.crowd.append(is_crowd)
        count = 0
        for polygon in polygons:
            if len(polygon) < 6 or len(polygon) % 2:
                self.no_polygons.append(len(self.labels) - 1)
                continue
            self.points.extend(polygon)
            self.polygons.append(len(polygon) // 2)
            count += 1
        self.shapes.append(count)
        self.runs.append(rle["counts"] if rle else "")
        self.run_sizes.extend(rle["size"] if rle else (0, 0))
        if keypoints is not None:
            self.keypoints.extend(keypoints)
        self.keypoint_counts.append(0 if keypoints is None else len(keypoints))

    def as_shapes(self) -> Shapes:
        return Shapes(
            np.frombuffer(self.points, np.float64).reshape(-1, 2),
            offsets_of(np.frombuffer(self.polygons, np.int64)),
            offsets_of(np.frombuffer(self.shapes, np.int64)),
            Strings.pack(self.runs),
            np.frombuffer(self.run_sizes, np.int32).reshape(-1, 2),
        )

    def instances(self, classes: int, keypoints: int | None = None, *, masks: bool = True) -> Instances:
        """What can be used, sorted by picture; what cannot is in `found`.

        Args:
            classes: how many there are.
            keypoints: how many an instance of a pose set has.
            masks: whether polygons and runs are of use.
        """
        return _Sorted(self, classes, keypoints, masks).result()


class _Sorted:
    """The checks of `Columns.instances`, one after the other; `keep` says which instances passed those before."""

    def __init__(self, columns: Columns, classes: int, keypoints: int | None, masks: bool):
        self.found, self.paths, self.classes = columns.found, columns.paths, classes
        self.picture = np.frombuffer(columns.pictures, np.int64)
        self.labels = np.frombuffer(columns.labels, np.int32)
        self.crowd = np.frombuffer(columns.crowd, np.bool_)
        self.boxes = _corners(np.frombuffer(columns.boxes, np.float64).reshape(-1, 4))
        self.areas = np.frombuffer(columns.areas, np.float64)
        self.shapes = columns.as_shapes() if masks else None
        self.no_polygons = np.frombuffer(columns.no_polygons, np.int64)
        self.points, self.flat = keypoints, np.frombuffer(columns.keypoints, np.float64)
        self.counts = np.frombuffer(columns.keypoint_counts, np.int64)
        sizes = np.frombuffer(columns.sizes, np.int32).reshape(-1, 2).astype(np.float64)
        #: (M, 2): height, width of each instance's picture, -1 where not known
        self.sizes = np.concatenate([sizes, [[-1.0, -1.0]]])[np.where(self.picture < 0, len(sizes), self.picture)]
        self.keep = np.ones(len(self.picture), bool)

    def result(self) -> Instances:
        self._references()
        if self.shapes is not None:
            self.shapes = self._sound(self.shapes)
            self._draw_boxes(self.shapes)
        self._boxes()
        keypoints = None if self.points is None else self._keypoints(self.points)
        order = np.argsort(self.picture, kind="stable")
        order = order[self.keep[order]]
        shapes = self.shapes.take(order) if self.shapes is not None else None
        if shapes is not None and not shapes.counts().any():
            shapes = None
        per_picture = np.bincount(self.picture[order], minlength=len(self.paths))
        self._remarks(order, shapes, per_picture)
        return Instances(
            offsets_of(per_picture),
            self.boxes[order].astype(np.float32),
            self.labels[order],
            self.crowd[order],
            self.areas[order],
            shapes,
            None if keypoints is None else keypoints[order],
        )

    def _references(self) -> None:
        self._leave_out(
            self.picture < 0, "error", "unknown pictures", "annotations of pictures that are not listed, left out"
        )
        outside = (self.labels < 0) | (self.labels >= self.classes)
        self._leave_out(outside, "error", "unknown classes", "annotations of classes that are not there, left out")

    def _sound(self, shapes: Shapes) -> Shapes:
        """Less polygons with points that are no numbers, or absurd ones; instances with runs of another size go."""
        what = "polygons that are none (an odd count of numbers, or fewer than three points), left out"
        self._say(self.no_polygons, "warning", "empty polygons", what)
        is_far = np.logical_not((np.abs(shapes.points) <= FARTHEST).all(1))  # or NaN
        is_bad = _any_in(is_far, shapes.polygons)
        what = "polygons with points that are no numbers or far outside, left out"
        self._say(shapes.owners()[is_bad], "warning", "absurd polygons", what)
        wrong = shapes.are_packed() & (self.sizes > 0).all(1) & (shapes.sizes != self.sizes).any(1)
        self._leave_out(wrong, "error", "masks of other sizes", "masks of another size than their picture, left out")
        return shapes.keep(~is_bad) if is_bad.any() else shapes

    def _draw_boxes(self, shapes: Shapes) -> None:
        """Around instances that have only polygons."""
        rows = np.flatnonzero(np.diff(shapes.starts))
        if not len(rows):
            return
        begins = shapes.polygons[shapes.starts[rows]]  # of their points, which lie one after the other
        corners = [part.reduceat(shapes.points, begins) for part in (np.minimum, np.maximum)]
        missing = np.isnan(self.boxes[rows]).all(1)
        self.boxes[rows[missing]] = np.concatenate(corners, 1)[missing]

    def _boxes(self) -> None:
        x1, y1, x2, y2 = self.boxes.T
        with np.errstate(invalid="ignore", over="ignore"):
            is_box = np.isfinite(self.boxes).all(1) & (np.abs(self.boxes) <= MOST_SIDE).all(1)
            is_box &= (x2 > x1) & (y2 > y1)
        self._leave_out(~is_box, "warning", "empty boxes", "boxes without an area, or that are none, left out")
        size = self.sizes
        known = self.keep & (size > 0).all(1)
        with np.errstate(invalid="ignore"):
            outside = (x1 >= size[:, 1]) | (y1 >= size[:, 0]) | (x2 <= 0) | (y2 <= 0)
            beyond = (np.minimum(x1, y1) < -_SLACK) | (x2 > size[:, 1] + _SLACK) | (y2 > size[:, 0] + _SLACK)
        self._leave_out(known & outside, "warning", "boxes outside", "boxes outside their picture, left out")
        self._say(known & ~outside & beyond, "note", "boxes beyond", "boxes that reach beyond their picture")
        wrong = ~np.isnan(self.areas) & ~((self.areas >= 0) & (self.areas < np.inf))
        self._say(self.keep & wrong, "warning", "areas", "areas that are none: the box's is taken")
        nothing = self.keep & (self.areas == 0)
        self._say(nothing, "warning", "no area", "instances with a box and an area of 0, which are not learnt from")
        self.areas = np.where(np.isnan(self.areas) | wrong, (x2 - x1) * (y2 - y1), self.areas)

    def _keypoints(self, number: int) -> npt.NDArray[np.float32]:
        """(M, K, 3), zeros where an instance has none."""
        count = 3 * number
        wrong = (self.counts != count) & (self.counts > 0)
        what = f"instances with other than {number} key points of three numbers, left out"
        self._leave_out(wrong, "error", "key point counts", what)
        keypoints = np.zeros((len(self.picture), count), np.float32)
        rows = np.flatnonzero(self.counts == count)
        starts = offsets_of(self.counts)[:-1][rows]
        with np.errstate(over="ignore"):
            keypoints[rows] = self.flat[spans(starts, starts + count)].reshape(-1, count)
        points = keypoints.reshape(-1, number, 3)
        is_wrong = np.logical_not(np.isfinite(points).all((1, 2)) & np.isin(points[..., 2], (0, 1, 2)).all(1))
        what = "key points that are no numbers, or of a visibility other than 0, 1, 2, left out"
        self._leave_out(is_wrong, "error", "key points", what)
        shown_points, size = points[..., 2] > 0, self.sizes[:, None]
        beyond = (points[..., :2] < -_SLACK) | (points[..., :2] > size[..., ::-1] + _SLACK)
        outside = (shown_points & beyond.any(2)).any(1) & (size > 0).all((1, 2))
        self._say(self.keep & outside, "warning", "key points outside", "instances with key points outside the picture")
        self._say(
            self.keep & ~shown_points.any(1) & ~self.crowd, "note", "no key points", "instances without key points"
        )
        return points

    def _remarks(self, order: Ints, shapes: Shapes | None, per_picture: Ints) -> None:
        """What is used as it is, and good to know."""
        crowd = self.crowd[order]
        self._say(order[crowd], "note", "crowds", "crowds, which are neither learnt from nor counted")
        if shapes is not None:
            bare = order[(shapes.counts() == 0) & ~crowd]
            what = "instances with a box and no mask, in a set with masks: learnt as boxes alone"
            self._say(bare, "warning", "no mask", what)
        keys = np.column_stack([self.picture[order], self.labels[order], self.boxes[order], crowd])
        by_key = np.lexsort(keys.T[::-1])
        same = (np.diff(keys[by_key], axis=0) == 0).all(1)
        what = "instances with the box and the class of another in their picture"
        self._say(np.sort(order[by_key[1:][same]]), "warning", "doubles", what)
        without = np.flatnonzero(per_picture == 0).tolist()
        examples = [(self.paths[i],) for i in without[:EXAMPLES]]
        self.found.add_all("note", "empty pictures", "pictures without annotations", examples, len(without), ())

    def _leave_out(self, wrong: Bools, level: Level, title: str, text: str) -> None:
        self._say(wrong & self.keep, level, title, text)
        self.keep &= ~wrong

    def _say(self, rows: Bools | Ints, level: Level, title: str, text: str) -> None:
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        examples = []
        for row in rows[:EXAMPLES].tolist():
            picture, box = int(self.picture[row]), self.boxes[row]
            path = self.paths[picture] if picture >= 0 else "no picture"
            examples.append((path, f"annotation {row + 1}, box {', '.join(f'{side:g}' for side in box)}"))
        paths = [row[0] for row in examples if row[0] != "no picture"]
        self.found.add_all(level, title, text, examples, len(rows), paths)


def _corners(boxes: Floats) -> Floats:
    """x, y, width, height -> x1, y1, x2, y2."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _any_in(marks: Bools, offsets: Ints) -> Bools:
    """Whether a mark is set in each part of `marks`, none of which is empty."""
    return np.logical_or.reduceat(marks, offsets[:-1]) if len(marks) else np.zeros(len(offsets) - 1, bool)


def safe_path(base: str, name: Any, root: str, where: str) -> str:
    """A file's name in an annotation file -> its path relative to `root`.

    Raises `InputError` where it is no name, or leaves `root`: such a file may name anything on the machine.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"{where}: expected the name of a picture, found {shown(name)!r}")
    path = os.path.relpath(os.path.join(base, name.replace("\\", "/")), root)
    if path == os.pardir or path.startswith(os.pardir + os.sep):
        raise InputError(f"{where}: expected a picture inside {root}, found {shown(name)!r}, which leaves it")
    return path


def floats(value: Any, count: int | None = None) -> array[float] | None:
    """A list of numbers; None for anything else, or another count. Ones too large for a float are infinite."""
    if not isinstance(value, list) or (count is not None and len(value) != count):
        return None
    try:
        return array("d", value)
    except OverflowError:
        return array("d", [np.inf if isinstance(n, int) and abs(n) > 1 << 1000 else n for n in value])
    except TypeError:
        return None


def names_of(value: Any) -> tuple[str, ...] | None:
    """A list of names, each once; None for anything else."""
    is_list = isinstance(value, list | tuple) and all(isinstance(name, str) and not unfit(name) for name in value)
    return tuple(value) if is_list and value and len(set(value)) == len(value) else None

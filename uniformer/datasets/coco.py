"""COCO's JSON: boxes, polygons and runs, key points. Its own files, and those that labelling tools write like it.

Recognised are `annotations/instances_*.json` and `person_keypoints_*.json` with their pictures beside, files of any
name in the folder itself or in `annotations/`, Roboflow's `train/_annotations.coco.json`, and a file alone.
Source: T.-Y. Lin et al., "Microsoft COCO" (ECCV 2014).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uniformer.config import DenseTask
from uniformer.datasets.annotated_columns import MOST_KEYPOINTS, MOST_SIDE, Columns, floats, names_of, safe_path
from uniformer.datasets.annotated_layouts import (
    Classes,
    Parsed,
    Recognised,
    files_in,
    fill_sizes,
    folder_of_pictures,
    in_order,
)
from uniformer.datasets.findings import Finding
from uniformer.datasets.instances import Instances
from uniformer.datasets.layouts import only_one, split_of, subfolders
from uniformer.errors import InputError, shown
from uniformer.labels import flip_sensitive, load_classes, load_details, unfit
from uniformer.reading.limits import check_pixels
from uniformer.reading.pictures import MAX_PHOTO
from uniformer.reading.run_lengths import compressed
from uniformer.support.texts import read_json_arrays

EXPECTED = "annotations in COCO's JSON"
PREFIXES: dict[DenseTask, str] = {"detection": "instances", "pose": "person_keypoints"}  #: of COCO's own files
COCO_KEYPOINTS = "COCO 2017 keypoints"
USUAL_SIGMA = 0.05  #: of key points that nobody measured
_LOOK = 1 << 16  # bytes at both ends of a file
_ARRAYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_FIELDS = re.compile(rb'"(file_name|category_id|supercategory|bbox)"\s*:')
_POSE = re.compile(rb'"keypoints"\s*:\s*\[\s*"')
_OTHERS = re.compile(rb'"(caption|segments_info)"\s*:')  # captions; panoptic


def kind_of(path: Path) -> DenseTask | None:
    """What a file is, by both of its ends; None for no annotations of COCO's kind."""
    try:
        with path.open("rb") as f:
            size = f.seek(0, 2)
            f.seek(0)
            text = f.read(_LOOK)
            f.seek(max(_LOOK, size - _LOOK))
            text += b"\n" + f.read(_LOOK)
    except OSError:
        return None
    is_object = text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    if not is_object or not _ARRAYS.search(text) or not _FIELDS.search(text) or _OTHERS.search(text):
        return None
    return "pose" if _POSE.search(text) else "detection"


def coco(path: Path, task: DenseTask | None) -> Recognised | None:
    """A file, or a folder with files of its splits."""
    if task == "segmentation":
        return None
    if path.is_file():
        kind = kind_of(path) if path.suffix.lower() == ".json" else None
        root = path.parent.parent if path.parent.name.lower() in ("annotations", "labels") else path.parent
        files = {} if kind is None else {split_of(path.stem) or "": [(path, kind)]}
    else:
        files, root = _files(path), path
    found = {kind for some in files.values() for _, kind in some}
    if not found or (task == "pose" and "pose" not in found):
        return None
    wanted: DenseTask = "pose" if task == "pose" or (task is None and found == {"pose"}) else "detection"
    chosen = {split: paths for split, some in files.items() if (paths := _of_kind(some, wanted))}
    if len(chosen) > 1:
        chosen.pop("", None)  # of no split, beside those of splits
    used = {file for paths in chosen.values() for file in paths}
    unused = [file.name for some in files.values() for file, kind in some if kind == wanted and file not in used]
    splits = {split: partial(_read_one, root, paths, split, wanted) for split, paths in chosen.items()}
    return Recognised(wanted, "COCO JSON", splits, tuple(unused)) if splits else None


def _files(folder: Path) -> dict[str, list[tuple[Path, DenseTask]]]:
    """By split: of the file's own name, or its folder's."""
    folders = [folder, *(inner for inner in subfolders(folder) if inner.name == "annotations" or split_of(inner.name))]
    found: dict[str, list[tuple[Path, DenseTask]]] = {}
    for place in folders:
        for path in files_in(place, ".json"):
            if (kind := kind_of(path)) is not None:
                split = split_of(path.stem) or (split_of(place.name) if place != folder else None) or ""
                found.setdefault(split, []).append((path, kind))
    return found


def _of_kind(files: list[tuple[Path, DenseTask]], kind: DenseTask) -> list[Path]:
    """Those of a kind; of several COCO's own. Files with key points have boxes too, where there are no others."""
    some = [path for path, found in files if found == kind] or [path for path, _ in files if kind == "detection"]
    return [path for path in some if path.name.startswith(PREFIXES[kind])] or some


def _read_one(root: Path, files: list[Path], split: str, kind: DenseTask, given: Classes | None) -> Parsed:
    """The only file of a split. Raises `InputError` where it is malformed: it says what stands where."""
    return _read(only_one(files, split, root), kind).parsed(root, split, given)


class ListedBoxes(NamedTuple):
    """What a file says of boxes, wherever its pictures lie."""

    names: tuple[str, ...]  #: of the pictures, as written
    sizes: npt.NDArray[np.int32]  #: (N, 2), height and width of each; -1 where the file does not tell
    classes: Classes
    instances: Instances  #: of the pictures in this order
    findings: tuple[Finding, ...]  #: what was odd, the worst first


def read_boxes(path: Path) -> ListedBoxes:
    """The boxes of one file alone. Raises `InputError` where it is malformed, whether its pictures are there or not."""
    return _read(path, None).listed_boxes()


def _read(path: Path, kind: DenseTask | None) -> _Reader:
    reader = _Reader(path, kind)
    takers = {"images": reader.image, "annotations": reader.annotation, "categories": reader.category}
    keys = read_json_arrays(path, EXPECTED, takers)
    if missing := takers.keys() - keys:
        raise InputError(f"{path}: expected {EXPECTED}, found no {' and no '.join(sorted(missing))}")
    if not reader.paths:
        raise InputError(f"{path}: expected pictures, found none listed")
    if not reader.categories:
        raise InputError(f"{path}: expected categories, found none")
    return reader


class _Reader:
    """Takes the elements of the three arrays in any order; without a kind of instances their boxes alone."""

    def __init__(self, path: Path, kind: DenseTask | None):
        self.path, self.kind = path, kind
        self.columns = Columns()
        self.paths: list[Any] = []
        self.pictures: dict[Any, int] = {}  # id -> number, from whichever names it first
        self.listed: dict[int, int] = {}  # number -> place in `paths`
        self.numbers: dict[Any, int] = {}  # category's id -> number
        self.categories: dict[Any, dict[str, Any]] = {}
        self.ids = set[int]()
        self.annotations = 0

    def image(self, entry: Any) -> None:
        where = f"{self.path}, picture {len(self.paths) + 1}"
        number = self.pictures.setdefault(_id(entry, "id", where), len(self.pictures))
        if number in self.listed:
            raise InputError(f"{where}: expected each id once, found {shown(entry['id'])} twice")
        self.listed[number] = len(self.paths)
        self.paths.append(entry.get("file_name"))
        height, width = (_side(entry, side, where) for side in ("height", "width"))
        check_pixels(where, width, height, MAX_PHOTO)
        self.columns.sizes.extend((height, width))

    def category(self, entry: Any) -> None:
        where = f"{self.path}, category {len(self.categories) + 1}"
        number, name = _id(entry, "id", where), entry.get("name")
        if number in self.categories:
            raise InputError(f"{where}: expected each id once, found {shown(number)} twice")
        if not isinstance(name, str) or not name or unfit(name):
            raise InputError(f"{where}: expected the name of a class, found {shown(name)!r}")
        self.categories[number] = entry

    def annotation(self, entry: Any) -> None:
        self.annotations += 1
        where = f"{self.path}, annotation {self.annotations}"
        picture = self.pictures.setdefault(_id(entry, "image_id", where), len(self.pictures))
        label = self.numbers.setdefault(_id(entry, "category_id", where), len(self.numbers))
        found, number = self.columns.found, entry.get("id")
        if isinstance(number, int):
            if number in self.ids:
                found.add("note", "ids", "annotations with the id of another, used all the same", where)
            self.ids.add(number)
        area = floats([entry.get("area")])
        keypoints = entry.get("keypoints") if self.kind == "pose" else None
        polygons, rle = self._shape(entry.get("segmentation"), where) if self.kind == "detection" else ([], None)
        self.columns.add_instance(
            picture,
            label,
            floats(entry.get("bbox"), 4) or (np.nan,) * 4,
            area=area[0] if area else np.nan,
            is_crowd=entry.get("iscrowd") in (1, True),
            polygons=polygons,
            rle=rle,
            keypoints=(floats(keypoints) or array("d", [np.nan])) if keypoints else None,  # others: of a wrong count
        )

    def _shape(self, shape: Any, where: str) -> tuple[list[array[float]], dict[str, Any] | None]:
        """Polygons, or packed runs."""
        if isinstance(shape, dict):
            try:
                return [], compressed(shape)
            except InputError as error:
                what = "masks whose runs are damaged, left out"
                self.columns.found.add("error", "damaged masks", what, where, str(error))
                return [], None
        if not shape:
            return [], None
        if isinstance(shape, list) and not isinstance(shape[0], list):
            shape = [shape]  # one polygon, not in a list of its own
        polygons = [floats(polygon) for polygon in shape] if isinstance(shape, list) else [None]
        if any(polygon is None for polygon in polygons):
            what = "masks that are neither polygons nor runs, left out"
            self.columns.found.add("error", "damaged masks", what, where, shown(shape))
        return [polygon for polygon in polygons if polygon is not None], None

    def parsed(self, root: Path, split: str, given: Classes | None) -> Parsed:
        base = folder_of_pictures(root, self.paths, self.path, split)
        where = f"{self.path}, picture"
        names = (safe_path(str(base), name, str(root), f"{where} {i}") for i, name in enumerate(self.paths, 1))
        self.columns.paths = list(names)
        fill_sizes(self.columns, root)
        ids = self._ordered()
        names_by_id = [self.categories[number]["name"] for number in ids]
        if len(set(names_by_id)) < len(names_by_id):
            twice = next(name for name in names_by_id if names_by_id.count(name) > 1)
            raise InputError(f"{self.path}: expected categories of different names, found {shown(twice)!r} twice")
        classes, places, how = in_order(names_by_id, given, "in the order of their ids", self.path)
        self._number(dict(zip(ids, places, strict=True)))
        keypoints, details = self._pose() if self.kind == "pose" else (None, {})
        own, numbers = dict(zip(places, ids, strict=True)), tuple(self.pictures)
        return Parsed(
            self.columns, classes, how, root, details, keypoints,
            image_ids=tuple(numbers[number] for number in self.listed),
            category_ids=tuple(own.get(k) for k in range(len(classes))),
        )  # fmt: skip

    def listed_boxes(self) -> ListedBoxes:
        for number, name in enumerate(self.paths, 1):
            if not isinstance(name, str) or not name:
                where = f"{self.path}, picture {number}"
                raise InputError(f"{where}: expected the name of a picture, found {shown(name)!r}")
        self.columns.paths = self.paths
        self._number({number: row for row, number in enumerate(self.categories)})
        instances = self.columns.instances(len(self.categories), masks=False)
        sizes = np.array(self.columns.sizes, np.int32).reshape(-1, 2)
        names = tuple(entry["name"] for entry in self.categories.values())
        return ListedBoxes(tuple(self.paths), sizes, names, instances, self.columns.found.findings())

    def _number(self, labels: Mapping[Any, int]) -> None:
        """Give instances the places of their pictures, and `labels`, by the ids of categories; -1 where not there."""
        place = np.full(len(self.pictures), -1)
        place[list(self.listed)] = list(self.listed.values())
        self.columns.pictures = array("q", place[np.frombuffer(self.columns.pictures, np.int64)].tolist())
        table = np.full(len(self.numbers) + 1, -1)
        for number in labels.keys() & self.numbers.keys():
            table[self.numbers[number]] = labels[number]
        self.columns.labels = array("i", table[np.frombuffer(self.columns.labels, np.int32)].tolist())

    def _ordered(self) -> list[Any]:
        """Ids of the categories, sorted; less one that stands for all others, as Roboflow writes, if nothing has it."""
        ids = sorted(self.categories, key=lambda number: (isinstance(number, str), number))
        above = {entry.get("supercategory") for number, entry in self.categories.items() if number != ids[0]}
        first = self.categories[ids[0]]
        if len(ids) > 1 and ids[0] not in self.numbers and above == {first["name"]} and ids[0] == 0:
            what = "categories that only stand above the others, left out"
            self.columns.found.add("note", "categories", what, first["name"])
            return ids[1:]
        return ids

    def _pose(self) -> tuple[Classes, dict[str, Any]]:
        """Names of the key points; and skeleton, sigmas, pairs that a mirror swaps, by numbers from 0."""
        found = {names_of(entry.get("keypoints")) for entry in self.categories.values()} - {None}
        if len(found) != 1:
            raise InputError(f"{self.path}: expected categories with the same key points, found {len(found)} kinds")
        names = next(iter(found))
        assert names is not None
        if len(names) > MOST_KEYPOINTS:
            raise InputError(f"{self.path}: expected at most {MOST_KEYPOINTS} key points, found {len(names)}")
        lines = next(entry.get("skeleton") for entry in self.categories.values() if entry.get("keypoints"))
        if not isinstance(lines, list | None) or not all(_is_bone(line, len(names)) for line in lines or []):
            raise InputError(f"{self.path}: expected a skeleton of pairs of 1 to {len(names)}, found {shown(lines)}")
        skeleton = [[end - 1 for end in line] for line in lines or []]
        return names, pose_details(names, skeleton)


def pose_details(names: Classes, skeleton: list[list[int]]) -> dict[str, Any]:
    """What answers in key points need beside their names: COCO's as published; else one sigma for all."""
    if names == load_classes(COCO_KEYPOINTS):
        return load_details(COCO_KEYPOINTS)
    pairs = [sorted(map(names.index, pair)) for pair in flip_sensitive(names) if len(pair) == 2]
    return {"skeleton": skeleton, "sigmas": [USUAL_SIGMA] * len(names), "flip_pairs": pairs}


def _is_bone(line: Any, count: int) -> bool:
    """A pair of key points' numbers, which count from 1."""
    return isinstance(line, list) and len(line) == 2 and all(type(end) is int and 1 <= end <= count for end in line)


def _id(entry: Any, key: str, where: str) -> Any:
    """Raises `InputError` unless an entry is an object that has this id, a whole number or a text."""
    number = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise InputError(f"{where}: expected an object with {key}, found {shown(number if number else entry)!r}")
    return number


def _side(entry: dict[str, Any], side: str, where: str) -> int:
    """A side in pixels; -1 where the file does not tell it."""
    value = entry.get(side)
    if value is None:
        return -1
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MOST_SIDE:
        raise InputError(f"{where}: expected {side} as 1 to {MOST_SIDE} pixels, found {shown(value)}")
    return int(value)

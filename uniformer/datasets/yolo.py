"""YOLO's folders: `data.yaml`, pictures below `images/`, and beside it below `labels/` a text file for each.

A line is one instance: its class, then the box (centre x, centre y, width, height) or a polygon (x, y, ...), and for
key points the box and theirs; all in shares of the picture's sides.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from uniformer.config import DenseTask
from uniformer.datasets.annotated_columns import MOST_KEYPOINTS, Columns, names_of, safe_path
from uniformer.datasets.annotated_layouts import (
    Classes,
    Parsed,
    Recognised,
    fill_sizes,
    folders_in,
    holds_files,
    images_below,
    in_order,
    is_image_name,
    names_beside,
)
from uniformer.datasets.coco import pose_details
from uniformer.datasets.layouts import one_a_split, split_of, visible
from uniformer.errors import InputError, first_line, shown
from uniformer.support.texts import read_text

EXPECTED = "a YOLO data set's settings"
_LARGEST = 1 << 18  # bytes of settings: their reader is Python's, and slow
_LINES = "lines that are no instances, left out"


def yolo(path: Path, task: DenseTask | None) -> Recognised | None:
    """A folder with such settings, the settings themselves, or a folder of `images/` and `labels/` alone."""
    if task == "segmentation":
        return None
    if path.is_file():
        files = [path] if path.suffix.lower() in (".yaml", ".yml") else []
    else:
        files = [file for file in visible(path) if file.suffix.lower() in (".yaml", ".yml") and file.is_file()]
    told = [(file, table) for file in files if (table := _settings(file, is_named=file == path)) is not None]
    if len(told) > 1:
        names = ", ".join(shown(file.name) for file, _ in told)
        raise InputError(f"{path}: expected one file with {EXPECTED}, found {names}: name the one to use")
    if told:
        return _with_settings(*told[0], task)
    folders = {} if path.is_file() or task == "pose" else _splits_of(path)
    splits = {split: partial(_read, path, [images], None) for split, images in folders.items()}
    return Recognised("detection", "YOLO folders", splits) if splits else None


def _settings(file: Path, *, is_named: bool) -> Mapping[str, Any] | None:
    """What the file says; None for YAML of another purpose, as one is that cannot be read, unless it is named."""
    import yaml

    class Loader(yaml.SafeLoader):  # a few lines of aliases can stand for gigabytes
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias, which none of these needs")
            return super().compose_node(parent, index)

    try:
        text = read_text(file, EXPECTED, _LARGEST)
    except InputError:
        if is_named:
            raise
        return None
    try:
        table = yaml.load(text, Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if not all(re.search(rf"\b({key})\b['\"]?\s*:", text) for key in ("names", "train|val|test")):
            return None
        why = "too many levels within each other" if isinstance(error, RecursionError) else first_line(error)
        raise InputError(f"{file}: expected {EXPECTED} in YAML, found something else: {why}") from None
    return table if isinstance(table, dict) and "names" in table and {"train", "val", "test"} & table.keys() else None


def _with_settings(file: Path, table: Mapping[str, Any], task: DenseTask | None) -> Recognised | None:
    is_pose = "kpt_shape" in table and task != "detection"
    if task == "pose" and not is_pose:
        return None
    names = table["names"]
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise InputError(f"{file}: expected names numbered from 0, found {shown(list(names))}")
        names = [names[number] for number in range(len(names))]
    classes = names_of([str(name) for name in names] if isinstance(names, list) else names)
    if classes is None:
        raise InputError(f"{file}: expected names, each once, found {shown(table['names'])}")
    pose = _pose(file, table) if is_pose else None
    parts = {key: split for key in table if isinstance(key, str) and (split := split_of(key)) and table[key]}
    if len(set(parts.values())) < len(parts):
        raise InputError(f"{file}: expected each split once, found {shown(', '.join(parts))}")
    root, places, missing = Path(os.path.abspath(file.parent)), dict[str, list[Path]](), dict[str, InputError]()
    for key, split in parts.items():
        values = table[key] if isinstance(table[key], list) else [table[key]]
        try:
            places[split] = [_place(file, root, table.get("path"), value) for value in values]
        except InputError as error:
            missing[split] = error
    if missing and not places:
        raise next(iter(missing.values()))
    splits = {split: partial(_read, root, there, classes, pose=pose) for split, there in places.items()}
    left_out = tuple(f"{split}, whose folder is not there" for split in missing)
    return Recognised("pose" if is_pose else "detection", "YOLO folders", splits, left_out)


def _pose(file: Path, table: Mapping[str, Any]) -> tuple[Classes, int, dict[str, Any]]:
    """Names of the key points, numbers for each in a line, and details."""
    shape = table["kpt_shape"]
    is_shape = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
    if not is_shape or not 1 <= shape[0] <= MOST_KEYPOINTS or shape[1] not in (2, 3):
        raise InputError(f"{file}: expected kpt_shape as a count and 2 or 3, found {shown(shape)}")
    named = table.get("kpt_names")
    named = next(iter(named.values()), None) if isinstance(named, dict) else named
    names = names_of(named) or tuple(map(str, range(shape[0])))
    if len(names) != shape[0]:
        raise InputError(f"{file}: expected {shape[0]} names of key points, found {len(names)}")
    details, swapped = pose_details(names, []), table.get("flip_idx")
    if swapped is not None:
        are_numbers = isinstance(swapped, list) and all(type(n) is int for n in swapped)
        if (
            not are_numbers
            or sorted(swapped) != list(range(shape[0]))
            or any(swapped[swapped[i]] != i for i in swapped)
        ):
            raise InputError(f"{file}: expected flip_idx as pairs of the {shape[0]} key points, found {shown(swapped)}")
        details["flip_pairs"] = [[i, other] for i, other in enumerate(swapped) if i < other]
    return names, shape[1], details


def _splits_of(folder: Path) -> dict[str, Path]:
    """Folders of pictures that have labels in text files, by their split: `images/train`, `train/images`, `images`."""
    images = folder / "images"
    inner = {place: place for place in folders_in(images) if split_of(place.name)}
    outer = {place: place / "images" for place in folders_in(folder) if split_of(place.name)}
    found = {place: pictures for place, pictures in (inner | outer).items() if _has_labels(pictures)}
    if not inner and not outer and _has_labels(images):
        return {"": images}
    return {split: found[place] for split, place in one_a_split(found, folder).items()}


def _has_labels(pictures: Path) -> bool:
    labels = Path(_label_path(os.fspath(pictures / "x.jpg"))).parent
    return pictures.is_dir() and labels != pictures and holds_files(labels, (".txt",))


def _place(file: Path, root: Path, base: Any, name: Any) -> Path:
    """A folder or a list that the settings name. Some name it from a folder of their own; but it is below theirs."""
    if isinstance(name, str) and "\0" not in name:
        bare = name
        while bare.startswith("../"):
            bare = bare[3:]
        for tried in (*([os.path.join(base, name)] if isinstance(base, str) else []), name, bare):
            path = Path(os.path.normpath(root / tried))
            if path.is_relative_to(root) and path.exists():
                return path
    raise InputError(f"{file}: expected a folder or a list of pictures below {root}, found {shown(name)!r}")


def _read(
    root: Path, places: Sequence[Path], classes: Classes | None, given: Classes | None, pose: Any = None
) -> Parsed:
    columns = Columns()
    columns.paths = [path for place in places for path in _pictures(place, root)]
    if not columns.paths:
        raise InputError(f"{places[0]}: expected pictures, found none")
    columns.sizes = array("i", [-1]) * (2 * len(columns.paths))
    fill_sizes(columns, root)
    rows = list(_rows(columns, root))
    how = "as data.yaml names them"
    if classes is None:
        classes, how = names_beside(root, given)
    if classes is None:
        count = max((int(numbers[0]) for _, numbers in rows if numbers[0] < 1 << 16), default=-1) + 1
        classes, how = tuple(map(str, range(count))), "by number"
    final, order, how = in_order(classes, given, how, root)
    names, wide, details = pose or (None, 0, {})
    for picture, numbers in rows:
        label = int(numbers[0])
        _add(columns, picture, order[label] if 0 <= label < len(order) else -1, numbers, len(names or ()) * wide, wide)
    return Parsed(columns, final, how, root, details, names)


def _pictures(place: Path, root: Path) -> Iterator[str]:
    """Those in a folder, or that a text file lists, relative to `root`."""
    if place.is_dir():
        yield from (os.path.relpath(place / name, root) for name in images_below(place))
        return
    for number, line in enumerate(read_text(place, "a list of pictures").splitlines(), 1):
        if not (name := line.strip()):
            continue
        where = f"{place}, line {number}"
        if not is_image_name(name):
            raise InputError(f"{where}: expected the name of a picture, found {shown(name)!r}")
        yield safe_path(str(root), name, str(root), where)


def _label_path(path: str) -> str:
    """Where the labels of a picture are: the last `images` in its path is `labels`."""
    parts = os.path.splitext(path)[0].split(os.sep)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return os.sep.join(parts) + ".txt"


def _rows(columns: Columns, root: Path) -> Iterator[tuple[int, array[float]]]:
    """Each line of each picture's labels: the picture's number, and the numbers, of which the first is whole."""
    for picture, path in enumerate(columns.paths):
        file = root / _label_path(path)
        if not file.is_file() or not file.stat().st_size:
            continue
        try:
            lines = read_text(file, "labels of a picture").splitlines()
        except InputError as error:
            what = "files of labels that cannot be read, of which nothing is used"
            columns.found.add("error", "damaged labels", what, path, str(error), path=path)
            continue
        for number, line in enumerate(lines, 1):
            if not (words := line.split()):
                continue
            try:
                numbers = array("d", map(float, words))
                if not numbers[0].is_integer():
                    raise ValueError
            except (ValueError, OverflowError):
                columns.found.add("error", "label lines", _LINES, path, f"line {number}: {line}", path=path)
                continue
            yield picture, numbers


def _add(columns: Columns, picture: int, label: int, numbers: array[float], points: int, wide: int) -> None:
    """One instance, in pixels; `points` numbers behind the box are key points, `wide` for each."""
    height, width = columns.sizes[2 * picture], columns.sizes[2 * picture + 1]
    if min(height, width) < 1:
        return  # of a picture that cannot be read
    rest = np.array(numbers[1:]).reshape(-1)
    if len(rest) != 4 + points and (points or len(rest) % 2 or len(rest) < 6):
        path = columns.paths[picture]
        columns.found.add("error", "label lines", _LINES, path, f"{len(numbers)} numbers in a line", path=path)
        return
    if len(rest) == 4 + points:
        x, y, w, h = rest[:4] * (width, height, width, height)
        keypoints = _keypoints(rest[4:].reshape(-1, wide), width, height) if points else None
        columns.add_instance(picture, label, (x - w / 2, y - h / 2, w, h), keypoints=keypoints)
    else:
        polygon = rest.reshape(-1, 2) * (width, height)
        area = float(abs(_shoelace(polygon)))
        columns.add_instance(picture, label, (np.nan,) * 4, area=area, polygons=[array("d", polygon.reshape(-1))])


def _keypoints(points: np.ndarray, width: int, height: int) -> array[float]:
    """(K, 2 or 3) in shares -> x, y, visibility; without one, a point is seen unless it lies in the corner."""
    seen = points[:, 2] if points.shape[1] == 3 else 2.0 * points.any(1)
    return array("d", np.column_stack([points[:, :2] * (width, height), seen]).reshape(-1))


def _shoelace(polygon: np.ndarray) -> float:
    """The area within a polygon (P, 2), signed by its sense."""
    (x, y), (next_x, next_y) = polygon.T, np.roll(polygon, -1, 0).T
    with np.errstate(all="ignore"):  # what is no number is said later
        return float((x * next_y - next_x * y).sum() / 2)

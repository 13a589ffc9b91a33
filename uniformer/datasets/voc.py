"""Pascal VOC's XML: `Annotations/*.xml` with a box for each object, beside `JPEGImages/` and lists in `ImageSets/Main`.

Boxes count pixels from 1, with both ends in them: x1 = xmin - 1, x2 = xmax. Objects marked difficult are neither learnt
from nor counted, as crowds are in COCO.
Source: M. Everingham et al., "The Pascal Visual Object Classes Challenge" (IJCV 2010).
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from uniformer.config import DenseTask
from uniformer.datasets.annotated_columns import MOST_SIDE, Columns, safe_path
from uniformer.datasets.annotated_layouts import (
    IMAGE_FOLDERS,
    Classes,
    Parsed,
    Recognised,
    files_in,
    fill_sizes,
    images_below,
    in_order,
    lists_in,
    stems_of,
)
from uniformer.datasets.layouts import one_a_split, split_of, subfolders
from uniformer.errors import InputError, first_line, shown
from uniformer.labels import alphabetical, unfit
from uniformer.reading.pictures import MAX_PHOTO
from uniformer.support.texts import read_text

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

EXPECTED = "Pascal VOC annotations in XML"
FOLDERS = ("Annotations", "annotations", "labels")
_LARGEST = 1 << 24  # bytes of one file


def voc(path: Path, task: DenseTask | None) -> Recognised | None:
    """A folder of VOC's form, or one with such a folder, or XML beside the pictures, for each split."""
    if task in ("segmentation", "pose") or not path.is_dir():
        return None
    if (folder := _folder_of_xml(path)) is not None:
        lists = lists_in(path, "Main")
        splits = {split: partial(_read, path, folder, file) for split, file in lists.items()}
        return Recognised("detection", "Pascal VOC", splits or {"": partial(_read, path, folder, None)})
    folders = {
        place: folder for place in subfolders(path) if split_of(place.name) and (folder := _folder_of_xml(place))
    }
    parts = one_a_split(folders, path)
    found = {split: partial(_read, place, folders[place], None) for split, place in parts.items()}
    return Recognised("detection", "Pascal VOC", found) if found else None


def _folder_of_xml(path: Path) -> Path | None:
    for place in (*(path / name for name in FOLDERS), path):
        if first := next(iter(files_in(place, ".xml")), None):
            with suppress(OSError), open(first, "rb") as f:
                return place if b"<annotation" in f.read(4096) else None
    return None


def _read(root: Path, folder: Path, listed: Path | None, given: Classes | None) -> Parsed:
    """The pictures of a list, or of all files; the classes are those of all files, so that splits agree."""
    files = {file.stem: file for file in files_in(folder, ".xml")}
    wanted = dict.fromkeys(files if listed is None else stems_of(listed))
    columns, names = Columns(), dict[str, int]()
    objects: list[tuple[int, int, Element]] = []
    pictures = _pictures(root, columns)
    for stem in (*wanted, *(stem for stem in files if stem not in wanted)):
        tree = _tree(files[stem], columns, root) if stem in files else None
        row = -1
        if stem in wanted:
            row = _add_picture(columns, root, stem, tree, pictures)
        for item in tree.iter("object") if tree is not None else ():
            name = (item.findtext("name") or "").strip()
            if name and not unfit(name):
                number = names.setdefault(name, len(names))
                objects += [(row, number, item)] if row >= 0 else []
            elif row >= 0:
                what = "objects without the name of a class, left out"
                columns.found.add("error", "no class", what, columns.paths[row], shown(name), path=columns.paths[row])
    if not names:
        raise InputError(f"{folder}: expected objects with names, found none in {len(files)} files")
    ordered = alphabetical(names)
    classes, places, how = in_order(ordered, given, "in alphabetical order", folder)
    table = {names[name]: place for name, place in zip(ordered, places, strict=True)}
    fill_sizes(columns, root)
    for row, number, item in objects:
        columns.add_instance(row, table[number], _box(item), is_crowd=item.findtext("difficult") == "1")
    return Parsed(columns, classes, how, root, notes="objects marked difficult count as crowds")


def _pictures(root: Path, columns: Columns) -> dict[str, str]:
    """All images, by their names without an ending; of several of one name the first, which is said."""
    place = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), root)
    found = dict[str, str]()
    for name in images_below(place):
        path = os.path.relpath(place / name, root)
        if (first := found.setdefault(os.path.splitext(os.path.basename(name))[0], path)) != path:
            columns.found.add(
                "warning", "same names", "pictures with the name of another, left out", path, f"not {first}"
            )
    return found


def _add_picture(columns: Columns, root: Path, stem: str, tree: Element | None, pictures: dict[str, str]) -> int:
    """By the file's own name, which tools keep; the name that it says is often another machine's."""
    told = (lambda _: None) if tree is None else tree.findtext
    said = PureWindowsPath(told("filename") or "").name  # which takes slashes of both kinds
    path = pictures.get(stem) or pictures.get(os.path.splitext(said)[0])
    if path is None:
        path = safe_path(str(root), said or f"{stem}.jpg", str(root), stem)
    sides = [told(f"size/{side}") for side in ("height", "width")]
    height, width = (int(side) if side and re.fullmatch(r"\s*[0-9]{1,9}\s*", side) else -1 for side in sides)
    known = 0 < height <= MOST_SIDE and 0 < width <= MOST_SIDE and height * width <= MAX_PHOTO
    return columns.add_picture(path, *((height, width) if known else (-1, -1)))


def _tree(file: Path, columns: Columns, root: Path) -> Element | None:
    """What an XML file holds; None for one that is damaged, which is said. Entities are not looked at."""
    from xml.etree import ElementTree

    try:
        text = read_text(file, EXPECTED, _LARGEST)
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise InputError(f"{file}: expected {EXPECTED}, found definitions of its own (DOCTYPE), which are not read")
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, InputError, ValueError, RecursionError) as error:
        name = os.path.relpath(file, root)
        what = "files of annotations that cannot be read, of which nothing is used"
        columns.found.add("error", "damaged labels", what, name, first_line(error).removeprefix(f"{file}: "))
        return None


def _box(item: Element) -> tuple[float, float, float, float]:
    """x, y, width, height; NaN where it is none."""
    try:
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return (float("nan"),) * 4
    return x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1

"""What all layouts of annotated pictures share: what a layout answers, and the pictures of a folder.

A layout is recognised by looking at a few files, cheaply, and read only when a split of it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from uniformer.config import DenseTask
from uniformer.datasets.annotated_columns import Columns
from uniformer.datasets.class_names import by_name
from uniformer.datasets.layouts import CLASSES_FILE, split_of, subfolders
from uniformer.datasets.strings import Strings
from uniformer.errors import InputError, shown
from uniformer.labels import DENSE_DATASETS, load_classes, normal_form, read_class_names
from uniformer.reading.paths import LeftOut, folders_below
from uniformer.reading.pictures import IMAGE_SUFFIXES, open_header
from uniformer.support.texts import read_text

Classes = tuple[str, ...]
IMAGE_FOLDERS = ("images", "JPEGImages", "img", "imgs", "image")
_LOOKED_FOR = 16  # pictures of a file, of which one has to lie where all are said to lie


@dataclass(frozen=True)
class Labels:
    """How label maps say classes: where they lie, and what their values mean."""

    paths: Strings  #: of each picture's map, relative to the data set; "" for none
    zero_is_unlabelled: bool = False  #: values count from 1, as ADE20K's

    def take(self, rows: Any) -> Labels:
        return Labels(self.paths.take(rows), self.zero_is_unlabelled)


@dataclass(frozen=True)
class Parsed:
    """One split of a data set, read: instances in the terms of `classes`, or label maps."""

    columns: Columns
    classes: Classes  #: of instances; of a pose set what its boxes are of, mostly person
    how: str  #: how the classes were found, in words
    root: Path  #: where the paths start
    details: Mapping[str, Any] = field(default_factory=dict)
    keypoints: Classes | None = None
    labels: Labels | None = None
    image_ids: tuple[int | str, ...] = ()  #: of the pictures, where the source numbers them
    category_ids: tuple[int | str | None, ...] = ()  #: of `classes`, same; None for one that it does not have
    notes: str = ""  #: what else is to be said of how it was read


@dataclass(frozen=True)
class Recognised:
    """A data set that was recognised, not yet read. Readers take the classes that a user gave, or None."""

    task: DenseTask
    form: str  #: what it was taken for
    splits: Mapping[str, Callable[[Classes | None], Parsed]]  #: by train, val, test; "" for a whole
    left_out: tuple[str, ...] = ()  #: names of what is there beside, and not used


Layout = Callable[[Path, DenseTask | None], Recognised | None]


def in_order(names: Sequence[str], given: Classes | None, how: str, where: object) -> tuple[Classes, list[int], str]:
    """The classes in their order, the place in it of each of `names`, and how it was found, in words.

    As given; as a known data set with exactly these names orders them; else as they come, which `how` says. Raises
    `InputError` for a name that is none of those given.
    """
    if given is None:
        written = set(map(normal_form, names))
        known = next((d for d in DENSE_DATASETS if written == set(map(normal_form, load_classes(d)))), None)
        if known is None:
            return tuple(names), list(range(len(names))), how
        given, how = load_classes(known), f"as {known} orders them"
    else:
        how = "as given"
    return given, by_name(dict.fromkeys(names, str(where)), given).tolist(), how


def names_beside(folder: Path, given: Classes | None) -> tuple[Classes | None, str]:
    """The classes' names where a data set does not tell them: as given, or in a file; and how, in words."""
    if given is not None:
        return given, "as given"
    file = folder / CLASSES_FILE
    return (read_class_names(file), f"from {file.name}") if file.is_file() else (None, "")


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """The files of these endings in a folder, sorted; none where it is no folder. Folders may have a million others."""
    try:
        names = [name for name in os.listdir(folder) if name.lower().endswith(suffixes) and name[0] != "."]
    except OSError:
        return []
    return [path for name in sorted(names) if (path := folder / name).is_file()]


def images_below(folder: Path) -> list[str]:
    """Paths of all images in a folder and below, relative to it, sorted; links are followed, hidden ones left out."""
    if not folder.is_dir():
        return []
    found = []
    for place, files in folders_below(folder, LeftOut()):
        inside = os.path.relpath(place, folder)
        found += [os.path.normpath(os.path.join(inside, name)) for name in files if is_image_name(name)]
    return sorted(found)


def lists_in(folder: Path, what: str) -> dict[str, Path]:
    """Pascal VOC's lists of a split each, in `ImageSets/Main` and `ImageSets/Segmentation`; not those of one class."""
    return {
        file.stem: file for file in files_in(folder / "ImageSets" / what, ".txt") if split_of(file.stem) == file.stem
    }


def stems_of(listed: Path) -> list[str]:
    """The first words of such a list's lines; some say 1 or -1 behind."""
    return [words[0] for line in read_text(listed, "a list of pictures").splitlines() if (words := line.split())]


def is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def holds_files(folder: Path, suffixes: Iterable[str]) -> bool:
    """Whether a file with one of these endings lies in a folder or below; the first one ends the search."""
    wanted = tuple(suffixes)
    return folder.is_dir() and any(
        name.lower().endswith(wanted) for _, files in folders_below(folder, LeftOut()) for name in files
    )


def folder_of_pictures(root: Path, names: Sequence[str], file: Path, split: str) -> Path:
    """The folder in `root` that the pictures of an annotation file are named from: the one with most of `names` in it.

    Of several, the file's own, then one of the split's name. Raises `InputError` where none has any, naming some that
    were looked into.
    """
    step = -(-len(names) // _LOOKED_FOR) or 1
    some = [name.replace("\\", "/") for name in names[::step] if isinstance(name, str) and "\0" not in name]
    inner = [deep for folder in (root, *(root / name for name in IMAGE_FOLDERS)) for deep in folders_in(folder)]
    same_split = [place for place in inner if split_of(place.name) == (split or None)]
    places = list(dict.fromkeys((file.parent, *same_split, root, *inner)))
    there = [sum(os.path.exists(os.path.join(place, name)) for name in some) for place in places]
    if any(there):
        return places[int(np.argmax(there))]
    looked = ", ".join(str(place) for place in places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
    such = shown(some[0]) if some else "those it lists"
    raise InputError(f"{file}: expected pictures such as {such} in {looked}, found none of {len(some)} looked for")


def folders_in(folder: Path) -> list[Path]:
    """Less hidden ones; none where it is no folder."""
    return subfolders(folder) if folder.is_dir() else []


def fill_sizes(columns: Columns, root: Path) -> None:
    """The sizes that no annotation file tells, by the pictures themselves; one that cannot be read is said."""
    for row in range(len(columns.paths)):
        if columns.sizes[2 * row] > 0 and columns.sizes[2 * row + 1] > 0:
            continue
        path = columns.paths[row]
        try:
            columns.sizes[2 * row], columns.sizes[2 * row + 1] = open_header(root / path)
        except InputError as error:
            what = "pictures that cannot be read"
            columns.found.add("error", "unreadable", what, path, str(error).removeprefix(f"{root / path}: "))

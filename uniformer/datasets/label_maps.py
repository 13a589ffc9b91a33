"""Pictures beside label maps: images whose values are classes, by the same name. ADE20K's folders among them.

`images/` beside `masks/`, `labels/` or `annotations/`, also below or above folders of splits; VOC's `JPEGImages/` and
`SegmentationClass/`. A value of 255 is no class. In ADE20K 0 is unlabelled, and 1 the first class (Zhou et al. 2017).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uniformer.config import DenseTask
from uniformer.datasets.annotated_columns import Columns
from uniformer.datasets.annotated_layouts import (
    IMAGE_FOLDERS,
    Classes,
    Labels,
    Parsed,
    Recognised,
    fill_sizes,
    images_below,
    lists_in,
    names_beside,
    stems_of,
)
from uniformer.datasets.layouts import one_a_split, split_of, subfolders
from uniformer.datasets.strings import Strings
from uniformer.errors import InputError
from uniformer.labels import IGNORED, load_classes, load_palette
from uniformer.reading.pictures import Undecodable, open_image

LABEL_FOLDERS = ("masks", "labels", "annotations", "mask", "label", "SegmentationClass", "gt")
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  #: formats that keep every value
_ADE20K = "ADE20K"
_LOOKED_AT = 8  # label maps by which those of black and white are told

Pair = tuple[Path, Path]  # a folder of pictures, and one of their label maps


def label_maps(path: Path, task: DenseTask | None) -> Recognised | None:
    """A folder of pictures and label maps, for each split or as a whole."""
    if task not in (None, "segmentation") or not path.is_dir():
        return None
    pairs = _pairs(path)
    if not pairs:
        return None
    if set(pairs) == {""} and (lists := lists_in(path, "Segmentation")):
        splits = {split: partial(_read, path, pairs[""], (pairs[""],), False, file) for split, file in lists.items()}
        return Recognised("segmentation", "Pascal VOC's label maps", splits)
    is_ade = set(pairs) <= {"train", "val"} and all(_is_ade(images) for images, _ in pairs.values())
    whole = tuple(pairs.values())
    splits = {split: partial(_read, path, pair, whole, is_ade, None) for split, pair in pairs.items()}
    return Recognised("segmentation", "ADE20K" if is_ade else "label maps", splits)


def _pairs(path: Path) -> dict[str, Pair]:
    """By split, "" for a whole."""
    whole = _pair(path)
    if whole is None:
        inner = {place: pair for place in subfolders(path) if split_of(place.name) and (pair := _pair(place))}
        return {split: inner[place] for split, place in one_a_split(inner, path).items()}
    images, labels = whole
    parts = one_a_split((place for place in subfolders(images) if (labels / place.name).is_dir()), images)
    found = {split: (place, labels / place.name) for split, place in parts.items()}
    return found or {"": whole}


def _pair(path: Path) -> Pair | None:
    """The folders of pictures and of label maps in a folder, where a picture has one of its name."""
    images = next((path / name for name in IMAGE_FOLDERS if (path / name).is_dir()), None)
    if images is None or not any((path / name).is_dir() for name in LABEL_FOLDERS):
        return None
    stems = {os.path.splitext(name)[0] for name in images_below(images)}
    found = [place for name in LABEL_FOLDERS if (place := path / name).is_dir() and not stems.isdisjoint(_maps(place))]
    if len(found) > 1:
        names = ", ".join(place.name for place in found)
        raise InputError(f"{path}: expected one folder of label maps, found {names}: keep the one to use")
    return (images, found[0]) if found else None


def _maps(folder: Path) -> dict[str, str]:
    """The label maps in a folder by their names without an ending; paths are relative to it."""
    return {os.path.splitext(name)[0]: name for name in images_below(folder) if name.lower().endswith(LABEL_SUFFIXES)}


def _is_ade(images: Path) -> bool:
    return images.name in ("training", "validation") and any(
        name.startswith("ADE_") for name in images_below(images)[:1]
    )


def _read(
    path: Path, pair: Pair, all_pairs: Iterable[Pair], is_ade: bool, listed: Path | None, given: Classes | None
) -> Parsed:
    images, labels = pair
    columns, maps, found = Columns(), _maps(labels), list[str]()
    pictures = {name: os.path.splitext(name)[0] for name in images_below(images)}
    wanted = set(pictures.values()) if listed is None else set(stems_of(listed))
    for stem in sorted(wanted.difference(pictures.values())):
        columns.found.add("error", "missing", "pictures that are listed and not there, left out", stem)
    for name, stem in pictures.items():
        if stem not in wanted:
            maps.pop(stem, None)
            continue
        picture = os.path.relpath(images / name, path)
        columns.add_picture(picture)
        found.append(os.path.relpath(labels / maps.pop(stem), path) if stem in maps else "")
        if not found[-1]:
            columns.found.add("error", "no label map", "pictures without a label map", picture, path=picture)
    some = list(filter(None, found))[:_LOOKED_AT]
    if are_black_and_white(path / name for name in some):
        what = f"label maps of 0 and {IGNORED} only, of which {IGNORED} is no class: write 1 for it"
        columns.found.add("error", "black and white", what, some[0])
    for name in maps.values():
        columns.found.add("note", "no picture", "label maps without a picture", os.path.relpath(labels / name, path))
    fill_sizes(columns, path)
    classes, how = names_beside(path, given)
    if is_ade and classes is None:
        classes, how = load_classes(_ADE20K), f"as {_ADE20K} orders them, 0 is unlabelled"
    elif classes is None:
        classes, how = _numbered(path, all_pairs), "by number, as many as the label maps have values"
    palette = _palette(path, found, classes, is_ade)
    details = {"palette": palette} if palette else {}
    labelled = Labels(Strings.pack(found), zero_is_unlabelled=is_ade)
    return Parsed(columns, classes, how, path, details, labels=labelled)


def _numbered(path: Path, pairs: Iterable[Pair]) -> Classes:
    """As many classes as the values in all label maps ask for. Raises `InputError` where these are not two."""
    highest = 0
    for _, labels in pairs:
        for name in _maps(labels).values():
            try:
                values = read_values(labels / name)
            except InputError:
                continue  # a scan says which
            highest = max(highest, int(values[values != IGNORED].max(initial=0)))
    if not highest:
        raise InputError(f"{path}: expected label maps with two classes and more, found no value but 0 and {IGNORED}")
    return tuple(map(str, range(highest + 1)))


def are_black_and_white(maps: Iterable[Path]) -> bool:
    """Whether these have both 0 and 255, and no other value: one class of 255 is meant, mostly."""
    values = set[int]()
    for path in maps:
        with suppress(InputError):  # a scan says which
            values |= set(np.unique(read_values(path)).tolist())
    return values == {0, IGNORED}


def _palette(root: Path, maps: Iterable[str], classes: Classes, is_ade: bool) -> list[list[int]] | None:
    """Colours of the classes: ADE20K's, or those of the first label map that has some."""
    if is_ade and classes == load_classes(_ADE20K):
        return [list(colour) for colour in load_palette(_ADE20K)]
    first = next(filter(None, maps), None)
    if first is None:
        return None
    try:
        image = open_image(root / first, whole=True)
    except InputError:
        return None
    colours = image.getpalette() if image.mode == "P" else None
    if not colours or len(colours) < 3 * len(classes):
        return None
    return [colours[3 * i : 3 * i + 3] for i in range(len(classes))]


# ---- one label map ---------------------------------------------------------------------------------------------------


def read_values(path: Path) -> npt.NDArray[np.uint8]:
    """The values of a label map, (H, W): a palette's places, or grey. Raises `InputError` where they are no such."""
    image: Any = open_image(path, whole=True)
    values = np.asarray(image)
    if image.mode in ("RGB", "RGBA") and (values[..., :1] == values[..., :3]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise Undecodable(f"{path}: expected a label map of one value a pixel, found a picture in colours")
    if values.dtype not in (np.uint8, np.bool_):
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= IGNORED and (values == np.rint(values)).all()):
            what = f"a label map with whole values in 0 .. {IGNORED}"
            raise Undecodable(f"{path}: expected {what}, found {low} .. {high}")
    return values.astype(np.uint8) // _stretched(path)


def _stretched(path: Path) -> int:
    """By how much values of 2 and 4 bits come multiplied from a grey PNG, to reach 255."""
    with path.open("rb") as f:
        header = f.read(26)
    is_grey = header.startswith(b"\x89PNG") and header[25] == 0
    return {2: 85, 4: 17}.get(header[24], 1) if is_grey else 1


def read_labels(path: Path, size: tuple[int, int], classes: int, zero_is_unlabelled: bool) -> npt.NDArray[np.uint8]:
    """The classes in a label map of a picture of `size` (H, W), 255 for none.

    Raises `InputError` where it cannot be read, is of another size, or has values beyond the classes.
    """
    labels = read_values(path)
    if zero_is_unlabelled:
        labels = np.where(labels == IGNORED, np.uint8(IGNORED), labels - np.uint8(1))  # 0 - 1 is 255
    if labels.shape != size:
        wanted, found = (f"{width}x{height}" for height, width in (size, labels.shape))
        raise InputError(f"{path}: expected a label map of {wanted}, as its picture, found {found}")
    highest = int(labels.max(initial=0, where=labels != IGNORED))
    if highest >= classes:
        first = int(zero_is_unlabelled)
        asked = f"values of the {classes} classes, {first} .. {classes - 1 + first}"
        raise InputError(f"{path}: expected {asked}, found {highest + first}")
    return labels

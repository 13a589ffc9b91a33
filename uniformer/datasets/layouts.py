"""What a data set on disk may look like. Each function recognises one layout, or says no with None.

A layout answers with a `Listing`: its rows, the names its classes have and are ordered by, and where the files may lie.
Nothing is decided by a name alone: the files that a layout consists of are looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

from uniformer.datasets.manifest import Kind
from uniformer.datasets.records import class_names
from uniformer.datasets.tables import (
    LIST_SUFFIXES,
    ListRow,
    columns_of,
    describe,
    group_of,
    has_header,
    read_rows,
)
from uniformer.errors import InputError, counted, shown
from uniformer.labels import is_whole, load_classes, normal_form
from uniformer.reading.frames import VIDEO_SUFFIXES
from uniformer.reading.paths import LeftOut, folders_below
from uniformer.reading.pictures import IMAGE_SUFFIXES

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "holdout", "heldout"),
}
CLASSES_FILE = "classes.txt"  #: beside a list: the classes' names, one a line, in the order of the labels
ANY_SUFFIX = ("{path}", *(f"{{path}}{s}" for s in (".mp4", ".webm", ".avi", ".mkv", ".jpg", ".png")))
_KINETICS_PLACES = ("", "{split}/", "{label}/", "{label_}/", "{split}/{label}/", "{split}/{label_}/")


@dataclass(frozen=True)
class Listing:
    """A data set that was recognised, not yet read."""

    origin: str  #: what it was taken for
    rows: Callable[[], Iterator[ListRow]]
    roots: tuple[Path, ...]  #: where the files may lie: the first that holds them counts
    forms: tuple[str, ...] = ANY_SUFFIX  #: how a row's path may become a file's: the first that exists counts
    classes: tuple[str, ...] | None = None  #: names by label, where the layout tells
    named_like: tuple[str, ...] = ()  #: data sets whose order of classes counts if they have all the names
    renamed: dict[str, str] | None = None  #: labels as written -> names
    kind: Kind | None = None  #: None: by the files
    others: Callable[[], Iterator[ListRow]] | None = None  #: rows of the other splits, whose classes count too
    has_header: bool = True  #: or what could be one is taken for a row
    left_out: LeftOut = field(default_factory=LeftOut)  #: filled while `rows` are gone through


@dataclass(frozen=True)
class OpenOptions:
    """What `open_dataset` was asked for."""

    split: str | None = None
    separator: str = "auto"
    fold: int = 1
    classes: tuple[str, ...] | None = None
    root: Path | None = None
    label_base: int = 0
    multi_label: bool | None = None
    allow_duplicates: bool = False

    @property
    def split_labels(self) -> bool:
        return self.multi_label is not False


def split_of(name: str) -> str | None:
    """'val' for validation, Val, my-val-list, valid_2: the split that a file's or folder's name tells, if one."""
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[^a-z0-9]+", name.lower())]
    words.append(normal_form(name))  # held-out
    found = {split for split, names in SPLITS.items() if set(words) & set(names)}
    return found.pop() if len(found) == 1 else None


class NoSuchSplit(InputError):
    """A source has other splits than the one asked for; `there` names them, none where it is one set."""

    def __init__(self, message: str, there: Sequence[str] = ()):
        super().__init__(message)
        self.there = there


def is_part(name: str, split: str | None) -> bool:
    """Whether what has this name counts as a whole: no split is asked for, or the one that the name tells."""
    return split is None or split_of(name) == (split_of(split) or split)


def subfolders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir()]


def visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, less hidden files. Raises `InputError` where it cannot be listed."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith((".", "__MACOSX")))
    except OSError as error:
        raise InputError(f"{folder}: expected a folder to list, found none: {(error.strerror or '').lower()}") from None
    return [folder / name for name in names]


def by_split(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """The paths whose names, less a suffix, tell a split, by that."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        if split := split_of(path.stem if path.is_file() else path.name):
            found.setdefault(split, []).append(path)
    return found


def only_one(paths: list[Path], split: str, where: Path) -> Path:
    """Raises `InputError` where several are of one split: to take one of them would be a guess."""
    if len(paths) > 1:
        what = "list" if paths[0].is_file() else "folder"
        names = ", ".join(shown(path.name) for path in paths)
        raise InputError(f"{where}: expected one {what} of split {split}, found {names}: name the one to use")
    return paths[0]


def one_a_split(folders: Iterable[Path], where: Path) -> dict[str, Path]:
    """Those of a split, by it. Raises `InputError` where several are of one."""
    return {split: only_one(some, split, where) for split, some in by_split(folders).items()}


def media_kind(path: str | os.PathLike[str]) -> Kind | None:
    """What a file is by its suffix."""
    suffix = os.path.splitext(path)[1].lower()
    return "image" if suffix in IMAGE_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None


# ------------------------------------------------------------------------------------------------- a folder per class


def class_folders(folder: Path, options: OpenOptions) -> Listing | None:
    """`<class>/<file>`, also below `train/`, `val/`, `test/`; or `<class>/<clip>/<frame>` for folders of frames.

    `train/` itself is that split, whatever lies beside it.
    """
    named = by_split(subfolders(folder)).items()
    splits = {split: parts for split, found in named if (parts := list(filter(_holds_classes, found)))}
    if splits:
        split = choose(options.split, splits, folder)
        chosen = only_one(splits[split], split, folder)
    elif is_part(folder.name, options.split) and _holds_classes(folder):
        chosen = folder
    else:
        return None
    parts = list(chain.from_iterable(splits.values())) or [chosen]
    names = sorted({p.name for part in parts for p in subfolders(part) if _first_media(p)})
    kind = _kind_of_folders(chosen)
    where = f"{chosen.name}/ of " if splits else f"{folder.name}/ alone: " if split_of(folder.name) else ""
    origin, renamed = _named_folders(names, where)
    left_out = LeftOut()
    return Listing(
        origin=origin,
        rows=partial(_walk_classes, chosen, kind, left_out, beside=[] if chosen == folder else _beside(folder, parts)),
        roots=(chosen,),
        forms=("{path}",),
        classes=tuple(renamed.values()) if renamed else tuple(names) if all(map(is_whole, names)) else None,
        renamed=renamed,
        kind=kind,
        others=lambda: (ListRow(name, name, (name,)) for name in names),
        left_out=left_out,
    )


def _named_folders(names: list[str], where: str) -> tuple[str, dict[str, str] | None]:
    """What folders of classes are, in words, and the classes' names where they are others."""
    are_ids = all(re.fullmatch(r"n\d{8}", name) for name in names)
    if are_ids and len(names) == 1000:
        renamed = dict(zip(names, load_classes("ImageNet-1K"), strict=True))
        return f"ImageNet folders ({where}1000 classes in the order of their ids)", renamed
    if are_ids:
        return f"some ImageNet folders ({where}{counted(len(names), 'class')}, named and ordered by their ids)", None
    return f"a folder per class ({where}{counted(len(names), 'class')})", None


def _beside(folder: Path, parts: list[Path]) -> list[Path]:
    """What else lies beside the folders of splits, less what is of use."""
    return [path for path in visible(folder) if path not in parts and path.name != CLASSES_FILE]


def _walk_classes(folder: Path, kind: Kind, left_out: LeftOut, beside: list[Path]) -> Iterator[ListRow]:
    left_out.clear()
    for other in beside:
        left_out.add("beside the splits", other.name)
    for label in visible(folder):
        if not label.is_dir():
            if label.name != CLASSES_FILE:
                left_out.add("beside the classes", label.name)
            continue
        is_empty = True
        for path in _media_below(label, kind, left_out):
            is_empty = False
            relative = os.path.relpath(path, folder)
            yield ListRow(relative, relative, (label.name,), group=group_of(relative))
        if is_empty:
            left_out.add(f"folders without {'videos' if kind == 'video' else 'images'}", label.name)


def _media_below(folder: Path, kind: Kind, left_out: LeftOut) -> Iterator[str]:
    """Files of the kind anywhere below, sorted; for frames, the folders that hold images."""
    for place, files in _folders_with_media(folder, left_out):
        if kind == "frames":
            yield place
            continue
        for file in files:
            if media_kind(file) != kind:
                raise InputError(f"{file}: expected {kind} files only, as in the other folders")
            yield file


def _first_media(folder: Path) -> str | None:
    return next((files[0] for _, files in _folders_with_media(folder, LeftOut())), None)


def _folders_with_media(folder: Path, left_out: LeftOut) -> Iterator[tuple[str, list[str]]]:
    """Each folder below with media in it, and their paths, sorted and less hidden ones."""
    for place, files in folders_below(folder, left_out):
        for name in files:
            if not media_kind(name):
                left_out.add("files that are no media", os.path.relpath(os.path.join(place, name), folder.parent))
        if media := sorted(name for name in files if media_kind(name)):
            yield place, [os.path.join(place, name) for name in media]


def _holds_classes(folder: Path) -> bool:
    """Folders with media in them, and no media beside them."""
    folders = subfolders(folder)
    return any(_first_media(p) for p in folders) and not any(media_kind(p) for p in visible(folder) if p.is_file())


def _kind_of_folders(folder: Path) -> Kind:
    """Images in folders one deeper than the classes are frames, if none lies in a class's own folder."""
    first = [path for path in map(_first_media, subfolders(folder)) if path]
    kind = media_kind(first[0])
    assert kind is not None
    is_nested = all(len(Path(path).relative_to(folder).parts) > 2 for path in first)
    return "frames" if kind == "image" and is_nested else kind


def one_set(source: Path, split: str | None) -> NoSuchSplit:
    what = "list" if source.is_file() else "set"
    return NoSuchSplit(f"{source}: expected several splits to choose {split!r} from, found one {what}")


def choose(split: str | None, found: Iterable[str | None], where: Path) -> str:
    """The split asked for, of those there are. Raises `InputError` where it is missing or none was asked for."""
    names = sorted(filter(None, found))
    if split is None and len(names) == 1:
        return names[0]
    asked = None if split is None else split_of(split) or split
    if asked not in names:
        there = ", ".join(map(shown, names))
        raise NoSuchSplit(f"{where}: expected one of its splits ({there}), got split={split!r}", names)
    return asked


# -------------------------------------------------------------------------------------------------------------- lists


def list_file(path: Path, options: OpenOptions) -> Listing:
    """One list file of any form; the original annotations of Kinetics and Something-Something among them."""
    columns = columns_of(path, options.separator)
    rows = partial(read_rows, path, options.separator, split_labels=options.split_labels)
    listing = Listing(
        describe(path, options.separator),
        rows,
        nearby(path),
        classes=class_names(path),
        has_header=has_header(path, options.separator),
    )
    first = next(rows(), None)
    if first is None:
        raise InputError(f"{path}: expected a list of files, found a header only")
    if "youtube_id" in columns and "path" not in columns:
        listing = replace(
            listing,
            origin="Kinetics annotations",
            forms=tuple(f"{place}{{path}}.mp4" for place in _KINETICS_PLACES),
            named_like=("Kinetics-400", "Kinetics-600"),
        )
    elif is_whole(first.path) and not is_whole(first.labels[0]):
        listing = replace(
            listing,
            origin=f"Something-Something annotations, {listing.origin}",
            named_like=(f"Something-Something {'V2' if path.suffix == '.json' else 'V1'}",),
        )
    if "split" in columns:
        return _with_split_column(listing, path, options.split)
    if not is_part(path.stem, options.split):
        raise one_set(path, options.split)
    return listing


def _with_split_column(listing: Listing, path: Path, split: str | None) -> Listing:
    if split is None:
        return listing

    def part(row: ListRow) -> str | None:
        return split_of(row.split or "") or row.split

    chosen = choose(split, set(map(part, listing.rows())), path)

    def rows() -> Iterator[ListRow]:
        listing.left_out.clear()
        for row in listing.rows():
            name = part(row)
            if name == chosen:
                yield row
            elif name not in SPLITS:
                listing.left_out.add(f"rows of {f'split {shown(name)}' if name else 'no split'}", row.path)

    return replace(listing, origin=f"{listing.origin}, split {chosen}", rows=rows, others=listing.rows)


def folder_of_lists(folder: Path, options: OpenOptions) -> Listing | None:
    """`train.csv`, `val.csv`, ... or any list files whose names tell a split each."""
    lists = [path for path in visible(folder) if path.suffix.lower() in LIST_SUFFIXES and path.is_file()]
    found = by_split(lists)
    if not found:
        return None
    chosen = choose(options.split, found, folder)
    file = only_one(found[chosen], chosen, folder)
    listing = list_file(file, replace(options, split=None))
    for path in lists:
        if not split_of(path.stem) and path.name != CLASSES_FILE:
            listing.left_out.add("lists whose names tell no split", path.name)

    def others() -> Iterator[ListRow]:
        for name in ("train", "val"):  # the lists of test sets often have no labels
            for path in found.get(name, [])[:1]:
                yield from read_rows(path, options.separator, split_labels=options.split_labels)

    return replace(listing, origin=f"{file.name}: {listing.origin}", others=others)


def nearby(path: Path) -> tuple[Path, ...]:
    """Where the files of a list may lie: beside it, in a folder beside it, above it, in a folder above."""
    here, above = path.absolute().parent, path.absolute().parent.parent
    return tuple(dict.fromkeys([here, *subfolders(here), above, *(p for p in subfolders(above) if p != here)]))

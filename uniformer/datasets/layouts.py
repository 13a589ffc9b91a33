"""What a data set on disk may look like. Each function recognises one layout, or says no with None.

A layout answers with a `Listing`: its rows, the names its classes have and are ordered by, and where the files may lie.
Nothing is decided by a name alone: the files that a layout consists of are looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from uniformer.datasets.manifest import Kind
from uniformer.datasets.tables import (
    LIST_SUFFIXES,
    ListRow,
    columns_of,
    describe,
    group_of,
    is_whole,
    read_rows,
)
from uniformer.errors import InputError, counted
from uniformer.labels import load_classes
from uniformer.reading.frames import VIDEO_SUFFIXES
from uniformer.reading.pictures import IMAGE_SUFFIXES

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}
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
    found = {split for split, names in SPLITS.items() if set(words) & set(names)}
    return found.pop() if len(found) == 1 else None


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


def media_kind(path: str | os.PathLike[str]) -> Kind | None:
    """What a file is by its suffix."""
    suffix = os.path.splitext(path)[1].lower()
    return "image" if suffix in IMAGE_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None


# ------------------------------------------------------------------------------------------------- a folder per class


def class_folders(folder: Path, options: OpenOptions) -> Listing | None:
    """`<class>/<file>`, also below `train/`, `val/`, `test/`; or `<class>/<clip>/<frame>` for folders of frames.

    `train/` itself is that split, whatever lies beside it.
    """
    splits = {split_of(p.name): p for p in subfolders(folder) if split_of(p.name) and _holds_classes(p)}
    if splits:
        chosen = splits[choose(options.split, splits, folder)]
    elif is_part(folder.name, options.split) and _holds_classes(folder):
        chosen = folder
    else:
        return None
    names = sorted({p.name for part in splits.values() or [chosen] for p in subfolders(part) if _first_media(p)})
    kind = _kind_of_folders(chosen)
    where = f"{chosen.name}/ of " if splits else f"{folder.name}/ alone: " if split_of(folder.name) else ""
    origin = f"a folder per class ({where}{counted(len(names), 'class')})"
    renamed = None
    if len(names) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in names):
        renamed = dict(zip(names, load_classes("ImageNet-1K"), strict=True))
        origin = f"ImageNet folders ({where}1000 classes in the order of their ids)"
    elif all(re.fullmatch(r"n\d{8}", name) for name in names):
        origin = f"some ImageNet folders ({where}{counted(len(names), 'class')}, named and ordered by their ids)"
    return Listing(
        origin=origin,
        rows=partial(_walk_classes, chosen, kind),
        roots=(chosen,),
        forms=("{path}",),
        classes=tuple(renamed.values()) if renamed else tuple(names) if all(map(is_whole, names)) else None,
        renamed=renamed,
        kind=kind,
        others=lambda: (ListRow(name, name, (name,)) for name in names),
    )


def _walk_classes(folder: Path, kind: Kind) -> Iterator[ListRow]:
    for label in subfolders(folder):
        for path in _media_below(label, kind):
            relative = os.path.relpath(path, folder)
            yield ListRow(relative, relative, (label.name,), group=group_of(relative))


def _media_below(folder: Path, kind: Kind) -> Iterator[str]:
    """Files of the kind anywhere below, sorted; for frames, the folders that hold images."""
    for place, files in _folders_with_media(folder):
        if kind == "frames":
            yield place
            continue
        for file in files:
            if media_kind(file) != kind:
                raise InputError(f"{file}: expected {kind} files only, as in the other folders")
            yield file


def _first_media(folder: Path) -> str | None:
    return next((files[0] for _, files in _folders_with_media(folder)), None)


def _folders_with_media(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder below with media in it, and their paths, sorted and less hidden ones."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if media := sorted(name for name in files if not name.startswith(".") and media_kind(name)):
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


def one_set(source: Path, split: str | None) -> InputError:
    what = "list" if source.is_file() else "set"
    return InputError(f"{source}: expected several splits to choose {split!r} from, found one {what}")


def choose(split: str | None, found: Iterable[str | None], where: Path) -> str:
    """The split asked for, of those there are. Raises `InputError` where it is missing or none was asked for."""
    names = sorted(filter(None, found))
    if split is None and len(names) == 1:
        return names[0]
    asked = None if split is None else split_of(split) or split
    if asked not in names:
        raise InputError(f"{where}: expected one of its splits ({', '.join(names)}), got split={split!r}")
    return asked


# -------------------------------------------------------------------------------------------------------------- lists


def list_file(path: Path, options: OpenOptions) -> Listing:
    """One list file of any form; the original annotations of Kinetics and Something-Something among them."""
    columns = columns_of(path, options.separator)
    rows = partial(read_rows, path, options.separator, split_labels=options.split_labels)
    listing = Listing(describe(path, options.separator), rows, nearby(path))
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
        return (row for row in listing.rows() if part(row) == chosen)

    return replace(listing, origin=f"{listing.origin}, split {chosen}", rows=rows, others=listing.rows)


def folder_of_lists(folder: Path, options: OpenOptions) -> Listing | None:
    """`train.csv`, `val.csv`, ... or any list files whose names tell a split each."""
    found: dict[str, list[Path]] = {}
    for path in visible(folder):
        if path.suffix.lower() in LIST_SUFFIXES and path.is_file() and (split := split_of(path.stem)):
            found.setdefault(split, []).append(path)
    if not found:
        return None
    chosen = choose(options.split, found, folder)
    if len(found[chosen]) > 1:
        names = ", ".join(path.name for path in found[chosen])
        raise InputError(f"{folder}: expected one list of split {chosen}, found {names}: name the one to use")
    listing = list_file(found[chosen][0], replace(options, split=None))

    def others() -> Iterator[ListRow]:
        for name in ("train", "val"):  # the lists of test sets often have no labels
            for path in found.get(name, [])[:1]:
                yield from read_rows(path, options.separator, split_labels=options.split_labels)

    return replace(listing, origin=f"{found[chosen][0].name}: {listing.origin}", others=others)


def nearby(path: Path) -> tuple[Path, ...]:
    """Where the files of a list may lie: beside it, in a folder beside it, above it, in a folder above."""
    here, above = path.absolute().parent, path.absolute().parent.parent
    return tuple(dict.fromkeys([here, *subfolders(here), above, *(p for p in subfolders(above) if p != here)]))

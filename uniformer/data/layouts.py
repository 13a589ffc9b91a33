"""What a data set on disk may look like. Each function recognises one layout, or says no with None.

A layout answers with a `Listing`: its rows, the names its classes have and are ordered by, and where the files may lie.
Nothing is decided by a name alone: the files that a layout consists of are looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from uniformer.data.annotations import (
    LIST_SUFFIXES,
    Row,
    columns_of,
    describe,
    group_of,
    is_whole,
    read_rows,
)
from uniformer.data.classes import load_classes
from uniformer.data.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from uniformer.data.manifest import Kind
from uniformer.errors import InputError, MissingExtra

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
    rows: Callable[[], Iterator[Row]]
    roots: tuple[Path, ...]  #: where the files may lie: the first that holds them counts
    forms: tuple[str, ...] = ANY_SUFFIX  #: how a row's path may become a file's: the first that exists counts
    classes: tuple[str, ...] | None = None  #: names by label, where the layout tells
    named_like: tuple[str, ...] = ()  #: data sets whose order of classes counts if they have all the names
    renamed: dict[str, str] | None = None  #: labels as written -> names
    kind: Kind | None = None  #: None: by the files
    others: Callable[[], Iterator[Row]] | None = None  #: rows of the other splits, whose classes count too


@dataclass(frozen=True)
class Options:
    """What `open_source` was asked for."""

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


def class_folders(folder: Path, options: Options) -> Listing | None:
    """`<class>/<file>`, also below `train/`, `val/`, `test/`; or `<class>/<clip>/<frame>` for folders of frames."""
    splits = {split_of(p.name): p for p in subfolders(folder) if split_of(p.name) and _holds_classes(p)}
    if splits:
        chosen = splits[choose(options.split, splits, folder)]
    elif options.split is None and _holds_classes(folder):
        chosen = folder
    else:
        return None
    names = sorted({p.name for part in splits.values() or [chosen] for p in subfolders(part) if _first_media(p)})
    kind = _kind_of_folders(chosen)
    where = f"{chosen.name}/ of " if splits else ""
    origin = f"a folder per class ({where}{len(names)} classes)"
    renamed = None
    if len(names) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in names):
        renamed = dict(zip(names, load_classes("ImageNet-1K"), strict=True))
        origin = f"ImageNet folders ({where}1000 classes in the order of their ids)"
    elif all(re.fullmatch(r"n\d{8}", name) for name in names):
        origin = f"some ImageNet folders ({where}{len(names)} classes, named and ordered by their ids)"
    return Listing(
        origin=origin,
        rows=partial(_walk_classes, chosen, kind),
        roots=(chosen,),
        forms=("{path}",),
        classes=tuple(renamed.values()) if renamed else tuple(names) if all(map(is_whole, names)) else None,
        renamed=renamed,
        kind=kind,
        others=lambda: (Row(name, name, (name,)) for name in names),
    )


def _walk_classes(folder: Path, kind: Kind) -> Iterator[Row]:
    for label in subfolders(folder):
        for path in _media_below(label, kind):
            relative = os.path.relpath(path, folder)
            yield Row(relative, relative, (label.name,), group=group_of(relative))


def _media_below(folder: Path, kind: Kind) -> Iterator[str]:
    """Files of the kind anywhere below, sorted; for frames, the folders that hold images."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        media = sorted(name for name in files if not name.startswith(".") and media_kind(name))
        if kind == "frames" and media:
            yield place
        elif kind != "frames":
            for name in media:
                if media_kind(name) != kind:
                    file = os.path.join(place, name)
                    raise InputError(f"{file}: expected {kind} files only, as in the other folders")
                yield os.path.join(place, name)


def _first_media(folder: Path) -> str | None:
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if media_kind(name) and not name.startswith("."):
                return os.path.join(place, name)
    return None


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


def choose(split: str | None, found: dict[str | None, Path], where: Path) -> str:
    """The split asked for, of those there are. Raises `InputError` where it is missing or none was asked for."""
    names = sorted(filter(None, found))
    if split is None and len(names) == 1:
        return names[0]
    asked = None if split is None else split_of(split) or split
    if asked not in names:
        raise InputError(f"{where}: expected one of its splits ({', '.join(names)}), got split={split!r}")
    return asked


# -------------------------------------------------------------------------------------------------------------- lists


def list_file(path: Path, options: Options) -> Listing:
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
    if options.split is not None and split_of(path.stem) != split_of(options.split):
        raise InputError(f"{path}: expected a list of several splits to choose {options.split!r} from, found one list")
    return listing


def _with_split_column(listing: Listing, path: Path, split: str | None) -> Listing:
    names = {row.split for row in listing.rows()}
    found: dict[str | None, Path] = {split_of(name or "") or name: path for name in names}
    if split is None:
        return listing
    chosen = choose(split, found, path)

    def rows() -> Iterator[Row]:
        return (row for row in listing.rows() if (split_of(row.split or "") or row.split) == chosen)

    return replace(listing, origin=f"{listing.origin}, split {chosen}", rows=rows, others=listing.rows)


def folder_of_lists(folder: Path, options: Options) -> Listing | None:
    """`train.csv`, `val.csv`, ... or any list files whose names tell a split each."""
    found: dict[str | None, list[Path]] = {}
    for path in visible(folder):
        if path.suffix.lower() in LIST_SUFFIXES and path.is_file() and split_of(path.stem):
            found.setdefault(split_of(path.stem), []).append(path)
    if not found:
        return None
    chosen = choose(options.split, {split: paths[0] for split, paths in found.items()}, folder)
    if len(found[chosen]) > 1:
        names = ", ".join(path.name for path in found[chosen])
        raise InputError(f"{folder}: expected one list of split {chosen}, found {names}: name the one to use")
    listing = list_file(found[chosen][0], replace(options, split=None))

    def others() -> Iterator[Row]:
        for name in ("train", "val"):  # the lists of test sets often have no labels
            for path in found.get(name, [])[:1]:
                yield from read_rows(path, options.separator, split_labels=options.split_labels)

    return replace(listing, origin=f"{found[chosen][0].name}: {listing.origin}", others=others)


def nearby(path: Path) -> tuple[Path, ...]:
    """Where the files of a list may lie: beside it, in a folder beside it, above it, in a folder above."""
    here, above = path.absolute().parent, path.absolute().parent.parent
    return tuple(dict.fromkeys([here, *subfolders(here), above, *(p for p in subfolders(above) if p != here)]))


# ----------------------------------------------------------------------------------------------------- UCF101, HMDB51


def ucf101(path: Path, options: Options) -> Listing | None:
    """`trainlist01.txt` ('Class/v_Class_g08_c01.avi 1') and `testlist01.txt` (no label), or their folder."""
    file = path
    if path.is_dir():
        if not (path / f"trainlist{options.fold:02d}.txt").is_file():
            return None
        found: dict[str | None, Path] = {s: path / f"{s}list{options.fold:02d}.txt" for s in ("train", "test")}
        file = found[choose(options.split, found, path)] or path
    elif not re.fullmatch(r"(train|test)list\d\d\.txt", path.name):
        return None
    lines = [line.split()[0] for line in _lines(file)]
    if not all(re.fullmatch(r"[^/]+/v_.+_g\d+_c\d+\.\w+", line) for line in lines):
        return None
    index = file.parent / "classInd.txt"
    names = tuple(line.split(None, 1)[-1] for line in _lines(index)) if index.is_file() else None

    def rows() -> Iterator[Row]:
        for number, line in enumerate(lines, 1):
            yield Row(f"{file}, line {number}", line, (line.split("/")[0],), group=group_of(line))

    return Listing(
        origin=f"UCF101 {file.name}",
        rows=rows,
        roots=nearby(file),
        forms=("{path}", "{stem}"),
        classes=names,
        named_like=("UCF101",),
    )


def hmdb51(path: Path, options: Options) -> Listing | None:
    """A folder of `<class>_test_split1.txt` files, '<clip>.avi 1': 1 is for training, 2 for testing, 0 unused."""
    if not path.is_dir():
        return None
    ending = f"_test_split{options.fold}.txt"
    files = [p for p in visible(path) if p.name.endswith(ending)]
    if not files:
        return None
    flag = {"train": "1", "test": "2"}[choose(options.split, {"train": path, "test": path}, path)]

    def rows() -> Iterator[Row]:
        for file in files:
            label = file.name.removesuffix(ending)
            for number, line in enumerate(_lines(file), 1):
                clip, _, mark = line.rpartition(" ")
                if mark not in ("0", "1", "2") or not clip:
                    raise InputError(f"{file}, line {number}: expected '<clip> <0, 1 or 2>', found {line[:60]!r}")
                if mark == flag:
                    film = clip.rsplit(f"_{label}_", 1)[0]  # clips are named <film>_<class>_<conditions>_<number>
                    yield Row(f"{file}, line {number}", clip, (label,), group=film if film != clip else None)

    return Listing(
        origin=f"HMDB51 split {options.fold}",
        rows=rows,
        roots=nearby(files[0]),
        forms=("{label}/{path}", "{path}", "{label}/{stem}", "{stem}"),
        named_like=("HMDB51",),
        others=lambda: (Row(f.name, f.name, (f.name.removesuffix(ending),)) for f in files),
    )


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as f:
            yield from (line.strip() for line in f if line.strip())
    except OSError as error:
        raise InputError(f"{path}: expected a list, found no readable file: {error.strerror}") from None


# ------------------------------------------------------------------------------------------- the `datasets` library


def hugging_face(folder: Path, options: Options) -> Listing | None:
    """`metadata.csv` (or .jsonl, .parquet) with file_name and label beside the files, also below split folders; or what
    `save_to_disk` wrote, if its files lie on the disk."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _saved_to_disk(folder, options)
    splits: dict[str | None, Path] = {split_of(p.name): p for p in subfolders(folder) if split_of(p.name)}
    parts = {split: meta for split, p in splits.items() if (meta := _metadata(p))}
    if parts:
        chosen = parts[choose(options.split, parts, folder)]
    elif options.split is None and _metadata(folder):
        chosen = _metadata(folder) or folder
    else:
        return None
    parts = parts or {None: chosen}
    return Listing(
        origin=f"{chosen.name} of a `datasets` folder",
        rows=partial(read_rows, chosen, split_labels=options.split_labels),
        roots=(chosen.parent,),
        forms=("{path}",),
        others=lambda: (row for p in parts.values() for row in read_rows(p, split_labels=options.split_labels)),
    )


def _metadata(folder: Path) -> Path | None:
    return next((p for s in ("csv", "jsonl", "parquet") if (p := folder / f"metadata.{s}").is_file()), None)


def _saved_to_disk(folder: Path, options: Options) -> Listing:
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "datasets", f"{folder}, written by the `datasets` library,") from None
    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        found: dict[str | None, Path] = {split_of(name) or name: Path(name) for name in saved}
        saved = saved[str(found[choose(options.split, found, folder)])]
    features = saved.features
    column = next((name for name in ("video", "image", "file_name", "path") if name in features), None)
    if column is None or "label" not in features:
        raise InputError(f"{folder}: expected the columns image or video, and label; found {', '.join(features)}")
    if hasattr(features[column], "decode"):
        saved = saved.cast_column(column, type(features[column])(decode=False))

    def rows() -> Iterator[Row]:
        for number, record in enumerate(saved.select_columns([column, "label"])):
            value = record[column]
            path = value["path"] if isinstance(value, dict) else value
            if not path or (isinstance(value, dict) and value.get("bytes") is not None):
                raise InputError(f"{folder}, row {number}: expected the path of a file, found its content")
            yield Row(f"{folder}, row {number}", path, (str(record["label"]),), group=group_of(path))

    names = getattr(features["label"], "names", None)
    return Listing("a data set saved by `datasets`", rows, (folder,), ("{path}",), tuple(names) if names else None)

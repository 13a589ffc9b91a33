"""From whatever a data set is on disk to a `Manifest`: `open_dataset` recognises it by looking and says what it saw."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from uniformer.config import did_you_mean
from uniformer.datasets.known_layouts import hmdb51, hugging_face, ucf101
from uniformer.datasets.layouts import (
    SPLITS,
    Listing,
    OpenOptions,
    choose,
    class_folders,
    folder_of_lists,
    list_file,
    media_kind,
    one_set,
    split_of,
    subfolders,
    visible,
)
from uniformer.datasets.manifest import Item, Kind, Manifest, is_saved_manifest
from uniformer.datasets.tables import LIST_SUFFIXES, ListRow, is_whole
from uniformer.errors import InputError, counted
from uniformer.labels import DATASETS, alphabetical, load_classes, match_names, normal_form, read_class_names

MANIFEST_SUFFIX = ".manifest"  #: of a saved manifest found in a folder
CLASSES_FILE = "classes.txt"  #: beside a list: the classes' names, one a line, in the order of the labels

MAX_CLASSES = 1 << 24  #: of labels without names, as of a network: more is a column misread

_LOOK_AT = 64  # rows, of which every fourth is looked for on the disk
Labels = npt.NDArray[np.int32]
_Layout = Callable[[Path, OpenOptions], Listing | None]
_KNOWN: tuple[_Layout, ...] = (ucf101, hmdb51, hugging_face)  # unmistakable by their files: the first counts
_USUAL: tuple[_Layout, ...] = (folder_of_lists, class_folders)  # a folder that may be both is not guessed at
_WHOLE: tuple[_Layout, ...] = (hugging_face, class_folders)  # which may be of one split, or of none


def open_dataset(
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    classes: Sequence[str] | str | None = None,
    separator: str = "auto",
    root: str | os.PathLike[str] | None = None,
    label_base: int = 0,
    multi_label: bool | None = None,
    fold: int = 1,
    allow_duplicates: bool = False,
) -> Manifest:
    """A data set as a manifest. What it was taken for is in `manifest.origin`, one line to be shown.

    Recognised: a folder per class (also ImageNet's, also below train/val/test), lists (CSV and its like, JSON, JSON
    lines, Parquet; with a header, or 'path label', 'folder frames label', 'video start end label'), the original
    annotations of Kinetics, Something-Something V1 and V2, UCF101 and HMDB51, folders of the `datasets` library, and
    saved manifests.

    Args:
        source: a folder or a list file.
        split: "train", "val" or "test", where the source holds several.
        classes: the classes' names in the order of the labels, the name of a data set ("Kinetics-400"), or a file with
            a name a line. None: the order that a known data set was published with, else alphabetical. Open a
            validation set with the training set's classes.
        separator: of the fields in a list: "comma", "tab", "semicolon", "space" or "auto".
        root: where the paths of a list start; None looks beside the list and in the folders around it.
        label_base: the label of the first class, where labels are numbers; 1 for lists that count from one.
        multi_label: whether "a|b" is two labels; None: yes, and the set is multi-label if any row has several.
        fold: which of the published splits of UCF101 and HMDB51, 1 to 3.
        allow_duplicates: keep rows that name the same part of the same file twice.

    Raises:
        InputError: nothing or several things are recognised, the files are not there, or a row is wrong: the message
            has its place.
        MissingExtra: a Parquet list, or a folder saved by `datasets`, without the package.
    """
    path = Path(source)
    names = _class_names(classes)
    options = OpenOptions(
        split, separator, fold, names, None if root is None else Path(root), label_base, multi_label, allow_duplicates
    )
    if path.is_file() and is_saved_manifest(path):
        return _saved(path, names)
    listing = _recognise(path, options)
    return _saved(listing, names) if isinstance(listing, Path) else _build(path, listing, options)


def find_splits(source: str | os.PathLike[str], *, fold: int = 1) -> list[str]:
    """The splits that `open_dataset` can choose from, of "train", "val", "test"; empty where the source is one set."""
    path, found = Path(source), []
    for split in SPLITS:
        try:
            _recognise(path, OpenOptions(split, fold=fold))
        except InputError:
            continue
        found.append(split)
    return found


def open_for_evaluation(
    source: str | os.PathLike[str] | Manifest,
    split: str | None = None,
    classes: str | None = None,
    root: str | None = None,
    separator: str = "auto",
    label_base: int = 0,
) -> Manifest:
    """A data set to test on: the validation split where there are several and none is named."""
    if isinstance(source, Manifest):
        return source
    if split is None:
        there = find_splits(source)
        split = next((name for name in ("val", "test", "train") if name in there), None)
    return open_dataset(source, split=split, root=root, classes=classes, separator=separator, label_base=label_base)


def _recognise(path: Path, options: OpenOptions) -> Listing | Path:
    """How to read a source, or the saved manifest in it."""
    if path.is_file():
        if media_kind(path):
            raise InputError(f"{path}: expected a folder or a list of files, found one {media_kind(path)}")
        return ucf101(path, options) or list_file(path, options)
    if not path.is_dir():
        raise InputError(f"{path}: expected a folder or a list of files, found nothing there")
    saved = {split_of(p.stem) or p.stem: p for p in visible(path) if p.suffix == MANIFEST_SUFFIX}
    if saved:
        return saved[choose(options.split, saved, path)]
    for layout in _KNOWN:
        if listing := layout(path, options):
            return listing
    found = [listing for layout in _USUAL if (listing := layout(path, options))]
    if len(found) > 1:
        what = "; ".join(listing.origin for listing in found)
        raise InputError(
            f"{path}: expected one way to read it, found {len(found)} ({what}): name the list or the folder"
        )
    if found:
        return found[0]
    if options.split is not None and any(layout(path, replace(options, split=None)) for layout in _WHOLE):
        raise one_set(path, options.split)
    raise InputError(_nothing_found(path, options.split))


def _nothing_found(path: Path, split: str | None) -> str:
    here = visible(path)
    lists = [p.name for p in here if p.suffix.lower() in LIST_SUFFIXES]
    media = [p.name for p in here if media_kind(p)]
    if lists:
        seen = f"the lists {', '.join(lists[:4])}: name the one to use"
    elif media:
        seen = f"{counted(len(media), 'media file')} without classes, such as {media[0]}"
    else:
        seen = f"{len(here)} entries" + (f", such as {here[0].name}" if here else "")
    return (
        f"{path}: expected a folder per class, {', '.join(SPLITS)} folders or lists, or the files of a known data set"
        f"{'' if split is None else f', with the split {split!r}'}; found {seen}"
    )


def _class_names(classes: Sequence[str] | str | None) -> tuple[str, ...] | None:
    if classes is None:
        return None
    names = read_class_names(classes)
    if not names or len(set(names)) < len(names):
        raise InputError(f"expected different names of classes, got {len(names)} names, {len(set(names))} different")
    return names


def _saved(path: Path, names: tuple[str, ...] | None) -> Manifest:
    manifest = Manifest.load(path)
    if names is None or names == manifest.classes:
        return manifest
    table = _by_name(dict.fromkeys(manifest.classes, str(path)), names)
    return replace(manifest, labels=table[manifest.labels], classes=names, file=None)


# ---------------------------------------------------------------------------------------------------------- the rows


def _build(source: Path, listing: Listing, options: OpenOptions) -> Manifest:
    base, form, kind = _locate(source, listing, options.root)
    seen: dict[str, str] = {}  # label as written -> where first
    number: dict[str, int] = {}  # label as written -> its number until the classes are known
    keys = array("q")  # of each row, to find duplicates: objects would take gigabytes

    def items() -> Iterator[Item]:
        for row in listing.rows():
            for label in row.labels:
                seen.setdefault(label, row.place)
            path = _fill(form, row)
            keys.append(hash((path, row.start, row.end)))
            labels = tuple(number.setdefault(label, len(number)) for label in row.labels)
            yield Item(path, labels, row.start, row.end, row.frames, row.group)

    raw = Manifest.from_items(items(), kind=kind, classes=(), root=base, multi_label=True)
    if listing.others is not None:
        for row in listing.others():
            for label in row.labels:
                seen.setdefault(label, row.place)
    classes, table, how = _resolve(source, listing, options, seen)
    is_single = bool(raw.label_offsets is not None and (np.diff(raw.label_offsets) == 1).all())
    if not is_single and options.multi_label is False:
        raise InputError(f"{source}: expected one label a row, found rows with several")
    manifest = replace(
        raw,
        labels=table[raw.labels],
        classes=classes,
        label_offsets=None if is_single and not options.multi_label else raw.label_offsets,
        origin=f"{source}: {listing.origin}; {counted(len(raw), f'{kind} item')}, "
        f"{counted(len(classes), 'class')} {how}, files in {base}",
    )
    if not options.allow_duplicates:
        _refuse_duplicates(source, manifest, np.frombuffer(keys, np.int64))
    return manifest


def _fill(form: str, row: ListRow) -> str:
    if form == "{path}":
        return row.path
    label = row.labels[0] if row.labels else ""
    stem = os.path.splitext(row.path)[0]
    return form.format(path=row.path, stem=stem, split=row.split, label=label, label_=label.replace(" ", "_"))


def _locate(source: Path, listing: Listing, root: Path | None) -> tuple[Path, str, Kind]:
    """Where the files lie, how their names are made, and what they are: by looking for some of the first ones."""
    rows = list(islice(listing.rows(), _LOOK_AT))
    rows = rows[::4] if len(rows) == _LOOK_AT else rows
    if not rows:
        raise InputError(f"{source}: expected at least one row, found none ({listing.origin})")
    roots = listing.roots if root is None else (root, *(subfolders(root) if root.is_dir() else ()))
    for base in roots:
        for form in listing.forms:
            paths = [path for row in rows if os.path.exists(path := os.path.join(base, _fill(form, row)))]
            if paths:
                return base.absolute(), form, listing.kind or _one_kind(source, paths)
    looked = ", ".join(str(base) for base in roots[:3]) + (f" and {len(roots) - 3} more" if len(roots) > 3 else "")
    raise InputError(
        f"{source}: expected files such as {rows[0].path} under {looked}, found none of the first {len(rows)}: "
        "say where they start with root"
    )


def _one_kind(source: Path, paths: list[str]) -> Kind:
    kinds: set[Kind] = set()
    for path in paths:
        kind = "frames" if os.path.isdir(path) else media_kind(path)
        if kind is None:
            raise InputError(f"{source}: expected images, videos or folders of frames, found {path}")
        kinds.add(kind)
    if len(kinds) > 1:
        raise InputError(f"{source}: expected files of one kind, found {' and '.join(sorted(kinds))}")
    return kinds.pop()


# ------------------------------------------------------------------------------------------------------- the classes


def _resolve(
    source: Path, listing: Listing, options: OpenOptions, seen: dict[str, str]
) -> tuple[tuple[str, ...], Labels, str]:
    """The classes in order; for each label as written, in the order of `seen`, its number; and how that was found."""
    beside = source.parent / CLASSES_FILE if source.is_file() else source / CLASSES_FILE
    known, how = options.classes, "as given"
    if known is None and listing.classes is not None:
        known, how = listing.classes, "as the data set names them"
    elif known is None and beside.is_file():
        known, how = read_class_names(os.fspath(beside)), f"from {beside.name}"
    if all(map(is_whole, seen)) and not (known and seen.keys() <= set(known)):
        return *_by_number(source, known, seen, options.label_base), how if known else "by number"
    if listing.renamed is not None:
        seen = {listing.renamed[label]: place for label, place in seen.items()}
    if known is None:
        published = _published(listing, seen)
        known = load_classes(published) if published else tuple(alphabetical(seen))
        how = f"as {published} orders them" if published else "in alphabetical order"
    return known, _by_name(seen, known), how


def _by_number(
    source: Path, known: tuple[str, ...] | None, seen: dict[str, str], label_base: int
) -> tuple[tuple[str, ...], Labels]:
    values = {label: int(label) - label_base for label in seen}
    low, high = min(values.values()), max(values.values())
    count = len(known) if known else high + 1
    if label_base == 0 and low >= 1 and (high == count if known else len(set(values.values())) == high):
        raise InputError(
            f"{source}: expected labels 0 .. {high - 1}, found {low} .. {high}: they seem to count from one "
            "(label_base=1 says so; naming the classes says that class 0 is only missing)"
        )
    if low < 0 or high >= min(count, MAX_CLASSES):
        wrong = next(label for label, value in values.items() if not 0 <= value < min(count, MAX_CLASSES))
        last = label_base + (count if known else MAX_CLASSES) - 1
        raise InputError(
            f"{seen[wrong]}: expected a label in {label_base} .. {last}, got {wrong} "
            f"(all labels: {low + label_base} .. {high + label_base})"
        )
    return known or tuple(str(i + label_base) for i in range(count)), np.array(list(values.values()), np.int32)


def _by_name(seen: dict[str, str], known: tuple[str, ...]) -> Labels:
    found = match_names(seen, known)
    for (label, place), number in zip(seen.items(), found, strict=True):
        if number is None:
            raise InputError(
                f"{place}: expected one of the {len(known)} classes, got {label!r}{did_you_mean(label, known)}"
            )
    return np.array(found, np.int32)


def _published(listing: Listing, seen: dict[str, str]) -> str | None:
    """The data set whose order counts: one the layout points to, or one with exactly these classes."""
    written = set(map(normal_form, seen))
    names = {name: set(map(normal_form, load_classes(name))) for name in DATASETS}
    exact = [name for name in DATASETS if written == names[name]]
    return next((name for name in (*exact, *listing.named_like) if written <= names[name]), None)


def _refuse_duplicates(source: Path, manifest: Manifest, keys: npt.NDArray[np.int64]) -> None:
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    for first, second in zip(order[same], order[same + 1], strict=True):
        a, b = manifest[int(first)], manifest[int(second)]
        if (a.path, a.start, a.end) == (b.path, b.start, b.end):  # not by hash alone
            what = "the same row" if a.labels == b.labels else f"labels {a.labels} and {b.labels} for one row"
            raise InputError(
                f"{source}: expected each file once, found {what} twice: rows {first + 1} and {second + 1}, "
                f"{manifest.paths[int(first)]} ({len(same)} such in all; allow_duplicates keeps them)"
            )

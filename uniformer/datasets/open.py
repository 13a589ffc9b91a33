"""From whatever a data set is on disk to a `Manifest`: `open_dataset` recognises it by looking and says what it saw."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from uniformer.datasets.class_names import by_name, given_names, resolve
from uniformer.datasets.known_layouts import hmdb51, hugging_face, ucf101
from uniformer.datasets.layouts import (
    SPLITS,
    Listing,
    NoSuchSplit,
    OpenOptions,
    by_split,
    choose,
    class_folders,
    folder_of_lists,
    list_file,
    media_kind,
    one_set,
    only_one,
    split_of,
    subfolders,
    visible,
)
from uniformer.datasets.manifest import Item, Kind, Manifest, is_saved_manifest
from uniformer.datasets.tables import LIST_SUFFIXES, ListRow, unknown_header
from uniformer.errors import InputError, counted, shown
from uniformer.support.files import as_given

MANIFEST_SUFFIX = ".manifest"  #: of a saved manifest found in a folder

_LOOK_AT = 64  # rows, of which every fourth is looked for on the disk; where none is there, so many all over the list
_LOOK_FURTHER = 4096
_Layout = Callable[[Path, OpenOptions], Listing | None]
_KNOWN: tuple[_Layout, ...] = (ucf101, hmdb51, hugging_face)  # unmistakable by their files: the first counts
_USUAL: tuple[_Layout, ...] = (folder_of_lists, class_folders)  # a folder that may be both is not guessed at
_WHOLE: tuple[_Layout, ...] = (hugging_face, class_folders)  # which may be of one split, or of none


class DataReading(TypedDict, total=False):
    """How a data set is read, where it is said otherwise: as the arguments of `open_dataset`."""

    classes: Sequence[str] | str | None
    root: str | None
    separator: str
    label_base: int
    allow_duplicates: bool


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
    names = given_names(classes)
    options = OpenOptions(
        split, separator, fold, names, None if root is None else Path(root), label_base, multi_label, allow_duplicates
    )
    if path.is_file() and is_saved_manifest(path):
        return _saved(path, names)
    listing = _recognise(path, options)
    return _saved(listing, names) if isinstance(listing, Path) else _build(path, listing, options)


def find_splits(source: str | os.PathLike[str]) -> list[str]:
    """The splits that `open_dataset` can choose from: of "train", "val", "test", then by names of their own.

    Empty where the source is one set, or nothing that can be opened. One that is there and cannot be opened counts, so
    that opening it says why; but a test split, whose lists often have no labels.
    """
    path, found, broken, others = Path(source), list[str](), list[str](), dict[str, None]()
    for split in SPLITS:
        try:
            _recognise(path, OpenOptions(split))
            found.append(split)
        except NoSuchSplit as error:
            others |= dict.fromkeys(name for name in error.there if name not in SPLITS)
        except InputError:
            broken += [split] if split != "test" else []
    if not found and not others:
        return []
    return [*(split for split in SPLITS if split in (*found, *broken)), *others]


def choose_split(source: str | os.PathLike[str], there: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first of `wanted` among the splits that are `there` in the source; None where it is one set.

    Raises `InputError` where it has several, and none that is wanted: to take another, or all, would be a guess.
    """
    chosen = next((name for name in wanted if name in there), None)
    if chosen is None and len(there) > 1:
        names = ", ".join(map(shown, there))
        raise InputError(
            f"{source}: expected a split {' or '.join(wanted)}, found {names}: name the one to use (--split)"
        )
    return chosen


def training_split(source: str | os.PathLike[str], there: Sequence[str]) -> str | None:
    """What to learn from: of the splits that are there the training split, or the only one. As `choose_split`."""
    return choose_split(source, there, ("train",)) or (there[0] if len(there) == 1 else None)


def evaluation_split(source: str | os.PathLike[str], there: Sequence[str]) -> str | None:
    """What to test on: the validation split, else the test split, or the only one. Raises as `choose_split`."""
    return choose_split(source, there, ("val", "test", *(["train"] if len(there) == 1 else [])))


def parts_of(
    source: str | os.PathLike[str], there: Sequence[str], split: str | None, *, has_others: bool
) -> tuple[str | None, str | None, list[str]]:
    """Of a source's splits the one to learn from and the one to validate on, and in words what of it is neither.

    `split` names a part, beside which none validates; `has_others`: other data do. Raises as `choose_split`.
    """
    part = split or training_split(source, there)
    spare = () if split or has_others else ("val", "test")
    held_out = next((name for name in spare if name in there and name != part), None)
    left = [shown(name) for name in there if name not in (part, held_out)]
    return part, held_out, [f"neither trained nor validated on: {', '.join(left)}"] if left else []


def open_for_evaluation(
    source: str | os.PathLike[str] | Manifest,
    split: str | None = None,
    **reading: Unpack[DataReading],
) -> Manifest:
    """A data set to test on: the validation split where there are several and none is named."""
    if isinstance(source, Manifest):
        return source
    if split is None:
        split = evaluation_split(source, find_splits(source))
    return open_dataset(source, split=split, **reading)


def open_for_training(
    source: str | os.PathLike[str],
    val: str | os.PathLike[str] | None = None,
    split: str | None = None,
    **reading: Unpack[DataReading],
) -> tuple[Manifest, Manifest | None, list[str]]:
    """What to learn from, and to validate on, and in words what of the source is neither.

    To learn from: the training split where there are several and none is named. To validate on: the list or folder
    `val`, with the same classes; else the source's validation split, or its test split, unless `split` names a part;
    None where there is none of these.
    """
    part, held_out, left = parts_of(source, find_splits(source), split, has_others=val is not None)
    train_set = open_dataset(source, split=part, **reading)

    def of_both(source: str | os.PathLike[str], split: str | None, classes: Any = train_set.classes) -> Manifest:
        same: DataReading = {**reading, "classes": classes}
        return open_dataset(source, split=split, multi_label=train_set.is_multi_label or None, **same)

    val_set: Manifest | None = None
    if val is not None:
        val_set = of_both(val, choose_split(val, find_splits(val), ("val", "test")))
    elif held_out:
        val_set = of_both(source, held_out, reading.get("classes"))  # which says how they were found
        val_set = val_set if val_set.classes == train_set.classes else of_both(source, held_out)
    return train_set, val_set, left


def _recognise(path: Path, options: OpenOptions) -> Listing | Path:
    """How to read a source, or the saved manifest in it."""
    if path.is_file():
        if media_kind(path):
            raise InputError(f"{path}: expected a folder or a list of files, found one {media_kind(path)}")
        return ucf101(path, options) or list_file(path, options)
    if not path.is_dir():
        raise InputError(f"{path}: expected a folder or a list of files, found nothing there")
    if saved := [p for p in visible(path) if p.suffix == MANIFEST_SUFFIX]:
        found = {p.stem: [p] for p in saved if not split_of(p.stem)} | by_split(saved)
        chosen = choose(options.split, found, path)
        return only_one(found[chosen], chosen, path)
    for layout in _KNOWN:
        if listing := layout(path, options):
            return listing
    if listing := _usual(path, options):
        return listing
    if options.split is not None and any(layout(path, replace(options, split=None)) for layout in _WHOLE):
        raise one_set(path, options.split)
    raise InputError(_nothing_found(path, options.split))


def _usual(path: Path, options: OpenOptions) -> Listing | None:
    """A folder of lists, or of folders of classes. Raises `InputError` for both at once: they may not agree."""
    found, missing = list[Listing](), list[NoSuchSplit]()
    for layout in _USUAL:
        try:
            if listing := layout(path, options):
                found.append(listing)
        except NoSuchSplit as error:
            missing.append(error)
    if len(found) + len(missing) > 1:
        lists = [p.name for paths in by_split(visible(path)).values() for p in paths if p.is_file()]
        raise InputError(
            f"{path}: expected one way to read it, found 2, the lists {shown(', '.join(lists[:4]))} and a folder per "
            "class: name the list or the folder (to train: a list or folder, and data.val=... for validation)"
        )
    if missing:
        raise missing[0]
    return found[0] if found else None


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


def _saved(path: Path, names: tuple[str, ...] | None) -> Manifest:
    manifest = Manifest.load(path)
    if names is None or names == manifest.classes:
        return manifest
    table = by_name(dict.fromkeys(manifest.classes, str(path)), names)
    return replace(manifest, labels=table[manifest.labels], classes=names, numbers_from=None, file=None)


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
    if not listing.has_header:
        _refuse_unknown_header(source, raw, number)
    found = resolve(source, listing, options, seen)
    is_single = bool(raw.label_offsets is not None and (np.diff(raw.label_offsets) == 1).all())
    if not is_single and options.multi_label is False:
        raise InputError(f"{source}: expected one label a row, found rows with several")
    left_out = f"; left out: {listing.left_out}" if listing.left_out.counts else ""
    manifest = replace(
        raw,
        labels=found.labels[raw.labels],
        classes=found.classes,
        label_offsets=None if is_single and not options.multi_label else raw.label_offsets,
        numbers_from=found.numbers_from,
        origin=shown(
            f"{source}: {listing.origin}; {counted(len(raw), f'{kind} item')}, "
            f"{counted(len(found.classes), 'class')} {found.how}, files in {as_given(base, source)}{left_out}",
            1000,
        ),
    )
    if not options.allow_duplicates:
        _refuse_duplicates(source, manifest, np.frombuffer(keys, np.int64))
    return manifest


def _refuse_unknown_header(source: Path, raw: Manifest, number: dict[str, int]) -> None:
    """Raises `InputError` where the first row looks like names of columns: no file, and a label of its own."""
    path, label = raw.paths[0], next(iter(number), "")
    is_row = len(raw) == 1 or os.path.exists(raw.path(0)) or int((raw.labels == 0).sum()) > 1
    if not is_row and re.fullmatch(r"[^\W\d]+", path) and re.fullmatch(r"[^\W\d]+", label):
        raise unknown_header(source, (path, label))


def _fill(form: str, row: ListRow) -> str:
    if form == "{path}":
        return row.path
    label = row.labels[0] if row.labels else ""
    stem = os.path.splitext(row.path)[0]
    return form.format(path=row.path, stem=stem, split=row.split, label=label, label_=label.replace(" ", "_"))


def _locate(source: Path, listing: Listing, root: Path | None) -> tuple[Path, str, Kind]:
    """Where the files lie, how their names are made, and what they are: by looking for some of the first ones."""
    roots = listing.roots if root is None else (root, *(subfolders(root) if root.is_dir() else ()))
    rows = list(islice(listing.rows(), _LOOK_AT))
    if not rows:
        raise InputError(f"{source}: expected at least one row, found none ({listing.origin})")
    looked_for = 0
    for some in (rows[::4], _spread(listing.rows())) if len(rows) == _LOOK_AT else (rows,):
        looked_for = max(looked_for, len(some))
        for base in roots:
            for form in listing.forms:
                paths = [path for row in some if os.path.exists(path := os.path.join(base, _fill(form, row)))]
                if paths:
                    return base.absolute(), form, listing.kind or _one_kind(source, paths)
    looked = ", ".join(str(base) for base in roots[:3]) + (f" and {len(roots) - 3} more" if len(roots) > 3 else "")
    raise InputError(
        f"{source}: expected files such as {shown(rows[0].path)} under {looked}, found none of the first {looked_for}: "
        "say where they start with root (--root)"
    )


def _spread(rows: Iterable[ListRow]) -> list[ListRow]:
    """Rows all over a list: every one of a short one, else at equal distances, at least half of `_LOOK_FURTHER`."""
    taken, every = list[ListRow](), 1
    for number, row in enumerate(rows):
        if number % every == 0:
            taken.append(row)
        if len(taken) == _LOOK_FURTHER:
            taken, every = taken[::2], 2 * every
    return taken


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


def _refuse_duplicates(source: Path, manifest: Manifest, keys: npt.NDArray[np.int64]) -> None:
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    for first, second in zip(order[same], order[same + 1], strict=True):
        a, b = manifest[int(first)], manifest[int(second)]
        if (a.path, a.start, a.end) == (b.path, b.start, b.end):  # not by hash alone
            what = "the same row" if a.labels == b.labels else f"labels {a.labels} and {b.labels} for one row"
            raise InputError(
                f"{source}: expected each file once, found {what} twice: rows {first + 1} and {second + 1}, "
                f"{shown(manifest.paths[int(first)])} ({len(same)} such in all; allow_duplicates, --allow-duplicates, "
                "keeps them)"
            )

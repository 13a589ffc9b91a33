"""Which classes a data set has, in which order, and which of them each label as written means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from uniformer.config import did_you_mean
from uniformer.datasets.layouts import CLASSES_FILE, Listing, OpenOptions
from uniformer.datasets.manifest import MAX_CLASSES
from uniformer.errors import InputError, shown
from uniformer.labels import (
    DATASETS,
    alphabetical,
    is_whole,
    load_classes,
    match_names,
    normal_form,
    read_class_names,
    unfit,
    whole_number,
)

Labels = npt.NDArray[np.int32]
Seen = Mapping[str, str]  #: each label as written -> where it stands first


@dataclass(frozen=True)
class Resolved:
    """The classes of a data set, and its labels in their terms."""

    classes: tuple[str, ...]
    labels: Labels  #: (L,): of each label as written, in the order it was seen, the number of its class
    how: str  #: how the classes were found, in words
    numbers_from: int | None = None  #: as in `Manifest`


def given_names(classes: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """The names that a user gives, as `read_class_names` takes them: each one once."""
    if classes is None:
        return None
    names = read_class_names(classes)
    if not names or len(set(names)) < len(names):
        raise InputError(f"expected different names of classes, got {len(names)} names, {len(set(names))} different")
    return names


def resolve(source: Path, listing: Listing, options: OpenOptions, seen: Seen) -> Resolved:
    """By name where there are names: as given, as the data set tells, as a known one orders them, alphabetical.

    Raises `InputError` where a label is none of the classes, or cannot be the name of one.
    """
    if not seen:
        raise InputError(f"{source}: expected labels, found none in any row")
    for label, place in seen.items():
        if why := unfit(label):
            raise InputError(f"{place}: expected the name of a class, found {why}: '{shown(label)}'")
    beside = source.parent / CLASSES_FILE if source.is_file() else source / CLASSES_FILE
    known, how = options.classes, "as given"
    if known is None and listing.classes is not None:
        known, how = listing.classes, "as the data set names them"
    elif known is None and beside.is_file():
        known, how = read_class_names(beside), f"from {beside.name}"
    base = options.label_base
    are_given = options.classes is not None and not base and all(map(is_whole, options.classes))
    if all(map(is_whole, seen)) and not (known and (are_given or seen.keys() <= set(known))):
        return _by_number(source, seen, base) if known is None else _by_place(source, seen, base, known, how)
    if listing.renamed is not None:
        seen = {listing.renamed[label]: place for label, place in seen.items()}
    if known is None:
        published = _published(listing, seen)
        known = load_classes(published) if published else tuple(alphabetical(seen))
        how = f"as {published} orders them" if published else "in alphabetical order"
    return Resolved(known, by_name(seen, known), how)


def by_name(seen: Seen, known: tuple[str, ...]) -> Labels:
    """The place in `known` of each label. Raises `InputError` for one that is none of them."""
    found = match_names(seen, known)
    for (label, place), number in zip(seen.items(), found, strict=True):
        if number is None:
            raise InputError(
                f"{place}: expected one of the {len(known)} classes, got '{shown(label)}'{did_you_mean(label, known)}"
            )
    return np.array(found, np.int32)


def _by_place(source: Path, seen: Seen, base: int, known: tuple[str, ...], how: str) -> Resolved:
    """Numbers for labels, which count the names."""
    values = _numbers(seen)
    if base == 0 and min(values) >= 1 and max(values) == len(known):
        raise _counts_from_one(source, values)
    _check_range(seen, values, base, len(known))
    return Resolved(known, np.array(values, np.int32) - base, how)


def _by_number(source: Path, seen: Seen, base: int) -> Resolved:
    """Numbers for labels, and no names: rows of a classifier. Where most of them are missing, ids of what is there."""
    values = _numbers(seen)
    different = sorted(set(values))
    if base == 0 and different[0] >= 1 and different[-1] == len(different):
        raise _counts_from_one(source, values)
    _check_range(seen, values, base, MAX_CLASSES)
    if different[-1] - base >= 2 * len(different):
        how = f"by number, {different[0]} to {different[-1]} with gaps"
    else:
        different, how = list(range(base, different[-1] + 1)), "by number"
    place = {value: i for i, value in enumerate(different)}
    labels = np.array([place[value] for value in values], np.int32)
    return Resolved(tuple(map(str, different)), labels, how, numbers_from=base)


def _numbers(seen: Seen) -> list[int]:
    return [number for label in seen if (number := whole_number(label)) is not None]


def _counts_from_one(source: Path, values: list[int]) -> InputError:
    return InputError(
        f"{source}: expected labels 0 .. {max(values) - 1}, found {min(values)} .. {max(values)}: they seem to count "
        "from one (label_base=1 says so, or --label-base 1; naming the classes says that class 0 is only missing)"
    )


def _check_range(seen: Seen, values: list[int], base: int, count: int) -> None:
    for (label, place), value in zip(seen.items(), values, strict=True):
        if not 0 <= value - base < count:
            raise InputError(
                f"{place}: expected a label in {base} .. {base + count - 1}, got {shown(label)} "
                f"(all labels: {shown(min(values))} .. {shown(max(values))})"
            )


def _published(listing: Listing, seen: Seen) -> str | None:
    """The data set whose order counts: one the layout points to, or one with exactly these classes."""
    written = set(map(normal_form, seen))
    names = {name: set(map(normal_form, load_classes(name))) for name in DATASETS}
    exact = [name for name in DATASETS if written == names[name]]
    return next((name for name in (*exact, *listing.named_like) if written <= names[name]), None)

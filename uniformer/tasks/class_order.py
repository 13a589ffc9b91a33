"""Labels that mean other classes than the network's rows: matching by name, noticing it, finding the order.

The classic accident: the published Kinetics networks have the authors' own order of classes, most lists the
alphabetical one, and every answer looks wrong though the network is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from uniformer.datasets.manifest import Manifest
from uniformer.errors import InputError, counted
from uniformer.labels import DATASETS, alphabetical, is_whole, load_classes, match_names, normal_form
from uniformer.tasks.scores import Scores, wilson

Order = npt.NDArray[np.int64]  # (L,): label as the data have it -> row of the classifier

ENOUGH = 20  # items with an answer, below which chance and a wrong order cannot be told from bad luck
SURE = 3.0  # times the probability of guessing: answers with more of it are not guesses


@dataclass(frozen=True)
class Found:
    """What is odd about a run's answers, in sentences, and the order of classes that would set it right, if one."""

    sentences: tuple[str, ...]
    order: Order | None = None
    order_name: str = ""


def match(names: Sequence[str], known: Sequence[str]) -> Order | None:
    """Where each name stands in `known`, (L,); None unless every one stands there, and no two at one place."""
    found = match_names(names, known)
    return None if None in found or len(set(found)) < len(found) else np.array(found, np.int64)


def has_names(classes: Sequence[str]) -> bool:
    """Whether they are names, not the numbers that stand for names nobody gave."""
    return not all(map(is_whole, classes))


def relabelled(manifest: Manifest, order: Order, classes: Sequence[str]) -> Manifest:
    """The manifest with label `order[i]` for i, of `classes`."""
    labels = order[manifest.labels].astype(np.int32)
    return replace(manifest, labels=labels, classes=tuple(classes), numbers_from=None, file=None)


def match_labels(manifest: Manifest, classes: Sequence[str], *, strict: bool = True) -> tuple[Manifest, str | None]:
    """The manifest with the labels of a network's `classes`: matched by name, or by number where one side has no names.

    Returns it with a sentence to be shown where labels changed, or were taken by number. Raises `InputError` where a
    class that the data have rows of is none of the network's; not `strict`, labels are then taken as they are, if there
    are as many classes.
    """
    if manifest.classes == tuple(classes):
        return manifest, None
    if not classes or not manifest.classes:
        whose = "the data name" if classes else "the checkpoint names"
        return manifest.by_number(), f"labels taken by number: {whose} no classes"
    are_numbers = manifest.numbers_from is not None or manifest.classes == tuple(map(str, range(len(manifest.classes))))
    are_rows = are_numbers and (manifest.numbers_from or has_names(classes))
    order = None if manifest.numbers_from else order_of(manifest, classes)
    if order is not None:
        moved = int((order != np.arange(len(order))).sum())
        changed = (
            f"{moved} of the data's {len(order)} classes have another number there" if moved else "in the same order"
        )
        return relabelled(manifest, order, classes), f"labels matched to the checkpoint's classes by name: {changed}"
    if are_rows:
        rows = manifest.by_number()
        if int(rows.labels.max(initial=0)) >= len(classes):
            base = manifest.numbers_from or 0
            raise InputError(
                f"expected labels in {base} .. {base + len(classes) - 1}, the checkpoint's classes, "
                f"got {int(rows.labels.max()) + base}"
            )
        everything = np.arange(max(len(rows.classes), 1))
        return relabelled(rows, everything, classes), "labels taken by number: the data name no classes"
    return _unmatched(manifest, classes, strict)


def order_of(manifest: Manifest, classes: Sequence[str]) -> Order | None:
    """`match` of the data's classes; those without a row need no place, and have -1 where they have none."""
    places = match_names(manifest.classes, classes)
    used = np.flatnonzero(manifest.class_counts())
    found = [places[i] for i in used]
    if None in found or len(set(found)) < len(found):
        return None
    return np.array([-1 if place is None else place for place in places], np.int64)


def _unmatched(manifest: Manifest, classes: Sequence[str], strict: bool) -> tuple[Manifest, str]:
    places = match_names(manifest.classes, classes)
    strange = [name for name, place in zip(manifest.classes, places, strict=True) if place is None]
    such_as = f", such as {', '.join(map(repr, strange[:3]))}" if strange else ", or several are one of them"
    what = f"{len(strange)} of the data's {len(manifest.classes)} classes are not the checkpoint's{such_as}"
    if strict or len(manifest.classes) != len(classes):
        raise InputError(
            f"expected classes of the checkpoint ({len(classes)}: {', '.join(classes[:3])}, ...), got {what} "
            "(`uniformer eval --class-order numbers` takes labels by number)"
        )
    return manifest, f"labels taken by number: {what}"


def examine(scores: Scores, classes: Sequence[str]) -> Found | None:
    """What is wrong when answers are right no more often than guesses: None when they are better, or too few to tell.

    `classes` are the network's, whose usual orders are tried as meanings of the labels.
    """
    answered = scores.select(scores.ok)
    if answered.is_multi_label or len(answered) < ENOUGH or answered.num_classes < 2:
        return None
    chance = 1 / answered.num_classes
    right = answered.ranks() == 0
    low, high = wilson(int(right.sum()), len(right))
    if low > chance:
        return None
    share, confidence = right.mean(), float(answered.confidence().mean())
    sentences = [
        f"{100 * share:.1f} % of {len(right)} answers are right ({100 * low:.1f} to {100 * high:.1f} %), "
        f"which cannot be told from guessing among {answered.num_classes} classes ({100 * chance:.1f} %)"
    ]
    predicted = answered.predicted()
    if (predicted == predicted[0]).all():
        sentences.append(f"every answer is {answered.name(int(predicted[0]))!r}: the weights may not be trained ones")
        return Found(tuple(sentences))
    if confidence < SURE * chance:
        sentences.append(f"answers are unsure (mean probability {confidence:.3g}), as of a network without training")
    else:
        sentences.append(
            f"yet answers are sure of themselves (mean probability {confidence:.2f}): "
            "the labels probably number the classes in another order than the checkpoint"
        )
    best = max(_tried(answered, classes), key=lambda found: found[0], default=None)
    if best is not None and wilson(best[0], len(right))[0] > max(high, chance):
        sentences.append(f"with the labels read in {best[2]} order {100 * best[0] / len(right):.1f} % would be right")
        return Found(tuple(sentences), best[1], best[2])
    return Found((*sentences, *_majorities(answered)))


def _tried(scores: Scores, classes: Sequence[str]) -> Iterator[tuple[int, Order, str]]:
    """How many answers would be right if the labels were in each usual order of the network's classes."""
    predicted, labels = scores.predicted(), scores.labels
    for name, names in orders_of(classes):
        order = match(names, classes)
        if order is not None and int(labels.max()) < len(order):
            yield int((order[labels] == predicted).sum()), order, name


def orders_of(classes: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Orders that these classes are known to come in, by name; the present one is left out."""
    if not has_names(classes):
        return
    orders: dict[str, Sequence[str]] = {
        "alphabetical": sorted(classes),
        "alphabetical (any case)": sorted(classes, key=str.casefold),
        "alphabetical (no brackets)": alphabetical(classes),
    }
    for dataset in DATASETS:
        published = load_classes(dataset)
        if len(published) == len(classes) and match(published, classes) is not None:
            orders[f"{dataset}'s published"] = published
    seen = [list(map(normal_form, classes))]
    for name, names in orders.items():
        if (forms := list(map(normal_form, names))) not in seen:
            seen.append(forms)
            yield name, names


def _majorities(scores: Scores) -> Iterator[str]:
    """A hint from the answers alone: does each label have a favourite answer of its own?"""
    size = scores.num_classes
    table = np.bincount(scores.labels.astype(np.int64) * size + scores.predicted(), minlength=size * size)
    table = table.reshape(size, size)
    labels = np.flatnonzero(table.sum(axis=1) >= 5)
    favourites = table[labels].argmax(axis=1)
    hits, items = table[labels, favourites].sum(), table[labels].sum()
    # Any labels have favourites; other labels' favourites being others is what a mere change of order does.
    if len(labels) >= 2 and len(set(favourites.tolist())) > 0.8 * len(labels) and hits > items / 2:
        pairs = ", ".join(f"{label} -> {scores.name(int(f))}" for label, f in zip(labels[:4], favourites, strict=False))
        yield (
            f"each label has an answer of its own that {100 * hits / items:.0f} % of its items get ({pairs}, ...): "
            "the labels are probably numbered by another list of classes"
        )


# ---- classes of annotated pictures -----------------------------------------------------------------------------------


def places_of(
    names: Sequence[str], known: Sequence[str], width: int, label_order: str, counts: Sequence[int] = ()
) -> tuple[Order, list[str]]:
    """Where each class of the data, of so many objects, stands among a network's `width`, (L,), and what is to be said.

    -1 is for those that are none of the network's: what is of them cannot be scored. Labels are matched by name, or
    taken for the network's with "numbers", and where one side has no names. Raises `InputError` where nothing fits.
    """
    if label_order not in ("names", "numbers"):
        raise InputError(f"expected labels by 'names' or 'numbers', got {label_order!r}")
    if label_order == "numbers" or not known or not has_names(names) or not has_names(known):
        if len(names) > width:
            raise InputError(f"expected labels of the checkpoint's {width} classes, got {len(names)} classes")
        by_name = label_order == "names" and tuple(names) != tuple(known)
        return np.arange(len(names)), ["labels taken by number: one side names no classes"] if by_name else []
    places = [-1 if place is None else place for place in match_names(names, known)]
    places = [-1 if places.count(place) > 1 else place for place in places]
    if max(places, default=-1) < 0:
        raise InputError(
            f"expected classes of the checkpoint ({len(known)}: {', '.join(known[:3])}, ...), got "
            f"{', '.join(map(repr, names[:3]))} (`uniformer eval --class-order numbers` takes labels by number)"
        )
    notes = []
    moved = sum(place not in (-1, number) for number, place in enumerate(places))
    if moved:
        notes.append(
            f"labels matched to the checkpoint's classes by name: {moved} of the data's {len(names)} have another "
            "number there"
        )
    strange = [number for number, place in enumerate(places) if place < 0]
    if strange:
        objects = [f" ({counted(count, 'object')})" for count in counts] or [""] * len(names)
        told = ", ".join(names[number] + objects[number] for number in strange[:5])
        notes.append(
            f"left out of the figures, as the checkpoint does not know them: {told}"
            + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
        )
    if (shared := sum(place >= 0 for place in places)) < width:
        notes.append(f"the data name {shared} of the checkpoint's {width} classes")
    return np.array(places, np.int64), notes

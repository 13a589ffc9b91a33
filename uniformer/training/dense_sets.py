"""Annotated pictures to learn from and to validate on: of one's own, and of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uniformer.config import DenseTask
from uniformer.datasets.annotated import AnnotatedSet, annotated_kind, find_annotated_splits, open_annotated
from uniformer.datasets.annotated_open import annotated_for_evaluation, annotated_for_training
from uniformer.datasets.open import training_split
from uniformer.datasets.statement import oddities, statement
from uniformer.datasets.tables import film_or_picture_of
from uniformer.errors import InputError, counted
from uniformer.support.files import as_given
from uniformer.training.own_data import HELD_OUT
from uniformer.training.recipe import Recipe


def own_sets(
    source: str, task: DenseTask, val: str | None, split: str | None, classes: str | None, *, seed: int = 0
) -> tuple[AnnotatedSet, AnnotatedSet, list[str]]:
    """Training and validation set of annotated pictures, and what was decided, in sentences.

    The training split is learnt from, where there is one, and validated on "val", else "test", or on the set `val`;
    without them a fifth is held out. With `split` that part alone is learnt from. Raises `InputError` as
    `open_annotated` does, and where there is too little to hold out.
    """
    train_set, val_set, left = annotated_for_training(source, val, split, task=task, classes=classes)
    said, usable = _said("train", train_set, whole=True), _usable(train_set, "learn from")
    if val_set is None:
        usable, val_set, how = _divided(usable, seed)
        return _with_something(usable), val_set, [*said, how, *left]
    return _with_something(usable), _usable(val_set, "validate on"), [*said, *_said("val", val_set, whole=True), *left]


def recipe_sets(recipe: Recipe) -> tuple[AnnotatedSet, AnnotatedSet | None, list[str]]:
    """The annotated pictures that a recipe names, and what is odd in them. Raises `InputError` where it names none."""
    data, task = recipe.data, recipe.model.task
    if data.train is None:
        raise InputError("expected data.train, the annotations or folder of the training pictures, got none")
    train = str(Path(data.root or "", data.train))
    if data.root is None and train == "." and annotated_kind(train) is None:
        dataset = data.dataset or "the data"
        raise InputError(
            f"{recipe.name}: expected data.root=DIR, the folder of {dataset}, got none, and it is not here"
        )
    wanted: Any = task
    part = training_split(train, find_annotated_splits(train, task=wanted))
    train_set = open_annotated(train, split=part, task=wanted)
    said, usable = _said("train", train_set, whole=False), _with_something(_usable(train_set, "learn from"))
    if data.val is None:
        return usable, None, said
    val = str(Path(data.root or "", data.val))
    val_set = annotated_for_evaluation(val, task=wanted, classes=train_set.classes)
    return usable, _usable(val_set, "validate on"), [*said, *_said("val", val_set, whole=False)]


def _usable(data: AnnotatedSet, purpose: str) -> AnnotatedSet:
    """The pictures that are of use. Raises `InputError` where there are none, with the worst of what is odd."""
    usable = data.usable()
    if not len(usable):
        why = "".join(f": {finding.text}" for finding in data.findings[:1])
        there = counted(len(data), "picture")
        raise InputError(f"{data.root}: expected pictures to {purpose}, found none of use in {there}{why}")
    return usable


def _with_something(data: AnnotatedSet) -> AnnotatedSet:
    """The set, if anything in it is learnt from. Raises `InputError` for one of crowds or empty pictures alone."""
    found = data.instances
    if data.maps is None and not found.learnt().any():
        what = "an instance" if found.keypoints is None else "a person with marked key points"
        raise InputError(
            f"{as_given(data.root)}: expected {what} to learn from, found none in {counted(len(data), 'picture')} "
            f"({counted(int(found.crowd.sum()), 'crowd')}, which are not learnt)"
        )
    return data


def _divided(whole: AnnotatedSet, seed: int) -> tuple[AnnotatedSet, AnnotatedSet, str]:
    """A fifth of the pictures held out, at random; frames of one film and parts of one picture stay together."""
    count, paths = round(HELD_OUT * len(whole)), whole.item_names()
    if not count:
        raise InputError(
            f"no validation split, and too little to hold a fifth out: expected several pictures, found {len(whole)}: "
            "give more, or others for validation as data.val=..."
        )
    sources = list(map(film_or_picture_of, paths))
    are_one = len(set(sources)) == 1 < len(paths)
    units = [[row] for row in range(len(paths))] if are_one else _units(sources)
    most, held = max(count, min(map(len, units))), list[int]()
    for unit in np.random.default_rng(seed).permutation(len(units)).tolist():
        held += units[unit] if len(held) + len(units[unit]) <= most else []
    said = f"no validation split: {len(held)} of {counted(len(whole), 'picture')} held out"
    if are_one:
        said += ", which are by their names of one film or picture as the others are: val will look better than it is"
    elif len(units) < len(paths):
        said += ", frames of one film and parts of one picture kept together, by their names"
    others = np.setdiff1d(np.arange(len(paths)), held)
    return whole.select(others), whole.select(np.sort(held)), said


def _units(sources: Sequence[str]) -> list[list[int]]:
    """The rows of each source, in the order of their first."""
    units: dict[str, list[int]] = {}
    for row, source in enumerate(sources):
        units.setdefault(source, []).append(row)
    return list(units.values())


def _said(name: str, data: AnnotatedSet, *, whole: bool) -> list[str]:
    """What is odd in a set and how many of its pictures are left out, in sentences; `whole`: how it was understood."""
    lines = [*(statement if whole else oddities)({name: data})]
    if left_out := len(data) - len(data.usable()):
        lines.append(f"{name}: pictures of no use, left out: {left_out}")
    return lines

"""Annotated pictures to learn from and to validate on: of one's own, and of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from uniformer.config import DenseTask
from uniformer.datasets.annotated import AnnotatedSet, find_annotated_splits, open_annotated
from uniformer.datasets.annotated_open import annotated_for_evaluation, annotated_for_training
from uniformer.datasets.open import training_split
from uniformer.errors import InputError, counted
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
    said = statement("train", train_set)
    if val_set is None:
        train_set, val_set, how = _divided(train_set.usable(), seed)
        return _with_something(train_set), val_set, [*said, how, *left]
    return _with_something(train_set.usable()), val_set.usable(), [*said, *statement("val", val_set), *left]


def recipe_sets(recipe: Recipe) -> tuple[AnnotatedSet, AnnotatedSet | None, list[str]]:
    """The annotated pictures that a recipe names, and what is odd in them. Raises `InputError` where it names none."""
    data, task = recipe.data, recipe.model.task
    if data.train is None:
        raise InputError("expected data.train, the annotations or folder of the training pictures, got none")
    train = str(Path(data.root or "", data.train))
    wanted: Any = task
    part = training_split(train, find_annotated_splits(train, task=wanted))
    train_set = open_annotated(train, split=part, task=wanted)
    said = oddities("train", train_set)
    if data.val is None:
        return _with_something(train_set.usable()), None, said
    val = str(Path(data.root or "", data.val))
    val_set = annotated_for_evaluation(val, task=wanted, classes=train_set.classes)
    return _with_something(train_set.usable()), val_set.usable(), [*said, *oddities("val", val_set)]


def _with_something(data: AnnotatedSet) -> AnnotatedSet:
    """The set, if anything in it is learnt from. Raises `InputError` for one of crowds or empty pictures alone."""
    found = data.instances
    if data.maps is None and not found.learnt().any():
        what = "an instance" if found.keypoints is None else "a person with marked key points"
        raise InputError(
            f"{data.root}: expected {what} to learn from, found none in {counted(len(data), 'picture')} "
            f"({counted(int(found.crowd.sum()), 'crowd')}, which are not learnt)"
        )
    return data


def _divided(whole: AnnotatedSet, seed: int) -> tuple[AnnotatedSet, AnnotatedSet, str]:
    """A fifth of the pictures held out, at random."""
    count = round(HELD_OUT * len(whole))
    if not count:
        raise InputError(
            f"no validation split, and too little to hold a fifth out: expected several pictures, found {len(whole)}: "
            "give more, or others for validation as data.val=..."
        )
    order = np.random.default_rng(seed).permutation(len(whole))
    said = f"no validation split: {count} of {counted(len(whole), 'picture')} held out"
    return whole.select(np.sort(order[count:])), whole.select(np.sort(order[:count])), said


def statement(name: str, data: AnnotatedSet) -> list[str]:
    """How a set was understood, and what is odd in it, in sentences."""
    return [f"{name}: {data.origin}", *oddities(name, data)]


def oddities(name: str, data: AnnotatedSet) -> list[str]:
    """What is odd in a set, in sentences."""
    return [f"{name}: {finding.text}" for finding in data.findings if finding.level != "note"]

"""Which splits of an annotated source to learn from and to test on, by the rules of `open.open_for_training`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from uniformer.config import DenseTask
from uniformer.datasets.annotated import AnnotatedSet, find_annotated_splits, open_annotated
from uniformer.datasets.open import evaluation_split, parts_of


def annotated_for_evaluation(
    source: str | os.PathLike[str] | AnnotatedSet,
    split: str | None = None,
    *,
    task: DenseTask | None = None,
    classes: Sequence[str] | str | None = None,
) -> AnnotatedSet:
    """A set to test on: the validation split where there are several and none is named."""
    if isinstance(source, AnnotatedSet):
        return source
    if split is None:
        split = evaluation_split(source, find_annotated_splits(source, task=task))
    return open_annotated(source, split=split, task=task, classes=classes)


def annotated_for_training(
    source: str | os.PathLike[str],
    val: str | os.PathLike[str] | None = None,
    split: str | None = None,
    *,
    task: DenseTask | None = None,
    classes: Sequence[str] | str | None = None,
) -> tuple[AnnotatedSet, AnnotatedSet | None, list[str]]:
    """What to learn from, and to validate on, and in words what of the source is neither.

    To learn from: the training split where there are several and none is named. To validate on: `val`, with the same
    task and classes; else the source's validation split, or its test split, unless `split` names a part; None where
    there is none of these.
    """
    there = find_annotated_splits(source, task=task)
    part, held_out, left = parts_of(source, there, split, has_others=val is not None)
    train_set = open_annotated(source, split=part, task=task, classes=classes)
    if val is None and held_out is None:
        return train_set, None, left
    others = source if val is None else val
    val_set = annotated_for_evaluation(others, held_out, task=train_set.task, classes=train_set.classes)
    return train_set, val_set, left

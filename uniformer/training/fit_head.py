"""A first model in minutes: features of every sample once, and a classifier fitted to them. No network is trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from uniformer.checkpoints.identify import Opened
from uniformer.datasets.manifest import Manifest
from uniformer.errors import counted
from uniformer.evaluation.features import Features, extract_features, load_features
from uniformer.evaluation.probe import linear_probe, probe_scores
from uniformer.evaluation.scoring import Reading
from uniformer.network.model import UniFormer
from uniformer.support.distributed import ProcessGroup, process_group
from uniformer.tasks.classification import summary
from uniformer.training.batches import epoch_rows
from uniformer.training.log import Log, time_left
from uniformer.training.recipe import Recipe
from uniformer.training.result import RESULT, TrainingResult, write_weights
from uniformer.training.setup import check_settings, initialised, target_options, task_for

STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # of the classifier: larger is less regularised
USUAL = 0.1  # without validation data
# At once through the network on a CPU: with more, tensors are too large for the allocator to keep, and their pages are
# made anew for every layer (16 clips of 16 frames at once: 1.2 s a clip instead of 0.9, on two cores).
CPU_CLIPS, CPU_IMAGES = 4, 16


def fit_head(
    recipe: Recipe,
    train_set: Manifest,
    val_set: Manifest | None,
    *,
    out: str | Path,
    device: str = "auto",
    opened: Opened | None = None,
) -> TrainingResult:
    """Fit the classifier of `recipe.init`'s network by logistic regression; the result is as of `loop.fit`.

    Features are of the views that `recipe.input` says, without augmentation, kept in `out`/features: a run that was
    killed goes on. The regularisation is the one with the least loss on `val_set`. Raises `InputError` as `fit`.
    """
    out, train_set = Path(out), train_set.usable()
    with process_group(device) as group, group.alone_in(out) as unlocked, Log(out, quiet=not group.is_main) as log:
        log.notes(unlocked)
        task = task_for(recipe, train_set)
        task.targets_and_loss(target_options(recipe), train_set, val_set)
        check_settings(recipe, task, train_set, val_set)
        log.say(f"train: {counted(len(train_set), 'sample')}, {train_set.origin}")
        log.say("val: none" if val_set is None else f"val: {counted(len(val_set), 'sample')}, {val_set.origin}")
        model = initialised(recipe, train_set.classes, log, task.build, opened)
        train_features = _features(model, recipe, train_set, out / "features" / "train", group, log)
        bad = int((~train_features.ok).sum())
        log.check_unreadable(bad, len(train_set), "training samples", recipe.loop.max_bad_fraction)
        val_features = (
            None if val_set is None else _features(model, recipe, val_set, out / "features" / "val", group, log)
        )
        if recipe.data.balanced:
            train_features = _balanced(train_features, recipe.seed)
        strength, scores = _strength(train_features, val_features, log)
        _set_classifier(model, train_features, strength)
        if group.is_main:
            note = f"trained by the recipe {recipe.name}, classifier fitted to features"
            write_weights(out / RESULT, model, task, scores, note)
        log.say(f"result: {out / RESULT}" + "".join(f", {name} {value:.4g}" for name, value in scores.items()))
        return TrainingResult(out, scores)


def _features(
    model: UniFormer, recipe: Recipe, part: Manifest, folder: Path, group: ProcessGroup, log: Log
) -> Features:
    at_once = recipe.batch_per_process(group.size)
    if group.device.type == "cpu":
        at_once = min(at_once, CPU_CLIPS if recipe.input.is_video else CPU_IMAGES)
    reading = Reading(group.device, recipe.precision, at_once, recipe.data.workers)
    log.say(f"features of {counted(len(part), 'sample')}")
    progress = _tenths(log) if group.is_main else None
    errors = extract_features(model, part, recipe.input, folder, reading=reading, progress=progress)
    log.unreadable(((part.path(row), reason) for row, reason in errors.items()), "left out")
    return load_features(folder)


def _tenths(log: Log) -> Callable[[int, int], None]:
    """Says at the first report and whenever another tenth is done how long the rest will take."""
    begin, said = time.perf_counter(), [-1]

    def progress(done: int, total: int) -> None:
        tenth = 10 * done // total
        if tenth > said[0]:
            said[0] = tenth
            log.say(f"  {done} of {total}, {time_left((time.perf_counter() - begin) / done, total - done)} left")

    return progress


def _balanced(features: Features, seed: int) -> Features:
    """Rows drawn so that all classes are equally many."""
    there = np.flatnonzero(features.ok)
    rows = there[epoch_rows(len(there), seed, 0, labels=features.labels[there])]
    return replace(features, features=features.features[rows], labels=features.labels[rows], ok=features.ok[rows])


def _strength(train: Features, val: Features | None, log: Log) -> tuple[float, dict[str, float]]:
    """How much to regularise, and the validation's measures with it."""
    if val is None:
        return USUAL, {}
    tried = {}
    for c in STRENGTHS:
        found = summary(probe_scores("linear", train, val, c=c))
        tried[c] = {f"val_{name}": value for name, value in found.items()}
    for c, found in tried.items():
        log.say(f"regularisation 1/{c:g}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    best = min(tried, key=lambda c: tried[c]["val_loss"])
    return best, tried[best]


@torch.no_grad()
def _set_classifier(model: UniFormer, train: Features, strength: float) -> None:
    """The fitted function is affine in the features: its values at 0 and at each unit vector are its coefficients."""
    assert isinstance(model.head, nn.Linear)
    width = model.head.in_features
    points = np.concatenate([np.zeros((1, width)), np.eye(width)])  # (C + 1, C)
    logits = linear_probe(train.features[train.ok], train.labels[train.ok], points, model.head.out_features, c=strength)
    model.head.bias.copy_(logits[0])
    model.head.weight.copy_((logits[1:] - logits[0]).T)

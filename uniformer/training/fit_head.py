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
from uniformer.errors import InputError, counted, shown
from uniformer.evaluation.features import Features, extract_features, load_features
from uniformer.evaluation.learnt import both_figures, learnt_rows
from uniformer.evaluation.probe import linear_probe, probe_scores
from uniformer.evaluation.run import Evaluation, input_in_words, result_paths
from uniformer.evaluation.scoring import Reading
from uniformer.network.model import UniFormer
from uniformer.reports.evaluation import About
from uniformer.support.distributed import ProcessGroup, process_group
from uniformer.support.files import clear_away
from uniformer.tasks.classification import summary
from uniformer.tasks.scores import Scores
from uniformer.tasks.task import Task
from uniformer.training.batches import Members, epoch_draws
from uniformer.training.log import Log, time_left
from uniformer.training.recipe import Recipe
from uniformer.training.result import (
    REPORT,
    RESULT,
    WRITTEN,
    TrainingResult,
    in_short,
    rank,
    write_origin,
    write_weights,
)
from uniformer.training.setup import (
    FEATURES,
    check_folder,
    check_settings,
    input_of_views,
    note_learnt,
    say_sets,
    target_options,
    task_for,
)
from uniformer.training.start import initialised

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
    own: bool = False,
) -> TrainingResult:
    """Fit the classifier of `recipe.init`'s network by logistic regression; the result is as of `loop.fit`.

    Features are of the views that `recipe.input` says, without augmentation, kept in `out`/features: a run that was
    killed goes on. The regularisation is the one that `val_set` ranks highest (`result.rank`). Raises `InputError` as
    `fit`.
    """
    out, train_set = Path(out), train_set.usable()
    with process_group(device) as group, group.alone_in(out) as unlocked, Log(out, quiet=not group.is_main) as log:
        log.notes(unlocked)
        group.broadcast(lambda: check_folder(out))
        if group.is_main:
            clear_away([*(out / name for name in WRITTEN), *result_paths(out / REPORT).values()])
        task = task_for(recipe, train_set)
        task.targets_and_loss(target_options(recipe), train_set, val_set)
        check_settings(recipe, task, train_set, val_set)
        note_learnt(task, train_set, group, log)
        say_sets(train_set, val_set, log)
        model = initialised(recipe, train_set.classes, log, task.build, opened)
        train_features = _features(model, recipe, train_set, out, "train", group, log)
        _refuse_lost_classes(train_set, train_features)
        val_features = None if val_set is None else _features(model, recipe, val_set, out, "val", group, log)
        if recipe.data.balanced:
            train_features = _balanced(train_features, recipe.seed)
        strength, measures, scores = _strength(recipe, train_features, val_features, log)
        _set_classifier(model, train_features, strength)
        if group.is_main:
            write_origin(out, recipe, (train_set, val_set) if own else None)
            note = f"trained by the recipe {recipe.name}, classifier fitted to features"
            write_weights(out / RESULT, model, task, measures, note)
        log.say(f"result: {out / RESULT}" + "".join(f", {name} {value:.4g}" for name, value in measures.items()))
        if group.is_main and own and val_set is not None and scores is not None:
            log.say(f"on the validation samples: {in_short(_report(recipe, task, scores, val_set, out))}")
        return TrainingResult(out, measures)


def _refuse_lost_classes(train_set: Manifest, features: Features) -> None:
    """Raises `InputError` where no sample of a class could be read: the classifier would never name it."""
    lost = sorted(set(np.unique(train_set.labels)) - set(np.unique(features.labels[features.ok])))
    if lost:
        names = ", ".join(shown(train_set.classes[label]) for label in lost[:3])
        raise InputError(f"expected samples of every class that can be read, found none of {len(lost)}: {names}")


def _features(
    model: UniFormer, recipe: Recipe, part: Manifest, out: Path, name: str, group: ProcessGroup, log: Log
) -> Features:
    """Of the samples for "train" or "val". Raises `InputError` where too many cannot be read."""
    folder, samples = out / FEATURES / name, {"train": "training samples", "val": "validation samples"}[name]
    at_once = recipe.batch_per_process(group.size)
    if group.device.type == "cpu":
        at_once = min(at_once, CPU_CLIPS if recipe.input.is_video else CPU_IMAGES)
    reading = Reading(group.device, recipe.precision, at_once, recipe.data.workers)
    log.say(f"features of {counted(len(part), 'sample')}")
    progress = _tenths(log) if group.is_main else None
    errors = extract_features(model, part, input_of_views(recipe), folder, reading=reading, progress=progress)
    log.check_read(errors, part, samples, recipe.loop.max_bad_fraction)
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
    members = Members(np.arange(len(there)), features.labels[there])
    rows = there[epoch_draws(len(there), seed, 0, members=members).rows]
    return replace(features, features=features.features[rows], labels=features.labels[rows], ok=features.ok[rows])


def _strength(
    recipe: Recipe, train: Features, val: Features | None, log: Log
) -> tuple[float, dict[str, float], Scores | None]:
    """How much to regularise, and the validation's measures and scores with it."""
    if val is None:
        return USUAL, {}, None
    scores = {c: probe_scores("linear", train, val, c=c) for c in STRENGTHS}
    tried = {c: {f"val_{name}": value for name, value in summary(found).items()} for c, found in scores.items()}
    for c, found in tried.items():
        log.say(f"regularisation 1/{c:g}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    best = max(tried, key=lambda c: rank(tried[c], recipe.keep.metric))
    return best, tried[best], scores[best]


def _report(recipe: Recipe, task: Task, scores: Scores, val_set: Manifest, out: Path) -> Evaluation:
    """How the result does on the validation set, as `uniformer eval` writes it."""
    lines = (f"checkpoint {out / RESULT}", val_set.origin, f"{input_in_words(recipe.input)}, {recipe.precision}")
    learnt = learnt_rows(task.contract, val_set)  # copies of training samples
    both, parts = both_figures(scores, learnt, task.contract, "error")
    about = About(f"{recipe.name} on its validation samples", lines, tuple(both))
    return Evaluation(scores, scores.metrics(), about, val_set, input_of_views(recipe), parts).write(out / REPORT)


@torch.no_grad()
def _set_classifier(model: UniFormer, train: Features, strength: float) -> None:
    """The fitted function is affine in the features: its values at 0 and at each unit vector are its coefficients."""
    assert isinstance(model.head, nn.Linear)
    width = model.head.in_features
    points = np.concatenate([np.zeros((1, width)), np.eye(width)])  # (C + 1, C)
    logits = linear_probe(train.features[train.ok], train.labels[train.ok], points, model.head.out_features, c=strength)
    model.head.bias.copy_(logits[0])
    model.head.weight.copy_((logits[1:] - logits[0]).T)

"""Training, from a recipe and a data set to a checkpoint. Reads from top to bottom; `fit` is the door.

    batches -> mixing -> network and loss -> gradients -> AdamW -> averages        every step
    validation -> best weights -> state to go on from                              every epoch

Every random draw follows from the seed and the place in the run, so that a run which was killed at any moment and
started again ends, on a CPU, with the same weights to the last bit.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uniformer.checkpoints.identify import Opened
from uniformer.checkpoints.load import load_model
from uniformer.errors import InputError, counted
from uniformer.evaluation.run import evaluate
from uniformer.evaluation.scoring import Reading, score
from uniformer.inference.networks import TorchNetwork, evaluating
from uniformer.network.model import UniFormer
from uniformer.speed.timings import BY
from uniformer.support.distributed import ProcessGroup, process_group
from uniformer.support.files import atomic_path, clear_away
from uniformer.support.progress import Pace
from uniformer.tasks.task import Task
from uniformer.training.batches import AnyBatch, batches
from uniformer.training.log import Log, time_left
from uniformer.training.optim import train_mode
from uniformer.training.recipe import Recipe
from uniformer.training.result import (
    AVERAGE,
    BEST,
    REPORT,
    RESULT,
    WRITTEN,
    TrainingResult,
    in_short,
    rank,
    write_origin,
    write_weights,
)
from uniformer.training.samples import DataSet
from uniformer.training.setup import STATE, Network, dry_run, input_of_views, save_state, set_up
from uniformer.training.state import read_state
from uniformer.training.step import Run, Step, find_non_finite, train_step

IN_A_ROW = 3  # steps with a number that is not finite before the run goes back to its last state
RETURNS = 3  # of them before it ends

Signals = Callable[[], AbstractContextManager[list[int]]]


def fit(
    recipe: Recipe,
    train_set: DataSet,
    val_set: DataSet | None = None,
    *,
    out: str | Path,
    device: str = "auto",
    network: Network | None = None,
    task: type[Task] | None = None,
    opened: Opened | None = None,
    own: bool = False,
    signals: Signals | None = None,
) -> TrainingResult:
    """Train what `recipe` says on `train_set`; the folder `out` gets everything, and the same call goes on from there.

    In `out`: state.pt (to go on from), metrics.csv, recipe.toml, best.safetensors (the best epoch's weights),
    average.safetensors (where the recipe keeps an average), model.safetensors (the result), unreadable.csv. Of one's
    `own` data, which no recipe names, also split/ (lists of both sets) and held-out/ (how the result does on
    `val_set`).
    `signals` makes a list, for as long as the run goes on, whose first number ends it after the step at hand, with its
    state saved: the command line notes SIGTERM and SIGINT there. Under torchrun every process calls this;
    `recipe.batch_size` is that of all of them together.

    `task` is what the network is for, classification by default. `network` makes what is trained of `recipe.model` in
    the task's place: for comparisons it may be another than `UniFormer` that takes the same input, gives the same
    outputs and has that `config`: its files then hold the tensors alone. `opened` is the checkpoint of `recipe.init`,
    where it has been read already.

    Raises `InputError` before the first step where recipe and data do not fit, and where the run cannot go on: too many
    unreadable files, numbers that stay infinite, a full disk.
    """
    out = Path(out)
    with (
        process_group(device) as group,
        own_random_numbers(group),
        nullcontext([]) if signals is None else signals() as seen,
        group.alone_in(out) as unlocked,
        Log(out, quiet=not group.is_main, tensorboard=recipe.loop.tensorboard) as log,
    ):
        if group.is_main:
            clear_away(out / name for name in (STATE, *WRITTEN))
        log.notes(unlocked)
        run, state = set_up(recipe, train_set, val_set, out, group, log, network=network, task=task, opened=opened)
        is_over = run.learner.progress.finished
        if state is None or (recipe.precision != "float32" and not is_over):  # layers are right or not on a machine
            dry_run(run)
        if state is None:
            save_state(run)
        if group.is_main:
            write_origin(out, run.recipe, (run.train, val_set) if own else None)
        log.rewind(run.learner.progress.step)
        log.start(run.total, run.learner.progress.step)
        while not run.learner.progress.finished:
            stopped_by = follow(run, seen)
            if stopped_by and not run.learner.progress.finished:
                step = run.learner.progress.step
                log.say(f"stopped by signal {stopped_by} at step {step}: the same command goes on from there")
                return TrainingResult(out, run.learner.progress.scores, stopped_by)
        return finish(run, own)


def own_random_numbers(group: ProcessGroup) -> AbstractContextManager[None]:
    """Torch's global generators, which each step seeds, are afterwards where they were."""
    return torch.random.fork_rng([group.device] if group.device.type == "cuda" else [])


# ---- the loop --------------------------------------------------------------------------------------------------------


def follow(run: Run, signals: list[int]) -> int | None:
    """Train until the run is finished, goes back to an earlier state, or is stopped: then by which signal."""
    recipe, progress, log = run.recipe, run.learner.progress, run.log
    source = batches(
        run.samples, run.plan,
        start=progress.step, workers=recipe.data.workers, device=run.group.device, is_to_stop=lambda: bool(signals),
    )  # fmt: skip
    window, epoch = Pace(), Pace()
    train_mode(run.learner.model)
    while not progress.finished:
        begin = time.perf_counter()
        passes = [next(source) for _ in range(recipe.optimizer.accumulate)]
        ready = time.perf_counter()
        step = train_step(run, passes, bool(signals))
        for pace in (window, epoch):
            pace.add(recipe.batch_size, ready - begin, time.perf_counter() - ready)
        note_unreadable(run, passes, step.stood_in)
        if not step.took_effect and must_return(run, passes, step):
            roll_back(run)
            return None
        progress.step += 1
        log.step(progress.step, f"loss {step.loss:.4f}  {window.rate:.3g}/s  {window.waiting_share:.0%} waiting")
        if progress.step % recipe.loop.log_every == 0:
            report(run, step, window)
            window = Pace()
        if run.plan.ends_epoch(progress.step):
            end_epoch(run, epoch)
            epoch = Pace()
        if step.stop or is_time_to_keep(run):
            save_state(run)
        if step.stop:
            return signals[0] if signals else signal.SIGTERM  # another process's, else
    return None


def is_time_to_keep(run: Run) -> bool:
    """Whether the state is due to be kept after the step just done."""
    keep, progress = run.recipe.keep, run.learner.progress
    epoch, steps = divmod(progress.step, run.plan.steps)
    due = steps == 0 and epoch % keep.every == 0
    due = due or (keep.every_steps is not None and progress.step % keep.every_steps == 0)
    return progress.finished or (due and progress.in_a_row == 0)  # what went wrong just now is nothing to go back to


def must_return(run: Run, passes: list[AnyBatch], step: Step) -> bool:
    """Account for a step without effect, and say whether there were too many of them in a row."""
    scaler, progress = run.learner.scaler, run.learner.progress
    if scaler.is_enabled() and np.isfinite(step.loss) and scaler.get_scale() >= 1:
        return False  # float16: the loss was scaled up too far, which happens now and then and is mended already
    progress.left_out += 1
    progress.in_a_row += 1
    where = find_non_finite(run, passes)
    run.log.say(f"step {progress.step + 1} left out: loss {step.loss:g}, gradient {step.norm:g}, first in {where}")
    if progress.in_a_row >= IN_A_ROW and progress.returns >= RETURNS:
        raise InputError(
            f"training does not get past step {progress.step + 1}: {IN_A_ROW} steps in a row with numbers that are not "
            f"finite, first in {where}, also at {progress.rate_factor:g} of the learning rate"
        )
    return progress.in_a_row >= IN_A_ROW


def roll_back(run: Run) -> None:
    """To the last state kept, with half the learning rate."""
    returns = run.learner.progress.returns + 1
    run.learner.restore(run.group.broadcast(lambda: read_state(run.out / STATE)))
    progress = run.learner.progress
    progress.returns, progress.rate_factor = returns, progress.rate_factor / 2
    save_state(run)
    run.log.rewind(progress.step)
    run.log.say(f"back to step {progress.step}, from now on with {progress.rate_factor:g} of the learning rate")


def note_unreadable(run: Run, passes: list[AnyBatch], count: int) -> None:
    """List files that cannot be read, of `count` samples in all. Raises `InputError` where there are too many."""
    if not count:
        return
    progress = run.learner.progress
    progress.unreadable += count
    for files in run.group.all_gather([file for batch in passes for file in batch.unreadable]):
        run.log.unreadable(files)
    limit = run.recipe.loop.max_bad_fraction
    run.log.check_unreadable(progress.unreadable, run.plan.count, "samples of this epoch", limit)


def report(run: Run, step: Step, pace: Pace) -> None:
    """A line and a row on the steps since the last ones."""
    done, noun = run.learner.progress.step, "clips" if run.recipe.input.is_video else "images"
    epoch = run.plan.epoch(done)
    left = time_left((pace.waiting + pace.working) / pace.samples * run.recipe.batch_size, run.total - done)
    if not run.log.has_bar:
        run.log.say(
            f"epoch {epoch}/{run.plan.epochs}  step {done}/{run.total}  loss {step.loss:.4f}  lr {step.rate:.3g}  "
            f"{pace.rate:.3g} {noun}/s  {pace.waiting_share:.0%} waiting for data  {left} left"
        )
    run.log.metrics(
        epoch=epoch, step=done, lr=step.rate, loss=step.loss, grad_norm=step.norm,
        samples_per_s=round(pace.rate, 3), waiting=round(pace.waiting_share, 4),
    )  # fmt: skip


# ---- at the end of an epoch ------------------------------------------------------------------------------------------


def end_epoch(run: Run, pace: Pace) -> None:
    """Validate, keep the best weights, and say how it went."""
    progress, recipe = run.learner.progress, run.recipe
    epoch = run.plan.epoch(progress.step)
    is_last = progress.step == run.total
    loss = progress.loss_sum / max(progress.loss_count, 1)
    said = f"epoch {epoch}/{run.plan.epochs}: mean loss {loss:.4f}"
    validated: dict[str, float] = {}
    if run.val is not None and (is_last or epoch % recipe.loop.eval_every == 0):
        progress.scores = validate(run, run.val)
        validated = progress.scores
        said += "".join(f", {name} {value:.4g}" for name, value in progress.scores.items())
        if note_best(run, epoch):
            said += " (best so far)"
    ends_early = not is_last and bool(recipe.keep.patience and progress.stale >= recipe.keep.patience)
    run.log.metrics(epoch=epoch, step=progress.step, epoch_loss=loss, **validated)
    run.log.draw(recipe.name)
    noun = "clips" if recipe.input.is_video else "images"
    run.log.say(f"{said}; {pace.verdict(noun)}")
    if ends_early:
        stale = counted(progress.stale, "validation")
        run.log.say(f"no more epochs: {stale} without a higher val_{recipe.keep.metric}, as keep.patience has it")
    progress.loss_sum, progress.loss_count, progress.unreadable = 0.0, 0, 0
    progress.finished = is_last or ends_early


def validate(run: Run, val: DataSet) -> dict[str, float]:
    """Scores of the weights as they are ("val_") and, where the recipe asks, of their average ("ema_").

    Raises `InputError` where too many files cannot be read.
    """
    learner, recipe = run.learner, run.recipe
    networks = {"val": learner.model}
    if learner.ema is not None and recipe.ema.evaluate:
        networks["ema"] = learner.ema.module
    run.group.broadcast_buffers(networks.values())
    found: dict[str, float] = {}
    task, device = run.task.on(val), run.group.device
    metric, fed = task.metric(val), task if task.whole else input_of_views(recipe)
    reading = Reading(device, recipe.precision, recipe.batch_per_process(run.group.size), recipe.data.workers)
    for name, model in networks.items():
        with evaluating(model):
            compute = f"fast{BY}{learner.products}" if isinstance(model, UniFormer) else "plain"  # others have no other
            network = TorchNetwork(model, run.task.contract, device=device, precision=recipe.precision, compute=compute)
            scores = score(network, metric, fed, reading, run.group)
        run.log.check_read(scores.errors, val, "validation samples", recipe.loop.max_bad_fraction, "it counts as wrong")
        found |= {f"{name}_{measure}": value for measure, value in metric.summary(scores).items()}
    train_mode(learner.model)
    return found


def note_best(run: Run, epoch: int) -> bool:
    """Whether the last validation is the best so far; then its weights are kept."""
    progress, metric = run.learner.progress, run.recipe.keep.metric
    now = rank(progress.scores, metric)
    before = None if progress.best is None else rank(progress.best_scores, metric)
    progress.stale = 0 if before is None or now[0] > before[0] else progress.stale + 1
    if before is not None and not now > before:
        return False
    progress.best, progress.best_epoch = progress.scores[f"val_{metric}"], epoch
    progress.best_scores = dict(progress.scores)
    keep_weights(run, run.learner.model, BEST, f"epoch {epoch}")
    return True


def keep_weights(run: Run, model: Any, name: str, note: str, whose: str = "val") -> None:
    """Write weights with the scores of the last validation, as `whose` they are."""
    if run.group.is_main:
        note = f"trained by the recipe {run.recipe.name}, {note}"
        write_weights(run.out / name, model, run.task, run.learner.progress.scores, note, whose=whose)


def finish(run: Run, own: bool = False) -> TrainingResult:
    """Write the result: the last weights or the best ones, as the recipe says; of one's `own` data, how they do."""
    progress, out = run.learner.progress, run.out
    best = run.recipe.keep.result == "best"
    if not best:
        keep_weights(run, run.learner.model, RESULT, "last epoch")
    elif run.group.is_main:
        with atomic_path(out / RESULT) as temporary:
            shutil.copyfile(out / BEST, temporary)
    if run.learner.ema is not None:
        keep_weights(run, run.learner.ema.module, AVERAGE, "average of the weights", "ema")
    if progress.left_out:
        run.log.say(f"{counted(progress.left_out, 'step')} left out, as a number was not finite")
    run.log.say(f"result: {out / RESULT}" + (f", the weights of epoch {progress.best_epoch}" if best else ""))
    if own and run.val is not None:
        model, contract, _ = run.group.broadcast(lambda: load_model(out / RESULT))  # others may not see the folder
        found = evaluate(
            (model, contract), run.val,
            out=out / REPORT, device=str(run.group.device), precision=run.recipe.precision,
            batch_size=run.recipe.batch_per_process(run.group.size), workers=run.recipe.data.workers,
            task=type(run.task),
        )  # fmt: skip
        run.log.say(f"on the validation samples: {in_short(found)}")
    return TrainingResult(out, progress.best_scores if best else progress.scores)

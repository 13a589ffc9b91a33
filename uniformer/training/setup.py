"""From a recipe and data to a run that is ready for its next step: checks, network, optimizer, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from uniformer import speed
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.identify import Opened
from uniformer.config import Config, InputSpec
from uniformer.datasets.annotated import AnnotatedSet
from uniformer.errors import InputError, counted, first_line, shown
from uniformer.evaluation.features import KEY_NAME
from uniformer.evaluation.learnt import trained_on
from uniformer.heads.keys import BACKBONE
from uniformer.heads.pyramid import DenseNetwork
from uniformer.labels import flip_sensitive
from uniformer.network.model import UniFormer
from uniformer.reading.dense_options import PoseAugment
from uniformer.speed.agreement import Agreement
from uniformer.speed.products import By, fastest
from uniformer.speed.sixteen_bits import Met, described, keep_in_float32, watched, wrong_layers
from uniformer.speed.timings import view_size
from uniformer.support.distributed import DTYPES, ProcessGroup
from uniformer.tasks import task_of
from uniformer.tasks.objective import Objective
from uniformer.tasks.options import TargetOptions
from uniformer.tasks.task import Task
from uniformer.training.batches import MIXING, Plan, Samples, rng_at
from uniformer.training.log import Log
from uniformer.training.optim import freeze, make_optimizer, moving_average, train_mode
from uniformer.training.recipe import EffectiveLR, Recipe, effective_lr, resolved
from uniformer.training.result import REPORT, WRITTEN
from uniformer.training.samples import DataSet, details_of, samples_of, shape_sum, truth_sum
from uniformer.training.start import initialised
from uniformer.training.state import Learner, check_same_run, read_state, write_state
from uniformer.training.state_check import check_state
from uniformer.training.step import Run, lower_precision, moved, restore_buffers, total

MOST_NOTED = 200_000  # items that a checkpoint is to know as learnt from: each file is opened for it
STATE, FEATURES = "state.pt", Path("features")  #: in a run's folder

Network = Callable[[Config], Any]  #: makes the network; what other than the task's own it may be, `fit` says


def set_up(
    recipe: Recipe,
    train_set: DataSet,
    val_set: DataSet | None,
    out: Path,
    group: ProcessGroup,
    log: Log,
    *,
    network: Network | None = None,
    task: type[Task] | None = None,
    opened: Opened | None = None,
) -> tuple[Run, dict[str, Any] | None]:
    """Everything in place for the next step, and the state it goes on from, if there is one.

    `opened` is the checkpoint of `recipe.init`, where it has been read already.
    """
    train_set = train_set.usable()
    group.broadcast(lambda: check_folder(out))
    work = task_for(recipe, train_set, task)
    log.measures = work.measures
    make_objective = work.targets_and_loss(target_options(recipe), train_set, val_set)
    check_settings(recipe, work, train_set, val_set)
    recipe = without_flip(recipe, train_set, log)
    state = group.broadcast(lambda: read_state(out / STATE) if (out / STATE).exists() else None)
    if state is not None:
        check_same_run(out / STATE, state, recipe, fingerprint(train_set, val_set))
    note_learnt(work, train_set, group, log)
    log.say(f"{recipe.name}: {recipe.title or recipe.arch}")
    say_sets(train_set, val_set, log)

    rates = effective_lr(recipe, nodes=group.nodes)
    make = (lambda: network(recipe.model)) if network else work.build
    model = make() if state is not None else initialised(recipe, train_set.classes, log, make, opened)
    learner = build(recipe, model, make_objective, group, rates, log, state)
    samples = samples_of(recipe, train_set)
    if len(samples) != len(train_set):  # people, or pictures in which there is something to learn
        log.say(f"{counted(len(samples), 'sample')} to learn in {counted(len(train_set), 'picture')}")
    plan = plan_of(recipe, samples, group)
    if plan.balanced is not None and (others := len(samples) - len(np.unique(plan.balanced.rows))):
        log.say(f"data.balanced: {counted(others, 'sample')} without a class, or that cannot be read, are not drawn")
    run = Run(recipe, work, group, out, log, train_set, samples, plan, val_set, rates, learner)
    each = recipe.batch_per_process(group.size)
    log.say(f"{length_in_words(recipe, plan)}; {rates.sentence}")
    log.say(
        f"{counted(group.size, 'process')} on {counted(group.nodes, 'machine')}, {counted(each, 'sample')} each in one "
        f"pass, on {group.device}"
    )
    if state is not None:
        check_state(out / STATE, state, learner, run.total)
        learner.restore(state)
        log.say(f"going on from step {learner.progress.step} of {run.total}, as in {out / STATE}")
    return run, state


def plan_of(recipe: Recipe, samples: Samples[Any], group: ProcessGroup) -> Plan:
    """How the samples of a data set fall into steps."""
    schedule, count = recipe.schedule, len(samples)
    steps = max(count // recipe.batch_size, 1)
    epochs = schedule.epochs + schedule.cooldown_epochs
    return Plan(
        count,
        recipe.batch_size,
        epochs if schedule.iterations is None else -(-schedule.iterations // steps),
        seed=recipe.seed,
        passes=recipe.optimizer.accumulate,
        rank=group.rank,
        size=group.size,
        repeated=recipe.data.repeated_augmentation,
        balanced=samples.members() if recipe.data.balanced else None,
        iterations=schedule.iterations,
    )


def length_in_words(recipe: Recipe, plan: Plan) -> str:
    """How long a run is."""
    schedule = recipe.schedule
    warmup = counted(schedule.warmup_steps, "step") if schedule.warmup_steps else f"{schedule.warmup_epochs:g}"
    each = f"{counted(plan.epochs, 'epoch')} of {counted(plan.steps, 'step')} each"
    whole = each if schedule.iterations is None else f"{counted(plan.total, 'step')}: {each} at most"
    return f"{whole}, {warmup} of warmup"


def task_for(recipe: Recipe, train_set: DataSet, task: type[Task] | None = None) -> Task:
    """The task of a recipe on a data set: its contract has the data's classes where the network has as many, and what
    else the data tell of answers."""
    fit = len(train_set.classes) == recipe.model.num_classes  # else `check_settings` says so
    contract = Contract(
        recipe.model, recipe.arch, recipe.input, train_set.classes if fit else (),
        dataset=recipe.data.dataset or "", details=details_of(train_set) if fit else {},
    )  # fmt: skip
    return task_of(contract) if task is None else task(contract)


def check_folder(out: Path) -> None:
    """Raises `InputError` where a run's files would replace such as no run left there."""
    if any((out / mark).exists() for mark in (STATE, FEATURES / "train" / KEY_NAME)):
        return
    for name in (*WRITTEN, REPORT):
        if (out / name).exists():
            raise InputError(f"cannot write {out / name}: it is there already, and no run's; give another --out")


def say_sets(train_set: DataSet, val_set: DataSet | None, log: Log) -> None:
    """What is learnt from and validated on, and what of the latter nothing can be learnt of."""
    learnt = f"train: {amount(train_set)}"
    if val_set is None:
        log.say(f"{learnt}, {train_set.origin}")
        log.say("val: none")
        return
    are_parts = val_set.origin == train_set.origin  # of one set, whose words are of the whole
    log.say(learnt if are_parts else f"{learnt}, {train_set.origin}")
    log.say(f"val: {amount(val_set)}, {'both of ' if are_parts else ''}{val_set.origin}")
    unlearnt = np.flatnonzero((train_set.class_counts() == 0) & (val_set.class_counts() > 0)).tolist()
    if unlearnt:
        names = ", ".join(repr(train_set.classes[k]) for k in unlearnt[:5]) + ", ..." * (len(unlearnt) > 5)
        log.say(f"note: validated on without a training sample: {counted(len(unlearnt), 'class')}, {shown(names, 300)}")


def amount(data: DataSet) -> str:
    """How many samples a set has: where these are people, in how many pictures."""
    if not isinstance(data, AnnotatedSet) or data.instances.keypoints is None:
        return counted(len(data), "sample")
    people = int(data.instances.learnt().sum())
    return f"{people} {'person' if people == 1 else 'people'} in {counted(len(data), 'picture')}"


def note_learnt(task: Task, train_set: DataSet, group: ProcessGroup, log: Log) -> None:
    """Let the task's contract say which items are learnt from, unless looking into all their files takes too long."""
    if len(train_set) > MOST_NOTED:
        log.say(f"which items are learnt from is not noted in the checkpoint: of more than {MOST_NOTED}")
        return
    task.contract = replace(task.contract, trained_on=group.broadcast(lambda: trained_on(train_set)))


def input_of_views(recipe: Recipe) -> InputSpec:
    """What a classifier of a recipe is fed. Raises `InputError` where the recipe is for whole pictures."""
    if not isinstance(recipe.input, InputSpec):
        raise InputError(f"expected the recipe of a classifier, got one of {recipe.arch}")
    return recipe.input


def target_options(recipe: Recipe) -> TargetOptions:
    return TargetOptions(recipe.loss, recipe.mixing, recipe.data.label_maps, recipe.regions, recipe.hardest)


def check_settings(recipe: Recipe, task: Task, train_set: DataSet, val_set: DataSet | None) -> None:
    """Raises `InputError` where settings that every task shares do not fit the data."""
    if recipe.data.balanced and train_set.is_multi_label:
        raise InputError("data.balanced needs one label a sample")
    if val_set is None and (recipe.keep.result == "best" or recipe.keep.patience):
        raise InputError("keep.result=best and keep.patience need validation data: set data.val, or keep.result=last")
    if val_set is None:
        return
    usual = task.metric(train_set).measures
    if recipe.keep.metric not in usual:
        raise InputError(f"expected keep.metric {' or '.join(sorted(usual))} for this data, got {recipe.keep.metric}")


def without_flip(recipe: Recipe, train_set: DataSet, log: Log) -> Recipe:
    """The recipe with mirroring switched off where it would turn one class into another; key points change places."""
    sides = flip_sensitive(train_set.classes) if recipe.augment.flip else []
    if not sides or isinstance(recipe.augment, PoseAugment):
        return recipe
    log.say(
        f"augment.flip=0 instead of {recipe.augment.flip:g}: classes name sides, such as {' and '.join(sides[0])!r}"
    )
    return replace(recipe, augment=replace(recipe.augment, flip=0.0))


def fingerprint(train_set: DataSet, val_set: DataSet | None) -> dict[str, Any]:
    """What must stay as it is for a run to go on."""
    return {
        "samples": len(train_set),
        "classes": list(train_set.classes),
        "validated samples": 0 if val_set is None else len(val_set),
        "labels": truth_sum(train_set),
        "validated labels": "" if val_set is None else truth_sum(val_set),
        "masks": shape_sum(train_set),
        "validated masks": "" if val_set is None else shape_sum(val_set),
    }


def build(
    recipe: Recipe,
    model: Any,
    make_objective: Callable[[Any], Objective],
    group: ProcessGroup,
    rates: EffectiveLR,
    log: Log,
    state: dict[str, Any] | None = None,
) -> Learner:
    """The network made ready for the device, with its loss, optimizer and average.

    A run that goes on from a state has its products computed as before, to the last digit.
    """
    if recipe.sync_batch_norm:
        share_statistics(model, group)
    freeze(model, recipe.optimizer.freeze)
    if recipe.loop.grad_checkpointing:
        model.set_grad_checkpointing()
    model.to(group.device)
    dtype, by = DTYPES[recipe.precision], By()
    if group.device.type == "cpu":
        chosen = group.broadcast(lambda: str(fastest(dtype)) if state is None else state["products"])
        by = By.parsed(chosen)
    if isinstance(model, UniFormer | DenseNetwork):
        size = view_size(recipe.model, input_of_views(recipe)) if isinstance(model, UniFormer) else None
        attends = recipe.attention_float32
        speed.prepare(model, training=True, dtype=dtype, size=size, attention_float32=attends, tried=True, by=by)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    some = f"{trained / 1e6:.2f} M" if trained >= 10_000 else f"{trained}"  # a classifier alone
    log.say(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {some} to train")

    optimizer = make_optimizer(model, recipe.optimizer, rates.lr)
    average = None if recipe.ema.decay is None else moving_average(model, recipe.ema.decay)
    objective = make_objective(model)
    scaler = torch.amp.GradScaler(group.device.type, enabled=recipe.precision == "float16")
    return Learner(model, objective, wrapped(objective, recipe, group), optimizer, scaler, average, str(by))


def share_statistics(model: nn.Module, group: ProcessGroup) -> None:
    """Let batch norms go by the samples of all processes in training: of a dense network those of its head, as the
    published runs did. Raises `InputError` between CPUs."""
    if group.size == 1:
        return
    if group.device.type == "cpu":
        raise InputError("sync_batch_norm=true needs GPUs, as torch's SyncBatchNorm; got several processes on CPUs")
    parts = dict(model.named_children()) if isinstance(model, DenseNetwork) else {"": model}
    for name, part in parts.items():
        if f"{name}." != BACKBONE:
            nn.SyncBatchNorm.convert_sync_batchnorm(part)


def wrapped(objective: Objective, recipe: Recipe, group: ProcessGroup) -> nn.Module:
    """Compiled where the recipe asks, and with gradients averaged over the processes."""
    module: nn.Module = objective
    if recipe.loop.compile:
        module = torch.compile(module)  # type: ignore[assignment]
    if group.size == 1:
        return module
    return DistributedDataParallel(
        module,
        device_ids=[group.device] if group.device.type == "cuda" else None,
        find_unused_parameters=objective.leaves_parameters_out,
    )


def dry_run(run: Run) -> None:
    """Read two samples and push them through network, loss and gradients, so that what is wrong shows at once.

    In 16 bits every layer is tried on what it meets there; those that are wrong on this processor compute in float32
    from then on, and a line names them.
    """
    model, objective = run.learner.model, run.learner.objective
    first = next(run.plan.places(0))[:2]
    batch = run.samples.batch(first)
    buffers = [b.clone() for b in model.buffers()]
    train_mode(model)
    is_low = run.recipe.precision != "float32"
    try:
        with watched(model, enabled=is_low) as met, lower_precision(run):
            targets = objective.targets(moved(batch, run.group), rng_at(run.recipe.seed, MIXING))
            total(objective(*targets)).backward()
    except RuntimeError as error:
        if "does not support bf16/f16 backward" not in str(error):
            raise
        raise InputError(
            f"torch cannot train in {run.recipe.precision} on this processor ({first_line(error)}): set "
            "precision=float32"
        ) from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            f"expected several pictures in one pass for the batch norms of {run.recipe.arch}, got {len(batch.x)}: set "
            "a larger batch_size, fewer passes or fewer processes"
        ) from None
    finally:
        restore_buffers(model, buffers)
        run.learner.optimizer.zero_grad()
    if is_low:
        keep_right(run, met)


def keep_right(run: Run, met: Sequence[Met]) -> None:
    """Let the layers that are wrong in the run's precision compute in float32, in every process those of all."""
    precision = run.recipe.precision
    wrong: dict[str, Agreement] = {}
    for found in run.group.all_gather(wrong_layers(met, DTYPES[precision])):
        wrong |= found
    keep_in_float32(run.learner.model, wrong)
    verdict = f"wrong in torch {torch.__version__} on this processor and kept in float32: {described(wrong)}"
    layers = counted(sum(len(each.names) for each in met), "layer")
    run.log.say(f"tried in {precision} against float32: {layers}, {verdict if wrong else 'all right'}")


def save_state(run: Run) -> None:
    """Write what the run goes on from."""
    if run.group.is_main:
        facts = {"recipe": resolved(run.recipe), "data": fingerprint(run.train, run.val)}
        write_state(run.out / STATE, {**facts, **run.learner.state()})

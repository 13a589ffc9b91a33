"""From a recipe and data to a run that is ready for its next step: checks, network, optimizer, and where it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from uniformer.checkpoints.identify import open_checkpoint
from uniformer.checkpoints.load import load_checkpoint
from uniformer.config import Config
from uniformer.datasets.manifest import Manifest
from uniformer.errors import InputError
from uniformer.inference.networks import DTYPES
from uniformer.network.model import UniFormer
from uniformer.sides import flip_sensitive
from uniformer.speed.convolutions import recall
from uniformer.speed.timings import view_size
from uniformer.support.distributed import World
from uniformer.training.batches import MIXING, Plan, TrainingSet, collate, stream
from uniformer.training.log import Log
from uniformer.training.objective import Objective, attend_in_float32, load_teacher, make_task
from uniformer.training.optim import freeze, make_optimizer, moving_average, train_mode
from uniformer.training.recipe import EffectiveLR, Recipe, effective_lr, resolved
from uniformer.training.state import Learner, check_same_run, read_state, write_state
from uniformer.training.step import Run, lower_precision, moved, put_back

STATE = "state.pt"  #: in a run's folder

Network = Callable[[Config], Any]  #: makes the network; what other than `UniFormer` it may be, `train` says


def prepare(
    recipe: Recipe,
    train_set: Manifest,
    val_set: Manifest | None,
    out: Path,
    world: World,
    log: Log,
    network: Network = UniFormer,
) -> tuple[Run, dict[str, Any] | None]:
    """Everything in place for the next step, and the state it goes on from, if there is one."""
    train_set = train_set.usable()
    check_data(recipe, train_set, val_set)
    recipe = without_flip(recipe, train_set.classes, log)
    state = world.from_main(lambda: read_state(out / STATE) if (out / STATE).exists() else None)
    if state is not None:
        check_same_run(out / STATE, state, recipe, fingerprint(train_set, val_set))
    log.say(f"{recipe.name}: {recipe.title or recipe.arch}")
    log.say(f"train: {len(train_set)} samples, {train_set.origin}")
    log.say("val: none" if val_set is None else f"val: {len(val_set)} samples, {val_set.origin}")

    rates = effective_lr(recipe, nodes=world.nodes)
    learner = build(recipe, train_set.classes, world, rates, log, network, fresh=state is None)
    plan = Plan(
        len(train_set),
        recipe.batch_size,
        recipe.schedule.epochs + recipe.schedule.cooldown_epochs,
        seed=recipe.seed,
        passes=recipe.optimizer.accumulate,
        rank=world.rank,
        size=world.size,
        repeated=recipe.data.repeated_augmentation,
        balanced=train_set.labels if recipe.data.balanced else None,
    )
    samples = TrainingSet(train_set, recipe.input, recipe.augment, seed=recipe.seed, label_maps=recipe.data.label_maps)
    run = Run(recipe, world, out, log, samples, plan, val_set, rates, learner)
    each = recipe.batch_per_process(world.size)
    log.say(f"{plan.epochs} epochs of {plan.steps} steps; {rates.sentence}")
    log.say(
        f"{world.size} process{'es' * (world.size > 1)} on {world.nodes} machine{'s' * (world.nodes > 1)}, "
        f"{each} samples each in one pass, on {world.device}"
    )
    if state is not None:
        learner.restore(state)
        log.say(f"going on from step {learner.progress.step} of {run.total}, as in {out / STATE}")
    elif world.is_main:
        (out / "recipe.toml").write_text(resolved(recipe), encoding="utf-8")
    return run, state


def check_data(recipe: Recipe, train_set: Manifest, val_set: Manifest | None) -> None:
    """Raises `InputError` where recipe and data do not fit."""
    classes = recipe.model.num_classes
    if recipe.model.output != "logits" or not classes:
        raise InputError(f"expected a model with a classifier to train, got {recipe.arch} without one")
    for name, part in (("train", train_set), ("val", val_set)):
        if part is None:
            continue
        if len(part.classes) > classes or (len(part.labels) and int(part.labels.max()) >= classes):
            count = max(len(part.classes), int(part.labels.max()) + 1)
            raise InputError(
                f"the {name} set has {count} classes, the classifier {classes}: "
                f"model.num_classes={count} would fit, as long as the labels are right"
            )
        if part.classes != train_set.classes:
            raise InputError("expected the val set to have the classes of the train set in the same order")
        if part.is_multi_label != train_set.is_multi_label:
            raise InputError("expected several labels a sample in both the train and the val set, got them in one")
    if train_set.is_multi_label and recipe.loss.kind != "bce":
        raise InputError(f"samples with several labels need loss.kind=bce, got {recipe.loss.kind}")
    if recipe.loss.kind == "token_labeling" and recipe.data.label_maps is None:
        raise InputError("loss.kind 'token_labeling' needs data.label_maps, the folder of the label maps")
    if recipe.data.balanced and train_set.is_multi_label:
        raise InputError("data.balanced needs one label a sample")
    if val_set is None and (recipe.keep.result == "best" or recipe.keep.patience):
        raise InputError("keep.result=best and keep.patience need validation data: set data.val, or keep.result=last")
    single = {"top1", "mean_class", "loss", *(("top5",) if classes > 5 else ())}
    usual = {"map"} if train_set.is_multi_label else single
    if val_set is not None and recipe.keep.metric not in usual:
        raise InputError(f"expected keep.metric {' or '.join(sorted(usual))} for this data, got {recipe.keep.metric}")


def without_flip(recipe: Recipe, classes: tuple[str, ...], log: Log) -> Recipe:
    """The recipe with mirroring switched off where it would turn one class into another."""
    sides = flip_sensitive(classes) if recipe.augment.flip else []
    if not sides:
        return recipe
    log.say(
        f"augment.flip=0 instead of {recipe.augment.flip:g}: classes name sides, such as {' and '.join(sides[0])!r}"
    )
    return replace(recipe, augment=replace(recipe.augment, flip=0.0))


def fingerprint(train_set: Manifest, val_set: Manifest | None) -> dict[str, Any]:
    """What must stay as it is for a run to go on."""
    return {
        "samples": len(train_set),
        "classes": list(train_set.classes),
        "validated samples": 0 if val_set is None else len(val_set),
    }


def initialised(recipe: Recipe, classes: tuple[str, ...], log: Log, network: Network = UniFormer) -> UniFormer:
    """The network as training begins: drawn from the seed, or with the weights of `recipe.init`.

    Its classifier is new where the checkpoint has other classes than `classes`, by number or by name.
    """
    torch.manual_seed(recipe.seed)
    model: UniFormer = network(recipe.model)
    source = recipe.init.checkpoint
    if source is None:
        return model
    opened = open_checkpoint(source)
    report = load_checkpoint(
        model,
        opened,
        inflate=recipe.init.inflate if recipe.model.is_video else None,
        new_classifier=True,
        allow_ignored=() if recipe.model.token_labeling else ("aux_head.*",),
    )
    log.say(str(report))
    known = opened.classes
    if known and len(known) == recipe.model.num_classes and set(known) != set(classes):
        model.reset_classifier(recipe.model.num_classes)
        log.say("  note: as many classes as in the checkpoint, but others: the classifier is new")
    return model


def build(
    recipe: Recipe,
    classes: tuple[str, ...],
    world: World,
    rates: EffectiveLR,
    log: Log,
    network: Network,
    *,
    fresh: bool,
) -> Learner:
    """Network, loss, optimizer and average; the weights of `recipe.init` where the run is `fresh`."""
    model: UniFormer = initialised(recipe, classes, log, network) if fresh else network(recipe.model)
    if recipe.sync_batch_norm:
        share_statistics(model, world)
    freeze(model, recipe.optimizer.freeze)
    if recipe.loop.grad_checkpointing:
        model.set_grad_checkpointing()
    if recipe.attention_float32:
        attend_in_float32(model)
    model.to(world.device)
    recall(model, view_size(recipe.model, recipe.input), DTYPES[recipe.precision], training=True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.say(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {trained / 1e6:.2f} M to train")

    optimizer = make_optimizer(model, recipe.optimizer, rates.lr)
    average = None if recipe.ema.decay is None else moving_average(model, recipe.ema.decay)
    objective = Objective(model, recipe.loss, load_teacher(recipe, world.device))
    scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.precision == "float16")
    return Learner(model, objective, wrapped(objective, recipe, world), optimizer, scaler, average)


def share_statistics(model: UniFormer, world: World) -> None:
    """Let batch norms go by the samples of all processes in training. Raises `InputError` between CPUs."""
    if world.size == 1:
        return
    if world.device.type == "cpu":
        raise InputError("sync_batch_norm=true needs GPUs, as torch's SyncBatchNorm; got several processes on CPUs")
    nn.SyncBatchNorm.convert_sync_batchnorm(model)


def wrapped(objective: Objective, recipe: Recipe, world: World) -> nn.Module:
    """Compiled where the recipe asks, and with gradients averaged over the processes."""
    module: nn.Module = objective
    if recipe.loop.compile:
        module = torch.compile(module)  # type: ignore[assignment]
    if world.size == 1:
        return module
    return DistributedDataParallel(
        module,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        find_unused_parameters=objective.leaves_parameters_out,
    )


def rehearse(run: Run) -> None:
    """Read two samples and push them through network, loss and gradients, so that what is wrong shows at once."""
    model = run.learner.model
    first = next(run.plan.places(0))[:2]
    batch = collate([run.samples[place] for place in first])
    buffers = [b.clone() for b in model.buffers()]
    train_mode(model)
    try:
        with lower_precision(run):
            task = make_task(moved(batch, run.world), run.recipe, model, stream(run.recipe.seed, MIXING))
            run.learner.objective(*task).backward()
    finally:
        put_back(model, buffers)
        run.learner.optimizer.zero_grad()


def keep_state(run: Run) -> None:
    """Write what the run goes on from."""
    if run.world.is_main:
        facts = {"recipe": resolved(run.recipe), "data": fingerprint(run.samples.manifest, run.val)}
        write_state(run.out / STATE, {**facts, **run.learner.state()})

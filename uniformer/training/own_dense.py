"""Training on one's own annotated pictures without a recipe: a head for the task, a preset by the number of pictures,
sizes by theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from uniformer.checkpoints.contract import Contract
from uniformer.config import TASKS, Config, DenseTask, Head, PersonCrop, Scaling, to_dict
from uniformer.datasets.annotated import AnnotatedSet
from uniformer.errors import InputError, counted
from uniformer.labels import flip_sensitive
from uniformer.network.variants import VARIANTS, dense_input, get_config
from uniformer.reading.dense_options import UPPER_BODY
from uniformer.support.settings import Table, merged
from uniformer.training.own_data import Preset
from uniformer.training.recipe import Recipe, asked, recipe_from, section

#: What a task's own data are learnt with, where neither a dense checkpoint nor a setting says a head.
HEADS: Mapping[DenseTask, Head] = MappingProxyType(
    {"detection": "mask_rcnn", "segmentation": "semantic_fpn", "pose": "topdown"}
)
#: What is started from, where nothing is said.
STARTS: Mapping[DenseTask, str] = MappingProxyType(
    {
        "detection": "mask_rcnn.uniformer_small_h14.coco_3x_ms",
        "segmentation": "upernet.uniformer_small.ade20k",
        "pose": "topdown.uniformer_small.coco_256x192",
    }
)
BATCHES: Mapping[DenseTask, int] = MappingProxyType({"detection": 4, "segmentation": 8, "pose": 32})
COCO_SIDE = 480  #: the short side of most of COCO's pictures, which its detectors see at 800 pixels
VALIDATIONS = 12  #: about as many in a run
WARMUP_STEPS = 500  #: as in the published runs, where a run is long enough

_TUNING: Table = {
    "model": {"drop_path": 0.1},
    # For small batches as for large ones: each picture holds many regions or pixels, and AdamW's steps are of one size.
    "optimizer": {"lr": 1e-4, "decay": "all but norm", "clip_grad": 20.0},
    "schedule": {"min_lr": 1e-6, "per": "step"},
    "loop": {"max_bad_fraction": 0.1, "log_every": 10},
}
PRESETS = (
    Preset(
        "head",
        500,
        "the backbone stays as it is and its head learns: fewer than 500 pictures",
        merged(_TUNING, {"optimizer": {"lr": 2e-4, "freeze": ["backbone"]}}),
    ),
    Preset(
        "whole network",
        float("inf"),
        "everything learns: there are 500 pictures or more",
        merged(_TUNING, {"optimizer": {"layer_decay": 0.9}}),
    ),
)
LEAST_STEPS, LEAST_EPOCHS = 1500, 12


def usual_start(task: DenseTask, arch: Any = None) -> str:
    """What is started from where no checkpoint is named. Raises `InputError` where `arch` has another backbone."""
    start = STARTS[task]
    if isinstance(arch, str):
        asked_for, usual = get_config(arch), get_config(start.rpartition(".")[0])
        if (asked_for.depths, asked_for.dims) != (usual.depths, usual.dims):
            raise InputError(
                f"{arch}: expected --checkpoint, as the usual start, {start}, has another backbone; "
                "a recipe, a .toml file, needs none: random weights learn there"
            )
    return start


def own_dense_recipe(
    train_set: AnnotatedSet, contract: Contract, checkpoint: str, overrides: Sequence[str] = (), *, name: str = "own"
) -> tuple[Recipe, list[str]]:
    """The recipe for one's own annotated pictures, starting from `checkpoint` with its `contract`, and why it is so.

    Raises `InputError` where the checkpoint is of clips, and as `recipe_from`.
    """
    preset = next(preset for preset in PRESETS if len(train_set) < preset.below)
    arch, model = _network(train_set, contract, checkpoint, asked(overrides))
    fed, augment, reasons = _sizes(train_set, contract, get_config(arch))
    samples = samples_in(train_set)
    batch = max(min(BATCHES[train_set.task], max(samples // 4, 2), samples), 1)  # batch norms want two
    table = merged(
        preset.table,
        {
            "name": name, "arch": arch, "model": model, "input": fed, "augment": augment,
            "init": {"checkpoint": checkpoint},
            "batch_size": batch,
            "optimizer": {"lr_batch": batch},
            "data": {"workers": min(os.cpu_count() or 1, 8)},
            "keep": {"result": "best", "patience": 6},
        },
    )  # fmt: skip
    recipe = recipe_from(merged(table, _length(train_set, batch, overrides)), overrides)
    if "shortest" in section(asked(overrides), "input"):
        reasons = []  # of the sizes that would have been taken
    pictures = counted(len(train_set), "training picture")
    learns = (
        preset.reason
        if list(recipe.optimizer.freeze) == section(preset.table, "optimizer").get("freeze", [])
        else ("as asked, everything learns" + "".join(f" but {part}" for part in recipe.optimizer.freeze))
    )
    return recipe, [f"preset '{preset.name}' for {pictures}: {learns}", *reasons]


def _network(
    train_set: AnnotatedSet, contract: Contract, checkpoint: str, settings: Table
) -> tuple[str, dict[str, Any]]:
    """The architecture, and how the network differs from it."""
    config, task = contract.config, train_set.task
    if config.is_video:
        raise InputError(f"expected a checkpoint of pictures for {task}, got one of clips: {checkpoint}")
    classes = len(train_set.classes)
    named = settings.get("arch")
    told = config.head if config.task == task else None  # of another task the backbone is what helps
    head = section(settings, "model").get("head", told or HEADS[task])
    if isinstance(named, str) or head not in TASKS or TASKS[head] != task:
        arch = (
            named if isinstance(named, str) else f"{head}.uniformer_small"
        )  # such a head is unknown, says `get_config`
        if (found := get_config(arch).task) != task:
            raise InputError(f"{arch}: expected an architecture for {task}, got one for {found}")
        return arch, {"num_classes": classes}
    of_backbone = contract.arch.rpartition(".")[2]
    windows = ("_h14", "") if task == "detection" and config.output == "logits" else ("",)
    names = [f"{head}.{of_backbone}{ending}" for ending in windows]
    arch = next((name for name in names if name in VARIANTS), f"{head}.uniformer_small")
    usual = get_config(arch)
    if config.output == "logits":  # a classifier attends globally, whatever is good for larger pictures
        config = replace(config, window=usual.window, global_every=usual.global_every)
    own = replace(config, head=head, output="normed_maps", token_labeling=False, dropout=0.0, num_classes=classes)
    options, variant = {**asdict(own), "drop_path": 0.1}, asdict(usual)
    return arch, {key: value for key, value in options.items() if value != variant[key]}


def samples_in(data: AnnotatedSet) -> int:
    """About how many samples training makes of a set: people, or pictures with something in them."""
    found = data.instances
    if found.keypoints is not None:
        return int(found.learnt().sum())
    return len(data) if data.maps is not None else int((np.diff(found.offsets) > 0).sum())


def _length(train_set: AnnotatedSet, batch: int, overrides: Sequence[str]) -> Table:
    """Epochs, so many that a small set is seen often enough, with warmup and validations in proportion."""
    said = asked(overrides)
    given = said.get("batch_size", batch)
    steps = max(samples_in(train_set) // (given if type(given) is int and given > 0 else batch), 1)
    epochs = section(said, "schedule").get("epochs", max(LEAST_EPOCHS, -(-LEAST_STEPS // steps)))
    if type(epochs) is not int:  # what else it is, `recipe_from` says
        return {}
    warmup = max(min(WARMUP_STEPS, epochs * steps // 10), 1)
    return {
        "schedule": {"epochs": epochs, "warmup_steps": warmup, "warmup_epochs": 0.0},
        "loop": {"eval_every": max(epochs // VALIDATIONS, 1)},
    }


def _sizes(train_set: AnnotatedSet, contract: Contract, config: Config) -> tuple[Table, Table, list[str]]:
    """What the network is fed and how pictures are augmented, by the pictures' sizes; why."""
    spec = contract.input if contract.config.task == config.task else None
    if config.task == "pose":
        spec = spec if isinstance(spec, PersonCrop) else dense_input(config)
        return to_dict(spec), *_of_people(train_set)
    if not isinstance(spec, Scaling):
        spec = dense_input(config)
    assert isinstance(spec, Scaling)
    is_detector = config.task == "detection"
    short = float(np.median(train_set.sizes.min(1)))
    wanted = short * (spec.shortest / COCO_SIDE if is_detector and spec.shortest >= COCO_SIDE else 1)
    side = min(spec.shortest, max(-(-int(wanted) // 32), 1) * 32)
    longest = max(side * spec.longest // spec.shortest, side)
    fed = to_dict(replace(spec, shortest=side, longest=longest))
    said = [f"seen with short sides of up to {side} pixels: in the middle they have {short:g}"]
    if is_detector:
        sides = list(range(max(side * 6 // 10 // 32, 1) * 32, side + 1, 32))
        return fed, {"sides": sides, "longest": longest}, said
    return fed, {"shortest": side, "longest": longest, "crop": [side, side]}, said


def _of_people(train_set: AnnotatedSet) -> tuple[Table, list[str]]:
    """What of the augmentation these key points allow."""
    augment, said = Table(), list[str]()
    if not train_set.details.get("flip_pairs") and flip_sensitive(train_set.classes):
        augment["flip"] = 0.0
        said.append("augment.flip=0: key points name sides, and the data do not say which change places (flip_pairs)")
    if not set(train_set.classes) & set(UPPER_BODY):
        augment["half_body"] = 0.0
    return augment, said

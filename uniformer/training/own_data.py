"""Training on one's own data without a recipe: a preset by the number of samples, input from the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from uniformer.checkpoints.contract import Contract
from uniformer.config import to_dict
from uniformer.datasets.manifest import Manifest
from uniformer.errors import InputError, counted
from uniformer.network.variants import get_config
from uniformer.support.settings import Table, leaves, merged
from uniformer.training.recipe import Recipe, asked, recipe_from, section

UNEVEN = 5  # times as many samples in the largest class as in the smallest: then classes are drawn equally often
HELD_OUT = 0.2  # share of the samples for validation where the data has no such split
OF_FEATURES = (  # settings that a classifier on features heeds
    "arch", "batch_size", "data.balanced", "data.dataset", "data.label_base", "data.root", "data.separator", "data.val",
    "data.workers", "init.", "input.", "keep.metric", "loop.compile", "loop.eval_every", "loop.grad_checkpointing",
    "loop.log_every", "loop.max_bad_fraction", "model.", "name", "seed", "title",
)  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """What is trained, and how."""

    name: str
    below: float  #: for fewer training samples than this
    reason: str
    table: Table


_TUNING: Table = {
    "augment": {"rand_augment": "rand-m5-n2-mstd0.25", "scale": [0.25, 1.0]},
    "mixing": {"prob": 0.0},
    "optimizer": {"lr_rule": "batch", "lr_batch": 32, "clip_grad": 20.0},
    "schedule": {"min_lr": 1e-6, "per": "step"},
    "keep": {"result": "best", "patience": 6},
    "loop": {"max_bad_fraction": 0.1, "log_every": 10},
}

#: The rates of the last two follow the published runs that start from Kinetics: 1e-4 for a batch of 32.
PRESETS = (
    Preset(
        "classifier",
        500,
        "the network stays as it is and gets a new classifier, fitted to features that are computed once: "
        "a few hundred samples would not teach it better ones",
        merged(_TUNING, {"optimizer": {"freeze": ["backbone"]}, "schedule": {"epochs": 20, "warmup_epochs": 1}}),
    ),
    Preset(
        "last stage",
        5000,
        "the last stage and the classifier learn, the stages before stay as they are: fewer than 5000 samples",
        merged(
            _TUNING,
            {
                "optimizer": {"lr": 1e-4, "freeze": ["stages.0", "stages.1", "stages.2"]},
                "schedule": {"epochs": 20, "warmup_epochs": 1},
            },
        ),
    ),
    Preset(
        "whole network",
        float("inf"),
        "everything learns: there are 5000 samples or more",
        merged(
            _TUNING,
            {
                "mixing": {"prob": 1.0},
                "optimizer": {"lr": 1e-4, "layer_decay": 0.9},
                "schedule": {"epochs": 30, "warmup_epochs": 3},
            },
        ),
    ),
)


def preset_for(samples: int) -> Preset:
    return next(preset for preset in PRESETS if samples < preset.below)


def own_recipe(
    train_set: Manifest, contract: Contract, checkpoint: str, overrides: Sequence[str] = (), *, name: str = "own"
) -> tuple[Recipe, list[str]]:
    """The recipe for one's own data, starting from `checkpoint` with its `contract`, and why it is so, in sentences.

    Raises `InputError` where the checkpoint does not say what it is fed, takes the other kind of input, and as
    `recipe_from`.
    """
    if contract.input is None:
        raise InputError(f"{checkpoint} does not say what it is fed: expected a checkpoint of a classifier")
    if contract.config.is_video != (train_set.kind != "image"):
        kinds = {True: "clips", False: "images"}
        raise InputError(
            f"expected {kinds[contract.config.is_video]} for {checkpoint}, got {kinds[not contract.config.is_video]}"
        )
    preset = preset_for(len(train_set))
    counts = train_set.class_counts()
    counts = counts[counts > 0]
    is_uneven = not train_set.is_multi_label and counts.max() > UNEVEN * counts.min()
    facts = _facts(train_set, contract, checkpoint, name)
    table = merged(merged(preset.table, facts), {"data": {"balanced": bool(is_uneven)}})
    recipe = recipe_from(_in_proportion(table, overrides), overrides)
    samples = counted(len(train_set), "training sample")
    said = [f"preset '{preset.name}' for {samples}: {_what_learns(preset, recipe, overrides)}"]
    if is_uneven or recipe.data.balanced:
        how = "every class is drawn equally often" if recipe.data.balanced else "drawn as they are, as asked"
        said.append(f"classes have {counts.min()} to {counts.max()} samples: {how}")
    return recipe, said


def _in_proportion(table: Table, overrides: Sequence[str]) -> Table:
    """A preset with its warmup in proportion to the epochs asked for, where these are and it is not."""
    schedule = section(asked(overrides), "schedule")
    epochs = schedule.get("epochs")
    if type(epochs) is not int:  # what else it is, `recipe_from` says
        return table
    usual = table["schedule"]
    return merged(table, {"schedule": {"warmup_epochs": usual["warmup_epochs"] * epochs / usual["epochs"]}})


def _what_learns(preset: Preset, recipe: Recipe, overrides: Sequence[str]) -> str:
    """In words, as the recipe has it after the overrides."""
    if wants_features(recipe, overrides):
        return preset.reason
    frozen = recipe.optimizer.freeze
    if frozen == ("backbone",):
        return "by steps, as asked: a new classifier learns, the network before it stays as it is"
    if list(frozen) == preset.table["optimizer"].get("freeze", []):
        return preset.reason
    return "as asked, everything learns" + (f" but {', '.join(frozen)}" if frozen else "")


def _facts(train_set: Manifest, contract: Contract, checkpoint: str, name: str) -> Table:
    """What follows from data and checkpoint."""
    config, spec = contract.config, contract.input
    assert spec is not None
    arch = contract.arch or ("uniformer_small_video" if config.is_video else "uniformer_small")
    # Token labeling's second classifier would need label maps.
    options = {**asdict(config), "num_classes": len(train_set.classes), "drop_path": 0.1, "token_labeling": False}
    variant = asdict(get_config(arch))
    clip = config.is_video
    return {
        "name": name,
        "arch": arch,
        "model": {key: value for key, value in options.items() if value != variant[key]},
        "input": {**to_dict(spec), "clips": 1},  # one view for validation: several cost as many times the time
        "init": {"checkpoint": checkpoint},
        "batch_size": min(16 if clip else 64, max(len(train_set) // 4, 1)),
        "data": {"workers": min(os.cpu_count() or 1, 8)},
        "augment": {"interpolation": "bilinear" if clip else "bicubic"},
        "loss": {"kind": "bce" if train_set.is_multi_label else "two_head" if config.is_hourglass else "soft_target"},
        "keep": {"metric": "map" if train_set.is_multi_label else "top1"},
    }


def wants_features(recipe: Recipe, overrides: Sequence[str]) -> bool:
    """Whether a new classifier on features computed once does all that the recipe and the overrides ask for."""
    plain = recipe.loss.kind != "bce" and recipe.optimizer.freeze == ("backbone",)
    return plain and all(key.startswith(OF_FEATURES) for key, _ in leaves(asked(overrides)))


def with_validation(whole: Manifest) -> tuple[Manifest, Manifest, str]:
    """Training and validation parts of a set without splits, what was cut from one recording in one part; in words.

    Raises `InputError` where there is nothing to be held out.
    """
    from uniformer.datasets.prepare import split

    parts = split(whole, {"train": 1 - HELD_OUT, "val": HELD_OUT}, seed=0)
    train_set, val_set = parts["train"], parts["val"]
    there, held_out = (int((part.class_counts() > 0).sum()) for part in (whole, val_set))
    if not held_out:
        raise InputError(
            f"no validation split, and too little to hold a fifth out: expected several samples of a class, found "
            f"{len(whole)} of {there} classes: give more, or others for validation as data.val=..."
        )
    how = "recordings kept together" if whole.group is not None else "by class"
    said = f"no validation split: {len(val_set)} of {counted(len(whole), 'sample')} held out, {how}"
    return train_set, val_set, said + (f", of {held_out} of {there} classes" if held_out < there else "")

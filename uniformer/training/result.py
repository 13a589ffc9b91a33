"""What a run leaves behind: measures of its weights, and the weights with all that is needed to use them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.identify import name_of
from uniformer.checkpoints.save import save_checkpoint
from uniformer.tasks.scores import Scores
from uniformer.network.model import UniFormer
from uniformer.support.files import atomic_path
from uniformer.training.recipe import Recipe

RESULT, BEST, AVERAGE = "model.safetensors", "best.safetensors", "average.safetensors"  #: in a run's folder
MEASURES = ("top1", "top5", "mean_class", "map", "loss")


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    folder: Path
    scores: Mapping[str, float]  #: of the resulting weights, shares in 0..1; empty without validation
    stopped_by: int | None = None  #: the signal that ended it before its time


def measures(scores: Scores, prefix: str) -> dict[str, float]:
    """The measures that training goes by: "val_top1" for the prefix "val"; the loss is the mean -log p of the truth."""
    found = scores.metrics()
    if not scores.is_multi_label:
        chance = scores.true_probability()[scores.ok].astype(np.float64)
        found["loss"] = float(-np.log(chance.clip(1e-12)).mean()) if len(chance) else float("inf")
    return {f"{prefix}_{name}": found[name] for name in MEASURES if name in found}


def write_weights(
    path: str | os.PathLike[str],
    model: UniFormer,
    recipe: Recipe,
    classes: Sequence[str],
    scores: Mapping[str, float],
    note: str,
    *,
    whose: str = "val",
) -> None:
    """Save `model` with its contract; of `scores`, as `measures` names them, those with the prefix `whose`.

    Of another network than a UniFormer, which no contract can describe, the tensors alone.
    """
    if not isinstance(model, UniFormer):
        with atomic_path(path) as temporary:
            save_file(model.state_dict(), temporary)
        return
    mine = {k.removeprefix(f"{whose}_"): v for k, v in scores.items() if k.startswith(f"{whose}_")}
    contract = Contract(
        config=model.config,
        arch=name_of(model.config),
        input=recipe.input,
        classes=tuple(classes) if len(classes) == model.config.num_classes else (),
        dataset=recipe.data.dataset or "",
        scores={name: round(100 * value, 3) for name, value in mine.items() if name != "loss"},
        notes=(f"trained by the recipe {recipe.name}, {note}",),
    )
    save_checkpoint(model, path, contract)

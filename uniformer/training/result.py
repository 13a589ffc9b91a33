"""What a run leaves behind: measures of its weights, and the weights with all that is needed to use them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from uniformer.checkpoints.identify import name_of
from uniformer.checkpoints.save import save_checkpoint
from uniformer.network.model import UniFormer
from uniformer.support.files import atomic_path
from uniformer.tasks.task import Task

RESULT, BEST, AVERAGE = "model.safetensors", "best.safetensors", "average.safetensors"  #: in a run's folder


@dataclass(frozen=True)
class TrainingResult:
    """What came of a run."""

    folder: Path
    metrics: Mapping[str, float] = field(default_factory=dict)  #: of the resulting weights; empty without validation
    stopped_by: int | None = None  #: the signal that ended it before its time

    @property
    def paths(self) -> dict[str, Path]:
        """The files of the run that are there, by name: model, best, average, metrics, recipe, state, unreadable."""
        files = {
            "model": RESULT, "best": BEST, "average": AVERAGE,
            "metrics": "metrics.csv", "recipe": "recipe.toml", "state": "state.pt", "unreadable": "unreadable.csv",
        }  # fmt: skip
        return {name: self.folder / file for name, file in files.items() if (self.folder / file).exists()}

    def to_dict(self) -> dict[str, Any]:
        paths = {name: str(path) for name, path in self.paths.items()}
        return {"metrics": dict(self.metrics), "paths": paths, "stopped_by": self.stopped_by}


def write_weights(
    path: str | os.PathLike[str],
    model: Any,
    task: Task,
    scores: Mapping[str, float],
    note: str,
    *,
    whose: str = "val",
) -> None:
    """Save `model` with its task's contract; of `scores`, those with the prefix `whose`, shares as per cents.

    Of another network than a UniFormer, which no contract can describe, the tensors alone.
    """
    if not isinstance(model, UniFormer):
        with atomic_path(path) as temporary:
            save_file(model.state_dict(), temporary)
        return
    mine = {k.removeprefix(f"{whose}_"): v for k, v in scores.items() if k.startswith(f"{whose}_")}
    contract = replace(
        task.contract,
        config=model.config,
        arch=name_of(model.config),
        scores={name: round(100 * value, 3) for name, value in mine.items() if name != "loss"},
        notes=(note,),
    )
    save_checkpoint(model, path, contract)

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
from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.layouts import CLASSES_FILE
from uniformer.datasets.prepare import write_list
from uniformer.evaluation.run import Evaluation
from uniformer.heads.pyramid import DenseNetwork
from uniformer.network.model import UniFormer
from uniformer.reports.measures import figures
from uniformer.reports.training import CURVES, PAGE
from uniformer.support.files import atomic_path, write_whole
from uniformer.tasks.task import Task
from uniformer.training.log import METRICS, UNREADABLE
from uniformer.training.recipe import Recipe, resolved
from uniformer.training.samples import DataSet

#: In a run's folder. The last two are folders: lists of what was learnt from and validated on; how the result did.
RESULT, BEST, AVERAGE = "model.safetensors", "best.safetensors", "average.safetensors"
RECIPE, SPLIT, REPORT = "recipe.toml", "split", "held-out"
WRITTEN = (
    RESULT, BEST, AVERAGE, RECIPE, METRICS, CURVES, PAGE, UNREADABLE,
    f"{SPLIT}/train.csv", f"{SPLIT}/val.csv", f"{SPLIT}/{CLASSES_FILE}", f"{SPLIT}/train.txt", f"{SPLIT}/val.txt",
)  # fmt: skip


def rank(scores: Mapping[str, float], metric: str) -> tuple[float, float]:
    """By which one of several validations is the best, in every preset and recipe: the first of the highest rank.

    First by `metric`, which is high in the best (the loss is low), then by the loss.
    """
    value = scores[f"val_{metric}"]
    return -value if metric == "loss" else value, -scores.get("val_loss", 0.0)


@dataclass(frozen=True)
class TrainingResult:
    """What came of a run."""

    folder: Path
    metrics: Mapping[str, float] = field(default_factory=dict)  #: of the resulting weights; empty without validation
    stopped_by: int | None = None  #: the signal that ended it before its time

    @property
    def paths(self) -> dict[str, Path]:
        """What is there, by name: model, best, average, metrics, curves, page, recipe, state, unreadable, split,
        report."""
        files = {
            "model": RESULT, "best": BEST, "average": AVERAGE,
            "metrics": METRICS, "curves": CURVES, "page": PAGE, "recipe": RECIPE, "state": "state.pt",
            "unreadable": UNREADABLE, "split": SPLIT, "report": f"{REPORT}/report.html",
        }  # fmt: skip
        return {name: self.folder / file for name, file in files.items() if (self.folder / file).exists()}

    def to_dict(self) -> dict[str, Any]:
        paths = {name: str(path) for name, path in self.paths.items()}
        return {"metrics": dict(self.metrics), "paths": paths, "stopped_by": self.stopped_by}


def write_origin(out: Path, recipe: Recipe, sets: tuple[DataSet, DataSet | None] | None) -> None:
    """What a run came from, where it is not written yet: its recipe, and `sets` as lists that `open_dataset` reads; of
    annotated pictures, as the paths of these."""
    if not (out / RECIPE).exists():
        write_whole(out / RECIPE, resolved(recipe))
    for name, part in zip(("train", "val"), sets or (), strict=False):
        if part is None:
            continue
        if isinstance(part, AnnotatedSet):
            if not (path := out / SPLIT / f"{name}.txt").exists():
                write_whole(path, "".join(f"{part.path(row)}\n" for row in range(len(part))), "surrogateescape")
        elif not (path := out / SPLIT / f"{name}.csv").exists():
            write_list(part, path)


def in_short(found: Evaluation) -> str:
    """An evaluation's figures and where its page is, in a line."""
    said = [", ".join(f"{name} {value}" for name, value in figures(found.metrics)), *found.about.notes]
    return "; ".join([*said, *(str(found.paths[name]) for name in ("report",) if name in found.paths)])


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

    Of another network than ours, which no contract can describe, the tensors alone.
    """
    if not isinstance(model, UniFormer | DenseNetwork):
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

"""A second task for the seam: one number per clip or picture, such as how red it is. All that it needs is here.

The names of the data set's classes are the numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import uniformer
from uniformer.datasets.manifest import Manifest
from uniformer.errors import InputError
from uniformer.network.model import UniFormer
from uniformer.reading.views import Views
from uniformer.support.files import atomic_path
from uniformer.tasks.objective import Objective, Samples
from uniformer.tasks.options import TargetOptions
from uniformer.tasks.task import Metric, Outputs, Result, Task


@dataclass(frozen=True, kw_only=True)
class Number(Result):
    value: float

    def answer(self) -> dict[str, Any]:
        return {"value": round(self.value, 6)}


@dataclass(frozen=True)
class NumberScores:
    """Numbers said and true of N items."""

    said: npt.NDArray[np.float64]  #: (N,)
    true: npt.NDArray[np.float64]  #: (N,)
    ok: npt.NDArray[np.bool_]
    paths: tuple[str, ...]
    errors: Mapping[int, str] = field(default_factory=dict)

    def metrics(self, missing: str = "error") -> dict[str, float]:
        off = (self.said - self.true)[self.ok]
        return {"items": float(len(self.ok)), "failed": float((~self.ok).sum()), "loss": float((off**2).mean())}

    def facts(self) -> dict[str, Any]:
        return {"largest error": float(np.abs(self.said - self.true)[self.ok].max())}

    def save(self, path: str | os.PathLike[str]) -> None:
        with atomic_path(path) as temporary, open(temporary, "wb") as f:
            np.savez(f, said=self.said, true=self.true, ok=self.ok)


class NumberMetric(Metric):
    measures = ("loss",)
    dtype = np.dtype([("item", "<i8"), ("said", "<f8")])

    def __init__(self, manifest: Manifest):
        self.manifest, self.notes = manifest, []
        self._true = np.array([float(name) for name in manifest.classes])[manifest.labels]

    def row(self, item: int, answer: Outputs) -> npt.NDArray[Any]:
        return np.array((item, answer[0].mean()), self.dtype)

    def result(self, rows: npt.NDArray[Any], errors: Mapping[int, str]) -> NumberScores:
        said, ok = np.zeros(len(self._true)), np.zeros(len(self._true), bool)
        said[rows["item"]], ok[rows["item"]] = rows["said"], True
        return NumberScores(said, self._true, ok, self.manifest.item_names(), dict(errors))

    def summary(self, scores: NumberScores) -> dict[str, float]:
        return {"loss": scores.metrics()["loss"]}


class NumberObjective(Objective):
    """The squared error."""

    def __init__(self, model: UniFormer, numbers: Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("numbers", numbers)

    def targets(self, batch: Samples, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        return batch.x, self.get_buffer("numbers")[batch.labels]

    def forward(self, x: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        return {"squared error": (self.model(x)[:, 0] - numbers).square().mean()}


class Redness(Task):
    name = "number"
    result = Number
    measures = ("loss",)

    def build(self) -> UniFormer:
        return UniFormer(self.contract.config)

    def targets_and_loss(
        self, options: TargetOptions, train_set: Manifest, val_set: Manifest | None
    ) -> Callable[[Any], Objective]:
        try:
            numbers = torch.tensor([float(name) for name in train_set.classes])
        except ValueError as error:
            raise InputError(f"expected numbers for the names of classes, got {error}") from None
        return lambda model: NumberObjective(model, numbers)

    def decode(self, outputs: Outputs, views: Views, top_k: int) -> Number:
        return Number(value=float(outputs[0].mean()))

    def metric(self, manifest: Manifest, *, label_order: str = "numbers") -> NumberMetric:
        return NumberMetric(manifest)


# ---- in processes ----------------------------------------------------------------------------------------------------


def train(recipe: Path, out: Path) -> None:
    uniformer.train(recipe, out=out, device="cpu", task=Redness)


def evaluate(net: Path, data: Path, out: Path) -> None:
    found = uniformer.evaluate(net, data, out=out, device="cpu", workers=1, task=Redness)
    if found.is_main:
        Path(out, "found.json").write_text(json.dumps(found.metrics))

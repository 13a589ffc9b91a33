"""The parts of a recipe that every task has: where weights start, data, optimizer, schedule, averages, what is kept.

No torch here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from uniformer.errors import Checked

MOST_WORKERS = 1024  # of one training process
Decay = Literal["matrices", "all but norm", "all"]


@dataclass(frozen=True)
class Init:
    """Where the weights start."""

    checkpoint: str | None = None  #: id of a published checkpoint or a path; none is from scratch
    inflate: Literal["mean", "center"] = "mean"  #: image kernels into clips'; the published video runs took the mean


@dataclass(frozen=True)
class Data(Checked):
    """What is learnt from. Lists and folders are relative to `root` unless absolute."""

    dataset: str | None = None  #: of the published runs, as in the records; it names the classes
    root: str | None = None  #: folder of the pictures, videos or folders of frames
    train: str | None = None  #: list file, manifest or folder of class folders
    val: str | None = None
    separator: str = "auto"  #: between the fields of a line of the lists
    label_base: int = 0  #: the first label, of lists that count from 1
    label_maps: str | None = None  #: folder of dense label maps, for token labeling
    repeated_augmentation: int = 1  #: draws of each sample in a row, over all processes; an epoch keeps its length
    balanced: bool = False  #: draw every class equally often, small ones several times over
    workers: int = 8  #: loading processes for each training process

    def _problems(self) -> Iterable[str]:
        if self.repeated_augmentation < 1:
            yield f"expected data.repeated_augmentation of 1 or more, got {self.repeated_augmentation}"
        if not 0 <= self.workers <= MOST_WORKERS:
            yield f"expected data.workers of 0 or more, up to {MOST_WORKERS}, got {self.workers}"


@dataclass(frozen=True)
class Optimizer(Checked):
    """How weights learn; which of them decay says `decay`, and `optim.decays` in detail."""

    name: Literal["adamw", "muon"] = "adamw"  #: muon: `training.muon`, at AdamW's rates or several times that
    lr: float = 1e-3  #: as written; `effective_lr` makes of it what the optimizer sees
    lr_batch: int = 1024  #: the batch that `lr` is meant for
    lr_rule: Literal["none", "batch", "nodes"] = "none"  #: nothing, times batch_size / lr_batch, times machines
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.05
    decay: Decay = "matrices"  #: what decays; matrices: no biases, and nothing one-dimensional
    clip_grad: float | None = None  #: largest global norm of the gradient
    layer_decay: float | None = None  #: factor on the learning rate from each block to the one before it
    accumulate: int = 1  #: backward passes for one step; they share `batch_size`
    freeze: tuple[str, ...] = ()  #: parts that stay as they are, such as "backbone", "heads" or "stages.0"

    def _problems(self) -> Iterable[str]:
        for name in ("lr", "lr_batch", "eps", "clip_grad", "layer_decay", "accumulate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                yield f"expected a positive optimizer.{name}, got {value}"
        if not all(0 <= beta < 1 for beta in self.betas):
            yield f"expected optimizer.betas in [0, 1), got {self.betas}"
        if not 0 <= self.weight_decay < math.inf:
            yield f"expected optimizer.weight_decay of 0 or more, got {self.weight_decay}"


@dataclass(frozen=True)
class Schedule(Checked):
    """The learning rate over time: linear warmup, then the curve, then `cooldown_epochs` at its last value.

    Warmup is counted in epochs and comes before the curve; or in steps, and the curve, which runs from the start, is
    multiplied by a factor that rises to 1, as in the dense tasks' published runs.
    """

    epochs: int = 300  #: with warmup, without cooldown; of no account where `iterations` are given
    iterations: int | None = None  #: steps of the whole run, in the place of epochs
    warmup_epochs: float = 5.0
    warmup_lr: float = 1e-6  #: where warmup starts
    warmup_steps: int = 0  #: in the place of both: steps of warmup
    warmup_factor: float = 0.001  #: on the rate, where that starts
    kind: Literal["cosine", "constant", "step", "poly"] = "cosine"
    min_lr: float = 1e-5  #: where cosine and poly end
    steps: tuple[int, ...] = ()  #: kind "step": epochs after which the rate is multiplied by `factor`
    factor: float = 0.1
    power: float = 1.0  #: kind "poly": of the share of the run that is left; 1 is a straight line
    per: Literal["step", "epoch"] = "epoch"  #: when the rate changes, see `optim.learning_rate`
    late: bool = False  #: one epoch late throughout: the plain image code tells its scheduler the epoch just finished
    cooldown_epochs: int = 0

    def _problems(self) -> Iterable[str]:
        if self.epochs < 1:
            yield f"expected schedule.epochs of 1 or more, got {self.epochs}"
        if not 0 <= self.warmup_epochs < self.epochs:
            yield f"expected schedule.warmup_epochs below the {self.epochs} epochs, got {self.warmup_epochs}"
        if self.iterations is not None and (self.iterations < 1 or self.cooldown_epochs or self.warmup_epochs):
            yield (
                "expected schedule.iterations of 1 or more, without warmup_epochs and cooldown_epochs, got "
                f"{self.iterations}, {self.warmup_epochs:g} and {self.cooldown_epochs}"
            )
        if self.warmup_steps < 0 or (self.warmup_steps and self.warmup_epochs):
            yield (
                "expected schedule.warmup_steps of 0 or more, and one of warmup_steps and warmup_epochs, got "
                f"{self.warmup_steps} and {self.warmup_epochs:g}"
            )
        if not 0 < self.warmup_factor <= 1 or not 0 < self.factor <= 1:
            yield (
                f"expected schedule.warmup_factor and schedule.factor in (0, 1], got {self.warmup_factor} and "
                f"{self.factor}"
            )
        is_rising = all(0 <= a < b for a, b in itertools.pairwise((0, *self.steps)))
        if (self.kind == "step") != bool(self.steps) or not is_rising:
            yield (
                "expected schedule.steps, rising epochs, for schedule.kind 'step' and for no other, got "
                f"{list(self.steps)} for {self.kind!r}"
            )
        if not 0 < self.power < math.inf:
            yield f"expected a positive schedule.power, got {self.power}"
        for name in ("warmup_lr", "min_lr", "cooldown_epochs"):
            if not 0 <= getattr(self, name) < math.inf:
                yield f"expected schedule.{name} of 0 or more, got {getattr(self, name)}"


@dataclass(frozen=True)
class Ema(Checked):
    """A moving average of the weights, kept beside them."""

    decay: float | None = None  #: none keeps no average
    evaluate: bool = False  #: whether the average is validated too

    def _problems(self) -> Iterable[str]:
        if self.decay is not None and not 0 < self.decay < 1:
            yield f"expected ema.decay in (0, 1), got {self.decay}"
        if self.evaluate and self.decay is None:
            yield "ema.evaluate needs an ema.decay"


@dataclass(frozen=True)
class Keep(Checked):
    """Which weights are the result of a run."""

    result: Literal["last", "best"] = "last"
    metric: str = "top1"  #: by which an epoch is the best: a measure of the task, see `recipe.METRICS`
    every: int = 1  #: epochs between two states to go on from
    every_steps: int | None = None  #: steps between two of them within an epoch
    patience: int | None = None  #: validations without a better one after which the run ends

    def _problems(self) -> Iterable[str]:
        if self.every < 1:
            yield f"expected keep.every of 1 or more epochs, got {self.every}"
        for name in ("every_steps", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"expected keep.{name} of 1 or more, got {value}"


@dataclass(frozen=True)
class Loop(Checked):
    """How the run goes about it; none of this changes what is learnt, up to rounding."""

    eval_every: int = 1  #: epochs between two validations; the last epoch is always validated
    log_every: int = 50  #: steps
    tensorboard: bool = False  #: write its logs too
    max_bad_fraction: float = 0.01  #: of the samples of an epoch that may be unreadable before the run stops
    compile: bool = False
    grad_checkpointing: bool = False  #: recompute activations in the backward pass: less memory, more time

    def _problems(self) -> Iterable[str]:
        for name in ("eval_every", "log_every"):
            if getattr(self, name) < 1:
                yield f"expected loop.{name} of 1 or more, got {getattr(self, name)}"
        if not 0 <= self.max_bad_fraction <= 1:
            yield f"expected loop.max_bad_fraction in [0, 1], got {self.max_bad_fraction}"

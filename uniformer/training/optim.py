"""What the optimizer is told: which parameters decay, which learn how fast, which stand still; rates over time; EMA."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from uniformer.checkpoints.keys import reference_key
from uniformer.config import did_you_mean
from uniformer.errors import InputError
from uniformer.heads.keys import BACKBONE
from uniformer.heads.pyramid import DenseNetwork
from uniformer.network.description import layer_of
from uniformer.network.model import UniFormer
from uniformer.training.muon import Muon
from uniformer.training.recipe import EffectiveLR
from uniformer.training.sections import Decay, Optimizer, Schedule

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

HEADS = ("head", "cls_head", "aux_head")  # of a classifier: "backbone" is everything else
PARTS = ("backbone", "heads")  # of every network

Network = UniFormer | DenseNetwork


def is_head(name: str, model: nn.Module) -> bool:
    """Whether a parameter is of the classifiers, or of what a dense network has over its backbone."""
    return not name.startswith(BACKBONE) if isinstance(model, DenseNetwork) else name.split(".")[0] in HEADS


# --- parameters --------------------------------------------------------------------------------------


def decays(name: str, parameter: nn.Parameter, rule: Decay = "matrices") -> bool:
    """Whether weight decay works on a parameter, by one of the rules of the published runs.

    matrices: no biases, and nothing one-dimensional. All else does decay, also the depthwise position embeddings and
    the class token of the light models (the published runs wanted to spare both, but their lists matched no name). A
    layer scale is one-dimensional here and never decays; in the published runs those of local blocks, of shape
    (1, C, 1, 1), did, by accident of the shape.

    all but norm: what the reference does not call "norm". So biases decay, and so do the batch norms of heads and of
    the light models' stem, which have no such names there.
    """
    if rule == "all":
        return True
    if rule == "all but norm":
        theirs = reference_key(name.removeprefix(BACKBONE)) if name.startswith(BACKBONE) else name
        return "norm" not in (theirs or name)
    return parameter.ndim > 1 and not name.endswith(".bias")


def parameter_groups(
    model: Network,
    *,
    weight_decay: float,
    lr: float,
    layer_decay: float | None = None,
    matrices: bool = False,
    decay: Decay = "matrices",
) -> list[dict[str, Any]]:
    """Groups for an optimizer ("params", "weight_decay", "lr", "lr_scale"), always in the same order, none frozen.

    Which parameters decay says `decays`, by the rule `decay`. With `layer_decay`, a layer learns at `layer_decay` times
    the rate of the next one; see `layer_of`; a head over a backbone is one layer. "lr_scale" is that factor, for
    `set_learning_rate`. With `matrices`, the weights that mix channels are in groups of their own, in
    which "matrix" is True: linear layers, pointwise convolutions and patch embeddings, but no classifier.

    Raises `InputError` when nothing is left to train, or `layer_decay` is not in (0, 1].
    """
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise InputError(f"expected layer_decay in (0, 1], got {layer_decay}")
    last = sum(model.config.depths) + 1
    groups: dict[tuple[int, bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        does_decay = decays(name, parameter, decay)
        layer = last if layer_decay is None else layer_of(name.removeprefix(BACKBONE), model.config.depths)
        scale = 1.0 if layer_decay is None else layer_decay ** (last - layer)
        new = {"params": [], "weight_decay": weight_decay if does_decay else 0.0, "lr": lr * scale, "lr_scale": scale}
        is_matrix = parameter.ndim > 1 and not name.endswith(".bias") and min(parameter.shape[:2]) > 1
        if matrix := matrices and is_matrix and not is_head(name, model):
            new["matrix"] = True
        groups.setdefault((layer, does_decay, matrix), new)["params"].append(parameter)
    if not groups:
        raise InputError("expected a parameter to train, but all of them are frozen")
    return [groups[key] for key in sorted(groups)]


def adamw(
    groups: Iterable[dict[str, Any]], *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> torch.optim.AdamW:
    """torch's AdamW over `parameter_groups`, in one fused kernel where the parameters are on a GPU."""
    groups = list(groups)
    fused = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=fused or None)


def make_optimizer(model: Network, options: Optimizer, lr: float) -> torch.optim.Optimizer:
    """The optimizer that a recipe asks for, over all parameters that are not frozen."""
    by_muon = options.name == "muon"
    groups = parameter_groups(
        model,
        weight_decay=options.weight_decay, lr=lr, layer_decay=options.layer_decay, matrices=by_muon,
        decay=options.decay,
    )  # fmt: skip
    return (Muon if by_muon else adamw)(groups, betas=options.betas, eps=options.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share ("lr_scale") of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


# --- freezing ----------------------------------------------------------------------------------------


def freeze(model: Network, parts: Iterable[str]) -> None:
    """Take parts out of training: "backbone" (all but the classifiers, or what is under a head), "heads" (the rest), or
    names of modules such as "stages.0".

    Train the rest after `train_mode(model)`, not `model.train()`: that would let frozen batch norms keep counting.
    Raises `InputError` for a part that the model does not have.
    """
    names = [name for name, _ in model.named_modules() if name] + [name for name, _ in model.named_parameters()]
    for part in parts:
        if part not in (*PARTS, *names):
            raise InputError(f"unknown part {part!r} to freeze{did_you_mean(part, [*PARTS, *names])}")
        for name, parameter in model.named_parameters():
            in_part = is_head(name, model) == (part == "heads") if part in PARTS else f"{name}.".startswith(f"{part}.")
            if in_part:
                parameter.requires_grad_(False)


def train_mode(model: nn.Module) -> None:
    """`model.train()`, but modules that have parameters and none to train stay in evaluation mode.

    So frozen batch norms keep their statistics, and frozen blocks drop no path.
    """
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


# --- learning rates over time ------------------------------------------------------------------------


def learning_rate(epoch: float, rates: EffectiveLR, schedule: Schedule, *, steps: int | None = None) -> float:
    """The rate at `epoch`, which counts epochs done from 0, with a fraction: epoch + step / steps of an epoch.

    Linear warmup from `rates.warmup_lr` to `rates.lr`, then half a cosine down to `rates.min_lr`, which is also the
    rate of the cooldown epochs; or `rates.lr` on where the schedule is constant, a fraction of it after each of
    `schedule.steps`, or down to `rates.min_lr` by a power of what is left.

    `steps` of an epoch are needed where the schedule counts steps. Its warmup multiplies the curve then, which has been
    running since the start (`LrUpdaterHook` of mmcv).

    Per step (video runs, `lr_policy` of SlowFast) the cosine begins where the warmup ends. Per epoch (image runs,
    `CosineLRScheduler` of timm) the fraction does not count, and the cosine has been running since epoch 0, so that the
    rate after the warmup is a little below `rates.lr`. A late schedule gives each epoch the rate of the one before, so
    that the first two are alike.
    """
    if schedule.warmup_steps or schedule.iterations is not None:
        if steps is None:
            raise InputError("expected the steps of an epoch for a schedule that counts steps, got none")
        share = min(round(epoch * steps) / schedule.warmup_steps, 1.0) if schedule.warmup_steps else 1.0
        factor = schedule.warmup_factor + (1 - schedule.warmup_factor) * share
        epochs = schedule.epochs if schedule.iterations is None else schedule.iterations / steps
        return factor * _curve(epoch, epochs, rates, schedule)
    return _curve(epoch, schedule.epochs, rates, schedule)


def _curve(epoch: float, epochs: float, rates: EffectiveLR, schedule: Schedule) -> float:
    """The rate of a schedule of `epochs` that does not count steps."""
    if schedule.per == "epoch":
        epoch = math.floor(epoch)
    if schedule.late:
        epoch = max(epoch - 1, 0)
    if epoch < schedule.warmup_epochs:
        return rates.warmup_lr + (rates.lr - rates.warmup_lr) * epoch / schedule.warmup_epochs
    if schedule.kind == "constant":
        return rates.lr
    if schedule.kind == "step":
        return rates.lr * schedule.factor ** sum(epoch >= step for step in schedule.steps)
    if epoch >= epochs:
        return rates.min_lr
    start = schedule.warmup_epochs if schedule.per == "step" else 0
    done = (epoch - start) / (epochs - start)
    if schedule.kind == "poly":
        return rates.min_lr + (rates.lr - rates.min_lr) * (1 - done) ** schedule.power
    return rates.min_lr + (rates.lr - rates.min_lr) * 0.5 * (1 + math.cos(math.pi * done))


# --- averages of the weights -------------------------------------------------------------------------


def moving_average(model: nn.Module, decay: float) -> ModelEmaV3:
    """An exponential moving average of weights and statistics, after each step `decay * average + (1 - decay) * model`.

    `average.update(model)` after each step, `average.module` to evaluate or save; `state_dict()` and
    `load_state_dict()` carry it through a checkpoint. Give it the model itself, without wrappers.
    """
    from timm.utils import ModelEmaV3

    average = ModelEmaV3(model, decay=decay)
    average.requires_grad_(False)
    return average

"""One step of training: mixing, loss, gradients over passes and processes, the optimizer, the average; and what to do
when a number is not finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from uniformer.errors import InputError
from uniformer.support.distributed import DTYPES, ProcessGroup
from uniformer.tasks.task import Task
from uniformer.training.batches import MIXING, NETWORK, AnyBatch, B, Plan, Samples, rng_at
from uniformer.training.diagnosis import first_bad_layer, last_bad_gradient
from uniformer.training.log import Log
from uniformer.training.optim import learning_rate, set_learning_rate
from uniformer.training.recipe import EffectiveLR, Recipe
from uniformer.training.samples import DataSet
from uniformer.training.state import Learner


@dataclass(frozen=True)
class Run:
    """What does not change in a run, and the `learner` that does."""

    recipe: Recipe
    task: Task
    group: ProcessGroup
    out: Path
    log: Log
    train: DataSet
    samples: Samples[Any]
    plan: Plan
    val: DataSet | None
    rates: EffectiveLR
    learner: Learner

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.plan.total


class Step(NamedTuple):
    """What one step of the optimizer came to, over all processes."""

    loss: float
    norm: float  #: of the gradient, before clipping
    rate: float
    took_effect: bool
    stop: bool  #: some process was sent a signal
    stood_in: int  #: samples whose files cannot be read


def train_step(run: Run, passes: list[AnyBatch], stop: bool) -> Step:
    """One step of the optimizer. Without effect where the loss or the gradient is not finite in any process."""
    learner, recipe, progress = run.learner, run.recipe, run.learner.progress
    place = progress.step // run.plan.steps + progress.step % run.plan.steps / run.plan.steps
    rate = progress.rate_factor * learning_rate(place, run.rates, recipe.schedule, steps=run.plan.steps)
    set_learning_rate(learner.optimizer, rate)
    buffers = [b.clone() for b in learner.model.buffers()]
    try:
        loss = backward(run, passes)
    except torch.OutOfMemoryError:
        raise InputError(
            f"out of memory with {len(passes[0].x)} views in one pass: set a smaller batch_size, "
            "optimizer.accumulate=2 or more, or loop.grad_checkpointing=true"
        ) from None
    learner.scaler.unscale_(learner.optimizer)
    trained = [p for p in learner.model.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in trained if p.grad is not None])
    stood_in = sum(batch.stood_in for batch in passes)
    loss_sum, norm_sum, stops, stood_in_sum = run.group.all_reduce([loss, float(norm), stop, stood_in])

    took_effect = math.isfinite(loss_sum) and math.isfinite(norm_sum)
    if took_effect:
        if recipe.optimizer.clip_grad is not None:
            clip_grads_with_norm_(trained, recipe.optimizer.clip_grad, norm)
        learner.scaler.step(learner.optimizer)
        if learner.ema is not None:
            learner.ema.update(learner.model)
        progress.loss_sum += loss_sum / run.group.size
        progress.loss_count += 1
        progress.in_a_row = 0
    else:
        restore_buffers(learner.model, buffers)
    learner.scaler.update()
    size = run.group.size
    return Step(loss_sum / size, norm_sum / size, rate, took_effect, stops > 0, int(stood_in_sum))


def backward(run: Run, passes: list[AnyBatch]) -> float:
    """Gradients of the mean loss over the passes; the loss of this process."""
    learner, module = run.learner, run.learner.step_module
    learner.optimizer.zero_grad()
    whole = torch.zeros((), device=run.group.device)
    for number, batch in enumerate(passes):
        waits = isinstance(module, DistributedDataParallel) and number < len(passes) - 1
        with module.no_sync() if waits else nullcontext():  # type: ignore[operator]
            with lower_precision(run):
                loss = total(module(*targets_of(run, batch, number))) / len(passes)
            with quiet_strides():
                learner.scaler.scale(loss).backward()
        whole += loss.detach()
    return whole.item()


@contextmanager
def quiet_strides() -> Iterator[None]:
    """DistributedDataParallel warns of strides also along axes of length one, as depthwise kernels have them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        yield


def total(losses: dict[str, Tensor]) -> Tensor:
    """What a step minimises: the sum of a task's losses."""
    return reduce(torch.add, losses.values())


def targets_of(run: Run, batch: AnyBatch, number: int) -> tuple[Any, ...]:
    """What the network is shown in pass `number` of the present step; seeds its drop path and dropout."""
    place = (run.learner.progress.step, number)
    own = rng_at(run.recipe.seed, NETWORK, *place, run.group.rank)
    torch.manual_seed(int(own.integers(2**63)))
    return run.learner.objective.targets(moved(batch, run.group), rng_at(run.recipe.seed, MIXING, *place))


def lower_precision(run: Run) -> torch.autocast:
    dtype = DTYPES[run.recipe.precision]
    return torch.autocast(run.group.device.type, dtype, enabled=dtype != torch.float32)


def moved(batch: B, group: ProcessGroup) -> B:
    """Its tensors on this process's device; a copy from pinned memory does not wait."""
    return batch.moved(lambda part: part.to(group.device, non_blocking=True))


def restore_buffers(model: nn.Module, buffers: list[Tensor]) -> None:
    """The statistics of batch norms as they were: one bad batch would spoil them for good."""
    for buffer, old in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(old)


def find_non_finite(run: Run, passes: list[AnyBatch]) -> str:
    """Where a number of the present step is first not finite, in any process; its gradients must still be there."""
    learner = run.learner
    buffers = [b.clone() for b in learner.model.buffers()]
    each = []
    for number, batch in enumerate(passes):  # all of them: batch norms that share statistics wait for one another
        with lower_precision(run):
            each.append(first_bad_layer(learner.objective, targets_of(run, batch, number)))
    found = next(filter(None, each), None)
    restore_buffers(learner.model, buffers)
    if found is None and (name := last_bad_gradient(learner.model)):
        found = f"the gradient of {name}"
    by_rank = enumerate(run.group.all_gather(found))
    return ", ".join(f"{name} (process {rank})" if run.group.size > 1 else name for rank, name in by_rank if name)

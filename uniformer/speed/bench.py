"""How fast each form of a network is on this machine, against each other and against the machine's own arithmetic."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from uniformer.errors import InputError
from uniformer.network.macs import count_macs
from uniformer.network.model import UniFormer
from uniformer.speed.forms import forward_views, inference_form, optimize
from uniformer.speed.products import fastest, product
from uniformer.speed.runtimes import TARGETS
from uniformer.speed.timings import INT8, RUNTIMES, Compute, in_turn
from uniformer.speed.tuning import measure_depthwise
from uniformer.support.distributed import DTYPES

REFERENCE: Compute = "plain"  # what the others are measured against
SIDE = 2048  # of the square matrices whose product gives the floor
TOLERANCE = 1e-4  # in float32, of the largest logit


@dataclass(frozen=True)
class Timing:
    """The seconds that one form took for a batch, and how far its logits are from the plain network's."""

    form: str
    seconds: tuple[float, ...]  #: one a round
    off: float  #: of the largest logit

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Benchmark:
    """Every form in turn, round after round, so that a slow minute of the machine falls on all alike."""

    timings: tuple[Timing, ...]  #: the plain network first
    macs: int  #: multiply-adds of a batch
    product: tuple[float, ...]  #: seconds of one product of two SIDE x SIDE matrices, one a round

    @property
    def macs_per_second(self) -> float:
        """Of this machine's own matrix products."""
        return SIDE**3 / statistics.median(self.product)

    @property
    def floor(self) -> float:
        """The seconds that a batch's multiply-adds would take at that rate."""
        return self.macs / self.macs_per_second


def measure(
    model: UniFormer,
    size: Sequence[int],
    forms: Sequence[Compute],
    *,
    batch: int = 1,
    rounds: int = 10,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    keep: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Benchmark:
    """Time a classifier for batches of views of `size`, (3, [T,] H, W): the plain network, and the forms asked for.

    The model is taken over: made float32, moved, put into evaluation mode. `keep` leaves the networks exported for a
    runtime in the cache folder. `say` is told what takes long. On a GPU the implementations of the depthwise
    convolutions are measured first, for inference and for training, and remembered.
    Raises `InputError` where a form's logits are not the plain network's, `MissingExtra` without its packages.
    """
    device, dtype = torch.device(device), DTYPES[precision]
    model = model.float().to(device).eval()
    if device.type == "cuda":
        measure_depthwise(model.config, size, batch=batch, device=device, dtype=dtype, say=say)
    x = torch.randn(batch, *size, generator=torch.Generator().manual_seed(0))
    runs: dict[str, Callable[[], Tensor]] = {REFERENCE: _runner(model, x, device, dtype)}
    offs: dict[str, float] = {REFERENCE: 0.0}
    wanted = runs[REFERENCE]()
    for form in forms:
        if form == REFERENCE:
            continue
        if form == "compiled" or form in RUNTIMES:
            say(f"preparing {form}: up to some minutes")
        runs[form] = _runner(_prepared(model, form, size, dtype, keep), x, device, dtype)
        offs[form] = float((runs[form]() - wanted).abs().max() / wanted.abs().max())
        most = math.inf if form == INT8 else TOLERANCE  # of 8 bits what counts was judged before it was kept
        if dtype == torch.float32 and not offs[form] <= most:  # also catches NaN
            raise InputError(f"expected the logits of the plain network from {form}, they are off by {offs[form]:.1e}")
    # Each ends with its answer on the CPU: what was left to a GPU is done.
    seconds = in_turn(runs | {"product": _square_product(device, dtype)}, rounds)
    timings = tuple(Timing(name, tuple(seconds[name]), offs[name]) for name in runs)
    return Benchmark(timings, batch * count_macs(model.config, tuple(size[1:])), tuple(seconds["product"]))


def _square_product(device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    """By the library that is the faster here: a floor is the best product at hand."""
    matrix = torch.randn(SIDE, SIDE, device=device, dtype=dtype)
    by = fastest(dtype).products if device.type == "cpu" else "torch"

    @torch.no_grad()
    def run() -> Tensor:
        return product(matrix, matrix, by=by)[0, :1].float().cpu()

    return run


def forms_here(device: torch.device, precision: str) -> list[Compute]:
    """The forms that this machine can run: compiled ones need a compiler, the runtimes their packages and a CPU."""
    forms: list[Compute] = ["plain", "fast"]
    if device.type != "cpu" or shutil.which(os.environ.get("CXX", "g++")):
        forms.append("compiled")
    if device.type == "cpu" and precision == "float32":
        there = {
            form: all(map(importlib.util.find_spec, TARGETS[suffix].packages)) for form, suffix in RUNTIMES.items()
        }
        forms += [form for form in get_args(Compute) if there.get(form)]
    return forms


def _prepared(model: UniFormer, form: Compute, size: Sequence[int], dtype: torch.dtype, keep: bool) -> nn.Module:
    if form in RUNTIMES and not keep:
        return optimize(model, backend=form, example=torch.empty(1, *size))  # type: ignore[arg-type]
    return inference_form(model, form, size, dtype)


def _runner(form: nn.Module, x: Tensor, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    """From views on the CPU to logits on the CPU: what a prediction waits for."""
    return lambda: forward_views(lambda views: (form(views),), x, device, dtype, len(x))[0]

"""Which implementation computes each depthwise 3D convolution of a network on a GPU: measured, remembered, applied.

`uniformer bench --device cuda` measures; `speed.prepare` applies. Without a measurement for the card, the type and the
shape, a layer computes as torch does: nothing is measured unasked, and no kernel is used on a card on which it has not
been checked against torch's.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from uniformer.config import Config
from uniformer.network.model import UniFormer
from uniformer.speed.agreement import TOLERANCES
from uniformer.speed.convolutions import convolution_inputs, is_depthwise
from uniformer.speed.depthwise import IMPLEMENTATIONS, Depthwise3d, Implementation, depthwise_plain, usable
from uniformer.speed.timings import depthwise_situation, processor_name, remember, remembered, seconds

AT_ONCE = 10  #: runs between two events: one alone is shorter than what an event can tell


@dataclass(frozen=True)
class Case:
    """One depthwise convolution as a network asks for it."""

    kernel: int
    shape: tuple[int, ...]  #: (C, T, H, W)
    training: bool
    dtype: torch.dtype  #: of the maps; in training that of autocast, where it has 16 bits
    device: torch.device

    @property
    def use(self) -> str:
        return "training" if self.training else "inference"

    @property
    def situation(self) -> str:
        """What its times are remembered under. Not the batch: the last one measured counts."""
        dtype = str(self.dtype).removeprefix("torch.")
        return depthwise_situation(self.kernel, self.shape, self.use, processor_name(self.device), dtype)


def cases(
    config: Config, size: Sequence[int], device: torch.device, dtype: torch.dtype, *, training: bool
) -> dict[str, Case]:
    """The depthwise 3D convolutions of a network for views of `size`, (3, T, H, W), by `_place` of their modules."""
    if not config.is_video:
        return {}
    return {
        _place(name): Case(module.kernel_size[0], shape, training, dtype, device)
        for name, (module, shape) in convolution_inputs(config, size).items()
        if is_depthwise(module)
    }


def measure_depthwise(
    config: Config,
    size: Sequence[int],
    *,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    rounds: int = 10,
    implementations: Iterable[Implementation] = get_args(Implementation),
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Time every implementation of a network's depthwise convolutions, for inference and training, and remember them.

    One that cannot run here, or whose outputs or gradients are off, is left out. `say` is told of that.
    """
    wanted: set[Case] = set()
    for training in (False, True):
        wanted |= set(cases(config, size, device, dtype, training=training).values())
    for case in sorted(wanted, key=lambda case: (case.training, -case.kernel, case.shape)):
        times = measure_case(case, batch, rounds=rounds, implementations=implementations, say=say)
        if times:
            remember(case.situation, times)
            fastest = min(times, key=lambda name: times[name])
            told = ", ".join(f"{name} {1e3 * t:.3f}" for name, t in times.items())
            shape = " x ".join(map(str, case.shape))
            say(f"depthwise {case.kernel} of {batch} x {shape}, {case.use}: {fastest} (ms: {told})")


def measure_case(
    case: Case,
    batch: int,
    *,
    rounds: int,
    implementations: Iterable[Implementation],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """The seconds of each implementation that can compute a case, medians of rounds in turn."""
    inputs = _inputs(case, batch)
    wanted = _exact(case, inputs)
    runs: dict[Implementation, Callable[[], list[Tensor]]] = {}
    for each in implementations:
        if usable(each) != each:
            continue

        def run(implementation: Implementation = each) -> list[Tensor]:
            return _run(case, implementation, *inputs)

        try:
            off = max(_off(found, true) for found, true in zip(run(), wanted, strict=True))
        except Exception as error:  # whatever a compiler or a driver has to say
            say(f"{each}: cannot run here: {(str(error).splitlines() or [''])[0][:150]}")
            continue
        if not off <= TOLERANCES[case.dtype]:  # also catches NaN
            say(f"{each}: left out, off by {off:.1e} in {case.situation}")
            continue
        runs[each] = run
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, measured in runs.items():
            took = seconds(measured, case.device, AT_ONCE)
            if turn:  # the first warms up
                times[name].append(took)
    return {name: statistics.median(took) for name, took in times.items()}


def apply_tuned_kernels(
    model: UniFormer, size: Sequence[int], dtype: torch.dtype, *, training: bool
) -> dict[str, Implementation]:
    """Give each depthwise 3D convolution the implementation that was the fastest for views of `size`, if one is known.

    `dtype` is what the maps have: in training autocast's, if it has 16 bits. Returns what was given, by layer. No
    effect on networks of images, and on other devices.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        return {}
    best = fastest_implementations(cases(model.config, size, device, dtype, training=training))
    set_implementations(model, best)
    return best


def fastest_implementations(wanted: dict[str, Case]) -> dict[str, Implementation]:
    """What was measured to be the fastest and can be imported, for the cases of which anything is remembered."""
    known, best = remembered(), {}
    for name, case in wanted.items():
        times = known.get(case.situation, {})
        there = [each for each in get_args(Implementation) if each in times and usable(each) == each]
        if there:
            best[name] = min(there, key=lambda each: times[each])
    return best


def set_implementations(model: nn.Module, implementations: dict[str, Implementation]) -> None:
    """Of each layer named, in a model prepared for training or an inference copy; all others compute as torch does."""
    for name, module in model.named_modules():
        if isinstance(module, Depthwise3d):
            module.implementation = implementations.get(_place(name))


def _place(name: str) -> str:
    """The name of a convolution, the same in a model and in its inference copy, which has no `mhra` in local blocks."""
    return name.replace(".mhra.", ".")


# ---- one run ---------------------------------------------------------------------------------------------------------


def _inputs(case: Case, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, filters, bias, and the gradient of the output; maps lie in memory as in the network, channels last."""
    C, k = case.shape[0], case.kernel
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, batch, *case.shape, generator=generator).to(case.device, case.dtype)
    x, grad = (m.contiguous(memory_format=torch.channels_last_3d) for m in maps)
    weight = torch.randn(C, 1, k, k, k, generator=generator) / k
    bias = torch.randn(C, generator=generator)
    kept = torch.float32 if case.training else case.dtype  # parameters stay in float32 under autocast
    return x, weight.to(case.device, kept), bias.to(case.device, kept), grad


def _run(
    case: Case, implementation: Implementation, x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor
) -> list[Tensor]:
    """The output; in training also the gradients of x, filters and bias."""
    if not case.training:
        with torch.inference_mode():
            return [IMPLEMENTATIONS[implementation](x, weight, bias, False)]
    leaves = [v.detach().requires_grad_() for v in (x, weight, bias)]
    with torch.autocast(case.device.type, case.dtype, enabled=case.dtype.itemsize < 4):
        y = IMPLEMENTATIONS[implementation](leaves[0], leaves[1], leaves[2], False)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def _exact(case: Case, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> list[Tensor]:
    """The same in float64, by torch."""
    x, weight, bias, grad = (v.double() for v in inputs)
    leaves = [v.contiguous().requires_grad_() for v in (x, weight, bias)]
    y = depthwise_plain(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)] if case.training else [y.detach()]


def _off(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true).abs().max() / true.abs().max())

"""Which form computes each depthwise 3D convolution of a network on a GPU: measured once, remembered, given to layers.

`uniformer bench --device cuda` measures; whatever makes a network ready for a GPU calls `recall`. Without a measurement
for the card, the type and the shape, a layer keeps torch's own form: nothing is measured unasked, and no kernel is used
on a card on which it has not been checked against torch's.
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
from uniformer.speed.clock import processor_name, seconds
from uniformer.speed.depthwise import FORMS, Depthwise3d, Form, depthwise_plain, usable
from uniformer.speed.timings import depthwise_situation, remember, remembered

#: how far outputs and gradients may be from float64's, as a share of the largest; cuDNN takes TF32 for float32
TOLERANCES = {torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
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
    found: dict[str, Case] = {}
    with torch.device("meta"), torch.no_grad():
        model = UniFormer(config).eval()
        for name, module in model.named_modules():
            if isinstance(module, Depthwise3d):

                def note(m: nn.Module, args: tuple[Tensor], out: Tensor, name: str = name) -> None:
                    kernel = m.get_parameter("weight").shape[-1]
                    found[_place(name)] = Case(kernel, tuple(args[0].shape[1:]), training, dtype, device)

                module.register_forward_hook(note)
        if config.ndim == 3:
            model(torch.empty(1, *size))
    return found


def measure_depthwise(
    config: Config,
    size: Sequence[int],
    *,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    rounds: int = 10,
    forms: Iterable[Form] = get_args(Form),
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Time every form of every depthwise convolution of a network, for inference and for training, and remember it.

    A form that cannot run here, or whose outputs or gradients are off, is left out. `say` is told of that.
    """
    wanted: set[Case] = set()
    for training in (False, True):
        wanted |= set(cases(config, size, device, dtype, training=training).values())
    for case in sorted(wanted, key=lambda case: (case.training, -case.kernel, case.shape)):
        times = measure_case(case, batch, rounds=rounds, forms=forms, say=say)
        if times:
            remember(case.situation, times)
            fastest = min(times, key=lambda form: times[form])
            told = ", ".join(f"{form} {1e3 * t:.3f}" for form, t in times.items())
            shape = " x ".join(map(str, case.shape))
            say(f"depthwise {case.kernel} of {batch} x {shape}, {case.use}: {fastest} (ms: {told})")


def measure_case(
    case: Case,
    batch: int,
    *,
    rounds: int,
    forms: Iterable[Form],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """The seconds of each form that can compute a case, medians of rounds in turn."""
    inputs = _inputs(case, batch)
    wanted = _exact(case, inputs)
    runs: dict[Form, Callable[[], list[Tensor]]] = {}
    for form in forms:
        if usable(form) != form:
            continue

        def run(form: Form = form) -> list[Tensor]:
            return _run(case, form, *inputs)

        try:
            off = max(_off(found, true) for found, true in zip(run(), wanted, strict=True))
        except Exception as error:  # whatever a compiler or a driver has to say
            say(f"{form}: cannot run here: {(str(error).splitlines() or [''])[0][:150]}")
            continue
        if not off <= TOLERANCES[case.dtype]:  # also catches NaN
            say(f"{form}: left out, off by {off:.1e} in {case.situation}")
            continue
        runs[form] = run
    times: dict[str, list[float]] = {form: [] for form in runs}
    for turn in range(rounds + 1):
        for name, each in runs.items():
            took = seconds(each, case.device, AT_ONCE)
            if turn:  # the first warms up
                times[name].append(took)
    return {form: statistics.median(took) for form, took in times.items()}


def recall(model: UniFormer, size: Sequence[int], dtype: torch.dtype, *, training: bool = False) -> dict[str, Form]:
    """Give each depthwise 3D convolution the form that was the fastest for views of `size`; none where none is known.

    `dtype` is what the maps have: in training autocast's, if it has 16 bits. Returns what it gave, by layer.
    No effect on networks of images, and on other devices.
    """
    device = next(model.parameters()).device
    if device.type != "cuda" or model.config.ndim != 3:
        return {}
    return give(model, fastest_forms(cases(model.config, size, device, dtype, training=training)))


def fastest_forms(wanted: dict[str, Case]) -> dict[str, Form]:
    """What was measured to be the fastest and can be imported, for the cases of which anything is remembered."""
    known, best = remembered(), {}
    for name, case in wanted.items():
        times = known.get(case.situation, {})
        there = [form for form in get_args(Form) if form in times and usable(form) == form]
        if there:
            best[name] = min(there, key=lambda form: times[form])
    return best


def give(model: UniFormer, forms: dict[str, Form]) -> dict[str, Form]:
    """Set the form of each module named, in a model or its inference copy; of all others none."""
    for name, module in model.named_modules():
        if isinstance(module, Depthwise3d):
            module.form = forms.get(_place(name))
    return forms


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


def _run(case: Case, form: Form, x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """The output; in training also the gradients of x, filters and bias."""
    if not case.training:
        with torch.inference_mode():
            return [FORMS[form](x, weight, bias, False)]
    leaves = [v.detach().requires_grad_() for v in (x, weight, bias)]
    with torch.autocast(case.device.type, case.dtype, enabled=case.dtype.itemsize < 4):
        y = FORMS[form](leaves[0], leaves[1], leaves[2], False)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def _exact(case: Case, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> list[Tensor]:
    """The same in float64, by torch."""
    x, weight, bias, grad = (v.double() for v in inputs)
    leaves = [v.contiguous().requires_grad_() for v in (x, weight, bias)]
    y = depthwise_plain(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)] if case.training else [y.detach()]


def _off(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true).abs().max() / true.abs().max())

"""Self-tests in seconds: what the networks are made of, forward and backward, in every type of numbers, here.

Each is tried as `agreement.py` has it, on small inputs: faults depend on kernels, strides, frames and types, not on the
size of maps. A fault in 16 bits is worked round in training; one in float32 means that nothing here can be trusted.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer.config import Config, InputSpec
from uniformer.errors import counted
from uniformer.network.ops import attention
from uniformer.network.variants import VARIANTS
from uniformer.speed import winograd
from uniformer.speed.agreement import TOLERANCES, Agreement, Trial, agreement_of, drawn, tried, worst
from uniformer.speed.convolutions import convolution_inputs, is_depthwise
from uniformer.speed.depthwise import IMPLEMENTATIONS, channels_last, depthwise, usable
from uniformer.speed.products import LEAST_TOKENS, add_product_, product
from uniformer.speed.products import attention as attention_by
from uniformer.speed.timings import RUNTIMES
from uniformer.support.checks import Check, attempt, said

PART = "self-tests"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FRAMES = (1, 2, 3, 4, 8)  #: of a clip, in any stage
KINDS_IN = ("uniformer_small_plus", "uniformer_small", "uniformer_small_video", "uniformer_xxs_video")
CHANNELS, SIDE = 16, 8  #: of maps, and of their output
TOKENS = ((1, 32), (49, 28), (196, 64), (785, 32))  #: their number, and channels of a head


class Kind(NamedTuple):
    """A convolution, but for its size."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    is_depthwise: bool

    def __str__(self) -> str:
        of_stride = f" of stride {'x'.join(map(str, self.stride))}" if max(self.stride) > 1 else ""
        return f"{'depthwise ' * self.is_depthwise}{'x'.join(map(str, self.kernel))}{of_stride}"


def family_kinds(names: tuple[str, ...] = KINDS_IN) -> list[Kind]:
    """The kinds of convolutions in architectures; those named by default have all of the family's."""
    found: dict[Kind, None] = {}
    for name in names:
        config = replace(VARIANTS[name].backbone, depths=(1, 1, 1, 1))
        for conv, _ in convolution_inputs(config, (3, *(8, 64, 64)[-config.ndim :])).values():
            padding = tuple(map(int, conv.padding))
            found[Kind(conv.kernel_size, conv.stride, padding, is_depthwise(conv))] = None
    if any(len(kind.kernel) == 3 for kind in found):  # of networks whose embeddings look at three frames
        found[Kind((3, 2, 2), (1, 2, 2), (1, 0, 0), False)] = None
    return list(found)


def self_tests(device: torch.device) -> Iterator[Check]:
    """All of them on a device. Takes 2 s of a CPU, and 7 with both packages for exports."""
    on = "" if device.type == "cpu" else f", {device}"
    kinds = family_kinds()
    for ndim in (2, 3):
        some = [kind for kind in kinds if len(kind.kernel) == ndim]
        for dtype in DTYPES:
            yield _check(f"{ndim}D convolutions{on}", dtype, partial(_convolutions, some, dtype, device))
    for dtype in DTYPES:
        yield _check(f"attention{on}", dtype, partial(_attention, dtype, device))
    yield _check(f"our depthwise{on}", torch.float32, partial(_depthwise, device))
    for dtype in DTYPES[:2]:
        yield _check(f"products{on}", dtype, partial(_products, dtype, device))
    if device.type == "cpu":
        yield _check("Winograd's 3x3", torch.float32, _winograd)
        for package, suffix in RUNTIMES.items():
            if importlib.util.find_spec(package) is not None:
                remedy = f"pip install -U {package}; until then answer by torch (--compute fast)"
                yield attempt(PART, f"export to {package}", "a tiny network", partial(_export, suffix), remedy=remedy)


def _check(name: str, dtype: torch.dtype, work: Callable[[], dict[str, Trial]]) -> Check:
    """Trials by what they are of, as one check."""
    short, is_low = str(dtype).removeprefix("torch."), dtype.itemsize == 2
    tried_out = f"forward and backward against {'float32' if is_low else 'float64'}"
    try:
        trials = work()
    except RuntimeError as error:  # a type that this processor, or this torch, does not compute in
        remedy = "precision=float32" if is_low else "pip install --force-reinstall torch"
        return Check(PART, f"{name}, {short}", tried_out, said(error), "bad", remedy, needed=not is_low)
    wrong = {what: trial for what, trial in trials.items() if not trial.is_right}
    if not wrong:
        off = worst(trial.worst for trial in trials.values())
        found = f"{counted(len(trials), 'case')}, off by {off.off:.1g} of the largest value at most"
        return Check(PART, f"{name}, {short}", tried_out, found, needed=not is_low)
    each = ", ".join(f"{what} ({trial.worst})" for what, trial in wrong.items())
    found = f"{len(wrong)} of {counted(len(trials), 'case')} wrong: {each}"
    if is_low and all(trial.output.is_within(TOLERANCES[dtype]) for trial in wrong.values()):
        remedy = "gradients alone: `uniformer train` tries its layers and keeps such in float32"
        return Check(PART, f"{name}, {short}", tried_out, found, "worked round", remedy)
    remedy = "--precision float32" if is_low else "ONEDNN_MAX_CPU_ISA=AVX2, or another version of torch"
    return Check(PART, f"{name}, {short}", tried_out, found, "bad", remedy, needed=not is_low)


def _convolutions(kinds: list[Kind], dtype: torch.dtype, device: torch.device) -> dict[str, Trial]:
    found = {}
    for kind in kinds:
        is_3d, groups = len(kind.kernel) == 3, CHANNELS if kind.is_depthwise else 1
        convolve: Callable[..., Tensor] = F.conv3d if is_3d else F.conv2d
        compute = partial(convolve, bias=None, stride=kind.stride, padding=kind.padding, groups=groups)
        fan_in = CHANNELS // groups * math.prod(kind.kernel)
        weight = drawn((CHANNELS, CHANNELS // groups, *kind.kernel), device, seed=1) / math.sqrt(fan_in)
        for frames in FRAMES if is_3d else (0,):
            grid = (frames, *(SIDE * step for step in kind.stride[-2:]))[0 if is_3d else 1 :]
            x = channels_last(drawn((2, CHANNELS, *grid), device))
            over = f" over {counted(frames, 'frame')}" if is_3d else ""
            found[f"{kind}{over}"] = tried(compute, [x, weight], dtype)
    return found


def _attention(dtype: torch.dtype, device: torch.device) -> dict[str, Trial]:
    return {
        counted(count, "token"): tried(attention, [drawn((1, 8, count, d), device, seed) for seed in range(3)], dtype)
        for count, d in TOKENS
    }


def _depthwise(device: torch.device) -> dict[str, Trial]:
    """Both ways of our backward pass on a CPU, every implementation on a GPU."""
    ways: dict[str, dict[str, Any]] = {"by planes": {}, "by sample": {"by_sample": True}}
    if device.type != "cpu":
        ways = {name: {"implementation": name} for name in map(usable, IMPLEMENTATIONS)}
    found = {}
    for kernel, frames, (name, way) in itertools.product((3, 5), FRAMES, ways.items()):
        weight = drawn((CHANNELS, 1, kernel, kernel, kernel), device, seed=1) / math.sqrt(kernel**3)
        x = channels_last(drawn((2, CHANNELS, frames, SIDE, SIDE), device))
        what = f"{kernel}x{kernel}x{kernel} over {counted(frames, 'frame')} ({name})"
        found[what] = tried(partial(depthwise, bias=None, **way), [x, weight], torch.float32)
    return found


@torch.no_grad()
def _products(dtype: torch.dtype, device: torch.device) -> dict[str, Trial]:
    """Forward alone: gradients go by torch."""
    shapes = (200, 96), (64, 96), (64,), (200, 64)
    rows, weight, bias, added = (drawn(shape, device, seed).to(dtype) for seed, shape in enumerate(shapes))
    exact = rows.double() @ weight.double().T + bias.double()
    heads = [drawn((1, 2, LEAST_TOKENS, 32), device, seed).to(dtype) for seed in range(3)]
    sums = added.clone()
    add_product_(sums, rows, weight, bias, by="onednn")
    pairs = {
        "product": (product(rows, weight, bias), exact),
        "product with GELU": (product(rows, weight, bias, gelu=True), F.gelu(exact)),
        "product added": (sums, added.double() + exact),
        "attention by blocks": (attention_by(*heads, by="onednn"), attention(*(h.double() for h in heads))),
    }
    return {what: Trial(agreement_of(f, e), Agreement(), dtype) for what, (f, e) in pairs.items()}


@torch.no_grad()
def _winograd() -> dict[str, Trial]:
    x, weight = drawn((2, 32, 12, 10)), drawn((24, 32, 3, 3), seed=1)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    return {"12 x 10": Trial(agreement_of(winograd.convolve(x, weight, None), exact), Agreement(), torch.float32)}


def _export(suffix: str) -> str:
    """The file of a tiny network, held against torch's answers."""
    from uniformer.checkpoints.contract import Contract
    from uniformer.network.model import UniFormer
    from uniformer.speed.export import export
    from uniformer.support.files import system_folder

    config = Config(depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), head_dim=16, num_classes=7, ndim=3)
    spec = InputSpec(size=(32, 32), resize=32, frames=4, sampling="dense", stride=2, clips=1)
    with torch.random.fork_rng([]), system_folder("doctor") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        off = export(UniFormer(config).eval(), Contract(config, "", spec), folder / f"tiny{suffix}").gap
    return f"torch's logits but for {off:.0e} of the largest"

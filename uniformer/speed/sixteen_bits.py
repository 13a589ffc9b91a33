"""Which layers of a network compute rightly in 16 bits here, by the pass of a first batch; the others go to float32.

On CPUs with AVX-512 torch 2.15 gives garbage, finite or not, for the weight gradient of a 3D convolution in
bfloat16 of stride 1 in time whose kernel is longer than the clip: 3 frames over 2, or 5 over 2, 3 and 4 (not over 1).
Nothing says so; the values look like what memory held before. So layers are tried before they train.

    with watched(model) as met:          # what each kind of layer is fed, and which gradient comes back
        objective(*targets).backward()   # under autocast
    wrong = wrong_layers(met, torch.bfloat16)
    keep_in_float32(model, wrong)

Every layer is tried by itself, in 16 bits and in float32, with the same numbers: so nothing adds up over layers, and
what differs is a fault and not the rounding of the layers before. Layers of one kind and size are tried once, maps of
whole pictures on a part, so a trial costs less than the pass. `wrong_convolutions` does without a batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from uniformer.config import Config
from uniformer.errors import InputError
from uniformer.network.blocks import GlobalMHRA
from uniformer.network.ops import attention
from uniformer.speed.agreement import Agreement, Trial, drawn, tried
from uniformer.speed.convolutions import convolution_inputs, is_pointwise
from uniformer.speed.depthwise import channels_last
from uniformer.speed.training_modules import IN_FLOAT32, PLAIN, stand_in

LAYERS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
MAPS = LAYERS[:-1]
SIDE = 64  #: of the part of a map that is tried: faults depend on kernel, stride and frames, not on height and width
ROWS = 256  #: of vectors that are tried, and tokens of all heads, if one head has no more


@dataclass
class Met:
    """A kind of layer, as a pass met it."""

    module: nn.Module
    names: list[str]  #: of the layers of this kind and size
    x: Tensor  #: what the first of them was fed, a part of it
    grads: list[Tensor] = field(default_factory=list)  #: what came back of its output, where something did

    def trial(self, dtype: torch.dtype) -> Trial:
        """The layer in `dtype` against itself in float32. What it met counts if it is finite and not 0."""
        if isinstance(self.module, GlobalMHRA):
            tokens = self.x.shape[1]
            shape = 1, max(1, ROWS // tokens), tokens, self.module.head_dim  # heads are alike
            return tried(attention, [drawn(shape, self.x.device, seed) for seed in range(3)], dtype)
        names, values = zip(*self.module.named_parameters(), strict=True)

        def compute(x: Tensor, *parameters: Tensor) -> Tensor:
            found: Tensor = functional_call(self.module, dict(zip(names, parameters, strict=True)), (x,))
            return found

        x = self.x if _tells(self.x) else drawn((max(1, len(self.x)), *self.x.shape[1:]), self.x.device)
        grad = next((grad / grad.abs().max() for grad in self.grads if _tells(grad)), None)
        return tried(compute, [x, *values], dtype, grad)


@contextmanager
def watched(model: nn.Module, *, enabled: bool = True) -> Iterator[list[Met]]:
    """What each kind of layer meets in the passes of the block, forward and backward. The model stays as it is."""
    met: dict[Hashable, Met] = {}
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, (*LAYERS, GlobalMHRA))]
    hooks = [
        # Light networks call a method of attention's own, but its first product always as a module
        (m.qkv if isinstance(m, GlobalMHRA) else m).register_forward_hook(_note(name, m, met))
        for name, m in layers
        if enabled and type(m) not in IN_FLOAT32.values()
    ]
    found: list[Met] = []
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        found += met.values()


def _note(name: str, module: nn.Module, met: dict[Hashable, Met]) -> Callable[[nn.Module, Any, Any], None]:
    def note(_: nn.Module, args: Sequence[Tensor], output: Tensor) -> None:
        x = args[0].detach()
        key = type(module), repr(module), getattr(module, "head_dim", None), x.shape[1:]
        here = met.setdefault(key, Met(module, [], _part(x, module)))
        if name not in here.names:
            here.names.append(name)

        def note_gradient(grad: Tensor) -> None:
            if not here.grads:
                here.grads.append(_part(grad.detach(), module).float())

        if output.requires_grad and not here.grads:
            output.register_hook(note_gradient)

    return note


def _part(x: Tensor, module: nn.Module) -> Tensor:
    """Of maps the first, not all of a large one; of vectors as many as tell."""
    if isinstance(module, MAPS):
        return x[:1, ..., :SIDE, :SIDE]
    return x[:ROWS] if x.ndim == 2 else x[:1]


def _tells(x: Tensor) -> bool:
    return bool(x.isfinite().all() and x.any())


def wrong_layers(met: Iterable[Met], dtype: torch.dtype) -> dict[str, Agreement]:
    """The layers that compute otherwise in `dtype` than in float32, by name, and how far off they are."""
    trials = [(layers, layers.trial(dtype)) for layers in met]
    return {name: trial.worst for layers, trial in trials if not trial.is_right for name in layers.names}


@cache
def wrong_convolutions(config: Config, size: tuple[int, ...], dtype: torch.dtype) -> frozenset[str]:
    """The names of a network's convolutions that are wrong in `dtype` on a CPU, by drawn numbers instead of a batch.

    `size` is that of one view, (C, [T,] H, W). Not the pointwise ones of clips: training computes them as products.
    """
    met: dict[Hashable, Met] = {}
    for name, (module, shape) in convolution_inputs(config, size).items():
        if config.is_video and is_pointwise(module):
            continue
        key = repr(module), shape
        if key not in met:
            with torch.random.fork_rng([]):
                torch.manual_seed(0)
                module.to_empty(device="cpu").reset_parameters()
            kind: Any = stand_in(module, wrong=False, attention_float32=False)
            module.__class__ = kind or type(module)
            met[key] = Met(module, [], channels_last(drawn((1, *shape))))
        met[key].names.append(name)
    return frozenset(wrong_layers(met.values(), dtype))


def keep_in_float32(model: nn.Module, names: Iterable[str]) -> None:
    """Let the layers of these names compute in float32 whatever autocast says; of attention, what is between its
    products. Parameters, names and hooks stay. Raises `InputError` for a layer that has no such form."""
    for name in names:
        module = model.get_submodule(name)
        kind = IN_FLOAT32.get(PLAIN.get(type(module), type(module)))
        if kind is None:
            raise InputError(
                f"torch {torch.__version__} computes {name} ({type(module).__name__}) wrongly in 16 bits here, and "
                "there is no form of it in float32: set precision=float32"
            )
        vars(module).pop("implementation", None)
        module.__class__ = kind


def in_short(wrong: Iterable[str]) -> str:
    """Names of layers in one line, those of all blocks of a stage as one."""
    return ", ".join(sorted({re.sub(r"blocks\.\d+", "blocks.*", name) for name in wrong}))


def described(wrong: Mapping[str, Agreement]) -> str:
    """The same with how far off they are, of several the last."""
    return ", ".join(
        f"{name} ({off})" for name, off in sorted({in_short([n]): off for n, off in wrong.items()}.items())
    )

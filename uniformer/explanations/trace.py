"""What one pass through a network leaves behind for explanations: the maps of its stages, what each attention was
fed, which tokens hourglass blocks chose by; and the gradients of a score for them. Nothing of the network is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from uniformer.errors import InputError
from uniformer.network.blocks import GlobalMHRA
from uniformer.network.model import UniFormer
from uniformer.network.ops import Grid

STAGES = (3, 4)  #: the global ones, whose maps explain


class Attended(NamedTuple):
    """An attention of a block."""

    qkv: Tensor  #: (B', N', 3 C), where windows, places or frames may be among B'
    mixed: Tensor  #: (B', N', C), what the heads read, before their projection
    head_dim: int


@dataclass
class Trace:
    """Tensors of one pass, by the stage or by the block (stage, index). Their graph begins at the first of the maps."""

    maps: dict[int, Tensor] = field(default_factory=dict)  #: outputs of the stages, (B, C, *grid)
    passed: Tensor | None = None  #: stage 3's as stage 4 is fed it, so that heads which take both are told apart
    attended: dict[tuple[int, int], dict[str, Attended]] = field(default_factory=dict)  #: by `mhra`, `time_mhra`
    scores: dict[tuple[int, int], Tensor] = field(default_factory=dict)  #: that an hourglass block chose by, (B, N)

    def grid(self, stage: int) -> Grid:
        return tuple(self.maps[stage].shape[2:])


class Gradients(NamedTuple):
    """Of a score, shaped as what they are for."""

    maps: dict[int, Tensor]
    passed: Tensor
    mixed: dict[tuple[int, int], dict[str, Tensor]]


def backbone_of(network: nn.Module) -> UniFormer:
    """The network under the head; of a classifier itself."""
    found = getattr(network, "backbone", network)
    if not isinstance(found, UniFormer):
        raise InputError(f"expected a UniFormer to explain, got {type(found).__name__}")
    return found


def traced(network: nn.Module, score: Callable[[], Tensor], first: int = 2) -> tuple[Trace, Gradients]:
    """One pass, and the gradients of what `score`, which runs the network once, gives: one number. Of the stages from
    `first` on, 1 or 2."""
    with torch.enable_grad(), watching(backbone_of(network), first) as trace:
        value = score()
    keys = [(block, name) for block, by_name in trace.attended.items() for name in by_name]
    assert trace.passed is not None
    wanted = [*trace.maps.values(), trace.passed, *(trace.attended[block][name].mixed for block, name in keys)]
    found = torch.autograd.grad(value, wanted, allow_unused=True)
    grads = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]
    mixed: dict[tuple[int, int], dict[str, Tensor]] = {}
    for (block, name), grad in zip(keys, grads[len(trace.maps) + 1 :], strict=True):
        mixed.setdefault(block, {})[name] = grad
    return trace, Gradients(dict(zip(trace.maps, grads, strict=False)), grads[len(trace.maps)], mixed)


@contextmanager
def watching(backbone: UniFormer, first: int) -> Iterator[Trace]:
    """What passes through the network within the block, from the map of stage `first` on."""
    trace, checkpointing = Trace(), backbone.grad_checkpointing
    backbone.set_grad_checkpointing(False)  # blocks that run twice would be watched twice
    stages: Any = backbone.stages
    with ExitStack() as hooks:
        hooks.callback(backbone.set_grad_checkpointing, checkpointing)
        handles = [
            stages[first - 1].blocks[-1].register_forward_hook(_begins(trace, first)),
            stages[3].embed.register_forward_pre_hook(_passes(trace)),
        ]
        for stage in range(first + 1, len(stages) + 1):
            blocks = stages[stage - 1].blocks
            handles.append(blocks[-1].register_forward_hook(_keeps_map(trace, stage)))
            for index, block in enumerate(blocks if stage in STAGES else ()):
                handles += _watch_block(trace, (stage, index), block)
        for handle in handles:
            hooks.callback(handle.remove)
        yield trace


def _begins(trace: Trace, stage: int) -> Callable[..., Tensor]:
    def hook(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        trace.maps[stage] = out.detach().requires_grad_()
        return trace.maps[stage]

    return hook


def _passes(trace: Trace) -> Callable[..., Any]:
    def hook(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        trace.passed = given[0].view_as(given[0])
        return (trace.passed,)

    return hook


def _keeps_map(trace: Trace, stage: int) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, out: Any) -> None:
        trace.maps[stage] = out[0] if isinstance(out, tuple) else out  # hourglass blocks hand on their state too

    return hook


def _watch_block(trace: Trace, key: tuple[int, int], block: nn.Module) -> list[Any]:
    trace.attended[key] = {}
    handles: list[Any] = [block.register_forward_pre_hook(_keeps_scores(trace, key))]
    for name, part in block.named_children():
        if isinstance(part, GlobalMHRA):  # its layers, as hourglass blocks do not call the attention itself
            seen: dict[str, Tensor] = {}
            handles.append(part.qkv.register_forward_hook(lambda _, __, out, seen=seen: seen.update(qkv=out)))
            handles.append(part.proj.register_forward_pre_hook(_keeps_mixed(trace, key, name, part.head_dim, seen)))
    return handles


def _keeps_scores(trace: Trace, key: tuple[int, int]) -> Callable[..., None]:
    def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
        if len(given) > 1 and given[1].score is not None:
            trace.scores[key] = given[1].score.detach()

    return hook


def _keeps_mixed(
    trace: Trace, key: tuple[int, int], name: str, head_dim: int, seen: dict[str, Tensor]
) -> Callable[..., None]:
    def hook(_: nn.Module, given: tuple[Tensor]) -> None:
        trace.attended[key][name] = Attended(seen["qkv"].detach(), given[0], head_dim)

    return hook

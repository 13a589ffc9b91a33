"""The network written as the reference is: what the fast forms are measured and tested against."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from uniformer.network.blocks import GlobalMHRA, OverlapEmbed, PatchEmbed, Pointwise3d
from uniformer.network.model import UniFormer
from uniformer.network.ops import attention_plain
from uniformer.speed.depthwise import Depthwise3d


class _TakenOver(nn.Module):
    """Has the parts of another module, which is of no use afterwards."""

    def __init__(self, module: nn.Module):
        nn.Module.__init__(self)
        vars(self).update(vars(module))


class PlainMHRA(_TakenOver, GlobalMHRA):
    """The whole affinity is formed, as in Eq. 3."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self._merge(attention_plain(*self._heads(tokens)))

    def with_class_affinity(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self._heads(tokens)
        affinity = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self._merge(affinity @ v), affinity.mean(dim=1)[:, 0, 1:]


class PlainPatchEmbed(_TakenOver, PatchEmbed):
    """Its map lies in memory as (B, C, *grid)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous()


class PlainOverlapEmbed(_TakenOver, OverlapEmbed):
    """Its maps lie in memory as its input does."""

    def _laid_out(self, x: Tensor) -> Tensor:
        return x


def plain(model: UniFormer) -> UniFormer:
    """A copy of the model, with its weights and keys, that computes as the published code does.

    Attention forms its whole affinity, every convolution is torch's own and maps lie in memory as (B, C, *grid).
    """
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, GlobalMHRA):
                setattr(parent, name, PlainMHRA(child))
            elif isinstance(child, PatchEmbed):
                setattr(parent, name, PlainPatchEmbed(child))
            elif isinstance(child, OverlapEmbed):
                setattr(parent, name, PlainOverlapEmbed(child))
            elif isinstance(child, Depthwise3d | Pointwise3d):
                setattr(parent, name, _convolution(child))
    return model


def _convolution(module: nn.Conv3d) -> nn.Conv3d:
    widths, with_bias = (module.in_channels, module.out_channels), module.bias is not None
    geometry = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
    with torch.device("meta"):
        made = nn.Conv3d(*widths, *geometry, bias=with_bias)  # type: ignore[arg-type]
    made.load_state_dict(module.state_dict(), assign=True)
    return made

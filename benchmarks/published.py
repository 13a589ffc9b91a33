"""The network as the published code computes it: what ours is measured against. The same weights, keys and answers."""

from __future__ import annotations

import copy

from torch import Tensor

from uniformer.heads.pyramid import DenseNetwork
from uniformer.network.blocks import GlobalMHRA, PatchEmbed
from uniformer.network.model import UniFormer


class PublishedMHRA(GlobalMHRA):
    """The whole affinity is formed."""

    def _affinity(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self._heads(tokens)
        return self._merge(self._affinity(q, k) @ v)

    def with_class_affinity(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self._heads(tokens)
        affinity = self._affinity(q, k)
        return self._merge(affinity @ v), affinity.mean(dim=1)[:, 0, 1:]


class PublishedPatchEmbed(PatchEmbed):
    """Its map is copied, to lie in memory as (B, C, *grid)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous()


def published(model: UniFormer | DenseNetwork) -> UniFormer | DenseNetwork:
    """A copy of a plain model that computes so; of one with a head its backbone, the head is written alike."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module) is GlobalMHRA:
            module.__class__ = PublishedMHRA
        elif type(module) is PatchEmbed:
            module.__class__ = PublishedPatchEmbed
    return model

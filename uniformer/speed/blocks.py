"""Inference forms of the blocks: folded weights, channels last in memory, sums in place.

Each gives what its plain twin in `network/` gives in evaluation. A feature map (B, C, *grid) lies in memory as (B,
*grid, C), so that its tokens, or rows (B * N, C), are views of it: local and global blocks then read and write the same
memory, pointwise convolutions are matrix products, and depthwise ones take oneDNN's faster kernel.
"""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer.network.blocks import GlobalBlock, GlobalMHRA, LocalBlock, OverlapEmbed, PatchEmbed, SplitBlock
from uniformer.network.hourglass import SCORE_UPDATE, HourglassBlock, HourglassState, gather_tokens
from uniformer.network.ops import class_token_affinity
from uniformer.speed.convolutions import is_depthwise
from uniformer.speed.depthwise import Depthwise3d, channels_last
from uniformer.speed.fold import before_norm, layer, local_weights, scaled, with_residual
from uniformer.speed.products import LEAST_TOKENS, By, Linear, UsesProducts, add_product_, attention, product
from uniformer.speed.training_modules import Float32MHRA

Product: TypeAlias = nn.Conv2d | nn.Conv3d | nn.Linear  #: that is, a matrix product: the kernels are 1x1
M = TypeVar("M", nn.Conv2d | nn.Conv3d, nn.Linear)

CHUNK = 400_000  # hidden values of an FFN computed at once on a CPU, about: 1.6 MB of float32 stay in its caches
MIN_ROWS = 384  # matrix products of fewer rows are less efficient


class OneDnnConv3d(nn.Conv3d):
    """`nn.Conv3d` that takes oneDNN's kernels where torch would take its own, many times slower ones.

    For one small clip torch decides against oneDNN by the product of four sizes (`use_mkldnn` in its Convolution.cpp).
    """

    def forward(self, x: Tensor) -> Tensor:
        plain = torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32
        if plain or not torch.backends.mkldnn.is_available():
            return super().forward(x)
        assert isinstance(self.padding, tuple)
        return torch.mkldnn_convolution(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


class FastDepthwise3d(Depthwise3d, OneDnnConv3d):
    """`Depthwise3d` by oneDNN's kernels on a CPU, on a GPU by the implementation that it was given."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self._is_tuned(x) else OneDnnConv3d.forward(self, x)

    def added_to(self, x: Tensor) -> Tensor:
        return super().added_to(x) if self._is_tuned(x) else x + self(x)

    def _is_tuned(self, x: Tensor) -> bool:
        return self.implementation is not None and x.is_cuda


class FastPatchEmbed(PatchEmbed):
    """`PatchEmbed` with its kernel's channels last in memory."""

    def __init__(self, embed: PatchEmbed, dtype: torch.dtype):
        nn.Module.__init__(self)
        self.proj = _convolution(*layer(embed.proj), embed.proj, dtype)
        self.norm = embed.norm.to(dtype)


class FastOverlapEmbed(nn.Module):
    """`OverlapEmbed` with its batch norms folded into the convolutions before them."""

    def __init__(self, embed: OverlapEmbed, dtype: torch.dtype):
        super().__init__()
        self.conv1 = _convolution(*before_norm(layer(embed.conv1), embed.norm1), embed.conv1, dtype)
        self.conv2: nn.Module | None = None
        if embed.is_stem:
            self.conv2 = _convolution(*before_norm(layer(embed.conv2), embed.norm2), embed.conv2, dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return x if self.conv2 is None else self.conv2(F.gelu(x))


class FastLocalBlock(UsesProducts):
    """`LocalBlock` as `fold.LocalWeights` describes it."""

    def __init__(self, block: LocalBlock, dtype: torch.dtype):
        super().__init__()
        self.adds = adds_residual(dtype)
        mhra, ffn, weights = block.mhra, block.ffn, local_weights(block, residual=not self.adds)
        self.pos_embed = _convolution(*weights.pos_embed, block.pos_embed, dtype)
        self.value = _convolution(*weights.value, mhra.value, dtype)
        self.affinity = _convolution(weights.affinity, None, mhra.affinity, dtype)
        self.proj = _convolution(weights.proj, None, mhra.proj, dtype)
        self.fc1 = _convolution(*weights.fc1, ffn.fc1, dtype)
        self.fc2 = _convolution(weights.fc2, None, ffn.fc2, dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = _added(self.pos_embed, x) if self.adds else self.pos_embed(x)
        return self._as_graph(x) if torch.compiler.is_compiling() else self._in_place(channels_last(x))

    def _as_graph(self, x: Tensor) -> Tensor:
        x = x + self.proj(self.affinity(self.value(x)))
        return x + self.fc2(F.gelu(self.fc1(x)))

    def _in_place(self, x: Tensor) -> Tensor:
        by_position = x.movedim(1, -1)  # (B, *grid, C)
        rows = by_position.view(-1, x.shape[1])  # (B * N, C)
        values = product(rows, self.value.weight.flatten(1), self.value.bias, by=self.by.products)
        mixed = channels_last(self.affinity(values.view(by_position.shape).movedim(-1, 1)))
        add_product_(rows, mixed.movedim(1, -1).view_as(rows), self.proj.weight.flatten(1), by=self.by.products)
        feed_forward_(rows, self.fc1, self.fc2, by=self.by)
        return x


class _FastGlobal(UsesProducts, GlobalBlock):
    """What the inference forms of the three kinds of global blocks share."""

    def __init__(self, block: GlobalBlock, dtype: torch.dtype):
        """Takes over the parts of `block`, which is of no use afterwards."""
        nn.Module.__init__(self)
        vars(self).update(vars(block))
        self.to(dtype)
        self.adds = adds_residual(dtype)
        pos_embed = layer(block.pos_embed) if self.adds else with_residual(layer(block.pos_embed))
        self.pos_embed = _convolution(*pos_embed, block.pos_embed, dtype)
        self.mhra = FastMHRA(self.mhra)
        self.mhra.proj = _linear(*scaled(layer(self.mhra.proj), block.scale1), self.mhra.proj)
        self.ffn.fc2 = _linear(*scaled(layer(self.ffn.fc2), block.scale2), self.ffn.fc2)
        self.scale1 = self.scale2 = None

    def _positioned(self, x: Tensor) -> Tensor:
        return channels_last(_added(self.pos_embed, x) if self.adds else self.pos_embed(x))

    def _refine(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super()._refine(tokens, mixed)
        tokens.add_(mixed)  # in place: they are a view of what `_positioned` made
        fc1, fc2 = self.ffn.fc1, self.ffn.fc2
        assert isinstance(fc1, nn.Linear)
        assert isinstance(fc2, nn.Linear)
        feed_forward_(tokens.view(-1, tokens.shape[-1]), fc1, fc2, self.norm2, by=self.by)
        return tokens


class FastMHRA(UsesProducts, GlobalMHRA):
    """`GlobalMHRA` with each head's queries, keys and values in one piece where they are many.

    Attention on a CPU reads them 5 % faster, but of a few hundred tokens the copies cost more.
    """

    def __init__(self, mhra: GlobalMHRA):
        nn.Module.__init__(self)
        vars(self).update(vars(mhra))
        self.float32 = isinstance(mhra, Float32MHRA)  #: attend in it
        self.qkv.__class__ = self.proj.__class__ = Linear

    def _heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super()._heads(tokens)
        if self.float32:
            q, k, v = q.float(), k.float(), v.float()
        few = tokens.shape[1] < LEAST_TOKENS and not torch.compiler.is_compiling()  # no sizes in graphs
        return (q, k, v) if tokens.is_cuda or few else (q.contiguous(), k.contiguous(), v.contiguous())

    def _merge(self, heads: Tensor) -> Tensor:
        return super()._merge(heads.to(self.proj.weight.dtype))  # of attention in float32, where a recipe asks for it

    def forward(self, tokens: Tensor) -> Tensor:
        return self._merge(attention(*self._heads(tokens), by=self.by.attention))

    def with_class_affinity(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As in the plain form; the affinity at least in float32, since tokens are chosen by it."""
        q, k, v = self._heads(tokens)
        row, keys = (t.float() if t.dtype.itemsize < 4 else t for t in (q[:, :, :1], k))
        return self._merge(attention(q, k, v, by=self.by.attention)), class_token_affinity(row, keys)


class FastGlobalBlock(_FastGlobal):
    pass


class FastSplitBlock(_FastGlobal, SplitBlock):
    def __init__(self, block: SplitBlock, dtype: torch.dtype):
        super().__init__(block, dtype)
        self.time_mhra = FastMHRA(self.time_mhra)


class FastHourglassBlock(_FastGlobal, HourglassBlock):
    topk_is_stable = True  #: of the runtime that a graph of it is for: ONNX's is, and ONNX knows no stable sort

    def _on_kept(
        self, tokens: Tensor, state: HourglassState, score: Tensor, keep: int
    ) -> tuple[Tensor, HourglassState]:
        """As in the plain block, but only the kept tokens move: the others are summed and updated where they are."""
        best = self._best(score, keep)  # (B, keep)
        rest = score.scatter(1, best, 0.0)
        weight = (rest / rest.sum(dim=1, keepdim=True)).to(tokens.dtype)
        kept, summary = gather_tokens(tokens, best), weight.unsqueeze(1) @ tokens  # (B, keep, C), (B, 1, C)
        working, update, affinity = self._interact(torch.cat((state.cls, kept, summary), dim=1))

        everywhere = best.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        tokens = (tokens + update[:, -1:]).scatter(1, everywhere, working[:, 1:-1])
        better = torch.lerp(score.gather(1, best), affinity[:, :-1], SCORE_UPDATE)
        return tokens, HourglassState(working[:, :1], score.scatter(1, best, better))

    def _best(self, score: Tensor, keep: int) -> Tensor:
        """The positions of the `keep` highest scores (B, N) -> (B, keep); of equal ones the first."""
        if torch.compiler.is_compiling() and self.topk_is_stable:
            return score.topk(keep, dim=1).indices
        return score.argsort(dim=1, descending=True, stable=True)[:, :keep]

    def _interact(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in the plain block, but what the branches added is given for the last token only, the summary."""
        if torch.compiler.is_compiling():
            return super()._interact(tokens)
        mixed, affinity = self.mhra.with_class_affinity(self.norm1(tokens))
        before = tokens[:, -1:].clone()
        tokens = self._refine(tokens, mixed)
        return tokens, tokens[:, -1:] - before, affinity


def feed_forward_(rows: Tensor, fc1: Product, fc2: Product, norm: nn.Module | None = None, *, by: By) -> None:
    """rows += fc2(gelu(fc1(norm(rows)))), rows (M, C), in even chunks whose hidden values a CPU's caches hold.

    By oneDNN each thread has a chunk's worth of rows, or threads would wait for each other often.
    """
    w1, w2 = fc1.weight.flatten(1), fc2.weight.flatten(1)
    at_once = max(CHUNK // len(w1), MIN_ROWS) * (torch.get_num_threads() if by.products == "onednn" else 1)
    chunks = max(1, round(len(rows) / at_once)) if rows.device.type == "cpu" else 1
    for some in rows.split(-(-len(rows) // chunks)):
        hidden = product(some if norm is None else norm(some), w1, fc1.bias, gelu=True, by=by.products)
        add_product_(some, hidden, w2, fc2.bias, by=by.products)


def _added(pos_embed: nn.Module, x: Tensor) -> Tensor:
    """x + pos_embed(x), in one go where a GPU's implementation can."""
    added: Tensor = pos_embed.added_to(x) if isinstance(pos_embed, FastDepthwise3d) else x + pos_embed(x)
    return added


def adds_residual(dtype: torch.dtype) -> bool:
    """Whether x + pos_embed(x) stays a sum: in 16 bits 1 + w at a kernel's centre would lose most of w."""
    return dtype.itemsize < 4


def _convolution(weight: Tensor, bias: Tensor | None, like: nn.Module, dtype: torch.dtype) -> nn.Conv2d | nn.Conv3d:
    """A convolution of the geometry of `like`, with other weights, on its device."""
    assert isinstance(like, nn.Conv2d | nn.Conv3d)
    kind: Any = nn.Conv2d
    if isinstance(like, nn.Conv3d):
        kind = FastDepthwise3d if is_depthwise(like) else OneDnnConv3d
    widths = like.in_channels, like.out_channels
    geometry = like.kernel_size, like.stride, like.padding, like.dilation, like.groups
    made = kind(*widths, *geometry, bias=bias is not None, device="meta")
    return _filled(made, channels_last(weight.view(like.weight.shape)), bias, like.weight.to(dtype))


def _linear(weight: Tensor, bias: Tensor, like: nn.Module) -> nn.Linear:
    made = Linear(weight.shape[1], weight.shape[0], device="meta")
    return _filled(made, weight, bias, like.get_parameter("weight"))


def _filled(module: M, weight: Tensor, bias: Tensor | None, like: Tensor) -> M:
    """The module with these weights, of the type and on the device of `like`."""
    module.weight = nn.Parameter(weight.to(like), requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(bias.to(like), requires_grad=False)
    return module

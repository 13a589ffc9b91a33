"""The blocks of the network (Fig. 2 of the paper): patch embeddings, and local and global UniFormer blocks.

A block is DPE -> MHRA -> FFN with residuals (Eq. 1-3 of ICLR 2022). One definition serves images and clips: tokens do
not know their dimension, only convolutions and batch norms do. See `ops.py` for the shape legend.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from uniformer.config import Config
from uniformer.network.ops import (
    attention,
    class_token_affinity,
    drop_path,
    from_windows,
    to_grid,
    to_tokens,
    to_windows,
)

# Of LayerNorm. Another one in the blocks (`Config.block_eps`) is an accident of the reference's history, but trained
# into the weights. Confusing them moves the logits by 3e-6, which only a comparison in float64 shows.
EMBED_EPS = 1e-5

Kernel = tuple[int, ...]


CONVOLUTIONS: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS: dict[int, type[nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def conv(ndim: int, dim_in: int, dim_out: int, kernel: Kernel, stride: Kernel, padding: Kernel) -> nn.Module:
    """A 2D or 3D convolution; `kernel`, `stride` and `padding` are (T, H, W), of which images use the last two."""
    return CONVOLUTIONS[ndim](dim_in, dim_out, kernel[-ndim:], stride[-ndim:], padding[-ndim:])  # type: ignore[arg-type]


def pointwise(ndim: int, dim_in: int, dim_out: int) -> nn.Module:
    return CONVOLUTIONS[ndim](dim_in, dim_out, 1)


def depthwise(ndim: int, dim: int, kernel: int) -> nn.Module:
    """One kernel x kernel (x kernel) filter per channel, zero-padded to keep the grid."""
    return CONVOLUTIONS[ndim](dim, dim, kernel, padding=kernel // 2, groups=dim)


def batch_norm(ndim: int, dim: int) -> nn.Module:
    return BATCH_NORMS[ndim](dim)


def scaled(branch: Tensor, scale: Tensor | None) -> Tensor:
    """Layer scale: one factor per channel of tokens (B, N, C) or of a feature map (B, C, *grid)."""
    if scale is None:
        return branch
    return (scale if branch.ndim == 3 else scale.view(-1, *(1,) * (branch.ndim - 2))) * branch


class PatchEmbed(nn.Module):
    """Non-overlapping patches: a convolution whose stride is its kernel, then LayerNorm over channels.

    Stage 1 of a video model halves time with a kernel of 3 frames; later stages leave time alone.
    Sizes that the stride does not divide lose their last rows and columns, as in the reference.
    """

    def __init__(self, config: Config, stage: int, dim_in: int, dim_out: int):
        super().__init__()
        if stage == 1:
            kernel, stride = (3, 4, 4), (2, 4, 4)
        else:
            kernel, stride = (config.time_kernel, 2, 2), (1, 2, 2)
        self.proj = conv(config.ndim, dim_in, dim_out, kernel, stride, (kernel[0] // 2, 0, 0))
        self.norm = nn.LayerNorm(dim_out, eps=EMBED_EPS)

    def forward(self, x: Tensor) -> Tensor:
        tokens, grid = to_tokens(self.proj(x))
        return to_grid(self.norm(tokens), grid)


class OverlapEmbed(nn.Module):
    """Overlapping 3x3 convolutions with batch norm: two of stride 2 in stage 1 (the "conv stem"), one in later stages.

    In a video model the second convolution of stage 1 halves time.
    """

    def __init__(self, config: Config, stage: int, dim_in: int, dim_out: int):
        super().__init__()
        ndim, dim = config.ndim, dim_out // 2 if stage == 1 else dim_out
        self.conv1 = conv(ndim, dim_in, dim, (3, 3, 3), (1, 2, 2), (1, 1, 1))
        self.norm1 = batch_norm(ndim, dim)
        if stage == 1:
            self.conv2 = conv(ndim, dim, dim_out, (3, 3, 3), (2, 2, 2), (1, 1, 1))
            self.norm2 = batch_norm(ndim, dim_out)
        self.is_stem = stage == 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x))
        return self.norm2(self.conv2(nn.functional.gelu(x))) if self.is_stem else x


class LocalMHRA(nn.Module):
    """Local relation aggregation: value projection, a learnable 5x5(x5) affinity per channel, output projection."""

    def __init__(self, ndim: int, dim: int):
        super().__init__()
        self.value = pointwise(ndim, dim, dim)
        self.affinity = depthwise(ndim, dim, 5)
        self.proj = pointwise(ndim, dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.affinity(self.value(x)))


class GlobalMHRA(nn.Module):
    """Global relation aggregation: multi-head self-attention over all tokens (B, N, C)."""

    def __init__(self, dim: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def _heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.qkv(tokens).unflatten(2, (-1, self.head_dim))  # (B, N, 3 * h, d)
        q, k, v = heads.transpose(1, 2).chunk(3, dim=1)  # each (B, h, N, d)
        return q, k, v

    def _merge(self, heads: Tensor) -> Tensor:
        return self.proj(heads.transpose(1, 2).flatten(2))  # (B, h, N, d) -> (B, N, C)

    def forward(self, tokens: Tensor) -> Tensor:
        return self._merge(attention(*self._heads(tokens)))

    def with_class_affinity(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, 1 + N, C), the class token first -> the output, and the class token's affinity (B, N)."""
        q, k, v = self._heads(tokens)
        return self._merge(attention(q, k, v)), class_token_affinity(q, k)


class FFN(nn.Module):
    """Two layers with GELU: 1x1 convolutions on a grid (`ndim` 2 or 3), linear layers on tokens (`ndim` None)."""

    def __init__(self, dim: int, ratio: float, ndim: int | None = None):
        super().__init__()
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(dim, hidden) if ndim is None else pointwise(ndim, dim, hidden)
        self.fc2 = nn.Linear(hidden, dim) if ndim is None else pointwise(ndim, hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """What local and global blocks share: dynamic position embedding, layer scales, drop path."""

    scale1: nn.Parameter | None
    scale2: nn.Parameter | None

    def __init__(self, config: Config, stage: int, drop_path_rate: float):
        super().__init__()
        dim = config.dims[stage - 1]
        if config.layer_scale is not None and stage in config.layer_scale_stages:
            self.scale1 = nn.Parameter(torch.full((dim,), float(config.layer_scale)))
            self.scale2 = nn.Parameter(torch.full((dim,), float(config.layer_scale)))
        else:
            self.scale1 = self.scale2 = None
        self.pos_embed = depthwise(config.ndim, dim, 3)
        self.drop_path_rate = drop_path_rate

    def _positioned(self, x: Tensor) -> Tensor:
        return x + self.pos_embed(x)

    def extra_repr(self) -> str:
        return f"drop_path_rate={self.drop_path_rate:.3g}"


class LocalBlock(Block):
    """Stages 1 and 2: convolution all the way, on (B, C, *grid)."""

    def __init__(self, config: Config, stage: int, drop_path_rate: float):
        super().__init__(config, stage, drop_path_rate)
        dim = config.dims[stage - 1]
        self.norm1 = batch_norm(config.ndim, dim)
        self.mhra = LocalMHRA(config.ndim, dim)
        self.norm2 = batch_norm(config.ndim, dim)
        self.ffn = FFN(dim, config.mlp_ratio, config.ndim)

    def forward(self, x: Tensor) -> Tensor:
        x = self._positioned(x)
        x = x + drop_path(scaled(self.mhra(self.norm1(x)), self.scale1), self.drop_path_rate, self.training)
        return x + drop_path(scaled(self.ffn(self.norm2(x)), self.scale2), self.drop_path_rate, self.training)


class GlobalBlock(Block):
    """Stages 3 and 4: attention over all tokens of the grid, or within windows of it."""

    def __init__(self, config: Config, stage: int, drop_path_rate: float, window: int | None = None):
        super().__init__(config, stage, drop_path_rate)
        dim = config.dims[stage - 1]
        self.norm1 = nn.LayerNorm(dim, eps=config.block_eps)
        self.mhra = GlobalMHRA(dim, config.head_dim)
        self.norm2 = nn.LayerNorm(dim, eps=config.block_eps)
        self.ffn = FFN(dim, config.mlp_ratio)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        tokens, grid = to_tokens(self._positioned(x))
        mixed = self._in_windows(self.norm1(tokens), grid) if self.window else self.mhra(self.norm1(tokens))
        return to_grid(self._refine(tokens, mixed), grid)

    def _refine(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """Add the mixed tokens, then the FFN's, each scaled and with drop path. All (B, N, C)."""
        tokens = tokens + drop_path(scaled(mixed, self.scale1), self.drop_path_rate, self.training)
        refined = scaled(self.ffn(self.norm2(tokens)), self.scale2)
        return tokens + drop_path(refined, self.drop_path_rate, self.training)

    def _in_windows(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        # The zero padding comes after the norm and is not masked: as keys and values it weighs by the qkv bias.
        # The published dense models were trained so.
        assert self.window is not None
        windows, padded = to_windows(tokens.unflatten(1, grid), self.window)
        return from_windows(self.mhra(windows), self.window, padded, grid).flatten(1, 2)


class SplitBlock(GlobalBlock):
    """Attention over time for each place, then over space for each frame (the reference's option SPLIT; video only).

    The residual of the space attention is the input, not the time attention's result, as in the reference.
    """

    def __init__(self, config: Config, stage: int, drop_path_rate: float):
        super().__init__(config, stage, drop_path_rate)
        dim = config.dims[stage - 1]
        self.time_norm = nn.LayerNorm(dim, eps=config.block_eps)
        self.time_mhra = GlobalMHRA(dim, config.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens, grid = to_tokens(self._positioned(x))
        T, HW = grid[0], math.prod(grid[1:])
        by_place = tokens.unflatten(1, (T, HW)).transpose(1, 2).flatten(0, 1)  # (B * HW, T, C)
        by_place = by_place + drop_path(self.time_mhra(self.time_norm(by_place)), self.drop_path_rate, self.training)
        by_frame = by_place.unflatten(0, (-1, HW)).transpose(1, 2).flatten(0, 1)  # (B * T, HW, C)
        mixed = self.mhra(self.norm1(by_frame)).view_as(tokens)
        return to_grid(self._refine(tokens, mixed), grid)

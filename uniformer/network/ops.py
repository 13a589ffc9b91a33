"""Pure functions of the network, named as in the paper. No parameters, no state.

Shape legend, used throughout: B batch, C channels, `grid` the positions (H, W) or (T, H, W), N their number,
h heads, d channels per head. A feature map is (B, C, *grid); its tokens are (B, N, C) in raster order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, ...]


def to_tokens(x: Tensor) -> tuple[Tensor, Grid]:
    """(B, C, *grid) -> tokens (B, N, C) and the grid."""
    return x.flatten(2).transpose(1, 2), tuple(x.shape[2:])


def to_grid(tokens: Tensor, grid: Grid) -> Tensor:
    """Tokens (B, N, C) -> (B, C, *grid)."""
    # Not by reshape, which gives a batch of one an odd stride, for which torch 2.15's batch norm has wrong gradients.
    return tokens.unflatten(1, grid).movedim(-1, 1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over (B, h, N, d), by whichever fused kernel torch has for the device."""
    return F.scaled_dot_product_attention(q, k, v)


def class_token_affinity(q: Tensor, k: Tensor) -> Tensor:
    """How much the class token, token 0, attends to every other one: (B, h, N + 1, d) -> (B, N), mean over heads.

    Only this one row of the affinity is formed, so the fused kernel can do the rest.
    """
    row = (q[:, :, :1] * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, h, 1, N + 1)
    return row.softmax(dim=-1).mean(dim=1)[:, 0, 1:]


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: zero the branch `x` for whole samples with probability `rate`, scale up the others."""
    if rate == 0.0 or not training:
        return x
    kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - rate)
    return x * (kept / (1 - rate))


def to_windows(x: Tensor, size: int) -> tuple[Tensor, Grid]:
    """(B, H, W, C) -> windows (B * nH * nW, size * size, C), zero-padded right and bottom; and the padded (H, W)."""
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, -W % size, 0, -H % size))
    nH, nW = x.shape[1] // size, x.shape[2] // size
    x = x.reshape(B * nH, size, nW, size * C).transpose(1, 2)  # rows of windows, each window's lines together
    return x.reshape(B * nH * nW, size * size, C), (nH * size, nW * size)


def from_windows(windows: Tensor, size: int, padded: Grid, grid: Grid) -> Tensor:
    """The inverse of `to_windows`: -> (B, H, W, C) with the padding cut off."""
    nW, C = padded[1] // size, windows.shape[-1]
    x = windows.reshape(-1, nW, size, size * C).transpose(1, 2)
    return x.reshape(-1, *padded, C)[:, : grid[0], : grid[1]]


def mix_boxed_tokens(x: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Inside rows box[0]:box[2] and columns box[1]:box[3] of (B, C, H, W), take the batch in reverse order.

    The token mixing of token labeling; applying it twice gives back the input.
    """
    top, left, bottom, right = box
    inside = torch.zeros(x.shape[-2:], dtype=torch.bool, device=x.device)
    inside[top:bottom, left:right] = True
    return torch.where(inside, x.flip(0), x)

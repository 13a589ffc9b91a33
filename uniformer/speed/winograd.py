"""3x3 convolutions with a quarter of the multiplications, for one thread of a CPU (Winograd; Lavin and Gray 2016,
arXiv 1509.09308, F(4x4, 3x3)).

A tile of 4x4 outputs is seen as values of polynomials at 36 points: tiles of 6x6 inputs and kernels are brought there
by small matrices, multiplied point by point, which over channels is 36 matrix products, and brought back. Per output
and pair of channels that is 36 / 16 multiplications in place of 9. The way there and back costs by channel alone, so it
pays where there are many. Sums round more: 2e-5 of the largest value in float32 where a direct convolution is off by
3e-6.

With several threads the 36 products are too small to be shared out, and threads wait for each other: none of this is
done then.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer.speed.products import product

SIDE = 4  #: of a tile of outputs; of inputs it is 6
LEAST = 1 << 16, 4096  #: pairs of channels and places from which on it pays: 1.6 times for 512 x 512, 1.4 for 256 x 256
MOST_PADDED = 1.2  #: of the places that whole tiles cover, to those of the grid: of 14 x 14 they are 1.3 times as many
AT_ONCE = 1 << 16  #: values at each point, tiles x channels: they stay in a CPU's caches

INPUT = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
         (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))  # fmt: skip
KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
          (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution of stride 1 that keeps the grid, x (B, C, H, W) by weight (D, C, 3, 3), is faster so."""
    H, W = x.shape[2:]
    if torch.get_num_threads() > 1 or weight.shape[0] * weight.shape[1] < LEAST[0] or len(x) * H * W < LEAST[1]:
        return False
    return _tiles_along(H) * _tiles_along(W) * SIDE**2 <= MOST_PADDED * H * W


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, H, W) by weight (D, C, 3, 3), zero-padded -> (B, D, H, W), channels last in memory."""
    to_points, from_points = _matrices(INPUT, x.dtype), _matrices(OUTPUT, x.dtype)
    D, C = weight.shape[:2]
    kernels = (_matrices(KERNEL, x.dtype) @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, C, D)
    pictures = x.permute(0, 2, 3, 1)  # (B, H, W, C)
    B, H, W, _ = pictures.shape
    down, across = _tiles_along(H), _tiles_along(W)
    out = x.new_empty(B, down, SIDE, across, SIDE, D)
    for some, rows in _portions(B, down, across, AT_ONCE // C):
        tiles = _tiles(pictures[some], rows, across)  # (36, tiles * C)
        seen = product(to_points, tiles.t()).view(36, -1, C)
        products = torch.stack([product(seen[i], kernels[i].t()) for i in range(36)])  # (36, tiles, D)
        back = product(from_points, products.view(36, -1).t()).view(SIDE, SIDE, -1, len(rows), across, D)
        out[some, rows.start : rows.stop] = back.permute(2, 3, 0, 4, 1, 5)
    out = out.view(B, down * SIDE, across * SIDE, D)[:, :H, :W]
    return (out if bias is None else out.add_(bias)).permute(0, 3, 1, 2)


def _tiles_along(length: int) -> int:
    return -(-length // SIDE)


@cache
def _matrices(rows: tuple[tuple[float, ...], ...], dtype: torch.dtype) -> Tensor:
    """A transform of both dimensions of a tile, from its values in raster order."""
    one = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(one, one).to(dtype)


def _portions(pictures: int, down: int, across: int, tiles: int) -> Iterator[tuple[slice, range]]:
    """Pictures and rows of tiles to be done at once, about so many tiles: several pictures, or some rows of one."""
    together = max(1, tiles // (down * across))
    rows = max(1, tiles // across)
    for first in range(0, pictures, together):
        for top in range(0, down, rows):
            yield slice(first, first + together), range(top, min(top + rows, down))


def _tiles(pictures: Tensor, rows: range, across: int) -> Tensor:
    """The tiles of inputs in some rows, (36, pictures * rows * across * C), a row and column of zeros around."""
    count, H, W, C = pictures.shape
    top, bottom = rows.start * SIDE - 1, rows.stop * SIDE + 1
    width = across * SIDE + 2
    around = (0, 0, 1, width - 1 - W, max(0, -top), max(0, bottom - H))
    part = F.pad(pictures[:, max(0, top) : min(bottom, H)], around)  # (n, bottom - top, width, C)
    shape = (SIDE + 2, SIDE + 2, count, len(rows), across, C)
    line = width * C
    strides = (line, C, part.stride(0), SIDE * line, SIDE * C, 1)
    return part.as_strided(shape, strides).reshape(36, -1)

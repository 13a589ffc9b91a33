"""Inference forms of the blocks under a head: as `blocks.py` has them, for the large maps of whole pictures.

Products are oneDNN's, queries, keys and values are gathered once, windows included, and results go back as they are
added. What a classifier computes stays as it is, to the last digit: these forms are for dense networks alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uniformer.network.blocks import GlobalBlock, LocalBlock, OverlapEmbed, PatchEmbed
from uniformer.network.hourglass import HourglassBlock
from uniformer.network.ops import attention
from uniformer.speed.blocks import (
    CHUNK,
    MIN_ROWS,
    FastGlobalBlock,
    FastHourglassBlock,
    FastLocalBlock,
    FastMHRA,
    FastOverlapEmbed,
    FastPatchEmbed,
    Product,
)
from uniformer.speed.depthwise import channels_last
from uniformer.speed.products import product, product_added


class DenseLocalBlock(FastLocalBlock):
    def _in_place(self, x: Tensor) -> Tensor:
        by_position = x.movedim(1, -1)  # (B, H, W, C)
        rows = by_position.view(-1, x.shape[1])
        values = product(rows, self.value.weight.flatten(1), self.value.bias)
        mixed = channels_last(self.affinity(values.view(by_position.shape).movedim(-1, 1)))
        rows = product_added(rows, mixed.movedim(1, -1).view_as(rows), self.proj.weight.flatten(1))
        feed_forward_(rows, self.fc1, self.fc2)
        return rows.view(by_position.shape).movedim(-1, 1)


class DenseGlobalBlock(FastGlobalBlock):
    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x)
        by_position = self._positioned(x).movedim(1, -1)  # (B, H, W, C)
        rows = by_position.reshape(-1, by_position.shape[-1])
        qkv, mhra = self.mhra.qkv(self.norm1(rows)), self.mhra
        assert isinstance(mhra, FastMHRA)
        if mhra.float32:
            qkv = qkv.float()
        q, k, v = self._heads_in_windows(qkv.view(*by_position.shape[:3], qkv.shape[-1]))
        mixed = self._in_raster(attention(q, k, v), by_position.shape).to(rows.dtype)
        rows = product_added(rows, mixed, mhra.proj.weight, mhra.proj.bias)
        feed_forward_(rows, self.ffn.fc1, self.ffn.fc2, self.norm2)  # type: ignore[arg-type]
        return rows.view(by_position.shape).movedim(-1, 1)

    def _heads_in_windows(self, qkv: Tensor) -> Tensor:
        """(B, H, W, 3 C) -> (3, windows, heads, tokens of a window, d) in one copy; a global block has one window.

        The padding of windows is zero after the norm, so its queries, keys and values are the bias.
        """
        B, H, W, C = qkv.shape
        height, width = (self.window, self.window) if self.window else (H, W)
        down, right = -H % height, -W % width
        if down or right:
            padded = self.mhra.qkv.bias.to(qkv).expand(B, H + down, W + right, C).contiguous()
            padded[:, :H, :W] = qkv
            qkv = padded
        windows = ((H + down) // height, height, (W + right) // width, width)
        parts = qkv.view(B, *windows, 3, C // 3 // self.mhra.head_dim, self.mhra.head_dim)
        gathered = parts.permute(5, 0, 1, 3, 6, 2, 4, 7).contiguous()  # (3, B, rows, columns, heads, height, width, d)
        return gathered.flatten(5, 6).flatten(1, 3)

    def _in_raster(self, heads: Tensor, shape: torch.Size) -> Tensor:
        """Of windows (N, heads, tokens, d) -> rows (B * H * W, C), the padding cut off."""
        B, H, W, C = shape
        height, width = (self.window, self.window) if self.window else (H, W)
        down, across = -(-H // height), -(-W // width)
        parts = heads.transpose(1, 2).reshape(B, down, across, height, width, C).transpose(2, 3)
        return parts.reshape(B, down * height, across * width, C)[:, :H, :W].reshape(-1, C)


class DenseHourglassBlock(FastHourglassBlock):
    def _refine(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super()._refine(tokens, mixed)
        tokens.add_(mixed)
        feed_forward_(tokens.view(-1, tokens.shape[-1]), self.ffn.fc1, self.ffn.fc2, self.norm2)  # type: ignore[arg-type]
        return tokens


DENSE: dict[type[nn.Module], type[nn.Module]] = {  # as `network.FAST`
    LocalBlock: DenseLocalBlock,
    HourglassBlock: DenseHourglassBlock,
    GlobalBlock: DenseGlobalBlock,
    OverlapEmbed: FastOverlapEmbed,
    PatchEmbed: FastPatchEmbed,
}


def feed_forward_(rows: Tensor, fc1: Product, fc2: Product, norm: nn.Module | None = None) -> None:
    """`blocks.feed_forward_` by oneDNN, which adds GELU and rows as it stores the products.

    Each thread has a chunk's worth of rows: whole pictures have so many that threads would wait for each other often.
    """
    w1, w2 = fc1.weight.flatten(1), fc2.weight.flatten(1)
    each = max(CHUNK // len(w1), MIN_ROWS) if rows.device.type == "cpu" else len(rows)
    for some in rows.split(each * torch.get_num_threads()):
        hidden = product(some if norm is None else norm(some), w1, fc1.bias, gelu=True)
        some.copy_(product_added(some, hidden, w2, fc2.bias))

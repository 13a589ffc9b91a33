"""Inference forms of the blocks under a head: as `blocks.py` has them, for the large maps of whole pictures.

Queries, keys and values are gathered once, windows included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from uniformer.network.blocks import GlobalBlock
from uniformer.speed.blocks import FastGlobalBlock, FastMHRA, feed_forward_
from uniformer.speed.network import FAST
from uniformer.speed.products import add_product_, attention


class DenseGlobalBlock(FastGlobalBlock):
    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x)
        by_position = self._positioned(x).movedim(1, -1)  # (B, H, W, C)
        rows = by_position.view(-1, by_position.shape[-1])
        qkv, mhra = self.mhra.qkv(self.norm1(rows)), self.mhra
        assert isinstance(mhra, FastMHRA)
        if mhra.float32:
            qkv = qkv.float()
        q, k, v = self._heads_in_windows(qkv.view(*by_position.shape[:3], qkv.shape[-1]))
        mixed = self._in_raster(attention(q, k, v, by=self.by.attention), by_position.shape).to(rows.dtype)
        add_product_(rows, mixed, mhra.proj.weight, mhra.proj.bias, by=self.by.products)
        feed_forward_(rows, self.ffn.fc1, self.ffn.fc2, self.norm2, by=self.by)  # type: ignore[arg-type]
        return by_position.movedim(-1, 1)

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


DENSE = {**FAST, GlobalBlock: DenseGlobalBlock}

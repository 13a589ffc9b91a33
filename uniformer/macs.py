"""Multiply-adds of a model, the "FLOPs" of the paper's tables, without running it: shapes alone are enough."""

from __future__ import annotations

from uniformer.config import Config
from uniformer.model import UniFormer
from uniformer.ops import Grid


def count_macs(config: Config, size: Grid) -> int:
    """Multiply-adds of convolutions and matrix products for one input of `size`, (H, W) or (T, H, W).

    Counted by `torch.utils.flop_counter` on the meta device; norms, activations and additions are not in it.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        UniFormer(config).requires_grad_(False).eval()(torch.empty(1, config.in_chans, *size))
    return counter.get_total_flops() // 2  # torch counts a multiply-add as two

"""Multiply-adds of a model, the "FLOPs" of the paper's tables, without running it: shapes alone are enough."""

from __future__ import annotations

import functools

from uniformer.config import Config
from uniformer.network.model import UniFormer
from uniformer.network.ops import Grid


def count_macs(config: Config, size: Grid, *, norms: bool = False) -> int:
    """Multiply-adds of convolutions and matrix products for one input of `size`, (H, W) or (T, H, W).

    Counted by `torch.utils.flop_counter` on the meta device; norms, activations and additions are not in it. `norms`
    adds 2 for each element of a batch norm and 5 of a layer norm: so counted fvcore, with which the authors printed
    their figures.
    """
    products, of_norms = _counted(config, tuple(size))
    return products + norms * of_norms


@functools.lru_cache
def _counted(config: Config, size: Grid) -> tuple[int, int]:
    """Of convolutions and matrix products, and of norms."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    of_norms = 0

    def add(module: torch.nn.Module, args: object, out: torch.Tensor) -> None:
        nonlocal of_norms
        of_norms += out.numel() * (5 if isinstance(module, torch.nn.LayerNorm) else 2)

    with torch.device("meta"), torch.no_grad():
        model = UniFormer(config).requires_grad_(False).eval()
        for m in model.modules():
            if isinstance(m, torch.nn.LayerNorm | torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
                m.register_forward_hook(add)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, config.in_chans, *size))
    return counter.get_total_flops() // 2, of_norms  # torch counts a multiply-add as two

"""Multiply-adds of any network of the package, with its head or without, the "FLOPs" of the paper's tables."""

from __future__ import annotations

import functools

from uniformer.config import Config
from uniformer.network import macs
from uniformer.network.ops import Grid

REGIONS, MASKS = 1000, 100  #: that a detector's figures were printed for


def count_macs(config: Config, size: Grid, *, norms: bool = False) -> int:
    """Multiply-adds of convolutions and matrix products for one input of `size`, (H, W) or (T, H, W).

    Counted by `torch.utils.flop_counter` on the meta device; norms, activations and additions are not in it. `norms`
    adds 2 for each element of a batch norm and 5 of a layer norm: so counted fvcore, with which the authors printed
    the figures of classifiers; those of networks with heads are without. Of a detector with 1,000 regions through the
    box heads and 100 through the mask heads, RoIAlign and suppression left out; of UPerNet without its auxiliary head.
    """
    backbone = macs.count_macs(config.backbone, size, norms=norms)
    return backbone if config.head is None else backbone + _of_head(config, tuple(size))


@functools.lru_cache
def _of_head(config: Config, size: Grid) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from uniformer.heads import build_network
    from uniformer.heads.detection import Detector

    with torch.device("meta"), torch.no_grad():
        network = build_network(config).requires_grad_(False).eval()
        with FlopCounterMode(display=False) as counter:
            found = network(torch.empty(1, config.in_chans, *size))
            if isinstance(network, Detector):
                network.rpn_head(found)
                for box, mask in zip(network.roi_head.box_heads, network.roi_head.mask_heads, strict=True):
                    box(torch.empty(REGIONS, config.head_width, 7, 7))
                    mask(torch.empty(MASKS, config.head_width, 14, 14))
    return counter.get_total_flops() // 2 - macs.count_macs(config.backbone, size)

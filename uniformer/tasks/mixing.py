"""Mixup, CutMix and label smoothing of a batch, and the boxes of MixToken. Draws come from the generator given.

Each sample is blended with the one at the mirrored place in the batch (the first with the last), pictures and clips
alike: a box is the same for all frames. Sources: arXiv:1710.09412 (mixup), arXiv:1905.04899 (CutMix), and the form of
both in timm and in the SlowFast fork. A batch may have any size; the sample in the middle of an odd one stays itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from uniformer.errors import InputError
from uniformer.network.model import Box
from uniformer.tasks.options import Mixing


class Blend(NamedTuple):
    """How much of a sample stays, and which box is the other's; without a box the two are averaged."""

    share: float
    box: Box | None


def mix_batch(
    x: Tensor, labels: Tensor, num_classes: int, mixing: Mixing, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blended samples and their soft targets.

    Args:
        x: (B, 3, H, W) or (B, 3, T, H, W); left as it is.
        labels: as `soft_targets` takes them.
        num_classes: K.
        mixing: what to draw; with nothing on, labels are smoothed only.
        rng: in training over many processes, one of its own in each.

    Returns:
        x of the same shape, and targets (B, K), float32.

    Raises:
        InputError: labels of another form, or another number of them than samples.
    """
    targets = soft_targets(labels, num_classes, mixing.label_smoothing)
    if len(targets) != len(x):
        raise InputError(f"expected one label for each of {len(x)} samples, got {len(targets)}")
    if not mixing.is_on:
        return x, targets
    size = (x.shape[-2], x.shape[-1])
    if mixing.mode == "batch":
        blend = draw_blend(size, mixing, rng)
        return _blended(x, x.flip(0), blend), targets.flip(0).lerp(targets, blend.share)
    drawn = len(x) if mixing.mode == "elem" else (len(x) + 1) // 2
    blends = [draw_blend(size, mixing, rng) for _ in range(drawn)]
    blends += blends[: len(x) - drawn][::-1]  # the second of a pair as the first
    mixed = torch.stack([_blended(one, other, blend) for one, other, blend in zip(x, x.flip(0), blends, strict=True)])
    shares = targets.new_tensor([blend.share for blend in blends])[:, None]
    return mixed, targets.flip(0).lerp(targets, shares)


def soft_targets(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Smoothed targets (B, K), float32, from class numbers (B,), or from several labels a sample as 0 and 1, (B, K).

    One label: `smoothing` of the weight is spread evenly over all classes. Several: each is drawn towards a half.
    Raises `InputError` for another form, and for class numbers outside 0 .. K - 1.
    """
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        return smooth(labels.float(), smoothing, 0.5)
    if labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"expected labels as integers (B,) or as 0 and 1 (B, {num_classes}), "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise InputError(f"expected labels in 0 .. {num_classes - 1}, got {int(labels.min())} .. {int(labels.max())}")
    return smooth(torch.nn.functional.one_hot(labels.long(), num_classes).float(), smoothing, 1 / num_classes)


def smooth(targets: Tensor, smoothing: float, level: float) -> Tensor:
    """Targets drawn towards `level` by the share `smoothing`."""
    return targets * (1 - smoothing) + smoothing * level


def draw_blend(size: tuple[int, int], mixing: Mixing, rng: np.random.Generator) -> Blend:
    """One draw for samples of `size` (height, width): nothing, mixup or cutmix, as `mixing` says."""
    if rng.random() >= mixing.prob:
        return Blend(1.0, None)
    both = mixing.mixup_alpha > 0 and mixing.cutmix_alpha > 0
    cuts = rng.random() < mixing.switch_prob if both else mixing.cutmix_alpha > 0
    if not cuts:
        return Blend(rng.beta(mixing.mixup_alpha, mixing.mixup_alpha), None)
    top, left, bottom, right = box = draw_box(size, rng.beta(mixing.cutmix_alpha, mixing.cutmix_alpha), rng)
    return Blend(1 - (bottom - top) * (right - left) / (size[0] * size[1]), box)  # the box may be cut off at a border


def draw_mix_box(grid: tuple[int, int], rng: np.random.Generator) -> Box:
    """The box of MixToken on a grid of tokens (height, width): its area is uniform, Beta(1, 1). May be empty."""
    return draw_box(grid, rng.beta(1, 1), rng)


def draw_box(size: tuple[int, int], share: float, rng: np.random.Generator) -> Box:
    """A box of 1 - share of the area and the shape of `size`, centred anywhere, cut off at the borders."""
    side = math.sqrt(1 - share)
    bounds = []
    for length in size:
        centre, half = int(rng.integers(length)), int(length * side) // 2
        bounds.append((max(centre - half, 0), min(centre + half, length)))
    (top, bottom), (left, right) = bounds
    return top, left, bottom, right


def _blended(x: Tensor, other: Tensor, blend: Blend) -> Tensor:
    """Both (..., H, W)."""
    if blend.box is None:
        return other.lerp(x, blend.share) if blend.share < 1 else x
    top, left, bottom, right = blend.box
    x = x.clone()
    x[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return x

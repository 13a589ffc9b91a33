"""Large things that move before the lens, pasted into a clip: people who pass, a head that sways, a hand coming near.

Where the class is what the camera does, they must not change the answer. They are cut from the clip itself, so no other
file is read; a blurred background behind them is what a lens focused on them leaves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer.reading.pictures import Pixels

Track = npt.NDArray[np.float64]

_TEXTURE = 48  # pixels each way of what is pasted, before it is stretched
_EDGE = 0.08  # width of the soft edge, as a share of half the cut-out


class Motion(NamedTuple):
    """Where a cut-out is in each of T frames. The picture goes from -1 to 1 both ways."""

    x: Track
    y: Track
    size: Track  #: half of its height; the picture has 1
    turn: Track  #: radians


def paste_foreground(frames: Pixels, rng: np.random.Generator) -> Pixels:
    """One or two cut-outs over a clip, uint8 RGB (T, H, W, 3) -> the same; in a third the rest gets out of focus."""
    clip = torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, 1).float()  # (T, 3, H, W)
    view = _defocused(clip, rng.uniform(2, 6)) if rng.random() < 0.33 else clip
    for _ in range(1 + (rng.random() < 0.35)):
        cutout = torch.cat([_cut(clip, rng), _shape(rng)])
        view = _pasted(view, cutout, _motion(len(frames), rng), rng.uniform(0.3, 1.1))
    return view.round().clamp(0, 255).byte().movedim(1, -1).contiguous().numpy()


def _cut(clip: Tensor, rng: np.random.Generator) -> Tensor:
    """(3, h, w) a part of one frame, its colours changed and, in a third, most of its texture gone."""
    _, _, height, width = clip.shape
    h, w = (max(4, int(side * rng.uniform(0.25, 0.8))) for side in (height, width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    part = clip[int(rng.integers(len(clip))), None, :, top : top + h, left : left + w]
    if rng.random() < 0.33:
        part = F.adaptive_avg_pool2d(part, (4, 3))
    part = F.interpolate(part, (_TEXTURE, _TEXTURE), mode="bilinear", align_corners=False)[0]
    gain = torch.from_numpy(rng.normal(1, 0.25, (3, 1, 1)) * rng.uniform(0.5, 1.4)).float()
    part = part.flip(2) if rng.random() < 0.5 else part
    return (part * gain).clamp(0, 255)


def _shape(rng: np.random.Generator) -> Tensor:
    """(1, h, w) how opaque: a box, an ellipse, a blob, or a head on shoulders."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, _TEXTURE),) * 2, indexing="ij")
    kind = rng.choice(["box", "ellipse", "blob", "person"])
    if kind == "box":
        inside = 0.9 - torch.maximum(x.abs(), y.abs())
    elif kind == "person":
        head = 0.35 - torch.hypot(x - rng.uniform(-0.1, 0.1), (y + 0.55) * 0.85)
        body = 0.9 - torch.hypot(x, (y - 0.95) * rng.uniform(0.7, 1.1))
        inside = torch.maximum(head, body).minimum(0.95 - y)
    else:
        inside = inside_blob(x, y, 0.1 if kind == "blob" else 0.0, rng)
    return (inside / _EDGE + 0.5).clamp(0, 1)[None]


def inside_blob(x: Tensor, y: Tensor, depth: float, rng: np.random.Generator) -> Tensor:
    """How far points (in -1..1) lie inside a circle of radius 0.9, or one with random dents of up to `depth`."""
    around, radius = torch.atan2(y, x), torch.full_like(x, 0.9)
    for lobes in range(2, 6) if depth else ():
        radius = radius - depth * rng.random() * (1 + torch.cos(lobes * around + rng.uniform(0, 6.28)))
    return radius - torch.hypot(x, y)


def _motion(count: int, rng: np.random.Generator) -> Motion:
    """Across the view, towards the lens or away, or swaying in place; a little of the last comes with the others."""
    time = np.linspace(0, 1, count)
    x, y = rng.uniform(-0.7, 0.7), rng.uniform(-0.3, 0.6)
    size = np.full(count, np.exp(rng.uniform(np.log(0.3), np.log(1.4))))
    aside, along, much = np.zeros(count), np.zeros(count), rng.uniform(0.0, 0.06)
    kind = rng.choice(["passes", "comes", "sways", "stands"], p=[0.35, 0.2, 0.35, 0.1])
    if kind == "passes":
        way, middle = rng.choice([-1, 1]) * rng.uniform(0.4, 4.0), rng.uniform(0.2, 0.8)
        aside, along = way * (time - middle), 0.15 * rng.normal() * way * (time - middle)
        x = rng.uniform(-0.3, 0.3)
    elif kind == "comes":
        grows = rng.choice([-1, 1]) * rng.uniform(0.3, 1.2)
        there = time if rng.random() < 0.6 else np.sin(np.pi * time)  # or comes and goes
        size = size * 2 ** (grows * (there - 0.5))
    elif kind == "sways":
        much = rng.uniform(0.05, 0.35)
    return Motion(
        x + aside + much * _sway(time, rng),
        y + along + 0.6 * much * _sway(time, rng),
        size * 2 ** (0.3 * much * _sway(time, rng)),
        rng.normal(0, 0.15) + much * _sway(time, rng),
    )


def _sway(time: Track, rng: np.random.Generator) -> Track:
    """(T,) three slow sines with random phases, of deviation 1 together."""
    cycles, phases = rng.uniform(0.3, 3, (3, 1)), rng.uniform(0, 2 * np.pi, (3, 1))
    return np.sin(2 * np.pi * cycles * time + phases).sum(0) * np.sqrt(2 / 3)


def _pasted(view: Tensor, cutout: Tensor, motion: Motion, slimness: float) -> Tensor:
    """(T, 3, H, W) with the cut-out (4, h, w) over it; `slimness` is its width over its height."""
    count, _, height, width = view.shape
    # From picture to cut-out: less the centre, turned, over the size. Both ways in halves of the picture's height.
    stretch = width / height
    cos, sin = np.cos(motion.turn) / motion.size, np.sin(motion.turn) / motion.size
    matrix = np.stack([
        np.stack([stretch * cos, sin, -(stretch * cos * motion.x + sin * motion.y)], -1) / slimness,
        np.stack([-stretch * sin, cos, stretch * sin * motion.x - cos * motion.y], -1),
    ], 1)  # fmt: skip
    grid = F.affine_grid(torch.from_numpy(matrix).float(), [count, 4, height, width], align_corners=False)
    seen = F.grid_sample(cutout.expand(count, *cutout.shape), grid, align_corners=False)  # nothing outside: opacity 0
    return view + seen[:, 3:] * (seen[:, :3] - view)


def _defocused(clip: Tensor, times: float) -> Tensor:
    """Blurred as by a shrinking to `times` less and back."""
    small = F.interpolate(clip, scale_factor=1 / times, mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(small, clip.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 255)

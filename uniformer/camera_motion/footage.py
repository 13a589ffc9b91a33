"""What makes clean pictures look like footage: motion blur, lens, exposure, colour, noise, overlays, H.264.

Nothing here knows the class.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Frames = npt.NDArray[np.uint8]

FPS = 12
_GOP = 8


def level_light(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """One gain for the whole clip, as a camera's exposure would choose it: dark scenes become visible."""
    wanted = rng.uniform(75, 135)
    gain = np.clip(wanted / max(float(frames.mean()), 1.0), 0.6, 4.0)
    return frames * gain


def held(count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """(count,) which frame is shown when: each its own, or in a fifth of the clips fewer, held, as of a slow camera."""
    every = rng.choice([1, 2, 3], p=[0.8, 0.14, 0.06])
    return np.arange(count) // every * every


def as_footage(frames: Tensor, rng: np.random.Generator) -> Frames:
    """(T, 3, H, W) in 0..255 -> uint8 (T, H, W, 3), degraded at random."""
    count, _, height, width = frames.shape
    frames = (frames / 255).clamp(0, 1)
    if rng.random() < 0.4:
        frames = _soften(frames, rng.uniform(0.2, 0.9))
    frames = frames ** rng.uniform(0.75, 1.3)
    if rng.random() < 0.15:
        frames = frames.mean(1, keepdim=True).expand_as(frames)
    balance = rng.normal(1, 0.06, (1, 3, 1, 1))
    frames = frames * torch.from_numpy(balance * _exposure(count, rng)[:, None, None, None]).float()
    if rng.random() < 0.4:
        frames = frames * _vignette(height, width, rng.uniform(0.1, 0.5))
    if rng.random() < 0.7:
        noise = rng.standard_normal((count, 3, height, width), np.float32) * rng.uniform(0.004, 0.035)
        frames = frames + torch.from_numpy(noise) * (0.4 + frames.clamp(0, 1).sqrt())
    frames = _overlay(frames, rng)
    return (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def _soften(frames: Tensor, strength: float) -> Tensor:
    padded = torch.nn.functional.pad(frames, (1, 1, 1, 1), mode="replicate")
    return frames + strength * (torch.nn.functional.avg_pool2d(padded, 3, 1) - frames)


def _exposure(count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(T,) gain: steady, creeping, flickering, or a step as the automatic exposure reacts."""
    time = np.linspace(0, 1, count)
    gain = np.ones(count)
    if rng.random() < 0.3:
        gain = gain * 2 ** (rng.uniform(-0.6, 0.6) * time)
    if rng.random() < 0.15:
        gain = gain * (1 + rng.uniform(0.01, 0.08) * rng.standard_normal(count))
    if rng.random() < 0.1:
        gain = gain * np.where(time > rng.uniform(0.2, 0.8), 2 ** rng.uniform(-0.4, 0.4), 1)
    return gain


def _vignette(height: int, width: int, strength: float) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return 1 - strength * (x**2 + y**2) / 2


def _overlay(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Things that stay in their place on the screen: black bars, a channel's logo, a line of text."""
    _, _, height, width = frames.shape
    frames = frames.clone()
    if rng.random() < 0.06:
        bar = int(rng.integers(6, 15))
        frames[:, :, :bar] = frames[:, :, height - bar :] = 0
    if rng.random() < 0.06:
        high, wide = int(rng.integers(6, 16)), int(rng.integers(8, 40))
        top = int(rng.choice([4, height - high - 4]))
        left = int(rng.choice([4, width - wide - 4]))
        mark = torch.from_numpy(rng.random((3, (high + 1) // 2, (wide + 1) // 2), np.float32).round())
        mark = mark.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :high, :wide]
        place = frames[:, :, top : top + high, left : left + wide]
        place += rng.uniform(0.4, 1) * (mark - place)
    return frames


def write_clip(path: Path, frames: Frames, rng: np.random.Generator) -> dict[str, Any]:
    """H.264 at a random quality. The same frames and generator give the same bytes on one kind of processor.

    So it has one thread, nothing dated, and no lookahead: where x264 finds AVX-512, that differs from run to run.
    """
    quality = int(rng.integers(17, 33))
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.gop_size = _GOP
        stream.options = {"crf": str(quality), "preset": "veryfast", "rc-lookahead": "0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return {"crf": quality, "fps": FPS}

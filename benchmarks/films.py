"""Real files to measure reading with: a camera's way over a photograph, with noise, as H.264."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

PHOTOS = Path(__file__).parents[1] / "uniformer" / "assets" / "photos"


def write_film(
    path: Path, width: int, height: int, *, seconds: float = 10, fps: int = 30, gop: int = 250, seed: int = 0
) -> Path:
    """A film of one photograph, x264's usual settings: `gop` frames from one keyframe to the next at most, B-frames."""
    rng = np.random.default_rng(seed)
    photos = sorted(PHOTOS.glob("*.jpg"))
    photo = Image.open(photos[seed % len(photos)]).convert("RGB")
    photo = photo.resize((width * 3 // 2, height * 3 // 2))
    count = round(seconds * fps)
    free = np.array([photo.width - width, photo.height - height])
    begin, end = rng.uniform(0, 1, (2, 2)) * free
    noise = rng.normal(0, 2, (8, height, width, 3)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"g": str(gop), "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(count):
            left, top = (begin + (end - begin) * (0.5 - 0.5 * np.cos(np.pi * i / count))).round().astype(int)
            picture = np.asarray(photo.crop((left, top, left + width, top + height)), np.float32)
            picture = (picture + np.roll(noise[i % 8], i, 1)).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path

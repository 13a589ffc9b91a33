"""Small films whose shots are known: parts of the demo's photographs, moved, and written as real files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

PHOTOS = tuple(
    sorted(path.name for path in (files("uniformer") / "assets" / "photos").iterdir() if ".jpg" in path.name)
)
SIZE = (128, 96)  # width and height

Pixels = NDArray[np.uint8]


def photo(number: int) -> Image.Image:
    with Image.open(str(files("uniformer") / "assets" / "photos" / PHOTOS[number])) as image:
        return image.convert("RGB").resize((512, 384))


def pan(number: int, frames: int, step: float = 3.0, start: float = 0.0) -> Iterator[Pixels]:
    """A window over a photograph that moves right by `step` pixels of the film a frame, and comes back at the edge."""
    image, (width, height) = photo(number), SIZE
    free = image.width - 2 * width
    for frame in range(frames):
        x = (start + 2 * step * frame) % (2 * free)
        left = round(min(x, 2 * free - x))
        yield np.asarray(image.crop((left, 80, left + 2 * width, 80 + 2 * height)).resize(SIZE))


def shake(number: int, frames: int, pixels: float, seed: int = 0) -> Iterator[Pixels]:
    """The same window, trembling by so many pixels of the film."""
    image, rng, (width, height) = photo(number), np.random.default_rng(seed), SIZE
    for _ in range(frames):
        left, top = (120 + 2 * pixels * rng.standard_normal(2)).clip(0, 180).round().astype(int).tolist()
        yield np.asarray(image.crop((left, top, left + 2 * width, top + 2 * height)).resize(SIZE))


def write(path: Path, frames: Iterable[Pixels], *, rate: int = 24, gop: int = 12) -> Path:
    """H.264, as cameras write it, in the size of the first frame."""
    first, *rest = frames
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"threads": "1", "g": str(gop), "crf": "20"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate([first, *rest]):
            picture = av.VideoFrame.from_ndarray(frame)
            picture.pts, picture.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path

"""Pictures inside a page: small, and as addresses (data URLs) that hold them."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from uniformer.datasets.manifest import Kind
from uniformer.errors import InputError
from uniformer.reading.pictures import Pixels, file_to_pixels, open_image
from uniformer.reading.video import open_video
from uniformer.reading.views import frames_within


def still(image: Image.Image) -> str:
    """An image as a JPEG."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def moving(images: Sequence[Image.Image], milliseconds: int) -> str:
    """Images as an animated WebP that shows each of them so long."""
    data = io.BytesIO()
    more = images[1:]
    images[0].save(data, "WEBP", save_all=True, append_images=more, duration=milliseconds, quality=55, method=2)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def shrunk(pixels: Pixels, most: int) -> tuple[Pixels, float]:
    """A picture (H, W, 3) or a label map (H, W) whose sides are at most so many pixels, and how many times as large."""
    height, width = pixels.shape[:2]
    factor = min(1.0, most / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    filter_ = Image.Resampling.BILINEAR if pixels.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize(size, filter_)), factor


def thumbnail(path: str, kind: Kind, span: tuple[float, float] | None = None) -> str | None:
    """`middle_pixels`, small; the part of a video is in seconds."""
    pixels = middle_pixels(path, kind, span)
    if pixels is None:
        return None
    image = Image.fromarray(pixels)
    image.thumbnail((320, 160))
    return still(image)


def middle_pixels(path: str, kind: Kind, span: tuple[float, float] | None = None) -> Pixels | None:
    """An image, or the middle frame of a video or of a part of it, uint8 (H, W, 3); None where it cannot be read."""
    try:
        if kind == "image":
            return file_to_pixels(open_image(path), path)
        with warnings.catch_warnings(), open_video(path) as reader:
            warnings.simplefilter("ignore")  # of damage, which others tell of
            first, count = frames_within(reader, span)
            return reader.read([first + count // 2])[0]
    except InputError:
        return None

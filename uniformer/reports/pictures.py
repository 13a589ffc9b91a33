"""Pictures inside a page: small, and as addresses (data URLs) that hold them."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence

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


def thumbnail(path: str, kind: Kind, span: tuple[float, float] | None = None) -> str | None:
    """An image, or the middle frame of a video or of a part of it, in seconds; None where it cannot be read."""
    pixels = _middle(path, kind, span)
    if pixels is None:
        return None
    image = Image.fromarray(pixels)
    image.thumbnail((320, 160))
    return still(image)


def _middle(path: str, kind: Kind, span: tuple[float, float] | None) -> Pixels | None:
    try:
        if kind == "image":
            return file_to_pixels(open_image(path), path)
        with warnings.catch_warnings(), open_video(path) as reader:
            warnings.simplefilter("ignore")  # of damage, which others tell of
            first, count = frames_within(reader, span)
            return reader.read([first + count // 2])[0]
    except InputError:
        return None

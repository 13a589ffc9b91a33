"""Label maps as PNG: the values of the pixels are the labels, and a palette shows them in colours."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniformer.errors import InputError
from uniformer.reading.pictures import open_image

_COLOURS = 256  #: of a palette in full: with a shorter one Pillow cuts the values, of 16 colours to four bits


def to_png(labels: NDArray[np.integer[Any]], palette: Iterable[Iterable[int]] = ()) -> bytes:
    """Labels (H, W) as a PNG: uint8 in the colours of a palette (RGB, 0 to 255; the rest black), or grey without one;
    other types as 16 bits. Raises `InputError` for labels below 0 or beyond 65535."""
    for end in (int(labels.max(initial=0)), int(labels.min(initial=0))):
        if not 0 <= end <= 0xFFFF:
            raise InputError(f"expected labels of 0 to {0xFFFF}, got {end}")
    image = Image.fromarray(labels if labels.dtype == np.uint8 else labels.astype(np.uint16))
    colours = bytes(value for colour in palette for value in colour)
    if colours and image.mode == "L":
        image.putpalette(colours[: 3 * _COLOURS].ljust(3 * _COLOURS, b"\0"))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def from_png(data: bytes) -> NDArray[Any]:
    """The labels (H, W) that `to_png` wrote."""
    return np.asarray(open_image(data, whole=True))

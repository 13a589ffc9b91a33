"""Colours of a picture changed at random: brightness, contrast, saturation, hue. NumPy only.

As in the published segmenters (from SSD, Liu et al. 2016): each of the four has its chance, contrast comes before
saturation and hue or after them, and saturation and hue are those of the hexcone model (HSV).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniformer.reading.dense_options import Colour
from uniformer.reading.pictures import Pixels

Values = NDArray[np.floating[Any]]


def recoloured(pixels: Pixels, colour: Colour, rng: np.random.Generator) -> Pixels:
    """uint8 RGB (H, W, 3) -> the same with other colours, or itself where the draws leave it as it is."""
    if not colour.is_on:
        return pixels
    brighter = rng.uniform(-colour.brightness, colour.brightness) if rng.random() < colour.prob else 0.0
    contrast, saturation = (
        rng.uniform(1 - most, 1 + most) if rng.random() < colour.prob else 1.0
        for most in (colour.contrast, colour.saturation)
    )
    degrees = rng.uniform(-colour.hue, colour.hue) if rng.random() < colour.prob else 0.0
    is_contrast_last = rng.random() < 0.5
    pixels = _linear(pixels, 1.0, brighter)
    if not is_contrast_last:
        pixels = _linear(pixels, contrast)
    pixels = _turned(_saturated(pixels, saturation), degrees)
    return _linear(pixels, contrast) if is_contrast_last else pixels


def _linear(pixels: Pixels, factor: float, more: float = 0.0) -> Pixels:
    """Values times `factor` and `more`, cut off at 0 and 255, their fractions too."""
    if (factor, more) == (1, 0):
        return pixels
    table = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(more)
    return table.clip(0, 255).astype(np.uint8)[pixels]


def _saturated(pixels: Pixels, factor: float) -> Pixels:
    """Saturation, (largest - smallest) / largest channel, times `factor` and up to 1; the largest stays."""
    if factor == 1:
        return pixels
    values = pixels.astype(np.float32)
    largest, smallest = values.max(2, keepdims=True), values.min(2, keepdims=True)
    most = largest / np.maximum(largest - smallest, 1)  # what makes the smallest 0
    return np.rint(largest - (largest - values) * np.minimum(factor, most)).astype(np.uint8)


def _turned(pixels: Pixels, degrees: float) -> Pixels:
    """Hue, an angle around the hexagon of colours, turned; saturation and the largest channel stay."""
    if degrees == 0:
        return pixels
    values = pixels.astype(np.float32)
    largest = values.max(2)
    chroma = largest - values.min(2)
    red, green, blue = np.moveaxis(values, 2, 0)
    sixths = np.select(  # from 0, red, by 2, green, and 4, blue, to 6
        [largest == red, largest == green], [green - blue, blue - red + 2 * chroma], red - green + 4 * chroma
    ) / np.maximum(chroma, 1) + np.float32(degrees / 60)
    places = (sixths[..., None] + np.array([5, 3, 1], np.float32)) % 6
    lacking = np.minimum(places, 4 - places).clip(0, 1)
    return np.rint(largest[..., None] - chroma[..., None] * lacking).astype(np.uint8)

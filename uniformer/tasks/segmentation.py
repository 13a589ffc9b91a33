"""Semantic segmentation: the class of each pixel, and its colours. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from uniformer.reading.pictures import Pixels

UNLABELLED = (0, 0, 0)  #: the colour of pixels without a class


def paint(labels: NDArray[np.integer], palette: Sequence[Sequence[int]]) -> Pixels:
    """Labels (H, W) in the colours of their classes: uint8 RGB (H, W, 3). Labels beyond the palette are black."""
    table = np.full((max(256, len(palette)), 3), UNLABELLED, np.uint8)
    table[: len(palette)] = palette
    return table[labels.clip(0, len(table) - 1)]

"""Pictures."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from uniformer.reading.frames import IMAGE_SUFFIXES
from uniformer.reading.transforms import is_tensor
from uniformer.reading.views import Source


def is_image(source: Source) -> bool:
    """Whether a source is one picture rather than a clip, by its type, shape or name."""
    if isinstance(source, np.ndarray) or is_tensor(source):
        return source.ndim == 3
    if isinstance(source, str | os.PathLike):
        return os.path.splitext(source)[1].lower() in IMAGE_SUFFIXES
    return isinstance(source, Image.Image)

"""Decoded frames as pictures: in RGB, turned as the container says, all in the size of the first."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from uniformer.errors import InputError
from uniformer.reading.frames import Orientation
from uniformer.reading.pictures import Pixels


class Conversion:
    """What makes the frames of one stream RGB, (H, W, 3) as shown.

    A stream may change its size half-way: every frame takes the first one's. Pixels that are not square stay so, as in
    the readers that the published models were trained with.
    """

    def __init__(self, name: str, first: VideoFrame, threads: int):
        self._name, self._threads = name, threads
        self._stored = first.width, first.height
        self._reformatter = VideoReformatter()
        self.orientation = _orientation(first)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as shown."""
        width, height = self._stored
        return (height, width) if self.orientation.transpose else (width, height)

    @property
    def pixels(self) -> int:
        return self._stored[0] * self._stored[1]

    def __call__(self, frame: VideoFrame) -> Pixels:
        """Raises `InputError` for a pixel format that FFmpeg cannot convert."""
        try:
            rgb = self._reformatter.reformat(frame, *self._stored, "rgb24", threads=self._threads)
        except FFmpegError as error:
            raise InputError(f"{self._name}: {frame.format.name} frames cannot be made RGB: {error.strerror}") from None
        return self.orientation.apply(np.asarray(rgb.to_ndarray(), np.uint8))


def _orientation(frame: VideoFrame) -> Orientation:
    """From the display matrix (nine 32-bit numbers) that the container may give."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV refuses what it has no name for, such as the EXIF in frames of a camera's MJPEG
        return Orientation.turned(frame.rotation)
    return Orientation() if matrix is None else Orientation.of(*np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist())

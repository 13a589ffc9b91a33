"""From anything a user has - a file, an address, a folder of frames, an array - to views: steps 1 to 4.

    probe -> which frames? -> read them -> resize, crop, normalise

Prediction, evaluation and features all come through `load_views`, so they sample and crop alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniformer.config import InputSpec
from uniformer.errors import InputError, counted
from uniformer.reading.frames import Picture, VideoInfo, VideoReader, open_frames
from uniformer.reading.pictures import (
    Pixels,
    channels_last,
    is_image,
    is_tensor,
    open_image,
    open_picture,
    to_pixels,
    upright_size,
)
from uniformer.reading.sampling import clip_indices, effective_stride
from uniformer.reading.sources import Media, is_media, is_path
from uniformer.reading.transforms import Floats, crop_boxes, image_array, views_of
from uniformer.reading.video import open_video

if TYPE_CHECKING:
    from torch import Tensor

Decoder = Literal["pyav", "torchcodec"]
T = TypeVar("T")
Source: TypeAlias = "Media | np.ndarray | Tensor | Image.Image | Sequence[Any]"


@dataclass(frozen=True)
class Views:
    """What a network is fed for one source, and where it came from."""

    array: Floats  #: (V, 3, h, w) or (V, 3, T, h, w), V = clips x crops, crops varying fastest
    height: int  #: of the source, pixels
    width: int
    boxes: tuple[tuple[float, float, float, float], ...]  #: each crop in the source: top, left, height, width
    frames: npt.NDArray[np.int64] | None = None  #: of a video: their numbers, (clips, T)
    seconds: npt.NDArray[np.float64] | None = None  #: of a video with a clock: their times, (clips, T)
    num_frames: int | None = None
    fps: float | None = None
    notes: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)  #: seconds spent in `read` and `transform`

    @property
    def pixels(self) -> Tensor:
        """`array` as a tensor of the same memory."""
        import torch

        return torch.from_numpy(self.array)


def load_views(
    source: Source,
    spec: InputSpec,
    *,
    backend: Decoder = "pyav",
    follow_seconds: bool = False,
    fps: float | None = None,
    span: tuple[float, float] | None = None,
) -> Views:
    """The views of one source as `spec` wants them.

    A network for clips takes a video, a folder of frames, a list of images, or frames (T, H, W, 3) or (T, 3, H, W);
    `fps` is the rate of frames that have no clock of their own. A network for images takes an image, or pixels
    (H, W, 3), (3, H, W) or (H, W). Values and channels of arrays are as `pictures.channels_last` takes them. Videos and
    images are files: paths, bytes, file objects or http(s) addresses (see `sources.encoded`); images may be PIL's too.
    `span`, start and end in seconds, takes a part of a video as if it were the whole.

    Raises `InputError` for a source that is of the other kind, missing, unreadable or of another shape.
    """
    if not spec.is_video:
        return _image(source, spec)
    with open_clip(source, backend, fps) as reader:
        return _clips(reader, spec, follow_seconds, span)


def frames_within(reader: VideoReader, span: tuple[float, float] | None) -> tuple[int, int]:
    """The first frame of a part of a video, start and end in seconds, and the number of its frames; at least one.

    Raises `InputError` where the part begins after the last frame, or the video has no clock.
    """
    count = reader.info.num_frames
    if span is None:
        return 0, count
    start, end = span
    times = reader.times(range(count))
    first, last = np.searchsorted(times, (start - 1e-6, end - 1e-6))
    if first >= count or end < start:
        raise InputError(f"{reader.info.path}: expected a part within {times[-1]:.2f} s, got {start:g} to {end:g} s")
    return int(first), max(int(last - first), 1)


def _clips(reader: VideoReader, spec: InputSpec, follow_seconds: bool, span: tuple[float, float] | None) -> Views:
    info, notes = reader.info, []
    offset, count = frames_within(reader, span)
    frames = offset + clip_indices(spec, count, fps=info.fps, follow_seconds=follow_seconds)  # (clips, T)
    stride = effective_stride(spec, fps=info.fps, follow_seconds=follow_seconds)
    if stride is not None and stride != spec.stride:
        notes.append(f"stride {spec.stride} at {spec.fps:g} fps followed as {stride:.3g} frames at {info.fps:.4g} fps")
    window = max((stride or 0) * spec.frames, spec.frames)
    if count < window:
        notes.append(f"only {counted(count, 'frame')} where a clip spans {window:.4g}: frames repeat")

    pace = _Pace()
    clips, length = frames.shape
    return Views(
        array=views_of(pace.of(reader.each(frames.ravel())), clips, length, (info.height, info.width), spec),
        height=info.height,
        width=info.width,
        boxes=tuple(crop_boxes(info.height, info.width, spec)),
        frames=frames,
        seconds=None if info.fps is None else reader.times(frames.ravel()).reshape(frames.shape),
        num_frames=info.num_frames,
        fps=info.fps,
        notes=(*notes, *reader.notes, *reader.warnings),
        timings=pace.timings(),
    )


class _Pace:
    """How long frames were waited for, and how long all else took."""

    def __init__(self) -> None:
        self._start, self._read = time.perf_counter(), 0.0

    def of(self, frames: Iterator[T]) -> Iterator[T]:
        while True:
            begin = time.perf_counter()
            frame = next(frames, None)
            self._read += time.perf_counter() - begin
            if frame is None:
                return
            yield frame

    def timings(self) -> dict[str, float]:
        return {"read": self._read, "transform": time.perf_counter() - self._start - self._read}


def open_clip(source: Source, backend: Decoder = "pyav", fps: float | None = None) -> VideoReader:
    """Frames by number of anything that is a clip: a video, a folder of frames, an array, a list of images."""
    if isinstance(source, np.ndarray) or is_tensor(source):
        return ArrayReader(channels_last(source, 4, "(T, H, W, 3)"), fps)
    if isinstance(source, Image.Image):
        raise InputError("expected a video for a network of clips, got an image")
    if is_media(source):
        if is_path(source) and is_image(source) and os.path.isfile(source):
            raise InputError(f"{os.fspath(source)}: expected a video for a network of clips, found an image")
        return open_video(source, backend=backend)
    if not isinstance(source, Sequence) or not source:
        raise InputError(f"expected a path, an array or a list of frames, got {type(source).__name__}")
    paths = [item for item in source if is_path(item)]
    if len(paths) == len(source):
        return open_frames(paths)
    frames = [_frame(item) for item in source]
    if len({f.shape for f in frames}) > 1:
        raise InputError(f"expected frames of one size, got {frames[0].shape} and others")
    return ArrayReader(np.stack(frames), fps)


def _frame(item: Any) -> Pixels:
    """One item of a list of frames, (H, W, 3)."""
    if isinstance(item, np.ndarray | Image.Image) or is_tensor(item):
        return to_pixels(item)
    if is_media(item) and not is_path(item):
        return to_pixels(open_image(item))
    raise InputError(f"expected frames as arrays, tensors or PIL images, got {type(item).__name__}")


class ArrayReader(VideoReader):
    """Frames that are in memory already, uint8 (T, H, W, 3). Raises `InputError` for a rate that is none."""

    def __init__(self, frames: Pixels, fps: float | None):
        if fps is not None and not 0 < fps <= 1e6:
            raise InputError(f"expected fps in (0, 1e6], got {fps}")
        count, height, width, _ = frames.shape
        super().__init__(VideoInfo("array", count, fps, count / fps if fps else None, width, height, 0, "raw", "array"))
        self._frames = frames

    def _pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        for number in wanted:
            yield number, partial(self._frames.__getitem__, number)

    def all_pictures(self) -> Iterator[tuple[int, Picture]]:
        return self._pictures(range(len(self._frames)))

    def _times(self) -> npt.NDArray[np.float64]:
        if self.info.fps is None:
            raise InputError("expected frames with a rate, got an array without one")
        return np.arange(len(self._frames)) / self.info.fps


def _image(source: Source, spec: InputSpec) -> Views:
    begin = time.perf_counter()
    picture = open_picture(source)
    read = time.perf_counter()
    array = image_array(picture, spec)
    height, width = upright_size(picture)
    timings = {"read": read - begin, "transform": time.perf_counter() - read}
    return Views(array, height, width, tuple(crop_boxes(height, width, spec)), timings=timings)

"""From pixels to the views a network is fed, as in testing: resize, crop, normalise. NumPy and Pillow only.

Two traditions, both exact (tests hold them to it):

- clips (SlowFast fork): plain bilinear resize in float, crops rounded up. Here resizing reads only the four source
  pixels behind each pixel of a crop, so that a clip of full HD never becomes floats as a whole. The views equal those
  of normalising and `torch.nn.functional.interpolate` on whole pictures to 1e-6.
- images (torchvision's Resize and CenterCrop on PIL): antialiased bicubic on 8 bits, crops rounded half to even. The
  views equal torchvision's bit for bit.

`InputSpec.interpolation` decides how pixels are made, `InputSpec.is_video` how lengths are rounded.

No torch here, which takes seconds to import: views are arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniformer.config import InputSpec
from uniformer.errors import InputError
from uniformer.reading.pictures import AnyPixels, Pixels, checked_pixels, is_tensor, to_pixels

if TYPE_CHECKING:
    from torch import Tensor

Floats: TypeAlias = npt.NDArray[np.float32]
Values = TypeVar("Values", "Tensor", Floats)

ELONGATED = 64  # times as long as wide, from which on a picture is not resized as a whole before it is cropped


def view_array(frames: AnyPixels, spec: InputSpec) -> Floats:
    """Views of a video: uint8 RGB (clips, T, H, W, 3) -> float32 (clips * crops, 3, T, h, w).

    The view of clip i and crop j is number i * crops + j, the order of the reference. Channels are in the order of
    `spec.channels`. Raises `InputError` where the frames have another form or, resized, do not cover a crop.
    """
    frames = checked_pixels(frames, 5, "(clips, T, H, W, 3)")
    clips, time, height, width, _ = frames.shape
    pictures = enumerate(frames.reshape(-1, height, width, 3))
    return views_of((([place], picture) for place, picture in pictures), clips, time, (height, width), spec)


def views_of(
    pictures: Iterable[tuple[Iterable[int], Pixels]], clips: int, time: int, size: tuple[int, int], spec: InputSpec
) -> Floats:
    """`view_array` of frames that come one by one: their places among the clips * time, and their pixels, (H, W, 3) of
    `size`."""
    cut = _cutter(*size, spec)
    views = np.empty((clips, spec.crops, 3, time, *spec.size), np.float32)
    for places, picture in pictures:
        crops = cut(picture)
        for place in places:
            clip, number = divmod(place, time)
            for view, pixels in zip(views[clip], crops, strict=True):
                view[:, number] = pixels  # (3, h, w)
    return normalise(views.reshape(-1, *views.shape[2:]), spec)


def image_array(image: Image.Image | AnyPixels, spec: InputSpec) -> Floats:
    """Views of a picture: a PIL image or uint8 RGB (H, W, 3) or (3, H, W) -> float32 (crops, 3, h, w).

    Raises `InputError` as `pictures.to_pixels` does.
    """
    return view_array(to_pixels(image)[None, None], spec).squeeze(2)


def crop_boxes(height: int, width: int, spec: InputSpec) -> list[tuple[float, float, float, float]]:
    """What each crop shows of a picture of `height` x `width` pixels: (top, left, height, width) in its own pixels.

    Floats, as a crop's edge lies anywhere between source pixels. Raises `InputError` as `view_array` does.
    """
    frame = _frame(height, width, spec)
    up, across = height / frame.height, width / frame.width  # source pixels per resized pixel
    h, w = spec.size
    return [(top * up, left * across, h * up, w * across) for top, left in frame.corners]


def denormalise(views: Tensor | Floats, spec: InputSpec) -> Pixels:
    """Views back to pictures: (V, 3, T, h, w) -> uint8 RGB (V, T, h, w, 3), and (V, 3, h, w) -> (V, h, w, 3)."""
    if views.ndim not in (4, 5) or views.shape[1] != 3:
        raise InputError(f"expected views of shape (V, 3, h, w) or (V, 3, T, h, w), got {tuple(views.shape)}")
    array: npt.NDArray[Any] = views.detach().cpu().numpy() if is_tensor(views) else np.asarray(views)
    values = np.moveaxis(array, 1, -1)  # (V, [T,] h, w, 3)
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    pixels = np.rint((values * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[..., ::-1] if spec.channels == "bgr" else pixels)


# --- geometry ----------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    """A resized picture and where its crops lie in it, all in resized pixels."""

    height: int
    width: int
    corners: list[tuple[int, int]]  # (top, left) of each crop


def _frame(height: int, width: int, spec: InputSpec) -> _Frame:
    if min(height, width) < 1:
        raise InputError(f"expected a picture of at least one pixel, got {height} x {width}")
    short, long = sorted((height, width))
    # The two orders of multiplying differ by one pixel now and then
    long = math.floor(long / short * spec.resize) if spec.is_video else int(spec.resize * long / short)
    tall, wide = (long, spec.resize) if width < height else (spec.resize, long)
    h, w = spec.size
    if h > tall or w > wide:
        raise InputError(
            f"expected a picture that covers {h} x {w}, got {height} x {width}, resized to {tall} x {wide}"
        )
    top, left = (_half(free, spec.is_video) for free in (tall - h, wide - w))
    if spec.crops == 1:
        return _Frame(tall, wide, [(top, left)])
    if tall > wide:
        return _Frame(tall, wide, [(0, left), (top, left), (tall - h, left)])
    return _Frame(tall, wide, [(top, 0), (top, left), (top, wide - w)])


def _half(free: int, is_video: bool) -> int:
    return math.ceil(free / 2) if is_video else round(free / 2)  # round: halves to even


# --- pixels ------------------------------------------------------------------------------------------


def _cutter(height: int, width: int, spec: InputSpec) -> Callable[[Pixels], list[npt.NDArray[Any]]]:
    """What makes a picture (H, W, 3) uint8 into one (3, h, w) per crop, of values 0 to 255."""
    frame, (h, w) = _frame(height, width, spec), spec.size
    if spec.interpolation == "bilinear":
        taps = [
            (_taps(height, frame.height, top, h), _taps(width, frame.width, left, w)) for top, left in frame.corners
        ]
        return lambda picture: [_bilinear(picture, rows, columns) for rows, columns in taps]

    if max(frame.height, frame.width) > ELONGATED * min(frame.height, frame.width):
        return lambda picture: [_pil_crop(picture, box, spec.size) for box in crop_boxes(height, width, spec)]

    def cut(picture: Pixels) -> list[npt.NDArray[Any]]:
        resized = _pil_resize(picture, frame.height, frame.width).transpose(2, 0, 1)
        return [resized[:, top : top + h, left : left + w] for top, left in frame.corners]

    return cut


def _pil_resize(image: Pixels, height: int, width: int) -> Pixels:
    """(H, W, 3) -> (height, width, 3); Pillow's bicubic widens its filter when shrinking, which is the antialiasing."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _pil_crop(picture: Pixels, box: tuple[float, float, float, float], size: tuple[int, int]) -> Pixels:
    """A part of a picture (top, left, height, width) resized alone: (H, W, 3) -> (3, h, w). As `_pil_resize` and a crop
    give it, nearly."""
    top, left, height, width = box
    part = (left, top, min(left + width, picture.shape[1]), min(top + height, picture.shape[0]))
    resized = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC, box=part)
    return np.asarray(resized).transpose(2, 0, 1)


class _Taps(NamedTuple):
    """For each output pixel along one axis: the source pixels below and above it, and the share of the one above."""

    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    share: Floats


def _taps(source: int, resized: int, start: int, count: int) -> _Taps:
    """Output pixels start .. start + count - 1 of an axis resized with align_corners=False.

    In float32 step by step, as torch does: at 1000 pixels rounding moves a share by 6e-5, which views would show.
    (Pictures of up to 128 pixels, height plus width, go through another kernel of torch that rounds once less.)
    """
    half = np.float32(0.5)
    scale = np.float32(source) / np.float32(resized)
    centre = (scale * (np.arange(start, start + count, dtype=np.float32) + half) - half).clip(min=0)
    low = np.minimum(centre.astype(np.int64), source - 1)
    return _Taps(low, np.minimum(low + 1, source - 1), centre - low.astype(np.float32))


def _bilinear(picture: Pixels, rows: _Taps, columns: _Taps) -> Floats:
    """(H, W, 3) uint8 -> (3, h, w) float32."""
    colours = np.arange(3)[:, None]
    low, high = ((taps * 3 + colours).ravel() for taps in (columns.low, columns.high))  # bytes of a row, by colour
    share = np.tile(columns.share, 3)

    def lines(numbers: npt.NDArray[np.int64]) -> Floats:
        source = picture.reshape(len(picture), -1).take(numbers, axis=0)  # (h, W * 3)
        return _between(source.take(low, axis=1), source.take(high, axis=1), share)  # (h, 3 * w)

    mixed = _between(lines(rows.low), lines(rows.high), rows.share[:, None])
    return mixed.reshape(len(mixed), 3, -1).transpose(1, 0, 2)


def _between(low: npt.NDArray[Any], high: npt.NDArray[Any], share: Floats) -> Floats:
    """low + (high - low) * share in float32."""
    low = low.astype(np.float32, copy=False)
    mixed = high - low
    mixed *= share
    mixed += low
    return mixed


def normalise(views: Values, spec: InputSpec) -> Values:
    """(V, 3, ...) of 0 to 255, RGB, which it may overwrite; steps in the order of the originals, for equal rounding."""
    if spec.channels == "bgr":
        views = views[:, [2, 1, 0]]
    return standardise(views, spec.mean, spec.std)


def standardise(views: Values, means: Sequence[float], deviations: Sequence[float]) -> Values:
    """(V, 3, ...) of 0 to 255, which it may overwrite, less the mean and by the deviation of values in 0 to 1."""
    views /= 255
    for channel, (mean, std) in enumerate(zip(means, deviations, strict=True)):
        plane = views[:, channel]
        plane -= mean
        plane /= std
    return views

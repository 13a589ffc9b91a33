"""The random twin of `transforms`: from pixels to one augmented view for training, with every draw from one generator.

Two orders, those of the published runs:

- clips (SlowFast fork): operations on whole frames, crop and plain bilinear resize, flip, erasing.
- pictures (DeiT fork): crop and antialiased resize, flip, operations on the crop, erasing.

What an augmentation will do is drawn first (`draw`), from the size of the picture alone; applying it draws nothing
more. So a clip's frames share operations, crop, flip and erased box, and a seed gives the same view bit for bit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from timm.data.auto_augment import (
    AugmentOp,
    AutoAugment,
    RandAugment,
    auto_augment_transform,
    posterize,
    rand_augment_transform,
)
from torch import Tensor

from uniformer.config import InputSpec
from uniformer.errors import InputError
from uniformer.reading.foreground import paste_foreground
from uniformer.reading.options import Augment
from uniformer.reading.pictures import AnyPixels, Pixels, checked_pixels, to_pixels
from uniformer.reading.transforms import normalise

Operation = Callable[[Image.Image], Image.Image]

CLIP_FILL = (128, 128, 128)  # what rotations and shears of clips uncover; those of pictures uncover the mean
ERASED_AREA = (0.02, 1 / 3)  # share of the view
ERASED_RATIO = (0.3, 1 / 0.3)  # height over width
CROP_TRIES, ERASE_TRIES = 10, 100  # then the crop is central, and nothing is erased
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MOVING = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")  # timm's operations that move pixels


class Rectangle(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: Pixels) -> Pixels:
        """The part of (T, H, W, 3) inside."""
        return pixels[:, self.top : self.top + self.height, self.left : self.left + self.width]


class Crop(NamedTuple):
    """`source` of the picture is resized to `resized` (height, width); the view starts there at `corner`."""

    source: Rectangle
    resized: tuple[int, int]
    corner: tuple[int, int]

    def shown(self, view: tuple[int, int], height: int, width: int) -> list[float]:
        """Top, left, bottom and right of a view, as shares of the whole picture of `height` x `width`."""
        up, across = self.source.height / self.resized[0], self.source.width / self.resized[1]
        top, left = self.source.top + self.corner[0] * up, self.source.left + self.corner[1] * across
        return [top / height, left / width, (top + view[0] * up) / height, (left + view[1] * across) / width]


class Draw(NamedTuple):
    """Everything random about one view."""

    seed: int  #: of the operations
    crop: Crop
    interpolation: str
    flip: bool
    erased: Rectangle | None
    noise: int  #: seed of what fills the erased box


def augment_clip(frames: AnyPixels, spec: InputSpec, augment: Augment, rng: np.random.Generator) -> Tensor:
    """One training view of a clip: uint8 RGB (T, H, W, 3) -> float32 (3, T, h, w), normalised, in `spec.channels`.

    All frames get the same draw; the noise in an erased box differs from frame to frame, as in the published runs.
    Raises `InputError` for another form of frames, and where `jitter_scales` do not cover the view.
    """
    frames = checked_pixels(frames, 4, "(T, H, W, 3)")
    if augment.foreground and rng.random() < augment.foreground:
        frames = paste_foreground(frames, rng)
    drawn = draw(frames.shape[1], frames.shape[2], spec, augment, rng)
    frames = _operate(frames, augment, CLIP_FILL, drawn.seed)
    if drawn.interpolation == "bilinear":
        pixels = _plain_crop(frames, drawn.crop, spec)
    else:
        pixels = _to_planes(_antialiased_crop(frames, drawn, spec))
    return _finish(pixels, drawn, augment, spec)


def augment_image(
    image: Image.Image | AnyPixels, spec: InputSpec, augment: Augment, rng: np.random.Generator
) -> Tensor:
    """One training view of a picture: a PIL image or uint8 RGB (H, W, 3) -> float32 (3, h, w), normalised.

    Read as by `transforms.image_array`. Raises `InputError` as `augment_clip` does.
    """
    frames = to_pixels(image)[None]
    drawn = draw(frames.shape[1], frames.shape[2], spec, augment, rng)
    frames = _antialiased_crop(frames, drawn, spec)
    if drawn.flip:
        frames = frames[:, :, ::-1]
    frames = _operate(frames, augment, _mean_colour(spec), drawn.seed)
    return _finish(_to_planes(frames), drawn._replace(flip=False), augment, spec)[:, 0]


def augment_labelled_image(
    image: Image.Image | AnyPixels, label_map: Tensor, spec: InputSpec, augment: Augment, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One training view of a picture and what `losses.label_map_targets` needs to know of it (token labeling).

    Here the order is flip, operations, crop, erasing, as in the published runs: a map can follow flips and operations,
    and is cut at last, by the loss. `label_map` is (2, k, M, M): scores and classes of the whole picture.
    Returns the view (3, h, w), the moved map, and the crop (4,) as shares of the picture: top, left, bottom, right.
    """
    frames = to_pixels(image)[None]
    height, width = frames.shape[1:3]
    drawn = draw(height, width, spec, augment, rng)
    if drawn.flip:
        frames, label_map = frames[:, :, ::-1], label_map.flip(-1)
    frames = _antialiased_crop(_operate(frames, augment, _mean_colour(spec), drawn.seed), drawn, spec)
    label_map = _operate_on_map(label_map, (height, width), augment, drawn.seed)
    view = _finish(_to_planes(frames), drawn._replace(flip=False), augment, spec)[:, 0]
    return view, label_map, torch.tensor(drawn.crop.shown(spec.size, height, width))


# --- what is random ----------------------------------------------------------------------------------


def draw(height: int, width: int, spec: InputSpec, augment: Augment, rng: np.random.Generator) -> Draw:
    """What to do to a picture of `height` x `width` pixels. Always takes the seeds first, then crop, flip, erasing."""
    seed, noise = rng.integers(2**32, size=2).tolist()
    if augment.jitter_scales is None:
        assert augment.scale is not None
        crop = Crop(draw_crop(height, width, augment.scale, augment.ratio, rng), spec.size, (0, 0))
    else:
        crop = _jittered_crop(height, width, spec.size, augment.jitter_scales, rng)
    interpolation = augment.interpolation
    if interpolation == "random":
        interpolation = "bilinear" if rng.random() < 0.5 else "bicubic"
    flip = bool(rng.random() < augment.flip)
    erased = draw_erased(*spec.size, rng) if rng.random() < augment.erase_prob else None
    return Draw(seed, crop, interpolation, flip, erased, noise)


def draw_crop(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Rectangle:
    """A box of `scale` of the area and `ratio` of width to height (log-uniform), anywhere in the picture.

    Where ten draws do not fit (elongated pictures), the largest central box of a ratio in the range.
    Source: random resized crop of Inception, in the form of torchvision and SlowFast.
    """
    for _ in range(CROP_TRIES):
        h, w = _sides(height * width * rng.uniform(*scale), 1 / _log_uniform(*ratio, rng))
        if 0 < h <= height and 0 < w <= width:
            return Rectangle(*_corner(height - h, width - w, rng), h, w)
    h = min(height, max(round(width / ratio[0]), 1))
    w = min(width, max(round(height * ratio[1]), 1))
    return Rectangle((height - h) // 2, (width - w) // 2, h, w)


def draw_erased(height: int, width: int, rng: np.random.Generator) -> Rectangle | None:
    """The box to erase from a view; None in the rare case that no draw fits. Source: arXiv:1708.04896, as in timm."""
    for _ in range(ERASE_TRIES):
        h, w = _sides(height * width * rng.uniform(*ERASED_AREA), _log_uniform(*ERASED_RATIO, rng))
        if 0 < h < height and 0 < w < width:
            return Rectangle(*_corner(height - h, width - w, rng), h, w)
    return None


def _jittered_crop(
    height: int, width: int, size: tuple[int, int], scales: tuple[int, int], rng: np.random.Generator
) -> Crop:
    short = round(rng.uniform(*scales))
    tall, wide = (math.floor(side / min(height, width) * short) for side in (height, width))
    if tall < size[0] or wide < size[1]:
        raise InputError(f"expected jitter_scales that cover {size[0]} x {size[1]}, got a picture of {tall} x {wide}")
    return Crop(Rectangle(0, 0, height, width), (tall, wide), _corner(tall - size[0], wide - size[1], rng))


def _corner(down: int, across: int, rng: np.random.Generator) -> tuple[int, int]:
    """Top and left, up to so far down and across."""
    return int(rng.integers(down, endpoint=True)), int(rng.integers(across, endpoint=True))


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _sides(area: float, ratio: float) -> tuple[int, int]:
    """Height and width of a box, rounded, of `ratio` height over width."""
    return round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))


# --- operations on 8-bit pictures --------------------------------------------------------------------


def _operate(frames: Pixels, augment: Augment, fill: tuple[int, ...], seed: int) -> Pixels:
    """RandAugment, AutoAugment or colour jitter on every frame alike; (T, H, W, 3) in and out."""
    if augment.color_jitter is not None:
        operation = _colour_jitter(augment.color_jitter, np.random.default_rng(seed))
    elif augment.rand_augment is not None:
        operation = _timm_operation(augment, fill, tuple(RESAMPLING.values()))
    else:
        return frames
    out = np.empty_like(frames)
    with kept_global_generators():
        for source, target in zip(frames, out, strict=True):
            _seed_global_generators(seed)  # each frame meets the same draws
            target[...] = operation(Image.fromarray(source))
    return out


def _timm_operation(augment: Augment, fill: object, either: tuple[Image.Resampling, ...]) -> RandAugment | AutoAugment:
    """`either`: bilinear and bicubic, or what stands for them; where both are allowed, timm draws one each time."""
    assert augment.rand_augment is not None
    interpolation = dict(zip(RESAMPLING, either, strict=True)).get(augment.op_interpolation, either)
    build = rand_augment_transform if augment.rand_augment.startswith("rand") else auto_augment_transform
    operation = build(augment.rand_augment, {"img_mean": fill, "interpolation": interpolation})
    for step in _steps(operation):
        if step.aug_fn is posterize:
            step.aug_fn = _posterize
    return operation


def _steps(operation: RandAugment | AutoAugment) -> Iterator[AugmentOp]:
    return iter(operation.ops) if isinstance(operation, RandAugment) else chain(*operation.policy)


def _posterize(image: Image.Image, bits: int, **_options: object) -> Image.Image:
    """No bits at all, as the strongest draws ask for, leave black: so they did under the Pillow of the published runs,
    while Pillow 13 refuses them."""
    return image.point(lambda _: 0) if bits < 1 else posterize(image, bits)


def _operate_on_map(label_map: Tensor, size: tuple[int, int], augment: Augment, seed: int) -> Tensor:
    """What `_operate` does to a picture of `size`, done to its map (2, k, M, N): places move, uncovered ones score 0.

    The numbers of the places are painted as a picture, moved by the same draws with the colours' operations left out,
    and read at the centre of each place.
    """
    if augment.rand_augment is None:
        return label_map
    (height, width), (rows, columns) = size, label_map.shape[-2:]
    down, across = np.arange(height) * rows // height, np.arange(width) * columns // width
    places = Image.fromarray((down[:, None] * columns + across).astype(np.int32))
    operation = _timm_operation(augment, -1, (Image.Resampling.NEAREST,) * 2)
    for step in _steps(operation):
        if step.name not in MOVING:
            step.aug_fn = _unchanged
    with kept_global_generators():
        _seed_global_generators(seed)
        moved = np.asarray(operation(places))
    centres = ((2 * np.arange(n) + 1) * length // (2 * n) for n, length in ((rows, height), (columns, width)))
    origin = torch.from_numpy(moved[np.ix_(*centres)].astype(np.int64))  # (M, N), -1 where nothing was
    scores, classes = label_map.flatten(-2)[..., origin.clamp(min=0)]
    return torch.stack((scores * (origin >= 0), classes))


def _unchanged(image: Image.Image, *_level: float, **_options: object) -> Image.Image:
    return image


def _colour_jitter(share: float, rng: np.random.Generator) -> Operation:
    """Brightness, contrast and saturation, each times 1 - share to 1 + share, in random order."""
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    steps = [(kinds[i], rng.uniform(1 - share, 1 + share)) for i in rng.permutation(len(kinds))]

    def apply(image: Image.Image) -> Image.Image:
        for kind, factor in steps:
            image = kind(image).enhance(factor)
        return image

    return apply


@contextmanager
def kept_global_generators() -> Iterator[None]:
    """Puts python's and numpy's global generators back as they were.

    timm draws from both and takes no generator. Worker processes have their own; threads of one process share them, so
    only one thread of a process may augment at a time.
    """
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _seed_global_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


# --- pixels ------------------------------------------------------------------------------------------


def _plain_crop(frames: Pixels, crop: Crop, spec: InputSpec) -> Tensor:
    """(T, H, W, 3) uint8 -> (3, T, h, w) float32 of 0 to 255, bilinear between the nearest pixels of the source box."""
    (top, left), (h, w) = crop.corner, spec.size
    source = torch.from_numpy(np.array(crop.source.of(frames))).movedim(-1, 1).float()  # (T, 3, ., .), channels last
    resized = F.interpolate(source, size=crop.resized, mode="bilinear", align_corners=False)
    return resized[..., top : top + h, left : left + w].transpose(0, 1).contiguous()


def _antialiased_crop(frames: Pixels, drawn: Draw, spec: InputSpec) -> Pixels:
    """(T, H, W, 3) -> (T, h, w, 3), by Pillow, whose filters widen when shrinking."""
    (top, left), (h, w) = drawn.crop.corner, spec.size
    tall, wide = drawn.crop.resized
    resized = (
        Image.fromarray(frame).resize((wide, tall), RESAMPLING[drawn.interpolation])
        for frame in drawn.crop.source.of(frames)
    )
    return np.stack([np.asarray(image)[top : top + h, left : left + w] for image in resized])


def _to_planes(frames: Pixels) -> Tensor:
    """(T, h, w, 3) uint8 -> (3, T, h, w) float32 of 0 to 255."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2))).float()


def _finish(pixels: Tensor, drawn: Draw, augment: Augment, spec: InputSpec) -> Tensor:
    """Flip, normalise and erase: (3, T, h, w) of 0 to 255, which it may overwrite, to the view."""
    if drawn.flip:
        pixels = pixels.flip(-1)
    view = normalise(pixels[None], spec)[0]
    if drawn.erased is None:
        return view
    top, left, height, width = drawn.erased
    patch = view[..., top : top + height, left : left + width]
    rng = np.random.default_rng(drawn.noise)
    if augment.erase_mode == "zero":
        patch.zero_()
    else:
        shape: Sequence[int] = patch.shape if augment.erase_mode == "pixel" else (3, 1, 1, 1)
        patch.copy_(torch.from_numpy(rng.standard_normal(tuple(shape), np.float32)))
    return view


def _mean_colour(spec: InputSpec) -> tuple[int, ...]:
    """RGB of 0 to 255."""
    mean = spec.mean if spec.channels == "rgb" else spec.mean[::-1]
    return tuple(round(255 * value) for value in mean)

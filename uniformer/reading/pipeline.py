"""The way from a file to what a network is fed, as one callable for loops of one's own: `uniformer.transforms`."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.records import Checkpoint, get_checkpoint, list_checkpoints
from uniformer.checkpoints.told import warn_of_assumed
from uniformer.config import InputSpec
from uniformer.errors import InputError
from uniformer.labels import flip_sensitive
from uniformer.reading.frames import VideoReader
from uniformer.reading.options import Augment
from uniformer.reading.pictures import Pixels, open_picture
from uniformer.reading.sampling import Indices, random_clip
from uniformer.reading.views import Source, frames_within, load_views, open_clip

if TYPE_CHECKING:
    from torch import Tensor

MAX_HELD = 1 << 29  # bytes of a clip that is held whole: five frames of 8K, or twenty of 4K
SpecSource: TypeAlias = "InputSpec | Contract | str | os.PathLike[str]"  #: whatever says what a network is fed


@dataclass(frozen=True)
class Transform:
    """From anything a user has to what a network is fed; made by `transforms`. It can be pickled."""

    spec: InputSpec
    augment: Augment | None = None  #: in training; None makes the test views

    def __call__(self, source: Source, rng: np.random.Generator | None = None) -> Tensor:
        """What the network is fed for `source`, float32; `rng` makes the draws of training.

        Without `rng` draws follow torch's global generator, as torchvision's do: `torch.manual_seed` repeats them, and
        a `DataLoader` gives each worker its own. Raises `InputError` for a source that cannot be read.
        """
        return one_view(load_views(source, self.spec).pixels) if self.augment is None else self._drawn(source, rng)

    def _drawn(self, source: Source, rng: np.random.Generator | None) -> Tensor:
        import torch

        assert self.augment is not None
        if rng is None:
            rng = np.random.default_rng(int(torch.randint(1 << 62, ())))
        pixels = read_for_training(source, self.spec, self.augment, rng)
        return augmented(pixels, self.spec, self.augment, rng.spawn(1)[0])


def transforms(checkpoint_or_spec: SpecSource, *, training: bool = False, augment: Augment | None = None) -> Transform:
    """What turns a path, a PIL image, an array, a tensor or a list of frames into what a network is fed.

        see = uniformer.transforms("uniformer_small.k400_16x4")
        logits = model(see("clip.mp4")).mean(0)  # (4, 3, 16, 224, 224): four clips

    In training one view, drawn at random: a clip (3, T, h, w) or a picture (3, h, w). Otherwise the test views, as
    `predict` and `eval` see them: (V, 3, ...), or (3, ...) where the input has one.

    Args:
        checkpoint_or_spec: an `InputSpec`, a `Contract`, or a checkpoint: of a published id only the record is read.
        training: draw a place in time and augment.
        augment: how; None takes the defaults of `Augment`, the crop resized as the input is, and no mirroring where the
            checkpoint's classes name sides.

    Raises:
        InputError: nothing says what the network is fed, or `augment` changes classes or is not for training.
    """
    spec, classes = input_of(checkpoint_or_spec)
    if not training:
        if augment is not None:
            raise InputError("expected augment with training=True only, got it for test views")
        return Transform(spec)
    augment = augment or usual_augment(spec, classes)
    if augment.mirror or augment.reverse:
        raise InputError("augment.mirror and augment.reverse change labels: use torch_dataset, which has them")
    return Transform(spec, augment)


def input_of(source: SpecSource) -> tuple[InputSpec, tuple[str, ...]]:
    """What a network is fed, and its classes where they are known. Raises `InputError` where nothing says it."""
    if isinstance(source, InputSpec):
        return source, ()
    known: Contract | Checkpoint
    if isinstance(source, Contract):
        known = source
    elif source in list_checkpoints():
        known = get_checkpoint(str(source))
    else:
        from uniformer.checkpoints.identify import open_checkpoint

        known = open_checkpoint(source).contract
        warn_of_assumed(known)
    if not isinstance(known.input, InputSpec):
        name = source if isinstance(source, str | os.PathLike) else source.id or source.arch or "this network"
        raise InputError(f"{name} does not say what it is fed: expected a checkpoint of a classifier, or an InputSpec")
    return known.input, known.classes


def usual_augment(spec: InputSpec, classes: tuple[str, ...]) -> Augment:
    """The defaults for this input: no mirroring where it would turn one class into another."""
    return Augment(interpolation=spec.interpolation, flip=0.0 if flip_sensitive(classes) else Augment.flip)


def read_for_training(
    source: Source,
    spec: InputSpec,
    augment: Augment,
    rng: np.random.Generator,
    span: tuple[float, float] | None = None,
) -> Pixels | Image.Image:
    """The frames of one clip drawn at random, (T, H, W, 3), from the whole video or `span` of it; or the picture."""
    if not spec.is_video:
        return open_picture(source)
    with open_clip(source) as reader:
        first, count = frames_within(reader, span)
        return _held(reader, first + random_clip(spec, count, rng, even=augment.even_frames))


def _held(reader: VideoReader, numbers: Indices) -> Pixels:
    """The frames, (T, H, W, 3); those of a clip of more than `MAX_HELD` at a whole fraction of their size."""
    height, width = reader.info.height, reader.info.width
    factor = math.ceil(math.sqrt(len(numbers) * height * width * 3 / MAX_HELD))
    if factor == 1:
        return reader.read(numbers)
    frames = np.empty((len(numbers), -(-height // factor), -(-width // factor), 3), np.uint8)
    for places, picture in reader.each(numbers):
        frames[places] = np.asarray(Image.fromarray(picture).reduce(factor))
    return frames


def augmented(pixels: Pixels | Image.Image, spec: InputSpec, augment: Augment, rng: np.random.Generator) -> Tensor:
    """One view of what `read_for_training` gave."""
    from uniformer.reading.augment import augment_clip, augment_image

    if isinstance(pixels, Image.Image) or not spec.is_video:
        return augment_image(pixels, spec, augment, rng)
    return augment_clip(pixels, spec, augment, rng)


def one_view(views: Tensor) -> Tensor:
    """(V, ...), or (...) where there is one view only: so batches of one view are what a network takes."""
    return views[0] if len(views) == 1 else views

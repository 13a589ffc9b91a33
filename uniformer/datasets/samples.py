"""A manifest as torch sees data sets: rows read, augmented and labelled, for our training and loops of one's own."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from uniformer.config import InputSpec
from uniformer.errors import InputError
from uniformer.labels import flip_sensitive, mirrored_classes, reversed_classes
from uniformer.reading.options import Augment
from uniformer.reading.pictures import Pixels
from uniformer.reading.pipeline import augmented, one_view, read_for_training
from uniformer.reading.views import load_views

if TYPE_CHECKING:
    from uniformer.datasets.manifest import Item, Manifest


class LabelledRows:
    """The rows of a manifest as training reads them. Raises `InputError` where they are not what the network is fed."""

    def __init__(self, manifest: Manifest, spec: InputSpec, augment: Augment):
        kinds = ("video", "frames") if spec.is_video else ("image",)
        if manifest.kind not in kinds:
            raise InputError(f"expected {' or '.join(kinds)} items for this network, got {manifest.kind} items")
        for problem in () if spec.is_video else augment.not_for_images():
            raise InputError(problem)
        self.manifest, self.spec, self.augment = manifest, spec, augment
        self._mirrored = mirrored_classes(manifest.classes) if augment.mirror else []
        self._reversed = reversed_classes(manifest.classes, augment.reverse_pairs) if augment.reverse else []

    def read(self, row: int, rng: np.random.Generator) -> tuple[Pixels | Image.Image, Tensor]:
        """A clip (T, H, W, 3) drawn from the row's video, or its picture; and its label, see `label`."""
        item = self.manifest[row]
        pixels, label = read_for_training(item.path, self.spec, self.augment, rng, item.span), self.label(item)
        return (pixels, label) if isinstance(pixels, Image.Image) else self._turned(pixels, label, rng)

    def label(self, item: Item) -> Tensor:
        """int64 (), or float32 (K,) of zeros and ones where the set is multi-label."""
        if not self.manifest.is_multi_label:
            return torch.tensor(item.labels[0])
        label = torch.zeros(len(self.manifest.classes))
        label[list(item.labels)] = 1
        return label

    def _turned(self, frames: Pixels, label: Tensor, rng: np.random.Generator) -> tuple[Pixels, Tensor]:
        """The clip (T, H, W, 3) mirrored or played backwards at random, and the class that it then shows."""
        if self._mirrored and rng.random() < self.augment.mirror:
            frames, label = frames[:, :, ::-1], self._partner(label, self._mirrored)
        if self._reversed and rng.random() < self.augment.reverse:
            frames, label = frames[::-1], self._partner(label, self._reversed)
        return np.ascontiguousarray(frames), label

    def _partner(self, label: Tensor, partners: list[int]) -> Tensor:
        return label[partners] if self.manifest.is_multi_label else torch.tensor(partners[int(label)])


class TorchDataset(Dataset[tuple[Tensor, int | Tensor]]):
    """The plain map-style data set that `Manifest.torch_dataset` describes; `augment` None gives the test views."""

    def __init__(self, manifest: Manifest, spec: InputSpec, augment: Augment | None, seed: int = 0):
        if augment is not None and augment.repeats != 1:
            raise InputError(f"expected augment.repeats=1 for samples one by one, got {augment.repeats}")
        if augment is not None and augment.flip and (sides := flip_sensitive(manifest.classes)):
            such_as = " and ".join(map(repr, sides[0]))
            said = f"augment.flip={augment.flip:g} mirrors pictures of classes that name sides, such as {such_as}"
            warnings.warn(said, stacklevel=3)
        self.manifest, self.spec, self.augment, self.seed = manifest, spec, augment, seed
        self._rows = LabelledRows(manifest, spec, augment or Augment())
        # In shared memory, so that workers that outlive an epoch (persistent_workers) see `set_epoch` too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch, as with torch's `DistributedSampler`: other draws for every row. Else they stay."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        item = self.manifest[int(index)]
        try:
            pixels, label = self._test(item) if self.augment is None else self._drawn(int(index) % len(self))
        except InputError as error:
            raise error if item.path in str(error) else InputError(f"{item.path}: {error}") from None
        return pixels, label if self.manifest.is_multi_label else int(label)

    def _drawn(self, row: int) -> tuple[Tensor, Tensor]:
        assert self.augment is not None
        rng = np.random.default_rng((self.seed, int(self._epoch), row))
        pixels, label = self._rows.read(row, rng)
        return augmented(pixels, self.spec, self.augment, rng.spawn(1)[0]), label

    def _test(self, item: Item) -> tuple[Tensor, Tensor]:
        return one_view(load_views(item.path, self.spec, span=item.span).pixels), self._rows.label(item)

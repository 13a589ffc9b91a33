"""Training batches of pictures with boxes, maps of labels or key points; `batches.py` has the order and the reading.

    samples = dense_samples(annotated_set, contract.input, augment, seed=0)  # augment of `reading.dense_options`
    plan = Plan(len(samples), batch_size=16, epochs=12)
    for batch in batches(samples, plan, start=step, workers=8, device=device):
        batch.x, batch.sizes, batch.truths  # a detector; `label_maps` a segmenter; `heat_maps`, `weights` of poses

A sample follows from (seed, epoch, position) alone, as in classification.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from uniformer.config import PersonCrop, Scaling
from uniformer.datasets.polygons import mask_of
from uniformer.errors import InputError
from uniformer.labels import IGNORED, flip_sensitive
from uniformer.reading.colour import recoloured
from uniformer.reading.dense_augment import augment_detection, augment_segmentation
from uniformer.reading.dense_options import DetectionAugment, PoseAugment, SegmentationAugment
from uniformer.reading.people import clipped_boxes
from uniformer.reading.pictures import Pixels, file_to_pixels
from uniformer.reading.pose_augment import Body, draw_cut
from uniformer.reading.run_lengths import decode_mask
from uniformer.reading.scaling import normalised
from uniformer.reading.scene import Scene, resized, scene_of
from uniformer.reading.transforms import standardise
from uniformer.reading.warp import warp_pixels
from uniformer.tasks.detection_losses import Truth
from uniformer.tasks.keypoints import STRIDE, heat_map_targets
from uniformer.training.batches import SAMPLE, Members, Place, Unreadable, read_or_stand_in, rng_at, standing_in

if TYPE_CHECKING:
    from uniformer.datasets.annotated import AnnotatedSet, Annotations
    from uniformer.datasets.instances import Shape

DenseAugment = DetectionAugment | SegmentationAugment | PoseAugment
S = TypeVar("S", bound="DetectionSample | SegmentationSample | PoseSample")


class DenseBatch(NamedTuple):
    """What one process is fed in one pass."""

    x: Tensor  #: float32 (B, 3, H, W): normalised, zero beyond the pictures
    sizes: list[tuple[int, int]]  #: height and width of each picture in it
    unreadable: tuple[tuple[str, str], ...]  #: path and reason of files that others stand in for
    stood_in: int  #: samples that another one stands in for
    truths: list[Truth] | None = None  #: of a detector: what is in each picture
    draws: list[int] | None = None  #: of a detector: of each picture the seed by which anchors and regions are chosen
    label_maps: Tensor | None = None  #: of a segmenter: int64 (B, H, W), 255 where nothing is to be learnt
    heat_maps: Tensor | None = None  #: of a pose network: float32 (B, K, H / 4, W / 4)
    weights: Tensor | None = None  #: float32 (B, K): of key points, 0 or 1

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        """With `move` done to every tensor, such as `lambda part: part.to(device, non_blocking=True)`."""
        parts = {name: getattr(self, name) for name in ("x", "label_maps", "heat_maps", "weights")}
        moved: dict[str, Any] = {name: move(part) for name, part in parts.items() if part is not None}
        if self.truths is not None:
            moved["truths"] = [
                t._replace(**{name: move(part) for name, part in t._asdict().items() if part is not None})
                for t in self.truths
            ]
        return self._replace(**moved)


class DetectionSample(NamedTuple):
    """A picture and what is in it."""

    scene: Scene
    labels: NDArray[np.int64]  #: (M,)
    masks: NDArray[np.bool_] | None  #: (M, h, w)
    masked: NDArray[np.bool_] | None  #: (M,), which have a mask, where not all do
    draw: int  #: the seed by which anchors and regions are chosen
    unreadable: Unreadable


class SegmentationSample(NamedTuple):
    """A picture and its labels."""

    pixels: Pixels  #: (h, w, 3)
    labels: NDArray[np.uint8]  #: (h, w)
    unreadable: Unreadable


class PoseSample(NamedTuple):
    """A person and the heat maps of the key points."""

    pixels: Pixels  #: (H, W, 3)
    heat_maps: NDArray[np.floating[Any]]  #: (K, H / 4, W / 4)
    weights: NDArray[np.floating[Any]]  #: (K,)
    unreadable: Unreadable


def dense_samples(
    data: AnnotatedSet, spec: Scaling | PersonCrop, augment: DenseAugment, *, seed: int = 0
) -> DetectionSamples | SegmentationSamples | PoseSamples:
    """The samples of a data set, for the task that `augment` is meant for.

    Raises `InputError` where data, input and augmentation are not of one task, and where there is nothing to learn.
    """
    match augment, spec:
        case DetectionAugment(), Scaling():
            return DetectionSamples(data, spec, augment, seed)
        case SegmentationAugment(), Scaling():
            return SegmentationSamples(data, spec, augment, seed)
        case PoseAugment(), PersonCrop():
            return PoseSamples(data, spec, augment, seed)
    raise InputError(f"expected augment and input of one task, got {type(augment).__name__} and {type(spec).__name__}")


class DenseSamples(Dataset[S], ABC, Generic[S]):
    """Samples by `Place`, whose row counts what is learnt from: pictures, or people. Held by the classes below."""

    task: str

    def __init__(self, data: AnnotatedSet, seed: int):
        if data.task != self.task:
            raise InputError(f"expected data for {self.task}, got a data set for {data.task}")
        self.data, self.seed = data, seed

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def path(self, row: int) -> str:
        """The picture of a sample."""

    @abstractmethod
    def members(self) -> Members:
        """Each picture once for each class that it has, none where that cannot be read."""

    @abstractmethod
    def _sample(self, row: int, rng: np.random.Generator, unreadable: Unreadable, label: int | None) -> S:
        """`label`: the class that it is drawn for, if any."""

    @abstractmethod
    def collate(self, samples: Sequence[S]) -> DenseBatch:
        """Samples as one batch."""

    def __getitem__(self, place: Place) -> S:
        """Where a picture cannot be read another one stands in, see `read_or_stand_in`."""
        rng = rng_at(self.seed, SAMPLE, place.epoch, place.position)
        read = partial(self._sample, label=place.label)
        return read_or_stand_in(read, place.row, len(self), self.path, rng)

    def batch(self, places: list[Place]) -> DenseBatch:
        """What one process is fed in one pass."""
        return self.collate([self[place] for place in places])

    def _something(self, rows: list[Any], what: str) -> NDArray[np.int64]:
        if not rows:
            raise InputError(f"{self.data.origin}: expected {what}, found none in {len(self.data)} pictures")
        return np.array(rows, np.int64)


def read_picture(data: AnnotatedSet, row: int) -> Pixels:
    """A picture of a data set, upright, uint8 RGB (h, w, 3); smaller than annotated where it is very large.

    Raises `InputError` where it cannot be read, and where it has another size than its annotations are for.
    """
    return file_to_pixels(data.picture(row), data.path(row))


# ---- detection -------------------------------------------------------------------------------------------------------


class DetectionSamples(DenseSamples[DetectionSample]):
    """Pictures with boxes and, where the set has them, masks.

    As in the reference: pictures smaller than `augment.smallest` or without any annotation are left out; crowds, and
    boxes less than a pixel wide or high or without an area, are not learnt.
    """

    task = "detection"

    def __init__(self, data: AnnotatedSet, spec: Scaling, augment: DetectionAugment, seed: int = 0):
        super().__init__(data, seed)
        self.spec, self.augment = spec, augment
        counts = np.diff(data.instances.offsets)
        rows = np.flatnonzero(counts > (-1 if augment.keep_empty else 0)).tolist()
        rows = [row for row in rows if min(data.size(row)) >= augment.smallest]
        self.rows = self._something(rows, "pictures with annotated objects")

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, row: int) -> str:
        return self.data.path(int(self.rows[row]))

    def members(self) -> Members:
        return _members(len(self), self._labels)

    def _labels(self, row: int) -> NDArray[np.int64]:
        annotations, size = self.data.annotations(int(self.rows[row])), self.data.size(int(self.rows[row]))
        return annotations.labels[_learnt(annotations, *size)]

    def _sample(self, row: int, rng: np.random.Generator, unreadable: Unreadable, label: int | None) -> DetectionSample:
        picture = int(self.rows[row])
        size, annotations = self.data.size(picture), self.data.annotations(picture)
        learnt = _learnt(annotations, *size)
        scene = scene_of(read_picture(self.data, picture), annotations.boxes[learnt], size)
        scene = augment_detection(scene, self.augment, rng)
        seen = learnt[scene.instances]
        shapes, masks, masked = annotations.shapes, None, None
        if shapes is not None:
            masks, masked = _masks(scene, [shapes[row] for row in seen.tolist()], size), annotations.masked[seen]
        return DetectionSample(
            scene_of(scene.pixels, scene.boxes), annotations.labels[seen], masks,
            None if masked is None or masked.all() else masked, int(rng.integers(2**63)), unreadable,
        )  # fmt: skip

    def collate(self, samples: Sequence[DetectionSample]) -> DenseBatch:
        """Padded to the largest picture, in multiples of `spec.multiple`; to no more than `augment.most_pixels`."""
        scenes, (height, width) = self._fitted([sample.scene for sample in samples])
        x = torch.zeros(len(scenes), 3, height, width)
        truths = []
        for image, scene, sample in zip(x, scenes, samples, strict=True):
            tall, wide = scene.size
            image[:, :tall, :wide] = _normal(scene.pixels, self.spec)
            masks = None
            if sample.masks is not None:
                masks = torch.zeros(len(sample.masks), height, width, dtype=torch.bool)
                masks[:, :tall, :wide] = torch.from_numpy(scene.taken(sample.masks))
            masked = None if sample.masked is None else torch.from_numpy(sample.masked)
            truths.append(Truth(torch.from_numpy(scene.boxes), torch.from_numpy(sample.labels), masks, masked))
        draws = [sample.draw for sample in samples]
        return DenseBatch(x, [scene.size for scene in scenes], *standing_in(samples), truths=truths, draws=draws)

    def _fitted(self, scenes: list[Scene]) -> tuple[list[Scene], tuple[int, int]]:
        """The pictures, all made smaller by one factor where the batch would be too large; height and width of it."""
        multiple = self.spec.multiple
        longest = [max(scene.size[axis] for scene in scenes) for axis in (0, 1)]
        height, width = (-(-side // multiple) * multiple for side in longest)
        most = self.augment.most_pixels
        if most is None or len(scenes) * height * width <= most:
            return scenes, (height, width)
        share = math.sqrt(most / (len(scenes) * height * width))
        height, width = (max(int(side * share) // multiple, 1) * multiple for side in (height, width))
        factor = min(height / longest[0], width / longest[1], 1.0)
        sizes = [[max(int(side * factor), 1) for side in scene.size] for scene in scenes]
        return [resized(scene, size) for scene, size in zip(scenes, sizes, strict=True)], (height, width)


def _learnt(annotations: Annotations, height: int, width: int) -> NDArray[np.int64]:
    """Which of the instances a detector learns, of a picture so large."""
    x1, y1, x2, y2 = annotations.boxes.T
    seen = (np.minimum(x2, width) > np.maximum(x1, 0)) & (np.minimum(y2, height) > np.maximum(y1, 0))
    is_box = (x2 - x1 >= 1) & (y2 - y1 >= 1) & (annotations.areas > 0)
    return np.flatnonzero(seen & is_box & ~annotations.crowd)


def _masks(scene: Scene, shapes: Sequence[Shape], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(M, h, w) of these shapes, drawn one by one, as a mask is as large as the picture was, `size`."""
    masks = np.zeros((len(shapes), *scene.size), np.bool_)
    for mask, shape in zip(masks, shapes, strict=True):
        mask[:] = scene.taken(decode_mask(mask_of(shape, *size)))
    return masks


# ---- segmentation ----------------------------------------------------------------------------------------------------


class SegmentationSamples(DenseSamples[SegmentationSample]):
    """Pictures with maps of labels, in batches of crops of one size: where a picture is drawn for one of its classes,
    of a part with that class."""

    task = "segmentation"

    def __init__(self, data: AnnotatedSet, spec: Scaling, augment: SegmentationAugment, seed: int = 0):
        super().__init__(data, seed)
        self.spec, self.augment = spec, augment
        self._something(list(range(len(data))), "pictures with maps of labels")

    def __len__(self) -> int:
        return len(self.data)

    def path(self, row: int) -> str:
        return self.data.path(row)

    def members(self) -> Members:
        return _members(len(self), self._labels)

    def _labels(self, row: int) -> NDArray[np.uint8]:
        label_map = self.data.label_map(row)
        return label_map[label_map != IGNORED]

    def _sample(
        self, row: int, rng: np.random.Generator, unreadable: Unreadable, label: int | None
    ) -> SegmentationSample:
        size, label_map = self.data.size(row), self.data.label_map(row)
        scene = scene_of(read_picture(self.data, row), size=size)
        scene = augment_segmentation(scene, label_map, self.augment, rng, label)
        return SegmentationSample(scene.pixels, scene.taken(label_map), unreadable)

    def collate(self, samples: Sequence[SegmentationSample]) -> DenseBatch:
        """All as large as the crop, padded to the right and below where a picture is smaller."""
        x = torch.zeros(len(samples), 3, *self.augment.crop)
        label_maps = torch.full((len(samples), *self.augment.crop), IGNORED, dtype=torch.int64)
        for image, label_map, sample in zip(x, label_maps, samples, strict=True):
            height, width = sample.labels.shape
            image[:, :height, :width] = _normal(sample.pixels, self.spec)
            label_map[:height, :width] = torch.from_numpy(sample.labels.astype(np.int64))
        sizes = [(sample.labels.shape[0], sample.labels.shape[1]) for sample in samples]
        return DenseBatch(x, sizes, *standing_in(samples), label_maps=label_maps)


# ---- pose ------------------------------------------------------------------------------------------------------------


class PoseSamples(DenseSamples[PoseSample]):
    """People, each cut out of the picture; those without a visible key point, and crowds, are left out."""

    task = "pose"

    def __init__(self, data: AnnotatedSet, spec: PersonCrop, augment: PoseAugment, seed: int = 0):
        super().__init__(data, seed)
        self.spec, self.augment = spec, augment
        self.body = _body(data, augment)
        found = [(row, instance) for row in range(len(data)) for instance in _people(data, row)]
        self.people = self._something(found, "people with visible key points")  # (N, 2) picture, instance

    def __len__(self) -> int:
        return len(self.people)

    def path(self, row: int) -> str:
        return self.data.path(int(self.people[row, 0]))

    def members(self) -> Members:
        """Raises `InputError`: there are none."""
        raise InputError("data.balanced needs classes, which people with key points have not")

    def _sample(self, row: int, rng: np.random.Generator, unreadable: Unreadable, label: int | None) -> PoseSample:
        picture, instance = self.people[row].tolist()
        annotations, (height, width) = self.data.annotations(picture), self.data.size(picture)
        assert annotations.keypoints is not None  # see `_people`
        x1, y1, x2, y2 = clipped_boxes(annotations.boxes[[instance]], height, width)[0].tolist()
        box = x1, y1, x2 - x1, y2 - y1
        cut = draw_cut(annotations.keypoints[instance], box, width, self.spec, self.augment, self.body, rng)
        crop = warp_pixels(read_picture(self.data, picture), cut.matrix, self.spec.size, (height, width))
        crop = recoloured(crop, self.augment.colour, rng)
        grid, visible = [side // STRIDE for side in self.spec.size], cut.visible.astype(np.float32)
        return PoseSample(crop, *heat_map_targets(cut.points, visible, grid, self.augment.sigma), unreadable)

    def collate(self, samples: Sequence[PoseSample]) -> DenseBatch:
        """All are of one size."""
        crops = np.stack([sample.pixels.transpose(2, 0, 1) for sample in samples]).astype(np.float32)
        x = torch.from_numpy(standardise(crops, self.spec.mean, self.spec.std))
        heat_maps = torch.from_numpy(np.stack([sample.heat_maps for sample in samples]))
        weights = torch.from_numpy(np.stack([sample.weights for sample in samples]))
        sizes = [self.spec.size] * len(samples)
        return DenseBatch(x, sizes, *standing_in(samples), heat_maps=heat_maps, weights=weights)


def _body(data: AnnotatedSet, augment: PoseAugment) -> Body:
    """Raises `InputError` where pairs or the upper half are needed, and the set's key points do not tell them."""
    pairs = np.array(data.details.get("flip_pairs") or (), np.int64).reshape(-1, 2)
    upper = np.array([name in augment.upper_body for name in data.classes])
    if augment.flip and not len(pairs) and (sides := flip_sensitive(data.classes)):
        such_as = " and ".join(map(repr, sides[0]))
        raise InputError(
            f"{data.origin}: expected pairs of key points that change places in a mirrored picture, such as {such_as}, "
            "found none: name them (flip_pairs), or set augment.flip=0"
        )
    if augment.half_body and not upper.any():
        raise InputError(
            f"{data.origin}: expected augment.upper_body to name key points of the upper half, found none of them "
            f"among {', '.join(data.classes)}: name them, or set augment.half_body=0"
        )
    return Body(pairs, upper)


def _people(data: AnnotatedSet, row: int) -> list[int]:
    annotations, size = data.annotations(row), data.size(row)
    if annotations.keypoints is None:
        return []
    boxes = clipped_boxes(annotations.boxes, *size)
    is_person = ~annotations.crowd & (annotations.areas > 0) & (annotations.keypoints[..., 2] > 0).any(1)
    return np.flatnonzero(is_person & (boxes[:, :2] < boxes[:, 2:]).all(1)).tolist()


# ---- all -------------------------------------------------------------------------------------------------------------


def _members(count: int, labels_of: Callable[[int], NDArray[np.integer]]) -> Members:
    """Of `count` pictures by their labels, as often as they come."""
    rows, labels = [], []
    for row in range(count):
        with suppress(InputError):
            labels.append(np.unique(labels_of(row)))
            rows.append(np.full(len(labels[-1]), row))
    return Members(np.concatenate(rows), np.concatenate(labels)) if rows else Members(*np.zeros((2, 0), np.int64))


def _normal(pixels: Pixels, spec: Scaling) -> Tensor:
    """(h, w, 3) -> float32 (3, h, w)."""
    return torch.from_numpy(normalised(pixels[:, :, ::-1] if spec.swap else pixels, spec)).permute(2, 0, 1)

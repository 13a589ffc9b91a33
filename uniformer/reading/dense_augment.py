"""What training does to a picture and, by the same draws, to what is known of it: boxes, masks, a map of labels.

Every draw comes from the generator that is handed in, so a seed gives the same scene to the bit. NumPy only. People
are cut out in `pose_augment.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from uniformer.config import Scaling
from uniformer.labels import IGNORED
from uniformer.reading.colour import recoloured
from uniformer.reading.dense_options import DetectionAugment, SegmentationAugment
from uniformer.reading.scaling import scaled_size
from uniformer.reading.scene import Scene, cropped, mirrored, resized


def augment_detection(scene: Scene, augment: DetectionAugment, rng: np.random.Generator) -> Scene:
    """Mirrored, cropped, recoloured and scaled by chance. Boxes are clipped to the picture; those that a crop leaves
    outside are gone, and a crop may leave none.

    The published 1x schedule mirrors last, which differs by rounding only.
    """
    if rng.random() < augment.flip:
        scene = mirrored(scene)
    if rng.random() < augment.crop_prob:
        scene = _with_short_side(scene, augment.crop_sides, augment.longest, rng)
        least, most = augment.crop
        size = [int(rng.integers(min(side, least), min(side, most) + 1)) for side in scene.size]
        scene = cropped(scene, _corner(scene.size, size, rng), size)
    scene = _with_short_side(scene, augment.sides, augment.longest, rng)
    return replace(scene, pixels=recoloured(scene.pixels, augment.colour, rng))


def augment_segmentation(
    scene: Scene,
    label_map: NDArray[np.uint8],
    augment: SegmentationAugment,
    rng: np.random.Generator,
    label: int | None = None,
) -> Scene:
    """Scaled, cropped, mirrored and recoloured by chance: up to `augment.crop` large. `label_map` (H, W) is that of the
    whole picture; what `scene.taken` makes of it fits the scene. The crop shows something of class `label`, if there is
    any (rare classes as in DAFormer, arXiv:2111.14887, section 3.3)."""
    ratio = rng.uniform(*augment.ratio)
    limits = Scaling(longest=int(augment.longest * ratio), shortest=int(augment.shortest * ratio))
    scene = resized(scene, scaled_size(*scene.size, limits))
    scene = _varied_crop(scene, label_map, augment, rng, label)
    if rng.random() < augment.flip:
        scene = mirrored(scene)
    return replace(scene, pixels=recoloured(scene.pixels, augment.colour, rng))


def _with_short_side(scene: Scene, sides: Sequence[int], longest: int, rng: np.random.Generator) -> Scene:
    shortest = sides[int(rng.integers(len(sides)))]
    return resized(scene, scaled_size(*scene.size, Scaling(longest=longest, shortest=shortest)))


def _varied_crop(
    scene: Scene,
    label_map: NDArray[np.uint8],
    augment: SegmentationAugment,
    rng: np.random.Generator,
    label: int | None,
) -> Scene:
    """A crop in which no class has too much of the labelled pixels, or else, after so many tries, any."""
    wanted = None if label is None else np.argwhere(scene.taken(label_map) == label)  # (N, 2) its pixels
    for _ in range(augment.tries):
        crop = _crop(scene, augment.crop, rng, wanted)
        counts = np.bincount(crop.taken(label_map).ravel(), minlength=IGNORED + 1)[:IGNORED]
        if np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < augment.most_of_one:
            return crop
    return _crop(scene, augment.crop, rng, wanted)


def _crop(
    scene: Scene, size: Sequence[int], rng: np.random.Generator, wanted: NDArray[np.int64] | None = None
) -> Scene:
    """A crop somewhere in a picture, or there where it holds one of the pixels `wanted`."""
    if wanted is None or not len(wanted):
        return cropped(scene, _corner(scene.size, size, rng), size)
    pixel = wanted[rng.integers(len(wanted))]
    first = np.maximum(pixel - np.array(size) + 1, 0)
    last = np.minimum(pixel, np.maximum(np.array(scene.size) - size, 0))
    return cropped(scene, rng.integers(first, last + 1).tolist(), size)


def _corner(size: Sequence[int], crop: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Top and left of a crop somewhere in a picture; 0 where that is the smaller one."""
    return [int(rng.integers(max(side - part, 0) + 1)) for side, part in zip(size, crop, strict=True)]

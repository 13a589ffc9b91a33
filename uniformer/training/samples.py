"""What training reads of a data set, by what the set is: labelled files, or pictures with what is in them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from uniformer.config import InputSpec
from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.sums import map_sums
from uniformer.errors import InputError
from uniformer.reading.options import Augment
from uniformer.training.batches import Samples, TrainingSet
from uniformer.training.dense_batches import dense_samples
from uniformer.training.recipe import Recipe

DataSet = Manifest | AnnotatedSet


def samples_of(recipe: Recipe, data: DataSet) -> Samples[Any]:
    """The samples of a data set, read and augmented as the recipe has it.

    Raises `InputError` where data, input and augmentation are not of one task, and where there is nothing to learn.
    """
    spec, augment = recipe.input, recipe.augment
    if isinstance(data, Manifest) and isinstance(spec, InputSpec) and isinstance(augment, Augment):
        return TrainingSet(
            data, spec, augment,
            seed=recipe.seed, label_maps=recipe.data.label_maps, num_classes=recipe.model.num_classes,
        )  # fmt: skip
    if isinstance(data, AnnotatedSet) and not isinstance(spec, InputSpec) and not isinstance(augment, Augment):
        return dense_samples(data, spec, augment, seed=recipe.seed)
    wanted = "labelled files" if isinstance(spec, InputSpec) else "annotated pictures"
    raise InputError(f"expected {wanted} for {recipe.arch}, got {data.origin}")


def details_of(data: DataSet) -> dict[str, Any]:
    """What a task's answers need beside the classes: palette; skeleton, sigmas, flip_pairs."""
    return dict(data.details) if isinstance(data, AnnotatedSet) else {}


def truth_sum(data: DataSet) -> str:
    """Of labels, boxes and key points of all rows in their order, of label maps the pictures' names: `shape_sum`."""
    if isinstance(data, Manifest):
        return _sum_of(data.labels)
    names = "\0".join(data.item_names()).encode("utf-8", "surrogatepass")
    found = data.instances
    return _sum_of(
        np.frombuffer(names, np.uint8), found.offsets, found.boxes, found.labels, found.crowd, found.keypoints
    )


def shape_sum(data: DataSet) -> str:
    """Of the masks of all instances, or of what the files of label maps hold; "" where there are neither."""
    if isinstance(data, Manifest):
        return ""
    if data.maps is not None:
        return _sum_of(map_sums(data))
    if (shapes := data.instances.shapes) is None:
        return ""
    runs = shapes.runs
    return _sum_of(runs.blob, shapes.points, shapes.polygons, shapes.starts, runs.offsets, shapes.sizes)


def _sum_of(*parts: npt.NDArray[Any] | None) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if part is not None:
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:12]

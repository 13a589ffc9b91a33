"""Detectors and pose networks scored against annotated pictures: what is kept of each, and `ObjectScores` of all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as unpack
from safetensors.numpy import save as pack

from uniformer.datasets.polygons import mask_of
from uniformer.datasets.strings import Strings
from uniformer.errors import InputError, counted
from uniformer.support.resume import BYTE_ROWS
from uniformer.tasks.class_order import places_of
from uniformer.tasks.coco import Kind, Objects, load_coco_eval
from uniformer.tasks.coco_results import Id
from uniformer.tasks.object_scores import PREFIXES, ObjectScores, answer_paths
from uniformer.tasks.pictured import skeleton_of
from uniformer.tasks.task import Metric, class_names

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract
    from uniformer.datasets.annotated import AnnotatedSet
    from uniformer.tasks.detections import Detections
    from uniformer.tasks.poses import Poses


class ObjectMetric(Metric):
    """What both share. A row is what was found in a picture; the truth is read at the end, from the data set."""

    dtype, forms = BYTE_ROWS, ("npz",)
    kinds: tuple[Kind, ...]
    manifest: AnnotatedSet
    nothing: Objects  #: found, in the right form

    def __init__(self, data: AnnotatedSet):
        load_coco_eval()  # that it is missing is said now, not at the end
        self.manifest, self.notes = data, []

    def _row(self, item: int, found: Objects) -> npt.NDArray[Any]:
        arrays = {name: np.ascontiguousarray(value) for name, value in found.arrays().items()}  # as safetensors needs
        return np.array((item, pack(arrays)), self.dtype)

    def result(self, rows: npt.NDArray[Any], errors: Mapping[int, str]) -> ObjectScores:
        data = self.manifest
        truths, sizes, bad = self._truths()
        errors = dict(sorted({**errors, **bad}.items()))
        ok = np.zeros(len(data), bool)
        ok[rows["item"]] = True
        ok[list(errors)] = False
        order = np.argsort(rows["item"])
        parts = [Objects.of(unpack(row["data"])) for row in rows[order] if ok[row["item"]]]
        found = Objects.joined([self.nothing, *parts])
        return ObjectScores(
            truths, found, sizes, ok, data.item_names(), **self._about(), kinds=self.kinds,
            image_ids=data.image_ids, errors=errors,
        )  # fmt: skip

    def answer_paths(self, folder: str | os.PathLike[str]) -> list[Path]:
        return list(answer_paths(folder, self.kinds).values())

    def _truths(self) -> tuple[Objects, npt.NDArray[np.int64], dict[int, str]]:
        """What is in all pictures, their sizes, and which have no readable annotations."""
        none = replace(self.nothing, scores=None, areas=np.zeros(0), crowd=np.zeros(0, bool))
        parts, sizes, bad = [none], np.ones((len(self.manifest), 2), np.int64), dict[int, str]()
        for item in range(len(self.manifest)):
            try:
                sizes[item] = self.manifest.size(item)
                parts.append(self._truth(item, *sizes[item].tolist()))
            except InputError as error:
                bad[item] = str(error)
        return Objects.joined(parts), sizes, bad

    def _truth(self, item: int, height: int, width: int) -> Objects:
        """What is in a picture."""
        raise NotImplementedError

    def _about(self) -> dict[str, Any]:
        """Classes, their numbers, sigmas."""
        raise NotImplementedError

    def summary(self, scores: ObjectScores) -> dict[str, float]:
        found = scores.metrics()
        return {name: found[name] for name in self.measures if name in found}


class DetectionMetric(ObjectMetric):
    """COCO's figures of boxes, and of masks where both the network makes them and the data have them."""

    def __init__(self, contract: Contract, data: AnnotatedSet, label_order: str = "numbers", *, masks: bool = True):
        super().__init__(data)
        counts = np.bincount(data.labels, minlength=len(data.classes)).tolist()
        self._places, self.notes = places_of(
            data.classes, contract.classes, contract.config.num_classes, label_order, counts
        )
        if not any(count for count, place in zip(counts, self._places, strict=True) if place >= 0):
            raise InputError(f"{data.origin}: expected at least one object of the checkpoint's classes, got none")
        self.classes = class_names(contract)
        self.kinds = ("box", "mask") if masks and data.has_masks else ("box",)
        if masks and not data.has_masks:
            self.notes.append("no figures of masks: the data have boxes alone")
        if "mask" in self.kinds and (bare := self._without_mask()):
            self.notes.append(f"{counted(bare, 'object')} without a mask: left out of the figures of masks")
        self.measures = tuple(f"{PREFIXES[kind]}ap" for kind in reversed(self.kinds))
        self.nothing = _nothing(masks=Strings.pack(()) if "mask" in self.kinds else None)

    def _without_mask(self) -> int:
        """Objects of known classes, no crowds, that have a box alone in data with masks."""
        every = self.manifest.instances
        drawn = every.shapes is not None and every.shapes.counts() > 0
        return int((every.learnt() & ~drawn & (self._places[every.labels] >= 0)).sum())

    def row(self, item: int, answer: Detections) -> npt.NDArray[Any]:
        """The boxes, and the masks where they are scored."""
        masks = Strings.pack(str(mask["counts"]) for mask in answer.masks or ()) if "mask" in self.kinds else None
        found = Objects(
            np.full(len(answer.boxes), item), answer.labels.astype(np.int64), answer.boxes, answer.scores, masks=masks
        )
        return self._row(item, found)

    def _truth(self, item: int, height: int, width: int) -> Objects:
        one = self.manifest.annotations(item)
        labels = self._places[one.labels]
        known = np.flatnonzero(labels >= 0)
        rows = np.full(len(known), item)
        truth = Objects(rows, labels[known], one.boxes[known], areas=one.areas[known], crowd=one.crowd[known])
        if "mask" not in self.kinds or one.shapes is None:
            return truth
        shapes = [one.shapes[i] for i in known.tolist()]
        masks = (mask_of(shape, height, width)["counts"] if shape else "" for shape in shapes)
        return replace(truth, masks=Strings.pack(masks))

    def _about(self) -> dict[str, Any]:
        return {"classes": self.classes, "category_ids": self._categories()}

    def _categories(self) -> tuple[Id, ...]:
        """The data set's own numbers of the network's classes, free ones for those that it lacks; none without any."""
        pairs = zip(self._places.tolist(), self.manifest.category_ids, strict=False)
        own = {place: number for place, number in pairs if place >= 0 and number is not None}
        if not own:
            return ()
        taken = set(self.manifest.category_ids)
        free = (number for number in count(1) if number not in taken)
        return tuple(own[k] if k in own else next(free) for k in range(len(self.classes)))


class PoseMetric(ObjectMetric):
    """COCO's figures of people by their key points."""

    kinds = ("keypoints",)
    measures = ("ap",)

    def __init__(self, contract: Contract, data: AnnotatedSet, label_order: str = "numbers"):
        super().__init__(data)
        if not len(data.labels):
            raise InputError(f"{data.origin}: expected at least one person, got none")
        places, self.notes = places_of(data.classes, contract.classes, contract.config.num_classes, label_order)
        points = contract.config.num_classes
        missing = sorted(set(range(points)) - set(places.tolist()))
        if missing:
            names = [contract.classes[k] if contract.classes else f"number {k}" for k in missing]
            raise InputError(
                f"expected data with the checkpoint's {points} key points, got none for {', '.join(names)}"
            )
        self._columns = np.argsort(np.where(places < 0, points, places), kind="stable")[:points]  #: (K,), of the data
        sigmas = contract.details.get("sigmas") or np.asarray(data.details["sigmas"])[self._columns].tolist()
        self.sigmas = tuple(map(float, sigmas))
        self.points = contract.classes or tuple(data.classes[k] for k in self._columns)
        self.skeleton = skeleton_of(contract)
        self.nothing = _nothing(keypoints=np.zeros((0, points, 3), np.float32))

    def row(self, item: int, answer: Poses) -> npt.NDArray[Any]:
        """The people with their scores."""
        count = len(answer.keypoints)
        labels = np.zeros(count, np.int64)
        found = Objects(np.full(count, item), labels, answer.boxes, answer.scores, keypoints=answer.keypoints)
        return self._row(item, found)

    def _truth(self, item: int, height: int, width: int) -> Objects:
        one = self.manifest.annotations(item)
        assert one.keypoints is not None
        labels, points = np.zeros(len(one.labels), np.int64), one.keypoints[:, self._columns]
        rows = np.full(len(labels), item)
        return Objects(rows, labels, one.boxes, areas=one.areas, crowd=one.crowd, keypoints=points)

    def _about(self) -> dict[str, Any]:
        about = {"sigmas": self.sigmas, "points": self.points, "skeleton": self.skeleton}
        return {"classes": ("person",), "category_ids": self.manifest.category_ids[:1], **about}


def _nothing(**columns: Any) -> Objects:
    """No objects, with the columns of what is found and others that are given."""
    rows, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return Objects(rows, rows, np.zeros((0, 4), np.float32), scores, **columns)

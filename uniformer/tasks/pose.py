"""Pose: key points of people, each in a crop of their own (top-down; the simple baseline, Xiao et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from uniformer.config import PersonCrop
from uniformer.errors import Checked, InputError, counted
from uniformer.reading.people import UNIT
from uniformer.reading.views import Source
from uniformer.reading.whole import People, PeopleViews, load_people
from uniformer.tasks.keypoints import decode_heat_maps, rescore, without_doubles
from uniformer.tasks.person_boxes import whole_picture
from uniformer.tasks.pictured import label_named, skeleton_of
from uniformer.tasks.poses import Poses
from uniformer.tasks.task import Evidence, Outputs, class_name
from uniformer.tasks.whole_picture import WholePictureTask

if TYPE_CHECKING:
    import os

    import torch
    from torch import Tensor

    from uniformer.datasets.annotated import AnnotatedSet
    from uniformer.tasks.object_metrics import PoseMetric
    from uniformer.tasks.objective import Objective
    from uniformer.tasks.options import TargetOptions


@dataclass(frozen=True)
class PoseOptions(Checked):
    """Where people are, and how their key points are found; the defaults are the published test settings."""

    people: Callable[[Source, int, int], People] | None = None  #: boxes of a picture; None: one who fills it
    flip: bool = True  #: average with the mirrored crop
    score: float = 0.0  #: that a person must reach, after rescoring
    alike: float = 0.9  #: of two people with a higher similarity (OKS) the better one stays; 1 keeps all

    def _problems(self) -> Iterable[str]:
        for name in ("score", "alike"):
            if not 0 <= getattr(self, name) <= 1:
                yield f"expected {name} in [0, 1], got {getattr(self, name)}"


class Pose(WholePictureTask[PoseOptions]):
    """The network is a `heads.pose.PoseNetwork`; outputs are heat maps (P, K, h / 4, w / 4)."""

    name = "pose"
    result = Poses
    options_type = PoseOptions
    measures = ("ap", "loss")

    def objective(self, options: TargetOptions, train_set: AnnotatedSet) -> Callable[[Any], Objective]:
        from uniformer.tasks.dense_objectives import PoseObjective

        return PoseObjective

    def check(self) -> None:
        if self.options.flip:
            _ = self.flip_pairs  # raises

    def load(self, source: Source) -> PeopleViews:
        assert isinstance(self.input, PersonCrop)
        return load_people(source, self.input, self.options.people or _fills_it)

    def answer(self, form: Any, views: PeopleViews, device: torch.device, batch_size: int) -> tuple[Tensor, ...]:
        import torch

        crops = torch.from_numpy(views.array)
        parts = [self.heat_maps(form, some.to(device)) for some in crops.split(batch_size)]
        grid = tuple(side // 4 for side in crops.shape[2:])
        return (torch.cat(parts) if parts else torch.zeros(0, self.contract.config.num_classes, *grid),)

    def heat_maps(self, form: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Of crops (B, 3, H, W) -> (B, K, H / 4, W / 4), averaged with those of their mirror where options ask for it.

        Raises `InputError` as `flip_pairs`.
        """
        from uniformer.heads.pose import mirrored_average

        return (mirrored_average(form, x, self.flip_pairs) if self.options.flip else form(x)).float()

    @property
    def flip_pairs(self) -> list[tuple[int, int]]:
        """Key points that a mirror swaps. Raises `InputError` where the contract does not say."""
        pairs = self.contract.details.get("flip_pairs")
        if pairs is None:
            raise InputError(
                "expected a contract with flip_pairs for flip=True, got one without (flip=False, --no-flip)"
            )
        return [(int(a), int(b)) for a, b in pairs]

    @property
    def sigmas(self) -> np.ndarray:
        """Of each key point's place, (K,), in the root of a person's area; 0.05 where the contract does not say."""
        count = self.contract.config.num_classes
        return np.asarray(self.contract.details.get("sigmas") or [0.05] * count, np.float64)

    def evidence(
        self, network: Any, views: PeopleViews, device: torch.device, target: str | None, number: int
    ) -> Evidence:
        """Of a key point of a person: its heat map where that is highest."""
        import torch

        if not 1 <= number <= len(views.array):
            raise InputError(f"expected person {number} to explain, found {counted(len(views.array), 'person')}")
        view, crops = number - 1, torch.from_numpy(views.array)

        def peaks(person: int) -> Tensor:
            """(K,)"""
            return network(crops[person : person + 1].to(device))[0].flatten(1).amax(dim=1)

        with torch.no_grad():
            found = peaks(view)
        row = int(found.argmax()) if target is None else label_named(target, self.contract)
        (x, y), (w, h) = views.regions[view].centre, views.regions[view].scale * UNIT
        box = (float(y - h / 2), float(x - w / 2), float(h), float(w))
        name = f"{class_name(self.contract.classes, row)}, person {number}"
        score = float(found[row])
        return Evidence(name, score, lambda person: peaks(person)[row], (view,), (box,), pooled=False, stage=2)

    def decode(self, outputs: Outputs, views: PeopleViews, top_k: int = 0) -> Poses:  # type: ignore[override]
        points, point_scores = decode_heat_maps(outputs[0], views.regions)  # (P, K, 2), (P, K)
        assert views.people_scores is not None
        assert views.people is not None
        scores = np.array([rescore(s, p) for s, p in zip(views.people_scores.tolist(), point_scores, strict=True)])
        areas = np.array([float(np.prod(region.scale * UNIT)) for region in views.regions])
        best_first = without_doubles(points, areas, scores, self.sigmas, self.options.alike)
        kept = [i for i in best_first if scores[i] >= self.options.score]
        found = np.concatenate([points, point_scores[:, :, None]], axis=2).astype(np.float32)
        return Poses(
            keypoints=found[kept], boxes=views.people[kept].astype(np.float32), scores=scores[kept].astype(np.float32),
            names=self.contract.classes, skeleton=skeleton_of(self.contract), height=views.height, width=views.width,
        )  # fmt: skip

    def on(self, data: AnnotatedSet, boxes: str | os.PathLike[str] | None = None) -> Pose:
        """With the people that are annotated, or those that the file `boxes` lists; and where the contract does not say
        which key points a mirror swaps, with the pairs of a set that has the same key points."""
        from uniformer.tasks.annotated_people import people_of
        from uniformer.tasks.person_boxes import PersonBoxes, read_person_boxes

        listed = self.options.people if boxes is None else read_person_boxes(boxes)
        if not isinstance(listed, PersonBoxes | None):
            return self
        people, found = people_of(data, listed), copy(self)
        found.options = replace(self.options, people=people)
        notes, details = [f"people by {people.origin}", *people.notes], self.contract.details
        pairs = data.details.get("flip_pairs")
        if self.options.flip and details.get("flip_pairs") is None and pairs and self._knows(data.classes):
            found.contract = replace(self.contract, details={**details, "flip_pairs": pairs})
            notes.append("which key points a mirror swaps is taken from the data: the checkpoint does not say")
        found.notes = tuple(notes)
        return found

    def _knows(self, points: Sequence[str]) -> bool:
        """Whether a set's key points are the network's, in its order."""
        own = self.contract.classes
        return tuple(points) == own if own else len(points) == self.contract.config.num_classes

    def metric(self, manifest: AnnotatedSet, *, label_order: str = "numbers") -> PoseMetric:
        from uniformer.tasks.object_metrics import PoseMetric

        return PoseMetric(self.contract, manifest, label_order)


def _fills_it(source: Source, height: int, width: int) -> People:
    found = whole_picture(height, width)
    return found.boxes, found.scores

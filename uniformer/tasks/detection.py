"""Detection and instance segmentation: boxes with classes, scores and masks; Mask R-CNN and Cascade Mask R-CNN."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from uniformer.config import Scaling
from uniformer.errors import Checked, InputError, counted
from uniformer.reading.run_lengths import encode_mask
from uniformer.reading.views import Source
from uniformer.reading.whole import WholeViews, load_whole
from uniformer.tasks.detections import Detections
from uniformer.tasks.pictured import label_named
from uniformer.tasks.task import Evidence, Outputs, class_name
from uniformer.tasks.whole_picture import WholePictureTask

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from uniformer.datasets.annotated import AnnotatedSet
    from uniformer.heads import detection as things
    from uniformer.tasks.object_metrics import DetectionMetric
    from uniformer.tasks.objective import Objective
    from uniformer.tasks.options import TargetOptions


@dataclass(frozen=True)
class DetectionOptions(Checked):
    """What is kept of the things found; the defaults are the published test settings."""

    score: float = 0.05  #: that a thing must exceed
    most: int = 100  #: things of a picture
    keep: tuple[str, ...] = ()  #: classes; none: all of them
    masks: bool = True  #: whether masks are made

    def _problems(self) -> Iterable[str]:
        if not 0 <= self.score <= 1:
            yield f"expected a score in [0, 1], got {self.score}"
        if not 1 <= self.most <= 10_000:
            yield f"expected at most 1 to 10000 things of a picture, got {self.most}"


class Detection(WholePictureTask[DetectionOptions]):
    """The network is a `heads.detection.Detector`; outputs are boxes (N, 4), scores and labels (N,), mask shares
    (N, 28, 28), and numbers that are not finite where the network's are not."""

    name = "detection"
    result = Detections
    options_type = DetectionOptions
    measures = ("mask_ap", "box_ap", "loss")

    def objective(self, options: TargetOptions, train_set: AnnotatedSet) -> Callable[[Any], Objective]:
        """Without masks in the data, nobody has taught the network any: the contract then says so."""
        from uniformer.tasks.dense_objectives import DetectionObjective

        if not train_set.has_masks:
            self.contract = replace(self.contract, details={**self.contract.details, "masks": False})
        return lambda model: DetectionObjective(model, train_set.has_masks, options.regions)

    @property
    def has_masks(self) -> bool:
        """Whether masks are asked for, of a network that has learnt any."""
        return self.options.masks and self.contract.details.get("masks") is not False

    @property
    def limits(self) -> things.Limits:
        """What the options keep."""
        from uniformer.heads.detection import Limits

        return Limits(score=self.options.score, detections=self.options.most, classes=self.kept)

    def load(self, source: Source) -> WholeViews:
        assert isinstance(self.input, Scaling)
        return load_whole(source, self.input)

    def answer(self, form: Any, views: WholeViews, device: torch.device, batch_size: int) -> tuple[Tensor, ...]:
        import torch

        scales = [torch.from_numpy(views.factors).to(device)]
        levels, found = things_in(form, torch.from_numpy(views.array).to(device), [views.size], scales, self.limits)
        finite = torch.stack([level.sum(dtype=torch.float32) for level in levels])
        shares = form.masks(levels, found, scales)[0] if self.has_masks else found[0].boxes.new_zeros(0, 28, 28)
        return found[0].boxes, found[0].scores, found[0].labels, shares, finite

    def evidence(
        self, network: Any, views: WholeViews, device: torch.device, target: str | None, number: int
    ) -> Evidence:
        """Of a box that was found: what its region alone makes the box heads say of its class."""
        import torch

        from uniformer.heads.detection import region_features, region_levels, with_images

        names = self.contract.classes
        with torch.no_grad():
            boxes, scores, labels, *_ = self.answer(network, views, device, 1)
        rows = range(len(labels)) if target is None else (labels == label_named(target, self.contract)).nonzero()[:, 0]
        if not 1 <= number <= len(rows):
            found = counted(len(rows), "box" if target is None else f"box of {target!r}")
            raise InputError(f"expected box {number} to explain, found {found} with a score above {self.options.score}")
        row = int(rows[number - 1])
        label, scale = int(labels[row]), torch.from_numpy(views.factors).to(device)
        region = with_images([boxes[row : row + 1] * scale])

        def score(_: int) -> Tensor:
            levels = network(torch.from_numpy(views.array).to(device))
            cut = region_features(levels, region, 7)
            each = torch.stack([head(cut)[0][0] for head in network.roi_head.box_heads])  # (stages, K + 1)
            return (each[:, label] - each.mean(dim=1)).mean()

        name = f"{class_name(names, label)}, box {number}"
        stage = 1 + int(region_levels(region)[0])  # that of the level of the pyramid whence the region is cut
        return Evidence(name, float(scores[row]), score, (0,), (views.reach,), pooled=False, stage=stage)

    def decode(self, outputs: Outputs, views: WholeViews, top_k: int = 0) -> Detections:  # type: ignore[override]
        import torch

        from uniformer.heads.detection import paste_masks

        boxes, scores, labels, shares, _ = outputs
        size = (views.height, views.width)
        pairs = zip(torch.from_numpy(shares)[:, None], torch.from_numpy(boxes)[:, None], strict=False)
        masks = tuple(encode_mask(paste_masks(share, box, size)[0].numpy()) for share, box in pairs)
        return Detections(
            boxes=boxes.astype(np.float32), scores=scores.astype(np.float32), labels=labels.astype(np.int64),
            names=self.contract.classes, masks=masks if self.has_masks else None, height=size[0], width=size[1],
        )  # fmt: skip

    def metric(self, manifest: AnnotatedSet, *, label_order: str = "numbers") -> DetectionMetric:
        from uniformer.tasks.object_metrics import DetectionMetric

        return DetectionMetric(self.contract, manifest, label_order, masks=self.has_masks)


def things_in(
    form: Any, x: Tensor, sizes: Sequence[tuple[int, int]], scales: Sequence[Tensor], limits: things.Limits
) -> tuple[Sequence[Tensor], list[things.Detections]]:
    """The levels of the pyramid of pictures (B, 3, H, W), and what a detector finds in each: boxes of the picture.

    sizes: height and width of each without padding; scales: (4,), what boxes of it times give boxes of the input.
    """
    levels = form(x)
    proposals = form.proposals(form.rpn_head(levels), sizes, limits)
    return levels, form.detect(levels, [p[:, :4] for p in proposals], sizes, scales, limits)

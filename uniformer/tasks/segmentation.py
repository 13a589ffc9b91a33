"""Semantic segmentation: the class of each pixel; Semantic FPN and UPerNet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from uniformer.config import Scaling
from uniformer.errors import Checked, InputError
from uniformer.reading.views import Source
from uniformer.reading.whole import TiledViews, WholeViews, load_tiled, load_whole
from uniformer.tasks.pictured import label_named, palette_of
from uniformer.tasks.segmentations import Segmentation, map_type
from uniformer.tasks.task import Evidence, Outputs, class_name
from uniformer.tasks.whole_picture import WholePictureTask

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from uniformer.datasets.annotated import AnnotatedSet
    from uniformer.tasks.objective import Objective
    from uniformer.tasks.options import TargetOptions
    from uniformer.tasks.segmentation_metric import SegmentationMetric

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  #: of the published test in several sizes
EXPORTED_SIZE = "exported_size"  #: of an exported network's contract, among the details: height and width
Mode = Literal["whole", "slide", "multi-scale"]


@dataclass(frozen=True)
class SegmentationOptions(Checked):
    """How the classes of pixels are found; the defaults are the published test settings."""

    keep: tuple[str, ...] = ()  #: classes; other pixels have none. Nothing: all of them
    mode: Mode = "whole"  #: the picture at once, overlapping windows, or several sizes whose shares are averaged
    flip: bool | None = None  #: average with the mirrored picture; by default of several sizes only, as published
    window_side: int = 512  #: side of a window, pixels of the input
    window_step: int = 341  #: between two windows
    tile: int | None = None  #: pixels of the picture that are seen at once, scaled as a picture; by default all

    def _problems(self) -> Iterable[str]:
        if self.mode not in get_args(Mode):
            yield f"expected mode {', '.join(get_args(Mode))}, got {self.mode!r}"
        if not 32 <= self.window_side <= 1 << 13 or not 1 <= self.window_step <= self.window_side:
            got = f"{self.window_side} and {self.window_step}"
            yield f"expected windows of 32 to 8192 pixels and steps within them, got {got}"
        if self.tile is not None and not 64 <= self.tile <= 1 << 13:
            yield f"expected tiles of 64 to 8192 pixels, got {self.tile}"

    @property
    def ratios(self) -> tuple[float, ...]:
        """Of the sizes that a picture is seen in to the usual one; none: in that alone."""
        return RATIOS if self.mode == "multi-scale" else ()

    @property
    def flips(self) -> bool:
        return self.mode == "multi-scale" if self.flip is None else self.flip


class Semantic(WholePictureTask[SegmentationOptions]):
    """The network is a `heads.segmentation.Segmenter`; outputs are the classes (1, H, W) of the picture's pixels, and
    numbers that are not finite where the network's are not."""

    name = "segmentation"
    result = Segmentation
    options_type = SegmentationOptions
    measures = ("miou", "aacc", "macc", "loss")

    def objective(self, options: TargetOptions, train_set: AnnotatedSet) -> Callable[[Any], Objective]:
        from uniformer.tasks.dense_objectives import SegmentationObjective

        return lambda model: SegmentationObjective(model, options.hardest)

    def load(self, source: Source) -> WholeViews | TiledViews:
        assert isinstance(self.input, Scaling)
        if self.options.tile is not None:
            return load_tiled(source, self.options.tile, self.input, self.options.ratios, self.fixed)
        return load_whole(source, self.input, self.options.ratios, self.fixed)

    @property
    def fixed(self) -> tuple[int, int] | None:
        """Height and width of the only input that an exported network takes."""
        size = self.contract.details.get(EXPORTED_SIZE)
        return None if size is None else (int(size[0]), int(size[1]))

    def check(self) -> None:
        super().check()
        if self.fixed is not None and self.options.mode != "whole":
            height, width = self.fixed
            raise InputError(
                f"expected mode whole, as the exported network takes pictures of {width}x{height} alone, got "
                f"{self.options.mode}: the checkpoint itself takes any"
            )

    def answer(
        self, form: Any, views: WholeViews | TiledViews, device: torch.device, batch_size: int
    ) -> tuple[Tensor, ...]:
        import torch

        if isinstance(views, WholeViews):
            return self._classes(form, views, device)
        labels, finite = np.empty(views.picture.shape[:2], map_type(self.contract.config.num_classes)), []
        for tile, part in views.tiles():
            found, numbers = self._classes(form, part, device)
            labels[tile.kept_rows, tile.kept_columns] = found[0].cpu().numpy()[tile.inside]
            finite.append(numbers)
        return torch.from_numpy(labels)[None], torch.cat(finite)

    def _classes(self, form: Any, views: WholeViews, device: torch.device) -> tuple[Tensor, Tensor]:
        """The class of each pixel (1, H, W), and numbers that are finite where the network's are."""
        import torch

        from uniformer.heads.segmentation import Seen, pixel_classes, window_logits

        options, seen = self.options, []
        for array in (views.array, *views.others):
            x = torch.from_numpy(array).to(device)
            for mirrored in (False, True)[: 1 + options.flips]:
                shown = x.flip(3) if mirrored else x
                if options.mode == "slide":
                    logits = window_logits(form, shown, (options.window_side,) * 2, (options.window_step,) * 2)
                else:
                    logits = form(shown)
                seen.append(Seen(logits.float(), (x.shape[2], x.shape[3]), mirrored))
        finite = torch.stack([each.logits.sum() for each in seen])
        return pixel_classes(seen, (views.height, views.width))[None], finite

    def evidence(
        self, network: Any, views: WholeViews | TiledViews, device: torch.device, target: str | None, number: int
    ) -> Evidence:
        """Of a class: its logits where it is the answer (Seg-Grad-CAM, Vinogradova et al. 2020), their mean."""
        import torch

        if isinstance(views, TiledViews) or number != 1:
            raise InputError("expected a class of a picture seen whole to explain, got tiles or a number other than 1")

        def logits_of() -> Tensor:
            """(K, h, w) of what is no padding."""
            logits = network(torch.from_numpy(views.array).to(device))[0]
            height, width = (-(-n // 4) for n in views.size)
            return logits[:, :height, :width]

        with torch.no_grad():
            classes = logits_of().argmax(0)
        counts = classes.flatten().bincount(minlength=self.contract.config.num_classes)
        row = int(counts.argmax()) if target is None else label_named(target, self.contract)
        name, where = class_name(self.contract.classes, row), classes == row
        if not counts[row]:
            raise InputError(f"expected pixels of {name!r} in the answer to explain, found none")

        def score(_: int) -> Tensor:
            logits = logits_of()
            return (logits[row] - logits.mean(dim=0))[where].mean()

        return Evidence(name, float(counts[row] / counts.sum()), score, (0,), (views.reach,), pooled=False, stage=2)

    def decode(self, outputs: Outputs, views: WholeViews | TiledViews, top_k: int = 0) -> Segmentation:  # type: ignore[override]
        labels = in_size(outputs[0][0], views.height, views.width).astype(map_type(self.contract.config.num_classes))
        found = Segmentation(
            labels=np.ascontiguousarray(labels), classes=self.contract.classes, palette=palette_of(self.contract),
            height=views.height, width=views.width,
        )  # fmt: skip
        return found.only(self.options.keep) if self.options.keep else found

    def metric(self, manifest: AnnotatedSet, *, label_order: str = "numbers") -> SegmentationMetric:
        from uniformer.tasks.segmentation_metric import SegmentationMetric

        return SegmentationMetric(self.contract, manifest, label_order)


def in_size(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Labels of a smaller copy of a picture, each for the pixels that it stands for: (height, width)."""
    if labels.shape == (height, width):
        return labels
    rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), labels.shape, strict=True))
    return labels[rows[:, None], columns]

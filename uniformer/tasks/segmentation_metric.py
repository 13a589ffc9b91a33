"""Segmenters scored against label maps: what is kept of each picture, and `SegmentationScores` of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from uniformer.errors import InputError
from uniformer.labels import IGNORED
from uniformer.reading.label_png import from_png, to_png
from uniformer.support.resume import BYTE_ROWS
from uniformer.tasks.class_order import places_of
from uniformer.tasks.pictured import palette_of
from uniformer.tasks.segmentation_scores import Cells, SegmentationScores, answer_paths
from uniformer.tasks.task import Metric, class_names

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from uniformer.checkpoints.contract import Contract
    from uniformer.datasets.annotated import AnnotatedSet
    from uniformer.tasks.segmentations import Segmentation


class SegmentationMetric(Metric):
    """Intersections over unions. A row is the answer's label map; the truth is read at the end, from the data set."""

    dtype, forms = BYTE_ROWS, ("npz",)
    measures = ("miou", "aacc", "macc")
    manifest: AnnotatedSet

    def __init__(self, contract: Contract, data: AnnotatedSet, label_order: str = "numbers"):
        self.manifest = data
        places, self.notes = places_of(data.classes, contract.classes, contract.config.num_classes, label_order)
        self.classes = class_names(contract)
        if len(self.classes) > IGNORED:
            raise InputError(f"expected a network of up to {IGNORED} classes to score, got {len(self.classes)}")
        self.palette = palette_of(contract)
        self._places = np.full(256, IGNORED, np.uint8)
        self._places[: len(places)] = np.where(places < 0, IGNORED, places)

    def row(self, item: int, answer: Segmentation) -> npt.NDArray[Any]:
        """The label map as a PNG."""
        return np.array((item, to_png(answer.labels, self.palette)), self.dtype)

    def result(self, rows: npt.NDArray[Any], errors: Mapping[int, str]) -> SegmentationScores:
        """A picture whose truth cannot be read counts for nothing; of one without an answer all pixels are missed."""
        data, found = self.manifest, dict(errors)
        answers = {int(row["item"]): row["data"] for row in rows}
        parts = []
        for item in range(len(data)):
            try:
                parts.append(self._counted(item, answers.get(item)))
            except InputError as error:
                found.setdefault(item, str(error))
        ok = np.zeros(len(data), bool)
        ok[list(answers.keys() - found.keys())] = True
        kept = {item: png for item, png in answers.items() if ok[item]}
        return SegmentationScores(
            Cells.joined(parts), ok, data.item_names(), self.classes, self._places, self.palette,
            dict(sorted(found.items())), kept,
        )  # fmt: skip

    def answer_paths(self, folder: str | os.PathLike[str]) -> list[Path]:
        return answer_paths(folder, self.manifest.item_names())

    def _counted(self, item: int, png: bytes | None) -> Cells:
        true, said = self._places[self.manifest.label_map(item)], None if png is None else from_png(png)
        if said is not None and said.shape != true.shape:
            sides = ["x".join(map(str, labels.shape[::-1])) for labels in (said, true)]
            raise InputError(f"{self.manifest.path(item)}: expected a label map of {sides[0]}, found one of {sides[1]}")
        return Cells.counted(item, true, said, len(self.classes))

    def summary(self, scores: SegmentationScores) -> dict[str, float]:
        found = scores.metrics()
        return {name: found[name] for name in self.measures}

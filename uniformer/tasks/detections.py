"""What a detector says of a picture: boxes with classes and scores, and a mask of each where it makes masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniformer.errors import InputError
from uniformer.labels import category_ids
from uniformer.reading.pictures import Pixels
from uniformer.reading.run_lengths import Mask, RunLengths, decode_mask, encode_mask
from uniformer.tasks.coco_results import Id, result_rows
from uniformer.tasks.drawing import Thing, colour_of, draw_things
from uniformer.tasks.pictured import (
    PLACES,
    PictureResult,
    array_of,
    field_of,
    label_of,
    labels_of,
    load_supervision,
    of_supervision,
    rows_of_classifier,
    where_from,
)
from uniformer.tasks.task import class_name

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections(PictureResult):
    """The things found in a picture, best first."""

    boxes: NDArray[np.float32]  #: (N, 4): x1, y1, x2, y2 in pixels
    scores: NDArray[np.float32]  #: (N,)
    labels: NDArray[np.int64]  #: (N,): rows of the classifier
    names: tuple[str, ...]  #: of all classes
    masks: tuple[RunLengths, ...] | None = None  #: of each, as COCO's run lengths; None of a network without masks

    COLUMNS: ClassVar[tuple[str, ...]] = ("name", "score", "label", "x1", "y1", "x2", "y2")
    CSV_FIELDS: ClassVar[tuple[str, ...]] = (*PLACES, *COLUMNS)

    def __len__(self) -> int:
        return len(self.boxes)

    def name(self, i: int) -> str:
        """The class of a thing."""
        return class_name(self.names, int(self.labels[i]))

    def mask(self, i: int) -> Mask:
        """The pixels of a thing: bool (H, W). Raises `InputError` where the network makes no masks."""
        if self.masks is None:
            raise InputError("expected a network that makes masks, got one of boxes alone")
        return decode_mask(self.masks[i])

    def select(self, rows: list[int] | NDArray[Any]) -> Self:
        """Some of the things, by their places or as bool (N,)."""
        kept = np.arange(len(self))[rows]
        masks = None if self.masks is None else tuple(self.masks[i] for i in kept)
        return replace(self, boxes=self.boxes[kept], scores=self.scores[kept], labels=self.labels[kept], masks=masks)

    def only(self, names: Collection[str]) -> Self:
        """The things of these classes. Raises `InputError` for a name that is no class."""
        return self.select(np.isin(self.labels, labels_of(names, self.names)))

    # ---- forms -------------------------------------------------------------------------------------------------------

    def answer(self) -> dict[str, Any]:
        """The things; boxes to a thousandth of a pixel."""
        return {"objects": [self._plain(i) for i in range(len(self))]}

    def _plain(self, i: int) -> dict[str, Any]:
        plain = {
            "name": self.name(i),
            "label": int(self.labels[i]),
            "score": round(float(self.scores[i]), 6),
            "box": [round(float(v), 3) for v in self.boxes[i]],
        }
        return plain if self.masks is None else {**plain, "mask": self.masks[i]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], contract: Contract) -> Self:
        things = field_of(plain, "objects", list)
        boxes = array_of([field_of(thing, "box", list) for thing in things], 4)
        has_masks = any("mask" in thing for thing in things)
        return cls(
            **where_from(plain),
            boxes=boxes,
            scores=array_of([field_of(thing, "score", float) for thing in things]),
            labels=np.array([label_of(thing, contract) for thing in things], np.int64),
            names=contract.classes,
            masks=tuple(field_of(thing, "mask", dict) for thing in things) if has_masks else None,
        )

    def rows(self) -> list[tuple[Any, ...]]:
        """One a thing, without masks."""
        return [
            (thing["name"], thing["score"], thing["label"], *thing["box"])
            for thing in map(self._plain, range(len(self)))
        ]

    def lines(self) -> list[str]:
        wide = max((len(self.name(i)) for i in range(len(self))), default=0)
        return [
            f"{100 * self.scores[i]:6.2f} %  {self.name(i):{wide}}  " + " ".join(f"{v:7.1f}" for v in self.boxes[i])
            for i in range(len(self))
        ] or ["nothing found"]

    def in_short(self) -> str:
        counts = Counter(map(self.name, range(len(self))))
        return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing found"

    def to_coco(self, image_id: Id) -> list[dict[str, Any]]:
        """As COCO's result files have them: boxes as x, y, width, height; the category numbers of COCO's own classes,
        of others their places from 1."""
        ids = category_ids(self.names or [""] * (int(self.labels.max(initial=-1)) + 1))
        categories = [ids[label] for label in self.labels.tolist()]
        return result_rows([image_id] * len(self), categories, self.scores, boxes=self.boxes, masks=self.masks)

    def draw(self, pixels: Pixels) -> Image.Image:
        things = [
            Thing(
                tuple(self.boxes[i].tolist()),
                f"{self.name(i)} {100 * self.scores[i]:.0f} %",
                colour_of(int(self.labels[i])),
                None if self.masks is None else self.masks[i],
            )
            for i in range(len(self))
        ]
        return draw_things(pixels, things)

    def to_supervision(self) -> Any:
        """As `supervision.Detections`. Raises `MissingExtra` where that package is not installed."""
        masks = None if self.masks is None else [self.mask(i) for i in range(len(self))]
        return load_supervision().Detections(
            xyxy=self.boxes,
            mask=None if masks is None else np.array(masks, bool).reshape(-1, self.height, self.width),
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array([self.name(i) for i in range(len(self))], dtype=str)},
        )

    @classmethod
    def from_supervision(
        cls, found: Any, *, height: int, width: int, names: Sequence[str] = (), source: str = ""
    ) -> Self:
        """From `supervision.Detections`, such as ours that were tracked or chosen there, best first.

            Detections.from_supervision(kept, height=result.height, width=result.width, names=result.names)

        Raises `InputError` where they lack classes or scores, or have masks of another picture.
        """
        scores = of_supervision(found, "confidence").astype(np.float32)
        best = np.argsort(-scores, kind="stable")
        masks = None
        if found.mask is not None:
            masks = tuple(encode_mask(mask) for mask in of_supervision(found, "mask", height, width)[best])
        return cls(
            source=source, height=height, width=width, names=tuple(names), masks=masks, scores=scores[best],
            boxes=of_supervision(found, "xyxy", 4).astype(np.float32)[best],
            labels=rows_of_classifier(found, names)[best],
        )  # fmt: skip

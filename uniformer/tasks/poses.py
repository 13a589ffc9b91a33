"""What a pose network says of the people in a picture: key points with scores, and the boxes they were seen in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniformer.labels import PERSON_ID
from uniformer.reading.pictures import Pixels
from uniformer.reading.run_lengths import Mask
from uniformer.tasks.coco_results import Id, result_rows
from uniformer.tasks.drawing import Thing, colour_of, draw_people
from uniformer.tasks.keypoints import VISIBLE
from uniformer.tasks.pictured import (
    PLACES,
    PictureResult,
    array_of,
    field_of,
    load_supervision,
    of_supervision,
    skeleton_of,
    where_from,
)

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract


@dataclass(frozen=True, kw_only=True, eq=False)
class Poses(PictureResult):
    """The people in a picture, best first."""

    keypoints: NDArray[np.float32]  #: (N, K, 3): x, y in pixels, and a score
    boxes: NDArray[np.float32]  #: (N, 4): x1, y1, x2, y2, of the people
    scores: NDArray[np.float32]  #: (N,)
    names: tuple[str, ...]  #: of the key points
    skeleton: tuple[tuple[int, int], ...] = ()  #: pairs of key points with a limb between them

    COLUMNS: ClassVar[tuple[str, ...]] = ("person", "person_score", "point", "x", "y", "score")
    CSV_FIELDS: ClassVar[tuple[str, ...]] = (*PLACES, *COLUMNS)

    def __len__(self) -> int:
        return len(self.keypoints)

    def seen(self) -> Mask:
        """Whether a key point's score is high enough to be shown, above 0.2: bool (N, K)."""
        return self.keypoints[:, :, 2] > VISIBLE

    def select(self, rows: list[int] | NDArray[Any]) -> Self:
        """Some of the people, by their places or as bool (N,)."""
        kept = np.arange(len(self))[rows]
        return replace(self, keypoints=self.keypoints[kept], boxes=self.boxes[kept], scores=self.scores[kept])

    def _name(self, point: int) -> str:
        return self.names[point] if self.names else f"point {point}"

    # ---- forms -------------------------------------------------------------------------------------------------------

    def answer(self) -> dict[str, Any]:
        """The people; coordinates to a thousandth of a pixel."""
        return {
            "points": [self._name(k) for k in range(self.keypoints.shape[1])],
            "people": [
                {
                    "score": round(float(self.scores[i]), 6),
                    "box": _rounded(self.boxes[i]),
                    "keypoints": [[*_rounded(point[:2]), round(float(point[2]), 6)] for point in self.keypoints[i]],
                }
                for i in range(len(self))
            ],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], contract: Contract) -> Self:
        people = field_of(plain, "people", list)
        count = contract.config.num_classes
        return cls(
            **where_from(plain),
            keypoints=array_of([field_of(person, "keypoints", list) for person in people], count, 3),
            boxes=array_of([field_of(person, "box", list) for person in people], 4),
            scores=array_of([field_of(person, "score", float) for person in people]),
            names=contract.classes,
            skeleton=skeleton_of(contract),
        )

    def rows(self) -> list[tuple[Any, ...]]:
        """One a key point."""
        answer = self.answer()
        return [
            (number, person["score"], name, *point)
            for number, person in enumerate(answer["people"], start=1)
            for name, point in zip(answer["points"], person["keypoints"], strict=True)
        ]

    def lines(self) -> list[str]:
        seen = self.seen().sum(axis=1)
        of = self.keypoints.shape[1]
        return [
            f"{100 * self.scores[i]:6.2f} %  person {i + 1}: {seen[i]} of {of} key points seen, box "
            + " ".join(f"{v:7.1f}" for v in self.boxes[i])
            for i in range(len(self))
        ] or ["nobody found"]

    def in_short(self) -> str:
        return f"{len(self) or 'no'} {'person' if len(self) == 1 else 'people'}"

    def to_coco(self, image_id: Id) -> list[dict[str, Any]]:
        """As COCO's result files have them."""
        categories = [PERSON_ID] * len(self)
        return result_rows([image_id] * len(self), categories, self.scores, keypoints=self.keypoints)

    def draw(self, pixels: Pixels) -> Image.Image:
        """Skeletons, the left side of a person in blue, the right in orange, and thin boxes."""
        things = [
            Thing(tuple(box.tolist()), f"{100 * score:.0f} %", colour_of(i))
            for i, (box, score) in enumerate(zip(self.boxes, self.scores, strict=True))
        ]
        names = [self._name(k) for k in range(self.keypoints.shape[1])]
        return draw_people(pixels, self.keypoints[:, :, :2], self.seen(), names, self.skeleton, things)

    def to_supervision(self) -> Any:
        """As `supervision.KeyPoints`. Raises `MissingExtra` where that package is not installed."""
        return load_supervision().KeyPoints(
            xy=self.keypoints[:, :, :2],
            keypoint_confidence=self.keypoints[:, :, 2],
            detection_confidence=self.scores,
            visible=self.seen(),
        )

    @classmethod
    def from_supervision(
        cls,
        found: Any,
        *,
        height: int,
        width: int,
        names: Sequence[str],
        skeleton: tuple[tuple[int, int], ...] = (),
        source: str = "",
    ) -> Self:
        """From `supervision.KeyPoints`, best first. It keeps no boxes: these are around the key points that are seen.

        Raises `InputError` where they lack scores, or have another number of key points.
        """
        points = of_supervision(found, "xy", len(names), 2)
        scores = of_supervision(found, "detection_confidence").astype(np.float32)
        best = np.argsort(-scores, kind="stable")
        confidence = of_supervision(found, "keypoint_confidence", len(names))
        keypoints = np.concatenate([points, confidence[..., None]], axis=2).astype(np.float32)[best]
        return cls(
            source=source, height=height, width=width, names=tuple(names), skeleton=skeleton, scores=scores[best],
            keypoints=keypoints, boxes=np.array([_around(person) for person in keypoints], np.float32).reshape(-1, 4),
        )  # fmt: skip


def _around(person: NDArray[Any]) -> tuple[float, ...]:
    """The box of the key points (K, 3) that are seen, or of all where none is."""
    seen = person[person[:, 2] > VISIBLE]
    places = (seen if len(seen) else person)[:, :2]
    return (*places.min(axis=0).tolist(), *places.max(axis=0).tolist())


def _rounded(values: NDArray[Any]) -> list[float]:
    return [round(float(v), 3) for v in values]

"""What a segmenter says of a picture: the class of every pixel."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniformer.errors import InputError
from uniformer.labels import category_ids
from uniformer.reading.label_png import to_png
from uniformer.reading.pictures import Pixels
from uniformer.reading.run_lengths import Mask, decode_mask, encode_mask
from uniformer.support.files import write_whole
from uniformer.tasks.coco_results import Id, result_rows
from uniformer.tasks.drawing import Colour, Entry, colours_of, draw_map
from uniformer.tasks.pictured import (
    PLACES,
    PictureResult,
    field_of,
    label_of,
    labels_of,
    load_supervision,
    of_supervision,
    palette_of,
    rows_of_classifier,
    where_from,
)
from uniformer.tasks.task import class_name

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract


@dataclass(frozen=True, kw_only=True)
class Region:
    """The pixels of one class."""

    name: str
    label: int
    share: float  #: of the picture, 0 to 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation(PictureResult):
    """The class of each pixel of a picture."""

    labels: NDArray[np.integer[Any]]  #: (H, W): rows of the classifier, uint8 for up to 255 classes, else uint16
    classes: tuple[str, ...]
    palette: tuple[Colour, ...] = ()  #: of the classes; without one they have colours of ours

    COLUMNS: ClassVar[tuple[str, ...]] = ("name", "share", "label")
    CSV_FIELDS: ClassVar[tuple[str, ...]] = (*PLACES, *COLUMNS)
    WRITERS: ClassVar[Mapping[str, str]] = {".png": "save_map"}

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The classes in the picture, the largest first."""
        counts = np.bincount(self.labels.ravel())[: self._unlabelled]
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist()
        return tuple(
            Region(name=class_name(self.classes, i), label=i, share=float(counts[i] / self.labels.size)) for i in order
        )

    @property
    def _unlabelled(self) -> int:
        """The value of pixels without a class, the highest of the labels' type."""
        return int(np.iinfo(self.labels.dtype).max)

    def mask(self, label: int) -> Mask:
        """The pixels of a class: bool (H, W)."""
        return self.labels == label

    def only(self, names: Collection[str]) -> Self:
        """The regions of these classes; other pixels have none. Raises `InputError` for a name that is no class."""
        kept = np.isin(self.labels, labels_of(names, self.classes))
        return replace(self, labels=np.where(kept, self.labels, self.labels.dtype.type(self._unlabelled)))

    # ---- forms -------------------------------------------------------------------------------------------------------

    def answer(self) -> dict[str, Any]:
        """The classes in the picture, each with its share of it and its pixels as COCO's run lengths."""
        return {
            "regions": [
                {"name": r.name, "label": r.label, "share": round(r.share, 6), "mask": encode_mask(self.mask(r.label))}
                for r in self.regions
            ]
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], contract: Contract) -> Self:
        where = where_from(plain)
        dtype = map_type(contract.config.num_classes)
        labels = np.full((where["height"], where["width"]), np.iinfo(dtype).max, dtype)
        for region in field_of(plain, "regions", list):
            mask = decode_mask(field_of(region, "mask", dict))
            if mask.shape != labels.shape:
                raise InputError(f"expected masks of {labels.shape}, got one of {mask.shape}")
            labels[mask] = label_of(region, contract)
        return cls(**where, labels=labels, classes=contract.classes, palette=palette_of(contract))

    def rows(self) -> list[tuple[Any, ...]]:
        """One a class, without its pixels."""
        return [(r.name, round(r.share, 6), r.label) for r in self.regions]

    def lines(self) -> list[str]:
        return [f"{100 * r.share:6.2f} %  {'█' * round(20 * r.share):20}  {r.name}" for r in self.regions] or [
            "nothing found"
        ]

    def in_short(self) -> str:
        return ", ".join(sorted(region.name for region in self.regions[:3])) or "nothing found"

    def to_coco(self, image_id: Id) -> list[dict[str, Any]]:
        """As result files of COCO's "stuff" task have it: a mask of each class."""
        ids = category_ids(self.classes or [""] * (int(self.labels.max(initial=0)) + 1))
        labels = [region.label for region in self.regions]
        masks = [encode_mask(self.mask(label)) for label in labels]
        return result_rows([image_id] * len(labels), [ids[label] for label in labels], masks=masks)

    def colours(self) -> tuple[Colour, ...]:
        """Of all classes: the palette, or where there is none colours of ours."""
        count = len(self.classes) or int(self.labels[self.labels < self._unlabelled].max(initial=0)) + 1
        return colours_of(self.palette, count)

    def save_map(self, path: Path) -> None:
        """The labels as a PNG: its pixels are the labels; with up to 256 classes they are shown in their colours."""
        write_whole(path, to_png(self.labels, self.colours()))

    def draw(self, pixels: Pixels) -> Image.Image:
        """The regions in their colours, and a legend of them to the right of the picture."""
        colours = self.colours()
        entries = [Entry(r.name, r.share, colours[r.label]) for r in self.regions]
        return draw_map(pixels, self.labels, colours, entries, self._all_names(len(colours)))

    def _all_names(self, count: int) -> Sequence[str]:
        return self.classes or [class_name((), i) for i in range(count)]

    def to_supervision(self) -> Any:
        """As `supervision.Detections`, one a class. Raises `MissingExtra` where that package is not installed."""
        labels = np.array([r.label for r in self.regions], int)
        masks = self.labels[None] == labels[:, None, None]
        return load_supervision().Detections(
            xyxy=np.array([_around(mask) for mask in masks], np.float32).reshape(-1, 4),
            mask=masks,
            class_id=labels,
            data={"class_name": np.array([r.name for r in self.regions], dtype=str)},
        )

    @classmethod
    def from_supervision(
        cls,
        found: Any,
        *,
        height: int,
        width: int,
        classes: Sequence[str],
        palette: tuple[Colour, ...] = (),
        source: str = "",
    ) -> Self:
        """From the masks of `supervision.Detections`; pixels outside of all have no class.

        Raises `InputError` where they lack masks or classes, and where masks of two classes overlap.
        """
        dtype = map_type(len(classes))
        labels = np.full((height, width), np.iinfo(dtype).max, dtype)
        ids = rows_of_classifier(found, classes)
        for label, mask in zip(ids, of_supervision(found, "mask", height, width).astype(bool), strict=True):
            others = mask & (labels != np.iinfo(dtype).max) & (labels != label)
            if others.any():
                both = f"{class_name(classes, int(label))} and {class_name(classes, int(labels[others][0]))}"
                raise InputError(f"expected one class a pixel, got {int(others.sum())} of both {both}")
            labels[mask] = label
        return cls(source=source, height=height, width=width, labels=labels, classes=tuple(classes), palette=palette)


def map_type(num_classes: int) -> type[np.unsignedinteger[Any]]:
    """Of the labels of so many classes, with one more value for pixels without a class."""
    return np.uint8 if num_classes <= np.iinfo(np.uint8).max else np.uint16


def _around(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

"""How well objects were found, as COCO measures it (Lin et al. 2014): boxes, masks and key points of people.

`Objects` are objects of many pictures, those that are there or those that were found; `measure` compares the two, by
faster-coco-eval, whose figures are those of pycocotools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from uniformer.datasets.polygons import load_masks, mask_of
from uniformer.datasets.strings import Strings
from uniformer.errors import InputError, load_extra
from uniformer.tasks.coco_results import result_rows

if TYPE_CHECKING:
    from faster_coco_eval import COCO

Kind = Literal["box", "mask", "keypoints"]  #: what is compared
Arrays = dict[str, npt.NDArray[Any]]

OBJECT_FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100", "ar_small",
                  "ar_medium", "ar_large")  # fmt: skip
PEOPLE_FIGURES = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")
TYPES = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}  # what COCO calls them
OVERLAPS = np.linspace(0.5, 0.95, 10)  #: from which on an object is found
RECALLS = np.linspace(0, 1, 101)  #: at which precision is measured


@dataclass(frozen=True, eq=False)
class Objects:
    """M objects in many pictures, one row each; found ones have scores, those of one picture the best first."""

    item: npt.NDArray[np.int64]  #: (M,), the picture's row in its data set; in rising order
    labels: npt.NDArray[np.int64]  #: (M,)
    boxes: npt.NDArray[np.float32]  #: (M, 4): x1, y1, x2, y2 in pixels
    scores: npt.NDArray[np.float32] | None = None  #: (M,), of found ones
    areas: npt.NDArray[np.float64] | None = None  #: (M,), square pixels, of those that are there
    crowd: npt.NDArray[np.bool_] | None = None  #: (M,), same: many in one, that count neither as found nor as missed
    keypoints: npt.NDArray[np.float32] | None = None  #: (M, K, 3): x, y, and visibility or score
    masks: Strings | None = None  #: COCO's run lengths, compressed; "" of an object that nobody drew

    def __post_init__(self) -> None:
        wrong = [f.name for f in fields(self) if (v := getattr(self, f.name)) is not None and len(v) != len(self.item)]
        if wrong:
            raise InputError(f"expected {', '.join(wrong)} of each of {len(self)} objects, got another number")

    def __len__(self) -> int:
        return len(self.item)

    def arrays(self) -> Arrays:
        """What it is made of, by name, to be kept: `of` reads it back."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "masks"}
        found = {name: value for name, value in columns.items() if value is not None}
        if self.masks is not None:
            found |= {"mask_bytes": self.masks.blob, "mask_offsets": self.masks.offsets}
        return found

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Objects:
        """Raises `InputError` where arrays do not fit together, `TypeError` where one has a strange name."""
        columns = {name: value for name, value in arrays.items() if not name.startswith("mask_")}
        has_masks = "mask_bytes" in arrays
        return cls(**columns, masks=Strings(arrays["mask_bytes"], arrays["mask_offsets"]) if has_masks else None)

    @classmethod
    def joined(cls, parts: Sequence[Objects]) -> Objects:
        """Of all pictures, in the given order. At least one part."""
        columns = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(cls)
            if f.name != "masks" and getattr(parts[0], f.name) is not None
        }
        has_masks = parts[0].masks is not None
        return cls(
            **columns, masks=Strings.pack(text for part in parts for text in part.masks or ()) if has_masks else None
        )

    def select(self, rows: npt.NDArray[Any]) -> Objects:
        """The given rows: numbers or a mask."""
        rows = np.arange(len(self))[rows]
        columns = {
            f.name: v[rows] for f in fields(self) if f.name != "masks" and (v := getattr(self, f.name)) is not None
        }
        return Objects(**columns, masks=None if self.masks is None else self.masks.take(rows))

    def of_items(self, items: npt.NDArray[np.int64]) -> Objects:
        """Those of some pictures, numbered by their places in `items`, which rise."""
        place = np.searchsorted(items, self.item)
        known = (place < len(items)) & (items[np.minimum(place, len(items) - 1)] == self.item if len(items) else False)
        return replace(self.select(known), item=place[known])


@dataclass(frozen=True, eq=False)
class Figures:
    """What `measure` finds. Classes without an object have -1 in `precision` and `recall`."""

    figures: dict[str, float]  #: by name, in 0..1; without those that have no object of their size
    precision: npt.NDArray[np.float64]  #: (10, 101, K) by `OVERLAPS`, `RECALLS` and class, objects of all sizes
    recall: npt.NDArray[np.float64]  #: (10, K): the highest that was reached

    def per_class(self) -> npt.NDArray[np.float64]:
        """Average precision of each class, (K,); NaN without objects."""
        has = (self.precision > -1).any(axis=(0, 1))
        return np.where(has, self.precision.mean(axis=(0, 1)), np.nan)

    def curve(self, overlap: float, label: int | None = None) -> npt.NDArray[np.float64]:
        """Precision at each of `RECALLS`, (101,): of a class, or the mean over those that have objects; NaN without."""
        found = self.precision[np.abs(OVERLAPS - overlap).argmin()]  # (101, K)
        found = found if label is None else found[:, [label]]
        there = (found > -1).any(axis=0)
        return found[:, there].mean(axis=1) if there.any() else np.full(len(found), np.nan)


def measure(
    truths: Objects,
    found: Objects,
    sizes: npt.NDArray[np.integer],
    classes: int,
    kind: Kind,
    sigmas: Sequence[float] | None = None,
) -> Figures:
    """How well `found` fits `truths` in pictures of `sizes` (N, 2), height and width.

    The figures are the 12 of COCO's boxes and masks, of up to 100 objects a picture, and the 10 of its people, of up to
    20, whose key points spread by `sigmas`. Raises `MissingExtra` without faster-coco-eval.
    """
    coco = load_coco_eval()
    truths = _with_all_masks(truths, sizes) if kind == "mask" else truths
    images = [{"id": i + 1, "height": int(h), "width": int(w)} for i, (h, w) in enumerate(sizes.tolist())]
    categories = [{"id": k + 1, "name": str(k)} for k in range(classes)]

    def data_set(objects: Objects) -> COCO:
        return coco.COCO({"images": images, "categories": categories, "annotations": _records(objects, sizes, kind)})

    run = coco.COCOeval_faster(
        data_set(truths),
        data_set(found),
        TYPES[kind],
        print_function=_say_nothing,
        kpt_oks_sigmas=None if sigmas is None else np.asarray(sigmas, np.float64),
    )
    run.params.catIds = [category["id"] for category in categories]
    run.run()
    names = PEOPLE_FIGURES if kind == "keypoints" else OBJECT_FIGURES
    figures = {name: float(v) for name, v in zip(names, run.stats[: len(names)].tolist(), strict=True) if v > -1}
    precision, recall = (run.eval[what][..., 0, -1] for what in ("precision", "recall"))  # all sizes, most objects
    return Figures(figures, np.asarray(precision), np.asarray(recall))


def _say_nothing(*_: object) -> None:
    pass


def _records(objects: Objects, sizes: npt.NDArray[np.integer], kind: Kind) -> list[dict[str, Any]]:
    """COCO's annotations or results. What was found is as large as its mask, its box or the box of its key points."""
    images, categories = ((column + 1).tolist() for column in (objects.item, objects.labels))
    masks = run_lengths(objects, sizes) if kind == "mask" else None
    points = objects.keypoints if kind == "keypoints" else None
    records = result_rows(images, categories, objects.scores, boxes=objects.boxes, masks=masks, keypoints=points)
    areas: Iterable[float]
    if objects.areas is not None:
        areas = objects.areas.tolist()
    elif masks is not None:
        areas = map(float, load_masks().area(masks) if masks else [])
    elif points is not None:
        areas = np.ptp(points[..., :2].astype(np.float64), axis=1).prod(axis=1).tolist()
    else:
        areas = [record["bbox"][2] * record["bbox"][3] for record in records]
    crowd = np.zeros(len(objects), bool) if objects.crowd is None else objects.crowd
    for number, (record, area, is_crowd) in enumerate(zip(records, areas, crowd.tolist(), strict=True), start=1):
        record |= {"id": number, "area": area, "iscrowd": int(is_crowd)}
    if points is not None:
        for record, count in zip(records, (points[..., 2] > 0).sum(axis=1).tolist(), strict=True):
            record["num_keypoints"] = count
    return records


# ---- masks -----------------------------------------------------------------------------------------------------------


def run_lengths(objects: Objects, sizes: npt.NDArray[np.integer]) -> list[dict[str, Any]]:
    """The masks of objects as COCO's JSON has them; of objects without masks none."""
    if objects.masks is None:
        return []
    places = sizes[objects.item].tolist()
    return [{"size": size, "counts": counts} for size, counts in zip(places, objects.masks, strict=True)]


def _with_all_masks(truths: Objects, sizes: npt.NDArray[np.integer]) -> Objects:
    """An object whose mask nobody drew is a crowd all over its box: what is found there counts neither way."""
    masks = run_lengths(truths, sizes)
    bare = np.array([not mask["counts"] for mask in masks], bool)
    if not bare.any():
        return truths
    for row in np.flatnonzero(bare).tolist():
        left, top, right, bottom = truths.boxes[row].tolist()
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        masks[row] = mask_of([corners], *sizes[truths.item[row]].tolist())
    crowd = bare if truths.crowd is None else truths.crowd | bare
    return replace(truths, crowd=crowd, masks=Strings.pack(mask["counts"] for mask in masks))


def load_coco_eval() -> Any:
    """The package faster_coco_eval, or `MissingExtra`."""
    return load_extra("faster_coco_eval", "faster-coco-eval", "dense", "COCO's measure")

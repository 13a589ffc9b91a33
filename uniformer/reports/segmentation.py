"""What a page shows of a segmenter: classes, confusions, and pictures beside their truth and their answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniformer.datasets.annotated import AnnotatedSet
from uniformer.errors import InputError, counted
from uniformer.reading.label_png import from_png
from uniformer.reading.pictures import Pixels
from uniformer.reports.charts import heat_map
from uniformer.reports.classes import (
    MAP_CLASSES,
    Card,
    Gallery,
    bars_of,
    confusions_of,
    galleries_of,
    percents,
    worst_first,
)
from uniformer.reports.pictures import middle_pixels, shrunk, still
from uniformer.tasks.drawing import MAP, colours_of, paint
from uniformer.tasks.segmentation_scores import SegmentationScores, per_class

SIDE = 420  #: pixels of the longer side of a picture, three of which stand side by side


def of_label_maps(scores: SegmentationScores, manifest: AnnotatedSet) -> dict[str, Any]:
    """The content of `segmentation.html`. `manifest` gives pictures and truth."""
    if not scores.ok.any() or not scores.table.any():
        return {}
    pictures = list(_galleries(scores, manifest))
    return {"section": "segmentation.html", **_classes(scores), **_confusions(scores), "galleries": pictures}


def _classes(scores: SegmentationScores) -> dict[str, Any]:
    """Bars of the classes that are in the data or were said, the worst first, and a table of all."""
    each = per_class(scores.table)
    order = worst_first(np.where(scores.known, each.overlap, np.nan))
    bars = [(scores.name(k), float(each.overlap[k]), f"{percents(each.overlap[k])} %") for k in order]
    whole = max(1, int(each.true.sum()))
    shares = (each.true / whole, each.overlap, each.accuracy, each.said / whole)
    table = [(k, scores.name(k), *(percents(share[k]) for share in shares)) for k in range(len(scores.classes))]
    return {**bars_of(bars), "classes": table}


def _confusions(scores: SegmentationScores) -> dict[str, Any]:
    """The pairs that most pixels are confused in, and of few classes the whole matrix, in percent of its rows."""
    table = scores.table[:, :-1]
    pixels, whole = scores.table.sum(axis=1), max(1, int(scores.table.sum()))
    rows = [
        (scores.name(true), scores.name(said), percents(count / whole), percents(count / pixels[true]))
        for true, said, count in confusions_of(table)
    ]
    names = [scores.name(k) for k in range(len(scores.classes))]
    shares = np.rint(100 * table / np.maximum(pixels, 1)[:, None]).astype(np.int64)
    heat = heat_map(shares, names, "confusion") if len(names) <= MAP_CLASSES else None
    return {"heat": heat, "confusions": rows}


def _galleries(scores: SegmentationScores, manifest: AnnotatedSet) -> Iterator[Gallery]:
    each, wrong = scores.by_picture(), np.zeros(len(scores), np.int64)
    np.add.at(wrong, scores.cells.item, scores.cells.count * (scores.cells.true != scores.cells.said))
    order = worst_first(np.where(scores.ok, each, np.nan))
    most = worst_first(np.where(scores.ok & (wrong > 0) & ~np.isnan(each), -wrong, np.nan))
    title = "Pictures with the most wrong pixels"
    return galleries_of(order, most, title, lambda row: _card(scores, manifest, row, each[row], int(wrong[row])))


def _card(scores: SegmentationScores, manifest: AnnotatedSet, item: int, share: float, wrong: int) -> Card:
    return {
        "picture": _drawn(scores, manifest, item),
        "said": f"mean IoU {100 * share:.1f} %",
        "more": f"{counted(wrong, 'pixel')} wrong" + (f", {taken}" if (taken := _worst_pair(scores, item)) else ""),
        "path": scores.paths[item],
    }


def _worst_pair(scores: SegmentationScores, item: int) -> str:
    """What is taken for what in a picture, most of all."""
    cells, size = scores.cells, len(scores.classes)
    rows = np.flatnonzero((cells.item == item) & (cells.true != cells.said) & (cells.said < size))
    if not len(rows):
        return ""
    worst = rows[cells.count[rows].argmax()]
    return f"{scores.name(int(cells.true[worst]))} taken for {scores.name(int(cells.said[worst]))}"


def _drawn(scores: SegmentationScores, manifest: AnnotatedSet, item: int) -> str | None:
    """The picture, what is there and what was said, side by side."""
    pixels = middle_pixels(manifest.path(item), "image")
    if pixels is None or item not in scores.answers:
        return None
    try:
        true = scores.places[manifest.label_map(item)]
    except InputError:
        return None
    small, _ = shrunk(pixels, SIDE)
    panels = [small, *(_over(small, shrunk(m, SIDE)[0], scores) for m in (true, from_png(scores.answers[item])))]
    return still(Image.fromarray(np.concatenate(panels, axis=1)))


def _over(pixels: Pixels, labels: npt.NDArray[Any], scores: SegmentationScores) -> Pixels:
    """Labels (H, W) in their colours over their picture; those that do not count are black."""
    count = len(scores.classes)
    mixed = (1 - MAP) * pixels + MAP * paint(labels, colours_of(scores.palette, count))
    return np.where((labels < count)[..., None], mixed, 0).astype(np.uint8)

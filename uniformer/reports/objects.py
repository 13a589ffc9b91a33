"""What a page shows of a detector or a pose network: figures, curves, classes, mistakes, and pictures of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from uniformer.datasets.annotated import AnnotatedSet
from uniformer.errors import counted
from uniformer.reading.pictures import Pixels
from uniformer.reading.run_lengths import decode_mask
from uniformer.reports.charts import curves
from uniformer.reports.classes import CONFUSIONS, Card, Gallery, bars_of, galleries_of, percents, worst_first
from uniformer.reports.measures import words_of
from uniformer.reports.pictures import middle_pixels, shrunk, still
from uniformer.tasks.coco import OBJECT_FIGURES, PEOPLE_FIGURES, Kind, run_lengths
from uniformer.tasks.drawing import Colour, Span, Thing, draw_people, draw_things
from uniformer.tasks.keypoints import VISIBLE
from uniformer.tasks.matches import SURE, Matches, Verdict, match
from uniformer.tasks.object_scores import PREFIXES, ObjectScores

KINDS: Mapping[Kind, str] = {"box": "boxes", "mask": "masks", "keypoints": "key points"}
LINES = (("first", 0.5), ("second", 0.75))  # kinds of a curve, and the overlaps that they are of
SIDE = 640  # pixels of the longer side of a picture
COLOURS: Mapping[Verdict, Colour] = {
    "right": (38, 166, 91), "confused": (217, 70, 239), "nothing there": (226, 60, 50), "in a crowd": (150, 150, 150),
}  # fmt: skip
MISSED: Colour = (250, 190, 30)


def of_objects(scores: ObjectScores, manifest: AnnotatedSet, metrics: Mapping[str, float]) -> dict[str, Any]:
    """The content of `objects.html`. `manifest` gives the pictures."""
    if not scores.ok.any() or not scores.counts().any():
        return {}
    matches = [match(scores, item) for item in range(len(scores))]
    return {
        "section": "objects.html",
        "kinds": tuple(KINDS[kind] for kind in scores.kinds),
        "precisions": tuple(f"AP of {KINDS[kind]}" for kind in scores.kinds),
        "coco": _figures(scores, metrics),
        "charts": [_chart(scores, kind) for kind in scores.kinds if scores.measured[kind].figures],
        **(_classes(scores) if len(scores.classes) > 1 else {}),
        **_mistakes(scores, matches),
        "galleries": list(_galleries(scores, manifest, matches)),
        "sure": f"{100 * SURE:.0f} %",
    }


def _figures(scores: ObjectScores, metrics: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Each figure of COCO's, in words, of each kind."""
    names = PEOPLE_FIGURES if scores.kinds == ("keypoints",) else OBJECT_FIGURES
    each = [(name, [metrics.get(PREFIXES[kind] + name) for kind in scores.kinds]) for name in names]
    return [(words_of(name) or name, *map(percents, values)) for name, values in each]


def _chart(scores: ObjectScores, kind: Kind) -> tuple[str, Markup]:
    found = scores.measured[kind]
    lines = [(line, found.curve(overlap).tolist(), f"overlap of at least {overlap:g}") for line, overlap in LINES]
    return KINDS[kind], curves(lines, "share of the objects found", "share of the answers right", f"curves-{kind}")


def _classes(scores: ObjectScores) -> dict[str, Any]:
    """Bars of the first kind's precision, the worst first, and a table of all classes."""
    each = {kind: scores.measured[kind].per_class() for kind in scores.kinds}
    first = each[scores.kinds[0]]
    bars = [(scores.name(k), float(first[k]), f"{percents(first[k])} %") for k in worst_first(first)]
    counts, answers = scores.counts(), np.bincount(scores.found.labels, minlength=len(scores.classes))
    table = [
        (k, scores.name(k), counts[k], *(percents(each[kind][k]) for kind in scores.kinds), answers[k])
        for k in range(len(scores.classes))
    ]
    return {**bars_of(bars), "classes": table}


def _mistakes(scores: ObjectScores, matches: Sequence[Matches]) -> dict[str, Any]:
    """How many answers are what, which classes are taken for which, and what is missed."""
    verdicts = Counter(verdict for one in matches for verdict in one.verdicts)
    pairs: Counter[tuple[int, int]] = Counter()
    missed: Counter[int] = Counter()
    for one in matches:
        missed.update(scores.truths.labels[one.missed].tolist())
        wrong = [row for row, verdict in enumerate(one.verdicts) if verdict == "confused"]
        pairs.update(
            (int(scores.truths.labels[one.truths[row]]), int(scores.found.labels[one.found[row]])) for row in wrong
        )
    counts = scores.counts()
    taken = [
        (scores.name(true), scores.name(said), n, percents(n / counts[true]) if counts[true] else "")
        for (true, said), n in pairs.most_common(CONFUSIONS)
    ]
    told = (
        [(verdicts["right"], "right"), (verdicts["confused"], "of another class")]
        if len(counts) > 1
        else [(verdicts["right"], "right")]
    )
    told += [(verdicts["nothing there"], "where nothing is"), (missed.total(), "objects missed")]
    return {"verdicts": told, "confusions": taken}


# ---- pictures --------------------------------------------------------------------------------------------------------


def _galleries(scores: ObjectScores, manifest: AnnotatedSet, matches: Sequence[Matches]) -> Iterator[Gallery]:
    quality = np.array([one.quality for one in matches])
    has = np.flatnonzero(scores.ok & ~np.isnan(quality))
    mistakes = np.array([len(one.missed) + len(one.found) - one.verdicts.count("right") for one in matches])
    order = has[np.lexsort((-mistakes[has], quality[has]))].tolist()
    confused = np.array([one.verdicts.count("confused") for one in matches])
    most = worst_first(np.where(confused > 0, -confused, np.nan))
    title = "Pictures with the most objects taken for others"
    return galleries_of(order, most, title, lambda row: _card(scores, manifest, row, matches[row]))


def _card(scores: ObjectScores, manifest: AnnotatedSet, item: int, one: Matches) -> Card:
    right, confused = one.verdicts.count("right"), one.verdicts.count("confused")
    pixels = middle_pixels(manifest.path(item), "image")
    return {
        "picture": None if pixels is None else still(_drawn(scores, pixels, item, one)),
        "said": f"{right} of {counted(right + confused + len(one.missed), 'object')} found",
        "more": f"{counted(len(one.found), 'answer')}, quality {one.quality:.2f}",
        "path": scores.paths[item],
    }


def _drawn(scores: ObjectScores, pixels: Pixels, item: int, one: Matches) -> Image.Image:
    """The answers and the objects that were missed, each in the colour of what became of it."""
    small, factor = shrunk(pixels, SIDE)
    if pixels.shape[:2] != tuple(scores.sizes[item].tolist()):  # the file was replaced: nothing can be placed in it
        return Image.fromarray(small)
    found, things = scores.found.select(one.found), []
    masks = run_lengths(found, scores.sizes)
    for i, verdict in enumerate(one.verdicts):
        text = f"{scores.name(int(found.labels[i]))} {100 * float(found.scores[i]):.0f} %"  # type: ignore[index]
        mask = shrunk(decode_mask(masks[i]).astype(np.uint8), SIDE)[0] > 0 if masks else None
        things.append(Thing(_span(found.boxes[i] * factor), text, COLOURS[verdict], mask))
    missed = [
        Thing(_span(scores.truths.boxes[row] * factor), scores.name(int(scores.truths.labels[row])), MISSED)
        for row in one.missed
    ]
    if "keypoints" not in scores.kinds or found.keypoints is None:
        return draw_things(small, [*missed, *things])
    points = found.keypoints * np.array([factor, factor, 1], np.float32)
    names = scores.points or tuple(f"point {k}" for k in range(points.shape[1]))
    under = np.asarray(draw_things(small, missed))
    return draw_people(under, points[..., :2], points[..., 2] > VISIBLE, names, scores.skeleton, things)


def _span(box: npt.NDArray[np.floating[Any]]) -> Span:
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom

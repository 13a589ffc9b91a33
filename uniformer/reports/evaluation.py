"""One HTML page that shows how a network did on a data set: figures, plots, and the clips it got most wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.manifest import Manifest
from uniformer.reports.charts import SHARES, columns, heat_map
from uniformer.reports.classes import MAP_CLASSES, bars_of, confusions_of, percents, worst_first
from uniformer.reports.measures import headline
from uniformer.reports.objects import of_objects
from uniformer.reports.page import write_page
from uniformer.reports.pictures import thumbnail
from uniformer.reports.segmentation import of_label_maps
from uniformer.tasks.object_scores import ObjectScores
from uniformer.tasks.scores import BINS, Scores, average_precision, confusion, per_class, reliability
from uniformer.tasks.segmentation_scores import SegmentationScores
from uniformer.tasks.task import ScoredItems

WORST = 24  # listed at most


@dataclass(frozen=True)
class About:
    """The head of a report."""

    title: str
    lines: tuple[str, ...] = ()  #: checkpoint, data, views
    notes: tuple[str, ...] = ()  #: what a reader must know before believing the figures
    known: str = ""  #: what the checkpoint scored before: according to its authors, or in its training


def write_evaluation_page(
    path: str | os.PathLike[str],
    scores: ScoredItems,
    manifest: Manifest | AnnotatedSet,
    about: About,
    metrics: Mapping[str, float],
) -> None:
    """Write the page. `manifest` is what was scored, row by row: its files give the pictures.

    Any task's scores have their figures; those of the tasks that are known here also plots, confusions and pictures.

    Raises `InputError` where it cannot be written.
    """
    content: dict[str, Any] = {
        "title": about.title,
        "lines": about.lines,
        "tiles": [(value, name) for name, value in headline(metrics)],
        "notes": about.notes,
        "known": about.known,
        "failed": [(scores.paths[i], scores.errors.get(i, "")) for i in np.flatnonzero(~scores.ok).tolist()],
    }
    if isinstance(scores, Scores) and isinstance(manifest, Manifest):
        content |= _of_classes(scores, manifest)
    elif isinstance(scores, ObjectScores) and isinstance(manifest, AnnotatedSet):
        content |= of_objects(scores, manifest, metrics)
    elif isinstance(scores, SegmentationScores) and isinstance(manifest, AnnotatedSet):
        content |= of_label_maps(scores, manifest)
    write_page(path, "evaluation.html", content)


def _of_classes(scores: Scores, manifest: Manifest) -> dict[str, Any]:
    if scores.is_multi_label:
        return {"is_single_label": False, "bars": [("per-class", "", _precisions(scores))]}
    if not scores.ok.any():
        return {}
    plots = {"reliability": _reliability(scores), "confidence": _confidences(scores)}
    worst = {"worst": list(_worst(scores, manifest)), "wrong": int((scores.ok & (scores.ranks() > 0)).sum())}
    return {"is_single_label": True, **_classes(scores), **_confusions(scores), **plots, **worst}


def _precisions(scores: Scores) -> list[tuple[str, float, str]]:
    """(class, average precision, in words), the worst first."""
    marks = np.where(scores.ok[:, None], scores.probabilities, -1.0)
    each = [average_precision(marks[:, k], scores.labels[:, k]) for k in range(scores.num_classes)]
    return [(scores.name(k), each[k], f"{percents(each[k])} %") for k in worst_first(np.array(each))]


def _classes(scores: Scores) -> dict[str, Any]:
    """Bars of the classes that have items, the worst first, and a table of all."""
    found = per_class(scores)
    facts = zip(found.accuracy.tolist(), found.correct.tolist(), found.count.tolist(), strict=True)
    rows = [(scores.name(k), share, f"{100 * share:.0f} %  ({n} of {of})") for k, (share, n, of) in enumerate(facts)]
    predicted = np.bincount(scores.predicted()[scores.ok], minlength=scores.num_classes)
    table = [
        (k, scores.name(k), found.count[k], found.correct[k], percents(found.accuracy[k]), predicted[k])
        for k in range(scores.num_classes)
    ]
    return {**bars_of([rows[k] for k in worst_first(found.accuracy)]), "classes": table}


def _confusions(scores: Scores) -> dict[str, Any]:
    counts, items = confusion(scores), per_class(scores).count
    names = [scores.name(k) for k in range(scores.num_classes)]
    rows = [(names[i], names[j], count, percents(count / items[i])) for i, j, count in confusions_of(counts)]
    heat = heat_map(counts, names, "confusion") if len(names) <= MAP_CLASSES else None
    return {"heat": heat, "confusions": rows}


def _reliability(scores: Scores) -> Markup:
    found = reliability(scores)
    titles = [
        f"{n} answers: mean probability {confidence:.2f}, {100 * accuracy:.0f} % right" if n else ""
        for n, confidence, accuracy in zip(found.count, found.confidence, found.accuracy, strict=True)
    ]
    ticks = [f"{tick:g}" for tick in SHARES]
    layers = [("bar", found.accuracy.tolist(), titles)]
    return columns(layers, ticks, "probability of the answer", "share that is right", "reliability", diagonal=True)


def _confidences(scores: Scores) -> Markup:
    """How many answers have which probability: those that are right, and on them those that are wrong."""
    place = np.clip(np.ceil(scores.confidence()[scores.ok] * BINS).astype(int) - 1, 0, BINS - 1)
    is_right = (scores.ranks() == 0)[scores.ok]
    right, wrong = (np.bincount(place[mask], minlength=BINS) for mask in (is_right, ~is_right))
    most = 4 * max(1, -(-int((right + wrong).max()) // 4))  # so that quarters are whole numbers

    def layer(kind: str, word: str, counts: npt.NDArray[np.intp]) -> tuple[str, list[float], list[str]]:
        return kind, (counts / most).tolist(), [f"{n} {word}" if n else "" for n in counts.tolist()]

    ticks = [f"{most * quarter // 4}" for quarter in range(5)]
    layers = [layer("bar", "right", right), layer("other", "wrong", wrong)]
    return columns(layers, ticks, "probability of the answer", "answers", "confidence")


def _worst(scores: Scores, manifest: Manifest) -> Iterator[dict[str, str | None]]:
    """Wrong answers, the surest first."""
    wrong = np.flatnonzero(scores.ok & (scores.ranks() > 0))
    predicted, confidence, true = scores.predicted(), scores.confidence(), scores.true_probability()
    for row in wrong[np.argsort(-confidence[wrong], kind="stable")][:WORST].tolist():
        item = manifest[row]
        yield {
            "picture": thumbnail(item.path, manifest.kind, item.span),
            "said": scores.name(int(predicted[row])),
            "said_share": f"{100 * confidence[row]:.0f} %",
            "true": scores.name(int(scores.labels[row])),
            "true_share": f"{100 * true[row]:.0f} %",
            "path": scores.paths[row],
        }

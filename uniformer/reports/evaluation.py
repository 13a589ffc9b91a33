"""One HTML file that shows how a network did on a data set: figures, plots, and the clips it got most wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from uniformer.datasets.manifest import Manifest
from uniformer.errors import InputError
from uniformer.reading.frames import load_image
from uniformer.reading.views import frames_within, open_clip
from uniformer.reports import html
from uniformer.tasks.scores import BINS, Scores, average_precision, confusion, per_class, reliability

MAP_CLASSES = 30  # up to as many a confusion matrix can be read; above, the top confusions are listed alone
BAR_CLASSES = 40  # up to as many every class gets a bar; above, the worst and the best
WORST = 24


@dataclass(frozen=True)
class About:
    """The head of a report."""

    title: str
    lines: tuple[str, ...] = ()  #: checkpoint, data, views
    notes: tuple[str, ...] = ()  #: what a reader must know before believing the figures
    known: str = ""  #: what the checkpoint scored before: according to its authors, or in its training


def write_page(scores: Scores, manifest: Manifest, about: About, metrics: Mapping[str, float]) -> str:
    """The report. `manifest` is what was scored, row by row: its files give the thumbnails."""
    return html.page(about.title, _parts(scores, manifest, about, metrics))


def figures(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """The figures to be shown, as (name, value)."""

    def percent(name: str) -> str:
        return f"{100 * metrics[name]:.2f} %"

    rows = []
    if "top1" in metrics:
        rows.append(("top-1", percent("top1")))
        rows.append(("95 % interval", f"{100 * metrics['top1_low']:.1f} to {100 * metrics['top1_high']:.1f} %"))
    rows += [
        (name, percent(key))
        for name, key in (("top-5", "top5"), ("mean per class", "mean_class"), ("mean precision", "map"))
        if key in metrics
    ]
    if "ece" in metrics:
        rows.append(("calibration error", f"{metrics['ece']:.3f}"))
    rows.append(("items", f"{metrics['items']:.0f}"))
    if metrics["failed"]:
        rows.append(("without an answer", f"{metrics['failed']:.0f}"))
    return rows


def _parts(scores: Scores, manifest: Manifest, about: About, metrics: Mapping[str, float]) -> Iterator[str]:
    yield f"<h1>{html.safe(about.title)}</h1>"
    yield from (f'<p class="sub">{html.safe(line)}</p>' for line in about.lines)
    yield '<div class="tiles">' + "".join(html.tile(value, name) for name, value in figures(metrics)) + "</div>"
    if about.known:
        yield f'<p class="sub">{html.safe(about.known)}</p>'
    yield from map(html.note, about.notes)
    if scores.is_multi_label:
        yield from _precisions(scores)
    elif scores.ok.any():
        yield from _classes(scores)
        yield from _confusions(scores)
        yield from _confidence(scores)
        yield from _worst(scores, manifest)
    if not scores.ok.all():
        yield "<h2>Without an answer</h2>"
        rows = [(scores.paths[i], scores.errors.get(i, "")) for i in np.flatnonzero(~scores.ok).tolist()]
        yield html.table(("file", "why"), rows, "failed")


def _precisions(scores: Scores) -> Iterator[str]:
    yield "<h2>Average precision of each class</h2>"
    marks = np.where(scores.ok[:, None], scores.probabilities, -1.0)
    each = [average_precision(marks[:, k], scores.labels[:, k]) for k in range(scores.num_classes)]
    order = np.argsort(np.nan_to_num(each, nan=2.0), kind="stable")
    rows = [(scores.name(k), each[k], f"{100 * each[k]:.1f} %") for k in order.tolist() if each[k] == each[k]]
    yield html.bars(rows, "per-class")


def _classes(scores: Scores) -> Iterator[str]:
    found = per_class(scores)
    accuracy = found.accuracy
    present = np.flatnonzero(found.count)
    order = present[np.argsort(accuracy[present], kind="stable")].tolist()

    def rows(classes: Sequence[int]) -> list[tuple[str, float, str]]:
        return [
            (scores.name(k), float(accuracy[k]), f"{100 * accuracy[k]:.0f} %  ({found.correct[k]} of {found.count[k]})")
            for k in classes
        ]

    yield "<h2>Accuracy of each class</h2>"
    if len(order) <= BAR_CLASSES:
        yield html.bars(rows(order), "per-class")
    else:
        half = BAR_CLASSES // 2
        yield f'<p class="sub">The {half} worst and the {half} best of {len(order)} classes.</p>'
        yield html.bars(rows(order[:half]), "per-class", html.ORANGE)
        yield html.bars(rows(order[: -half - 1 : -1]), "per-class-best")
    predicted = np.bincount(scores.predicted()[scores.ok], minlength=scores.num_classes)
    cells = [
        (k, scores.name(k), int(found.count[k]), int(found.correct[k]), 100 * float(accuracy[k]), int(predicted[k]))
        for k in range(scores.num_classes)
    ]
    header = ("label", "class", "items", "right", "accuracy %", "times answered")
    yield html.folded(f"All {scores.num_classes} classes", html.table(header, cells, "classes"))


def _confusions(scores: Scores) -> Iterator[str]:
    counts = confusion(scores)
    yield "<h2>What is taken for what</h2>"
    if scores.num_classes <= MAP_CLASSES:
        names = [scores.name(k) for k in range(scores.num_classes)]
        yield '<p class="sub">Rows are the true classes, columns the answers; colour is the share of the row.</p>'
        yield html.heat_map(counts, names, "confusion")
    wrong = counts - np.diag(np.diag(counts))
    flat = np.argsort(-wrong, axis=None, kind="stable")[:25]
    pairs = [(int(i // scores.num_classes), int(i % scores.num_classes)) for i in flat]
    items = per_class(scores).count
    rows = [
        (scores.name(i), scores.name(j), int(wrong[i, j]), 100 * float(wrong[i, j] / items[i]))
        for i, j in pairs
        if wrong[i, j]
    ]
    if rows:
        yield html.table(("true class", "taken for", "items", "% of the class"), rows, "confusions")
    else:
        yield '<p class="sub">No answer is wrong.</p>'


def _confidence(scores: Scores) -> Iterator[str]:
    yield "<h2>Confidence</h2>"
    yield (
        '<p class="sub">Left: of answers given with some probability, how many are right; on the dashed line '
        "confidence is deserved, below it answers are too sure. Right: how many answers have which probability.</p>"
    )
    yield f'<div class="row">{_reliability_diagram(scores)}{_histogram(scores)}</div>'


def _reliability_diagram(scores: Scores) -> str:
    found = reliability(scores)
    left, top, side = 56, 8, 300
    parts = html.axes(left, top, side, "probability of the answer", "share that is right")
    width = side / BINS
    for b, (count, confidence, accuracy) in enumerate(
        zip(found.count.tolist(), found.confidence.tolist(), found.accuracy.tolist(), strict=True)
    ):
        if count:
            title = f"{count} answers: mean probability {confidence:.2f}, {100 * accuracy:.0f} % right"
            height = max(side * accuracy, 1.5)
            parts.append(html.rect(left + b * width + 1, top + side - height, width - 2, height, html.BLUE, title))
    parts.append(html.line(left, top + side, left + side, top, html.INK, "4 4"))
    return html.svg(left + side + 14, top + side + 40, parts, "reliability")


def _histogram(scores: Scores) -> str:
    ok = scores.ok
    place = np.clip(np.ceil(scores.confidence()[ok] * BINS).astype(int) - 1, 0, BINS - 1)
    right = (scores.ranks() == 0)[ok]
    counts = [np.bincount(place[mask], minlength=BINS) for mask in (right, ~right)]
    most = 4 * max(1, -(-int((counts[0] + counts[1]).max()) // 4))  # so that quarters are whole numbers
    left, top, side, width = 56, 8, 300, 300 / BINS
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1.0):
        y = top + side * (1 - share)
        parts += [html.line(left, y, left + side, y), html.text(left - 6, y + 4, f"{most * share:.4g}", "end", "faint")]
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts.append(html.text(left + side * tick, top + side + 14, f"{tick:g}", "middle", "faint"))
    for b in range(BINS):
        base: float = top + side
        for mask, fill, word in zip(counts, (html.BLUE, html.ORANGE), ("right", "wrong"), strict=True):
            height = side * int(mask[b]) / most
            if height:
                title = f"{int(mask[b])} {word}"
                parts.append(html.rect(left + b * width + 1, base - height, width - 2, height, fill, title))
            base -= height
    parts.append(html.text(left + side / 2, top + side + 31, "probability of the answer", "middle"))
    parts.append(html.text(14, top + side / 2, "answers", "middle", "", -90))
    for row, (fill, word) in enumerate(((html.BLUE, "right"), (html.ORANGE, "wrong"))):
        parts += [
            html.rect(left + side + 16, top + 20 * row, 12, 12, fill),
            html.text(left + side + 34, top + 20 * row + 10, word),
        ]
    return html.svg(left + side + 80, top + side + 40, parts, "confidence")


# ---- the clips it got most wrong -------------------------------------------------------------------------------------


def _worst(scores: Scores, manifest: Manifest) -> Iterator[str]:
    """Wrong answers, the surest first."""
    wrong = scores.ok & (scores.ranks() > 0)
    if not wrong.any():
        return
    order = np.argsort(np.where(wrong, -scores.confidence(), np.inf), kind="stable")[: min(WORST, int(wrong.sum()))]
    predicted, confidence, true = scores.predicted(), scores.confidence(), scores.true_probability()
    yield "<h2>The surest of the wrong answers</h2>"
    yield f'<p class="sub">{len(order)} of {int(wrong.sum())}.</p><div class="cards">'
    for row in order.tolist():
        yield html.card(
            thumbnail(manifest, row),
            f"said <b>{html.safe(scores.name(int(predicted[row])))}</b> {100 * confidence[row]:.0f} %<br>"
            f"is <b>{html.safe(scores.name(int(scores.labels[row])))}</b> {100 * true[row]:.0f} %<br>"
            f"<small>{html.safe(scores.paths[row])}</small>",
        )
    yield "</div>"


def thumbnail(manifest: Manifest, row: int) -> npt.NDArray[np.uint8] | None:
    """The picture, or the middle frame of the clip, (H, W, 3); None where it cannot be read (any more)."""
    item = manifest[row]
    span = None if item.start is None or item.end is None else (item.start, item.end)
    try:
        if manifest.kind == "image":
            return load_image(Path(item.path))
        with open_clip(item.path) as reader:
            first, count = frames_within(reader, span)
            return reader.read([first + count // 2])[0]
    except InputError:
        return None

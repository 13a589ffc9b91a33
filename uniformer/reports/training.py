"""How a training goes: losses and measures over its epochs, on a page and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from uniformer.reports.charts import SHARES, SIDE, apart, trace
from uniformer.reports.measures import words_of
from uniformer.reports.page import write_page
from uniformer.support.files import write_whole

CURVES, PAGE = "curves.svg", "training.html"  #: in a run's folder
POINTS = 500  # of a line at most: means of more
WHOSE = {"val": "bar", "ema": "other"}  # validations of the weights and of their average, by their colours

Row = Mapping[str, str]  # of metrics.csv


def write_training_page(folder: Path, rows: Sequence[Row], measures: Sequence[str], title: str) -> None:
    """Write page and picture of a run from the rows of its metrics.csv; `measures` are those of its validations.

    Raises `InputError` where they cannot be written.
    """
    ended = [row for row in rows if row["epoch_loss"]]
    if not ended:
        return
    drawings = _drawings(rows, ended, measures)
    write_whole(folder / CURVES, apart(drawings, title), "replace")
    names = [f"{whose}_{name}" for name in measures for whose in WHOSE if any(r[f"{whose}_{name}"] for r in ended)]
    table = [[row["epoch"], *(_short(name, row[name]) for name in ("epoch_loss", *names))] for row in ended]
    content = {
        "title": title, "lines": ["Losses and measures over the epochs"], "curves": drawings,
        "header": ["epoch", "loss, training", *map(_named, names)], "rows": table[::-1],
    }  # fmt: skip
    write_page(folder / PAGE, "training.html", content)


def _drawings(rows: Sequence[Row], ended: Sequence[Row], measures: Sequence[str]) -> list[Markup]:
    """Losses, and each measure, over the epochs."""
    steps = int(ended[0]["step"]) / int(ended[0]["epoch"])
    last = max(int(row["step"]) for row in rows) / steps

    def line(name: str, kind: str, words: str) -> tuple[str, str, list[float], list[float]]:
        points = [(int(row["step"]) / steps, float(row[name])) for row in rows if row[name]]
        points = [(place, value) for place, value in points if math.isfinite(value)]
        groups = np.array_split(np.array(points).reshape(-1, 2), min(POINTS, max(1, len(points))))
        means = [group.mean(axis=0).tolist() for group in groups if len(group)]
        return kind, words, [place for place, _ in means], [value for _, value in means]

    losses = [line("loss" if any(r["loss"] for r in rows) else "epoch_loss", "bar", "training")]
    if "loss" in measures:
        losses.append(line("val_loss", "other", "validation"))
    drawings = [_chart(losses, last, "loss", None)]
    for name in measures:
        found = [line(f"{whose}_{name}", kind, _whose(whose)) for whose, kind in WHOSE.items()]
        if name != "loss" and any(values for *_, values in found):
            drawings.append(_chart(found, last, words_of(name) or name, 1.0))
    return drawings


def _chart(
    lines: Sequence[tuple[str, str, list[float], list[float]]], last: float, name: str, most: float | None
) -> Markup:
    """Lines (kind, words, epochs, values); `most` is the top of the chart, or a round number above all values."""
    lines = [line for line in lines if line[3]]
    top = most or _round_above(max((max(values) for *_, values in lines), default=1.0))
    drawn = [
        (kind, [SIDE * place / last for place in places], [value / top for value in values], words)
        for kind, words, places, values in lines
    ]
    ticks = [f"{top * share:.3g}" for share in SHARES]
    return trace(drawn, [f"{last * share:.3g}" for share in SHARES], ticks, "epoch", name, name)


def _round_above(value: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(max(value, 1e-9)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def _named(name: str) -> str:
    whose, _, measure = name.partition("_")
    return f"{words_of(measure) or measure}, {_whose(whose)}"


def _whose(whose: str) -> str:
    return "average of the weights" if whose == "ema" else "validation"


def _short(name: str, value: str) -> str:
    """Losses as they are, measures in per cent."""
    if not value or name.endswith("loss"):
        return value and f"{float(value):.4g}"
    return f"{100 * float(value):.2f} %"

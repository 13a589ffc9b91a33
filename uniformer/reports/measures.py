"""Measures by the words that people know them by."""

from __future__ import annotations

import re
from collections.abc import Mapping

WORDS: Mapping[str, str] = {
    "top1": "top-1", "one_view_top1": "top-1 of one view", "top5": "top-5", "mean_class": "mean per class",
    "map": "mean precision", "ece": "calibration error", "miou": "mean IoU", "macc": "mean accuracy of classes",
    "aacc": "pixels that are right",
}  # fmt: skip
COCO = re.compile(r"(box_|mask_)?(ap|ar)(\d*)(?:_(small|medium|large))?")  #: names of COCO's figures
KNOWN = ("top1", "top1_low", "top1_high", "top5", "mean_class", "map", "ece", "items", "failed")  # to `figures`


def words_of(name: str) -> str | None:
    """A measure in words, such as 'box AP 50'; None of one that has none."""
    found = COCO.fullmatch(name)
    if found is None:
        return WORDS.get(name)
    kind, what, number, size = found.groups()
    return " ".join(word for word in ((kind or "")[:-1], what.upper(), number, size) if word)


def figures(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """The figures to be shown, as (name, value)."""

    def percent(name: str) -> str:
        return f"{100 * metrics[name]:.2f} %"

    rows = []
    if "top1" in metrics:
        rows.append((WORDS["top1"], percent("top1")))
        rows.append(("95 % interval", f"{100 * metrics['top1_low']:.1f} to {100 * metrics['top1_high']:.1f} %"))
    rows += [(WORDS[name], percent(name)) for name in ("top5", "mean_class", "map") if name in metrics]
    if "ece" in metrics:
        rows.append((WORDS["ece"], f"{metrics['ece']:.3f}"))
    others = {name: value for name, value in metrics.items() if name not in KNOWN}
    rows += [(words, percent(name)) for name in others if (words := words_of(name))]
    rows += [(name, f"{value:.4g}") for name, value in others.items() if not words_of(name)]  # another task's
    rows.append(("items", f"{metrics['items']:.0f}"))
    if metrics["failed"]:
        rows.append(("without an answer", f"{metrics['failed']:.0f}"))
    return rows


def headline(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """`figures`, of COCO's the precisions of all sizes alone."""
    others = [n for n in metrics if (found := COCO.fullmatch(n)) and (found[2] == "ar" or found[4])]
    return figures({name: value for name, value in metrics.items() if name not in others})

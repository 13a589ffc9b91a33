"""What the pages of several tasks show of classes: bars of the worst, what is taken for what, and pictures of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CLASSES = 40  #: up to as many every class gets a bar; above, the worst and the best
MAP_CLASSES = 30  #: up to as many a confusion matrix can be read; above, the top confusions are listed alone
CONFUSIONS, PICTURES = 25, 12  #: listed at most

Card = dict[str, str | None]


def percents(share: float | None) -> str:
    """In percent; nothing of none and NaN."""
    return "" if share is None or share != share else f"{100 * share:.1f}"


def worst_first(shares: npt.NDArray[np.floating[Any]]) -> list[int]:
    """Places of shares (N,), the lowest first, equal ones in their order, without NaN."""
    known = np.flatnonzero(~np.isnan(shares))
    return known[np.argsort(shares[known], kind="stable")].tolist()


def bars_of(rows: Sequence[tuple[str, float, str]]) -> dict[str, Any]:
    """Bars of classes (name, share in 0..1, in words), the worst first; of many the worst and the best alone."""
    half, parts = CLASSES // 2, [("per-class", "", rows)]
    if len(rows) > CLASSES:
        parts = [("per-class", "other", rows[:half]), ("per-class-best", "", rows[: -half - 1 : -1])]
    return {"bars": parts, "half": half, "present": len(rows)}


def confusions_of(table: npt.NDArray[np.integer[Any]]) -> list[tuple[int, int, int]]:
    """Of counts (K, K) by true class and answer the most frequent mistakes: (true, answer, count)."""
    wrong = table - np.diag(np.diagonal(table))
    places = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS].tolist()
    pairs = (divmod(place, len(table)) for place in places)
    return [(true, said, int(wrong[true, said])) for true, said in pairs if wrong[true, said]]


@dataclass(frozen=True)
class Gallery:
    """Pictures of one sort."""

    id: str
    title: str
    cards: list[Card]


def galleries_of(
    order: Sequence[int], confused: Sequence[int], title: str, card: Callable[[int], Card]
) -> Iterator[Gallery]:
    """The first and the last pictures of an `order`, the worst first, and those that are `confused` most, under a
    `title`. `card` shows one."""
    few = min(PICTURES, max(1, len(order) // 2))  # none is shown as both
    for name, words, rows in (
        ("worst", "The worst pictures", order[:few]),
        ("best", "The best pictures", order[::-1][: few if len(order) > 1 else 0]),
        ("confused", title, confused[:PICTURES]),
    ):
        if rows:
            yield Gallery(name, words, [card(row) for row in rows])

"""Which of the objects in a picture were found, and as what: for people to look at. COCO's figures are in `coco`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from uniformer.tasks.object_scores import ObjectScores

Floats = npt.NDArray[np.floating[Any]]
Verdict = Literal["right", "confused", "nothing there", "in a crowd"]

SURE = 0.3  #: score from which an answer counts here
ALIKE = 0.5  #: overlap from which it is of an object


@dataclass(frozen=True, eq=False)
class Matches:
    """One picture: its objects and the answers of at least `SURE`, in rows of `ObjectScores.truths` and `.found`."""

    found: npt.NDArray[np.int64]  #: (F,), rows of the answers, best first
    verdicts: tuple[Verdict, ...]  #: (F,)
    truths: npt.NDArray[np.int64]  #: (F,), rows of the objects that they are of; -1 for none
    missed: npt.NDArray[np.int64]  #: rows of the objects that no answer is of
    quality: float  #: 1 where all is found to the pixel (`quality`); NaN where nothing was there, nor found


def match(scores: ObjectScores, item: int) -> Matches:
    """What became of picture `item`: right answers first take their objects, then those with another label.

    Objects and answers are matched one to one, the surest answer first, each to the object that it overlaps most, by
    boxes or, of people, by key points (OKS).
    """
    there, said = (np.arange(*np.searchsorted(part.item, [item, item + 1])) for part in (scores.truths, scores.found))
    if scores.found.scores is not None:
        said = said[scores.found.scores[said] >= SURE]
        said = said[np.argsort(-scores.found.scores[said], kind="stable")]
    alike = likeness(scores, there, said)  # (F, T)
    crowd = np.zeros(len(there), bool) if scores.truths.crowd is None else scores.truths.crowd[there]
    same = scores.found.labels[said][:, None] == scores.truths.labels[there][None]
    of = np.full(len(said), -1)
    verdicts: list[Verdict] = ["nothing there"] * len(said)
    for verdict, allowed in (("right", same), ("confused", ~same)):
        for row in np.flatnonzero(of < 0).tolist():
            open_to = allowed[row] & ~crowd & ~np.isin(np.arange(len(there)), of)
            best = int(np.where(open_to, alike[row], -1).argmax()) if len(there) else -1
            if best >= 0 and open_to[best] and alike[row, best] >= ALIKE:
                of[row], verdicts[row] = best, verdict  # type: ignore[call-overload]
    for row in np.flatnonzero(of < 0).tolist():
        if (same[row] & crowd & (alike[row] > 0)).any():
            verdicts[row] = "in a crowd"
    right = [row for row, verdict in enumerate(verdicts) if verdict == "right"]
    answers, objects = len(said) - verdicts.count("in a crowd"), int((~crowd).sum())
    quality = (
        2 * float(sum(alike[row, of[row]] for row in right)) / (answers + objects) if answers + objects else np.nan
    )
    missed = there[~crowd & ~np.isin(np.arange(len(there)), of)]
    return Matches(said, tuple(verdicts), np.where(of < 0, -1, there[of] if len(there) else -1), missed, quality)


def likeness(scores: ObjectScores, there: npt.NDArray[np.int64], said: npt.NDArray[np.int64]) -> Floats:
    """Of each answer with each object, (F, T), 0 to 1: of boxes, or of key points where these are measured."""
    truths, found = scores.truths, scores.found
    if "keypoints" not in scores.kinds or truths.keypoints is None or found.keypoints is None or truths.areas is None:
        return _overlaps(found.boxes[said].astype(float), truths.boxes[there].astype(float))
    seen = truths.keypoints[there, :, 2] > 0  # (T, K)
    apart = ((found.keypoints[said, None, :, :2] - truths.keypoints[None, there, :, :2]) ** 2).sum(axis=3)  # (F, T, K)
    spread = 2 * (2 * np.asarray(scores.sigmas)) ** 2 * (truths.areas[there, None] + np.spacing(1))
    return (np.exp(-apart / spread) * seen).sum(axis=2) / np.maximum(seen.sum(axis=1), 1)


def _overlaps(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes (F, 4) and (T, 4): (F, T)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)

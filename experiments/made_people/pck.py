"""How many key points were found: PCK, the percentage of correct key points (Yang and Ramanan, 2013), by a box's side.

A key point is right within so many of the longer side of its person's box. Of each person in the annotations counts the
one in the answers whose box overlaps most with his (by at least a half), if any.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bodies import NAMES

Array = npt.NDArray[np.float64]
SHARES = (0.1, 0.05)  #: of a box's longer side
STATES = {"seen": (2,), "hidden": (1,), "all": (1, 2)}  #: by COCO's visibility


def distances(annotations: Mapping[str, Any], answers: Mapping[str, list[Mapping[str, Any]]]) -> tuple[Array, Array]:
    """Of all annotated people: how far off their key points are, in longer sides of the box, (P, 17), infinite where
    nobody was found, and their visibility (P, 17).

    Answers are people, each with `box` and `keypoints`, by the last part of a picture's name.
    """
    names = {image["id"]: Path(image["file_name"]).name for image in annotations["images"]}
    off, visible = [], []
    for person in annotations["annotations"]:
        truth = np.array(person["keypoints"], np.float64).reshape(-1, 3)
        x, y, w, h = person["bbox"]
        found = _who(np.array([x, y, x + w, y + h]), answers.get(names[person["image_id"]], []))
        apart = (
            np.linalg.norm(found[:, :2] - truth[:, :2], axis=1) if found is not None else np.full(len(truth), np.inf)
        )
        off.append(apart / max(w, h))
        visible.append(truth[:, 2])
    return np.array(off), np.array(visible)


def _who(box: Array, people: list[Mapping[str, Any]]) -> Array | None:
    """The key points (17, 3) of the one whose box fits."""
    if not people:
        return None
    boxes = np.array([person["box"] for person in people], np.float64)
    sides = (np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])).clip(0)
    shared = sides.prod(1)
    overlap = shared / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared)
    best = int(overlap.argmax())
    return np.array(people[best]["keypoints"], np.float64) if overlap[best] >= 0.5 else None


def table(off: Array, visible: Array) -> dict[str, dict[str, float]]:
    """Per cent right: of key points that are seen, hidden and both, within each of `SHARES`; of each key point that is
    seen, within the first."""
    found = {
        state: {
            f"within {share}": round(100 * float((off <= share)[np.isin(visible, those)].mean()), 2) for share in SHARES
        }
        for state, those in STATES.items()
    }
    right = off <= SHARES[0]
    each = {name: round(100 * float(right[visible[:, k] == 2, k].mean()), 1) for k, name in enumerate(NAMES)}
    return {**found, "each": each}

"""What must not work: key points that belong to somebody else, and guesses without a look at the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from uniformer.errors import InputError

Array = npt.NDArray[np.float64]


def exchanged(annotations: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The same pictures and boxes, each person with the key points of one in another picture, moved into the box."""
    people = annotations["annotations"]
    pictures = np.array([person["image_id"] for person in people])
    if 2 * max(np.unique(pictures, return_counts=True)[1], default=0) > len(people):
        raise InputError(f"expected people in several pictures, to exchange them, found {len(people)} in too few")
    rng = np.random.default_rng(seed)
    others = rng.permutation(len(people))
    while (own := np.flatnonzero(pictures[others] == pictures)).size:  # draw again with some more
        again = np.union1d(own, rng.choice(len(people), min(len(people), 10), replace=False))
        others[again] = rng.permutation(others[again])
    return {
        **annotations,
        "annotations": [
            {**mine, **_moved(people[other], mine["bbox"])} for mine, other in zip(people, others, strict=True)
        ],
    }


def _moved(person: Mapping[str, Any], box: list[float]) -> dict[str, Any]:
    points = in_box(person)
    points[:, :2] = points[:, :2] * box[2:] + box[:2]
    points[points[:, 2] == 0] = 0
    return {"keypoints": points.round(2).ravel().tolist(), "num_keypoints": person["num_keypoints"]}


def in_box(person: Mapping[str, Any]) -> Array:
    """Key points (17, 3) with places from 0 to 1 in the box."""
    points = np.array(person["keypoints"], np.float64).reshape(-1, 3)
    x, y, w, h = person["bbox"]
    points[:, :2] = (points[:, :2] - [x, y]) / [w, h]
    return points


def usual_places(annotations: Mapping[str, Any]) -> Array:
    """Where each key point lies in a box on the average (17, 2): the best guess without a look."""
    points = np.stack([in_box(person) for person in annotations["annotations"]])
    is_there = points[..., 2] > 0
    return np.stack([np.median(points[is_there[:, k], k, :2], axis=0) for k in range(points.shape[1])])


def guesses(annotations: Mapping[str, Any], places: Array) -> dict[str, list[dict[str, Any]]]:
    """Answers as `pck.distances` takes them: everybody's key points at the usual places of his box."""
    names = {image["id"]: image["file_name"].rpartition("/")[2] for image in annotations["images"]}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for person in annotations["annotations"]:
        x, y, w, h = person["bbox"]
        points = np.column_stack([places * [w, h] + [x, y], np.ones(len(places))])
        found[names[person["image_id"]]].append({"box": [x, y, x + w, y + h], "keypoints": points.tolist()})
    return found

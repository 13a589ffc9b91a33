"""COCO's results: a list of what was found in pictures, as its evaluation code reads it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from uniformer.support.files import atomic_path

Id: TypeAlias = int | str  #: of a picture or a category

_DIGITS = 18  #: of a number that fits into 64 bits


def image_ids(pictures: Sequence[str | tuple[str, int]]) -> tuple[Id, ...]:
    """An id for each of some pictures: the number that its file's name is, as of COCO's own, else that name; where
    several would have the same one, their paths. Frames of videos, (path, number), have the name and their number."""
    ids = [_id(picture) for picture in pictures]
    counts = Counter(ids)
    return tuple(
        number if counts[number] == 1 else _path(picture) for number, picture in zip(ids, pictures, strict=True)
    )


def _id(picture: str | tuple[str, int]) -> Id:
    name = os.path.basename(_path(picture))
    stem = os.path.splitext(name)[0]
    is_number = stem.isascii() and stem.isdigit() and len(stem) <= _DIGITS
    return int(stem) if isinstance(picture, str) and is_number else name


def _path(picture: str | tuple[str, int]) -> str:
    return picture if isinstance(picture, str) else f"{picture[0]}#{picture[1]}"


def result_rows(
    images: Sequence[Id],
    categories: Sequence[Id],
    scores: npt.NDArray[np.floating] | None = None,
    *,
    boxes: npt.NDArray[np.floating] | None = None,
    masks: Sequence[Mapping[str, Any]] | None = None,
    keypoints: npt.NDArray[np.floating] | None = None,
) -> list[dict[str, Any]]:
    """COCO's entries of N things in pictures.

    Args:
        images, categories: (N,), of each thing its picture's and its class's.
        scores: (N,)
        boxes: (N, 4): x1, y1, x2, y2 in pixels; they become x, y, width, height.
        masks: (N,), run lengths.
        keypoints: (N, K, 3): x, y and a score or visibility.
    """
    columns: dict[str, Sequence[Any]] = {"image_id": images, "category_id": categories}
    if boxes is not None:
        corners = boxes.astype(np.float64)
        columns["bbox"] = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    if masks is not None:
        columns["segmentation"] = masks
    if keypoints is not None:
        columns["keypoints"] = keypoints.astype(np.float64).reshape(len(keypoints), 3 * keypoints.shape[1]).tolist()
    if scores is not None:
        columns["score"] = scores.astype(np.float64).tolist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def write_results(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    """A result file, written as the rows come, whole or not at all; how many there are."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for row in rows:
            file.write(("," if count else "") + "\n" + json.dumps(row))
            count += 1
        file.write("\n]\n")
    return count

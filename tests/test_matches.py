"""Which objects of a picture were found, and as what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from uniformer.tasks.coco import Objects
from uniformer.tasks.matches import likeness, match
from uniformer.tasks.object_scores import ObjectScores


def scores_of(
    there: list[tuple[int, list[float]]],
    said: list[tuple[int, float, list[float]]],
    crowd: tuple[int, ...] = (),
    **more: Any,
) -> ObjectScores:
    """One picture, between two empty ones: labels and boxes; labels, scores and boxes."""
    boxes = np.array([box for _, box in there], np.float32).reshape(-1, 4)
    rows, labels = np.ones(len(there), np.int64), np.array([label for label, _ in there], np.int64)
    is_crowd = np.isin(np.arange(len(there)), crowd)
    truths = Objects(
        rows, labels, boxes, areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).astype(float), crowd=is_crowd
    )
    found = Objects(
        np.ones(len(said), np.int64), np.array([label for label, *_ in said], np.int64),
        np.array([box for *_, box in said], np.float32).reshape(-1, 4), np.array([s for _, s, _ in said], np.float32),
    )  # fmt: skip
    sizes, ok = np.full((3, 2), 100), np.ones(3, bool)
    whole = ObjectScores(truths, found, sizes, ok, ("a", "b", "c"), ("cat", "dog"), ("box",))
    return replace(whole, **more)


A, B, C = [0, 0, 10, 10], [20, 20, 40, 40], [60, 60, 90, 90]


def test_each_answer_has_a_verdict() -> None:
    said = [(0, 0.9, A), (1, 0.8, B), (1, 0.7, [0, 50, 10, 60]), (0, 0.2, C)]
    found = match(scores_of([(0, A), (0, B), (1, C)], said), 1)
    assert found.verdicts == ("right", "confused", "nothing there")  # the last is not sure enough
    assert found.truths.tolist() == [0, 1, -1]
    assert found.missed.tolist() == [2]
    assert found.quality == pytest.approx(2 / (3 + 3))


def test_an_object_is_found_once_and_by_the_surest() -> None:
    found = match(scores_of([(0, A)], [(0, 0.5, [0, 0, 10, 9]), (0, 0.9, [0, 0, 10, 8])]), 1)
    assert found.found.tolist() == [1, 0]
    assert found.verdicts == ("right", "nothing there")
    assert found.quality == pytest.approx(2 * 0.8 / 3)


def test_a_right_answer_comes_before_a_surer_one_of_another_class() -> None:
    found = match(scores_of([(0, A)], [(1, 0.9, A), (0, 0.4, A)]), 1)
    assert found.verdicts == ("nothing there", "right")


def test_crowds_count_neither_way() -> None:
    found = match(scores_of([(0, [0, 0, 50, 50])], [(0, 0.9, A), (1, 0.9, A)], crowd=(0,)), 1)
    assert found.verdicts == ("in a crowd", "nothing there")
    assert len(found.missed) == 0
    assert found.quality == 0
    assert np.isnan(match(scores_of([], []), 1).quality)
    assert np.isnan(match(scores_of([(0, A)], []), 0).quality)


def test_people_are_alike_by_their_marked_points() -> None:
    """As COCO's OKS: 1 where every marked point is met, less by the square of how far it is off."""
    scores = scores_of([(0, [0, 0, 20, 20])], [(0, 0.9, C), (0, 0.8, A)])
    truth = np.array([[[5, 5, 2], [15, 15, 1], [0, 0, 0]]], np.float32)
    said = np.array(
        [[[5, 5, 0.9], [15, 15, 0.9], [70, 70, 0.9]], [[5, 5, 0.9], [15, 17, 0.9], [0, 0, 0.9]]], np.float32
    )
    people = replace(
        scores, kinds=("keypoints",), sigmas=(0.1, 0.1, 0.1),
        truths=replace(scores.truths, keypoints=truth), found=replace(scores.found, keypoints=said),
    )  # fmt: skip
    alike = likeness(people, np.array([0]), np.array([0, 1]))
    assert alike[:, 0] == pytest.approx([1, (1 + np.exp(-4 / (2 * 0.2**2 * 400))) / 2])
    assert match(people, 1).verdicts == ("right", "nothing there")

"""COCO's measure gives pycocotools' figures, on sets with everything that it treats apart."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.made_objects import CLASSES, SIGMAS, made, official
from tests.tiny import refused
from uniformer.datasets.polygons import mask_of
from uniformer.datasets.strings import Strings
from uniformer.errors import InputError, MissingExtra
from uniformer.reading.run_lengths import counts_of, decode_mask
from uniformer.tasks.coco import OBJECT_FIGURES, PEOPLE_FIGURES, Figures, Objects, measure


def assert_equal(found: Figures, truth: object, names: tuple[str, ...]) -> None:
    """To the last digit but one; what pycocotools calls -1 is left out."""
    stats = dict(zip(names, truth.stats.tolist(), strict=True))  # type: ignore[attr-defined]
    assert found.figures == pytest.approx({name: value for name, value in stats.items() if value > -1}, abs=1e-9)
    assert np.allclose(found.precision, truth.eval["precision"][..., 0, -1], rtol=0, atol=1e-9)  # type: ignore[attr-defined]
    assert np.allclose(found.recall, truth.eval["recall"][..., 0, -1], rtol=0, atol=1e-9)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(6))
def test_figures_of_objects_are_pycocotools(seed: int, kind: str) -> None:
    truths, found, sizes = made(seed)
    figures = measure(truths, found, sizes, CLASSES, kind)  # type: ignore[arg-type]
    assert_equal(figures, official(truths, found, sizes, kind), OBJECT_FIGURES)
    assert 0.2 < figures.figures["ap50"] < 0.9  # neither everything nor nothing is found
    assert np.isnan(figures.per_class()).tolist() == [False] * 4 + [True]  # the last class has no objects
    assert np.nanmean(figures.per_class()) == pytest.approx(figures.figures["ap"])
    assert figures.curve(0.5).mean() == pytest.approx(figures.figures["ap50"])
    assert np.isnan(figures.curve(0.5, label=4)).all()


@pytest.mark.parametrize("seed", range(6))
def test_figures_of_people_are_pycocotools(seed: int) -> None:
    """More than 20 in a picture too; those without a marked point are ignored."""
    truths, found, sizes = made(seed)
    truths, found = (replace(part, labels=part.labels * 0) for part in (truths, found))
    figures = measure(truths, found, sizes, 1, "keypoints", SIGMAS.tolist())
    run = official(truths, found, sizes, "keypoints")
    assert_equal(replace(figures), run_of_one_class(run), PEOPLE_FIGURES)
    assert 0.05 < figures.figures["ap50"] < 0.95


def run_of_one_class(run: object) -> object:
    """pycocotools' arrays have all the set's classes."""
    run.eval["precision"], run.eval["recall"] = run.eval["precision"][:, :, :1], run.eval["recall"][:, :1]  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize("kind", ["box", "mask", "keypoints"])
def test_nothing_found_and_nothing_there(kind: str) -> None:
    truths, found, sizes = made(0)
    sigmas = SIGMAS.tolist()
    none = measure(truths, found.select(np.zeros(len(found), bool)), sizes, CLASSES, kind, sigmas)  # type: ignore[arg-type]
    assert set(none.figures.values()) == {0.0}
    assert measure(truths.select(np.zeros(len(truths), bool)), found, sizes, CLASSES, kind, sigmas).figures == {}  # type: ignore[arg-type]


def test_each_size_has_its_own_figures() -> None:
    """Objects of one size: the others' figures are left out, as pycocotools has -1 for them."""
    truths, found, sizes = made(1)
    assert truths.areas is not None
    small = truths.select(truths.areas < 32**2)
    figures = measure(small, found, sizes, CLASSES, "box")
    assert_equal(figures, official(small, found, sizes, "box"), OBJECT_FIGURES)
    assert "ap_small" in figures.figures
    assert not {"ap_medium", "ap_large", "ar_large"} & figures.figures.keys()


def test_order_of_equal_scores_is_kept() -> None:
    """Of two boxes of one score the earlier is taken first, in each picture and over the pictures."""
    truth = Objects(
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
        np.array([[0, 0, 10, 10]], np.float32),
        areas=np.full(1, 100.0),
        crowd=np.zeros(1, bool),
    )
    right, wrong = [0, 0, 10, 10], [50, 50, 60, 60]
    for boxes, expected in (([right, wrong], 1.0), ([wrong, right], 0.5)):
        said = Objects(
            np.zeros(2, np.int64), np.zeros(2, np.int64), np.array(boxes, np.float32), np.full(2, 0.5, np.float32)
        )
        assert measure(truth, said, np.array([[100, 100]]), 1, "box").figures["ap50"] == pytest.approx(expected)


# ---- objects ---------------------------------------------------------------------------------------------------------


def same(a: Objects, b: Objects) -> bool:
    one, two = a.arrays(), b.arrays()
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def test_objects_are_kept_joined_and_selected() -> None:
    truths, found, sizes = made(2)
    for objects in (truths, found):
        assert same(Objects.of(objects.arrays()), objects)
        parts = [objects.select(objects.item == item) for item in range(len(sizes))]
        assert same(Objects.joined(parts), objects)
    some = np.array([0, 3, 4, 17])
    few = found.of_items(some)
    assert few.item.tolist() == np.searchsorted(some, found.item[np.isin(found.item, some)]).tolist()
    assert few.masks is not None
    assert found.masks is not None
    assert list(few.masks) == [found.masks[i] for i in np.flatnonzero(np.isin(found.item, some))]
    assert len(found.of_items(np.zeros(0, np.int64))) == 0
    with refused("expected scores of each of 2 objects"):
        Objects(np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros((2, 4), np.float32), np.zeros(3, np.float32))


def test_masks_of_every_form_of_shape() -> None:
    square = [np.array([[2, 1], [6, 1], [6, 4], [2, 4.0]])]
    mask = np.zeros((8, 9), bool)
    mask[1:4, 2:6] = True
    runs = mask_of(square, 8, 9)
    assert np.array_equal(decode_mask(runs), mask)
    counts = runs["counts"]
    for form in (counts, counts.encode(), counts_of(runs).tolist()):
        assert mask_of({"size": [8, 9], "counts": form}, 8, 9) == runs
    assert not decode_mask(mask_of([], 8, 9)).any()
    with refused("expected a mask of 8x9, as its picture, found one of 9x8"):
        mask_of(runs, 9, 8)
    two = [*square, np.array([[7, 5], [9, 5], [9, 8], [7, 8.0]])]
    assert decode_mask(mask_of(two, 8, 9)).sum() == 12 + 6


def test_the_measure_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    truths, found, sizes = made(0, 2)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(
        MissingExtra, match=r"needs the package 'faster-coco-eval': pip install 'uniformer\[dense\]'"
    ) as why:
        measure(truths, found, sizes, CLASSES, "box")
    assert isinstance(why.value, InputError)


def test_masks_of_no_objects() -> None:
    empty = Strings.pack([])
    none = Objects(
        np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), masks=empty
    )
    assert same(Objects.joined([none, none]), none)

"""Scores of segmenters: intersections and unions summed over the set, absent and ignored labels left out; files."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import refused
from uniformer.reading.label_png import from_png, to_png
from uniformer.tasks.segmentation_scores import Cells, SegmentationScores, answer_names, per_class

CLASSES = ("sky", "ground", "tree", "house", "never there", "of other data")


def maps(seed: int, count: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    """Truth and answer of pictures of several sizes; some pixels are ignored, the last two classes nowhere true."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(count):
        true = rng.integers(0, 4, (20 + i, 30 - i)).astype(np.uint8)
        said = np.where(rng.random(true.shape) < 0.7, true, rng.integers(0, 4, true.shape)).astype(np.uint8)
        said[rng.random(true.shape) < 0.05] = 5
        true[rng.random(true.shape) < 0.1] = 255
        pairs.append((true, said))
    return pairs


def scored(pairs: list[tuple[np.ndarray, np.ndarray]], failed: tuple[int, ...] = ()) -> SegmentationScores:
    count = len(CLASSES)
    cells = [Cells.counted(i, true, None if i in failed else said, count) for i, (true, said) in enumerate(pairs)]
    ok = ~np.isin(np.arange(len(pairs)), failed)
    paths = tuple(f"{i}.jpg" for i in range(len(pairs)))
    places = np.where(np.arange(256) < 5, np.arange(256), 255).astype(np.uint8)
    answers = {i: to_png(said) for i, (_, said) in enumerate(pairs) if i not in failed}
    return SegmentationScores(
        Cells.joined(cells), ok, paths, CLASSES, places, (), dict.fromkeys(failed, "gone"), answers
    )


def counted_by_hand(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    overlaps, accuracies, right, whole = [], [], 0, 0
    for k in range(5):
        both = sum(int(((t == k) & (s == k)).sum()) for t, s in pairs)
        either = sum(int((((t == k) | (s == k)) & (t != 255)).sum()) for t, s in pairs)
        true = sum(int((t == k).sum()) for t, _ in pairs)
        right, whole = right + both, whole + true
        overlaps += [both / either] if either else []
        accuracies += [both / true] if true else []
    return {"miou": float(np.mean(overlaps)), "macc": float(np.mean(accuracies)), "aacc": right / whole}


@pytest.mark.parametrize("seed", range(3))
def test_measures_are_summed_over_the_set(seed: int) -> None:
    pairs = maps(seed)
    found = scored(pairs).metrics()
    assert {name: found[name] for name in ("miou", "macc", "aacc")} == pytest.approx(counted_by_hand(pairs))
    assert (found["items"], found["failed"]) == (6, 0)
    assert found["miou"] != pytest.approx(np.mean([counted_by_hand([pair])["miou"] for pair in pairs]))


def test_classes_of_other_data_are_in_no_mean() -> None:
    """Where they are said the pixel is wrong; one that the data have is 0 as soon as it is said."""
    pairs = maps(0)
    assert any((said == 5).any() for _, said in pairs)
    scores = scored(pairs)
    assert replace(scores, places=np.arange(256, dtype=np.uint8)).metrics()["miou"] == pytest.approx(
        scores.metrics()["miou"] * 4 / 5
    )
    pairs[0][1][0, 0], pairs[0][0][0, 0] = 4, 0
    assert scored(pairs).metrics()["miou"] == pytest.approx(counted_by_hand(pairs)["miou"])


def test_the_table_counts_pixels() -> None:
    true, said = np.array([[0, 1], [1, 255]], np.uint8), np.array([[0, 1], [3, 2]], np.uint8)
    table = scored([(true, said)]).table
    assert table.shape == (6, 7)
    assert {(int(i), int(j)): int(table[i, j]) for i, j in np.argwhere(table)} == {(0, 0): 1, (1, 1): 1, (1, 3): 1}
    each = per_class(table)
    assert each.overlap[:4].tolist() == pytest.approx([1, 0.5, np.nan, 0], nan_ok=True)


def test_a_picture_without_an_answer_is_missed_unless_it_is_skipped() -> None:
    pairs = maps(1)
    failed = scored(pairs, failed=(2,))
    wrong = [(t, np.full_like(s, 6) if i == 2 else s) for i, (t, s) in enumerate(pairs)]
    found = failed.metrics()
    assert {name: found[name] for name in ("miou", "macc", "aacc")} == pytest.approx(counted_by_hand(wrong))
    others = [pair for i, pair in enumerate(pairs) if i != 2]
    assert failed.metrics("skip") == {**scored(others).metrics(), "failed": 1.0}
    with refused("expected at least one labelled pixel to score, got none in 1 pictures"):
        scored([(np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8))]).metrics()
    with refused("expected missing error, skip, got 'no'"):
        failed.metrics("no")  # type: ignore[arg-type]


def test_each_picture_has_a_mean_of_its_own() -> None:
    pairs = maps(2)
    pairs[3] = (np.full_like(pairs[3][0], 255), pairs[3][1])
    each = scored(pairs).by_picture()
    assert each.tolist() == pytest.approx(
        [np.nan if i == 3 else counted_by_hand([pair])["miou"] for i, pair in enumerate(pairs)], nan_ok=True
    )


def test_scores_are_kept_in_one_file_and_selected(tmp_path: Path) -> None:
    scores = scored(maps(0), failed=(1,))
    scores.save(tmp_path / "a.npz")
    again = SegmentationScores.load(tmp_path / "a.npz")
    assert again.metrics() == scores.metrics()
    assert json.loads(json.dumps(again.facts(), allow_nan=False)) == scores.facts()
    assert (again.paths, again.classes, again.errors) == (scores.paths, scores.classes, scores.errors)
    part = scores.select(np.array([False, True, True, False, True, False]))
    assert (part.paths, list(part.errors), sorted(part.answers)) == (("1.jpg", "2.jpg", "4.jpg"), [0], [1, 2])
    assert np.array_equal(part.table, sum(scores.select(np.array([i])).table for i in (1, 2, 4)))
    with refused("a.parquet"):
        scores.save(tmp_path / "a.parquet")
    (tmp_path / "b.npz").write_bytes(b"PK")
    with refused("b.npz: expected a file of scores, found"):
        SegmentationScores.load(tmp_path / "b.npz")


def test_answers_are_pictures_whose_values_are_labels(tmp_path: Path) -> None:
    pairs = maps(0)
    scores = scored(pairs, failed=(1,))
    place = scores.save_answers(tmp_path)["predictions"]
    assert sorted(path.name for path in place.iterdir()) == [f"{i}.png" for i in (0, 2, 3, 4, 5)]
    assert np.array_equal(np.asarray(Image.open(place / "4.png")), pairs[4][1])


def test_label_maps_as_files() -> None:
    labels = np.arange(200, dtype=np.int64).reshape(10, 20)
    assert from_png(to_png(labels)).tolist() == labels.tolist()
    narrow = labels.astype(np.uint8)
    narrow[0, :3] = 255  # no class
    for count in (0, 2, 3, 16, 17, 200, 300):  # Pillow takes fewer bits for fewer colours
        png = to_png(narrow, [(k % 256, 255 - k % 256, 7) for k in range(count)])
        assert from_png(png).tolist() == narrow.tolist()
        with Image.open(io.BytesIO(png)) as image:
            assert image.mode == ("P" if count else "L")
            assert not count or image.getpalette()[:6] == [0, 255, 7, 1, 254, 7]
    assert np.array_equal(from_png(to_png(labels * 300)), labels * 300)
    for factor, end in ((1000, 199000), (-1, -199)):
        with refused(f"expected labels of 0 to 65535, got {end}"):
            to_png(labels * factor)


def test_each_answer_has_a_name_of_its_own() -> None:
    assert answer_names(["a/1.jpg", "b/2.jpg"]) == ["1.png", "2.png"]
    assert answer_names(["a/1.jpg", "b/1.jpg"]) == ["a-1.png", "b-1.png"]
    assert answer_names(["a/1.jpg", "a/1.png", "x.y.jpg"]) == ["1-a-1.png", "2-a-1.png", "3-x.y.png"]
    assert answer_names(["/r/A.jpg", "/q/a.jpg"]) == ["r-A.png", "q-a.png"]


def test_what_does_not_fit_is_refused() -> None:
    scores = scored(maps(0))
    with refused("expected marks of 5 pictures"):
        replace(scores, paths=scores.paths[1:])
    with refused("expected pixels with true in 0 .. 1, got others"):
        replace(scores, classes=("a", "b"))
    with refused("expected pixels with true in 0 .. 5, got others"):
        replace(scores, cells=replace(scores.cells, true=scores.cells.true + 6))

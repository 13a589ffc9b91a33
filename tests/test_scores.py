"""Measures against values worked out by hand; files; joining; probes; the order of classes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import refused
from uniformer.datasets.manifest import Item, Manifest
from uniformer.evaluation.features import Features
from uniformer.evaluation.probe import knn, linear_probe, probe_scores
from uniformer.labels import load_classes
from uniformer.tasks.class_order import examine, match, match_labels, orders_of, relabelled
from uniformer.tasks.scores import (
    Scores,
    average_precision,
    calibration_error,
    confusion,
    fuse,
    mean_average_precision,
    per_class,
    reliability,
    wilson,
)

ROWS = [  # probabilities of three classes, true class
    ([0.7, 0.2, 0.1], 0),  # right
    ([0.5, 0.4, 0.1], 1),  # second
    ([0.1, 0.3, 0.6], 1),  # second
    ([0.2, 0.2, 0.6], 2),  # right
    ([0.6, 0.3, 0.1], 2),  # last
]


def make_scores(probabilities: object, labels: object, ok: object = None, classes: tuple[str, ...] = ()) -> Scores:
    p = np.array(probabilities, np.float32)
    marks = np.ones(len(p), bool) if ok is None else np.array(ok, bool)
    truth = np.array(labels)
    truth = truth if truth.ndim == 2 else truth.astype(np.int32)
    paths = tuple(f"{i}.mp4" for i in range(len(p)))
    errors = {int(i): "gone" for i in np.flatnonzero(~marks)}
    return Scores(p, np.log(np.maximum(p, 1e-9)), truth, marks, paths, classes, errors)


@pytest.fixture
def five() -> Scores:
    return make_scores([p for p, _ in ROWS], [label for _, label in ROWS], classes=("a", "b", "c"))


def of_kind(classes: list[str] | tuple[str, ...], labels: list[int] | None = None) -> Manifest:
    items = [Item(f"{i}.mp4", (label,)) for i, label in enumerate(labels or range(len(classes)))]
    return Manifest.from_items(items, kind="video", classes=classes)


# ---- measures --------------------------------------------------------------------------------------------------------


def test_ranks_and_shares(five: Scores) -> None:
    assert five.ranks().tolist() == [0, 1, 1, 0, 2]
    assert five.predicted().tolist() == [0, 0, 2, 2, 0]
    found = five.metrics()
    assert found["top1"] == pytest.approx(2 / 5)
    assert found["mean_class"] == pytest.approx((1 / 1 + 0 / 2 + 1 / 2) / 3)
    assert (found["items"], found["failed"]) == (5, 0)
    assert "top5" not in found  # of three classes it says nothing


def test_top5_counts_the_first_five_of_more_classes() -> None:
    descending = np.arange(10, 0, -1) / 55
    found = make_scores([descending] * 10, list(range(10))).metrics()
    assert (found["top1"], found["top5"]) == (pytest.approx(0.1), pytest.approx(0.5))


def test_equal_probabilities_are_right_for_one_class_only() -> None:
    flat = make_scores([[0.25] * 4] * 4, [0, 1, 2, 3])
    assert flat.ranks().tolist() == [0, 1, 2, 3]
    assert flat.metrics()["top1"] == 0.25


def test_items_without_an_answer_are_errors_unless_skipped(five: Scores) -> None:
    holes = make_scores([[0.7, 0.2, 0.1], [0, 0, 0], [0.1, 0.1, 0.8]], [0, 0, 2], ok=[True, False, True])
    assert holes.metrics()["top1"] == pytest.approx(2 / 3)  # class 0 would win the row of zeros, were it counted
    assert holes.metrics("skip")["top1"] == 1
    assert holes.metrics("skip")["failed"] == holes.metrics()["failed"] == 1
    assert holes.predicted().tolist() == [0, -1, 2]
    assert confusion(holes).sum() == 2
    with refused("at least one item to score"):
        make_scores([[0, 0]], [0], ok=[False]).metrics("skip")


def test_another_word_for_missing_does_not_leave_items_out(five: Scores) -> None:
    for word in ("Error", "errors", "", None):
        with refused("expected missing error, skip, got "):
            five.metrics(word)  # type: ignore[arg-type]


def test_per_class_and_confusion(five: Scores) -> None:
    found = per_class(five)
    assert found.count.tolist() == [1, 2, 2]
    assert found.correct.tolist() == [1, 0, 1]
    assert confusion(five).tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 1]]
    absent = per_class(make_scores([[0.9, 0.1, 0.0]], [0]))
    assert math.isnan(absent.accuracy[2])
    assert make_scores([[0.9, 0.1, 0.0]], [0]).metrics()["mean_class"] == 1


def test_calibration_by_hand(five: Scores) -> None:
    # 0.5 and 0.7 lie in bins 7 and 10 of 0 .. 14; 0.6 = 9/15 is an edge, just above it in float32: bin 9.
    assert reliability(five).count.tolist() == [0] * 7 + [1, 0, 3, 1] + [0] * 4
    by_hand = (1 * abs(0 - 0.5) + 3 * abs(1 / 3 - 0.6) + 1 * abs(1 - 0.7)) / 5
    assert calibration_error(five) == pytest.approx(by_hand, abs=1e-6)
    sure = make_scores([[1.0, 0.0]] * 4, [0, 0, 0, 0])
    assert calibration_error(sure) == 0
    assert calibration_error(make_scores([[1.0, 0.0]] * 4, [1, 1, 1, 1])) == 1


def test_wilson_interval_by_hand() -> None:
    low, high = wilson(8, 10)  # Newcombe 1998 and many tables: 0.490 to 0.943
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(10, 10) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))


def test_average_precision_by_hand() -> None:
    scores, positive = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, positive) == pytest.approx((1 / 1 + 2 / 3) / 2)
    tied = np.array([0.5, 0.5, 0.5, 0.5])  # no order at all: precision is the share of positives
    assert average_precision(tied, positive) == pytest.approx(0.5)
    assert math.isnan(average_precision(scores, np.zeros(4, bool)))


def test_multi_label_measure_by_hand() -> None:
    p = [[0.9, 0.1, 0.5], [0.8, 0.9, 0.5], [0.7, 0.8, 0.5]]
    targets = np.array([[True, False, False], [False, True, False], [True, True, False]])
    scores = make_scores(p, targets)
    want = ((1 + 2 / 3) / 2 + (1 + 1) / 2) / 2  # the third class has no positives
    assert mean_average_precision(scores) == pytest.approx(want)
    assert scores.metrics()["map"] == pytest.approx(want)
    # An item without an answer comes last: its label is found only when all are taken.
    worse = make_scores(p, targets, ok=[False, True, True])
    assert worse.metrics()["map"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)
    with refused("expected one label an item"):
        scores.ranks()


# ---- files and joining -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scores.npz", "scores.parquet"])
@pytest.mark.parametrize("multi", [False, True])
def test_saved_scores_come_back(tmp_path: Path, name: str, multi: bool) -> None:
    labels = np.array([[True, False], [True, True], [False, False]]) if multi else [0, 1, 1]
    scores = make_scores([[0.9, 0.1], [0, 0], [0.5, 0.5]], labels, ok=[True, False, True], classes=("x", "ÿ"))
    odd = Scores(**{**vars(scores), "paths": ("a b.mp4", "caf\udce9.mp4", "c#1-2")})  # a name that is no UTF-8
    odd.save(tmp_path / name)
    back = Scores.load(tmp_path / name)
    for field in ("probabilities", "logits", "labels", "ok"):
        assert np.array_equal(getattr(back, field), getattr(odd, field))
        assert getattr(back, field).dtype == getattr(odd, field).dtype
    assert (back.paths, back.classes, dict(back.errors)) == (odd.paths, odd.classes, odd.errors)


def test_other_files_are_no_scores(tmp_path: Path) -> None:
    for name, data in (("a.npz", b"no zip"), ("b.npz", b""), ("c.parquet", b"PAR1 not")):
        (tmp_path / name).write_bytes(data)
        with refused("expected a file of scores"):
            Scores.load(tmp_path / name)
    np.savez(tmp_path / "d.npz", other=np.zeros(3))
    with refused("expected a file of scores"):
        Scores.load(tmp_path / "d.npz")
    with refused("found none"):
        Scores.load(tmp_path / "e.npz")
    with refused(r"\.npz or \.parquet"):
        make_scores([[1.0]], [0]).save(tmp_path / "scores.txt")


def test_fused_scores_are_weighted_means() -> None:
    a = make_scores([[0.8, 0.2], [0.6, 0.4]], [0, 1])
    b = make_scores([[0.2, 0.8], [0, 0]], [0, 1], ok=[True, False])
    both = fuse([a, b], [3, 1])
    assert both.probabilities[0] == pytest.approx([0.65, 0.35])
    assert both.ok.tolist() == [True, False]
    assert both.probabilities[1].tolist() == [0, 0]
    assert both.errors == {1: "gone"}
    with refused("same items"):
        fuse([a, a.select(np.array([1, 0]))])
    with refused("a weight of 0 or more"):
        fuse([a, b], [1])


# ---- the order of classes --------------------------------------------------------------------------------------------


def answers_for(rows: np.ndarray, classes: tuple[str, ...], labels: np.ndarray) -> Scores:
    """Scores of a network that is right about `rows` three times out of four, sure of itself."""
    p = np.full((len(rows), len(classes)), 0.1 / (len(classes) - 1), np.float32)
    place = np.arange(len(rows))
    wrong = (place + place // len(classes)) % 4 == 0
    p[place, np.where(wrong, (rows + 7) % len(classes), rows)] = 0.9
    return make_scores(p, labels, classes=classes)


def alphabetical_places(names: tuple[str, ...]) -> np.ndarray:
    """Of each name its place among them sorted."""
    return np.searchsorted(sorted(names), names)


def test_alphabetical_labels_of_kinetics_are_noticed_and_the_order_found() -> None:
    classes = load_classes("Kinetics-400")
    p = alphabetical_places(classes)
    rows = np.arange(800) % 400
    found = examine(answers_for(rows, classes, p[rows]), classes)
    assert found is not None
    assert found.order is not None
    assert found.order_name == "alphabetical"
    assert np.array_equal(found.order[p[rows]], rows)
    assert any("75.0 % would be right" in s for s in found.sentences)
    assert any("sure of themselves" in s for s in found.sentences)


def test_published_labels_with_an_alphabetical_network_are_found_too() -> None:
    published = load_classes("Kinetics-400")
    classes, p = tuple(sorted(published)), alphabetical_places(published)
    rows = np.arange(800) % 400  # alphabetical, as OpenMMLab's files have them
    found = examine(answers_for(rows, classes, np.argsort(p)[rows]), classes)
    assert found is not None
    assert found.order is not None
    assert "Kinetics-400" in found.order_name
    assert np.array_equal(found.order[np.argsort(p)[rows]], rows)


def test_good_answers_and_few_answers_raise_no_suspicion() -> None:
    classes = load_classes("Kinetics-400")
    rows = np.arange(400)
    assert examine(answers_for(rows, classes, rows), classes) is None
    assert examine(answers_for(rows[:5], classes, rows[5:10]), classes) is None


def test_untrained_and_constant_networks_are_told_apart_from_a_wrong_order() -> None:
    labels = np.arange(100) % 10
    names = tuple(f"name {k}" for k in "jihgfedcba")
    constant = make_scores(np.tile(np.eye(10)[3], (100, 1)), labels, classes=names)
    found = examine(constant, names)
    assert found is not None
    assert found.order is None
    assert "every answer is 'name g'" in found.sentences[1]
    noise = np.random.default_rng(0).random((100, 10)) * 0.01 + 0.1
    found = examine(make_scores(noise, labels, classes=names), names)
    assert found is not None
    assert "unsure" in found.sentences[1]


def test_an_unknown_order_is_hinted_at_by_the_favourite_answers() -> None:
    rows = np.arange(200) % 10
    names = tuple(f"{k}" for k in range(10))
    found = examine(answers_for(rows, names, (rows * 3 + 1) % 10), names)
    assert found is not None
    assert found.order is None
    assert "each label has an answer of its own that 75 %" in found.sentences[-1]


def test_labels_are_matched_by_name_whatever_the_spelling() -> None:
    network = ("playing ping-pong", "Yoga", "abseiling")
    manifest, said = match_labels(of_kind(["Abseiling", "playing_ping_pong"], [0, 1, 1]), network)
    assert manifest.labels.tolist() == [2, 0, 0]
    assert manifest.classes == network
    assert said is not None
    assert "2 of the data's 2 classes" in said
    same, said = match_labels(of_kind(network), network)
    assert said is None
    assert same.labels.tolist() == [0, 1, 2]


def test_names_that_do_not_match_are_told_or_refused() -> None:
    network = ("a", "b", "c")
    with refused("such as 'x', 'y', 'z'"):
        match_labels(of_kind(["x", "y", "z"]), network)
    kept, said = match_labels(of_kind(["x", "y", "z"]), network, strict=False)
    assert kept.labels.tolist() == [0, 1, 2]
    assert said is not None
    assert "by number" in said
    with refused("such as"):
        match_labels(of_kind(["a", "x"]), network)
    numbers, said = match_labels(of_kind(["0", "1"]), network)  # labels that are numbers have no names to match
    assert (numbers.classes, said) == (network, "labels taken by number: the data name no classes")
    assert numbers.labels.tolist() == [0, 1]
    assert match(["a", "A!"], ["a", "b"]) is None
    assert relabelled(of_kind(["a", "b"]), np.array([2, 1]), network).labels.tolist() == [2, 1]


def test_usual_orders_leave_out_the_present_one() -> None:
    assert "alphabetical" not in dict(orders_of(("a", "b", "c")))
    assert dict(orders_of(("b", "a"))) == {"alphabetical": ["a", "b"]}
    assert not dict(orders_of(("0", "1")))


# ---- probes ----------------------------------------------------------------------------------------------------------


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three well separated clouds in eight dimensions."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.eye(3, 8) * 6
    return (centres[labels] + rng.normal(size=(count, 8))).astype(np.float32), labels


def test_probes_separate_what_is_separable() -> None:
    (x, y), (z, truth) = blobs(90, 0), blobs(60, 1)
    for answers in (linear_probe(x, y, z, 3), knn(x, y, z, 3, k=5)):
        assert answers.argmax(dim=1).tolist() == truth.tolist()
    assert torch.allclose(knn(x, y, z, 3).sum(dim=1), torch.ones(60, dtype=torch.float64))


def test_linear_probe_is_at_the_optimum() -> None:
    """Two items at -1 and +1 after standardising: the logit difference d minimises log(1 + e^-d) + d^2 / 16."""
    logits = linear_probe(np.array([[1.0], [3.0]]), np.array([0, 1]), np.array([[3.0]]), 2, c=1.0)
    d = float(logits[0, 1] - logits[0, 0])
    # |W|^2 / (2 c N) with W = (-d/2, d/2) is d^2 / 8, whose derivative is d / 4.
    assert 1 / (1 + math.exp(d)) == pytest.approx(d / 4, abs=1e-5)


def test_knn_votes_by_hand() -> None:
    train = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    votes = knn(train, np.array([0, 1, 1]), np.array([[3.0, 0.0]]), 2, k=2, temperature=0.5)
    near, far = math.exp(1 / 0.5), math.exp(math.sqrt(0.5) / 0.5)  # cosines 1 and 0.7071; 0 is not among the two
    assert votes[0].tolist() == pytest.approx([near / (near + far), far / (near + far)])


def test_probe_scores_leave_out_unreadable_items() -> None:
    (x, y), (z, truth) = blobs(90, 0), blobs(6, 1)
    bad = np.arange(90) % 10 == 0
    y = np.where(bad, 2, y).astype(np.int32)  # their zeros and labels must not count
    x[bad] = 0
    ok = np.array([True] * 5 + [False])
    train = Features(x, y, ~bad, tuple(map(str, range(90))), ("a", "b", "c"), {})
    test = Features(z, truth.astype(np.int32), ok, tuple(map(str, range(6))), ("a", "b", "c"), {5: "gone"})
    for probe in ("linear", "knn"):
        scores = probe_scores(probe, train, test)  # type: ignore[arg-type]
        assert scores.predicted().tolist() == [0, 1, 2, 0, 1, -1]
        assert scores.metrics()["top1"] == pytest.approx(5 / 6)
    with refused("'linear' or 'knn'"):
        probe_scores("svm", train, test)  # type: ignore[arg-type]

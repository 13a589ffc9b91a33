"""Scores of detectors and pose networks: figures by name, parts of them, files, COCO's files of results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.made_objects import CLASSES, SIGMAS, entries, made, official
from tests.tiny import refused
from uniformer.tasks.coco import OBJECT_FIGURES, PEOPLE_FIGURES
from uniformer.tasks.coco_results import image_ids
from uniformer.tasks.object_scores import ObjectScores

NAMES = tuple(f"kind {k}" for k in range(CLASSES))


def scores_of(seed: int, **more: Any) -> ObjectScores:
    truths, found, sizes = made(seed)
    paths = tuple(f"{i:03}.jpg" for i in range(len(sizes)))
    whole = ObjectScores(truths, found, sizes, np.ones(len(sizes), bool), paths, NAMES, ("box", "mask"))
    return replace(whole, **more)


def people_of(seed: int, **more: Any) -> ObjectScores:
    whole = scores_of(seed)
    truths, found = (replace(part, labels=part.labels * 0) for part in (whole.truths, whole.found))
    about = {"classes": ("person",), "kinds": ("keypoints",), "sigmas": tuple(SIGMAS.tolist())}
    return replace(whole, truths=truths, found=found, **about, **more)  # type: ignore[arg-type]


def without(scores: ObjectScores, row: int) -> ObjectScores:
    """The picture could not be read."""
    ok = scores.ok.copy()
    ok[row] = False
    found = scores.found.select(scores.found.item != row)
    return replace(scores, ok=ok, found=found, errors={row: "gone"})


def test_measures_have_names() -> None:
    scores = scores_of(0)
    found = scores.metrics()
    for kind in ("box", "mask"):
        stats = official(scores.truths, scores.found, scores.sizes, kind).stats.tolist()
        assert [found[f"{kind}_{name}"] for name in OBJECT_FIGURES] == pytest.approx(stats)
    assert (found["items"], found["failed"], found["objects"]) == (24, 0, int((~scores.truths.crowd).sum()))  # type: ignore[operator]
    people = people_of(0)
    stats = official(people.truths, people.found, people.sizes, "keypoints").stats.tolist()
    assert [people.metrics().get(name, -1) for name in PEOPLE_FIGURES] == pytest.approx(stats)


def test_a_picture_without_an_answer_has_nothing_found_in_it_unless_it_is_skipped() -> None:
    scores = scores_of(1)
    row = int(np.bincount(scores.truths.item).argmax())
    failed = without(scores, row)
    assert failed.metrics()["failed"] == failed.metrics("skip")["failed"] == 1
    assert (failed.metrics()["items"], failed.metrics("skip")["items"]) == (24, 23)
    assert failed.metrics()["box_ar100"] < failed.metrics("skip")["box_ar100"]
    others = scores.select(np.arange(24) != row)
    assert failed.metrics("skip") == {**others.metrics(), "failed": 1.0}
    assert others.paths == tuple(path for i, path in enumerate(scores.paths) if i != row)
    with refused("expected missing error, skip, got 'wrong'"):
        scores.metrics("wrong")  # type: ignore[arg-type]
    with refused("expected at least one item to score, got none with an answer"):
        replace(scores, ok=np.zeros(24, bool)).metrics("skip")
    with refused("expected at least one object in the set, got none"):
        scores.select(np.array([1])).metrics()


def test_facts_tell_of_classes_and_curves() -> None:
    scores = scores_of(2)
    facts = json.loads(json.dumps(scores.facts(), allow_nan=False))
    assert [one["name"] for one in facts["classes"]] == list(NAMES)
    assert facts["classes"][-1]["box_ap"] is None
    mean = np.mean([one["mask_ap"] for one in facts["classes"][:-1]])
    assert mean == pytest.approx(scores.metrics()["mask_ap"])
    assert sum(one["objects"] for one in facts["classes"]) == scores.metrics()["objects"]
    assert np.mean(facts["precision_at_recall"]["box"]["0.5"]) == pytest.approx(scores.metrics()["box_ap50"], abs=1e-6)
    assert people_of(2).facts().keys() == {"precision_at_recall"}  # of one class there is nothing more


def test_scores_are_kept_in_one_file(tmp_path: Path) -> None:
    for number, scores in enumerate((without(scores_of(3), 4), people_of(3, image_ids=tuple(range(24))))):
        path = tmp_path / f"{number}.npz"
        scores.save(path)
        again = ObjectScores.load(path)
        assert again.metrics() == scores.metrics()
        assert again.facts() == scores.facts()
        for name in ("paths", "classes", "kinds", "sigmas", "image_ids", "category_ids", "errors"):
            assert getattr(again, name) == getattr(scores, name)
    with refused("expected a name ending in .npz for scores, got .*a.parquet"):
        scores.save(tmp_path / "a.parquet")
    with refused("none.npz: expected a file of scores, found none"):
        ObjectScores.load(tmp_path / "none.npz")
    for name, data in (("text.npz", b"text"), ("cut.npz", path.read_bytes()[:-500])):
        (tmp_path / name).write_bytes(data)
        with refused(f"{name}: expected a file of scores, found"):
            ObjectScores.load(tmp_path / name)


def test_answers_are_cocos_files_of_results(tmp_path: Path) -> None:
    """With the data set's own numbers; pycocotools reads them and comes to the same figures."""
    ids = {"image_ids": tuple(range(100, 124)), "category_ids": tuple(range(1, 10 * CLASSES, 10))}
    for scores in (scores_of(4, **ids), people_of(4, **ids)):  # type: ignore[arg-type]
        paths = scores.save_answers(tmp_path)
        assert list(paths) == [f"predictions-{kind}" for kind in scores.kinds]
        for kind, path in zip(scores.kinds, paths.values(), strict=True):
            gt = COCO()
            gt.dataset = {
                "images": [{"id": 100 + i, "height": int(h), "width": int(w)} for i, (h, w) in enumerate(scores.sizes)],
                "categories": [{"id": 10 * k + 1, "name": str(k)} for k in range(len(scores.classes))],
                "annotations": entries(scores.truths, scores.sizes, kind),
            }
            gt.createIndex()
            run = COCOeval(gt, gt.loadRes(str(path)), {"box": "bbox", "mask": "segm"}.get(kind, kind))
            if kind == "keypoints":
                run.params.kpt_oks_sigmas = SIGMAS
            run.evaluate(), run.accumulate(), run.summarize()
            assert run.stats[:3].tolist() == pytest.approx(
                [
                    scores.metrics()[f"{p}{name}"]
                    for p in [{"box": "box_", "mask": "mask_"}.get(kind, "")]
                    for name in ("ap", "ap50", "ap75")
                ]
            )
    plain = scores_of(4)
    ids = image_ids(plain.paths)
    assert {one["image_id"] for one in plain.results("box")} == {ids[i] for i in plain.found.item.tolist()}
    assert {one["category_id"] for one in plain.results("box")} == set((plain.found.labels + 1).tolist())
    nobody = people_of(4)
    assert replace(nobody, found=nobody.found.select(np.zeros(len(nobody.found), bool))).results("keypoints") == []


def test_what_does_not_fit_is_refused() -> None:
    scores = scores_of(5)
    with refused("expected objects of 24 pictures and 2 classes, got others"):
        replace(scores, classes=("a", "b"))
    with refused("expected sizes and marks of 23 pictures"):
        replace(scores, paths=scores.paths[1:])

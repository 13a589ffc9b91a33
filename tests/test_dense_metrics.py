"""What is kept of detectors', pose networks' and segmenters' answers to annotated pictures, and the scores of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.annotated_sets import HEIGHT, WIDTH, label_map, picture, values_of
from tests.made_objects import KINDS, POINTS, SIGMAS, detections_of, made, official, poses_of, write_set
from tests.tiny import refused
from uniformer.checkpoints.contract import Contract
from uniformer.datasets.annotated import AnnotatedSet, open_annotated
from uniformer.datasets.strings import Strings
from uniformer.network.variants import get_config
from uniformer.reports.objects import of_objects
from uniformer.tasks.coco import OBJECT_FIGURES, PEOPLE_FIGURES
from uniformer.tasks.object_metrics import DetectionMetric, PoseMetric
from uniformer.tasks.segmentation_metric import SegmentationMetric
from uniformer.tasks.segmentations import Segmentation

ORDER = (3, 0, 4, 1, 2)  # of the classes in the data


def contract_of(arch: str, classes: tuple[str, ...], **details: Any) -> Contract:
    return Contract(replace(get_config(arch), num_classes=len(classes)), classes=classes, details=details)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnnotatedSet, Any, Any, np.ndarray]:
    """A data set on disk whose classes are in another order, what is in it, what was found, and sizes."""
    truths, found, sizes = made(7)
    root = write_set(tmp_path_factory.mktemp("objects") / "coco", truths, sizes, ORDER)
    return open_annotated(root, split="val"), truths, found, sizes


def rows_of(metric: Any, items: Any, answer: Any) -> np.ndarray:
    return np.array([metric.row(int(item), answer(int(item))) for item in items], metric.dtype)


def test_a_detector_is_scored_as_pycocotools_scores_it(objects: Any) -> None:
    data, truths, found, sizes = objects
    metric = DetectionMetric(contract_of("mask_rcnn.uniformer_xxs", KINDS), data, "names")
    assert any("labels matched to the checkpoint's classes by name: 5 of the data's 5" in note for note in metric.notes)
    rows = rows_of(metric, range(len(data)), lambda item: detections_of(found, sizes, item))
    scores = metric.result(rows, {})
    for kind in ("box", "mask"):
        stats = official(truths, found, sizes, kind).stats.tolist()
        assert [scores.metrics()[f"{kind}_{name}"] for name in OBJECT_FIGURES] == pytest.approx(stats, abs=1e-6)
    assert metric.measures == ("mask_ap", "box_ap")
    assert metric.summary(scores) == {name: scores.metrics()[name] for name in metric.measures}
    shuffled = metric.result(rows[np.random.default_rng(0).permutation(len(rows))], {})
    assert shuffled.metrics() == scores.metrics()
    assert shuffled.facts() == scores.facts()
    assert scores.image_ids == tuple(range(100, 124))


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_results_have_the_numbers_of_the_data_sets_own_file(objects: Any, kind: str, tmp_path: Path) -> None:
    """In which pictures and classes may have any."""
    data, _, found, sizes = objects
    path = tmp_path / "annotations.json"
    table = json.loads(Path(data.root, "annotations/instances_val2017.json").read_text())
    for image in table["images"]:
        image["id"] *= 7
    for annotation in table["annotations"]:
        annotation["image_id"] *= 7
    path.write_text(json.dumps(table))
    (tmp_path / "val2017").symlink_to(Path(data.root, "val2017"))
    metric = DetectionMetric(contract_of("mask_rcnn.uniformer_xxs", (*KINDS, "unicorn")), open_annotated(path), "names")
    assert metric.manifest.select([2, 1]).image_ids == (7 * 102, 7 * 101)
    scores = metric.result(rows_of(metric, range(len(data)), lambda item: detections_of(found, sizes, item)), {})
    results = scores.save_answers(tmp_path)[f"predictions-{kind}"]
    assert len({*scores.category_ids}) == len(KINDS) + 1
    truth = COCO(str(path))
    run = COCOeval(truth, truth.loadRes(str(results)), {"box": "bbox", "mask": "segm"}[kind])
    run.evaluate(), run.accumulate(), run.summarize()
    assert run.stats[0] == pytest.approx(scores.metrics()[f"{kind}_ap"], abs=1e-6)


def test_a_picture_without_an_answer_and_one_without_readable_annotations(objects: Any) -> None:
    data, _, found, sizes = objects
    metric = DetectionMetric(contract_of("mask_rcnn.uniformer_xxs", KINDS), data, "names")
    rows = rows_of(metric, range(1, len(data)), lambda item: detections_of(found, sizes, item))
    scores = metric.result(rows, {0: "gone"})
    assert scores.errors == {0: "gone"}
    assert np.flatnonzero(~scores.ok).tolist() == [0]
    assert 0 in scores.truths.item
    broken = replace(data, sizes=np.where(np.arange(24)[:, None] == 5, [[77, 78]], data.sizes).astype(np.int32))
    metric.manifest = broken
    ((row, why),) = metric.result(
        rows_of(metric, range(24), lambda i: detections_of(found, sizes, i)), {}
    ).errors.items()
    assert row == 5
    assert "expected a mask of 78x77, as its picture, found one of" in why


def test_classes_that_the_checkpoint_does_not_know_are_said(objects: Any) -> None:
    data, truths, found, sizes = objects
    contract = contract_of("mask_rcnn.uniformer_xxs", ("dog", "zebra", "cat", "bus"))
    metric = DetectionMetric(contract, data, "names")
    cups = int((truths.labels == 3).sum())
    assert any(f"does not know them: cup ({cups} objects), kite (0 objects)" in note for note in metric.notes)
    assert any("the data name 3 of the checkpoint's 4 classes" in note for note in metric.notes)
    rename = np.array([2, 0, 3, 1, 1])  # cups and kites are zebras
    other = replace(found, labels=rename[found.labels])
    scores = metric.result(rows_of(metric, range(24), lambda i: detections_of(other, sizes, i, contract.classes)), {})
    known = truths.select(truths.labels < 3)
    stats = official(known, found.select(found.labels < 3), sizes, "box").stats.tolist()
    assert [scores.metrics()[f"box_{name}"] for name in OBJECT_FIGURES] == pytest.approx(stats, abs=1e-6)
    with refused("expected classes of the checkpoint .*--class-order numbers"):
        DetectionMetric(contract_of("mask_rcnn.uniformer_xxs", ("a", "b")), data, "names")
    with refused("expected labels of the checkpoint's 2 classes, got 5 classes"):
        DetectionMetric(contract_of("mask_rcnn.uniformer_xxs", ("a", "b")), data)
    with refused("expected labels by 'names' or 'numbers', got 'fix'"):
        DetectionMetric(contract, data, "fix")
    with refused("expected at least one object of the checkpoint's classes, got none"):
        DetectionMetric(contract_of("mask_rcnn.uniformer_xxs", ("kite", "b")), data, "names")


def test_data_of_boxes_alone_have_no_figures_of_masks(objects: Any) -> None:
    data, _, found, sizes = objects
    boxes = replace(data, instances=replace(data.instances, shapes=None))
    metric = DetectionMetric(contract_of("mask_rcnn.uniformer_xxs", KINDS), boxes, "names")
    assert "no figures of masks: the data have boxes alone" in metric.notes
    scores = metric.result(rows_of(metric, range(24), lambda i: detections_of(found, sizes, i)), {})
    assert scores.kinds == ("box",)
    assert "mask_ap" not in scores.metrics()


def test_objects_without_a_mask_count_neither_way_for_masks(objects: Any) -> None:
    """In a set with masks, some have a box alone: found or missed, they are left out of the figures of masks."""
    data, truths, _, sizes = objects
    bare = (np.arange(len(truths)) % 3 == 0) & ~truths.crowd
    shapes = data.instances.shapes
    places = [np.flatnonzero((data.instances.boxes == box).all(1))[0] for box in truths.boxes[bare]]
    packed = [shapes.runs[i] if i not in places else "" for i in range(len(shapes.runs))]
    instances = replace(data.instances, shapes=replace(shapes, runs=Strings.pack(packed)))
    metric = DetectionMetric(
        contract_of("mask_rcnn.uniformer_xxs", KINDS), replace(data, instances=instances), "names"
    )  # fmt: skip
    assert f"{bare.sum()} objects without a mask: left out of the figures of masks" in metric.notes
    for kept in (np.ones(len(truths), bool), ~bare):  # all of them are found, or those that have a mask
        right = replace(truths.select(kept), scores=np.ones(kept.sum(), np.float32), areas=None, crowd=None)
        scores = metric.result(rows_of(metric, range(24), lambda i, r=right: detections_of(r, sizes, i)), {})
        crowds = official(truths, right, sizes, "box").stats[0]  # which these take part in, as things found
        figures = scores.metrics()
        assert figures["box_ap"] == pytest.approx(crowds, abs=1e-6)
        assert figures["mask_ap"] == pytest.approx(1.0, abs=1e-6)
    assert figures["box_ap"] < 1


def test_where_no_object_has_a_mask_masks_have_no_figures_and_no_curve(objects: Any) -> None:
    """In a set with masks: those of crowds."""
    data, _, found, sizes = objects
    shapes, crowd = data.instances.shapes, data.instances.crowd
    packed = [shapes.runs[i] if crowd[i] else "" for i in range(len(shapes.runs))]
    bare = replace(data, instances=replace(data.instances, shapes=replace(shapes, runs=Strings.pack(packed))))
    metric = DetectionMetric(contract_of("mask_rcnn.uniformer_xxs", KINDS), bare, "names")
    scores = metric.result(rows_of(metric, range(24), lambda i: detections_of(found, sizes, i)), {})
    assert {name for name in scores.metrics() if name.startswith("mask")} == set()
    assert scores.facts()["precision_at_recall"].keys() == {"box"}
    json.dumps(scores.facts(), allow_nan=False)
    assert len(of_objects(scores, bare, scores.metrics())["charts"]) == 1


def test_a_pose_network_is_scored_as_pycocotools_scores_it(tmp_path: Path) -> None:
    truths, found, sizes = made(8)
    truths, found = (replace(part, labels=part.labels * 0) for part in (truths, found))
    data = open_annotated(write_set(tmp_path / "coco", truths, sizes, (), people=True), split="val", task="pose")
    points = tuple(f"point {k}" for k in range(POINTS))
    details = {"sigmas": SIGMAS.tolist(), "skeleton": [[0, 1], [1, 2]]}
    metric = PoseMetric(contract_of("topdown.uniformer_small", points, **details), data, "names")
    scores = metric.result(rows_of(metric, range(24), lambda i: poses_of(found, sizes, i)), {})
    stats = official(truths, found, sizes, "keypoints").stats.tolist()
    assert [scores.metrics().get(name, -1) for name in PEOPLE_FIGURES] == pytest.approx(stats, abs=1e-6)
    assert (scores.points, scores.skeleton) == (points, ((0, 1), (1, 2)))
    turned = contract_of("topdown.uniformer_small", points[::-1], sigmas=SIGMAS[::-1].tolist())
    mirrored = PoseMetric(turned, data, "names")
    assert any("6 of the data's 7 have another number there" in note for note in mirrored.notes)
    answer = lambda i: replace(poses_of(found, sizes, i), keypoints=poses_of(found, sizes, i).keypoints[:, ::-1])  # noqa: E731
    assert mirrored.result(rows_of(mirrored, range(24), answer), {}).metrics() == pytest.approx(scores.metrics())
    few = PoseMetric(contract_of("topdown.uniformer_small", points[2:5]), data, "names")
    left_out = "left out of the figures, as the checkpoint does not know them: point 0, point 1, point 5, point 6"
    assert left_out in few.notes
    assert few.sigmas == tuple(data.details["sigmas"][2:5])
    with refused("expected data with the checkpoint's 2 key points, got none for tail"):
        PoseMetric(contract_of("topdown.uniformer_small", ("point 1", "tail")), data, "names")


# ---- label maps ------------------------------------------------------------------------------------------------------


@pytest.fixture
def maps(tmp_path: Path) -> AnnotatedSet:
    """Four pictures of three classes, whose borders do not count."""
    for i in range(4):
        picture(tmp_path / f"images/val/{i}.jpg", i)
        label_map(tmp_path / f"labels/val/{i}.png", values_of(i))
    return open_annotated(tmp_path, split="val", task="segmentation", classes=["sky", "road", "tree"])


def said(labels: np.ndarray) -> Segmentation:
    height, width = labels.shape
    return Segmentation(height=height, width=width, labels=labels.astype(np.uint8), classes=())


def test_a_segmenter_is_scored_by_names(maps: AnnotatedSet) -> None:
    contract = contract_of("semantic_fpn.uniformer_xxs", ("tree", "wall", "sky", "road"), palette=[[9, 9, 9]] * 4)
    metric = SegmentationMetric(contract, maps, "names")
    place = np.full(256, 1, np.uint8)
    place[:3] = 2, 3, 0
    right = metric.result(rows_of(metric, range(4), lambda i: said(place[values_of(i)])), {})
    assert right.metrics() == {"items": 4.0, "failed": 0.0, "miou": 1.0, "macc": 1.0, "aacc": 1.0}
    assert right.known.tolist() == [True, False, True, True]
    trees = metric.result(rows_of(metric, range(4), lambda _: said(np.zeros((HEIGHT, WIDTH)))), {})
    share = np.mean([(values_of(i)[1:] == 2).mean() for i in range(4)])
    assert trees.metrics()["aacc"] == pytest.approx(share)
    assert trees.metrics()["miou"] == pytest.approx(share / 3)
    assert metric.summary(trees) == {name: trees.metrics()[name] for name in ("miou", "aacc", "macc")}
    numbers = SegmentationMetric(contract, maps, "numbers")
    assert numbers.result(rows_of(numbers, range(4), lambda i: said(values_of(i))), {}).metrics()["miou"] == 1


def test_a_segmenters_picture_without_answer_or_truth(maps: AnnotatedSet) -> None:
    contract = contract_of("semantic_fpn.uniformer_xxs", ("sky", "road", "tree"))
    metric = SegmentationMetric(contract, maps, "names")
    assert metric.notes == []
    Path(maps.root, maps.maps.paths[2]).write_bytes(b"no picture")  # type: ignore[union-attr]
    answers = rows_of(metric, (3, 0, 2), lambda i: said(values_of(i) if i else np.zeros((HEIGHT, WIDTH - 1))))
    scores = metric.result(answers, {1: "gone"})
    assert scores.ok.tolist() == [False, False, False, True]
    assert list(scores.errors) == [0, 1, 2]
    assert f"expected a label map of {WIDTH - 1}x{HEIGHT}, found one of {WIDTH}x{HEIGHT}" in scores.errors[0]
    assert scores.errors[1] == "gone"
    assert scores.metrics("skip")["miou"] == 1
    assert scores.metrics()["aacc"] == pytest.approx(0.5)  # the second's pixels are missed; the others have no truth

"""transformers' doors to instances and poses: the Predictor's masks and key points, files both ways, refusals."""

from __future__ import annotations

from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import uniformer
from tests.dense_nets import JOINTS, make_nets, save_dense
from tests.made_objects import KINDS
from tests.tiny import refused

transformers = pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

from transformers.models.detr.image_processing_detr import convert_segmentation_to_rle  # noqa: E402

import uniformer.transformers as ours  # noqa: E402

PEOPLE = [[[20, 10, 60.5, 90], [0, 0, 200, 150]], [[-30, 40, 80, 61.25]]]  #: of two pictures, x, y, width, height


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Photographs, upright and not, small enough for tests."""
    folder = tmp_path_factory.mktemp("pictures")
    with as_file(files("uniformer") / "assets" / "photos") as photos:
        for number, photo in enumerate(sorted(photos.glob("*.jpg"))):
            with Image.open(photo) as opened:
                opened.reduce(8).rotate(90 * number, expand=True).save(folder / f"{number}.png")
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("nets")
    detectors = {name: save_dense(root / name, name, KINDS) for name in ("mask_rcnn", "cascade_mask_rcnn")}
    uniformer.convert(make_nets(root)["pose"], root / "pose")  # a folder, with what transformers looks for
    return {**detectors, "pose": root / "pose"}


@torch.no_grad()
def seen(folder: Path, pictures: list[Any], kind: str = "InstanceSegmentation") -> tuple[Any, Any]:
    """The outputs for pictures of one size, and who makes answers of them."""
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return model(**processor(pictures)), processor


# ---- instances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn"])
def test_instances_are_those_of_the_predictor(name: str, nets: dict[str, Path], pictures: list[str]) -> None:
    usual = uniformer.Predictor(str(nets[name]), device="cpu")(pictures[0])
    plain = uniformer.Predictor(str(nets[name]), device="cpu", compute="plain")  # masks to the pixel
    for picture in pictures[:2]:
        expected = plain(picture)
        masks = np.array([expected.mask(i) for i in range(len(expected))])
        assert masks.any(axis=(1, 2)).sum() >= 3
        outputs, processor = seen(nets[name], [Image.open(picture)])
        process = partial(processor.post_process_instance_segmentation, outputs, threshold=0.05)
        (found,) = process(return_binary_maps=True)
        shown = np.flatnonzero(masks.any(axis=(1, 2)))  # the others have no pixel
        assert np.array_equal(found["segmentation"], masks[shown])
        assert [segment["id"] for segment in found["segments_info"]] == [*range(1, len(shown) + 1)]
        assert [segment["label_id"] for segment in found["segments_info"]] == expected.labels[shown].tolist()
        scores = [segment["score"] for segment in found["segments_info"]]
        np.testing.assert_allclose(scores, expected.scores[shown], atol=1e-5)
        if picture == pictures[0]:
            np.testing.assert_allclose(scores, usual.scores[shown], atol=1e-5)
        owner = np.full(masks.shape[1:], -1)
        for row in reversed(range(len(masks))):
            owner[masks[row]] = row  # the best lies on top
        there = np.unique(owner[owner >= 0])
        (found,) = process()
        segmentation = found["segmentation"].numpy()
        assert len(found["segments_info"]) == len(there)
        assert np.array_equal(segmentation == -1, owner == -1)
        assert np.array_equal(there[segmentation[segmentation > 0] - 1], owner[owner >= 0])


def test_the_pipeline_shows_the_instances(nets: dict[str, Path], pictures: list[str]) -> None:
    segment = transformers.pipeline("image-segmentation", model=str(nets["mask_rcnn"]), device="cpu")
    outputs, processor = seen(nets["mask_rcnn"], pictures[:1])
    (found,) = processor.post_process_instance_segmentation(outputs, threshold=0.05)
    answers = segment(pictures[0], threshold=0.05, overlap_mask_area_threshold=0.0)
    for answer, expected in zip(answers, found["segments_info"], strict=True):
        assert answer["label"] == KINDS[expected["label_id"]]
        assert answer["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert np.array_equal(np.array(answer["mask"]) > 0, found["segmentation"] == expected["id"])


def test_a_batch_has_the_answers_of_each(nets: dict[str, Path], pictures: list[str]) -> None:
    turned = Image.open(pictures[0]).transpose(Image.Transpose.ROTATE_180)
    outputs, processor = seen(nets["mask_rcnn"], [turned, pictures[0]])
    alone, _ = seen(nets["mask_rcnn"], pictures[:1])
    for key in ("boxes", "scores", "labels", "masks"):
        torch.testing.assert_close(outputs[key][1], alone[key][0], rtol=1e-4, atol=1e-4)  # sums in another order
    boxes = processor.post_process_object_detection(outputs, threshold=0.05)
    assert len(boxes) == 2
    halves = [(size[0] // 2, size[1] // 2) for size in outputs.pictures.tolist()]
    small = processor.post_process_object_detection(outputs, threshold=0.05, target_sizes=halves)
    for found, own, size, half in zip(small, boxes, outputs.pictures.tolist(), halves, strict=True):
        factors = torch.tensor([half[1] / size[1], half[0] / size[0]]).repeat(2)
        torch.testing.assert_close(found["boxes"], own["boxes"] * factors)
    with refused("expected a target size of each of 2 pictures, got 1"):
        processor.post_process_instance_segmentation(outputs, target_sizes=[(10, 10)])


def things(*boxes: tuple[float, ...], shares: float = 1.0) -> ours.UniFormerDetections:
    """In a picture of 10 x 20: the first box has the score 0.9, each further one 0.1 less."""
    return ours.UniFormerDetections(
        boxes=(torch.tensor(boxes),), scores=(0.9 - 0.1 * torch.arange(len(boxes)),),
        labels=(torch.arange(len(boxes)),), pictures=torch.tensor([[10, 20]]),
        masks=(torch.full((len(boxes), 28, 28), shares),),
    )  # fmt: skip


def test_masks_come_in_the_forms_of_other_models(nets: dict[str, Path]) -> None:
    process = transformers.AutoImageProcessor.from_pretrained(nets["mask_rcnn"]).post_process_instance_segmentation
    left, whole = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 20.0, 10.0)
    outputs = things(left, whole, left)  # the third one is hidden
    (found,) = process(outputs)
    expected = torch.ones(10, 20, dtype=torch.int32)
    expected[:, 10:] = 2
    assert torch.equal(found["segmentation"], expected)
    first = {"id": 1, "label_id": 0, "was_fused": False, "score": 0.9}
    assert found["segments_info"] == [first, {"id": 2, "label_id": 1, "was_fused": False, "score": 0.8}]
    (halved,) = process(outputs, overlap_mask_area_threshold=0.6)  # of the second a half is seen
    assert halved["segments_info"] == [first]
    assert torch.equal(halved["segmentation"], torch.where(expected == 1, 1, -1))
    (maps,) = process(outputs, return_binary_maps=True)
    assert maps["segmentation"].dtype == torch.bool
    assert maps["segmentation"].sum(dim=(1, 2)).tolist() == [100, 200, 100]
    (runs,) = process(outputs, return_coco_annotation=True)
    assert runs["segmentation"] == convert_segmentation_to_rle(expected)
    (large,) = process(outputs, target_sizes=torch.tensor([[30, 40]]))
    assert torch.equal(large["segmentation"], expected.repeat_interleave(3, 0).repeat_interleave(2, 1))
    for options in ({"threshold": 0.95}, {"mask_threshold": 1.1}):
        (none,) = process(outputs, **options)
        assert none["segments_info"] == []
        assert torch.equal(none["segmentation"], torch.full((10, 20), -1))
        assert process(outputs, return_binary_maps=True, **options)[0]["segmentation"].shape == (0, 10, 20)
    assert process(things(left, shares=0.4), mask_threshold=0.3)[0]["segments_info"] == [first]
    with refused("expected one of return_coco_annotation and return_binary_maps, got both"):
        process(outputs, return_coco_annotation=True, return_binary_maps=True)


def test_who_makes_no_masks_has_no_instances(nets: dict[str, Path], pictures: list[str], tmp_path: Path) -> None:
    boxes = save_dense(tmp_path / "boxes", "mask_rcnn", KINDS, masks=False)
    with refused("expected a network that makes masks, got one of boxes alone"):
        transformers.AutoModelForInstanceSegmentation.from_pretrained(boxes)
    outputs, processor = seen(nets["mask_rcnn"], pictures[:1], "ObjectDetection")
    with refused("expected outputs with masks, of UniFormerForInstanceSegmentation, got boxes alone"):
        processor.post_process_instance_segmentation(outputs)


def test_a_detector_computes_in_16_bits_by_autocast(nets: dict[str, Path], pictures: list[str]) -> None:
    model = transformers.AutoModelForInstanceSegmentation.from_pretrained(nets["mask_rcnn"], dtype=torch.bfloat16)
    inputs = transformers.AutoImageProcessor.from_pretrained(nets["mask_rcnn"])(pictures[0])
    with refused("expected pixel_values in float32, and torch.autocast for less, got torch.bfloat16"):
        model(**inputs.to(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        outputs, _ = seen(nets["mask_rcnn"], pictures[:1])
    assert len(outputs.boxes[0]) > 0
    assert all(torch.isfinite(outputs[key][0]).all() for key in ("boxes", "scores", "masks"))


# ---- poses -----------------------------------------------------------------------------------------------------------


def corners(people: list[list[float]]) -> np.ndarray:
    return np.array([[x, y, x + w, y + h] for x, y, w, h in people], np.float32)


@torch.no_grad()
def poses(folder: Path, pictures: list[str], people: Any, **options: Any) -> list[list[dict[str, torch.Tensor]]]:
    model = transformers.AutoModelForPoseEstimation.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    outputs = model(**processor(pictures, boxes=people), **options)
    return processor.post_process_pose_estimation(outputs, boxes=people)


@pytest.mark.parametrize("flip", [None, False])
def test_poses_are_those_of_the_predictor(flip: bool | None, nets: dict[str, Path], pictures: list[str]) -> None:
    found = poses(nets["pose"], pictures[:2], PEOPLE, flip=flip)
    assert [len(each) for each in found] == [2, 1]
    for picture, people, persons in zip(pictures, PEOPLE, found, strict=False):
        boxes = corners(people)
        for compute in ("plain", None):
            predictor = uniformer.Predictor(
                str(nets["pose"]), device="cpu", compute=compute, flip=flip, alike=1.0,
                people=lambda source, height, width, boxes=boxes: (boxes, np.ones(len(boxes))),
            )  # fmt: skip
            expected = predictor(picture)
            order = [boxes.tolist().index(box) for box in expected.boxes.tolist()]  # there the best comes first
            for row, number in enumerate(order):
                person = persons[number]
                np.testing.assert_allclose(person["keypoints"], expected.keypoints[row, :, :2], rtol=1e-5)
                np.testing.assert_allclose(person["scores"], expected.keypoints[row, :, 2], atol=1e-5)
                assert person["labels"].tolist() == [*range(len(JOINTS))]
                assert person["bbox"].tolist() == boxes[number].tolist()


def test_a_mirror_needs_its_pairs(nets: dict[str, Path], pictures: list[str], tmp_path: Path) -> None:
    bare = save_dense(tmp_path / "bare", "topdown", JOINTS)
    people = PEOPLE[:1]
    with refused("expected a contract with flip_pairs for flip=True, got one without .flip=False"):
        poses(bare, pictures[:1], people)
    (found,), (expected,) = (poses(net, pictures[:1], people, flip=False) for net in (bare, nets["pose"]))
    assert all(torch.equal(a["keypoints"], b["keypoints"]) for a, b in zip(found, expected, strict=True))


def test_people_may_be_none_and_points_be_chosen(nets: dict[str, Path], pictures: list[str]) -> None:
    model = transformers.AutoModelForPoseEstimation.from_pretrained(nets["pose"])
    assert [model.config.id2label[k] for k in range(len(JOINTS))] == [*JOINTS]
    processor = transformers.AutoImageProcessor.from_pretrained(nets["pose"])
    people = [[], np.array(PEOPLE[0])]
    outputs = model(**processor(pictures[:2], boxes=people))
    nobody, found = processor.post_process_pose_estimation(outputs, people)
    assert nobody == []
    assert len(found) == 2
    limit = float(found[0]["scores"].median())
    chosen = processor.post_process_pose_estimation(outputs, people, threshold=limit)[1][0]
    kept = found[0]["scores"] > limit
    assert 0 < int(kept.sum()) < len(JOINTS)
    assert all(torch.equal(chosen[key], found[0][key][kept]) for key in ("keypoints", "scores", "labels"))
    inputs = processor(pictures[0], boxes=[[]])
    assert inputs["pixel_values"].shape == (0, 3, 64, 64)
    assert processor.post_process_pose_estimation(model(**inputs), [[]]) == [[]]


def test_people_that_are_none_are_one_line(nets: dict[str, Path], pictures: list[str]) -> None:
    processor = transformers.AutoImageProcessor.from_pretrained(nets["pose"])
    for people, said in (
        (None, "expected boxes= of the people of each picture: x, y, width, height in pixels"),
        (PEOPLE, "expected boxes of the people of each of 1 picture, got those of 2"),
        ([PEOPLE[0][0]], "expected boxes .P, 4. of the people of a picture, got .20, 10, 60.5, 90."),
        ([[[1, 2, 3]]], "expected boxes .P, 4. of the people of a picture, got ..1, 2, 3.."),
        ([[[1, 2, 3, "4 px"]]], "expected boxes .P, 4. of the people of a picture"),
        ([[[1, 2, 0, 4]]], "expected a box x1 < x2, y1 < y2 in pixels"),
    ):
        with refused(said):
            processor(pictures[0], boxes=people)
    model = transformers.AutoModelForPoseEstimation.from_pretrained(nets["pose"])
    inputs = processor(pictures[:2], boxes=PEOPLE)
    with refused("expected the boxes that the 3 heat maps are of, got 2"):
        processor.post_process_pose_estimation(model(**inputs), boxes=PEOPLE[:1])
    with refused("expected no labels: dense networks learn by `uniformer train`"):
        model(**inputs, labels=torch.zeros(3))
    with refused("expected a network for pose of images, got a network for detection of images"):
        transformers.AutoModelForPoseEstimation.from_pretrained(nets["mask_rcnn"])


# ---- files both ways -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "kind"), [("mask_rcnn", "InstanceSegmentation"), ("pose", "PoseEstimation")])
def test_what_transformers_saved_is_ours(
    net: str, kind: str, nets: dict[str, Path], pictures: list[str], tmp_path: Path
) -> None:
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(nets[net])
    assert type(model) is getattr(ours, f"UniFormerFor{kind}")
    model.save_pretrained(tmp_path / "again")
    transformers.AutoImageProcessor.from_pretrained(nets[net]).save_pretrained(tmp_path / "again")
    assert uniformer.load_model(tmp_path / "again")[1] == uniformer.load_model(nets[net])[1]
    assert uniformer.verify(tmp_path / "again")[1] == []
    before, after = (
        uniformer.Predictor(str(path), device="cpu")(pictures[0]) for path in (nets[net], tmp_path / "again")
    )
    assert before.answer() == after.answer()
    assert len(before) > 0

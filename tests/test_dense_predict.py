"""Whole pictures through the one door: detectors, segmenters and pose networks with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.dense_nets import SMALL
from tests.memory import alone, at_most_more
from tests.tiny import refused
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import create_model
from uniformer.config import PersonCrop, Scaling
from uniformer.heads.segmentation import MOST_VALUES, Seen, pixel_classes
from uniformer.inference.predictor import Predictor
from uniformer.labels import load_details
from uniformer.network.variants import dense_input
from uniformer.reading.whole import load_whole
from uniformer.tasks.task import Failure

HEADS = ("mask_rcnn", "cascade_mask_rcnn", "semantic_fpn", "upernet", "topdown")
INPUTS: dict[str, Any] = {"detection": Scaling(160, 96), "segmentation": Scaling(160, 64, by="nothing"),
                          "pose": PersonCrop((64, 64))}  # fmt: skip


def network(head: str, classes: int | None = None) -> tuple[Any, Contract]:
    torch.manual_seed(0)
    options = {**SMALL} if classes is None else {**SMALL, "num_classes": classes}
    model = create_model(f"{head}.uniformer_nano", **options)
    names = tuple(f"thing {k}" for k in range(model.config.num_classes))
    details = load_details("COCO 2017 keypoints") if head == "topdown" else {}
    return model, Contract(model.config, "", INPUTS[model.config.task], names, details=details)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street 1.png")
    return tmp_path / "street 1.png"


@pytest.mark.parametrize("head", HEADS)
def test_a_folder_with_a_broken_picture(head: str, picture: Path) -> None:
    (picture.parent / "broken.png").write_bytes(b"no picture")
    predictor = Predictor(network(head), score=0.0, most=5) if "rcnn" in head else Predictor(network(head))
    first, second = predictor.run([str(picture.parent / "broken.png"), str(picture)])
    assert isinstance(first, Failure)
    assert (second.height, second.width, second.source) == (60, 100, str(picture))
    assert second.answer()


def test_masks_and_boxes_lie_on_the_picture(picture: Path) -> None:
    found = Predictor(network("mask_rcnn"), score=0.0, most=7)(picture)
    assert len(found) == 7
    assert found.masks is not None
    assert found.mask(0).shape == (60, 100)
    assert (found.boxes[:, :2] <= found.boxes[:, 2:]).all()
    assert (found.boxes[:, 2:] <= np.array([100.01, 60.01])).all()
    assert (np.diff(found.scores) <= 0).all()
    only = Predictor(network("mask_rcnn"), score=0.0, most=7, keep=("thing 3",), masks=False)(picture)
    assert set(only.labels.tolist()) == {3}
    assert only.masks is None


def test_masks_are_made_some_at_a_time(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"score": 0.0, "most": 7, "compute": "plain"}
    usual = Predictor(network("mask_rcnn"), **options)(picture)
    monkeypatch.setattr("uniformer.heads.detection.MASKS_AT_ONCE", 3)
    found = Predictor(network("mask_rcnn"), **options)(picture)
    assert usual.mask(6).any()
    assert all((found.mask(i) != usual.mask(i)).mean() < 0.01 for i in range(7))  # sums may come out in another order


def test_boxes_keep_their_places_in_16_bits(picture: Path) -> None:
    from torchvision.ops import box_iou

    options: dict[str, Any] = {"score": 0.0, "most": 10_000, "keep": ("thing 3",), "masks": False}
    usual = Predictor(network("mask_rcnn"), **options)(picture)
    found = Predictor(network("mask_rcnn"), precision="bfloat16", **options)(picture)
    nearest = box_iou(torch.from_numpy(found.boxes), torch.from_numpy(usual.boxes)).amax(1)
    assert float(nearest.median()) > 0.98  # anchors in 16 bits: 0.96; some have lost to a neighbour as good
    assert len(np.unique(found.scores)) > 0.9 * len(found)  # scores in 16 bits: ties


@pytest.mark.parametrize("head", HEADS)
def test_every_network_answers_in_16_bits(head: str, picture: Path) -> None:
    options: dict[str, Any] = {"score": 0.0, "most": 3} if "rcnn" in head else {}
    assert Predictor(network(head), precision="bfloat16", **options)(picture).answer()


def test_large_numbers_in_16_bits_are_no_failure(picture: Path) -> None:
    """Half precision ends at 65504, and sums over a map sooner than the map."""
    model, contract = network("mask_rcnn")
    for conv in model.neck.fpn_convs:
        torch.nn.init.constant_(conv.conv.bias, 10.0)
    options: dict[str, Any] = {"precision": "float16", "compute": "plain", "device": "cpu", "score": 0.0, "most": 3}
    assert len(Predictor((model, contract), **options)(picture)) == 3


@pytest.mark.parametrize("mode", ["whole", "slide", "multi-scale"])
def test_every_way_to_segment_gives_the_picture_s_size(mode: str, picture: Path) -> None:
    found = Predictor(network("semantic_fpn"), mode=mode, window_side=64, window_step=40, flip=True)(picture)
    assert found.labels.shape == (60, 100)
    assert found.labels.dtype == np.uint8


def test_bands_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    seen = [
        Seen(torch.randn(1, 5, 12, 20, generator=generator, dtype=torch.float64), (48, 80)),
        Seen(torch.randn(1, 5, 17, 9, generator=generator, dtype=torch.float64), (67, 36), mirrored=True),
    ]
    for some in (seen[:1], seen[1:], seen):
        whole = pixel_classes(some, (131, 77))
        monkeypatch.setattr("uniformer.heads.segmentation.MOST_VALUES", 5 * 77 * 10)
        assert torch.equal(pixel_classes(some, (131, 77)), whole)
        monkeypatch.setattr("uniformer.heads.segmentation.MOST_VALUES", MOST_VALUES)


def test_people_are_looked_at_where_they_are_said_to_be(picture: Path) -> None:
    boxes = np.array([[10, 5, 40, 55], [50, 10, 90, 50]], np.float32)
    options = {"people": lambda source, height, width: (boxes, np.array([0.9, 0.8])), "alike": 1.0}
    found = Predictor(network("topdown"), **options)(picture)
    assert found.keypoints.shape == (2, 17, 3)
    assert (found.boxes == boxes).all()
    whole = Predictor(network("topdown"))(picture)
    assert whole.boxes.tolist() == [[0, 0, 100, 60]]
    nobody = Predictor(network("topdown"), people=lambda *_: (np.zeros((0, 4), np.float32), np.zeros(0)))(picture)
    assert len(nobody) == 0


@pytest.mark.parametrize("size", [(10, 1000), (1000, 1)])
def test_a_picture_that_is_too_narrow_does_not_end_the_others(size: tuple[int, int], picture: Path) -> None:
    """Its short side is next to nothing where the long one fits: padding helps detectors, segmenters take none."""
    narrow = np.zeros((*size, 3), np.uint8)
    failed, found = Predictor(network("upernet")).run([narrow, str(picture)])
    assert isinstance(failed, Failure)
    assert "is too small: stage 2 would get a grid of " in failed.error
    assert found.labels.shape == (60, 100)
    assert Predictor(network("mask_rcnn"))(narrow).height == size[0]


def test_a_picture_that_asks_for_too_much_memory_does_not_end_the_others(tmp_path: Path) -> None:
    first, wide, last = alone(with_little_memory, tmp_path)
    assert isinstance(wide, Failure)
    assert wide.error.startswith(f"{tmp_path / 'wide.png'}: out of memory: ")
    assert (first.width, last.width) == (256, 256)


def with_little_memory(folder: Path) -> list[Any]:
    """What is said of three pictures, one of them wide."""
    torch.set_num_threads(1)
    model, contract = network("semantic_fpn")
    sources = [str(folder / name) for name in ("a.png", "wide.png", "b.png")]
    for source in sources:
        Image.new("RGB", (30000 if "wide" in source else 256, 256), "red").save(source)
    predictor = Predictor((model, replace(contract, input=Scaling(31000, 256, by="nothing"))))
    predictor(sources[0])
    with at_most_more(800):  # the others take 150, as what was freed is in pieces; the wide one over 1,000
        return list(predictor.run(sources))


@pytest.mark.parametrize("alike", [0.9, 1.0])
def test_people_come_the_best_first(alike: float, picture: Path) -> None:
    model, contract = network("topdown")
    torch.nn.init.constant_(model.keypoint_head.final_layer.bias, 1.0)  # all key points are seen
    boxes = np.array([[0, 0, 20, 20], [30, 0, 50, 20], [60, 10, 90, 50]], np.float32)
    people = Predictor((model, contract), people=lambda *_: (boxes, np.array([0.5, 0.9, 0.7])), alike=alike)(picture)
    assert people.boxes.tolist() == boxes[[1, 2, 0]].tolist()


@pytest.mark.parametrize("head", HEADS)
def test_numbers_that_are_not_finite_are_a_failure(head: str, picture: Path) -> None:
    model, contract = network(head)
    torch.nn.init.constant_(model.backbone.stages[3].norm.bias, float("nan"))
    with refused("expected finite numbers of the network, got NaN or infinity"):
        Predictor((model, contract))(picture)


def test_options_are_those_of_the_task(picture: Path) -> None:
    for head, options, said in (
        ("upernet", {"score": 0.5}, "unknown option 'score' of segmentation"),
        ("mask_rcnn", {"score": 1.5}, "expected a score in .0, 1., got 1.5"),
        ("mask_rcnn", {"keep": ("thing three",)}, "expected classes of the checkpoint, got 'thing three'"),
        ("upernet", {"keep": ("thing three",)}, "expected classes of the checkpoint, got 'thing three'"),
        ("mask_rcnn", {"scores": 0.5}, "unknown option 'scores' of a checkpoint"),
        ("topdown", {"clips": 2}, "expected no clips and crops for pose: pictures are seen whole"),
        ("upernet", {"mode": "tiles"}, "expected mode whole, slide, multi-scale, got 'tiles'"),
    ):
        with refused(said):
            Predictor(network(head), **options)
    model, contract = network("topdown")
    with refused("expected a contract with flip_pairs for flip=True"):
        Predictor((model, Contract(contract.config, input=contract.input)))(picture)
    bare = Predictor((model, Contract(contract.config, input=contract.input)), flip=False)(picture)
    assert type(bare).__name__ == "Poses"  # who asks for no mirror needs no pairs


@pytest.mark.parametrize(
    ("head", "details", "said"),
    [
        ("upernet", {"palette": 3}, "expected palette as lists of 3 whole numbers from 0 to 255, got 3"),
        ("upernet", {"palette": [[0, 0, 256]]}, "expected palette as lists of 3 .* got ..0, 0, 256.."),
        ("topdown", {"skeleton": [[0, 99]]}, "expected skeleton as lists of 2 whole numbers from 0 to"),
        ("topdown", {"flip_pairs": [["a", "b"]]}, "expected flip_pairs as lists of 2"),
        ("topdown", {"sigmas": ["wide"]}, "expected sigmas as [0-9]+ positive numbers, got ..wide.."),
    ],
)
def test_details_that_make_no_sense_are_refused_with_the_file(head: str, details: dict, said: str) -> None:
    contract = network(head)[1]
    text = json.loads(contract.to_json())
    text["details"] = details
    with refused(f"mine.safetensors: {said}"):
        Contract.from_json(json.dumps(text), "mine.safetensors")


def test_what_needs_a_classifier_says_what_the_network_is_for() -> None:
    with refused("expected a classifier, got semantic_fpn.uniformer_nano for segmentation"):
        Contract(
            replace(network("upernet")[1].config, head="semantic_fpn"), id="semantic_fpn.uniformer_nano"
        ).input_of_classifier()


def test_a_contract_carries_thresholds(picture: Path) -> None:
    model, contract = network("mask_rcnn")
    told = replace(contract, details={"thresholds": {"score": 0.0, "most": 3}})
    assert len(Predictor((model, told))(picture)) == 3
    assert len(Predictor((model, told), most=2)(picture)) == 2
    with refused("unknown option 'scores' of detection .did you mean 'score'"):
        Predictor((model, replace(contract, details={"thresholds": {"scores": 0.0}})))


def test_the_published_input_of_each_head() -> None:
    for head in HEADS:
        model, _ = network(head)
        assert isinstance(dense_input(model.config), type(INPUTS[model.config.task]))
    views = load_whole(np.zeros((480, 640, 3), np.uint8), Scaling())
    assert views.array.shape == (1, 3, 800, 1088)
    assert views.size == (800, 1067)

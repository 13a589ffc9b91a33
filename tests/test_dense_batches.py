"""Samples and batches that detectors, segmenters and pose networks learn from, of made data sets on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import TINY, refused
from uniformer.config import PersonCrop, Scaling
from uniformer.datasets.annotated import AnnotatedSet, open_annotated
from uniformer.heads import build_network
from uniformer.heads.detection import Detector
from uniformer.reading.dense_options import Colour, DetectionAugment, PoseAugment, SegmentationAugment
from uniformer.reading.people import clipped_boxes, cut_people
from uniformer.reading.scaling import scale_picture
from uniformer.tasks.detection_losses import MASK_RCNN, detection_losses
from uniformer.tasks.keypoints import STRIDE
from uniformer.training.batches import Members, Place, Plan, batches, epoch_draws
from uniformer.training.dense_batches import (
    DenseBatch,
    DenseSamples,
    DetectionSamples,
    PoseSamples,
    SegmentationSamples,
    dense_samples,
)

SCALING = Scaling(longest=160, shortest=96)
DETECTION = DetectionAugment(sides=(64, 96), longest=160, crop_prob=0.5, crop_sides=(80,), crop=(60, 90))
SEGMENTATION = SegmentationAugment(longest=240, shortest=90, crop=(96, 64), colour=Colour())
POSE = PoseAugment(half_body_above=3, upper_body=("left_hand", "right_hand", "head"), shift_prob=0)
PERSON = PersonCrop(size=(128, 96))
KEYPOINTS = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]
RED = (255, 0, 0)


def places(count: int, epoch: int = 0) -> list[Place]:
    return [Place(epoch, row, row) for row in range(count)]


def polygon(x1: int, y1: int, x2: int, y2: int) -> list[list[int]]:
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def write_coco(folder: Path, pictures: Iterable[tuple[int, int, list[dict[str, Any]]]], **category: Any) -> Path:
    """Height, width and annotations of pictures, whose boxes (x1, y1, x2, y2) are painted red on grey."""
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for number, (height, width, found) in enumerate(pictures):
        pixels = np.full((height, width, 3), 100 + number, np.uint8)
        for entry in found:
            x1, y1, x2, y2 = entry.pop("corners")
            pixels[y1:y2, x1:x2] = RED
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "category_id": 1}
            annotations.append({"id": len(annotations) + 1, "image_id": number, **box, **entry})
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
    categories = [{"id": number, "name": name, **category} for number, name in ((1, "thing"), (2, "other"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json"


def things(folder: Path, *, masks: bool = True) -> AnnotatedSet:
    """Two pictures with things, one with a crowd alone, an empty one, and one that is too small."""

    def thing(*corners: int, **more: Any) -> dict[str, Any]:
        return {"corners": corners, **({"segmentation": polygon(*corners)} if masks else {}), **more}

    runs = {"size": [80, 120], "counts": [0, 80 * 20, 80 * 100]}
    crowd = thing(0, 0, 20, 80, iscrowd=1, **({"segmentation": runs} if masks else {}))
    pictures = [
        (100, 140, [thing(70, 70, 71, 71, area=0), thing(20, 30, 60, 90), thing(90, 10, 130, 50, category_id=2)]),
        (150, 90, [thing(10, 20, 70, 120)]),
        (80, 120, [crowd]),
        (80, 120, []),
        (20, 120, [thing(1, 1, 9, 9)]),
    ]
    return open_annotated(write_coco(folder, pictures), task="detection")


def box_around(shown: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def red_in(image: torch.Tensor) -> np.ndarray:
    """Where a normalised picture (3, H, W) is rather red than grey."""
    pixels = image.permute(1, 2, 0).numpy() * np.array(SCALING.std) + np.array(SCALING.mean)
    return np.abs(pixels - RED).sum(2) < np.abs(pixels - 101).sum(2)


def equal(a: DenseBatch, b: DenseBatch) -> bool:
    def parts(batch: DenseBatch) -> list[torch.Tensor | None]:
        truths = [part for truth in batch.truths or () for part in truth]
        return [batch.x, batch.label_maps, batch.heat_maps, batch.weights, *truths]

    same = [x is y if x is None or y is None else torch.equal(x, y) for x, y in zip(parts(a), parts(b), strict=True)]
    return all(same) and a.sizes == b.sizes and a.unreadable == b.unreadable


# ---- detection -------------------------------------------------------------------------------------------------------


def test_which_pictures_and_things_are_learnt(tmp_path: Path) -> None:
    data = things(tmp_path / "set")
    samples = DetectionSamples(data, SCALING, DETECTION)
    assert [Path(samples.path(row)).name for row in range(len(samples))] == ["0.png", "1.png", "2.png"]
    every = DetectionSamples(data, SCALING, replace(DETECTION, keep_empty=True, smallest=1))
    assert len(every) == 5
    still = replace(DETECTION, flip=0, crop_prob=0, sides=(100,))
    truths = DetectionSamples(data, SCALING, still).batch(places(3)).truths or []
    assert [len(truth.boxes) for truth in truths] == [2, 1, 0]  # neither what has no area, nor a crowd
    assert truths[0].boxes.tolist() == [[20, 30, 60, 90], [90, 10, 130, 50]]
    assert truths[0].labels.tolist() == [0, 1]
    assert truths[0].masks is not None
    for box, mask in zip(truths[0].boxes.numpy(), truths[0].masks.numpy(), strict=True):
        assert np.array_equal(box_around(mask), box)
    assert truths[2].masks is not None
    assert truths[2].masks.shape == (0, 160, 160)


def test_boxes_and_masks_lie_on_what_they_are_of(tmp_path: Path) -> None:
    samples = DetectionSamples(things(tmp_path / "set"), SCALING, DETECTION, seed=4)
    seen = 0
    for epoch in range(12):
        batch = samples.batch(places(2, epoch))
        assert batch.x.shape[2] % 32 == batch.x.shape[3] % 32 == 0
        for image, (height, width), truth in zip(batch.x, batch.sizes, batch.truths or (), strict=True):
            assert not image[:, height:].any()
            assert not image[:, :, width:].any()
            assert truth.masks is not None
            assert truth.masks.shape == (len(truth.boxes), *batch.x.shape[2:])
            assert len(truth.labels) == len(truth.boxes)
            red = red_in(image)
            for box, mask in zip(truth.boxes.numpy(), truth.masks.numpy(), strict=True):
                if (box[2:] - box[:2]).min() >= 10:
                    # A mask is scaled to the nearest pixel twice, before a crop and by up to 1.6 after it.
                    assert np.abs(box_around(mask) - box).max() < 1 + 1.6
                    assert red[mask].mean() > 0.9
                    seen += 1
    assert seen > 20


def test_pictures_are_fed_as_in_prediction(tmp_path: Path) -> None:
    """Where nothing is drawn, to the bit."""
    data = things(tmp_path / "set")
    still = DetectionAugment(flip=0, sides=(96,), longest=160)
    for row in range(2):
        batch = DetectionSamples(data, SCALING, still).batch([Place(0, 0, row)])
        scaled = scale_picture(np.asarray(Image.open(data.path(row))), SCALING)
        assert np.array_equal(batch.x[0].numpy(), scaled.array)
        assert batch.sizes == [scaled.size]


def test_batches_keep_to_their_pixels(tmp_path: Path) -> None:
    """All pictures of one that is too large are made smaller alike, with what is in them. Masks a second time."""
    data = things(tmp_path / "set")
    still = DetectionAugment(flip=0, sides=(96,), longest=160)
    whole = DetectionSamples(data, SCALING, still).batch(places(2))
    assert whole.x.shape == (2, 3, 160, 160)
    capped = DetectionSamples(data, SCALING, replace(still, most_pixels=2 * 128 * 128)).batch(places(2))
    assert capped.x.shape == (2, 3, 128, 128)
    assert [round(128 / 160 * side) - side for size in whole.sizes for side in size] != [0] * 4
    for big, small in zip(whole.sizes, capped.sizes, strict=True):
        assert small == tuple(int(side * 0.8) for side in big)
    for image, truth in zip(capped.x, capped.truths or (), strict=True):
        assert truth.masks is not None
        for box, mask in zip(truth.boxes.numpy(), truth.masks.numpy(), strict=True):
            assert np.abs(box_around(mask) - box).max() < 2
            assert red_in(image)[mask].mean() > 0.9
    tiny = DetectionSamples(data, SCALING, replace(still, most_pixels=1024)).batch(places(2))
    assert tiny.x.shape == (2, 3, 32, 32)  # no less
    small = replace(still, sides=(12,), longest=20, most_pixels=1024)
    assert max(max(size) for size in DetectionSamples(data, SCALING, small).batch(places(2)).sizes) == 20  # nor more


def test_a_missing_package_is_no_broken_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor would any other picture do without it: nothing stands in."""
    samples = DetectionSamples(things(tmp_path / "set"), SCALING, DETECTION)
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    with refused(r"needs the package 'faster-coco-eval': pip install 'uniformer\[dense\]'"):
        samples.batch(places(1))


@pytest.mark.parametrize("masks", [True, False])
def test_a_detector_learns_from_them(tmp_path: Path, masks: bool) -> None:
    """Of a set without masks all but the masks."""
    torch.manual_seed(0)
    network = build_network(replace(TINY, head="mask_rcnn", head_width=32, output="normed_maps", num_classes=2))
    assert isinstance(network, Detector)
    batch = DetectionSamples(things(tmp_path / "set", masks=masks), SCALING, DETECTION).batch(places(3))
    assert batch.truths is not None
    losses = detection_losses(network, batch.x, batch.sizes, batch.truths, MASK_RCNN)
    assert ("loss_mask" in losses) == masks
    assert all(torch.isfinite(loss) for loss in losses.values())


# ---- segmentation ----------------------------------------------------------------------------------------------------


def write_maps(folder: Path, sizes: Iterable[tuple[int, int]]) -> AnnotatedSet:
    """Pictures in blocks of 20 pixels, whose grey is 50 times the label."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number, (height, width) in enumerate(sizes):
        labels = np.random.default_rng(number).integers(0, 4, (height // 20, width // 20)).astype(np.uint8)
        labels = labels.repeat(20, 0).repeat(20, 1)
        Image.fromarray(np.repeat(labels[..., None] * np.uint8(50), 3, 2)).save(folder / "images" / f"{number}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")
    return open_annotated(folder, task="segmentation", classes=["a", "b", "c", "d"])


def test_maps_of_labels_lie_on_their_pictures(tmp_path: Path) -> None:
    samples = SegmentationSamples(
        write_maps(tmp_path / "set", [(100, 200), (160, 60), (60, 60)]), SCALING, SEGMENTATION
    )
    padded = 0
    for epoch in range(8):
        batch = samples.batch(places(3, epoch))
        assert batch.label_maps is not None
        assert batch.x.shape == (3, 3, 96, 64)
        assert batch.label_maps.shape == (3, 96, 64)
        assert batch.label_maps.dtype == torch.int64
        for image, labels, (height, width) in zip(batch.x, batch.label_maps, batch.sizes, strict=True):
            inside = torch.zeros(96, 64, dtype=torch.bool)
            inside[:height, :width] = True
            assert (labels[~inside] == 255).all()
            assert not image[:, ~inside].any()
            assert (labels[inside] < 4).all()
            grey = (image[0] * SCALING.std[0] + SCALING.mean[0]) / 50
            assert ((grey - labels).abs()[inside] < 0.1).float().mean() > 0.7  # all but blurred edges
            padded += int((~inside).any())
    assert padded > 4


def test_a_map_that_cannot_be_used_has_another_stand_in(tmp_path: Path) -> None:
    data = write_maps(tmp_path / "set", [(100, 100), (100, 100), (100, 100)])
    Image.fromarray(np.full((100, 100), 9, np.uint8)).save(tmp_path / "set" / "labels" / "1.png")
    batch = SegmentationSamples(data, SCALING, SEGMENTATION).batch(places(3))
    assert batch.stood_in == 1
    ((path, why),) = set(batch.unreadable)
    assert Path(path).name == "1.png"
    assert "expected values of the 4 classes" in why


# ---- pose ------------------------------------------------------------------------------------------------------------


def people(folder: Path, **details: Any) -> AnnotatedSet:
    """Two people in one picture, the second without key points that were labelled, and one in another."""

    def person(x: int, y: int, *, is_labelled: bool = True) -> dict[str, Any]:
        points = [(30, 10), (50, 40), (10, 40), (50, 110), (10, 110)]
        labelled = [(x + dx, y + dy, 2) if is_labelled else (0, 0, 0) for dx, dy in points]
        return {"corners": (x, y, x + 60, y + 120), "keypoints": [n for point in labelled for n in point]}

    pictures = [(160, 220, [person(20, 20), person(140, 20, is_labelled=False)]), (170, 120, [person(30, 30)])]
    named = {"keypoints": KEYPOINTS, "skeleton": [[1, 2], [1, 3]], **details}
    data = open_annotated(write_coco(folder, pictures, **named), task="pose")
    return replace(data, details={**data.details, "flip_pairs": ((1, 2), (3, 4))})


def test_people_and_their_heat_maps(tmp_path: Path) -> None:
    samples = PoseSamples(people(tmp_path / "set"), PERSON, POSE)
    assert samples.people.tolist() == [[0, 0], [1, 0]]
    batch = samples.batch(places(2))
    assert batch.x.shape == (2, 3, 128, 96)
    assert batch.heat_maps is not None
    assert batch.weights is not None
    assert batch.heat_maps.shape == (2, 5, 32, 24)
    assert batch.sizes == [(128, 96)] * 2
    still = PoseAugment(flip=0, half_body=0, scale=0, rotation_prob=0, shift_prob=0)
    batch = PoseSamples(samples.data, PERSON, still).batch(places(2))
    assert batch.heat_maps is not None
    cells = [divmod(int(map_.argmax()), 24) for map_ in batch.heat_maps[0]]
    for (row, column), (dx, dy) in zip(cells, [(30, 10), (50, 40), (10, 40), (50, 110), (10, 110)], strict=True):
        x, y = ((d - side / 2) * 96 / (119 * 0.75 * 1.25) + middle for d, side, middle in ((dx, 59, 48), (dy, 119, 64)))
        assert abs(column - x / STRIDE) <= 0.51
        assert abs(row - y / STRIDE) <= 0.51
    pixels = np.asarray(Image.open(samples.data.path(0)))
    boxes = clipped_boxes(samples.data.annotations(0).boxes[:1], 160, 220)
    assert np.array_equal(batch.x[:1].numpy(), cut_people(pixels, boxes, PERSON).array)  # as in prediction, to the bit


def test_key_points_of_which_no_one_says_what_mirrors_them(tmp_path: Path) -> None:
    data = people(tmp_path / "set")
    with refused("expected pairs of key points that change places in a mirrored picture, such as 'left_"):
        PoseSamples(replace(data, details={}), PERSON, POSE)
    PoseSamples(replace(data, details={}), PERSON, replace(POSE, flip=0))
    with refused("expected augment.upper_body to name key points of the upper half, found none of them among head"):
        PoseSamples(data, PERSON, replace(POSE, upper_body=("beak",)))


# ---- all -------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["detection", "segmentation", "pose"])
def samples(request: pytest.FixtureRequest, tmp_path: Path) -> DenseSamples[Any]:
    if request.param == "detection":
        return dense_samples(things(tmp_path / "set"), SCALING, DETECTION, seed=1)
    if request.param == "segmentation":
        return dense_samples(write_maps(tmp_path / "set", [(100, 120)] * 3), SCALING, SEGMENTATION, seed=1)
    return dense_samples(people(tmp_path / "set"), PERSON, POSE, seed=1)


def test_batches_follow_from_seed_and_place(samples: DenseSamples[Any]) -> None:
    """Whatever the number of processes, and where a run goes on; other seeds and epochs draw otherwise."""
    plan = Plan(len(samples), 2, epochs=3, seed=1)
    alone = list(batches(samples, plan))
    assert len(alone) == 3
    assert all(map(equal, alone, batches(samples, plan, workers=2)))
    assert all(map(equal, alone[1:], batches(samples, plan, start=1)))
    first, second = (samples.batch([Place(epoch, 0, 0)]) for epoch in (0, 1))
    assert not equal(first, second)
    samples.seed = 2
    assert not equal(first, samples.batch([Place(0, 0, 0)]))


def test_classes_are_drawn_equally_often(tmp_path: Path) -> None:
    """`data.balanced`: a picture counts for each class in it, as often as that takes; one of no class is not drawn."""
    boxes = {"thing": (5, 5, 40, 40), "other": (50, 20, 90, 60)}
    kinds = [("thing",)] * 9 + [("thing", "other"), ()]
    pictures = [
        (80, 120, [{"corners": boxes[kind], "category_id": 1 + (kind == "other")} for kind in found]) for found in kinds
    ]
    data = open_annotated(write_coco(tmp_path / "set", pictures))
    members = dense_samples(data, SCALING, replace(DETECTION, keep_empty=True)).members()
    assert list(zip(*map(np.ndarray.tolist, members), strict=True)) == [*((row, 0) for row in range(10)), (9, 1)]
    many = replace(data, instances=replace(data.instances, labels=data.labels + 255))  # which is a class like others
    assert np.array_equal(DetectionSamples(many, SCALING, DETECTION).members().labels, members.labels + 255)
    drawn = np.bincount(epoch_draws(11, 0, 0, members=members).rows, minlength=11)
    assert drawn[9] >= 5
    assert drawn[10] == 0
    assert drawn.sum() == 11

    maps = write_maps(tmp_path / "maps", [(100, 120)] * 3)
    wanted = [(row, int(k)) for row in range(3) for k in np.unique(maps.label_map(row)) if k != 255]
    Path(maps.root, maps.maps.paths[1]).write_bytes(b"no PNG")
    found = dense_samples(maps, SCALING, SEGMENTATION).members()
    assert list(zip(*map(np.ndarray.tolist, found), strict=True)) == [pair for pair in wanted if pair[0] != 1]
    with refused("data.balanced needs classes"):
        dense_samples(people(tmp_path / "people"), PERSON, POSE).members()


def test_a_crop_shows_the_class_that_it_is_drawn_for(tmp_path: Path) -> None:
    """Else a rare thing is mostly cropped away, however often its pictures are drawn."""
    maps = write_maps(tmp_path / "maps", [(100, 120)] * 3)
    rare = np.zeros((100, 120), np.uint8)
    rare[-3:, -2:] = 1
    Image.fromarray(rare).save(Path(maps.root, maps.maps.paths[0]))
    samples = dense_samples(maps, SCALING, replace(SEGMENTATION, crop=(32, 32), most_of_one=1.0))
    plan = Plan(3, 1, 40, balanced=Members(np.array([0, 1, 2]), np.array([1, 0, 2])))
    places = [place for (place,) in plan.places(0) if place.row == 0]
    assert [place.label for place in places] == [1] * 40
    assert all((samples[place].labels == 1).any() for place in places)
    assert not all((samples[place._replace(label=None)].labels == 1).any() for place in places)
    assert samples[places[0]._replace(label=7)].labels.shape == (32, 32)  # which there is none of


def test_classes_need_a_sample_that_has_one() -> None:
    none = np.zeros(0, np.int64)
    with refused("data.balanced needs classes, found no sample that has one"):
        Plan(3, 1, 1, balanced=Members(none, none))


def test_a_broken_picture_has_another_stand_in(samples: DenseSamples[Any]) -> None:
    broken = Path(samples.path(0))
    broken.write_bytes(broken.read_bytes()[:60])
    batch = samples.batch([Place(0, 0, 0), Place(0, 1, 1)])
    assert batch.stood_in == 1
    assert {path for path, _ in batch.unreadable} == {str(broken)}
    for row in range(len(samples)):
        Path(samples.path(row)).write_bytes(b"no picture")
    with refused("expected readable files, found 20 unreadable ones in a row"):
        samples.batch([Place(0, 0, 0)])


def test_a_picture_of_another_size_than_annotated(samples: DenseSamples[Any]) -> None:
    path = Path(samples.path(0))
    Image.new("RGB", (64, 64)).save(path)
    batch = samples.batch([Place(0, 0, 0)])
    assert batch.stood_in == 1
    assert "found 64x64" in batch.unreadable[0][1]


def test_batches_move_whole(samples: DenseSamples[Any]) -> None:
    batch = samples.batch(places(2)).moved(lambda part: part.to("meta"))
    truths = [part for truth in batch.truths or () for part in truth]
    parts = [batch.x, batch.label_maps, batch.heat_maps, batch.weights, *truths]
    assert {part.device.type for part in parts if part is not None} == {"meta"}


def test_data_input_and_augmentation_are_of_one_task(tmp_path: Path) -> None:
    data = things(tmp_path / "set")
    with refused("expected data for segmentation, got a data set for detection"):
        dense_samples(data, SCALING, SEGMENTATION)
    with refused("expected augment and input of one task, got PoseAugment and Scaling"):
        dense_samples(data, SCALING, POSE)
    with refused("expected pictures with annotated objects, found none in 1 picture"):
        DetectionSamples(data.select([3]), SCALING, DETECTION)


def test_a_picture_that_is_read_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A very large one comes at a fraction of its size; what is in it follows."""
    data = things(tmp_path / "set")
    monkeypatch.setattr("uniformer.reading.pictures.MAX_PIXELS", 6000)  # that 100 x 140 pixels are too many for
    still = replace(DETECTION, flip=0, crop_prob=0, sides=(100,))
    batch = DetectionSamples(data, SCALING, still).batch(places(1))
    assert batch.truths is not None
    (truth,) = batch.truths
    assert np.abs(truth.boxes.numpy() - [[20, 30, 60, 90], [90, 10, 130, 50]]).max() < 1e-3
    assert truth.masks is not None
    assert np.abs(box_around(truth.masks[0].numpy()) - truth.boxes[0].numpy()).max() <= 1
    assert red_in(batch.x[0])[truth.masks[0].numpy()].mean() > 0.9


def test_a_person_in_a_picture_that_is_read_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The crop is the same but for what was lost, and the heat maps are."""
    samples = PoseSamples(people(tmp_path / "set"), PERSON, POSE, seed=2)
    whole = samples.batch(places(2))
    monkeypatch.setattr("uniformer.reading.pictures.MAX_PIXELS", 12000)  # a half of each side is left
    smaller = samples.batch(places(2))
    assert not torch.equal(whole.x, smaller.x)
    assert float((whole.x - smaller.x).abs().mean()) < 0.1
    assert whole.heat_maps is not None
    assert smaller.heat_maps is not None
    assert torch.equal(whole.heat_maps, smaller.heat_maps)

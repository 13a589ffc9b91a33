"""Worked numbers of the official detectors and pose networks, without a network: boxes, assignment, suppression, masks,
key points, and pictures scaled as OpenCV scales them."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from tests.golden import FOLDER, normals, read_golden
from tests.tiny import refused
from uniformer import create_model
from uniformer.config import Config, Scaling, to_dict
from uniformer.heads import boxes
from uniformer.heads.detection import Limits, _best_detections, paste_masks, region_levels
from uniformer.reading.people import crop_matrix, from_heat_map, moved, region_of
from uniformer.reading.scaling import box_factors, resize_pixels, scale_picture, scaled_size
from uniformer.tasks.detection_losses import CASCADE, MASK_RCNN, Truth, _box_distance, _usable, detection_losses
from uniformer.tasks.keypoints import STRIDE, decode_heat_maps, heat_map_targets, rescore, without_doubles

UNITS = read_golden("dense-units.json.gz")
ARRAYS = np.load(FOLDER / "dense-units.npz")
BOXES = UNITS["boxes"]
STDS = {"1.0": (1, 1, 1, 1), "0.1": (0.1, 0.1, 0.2, 0.2)}
MATCHINGS = {
    "rpn": MASK_RCNN.rpn,
    "boxes_mask_rcnn": MASK_RCNN.stages[0],
    **{f"cascade_{number}": matching for number, matching in enumerate(CASCADE.stages, start=1)},
}
SCALINGS = {
    "pre_det": Scaling(),
    "pre_upernet": Scaling(2048, 512, by="nothing"),
    "pre_semantic_fpn": Scaling(2048, 512, by="resizing"),
}


def close(found: Tensor, wanted: Any, off: float = 1e-6) -> bool:
    wanted = torch.tensor(wanted, dtype=found.dtype)
    return found.shape == wanted.shape and bool(((found - wanted).abs() <= off * wanted.abs().clamp(min=1)).all())


@pytest.mark.parametrize("stds", BOXES["decode"]["results"])
def test_boxes_are_decoded(stds: str) -> None:
    """Also by deltas far beyond what a box may grow."""
    given, wanted = BOXES["decode"], BOXES["decode"]["results"][stds]
    corners, deltas = torch.tensor(given["boxes"]), torch.tensor(given["deltas"])
    assert close(boxes.decode(corners, deltas, wanted["stds"], given["image_hw"]), wanted["clipped"])
    assert close(boxes.decode(corners, deltas, wanted["stds"]), wanted["not_clipped"])


@pytest.mark.parametrize("stds", BOXES["encode"]["results"])
def test_boxes_are_encoded(stds: str) -> None:
    given = BOXES["encode"]
    found = boxes.encode(torch.tensor(given["boxes"]), torch.tensor(given["truths"]), STDS[stds])
    assert close(found, given["results"][stds])


def test_losses_of_boxes() -> None:
    given = BOXES["losses"]
    found, wanted = torch.tensor(given["predicted"]), torch.tensor(given["truths"])
    assert close(1 - boxes.generalised_overlaps(found, wanted), given["giou_loss_each"], 1e-5)
    deltas = torch.tensor(BOXES["decode"]["deltas"])
    for delta, wanted_loss in zip(
        deltas.flatten(), torch.tensor(given["smooth_l1_beta_1_9_each"]).flatten(), strict=True
    ):
        assert close(_box_distance(delta, torch.zeros(()), 1 / 9), float(wanted_loss))


@pytest.mark.parametrize("name", MATCHINGS)
def test_boxes_belong_to_truths(name: str) -> None:
    """The reference counts truths from 1, 0 is background and -1 ignored; here they are counted from 0."""
    given, matching = BOXES["assign"], MATCHINGS[name]
    ours = {-1: -2, 0: -1, 1: 0, 2: 1, 3: 2}
    options = {"positive": matching.positive, "negative": matching.negative, "least": matching.least}
    corners = torch.tensor(given["boxes"])
    found = boxes.assign(corners, torch.tensor(given["truths"]), **options)
    assert found.tolist() == [ours[number] for number in given["results"][name]["assigned"]]
    best = boxes.overlaps(torch.tensor(given["truths"]), corners).max(0).values
    assert close(best, given["results"][name]["best_iou"])
    alone = boxes.assign(corners, torch.zeros(0, 4), **options)
    assert alone.tolist() == [ours[number] for number in given["results"][name]["without_truths"]]


def test_detections_are_the_best_of_each_class() -> None:
    """An overlap of exactly one half is none too many, and a score of exactly 0.05 is not above it."""
    given = BOXES["class_wise_nms"]
    shares = torch.tensor(given["scores_background_last"])
    each = torch.tensor(given["boxes"])[:, None].expand(-1, shares.shape[1] - 1, -1)
    found = _best_detections(
        each, shares, Limits(score=given["score_threshold"], overlap=given["iou"], detections=given["kept"])
    )
    assert len(found.boxes) == given["kept"] == len(given["result_labels"])
    assert close(torch.cat([found.boxes, found.scores[:, None]], dim=1), given["result_boxes_scores"])
    assert found.labels.tolist() == given["result_labels"]


def test_levels_and_anchors() -> None:
    assert region_levels(torch.tensor(BOXES["levels"]["rois"])).tolist() == BOXES["levels"]["levels"]
    given = BOXES["anchors"]
    for stride, wanted in zip(boxes.STRIDES, given["per_level"], strict=False):
        assert boxes.level_anchors(given["map_hw"], stride).tolist() == wanted
    given = BOXES["valid_anchors"]
    outputs = [(torch.zeros(1, 3, *grid), torch.zeros(1, 12, *grid)) for grid in given["maps_hw"]]
    pairs = zip(given["maps_hw"], boxes.STRIDES, strict=True)
    anchors = torch.cat([boxes.level_anchors(grid, stride) for grid, stride in pairs])
    usable = _usable(outputs, anchors, given["padded_hw"], inside_only=False)
    ends = np.cumsum([0, *(3 * height * width for height, width in given["maps_hw"])])
    counts = [int(((usable >= first) & (usable < end)).sum()) for first, end in itertools.pairwise(ends)]
    assert counts == given["counts"]


@pytest.mark.parametrize("most", [5, 300, 5000])
def test_suppression_tries_no_more_than_it_needs(most: int) -> None:
    """Boxes in order of their scores, with doubles among them: what is kept is as if all had been tried at once."""
    rng = torch.Generator().manual_seed(0)
    corners, sides = torch.rand(3000, 2, generator=rng) * 100, torch.rand(3000, 2, generator=rng) * 60
    found = torch.cat([corners, corners + sides], dim=1)
    scores = (torch.rand(3000, generator=rng) * 200).round() / 200
    groups = torch.randint(5, (3000,), generator=rng)
    apart = groups * (found.max() + 1)
    wanted = nms(found + apart[:, None], scores, 0.7)[:most]
    assert torch.equal(boxes.suppress(found, scores, groups, 0.7, most), wanted)


def test_smaller_anchors_for_smaller_things() -> None:
    """`Config.anchor_scale`: in training and in prediction, and written down where it is not the published one."""
    grid = (2, 3)
    usual, smaller = boxes.level_anchors(grid, 4), boxes.level_anchors(grid, 4, scale=2)
    torch.testing.assert_close((smaller[:, :2] + smaller[:, 2:]) / 2, (usual[:, :2] + usual[:, 2:]) / 2)
    torch.testing.assert_close(smaller[:, 2:] - smaller[:, :2], (usual[:, 2:] - usual[:, :2]) / 4)

    name = "mask_rcnn.uniformer_nano"
    torch.manual_seed(0)
    published = create_model(name, num_classes=2)
    own = create_model(name, num_classes=2, anchor_scale=2)
    own.load_state_dict(published.state_dict())
    assert "anchor_scale" not in to_dict(published.config)
    assert Config(**to_dict(own.config)) == own.config
    x, size = torch.zeros(1, 3, 64, 64), [(64, 64)]
    thing = Truth(torch.tensor([[20.0, 20.0, 28.0, 28.0]]), torch.zeros(1, dtype=torch.long), None)
    for model, side in ((published, 32), (own, 8)):
        with torch.no_grad():
            regions = model.proposals(model.rpn_head(model(x)), size, Limits())[0]
            losses = detection_losses(model.train(), x, size, [thing], MASK_RCNN, [torch.Generator().manual_seed(0)])
        inside = regions[(regions[:, :2] > 0).all(1) & (regions[:, 2:4] < 64).all(1)]
        assert boxes.area(inside[:, :4]).sqrt().min() == pytest.approx(side, rel=0.1)
        assert (losses["loss_rpn_bbox"] > 0) == (side == 8)  # no anchor of 32 pixels is a thing of 8
    with refused("expected anchor_scale in "):
        create_model(name, anchor_scale=0)


@pytest.mark.parametrize("at_once", [1 << 22, 30])
def test_masks_are_pasted(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those whose boxes leave the image, and band by band, as into a huge picture."""
    monkeypatch.setattr("uniformer.heads.detection.PASTED_AT_ONCE", at_once)
    given = BOXES["paste"]
    shares = torch.from_numpy(ARRAYS["shares"]).view(-1, 28, 28)
    pasted = paste_masks(shares, torch.tensor(given["boxes"]), given["image_hw"])
    assert pasted.flatten(1).sum(1).tolist() == given["areas"]
    assert np.array_equal(np.packbits(pasted.numpy().reshape(-1)), ARRAYS["pasted"].reshape(-1))


def test_crops_of_people() -> None:
    """Turned or not; points of the picture in the crop, and cells of heat maps in the picture."""
    for given in UNITS["affine"]:
        size = given["image_size_wh"][::-1]
        region = region_of(given["box_xywh"], size)
        assert np.abs(region.centre - given["center"]).max() == np.abs(region.scale - given["scale"]).max() == 0
        matrix = crop_matrix(region, size, given["rotation_degrees"])
        assert np.abs(matrix - given["matrix"]).max() < 1e-12
        assert np.abs(moved(np.array(given["points"]), matrix) - given["points_in_crop"]).max() < 1e-9
        back = from_heat_map(np.array(given["heatmap_points"]), region, [side // STRIDE for side in size])
        assert np.abs(back - given["heatmap_points_in_image"]).max() < 1e-4  # the reference's are float32


@pytest.mark.parametrize("size", UNITS["targets"])
def test_heat_maps_to_learn(size: str) -> None:
    """Points at the edges, beyond them, and that are not to be seen."""
    given = UNITS["targets"][size]
    points = np.array(given["joints"], np.float32)[:, :2]
    maps, weights = heat_map_targets(points, np.array(given["visible"]), given["heatmap_size_wh"][::-1], given["sigma"])
    assert np.array_equal(maps.reshape(-1), ARRAYS[f"target_{size}"].reshape(-1))
    assert np.array_equal(weights, ARRAYS[f"weight_{size}"].reshape(-1))


def test_key_points_of_heat_maps() -> None:
    """Maxima at the edges, where there is no quarter to go, and a map that is nowhere positive."""
    maps = (normals("heatmaps:pose_decode", [2, 17, 64, 48]).astype(np.float32)) * np.float32(0.3)
    maps[0, 3] = -np.abs(maps[0, 3])
    for k, (x, y) in enumerate([(0, 0), (1, 1), (2, 2), (47, 63), (46, 62), (45, 5)]):
        maps[1, k, y, x] = 5.0
    given = UNITS["decode"]
    points, scores = decode_heat_maps(maps, [region_of(b, given["image_size_wh"][::-1]) for b in given["boxes_xywh"]])
    assert np.abs(points.reshape(-1) - ARRAYS["keypoints"].reshape(-1)).max() < 1e-12
    assert np.array_equal(scores.reshape(-1), ARRAYS["scores"].reshape(-1))


def test_people_found_twice() -> None:
    given = UNITS["nms"]
    people = np.array(given["keypoints"])
    scores = np.array([rescore(b, k[:, 2]) for b, k in zip(given["box_scores"], people, strict=True)])
    assert np.abs(scores - given["rescored"]).max() < 1e-12
    areas, sigmas = np.array(given["areas"]), np.array(UNITS["sigmas"])
    assert without_doubles(people[..., :2], areas, scores, sigmas, given["threshold"]) == given["kept_in_order"]


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALINGS)
def test_sizes_and_factors(name: str) -> None:
    for height, width, resized, filled, factors in UNITS["scaling"][name]:
        assert list(scaled_size(height, width, SCALINGS[name])) == resized
        if height * width < 1 << 19:
            scaled = scale_picture(np.zeros((height, width, 3), np.uint8), SCALINGS[name])
            assert list(scaled.array.shape[1:]) == filled
            assert box_factors(scaled.size, (height, width)).tolist() == factors * 2


@pytest.mark.parametrize("name", SCALINGS)
def test_a_picture_becomes_what_the_reference_is_fed(name: str) -> None:
    height, width, _ = UNITS["images"][name]
    steps = normals(f"image:{name}", [height // 8 + 1, width // 8 + 1, 3])
    blocks = np.clip(np.round(128 + 90 * steps), 0, 255).astype(np.uint8)
    bgr = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    scaled = scale_picture(np.ascontiguousarray(bgr[:, :, ::-1]), SCALINGS[name])
    resized = resize_pixels(bgr, scaled_size(height, width, SCALINGS[name]))
    resized = resize_pixels(resized, scaled.size)
    assert np.array_equal(resized.reshape(-1)[ARRAYS[f"{name}_resized_at"]], ARRAYS[f"{name}_resized"])
    fed = scaled.array.transpose(1, 2, 0).reshape(-1)[ARRAYS[f"{name}_input_at"]]
    assert np.abs(fed - ARRAYS[f"{name}_input"]).max() < 1e-6


def test_a_picture_that_is_all_length_keeps_a_pixel_of_the_other_side() -> None:
    for size, scaled_to in (((1, 5000), (1, 1333)), ((5000, 1), (1333, 1))):
        scaled = scale_picture(np.full((*size, 3), 9, np.uint8), Scaling())
        assert (scaled.size, scaled.array.shape[1:]) == (scaled_to, tuple(-(-n // 32) * 32 for n in scaled_to))


def test_pixels_are_resized_as_by_opencv() -> None:
    draw = np.random.default_rng(0)
    for number in range(60):
        height, width, *size = draw.integers(1, 120, 4).tolist()
        if number % 10 == 0:
            height, width = 2 * size[0], 2 * size[1]
        pixels = draw.integers(0, 256, (height, width, 3), np.uint8)
        theirs = cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(resize_pixels(pixels, size), theirs.reshape(*size, 3)), (height, width, size)


def test_odd_scalings_are_refused() -> None:
    with refused("expected sides of 1 to 32768, the shortest first, got 900 and 800"):
        Scaling(800, 900)
    with refused("expected sides made multiples by padding, resizing or nothing, got 'cropping'"):
        Scaling(by="cropping")  # type: ignore[arg-type]

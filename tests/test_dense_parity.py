"""The same numbers as the official detectors, segmentors and pose networks: forward, results, losses and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.dense_golden import (
    CASES,
    MANIFESTS,
    PAIRS,
    check,
    from_published,
    golden_network,
    input_of,
    latest_weights,
    network_of,
    recorded,
    weights_of,
)
from tests.golden import ShiftedDepthwise
from uniformer.checkpoints.keys import to_published
from uniformer.heads import boxes
from uniformer.heads.detection import (
    Detector,
    Limits,
    flat_anchors,
    paste_masks,
    region_features,
    region_levels,
    with_images,
)
from uniformer.heads.pose import PoseNetwork, mirror_back, mirrored_average, pose_loss
from uniformer.heads.pyramid import resize
from uniformer.heads.segmentation import (
    Seen,
    Segmenter,
    pixel_classes,
    segmentation_losses,
    window_logits,
)
from uniformer.reading.people import region_of
from uniformer.tasks import detection_losses as losses_of
from uniformer.tasks.keypoints import decode_heat_maps, heat_map_targets

FLOAT64, FLOAT32 = torch.float64, torch.float32
LARGE = ("base", "full")  # once, in float64: they take long
FORWARD, TRAIN = (
    [
        pytest.param(name, dtype, id=f"{name}-{'float64' if dtype == FLOAT64 else 'float32'}")
        for name, case in sorted(CASES.items(), key=lambda item: item[1]["manifest"])
        for dtype in (FLOAT64, FLOAT32)
        if case["mode"] == mode and (dtype == FLOAT64 or not any(word in name for word in LARGE))
    ]
    for mode in ("eval", "train")
)


@pytest.fixture(scope="module", autouse=True)
def _weights_go_with_the_last_test() -> Iterator[None]:
    yield
    latest_weights.cache_clear()


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_tensors_are_those_of_the_published_files(manifest: str) -> None:
    """Keys, their order and shapes; and there and back."""
    case = next(case for case in CASES.values() if case["manifest"] == manifest)
    with torch.device("meta"):
        network = network_of(case)
        theirs = {key: torch.empty(shape) for key, shape in MANIFESTS[manifest].items()}
    state = to_published(network.state_dict())
    assert {key: list(value.shape) for key, value in state.items()} == MANIFESTS[manifest]
    assert list(state) == list(MANIFESTS[manifest])
    assert list(to_published(from_published(theirs))) == list(theirs)
    assert sum(p.numel() for p in network.parameters()) == case["parameters"]


@pytest.mark.parametrize(("name", "dtype"), FORWARD)
def test_forward(name: str, dtype: torch.dtype) -> None:
    network, x = golden_network(name, dtype), input_of(name, dtype)
    with torch.no_grad(), ShiftedDepthwise():
        if isinstance(network, Segmenter):
            found = segmented(CASES[name], network, x)
        elif isinstance(network, PoseNetwork):
            found = posed(CASES[name], network, x)
        else:
            assert isinstance(network, Detector)
            found = detected(name, network, x)
    assert set(found) == set(CASES[name]["outputs"])
    for output, value in found.items():
        if not (output.startswith("proposals_image") and dtype == FLOAT32):  # near-equal scores change places
            check(name, output, value, dtype)


def segmented(case: dict[str, Any], network: Segmenter, x: Tensor) -> dict[str, Any]:
    maps, head = network.backbone(x), network.decode_head
    found = {f"backbone{i}": m for i, m in enumerate(maps)}
    if network.neck is not None:
        levels = network.neck(maps)
        found |= {f"neck{i}": level for i, level in enumerate(levels)}
        towers = zip(head.scale_heads, levels, strict=True)
        found |= {f"scale_head{i}": resize(t(v), levels[0].shape[2:]) for i, (t, v) in enumerate(towers)}
    else:
        last = maps[-1]
        pooled = [resize(pool(last), last.shape[2:]) for pool in head.psp_modules]
        found |= {f"ppm{i}": m for i, m in enumerate(pooled)}
        found |= {"psp_bottleneck": head.bottleneck(torch.cat([last, *pooled], dim=1))}
        found |= {"aux_logits": network.auxiliary_head(maps[2])}
    size = case["meta"]["ori_shape"]
    found["logits"] = network(x)
    found["logits_at_input"] = resize(found["logits"], x.shape[2:])
    found["prediction_at_input"] = found["logits_at_input"].argmax(1)
    found["logits_at_original"] = resize(found["logits_at_input"], size)
    shares = found["probabilities_at_original"] = found["logits_at_original"].softmax(1)
    each = [pixel_classes([Seen(one[None], tuple(x.shape[2:]))], size) for one in found["logits"]]
    found["prediction_at_original"] = torch.stack(each)
    best = shares.topk(2, dim=1).values
    found |= {"probability_max": best[:, 0], "probability_margin": best[:, 0] - best[:, 1]}
    if "slide" in case:
        slid = Seen(window_logits(network, x, case["slide"]["crop_size"], case["slide"]["stride"]), tuple(x.shape[2:]))
        found["slide_logits"] = resize(slid.logits, size)
        found["slide_prediction"] = pixel_classes([slid], size)[None]
        inputs = [resize(x, n) for n in case["ms_flip"]["sizes"]]
        seen = [Seen(network(y), tuple(y.shape[2:])) for y in inputs]
        seen += [Seen(network(y.flip(3)), tuple(y.shape[2:]), mirrored=True) for y in inputs]
        each = [resize(resize(s.logits, s.size), size).softmax(1) for s in seen]
        shares = [y.flip(3) if s.mirrored else y for s, y in zip(seen, each, strict=True)]
        found["ms_flip_probabilities"] = sum(shares[1:], shares[0]) / len(shares)
        found["ms_flip_prediction"] = pixel_classes(seen, size)[None]
    return found


def posed(case: dict[str, Any], network: PoseNetwork, x: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {"backbone3": network.backbone(x)[-1]}
    y = found["backbone3"]
    for i in range(3):
        y = found[f"deconv{i}"] = network.keypoint_head.deconv_layers[3 * i : 3 * i + 3](y)
    mirrored = network(x.flip(3))
    found |= {"heatmaps": network(x), "heatmaps_of_mirrored": mirrored}
    found["heatmaps_of_mirrored_back_shifted"] = mirror_back(mirrored, PAIRS)
    average = found["heatmaps_average"] = found["result_heatmaps"] = mirrored_average(network, x, PAIRS)
    regions = [region_of(box, x.shape[2:]) for box in case["boxes_xywh"]]
    maps = average.float().numpy()  # as the reference decodes them
    points, scores = decode_heat_maps(maps, regions)
    found["keypoints"] = np.concatenate([points, scores[..., None]], axis=2)
    best = maps.reshape(*maps.shape[:2], -1).argmax(2)
    found["maximum_positions"] = np.stack([best % maps.shape[3], best // maps.shape[3]], axis=2)
    found["maximum_values"] = average.amax((2, 3))[..., None]
    areas = [np.prod(r.scale * 200.0) for r in regions]
    people = zip(regions, areas, case["persons"], strict=True)
    found["boxes"] = np.array([[*r.centre, *r.scale, area, p["box_score"]] for r, area, p in people])
    return found


def detected(name: str, network: Detector, x: Tensor) -> dict[str, Any]:
    case, found = CASES[name], {f"backbone{i}": m for i, m in enumerate(network.backbone(x))}
    levels = network(x)
    found |= {f"neck{i}": level for i, level in enumerate(levels)}
    sizes = [image["img_shape"] for image in case["images"]]
    scales = [torch.from_numpy(np.array(i["scale_factor"], np.float32)).to(x) for i in case["images"]]
    outputs = network.rpn_head(levels)
    for i, ((logits, deltas), stride) in enumerate(zip(outputs, boxes.STRIDES, strict=True)):
        found |= {f"rpn_cls{i}": logits, f"rpn_reg{i}": deltas}
        anchors = found[f"anchors{i}"] = boxes.level_anchors(logits.shape[2:], stride)
        flat = zip(flat_anchors(logits, deltas)[1], sizes, strict=True)
        found[f"rpn_decoded{i}"] = torch.stack([boxes.decode(anchors.to(d), d, (1, 1, 1, 1), s) for d, s in flat])
    limits = Limits(detections=case["test_settings"]["detections_per_image"])
    proposals = network.proposals(outputs, sizes, limits)
    rois = torch.from_numpy(recorded(name, "fixed_rois")).to(x)
    found |= {"fixed_rois": rois, "fixed_levels": region_levels(rois)}
    small, large = (region_features(levels, rois, side) for side in (7, 14))
    found |= {"fixed_roi_features7": small, "fixed_roi_features14": large}
    heads, masks = network.roi_head.box_heads, network.roi_head.mask_heads
    for i, (head, mask) in enumerate(zip(heads, masks, strict=True)):
        end = str(i) if len(heads) > 1 else ""
        found[f"fixed_cls{end}"], found[f"fixed_reg{end}"] = head(small)
        found[f"fixed_mask_logits{end}"] = mask(large[:3])
    most = case["test_settings"]["proposals_used"]
    used = [p[: most if isinstance(most, int) else None, :4] for p in proposals]
    found |= refinements(network, levels, used, sizes)
    results = network.detect(levels, used, sizes, scales, limits)
    shares = network.masks(levels, results, scales)
    for i, (result, share, image) in enumerate(zip(results, shares, case["images"], strict=True)):
        pasted = paste_masks(share, result.boxes, image["ori_shape"])
        found |= {
            f"proposals_count_image{i}": np.array(len(proposals[i])),
            f"proposals_image{i}": proposals[i],
            f"det_boxes_image{i}": torch.cat([result.boxes, result.scores[:, None]], dim=1),
            f"det_labels_image{i}": result.labels,
            f"det_mask_probability_image{i}": share,
            f"det_mask_area_image{i}": pasted.flatten(1).sum(1),
            f"det_masks_packed_image{i}": np.packbits(pasted[:8].numpy().reshape(-1)),
            f"det_masks_shape_image{i}": np.array(pasted.shape),
        }
    return {output: value for output, value in found.items() if output in case["outputs"]}


def refinements(network: Detector, levels: list[Tensor], used: list[Tensor], sizes: list[Any]) -> dict[str, Any]:
    """What the stages say of the proposals used, under the goldens' names of a single stage and of a cascade."""
    rois = with_images(used)
    found: dict[str, Any] = {"used_rois": rois}
    for i, head in enumerate(network.roi_head.box_heads):
        logits, deltas = head(region_features(levels, rois, 7))
        label = logits[:, :-1].argmax(1)
        found |= {"used_cls": logits, "used_reg": deltas} if i == 0 else {}
        found |= {f"stage{i}_cls": logits, f"stage{i}_reg": deltas, f"stage{i}_label": label}
        rois = losses_of.refine(rois, deltas, label, head.stds, sizes)
        found[f"stage{i}_rois_out"] = rois
    return found


@pytest.mark.parametrize(("name", "dtype"), TRAIN)
def test_losses_and_gradients(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    case, network, x = CASES[name], golden_network(name, dtype).train(), input_of(name, dtype)
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    if isinstance(network, Segmenter):
        labels = torch.from_numpy(recorded(name, "labels")).view(len(x), *x.shape[2:]).long()
        losses = segmentation_losses(network.forward_train(x), labels)
        names = {loss: {"loss_seg": "decode.loss_seg", "loss_aux": "aux.loss_seg"}[loss] for loss in losses}
    elif isinstance(network, PoseNetwork):
        points, visible = np.array(case["joints"], np.float32)[..., :2], np.array(case["visible"])
        grid = [side // 4 for side in x.shape[2:]]
        made = [heat_map_targets(p, v, grid, case["sigma"]) for p, v in zip(points, visible, strict=True)]
        targets, weights = (torch.from_numpy(np.stack(part)).to(x) for part in zip(*made, strict=True))
        check(name, "target_weight", weights[..., None], dtype)
        losses, names = {"loss": pose_loss(network(x), targets, weights)}, {"loss": "mse_loss"}
    else:
        # The reference's sampler was replaced: the first candidates in order instead of random ones.
        monkeypatch.setattr(losses_of, "_some", lambda rows, most, generator: rows[:most])
        losses = detector_losses(name, network, x)
        names = {loss: loss for loss in losses}
    close = 1e-8 if dtype == FLOAT64 else 2e-4
    for ours, theirs in names.items():
        assert float(losses[ours].detach()) == pytest.approx(case["losses"][theirs], rel=close, abs=close), ours
    total = sum(losses.values())
    assert isinstance(total, Tensor)
    total.backward()
    gradients = {key: p.grad if p.grad is not None else torch.zeros_like(p) for key, p in network.named_parameters()}
    allowed = 1e-6 if dtype == FLOAT64 else max(1e-3, 5 * case["gradient_noise"])
    for key, gradient in to_published(gradients).items():
        wanted = case["gradients"][key] or 0.0
        far = abs(float(gradient.double().norm()) - wanted) / max(wanted, case["gradient_floor"])
        assert far <= allowed, key


def detector_losses(name: str, network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    case, truths = CASES[name], []
    for i, (corners, labels) in enumerate(zip(case["gt_boxes"], case["gt_labels"], strict=True)):
        bits = np.unpackbits(recorded(name, f"gt_masks_packed_image{i}").astype(np.uint8))
        masks = torch.from_numpy(bits).view(len(labels), *x.shape[2:])
        truths.append(losses_of.Truth(torch.tensor(corners).to(x), torch.tensor(labels), masks))
    learning = losses_of.CASCADE if "cascade" in name else losses_of.MASK_RCNN
    sampler = case["sampler"]
    samples = (10**6, 10**6) if "1000000" in sampler else (64, 32) if "64 (rpn)" in sampler else (256, 512)
    limits = replace(learning.limits, proposals=case["rpn_proposal_max_per_img"])
    stages = tuple(replace(m, samples=samples[1]) for m in learning.stages)
    learning = replace(learning, limits=limits, rpn=replace(learning.rpn, samples=samples[0]), stages=stages)
    assert isinstance(network, Detector)
    return losses_of.detection_losses(network, x, [i["img_shape"] for i in case["images"]], truths, learning)


def test_the_weights_are_those_of_the_reference_run() -> None:
    state = weights_of(CASES["mask_rcnn_xxs"])
    assert state["roi_head.bbox_head.fc_cls.weight"].flatten()[:3].tolist() == pytest.approx(
        [0.0651313439, -0.0948400646, 0.11193946]
    )

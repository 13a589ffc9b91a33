"""Networks with heads in their inference forms: what the plain ones give, in all families, precisions and sizes."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import uniformer
from tests.tiny import TINY, refused, same
from tests.tolerance import assert_close, layers_of, off, rounding, terms_of
from uniformer import speed
from uniformer.checkpoints.contract import Contract
from uniformer.cli.main import main
from uniformer.config import TASKS, Config, Head, Scaling
from uniformer.heads import build_network
from uniformer.heads.detection import Detector, Limits, region_features
from uniformer.heads.pyramid import DenseNetwork
from uniformer.heads.segmentation import Segmenter
from uniformer.inference.predictor import Predictor
from uniformer.speed import regions, winograd
from uniformer.speed.dense import FastConvNorm

BACKBONES: dict[str, dict[str, Any]] = {
    "global": {},
    "windows": {"window": 3},
    "hybrid": {"window": 3, "global_every": 2, "depths": (1, 1, 3, 1)},
    "light": {"keep_ratio": 0.5, "overlap": 1, "depths": (1, 1, 3, 2)},
    "layer scale": {"layer_scale": 0.3, "window": 2},
}
SIZES = ((96, 72), (80, 112))  # windows of 3 do not divide the grids of stage 3: 6 x 4 and 5 x 7


def dense_config(head: Head, **options: Any) -> Config:
    return replace(TINY, output="normed_maps", head=head, head_width=32, **options)


def dense_network(head: Head, **options: Any) -> Any:
    """In evaluation mode, with no tensor at its initial value."""
    torch.manual_seed(0)
    network = build_network(dense_config(head, **options)).eval()
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_((torch.rand_like(value) - 0.5) / 10 if value.is_floating_point() else 5)
    return network


def an_input(batch: int = 2, size: tuple[int, int] = SIZES[0]) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def outputs(network: Any, x: Tensor) -> list[Tensor]:
    """All that a network says of pictures; of regions what its heads say of given ones."""
    with torch.no_grad():
        answer = network(x)
        said = [*network.backbone(x), *([answer] if isinstance(answer, Tensor) else answer)]
        if isinstance(network, Detector):
            levels = [level.to(x.dtype) for level in answer]
            said += [part for level in network.rpn_head(levels) for part in level]
            given = (3, network.config.head_width, 7, 7)
            regions = torch.randn(given, generator=torch.Generator().manual_seed(1)).to(x.dtype)
            for box, mask in zip(network.roi_head.box_heads, network.roi_head.mask_heads, strict=True):
                said += [*box(regions), mask(regions)]
    return said


def assert_answers(found: list[Tensor], wanted: list[Tensor], terms: int) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, terms)


# ---- the same answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("head", TASKS)
def test_it_gives_what_the_plain_network_gives(head: Head, dtype: torch.dtype, one_thread: None) -> None:
    """One picture and several, of two sizes, by the same copy."""
    network = dense_network(head, window=3, global_every=2, depths=(1, 1, 2, 1)).to(dtype)
    fast = speed.prepare(network, training=False)
    for batch, size in zip((1, 2), SIZES, strict=True):
        x = an_input(batch, size).to(dtype)
        found, wanted = outputs(fast, x), outputs(network, x)
        assert_answers(found, wanted, terms_of(network))
        assert max(map(off, found, wanted)) <= {torch.float32: 1e-4, torch.float64: 1e-10}[dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != "hybrid"])
def test_over_every_kind_of_backbone(backbone: str, dtype: torch.dtype, one_thread: None) -> None:
    network = dense_network("semantic_fpn", **BACKBONES[backbone]).to(dtype)
    fast = speed.prepare(network, training=False, share=True)
    for size in SIZES:
        x = an_input(2, size).to(dtype)
        assert_answers(outputs(fast, x), outputs(network, x), terms_of(network))


@pytest.mark.parametrize("head", ["mask_rcnn", "upernet", "topdown"])
def test_in_16_bits_it_is_as_close_as_the_plain_network(head: Head, one_thread: None) -> None:
    """Answers are float32, so that boxes and shares are reckoned as in the plain form."""
    network, x = dense_network(head, window=3), an_input()
    wanted = outputs(copy.deepcopy(network).double(), x.double())
    with torch.autocast("cpu", torch.bfloat16):
        plainly = outputs(network, x)
    found = outputs(speed.prepare(network, training=False, dtype=torch.bfloat16), x)
    assert all(one.dtype == torch.float32 for one in found[4:])  # the first four are the backbone's
    for one, other, exact in zip(found[:5], plainly[:5], wanted[:5], strict=True):
        assert 0 < off(one, exact) <= max(3 * off(other, exact), rounding(torch.bfloat16))
    for one, exact in zip(found[5:], wanted[5:], strict=True):
        assert off(one, exact) <= rounding(torch.bfloat16, layers_of(network))


def test_no_pictures_are_no_answers(one_thread: None) -> None:
    """A picture without people has no crops."""
    fast = speed.prepare(dense_network("topdown", window=3), training=False)
    assert fast(torch.zeros(0, 3, 64, 96)).shape == (0, 7, 16, 24)


def test_detections_are_those_of_the_plain_network(one_thread: None) -> None:
    network, x, size = dense_network("mask_rcnn").double(), an_input(1).double(), SIZES[0]
    limits = Limits(per_level=20, proposals=20, score=0.1, detections=10)
    results = []
    for form in (network, speed.prepare(network, training=False)):
        with torch.no_grad():
            levels, scales = form(x), [torch.ones(4).double()]
            regions = form.proposals(form.rpn_head(levels), [size], limits)
            found = form.detect(levels, [r[:, :4] for r in regions], [size], scales, limits)
            results.append((*found[0], *form.masks(levels, found, scales)))
    assert len(results[0][0])
    assert torch.equal(results[0][2], results[1][2])
    for place in (0, 1, 3):  # boxes, scores, masks; corrections of boxes are exponents
        assert off(results[1][place], results[0][place]) <= 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("at_once", [1, 64, 1 << 17])
def test_a_convolution_by_few_products_is_the_direct_one(
    at_once: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures whose sides tiles of 4 do not divide, cut into portions of every kind."""
    monkeypatch.setattr(winograd, "AT_ONCE", at_once)
    torch.manual_seed(0)
    weight, bias = torch.randn(6, 5, 3, 3, dtype=dtype), torch.randn(6, dtype=dtype)
    for shape in ((1, 5, 23, 17), (7, 5, 9, 4), (2, 5, 3, 1)):
        x = torch.randn(shape, dtype=dtype)
        wanted = nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=1)
        for laid in (x, x.contiguous(memory_format=torch.channels_last)):
            assert (
                off(winograd.convolve(laid, weight, bias), wanted) <= {torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
            )


def test_convolutions_by_few_products_are_taken_on_one_thread_alone(
    monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr(winograd, "LEAST", (1, 1))
    monkeypatch.setattr(winograd, "MOST_PADDED", 3)
    network, x = dense_network("upernet"), an_input()
    fast, convolved = speed.prepare(network, training=False), []
    convolve = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *given: convolved.append(given[1].shape) or convolve(*given))
    assert off(fast(x), outputs(network, x)[4]) <= 1e-4
    assert len(convolved) == 5  # bottleneck, three levels, all of them joined
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    fast(x)
    assert len(convolved) == 5


def test_convolutions_by_few_products_are_for_many_channels_on_grids_that_tiles_fill(one_thread: None) -> None:
    wide, narrow = torch.empty(256, 256, 3, 3, device="meta"), torch.empty(128, 256, 3, 3, device="meta")
    for shape, weight, pays in (
        ((1, 256, 100, 168), wide, True),
        ((1, 256, 100, 168), narrow, False),
        ((1, 256, 25, 42), wide, False),  # few places
        ((8, 256, 25, 42), wide, True),
        ((100, 256, 14, 14), wide, False),  # tiles would cover 16 x 16
    ):
        assert winograd.pays(torch.empty(shape, device="meta"), weight) == pays


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("at_once", [1, 5000, regions.AT_ONCE])
@pytest.mark.parametrize("side", [7, 14])
def test_regions_are_cut_out_as_torchvision_does(
    side: int, at_once: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """Of all shapes, in two pictures: long ones, some that leave the picture, some without extent or turned over."""
    monkeypatch.setattr(regions, "AT_ONCE", at_once)
    torch.manual_seed(0)
    levels = [torch.randn(2, 6, *grid, dtype=dtype) for grid in ((48, 72), (24, 36), (12, 18), (6, 9))]
    centres = torch.rand(160, 2, dtype=dtype) * torch.tensor([288, 192])
    halves = torch.rand(160, 2, dtype=dtype) ** 3 * 160
    halves[:4, 0], halves[4:8, 1], halves[8:10] = 0, -3, 0
    halves[10:14] = 14 * side  # samples exactly a cell apart
    rois = torch.cat([torch.arange(160)[:, None] % 2, centres - halves, centres + halves], dim=1).to(dtype)
    wanted = region_features(levels, rois, side)
    for laid in (levels, [level.contiguous(memory_format=torch.channels_last) for level in levels]):
        found = regions.cut_regions(laid, rois, side)
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert off(found, wanted) <= {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    assert regions.cut_regions(levels, rois[:0], side).shape == (0, 6, side, side)


def test_predictions_take_the_fast_form(one_thread: None) -> None:
    """By default and in 16 bits; `plain` when asked for, and no runtime: pictures have no one size."""
    config, classes = dense_config("semantic_fpn"), tuple(map(str, range(7)))
    contract = Contract(config, input=Scaling(longest=160, shortest=64), classes=classes)
    picture = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    answers = {}
    for compute, precision in ((None, "float32"), ("plain", "float32"), (None, "bfloat16")):
        predictor = Predictor((dense_network("semantic_fpn"), contract), compute=compute, precision=precision)  # type: ignore[arg-type]
        assert predictor.network.compute == (compute or "fast")  # type: ignore[union-attr]
        answers[compute, precision] = predictor(picture).labels
    for labels in answers.values():
        assert (labels == answers["plain", "float32"]).mean() > 0.95  # classes of random weights lie close together
    with refused("expected compute plain, fast or compiled for pictures of any size, got onnxruntime"):
        Predictor((dense_network("semantic_fpn"), contract), compute="onnxruntime")


# ---- a copy, and what may be done with it ----------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["mask_rcnn", "upernet"])
def test_the_network_stays_as_it_is(head: Head, one_thread: None) -> None:
    network, x = dense_network(head).train(), an_input()
    before, drawn = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    fast = uniformer.optimize(network)
    assert torch.equal(torch.get_rng_state(), drawn)
    wanted = outputs(fast, x)
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad for p in network.parameters())
    assert same(network.state_dict(), before)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    assert all(map(torch.equal, outputs(fast, x), wanted))  # nor does the copy change with the network


def test_a_shared_copy_holds_only_what_was_folded() -> None:
    network = dense_network("mask_rcnn")
    own = {p.data_ptr() for p in network.parameters()}
    added = {
        n for n, p in speed.prepare(network, training=False, share=True).named_parameters() if p.data_ptr() not in own
    }
    assert "roi_head.bbox_head.shared_fcs.0.weight" not in added
    assert "backbone.stages.2.blocks.0.mhra.qkv.weight" not in added
    assert "neck.fpn_convs.0.conv.weight" in added  # its channels lie last
    assert not {p.data_ptr() for p in speed.prepare(network, training=False).parameters()} & own


@pytest.mark.parametrize("head", ["mask_rcnn", "semantic_fpn", "topdown"])
def test_it_is_of_no_use_for_training_and_can_be_pickled(head: Head, one_thread: None) -> None:
    network = dense_network(head)
    fast, x = uniformer.optimize(network), an_input(1)
    assert isinstance(fast, type(network))
    assert not any(p.requires_grad for p in outputs(fast, x.requires_grad_()))
    with refused("expected the model itself for training"):
        fast.train()
    with refused("got one that is optimised already"):
        uniformer.optimize(fast)
    if isinstance(fast, Segmenter):
        with refused("expected the model itself for training"):
            fast.forward_train(x)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert all(map(torch.equal, outputs(other, x), outputs(fast, x)))


def test_batch_norms_of_heads_are_folded(one_thread: None) -> None:
    for head in ("cascade_mask_rcnn", "upernet", "topdown"):
        fast = speed.prepare(dense_network(head), training=False)  # type: ignore[arg-type]
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert any(
        isinstance(module, FastConvNorm) for module in speed.prepare(dense_network("upernet"), training=False).modules()
    )


def test_training_prepares_the_backbone(one_thread: None) -> None:
    """Light backbones have convolution stems, and attention may stay in float32: what stands in is the backbone's."""
    network, x = dense_network("semantic_fpn", **BACKBONES["light"]).train(), an_input()
    keys, before = list(network.state_dict()), [*network.parameters()]
    plain = copy.deepcopy(network)
    prepared = speed.prepare(network, training=True, attention_float32=True)
    assert prepared is network
    assert list(network.state_dict()) == keys
    assert all(map(lambda a, b: a is b, network.parameters(), before))
    kinds = {type(m).__name__ for m in network.modules()} - {type(m).__name__ for m in plain.modules()}
    assert kinds - {"OneDnnLinear"} == {"Float32MHRA"}  # products by oneDNN where that is the faster here
    torch.manual_seed(0)
    found = network(x)
    torch.manual_seed(0)
    assert_close(found, plain(x), terms_of(plain))
    speed.unprepare(network)
    assert {type(m) for m in network.modules()} == {type(m) for m in plain.modules()}


def test_bfloat16_training_tries_the_convolutions_without_a_size(one_thread: None) -> None:
    network = dense_network("upernet").train()
    assert isinstance(speed.prepare(network, training=True, dtype=torch.bfloat16), DenseNetwork)


def test_bench_measures_classifiers(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("upernet.uniformer_nano", "uniformer_nano_backbone"):
        assert main(["bench", name]) == 2
        said = capsys.readouterr().err
        assert f"{name}: expected a classifier to measure, got a network that returns maps" in said
        assert said.count("\n") == 1

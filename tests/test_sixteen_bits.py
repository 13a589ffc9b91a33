"""Layers that compute wrongly in 16 bits are found by a first batch and kept in float32, in networks of every task.

The fault is put into torch here: as on real processors, weight gradients are garbage under autocast, and nothing says
so. What this machine really gets wrong is tried beside it.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.shapes import detection_set, pose_set, segmentation_set
from tests.test_dense_training import recipe_file
from tests.test_train import Signalling
from tests.tiny import refused, tiny_model
from tests.training_runs import CLIPS, losses, make_clips, recipe, same_weights
from uniformer import speed, train
from uniformer.cli.train import noted_signals
from uniformer.datasets.open import open_dataset
from uniformer.speed.agreement import TOLERANCES, Agreement, agreement_of, drawn, tried
from uniformer.speed.sixteen_bits import described, in_short, keep_in_float32, watched, wrong_layers
from uniformer.training.loop import fit

pytestmark = pytest.mark.usefixtures("one_thread")
HALVES = [torch.bfloat16, torch.float16]


class Garbled(torch.autograd.Function):
    """A weight whose gradient is what memory held before."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad.roll(1, 0) + drawn(grad.shape) * grad.abs().max()


def break_torch(patch: pytest.MonkeyPatch, name: str, is_wrong: Callable[[Tensor], bool] = lambda _: True) -> None:
    """Of a function of torch (x, weight, ...): its weight gradient under autocast, for weights of some kind."""
    right = getattr(F, name)

    def wrong(x: Tensor, weight: Tensor, *rest: Any, **more: Any) -> Tensor:
        low = torch.is_autocast_enabled("cpu") and is_wrong(weight)
        return right(x, Garbled.apply(weight) if low else weight, *rest, **more)

    patch.setattr(F, name, wrong)


def is_3x3(weight: Tensor) -> bool:
    return tuple(weight.shape[2:]) == (3, 3) and weight.shape[1] > 1


# ---- what agrees -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_agrees(dtype: torch.dtype) -> None:
    true = drawn((3, 5, 7))
    assert agreement_of(true.to(dtype), true).is_within(TOLERANCES[dtype])
    assert agreement_of(true * 0, true * 0) == Agreement()


@pytest.mark.parametrize("spoil", [
    lambda t: drawn(t.shape, seed=1), lambda t: t * 1.1, lambda t: t.roll(1, 0), lambda t: t * 1e30, lambda t: t * 0,
    lambda t: t.index_put((torch.tensor([0]),), torch.tensor(math.nan)),
    lambda t: t.index_put((torch.tensor([1]),), t.max()),
    lambda t: t.index_put((torch.tensor([1]),), torch.tensor(math.inf)),
])  # fmt: skip
def test_garbage_does_not_agree(spoil: Callable[[Tensor], Tensor]) -> None:
    true = drawn((1000,))
    assert not agreement_of(spoil(true), true).is_within(max(TOLERANCES.values()))
    assert not agreement_of(true, true * 0).is_within(1.0)  # what should be 0 has no size to be off by


def test_a_trial_draws_nothing_and_leaves_no_gradient() -> None:
    layer, before = nn.Linear(8, 8), torch.get_rng_state()
    trial = tried(F.linear, [drawn((4, 8)), layer.weight], torch.float32)
    assert trial.is_right
    assert layer.weight.grad is None
    assert torch.equal(before, torch.get_rng_state())


# ---- which layers are met --------------------------------------------------------------------------------------------


def a_pass(model: nn.Module, x: Tensor, dtype: torch.dtype | None) -> Any:
    """Its gradients are those of the sum of squares."""
    with watched(model) as met, torch.autocast("cpu", dtype, enabled=dtype is not None):
        model(x).float().square().sum().backward()
    return met


@pytest.mark.parametrize(("options", "dtype"), [
    ({}, torch.float16), ({"ndim": 3, "overlap": 4}, torch.bfloat16),
    ({"ndim": 3, "split_attention": True, "time_kernel": 3}, torch.bfloat16),
    ({"ndim": 3, "keep_ratio": 0.4, "overlap": 1, "depths": (1, 1, 3, 2)}, torch.float16),
])  # fmt: skip
def test_every_layer_of_a_classifier_is_tried_and_none_is_wrong_afterwards(options: Any, dtype: torch.dtype) -> None:
    model = speed.prepare(tiny_model(**options).train(), training=True)
    x = drawn((2, 3, *(3, 64, 64)[-model.config.ndim :]))
    plain = copy.deepcopy(model)
    met = a_pass(model, x, dtype)
    kinds = (nn.Conv2d, nn.Conv3d, nn.Linear)
    wanted = {name for name, m in model.named_modules() if isinstance(m, kinds) or hasattr(m, "qkv")}
    assert wanted - {"cls_head"} <= {name for layers in met for name in layers.names}
    wrong = wrong_layers(met, dtype)
    assert all(isinstance(model.get_submodule(name), nn.Conv3d) for name in wrong)  # as known of bfloat16
    keep_in_float32(model, wrong)
    assert not wrong_layers(a_pass(model, x, dtype), dtype)
    speed.unprepare(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in speed.unprepare(plain).modules()]


class AllLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv2d, self.conv_transpose2d = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 2, 2)
        self.conv3d, self.linear = nn.Conv3d(8, 8, 3, padding=1, groups=8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        maps = F.relu(self.conv_transpose2d(F.relu(self.conv2d(x))))
        return self.linear(self.conv3d(maps[:, :, None])[:, :, 0].flatten(2).transpose(1, 2))


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d", "conv3d", "linear"])
def test_a_layer_that_torch_gets_wrong_is_found_and_computes_in_float32(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, x = AllLayers(), drawn((2, 3, 9, 9))
    a_pass(model, x, None)
    true = [p.grad for p in model.parameters()]
    model.zero_grad()
    break_torch(monkeypatch, name)
    wrong = wrong_layers(a_pass(model, x, torch.bfloat16), torch.bfloat16)
    assert list(wrong) == [name]
    assert wrong[name].off > 0.5
    keep_in_float32(model, wrong)
    assert [n for n, m in model.named_children() if type(m).__name__.startswith("Float32")] == [name]
    model.zero_grad()
    assert not wrong_layers(a_pass(model, x, torch.bfloat16), torch.bfloat16)
    for parameter, exact in zip(model.parameters(), true, strict=True):
        assert agreement_of(parameter.grad, exact).cosine > 0.99  # type: ignore[arg-type]


def test_attention_that_is_wrong_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    right = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention",
        lambda q, k, v: right(q, Garbled.apply(k) if torch.is_autocast_enabled("cpu") else k, v),
    )  # fmt: skip
    model, x = tiny_model().train(), drawn((2, 3, 64, 64))
    wrong = wrong_layers(a_pass(model, x, torch.bfloat16), torch.bfloat16)
    assert in_short(wrong) == "stages.2.blocks.*.mhra, stages.3.blocks.*.mhra"
    assert described(wrong).startswith("stages.2.blocks.*.mhra (cosine ")
    keep_in_float32(model, wrong)
    assert not wrong_layers(a_pass(model, x, torch.bfloat16), torch.bfloat16)


def test_a_layer_without_a_form_in_float32_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Linear):
        pass

    break_torch(monkeypatch, "linear")
    model = nn.Sequential(Own(8, 8))
    with refused(r"computes 0 \(Own\) wrongly in 16 bits here, .*: set precision=float32"):
        keep_in_float32(model, wrong_layers(a_pass(model, drawn((4, 8)), torch.bfloat16), torch.bfloat16))


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "make", "classes", "layers"), [
    ("mask_rcnn", detection_set, 2, ("neck.fpn_convs.0.conv", "rpn_head.rpn_conv", "roi_head.mask_head.convs.0.conv")),
    ("semantic_fpn", segmentation_set, 3, ("neck.fpn_convs.0.conv", "backbone.stages.0.embed.conv1")),
    ("topdown", pose_set, 3, ("backbone.stages.0.embed.conv1", "backbone.stages.0.embed.conv2")),
])  # fmt: skip
def test_a_dense_run_names_what_it_keeps_in_float32(
    head: str, make: Any, classes: int, layers: tuple[str, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = make(tmp_path / "set")
    short: Any = {"precision": "bfloat16", "batch_size": 2, "schedule": {"iterations": 1}}
    chosen = recipe_file(tmp_path / "r.toml", head, classes, short, {"data": {"train": str(data)}})
    break_torch(monkeypatch, "conv2d", is_3x3)
    train(chosen, out=tmp_path / "wrong", device="cpu")
    (line,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith("tried in bfloat16")]
    assert f"wrong in torch {torch.__version__} on this processor and kept in float32: " in line
    for name in layers:
        assert f"{name} (cosine " in line, name
    if head == "topdown":
        monkeypatch.undo()
        train(chosen, out=tmp_path / "right", device="cpu")
        assert " layers, all right" in capsys.readouterr().out


def test_a_processor_that_cannot_train_in_16_bits_is_one_line(
    tmp_path: Path, sets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch says on those with AVX2-VNNI-2 alone (pytorch/pytorch issue 148861)."""
    right, refusal = F.conv2d, "DNNL does not support bf16/f16 backward on the platform with avx2_vnni_2"

    def refusing(*args: Any, **more: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError(refusal)
        return right(*args, **more)

    monkeypatch.setattr(F, "conv2d", refusing)
    with refused(rf"torch cannot train in bfloat16 on this processor \({refusal}\): set precision=float32"):
        fit(recipe({"precision": "bfloat16"}), *sets, out=tmp_path / "out", device="cpu")


def test_a_run_in_16_bits_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_torch(monkeypatch, "conv3d", lambda weight: weight.shape[-1] == 5)
    clips = open_dataset(make_clips(tmp_path / "clips"), split="train")
    chosen = recipe({"precision": "bfloat16", "schedule": {"epochs": 3}, "model": {"drop_path": 0.2}}, base=CLIPS)
    fit(chosen, clips, out=tmp_path / "whole", device="cpu")
    out = tmp_path / "cut"
    with contextlib.redirect_stdout(Signalling("step 1/")):
        assert fit(chosen, clips, out=out, device="cpu", signals=noted_signals).stopped_by is not None
    fit(chosen, clips, out=out, device="cpu")
    assert losses(out) == losses(tmp_path / "whole")
    assert same_weights(tmp_path / "whole", out)

"""timm's own functions on our models: layer decay, features, freezing, checkpointing, data."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import checkpoint_seq, group_modules, group_parameters
from timm.models._features import FeatureGetterNet, FeatureHookNet
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import freeze, unfreeze
from torch import Tensor, nn

import uniformer
from tests import odd_media
from tests.tiny import IMAGES, refused, tiny_model
from tests.tolerance import assert_close, assert_close_gradients, terms_of
from uniformer.checkpoints.contract import Contract
from uniformer.network.model import UniFormer
from uniformer.network.variants import VARIANTS, default_input
from uniformer.reading.transforms import image_array

DEPTHS = (1, 2, 2, 1)
KINDS: dict[str, dict[str, Any]] = {
    "images": {},
    "clips": {"ndim": 3},
    "light images": {"keep_ratio": 0.5, "overlap": 1},
    "light clips": {"ndim": 3, "keep_ratio": 0.5, "layer_scale": 0.1},
    "token labeling": {"token_labeling": True, "overlap": 4},
    "split clips": {"ndim": 3, "split_attention": True},
    "maps": {"output": "normed_maps", "num_classes": 0},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
with_classifier = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "maps"])


def model_of(kind: str) -> UniFormer:
    return tiny_model(**{"depths": DEPTHS, **KINDS[kind]})


def an_input(model: UniFormer) -> Tensor:
    return torch.randn((2, 3, 4, 64, 64) if model.config.is_video else (2, 3, 64, 64))


def by_name(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """The share of the rate and the decay of each parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}


# ---- layers ----------------------------------------------------------------------------------------------------------


@every_kind
def test_layer_decay_is_that_of_our_own_groups(kind: str) -> None:
    model = model_of(kind)
    ours = uniformer.parameter_groups(model, weight_decay=0.05, lr=1e-3, layer_decay=0.75)
    theirs = param_groups_layer_decay(
        model, weight_decay=0.05, layer_decay=0.75, no_weight_decay_list=model.no_weight_decay()
    )
    assert by_name(model, theirs) == by_name(model, ours)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    assert by_name(model, optimizer.param_groups) == by_name(model, ours)


@every_kind
def test_groups_of_parameters_and_modules(kind: str) -> None:
    model = model_of(kind)
    fine = group_parameters(model, model.group_matcher())
    assert len(fine) == sum(DEPTHS) + 2
    assert all(name.startswith("stages.0.embed.") for name in fine[0])
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert set(coarse) == {name for name, _ in model.named_parameters()}
    assert {coarse[name] for name in coarse if name.startswith("stages.2.blocks")} == {2}
    assert group_modules(model, model.group_matcher(), reverse=True)["stages.1.blocks.1.norm1"] == 3


# ---- features --------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("indices", [(1, 3), (0,), 2, (-1, 0)], ids=str)
def test_feature_getter_net(kind: str, indices: Any) -> None:
    model = model_of(kind)
    x = an_input(model)
    net = FeatureGetterNet(model, indices).eval()
    stages = (2, 3) if indices == 2 else tuple(i % 4 for i in indices)
    with torch.no_grad():
        maps, every = net(x), model.forward_intermediates(x)
    assert len(maps) == len(stages)
    for stage, got, channels, reduction in zip(
        stages, maps, net.feature_info.channels(), net.feature_info.reduction(), strict=True
    ):
        assert torch.equal(got, every[stage])
        assert (got.shape[1], 64 // got.shape[-1]) == (channels, reduction)


@with_classifier
def test_feature_getter_net_with_the_last_norm(kind: str) -> None:
    model = model_of(kind)
    x = an_input(model)
    with torch.no_grad():
        maps = FeatureGetterNet(model, (0, 3), norm=True)(x)
        assert torch.equal(maps[0], model.forward_intermediates(x)[0])
        assert torch.equal(maps[1], model.forward_features(x))


@with_classifier
def test_feature_hook_net(kind: str) -> None:
    """timm's hooks need a network that gives one tensor: one that gives maps needs no hooks."""
    model = model_of(kind)
    x = an_input(model)
    with torch.no_grad():
        want = model._run_stages(x)[0]
        got = FeatureHookNet(model, (0, 2, 3))(x)
    assert model.num_classes == 0  # it takes classifiers off
    assert len(got) == 3
    for hooked, stage in zip(got, (0, 2, 3), strict=True):
        assert torch.equal(hooked, want[stage])


def test_feature_info() -> None:
    info = uniformer.create_model("uniformer_small_video", depths=(1, 1, 1, 1)).feature_info
    assert (info.channels(), info.reduction()) == ([64, 128, 320, 512], [4, 8, 16, 32])
    assert (info.channels(1), info.reduction((0, 3))) == (128, [4, 32])
    assert info.module_name(2) == "stages.2.blocks.0"
    assert (info[0].channels, info[0].stride, info[0].time_stride) == (64, 4, 2)
    for copied in (copy.deepcopy(info), pickle.loads(pickle.dumps(info))):
        assert copied == info
        assert copied.channels() == info.channels()


def test_features_of_some_stages() -> None:
    options: dict[str, Any] = {"depths": (1, 1, 1, 1), "features_only": True}
    model = uniformer.create_model("uniformer_xxs", out_indices=(1, 2), **options).eval()
    x, ran = torch.randn(1, 3, 64, 64), []
    for number, stage in enumerate(model.stages):
        stage.embed.register_forward_hook(lambda *_, number=number: ran.append(number))
    with torch.no_grad():
        maps = model(x)
        assert ran == [0, 1, 2]
        assert [tuple(m.shape) for m in maps] == [(1, 112, 8, 8), (1, 224, 4, 4)]
        assert all(map(torch.equal, maps, model.forward_intermediates(x, (1, 2))))
        assert model.forward_intermediates(x, -1 % 4)[-1].shape == (1, 448, 2, 2)
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([112, 224], [8, 16])
    assert len(model.feature_info) == 4
    assert uniformer.create_model("uniformer_small_backbone", out_indices=3, depths=(1,) * 4).out_indices == (1, 2, 3)
    for wrong in ((4,), (), 5, 0, (-5,)):
        with refused("expected stages 0 to 3"):
            uniformer.create_model("uniformer_xxs", out_indices=wrong, **options)
    with refused("expected features_only=True for out_indices"):
        uniformer.create_model("uniformer_xxs", out_indices=(1,))
    with refused("channels first"):
        model.forward_intermediates(x, output_fmt="NHWC")
    with refused("gives maps alone"):
        model.forward_intermediates(x, intermediates_only=False)


def test_the_optimised_copy_gives_the_same_features() -> None:
    model = uniformer.create_model("uniformer_xxs", out_indices=(0, 1), features_only=True, depths=(1,) * 4).eval()
    x = torch.randn(1, 3, 64, 64)
    fast = uniformer.optimize(model)
    with torch.no_grad():
        for got, want in zip(fast(x), model(x), strict=True):
            assert_close(got, want, terms_of(model))
    head = tiny_model()
    with torch.no_grad():
        features = head.forward_features(x)
        fast = uniformer.optimize(head)
        found, wanted = (net.forward_head(features, pre_logits=True) for net in (fast, head))
        assert_close(found, wanted, terms_of(head))


# ---- classifiers -----------------------------------------------------------------------------------------------------


@with_classifier
def test_classifiers(kind: str) -> None:
    model = model_of(kind)
    x = an_input(model)
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        assert pooled.shape == (2, model.num_features) == (2, 64)
        head = model.get_classifier()
        names = model.pretrained_cfg["classifier"]
        if isinstance(head, nn.ModuleList):
            assert list(head) == [getattr(model, name) for name in names]
        else:
            assert head is getattr(model, names)
            assert torch.equal(head(pooled), model(x))
        model.reset_classifier(5, global_pool="avg")
        assert (model.num_classes, model(x).shape) == (5, (2, 5))
        model.reset_classifier(0)
        assert (model.num_classes, model.pretrained_cfg["num_classes"]) == (0, 0)
        assert isinstance(model.get_classifier(), nn.Identity)
        assert torch.equal(model(x), pooled)
    with refused(r"expected global_pool 'avg' \(the mean of all positions\), got ''"):
        model.reset_classifier(0, global_pool="")


# ---- freezing and checkpointing --------------------------------------------------------------------------------------


@every_kind
def test_freezing(kind: str) -> None:
    """timm freezes the statistics of two-dimensional batch norms only: for clips there is our own `freeze`."""
    model = model_of(kind)
    before, x = copy.deepcopy(model.state_dict()), an_input(model)
    freeze(model, ["stages.0", "stages.1"])
    trained = {name.split(".blocks")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert not trained & {"stages.0", "stages.1"}
    assert {"stages.2", "stages.3"} <= trained
    output = model.train()(x)
    sum(part.sum() for part in (output if isinstance(output, tuple) else (output,))).backward()
    assert model.stages[0].blocks[0].mhra.value.weight.grad is None
    assert model.stages[3].blocks[0].mhra.qkv.weight.grad is not None
    if not model.config.is_video:
        assert torch.equal(model.stages[0].blocks[0].norm1.running_mean, before["stages.0.blocks.0.norm1.running_mean"])
    unfreeze(model)
    assert list(model.state_dict()) == list(before)
    assert all(p.requires_grad for p in model.parameters())


def test_a_new_classifier_for_a_frozen_model() -> None:
    model = tiny_model()
    freeze(model)
    model.reset_classifier(3)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert model.train()(an_input(model)).shape == (2, 3)


@pytest.mark.parametrize("kind", ["images", "clips", "split clips"])
def test_checkpointed_stages(kind: str) -> None:
    model = model_of(kind)
    x = an_input(model)
    got = x.requires_grad_()
    for stage in model.stages:
        got = checkpoint_seq(stage.blocks, stage.embed(got))
    assert torch.equal(got, model.forward_intermediates(x)[-1])
    got.sum().backward()
    checkpointed = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    model.forward_intermediates(x)[-1].sum().backward()
    terms = 2 * terms_of(model) + x[:, 0].numel()
    assert_close_gradients(checkpointed, {name: p.grad for name, p in model.named_parameters()}, terms)


@every_kind
def test_grad_checkpointing_changes_no_gradient(kind: str) -> None:
    model, gradients = model_of(kind), []
    x = an_input(model)
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model.forward_intermediates(x)[-1].square().mean().backward()
        gradients.append(model.stages[0].embed.get_parameter(
            "conv1.weight" if model.config.overlap else "proj.weight").grad.clone())  # fmt: skip
    assert_close(*gradients, 2 * terms_of(model) + x[:, 0].numel())


# ---- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_says_what_it_is_fed(name: str) -> None:
    with torch.device("meta"):
        model = UniFormer(VARIANTS[name])
    spec, config = default_input(model.config), resolve_model_data_config(model)
    assert config["input_size"] == (3, *((spec.frames,) if spec.is_video else ()), *spec.size)
    assert math.floor(spec.size[0] / config["crop_pct"]) == spec.resize
    assert (config["mean"], config["std"], config["interpolation"]) == (spec.mean, spec.std, spec.interpolation)
    first = model.get_submodule(model.pretrained_cfg["first_conv"])
    assert first.in_channels == 3
    for size in (128, 160, 192, 384, 448):
        model.input_spec = default_input(model.config, size)
        assert math.floor(size / model.pretrained_cfg["crop_pct"]) == model.input_spec.resize


def test_timms_transform_is_ours() -> None:
    model = uniformer.create_model("uniformer_small", depths=(1, 1, 1, 1))
    image = Image.fromarray(odd_media.picture(3, 400, 300))
    transform = create_transform(**resolve_model_data_config(model))
    assert_close(transform(image), torch.from_numpy(image_array(image, default_input(model.config))[0]), 2)


def test_the_input_is_that_of_the_weights_once_they_are_loaded(tmp_path: Path) -> None:
    model, path = tiny_model(), tmp_path / "a.safetensors"
    spec = replace(IMAGES, mean=(0.5, 0.5, 0.5), channels="bgr")
    uniformer.save_checkpoint(model, path, Contract(model.config, "", spec))
    loaded = uniformer.load_model(path)[0]
    other = tiny_model(1)
    assert other.pretrained_cfg["input_size"] == (3, 224, 224)
    uniformer.load_checkpoint(other, path)
    for one in (loaded, other, copy.deepcopy(loaded)):
        cfg = one.pretrained_cfg
        assert (cfg["input_size"], cfg["mean"], cfg["channels"]) == ((3, 64, 64), (0.5, 0.5, 0.5), "bgr")
    video = tiny_model(ndim=3)
    uniformer.load_checkpoint(video, path, inflate="center")
    assert video.pretrained_cfg["input_size"] == (3, 16, 224, 224)
    assert uniformer.save_checkpoint(loaded, tmp_path / "b.safetensors").input == spec


def test_a_frozen_model_is_not_saved_but_for_its_unfrozen_self(tmp_path: Path) -> None:
    model = tiny_model()
    freeze(model, ["stages.0"])
    with refused(
        "expected a model with the tensors that its config says, got 2 too many or too few: stages.0.blocks.0"
    ):
        uniformer.save_checkpoint(model, tmp_path / "a.safetensors")
    unfreeze(model)
    uniformer.save_checkpoint(model, tmp_path / "a.safetensors")

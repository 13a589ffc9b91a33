"""Groups, freezing, schedules and averages, on tiny networks and against the published runs' own schedulers."""

import copy
import math

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from uniformer import create_model
from uniformer.errors import InputError
from uniformer.network.description import layer_of
from uniformer.training.muon import Muon
from uniformer.training.optim import (
    adamw,
    freeze,
    learning_rate,
    make_optimizer,
    moving_average,
    parameter_groups,
    set_learning_rate,
    train_mode,
)
from uniformer.training.recipe import EffectiveLR
from uniformer.training.sections import Optimizer, Schedule

TINY = {"depths": (1, 2, 1, 1), "dims": (16, 32, 64, 64), "head_dim": 16, "num_classes": 5}


@pytest.fixture
def light():
    """A tiny hourglass model with layer scale: every kind of parameter there is."""
    return create_model("uniformer_xxs_ls_video", **TINY)


def names_of(model, parameters):
    ids = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in ids}


# --- groups ------------------------------------------------------------------------------------------


def test_only_parameters_of_one_dimension_and_biases_are_spared_from_decay(light):
    spared, decaying = parameter_groups(light, weight_decay=0.05, lr=1e-3)
    assert (spared["weight_decay"], decaying["weight_decay"]) == (0.0, 0.05)
    assert spared["lr"] == decaying["lr"] == 1e-3
    decaying, spared = names_of(light, decaying["params"]), names_of(light, spared["params"])
    assert "stages.0.blocks.0.pos_embed.weight" in decaying
    assert "cls_token" in decaying
    assert "stages.0.blocks.0.scale1" in spared
    assert "norm.weight" in spared
    assert "head.bias" in spared
    assert decaying | spared == {name for name, _ in light.named_parameters()}
    assert not decaying & spared


def test_a_bias_of_several_dimensions_does_not_decay(light):
    light.head.bias = torch.nn.Parameter(torch.zeros(5, 1))
    spared, _ = parameter_groups(light, weight_decay=0.05, lr=1e-3)
    assert "head.bias" in names_of(light, spared["params"])


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("stages.0.embed.proj.weight", 0),
        ("stages.0.blocks.0.norm1.weight", 1),
        ("stages.1.embed.proj.weight", 2),
        ("stages.1.blocks.0.norm1.weight", 2),
        ("stages.1.blocks.1.norm1.weight", 3),
        ("cls_token", 4),
        ("stages.2.embed.norm.bias", 4),
        ("cls_proj.weight", 5),
        ("stages.3.blocks.0.ffn.fc1.weight", 5),
        ("stages.3.norm.weight", 6),
        ("norm.weight", 6),
        ("cls_norm.bias", 6),
        ("head.weight", 6),
    ],
)
def test_layers_follow_the_depth(name, layer):
    assert layer_of(name, TINY["depths"]) == layer


def test_layer_decay_slows_each_layer_by_one_more_factor(light):
    groups = parameter_groups(light, weight_decay=0.05, lr=1e-3, layer_decay=0.5)
    rates = {name: group["lr"] for group in groups for name in names_of(light, group["params"])}
    assert rates["head.weight"] == 1e-3
    assert rates["stages.3.blocks.0.scale1"] == pytest.approx(0.5e-3)
    assert rates["stages.0.embed.conv1.weight"] == pytest.approx(1e-3 * 0.5**6)
    assert len(rates) == len(list(light.named_parameters()))
    optimizer = adamw(groups)
    set_learning_rate(optimizer, 2e-3)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx(
        [2e-3 * 0.5**i for i in range(6, -1, -1)]
    )


@pytest.mark.parametrize("layer_decay", [0, -0.1, 1.5])
def test_layer_decay_out_of_range_is_refused(light, layer_decay):
    with pytest.raises(InputError, match=r"expected layer_decay in \(0, 1\]"):
        parameter_groups(light, weight_decay=0.05, lr=1e-3, layer_decay=layer_decay)


def test_the_optimizer_steps_as_torchs_adamw_with_decay_where_it_should(light):
    light.head.weight.grad = torch.zeros_like(light.head.weight)
    light.head.bias.grad = torch.zeros_like(light.head.bias)
    torch.nn.init.ones_(light.head.bias)
    before = light.head.weight.detach().clone()
    adamw(parameter_groups(light, weight_decay=0.1, lr=0.01)).step()
    torch.testing.assert_close(light.head.weight.detach(), before * (1 - 0.1 * 0.01))
    assert (light.head.bias == 1).all()


def test_under_muon_what_is_no_matrix_steps_as_torchs_adamw(light):
    twin = copy.deepcopy(light)
    ours = Muon(parameter_groups(light, weight_decay=0.1, lr=0.01), betas=(0.9, 0.99), eps=1e-7)
    theirs = adamw(parameter_groups(twin, weight_decay=0.1, lr=0.01), betas=(0.9, 0.99), eps=1e-7)
    for seed in range(3):
        for network, optimizer in ((light, ours), (twin, theirs)):
            x = torch.randn(2, 3, 2, 32, 32, generator=torch.Generator().manual_seed(seed))
            network.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(light.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_muon_takes_what_mixes_channels_as_matrices(light):
    optimizer = make_optimizer(light, Optimizer(name="muon", weight_decay=0.05), 1e-3)
    named = {id(p): name for name, p in light.named_parameters()}
    of = {named[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert of.keys() == set(named.values())
    matrices = {name for name, group in of.items() if group["matrix"]}
    assert {
        "stages.0.embed.conv1.weight",
        "stages.0.blocks.0.mhra.value.weight",
        "stages.0.blocks.0.ffn.fc1.weight",
        "stages.1.embed.proj.weight",
        "stages.2.blocks.0.mhra.qkv.weight",
        "cls_proj.weight",
    } <= matrices
    others = {"head.weight", "cls_head.weight", "cls_token", "stages.0.blocks.0.pos_embed.weight", "norm.weight"}
    assert not (others | {"stages.0.blocks.0.mhra.affinity.weight", "stages.0.blocks.0.scale1"}) & matrices
    assert all(of[name]["weight_decay"] == 0.05 for name in matrices)


# --- freezing ----------------------------------------------------------------------------------------


def test_a_frozen_backbone_leaves_the_classifiers_to_train(light):
    freeze(light, ["backbone"])
    groups = parameter_groups(light, weight_decay=0.05, lr=1e-3)
    left = set().union(*(names_of(light, group["params"]) for group in groups))
    assert left == {"head.weight", "head.bias", "cls_head.weight", "cls_head.bias"}


def test_frozen_parts_keep_their_statistics_and_weights_in_training(light):
    freeze(light, ["stages.0", "stages.1.embed", "cls_token"])
    train_mode(light)
    assert light.training
    assert light.stages[1].blocks[0].training
    assert not light.stages[0].training
    assert not light.stages[1].embed.training
    before = copy.deepcopy(light.state_dict())
    optimizer = adamw(parameter_groups(light, weight_decay=0.1, lr=0.1))
    light(torch.randn(2, 3, 2, 32, 32)).sum().backward()
    optimizer.step()
    frozen = ("stages.0.", "stages.1.embed.", "cls_token")
    changed = {name for name, value in light.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if name.startswith(frozen)]
    assert {"stages.1.blocks.0.norm1.running_mean", "stages.1.blocks.0.pos_embed.weight"} <= changed


def test_plain_train_would_not_keep_them(light):
    """Why `train_mode` exists."""
    freeze(light, ["stages.0"])
    light.train()
    assert light.stages[0].training


def test_freezing_takes_whole_names_only():
    model = create_model("uniformer_small", **{**TINY, "depths": (1, 1, 11, 1)})
    freeze(model, ["stages.2.blocks.1"])
    frozen = {name.split(".")[3] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"1"}  # and not 10


def test_unknown_parts_and_nothing_to_train_are_refused(light):
    with pytest.raises(InputError, match=r"unknown part 'stage.0' to freeze.*'stages.0'"):
        freeze(light, ["stage.0"])
    freeze(light, ["backbone", "head", "cls_head"])
    with pytest.raises(InputError, match="all of them are frozen"):
        parameter_groups(light, weight_decay=0.05, lr=1e-3)


# --- learning rates ----------------------------------------------------------------------------------

RATES = EffectiveLR(lr=1e-3, warmup_lr=1e-6, min_lr=1e-5, sentence="")
IMAGE = Schedule(epochs=300, warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5, per="epoch")


def test_image_schedule_is_timms():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATES.lr)
    timm = CosineLRScheduler(optimizer, t_initial=300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    for epoch in range(310):
        timm.step(epoch)
        assert learning_rate(epoch + 0.7, RATES, IMAGE) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_the_plain_image_runs_are_one_epoch_late():
    late = Schedule(epochs=300, warmup_epochs=5, per="epoch", late=True)
    rates = [learning_rate(epoch, RATES, late) for epoch in range(300)]
    assert rates[0] == rates[1] == 1e-6
    assert rates[1:] == [learning_rate(epoch, RATES, IMAGE) for epoch in range(299)]


def test_video_schedule_by_hand():
    video = Schedule(epochs=110, warmup_epochs=10, per="step")
    rates = EffectiveLR(1e-4, 1e-6, 1e-6, "")
    assert learning_rate(0, rates, video) == 1e-6
    assert learning_rate(2.5, rates, video) == pytest.approx(1e-6 + (1e-4 - 1e-6) / 4)
    assert learning_rate(10, rates, video) == 1e-4
    assert learning_rate(60, rates, video) == pytest.approx((1e-4 + 1e-6) / 2)
    assert learning_rate(109.5, rates, video) == pytest.approx(
        1e-6 + (1e-4 - 1e-6) * (1 + math.cos(math.pi * 0.995)) / 2
    )
    assert learning_rate(110, rates, video) == 1e-6
    assert learning_rate(115, rates, video) == 1e-6


def test_constant_schedule():
    constant = Schedule(epochs=60, warmup_epochs=0, kind="constant")
    assert {learning_rate(epoch, RATES, constant) for epoch in (0, 1.5, 59, 65)} == {1e-3}
    warming = Schedule(epochs=60, warmup_epochs=2, kind="constant", per="step")
    assert learning_rate(0.5, RATES, warming) == pytest.approx(1e-6 + (1e-3 - 1e-6) / 4)


# --- averages ----------------------------------------------------------------------------------------


def test_the_average_moves_by_one_minus_decay_with_statistics_and_survives_a_checkpoint(tmp_path, light):
    average = moving_average(light, 0.9)
    start = copy.deepcopy(light.state_dict())
    with torch.no_grad():
        light.head.weight.add_(1)
        light.norm.running_mean.add_(2)
        light.norm.num_batches_tracked.add_(3)
    average.update(light)
    moved = average.module.state_dict()
    torch.testing.assert_close(moved["head.weight"], start["head.weight"] + 0.1)
    torch.testing.assert_close(moved["norm.running_mean"], start["norm.running_mean"] + 0.2)
    assert moved["norm.num_batches_tracked"] == light.norm.num_batches_tracked
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert light.head.weight.requires_grad

    torch.save(average.state_dict(), tmp_path / "ema.pt")
    resumed = moving_average(create_model("uniformer_xxs_ls_video", **TINY), 0.9)
    resumed.load_state_dict(torch.load(tmp_path / "ema.pt"))
    for average_, model in ((average, light), (resumed, light)):
        average_.update(model)
    for name, value in average.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name])

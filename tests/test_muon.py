"""Muon: its orthogonal matrices against singular value decompositions, its steps against timm's and torch's."""

import copy

import pytest
import timm.optim
import torch
from torch import nn

from uniformer import create_model
from uniformer.recipe import Optimizer
from uniformer.training import muon
from uniformer.training.muon import Muon, orthogonal
from uniformer.training.optim import adamw, make_optimizer, parameter_groups

TINY = {"depths": (1, 2, 1, 1), "dims": (16, 32, 64, 64), "head_dim": 16, "num_classes": 5}


@pytest.fixture
def light():
    """A tiny hourglass model with layer scale: every kind of parameter there is."""
    return create_model("uniformer_xxs_ls_video", **TINY)


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv3d(4, 8, 3), nn.GELU(), nn.Conv3d(8, 6, 1), nn.Flatten(), nn.Linear(108, 12))


def matrices_and_rest(model, name, lr=0.01):
    wide, narrow = [], []
    for parameter in model.parameters():
        (wide if parameter.ndim > 1 else narrow).append(parameter)
    return [
        {"params": wide, "weight_decay": 0.1, "lr": lr, name: True},
        {"params": narrow, "weight_decay": 0.0, "lr": lr, name: False},
    ]


def backward(model, seed):
    x = torch.randn(4, 4, 4, 5, 5, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    model(x).square().mean().backward()


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30)])
def test_singular_values_come_near_1_and_singular_vectors_stay(shape, monkeypatch):
    monkeypatch.setattr(muon, "_precision", lambda device: torch.float64)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, values, v = torch.linalg.svd(x, full_matrices=False)
    seen = u.mT @ orthogonal(x) @ v.mT  # diagonal, where the vectors are the same
    diagonal = seen.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(seen, torch.diag_embed(diagonal), atol=1e-10, rtol=0)
    well = values > 0.02 * values.norm(dim=1, keepdim=True)
    assert well.float().mean() > 0.9
    assert ((diagonal > 0.6) & (diagonal < 1.3))[well].all()


def test_the_devices_precision_gives_nearly_the_same(monkeypatch):
    x = torch.randn(2, 24, 60, generator=torch.Generator().manual_seed(0))
    here = orthogonal(x)
    assert here.dtype == torch.float32
    monkeypatch.setattr(muon, "_precision", lambda device: torch.float64)
    exact = orthogonal(x)
    assert (here - exact).norm() < 0.05 * exact.norm()


def test_a_matrix_of_zeros_stays_one():
    assert not orthogonal(torch.zeros(1, 3, 4)).any()


def test_matrices_step_as_timms_muon(monkeypatch):
    """All else does not: with Nesterov momentum timm takes NAdamW for it."""
    monkeypatch.setattr(muon, "_precision", lambda device: torch.bfloat16)  # the only one that timm's knows
    model, twin, start = net(), net(), net()
    ours = Muon(matrices_and_rest(model, "matrix"), betas=(0.9, 0.95), eps=1e-7)
    theirs = timm.optim.Muon(matrices_and_rest(twin, "use_muon"), nesterov=True, ns_coefficients="original")
    for seed in range(3):
        backward(model, seed)
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    for a, b, old in zip(model.parameters(), twin.parameters(), start.parameters(), strict=True):
        assert a.ndim == 1 or (a - b).norm() < 1e-3 * (b - old).norm()


def test_everything_else_steps_as_torchs_adamw(light):
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


def test_what_mixes_channels_counts_as_a_matrix(light):
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


def test_its_state_goes_on_bit_for_bit(tmp_path):
    model, twin = net(), net()
    first = Muon(matrices_and_rest(model, "matrix"), betas=(0.9, 0.99), eps=1e-8)
    for seed in range(4):
        backward(model, seed)
        first.step()
        if seed == 1:
            torch.save({"model": model.state_dict(), "optimizer": first.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    twin.load_state_dict(state["model"])
    second = Muon(matrices_and_rest(twin, "matrix"), betas=(0.9, 0.99), eps=1e-8)
    second.load_state_dict(state["optimizer"])
    for seed in (2, 3):
        backward(twin, seed)
        second.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)

"""Muon: its orthogonal matrices against singular value decompositions, its steps against timm's. What is not a matrix:
test_optim.py."""

import pytest
import timm.optim
import torch
from torch import nn

from tests.tolerance import assert_close, rounding
from uniformer.training import muon
from uniformer.training.muon import Muon, orthogonal


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
    stretched = muon.QUINTIC[0] ** muon.ROUNDS  # what the first round rounds, by the later ones
    assert_close(seen, torch.diag_embed(diagonal), 3 * muon.ROUNDS * max(shape), scale=stretched)
    well = values > 0.02 * values.norm(dim=1, keepdim=True)
    assert well.float().mean() > 0.9
    assert ((diagonal > 0.6) & (diagonal < 1.3))[well].all()


def test_the_devices_precision_gives_nearly_the_same(monkeypatch):
    x = torch.randn(2, 24, 60, generator=torch.Generator().manual_seed(0))
    here = orthogonal(x)
    assert here.dtype == torch.float32
    monkeypatch.setattr(muon, "_precision", lambda device: torch.float64)
    exact = orthogonal(x)
    assert (here - exact).norm() <= rounding(torch.bfloat16, muon.ROUNDS) * exact.norm()


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
        assert a.ndim == 1 or (a - b).norm() <= rounding(torch.bfloat16) * (b - old).norm()


def test_a_closure_is_called_for_the_gradients_and_its_loss_returned():
    models = net(), net()
    first, second = (Muon(matrices_and_rest(model, "matrix"), betas=(0.9, 0.99), eps=1e-8) for model in models)
    backward(models[0], 0)
    assert first.step() is None

    def closure():
        models[1].zero_grad()
        loss = models[1](torch.randn(4, 4, 4, 5, 5, generator=torch.Generator().manual_seed(0))).square().mean()
        loss.backward()
        return loss

    loss = second.step(closure)
    assert loss.item() > 0
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


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

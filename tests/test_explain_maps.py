"""The maps of an explanation: exact where the truth is known, of a network's stages, attention and kept tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_model
from tests.tolerance import assert_close
from uniformer.explanations.maps import attention_relevance, carried, class_activation, class_attention, kept_tokens
from uniformer.explanations.trace import Attended, Trace, traced
from uniformer.network.model import UniFormer


def seen(model: UniFormer, x: Tensor, row: int = 0) -> tuple[Trace, Any]:
    return traced(model, lambda: model(x)[0, row])


def clip(*, frames: int = 4, side: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, frames, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- class-activation maps -------------------------------------------------------------------------------------------


def test_of_the_last_stage_they_add_up_to_the_logit_exactly() -> None:
    """What follows is linear: batch norm, mean and classifier. So each position's share is known."""
    model = tiny_model(ndim=3).double()
    x = clip()
    trace, grads = seen(model, x, 3)
    found = class_activation(trace.maps[4], grads.maps[4], pooled=True)
    at_zero = model.forward_head(model.norm(torch.zeros_like(trace.maps[4])))[0, 3]  # type: ignore[misc]
    assert_close(found.sum() + at_zero, model(x)[0, 3], trace.maps[4].numel())
    scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()  # type: ignore[union-attr, operator]
    cam = (trace.maps[4][0] * (scale * model.head.weight[3])[:, None, None, None]).sum(0) / found.numel()  # type: ignore[union-attr, operator]
    assert_close(found[0], cam, len(scale))


def test_of_a_place_they_are_what_is_lost_where_a_position_is_as_the_rest() -> None:
    """Exactly, by a linear network that reads each position otherwise; what reads one has that alone."""
    maps = torch.rand(1, 8, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(maps.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (grads,) = torch.autograd.grad((maps * weights).sum(), maps)
    found = class_activation(maps.detach(), grads, pooled=False)
    for place in np.ndindex(2, 3, 3):
        as_the_rest = maps.detach().clone()
        as_the_rest[(0, slice(None), *place)] = maps.detach()[0].flatten(1).mean(1)
        lost = ((maps - as_the_rest) * weights).sum()
        assert_close(found[(0, *place)], lost, maps.numel())
    (grads,) = torch.autograd.grad((maps[0, :, 1, 0, 2] * weights[0, :, 1, 0, 2]).sum(), maps)
    assert int((class_activation(maps.detach(), grads, pooled=False) != 0).sum()) == 1
    assert int((class_activation(maps.detach(), grads, pooled=True) != 0).sum()) == 18


@pytest.mark.parametrize("first", [1, 2])
def test_the_graph_begins_at_a_local_stage_with_its_gradient(first: int) -> None:
    model, own = tiny_model().double(), list[Tensor]()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    trace, grads = traced(model, lambda: model(x)[0, 0], first)
    for stage in model.stages[first - 1 : 2]:
        stage.blocks[-1].register_forward_hook(lambda *passed: own.append(passed[-1]))  # type: ignore[union-attr, index]
    assert list(trace.maps) == [1, 2, 3, 4][first - 1 :]
    for stage, wanted in enumerate(torch.autograd.grad(model(x)[0, 0], own), start=first):
        assert_close(grads.maps[stage], wanted, wanted.numel())


def test_nothing_of_the_network_is_changed() -> None:
    model = tiny_model(keep_ratio=0.5, ndim=3).double()
    model.set_grad_checkpointing()
    x, before = clip(), {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(x).detach()
    trace, grads = seen(model, x)
    assert trace.maps[3].shape == grads.maps[3].shape
    assert torch.equal(model(x), logits)
    assert model.grad_checkpointing
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# ---- attention -------------------------------------------------------------------------------------------------------


def attended(seed: int, tokens: int = 5, heads: int = 2, dim: int = 4) -> tuple[Attended, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(1, tokens, 3 * heads * dim, generator=generator, dtype=torch.float64)
    grad = torch.randn(1, tokens, heads * dim, generator=generator, dtype=torch.float64)
    return Attended(qkv, grad, dim), grad


def test_the_attention_is_weighed_by_its_own_gradient() -> None:
    """As by Chefer et al.: against a gradient that torch takes of the affinities themselves."""
    one, grad = attended(0)
    q, k, v = (p.unflatten(2, (2, 4)).transpose(1, 2) for p in one.qkv.chunk(3, dim=2))
    affinity = (q @ k.transpose(2, 3) / 2).softmax(-1).requires_grad_()
    mixed = (affinity @ v).transpose(1, 2).flatten(2)
    (slope,) = torch.autograd.grad((mixed * grad).sum(), affinity)
    expected = (affinity * slope).relu().sum(1)
    expected = expected / expected.sum(2, keepdim=True)
    assert_close(class_attention(one, grad), expected.detach(), 16)


def test_block_by_block_is_the_product_of_the_rules_matrices() -> None:
    """R <- (1 + A) R / 2 from the first block on, then the row of the answer; here from the last block back."""
    blocks = [attended(seed) for seed in range(3)]
    answer = torch.rand(1, 5, dtype=torch.float64)
    relevance, matrix = answer, torch.eye(5, dtype=torch.float64)
    for block in reversed(blocks):
        relevance = 0.5 * (relevance + carried(*block, relevance))
    for block in blocks:
        matrix = 0.5 * (matrix + class_attention(*block)[0] @ matrix)
    assert_close(relevance, answer @ matrix, 5)


@pytest.mark.parametrize(
    "options", [{"ndim": 3}, {"ndim": 3, "split_attention": True}, {"ndim": 3, "keep_ratio": 0.5}, {"overlap": 4}]
)
def test_relevance_is_passed_on_and_not_lost(options: dict[str, Any]) -> None:
    model = tiny_model(**{"depths": (1, 1, 2, 2), **options}).double()
    x = clip() if "ndim" in options else clip()[:, :, 0]
    trace, grads = seen(model, x)
    start = class_activation(trace.maps[4], grads.maps[4], pooled=True).relu().sum()
    found = attention_relevance(model, trace, grads, pooled=True)
    assert found.shape == (1, *trace.grid(3))
    assert float(found.detach().min()) >= 0
    lost = 0 if "keep_ratio" not in options else _with_the_class_token(model, trace, grads)
    assert_close(found.sum() + lost, start, found.numel() * 4)


def _with_the_class_token(model: UniFormer, trace: Trace, grads: Any) -> Tensor:
    """What the class token ends with, which no position is."""
    from uniformer.explanations import maps

    last = class_activation(trace.maps[4], grads.maps[4], pooled=True).relu().flatten(1)
    tokens, cls = maps._back_through(model, 4, trace, grads, last, last.new_zeros(1, 1))
    spread = maps.spread_to(tokens.view(1, *trace.grid(4)), trace.grid(3)).flatten(1)
    return maps._back_through(model, 3, trace, grads, spread, cls)[1].sum()


def test_windows_keep_relevance_within_them() -> None:
    """A 4 x 4 window of a stage of windows alone: what begins in it stays in it."""
    from uniformer.explanations import maps

    model = tiny_model(ndim=2, window=4, num_classes=7).double()
    trace, grads = seen(model, clip(side=128)[:, :, 0])
    assert trace.grid(3) == (8, 8)
    start = torch.zeros(1, 8, 8, dtype=torch.float64)
    start[0, 1, 6] = 1
    found, _ = maps._back_through(model, 3, trace, grads, start.flatten(1), start.new_zeros(1, 1))
    found = found.view(8, 8)
    assert_close(found[:4, 4:].sum(), torch.ones((), dtype=torch.float64), 16)
    assert float(found[4:].abs().sum() + found[:4, :4].abs().sum()) == 0


# ---- hourglass blocks ------------------------------------------------------------------------------------------------


def test_tokens_that_were_not_kept_all_got_the_same() -> None:
    """The summary's update, and no other: so the block itself tells which they were."""
    model = tiny_model(depths=(1, 1, 3, 2), ndim=3, keep_ratio=0.5).double()
    given: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for stage in (3, 4):
        for index, block in enumerate(model.stages[stage - 1].blocks):  # type: ignore[arg-type, union-attr]

            def keep(m: Any, args: Any, out: Any, key: tuple[int, int] = (stage, index)) -> None:
                given[key] = (m._positioned(args[0]), out[0])

            block.register_forward_hook(keep)
    trace, _ = seen(model, clip())
    kept = kept_tokens(model, trace)
    assert list(kept) == [(3, 1), (3, 2), (4, 0), (4, 1)]  # the first has no scores to choose by
    for key, which in kept.items():
        before, after = given[key]
        update = (after - before)[0].flatten(1).T.detach()  # (N, C)
        rest = ~which[0].flatten()
        assert int(rest.sum()) == len(rest) - int(len(rest) * 0.5)
        assert_close(update[rest], update[rest][:1].expand_as(update[rest]), 4)
        assert float((update[~rest] - update[rest][:1]).abs().amax(1).min()) > 1e-6

"""Depthwise convolutions on a GPU: every implementation the same numbers; measured, remembered, given to the layers.

Without a GPU the implementations are called by themselves, on the CPU, where they compute the same.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import uniformer
from tests.interpreted_kernels import LAST, all_of_it, drawn, needs_cuda, terms
from tests.tiny import TINY, tiny_model
from tests.tolerance import assert_close, layers_of, off, rounding
from uniformer import speed
from uniformer.speed import tuning
from uniformer.speed.blocks import FastDepthwise3d
from uniformer.speed.depthwise import (
    IMPLEMENTATIONS,
    Depthwise3d,
    Implementation,
    depthwise,
    depthwise_plain,
    has_triton,
    usable,
)
from uniformer.speed.timings import NAME, best_at_hand, remember, remembered, seconds
from uniformer.speed.tuning import (
    Case,
    apply_tuned_kernels,
    cases,
    fastest_implementations,
    measure_case,
    measure_depthwise,
    set_implementations,
)

CPU = torch.device("cpu")
SIZE = (3, 4, 64, 64)
CONFIG = replace(TINY, ndim=3)
OF_TORCH: tuple[Implementation, ...] = ("contiguous", "channels_last", "planes")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "uniformer"


@pytest.mark.parametrize("implementation", OF_TORCH)
@pytest.mark.parametrize("shape", [(2, 6, 4, 5, 7), (1, 3, 1, 4, 4), (2, 5, 2, 1, 1)])
def test_every_one_gives_what_the_plain_twin_gives(
    implementation: Implementation, shape: tuple[int, ...], one_thread: None
) -> None:
    for kernel in (3, 5):
        for residual in (False, True):
            given = drawn(shape, kernel, True, torch.float32)
            found = all_of_it(lambda *v, r=residual: IMPLEMENTATIONS[implementation](*v, r), *given)
            doubled = (v.double() for v in given)
            true = all_of_it(lambda x, *v, r=residual: depthwise_plain(x, *v) + (x if r else 0), *doubled)
            assert max(map(off, found, true)) <= rounding(torch.float32, terms(shape, kernel))
            assert found[0].is_contiguous(memory_format=LAST)


def test_on_a_cpu_an_implementation_changes_nothing(one_thread: None) -> None:
    x, weight, bias, _ = drawn((1, 3, 4, 5, 5), 3, True, torch.float32)
    assert torch.equal(depthwise(x, weight, bias, "triton"), depthwise(x, weight, bias))
    assert torch.equal(depthwise(x, weight, bias, residual=True), x + depthwise(x, weight, bias))
    layer = Depthwise3d(3, 3, 3, padding=1, groups=3)
    assert layer.implementation is None
    assert_close(layer.added_to(x), x + layer(x), 27)


def test_the_layers_of_a_network_and_what_they_are_asked_for() -> None:
    found = cases(CONFIG, SIZE, CPU, torch.bfloat16, training=True)
    assert len(found) == 6  # a position embedding in each of four blocks, two affinities
    assert found["stages.0.blocks.0.affinity"] == Case(5, (16, 2, 16, 16), True, torch.bfloat16, CPU)
    assert found["stages.3.blocks.0.pos_embed"] == Case(3, (64, 2, 2, 2), True, torch.bfloat16, CPU)
    assert cases(TINY, SIZE[:1] + SIZE[2:], CPU, torch.float32, training=False) == {}
    situations = {case.situation for case in found.values()}
    situations |= {c.situation for c in cases(CONFIG, SIZE, CPU, torch.bfloat16, training=False).values()}
    situations |= {c.situation for c in cases(CONFIG, SIZE, CPU, torch.float16, training=True).values()}
    assert len(situations) == 18


def test_what_was_measured_is_remembered_and_given_to_the_layers(cache: Path, one_thread: None) -> None:
    said: list[str] = []
    measure_depthwise(
        CONFIG, SIZE, batch=1, device=CPU, dtype=torch.float32, rounds=1, implementations=OF_TORCH, say=said.append
    )
    kept = json.loads((cache / NAME).read_text())
    assert len(kept) == 12 == len(said)
    assert all(set(times) == set(OF_TORCH) and min(times.values()) > 0 for times in kept.values())

    wanted = cases(CONFIG, SIZE, CPU, torch.float32, training=False)
    affinity = wanted["stages.1.blocks.0.affinity"]
    remember(affinity.situation, {"planes": 0.1, "contiguous": 0.2})
    best = fastest_implementations(wanted)
    assert set(best) == set(wanted)
    model = speed.prepare(tiny_model(ndim=3), training=True)
    fast = uniformer.optimize(model)
    for network in (model, fast):
        set_implementations(network, {"stages.1.blocks.0.affinity": best["stages.1.blocks.0.affinity"]})
        given = [m.implementation for m in network.modules() if isinstance(m, Depthwise3d)]
        assert sorted(given, key=str) == [None] * 5 + ["planes"]
    assert sum(isinstance(m, FastDepthwise3d) for m in fast.modules()) == 6
    assert not any("implementation" in vars(m) for m in speed.unprepare(model).modules())
    assert best_at_hand("another situation", str, SIZE) == "fast"  # both kinds lie in one file


def test_nothing_is_given_where_there_is_nothing_to_choose(cache: Path) -> None:
    case = cases(CONFIG, SIZE, CPU, torch.float32, training=False)["stages.0.blocks.0.affinity"]
    remember(case.situation, {"planes": 1.0})
    model = speed.prepare(tiny_model(ndim=3), training=True, size=SIZE)
    assert apply_tuned_kernels(model, SIZE, torch.float32, training=True) == {}  # on a CPU
    assert fastest_implementations(cases(CONFIG, SIZE, CPU, torch.float16, training=False)) == {}


def test_one_that_cannot_run_or_is_wrong_is_left_out(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    case, said = Case(3, (4, 2, 5, 5), True, torch.float32, CPU), []

    def broken(*args: Any) -> Any:
        raise RuntimeError("no such kernel\non this card")

    monkeypatch.setitem(tuning.IMPLEMENTATIONS, "planes", broken)
    monkeypatch.setitem(tuning.IMPLEMENTATIONS, "contiguous", lambda x, w, b, r: depthwise_plain(x, 1.1 * w, b))
    times = measure_case(case, 2, rounds=1, implementations=OF_TORCH, say=said.append)
    assert set(times) == {"channels_last"}
    assert "contiguous: left out, off by" in said[0]
    assert said[1] == "planes: cannot run here: no such kernel"


def test_without_triton_another_takes_its_place(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    wanted = cases(CONFIG, SIZE, CPU, torch.float32, training=False)
    for case in wanted.values():
        remember(case.situation, {"triton": 0.1, "contiguous": 0.2, "planes": 0.3})
    has_triton.cache_clear()
    monkeypatch.setitem(sys.modules, "uniformer.speed.kernels", None)  # what Python makes of a failed import
    try:
        assert not has_triton()
        assert usable("triton") == "channels_last"
        assert set(fastest_implementations(wanted).values()) == {"contiguous"}
        case = next(iter(wanted.values()))
        assert measure_case(case, 1, rounds=1, implementations=("triton",)) == {}
    finally:
        has_triton.cache_clear()


def test_a_damaged_file_is_told(cache: Path) -> None:
    cache.mkdir()
    (cache / NAME).write_text("[]")
    with pytest.raises(uniformer.InputError, match="delete it"):
        remembered()


def test_the_clock_counts_one_of_several_runs(one_thread: None) -> None:
    calls: list[int] = []
    assert seconds(lambda: calls.append(1), CPU, times=5) >= 0
    assert len(calls) == 5


@needs_cuda
def test_measured_and_used_on_a_gpu(cache: Path) -> None:
    device = torch.device("cuda", 0)
    said: list[str] = []
    measure_depthwise(CONFIG, SIZE, batch=2, device=device, dtype=torch.bfloat16, rounds=2, say=said.append)
    assert not [line for line in said if "left out" in line or "cannot run" in line]
    model = tiny_model(ndim=3).cuda()
    x = torch.randn(2, *SIZE, device=device)
    fast = uniformer.optimize(model, dtype=torch.bfloat16, example=x)
    assert all(m.implementation is not None for m in fast.modules() if isinstance(m, Depthwise3d))
    wanted = model(x)
    assert off(fast(x), wanted) <= rounding(torch.bfloat16, layers_of(model))
    speed.prepare(model, training=True, dtype=torch.bfloat16, size=SIZE)
    assert all(m.implementation is not None for m in model.modules() if isinstance(m, Depthwise3d))
    with torch.autocast("cuda", torch.bfloat16):
        model.train()(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@needs_cuda
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_one_on_a_gpu(implementation: Implementation) -> None:
    given = [v.cuda() for v in drawn((2, 48, 5, 14, 15), 5, True, torch.bfloat16)]
    found = all_of_it(lambda *v: depthwise(*v, implementation, residual=True), *given)
    true = all_of_it(lambda x, *v: depthwise_plain(x, *v) + x, *(v.double() for v in given))
    assert max(map(off, found, true)) <= rounding(torch.bfloat16, 5)  # five planes in time, each rounded
    assert found[0].is_contiguous(memory_format=LAST)

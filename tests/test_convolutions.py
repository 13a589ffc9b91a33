"""Forms of the depthwise convolution for a GPU: the same numbers; measured, remembered, given to a network's layers.

Without a GPU the forms are called by themselves, on the CPU, where they compute the same.
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
from uniformer.speed import convolutions
from uniformer.speed.blocks import FastDepthwise3d
from uniformer.speed.clock import seconds
from uniformer.speed.convolutions import Case, cases, fastest_forms, give, measure_case, measure_depthwise, recall
from uniformer.speed.depthwise import FORMS, Depthwise3d, Form, depthwise, depthwise_plain, has_triton, usable
from uniformer.speed.timings import NAME, best_at_hand, remember, remembered

CPU = torch.device("cpu")
SIZE = (3, 4, 64, 64)
CONFIG = replace(TINY, ndim=3)
OF_TORCH: tuple[Form, ...] = ("contiguous", "channels_last", "planes")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "uniformer"


@pytest.mark.parametrize("form", OF_TORCH)
@pytest.mark.parametrize("shape", [(2, 6, 4, 5, 7), (1, 3, 1, 4, 4), (2, 5, 2, 1, 1)])
def test_every_form_gives_what_the_plain_twin_gives(form: Form, shape: tuple[int, ...], one_thread: None) -> None:
    for kernel in (3, 5):
        for residual in (False, True):
            given = drawn(shape, kernel, True, torch.float32)
            found = all_of_it(lambda *v, r=residual: FORMS[form](*v, r), *given)
            doubled = (v.double() for v in given)
            true = all_of_it(lambda x, *v, r=residual: depthwise_plain(x, *v) + (x if r else 0), *doubled)
            assert max(map(off, found, true)) <= rounding(torch.float32, terms(shape, kernel))
            assert found[0].is_contiguous(memory_format=LAST)


def test_on_a_cpu_a_form_changes_nothing(one_thread: None) -> None:
    x, weight, bias, _ = drawn((1, 3, 4, 5, 5), 3, True, torch.float32)
    assert torch.equal(depthwise(x, weight, bias, "triton"), depthwise(x, weight, bias))
    assert torch.equal(depthwise(x, weight, bias, residual=True), x + depthwise(x, weight, bias))
    layer = Depthwise3d(3, 3)
    assert layer.form is None
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
    measure_depthwise(CONFIG, SIZE, batch=1, device=CPU, dtype=torch.float32, rounds=1, forms=OF_TORCH, say=said.append)
    kept = json.loads((cache / NAME).read_text())
    assert len(kept) == 12 == len(said)
    assert all(set(times) == set(OF_TORCH) and min(times.values()) > 0 for times in kept.values())

    wanted = cases(CONFIG, SIZE, CPU, torch.float32, training=False)
    affinity = wanted["stages.1.blocks.0.affinity"]
    remember(affinity.situation, {"planes": 0.1, "contiguous": 0.2})
    forms = fastest_forms(wanted)
    assert set(forms) == set(wanted)
    model = tiny_model(ndim=3)
    fast = uniformer.optimize(model)
    for network in (model, fast):
        assert give(network, {"stages.1.blocks.0.affinity": forms["stages.1.blocks.0.affinity"]})  # type: ignore[arg-type]
        given = {m.form for m in network.modules() if isinstance(m, Depthwise3d)}
        assert given == {None, "planes"}
    assert sum(isinstance(m, FastDepthwise3d) for m in fast.modules()) == 6
    give(model, {})
    assert {m.form for m in model.modules() if isinstance(m, Depthwise3d)} == {None}
    assert best_at_hand("another situation", str, SIZE) == "fast"  # both kinds lie in one file


def test_nothing_is_given_where_there_is_nothing_to_choose(cache: Path) -> None:
    case = cases(CONFIG, SIZE, CPU, torch.float32, training=False)["stages.0.blocks.0.affinity"]
    remember(case.situation, {"planes": 1.0})
    assert recall(tiny_model(ndim=3), SIZE, torch.float32) == {}  # on a CPU
    assert recall(tiny_model(), SIZE[:1] + SIZE[2:], torch.float32) == {}
    assert fastest_forms(cases(CONFIG, SIZE, CPU, torch.float16, training=False)) == {}


def test_a_form_that_cannot_run_or_is_wrong_is_left_out(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    case, said = Case(3, (4, 2, 5, 5), True, torch.float32, CPU), []

    def broken(*args: Any) -> Any:
        raise RuntimeError("no such kernel\non this card")

    monkeypatch.setitem(convolutions.FORMS, "planes", broken)
    monkeypatch.setitem(convolutions.FORMS, "contiguous", lambda x, w, b, r: depthwise_plain(x, 1.1 * w, b))
    times = measure_case(case, 2, rounds=1, forms=OF_TORCH, say=said.append)
    assert set(times) == {"channels_last"}
    assert "contiguous: left out, off by" in said[0]
    assert said[1] == "planes: cannot run here: no such kernel"


def test_without_triton_its_form_is_another(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    wanted = cases(CONFIG, SIZE, CPU, torch.float32, training=False)
    for case in wanted.values():
        remember(case.situation, {"triton": 0.1, "contiguous": 0.2, "planes": 0.3})
    has_triton.cache_clear()
    monkeypatch.setitem(sys.modules, "uniformer.speed.kernels", None)  # what Python makes of a failed import
    try:
        assert not has_triton()
        assert usable("triton") == "channels_last"
        assert set(fastest_forms(wanted).values()) == {"contiguous"}
        case = next(iter(wanted.values()))
        assert measure_case(case, 1, rounds=1, forms=("triton",)) == {}
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
    assert all(m.form is not None for m in fast.modules() if isinstance(m, Depthwise3d))
    wanted = model(x)
    assert off(fast(x), wanted) <= rounding(torch.bfloat16, layers_of(model))
    assert len(recall(model, SIZE, torch.bfloat16, training=True)) == 6
    with torch.autocast("cuda", torch.bfloat16):
        model.train()(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@needs_cuda
@pytest.mark.parametrize("form", FORMS)
def test_every_form_on_a_gpu(form: Form) -> None:
    given = [v.cuda() for v in drawn((2, 48, 5, 14, 15), 5, True, torch.bfloat16)]
    found = all_of_it(lambda *v: depthwise(*v, form, residual=True), *given)
    true = all_of_it(lambda x, *v: depthwise_plain(x, *v) + x, *(v.double() for v in given))
    assert max(map(off, found, true)) <= rounding(torch.bfloat16, 5)  # five planes in time, each rounded
    assert found[0].is_contiguous(memory_format=LAST)

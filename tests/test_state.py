"""A run's state that was tampered with, damaged, or is another run's: one line, and nothing is changed."""

from __future__ import annotations

import copy
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import same
from tests.training_runs import make_images, recipe, splits
from uniformer.datasets.manifest import Manifest
from uniformer.errors import InputError
from uniformer.training.loop import fit
from uniformer.training.setup import STATE
from uniformer.training.state import FORMAT, read_state, write_state

State = dict[str, Any]
Sets = tuple[Manifest, Manifest]
ONE = {"schedule": {"epochs": 1}, "ema": {"decay": 0.9}, "keep": {"every_steps": 1}}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return splits(make_images(tmp_path_factory.mktemp("images"), train=4, val=2))


@pytest.fixture(scope="module", params=["adamw", "muon"])
def done(request: pytest.FixtureRequest, two: Sets, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A recipe, and the folder of its run."""
    out = tmp_path_factory.mktemp(request.param)
    asked = recipe(ONE, {"optimizer": {"name": request.param}})
    fit(asked, *two, out=out, device="cpu")
    return asked, out


def test_a_state_is_read_as_it_was_written(done: Any, two: Sets) -> None:
    asked, out = done
    path = out / STATE
    mine, true = read_state(path), torch.load(path, weights_only=True)
    assert mine["format"] == FORMAT
    assert mine.keys() == true.keys()
    assert same(dict(mine["model"]), dict(true["model"]))
    assert mine["progress"] == true["progress"]
    assert mine["optimizer"]["param_groups"] == true["optimizer"]["param_groups"]
    for number, moments in true["optimizer"]["state"].items():
        assert same(mine["optimizer"]["state"][number], moments)
    assert fit(asked, *two, out=out, device="cpu").metrics  # it is finished, and goes on


def _set(*place: Any, to: Any) -> Callable[[State], None]:
    def change(state: State) -> None:
        for key in place[:-1]:
            state = state[key]
        state[place[-1]] = to

    return change


def _first(*place: Any, change: Callable[[Any], Any]) -> Callable[[State], None]:
    """The first value at a place, changed."""

    def apply(state: State) -> None:
        for key in place:
            state = state[key]
        key = next(iter(state))
        state[key] = change(state[key])

    return apply


TAMPERED: dict[str, tuple[Callable[[State], None], str]] = {
    "another version": (_set("format", to="uniformer run 2"), "found another kind of file: uniformer run 2"),
    "no text": (_set("recipe", to=3), "found recipe that is a int"),
    "a recipe without end": (_set("recipe", to="a = " + "[" * 99_999), "found one with another recipe"),
    "no recipe": (_set("recipe", to="\x1b[2J"), "found one with another recipe"),
    "data": (_set("data", to=[]), "found data that is a list"),
    "other data": (_set("data", "samples", to="\x1b[2J" + "a" * 9999), "is of a run on other data"),
    "a missing part": (lambda s: s.pop("ema"), "found no ema in it"),
    "NaN": (_set("progress", "loss_sum", to=math.nan), "loss_sum nan"),
    "a step below 0": (_set("progress", "step", to=-1), "step -1, expected at least 0"),
    "a step beyond": (_set("progress", "step", to=10**6), "step 1000000 of 2"),
    "an endless step": (_set("progress", "step", to=10**300), "expected at least 0"),
    "half a step": (_set("progress", "step", to=0.5), "step 0.5, expected a whole number"),
    "a rate": (_set("progress", "rate_factor", to=1e30), "rate_factor 1e\\+30"),
    "progress": (_set("progress", "more", to=1), "found progress with .*more"),
    "less progress": (lambda s: s["progress"].pop("best"), "found progress with .*best"),
    "scores": (_set("progress", "scores", to={1: 2}), "scores {1: 2}, expected numbers by name"),
    "shapes": (_first("model", change=lambda t: t[:1]), r"found model\.stages.*\(1, .*not \("),
    "dtypes": (_first("model", change=lambda t: t.long()), "of torch.int64, not "),
    "no tensor": (_first("model", change=lambda t: "a"), "that is no plain tensor"),
    "infinity": (_first("model", change=lambda t: t / 0), "numbers that are not finite"),
    "another network": (_set("model", "\x1b[2J", to=torch.ones(1)), "model with .x1b"),
    "half a network": (lambda s: s["model"].popitem(), "model without "),
    "half an average": (lambda s: s["ema"].popitem(), "ema without "),
    "no groups": (_set("optimizer", to={}), "an optimizer without its [23] groups"),
    "a group": (_set("optimizer", "param_groups", 0, to=3), "optimizer group 0 with int"),
    "half a group": (lambda s: s["optimizer"]["param_groups"][0].pop("betas"), "optimizer group 0 with "),
    "a learning rate": (_set("optimizer", "param_groups", 0, "lr", to=math.inf), "with lr inf, not as "),
    "betas": (_set("optimizer", "param_groups", 0, "betas", to=(1.0,)), "with betas"),
    "parameters": (_set("optimizer", "param_groups", 0, "params", to=[0]), "of other parameters"),
    "moments": (_first("optimizer", "state", change=lambda m: {}), "without its "),
    "a moment": (_first("optimizer", "state", 0, change=lambda t: torch.ones(1, 2)), "optimizer state 0, .* not "),
    "a moment too much": (_set("optimizer", "state", 999, to={}), "of other parameters"),
    "a scaler": (_set("scaler", to={"scale": 1.0}), "scaler with "),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_a_state_that_was_tampered_with(what: str, done: Any, two: Sets, tmp_path: Path) -> None:
    asked, out = done
    change, message = TAMPERED[what]
    state = copy.deepcopy(read_state(out / STATE))
    change(state)
    write_state(tmp_path / STATE, {key: value for key, value in state.items() if key != "format"})
    if what == "another version":
        torch.save(state, tmp_path / STATE)
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(InputError, match=message) as caught:
        fit(asked, *two, out=tmp_path, device="cpu")
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()
    assert {path.name for path in tmp_path.iterdir()} <= {STATE, "metrics.csv"}
    assert (tmp_path / STATE).read_bytes() == before


class _Harm:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def test_a_state_runs_nothing(done: Any, two: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, out = done
    whole = (out / STATE).read_bytes()
    monkeypatch.chdir(tmp_path)
    for damaged in (b"", whole[:99], whole[: len(whole) // 2], whole[:-9], pickle.dumps(_Harm()), pickle.dumps([1])):
        (tmp_path / STATE).write_bytes(damaged)
        with pytest.raises(InputError, match=r"state\.pt: expected the state of a run"):
            fit(asked, *two, out=tmp_path, device="cpu")
    torch.save({"format": FORMAT, "recipe": _Harm()}, tmp_path / STATE)
    with pytest.raises(InputError, match=r"expected the state of a run .*refused"):
        read_state(tmp_path / STATE)
    assert not (tmp_path / "harm").exists()

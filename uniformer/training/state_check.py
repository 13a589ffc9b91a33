"""Whether a state that was read fits the run that is to go on from it: every value, before anything is changed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from uniformer.errors import InputError, shown
from uniformer.training.state import Learner

MOMENTS = {False: {"step", "exp_avg", "exp_avg_sq"}, True: {"average"}}  #: of a parameter, by whether Muon moves it
NOT_NEGATIVE = ("step", "exp_avg_sq")


def check_state(path: str | os.PathLike[str], state: Mapping[str, Any], learner: Learner, steps: int) -> None:
    """Raises `InputError` where a state is not of this network and optimizer, or not of a run of `steps` steps.

    Types, shapes and ranges are compared with those of `learner`, which stays as it is.
    """
    problem = next(_misfits(state, learner, steps), None)
    if problem is not None:
        raise InputError(f"{path}: expected the state of this run, found {problem}")


def _misfits(state: Mapping[str, Any], learner: Learner, steps: int) -> Iterator[str]:
    wanted, done = learner.state(), state["progress"]["step"]
    if done > steps:
        yield f"step {done} of {steps}"
    for part in ("model", "ema"):
        if (state[part] is None) != (wanted[part] is None):
            yield f"{'no' if state[part] is None else 'an'} average of the weights"
        elif state[part] is not None:
            yield from _odd_tensors(state[part], wanted[part], part)
    yield from _odd_settings(state["scaler"], wanted["scaler"], "scaler", wanted["scaler"].keys())
    yield from _odd_groups(state["optimizer"].get("param_groups"), wanted["optimizer"]["param_groups"])
    yield from _odd_moments(state["optimizer"].get("state"), learner.optimizer)


def _odd_tensors(found: Mapping[Any, Any], wanted: Mapping[str, Tensor], part: str) -> Iterator[str]:
    for key in dict.fromkeys((*wanted, *found)):
        if key not in found or key not in wanted:
            yield f"{part} {'with' if key in found else 'without'} {shown(key)}"
        else:
            yield from _odd_tensor(found[key], wanted[key].shape, wanted[key].dtype, f"{part}.{key}")


def _odd_tensor(found: Any, shape: torch.Size, dtype: torch.dtype, name: str) -> Iterator[str]:
    if not isinstance(found, Tensor):
        yield f"{name} that is no plain tensor"
    elif (found.shape, found.dtype) != (shape, dtype):
        yield f"{name} {tuple(found.shape)} of {found.dtype}, not {tuple(shape)} of {dtype}"
    elif not found.isfinite().all():
        yield f"{name} with numbers that are not finite"


def _odd_settings(found: Any, wanted: Mapping[str, Any], part: str, needed: Any) -> Iterator[str]:
    """Settings in the place of `wanted`, of its types, their numbers finite and from 0 up; `needed` are all there."""
    if not isinstance(found, dict) or not set(needed) <= found.keys() <= wanted.keys():
        yield f"{part} with {shown(sorted(map(str, found))) if isinstance(found, dict) else type(found).__name__}"
        return
    for name, value in found.items():
        true = wanted[name]
        values, likes = (v if isinstance(v, tuple) else (v,) for v in (value, true))
        if len(values) != len(likes) or not all(map(_is_like, values, likes)):
            yield f"{part} with {name} {shown(value)}, not as {shown(true)}"


def _is_like(value: Any, like: Any) -> bool:
    if like is None or isinstance(like, bool):  # a switch, which may be left to torch
        return value is None or isinstance(value, bool)
    return type(value) is type(like) and (not isinstance(like, int | float) or 0 <= value < math.inf)


def _odd_groups(found: Any, wanted: list[dict[str, Any]]) -> Iterator[str]:
    if not isinstance(found, list) or len(found) != len(wanted):
        yield f"an optimizer without its {len(wanted)} groups of parameters"
        return
    for number, (group, true) in enumerate(zip(found, wanted, strict=True)):
        switches = {name for name, value in true.items() if value is None or isinstance(value, bool)}
        yield from _odd_settings(group, true, f"optimizer group {number}", true.keys() - switches)
        if group["params"] != true["params"]:
            yield f"optimizer group {number} of other parameters"


def _odd_moments(found: Any, optimizer: torch.optim.Optimizer) -> Iterator[str]:
    """Torch numbers the parameters through all groups. One that had no gradient yet has no moments."""
    numbered = [(weight, bool(group.get("matrix"))) for group in optimizer.param_groups for weight in group["params"]]
    if not isinstance(found, dict) or not found.keys() <= set(range(len(numbered))):
        yield f"an optimizer of other parameters than its {len(numbered)}"
        return
    for number, moments in found.items():
        weight, is_matrix = numbered[number]
        if not isinstance(moments, dict) or moments.keys() != MOMENTS[is_matrix]:
            yield f"optimizer state {number} without its {', '.join(sorted(MOMENTS[is_matrix]))}"
            return
        for name, value in moments.items():
            shape = torch.Size() if name == "step" else weight.shape
            dtype = torch.float32 if name == "step" else weight.dtype
            yield from _odd_tensor(value, shape, dtype, f"optimizer state {number}, {name}")
            if name in NOT_NEGATIVE and (value < 0).any():
                yield f"optimizer state {number}, {name} with numbers below 0"

"""A run as one file: everything needed to go on bit for bit, as tensors and plain containers.

Random numbers are not among it: each draw follows from the seed and the place in the run (`data.loading.stream`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from uniformer.checkpoints.pickles import read_pickle
from uniformer.errors import InputError, shown
from uniformer.network.model import UniFormer
from uniformer.speed.products import NAMES
from uniformer.support.files import atomic_path
from uniformer.support.settings import KINDS, leaves
from uniformer.support.texts import check_file, parse_toml
from uniformer.tasks.objective import Objective
from uniformer.training.recipe import Recipe, recipe_from, resolved

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

FORMAT = "uniformer run 1"
#: What it holds beside its format, and of which kind.
PARTS = {
    "recipe": str, "data": dict, "progress": dict, "model": dict, "optimizer": dict, "scaler": dict,
    "ema": dict | None,
}  # fmt: skip
#: What may change on the way.
FREE = ("loop.", "keep.", "data.root", "data.train", "data.val", "data.workers", "title", "notes")


@dataclass
class Progress:
    """Where a run stands. Plain values only."""

    step: int = 0  #: of the optimizer, over all epochs
    loss_sum: float = 0.0  #: of the epoch's steps so far that counted
    loss_count: int = 0
    unreadable: int = 0  #: samples of the epoch so far that another one stood in for
    left_out: int = 0  #: steps without effect, as a number was not finite
    in_a_row: int = 0  #: of them, up to now
    returns: int = 0  #: to an earlier state, for too many of them
    rate_factor: float = 1.0  #: on the learning rate, halved with each return
    best: float | None = None  #: value of the metric that the best epoch is chosen by
    best_epoch: int = 0
    stale: int = 0  #: validations since
    scores: dict[str, float] = field(default_factory=dict)  #: of the last validation
    best_scores: dict[str, float] = field(default_factory=dict)
    finished: bool = False


@dataclass
class Learner:
    """What changes in training, apart from `progress`."""

    model: UniFormer
    objective: Objective
    step_module: nn.Module  #: the objective, perhaps compiled and wrapped for several processes
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: ModelEmaV3 | None
    products: str  #: who computes them, a `speed.products.By`
    progress: Progress = field(default_factory=Progress)

    def state(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "products": self.products,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_check` found to fit."""
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])


def write_state(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state whole or not at all. Raises `InputError` where the disk refuses; the old file is then untouched."""
    with atomic_path(path) as temporary:
        try:
            with open(temporary, "wb") as f:
                torch.save({"format": FORMAT, **state}, f)
        except RuntimeError as error:  # torch's archive writer reports a full disk so, after the OSError proper
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            raise cause or error from None


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_state` wrote, onto the CPU. Raises `InputError` for any other file."""
    expected = f"the state of a run ({FORMAT!r})"
    check_file(path, expected)
    try:
        state = read_pickle(path)
    except InputError as error:
        why = str(error).replace(str(path), "it")
        raise InputError(f"{path}: expected {expected}, found another kind of file: {why}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = shown(state.get("format", "no format")) if isinstance(state, dict) else type(state).__name__
        raise InputError(f"{path}: expected {expected}, found another kind of file: {found}")
    for name, kind in PARTS.items():
        if name not in state or not isinstance(state[name], kind):
            found = f"{name} that is a {type(state[name]).__name__}" if name in state else f"no {name} in it"
            raise InputError(f"{path}: expected {expected}, found {found}")
    if state.setdefault("products", "torch/torch") not in NAMES:  # earlier versions knew no others
        raise InputError(f"{path}: expected {expected}, found products by {shown(state['products'])}")
    problem = next(_odd_progress(state["progress"]), None)
    if problem is not None:
        raise InputError(f"{path}: expected {expected}, found progress with {problem}")
    return state


def _odd_progress(progress: Mapping[Any, Any]) -> Iterator[str]:
    """What is wrong with saved `Progress`, whose fields are all there, of their types and in their ranges."""
    usual = asdict(Progress(best=0.0))
    if progress.keys() != usual.keys():
        yield f"{shown(sorted(map(str, progress.keys() ^ usual.keys())))} too much or too little"
        return
    for name, value in progress.items():
        like = usual[name]
        if isinstance(like, dict):
            if not (isinstance(value, dict) and all(type(k) is str and type(v) is float for k, v in value.items())):
                yield f"{name} {shown(value)}, expected numbers by name"
        elif name == "best":  # NaN where a measure has no value
            if value is not None and type(value) is not float:
                yield f"{name} {shown(value)}, expected a number or none"
        elif type(value) is not type(like):
            yield f"{name} {shown(value)}, expected {KINDS[type(like)]}"
        elif name != "loss_sum" and not 0 <= value < 1 << 62:
            yield f"{name} {shown(value)}, expected at least 0"
    if not math.isfinite(progress["loss_sum"]) or not 0 < progress["rate_factor"] <= 1:
        yield f"loss_sum {progress['loss_sum']} and rate_factor {progress['rate_factor']}"


def check_same_run(
    path: str | os.PathLike[str], state: Mapping[str, Any], recipe: Recipe, data: Mapping[str, Any]
) -> None:
    """Raises `InputError` where a state is of a run with other settings or other data.

    Settings that the state does not have yet are as they were before there was a choice: at their defaults. What it
    does not say of the data, as earlier versions did not, is not compared.
    """
    try:
        then = recipe_from(parse_toml(state["recipe"], "its recipe"))
    except InputError as error:
        raise InputError(f"{path}: expected the state of a run, found one with another recipe: {error}") from None
    old, new = (dict(leaves(parse_toml(resolved(r), r.name))) for r in (then, recipe))
    changed = [k for k in sorted(old.keys() | new.keys()) if not k.startswith(FREE) and old.get(k) != new.get(k)]
    if changed:
        key = changed[0]
        there, here = shown(old.get(key)), shown(new.get(key))
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise InputError(
            f"{path} is of a run with other settings ({key}: {there} there, {here} here{more}): "
            "give another --out, or the same settings to go on"
        )
    for key, value in data.items():
        if state["data"].get(key, value) != value:
            there, here = shown(state["data"][key]), shown(value)
            raise InputError(
                f"{path} is of a run on other data ({key}: {there} there, {here} here): give another --out"
            )

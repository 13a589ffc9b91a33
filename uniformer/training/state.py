"""A run as one file: everything needed to go on bit for bit, as tensors and plain containers.

Random numbers are not among it: each draw follows from the seed and the place in the run (`data.loading.stream`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from uniformer.errors import InputError
from uniformer.network.model import UniFormer
from uniformer.support.files import atomic_path
from uniformer.support.settings import leaves
from uniformer.tasks.objective import Objective
from uniformer.training.recipe import Recipe, recipe_from, resolved

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

FORMAT = "uniformer run 1"
FREE = (
    "loop.",
    "keep.",
    "data.root",
    "data.train",
    "data.val",
    "data.workers",
    "title",
    "notes",
)  # may change on the way


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
    progress: Progress = field(default_factory=Progress)

    def state(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
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
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: expected the state of a run, found no readable file: {error.strerror}") from None
    except Exception as error:  # pickle's, zip's and torch's own
        raise InputError(
            f"{path}: expected the state of a run, found another kind of file: {type(error).__name__}"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: expected the state of a run ({FORMAT!r}), found another kind of file")
    return state


def check_same_run(
    path: str | os.PathLike[str], state: Mapping[str, Any], recipe: Recipe, data: Mapping[str, Any]
) -> None:
    """Raises `InputError` where a state is of a run with other settings or other data.

    Settings that the state does not have yet are as they were before there was a choice: at their defaults. What it
    does not say of the data, as earlier versions did not, is not compared.
    """
    old, new = (_flat(tomllib.loads(resolved(r))) for r in (recipe_from(tomllib.loads(state["recipe"])), recipe))
    changed = [k for k in sorted(old.keys() | new.keys()) if not k.startswith(FREE) and old.get(k) != new.get(k)]
    if changed:
        key = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise InputError(
            f"{path} is of a run with other settings ({key}: {old.get(key)} there, {new.get(key)} here{more}): "
            "give another --out, or the same settings to go on"
        )
    for key, value in data.items():
        if (there := state["data"].get(key, value)) != value:
            raise InputError(
                f"{path} is of a run on other data ({key}: {there} there, {value} here): give another --out"
            )


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for key in leaves(table):
        value: Any = table
        for part in key.split("."):
            value = value[part]
        flat[key] = value
    return flat

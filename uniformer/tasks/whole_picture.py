"""What the dense tasks share: whole pictures, each alone and in a size of its own, and options of the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from uniformer.config import INPUTS, PersonCrop, Scaling, did_you_mean, to_dict
from uniformer.errors import InputError
from uniformer.tasks.task import Task

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract
    from uniformer.heads.pyramid import DenseNetwork

Options = TypeVar("Options")


class WholePictureTask(Task, Generic[Options]):
    """A task of whole pictures. `options` are how answers are made: `WHAT=...` as the task's own dataclass has it, by
    default as the contract's thresholds say.

    Raises `InputError` for an option that the task has not.
    """

    whole = True
    options_type: ClassVar[type]

    def __init__(self, contract: Contract, **options: Any):
        super().__init__(contract)
        stored = contract.details.get("thresholds", {})
        if not isinstance(stored, Mapping):
            raise InputError(f"expected thresholds of a contract by name, got {str(stored)[:80]}")
        self.options: Options = checked_options(self.options_type, {**stored, **options}, self.name)

    def build(self) -> DenseNetwork:
        from uniformer.heads import build_network

        return build_network(self.contract.config)  # type: ignore[return-value]

    def targets_and_loss(self, options: Any, train_set: Any, val_set: Any) -> Any:
        raise NotImplementedError

    def described(self) -> str:
        return json.dumps({**to_dict(self.input), "options": repr(self.options)})

    @property
    def input(self) -> Scaling | PersonCrop:
        """What the network is fed. Raises `InputError` where the contract does not say."""
        found = self.contract.input
        if not isinstance(found, INPUTS[self.contract.config.task]):
            name = self.contract.id or self.contract.arch or "the network"
            raise InputError(f"{name} does not say what its input looks like: expected a contract with an input")
        return found  # type: ignore[return-value]


def checked_options(kind: type, options: Mapping[str, Any], task: str) -> Any:
    """Options of a task as its dataclass. Raises `InputError` naming the nearest where one is unknown."""
    known = [f.name for f in fields(kind)]
    for name in options:
        if name not in known:
            raise InputError(f"unknown option {name!r} of {task}{did_you_mean(name, known)}")
    return kind(**options)

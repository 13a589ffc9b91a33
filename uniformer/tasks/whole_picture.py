"""What the dense tasks share: whole pictures, each alone and in a size of its own, and options of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from uniformer.config import INPUTS, PersonCrop, Scaling, to_dict, with_options
from uniformer.errors import InputError
from uniformer.tasks.pictured import labels_of
from uniformer.tasks.task import Task

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract
    from uniformer.datasets.annotated import AnnotatedSet
    from uniformer.heads.pyramid import DenseNetwork
    from uniformer.tasks.objective import Objective
    from uniformer.tasks.options import TargetOptions

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
        self.options: Options = with_options(self.options_type(), {**stored, **options}, self.name)
        #: the classes looked for, of the tasks that have the option `keep`; none: all of them
        self.kept = tuple(labels_of(getattr(self.options, "keep", ()), contract.classes))

    def build(self) -> DenseNetwork:
        from uniformer.heads import build_network

        return build_network(self.contract.config)  # type: ignore[return-value]

    def targets_and_loss(
        self, options: TargetOptions, train_set: Any, val_set: Any
    ) -> Callable[[DenseNetwork], Objective]:
        self._check(train_set, "train")
        if val_set is not None:
            self._check(val_set, "val")
            if val_set.classes != train_set.classes:
                raise InputError("expected the val set to have the classes of the train set in the same order")
        return self.objective(options, train_set)

    def objective(self, options: TargetOptions, train_set: AnnotatedSet) -> Callable[[DenseNetwork], Objective]:
        """What makes the module of targets and losses of the network."""
        raise NotImplementedError

    def _check(self, data: Any, name: str) -> None:
        """Raises `InputError` where a data set is not one that this network can learn."""
        found = getattr(data, "task", "classification")
        if found != self.name:
            raise InputError(f"expected a {name} set annotated for {self.name}, got one for {found}")
        count = self.contract.config.num_classes
        if len(data.classes) != count:
            raise InputError(
                f"the {name} set has {len(data.classes)} classes, the network {count}: "
                f"model.num_classes={len(data.classes)} would fit"
            )

    def check(self) -> None:
        labels_of(getattr(self.options, "keep", ()), self.contract.classes)

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

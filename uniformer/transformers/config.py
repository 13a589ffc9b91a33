"""A contract as transformers keeps a config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.hosts import MODEL_TYPE, OWN, folder_fields
from uniformer.support.texts import parse_json


def _nameless(count: int) -> tuple[str, ...]:
    """What transformers calls classes that nobody has named."""
    return tuple(f"LABEL_{i}" for i in range(count))


def _contract(told: dict[str, Any]) -> Contract:
    return Contract.from_dict(told, "the UniFormerConfig")


def of_other_weights(contract: Contract) -> Contract:
    """Without what was said of the weights that it was written for: whose they are, what they score and learnt from."""
    note = "changed in transformers: what the weights learnt from there is not known"
    return replace(
        contract, id="", dataset="", scores={}, trained_on=None, proof=None,
        notes=tuple(dict.fromkeys((*contract.notes, note))),
    )  # fmt: skip


class UniFormerConfig(PreTrainedConfig):
    """A contract, as transformers keeps it: its fields are those of `config.json` in a folder of ours."""

    model_type = MODEL_TYPE

    def __post_init__(self, **kwargs: Any) -> None:
        """The names of classes are the contract's, unless others are asked for, or another number of them."""
        if "config" in kwargs and self.id2label is None and kwargs.get("num_labels") is None:
            contract = _contract({key: value for key, value in kwargs.items() if key in OWN})
            self._name_labels(contract.classes or _nameless(contract.config.num_classes))
        super().__post_init__(**kwargs)

    def _name_labels(self, names: Sequence[str]) -> None:
        self.id2label = dict(enumerate(names))
        self.label2id = {name: i for i, name in enumerate(names)}

    @classmethod
    def from_contract(cls, contract: Contract) -> UniFormerConfig:
        return cls(**folder_fields(contract))

    @property
    def contract(self) -> Contract:
        """What it says of the network, with the classes that transformers has.

        Raises `InputError` where it says nothing.
        """
        contract = _contract({key: getattr(self, key) for key in sorted(OWN) if hasattr(self, key)})
        names = tuple(self.id2label[i] for i in range(self.num_labels))
        if names == _nameless(len(names)):
            names = ()
        if len(self.id2label) == contract.config.num_classes and names in ((), contract.classes):
            return contract
        config = replace(contract.config, num_classes=len(self.id2label))  # a classifier of other classes
        return of_other_weights(replace(contract, config=config, classes=names, details={}))

    def hold(self, contract: Contract) -> None:
        """From now on be of this contract."""
        for key, value in {"trained_on": None, **contract.to_dict()}.items():
            setattr(self, key, value)

    @property
    def num_frames(self) -> int:
        """Of one clip."""
        return self.contract.input_of_classifier().frames

    def to_json_string(self, use_diff: bool = True) -> str:
        """With the contract in its own order, which its proof is of: transformers sorts."""
        text = super().to_json_string(use_diff)
        if not hasattr(self, "config"):
            return text
        told = parse_json(text, "a config") | folder_fields(self.contract)
        return json.dumps(told, indent=2, ensure_ascii=False)

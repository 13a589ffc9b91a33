"""How a classifier's answers to the views of a source become probabilities: the mean over views, and what a contract
knows besides: what parts of a video say of the whole, how sure answers are to be, how often classes occur in the wild.

A motion that is too fast over a whole clip is plain in a part of it, and one that is too slow in a part is plain in the
whole. So parts are averaged as evidence, each length counting alike, and a part in which nothing seems to move speaks
for every slow motion as much as for none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from uniformer.config import WHOLE, InputSpec, Typed
from uniformer.errors import InputError
from uniformer.reading.transforms import Floats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from uniformer.checkpoints.contract import Contract


@dataclass(frozen=True)
class FusionFacts(Typed):
    """What `Contract.details` say of it; fitted on films that the network has not learnt from."""

    temperature: float = 1.0  #: that logits are divided by
    prior: Mapping[str, float] = field(default_factory=dict)  #: times as frequent as in training; 1 where not named
    #: class of what does not move -> classes that a part without motion speaks for as much, as they may be slow
    slow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def _problems(self) -> Iterable[str]:
        if not self.temperature > 0:
            yield f"expected a temperature of more than 0, got {self.temperature}"
        if not all(factor > 0 for factor in self.prior.values()):
            yield f"expected a prior of more than 0 for each class, got {dict(self.prior)}"


class Fusion:
    """Logits of a source's views (V, K) -> probabilities (K,), as the contract of the network has it.

    Raises `InputError` where its details are of another form, or name classes that it has not.
    """

    def __init__(self, contract: Contract):
        self.spec = contract.input_of_classifier()
        known = {f.name for f in fields(FusionFacts)}
        facts = FusionFacts(**{name: value for name, value in contract.details.items() if name in known})
        self.is_plain = self.spec.parts == WHOLE and facts == FusionFacts()
        self._temperature = facts.temperature
        self._bias = np.zeros(contract.config.num_classes, np.float32)
        for name, factor in facts.prior.items():
            self._bias[_row(contract, name)] = np.log(factor)
        self._slow = [
            (_row(contract, still), [_row(contract, name) for name in names]) for still, names in facts.slow.items()
        ]
        self._weights = _weights(self.spec)

    def __call__(self, logits: Floats) -> Floats:
        if self.is_plain:
            return average_views(logits, self.spec)
        return _softmax(self.evidence(logits) / self._temperature + self._bias)

    def evidence(self, logits: Floats) -> Floats:
        """Logits of a source's views (V, K) -> what all parts say together, (K,), before temperature and prior."""
        evidence = _log_softmax(logits.reshape(len(self._weights), -1, logits.shape[-1]))  # (parts, views, K)
        for still, names in self._slow:
            parts = evidence[1:]
            parts[..., names] = np.logaddexp(parts[..., names], parts[..., [still]])
        return self._weights @ evidence.mean(axis=1)

    def slopes(self, logits: Floats, row: int) -> Floats:
        """How the evidence of a class, less the mean of all classes', changes with the logits of the views, (V, K).

        Less the mean, since what all classes have in common changes no probability; before the last softmax, which
        is flat where an answer is sure.
        """
        count = logits.shape[-1]
        contrast = np.eye(count, dtype=np.float32)[row] - (1 / count if count > 1 else 0)
        parts = logits.reshape(len(self._weights), -1, count)
        slopes = self._weights[:, None, None] / parts.shape[1] * np.broadcast_to(contrast, parts.shape)
        for still, names in reversed(self._slow):
            own = _sigmoid(parts[1:, :, names] - parts[1:, :, [still]])  # not of the one that stands still
            slopes[1:, :, still] += (slopes[1:, :, names] * (1 - own)).sum(axis=-1)
            slopes[1:, :, names] *= own
        return slopes.reshape(logits.shape).astype(np.float32)


def _sigmoid(x: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -x))


def average_views(logits: Floats, spec: InputSpec) -> Floats:
    """Logits of a source's views (V, K) -> probabilities (K,): of the mean logits, or the mean of probabilities."""
    if spec.average == "logits":
        return _softmax(logits.mean(axis=0))
    return _softmax(logits).mean(axis=0)


def _weights(spec: InputSpec) -> npt.NDArray[np.float32]:
    """Of each part, (P,): all lengths alike, and all parts of one length."""
    lengths = np.round([end - start for start, end in spec.parts], 6)
    counts = np.array([np.sum(lengths == length) for length in lengths])
    return (1 / (counts * len(set(lengths.tolist())))).astype(np.float32)


def _row(contract: Contract, name: str) -> int:
    if name not in contract.classes:
        raise InputError(f"expected details of classes that the network has, got {name!r}")
    return contract.classes.index(name)


def _log_softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)

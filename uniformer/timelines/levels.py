"""Labels of two levels, which way and of what kind, as a checkpoint's details tell them; and how what was measured in
the pictures (`timelines.fit`) joins what the network says.

    "levels": {"pan_left": ["left", "pan"], "truck_left": ["left", "truck"], "static": ["static", ""], ...}
    "reach": {"left": ["x", -0.1], "right": ["x", 0.1], ...}, "power": 4.0, "weight": 0.5

`reach` is the amount, over a window, from which on a direction is likelier than none: its odds are the amount in terms
of it, to the power of `power`. So a pan is taken for one all the more the farther it goes, and where two directions
are measured, what counts is which goes farther. The network alone decides on the kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from uniformer.config import Typed
from uniformer.errors import InputError
from uniformer.timelines.fit import Amounts

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract

LEAST = 0.02  # of a reach: what is less, or the other way, says no more than this
SURE = 0.5  # probability below which a row is unsure, where a checkpoint has two levels
WAYS = ("x", "y", "growth", "roll")  # amounts of which several may be strong at once

Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LevelFacts(Typed):
    """What `Contract.details` say of it."""

    levels: Mapping[str, tuple[str, str]] = field(default_factory=dict)  #: class -> its direction, and its kind or ""
    reach: Mapping[str, tuple[str, float]] = field(default_factory=dict)  #: direction -> one of `Amounts`, and how much
    power: float = 1.0
    weight: float = 1.0  #: of the network's log probabilities beside what was measured

    def _problems(self) -> Iterable[str]:
        known = [f.name for f in fields(Amounts)]
        if not self.power > 0 or not self.weight > 0:
            yield f"expected a power and a weight of more than 0, got {self.power} and {self.weight}"
        for direction, (name, amount) in self.reach.items():
            if direction not in {way for way, _ in self.levels.values()}:
                yield f"expected a reach of directions that the levels name, got {direction!r}"
            if name not in known or not amount:
                yield f"expected the reach of {direction!r} in one of {', '.join(known)}, got {amount} {name}"


class Levels:
    """The levels of a checkpoint's classes. Where its details name none, each class is a direction of its own.

    Raises `InputError` where they are of another form, or do not name the classes that the network has.
    """

    def __init__(self, contract: Contract, classes: tuple[str, ...]):
        known = {f.name for f in fields(LevelFacts)}
        self.facts = LevelFacts(**{name: value for name, value in contract.details.items() if name in known})
        self.is_plain = not self.facts.levels
        named = self.facts.levels or {name: (name, "") for name in classes}
        if odd := set(named) ^ set(classes):
            raise InputError(f"expected levels of the classes that the network has, not more nor less: {min(odd)!r}")
        pairs = [named[name] for name in classes]
        self.kinds = tuple(kind for _, kind in pairs)
        self.directions = tuple(dict.fromkeys(way for way, _ in pairs))
        self.of = np.array([self.directions.index(way) for way, _ in pairs])  # (K,): the direction of each class

    def by_direction(self, shares: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Probabilities of classes (..., K) -> of directions (..., D)."""
        if self.is_plain:
            return shares
        return shares @ (self.of[:, None] == np.arange(len(self.directions))).astype(shares.dtype)

    def joined(self, probabilities: Probabilities, amounts: Amounts | None) -> Probabilities:
        """What the network says (K,), and what was measured over the same time, together (K,)."""
        if amounts is None or not self.facts.reach:
            return probabilities
        odds = np.zeros(len(self.directions))
        for direction, in_reaches in self._in_reaches(amounts).items():
            odds[self.directions.index(direction)] = self.facts.power * np.log(max(in_reaches, LEAST))
        evidence = self.facts.weight * np.log(np.maximum(probabilities, 1e-12)) + odds[self.of]
        powers = np.exp(evidence - evidence.max())
        return (powers / powers.sum()).astype(np.float32)

    def also(self, direction: str, amounts: Amounts | None, window: float) -> tuple[str, ...]:
        """The other directions that a row goes in: as far in `window` seconds as would do alone, the farthest first."""
        if amounts is None or direction not in self.facts.reach:
            return ()
        ratios = self._in_reaches(amounts)
        mine = self.facts.reach[direction][0].removesuffix("_and_back")
        far = {
            other: ratio * window / amounts.seconds
            for other, ratio in ratios.items()
            if self.facts.reach[other][0] in WAYS and self.facts.reach[other][0] != mine
        }
        return tuple(sorted((way for way, ratio in far.items() if ratio >= 1), key=lambda way: -far[way]))

    def _in_reaches(self, amounts: Amounts) -> dict[str, float]:
        return {way: getattr(amounts, name) / reach for way, (name, reach) in self.facts.reach.items()}

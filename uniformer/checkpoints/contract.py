"""What a saved checkpoint says of itself beside its tensors: network, labels, input, origin, and a proof.

Reading a contract needs no torch; proving one does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from uniformer.checkpoints.trained_on import TrainedOn
from uniformer.config import INPUTS, Config, Input, InputSpec, WrongType, check_types, to_dict
from uniformer.errors import InputError, first_line
from uniformer.support.texts import NotJson, parse_json

VERSION = 1


def check_plain(details: Mapping[str, Any]) -> None:
    """Raises `WrongType` for what JSON cannot carry, or not as it is."""
    try:
        same = parse_json(json.dumps(dict(details), allow_nan=False), "details") == dict(details)
    except (TypeError, ValueError, RecursionError):
        same = False
    if not same:
        raise WrongType("expected details of texts, finite numbers, lists and dictionaries alone")


def check_details(details: Mapping[str, Any], classes: int) -> None:
    """Raises `InputError` where palette, skeleton, pairs of a mirror or sigmas are not of the form that tasks read."""
    for name, length, below in (("palette", 3, 256), ("skeleton", 2, classes), ("flip_pairs", 2, classes)):
        rows = details.get(name) or []
        if not isinstance(rows, list | tuple) or not all(
            isinstance(row, list | tuple)
            and len(row) == length
            and all(type(place) is int and 0 <= place < below for place in row)
            for row in rows
        ):
            wanted = f"lists of {length} whole numbers from 0 to {below - 1}"
            raise InputError(f"expected {name} as {wanted}, got {json.dumps(rows)[:80]}")
    sigmas = details.get("sigmas")
    if sigmas is not None and not (
        isinstance(sigmas, list | tuple)
        and len(sigmas) == classes
        and all(type(sigma) in (int, float) and sigma > 0 for sigma in sigmas)
    ):
        raise InputError(f"expected sigmas as {classes} positive numbers, got {json.dumps(sigmas)[:80]}")


@dataclass(frozen=True)
class Proof:
    """The reference logits on the built-in input, computed in float64, and a digest of all tensors."""

    shape: tuple[int, ...]  #: of the built-in input
    logits: tuple[float, ...]  #: at most the first 16 of them
    norm: float  #: of all logits
    sha256: str  #: of every tensor's bytes, in the order of the state dict
    contract_sha256: str = ""  #: of everything else that the contract says

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Proof:
        """Numbers that are not finite are let through: `check_proof` finds that they prove nothing."""
        numbers = (d["norm"], *d["logits"])
        if not all(type(n) in (int, float) for n in numbers) or not all(type(n) is int for n in d["shape"]):
            raise WrongType("expected a proof of numbers")
        if not all(type(d.get(name, "")) is str for name in ("sha256", "contract_sha256")):
            raise WrongType("expected sums of the proof as text")
        return cls(
            **{**d, "shape": tuple(d["shape"]), "logits": tuple(map(float, d["logits"])), "norm": float(d["norm"])}
        )


@dataclass(frozen=True)
class Contract:
    """All that is needed to use a file's weights, and what they are worth. Saved with them by `save_checkpoint`.

        Contract(model.config, classes=("cat", "dog"), input=InputSpec(size=(64, 64), resize=72), dataset="my photos")

    Raises `InputError` where there is not a name for each class of `config`, or `input` is of the other kind.
    """

    config: Config
    arch: str = ""  #: name in `variants.VARIANTS`, if it is one, whatever `config` says of classes and head
    input: Input | None = None  #: what it was trained with, and so what `predict` is to feed it
    classes: tuple[str, ...] = ()  #: position = row of the classifier; of a pose network its key points
    id: str = ""  #: of the published checkpoint the weights are
    dataset: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    licence: str = ""
    notes: tuple[str, ...] = ()
    proof: Proof | None = None
    task: str = ""  #: `tasks.task_of` knows it; by default what the head is for; not written of classifiers
    trained_on: TrainedOn | None = None  #: the items that it learnt from; not written where that is not known
    #: What else the task's answers need: palette, skeleton, sigmas, thresholds, parts of a video. Each task reads its
    #: own; not written where there is nothing.
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("classes", "notes"):
            if isinstance(getattr(self, name), str):
                raise InputError(f"expected {name} as a tuple or list of texts, got {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.task:
            object.__setattr__(self, "task", self.config.task)
        check_types(self)
        if self.classes and self.config.num_classes != len(self.classes):
            raise InputError(
                f"expected a name for each of {self.config.num_classes} classes, got {len(self.classes)} names"
            )
        check_plain(self.details)
        check_details(self.details, self.config.num_classes)
        wanted = INPUTS[self.config.task]
        if self.input is not None and not isinstance(self.input, wanted):
            raise InputError(f"expected the input of a network as {wanted.__name__}, got {type(self.input).__name__}")
        if isinstance(self.input, InputSpec) and self.input.is_video != self.config.is_video:
            kind = "clips" if self.config.is_video else "images"
            sampling = f"{self.input.sampling} sampling" if self.input.is_video else "no sampling of frames"
            raise InputError(f"expected the input of a network of {kind}, got one with {sampling}")

    def digest(self) -> str:
        """sha256 of all but the proof."""
        return hashlib.sha256(replace(self, proof=None).to_json().encode("utf-8", "surrogatepass")).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As its JSON says it, in lists and plain values; `from_dict` reads it back."""
        told: dict[str, Any] = parse_json(self.to_json(), "a contract")
        return told

    def to_json(self) -> str:
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["config"] = to_dict(self.config)
        plain["input"] = self.input and to_dict(self.input)
        plain["scores"] = dict(self.scores)
        if self.task == "classification":
            del plain["task"]
        plain["details"] = dict(self.details)
        if not self.details:
            del plain["details"]
        if self.trained_on is None:
            del plain["trained_on"]
        else:
            plain["trained_on"] = asdict(self.trained_on)
        plain["proof"] = self.proof and {f.name: getattr(self.proof, f.name) for f in fields(Proof)}
        return json.dumps({"uniformer": VERSION, **plain}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Contract:
        """Raises `InputError` when `text`, found in `where`, is not a contract this version can read."""
        try:
            told = parse_json(text, "its text")
        except NotJson as error:
            raise _unreadable(where, str(error)) from None
        return cls.from_dict(told, where)

    @classmethod
    def from_dict(cls, d: Any, where: str) -> Contract:
        """What `to_dict` gave, which is used up. Raises `InputError` as `from_json`."""
        try:
            version = d.pop("uniformer")
            if type(version) is not int:
                raise WrongType("expected a whole number for its format")
            if version > VERSION:
                raise InputError(f"written by a newer uniformer (format {version}, expected up to {VERSION})")
            d["config"] = Config(**d["config"])
            d["input"] = INPUTS[d["config"].task](**d["input"]) if d["input"] is not None else None
            d["proof"] = Proof.from_json(d["proof"]) if d["proof"] is not None else None
            if d.get("trained_on") is not None:
                d["trained_on"] = TrainedOn(**d["trained_on"])
            return cls(**d)
        except InputError as error:
            if not isinstance(error, WrongType):
                raise InputError(f"{where}: {error}") from None
            problem = str(error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"{type(error).__name__}: {first_line(error)}"
        raise _unreadable(where, problem)

    def input_of_classifier(self) -> InputSpec:
        """What a classifier is fed. Raises `InputError` where the network has none, or this does not say."""
        name = self.id or self.arch or "the network"
        if self.config.head is not None:
            raise InputError(f"expected a classifier, got {name} for {self.config.task}")
        if self.config.output != "logits" or not self.config.num_classes:
            raise InputError(f"{name} has no classifier: nothing to predict")
        if not isinstance(self.input, InputSpec):
            raise InputError(f"{name} does not say what its input looks like: expected a contract with an input")
        return replace(self.input, parts=self.details.get("parts", self.input.parts))


def _unreadable(where: str, problem: str) -> InputError:
    return InputError(f"{where} holds no readable description of a uniformer model ({problem})")

"""What a saved checkpoint says of itself beside its tensors: network, labels, input, origin, and a proof.

Reading a contract needs no torch; proving one does.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from uniformer.config import Config, InputSpec, to_dict
from uniformer.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from uniformer.network.model import UniFormer

VERSION = 1


@dataclass(frozen=True)
class Proof:
    """The reference logits on the built-in input, computed in float64, and a digest of all tensors."""

    shape: tuple[int, ...]  #: of the built-in input
    logits: tuple[float, ...]  #: at most the first 16 of them
    norm: float  #: of all logits
    sha256: str  #: of every tensor's bytes, in the order of the state dict
    contract_sha256: str = ""  #: of everything else that the contract says


@dataclass(frozen=True)
class Contract:
    """All that is needed to use a file's weights, and what they are worth."""

    config: Config
    arch: str = ""  #: name in `zoo.VARIANTS`, if it is one
    input: InputSpec | None = None
    classes: tuple[str, ...] = ()  #: position = row of the classifier
    id: str = ""  #: of the published checkpoint the weights are
    dataset: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    licence: str = ""
    notes: tuple[str, ...] = ()
    proof: Proof | None = None

    def __post_init__(self) -> None:
        if self.classes and self.config.num_classes != len(self.classes):
            raise InputError(
                f"expected a name for each of {self.config.num_classes} classes, got {len(self.classes)} names"
            )
        if self.input is not None and self.input.is_video != self.config.is_video:
            kind = "clips" if self.config.is_video else "images"
            sampling = f"{self.input.sampling} sampling" if self.input.is_video else "no sampling of frames"
            raise InputError(f"expected the input of a network of {kind}, got one with {sampling}")

    def digest(self) -> str:
        """sha256 of all but the proof."""
        return hashlib.sha256(replace(self, proof=None).to_json().encode()).hexdigest()

    def to_json(self) -> str:
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["config"] = to_dict(self.config)
        plain["input"] = self.input and to_dict(self.input)
        plain["scores"] = dict(self.scores)
        plain["proof"] = self.proof and {f.name: getattr(self.proof, f.name) for f in fields(Proof)}
        return json.dumps({"uniformer": VERSION, **plain}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Contract:
        """Raises `InputError` when `text`, found in `where`, is not a contract this version can read."""
        try:
            d = json.loads(text)
            version = d.pop("uniformer")
            if version > VERSION:
                raise InputError(f"written by a newer uniformer (format {version}, expected up to {VERSION})")
            d["config"] = Config(**d["config"])
            d["input"] = InputSpec(**d["input"]) if d["input"] else None
            d["classes"], d["notes"] = tuple(d["classes"]), tuple(d["notes"])
            if d["proof"]:
                proof = d["proof"]
                d["proof"] = Proof(**{**proof, "shape": tuple(proof["shape"]), "logits": tuple(proof["logits"])})
            return cls(**d)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{where} holds no readable description of a uniformer model ({type(error).__name__}: {error})"
            ) from None

    def input_of_classifier(self) -> InputSpec:
        """What a classifier is fed. Raises `InputError` where the network has none, or this does not say."""
        name = self.id or self.arch or "the network"
        if self.config.output != "logits" or not self.config.num_classes:
            raise InputError(f"{name} has no classifier: nothing to predict")
        if self.input is None:
            raise InputError(f"{name} does not say what its input looks like: expected a contract with an input")
        return self.input


def built_in_input(config: Config, shape: tuple[int, ...] | None = None) -> Tensor:
    """The input of the proof, (1, C, [T,] H, W) in float64: waves over the grid, the same on every machine."""
    import torch

    shape = shape or ((1, config.in_chans, 8, 64, 64) if config.is_video else (1, config.in_chans, 64, 64))
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(n * 0.37) + torch.cos(n * 0.0113)).view(shape)


def logits_in_float64(model: UniFormer, x: Tensor) -> Tensor:
    """The model's flat output for `x`, computed by a float64 copy in evaluation mode; the model is left as it was."""
    import torch

    from uniformer.network.model import UniFormer

    copy = UniFormer(model.config).double().eval()
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        y = copy(x)
    return y.flatten() if isinstance(y, torch.Tensor) else torch.cat([m.flatten() for m in y])


def digest(tensors: Iterable[Tensor]) -> str:
    """sha256 over the bytes of tensors, in order."""
    import torch

    h = hashlib.sha256()
    for t in tensors:
        h.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


def prove(model: UniFormer) -> Proof:
    """The proof for the model's present weights."""
    x = built_in_input(model.config)
    logits = logits_in_float64(model, x)
    return Proof(tuple(x.shape), tuple(logits[:16].tolist()), float(logits.norm()), digest(model.state_dict().values()))


def check_proof(model: UniFormer, contract: Contract) -> list[str]:
    """What is wrong with a model whose file carries `contract`, with its proof: empty when it is intact."""
    import torch

    problems, proof = [], contract.proof
    assert proof is not None
    if contract.digest() != proof.contract_sha256:
        problems.append("the contract (labels, input, scores, ...) is not the one that was saved (sha256 differs)")
    if digest(model.state_dict().values()) != proof.sha256:
        problems.append("the tensors are not the ones that were saved (sha256 differs)")
    logits = logits_in_float64(model, built_in_input(model.config, proof.shape))
    want = torch.tensor(proof.logits, dtype=torch.float64)
    off = float(torch.cat([logits[: len(want)] - want, logits.norm()[None] - proof.norm]).abs().max())
    allowed = 1e-6 * max(1.0, proof.norm)
    if not off <= allowed:  # also catches NaN
        problems.append(f"the logits on the built-in input are off by {off:.1e} (expected at most {allowed:.0e})")
    return problems


def with_proof(contract: Contract, model: UniFormer) -> Contract:
    contract = replace(contract, config=model.config)
    return replace(contract, proof=replace(prove(model), contract_sha256=contract.digest()))

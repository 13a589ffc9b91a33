"""The proof in a saved checkpoint that its tensors are intact and compute what they did: `prove`, `check_proof`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from uniformer.checkpoints.contract import Contract, Proof
from uniformer.config import Config
from uniformer.errors import InputError
from uniformer.heads import build_network
from uniformer.heads.pyramid import DenseNetwork
from uniformer.network.model import UniFormer

PROVED = 16  # logits that a proof keeps; the others go into their norm


def built_in_input(config: Config) -> Tensor:
    """The input of the proof, (1, C, [T,] H, W) in float64: waves over the grid, the same on every machine."""
    shape = (1, config.in_chans, 8, 64, 64) if config.is_video else (1, config.in_chans, 64, 64)
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(n * 0.37) + torch.cos(n * 0.0113)).view(shape)


def logits_in_float64(model: UniFormer | DenseNetwork, x: Tensor) -> Tensor:
    """The model's flat output for `x`, computed by a float64 copy in evaluation mode; the model is left as it was."""
    copy = build_network(model.config).double().eval()
    if odd := sorted(copy.state_dict().keys() ^ model.state_dict().keys()):
        raise InputError(
            f"expected a model with the tensors that its config says, got {len(odd)} too many or too few: {odd[0]}, ..."
        )
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        y = copy(x)
    return y.flatten() if isinstance(y, torch.Tensor) else torch.cat([m.flatten() for m in y])


def digest(tensors: Iterable[Tensor]) -> str:
    """sha256 over the bytes of tensors, in order."""
    h = hashlib.sha256()
    for t in tensors:
        h.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


def prove(model: UniFormer | DenseNetwork) -> Proof:
    """The proof for the model's present weights."""
    x = built_in_input(model.config)
    logits = logits_in_float64(model, x)
    return Proof(
        tuple(x.shape), tuple(logits[:PROVED].tolist()), float(logits.norm()), digest(model.state_dict().values())
    )


def check_proof(model: UniFormer | DenseNetwork, contract: Contract) -> list[str]:
    """What is wrong with a model whose file carries `contract`, with its proof: empty when it is intact."""
    problems, proof = [], contract.proof
    assert proof is not None
    if contract.digest() != proof.contract_sha256:
        problems.append("the contract (labels, input, scores, ...) is not the one that was saved (sha256 differs)")
    if digest(model.state_dict().values()) != proof.sha256:
        problems.append("the tensors are not the ones that were saved (sha256 differs)")
    x = built_in_input(model.config)
    if proof.shape != tuple(x.shape):
        return [*problems, f"the proof is of an input of another shape than the built-in one, {tuple(x.shape)}"]
    logits = logits_in_float64(model, x)
    first, want = logits[:PROVED], torch.tensor(proof.logits, dtype=torch.float64)
    if len(want) != len(first):
        return [*problems, f"expected {len(first)} logits in the proof, got {len(want)}"]
    off = float(torch.cat([first - want, logits.norm()[None] - proof.norm]).abs().max())
    allowed = 1e-6 * max(1.0, min(proof.norm, float(logits.norm())))
    if not off <= allowed:  # also catches NaN
        problems.append(f"the logits on the built-in input are off by {off:.1e} (expected at most {allowed:.0e})")
    return problems


def with_proof(contract: Contract, model: UniFormer | DenseNetwork) -> Contract:
    contract = replace(contract, config=model.config)
    return replace(contract, proof=replace(prove(model), contract_sha256=contract.digest()))

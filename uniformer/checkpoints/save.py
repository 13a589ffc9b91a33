"""Writing checkpoints, in our form with contract and proof or in the reference's; and proving that a file is intact."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.files import CONFIG_NAME, WEIGHTS_NAME, write_ours, write_reference
from uniformer.checkpoints.hosts import PROCESSOR_NAME
from uniformer.checkpoints.identify import CheckpointSource, name_of, open_checkpoint
from uniformer.checkpoints.load import LoadReport, load_model, unwrapped
from uniformer.checkpoints.proof import check_proof, with_proof
from uniformer.checkpoints.told import Told, usual_input
from uniformer.config import Input, same_network
from uniformer.errors import InputError, shown
from uniformer.heads.pyramid import DenseNetwork
from uniformer.labels import names_file
from uniformer.network.model import UniFormer
from uniformer.support.files import check_outputs


def save_checkpoint(
    model: UniFormer | DenseNetwork, path: str | os.PathLike[str], contract: Contract | None = None
) -> Contract:
    """Write weights and contract: one .safetensors file, or a folder in the form of a hub repository.

    Without a contract it says the architecture, and the input that the weights were loaded with, or as an assumption
    that of the published runs of their kind. The proof (logits on the built-in input, digest) is computed anew. Returns
    the contract as written. Wrappers of torch are taken off; raises `InputError` for an optimised copy of a model.
    """
    model = unwrapped(model)
    if contract is None:
        arch, assumed = name_of(model.config), tuple[str, ...]()
        spec: Input | None = model.input_spec
        if spec is None:
            spec, assumed = usual_input(model.config, arch, is_named=False)
        contract = Contract(model.config, arch, spec, notes=assumed)
    if not same_network(contract.config, model.config):
        raise InputError("the contract describes another network than the model that is to be saved")
    contract = with_proof(contract, model)
    write_ours(model.state_dict(), contract, path)
    return contract


def verify(path: str | os.PathLike[str]) -> tuple[Contract, list[str]]:
    """Recompute a saved file's proof. Returns its contract and what is wrong with it: nothing for an intact file."""
    opened = open_checkpoint(path)
    contract = opened.weights.contract
    if contract is None or contract.proof is None:
        raise InputError(
            f"{path} carries no proof to verify: expected a file saved by uniformer (see `uniformer convert`)"
        )
    model, _, _ = load_model(opened)
    return contract, check_proof(model, contract)


def convert(
    source: CheckpointSource,
    out: str | os.PathLike[str],
    *,
    averaged: bool = False,
    published_order: bool = True,
    overwrite: bool = False,
    **told: Unpack[Told],
) -> LoadReport:
    """Any readable file -> ours (.safetensors, or a folder), or the reference's form (.pth). Options: `load_model`.

    What was assumed of a file that does not tell it is in the report, and stays in the written file as such.

    Raises `InputError` where `out` would replace the source or the classes' file or, unless `overwrite`, anything else,
    and for a folder with other files in it.
    """
    parts = [Path(out, name) for name in (CONFIG_NAME, WEIGHTS_NAME, PROCESSOR_NAME)]
    outputs = parts if os.path.isdir(out) else [out]
    check_outputs(outputs, [source, names_file(told.get("classes"))], overwrite=overwrite)
    others = sorted(set(Path(out).iterdir()) - set(parts)) if os.path.isdir(out) else []
    if others:
        wanted = f"an empty folder, or one with {CONFIG_NAME} and {WEIGHTS_NAME} alone"
        raise InputError(f"cannot write into {out}: expected {wanted}, found {shown(others[0].name)}")
    model, contract, report = load_model(source, averaged=averaged, published_order=published_order, **told)
    if Path(out).suffix in (".pth", ".pt"):
        write_reference(model.state_dict(), out, contract)
    else:
        save_checkpoint(model, out, contract)
    return report

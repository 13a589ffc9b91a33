"""Reading weights from any file in the wild into our keys, without running what the file says; and writing ours.

reference .pth (flat, or under model / state_dict / model_state / ..._ema, with or without "module.")
OpenMMLab conversions (backbone. + cls_head.fc_cls. of mmaction2; backbone. + other heads of mmpose, mmdet, mmseg)
ours: a safetensors file, or a folder or hub repository with config.json + model.safetensors
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.keys import from_reference, our_key, reference_key, to_reference
from uniformer.errors import InputError, cannot_write, first_line
from uniformer.support.files import atomic_path
from uniformer.support.safetensors_header import read_header

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
WRAPPERS = ("model", "state_dict", "model_state", "state_dict_ema", "model_ema")
AVERAGED = {"model": "model_ema", "state_dict": "state_dict_ema"}
# torch's words for a name that weights_only does not allow
_UNSAFE = re.compile(r"(?:nsupported (?:global: GLOBAL|GLOBAL|class)|unrecognized function) '?(\w[\w.]*)")


@dataclass
class Weights:
    """A file's tensors under our keys, and how it was read."""

    state: dict[str, Tensor]
    form: str  #: "uniformer", "reference" or "openmmlab"
    contract: Contract | None = None
    other: list[str] = field(default_factory=list)  #: keys of a detector's neck and heads, which are not ours to load
    notes: list[str] = field(default_factory=list)


def read_weights(path: str | os.PathLike[str], *, averaged: bool = False) -> Weights:
    """Read a file or folder. `averaged` takes the EMA weights of a training checkpoint that carries both.

    Raises `InputError` for a file that is missing, no checkpoint, or a pickle that wants more than to hold tensors.
    """
    path = Path(path)
    if not os.path.isdir(path) and not os.path.isfile(path):  # unlike pathlib's, false for names too long
        raise InputError(
            f"no checkpoint at {path}: expected a .pth or .safetensors file, or a folder with {CONFIG_NAME}"
        )
    is_ours = path.is_dir() or _looks_like_safetensors(path)
    if not is_ours:
        return read_object(_read_pickle(path), str(path), averaged=averaged)
    if averaged:
        raise _no_averaged(str(path))
    state, contract = _read_folder(path) if path.is_dir() else _read_safetensors(path)
    return sort_keys(state, str(path), contract)


def read_object(obj: Any, where: str = "the state dict", *, averaged: bool = False) -> Weights:
    """What a .pth file holds: a state dict, or a dictionary with one in it. `where` is what messages call it."""
    return sort_keys(*_unwrap(obj, where, averaged))


def _read_folder(path: Path) -> tuple[dict[str, Tensor], Contract]:
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (path / name).is_file():
            raise InputError(f"{path} is no saved model: expected a file {name} in it")
    contract = Contract.from_json((path / CONFIG_NAME).read_bytes(), str(path / CONFIG_NAME))
    return _read_safetensors(path / WEIGHTS_NAME)[0], contract


def _looks_like_safetensors(path: Path) -> bool:
    """Raises `InputError` for what a download that failed leaves behind."""
    try:
        with open(path, "rb") as f:
            head = f.read(512)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not head:
        raise InputError(f"{path} is no checkpoint: expected tensors, found an empty file")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise InputError(
            f"{path} is no checkpoint: expected tensors, found a web page: the download did not give the file"
        )
    return read_header(path) is not None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Contract | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            state = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - a file, not a dict
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}") from None
    contract = Contract.from_json(metadata["uniformer"], str(path)) if "uniformer" in metadata else None
    return state, contract


def _harmless() -> list[Any]:
    """What training scripts put beside weights and cannot run anything: their options, and scores as numpy numbers."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    # Files written under numpy 1 name the same function by its old place.
    return [argparse.Namespace, scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]


def _read_pickle(path: Path) -> Any:
    """torch.load that builds tensors, plain containers, numpy's numbers and argparse's inert Namespace, no more."""
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of what turns out to be no pickle
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged files torch lets struct, index, key and assertion errors out, among others
        wants = _UNSAFE.search(str(error))
        if wants and isinstance(error, pickle.UnpicklingError):
            raise InputError(
                f"refused {path}: beside tensors it holds {wants[1]}, and loading that would let the file run code. "
                "Expected a file of tensors only: save just its state dict, where you trust it, and load that"
            ) from None
        reason = "expected tensors saved by torch or safetensors"
        if not isinstance(error, pickle.UnpicklingError):  # whose first line is advice to load it unsafely
            reason += f" ({first_line(error)})"
        raise InputError(f"{path} is no checkpoint, or a damaged one: {reason}") from None


def _unwrap(obj: Any, where: str, averaged: bool) -> tuple[Mapping[str, Tensor], str, None, list[str]]:
    """Step into the dictionary that holds the tensors, and strip the prefix of a distributed wrapper."""
    notes = []
    if isinstance(obj, Mapping) and not _is_state(obj):
        found = [key for key in WRAPPERS if isinstance(obj.get(key), Mapping) and _is_state(obj[key])]
        if not found:
            raise InputError(
                f"{where} holds no tensors: expected some, or one of {', '.join(WRAPPERS)}; found {_some_keys(obj)}"
            )
        key = found[0]
        beside = AVERAGED.get(key)
        if averaged and key not in AVERAGED.values():
            if beside not in found:
                raise _no_averaged(where)
            key = beside
        elif beside in found:
            notes.append(f"took {key!r}; averaged weights ({beside!r}) are in the file too")
        obj = obj[key]
    elif averaged:
        raise _no_averaged(where)
    if not isinstance(obj, Mapping) or not _is_state(obj):
        raise InputError(f"{where} holds no state dict: expected a dictionary of tensors, found {type(obj).__name__}")
    return {key.removeprefix("module."): value for key, value in obj.items()}, where, None, notes


def _no_averaged(where: str) -> InputError:
    return InputError(f"{where} has no averaged weights: expected {' or '.join(map(repr, AVERAGED.values()))} in it")


def _is_state(obj: Mapping[Any, Any]) -> bool:
    return bool(obj) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in obj.items())


def _some_keys(obj: Mapping[Any, Any]) -> str:
    return ", ".join(map(repr, list(obj)[:4])) or "nothing"


def sort_keys(
    state: Mapping[str, Tensor],
    where: str = "the state dict",
    contract: Contract | None = None,
    notes: list[str] | None = None,
) -> Weights:
    """Tell whose keys these are and turn them into ours. Raises `InputError` when they are nobody's."""
    notes = list(notes or [])
    if any(key.startswith("stages.") for key in state):
        strange = [key for key in state if reference_key(key) is None]
        if strange:
            raise InputError(f"{where} has {len(strange)} keys that no UniFormer has: {', '.join(strange[:3])}")
        return Weights(dict(state), "uniformer", contract, notes=notes)
    if any(key.startswith("backbone.") for key in state):
        backbone = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
        head = {
            f"head.{key.removeprefix('cls_head.fc_cls.')}": v
            for key, v in state.items()
            if key.startswith("cls_head.fc_cls.")
        }
        rest = [key for key in state if not key.startswith(("backbone.", "cls_head.fc_cls."))]
        if head:
            head = _published_class_order(head, notes)
        return Weights(from_reference(backbone | head), "openmmlab", contract, other=rest, notes=notes)
    if not any(our_key(key) is not None for key in state):
        raise InputError(
            f"{where} is not of a UniFormer: expected keys like 'patch_embed1.proj.weight', found {_some_keys(state)}"
        )
    return Weights(from_reference(state), "reference", contract, notes=notes)


def _published_class_order(head: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """OpenMMLab sorted the 400 rows of Kinetics-400 by class name; put them back into the authors' order."""
    if any(len(rows) != 400 for rows in head.values()):
        return head
    from uniformer.labels import kinetics400_permutation

    notes.append(
        "OpenMMLab conversion: rows of the classifier put back from alphabetical into the published class order"
    )
    alphabetical = torch.tensor(kinetics400_permutation())  # published class i is row alphabetical[i]
    return {key: value[alphabetical] for key, value in head.items()}


def write_ours(state: Mapping[str, Tensor], contract: Contract, path: str | os.PathLike[str]) -> None:
    """A safetensors file with the contract in its header or, when `path` has no suffix, a folder in the hub's form."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return _write_safetensors(state, contract, path)
    if path.suffix:
        raise InputError(f"expected a name ending in .safetensors, or a folder, to save a model to; got {path}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None
    with atomic_path(path / CONFIG_NAME) as temporary:  # takes its place after the weights have taken theirs
        temporary.write_text(contract.to_json(), encoding="utf-8")
        _write_safetensors(state, contract, path / WEIGHTS_NAME)
    return None


def _write_safetensors(state: Mapping[str, Tensor], contract: Contract, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    compact = json.dumps(json.loads(contract.to_json()), ensure_ascii=False, separators=(",", ":"))
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": "pt", "uniformer": compact})
        except SafetensorError as error:  # a full disk too
            raise cannot_write(path, error) from None


def write_reference(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """A flat .pth with the reference's keys, which the original code loads strictly."""
    tensors = to_reference({key: value.detach().cpu() for key, value in state.items()})
    with atomic_path(path) as temporary:
        try:
            torch.save(tensors, temporary)
        except RuntimeError as error:  # torch's writer says so of a full disk
            raise InputError(f"cannot write {path}: is the disk full? ({first_line(error)})") from None

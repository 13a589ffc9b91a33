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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uniformer.contract import Contract
from uniformer.errors import InputError
from uniformer.files import atomic_path
from uniformer.keys import from_reference, our_key, reference_key, to_reference

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
WRAPPERS = ("model", "state_dict", "model_state", "state_dict_ema", "model_ema")
AVERAGED = {"model": "model_ema", "state_dict": "state_dict_ema"}


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
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise InputError(
            f"no checkpoint at {path}: expected a .pth or .safetensors file, or a folder with {CONFIG_NAME}"
        )
    if _looks_like_safetensors(path):
        state, contract = _read_safetensors(path)
        return sort_keys(state, str(path), contract)
    return sort_keys(*_unwrap(_read_pickle(path), str(path), averaged))


def _read_folder(path: Path) -> Weights:
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (path / name).is_file():
            raise InputError(f"{path} is no saved model: expected a file {name} in it")
    state, contract = _read_safetensors(path / WEIGHTS_NAME)
    text = (path / CONFIG_NAME).read_text(encoding="utf-8")
    return sort_keys(state, str(path), Contract.from_json(text, str(path / CONFIG_NAME)) or contract)


def _looks_like_safetensors(path: Path) -> bool:
    with open(path, "rb") as f:
        head = f.read(9)
    # 8 bytes of header length, then the header, a JSON object.
    return len(head) == 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Contract | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            state = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - a file, not a dict
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path}: {_first_line(error)}") from None
    contract = Contract.from_json(metadata["uniformer"], str(path)) if "uniformer" in metadata else None
    return state, contract


def _read_pickle(path: Path) -> Any:
    """torch.load that builds tensors, plain containers and argparse's inert Namespace, and nothing else."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wants = _unsafe_global(str(error))
        if wants:
            raise InputError(
                f"refused {path}: beside tensors it holds {wants}, and loading that would let the file run code. "
                "Expected a file of tensors only: save just its state dict, where you trust it, and load that"
            ) from None
        raise InputError(f"{path} is no checkpoint: expected tensors saved by torch or safetensors") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is no checkpoint, or a damaged one: {_first_line(error)}") from None


def _unsafe_global(message: str) -> str | None:
    """The name in torch's message about a global that weights_only does not allow."""
    for marker in (
        "Unsupported global: GLOBAL ",
        "Unsupported class ",
        "Trying to call reduce for unrecognized function ",
    ):
        if marker in message:
            return message.split(marker, 1)[1].split()[0].strip(".,'\"`")
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


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
        if averaged:
            if AVERAGED.get(key) not in found and key not in AVERAGED.values():
                raise InputError(f"{where} has no averaged weights: expected {AVERAGED.get(key)!r} beside {key!r}")
            key = AVERAGED.get(key, key)
        elif AVERAGED.get(key) in found:
            notes.append(f"took {key!r}; averaged weights ({AVERAGED[key]!r}) are in the file too")
        obj = obj[key]
    if not isinstance(obj, Mapping) or not _is_state(obj):
        raise InputError(f"{where} holds no state dict: expected a dictionary of tensors, found {type(obj).__name__}")
    return {key.removeprefix("module."): value for key, value in obj.items()}, where, None, notes


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
    if head["head.weight"].shape[0] != 400:
        return head
    from uniformer.data.classes import kinetics400_permutation

    notes.append(
        "OpenMMLab conversion: rows of the classifier put back from alphabetical into the published class order"
    )
    alphabetical = torch.tensor(kinetics400_permutation())  # published class i is row alphabetical[i]
    return {key: value[alphabetical] for key, value in head.items()}


def write_ours(state: Mapping[str, Tensor], contract: Contract, path: str | os.PathLike[str]) -> None:
    """A safetensors file with the contract in its header or, when `path` has no suffix, a folder in the hub's form."""
    from safetensors.torch import save_file

    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    text = contract.to_json()
    if path.suffix == ".safetensors":
        target = path
    elif path.suffix:
        raise InputError(f"expected a name ending in .safetensors, or a folder, to save a model to; got {path}")
    else:
        path.mkdir(parents=True, exist_ok=True)
        with atomic_path(path / CONFIG_NAME) as temporary:
            temporary.write_text(text, encoding="utf-8")
        target = path / WEIGHTS_NAME
    compact = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
    with atomic_path(target) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", "uniformer": compact})


def write_reference(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """A flat .pth with the reference's keys, which the original code loads strictly."""
    with atomic_path(path) as temporary:
        torch.save(to_reference({key: value.detach().cpu() for key, value in state.items()}), temporary)

"""Reading weights from any file in the wild into our keys, without running what the file says; and writing ours.

.pth and other pickles of torch, whatever a trainer has put around the network: the reference's keys, ours, or those of
OpenMMLab conversions (backbone. + cls_head.fc_cls. of mmaction2; backbone. + other heads of mmpose, mmdet, mmseg)
safetensors, in one file or in several with an index; ours too, or as a folder with config.json + model.safetensors
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.hosts import read_folder_json, to_folder_json, write_processor
from uniformer.checkpoints.keys import from_reference, our_key, reference_key, to_published, to_reference
from uniformer.checkpoints.pickles import Inert, read_pickle, shares_memory
from uniformer.checkpoints.wrappers import (
    find_network,
    no_averaged,
    some_keys,
    told_by_config,
    told_classes,
    told_palette,
)
from uniformer.errors import InputError, cannot_write, first_line, shown
from uniformer.heads.keys import BACKBONE, classes_of, head_of
from uniformer.support.files import atomic_path
from uniformer.support.safetensors_header import read_header
from uniformer.support.texts import parse_json, read_whole

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
INDEX_ENDING = ".safetensors.index.json"


@dataclass
class Weights:
    """A file's tensors under our keys, and how it was read."""

    state: dict[str, Tensor]
    form: str  #: "uniformer", "reference" or "openmmlab"
    contract: Contract | None = None
    unknown: list[str] = field(default_factory=list)  #: keys beside the network's that no UniFormer has
    heads: dict[str, Tensor] = field(default_factory=dict)  #: beside a backbone, under their published keys
    other: list[str] = field(default_factory=list)  #: keys of other networks in the file, which are not ours to load
    notes: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()  #: the rows of the classifier by name, where a trainer saved them
    palette: tuple[tuple[int, ...], ...] = ()  #: their colours, RGB
    told: dict[str, int | None] = field(default_factory=dict)  #: fields of `Config` that a trainer saved

    @property
    def whole(self) -> dict[str, Tensor]:
        """The tensors of a dense network: the backbone's under `backbone.`, and the head's."""
        return {f"{BACKBONE}{key}": value for key, value in self.state.items()} | self.heads


def read_weights(path: str | os.PathLike[str], *, averaged: bool = False, published_order: bool = True) -> Weights:
    """Read a file or folder. `averaged` takes the EMA weights of a training checkpoint that carries both.

    Raises `InputError` for a file that is missing, no checkpoint, or a pickle that wants more than to hold tensors.
    Without `published_order` an OpenMMLab classifier keeps its order of rows.
    """
    path = Path(path)
    if not os.path.isdir(path) and not os.path.isfile(path):  # unlike pathlib's, false for names too long
        raise InputError(
            f"no checkpoint at {path}: expected a .pth or .safetensors file, or a folder with {CONFIG_NAME}"
        )
    contract: Contract | None = None
    if path.is_dir():
        obj, contract = _read_folder(path)
    elif path.name.endswith(INDEX_ENDING):
        obj = _read_shards(path)
    elif _looks_like_safetensors(path):
        obj, contract = _read_safetensors(path)
    else:
        obj = read_pickle(path)
    return read_object(obj, str(path), contract, averaged=averaged, published_order=published_order)


def read_object(
    obj: Any,
    where: str = "the state dict",
    contract: Contract | None = None,
    *,
    averaged: bool = False,
    published_order: bool = True,
) -> Weights:
    """What a file holds: a state dict, or dictionaries with one in them. `where` is what messages call it."""
    if averaged and contract is not None:
        raise no_averaged(where)
    network = find_network(obj, where, averaged=averaged)
    weights = sort_keys(network.state, where, contract)
    weights.other, weights.notes, weights.told = network.other, network.notes, told_by_config(obj)
    if network.is_backbone:
        weights.form, weights.heads = "openmmlab", _plain(network.heads, where)
        names, palette = told_classes(obj), told_palette(obj)
        if head_of(weights.heads):
            count = classes_of(weights.heads)
            weights.classes = names if len(names) == count else ()
            weights.palette = palette if len(palette) == count else ()
        else:
            _name_classes(weights, names, published_order)
    return weights


def _read_folder(path: Path) -> tuple[dict[str, Tensor], Contract | None]:
    indices = sorted(path.glob(f"*{INDEX_ENDING}"))
    if len(indices) == 1 and not (path / WEIGHTS_NAME).is_file():
        return _read_shards(indices[0]), None
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (path / name).is_file():
            raise InputError(f"{path} is no saved model: expected a file {name} in it")
    return _read_safetensors(path / WEIGHTS_NAME)[0], read_folder_json(path / CONFIG_NAME)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of several safetensors files, of which `index` says which is where."""
    expected = "an index of safetensors files"
    told = parse_json(read_whole(index, expected), str(index), expected)
    try:
        places = told["weight_map"]
        names = sorted(set(places.values()))
        if not all(Path(name).name == name and name.endswith(".safetensors") for name in names):
            raise ValueError("names that are not of files beside it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: expected {expected}, found {first_line(error)}") from None
    state: dict[str, Tensor] = {}
    for name in names:
        if not (index.parent / name).is_file():
            raise InputError(f"{index}: expected the file {shown(name)} beside it, found none")
        state |= _read_safetensors(index.parent / name)[0]
    if missing := sorted(places.keys() - state.keys()):
        raise InputError(f"{index}: expected {len(places)} tensors, {len(missing)} are missing: {shown(missing[0])}")
    return state


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


def sort_keys(state: Mapping[str, Any], where: str = "the state dict", contract: Contract | None = None) -> Weights:
    """Tell whose keys these are and turn them into ours.

    Raises `InputError` when they are nobody's, and for a tensor that is not a plain one.
    """
    is_ours = any(key.startswith("stages.") for key in state)
    name = reference_key if is_ours else our_key
    known = _plain({key: value for key, value in state.items() if name(key) is not None}, where)
    if not known:
        raise InputError(
            f"{where} is not of a UniFormer: expected keys like 'patch_embed1.proj.weight', found {some_keys(state)}"
        )
    unknown = [key for key in state if key not in known]
    if is_ours:
        return Weights(known, "uniformer", contract, unknown)
    return Weights(from_reference(known), "reference", contract, unknown)


def _plain(state: dict[str, Any], where: str) -> dict[str, Tensor]:
    """The same. Raises `InputError` for a tensor that is not a plain one."""
    for key, value in state.items():
        if problem := _oddity(value):
            raise InputError(f"{where}: expected a plain tensor {shown(key)}, found {problem}")
    return state


def _oddity(value: Any) -> str | None:
    """What is odd about a tensor; None for one with a number of its own at each place."""
    if isinstance(value, Inert):
        return value.name
    if type(value) not in (Tensor, nn.Parameter):
        return f"a {type(value).__name__}"
    if value.is_quantized:
        return "a quantised tensor"
    if value.layout is not torch.strided or value.is_nested:
        return "a sparse or nested tensor"
    if value.is_meta:
        return "a tensor without data"
    if value.is_complex():
        return "a tensor of complex numbers"
    return "a tensor whose elements share memory" if shares_memory(value.shape, value.stride()) else None


def _name_classes(weights: Weights, names: tuple[str, ...], published_order: bool) -> None:
    """The classifier of mmaction2: its classes by name and, of Kinetics-400, the rows in the authors' order.

    OpenMMLab sorted them by name. Where the file has no names, 400 rows are taken for Kinetics-400.
    """
    from uniformer.labels import load_classes, match_names

    rows = {key: value for key, value in weights.state.items() if key in ("head.weight", "head.bias")}
    counts = {len(value) for value in rows.values() if value.ndim}
    weights.classes = names if counts == {len(names)} else ()
    if not published_order or counts != {400}:
        return
    published = load_classes("Kinetics-400")
    places = match_names(published, weights.classes or sorted(published))
    if None in places or places == list(range(400)):
        return
    said = (
        "as the names in the file say"
        if weights.classes
        else "the file has no names; published_order=False keeps theirs"
    )
    weights.notes.append(f"rows of the classifier put from alphabetical into the published class order: {said}")
    weights.state |= {key: value[torch.tensor(places)] for key, value in rows.items()}
    if weights.classes:
        weights.classes = published


def write_ours(state: Mapping[str, Tensor], contract: Contract, path: str | os.PathLike[str]) -> None:
    """A safetensors file with the contract in its header or, when `path` has no suffix, a folder in the hub's form."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return _write_safetensors(state, contract, path)
    if path.suffix and not path.is_dir():
        raise InputError(f"expected a name ending in .safetensors, or a folder, to save a model to; got {path}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None
    with atomic_path(path / CONFIG_NAME) as temporary:  # takes its place after the weights have taken theirs
        temporary.write_text(to_folder_json(contract), encoding="utf-8")
        _write_safetensors(state, contract, path / WEIGHTS_NAME)
        write_processor(path, is_video=contract.config.is_video)
    return None


def _write_safetensors(state: Mapping[str, Tensor], contract: Contract, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    compact = json.dumps(contract.to_dict(), ensure_ascii=False, separators=(",", ":"))
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": "pt", "uniformer": compact})
            _order_metadata(temporary)
        except SafetensorError as error:  # a full disk too
            raise cannot_write(path, error) from None


def _order_metadata(path: Path) -> None:
    """safetensors leaves that to chance: the same model is to be the same bytes, which no hub has to be sent twice."""
    with open(path, "r+b") as f:
        size = int.from_bytes(f.read(8), "little")
        header = parse_json(f.read(size), str(path))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= size:  # the rest is blanks, as in the format
            f.seek(8)
            f.write(text.ljust(size))


def write_reference(state: Mapping[str, Tensor], path: str | os.PathLike[str], contract: Contract) -> None:
    """A .pth with the reference's keys in its order, which the original code loads strictly: flat, or of a dense
    network with the classes and colours beside, as OpenMMLab saves it."""
    tensors: Any = {key: value.detach().cpu() for key, value in state.items()}
    if contract.config.head is None:
        saved: Any = to_reference(tensors)
    else:
        meta = {"CLASSES": contract.classes, "PALETTE": contract.details.get("palette")}
        saved = {"meta": {k: v for k, v in meta.items() if v}, "state_dict": to_published(tensors)}
    with atomic_path(path) as temporary:
        try:
            torch.save(saved, temporary)
        except RuntimeError as error:  # torch's writer says so of a full disk
            raise InputError(f"cannot write {path}: is the disk full? ({first_line(error)})") from None

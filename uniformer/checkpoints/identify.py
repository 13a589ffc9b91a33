"""What a file is: where it lies, which published record it belongs to, which network its tensors are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.files import Weights, read_object, read_weights
from uniformer.checkpoints.records import Checkpoint, get_checkpoint, list_checkpoints
from uniformer.config import Config
from uniformer.errors import InputError
from uniformer.network.variants import VARIANTS, default_input

CheckpointSource = (
    str | os.PathLike[str] | Mapping[str, Tensor]
)  #: a published id, a path, a hub repository, a state dict


@dataclass(frozen=True)
class Opened:
    """A checkpoint that has been read: its tensors under our keys, and all that is known of them."""

    name: str  #: how messages call it
    weights: Weights
    record: Checkpoint | None  #: of a published id, or of a file that still has its published name (or OpenMMLab's)
    head_dim: int | None  #: channels per attention head, which no tensor tells; None where nothing else does
    told_by: str = ""  #: who says so: contract, record, caller, or the only possibility

    @cached_property
    def contract(self) -> Contract:
        """Its own contract, else the record's, else what the tensors tell. Raises `InputError` without a head_dim."""
        if self.weights.contract is not None:
            return self.weights.contract
        if self.record is not None:
            return contract_of_record(self.record, self.weights)
        if self.head_dim is None:
            published = ", ".join(map(str, _published_head_dims(_dims(self.weights.state)))) or "none"
            raise InputError(
                f"expected head_dim for {self.name}: tensors do not tell it; published with these widths: {published}"
            )
        config = identify(self.weights.state, self.head_dim)
        return Contract(config, name_of(config), default_input(config), notes=(self.head_dim_note,))

    @property
    def classes(self) -> tuple[str, ...]:
        """The classifier's rows by name; empty where nobody says."""
        return () if self.weights.contract is None and self.record is None else self.contract.classes

    @property
    def head_dim_note(self) -> str:
        return f"head_dim {self.head_dim} from {self.told_by}"


def open_checkpoint(source: CheckpointSource, *, head_dim: int | None = None, averaged: bool = False) -> Opened:
    """Read a published id (fetched when it is not here yet), a path, a hub repository or a state dict, once.

    `head_dim` is the caller's word where nothing else tells it; `averaged` takes a training file's EMA weights. Raises
    `InputError` for what cannot be read, and where `head_dim` contradicts the contract or the record.
    """
    if isinstance(source, Mapping):
        name, record, weights = "the state dict", None, read_object(source, averaged=averaged)
    elif not isinstance(source, str | os.PathLike):
        raise InputError(
            f"expected a published id, a path, a hub repository or a state dict, got {type(source).__name__} "
            "(where a model is taken, it comes with its contract: (model, Contract(...)))"
        )
    else:
        name, weights = os.fspath(source), read_weights(resolve(source), averaged=averaged)
        record = _record_of(source) if weights.contract is None else None
    if weights.contract is not None:
        told, told_by = weights.contract.config.head_dim, "the file's contract"
    elif record is not None:
        told, told_by = record.config.head_dim, f"the record of {record.id}"
    elif head_dim is not None:
        return Opened(name, weights, None, head_dim, "the caller")
    else:
        dims = _dims(weights.state)
        published = _published_head_dims(dims)
        if len(published) != 1:
            return Opened(name, weights, None, None)
        return Opened(name, weights, None, published[0], f"the only published model of widths {dims}")
    if head_dim not in (None, told):
        raise InputError(f"{told_by} says head_dim {told}, the caller {head_dim}")
    return Opened(name, weights, record, told, told_by)


def resolve(source: str | os.PathLike[str]) -> Path:
    """The file or folder behind a published id, a path or a hub repository."""
    path, name = Path(source).expanduser(), os.fspath(source)
    is_file_name = path.suffix in (".pth", ".pt", ".bin", ".safetensors", ".tar") or name.startswith((".", "/"))
    if os.path.exists(path) or is_file_name:
        return path  # reading it says what is wrong when there is nothing
    from uniformer.checkpoints.fetch import fetch, fetch_repo

    return fetch_repo(name) if name.count("/") == 1 else fetch(get_checkpoint(name))


def _record_of(source: str | os.PathLike[str]) -> Checkpoint | None:
    if os.fspath(source) in list_checkpoints():
        return get_checkpoint(os.fspath(source))
    records = map(get_checkpoint, list_checkpoints())
    name = Path(source).name
    return next((r for r in records if r.file and name in (r.file.name, Path(r.file.converted_url or "").name)), None)


def _published_head_dims(dims: tuple[int, ...]) -> list[int]:
    return sorted({c.head_dim for c in VARIANTS.values() if c.dims == dims})


def _shape(state: Mapping[str, Tensor], key: str, rank: int) -> torch.Size:
    if key not in state:
        raise InputError(f"the tensors are not of a whole UniFormer: {key} is missing")
    shape = state[key].shape
    if len(shape) != rank:
        raise InputError(f"the tensors are not of a UniFormer: expected {rank} axes of {key}, got {tuple(shape)}")
    return shape


def _dims(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(_shape(state, f"stages.{i}.blocks.0.pos_embed.bias", 1)[0] for i in range(4))


def identify(state: Mapping[str, Tensor], head_dim: int) -> Config:
    """The architecture a state dict in our keys belongs to, read off its keys and shapes; `head_dim` must be known.

    What leaves no trace in the tensors (windows, drop path, the layer scale's initial value) keeps its default. Raises
    `InputError` when they are not of a whole network, or `head_dim` does not fit them.
    """
    if head_dim < 1:
        raise InputError(f"expected head_dim of at least 1, got {head_dim}")
    dims = _dims(state)
    position = state.get("stages.0.blocks.0.pos_embed.weight")
    rank = 4 if position is None else position.ndim  # of a kernel; loading says if it is missing
    ndim = rank - 2
    overlap = sum(f"stages.{i}.embed.conv1.weight" in state for i in range(4))
    scaled = tuple(i + 1 for i in range(4) if f"stages.{i}.blocks.0.scale1" in state)
    return Config(
        ndim=ndim,
        in_chans=_shape(state, f"stages.0.embed.{'conv1' if overlap else 'proj'}.weight", rank)[1],
        num_classes=_shape(state, "head.weight", 2)[0] if "head.weight" in state else 0,
        depths=tuple(len({k.split(".")[3] for k in state if k.startswith(f"stages.{i}.blocks.")}) for i in range(4)),
        dims=dims,
        head_dim=head_dim,
        mlp_ratio=_shape(state, "stages.0.blocks.0.ffn.fc1.bias", 1)[0] / dims[0],
        overlap=overlap,
        time_kernel=_shape(state, "stages.1.embed.proj.weight", rank)[2] if overlap < 2 and ndim == 3 else 1,
        split_attention="stages.2.blocks.0.time_norm.weight" in state,
        layer_scale=1e-6 if scaled else None,
        layer_scale_stages=scaled or (1, 2, 3, 4),
        token_labeling="aux_head.weight" in state,
        keep_ratio=0.5 if "cls_token" in state else None,
        output="normed_maps" if "stages.0.norm.weight" in state else "logits" if "norm.weight" in state else "maps",
    )


def name_of(config: Config) -> str:
    """The variant's name, whatever its class count; '' for one of the user's own."""
    for name, variant in VARIANTS.items():
        same = replace(config, num_classes=variant.num_classes, drop_path=0.0, dropout=0.0)
        if None not in (config.layer_scale, variant.layer_scale):  # its initial value makes no other network
            same = replace(same, layer_scale=variant.layer_scale)
        if same == variant:
            return name
    return ""


def contract_of_record(record: Checkpoint, weights: Weights) -> Contract:
    """The contract of a published file. The class count is the file's: HMDB51's may differ from its record."""
    config, head, notes = record.config, weights.state.get("head.weight"), record.notes
    classes = record.classes
    if config.num_classes and head is not None and head.shape[0] != config.num_classes:
        said = f"the file has {head.shape[0]} classes where the record says {config.num_classes}: no class names"
        notes, config, classes = (*notes, said), replace(config, num_classes=head.shape[0]), ()
    return Contract(
        config, record.arch, record.input, classes, record.id, record.dataset, record.scores, record.licence, notes
    )

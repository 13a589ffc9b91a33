"""What a file is: where it lies, which record of the zoo it belongs to, which network its tensors are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from uniformer.checkpoints import records as zoo
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.files import Weights, read_object, read_weights
from uniformer.config import Config
from uniformer.errors import InputError

Source = str | os.PathLike[str] | Mapping[str, Tensor]


def read_source(source: Source, *, averaged: bool = False) -> Weights:
    """The weights behind a published id (fetched when it is not here yet), a path, a hub repository or a state dict."""
    if isinstance(source, Mapping):
        return read_object(source, averaged=averaged)
    return read_weights(resolve(source), averaged=averaged)


def resolve(source: str | os.PathLike[str]) -> Path:
    """The file or folder behind a published id, a path or a hub repository."""
    path, name = Path(source).expanduser(), os.fspath(source)
    is_file_name = path.suffix in (".pth", ".pt", ".bin", ".safetensors", ".tar") or name.startswith((".", "/"))
    if os.path.exists(path) or is_file_name:
        return path  # reading it says what is wrong when there is nothing
    if name.count("/") == 1:
        from uniformer.checkpoints.fetch import fetch_repo

        return fetch_repo(name)
    from uniformer.checkpoints.fetch import fetch

    return fetch(zoo.get_checkpoint(name))


def describe(source: Source) -> str:
    """How messages call a source."""
    return "the state dict" if isinstance(source, Mapping) else os.fspath(source)


def record_of(source: Source) -> zoo.Checkpoint | None:
    """The zoo's record of a source given by id, or of a file that still has its published name (or OpenMMLab's)."""
    if isinstance(source, Mapping):
        return None
    if os.fspath(source) in zoo.list_checkpoints():
        return zoo.get_checkpoint(os.fspath(source))
    records = map(zoo.get_checkpoint, zoo.list_checkpoints())
    name = Path(source).name
    return next((r for r in records if r.file and name in (r.file.name, Path(r.file.converted_url or "").name)), None)


def known_head_dim(weights: Weights, source: Source, asked: int | None = None) -> tuple[int, str] | None:
    """Channels per head, which no tensor tells, and who says so: contract, record, caller, or the only possibility.

    `asked` is the caller's word. Raises `InputError` when it contradicts the contract or the record.
    """
    if weights.contract is not None:
        told = weights.contract.config.head_dim, "the file's contract"
    elif record := record_of(source):
        told = record.config.head_dim, f"the record of {record.id}"
    elif asked is not None:
        return asked, "the caller"
    else:
        dims = _dims(weights.state)
        published = _published_head_dims(dims)
        return (published[0], f"the only published model of widths {dims}") if len(published) == 1 else None
    if asked not in (None, told[0]):
        raise InputError(f"{told[1]} says head_dim {told[0]}, the caller {asked}")
    return told


def _published_head_dims(dims: tuple[int, ...]) -> list[int]:
    return sorted({c.head_dim for c in zoo.VARIANTS.values() if c.dims == dims})


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
    """The variant's name in the zoo, whatever its class count; '' for one of the user's own."""
    for name, variant in zoo.VARIANTS.items():
        same = replace(config, num_classes=variant.num_classes, drop_path=0.0, dropout=0.0)
        if None not in (config.layer_scale, variant.layer_scale):  # its initial value makes no other network
            same = replace(same, layer_scale=variant.layer_scale)
        if same == variant:
            return name
    return ""


def contract_of(source: Source, weights: Weights, head_dim: tuple[int, str] | None) -> Contract:
    """What is known of a file: its own contract, else the zoo's record, else what its tensors tell.

    `head_dim` as `known_head_dim` gives it. Raises `InputError` when nothing tells it.
    """
    if weights.contract is not None:
        return weights.contract
    record = record_of(source)
    if record is not None:
        return contract_of_record(record, weights)
    if head_dim is None:
        published = ", ".join(map(str, _published_head_dims(_dims(weights.state)))) or "none"
        raise InputError(
            f"expected head_dim for {describe(source)}: tensors do not tell it; "
            f"published with these widths: {published}"
        )
    config = identify(weights.state, head_dim[0])
    return Contract(config, name_of(config), zoo.default_input(config), notes=(told_by(head_dim),))


def told_by(head_dim: tuple[int, str]) -> str:
    """The note that says where a head_dim is from."""
    return f"head_dim {head_dim[0]} from {head_dim[1]}"


def contract_of_record(record: zoo.Checkpoint, weights: Weights) -> Contract:
    """The contract of a published file. The class count is the file's: HMDB51's may differ from its record."""
    from uniformer.labels import load_classes

    config, head, notes = record.config, weights.state.get("head.weight"), record.notes
    classes: tuple[str, ...] = ()
    if config.num_classes:
        classes = load_classes(record.dataset.removesuffix(" split 1"))
        if head is not None and head.shape[0] != config.num_classes:
            notes = (
                *notes,
                f"the file has {head.shape[0]} classes where the record says {config.num_classes}: no class names",
            )
            config, classes = replace(config, num_classes=head.shape[0]), ()
    return Contract(
        config, record.arch, record.input, classes, record.id, record.dataset, record.scores, record.licence, notes
    )

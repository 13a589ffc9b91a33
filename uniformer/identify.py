"""What a file is: where it lies, which record of the zoo it belongs to, which network its tensors are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from uniformer import zoo
from uniformer.config import Config
from uniformer.contract import Contract
from uniformer.errors import InputError
from uniformer.weights import Weights, read_weights, sort_keys

Source = str | os.PathLike[str] | Mapping[str, Tensor]


def read_source(source: Source, *, averaged: bool = False) -> Weights:
    """The weights behind a published id (fetched when it is not here yet), a path, a hub repository or a state dict."""
    if isinstance(source, Mapping):
        return sort_keys(source)
    return read_weights(resolve(source), averaged=averaged)


def resolve(source: str | os.PathLike[str]) -> Path:
    """The file or folder behind a published id, a path or a hub repository."""
    path, name = Path(source).expanduser(), os.fspath(source)
    if path.exists() or path.suffix in (".pth", ".pt", ".bin", ".safetensors", ".tar") or name.startswith((".", "/")):
        return path  # reading it says what is wrong when there is nothing
    if name.count("/") == 1:
        from uniformer.hub import fetch_repo

        return fetch_repo(name)
    from uniformer.hub import fetch

    return fetch(zoo.get_checkpoint(name))


def describe(source: Source) -> str:
    """How messages call a source."""
    return "the state dict" if isinstance(source, Mapping) else os.fspath(source)


def record_of(source: Source) -> zoo.Checkpoint | None:
    """The zoo's record of a source given by id, or of a file that still has its published name."""
    if isinstance(source, Mapping):
        return None
    if os.fspath(source) in zoo.list_checkpoints():
        return zoo.get_checkpoint(os.fspath(source))
    records = map(zoo.get_checkpoint, zoo.list_checkpoints())
    return next((r for r in records if r.file is not None and r.file.name == Path(source).name), None)


def known_head_dim(weights: Weights, source: Source) -> tuple[int, str] | None:
    """Channels per head, which no tensor tells, and who says so: the contract, the record, or the only possibility."""
    if weights.contract is not None:
        return weights.contract.config.head_dim, "the file's contract"
    record = record_of(source)
    if record is not None:
        return record.config.head_dim, f"the record of {record.id}"
    dims = _dims(weights.state)
    published = {c.head_dim for c in zoo.VARIANTS.values() if c.dims == dims}
    if len(published) == 1:
        return published.pop(), f"the only published model of widths {dims}"
    return None


def _dims(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(state[f"stages.{i}.blocks.0.pos_embed.bias"].shape[0] for i in range(4))


def identify(state: Mapping[str, Tensor], head_dim: int) -> Config:
    """The architecture a state dict in our keys belongs to, read off its keys and shapes; `head_dim` must be known.

    What leaves no trace in the tensors (windows, drop path, the layer scale's initial value) keeps its default.
    """
    try:
        position = state["stages.0.blocks.0.pos_embed.weight"]
        ndim = position.ndim - 2
        depths = tuple(
            1 + max(int(k.split(".")[3]) for k in state if k.startswith(f"stages.{i}.blocks.")) for i in range(4)
        )
        dims = _dims(state)
        stem = state.get("stages.0.embed.conv1.weight", state.get("stages.0.embed.proj.weight"))
        second = state.get("stages.1.embed.proj.weight")
        head = state.get("head.weight")
        scaled = tuple(i + 1 for i in range(4) if f"stages.{i}.blocks.0.scale1" in state)
        assert stem is not None
        return Config(
            ndim=ndim,
            in_chans=stem.shape[1],
            num_classes=0 if head is None else head.shape[0],
            depths=depths,
            dims=dims,
            head_dim=head_dim,
            mlp_ratio=state["stages.0.blocks.0.ffn.fc1.bias"].shape[0] / dims[0],
            overlap=sum(f"stages.{i}.embed.conv1.weight" in state for i in range(4)),
            time_kernel=second.shape[2] if second is not None and ndim == 3 else 1,
            split_attention="stages.2.blocks.0.time_norm.weight" in state,
            layer_scale=1e-6 if scaled else None,
            layer_scale_stages=scaled or (1, 2, 3, 4),
            token_labeling="aux_head.weight" in state,
            keep_ratio=0.5 if "cls_token" in state else None,
            output="normed_maps" if "stages.0.norm.weight" in state else "logits" if "norm.weight" in state else "maps",
        )
    except (KeyError, ValueError, AssertionError) as error:
        raise InputError(f"the tensors are not of a whole UniFormer: {error} is missing") from None


def name_of(config: Config) -> str:
    """The variant's name in the zoo, whatever its class count; '' for one of the user's own."""
    for name, variant in zoo.VARIANTS.items():
        same = replace(config, num_classes=variant.num_classes, drop_path=0.0, dropout=0.0)
        if same == variant or replace(same, layer_scale=variant.layer_scale) == variant:
            return name
    return ""


def contract_of(source: Source, weights: Weights, head_dim: int | None = None) -> Contract:
    """What is known of a file: its own contract, else the zoo's record, else what its tensors tell."""
    if weights.contract is not None:
        return weights.contract
    record = record_of(source)
    if record is not None:
        return contract_of_record(record, weights)
    known = (head_dim, "the caller") if head_dim else known_head_dim(weights, source)
    if known is None:
        published = sorted({c.head_dim for c in zoo.VARIANTS.values() if c.dims == _dims(weights.state)})
        raise InputError(
            f"expected head_dim for {describe(source)}: tensors do not tell it; published with these widths: "
            f"{', '.join(map(str, published)) or 'none'}"
        )
    config = identify(weights.state, known[0])
    return Contract(config, name_of(config), zoo.default_input(config), notes=(f"head_dim from {known[1]}",))


def contract_of_record(record: zoo.Checkpoint, weights: Weights) -> Contract:
    """The contract of a published file. The class count is the file's: HMDB51's may differ from its record."""
    from uniformer.data.classes import load_classes

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

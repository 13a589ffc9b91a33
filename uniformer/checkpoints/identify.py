"""What a file is: where it lies, which published record it belongs to, which network its tensors are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.files import Weights, read_object, read_weights
from uniformer.checkpoints.records import Checkpoint, get_checkpoint, list_checkpoints, published_at
from uniformer.checkpoints.told import Told, as_told, checked, usual_input
from uniformer.config import Config, with_options
from uniformer.errors import InputError, counted
from uniformer.heads.keys import classes_of, head_of, width_of
from uniformer.labels import PUBLISHED_ON, load_classes, load_details
from uniformer.network.variants import VARIANTS

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
    attention: Mapping[str, int | None] = field(default_factory=dict)  #: `window` and `global_every`, where told
    attention_told_by: str = ""
    told: Told = field(default_factory=Told)  #: by the caller

    @cached_property
    def contract(self) -> Contract:
        """Its own contract, else the record's, else what the tensors tell; and what the caller says.

        Raises `InputError` without a head_dim, and where what is said does not go with the network.
        """
        contract = self.weights.contract or self._from_outside()
        said = {"block_eps": self.told["block_eps"]} if "block_eps" in self.told else {}
        config = with_options(contract.config, {**self.attention, **said})
        told = as_told(replace(contract, config=config), self.told)
        return contract if told == contract else replace(told, proof=None)

    def _from_outside(self) -> Contract:
        if self.record is not None:
            return contract_of_record(self.record, self.weights)
        if self.head_dim is None:
            published = ", ".join(map(str, _head_dims(_dims(self.weights.state)))) or "none"
            raise InputError(
                f"expected head_dim for {self.name}: tensors do not tell it; published with these widths: {published} "
                "(head_dim= or like= says it, --head-dim or --like)"
            )
        config, classes = identify(self.weights.state, self.head_dim), self.weights.classes
        if head := head_of(self.weights.heads):
            heads = self.weights.heads
            width = width_of(heads) or config.head_width
            config = replace(config, head=head, num_classes=classes_of(heads), head_width=width)
        arch = name_of(with_options(config, self.attention))
        spec, assumed = usual_input(config, arch, is_named=bool(classes))
        notes = (self.head_dim_note, *assumed)
        if self.weights.form == "openmmlab" and "block_eps" not in self.told:
            notes = (*notes, f"block_eps {config.block_eps}: models trained in mmaction2 and mmpose have 1e-5")
        known = PUBLISHED_ON.get(config.task, "")
        details = load_details(known) if known and config.num_classes == len(load_classes(known)) else {}
        if self.weights.palette:
            details["palette"] = [list(colour) for colour in self.weights.palette]
        return Contract(config, arch, spec, classes, notes=notes, details=details)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classifier's rows by name; empty where nobody says."""
        is_told = self.weights.contract or self.record or {"like", "classes"} & self.told.keys()
        return self.contract.classes if is_told else self.weights.classes

    @property
    def head_dim_note(self) -> str:
        return f"head_dim {self.head_dim} from {self.told_by}"

    @property
    def attention_note(self) -> str:
        """Where windows matter, in dense backbones: what stage 3 attends to, and who says so."""
        is_dense = "stages.0.norm.weight" in self.weights.state and "cls_token" not in self.weights.state
        if self.attention_told_by:
            return f"stage 3 attends {attention_in_words(**self.attention)}, says {self.attention_told_by}"
        if not is_dense or self.weights.contract is not None or self.record is not None:
            return ""
        return "nothing tells whether stage 3 attends in windows: taken as global; window= and global_every= say it"


def open_checkpoint(
    source: CheckpointSource, *, averaged: bool = False, published_order: bool = True, **told: Unpack[Told]
) -> Opened:
    """Read a published id (fetched when it is not here yet), a path, a hub repository or a state dict, once.

    `told` is the caller's word, `Told`; `averaged` takes a training file's EMA weights; without `published_order` an
    OpenMMLab classifier keeps its order of classes. Raises `InputError` for what cannot be read, and where `head_dim`
    contradicts who knows it.
    """
    said = checked(told)
    if isinstance(source, Mapping):
        name, record = "the state dict", None
        weights = read_object(source, averaged=averaged, published_order=published_order)
    elif not isinstance(source, str | os.PathLike):
        raise InputError(
            f"expected a published id, a path, a hub repository or a state dict, got {type(source).__name__} "
            "(where a model is taken, it comes with its contract: (model, Contract(...)))"
        )
    else:
        name = os.fspath(source)
        weights = read_weights(resolve(source), averaged=averaged, published_order=published_order)
        record = _record_of(source) if weights.contract is None else None
    head_dim, caller = said.get("head_dim"), "the caller"
    like = get_checkpoint(said["like"] or "") if "like" in said else None
    if like is not None and _dims(weights.state) != like.config.dims:
        raise InputError(
            f"{name}: expected tensors like those of {like.id}, of widths {like.config.dims}, found "
            f"{_dims(weights.state)}"
        )
    if head_dim is None and like is not None:
        head_dim, caller = like.config.head_dim, like.id
    known, known_by = _told_head_dim(weights, record)
    if known is None:
        known, known_by = (head_dim, caller) if head_dim is not None else _published_head_dim(weights.state)
    if head_dim not in (None, known):
        raise InputError(f"{known_by} says head_dim {known}, {caller} {head_dim}")
    attention, attention_by = _told_attention(weights, said, like)
    return Opened(name, weights, record, known, known_by, attention, attention_by, said)


def _told_head_dim(weights: Weights, record: Checkpoint | None) -> tuple[int | None, str]:
    """What the file or its record say, and which of them."""
    if weights.contract is not None:
        return weights.contract.config.head_dim, "the file's contract"
    if record is not None:
        return record.config.head_dim, f"the record of {record.id}"
    return weights.told.get("head_dim"), "the training's settings in the file"


def _published_head_dim(state: Mapping[str, Tensor]) -> tuple[int | None, str]:
    """The one value that was published with these widths for this kind of network; None where there are several."""
    dims, kind = _dims(state), _kind(state)
    # What looks like a plain network of images may be one of token labeling, where it differs, less its `aux_head`.
    is_plain = kind == (2, kind[1], False, False, False) and not any(key.endswith(".scale1") for key in state)
    of_kind = [] if is_plain else _head_dims(dims, kind)
    if len(of_kind) == 1 and len(_head_dims(dims)) > 1:
        return of_kind[0], f"the published models of its kind and widths {dims}"
    published = of_kind or _head_dims(dims)
    return (published[0], f"the only published model of widths {dims}") if len(published) == 1 else (None, "")


def _told_attention(weights: Weights, told: Told, like: Checkpoint | None) -> tuple[dict[str, int | None], str]:
    """`window` and `global_every` as the caller or the settings of a training say, and which of them."""
    window, global_every = told.get("window"), told.get("global_every")
    if window is not None or global_every is not None:
        return {"window": window or None, "global_every": global_every}, "the caller"
    if like is not None and like.config.window is not None:
        return {"window": like.config.window, "global_every": like.config.global_every}, like.id
    if weights.contract is None and "window" in weights.told and "stages.0.norm.weight" in weights.state:
        said = {name: weights.told[name] for name in ("window", "global_every")}
        return said, "the training's settings in the file"
    return {}, ""


def attention_in_words(window: int | None = None, global_every: int | None = None) -> str:
    if window is None:
        return "globally"
    return f"in windows of {window}" + (f", every block number {global_every} globally" if global_every else "")


def resolve(source: str | os.PathLike[str]) -> Path:
    """The file or folder behind a published id, a path, a hub repository, or a file in one of the authors'.

    After a name on the hub '@' and a branch, tag or commit may follow.
    """
    from uniformer.checkpoints.fetch import fetch, fetch_file, fetch_repo, is_path

    path, name = Path(source).expanduser(), os.fspath(source)
    hub_name, _, revision = name.partition("@")
    if not os.path.exists(path) and (record := published_at(name)):
        repo, _, file = hub_name.rpartition("/")
        return fetch_file(repo, file, revision=revision) if revision else fetch(record)
    if is_path(path):
        return path  # reading it says what is wrong when there is nothing
    return fetch_repo(name) if hub_name.count("/") == 1 else fetch(get_checkpoint(name))


def _record_of(source: str | os.PathLike[str]) -> Checkpoint | None:
    if os.fspath(source) in list_checkpoints():
        return get_checkpoint(os.fspath(source))
    records = map(get_checkpoint, list_checkpoints())
    name = Path(source).name.partition("@")[0]
    return next((r for r in records if r.file and name in (r.file.name, Path(r.file.converted_url or "").name)), None)


def _head_dims(dims: tuple[int, ...], kind: tuple[Any, ...] | None = None) -> list[int]:
    """Published with these widths, of all kinds of networks or of one."""
    return sorted({c.head_dim for c in VARIANTS.values() if c.dims == dims and kind in (None, _kind_of(c))})


def _kind_of(config: Config) -> tuple[Any, ...]:
    is_dense = config.output == "normed_maps"
    return config.ndim, config.overlap, config.token_labeling, config.is_hourglass, is_dense


def _kind(state: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """The same of tensors."""
    position = state.get("stages.0.blocks.0.pos_embed.weight")
    ndim = 2 if position is None else position.ndim - 2  # of a kernel; loading says if it is missing
    overlap = sum(f"stages.{i}.embed.conv1.weight" in state for i in range(4))
    return (ndim, overlap, *(key in state for key in ("aux_head.weight", "cls_token", "stages.0.norm.weight")))


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
    ndim, overlap, token_labeling, is_hourglass, is_dense = _kind(state)
    rank = ndim + 2  # of a kernel
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
        token_labeling=token_labeling,
        keep_ratio=0.5 if is_hourglass else None,
        output="normed_maps" if is_dense else "logits" if "norm.weight" in state else "maps",
    )


def name_of(config: Config) -> str:
    """The variant's name, whatever its classes, the width of its head and its anchors; '' for one of the user's own."""
    for name, variant in VARIANTS.items():
        if config.head != variant.head:
            continue
        same = replace(
            config, num_classes=variant.num_classes, head_width=variant.head_width, anchor_scale=variant.anchor_scale,
            drop_path=0.0, dropout=0.0,
        )  # fmt: skip
        if None not in (config.layer_scale, variant.layer_scale):  # its initial value makes no other network
            same = replace(same, layer_scale=variant.layer_scale)
        if same == variant:
            return name
    return ""


def contract_of_record(record: Checkpoint, weights: Weights) -> Contract:
    """The contract of a published file. The class count is the file's: HMDB51's may differ from its record."""
    config, head, notes = record.config, weights.state.get("head.weight"), record.notes
    classes, rows = record.classes, classes_of(weights.heads) if head is None else head.shape[0]
    if config.num_classes and rows and rows != config.num_classes:
        found = counted(rows, "class")
        said = f"the file has {found} where the record says {config.num_classes}: no class names"
        notes, config, classes = (*notes, said), replace(config, num_classes=rows), ()
    return Contract(
        config, record.arch, record.input, classes, record.id, record.dataset, record.scores, record.licence, notes,
        details=record.details if classes else {},
    )  # fmt: skip

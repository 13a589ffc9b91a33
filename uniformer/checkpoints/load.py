"""Putting a file's weights into a model: what fits is loaded, what was asked for is changed, anything else is an error.

`load_checkpoint` never loads half a file in silence: it raises, or returns a `LoadReport` on every tensor.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.files import Weights
from uniformer.checkpoints.identify import CheckpointSource, Opened, attention_in_words, open_checkpoint
from uniformer.checkpoints.keys import reference_key
from uniformer.checkpoints.records import default_checkpoint
from uniformer.checkpoints.told import Told, assumed_input
from uniformer.checkpoints.wrappers import OPENMMLAB_CLASSIFIER
from uniformer.config import INPUTS, Config, with_options
from uniformer.errors import InputError, counted, shown
from uniformer.heads import build_network
from uniformer.heads.keys import BACKBONE, CLASS_LAYERS, HEAD_KEYS, classes_of, head_of
from uniformer.heads.pyramid import DenseNetwork
from uniformer.network.description import STAGES, stage_indices
from uniformer.network.model import UniFormer
from uniformer.network.variants import get_config

Inflation = Literal["center", "mean"]
CLASSIFIER = ("head.*", "cls_head.*", "aux_head.*", *CLASS_LAYERS)
TAIL = ("norm.*", "cls_norm.*", *CLASSIFIER)  # what a model that returns maps does not have


@dataclass
class LoadReport:
    """Every tensor of a load, by what became of it. Keys are ours, of what is ignored without what was put before."""

    source: str
    loaded: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)  #: 2D kernels that became 3D, or a stem for other channels
    new: list[str] = field(default_factory=list)  #: of the model, not from the file: freshly initialised
    ignored: list[str] = field(default_factory=list)  #: of the file, not in the model
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {counted(len(self.loaded), 'tensor')} loaded, {len(self.inflated)} inflated, "
            f"{len(self.new)} new, {len(self.ignored)} ignored"
        ]
        for name in ("new", "ignored"):
            keys = getattr(self, name)
            if keys:
                more = f", ... ({len(keys)} in all)" if len(keys) > 6 else ""
                lines.append(f"  {name}: {', '.join(map(shown, keys[:6]))}{more}")
        return "\n".join(shown(line, 1000) for line in lines + [f"  note: {note}" for note in self.notes])


def unwrapped(model: nn.Module) -> Any:
    """The network, a `UniFormer` or a `DenseNetwork`, under `torch.compile`, DataParallel, DistributedDataParallel and
    moving averages.

    Raises `InputError` where there is none.
    """
    inner = model
    while not isinstance(inner, UniFormer | DenseNetwork):
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)  # type: ignore[assignment]
        if not isinstance(inner, nn.Module):
            raise InputError(f"expected a UniFormer, or one under torch's wrappers, got {type(model).__name__}")
    return inner


def load_checkpoint(
    model: UniFormer | DenseNetwork,
    source: CheckpointSource | Opened,
    *,
    inflate: Inflation | None = None,
    new_classifier: bool = False,
    adapt_stem: bool = False,
    allow_new: Sequence[str] = (),
    allow_ignored: Sequence[str] = (),
    averaged: bool = False,
    published_order: bool = True,
) -> LoadReport:
    """Load a published id, a file, a folder, a hub repository, a state dict or what was opened, into `model`, strictly.

    Departures must be asked for: `inflate` turns 2D kernels into 3D ones, all weight in the centre frame ("center": a
    still clip gives the image's logits exactly, except in light models, whose class and summary tokens then stand
    against the tokens of all frames) or spread evenly ("mean": how the published video models began);
    `new_classifier` keeps the model's own classifier where the class count differs; `adapt_stem` sums or repeats the
    stem's kernels for another number of input channels; `allow_new` and `allow_ignored` are patterns of keys that may
    be missing in the file, or left over from it (as they are called there, or by our names). A model that returns maps
    or features ignores a file's classifier. Without `published_order` the rows of OpenMMLab's classifiers stay as they
    are.

    Raises `InputError` with one line when anything else does not fit; the model is then unchanged.
    """
    model = unwrapped(model)
    if isinstance(source, Opened):
        opened = source
    else:
        opened = open_checkpoint(source, averaged=averaged, published_order=published_order)
    own = model.config.head_dim
    if opened.head_dim not in (None, own):
        raise InputError(
            f"{opened.told_by} says head_dim {opened.head_dim}, the model has {own}: "
            "it would load without complaint and lose accuracy"
        )
    report = load_tensors(
        model, _tensors(opened, model), source=opened.name, inflate=inflate, new_classifier=new_classifier,
        adapt_stem=adapt_stem, allow_new=allow_new, allow_ignored=allow_ignored, unknown=opened.weights.unknown,
    )  # fmt: skip
    report.ignored = [_as_in_file(key, opened.weights) for key in report.ignored] + _left_over(opened, model)
    told = opened.weights.contract or opened.record
    if (
        told is not None
        and isinstance(told.input, INPUTS[model.config.task])
        and told.input.is_video == model.config.is_video
    ):
        model.input_spec = told.input
    note = f"head_dim {own} from the model: the file does not tell" if opened.head_dim is None else opened.head_dim_note
    report.notes += [*opened.weights.notes, note]
    if opened.attention_note and model.config.output == "normed_maps":
        here = attention_in_words(model.config.window, model.config.global_every)
        report.notes.append(f"{opened.attention_note}; in this model {here}")
    return report


def _tensors(opened: Opened, model: UniFormer | DenseNetwork) -> dict[str, Tensor]:
    """What of a file may go into a model: with a head's tensors, where it has that head."""
    weights = opened.weights
    if isinstance(model, UniFormer):
        return weights.state
    return weights.whole if head_of(weights.heads) == model.config.head else Weights(weights.state, weights.form).whole


def _left_over(opened: Opened, model: UniFormer | DenseNetwork) -> list[str]:
    """The keys of a file that are of no part of the model."""
    weights = opened.weights
    takes_heads = not isinstance(model, UniFormer) and head_of(weights.heads) == model.config.head
    return [*([] if takes_heads else weights.heads), *weights.other]


def _as_in_file(key: str, weights: Weights) -> str:
    """A key that is ignored, which we have put under `backbone.` and a classifier under `head.`, as the file has it."""
    own = key.removeprefix(BACKBONE)
    if weights.form != "openmmlab":
        return own
    is_classifier = own.startswith("head.")
    return f"{OPENMMLAB_CLASSIFIER}{own.removeprefix('head.')}" if is_classifier else f"{BACKBONE}{own}"


def load_tensors(
    model: UniFormer | DenseNetwork, state: Mapping[str, Tensor], *, source: str = "state dict", **departures: Any
) -> LoadReport:
    """`load_checkpoint` for a state dict in our keys. `departures`: as in `_fit`."""
    fitted, report = _fit(model, state, source, **departures)
    model.load_state_dict(model.state_dict() | fitted, strict=True)
    return report


def _fit(
    model: UniFormer | DenseNetwork,
    state: Mapping[str, Tensor],
    source: str,
    *,
    inflate: Inflation | None = None,
    new_classifier: bool = False,
    adapt_stem: bool = False,
    allow_new: Sequence[str] = (),
    allow_ignored: Sequence[str] = (),
    unknown: Sequence[str] = (),
) -> tuple[dict[str, Tensor], LoadReport]:
    """What of a state dict goes into a model, in its shapes, and the report. `unknown`: keys that no UniFormer has.

    Raises `InputError` where the rest is not allowed for. The model is only looked at.
    """
    if inflate not in (None, "center", "mean"):
        raise InputError(f"expected inflate 'center' or 'mean', got {inflate!r}")
    report = LoadReport(source)
    strange = [key for key in unknown if not _matches(key, allow_ignored)]
    if strange:
        raise InputError(f"{source} has {counted(len(strange), 'key')} that no UniFormer has: {_few(strange)}")
    report.ignored += unknown
    problems: list[str] = []
    own, fitted = model.state_dict(), {}
    if isinstance(model, DenseNetwork):
        allow_ignored = (*allow_ignored, *(f"{BACKBONE}{pattern}" for pattern in TAIL))
    elif model.norm is None:
        allow_ignored = (*allow_ignored, *TAIL)
    elif model.config.num_classes == 0:
        allow_ignored = (*allow_ignored, *CLASSIFIER)
    for key, value in state.items():
        if key not in own:
            is_allowed = _matches(key, allow_ignored) or _matches(reference_key(key) or key, allow_ignored)
            (report.ignored if is_allowed else problems).append(key)
            continue
        want = own[key]
        if want.is_floating_point() and not value.is_floating_point():
            raise InputError(f"expected floating-point numbers as {key} of {source}, found {value.dtype}")
        if value.shape == want.shape:
            fitted[key] = value
            report.loaded.append(key)
        elif new_classifier and _matches(key, CLASSIFIER):
            report.new.append(key)
        else:
            fitted[key] = _reshaped(key, value, want.shape, inflate, adapt_stem, source)
            report.inflated.append(key)
    if problems:
        raise InputError(f"{source} has {counted(len(problems), 'tensor')} that the model has not: {_few(problems)}")
    missing = [key for key in own if key not in state]
    allow_new = (*allow_new, *CLASSIFIER) if new_classifier else allow_new
    report.new += [key for key in missing if _matches(key, allow_new)]
    missing = [key for key in missing if not _matches(key, allow_new)]
    if missing:
        raise InputError(f"{source} lacks {counted(len(missing), 'tensor')} of the model: {_few(missing)}")
    return fitted, report


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _few(keys: Sequence[str]) -> str:
    return ", ".join(map(shown, keys[:3])) + (", ..." if len(keys) > 3 else "")


def _reshaped(
    key: str, value: Tensor, want: torch.Size, inflate: Inflation | None, adapt_stem: bool, source: str
) -> Tensor:
    """A convolution kernel made to fit by inflation in time or another number of input channels, or an error."""
    shape = tuple(value.shape)
    if value.ndim == 4 and len(want) == 5 and shape[2:] == tuple(want[3:]):
        if inflate is None:
            raise InputError(
                f"{source} is a 2D (image) file, the model is 3D (video): inflate it with inflate='center' or 'mean'"
            )
        value = inflate_kernel(value, want[2], inflate)
    if (
        key.removeprefix(BACKBONE).startswith("stages.0.embed.")
        and value.ndim == len(want)
        and value.shape[1] != want[1]
        and value.shape[2:] == want[2:]
    ):
        if not adapt_stem:
            raise InputError(
                f"{source} takes {counted(value.shape[1], 'input channel')}, the model {want[1]}: "
                "adapt_stem=True adapts the stem"
            )
        value = adapt_channels(value, want[1])
    if value.shape != want:
        if _matches(key, CLASSIFIER) and shape[1:] == tuple(want[1:]) and shape:
            raise InputError(
                f"{source} has {counted(shape[0], 'class')}, the model {want[0]}: "
                "begin a new classifier with new_classifier=True"
            )
        raise InputError(f"{key} has shape {shape} in {source}, the model expects {tuple(want)}")
    return value


def inflate_kernel(kernel: Tensor, frames: int, how: Inflation) -> Tensor:
    """(out, in, h, w) -> (out, in, frames, h, w): in the centre frame, or divided evenly over all of them."""
    if how == "mean":
        return kernel.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    inflated[:, :, frames // 2] = kernel
    return inflated


def adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """(out, in, ...) -> (out, channels, ...): the input channels repeated in turn and scaled down; one gets their sum.

    A grey input then gives what it gave before (exactly so for 1 channel and for multiples of the old count).
    """
    given = kernel.shape[1]
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    return kernel[:, torch.arange(channels) % given] * (given / channels)


# ---- from a source to a model ----------------------------------------------------------------------------------------


def create_model(
    name: str | Config,
    *,
    pretrained: bool = False,
    checkpoint: CheckpointSource | None = None,
    inflate: Inflation | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **options: Any,
) -> Any:
    """Build a variant by name, or what a `Config` says, with any field changed, optionally with a checkpoint's weights.

        create_model("uniformer_small_video", num_classes=174, drop_path=0.3)
        create_model("uniformer_small_video", pretrained=True)                          # the variant's usual checkpoint
        create_model("uniformer_small_video", checkpoint="uniformer_small.k400_16x4")   # an id, a file or a repository
        create_model("uniformer_small_video", checkpoint="uniformer_small.in1k", inflate="center", num_classes=51)
        create_model("uniformer_base", features_only=True)     # forward gives the four stage maps
        create_model("uniformer_base", features_only=True, out_indices=(1, 3))          # the second and the fourth
        create_model("mask_rcnn.uniformer_small_h14", num_classes=3, checkpoint="uniformer_small.in1k")   # with a head

    With weights the class count is the file's, unless `num_classes` asks for another: then the classifier is new.
    `in_chans` other than the file's adapts the stem, `inflate` turns an image checkpoint into a video model; see
    `load_checkpoint`. Which checkpoint `pretrained` takes says `records.default_checkpoint`.
    Unknown names and options raise `InputError`, naming the nearest known ones.
    """
    if features_only:
        options.setdefault("output", "maps")
    config = with_options(name if isinstance(name, Config) else get_config(name), options)
    if pretrained:
        if checkpoint is not None:
            raise InputError("expected pretrained=True or a checkpoint, got both")
        if isinstance(name, Config):
            raise InputError("expected the name of a variant for pretrained=True, got a Config: name a checkpoint")
        checkpoint = default_checkpoint(name)
    stages = STAGES if out_indices is None else stage_indices(out_indices)
    if out_indices is not None and (config.output == "logits" or config.head is not None):
        raise InputError("expected features_only=True for out_indices: a model with a classifier gives no maps")
    model = build_network(config) if checkpoint is None else _with_weights(config, checkpoint, options.keys(), inflate)
    if isinstance(model, UniFormer):
        model.out_indices = stages
    return model


def _with_weights(
    config: Config, checkpoint: CheckpointSource, asked: Collection[str], inflate: Inflation | None
) -> UniFormer | DenseNetwork:
    """A model of `config` with a checkpoint's weights. `asked`: the options that the caller of `create_model` gave."""
    opened = open_checkpoint(checkpoint)
    rows = _rows_of(opened, config)
    if rows and config.num_classes and "num_classes" not in asked:
        config = replace(config, num_classes=rows)
    model = build_network(config)
    report = load_checkpoint(
        model, opened, inflate=inflate,
        new_classifier="num_classes" in asked, adapt_stem="in_chans" in asked, allow_new=new_parts(opened, config),
    )  # fmt: skip
    if config.output == "normed_maps" and report.new:
        what = "norms for the maps" if config.head is None else f"{counted(len(report.new), 'tensor')} of the model"
        warnings.warn(f"{opened.name} has no {what}: they are new and want training", stacklevel=3)
    theirs, ours = attention_in_words(**opened.attention), attention_in_words(config.window, config.global_every)
    if opened.attention and theirs != ours:
        warnings.warn(f"{opened.name}: stage 3 attended {theirs} in training, here {ours}", stacklevel=3)
    return model


def _rows_of(opened: Opened, config: Config) -> int:
    """How many classes the file's own classifier has, where a model of `config` takes it over; else 0."""
    if config.head is not None:
        return classes_of(opened.weights.heads) if head_of(opened.weights.heads) == config.head else 0
    head = opened.weights.state.get("head.weight")
    return head.shape[0] if head is not None and head.ndim == 2 and head.shape[1] == config.dims[-1] else 0


def new_parts(opened: Opened, config: Config) -> tuple[str, ...]:
    """What a model may have beyond the file: a classifier's is what dense networks start from, without the norms of
    the maps that they hand out, and without a head."""
    if config.output != "normed_maps":
        return ()
    if config.head is None:
        return ("stages.*.norm.*",)
    heads = () if head_of(opened.weights.heads) == config.head else HEAD_KEYS
    return (f"{BACKBONE}stages.*.norm.*", *heads)


def load_model(
    source: CheckpointSource | Opened, *, averaged: bool = False, published_order: bool = True, **told: Unpack[Told]
) -> tuple[Any, Contract, LoadReport]:
    """Build the model a file is of, in evaluation mode, with its contract.

        load_model("bare.pth", like="uniformer_small.ssv2_16_prek400", classes="names.txt")

    `source`, `averaged` and `published_order` as in `load_checkpoint`; each tensor keeps its precision. What a file
    does not tell the caller may. What nobody tells is assumed where the published models agree: the report's notes, and
    the contract's, say what.

    Args:
        head_dim: channels per attention head, which no tensor tells.
        window, global_every: what stage 3 of a dense backbone attends to, 0 for no windows: all weights fit all.
        block_eps: of the blocks' layer norms; 1e-5 for models trained in mmaction2 and mmpose.
        like: a published id of such a network: its head_dim, windows and input, and its class names where the count
            is the same.
        sampling: which frames make a clip: "16x4" (16 of stride 4), "16" (spread over the video), "dense" or "sparse".
        classes: the names of the classifier's rows, a file of them (one a line, or a JSON array), or a data set with a
            list here, such as "Kinetics-400".

    Raises `InputError` when the file does not tell what it is, or something else than the caller.
    """
    opened = source
    if not isinstance(opened, Opened):
        opened = open_checkpoint(opened, averaged=averaged, published_order=published_order, **told)
    contract = opened.contract
    state, report = _fit_before_building(contract.config, opened)
    model = build_network(contract.config)
    for key, own in model.state_dict(keep_vars=True).items():
        if state[key].is_floating_point() and own.is_floating_point():
            own.data = own.data.to(state[key].dtype)
    model.load_state_dict(state, strict=True)
    report.ignored += _left_over(opened, model)
    head_dim_note = [] if opened.head_dim is None else [opened.head_dim_note]
    attention_note = [opened.attention_note] if opened.attention_note else []
    report.notes += dict.fromkeys([*opened.weights.notes, *head_dim_note, *attention_note, *contract.notes])
    model.input_spec = None if assumed_input(contract) else contract.input
    return model.eval(), contract, report


def _fit_before_building(config: Config, opened: Opened) -> tuple[dict[str, Tensor], LoadReport]:
    """`_fit` of a file's tensors to a network that no memory has been taken for yet."""
    if sum(config.depths) > len(opened.weights.state):
        raise InputError(
            f"{opened.name} has {counted(len(opened.weights.state), 'tensor')}, too few for the "
            f"{sum(config.depths)} blocks that its description says"
        )
    with torch.device("meta"):
        plan = build_network(config)
    return _fit(plan, _tensors(opened, plan), opened.name, unknown=opened.weights.unknown)

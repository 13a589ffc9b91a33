"""What a caller says of a file that does not say it itself, and what is assumed where nobody does. No torch here.

A bare `.pth` of the original code is tensors and nothing else: neither how clips are sampled nor the names of the
classes are in it, and some of the network shows in no tensor.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from uniformer.checkpoints.contract import Contract
from uniformer.config import INPUTS, Config, Input, InputSpec, PersonCrop, did_you_mean
from uniformer.errors import InputError, counted, shown
from uniformer.labels import read_class_names

if TYPE_CHECKING:
    from uniformer.checkpoints.records import Checkpoint

ASSUMED_INPUT, NO_NAMES = "assumed input: ", "no class names: "  # how the notes of a contract on what is missing begin


class NetworkTold(TypedDict, total=False):
    """What may be said of a file's network and of what it is fed; None leaves it to the file."""

    head_dim: int | None  #: channels per attention head, where nothing else tells them
    window: int | None  #: of stage 3's attention in a dense backbone, 0 for none; goes before what others say
    global_every: int | None  #: with `window`: every n-th block attends globally
    block_eps: float | None  #: of the blocks' layer norms: 1e-5 for models trained in mmaction2 and mmpose
    like: str | None  #: a published id of such a network: what the tensors do not tell, input included, is as there
    sampling: str | None  #: which frames make a clip: "16x4" (frames x stride), "16" (spread), "dense" or "sparse"


class Told(NetworkTold, total=False):
    """The same, and the names of the classes."""

    classes: Sequence[str] | str | None  #: in the order of the classifier's rows: names, a file, or "Kinetics-400"


def checked(told: Mapping[str, Any]) -> Told:
    """What was said, without what was left open. Raises `InputError` for an option that there is not."""
    for name in told.keys() - Told.__annotations__.keys():
        raise InputError(f"unknown option {name!r} of a checkpoint{did_you_mean(name, Told.__annotations__)}")
    return Told(**{name: value for name, value in told.items() if value is not None})  # type: ignore[typeddict-item]


def refuse_told(told: Mapping[str, Any], what: str) -> None:
    """Raises `InputError` where something is said of what leaves nothing open."""
    if said := checked(told):
        raise InputError(f"{what} says all of itself: expected no {', '.join(said)}")


def as_told(contract: Contract, told: Told) -> Contract:
    """The contract with the input and the class names that the caller says.

    Raises `InputError` where they do not go with the network.
    """
    spec, classes, notes = contract.input, contract.classes, contract.notes
    if "like" in told:
        like = _like(told["like"], contract.config)
        spec = like.input if isinstance(like.input, INPUTS[contract.config.task]) else spec
        if not classes and like.num_classes == contract.config.num_classes:
            classes = like.classes
        notes = (*_without(ASSUMED_INPUT, notes), f"input as of {like.id}, says the caller")
    if "sampling" in told:
        if not isinstance(spec, InputSpec):
            raise InputError("expected no sampling for a network without a classifier")
        spec = sampled(spec, told["sampling"])
        notes = (*_without(ASSUMED_INPUT, notes), f"sampling {told['sampling']} from the caller")
    if "classes" in told:
        classes = read_class_names(told["classes"] or "")
    return replace(contract, input=spec, classes=classes, notes=_without(NO_NAMES, notes) if classes else notes)


def _without(beginning: str, notes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(note for note in notes if not note.startswith(beginning))


def _like(id: str | None, config: Config) -> Checkpoint:
    """The record of a network of such tensors: class count, channels and what they do not show may differ."""
    from uniformer.checkpoints.records import get_checkpoint

    like = get_checkpoint(id or "")
    free = ("num_classes", "in_chans", "head_dim", "token_labeling", "layer_scale", "window", "global_every",
            "block_eps", "drop_path", "dropout")  # fmt: skip
    known = like.config if config.head is not None else like.config.backbone
    same = replace(known, **{name: getattr(config, name) for name in free})
    if same != config or (like.config.layer_scale is None) != (config.layer_scale is None):
        raise InputError(f"expected tensors like those of {like.id} ({like.arch}), found another network's")
    return like


_DENSE: dict[str, Any] = {"sampling": "dense", "stride": 4, "clips": 4, "crops": 1}  # as the published ones usually are
_SPARSE: dict[str, Any] = {"sampling": "sparse", "stride": None, "clips": 1, "crops": 3}


def sampled(spec: InputSpec, sampling: str | None) -> InputSpec:
    """The input with other frames of a clip: "16x4", every 4th of 16 ("dense"), or "16", spread out ("sparse").

    Where the kind changes, views are as usual for it: four clips of one crop, or one clip of three crops.
    Raises `InputError` for other words, and for images.
    """
    found = re.fullmatch(r"(dense|sparse)?:?([0-9]{1,4})?(?:x([0-9]{1,4}))?", sampling or "")
    kind, frames, stride = found.groups() if found else (None, None, None)
    if not (kind or frames) or (stride and (kind == "sparse" or not frames)):
        raise InputError(f"expected sampling as 16x4, 16, dense or sparse, got {shown(repr(sampling))}")
    if not spec.is_video:
        raise InputError(f"expected no sampling for a network of images, got {sampling}")
    kind = kind or ("dense" if stride else "sparse")
    if kind != spec.sampling:
        spec = replace(spec, **_DENSE if kind == "dense" else _SPARSE)
    return replace(spec, frames=int(frames or spec.frames), stride=int(stride) if stride else spec.stride)


# ---- what is assumed -------------------------------------------------------------------------------------------------


def usual_input(config: Config, arch: str, *, is_named: bool) -> tuple[Input, tuple[str, ...]]:
    """What the published networks of this kind and class count were fed, and notes of what is only assumed so.

    `is_named`: whether the classes have names. A network without a classifier is fed nothing, so nothing is assumed.
    """
    from uniformer.checkpoints.records import get_checkpoint, list_checkpoints
    from uniformer.network.variants import default_input, dense_input

    if config.head is not None:
        dense = dense_input(config)
        if not isinstance(dense, PersonCrop):
            return dense, ()
        size = f"{dense.size[0]} x {dense.size[1]} pixels"
        return dense, (f"{ASSUMED_INPUT}crops of {size} (height x width), like= (--like ID) says which",)
    spec = default_input(config)
    if config.output != "logits" or not config.num_classes:
        return spec, ()
    kind = (config.ndim, config.is_hourglass, config.token_labeling)
    as_many = [
        r for r in map(get_checkpoint, list_checkpoints())
        if isinstance(r.input, InputSpec) and r.num_classes == config.num_classes
        and (r.config.ndim, r.config.is_hourglass, r.config.token_labeling) == kind
    ]  # fmt: skip
    published = [r for r in as_many if r.arch == arch] or as_many
    first = next((r for r in published if r.input == spec), published[0] if published else None)
    if first is not None and isinstance(first.input, InputSpec):
        spec = first.input
    sets = tuple(dict.fromkeys(r.dataset.removesuffix(" split 1") for r in as_many))
    notes = [_assumed(spec, config.num_classes, first, published)]
    if not is_named:
        notes.append(f"{NO_NAMES}{_as_many(config.num_classes, sets)}classes= (--classes) takes a file or a set's name")
    return spec, tuple(notes)


def _assumed(spec: InputSpec, classes: int, first: Checkpoint | None, published: Sequence[Checkpoint]) -> str:
    how = f"{in_words(spec)}, "
    if first is None:
        how += f"the usual of its kind, as no published network of it has {counted(classes, 'class')}"
    else:
        sets = " and ".join(dict.fromkeys(r.dataset for r in published))
        how += f"as {first.id}, since {classes} classes are those of {sets}"
        others = {r.input: r.id for r in reversed(published) if r.input != spec}
        how += f"; fed otherwise: {', '.join(sorted(others.values()))}" if others else ""
    other = "like= (--like ID) or sampling= (--sampling)" if spec.is_video else "like= (--like ID)"
    return f"{ASSUMED_INPUT}{how}; {other} says which"


def _as_many(classes: int, sets: Sequence[str]) -> str:
    return f"{classes} are as many as those of {' and '.join(sets)}; " if sets else ""


def in_words(spec: InputSpec) -> str:
    """'16 frames with stride 4, 224 x 224 rgb pixels, 4 x 1 views'."""
    size = f"{spec.size[1]} x {spec.size[0]} {spec.channels} pixels"
    if not spec.is_video:
        return f"{size} of a short side of {spec.resize}"
    how = f"with stride {spec.stride}" if spec.sampling == "dense" else "spread over the video"
    return f"{counted(spec.frames, 'frame')} {how}, {size}, {spec.views_in_words}"


def assumed_input(contract: Contract) -> list[str]:
    """The note that says that the contract's input is only assumed; none where something tells it."""
    return [note for note in contract.notes if note.startswith(ASSUMED_INPUT)]


def warn_of_assumed(contract: Contract) -> None:
    """A warning for each thing that nothing tells of a checkpoint that is going to be fed."""
    for note in contract.notes:
        if note.startswith((ASSUMED_INPUT, NO_NAMES)):
            warnings.warn(note, stacklevel=3)

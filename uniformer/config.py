"""What a network is (`Config`) and is fed (`InputSpec`, `Scaling`, `PersonCrop`). No torch here: listing stays fast."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from uniformer.errors import Checked, InputError, shown

STRIDES = (4, 8, 16, 32)  # of the four stage outputs relative to the input, in height and width
BLOCK_EPS = 1e-6  # of the layer norms in the published models' blocks
HEAD_WIDTH = 256  # of the published dense heads
ANCHOR_SCALE = 8.0  # of the published detectors: on the finest level, whose stride is 4, anchors of 32 pixels
WHOLE = ((0.0, 1.0),)  # parts of a video: itself alone
MOST_PIXELS = 1 << 23, 100_000_000  # frames x height x width of one view, and of all views of a source

Head = Literal["mask_rcnn", "cascade_mask_rcnn", "semantic_fpn", "upernet", "topdown"]
DenseTask = Literal["detection", "segmentation", "pose"]
TaskName = Literal["classification", "detection", "segmentation", "pose"]
TASKS: Mapping[str, TaskName] = types.MappingProxyType(
    {
        "mask_rcnn": "detection",
        "cascade_mask_rcnn": "detection",
        "semantic_fpn": "segmentation",
        "upernet": "segmentation",
        "topdown": "pose",
    }
)  #: what each head is for


class Typed(Checked):
    """A `Checked` dataclass whose fields get the types they are declared with, as JSON does not keep them."""

    def __post_init__(self) -> None:
        check_types(self)
        super().__post_init__()


@dataclass(frozen=True)
class Config(Typed):
    """One architecture of the family. Every published variant is a row of differences from these defaults:
    `network/variants.py`.

    The defaults are UniFormer-S for images (ICLR 2022, Table 1; TPAMI 2023, Table 1).
    """

    ndim: int = 2  #: 2 for images (H, W), 3 for clips (T, H, W)
    in_chans: int = 3
    num_classes: int = 1000  #: 0 leaves the classifier out: the network returns pooled features. Of poses: key points
    depths: tuple[int, ...] = (3, 4, 8, 3)  #: blocks per stage: local, local, global, global
    dims: tuple[int, ...] = (64, 128, 320, 512)
    head_dim: int = 64  #: channels per attention head. Changes no tensor shape, so it cannot be read off a file
    mlp_ratio: float = 4.0
    overlap: int = 0  #: how many patch embeddings, from the first on, are overlapping 3x3 convolutions
    time_kernel: int = 1  #: temporal kernel of patch embeddings 2 to 4 (3 is the reference's option STD)
    split_attention: bool = False  #: time attention, then space attention, instead of joint (the option SPLIT)
    layer_scale: float | None = None  #: initial value; None for no layer scale
    layer_scale_stages: tuple[int, ...] = (1, 2, 3, 4)
    token_labeling: bool = False  #: a second classifier on every token, `aux_head`
    keep_ratio: float | None = None  #: hourglass blocks: the share of tokens that attention works on (TPAMI, Sec. 3.5)
    window: int | None = None  #: stage 3 attends in windows of this size (dense prediction); None is global
    global_every: int | None = None  #: with `window`: every n-th block of stage 3 stays global (the hybrid form)
    output: Literal["logits", "maps", "normed_maps"] = "logits"  #: maps: the four stage outputs, raw or layer-normed
    drop_path: float = 0.0  #: stochastic depth of the last block; rises linearly from 0 over all blocks
    dropout: float = 0.0  #: before the classifier
    block_eps: float = BLOCK_EPS  #: of the blocks' layer norms; models trained in mmaction2 and mmpose have 1e-5
    head: Head | None = None  #: of a dense network (`uniformer.heads`), over the four normed maps of all the above
    head_width: int = HEAD_WIDTH  #: channels of a head's maps; the widths of its other layers are in proportion
    anchor_scale: float = ANCHOR_SCALE  #: of a detector: sides of anchors in strides; smaller for smaller things

    def _problems(self) -> Iterable[str]:
        if self.ndim not in (2, 3):
            yield f"expected ndim 2 (images) or 3 (clips), got {self.ndim}"
        if len(self.depths) != 4 or len(self.dims) != 4:
            yield f"expected four stages, got depths {self.depths} and dims {self.dims}"
        if min(*self.depths, *self.dims, self.head_dim) < 1:
            yield f"expected positive depths, dims and head_dim, got {self.depths}, {self.dims} and {self.head_dim}"
            return
        if not set(self.layer_scale_stages) <= {1, 2, 3, 4}:
            yield f"expected layer_scale_stages of 1 to 4, got {self.layer_scale_stages}"
        if self.time_kernel % 2 == 0:  # its padding would lengthen the clip by a frame
            yield f"expected an odd time_kernel, got {self.time_kernel}"
        for dim in self.dims[2:]:
            if dim % self.head_dim:
                yield f"expected head_dim to divide the width {dim} of a global stage, got head_dim {self.head_dim}"
        if self.keep_ratio is not None and not 0 < self.keep_ratio <= 1:
            yield f"expected keep_ratio in (0, 1], got {self.keep_ratio}"
        if self.output not in ("logits", "maps", "normed_maps"):
            yield f"expected output 'logits', 'maps' or 'normed_maps', got {self.output!r}"
        if self.global_every is not None and self.window is None:
            yield "global_every needs a window: without one every block is global already"
        if self.ndim == 3 and self.window is not None:
            yield "window attention is defined for images only (ndim 2)"
        if self.ndim == 2 and self.split_attention:
            yield "split_attention is defined for clips only (ndim 3)"
        if self.head is not None and self.head not in TASKS:
            yield f"expected head {', '.join(TASKS)} or none, got {self.head!r}"
        elif self.head is not None and (self.output != "normed_maps" or self.ndim != 2 or not self.num_classes):
            yield (
                f"expected normed maps of images and at least one class under the head {self.head!r}, got output "
                f"{self.output!r}, ndim {self.ndim} and num_classes {self.num_classes}"
            )
        if self.keep_ratio is not None and (self.window is not None or self.split_attention or self.token_labeling):
            yield "keep_ratio (hourglass blocks) goes with none of window, split_attention and token_labeling"
        for name, low, high in (
            ("drop_path", 0, 1),
            ("dropout", 0, 1),
            ("num_classes", 0, 1 << 24),
            ("in_chans", 1, 1 << 10),
            ("depths", 1, 1 << 10),
            ("dims", 1, 1 << 16),
            ("mlp_ratio", 1 / min(self.dims), 64),
            ("overlap", 0, 4),
            ("time_kernel", 1, 31),
            ("window", 1, 1 << 7),
            ("global_every", 1, 1 << 10),
            ("block_eps", 0, 1),
            ("head_width", 2, 1 << 12),
            ("anchor_scale", 0.25, 64),
            ("layer_scale", -1000, 1000),
        ):
            value = getattr(self, name)
            if not all(low <= n <= high for n in (value if isinstance(value, tuple) else (value,)) if n is not None):
                yield f"expected {name} in [{low}, {high}], got {shown(value)}"

    @property
    def is_video(self) -> bool:
        return self.ndim == 3

    @property
    def is_hourglass(self) -> bool:
        return self.keep_ratio is not None

    @property
    def task(self) -> TaskName:
        """What the network is for, by its head."""
        return "classification" if self.head is None else TASKS[self.head]

    @property
    def backbone(self) -> Config:
        """Of a dense network, the network under the head; of any other, itself."""
        return self if self.head is None else replace(self, head=None, num_classes=0)


@dataclass(frozen=True)
class InputSpec(Typed):
    """How a file becomes the views a network was trained for, and how the views' logits become one answer.

    It travels inside every checkpoint, so nobody chooses it again by hand. Values: facts of the published runs.
    """

    size: tuple[int, int] = (224, 224)  #: height and width of a view, pixels
    resize: int = 256  #: short side before cropping, pixels
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"  #: bilinear plain (video), bicubic antialiased (images)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  #: of values in 0..1, in the order of `channels`
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: Literal["rgb", "bgr"] = "rgb"
    frames: int = 1  #: T, frames of one clip
    sampling: Literal["dense", "sparse"] | None = None  #: None for images
    stride: int | None = None  #: dense only: frames between two sampled ones
    clips: int = 1  #: temporal views
    crops: Literal[1, 3] = 1  #: spatial views: the centre, or left/centre/right (top/centre/bottom if taller)
    fps: float | None = None  #: the usual frame rate of the training videos, to follow strides in seconds
    average: Literal["logits", "probabilities"] = "logits"  #: what is averaged over the views
    parts: tuple[tuple[float, float], ...] = WHOLE  #: of a video that are sampled alike: from and to, as shares of it

    def _problems(self) -> Iterable[str]:
        if self.sampling not in (None, "dense", "sparse"):
            yield f"expected sampling 'dense', 'sparse' or none (images), got {self.sampling!r}"
        if self.interpolation not in ("bilinear", "bicubic"):
            yield f"expected interpolation 'bilinear' or 'bicubic', got {self.interpolation!r}"
        if self.channels not in ("rgb", "bgr"):
            yield f"expected channels 'rgb' or 'bgr', got {self.channels!r}"
        if self.average not in ("logits", "probabilities"):
            yield f"expected average 'logits' or 'probabilities', got {self.average!r}"
        if self.sampling == "dense" and not (self.stride and self.stride > 0):
            yield f"expected a positive stride for dense sampling, got {self.stride}"
        if self.crops not in (1, 3):
            yield f"expected 1 or 3 crops, got {self.crops}"
        if self.clips < 1 or self.frames < 1:
            yield f"expected at least one clip of one frame, got {self.clips} clips of {self.frames} frames"
        if min(self.size) < 1 or self.resize < min(self.size):
            yield f"expected a short side of at least the crop {self.size}, got {self.resize}"
        if min(self.std) <= 0:
            yield f"expected a positive std, got {self.std}"
        if self.fps is not None and not 0 < self.fps <= 1e6:
            yield f"expected fps in (0, 1e6], got {self.fps}"
        if self.parts[:1] != WHOLE or not all(0 <= start < end <= 1 for start, end in self.parts):
            yield f"expected parts of a video from and to shares in 0 to 1, the first the whole: got {self.parts}"
        pixels = self.frames * math.prod(self.size)
        if pixels > MOST_PIXELS[0] or pixels * self.views > MOST_PIXELS[1] or self.resize > 1 << 14:
            yield (
                f"expected at most {MOST_PIXELS[0]} pixels in a view and {MOST_PIXELS[1]} in all views, got "
                f"{self.views} views of {self.frames} frames of {self.size}, short side {self.resize}"
            )

    @property
    def is_video(self) -> bool:
        return self.sampling is not None

    @property
    def views(self) -> int:
        """Views of one file: clips of each part x crops."""
        return len(self.parts) * self.clips * self.crops

    @property
    def views_in_words(self) -> str:
        """'4 x 3 views', '1 x 1 view'; of images '1 view'."""
        views = f"{self.crops} view{'s' * (self.views > 1)}"
        return f"{len(self.parts) * self.clips} x {views}" if self.is_video else views


@dataclass(frozen=True)
class Scaling(Typed):
    """How a whole picture becomes the input of a detector or a segmenter; defaults are the published detectors'."""

    longest: int = 1333  #: no side is longer, pixels
    shortest: int = 800  #: the shorter side, where `longest` allows it
    multiple: int = 32  #: of which the sides are made multiples
    by: Literal["padding", "resizing", "nothing"] = "padding"  #: zeros to the right and below, or a second resize
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  #: of values in 0..255, red, green, blue
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    swap: bool = False  #: red and blue before normalising, as ControlNet's annotators do

    is_video = False

    def _problems(self) -> Iterable[str]:
        if not 1 <= self.shortest <= self.longest <= 1 << 15:
            yield f"expected sides of 1 to {1 << 15}, the shortest first, got {self.shortest} and {self.longest}"
        if not 1 <= self.multiple <= 1 << 10:
            yield f"expected a multiple of 1 to {1 << 10}, got {self.multiple}"
        if self.by not in ("padding", "resizing", "nothing"):
            yield f"expected sides made multiples by padding, resizing or nothing, got {self.by!r}"
        if not all(s > 0 for s in self.std):
            yield f"expected positive deviations, got {self.std}"


@dataclass(frozen=True)
class PersonCrop(Typed):
    """How the box of a person becomes the input of a pose network; defaults are the published networks'."""

    size: tuple[int, int] = (256, 192)  #: height and width of the crop, pixels
    enlarge: float = 1.25  #: the crop's sides, in those of the box, extended to the crop's proportions
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  #: of values in 0..1, red, green, blue
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    is_video = False

    def _problems(self) -> Iterable[str]:
        if not all(32 <= side <= 1 << 11 and side % 32 == 0 for side in self.size):
            yield f"expected a crop with sides that are multiples of 32, up to {1 << 11}, got {self.size}"
        if not 1 <= self.enlarge <= 4:
            yield f"expected enlarge in 1 to 4, got {self.enlarge}"
        if not all(s > 0 for s in self.std):
            yield f"expected positive deviations, got {self.std}"


Input = InputSpec | Scaling | PersonCrop  #: what a network is fed, by what it is for
INPUTS: Mapping[TaskName, type[InputSpec] | type[Scaling] | type[PersonCrop]] = types.MappingProxyType(
    {"classification": InputSpec, "detection": Scaling, "segmentation": Scaling, "pose": PersonCrop}
)


def same_network(one: Config, other: Config) -> bool:
    """Whether two configs are of one network: but for stochastic depth, which only training has."""
    return replace(one, drop_path=0.0) == replace(other, drop_path=0.0)


Precision = Literal["float32", "bfloat16", "float16"]  #: that a network computes in

T = TypeVar("T", bound=Any)


def with_options(base: T, options: Mapping[str, Any], whose: str = "") -> T:
    """`base` with some fields replaced. Raises `InputError` naming the nearest field when one is unknown; `whose` they
    are it calls by the type of `base`, where nothing else is said."""
    known = [f.name for f in fields(base)]
    for name in options:
        if name not in known:
            raise InputError(f"unknown option {name!r} of {whose or type(base).__name__}{did_you_mean(name, known)}")
    return replace(base, **options)


def to_dict(spec: Config | Input) -> dict[str, Any]:
    """The JSON form; `Config(**d)` and its like read it back."""
    # Said where it differs: older versions read what they know.
    usual: dict[str, Any] = {
        "block_eps": BLOCK_EPS, "head": None, "head_width": HEAD_WIDTH, "anchor_scale": ANCHOR_SCALE,
        "parts": list(WHOLE),
    }  # fmt: skip
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(spec).items()}
    return {k: v for k, v in plain.items() if k not in usual or v != usual[k]}


class WrongType(InputError):
    """A field of a description has another type than it is declared with."""


def check_types(spec: Any) -> None:
    """Give each field of a frozen dataclass the type it is declared with. Raises `WrongType` where it has another.

    Lists become tuples, as JSON has no others, and numpy's numbers Python's. Numbers must be finite.
    """
    for name, hint in _declared(type(spec)).items():  # type: ignore[arg-type]
        value = getattr(spec, name)
        try:
            object.__setattr__(spec, name, _as_declared(value, hint))
        except (TypeError, OverflowError):
            raise WrongType(f"expected {name} as {_words(hint)}, got {shown(repr(value))}") from None


_declared = cache(get_type_hints)


def _as_declared(value: Any, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else _as_any(value, [arg for arg in args if arg is not type(None)])
    if origin is Literal:  # which of them, says a message of its own
        return _as_declared(value, type(args[0]))
    if origin is tuple and isinstance(value, list | tuple):
        kinds = args[:1] * len(value) if args[-1] is ... else args
        if len(kinds) == len(value):
            return tuple(map(_as_declared, value, kinds))
    elif origin is Mapping and isinstance(value, Mapping):
        return {_as_declared(k, args[0]): _as_declared(v, args[1]) for k, v in value.items()}
    elif hint is Any:
        return value
    elif hint in (int, float) and isinstance(value, Real) and not isinstance(value, bool):
        if isinstance(value, Integral):
            return value if type(value) is int else int(value)
        if hint is float and math.isfinite(value):
            return value if isinstance(value, float) else float(value)
    elif (hint is bool) == isinstance(value, bool) and isinstance(hint, type) and isinstance(value, hint):
        return value
    raise TypeError


def _as_any(value: Any, hints: Sequence[Any]) -> Any:
    """As the first of several types that it has."""
    for hint in hints[:-1]:
        try:
            return _as_declared(value, hint)
        except TypeError:
            continue
    return _as_declared(value, hints[-1])


def _words(hint: Any) -> str:
    return (hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)).replace("typing.", "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' with the nearest known names, or the start of the list when nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.55)
    if near:
        return f" (did you mean {' or '.join(map(repr, near))}?)"
    return f" (known: {', '.join(known[:8])}{', ...' if len(known) > 8 else ''})"

"""What a network is (`Config`) and what it wants to be fed (`InputSpec`). No torch here: listing models stays fast."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar

from uniformer.errors import Checked, InputError

STRIDES = (4, 8, 16, 32)  # of the four stage outputs relative to the input, in height and width


@dataclass(frozen=True)
class Config(Checked):
    """One architecture of the family. Every published variant is a row of differences from these defaults:
    `network/variants.py`.

    The defaults are UniFormer-S for images (ICLR 2022, Table 1; TPAMI 2023, Table 1).
    """

    ndim: int = 2  #: 2 for images (H, W), 3 for clips (T, H, W)
    in_chans: int = 3
    num_classes: int = 1000  #: 0 leaves the classifier out: the network returns pooled features
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

    def __post_init__(self) -> None:
        for name in ("depths", "dims", "layer_scale_stages"):  # JSON has lists only
            object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()

    def _problems(self) -> Iterable[str]:
        if self.ndim not in (2, 3):
            yield f"expected ndim 2 (images) or 3 (clips), got {self.ndim}"
        if len(self.depths) != 4 or len(self.dims) != 4:
            yield f"expected four stages, got depths {self.depths} and dims {self.dims}"
        if min(*self.depths, *self.dims, self.head_dim) < 1:
            yield f"expected positive depths, dims and head_dim, got {self.depths}, {self.dims} and {self.head_dim}"
            return
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
        if self.keep_ratio is not None and (self.window is not None or self.split_attention or self.token_labeling):
            yield "keep_ratio (hourglass blocks) goes with none of window, split_attention and token_labeling"
        for name, low, high in (
            ("drop_path", 0, 1),
            ("dropout", 0, 1),
            ("num_classes", 0, 1 << 24),
            ("in_chans", 1, 1 << 16),
        ):
            if not low <= getattr(self, name) <= high:
                yield f"expected {name} in [{low}, {high}], got {getattr(self, name)}"

    @property
    def is_video(self) -> bool:
        return self.ndim == 3

    @property
    def is_hourglass(self) -> bool:
        return self.keep_ratio is not None


@dataclass(frozen=True)
class InputSpec(Checked):
    """How a file becomes the views a network was trained for, and how the views' logits become one answer.

    It travels inside every checkpoint, so nobody chooses it again by hand. Values: facts of the published runs.
    """

    size: tuple[int, int] = (224, 224)  #: height and width of a view, pixels
    resize: int = 256  #: short side before cropping, pixels
    interpolation: Literal["bilinear", "bicubic"] = (
        "bicubic"  #: bilinear is plain (video), bicubic antialiased (images)
    )
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

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()

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

    @property
    def is_video(self) -> bool:
        return self.sampling is not None

    @property
    def views(self) -> int:
        """Views of one file: clips x crops."""
        return self.clips * self.crops


Precision = Literal["float32", "bfloat16", "float16"]  #: that a network computes in

T = TypeVar("T", Config, InputSpec)


def with_options(base: T, options: Mapping[str, Any]) -> T:
    """`base` with some fields replaced. Raises `InputError` naming the nearest field when one is unknown."""
    known = [f.name for f in fields(base)]
    for name in options:
        if name not in known:
            raise InputError(f"unknown option {name!r} of {type(base).__name__}{did_you_mean(name, known)}")
    return replace(base, **options)


def to_dict(spec: Config | InputSpec) -> dict[str, Any]:
    """The JSON form; `Config(**d)` and `InputSpec(**d)` read it back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(spec).items()}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' with the nearest known names, or the start of the list when nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.55)
    if near:
        return f" (did you mean {' or '.join(map(repr, near))}?)"
    return f" (known: {', '.join(known[:8])}{', ...' if len(known) > 8 else ''})"

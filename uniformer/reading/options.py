"""What training does to each clip or picture alone, as data. No torch here, so that recipes list quickly.

The arithmetic is in `augment.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from uniformer.errors import Checked

POLICIES = ("v0", "v0r", "original", "originalr", "3a")  # AutoAugment and 3-Augment, as timm names them


@dataclass(frozen=True)
class Augment(Checked):
    """How one clip or picture is changed before the network sees it. The defaults are the plain image runs'.

    A clip gets one draw of everything for all its frames. Order: operations, crop, flip, erasing for clips; crop, flip,
    operations, erasing for pictures, as in the published runs.
    """

    rand_augment: str | None = "rand-m9-mstd0.5-inc1"  #: timm's string: "rand-...", or a policy such as "v0"
    op_interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic"  #: of the rotations and shears in it
    color_jitter: float | None = None  #: in place of rand_augment: brightness, contrast, saturation by up to this share
    scale: tuple[float, float] | None = (0.08, 1.0)  #: area of the crop, as a share of the picture
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  #: width over height of that crop
    jitter_scales: tuple[int, int] | None = None  #: in place of scale: short side drawn from this range, random crop
    interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic"  #: of the crop: clips bilinear, images bicubic
    flip: float = 0.5  #: probability of mirroring left and right; 0 where labels name sides
    mirror: float = 0.0  #: probability of the same where labels name sides: "turn left" becomes "turn right"
    reverse: float = 0.0  #: clips: probability of playing them backwards
    reverse_pairs: tuple[tuple[str, str], ...] = ()  #: classes that are each other backwards; the rest are themselves
    even_frames: bool = False  #: sparse clips: at even distances, not one drawn from each segment
    foreground: float = 0.0  #: clips: probability of large moving things before the lens, which labels do not mean
    erase_prob: float = 0.25  #: probability of erasing one box
    #: What that is filled with: noise per pixel, one random colour, the mean.
    erase_mode: Literal["pixel", "colour", "zero"] = "pixel"
    repeats: int = 1  #: differently augmented copies of each sample in a batch (clips: of one decoding)

    def __post_init__(self) -> None:
        for name in ("scale", "ratio", "jitter_scales"):  # JSON has lists only
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        object.__setattr__(self, "reverse_pairs", tuple(map(tuple, self.reverse_pairs)))
        super().__post_init__()

    def _problems(self) -> Iterable[str]:
        ops = self.rand_augment
        if (
            ops is not None
            and ops not in POLICIES
            and not re.fullmatch(r"rand(-(m|n|p|w|mstd|mmax|inc)\d+(\.\d+)?)*", ops)
        ):
            yield f"expected rand_augment such as 'rand-m9-mstd0.5-inc1', or one of {', '.join(POLICIES)}, got {ops!r}"
        if ops is not None and self.color_jitter is not None:
            yield f"expected at most one of rand_augment and color_jitter, got {ops!r} and {self.color_jitter}"
        if (self.scale is None) == (self.jitter_scales is None):
            yield f"expected one of scale and jitter_scales, got {self.scale} and {self.jitter_scales}"
        for name in ("op_interpolation", "interpolation"):
            if getattr(self, name) not in ("bilinear", "bicubic", "random"):
                yield f"expected {name} 'bilinear', 'bicubic' or 'random', got {getattr(self, name)!r}"
        if self.erase_mode not in ("pixel", "colour", "zero"):
            yield f"expected erase_mode 'pixel', 'colour' or 'zero', got {self.erase_mode!r}"
        if self.repeats < 1:
            yield f"expected at least one copy of each sample (repeats), got {self.repeats}"
        if self.color_jitter is not None and not 0 <= self.color_jitter <= 1:
            yield f"expected color_jitter in [0, 1], got {self.color_jitter}"
        shares = ("flip", "mirror", "reverse", "foreground", "erase_prob")
        yield from not_shares(**{name: getattr(self, name) for name in shares})
        if self.flip and self.mirror:
            yield f"expected flip (the class stays) or mirror (sides swap), got both: {self.flip} and {self.mirror}"
        yield from _not_a_range("scale", self.scale, most=1)
        yield from _not_a_range("ratio", self.ratio)
        yield from _not_a_range("jitter_scales", self.jitter_scales)

    def not_for_images(self) -> Iterable[str]:
        """What is wrong with these settings where pictures are augmented, which they would leave as they are."""
        for name in ("mirror", "reverse", "foreground", "even_frames"):
            if getattr(self, name):
                yield f"augment.{name} is for clips: images have augment.flip, which leaves the class as it is"


def not_shares(**shares: float) -> Iterable[str]:
    """What is wrong with settings that should be shares or probabilities."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            yield f"expected {name} in [0, 1], got {value}"


def _not_a_range(name: str, values: tuple[float, ...] | None, most: float = math.inf) -> Iterable[str]:
    if values is not None and not (len(values) == 2 and 0 < values[0] <= values[1] <= most):
        yield f"expected {name} as (least, most), positive{'' if most == math.inf else ' and at most 1'}, got {values}"

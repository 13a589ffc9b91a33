"""What training does to pictures with boxes, masks, maps of labels or key points, as data. No torch here.

The defaults are those of the published runs. The arithmetic is in `dense_augment.py`, and of people in
`pose_augment.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from uniformer.errors import Checked
from uniformer.reading.options import not_shares

UPPER_BODY = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
LONGEST_SIDE = 1 << 14  #: pixels that a side may be scaled to


@dataclass(frozen=True)
class Colour(Checked):
    """Colours changed at random; as it stands, not at all. The segmenters' is `PHOTOMETRIC`."""

    brightness: float = 0.0  #: added or taken away, up to so much of 255
    contrast: float = 0.0  #: values times 1 - contrast to 1 + contrast
    saturation: float = 0.0  #: times 1 - saturation to 1 + saturation
    hue: float = 0.0  #: turned by up to so many degrees, either way
    prob: float = 0.5  #: of each of the four

    def _problems(self) -> Iterable[str]:
        if not 0 <= self.brightness <= 255:
            yield f"expected brightness in [0, 255], got {self.brightness}"
        if not 0 <= self.hue <= 180:
            yield f"expected hue in [0, 180] degrees, got {self.hue}"
        yield from not_shares(contrast=self.contrast, saturation=self.saturation, prob=self.prob)

    @property
    def is_on(self) -> bool:
        return self.prob > 0 and max(self.brightness, self.contrast, self.saturation, self.hue) > 0


PHOTOMETRIC = Colour(brightness=32.0, contrast=0.5, saturation=0.5, hue=36.0)


@dataclass(frozen=True)
class DetectionAugment(Checked):
    """How a picture for a detector is changed: flip, perhaps a crop, scale. The defaults are the published 1x
    schedule's; `MULTI_SCALE` is that of the 3x schedule."""

    flip: float = 0.5  #: probability of mirroring left and right
    sides: tuple[int, ...] = (800,)  #: the short side is one of these, pixels
    longest: int = 1333  #: no side is longer, pixels
    crop_prob: float = 0.0  #: of a crop before that
    crop_sides: tuple[int, ...] = (400, 500, 600)  #: the short side of the picture that is cropped
    crop: tuple[int, int] = (384, 600)  #: least and most of the crop's height and of its width, where there is as much
    colour: Colour = field(default_factory=Colour)
    keep_empty: bool = False  #: whether pictures in which nothing is annotated are learnt from
    smallest: int = 32  #: pictures with a shorter side are left out, pixels
    most_pixels: int | None = None  #: of a padded batch: where it would have more, its pictures come smaller

    def _problems(self) -> Iterable[str]:
        yield from not_shares(flip=self.flip, crop_prob=self.crop_prob)
        for name in ("sides", "crop_sides"):
            if not (values := getattr(self, name)) or not all(1 <= n <= LONGEST_SIDE for n in values):
                yield f"expected {name} of 1 to {LONGEST_SIDE} pixels, one or more, got {values}"
        used = self.sides + (self.crop_sides if self.crop_prob else ())
        if not max(used, default=1) <= self.longest <= LONGEST_SIDE:
            yield f"expected longest from the longest of the short sides to {LONGEST_SIDE}, got {self.longest}"
        if len(self.crop) != 2 or not 1 <= self.crop[0] <= self.crop[1]:
            yield f"expected crop as (least, most) pixels, got {self.crop}"
        if self.smallest < 1:
            yield f"expected smallest of 1 or more pixels, got {self.smallest}"
        if self.most_pixels is not None and self.most_pixels < 1 << 10:
            yield f"expected most_pixels of {1 << 10} or more, got {self.most_pixels}"


MULTI_SCALE = DetectionAugment(sides=tuple(range(480, 801, 32)), crop_prob=0.5)


@dataclass(frozen=True)
class SegmentationAugment(Checked):
    """How a picture with a map of labels is changed: scale, crop, flip, colours. As in all published runs."""

    longest: int = 2048  #: no side is longer, pixels, at ratio 1
    shortest: int = 512  #: the short side where `longest` allows it, at ratio 1
    ratio: tuple[float, float] = (0.5, 2.0)  #: that both are multiplied by, drawn between these
    crop: tuple[int, int] = (512, 512)  #: height and width; smaller pictures are padded with nothing to be learnt
    most_of_one: float = 0.75  #: a crop with a larger share of labelled pixels in one class is drawn again
    tries: int = 10  #: then it is taken as it is
    flip: float = 0.5  #: probability of mirroring left and right
    colour: Colour = PHOTOMETRIC

    def _problems(self) -> Iterable[str]:
        if not 1 <= self.shortest <= self.longest <= LONGEST_SIDE:
            yield (
                f"expected shortest and longest of 1 to {LONGEST_SIDE} pixels, in this order, got {self.shortest} "
                f"and {self.longest}"
            )
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1] <= 16:
            yield f"expected ratio as (least, most), positive and up to 16, got {self.ratio}"
        elif self.shortest * self.ratio[0] < 1 or self.longest * self.ratio[1] > LONGEST_SIDE:
            yield f"expected a ratio that makes sides of 1 to {LONGEST_SIDE} pixels, got {self.ratio}"
        if len(self.crop) != 2 or not all(32 <= n <= LONGEST_SIDE and n % 32 == 0 for n in self.crop):
            yield f"expected crop as multiples of 32 up to {LONGEST_SIDE}, got {self.crop}"
        if not 0 <= self.tries <= 1000:
            yield f"expected tries of 0 to 1000, got {self.tries}"
        yield from not_shares(most_of_one=self.most_of_one, flip=self.flip)


@dataclass(frozen=True)
class PoseAugment(Checked):
    """How a person is cut out of a picture, and how wide the targets are. The defaults are those of 256 x 192."""

    flip: float = 0.5  #: probability of mirroring left and right; the key points of a pair change places
    half_body: float = 0.3  #: probability of showing one half of the body only
    half_body_above: int = 8  #: where more key points than these are visible
    half_body_enlarge: float = 1.5  #: sides of that crop, in those of the box around the half's key points
    upper_body: tuple[str, ...] = UPPER_BODY  #: key points of the upper half by name; all others are of the lower
    scale: float = 0.5  #: sides times 1 + a normal number times this, not beyond 1 - and 1 + this
    rotation: float = 40.0  #: degrees: a normal number times this, not beyond twice this
    rotation_prob: float = 0.6
    shift: float = 0.2  #: of the box's width and height, by which its centre is moved, up to so much either way
    shift_prob: float = 0.3
    colour: Colour = field(default_factory=Colour)
    sigma: float = 2.0  #: of the targets, in cells; of 384 x 288 and 448 x 320 it is 3

    def _problems(self) -> Iterable[str]:
        names = ("flip", "half_body", "rotation_prob", "shift", "shift_prob")
        yield from not_shares(**{name: getattr(self, name) for name in names})
        if self.half_body_above < 2:
            yield f"expected half_body_above of 2 or more key points, got {self.half_body_above}"
        if not 1 <= self.half_body_enlarge <= 4:
            yield f"expected half_body_enlarge in [1, 4], got {self.half_body_enlarge}"
        if not 0 <= self.scale < 1:
            yield f"expected scale in [0, 1), got {self.scale}"
        if not 0 <= self.rotation <= 90:
            yield f"expected rotation in [0, 90] degrees, got {self.rotation}"
        if not 0.5 <= self.sigma <= 16:
            yield f"expected sigma in [0.5, 16] cells, got {self.sigma}"

"""A whole picture as a dense network is fed it, in one size or several, and the people of a picture as crops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from uniformer.config import PersonCrop, Scaling
from uniformer.reading.people import Region, cut_people
from uniformer.reading.pictures import Pixels, open_picture, to_pixels, upright_size
from uniformer.reading.scaling import box_factors, scale_picture
from uniformer.reading.tiles import Tile, tiles_of
from uniformer.reading.transforms import Floats
from uniformer.reading.views import Source, Views


@dataclass(frozen=True)
class WholeViews(Views):
    """A whole picture; `array` is (1, 3, h, w), padding included."""

    size: tuple[int, int] = (0, 0)  #: height and width of the input without padding
    factors: Floats | None = None  #: float32 (4,): boxes of the picture times these are boxes of the input
    others: tuple[Floats, ...] = ()  #: the same picture in further sizes, (1, 3, h, w)

    @property
    def reach(self) -> tuple[float, float, float, float]:
        """What the input shows of the picture, padding included, which lies beyond: top, left, height, width."""
        height, width = self.array.shape[2:]
        return 0.0, 0.0, height * self.height / self.size[0], width * self.width / self.size[1]


@dataclass(frozen=True, kw_only=True)
class TiledViews(Views):
    """A huge picture that is seen tile by tile, each as a picture of its own: `array` is empty."""

    picture: Pixels  #: (h, w, 3), a smaller copy where it is too large to be held
    side: int  #: of a tile, pixels of `picture`
    scaling: Scaling
    ratios: Sequence[float]
    fixed: Sequence[int] | None = None  #: size (h, w) that each is seen in

    def tiles(self) -> Iterator[tuple[Tile, WholeViews]]:
        """Each tile, and what the network is fed of it."""
        height, width = self.picture.shape[:2]
        for tile in tiles_of(height, width, self.side):
            part = self.picture[tile.rows, tile.columns]
            yield tile, _scaled(part, part.shape[0], part.shape[1], self.scaling, self.ratios, fixed=self.fixed)


@dataclass(frozen=True)
class PeopleViews(Views):
    """The people of a picture; `array` is (P, 3, h, w)."""

    regions: tuple[Region, ...] = ()  #: P of them, which crops are of
    people: npt.NDArray[np.float32] | None = None  #: (P, 4), their boxes x1, y1, x2, y2 in the picture
    people_scores: npt.NDArray[np.float64] | None = None  #: (P,), of the boxes


People = tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]  #: boxes (P, 4) and their scores (P,)


def load_whole(
    source: Source, scaling: Scaling, ratios: Sequence[float] = (), fixed: Sequence[int] | None = None
) -> WholeViews:
    """A picture scaled; with `ratios` in as many sizes, each of them times the sides that `scaling` allows. `fixed` is
    the one size (h, w) of a network that takes no other.

    Raises `InputError` for a source that is no picture or cannot be read.
    """
    pixels, height, width, timings = _read(source)
    return _scaled(pixels, height, width, scaling, ratios, timings, fixed)


def load_tiled(
    source: Source,
    side: int,
    scaling: Scaling,
    ratios: Sequence[float] = (),
    fixed: Sequence[int] | None = None,
) -> TiledViews:
    """A picture that is to be seen tile by tile. Raises `InputError` as `load_whole`."""
    pixels, height, width, timings = _read(source)
    nothing = np.empty((0, 3, 1, 1), np.float32)
    return TiledViews(
        array=nothing, height=height, width=width, boxes=(), timings=timings,
        picture=pixels, side=side, scaling=scaling, ratios=ratios, fixed=fixed,
    )  # fmt: skip


def _scaled(
    pixels: Pixels,
    height: int,
    width: int,
    scaling: Scaling,
    ratios: Sequence[float] = (),
    timings: Mapping[str, float] = MappingProxyType({}),
    fixed: Sequence[int] | None = None,
) -> WholeViews:
    """Pixels of a picture of `height` and `width`, or of a smaller copy of it, as `load_whole` gives them."""
    begin = time.perf_counter()
    scalings = [_times(scaling, ratio) for ratio in ratios] or [scaling]
    first, *others = [scale_picture(pixels, each, fixed=fixed) for each in scalings]
    return WholeViews(
        first.array[None], height, width, ((0.0, 0.0, float(height), float(width)),),
        size=first.size, factors=box_factors(first.size, (height, width)),
        others=tuple(other.array[None] for other in others),
        timings={**timings, "transform": time.perf_counter() - begin},
    )  # fmt: skip


def load_people(source: Source, crop: PersonCrop, people_of: Callable[[Source, int, int], People]) -> PeopleViews:
    """The people of a picture, where `people_of(source, height, width)` says that they are.

    Raises `InputError` for a source that is no picture or cannot be read, and for what is no box.
    """
    pixels, height, width, timings = _read(source)
    begin = time.perf_counter()
    boxes, scores = people_of(source, height, width)
    people = cut_people(pixels, boxes, crop, (height, width))
    return PeopleViews(
        people.array, height, width, tuple(_top_left(box) for box in boxes.tolist()),
        regions=people.regions, people=boxes, people_scores=scores,
        timings={**timings, "transform": time.perf_counter() - begin},
    )  # fmt: skip


def _read(source: Source) -> tuple[Pixels, int, int, dict[str, float]]:
    begin = time.perf_counter()
    picture = open_picture(source)
    height, width = upright_size(picture)
    pixels = to_pixels(picture)
    return pixels, height, width, {"read": time.perf_counter() - begin}


def _times(scaling: Scaling, ratio: float) -> Scaling:
    """As published: both limits times the ratio, cut to whole numbers."""
    return replace(scaling, longest=int(scaling.longest * ratio), shortest=int(scaling.shortest * ratio))


def _top_left(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return top, left, bottom - top, right - left

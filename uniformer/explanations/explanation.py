"""Maps of an answer over the frames that the network was fed (`Explanation`), and what they say of any other frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uniformer.errors import InputError
from uniformer.reading.transforms import Floats

Box = tuple[float, float, float, float]  #: top, left, height, width in pixels of the source
MOST_LOOKED_AT = 64  # fed frames that the largest value of a long film is looked for in


class Part(NamedTuple):
    """What is explained in a stretch of the source; of all but timelines there is one."""

    name: str  #: the class, box or key point
    value: float  #: its probability, score or share in the network's answer
    start: float | None = None  #: seconds, of a timeline
    end: float | None = None
    views: int = 0  #: how many of the maps are of it


class Reach(NamedTuple):
    """The frames of a source that one view speaks for: those between its first and its last."""

    first: int
    shares: Floats  #: (N, T): what each frame takes of each of the view's, over the frames that one of these stands for

    @property
    def stop(self) -> int:
        return self.first + len(self.shares)


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Where and when a network looked for one answer.

    A map is one number, 0 or more, of each token of a view at each of its frames: the clip has T frames, and the map
    as many, though the network halves them. `full` gives them in the pixels of the view, `at` in those of the source.
    """

    source: str
    checkpoint: str
    parts: tuple[Part, ...]
    maps: Mapping[str, Floats]  #: by kind, (V, T, h', w'); of pictures T is 1
    places: Mapping[str, tuple[Floats, Floats]]  #: by kind: the centres of the tokens' rows and columns, input pixels
    kept: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)  #: by hourglass block, (V, T', h', w')
    usual: str = "stage4"  #: the map that is best looked at: of answers to a place a finer one
    size: tuple[int, int]  #: height and width of a view, pixels
    boxes: tuple[Box, ...]  #: what each view shows of the source; it may reach beyond
    height: int  #: of the source, pixels
    width: int
    frames: npt.NDArray[np.int64] | None = None  #: of clips: which frames of the source, (V, T)
    seconds: npt.NDArray[np.float64] | None = None  #: where it has a clock, (V, T)
    num_frames: int = 1
    fps: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.maps)

    def check_kind(self, kind: str) -> None:
        """Raises `InputError` for a kind of map that is not here."""
        if kind not in self.maps:
            raise InputError(f"expected a map {', '.join(self.maps)} of this network, got {kind!r}")

    def full(self, kind: str) -> Floats:
        """The maps in the input's own depth and size, float32 (V, T, h, w)."""
        self.check_kind(kind)
        rows, columns = (
            between(places, np.arange(length)) for places, length in zip(self.places[kind], self.size, strict=True)
        )
        return np.asarray(rows @ self.maps[kind] @ columns.T, np.float32)

    def at(self, kind: str, frame: int = 0, size: tuple[int, int] | None = None) -> Floats:
        """A frame of the source, seen or between two that were: float32 (height, width), or in another `size`.

        Zero where no view reaches. What overlapping views add up to is what they add to the score, per frame. Raises
        `InputError` for a frame that the source has not.
        """
        self.check_kind(kind)
        if not 0 <= frame < self.num_frames:
            raise InputError(f"expected a frame in 0 .. {self.num_frames - 1}, got {frame}")
        size = size or (self.height, self.width)
        total = np.zeros(size, np.float32)
        by_box: dict[Box, Floats] = {}
        firsts, stops = self._spans
        for view in np.flatnonzero((firsts <= frame) & (frame < stops)):
            reach, box = self.reaches[view], self.boxes[view]
            here = np.tensordot(reach.shares[frame - reach.first], self.maps[kind][view], 1)
            by_box[box] = by_box.get(box, 0) + here
        for box, tokens in by_box.items():
            rows, columns = self._spread(kind, box, size)
            total += rows @ tokens @ columns.T
        return total / self._cover[frame]

    def over_time(self, kind: str) -> Floats:
        """How much each frame of the source adds, float32 (num_frames,); zero where no view reaches."""
        self.check_kind(kind)
        bar = np.zeros(self.num_frames, np.float32)
        for reach, view in zip(self.reaches, self.maps[kind], strict=True):
            bar[reach.first : reach.stop] += reach.shares @ view.sum(axis=(1, 2))
        return bar / self._cover

    def peak(self, kind: str) -> float:
        """The largest value of frames that were fed, by which pictures of them are alike."""
        seen = np.unique([0] if self.frames is None else self.frames)
        seen = seen[np.linspace(0, len(seen) - 1, min(len(seen), MOST_LOOKED_AT)).astype(int)]
        small = (max(1, round(96 * self.height / self.width)), 96)
        return max(float(self.at(kind, int(frame), small).max()) for frame in seen)

    def part_at(self, frame: int) -> Part:
        """What is explained there: the part that begins last before it, or the first."""
        begun = np.searchsorted([first for first, _ in self._stretches], frame, side="right")
        return self.parts[max(0, int(begun) - 1)]

    @cached_property
    def fed(self) -> frozenset[int]:
        """The frames that the network saw."""
        return frozenset([0] if self.frames is None else self.frames.ravel().tolist())

    @cached_property
    def reaches(self) -> tuple[Reach, ...]:
        """Of each view."""
        if self.frames is None:
            return tuple(Reach(0, np.ones((1, 1), np.float32)) for _ in self.boxes)
        return tuple(map(reach_of, self.frames))

    @cached_property
    def _spans(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The first frame of each view and the one after its last, (V,) each."""
        return np.array([reach.first for reach in self.reaches]), np.array([reach.stop for reach in self.reaches])

    @cached_property
    def _stretches(self) -> list[tuple[int, int]]:
        """The first frame of each part and the one after its last."""
        found, views = [], iter(self.reaches)
        for part in self.parts:
            own = [next(views) for _ in range(part.views)]
            found.append((min(reach.first for reach in own), max(reach.stop for reach in own)))
        return found

    @cached_property
    def _cover(self) -> Floats:
        """How many parts speak for each frame, at least one, (num_frames,)."""
        cover = np.zeros(self.num_frames, np.float32)
        for first, stop in self._stretches:
            cover[first:stop] += 1
        return cover.clip(min=1)

    def _spread(self, kind: str, box: Box, size: Sequence[int]) -> Iterator[Floats]:
        """What pixels of the source, shown in `size`, take of tokens' rows, (H, h'), and columns, (W, w')."""
        spans = ((box[0], box[2], self.height), (box[1], box[3], self.width))
        for places, (low, length, whole), given, asked in zip(self.places[kind], spans, self.size, size, strict=True):
            centres = (np.arange(asked) + 0.5) * whole / asked  # in the source
            at = (centres - low) * given / length - 0.5  # in the view
            yield between(places, at) * ((at >= -0.5) & (at < given - 0.5))[:, None].astype(np.float32)


def between(places: npt.ArrayLike, at: npt.ArrayLike) -> Floats:
    """The shares by which values at rising `places` (N,) are interpolated `at` others (M,), beyond the ends as there:
    float32 (M, N)."""
    known, wanted = np.asarray(places, np.float64), np.asarray(at, np.float64)
    return np.stack([np.interp(wanted, known, own) for own in np.eye(len(known))], axis=1).astype(np.float32)


def reach_of(frames: npt.NDArray[np.int64]) -> Reach:
    """Of a view of these frames, (T,), ascending, repeats allowed: the values of repeats are averaged."""
    own, which, times = np.unique(frames, return_inverse=True, return_counts=True)
    means = np.zeros((len(own), len(frames)), np.float32)
    means[which, np.arange(len(frames))] = 1 / times[which]
    first, last = int(own[0]), int(own[-1])
    apart = max(1.0, (last - first) / max(1, len(own) - 1))
    return Reach(first, between(own, np.arange(first, last + 1)) @ means / np.float32(apart))


def joined(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of stretches of one video as one. Raises `InputError` for none."""
    if not parts:
        raise InputError("expected a stretch of the video that is long enough to explain, found none")
    first = parts[0]
    frames, seconds = ([getattr(p, name) for p in parts] for name in ("frames", "seconds"))
    return Explanation(
        source=first.source, checkpoint=first.checkpoint, usual=first.usual, size=first.size,
        height=first.height, width=first.width,
        num_frames=first.num_frames, fps=first.fps, places=first.places,
        parts=tuple(part for p in parts for part in p.parts),
        maps={kind: np.concatenate([p.maps[kind] for p in parts]) for kind in first.maps},
        kept={block: np.concatenate([p.kept[block] for p in parts]) for block in first.kept},
        boxes=tuple(box for p in parts for box in p.boxes),
        frames=np.concatenate(frames),
        seconds=None if first.seconds is None else np.concatenate(seconds),
        notes=tuple(dict.fromkeys(note for p in parts for note in p.notes)),
    )  # fmt: skip

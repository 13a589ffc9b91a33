"""How far the camera went, by the classical way: corners are followed from frame to frame, and a move, growth and turn
of the whole picture is fitted to what most of them do. No network, nothing learnt; needs OpenCV (extra `motion`).

frames, some 12 a second -> corners -> where they go (Lucas-Kanade, there and back) -> a similarity (RANSAC) -> sums

All is said of the camera, not of the picture: right, up, nearer and clockwise seen from behind are positive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uniformer.errors import load_extra
from uniformer.reading.pictures import Pixels

RATE = 12.0  # frames a second that are compared
LONG_SIDE = 256  # pixels that a frame's longer side is brought to, where it is more
_BLUR = 1.0  # pixels: between two of a sharp picture's pixels there is no knowing where a corner is
_CORNERS, _QUALITY, _APART = 400, 0.0005, 6  # at most; of the best corner's strength, at least; pixels between two
_WINDOW, _LEVELS = (11, 11), 4  # of Lucas-Kanade: pixels, and halvings, which reach as far as half of the picture
_BACK = 0.5  # pixels that a corner followed there and back may be off
_OFF = 0.5  # pixels that a corner may be off and still do as the others: more, and what moves slowly is taken for them
_NOISE = 0.15  # pixels that corners are off without any parallax
_FEWEST = 8  # corners that a picture is measured by

Grey = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]
Moves = npt.NDArray[np.float64]
Steps = Sequence["Step"] | npt.NDArray[np.float64]  #: of one shot; as an array (N, 9)


class Step(NamedTuple):
    """What the camera did between two frames that were compared."""

    start: float  #: seconds
    end: float
    x: float  #: widths to the right
    y: float  #: heights up
    growth: float  #: doublings of the picture: nearer
    roll: float  #: degrees clockwise, seen from behind
    residual: float  #: widths that corners differ from the fit by, on average, beyond noise
    flow: float  #: widths that corners move, on average
    inliers: float  #: share of the corners that do as the fit says, 0..1


@dataclass(frozen=True)
class Amounts:
    """What the camera did over a time, in whole."""

    seconds: float  #: that were measured
    x: float  #: widths to the right
    y: float  #: heights up
    growth: float  #: doublings of the picture: nearer
    roll: float  #: degrees clockwise, seen from behind
    x_and_back: float  #: widths to the right (or left) and back again
    growth_and_back: float  #: doublings nearer (or farther) and back again
    shake: float  #: widths that the way is longer than a smooth one
    parallax: float  #: share of the picture's motion that the fit leaves, 0..1: near and far, and things that move
    inliers: float  #: share of the corners that do as the fit says, 0..1

    def per_second(self) -> Amounts:
        """Of one second; `parallax` and `inliers`, which are shares, stay."""
        names = [f.name for f in fields(self) if f.name not in ("parallax", "inliers")]
        return replace(self, **{name: getattr(self, name) / self.seconds for name in names})


class Tracker:
    """Compares frames as they come. Raises `MissingExtra` where OpenCV is not installed."""

    def __init__(self, rate: float = RATE):
        self._cv2 = load_extra("cv2", "opencv-python-headless", "motion", "measuring how far the camera goes")
        self._least = 0.9 / rate  # seconds between frames that are compared
        self._before: tuple[Grey, float] | None = None

    def add(self, frame: Pixels, time: float) -> Step | None:
        """A frame, uint8 RGB (H, W, 3), and its time in seconds -> the step that ends with it.

        None where the frame is too soon after the one before, is the first, or shows nothing to follow.
        """
        if self._before is not None and time - self._before[1] < self._least:
            return None
        before, self._before = self._before, (self._small(frame), time)
        if before is None or before[0].shape != self._before[0].shape:
            return None
        return self._step(*before, *self._before)

    def _small(self, frame: Pixels) -> Grey:
        cv2, (height, width) = self._cv2, frame.shape[:2]
        scale = min(1.0, LONG_SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        return cv2.GaussianBlur(grey, (0, 0), _BLUR)

    def _step(self, a: Grey, start: float, b: Grey, end: float) -> Step | None:
        here, there = self._followed(a, b)
        if len(here) < _FEWEST:
            return None
        matrix, kept = self._cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=_OFF)
        if matrix is None:
            return None
        height, width = a.shape
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        turn, (dx, dy) = matrix[:, :2], matrix[:, :2] @ middle + matrix[:, 2] - middle
        off = np.linalg.norm(here @ turn.T + matrix[:, 2] - there, axis=1)
        return Step(
            start=start,
            end=end,
            x=float(-dx / width),
            y=float(dy / height),
            growth=math.log2(math.hypot(turn[0, 0], turn[1, 0])),
            roll=-math.degrees(math.atan2(turn[1, 0], turn[0, 0])),
            residual=float(np.maximum(off - _NOISE, 0).mean() / width),
            flow=float(np.linalg.norm(there - here, axis=1).mean() / width),
            inliers=float(kept.mean()),
        )

    def _followed(self, a: Grey, b: Grey) -> tuple[Points, Points]:
        """Corners of a picture and where they are in the next, (N, 2) each: those that come back to where they were."""
        cv2 = self._cv2
        corners = cv2.goodFeaturesToTrack(a, _CORNERS, _QUALITY, _APART)
        if corners is None:
            return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
        how = {"winSize": _WINDOW, "maxLevel": _LEVELS}
        moved, found, _ = cv2.calcOpticalFlowPyrLK(a, b, corners, None, **how)
        back, again, _ = cv2.calcOpticalFlowPyrLK(b, a, moved, None, **how)
        good = (found & again).ravel() > 0
        good &= np.linalg.norm(back - corners, axis=-1).ravel() < _BACK
        return corners.reshape(-1, 2)[good], moved.reshape(-1, 2)[good]


def measure(frames: Iterable[Pixels], times: Iterable[float], *, rate: float = RATE) -> list[Step]:
    """The steps of one shot: frames, uint8 RGB (H, W, 3), and their times in seconds, rising.

    Raises `MissingExtra` where OpenCV is not installed.
    """
    tracker = Tracker(rate)
    steps = (tracker.add(frame, time) for frame, time in zip(frames, times, strict=True))
    return [step for step in steps if step is not None]


def total(steps: Steps, start: float = -math.inf, end: float = math.inf) -> Amounts | None:
    """What steps, in order, come to from `start` to `end`, in seconds; of those at the borders the part inside.

    None where there is none.
    """
    table = np.asarray(steps, float).reshape(-1, len(Step._fields))
    first, last = np.searchsorted(table[:, 1], start, "right"), np.searchsorted(table[:, 0], end, "left")
    inside = table[first:last]
    if not len(inside):
        return None
    begins, ends = inside[:, 0], inside[:, 1]
    shares = (np.minimum(ends, end) - np.maximum(begins, start)) / (ends - begins)
    moves = shares[:, None] * inside[:, 2:]
    x, y, growth, roll, residual, flow, inliers = moves.sum(axis=0).tolist()
    return Amounts(
        seconds=float(shares @ (ends - begins)),
        x=x,
        y=y,
        growth=growth,
        roll=roll,
        x_and_back=_and_back(moves[:, 0]),
        growth_and_back=_and_back(moves[:, 2]),
        shake=_shake(moves[:, :2]),
        parallax=min(residual / flow, 1.0) if flow else 0.0,
        inliers=inliers / float(shares.sum()),
    )


def _and_back(moves: Moves) -> float:
    """Moves along one axis (N,) -> how far beyond both ends of the way they go, to the side where that is farther."""
    way = np.append(0.0, moves.cumsum())
    low, high = min(way[0], way[-1]) - way.min(), way.max() - max(way[0], way[-1])
    return float(high if high > low else -low)


def _shake(moves: Moves) -> float:
    """Moves (N, 2) -> how much longer the way along them is than that along the means of three in a row."""
    if len(moves) < 3:
        return 0.0
    smooth = np.stack([np.convolve(axis, np.ones(3) / 3, "valid") for axis in moves.T], axis=1)
    longer = np.linalg.norm(moves[1:-1], axis=1).sum() - np.linalg.norm(smooth, axis=1).sum()
    return max(float(longer), 0.0)

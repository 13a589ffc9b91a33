"""Where the camera is and where it looks at any moment of a clip: a path drawn at random for each class.

Seven numbers make a pose, in the order of `AXES`: position in units of the scene's median distance, angles in degrees
and the zoom as log2 of the focal length. Both worlds film the same kind of path. Everything that the class does not
say (lens, speed, easing, start, drift, tremor) is drawn alike for all classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from uniformer.config import did_you_mean
from uniformer.errors import InputError

Array = npt.NDArray[np.float64]

AXES = ("x", "y", "z", "yaw", "pitch", "roll", "zoom")
X, Y, Z, YAW, PITCH, ROLL, ZOOM = range(7)

_WAVES = 6  # sines that make up the tremor of one axis
_WALKING = 0.15  # of the clips whose camera goes somewhere: who holds it walks, or drives over stones

# class -> axis, sign, smallest and largest size of the motion. Sizes are what it does to the picture: widths that it
# goes aside (yaw, pitch; x, y: at the median distance), degrees (roll), log2 of the growth (zoom; z: at the median).
# What only parallax tells apart (pan and truck, tilt and pedestal, zoom and push) has one range: sizes must not tell.
# The least are as slow as what films show, where most moves are slow; the most as fast as a whip pan of two seconds.
_ASIDE, _UPWARDS, _GROWTH, _TURN = (0.06, 2.0), (0.06, 1.1), (0.10, 1.4), (5.0, 90.0)
_ASIDE_AND_BACK, _GROWTH_AND_BACK = (0.10, 1.4), (0.20, 1.0)
_MOTIONS: dict[str, tuple[int, int, tuple[float, float]]] = {
    "pan_left": (YAW, -1, _ASIDE),
    "pan_right": (YAW, +1, _ASIDE),
    "truck_left": (X, -1, _ASIDE),
    "truck_right": (X, +1, _ASIDE),
    "tilt_down": (PITCH, -1, _UPWARDS),
    "tilt_up": (PITCH, +1, _UPWARDS),
    "pedestal_down": (Y, -1, _UPWARDS),
    "pedestal_up": (Y, +1, _UPWARDS),
    "push_in": (Z, +1, _GROWTH),
    "pull_out": (Z, -1, _GROWTH),
    "zoom_in": (ZOOM, +1, _GROWTH),
    "zoom_out": (ZOOM, -1, _GROWTH),
    "roll_left": (ROLL, -1, _TURN),
    "roll_right": (ROLL, +1, _TURN),
    "pan_left_then_right": (YAW, -1, _ASIDE_AND_BACK),
    "pan_right_then_left": (YAW, +1, _ASIDE_AND_BACK),
    "push_in_then_pull_out": (Z, +1, _GROWTH_AND_BACK),
    "pull_out_then_push_in": (Z, -1, _GROWTH_AND_BACK),
}


@dataclass(frozen=True)
class CameraPath:
    """A path over the time 0..1 of a clip. `poses` gives it at any moment."""

    label: str
    fov: float  #: horizontal field of view at zoom 0, degrees
    size: float  #: of what the labelled motion does to the picture, in the unit of its axis; of the tremor for shake
    start: Array  #: (7,)
    motion: Array  #: (7,) added in full where the easing reaches 1
    easing: tuple[float, float, float, float]  #: hold at the start, hold at the end, power, share of smoothness
    turn: tuple[float, float] | None  #: there and back: when it turns, and how much of the way is left at the end
    drift: Array  #: (7,) added evenly over the clip
    tremor: Array  #: (7, waves, 3) amplitude, cycles per clip, phase

    def poses(self, moments: Array) -> Array:
        """(T,) moments in 0..1 -> (T, 7) poses."""
        time = np.asarray(moments, float)[:, None]
        path: Array = self.start + self.motion * self._progress(time) + self.drift * (time - 0.5)
        return path + self._tremble(time) - (self._trend(time) if self.label == "shake" else 0)

    def fields_of_view(self, poses: Array) -> Array:
        """(T, 7) poses -> (T,) horizontal fields of view in degrees."""
        degrees: Array = np.degrees(2 * np.arctan(np.tan(np.radians(self.fov) / 2) * 2.0 ** -poses[:, ZOOM]))
        return degrees

    def _progress(self, time: Array) -> Array:
        begin, end, power, smoothness = self.easing

        def ease(share: Array) -> Array:
            share = np.clip(share, 0, 1)
            shaped = share**power if power >= 1 else 1 - (1 - share) ** (1 / power)
            eased: Array = (1 - smoothness) * shaped + smoothness * (1 - np.cos(np.pi * share)) / 2
            return eased

        time = (time - begin) / (1 - begin - end)
        if self.turn is None:
            return ease(time)
        when, left = self.turn
        return ease(time / when) - (1 - left) * ease((time - when) / (1 - when))

    def _tremble(self, time: Array) -> Array:
        amplitude, cycles, phase = np.moveaxis(self.tremor, 2, 0)  # (7, waves) each
        sines: Array = (amplitude * np.sin(2 * np.pi * cycles * time[:, :, None] + phase)).sum(-1)
        return sines

    def _trend(self, time: Array) -> Array:
        """What would lead a shake away: the straight line from its first pose to its last."""
        first, last = self._tremble(np.array([[0.0], [1.0]]))
        line: Array = first + (last - first) * time
        return line

    def facts(self) -> dict[str, Any]:
        """The parameters for the record, without the tremor's waves."""
        return {
            "label": self.label,
            "fov": round(self.fov, 3),
            "size": round(self.size, 4),
            "start": _rounded(self.start),
            "motion": _rounded(self.motion),
            "easing": _rounded(self.easing),
            "turn": self.turn and _rounded(self.turn),
            "drift": _rounded(self.drift),
            "tremor": _rounded(np.sqrt((self.tremor[:, :, 0] ** 2).sum(1) / 2)),
        }


def draw_path(label: str, rng: np.random.Generator, largeness: float | None = None) -> CameraPath:
    """A random path of a class; `largeness` in 0..1 says which of its sizes, from least to largest.

    Raises `InputError` for a class that there is not.
    """
    if label not in (*_MOTIONS, "static", "shake"):
        raise InputError(f"unknown class {label!r}{did_you_mean(label, [*_MOTIONS, 'static', 'shake'])}")
    fov = rng.uniform(46, 78)
    widths = per_width(fov)
    start = np.zeros(7)
    start[PITCH], start[ROLL] = rng.normal(0, (4.0, 1.5))
    motion, size, turn = np.zeros(7), 0.0, None
    if label in _MOTIONS:
        axis, sign, (low, high) = _MOTIONS[label]
        size = low * (high / low) ** (rng.random() if largeness is None else largeness)
        motion[axis] = sign * _in_scene(axis, sign, size, widths)
        if axis == ZOOM:
            start[axis] = -motion[axis] / 2
        if "_then_" in label:
            turn = (rng.uniform(0.4, 0.6), rng.uniform(-0.15, 0.25))
        elif axis in (YAW, PITCH, ROLL):  # what is seen in the middle must not tell where it goes
            start[axis] -= motion[axis] * rng.uniform(0.35, 0.65)
    easing = (rng.uniform(0, 0.08), rng.uniform(0, 0.08), _log_uniform(rng, 0.65, 1.5), rng.uniform(0, 1))
    drift = _drift(rng, label, motion, widths)
    shaking = _log_uniform(rng, 0.02, 0.05) if label == "shake" else 0.0
    still = 0.009 if label == "static" else 0.012  # the most that a hand trembles: less while it is held still
    tremor = _shake(rng, shaking, widths) if shaking else _hand(rng, widths, still)
    if label in _MOTIONS and rng.random() < _WALKING:
        tremor += _steps(rng, motion, widths)
    return CameraPath(label, fov, size or shaking, start, motion, easing, turn, drift, tremor)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def per_width(fov: float) -> Array:
    """(7,) how far each axis goes while the picture moves by about its width."""
    width = 2 * np.tan(np.radians(fov) / 2)
    return np.array([width, width, 1.4, fov, fov, 90.0, 2.0])


def _in_scene(axis: int, sign: int, size: float, widths: Array) -> float:
    if axis == Z:  # growth of what is at distance 1: 1 / (1 - way) forwards, 1 / (1 + way) backwards
        return float(1 - 2**-size if sign > 0 else 2**size - 1)
    return size if axis in (ROLL, ZOOM) else float(size * widths[axis])


def _drift(rng: np.random.Generator, label: str, motion: Array, widths: Array) -> Array:
    """In half of the clips one or two other axes creep, by up to 22 % of what the labelled motion does."""
    drift = np.zeros(7)
    if label in ("static", "shake") or rng.random() < 0.5:
        return drift
    main = float(np.abs(motion / widths).max())
    for axis in rng.choice(7, rng.integers(1, 3), replace=False):
        if motion[axis] == 0:
            drift[axis] = rng.uniform(-0.22, 0.22) * main * widths[axis]
    return drift


def _hand(rng: np.random.Generator, widths: Array, most: float) -> Array:
    """Nothing (a tripod), or the tremor of a hand: up to this share of the width."""
    waves = np.zeros((7, _WAVES, 3))
    if rng.random() < 0.35:
        return waves
    strength = _log_uniform(rng, 0.0006, most)
    for axis, share in ((YAW, 1.0), (PITCH, 1.0), (ROLL, 0.5), (X, 0.3), (Y, 0.3)):
        cycles = rng.uniform(0.7, 8, _WAVES)
        waves[axis] = _waves(rng, strength * share * widths[axis], cycles, 1 / cycles)
    return waves


def _steps(rng: np.random.Generator, motion: Array, widths: Array) -> Array:
    """Up and down with every step, from side to side with every other: less where the camera goes slowly."""
    waves = np.zeros((7, _WAVES, 3))
    main = float(np.abs(motion / widths).max())
    bob, cycles = min(rng.uniform(0.008, 0.03), 0.1 * main), rng.uniform(2.5, 5)
    for axis, share, times in ((Y, 1.0, 1.0), (PITCH, 0.3, 1.0), (X, 0.6, 0.5), (ROLL, 0.25, 0.5)):
        waves[axis, 0] = bob * share * widths[axis], cycles * times, rng.uniform(0, 2 * np.pi)
    return waves


def _shake(rng: np.random.Generator, strength: float, widths: Array) -> Array:
    waves = np.zeros((7, _WAVES, 3))
    shares = rng.dirichlet((2, 2, 0.5, 0.7, 0.7)) ** 0.5  # some shakes are mostly sideways, some mostly up and down
    for axis, share in zip((YAW, PITCH, ROLL, X, Y), shares, strict=True):
        cycles = rng.uniform(2.5, 8, _WAVES)
        waves[axis] = _waves(rng, strength * share * widths[axis], cycles, np.ones(_WAVES))
    return waves


def _waves(rng: np.random.Generator, deviation: float, cycles: Array, weights: Array) -> Array:
    """(waves, 3) sines with random phases whose sum has this standard deviation."""
    weights = weights * rng.uniform(0.3, 1, len(cycles))
    amplitude = deviation * weights * np.sqrt(2 / (weights**2).sum())
    return np.stack([amplitude, cycles, rng.uniform(0, 2 * np.pi, len(cycles))], -1)


def _rounded(values: Any) -> list[float]:
    return [round(float(v), 5) for v in values]

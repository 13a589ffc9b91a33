"""Bodies of many proportions in many positions: joints in space, and where a camera sees them.

Axes are the picture's: x to the right, y down, z towards the camera. A body of height 1 whose pelvis is at 0 faces the
camera, so that its left is the picture's right, until it is turned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)  #: COCO's key points
SKELETON = (
    *((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9)),
    *((8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)),
)  #: COCO's lines between them, counted from 1
CELLS = 4  #: of each of two proportions; a split has its own pairs of cells


@dataclass(frozen=True)
class Body:
    """Lengths and radii of a body in heights of it."""

    leg: float
    build: float  #: by which radii are multiplied
    torso: float
    upper_arm: float
    forearm: float
    shoulders: float
    hips: float
    head: float  #: its radius


def is_for_validation(leg_cell: int, build_cell: int) -> bool:
    """A quarter of the pairs, so that each length of leg and each build is known, but not together."""
    return leg_cell + build_cell == CELLS - 1


def make_body(rng: np.random.Generator, split: str) -> Body:
    """A body of a split: the length of its legs and its build are a pair that no body of the other split has."""
    pairs = [(i, j) for i in range(CELLS) for j in range(CELLS) if is_for_validation(i, j) == (split == "val")]
    i, j = pairs[int(rng.integers(len(pairs)))]
    leg, build = (i + rng.random()) / CELLS, (j + rng.random()) / CELLS  # in 0..1
    return Body(
        leg=0.43 + 0.10 * leg,
        build=0.75 + 0.6 * build,
        torso=rng.uniform(0.27, 0.32),
        upper_arm=rng.uniform(0.15, 0.19),
        forearm=rng.uniform(0.13, 0.165),
        shoulders=rng.uniform(0.19, 0.26),
        hips=rng.uniform(0.12, 0.17),
        head=rng.uniform(0.058, 0.072),
    )


# ---- positions -------------------------------------------------------------------------------------------------------


def turn(axis: int, degrees: float) -> Array:
    """A rotation (3, 3) about an axis, 0 to 2."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    i, j = [n for n in range(3) if n != axis]
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cosine, -sine, sine, cosine
    return matrix


def pose(body: Body, rng: np.random.Generator) -> Mapping[str, Array]:
    """Joints (3,) of a body in some position, seen from some side: key points, and what else is drawn."""
    spine = turn(0, rng.normal(5, 12)) @ turn(2, rng.normal(0, 8)) @ turn(1, rng.normal(0, 12))
    joints: dict[str, Array] = {"pelvis": np.zeros(3), "neck": spine @ [0, -body.torso, 0]}
    _put_head(joints, body, spine @ turn(1, rng.normal(0, 20)) @ turn(0, rng.normal(0, 10)))
    legs = _legs(rng)
    for place, (side, s) in enumerate((("left", 1), ("right", -1))):
        joints[f"{side}_shoulder"] = joints["neck"] + spine @ [s * body.shoulders / 2, 0.012, 0]
        joints[f"{side}_hip"] = np.array([s * body.hips / 2, 0, 0])
        _put_arm(joints, body, side, spine, _arm(rng, s))
        _put_leg(joints, body, side, legs[place], s)
    yaw = rng.uniform(-50, 50) + 180 * (rng.random() < 0.1)
    roll = rng.normal(0, 8) if rng.random() < 0.95 else rng.uniform(-60, 60)
    seen = turn(2, roll) @ turn(0, rng.normal(0, 8)) @ turn(1, yaw)
    return {name: seen @ place for name, place in joints.items()}


def _put_head(joints: dict[str, Array], body: Body, turned: Array) -> None:
    r = body.head
    joints["head"] = joints["neck"] + turned @ [0, -0.045 - r, 0.01]
    places = {
        "nose": (0, 0.1, 1.0),
        "hair": (0, -0.28, -0.3),
        "chin": (0, 0.45, 0.1),
        **{f"{side}_eye": (0.36 * s, -0.15, 0.9) for side, s in (("left", 1), ("right", -1))},
        **{f"{side}_ear": (0.98 * s, 0.0, 0.0) for side, s in (("left", 1), ("right", -1))},
    }
    joints.update({name: joints["head"] + r * (turned @ place) for name, place in places.items()})


def _arm(rng: np.random.Generator, s: int) -> tuple[float, float, float, Array]:
    """Degrees that the arm is lifted aside and forwards and the elbow is bent, and which way it bends."""
    low, high = ((0, 25), (35, 100), (105, 165))[int(rng.choice(3, p=(0.5, 0.3, 0.2)))]
    forwards = rng.normal(0, 20) if rng.random() < 0.6 else rng.uniform(20, 80)
    way = np.array([-s * rng.uniform(0, 1), -rng.uniform(0, 0.8), 1.0])
    return rng.uniform(low, high), forwards, 140 * rng.beta(1.1, 1.6), way


def _legs(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Of both: degrees that the thigh is lifted forwards and aside, and that the knee is bent."""
    kind = rng.choice(["stand", "walk", "wide", "sit", "kick"], p=(0.3, 0.3, 0.15, 0.15, 0.1))
    stride = rng.uniform(10, 40) * rng.choice([-1, 1])
    legs = []
    for s in (1, -1):
        forwards, aside, knee = rng.normal(0, 6), abs(rng.normal(4, 4)), abs(rng.normal(4, 6))
        if kind == "walk":
            forwards, knee = s * stride, knee + max(0.0, -s * stride) * rng.uniform(0.3, 1.6)
        elif kind == "wide":
            aside = rng.uniform(12, 40)
        elif kind == "sit":
            forwards, aside, knee = rng.uniform(60, 95), rng.uniform(3, 25), rng.uniform(60, 110)
        elif kind == "kick" and s * stride > 0:
            forwards, aside, knee = rng.uniform(30, 90), rng.uniform(0, 40), rng.uniform(0, 90)
        legs.append((forwards, aside, knee))
    return legs


def _limb(aside: float, forwards: float, s: int) -> Array:
    """The direction of a limb that hangs down, lifted aside and forwards."""
    a, f = np.radians(aside), np.radians(forwards)
    return np.array([s * np.sin(a) * np.cos(f), np.cos(a) * np.cos(f), np.sin(f)])


def _bent(along: Array, degrees: float, way: Array) -> Array:
    """A direction, bent the way that is nearest to another."""
    across = way - (way @ along) * along
    across /= np.linalg.norm(across) + 1e-9
    return np.cos(np.radians(degrees)) * along + np.sin(np.radians(degrees)) * across


def _put_arm(
    joints: dict[str, Array], body: Body, side: str, spine: Array, arm: tuple[float, float, float, Array]
) -> None:
    aside, forwards, elbow, way = arm
    upper = _limb(aside, forwards, 1 if side == "left" else -1)
    lower = _bent(upper, elbow, way)
    joints[f"{side}_elbow"] = joints[f"{side}_shoulder"] + body.upper_arm * (spine @ upper)
    joints[f"{side}_wrist"] = joints[f"{side}_elbow"] + body.forearm * (spine @ lower)
    joints[f"{side}_hand"] = joints[f"{side}_wrist"] + 0.035 * (spine @ lower)


def _put_leg(joints: dict[str, Array], body: Body, side: str, leg: tuple[float, float, float], s: int) -> None:
    forwards, aside, knee = leg
    thigh = _limb(aside, forwards, s)
    shin = _bent(thigh, knee, np.array([0, 0, -1.0]))
    joints[f"{side}_knee"] = joints[f"{side}_hip"] + 0.5 * body.leg * thigh
    joints[f"{side}_ankle"] = joints[f"{side}_knee"] + 0.5 * body.leg * shin
    foot = _bent(shin, 90, np.array([0.3 * s, 0, 1.0]))
    joints[f"{side}_toes"] = joints[f"{side}_ankle"] + 0.02 * shin + 0.085 * foot

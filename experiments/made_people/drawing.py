"""Bodies drawn over photographs: tapered limbs in clothes, nearer ones over those behind, and what is seen of them."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from bodies import NAMES, Array, Body

Pixels = npt.NDArray[np.float32]  # (H, W, 3), 0 to 255

HUES = 12
HUES_OF = {"train": (0, 2, 3, 5, 6, 8, 9, 11), "val": (1, 4, 7, 10)}  #: of clothes; no hue is in both
PATTERNS_OF = {"train": ("plain", "rings", "stripes"), "val": ("plain", "checks")}


@dataclass(frozen=True)
class Cloth:
    colour: Array  #: (3,), 0 to 255
    other: Array  #: of its pattern
    pattern: str
    period: float  #: of the pattern, in heights of a body


@dataclass(frozen=True)
class Clothes:
    shirt: Cloth
    trousers: Cloth
    shoes: Cloth
    skin: Cloth
    hair: Cloth
    eyes: Cloth
    has_sleeves: bool
    has_long_legs: bool


def dress(rng: np.random.Generator, split: str) -> Clothes:
    """Clothes of a split's hues and patterns; skin and hair of any."""

    def cloth() -> Cloth:
        first, second = (_colour(rng, split) for _ in range(2))
        return Cloth(first, second, str(rng.choice(PATTERNS_OF[split])), rng.uniform(0.03, 0.08))

    def plain(colour: Array) -> Cloth:
        return Cloth(colour, colour, "plain", 1.0)

    tone = rng.random()
    skin = np.array([1 - 0.62 * tone, 0.80 - 0.55 * tone, 0.68 - 0.52 * tone]) * 245 + rng.normal(0, 6, 3)
    hair = np.array([60, 42, 28]) * rng.uniform(0.3, 1.2) + rng.random() ** 3 * np.array([150, 110, 50])
    return Clothes(
        shirt=cloth(),
        trousers=cloth(),
        shoes=plain(_colour(rng, split) * 0.6),
        skin=plain(skin.clip(20, 250)),
        hair=plain(hair.clip(8, 235)),
        eyes=plain(np.array([25.0, 22, 22])),
        has_sleeves=bool(rng.random() < 0.5),
        has_long_legs=bool(rng.random() < 0.7),
    )


def _colour(rng: np.random.Generator, split: str) -> Array:
    hue = (rng.choice(HUES_OF[split]) + rng.random()) / HUES
    return 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.15, 0.9), rng.uniform(0.25, 0.95)))


# ---- one body --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A piece of a body: a limb that tapers from one end to the other, or the convex shape of several points."""

    name: str
    points: Array  #: (2, 2) the ends, or (N, 2) corners in order; pixels
    radii: tuple[float, float]  #: pixels, at both ends; corners have the first
    depth: float  #: of the nearer, more is nearer to the camera
    cloth: Cloth


#: Whose pixels show a key point.
SHOWN_BY: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in NAMES[:5]},
    **{f"{s}_shoulder": ("torso", f"{s}_upper_arm") for s in ("left", "right")},
    **{f"{s}_elbow": (f"{s}_upper_arm", f"{s}_forearm") for s in ("left", "right")},
    **{f"{s}_wrist": (f"{s}_forearm", f"{s}_hand") for s in ("left", "right")},
    **{f"{s}_hip": ("torso", f"{s}_thigh") for s in ("left", "right")},
    **{f"{s}_knee": (f"{s}_thigh", f"{s}_shin") for s in ("left", "right")},
    **{f"{s}_ankle": (f"{s}_shin", f"{s}_foot") for s in ("left", "right")},
}


def parts_of(body: Body, joints: Mapping[str, Array], clothes: Clothes, place: Array, height: float) -> list[Part]:
    """The pieces of a body, furthest first. Its pelvis is at `place` (x, y), and it is `height` pixels tall."""
    flat = {name: joint[:2] * height + place for name, joint in joints.items()}
    deep = {name: joint[2] for name, joint in joints.items()}
    thick = height * body.build

    def limb(name: str, a: str, b: str, ra: float, rb: float, cloth: Cloth, nearer: float = 0.0) -> Part:
        ends = np.stack([flat[a], flat[b]])
        return Part(name, ends, (ra * thick, rb * thick), (deep[a] + deep[b]) / 2 + nearer, cloth)

    parts = []
    for s in ("left", "right"):
        leg = clothes.trousers if clothes.has_long_legs else clothes.skin
        arm = clothes.shirt if clothes.has_sleeves else clothes.skin
        parts += [
            limb(f"{s}_thigh", f"{s}_hip", f"{s}_knee", 0.052, 0.036, clothes.trousers),
            limb(f"{s}_shin", f"{s}_knee", f"{s}_ankle", 0.034, 0.022, leg),
            limb(f"{s}_foot", f"{s}_ankle", f"{s}_toes", 0.022, 0.018, clothes.shoes),
            limb(f"{s}_upper_arm", f"{s}_shoulder", f"{s}_elbow", 0.034, 0.026, clothes.shirt, 0.01),
            limb(f"{s}_forearm", f"{s}_elbow", f"{s}_wrist", 0.025, 0.018, arm, 0.01),
            limb(f"{s}_hand", f"{s}_wrist", f"{s}_hand", 0.021, 0.02, clothes.skin, 0.011),
        ]
    corners = np.stack([flat[n] for n in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")])
    parts.append(Part("torso", corners, (0.036 * thick,) * 2, (deep["neck"] + deep["pelvis"]) / 2, clothes.shirt))
    parts.append(limb("neck", "neck", "head", 0.03, 0.03, clothes.skin))
    return sorted([*parts, *_head(body, flat, deep, clothes, height)], key=lambda part: part.depth)


def _head(
    body: Body, flat: Mapping[str, Array], deep: Mapping[str, float], clothes: Clothes, height: float
) -> list[Part]:
    r = body.head * height

    def ball(name: str, radius: float, depth: float, cloth: Cloth, to: str | None = None) -> Part:
        ends = np.stack([flat[name], flat[to or name]])
        return Part(name, ends, (radius, radius * (0.72 if to else 1)), depth, cloth)

    face = [ball("head", r, deep["head"], clothes.skin, "chin"), ball("hair", 0.98 * r, deep["hair"], clothes.hair)]
    nose = Cloth(clothes.skin.colour * 0.72, clothes.skin.colour, "plain", 1.0)
    ears = Cloth(clothes.skin.colour * 0.9, clothes.skin.colour, "plain", 1.0)
    for name, size, cloth in (
        *(("left_ear", 0.24, ears), ("right_ear", 0.24, ears), ("nose", 0.17, nose)),
        *(("left_eye", 0.13, clothes.eyes), ("right_eye", 0.13, clothes.eyes)),
    ):
        is_in_front = deep[name] - deep["head"] > (-0.3 if "ear" in name else 0.25) * body.head
        face.append(ball(name, max(size * r, 0.8), deep[name] + 0.03 * is_in_front, cloth))
    return face


# ---- pixels ----------------------------------------------------------------------------------------------------------


def draw(canvas: Pixels, owners: npt.NDArray[np.int32], parts: Sequence[Part], first: int, height: float) -> None:
    """Parts over a picture, in their order. `owners` (H, W) then has `first` + the number of the part seen there."""
    for number, part in enumerate(parts):
        reach = max(part.radii) + 2
        low = np.floor(part.points.min(0) - reach).astype(int).clip(0)
        high = np.ceil(part.points.max(0) + reach).astype(int)
        rows, columns = slice(low[1], max(low[1], high[1])), slice(low[0], max(low[0], high[0]))
        window = canvas[rows, columns]
        if not window.size:
            continue
        y, x = np.mgrid[rows.start : rows.start + window.shape[0], columns.start : columns.start + window.shape[1]]
        inside, along, across = _shape(part, np.stack([x, y], axis=-1).astype(np.float64))
        alpha = inside.clip(0, 1)[..., None]
        colour = _painted(part.cloth, along, across, height)
        window += (alpha * (colour - window)).astype(np.float32)
        owners[rows, columns][inside > 0.5] = first + number


def _shape(part: Part, places: Array) -> tuple[Array, Array, Array]:
    """Of places (h, w, 2): how far inside, in pixels, + 0.5; pixels along the part; -1 to 1 across it."""
    if len(part.points) > 2:
        corners = part.points
        middle, axis = corners.mean(0), corners[2:].mean(0) - corners[:2].mean(0)
        following = np.roll(corners, -1, axis=0)
        sides = following - corners
        normals = np.stack([sides[:, 1], -sides[:, 0]], axis=1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        normals *= np.sign(((corners - middle) * normals).sum(1, keepdims=True))  # outwards
        distance = np.max([(places - c) @ n for c, n in zip(corners, normals, strict=True)], axis=0)
        unit = axis / (np.linalg.norm(axis) + 1e-9)
        off = (places - middle) @ np.array([-unit[1], unit[0]])
        half = np.abs((corners - middle) @ np.array([-unit[1], unit[0]])).max() + part.radii[0]
        return part.radii[0] - distance + 0.5, (places - middle) @ unit, (off / half).clip(-1, 1)
    start, end = part.points
    length = float(np.linalg.norm(end - start))
    unit = (end - start) / length if length > 1e-6 else np.array([0.0, 1.0])
    along = (places - start) @ unit
    share = (along / max(length, 1e-6)).clip(0, 1)
    radius = part.radii[0] + (part.radii[1] - part.radii[0]) * share
    nearest = start + share[..., None] * (end - start)
    distance = np.linalg.norm(places - nearest, axis=-1)
    off = (places - start) @ np.array([-unit[1], unit[0]])
    return radius - distance + 0.5, along, (off / radius).clip(-1, 1)


def _painted(cloth: Cloth, along: Array, across: Array, height: float) -> Array:
    """The cloth in the light: (h, w, 3)."""
    period = max(cloth.period * height, 3.0)
    rings = np.sin(2 * np.pi * along / period) > 0
    stripes = np.sin(2 * np.pi * across * 1.5) > 0
    mark = {"plain": np.zeros_like(rings), "rings": rings, "stripes": stripes, "checks": rings ^ stripes}[cloth.pattern]
    colour = np.where(mark[..., None], cloth.other, cloth.colour)
    return colour * (1.05 - 0.4 * (across + 0.25)[..., None] ** 2).clip(0.45, 1.05)

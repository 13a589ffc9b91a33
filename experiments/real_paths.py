"""Real photographs filmed in ways that the benchmark's generator does not know: what a hand, a motor or an editor does.

`films()` names 80 takes, four of each class; `film` draws one. Turning, rolling, zooming and shaking need one flat
photograph, since they have no parallax. Moving needs depth that was measured: two photographs of a stereo bench, each
point at the distance that its disparity tells, seen from beside where it was taken. No path, scene, lens or format is
the generator's (`uniformer.camera_motion`): only the classes' meaning and the algebra of cameras are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from common import Pixels
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from uniformer.camera_motion.classes import CLASSES
from uniformer.camera_motion.geometry import Array, picture, plane_homographies, rays, rotations, whole
from uniformer.camera_motion.paths import PITCH, ROLL, YAW, ZOOM, X, Y, Z

SIZES = ((144, 256), (180, 240), (256, 144))  # height and width: wide, old and portrait
SHUTTER = 3  # moments that make up a frame of a flat photograph: half of the time to the next
SLICES = 16  # distances at which a photograph with depth is cut
_RANGES = {  # axis -> smallest and largest motion: widths of the picture, degrees (roll), log2 of the growth (z, zoom)
    YAW: (0.12, 0.9), PITCH: (0.10, 0.45), ROLL: (7.0, 40.0), ZOOM: (0.15, 0.9),
    X: (0.08, 0.3), Y: (0.07, 0.22), Z: (0.12, 0.5),
}  # fmt: skip
_AXES = {"pan": YAW, "tilt": PITCH, "roll": ROLL, "zoom": ZOOM, "truck": X, "pedestal": Y, "push": Z, "pull": Z}
_FORWARDS = ("right", "up", "in")


@dataclass(frozen=True)
class Film:
    """One take, before it is drawn."""

    label: str
    photo: str  #: its file's name
    seed: int
    half: str  #: dev or final, by photograph


@dataclass(frozen=True)
class Slice:
    """What of a photograph is at one distance or nearer, as a plane that faces the camera."""

    texture: Tensor  #: (4, h, w): red, green, blue in 0..255 and how opaque in 0..1
    distance: float


@dataclass(frozen=True)
class Scene:
    """Slices from far to near; the typical distance is 1. All are seen under the same angle from the origin."""

    slices: tuple[Slice, ...]
    centre: tuple[float, float]  #: where the axis meets the photograph, right and up, at distance 1
    half: tuple[float, float]  #: half of its width and height at distance 1


FLAT = {"china.jpg": "dev", "flower.jpg": "final"}
DEEP = {"motorcycle_left.png": "dev", "aloeL.jpg": "final"}


def films() -> Iterator[Film]:
    """Four takes of each class, two for each photograph that suits it."""
    for label in CLASSES:
        moves = _axis(label) in (X, Y, Z)
        for photo, half in (DEEP if moves else FLAT).items():
            for take in range(2):
                yield Film(label, photo, 100 * list(CLASSES).index(label) + take, half)


def film(take: Film, scene: Scene) -> tuple[Pixels, Fraction]:
    """The frames (T, H, W, 3) of a take, and how many are shown in a second."""
    rng = np.random.default_rng([take.seed, sorted({**FLAT, **DEEP}).index(take.photo)])
    rate = Fraction(int(rng.choice([24, 25, 30])))
    count = int(rng.uniform(1.6, 2.6) * rate)
    height, width = SIZES[rng.integers(len(SIZES))]
    is_flat = len(scene.slices) == 1
    half = 0.55 * scene.half[0] if not is_flat else np.tan(np.radians(rng.uniform(15, 22)))  # of the lens at zoom 0
    half *= min(1.0, width / height)
    moments = (np.arange(count * SHUTTER) // SHUTTER + np.arange(count * SHUTTER) % SHUTTER / 2 / SHUTTER) / count
    moments = moments if is_flat else moments[::SHUTTER]
    poses = _poses(take.label, moments, float(count / rate), float(2 * half), rng)
    looks = rotations(poses[:, YAW], poses[:, PITCH], poses[:, ROLL])
    looks = looks @ rays(np.degrees(2 * np.arctan(half * 2.0 ** -poses[:, ZOOM])))
    views = torch.cat([_view(scene, poses[i : i + 8, :3], looks[i : i + 8], (height, width)) for i in _eights(poses)])
    frames = views.unflatten(0, (count, -1)).mean(1)
    return frames.clamp(0, 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy(), rate


def write_video(path: Path, frames: Pixels, rate: Fraction) -> None:
    """H.264 as most programs write it: quality 23."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "23"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


# ---- scenes ----------------------------------------------------------------------------------------------------------


def flat_scene(path: Path) -> Scene:
    """A photograph at distance 1 that spans 86 degrees; beyond its edge it goes on as its mirror image."""
    texture = _texture(path)
    half = float(np.tan(np.radians(43)))
    return Scene((Slice(_opaque(texture), 1.0),), (0.0, 0.0), (half, half * texture.shape[1] / texture.shape[2]))


def motorcycle_scene(folder: Path) -> Scene:
    """scikit-image's motorcycle (Middlebury 2014), a quarter of its size; figures from scikit-image's documentation."""
    disparity = np.load(folder / "motorcycle_disp.npz")["arr_0"].astype(float)
    disparity[~np.isfinite(disparity)] = 0
    return deep_scene(_texture(folder / "motorcycle_left.png"), disparity, 31.086, 994.978, (311.193, 254.877))


def aloe_scene(folder: Path) -> Scene:
    """OpenCV's aloe (Middlebury 2006), at half of its size; the figures are the bench's: 3740 pixels, 270 to add."""
    with Image.open(folder / "aloeGT.png") as image:
        disparity = np.asarray(image, float)[::2, ::2] / 2
    texture = torch.nn.functional.avg_pool2d(_texture(folder / "aloeL.jpg"), 2)
    return deep_scene(texture, disparity, 270 / 2, 3740 / 2, (disparity.shape[1] / 2, disparity.shape[0] / 2))


def deep_scene(texture: Tensor, disparity: Array, offset: float, focal: float, centre: tuple[float, float]) -> Scene:
    """Slices of a photograph (3, h, w) by its disparities (h, w), 0 where none was measured.

    Each slice holds what is there or nearer, and where something nearer hides it, the colours of what is beside: so no
    gap opens when the camera moves. Sizes are in pixels.
    """
    known = disparity > 0
    disparity = disparity[tuple(distance_transform_edt(~known, return_distances=False, return_indices=True))]
    height, width = disparity.shape
    edge = width // 4  # what may come into sight beyond the photograph: its mirror image
    disparity = np.pad(disparity, edge, mode="reflect")
    colours = np.pad(texture.numpy(), ((0, 0), (edge, edge), (edge, edge)), mode="reflect")
    bounds = np.linspace(disparity.min(), disparity.max() + 1e-6, SLICES + 1)
    steps = np.digitize(disparity, bounds) - 1
    typical = float(np.median(disparity)) + offset
    slices = []
    for step in np.unique(steps):
        beside = distance_transform_edt(steps > step, return_distances=False, return_indices=True)
        shown = np.concatenate([colours[:, beside[0], beside[1]], (steps >= step)[None]])
        middle = float(disparity[steps == step].mean()) + offset
        slices.append(Slice(torch.from_numpy(shown).float(), typical / middle))
    away = (width / 2 - centre[0]) / focal, (centre[1] - height / 2) / focal
    return Scene(tuple(slices), away, ((width / 2 + edge) / focal, (height / 2 + edge) / focal))


def _texture(path: Path) -> Tensor:
    """(3, h, w) in 0..255."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()


def _opaque(texture: Tensor) -> Tensor:
    return torch.cat([texture, torch.ones_like(texture[:1])])


def _view(scene: Scene, eyes: Array, looks: Array, size: tuple[int, int]) -> Tensor:
    """(T, 3, H, W): the slices from far to near, each over what is behind it."""
    views = torch.zeros(len(eyes), 3, *size)
    for part in scene.slices:
        origin = part.distance * np.array([*scene.centre, 1.0])
        across = part.distance * np.array([scene.half[0], 0, 0])
        down = part.distance * np.array([0, -scene.half[1], 0])
        homographies = plane_homographies(origin, across, down, eyes, looks)
        seen, _ = picture(part.texture, homographies, whole(size), mirror=len(scene.slices) == 1)
        views += seen[:, 3:] * (seen[:, :3] - views)
    return views


def _eights(poses: Array) -> range:
    return range(0, len(poses), 8)  # frames at a time, for memory


# ---- paths -----------------------------------------------------------------------------------------------------------


def _axis(label: str) -> int | None:
    return _AXES.get(label.split("_")[0])


def _poses(label: str, moments: Array, seconds: float, width: float, rng: np.random.Generator) -> Array:
    """(T, 7) poses at (T,) moments in 0..1, for a lens that sees `width` at distance 1."""
    poses = np.zeros((len(moments), 7))
    axis = _axis(label)
    hand = np.exp(rng.uniform(np.log(0.02), np.log(0.045))) if label == "shake" else rng.choice([0.0, 0.001, 0.0025])
    for jittered, share in ((YAW, 1.0), (PITCH, 0.8), (ROLL, 0.4)):
        poses[:, jittered] += share * hand * _degrees(width) * _sprung(moments, seconds, label == "shake", rng)
    poses[:, YAW] += rng.uniform(-0.2, 0.2) * _degrees(width)  # the middle of the photograph is not always looked at
    poses[:, PITCH] += rng.uniform(-0.12, 0.12) * _degrees(width)
    if axis is None:
        return poses
    sign = 1 if label.split("_")[1] in _FORWARDS else -1
    low, high = _RANGES[axis]
    size = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    way = _there_and_back(moments, rng) if "_then_" in label else _there(moments, rng)
    poses[:, axis] += sign * _in_scene(axis, sign, size, width) * (way - (0.5 if axis != Z else 0))
    return poses


def _degrees(width: float) -> float:
    return float(2 * np.degrees(np.arctan(width / 2)))


def _in_scene(axis: int, sign: int, size: float, width: float) -> float:
    """From what the motion does to the picture to what the camera does."""
    if axis == Z:
        return float(1 - 2**-size if sign > 0 else 2**size - 1)
    return {YAW: size * _degrees(width), PITCH: size * _degrees(width), X: size * width, Y: size * width}.get(
        axis, size
    )


def _smooth(share: Array) -> Array:
    """From 0 to 1 and at rest at both ends, as editors ease."""
    share = np.clip(share, 0, 1)
    eased: Array = share**3 * (10 - 15 * share + 6 * share**2)
    return eased


def _there(moments: Array, rng: np.random.Generator) -> Array:
    """One of five ways to go from 0 to 1."""
    ways: tuple[Callable[[Array, np.random.Generator], Array], ...] = (_steadily, _eased, _whipped, _in_steps, _settled)
    return ways[rng.integers(len(ways))](moments, rng)


def _steadily(moments: Array, rng: np.random.Generator) -> Array:
    """A motor's."""
    return moments


def _eased(moments: Array, rng: np.random.Generator) -> Array:
    """An editor's move over a still picture."""
    return _smooth(moments)


def _whipped(moments: Array, rng: np.random.Generator) -> Array:
    """Rest, a quick move, rest."""
    begin = rng.uniform(0.1, 0.4)
    return _smooth((moments - begin) / rng.uniform(0.25, 0.5))


def _in_steps(moments: Array, rng: np.random.Generator) -> Array:
    """Two or three moves with rests between them."""
    steps = int(rng.integers(2, 4))
    place = moments * steps
    return (np.floor(place) + _smooth((place % 1) / rng.uniform(0.5, 0.8))) / steps


def _settled(moments: Array, rng: np.random.Generator) -> Array:
    """A push against a spring: it goes a little too far and comes back."""
    damping, turns = rng.uniform(0.5, 0.8), rng.uniform(1.0, 1.6)
    root = np.sqrt(1 - damping**2)
    angle = 2 * np.pi * turns * moments
    path: Array = 1 - np.exp(-damping * angle) * (np.cos(root * angle) + damping / root * np.sin(root * angle))
    return path


def _there_and_back(moments: Array, rng: np.random.Generator) -> Array:
    """To 1 and back to about 0, at different speeds, with a rest between."""
    turn, rest = rng.uniform(0.35, 0.55), rng.uniform(0, 0.12)
    left = rng.uniform(-0.1, 0.15)
    return _smooth(moments / turn) - (1 - left) * _smooth((moments - turn - rest) / (1 - turn - rest))


def _sprung(moments: Array, seconds: float, is_shaken: bool, rng: np.random.Generator) -> Array:
    """A hand as a damped spring that is knocked at random: deviation 1 about 0, with no trend, at (T,) moments."""
    step = 1 / 240
    pull = 2 * np.pi * (rng.uniform(1.4, 3.0) if is_shaken else rng.uniform(0.5, 1.2))
    place = speed = 0.0
    places = []
    for knock in rng.standard_normal(int(seconds / step) + 2):
        speed += step * (-(pull**2) * place - 0.5 * pull * speed) + knock * step**0.5
        place += step * speed
        places.append(place)
    course = np.interp(moments * seconds, np.arange(len(places)) * step, places)
    course -= np.polyval(np.polyfit(moments, course, 1), moments)
    return np.asarray(course / max(float(course.std()), 1e-9))

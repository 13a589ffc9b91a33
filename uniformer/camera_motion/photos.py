"""The photograph world: a small scene of textured planes made of real photographs, filmed by an exact camera.

Four walls, often a floor, now and then a ceiling, and cut-outs nearer by, some of which move. What is seen has the
median distance 1 over the clip, so that moving and turning, and moving forwards and zooming, differ as they do in a
room: by parallax. In some of the scenes the camera follows something, which then stays in the middle of the picture; in
some, something passes close before the lens, wherever it looks.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from uniformer.camera_motion.geometry import (
    Array,
    Window,
    density,
    picture,
    plane_homographies,
    rays,
    rotations,
    shrink,
    whole,
    window_of,
)
from uniformer.camera_motion.leaves import draw_leaves
from uniformer.camera_motion.paths import PITCH, ROLL, YAW, ZOOM, CameraPath, X, Y, Z
from uniformer.camera_motion.visibility import Parallax, is_as_large, is_hidden, size_in_picture, visible_parallax
from uniformer.errors import InputError, MissingExtra
from uniformer.reading.foreground import inside_blob
from uniformer.reading.pictures import IMAGE_SUFFIXES, open_image, to_rgb

#: The photographs among scikit-image's pictures, by split. No photograph is in two.
PHOTOS: dict[str, tuple[str, ...]] = {
    "train": (
        "astronaut.png",
        "brick.png",
        "coffee.png",
        "coins.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
    ),
    "val": ("chelsea.png", "grass.png", "text.png"),
    "test": ("camera.png", "motorcycle_left.png", "rocket.jpg"),
}
_LARGEST = 900  # pixels of the longer side that are kept
_SMALLEST = 160
_CUTOUT = 300  # pixels of the longer side of what cut-outs are cut from
_BEHIND = 2.2  # how far a background reaches beyond the view
_FOLLOWED = [X, Y, YAW, PITCH]
_FOLLOWING = 0.3  # of the scenes
_PASSING = 0.2
_CUTOUTS = 20  # at most, however far the camera goes
_COARSE, _COARSE_TEXTURE = (15, 20), 24  # pixels: enough to know how far things are
_ROUNDS = 5  # of finding a scene's size: in another size the camera sees other things


@dataclass(frozen=True)
class Photo:
    """One photograph, (3, h, w) float in 0..255."""

    large: Tensor  #: at most 900 pixels long
    small: Tensor  #: for cut-outs: about a third of it


@dataclass(frozen=True)
class Layer:
    """One textured plane: `origin + a * across + b * down`, a and b in -1..1, drifting by `speed` over the clip."""

    texture: Tensor  #: (4, h, w): red, green, blue in 0..255 and how opaque in 0..1
    origin: Array  #: (3,)
    across: Array  #: (3,) half of its width
    down: Array  #: (3,) half of its height
    speed: Array  #: (3,) way over the clip
    is_endless: bool  #: goes on as its mirror image
    follow: float = 0.0  #: share of what the camera turns and moves aside, up and down that it goes along with

    def scaled(self, times: float) -> Layer:
        """At so many times the distance, and as much larger: it looks the same from where distances are counted."""
        origin, across, down, speed = (times * part for part in (self.origin, self.across, self.down, self.speed))
        return replace(self, origin=origin, across=across, down=down, speed=speed)

    def homographies(self, moments: Array, poses: Array, path: CameraPath) -> Array:
        """(T, 3, 3) from picture points to its points, at (T,) moments and (T, 7) poses."""
        origin = self.origin + self.speed * (moments[:, None] - 0.5)
        seen_from = poses.copy()
        seen_from[:, _FOLLOWED] -= self.follow * (poses[:, _FOLLOWED] - poses[:, _FOLLOWED].mean(0))
        if self.follow:  # it stands where the camera is on the average, not where it begins
            seen_from[:, :3] -= poses[:, :3].mean(0)
        looks = rotations(seen_from[:, YAW], seen_from[:, PITCH], seen_from[:, ROLL])
        eyes, lenses = seen_from[:, :3], rays(path.fields_of_view(poses))
        return plane_homographies(origin, self.across, self.down, eyes, looks @ lenses)


def find_photos(split: str, folder: Path | None) -> list[Path]:
    """scikit-image's photographs of a split, and those of a folder that fall to it by a hash of their names.

    Eight of ten of the folder's files are for training, one for validation, one for test. Raises `InputError` for a
    folder without pictures, `MissingExtra` without scikit-image.
    """
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise MissingExtra("scikit-image", "camera-motion", "the photograph world")
    own = Path(package.submodule_search_locations[0]) / "data"
    return [own / name for name in PHOTOS[split]] + ([] if folder is None else _of_folder(folder, split))


def _of_folder(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of photographs, found none")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"{folder}: expected photographs, found no picture")
    return [path for path in found if split_of_name(path.relative_to(folder).as_posix()) == split]


def usable(paths: Sequence[Path]) -> list[Path]:
    """Those of the pictures that `load_photo` can load. Warns once of the others: one bad file among hundreds must not
    end a long run in its middle."""
    found, left_out = [], []
    for path in paths:
        try:
            load_photo(path)
            found.append(path)
        except InputError as error:
            left_out.append(str(error))
    if left_out:
        warnings.warn(f"{len(left_out)} of {len(paths)} photographs left out, the first: {left_out[0]}", stacklevel=3)
    return found


def split_of_name(name: str) -> str:
    """train (8 of 10), val or test, by a hash: a photograph stays in its split when others come or go."""
    digit = hashlib.sha256(name.encode()).digest()[0] % 10
    return {8: "val", 9: "test"}.get(digit, "train")


def load_photo(path: Path) -> Photo:
    """The photograph in a file. Raises `InputError` for what is no picture."""
    upright = to_rgb(open_image(path, least=_LARGEST))
    upright.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
    if min(upright.size) < _SMALLEST:
        raise InputError(
            f"{path}: expected at least {_SMALLEST} x {_SMALLEST} pixels, found {upright.width} x {upright.height}"
        )
    return _as_photo(np.array(upright))


def draw_photo(rng: np.random.Generator) -> Photo:
    """What stands in for a photograph where there are few."""
    return _as_photo(draw_leaves(rng))


def _as_photo(pixels: npt.NDArray[np.uint8]) -> Photo:
    large = torch.from_numpy(pixels).permute(2, 0, 1).float()
    return Photo(large, shrink(large, max(pixels.shape) // _CUTOUT))


def build_scene(photos: Sequence[Photo], path: CameraPath, rng: np.random.Generator) -> list[Layer]:
    """A scene around where the path leads and looks. The class changes nothing but how far it reaches, and that is
    alike for what only parallax tells apart."""
    poses = path.poses(np.linspace(0, 1, 33))
    middle = poses.mean(0)
    heading = np.radians(float(middle[YAW]))
    far = float(np.exp(rng.uniform(np.log(1.2), np.log(3.2))))
    slant = np.radians(rng.uniform(-30, 30)) if rng.random() < 0.5 else 0.0
    width = np.tan(np.radians(path.fov) / 2)
    unit = 0.75 * far  # what comes out as about the median distance
    aside, upwards, along = (unit * reach for reach in _room(path, 2 * width))
    large = [photo.large for photo in photos]
    layers = []
    for corner in range(4):  # before the camera, to its right, behind it, to its left
        distance = far if corner == 0 else far * rng.uniform(0.6, 3) + (along if corner == 2 else aside)
        reach = width * rng.uniform(0.8, _BEHIND)
        layers.append(_wall(_texture(large, rng), distance, heading + corner * np.pi / 2, slant, reach, rng))
    if rng.random() < 0.6:
        layers.append(_floor(_texture(large, rng), -upwards - rng.uniform(0.25, 0.7), rng))
    if rng.random() < 0.25:
        layers.append(_floor(_texture(large, rng), upwards + rng.uniform(0.3, 1.2), rng))
    small = [photo.small for photo in photos]
    count = min(_CUTOUTS, int(rng.integers(2, 11) * (1 + (aside + upwards) / (2 * width * unit))))
    for distance in np.sort(rng.uniform(0.5, 0.9 * far, count))[::-1]:
        pose = poses[rng.integers(len(poses))]  # in sight at some moment
        eye = unit * pose[:3]
        layers.append(_cutout(_texture(small, rng), float(distance), eye, pose, width, rng))
    if rng.random() < _FOLLOWING:
        layers.append(_subject(_texture(small, rng), middle, width, rng))
    if rng.random() < _PASSING:
        layers.append(_passer(_texture(small, rng), middle, width, rng))
    return _sized(layers, path)


def _room(path: CameraPath, width: float) -> tuple[float, float, float]:
    """What a camera needs that moves as far as this path does, or turns as far: aside, up and down, and behind it."""
    axis = int(np.abs(path.motion).argmax())
    if axis in (X, YAW):
        return path.size * width, 0.0, 0.0
    if axis in (Y, PITCH):
        return 0.0, path.size * width, 0.0
    return 0.0, 0.0, 2**path.size - 1 if axis in (Z, ZOOM) else 0.0


def _sized(layers: Sequence[Layer], path: CameraPath) -> list[Layer]:
    """The scene in the size in which a move does to the picture what its size says; for what only turns or zooms, in
    which the median distance of what is seen is 1 on the average of the clip."""
    moments = np.linspace(0, 1, 9)
    poses = path.poses(moments)
    sides = [min(layer.texture.shape[1:]) for layer in layers]
    coarse = [
        replace(layer, texture=shrink(layer.texture, side // _COARSE_TEXTURE))
        for layer, side in zip(layers, sides, strict=True)
    ]
    times = 1.0
    for _ in range(_ROUNDS):
        _, near = film([layer.scaled(times) for layer in coarse], path, moments, _COARSE)
        done = size_in_picture(near.numpy(), poses, path)
        times *= float(near.flatten(1).quantile(0.5, dim=1).mean()) if done is None else done / path.size
        times = max(times, 1e-3)
    return [layer.scaled(times) for layer in layers]


def film_scene(
    layers: Sequence[Layer], path: CameraPath, moments: Array, size: tuple[int, int]
) -> tuple[Tensor, Parallax | None] | None:
    """The scene at (T,) moments, (T, 3, H, W) in 0..255, and what parallax a move shows. None where a move shows too
    little, or does more or less to the picture than its size says."""
    views, near = film(layers, path, moments, size)
    nearness = near[:, ::4, ::4].double().numpy()
    parallax = visible_parallax(nearness[0], path)
    if is_hidden(parallax) or not is_as_large(size_in_picture(nearness, path.poses(moments), path), path):
        return None
    return views, parallax


def film(layers: Sequence[Layer], path: CameraPath, moments: Array, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The scene at (T,) moments: (T, 3, H, W) in 0..255, and (T, H, W) 1 over distances. Layers hide what is behind."""
    poses = path.poses(moments)
    views = torch.zeros(len(moments), 3, *size)
    nearest = torch.zeros(len(moments), 1, *size)
    for layer in layers:
        homographies = layer.homographies(moments, poses, path)
        window = whole(size) if layer.is_endless else window_of(homographies, size)
        if window is None or _is_behind(homographies, size):
            continue
        texture = _shrink(layer.texture, homographies[len(moments) // 2], window)
        seen, near = picture(texture, homographies, window, mirror=layer.is_endless)
        part = (slice(None), slice(None), window.rows, window.columns)
        alpha = seen[:, 3:] * (near > nearest[part])
        views[part] += alpha * (seen[:, :3] - views[part])
        nearest[part] = torch.where(alpha > 0.5, near, nearest[part])
    return views, nearest[:, 0]


def _is_behind(homographies: Array, size: tuple[int, int]) -> bool:
    """Whether a plane is before none of the pictures: how near it is, is linear in the picture, so corners tell."""
    corners = np.array([[-1, 1, 1, -1], np.array([-1, -1, 1, 1]) * size[0] / size[1], [1.0, 1, 1, 1]])
    return bool((homographies[:, 2] @ corners <= 1e-6).all())


def _shrink(texture: Tensor, homography: Array, window: Window) -> Tensor:
    """The texture at the size in which it is seen: sampling a larger one would flicker."""
    seen = density(homography, window, (texture.shape[1], texture.shape[2]))
    times = min(round(seen), min(texture.shape[1:]) // 8)
    return shrink(texture, times)


def _texture(photos: Sequence[Tensor], rng: np.random.Generator) -> Tensor:
    """(3, h, w) a part of one of the photographs, its colours and sides changed at random."""
    photo = photos[int(rng.integers(len(photos)))]
    share = rng.uniform(0.45, 1, 2)
    high, wide = (max(min(_SMALLEST // 2, n), int(n * s)) for n, s in zip(photo.shape[1:], share, strict=True))
    top, left = (int(rng.integers(n - m + 1)) for n, m in zip(photo.shape[1:], (high, wide), strict=True))
    part = photo[:, top : top + high, left : left + wide]
    part = part.flip(2) if rng.random() < 0.5 else part
    if rng.random() < 0.1:
        part = part[torch.from_numpy(rng.permutation(3))]
    gain = torch.from_numpy(rng.normal(1, 0.12, (3, 1, 1)) * rng.uniform(0.7, 1.25)).float()
    return (part * gain).clamp(0, 255)


def _opaque(texture: Tensor) -> Tensor:
    return torch.cat([texture, torch.ones_like(texture[:1])])


def _wall(
    texture: Tensor, distance: float, heading: float, slant: float, reach: float, rng: np.random.Generator
) -> Layer:
    angle = heading + slant
    origin = distance * np.array([np.sin(heading), 0, np.cos(heading)]) + [0, rng.uniform(-0.2, 0.2), 0]
    half = distance * reach
    down = half * np.array([0, -texture.shape[1] / texture.shape[2], 0])
    return Layer(_opaque(texture), origin, _across(half, angle), down, np.zeros(3), True)


def _floor(texture: Tensor, height: float, rng: np.random.Generator) -> Layer:
    scale, angle = rng.uniform(0.5, 1.4), rng.uniform(0, 2 * np.pi)
    across = scale * np.array([np.cos(angle), 0, np.sin(angle)])
    down = scale * texture.shape[1] / texture.shape[2] * np.array([np.sin(angle), 0, -np.cos(angle)])
    return Layer(_opaque(texture), np.array([0, height, 1.0]), across, down, np.zeros(3), True)


def _cutout(texture: Tensor, distance: float, eye: Array, pose: Array, width: float, rng: np.random.Generator) -> Layer:
    """A standing piece of a photograph somewhere in sight of a pose, facing it more or less; one of four moves."""
    heading = np.radians(pose[YAW])
    aside = heading + rng.uniform(-1.3, 1.3) * np.arctan(width) * 1.3
    turn = aside + np.radians(rng.normal(0, 20))
    half = distance * width * rng.uniform(0.1, 0.35)
    ahead = distance / np.cos(aside - heading)
    height = distance * (_slope(pose) + rng.uniform(-0.6, 0.6) * width)
    origin = eye + np.array([ahead * np.sin(aside), height, ahead * np.cos(aside)])
    down = half * rng.uniform(0.6, 1.7) * np.array([0, -1.0, 0])
    speed = np.zeros(3)
    if rng.random() < 0.25:
        speed = rng.normal(0, 0.5, 3) * (half, 0.5 * half, 0.3 * half) * 2
    return Layer(_cut_out(texture, rng), origin, _across(half, turn), down, speed, False)


def _subject(texture: Tensor, middle: Array, width: float, rng: np.random.Generator) -> Layer:
    """What the camera follows: a cut-out near the middle of the picture, of a tenth of it to more than half, that goes
    along with most of the camera's motion."""
    distance, heading = rng.uniform(0.45, 1.0), np.radians(middle[YAW])
    aside = heading + rng.uniform(-0.3, 0.3) * np.arctan(width)
    half = distance * width * rng.uniform(0.12, 0.7)
    height = distance * (_slope(middle) + rng.uniform(-0.3, 0.15) * width)
    origin = np.array([distance * np.sin(aside), height, distance * np.cos(aside)])
    down = half * rng.uniform(0.7, 2.0) * np.array([0, -1.0, 0])
    speed = rng.normal(0, 0.25, 3) * half
    shape = _cut_out(texture, rng)
    return Layer(shape, origin, _across(half, heading), down, speed, False, follow=rng.uniform(0.7, 1.0))


def _passer(texture: Tensor, middle: Array, width: float, rng: np.random.Generator) -> Layer:
    """What crosses the view close before the lens, wherever the camera goes: a person, a car, a leaf."""
    distance, heading = rng.uniform(0.2, 0.5), np.radians(middle[YAW])
    half = distance * width * rng.uniform(0.2, 0.8)
    height = distance * (_slope(middle) + rng.uniform(-0.5, 0.3) * width)
    origin = np.array([distance * np.sin(heading), height, distance * np.cos(heading)])
    way = rng.choice([-1, 1]) * distance * width * rng.uniform(1.5, 6)
    when = rng.uniform(-0.3, 0.3)  # of the clip, before or after its middle, it is in the middle of the view
    speed = _across(way, heading) + way * rng.normal(0, 0.1) * np.array([0, 1.0, 0])
    down = half * rng.uniform(0.7, 2.0) * np.array([0, -1.0, 0])
    return Layer(_cut_out(texture, rng), origin - when * speed, _across(half, heading), down, speed, False, follow=1.0)


def _slope(pose: Array) -> float:
    """How far above the eye the middle of the view is, at a distance of 1; straight up there is nothing to stand."""
    return float(np.tan(np.radians(np.clip(pose[PITCH], -50, 50))))


def _across(half: float, turn: float) -> Array:
    """(3,) half of the width of what stands upright and faces `turn`, radians."""
    return half * np.array([np.cos(turn), 0, -np.sin(turn)])


def _cut_out(texture: Tensor, rng: np.random.Generator) -> Tensor:
    """(3, h, w) -> (4, h, w): how opaque, beside."""
    return torch.cat([texture, _shape(texture.shape[1], texture.shape[2], rng)])


def _shape(height: int, width: int, rng: np.random.Generator) -> Tensor:
    """(1, h, w) how opaque: a box, an ellipse or a blob with a soft edge, touching no side of the texture."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    kind = rng.choice(["box", "ellipse", "blob"])
    if kind == "box":
        inside = 0.95 - torch.maximum(x.abs(), y.abs())
    else:
        inside = inside_blob(x, y, 0.09 if kind == "blob" else 0.0, rng)
    return (inside / 0.03 + 0.5).clamp(0, 1)[None]

"""Cameras and planes: rotations, lenses, and pictures of textured planes by homographies.

Axes: x right, y up, z forwards. Angles in degrees: yaw to the right, pitch up, roll clockwise seen from behind.
A picture point is (x, y, 1) with x in -1..1 from left to right and y downwards in the same unit, half a width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

Array = npt.NDArray[np.float64]


def rotations(yaw: Array, pitch: Array, roll: Array) -> Array:
    """(N,) angles in degrees -> (N, 3, 3): from the camera's axes to the world's."""
    return _about(1, yaw) @ _about(0, -pitch) @ _about(2, -roll)


def _about(axis: int, degrees: Array) -> Array:
    """Turns of (N,) degrees: about y from z to x, about x from y to z, about z from x to y."""
    first, second = {0: (1, 2), 1: (2, 0), 2: (0, 1)}[axis]
    angle = np.radians(np.asarray(degrees, float))
    turn = np.zeros((len(angle), 3, 3))
    turn[:, axis, axis] = 1
    turn[:, first, first] = turn[:, second, second] = np.cos(angle)
    turn[:, second, first] = np.sin(angle)
    turn[:, first, second] = -np.sin(angle)
    return turn


def rays(fov: Array) -> Array:
    """Horizontal fields of view in degrees, (N,) -> (N, 3, 3): from picture points to the camera's axes."""
    half = np.tan(np.radians(fov) / 2)
    return half[:, None, None] * np.diag([1.0, -1.0, 0.0]) + np.diag([0.0, 0.0, 1.0])


def plane_homographies(origin: Array, across: Array, down: Array, eyes: Array, looks: Array) -> Array:
    """From picture points to plane points (a, b, 1), for `origin + a * across + b * down` in the world.

    origin: (3,) or (N, 3); across, down: (3,); eyes: (N, 3) positions; looks: (N, 3, 3) from picture points to world
    directions, that is `rotations @ rays`. The third coordinate of what comes out is positive in front of the camera.
    """
    offset = np.broadcast_to(origin, eyes.shape) - eyes
    sides = np.broadcast_to(np.stack([across, down], -1), (len(eyes), 3, 2))
    homographies: Array = np.linalg.inv(np.concatenate([sides, offset[:, :, None]], 2)) @ looks
    return homographies


@dataclass(frozen=True)
class Window:
    """The part of a picture of `size` (H, W) that is worked on, in pixels."""

    size: tuple[int, int]
    rows: slice
    columns: slice

    def points(self) -> Tensor:
        """(3, h * w) picture points of the pixels' centres, row by row."""
        height, width = self.size
        x = (torch.arange(width)[self.columns] * 2 + 1 - width) / width
        y = (torch.arange(height)[self.rows] * 2 + 1 - height) / width
        y, x = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([x.flatten(), y.flatten(), torch.ones(x.numel())])


def whole(size: tuple[int, int]) -> Window:
    return Window(size, slice(0, size[0]), slice(0, size[1]))


def window_of(homographies: Array, size: tuple[int, int]) -> Window | None:
    """What the square -1..1 of a plane covers of any of the (N,) pictures; None if it is out of sight."""
    corners = np.array([[-1, 1, 1, -1], [-1, -1, 1, 1], [1.0, 1, 1, 1]])
    seen = np.linalg.inv(homographies) @ corners  # (N, 3, 4)
    if (seen[:, 2] <= 1e-3).any():  # partly behind the camera
        return None if (seen[:, 2] <= 0).all() else whole(size)
    height, width = size
    x = (seen[:, 0] / seen[:, 2] + 1) * width / 2
    y = seen[:, 1] / seen[:, 2] * width / 2 + height / 2
    left, right = (int(np.clip(v, 0, width)) for v in (np.floor(x.min()), np.ceil(x.max())))
    top, bottom = (int(np.clip(v, 0, height)) for v in (np.floor(y.min()), np.ceil(y.max())))
    return Window(size, slice(top, bottom), slice(left, right)) if top < bottom and left < right else None


def picture(texture: Tensor, homographies: Array, window: Window, *, mirror: bool = False) -> tuple[Tensor, Tensor]:
    """Views of a texture that fills -1..1 in both plane coordinates, bilinear: (N, C, h, w); and (N, 1, h, w) nearness.

    texture: (C, y, x) or (N, C, y, x) float; homographies: (N, 3, 3). Outside of the texture is zero, or with `mirror`
    its mirror image. Nearness is 1 over the distance along the optical axis, for homographies of planes; zero and
    nothing seen behind the camera.
    """
    h, w = (part.stop - part.start for part in (window.rows, window.columns))
    plane = torch.from_numpy(homographies).float() @ window.points()  # (N, 3, h * w)
    near = plane[:, 2].clamp_min(0)
    where = (plane[:, :2] / near[:, None].clamp_min(1e-6)).clamp(-1e4, 1e4)
    grid = where.transpose(1, 2).reshape(-1, h, w, 2)
    batch = texture.expand(len(grid), *texture.shape) if texture.dim() == 3 else texture
    view = grid_sample(batch, grid, padding_mode="reflection" if mirror else "zeros", align_corners=False)
    near = near.reshape(-1, 1, h, w)
    return view * (near > 1e-6), near


def parallax(near: Array, way: Array, fov: float) -> tuple[float, float]:
    """What a camera that moves by `way` shows and turning and zooming cannot, and what it shows in all: by how much of
    the width a seventh of the points, or more, go another way than those at the median distance; and how far these go.

    near: (H, W) 1 over the distances along the optical axis; way: (3,) right, up, forwards; fov: horizontal, degrees.
    """
    half = np.tan(np.radians(fov) / 2)
    points = whole(near.shape).points().numpy().reshape(3, *near.shape)
    here = points[:2] * half

    def moved(near: Array) -> Array:
        ahead = np.maximum(1 - way[2] * near, 0.2)  # what is passed has left the picture long before
        return np.stack([(here[0] - way[0] * near) / ahead, (here[1] + way[1] * near) / ahead])

    usual = moved(np.full_like(near, np.median(near)))
    other = np.quantile(np.hypot(*(moved(near) - usual)), 6 / 7)
    common = np.median(np.hypot(*(usual - here)))
    return float(other / (2 * half)), float(common / (2 * half))


def density(homography: Array, window: Window, texture: tuple[int, int]) -> float:
    """Texture points (h, w) that fall on one pixel of a view, each way: the median over where the plane is seen."""
    x, y = np.meshgrid(np.linspace(-0.9, 0.9, 7), np.linspace(-0.65, 0.65, 7))
    step = 2 / window.size[1]  # one pixel
    around = np.stack([np.stack([x + dx, y + dy, np.ones_like(x)]) for dx, dy in ((0, 0), (step, 0), (0, step))])
    plane = homography @ around.reshape(3, 3, -1)  # (here, right, below; 3; 49)
    seen = (plane[:, 2] > 1e-3).all(0)
    if not seen.any():
        return 1.0
    here, right, below = plane[:, :2, seen] / plane[:, 2:, seen]
    (ax, ay), (bx, by) = right - here, below - here
    return float(np.sqrt(np.median(np.abs(ax * by - ay * bx)) * texture[0] * texture[1] / 4))


def shrink(texture: Tensor, times: int) -> Tensor:
    """(..., h, w) at a `times` smaller size: means of squares. Sums of slices are faster than `avg_pool2d`."""
    if times <= 1:
        return texture
    h, w = (n // times * times for n in texture.shape[-2:])
    rows = torch.stack([texture[..., first:h:times, :w] for first in range(times)]).sum(0)
    return torch.stack([rows[..., first::times] for first in range(times)]).sum(0) / times**2

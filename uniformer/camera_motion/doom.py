"""The ViZDoom world: walks and flights through the levels that the `vizdoom` package carries.

The game draws a wide view from a position; its own turn and the lens that is wanted are worked into it by a homography,
which is exact because turning and zooming about the optical centre have no parallax. Positions and angles are read back
from the game, so the record says what was filmed, not what was asked for.

The game's ways, all measured: its picture is stretched by 1.2 upwards; looking up or down moves the picture plane
instead of turning it; a tic of thrust is at most 50/32 units and every velocity falls to 0.918 of itself in the air;
depth comes in steps of 4.9 units, the first of which are 12 from the eye; a flier bobs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniformer.camera_motion.geometry import Array, picture, rays, rotations, whole
from uniformer.camera_motion.paths import PITCH, ROLL, YAW, CameraPath, X, Y, Z
from uniformer.camera_motion.visibility import Parallax, is_as_large, is_hidden, size_in_picture, visible_parallax
from uniformer.doom.game import LEVELS as ALL_LEVELS
from uniformer.doom.game import TRAIN_LEVELS, level_name, open_game, require_vizdoom

#: (file, level) by split: every eighth level validates, every eighth tests. No level is in two.
LEVELS: dict[str, tuple[tuple[str, str], ...]] = {
    "train": TRAIN_LEVELS,
    "val": ALL_LEVELS[3::8],
    "test": ALL_LEVELS[7::8],
}

_DRAWN = (300, 400)  # height and width of the game's pictures
_BUTTONS = (
    "MOVE_FORWARD_BACKWARD_DELTA",
    "MOVE_LEFT_RIGHT_DELTA",
    "MOVE_UP_DOWN_DELTA",
    "TURN_LEFT_RIGHT_DELTA",
    "LOOK_UP_DOWN_DELTA",
    "ATTACK",
)
_WIDE = 110.0  # horizontal field of view that the game draws, degrees
_STRETCH = 1.2  # of the game's picture upwards
_FRICTION = 0.918
_THRUST = 50 / 32  # units per tic that one tic may add
_DEPTH_FIRST, _DEPTH_STEP = 12.0, 4.9  # game units that the depth buffer counts from, and a step of it
_EYES = 41.0  # of the player above its feet, units
_TICS = 2  # of the game per frame
_FLIGHTS = 3  # with the scale corrected, until a move does to the picture what its size says

# A clip as it was filmed: moments (T, S, 3, H, W) in 0..255, poses (T, 7) as in `CameraPath`, facts for the record.
Take = tuple[Tensor, Array, dict[str, Any]]


class Level:
    """A running game in one level: what `open_level` gives. Where it is is always read from the game."""

    def __init__(self, game: Any, module: Any, name: str):
        variables = module.GameVariable
        self._feet = (variables.POSITION_X, variables.POSITION_Y, variables.POSITION_Z)
        self._velocities = (variables.VELOCITY_X, variables.VELOCITY_Y)
        self._looks = (variables.ANGLE, variables.PITCH)
        self._eye_height = variables.CAMERA_POSITION_Z
        self.game = game
        self.name = name
        self._prepare()
        self.spots = [(o.position_x, o.position_y) for o in game.get_state().objects if o.name != "DoomPlayer"]

    def _prepare(self) -> None:
        for command in ("god", "fly", "cl_showsecretmessage 0", f"fov {_WIDE:.0f}"):
            self.game.send_game_command(command)
        for _ in range(5):
            self.game.make_action([0.0] * 6, 1)

    def _read(self, variables: tuple[Any, ...]) -> Array:
        return np.array([self.game.get_game_variable(v) for v in variables])

    @property
    def feet(self) -> Array:
        """(3,) east, north and up in game units."""
        return self._read(self._feet)

    @property
    def eyes(self) -> Array:
        """(3,) east, north and up, of the picture as it was drawn last: its height is a tic late."""
        return np.append(self.feet[:2], self.game.get_game_variable(self._eye_height))

    @property
    def looks(self) -> tuple[float, float]:
        """Angle from east to north, and up, in degrees."""
        angle, down = self._read(self._looks)
        return float(angle), -float(down)

    def move(self, aim: Array | None, angle: float, up: float, *, tics: int = 1, fires: bool = False) -> None:
        """Turn to `angle`, look `up` and fly so that the eyes are at `aim` after some tics (their height a tic later).

        One call, one picture, whatever the tics: waiting for the game to answer is what takes time.
        """
        old, old_up = self.looks
        right = (old - angle + 180) % 360 - 180
        forward, aside, rise = 0.0, 0.0, 0.0
        if aim is not None:
            way = aim - self.feet - (0, 0, _EYES)
            push = 32 * _push(way[:2], self._read(self._velocities), tics)
            east, north = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            forward, aside = float(push @ (east, north)), float(push @ (north, -east))
            rise = float(np.clip(round(way[2] / tics * 128), -1500, 1500))
        # a rise of 0 would leave the game's own fall as it is
        self.game.set_action([forward, aside, rise or 1.0, right / tics, (up - old_up) / tics, float(fires)])
        self.game.advance_action(tics, True)
        if self.game.is_episode_finished():  # flown through the exit: begin anew, far from any aim
            self.game.new_episode()
            self._prepare()

    def go_to(self, spot: Array, angle: float) -> float | None:
        """Stand at a spot: the median distance there, or None where one cannot stand or nothing is to be seen."""
        self.game.send_game_command(f"warp {spot[0]:.1f} {spot[1]:.1f}")
        self.move(None, angle, 0.0, tics=3)
        return _median_distance(self.depth()) if np.abs(self.feet[:2] - spot).max() < 1 else None

    def rise(self, height: float) -> None:
        """Fly straight up, as far as there is room."""
        angle, _ = self.looks
        self.move(self.feet + np.array([0, 0, _EYES + height]), angle, 0.0, tics=max(1, round(height / 5)))
        self.move(self.feet + np.array([0, 0, _EYES]), angle, 0.0)

    def depth(self) -> Array:
        """(H, W) distances along the optical axis in game units, to 1,261."""
        return _DEPTH_FIRST + _DEPTH_STEP * np.asarray(self.game.get_state().depth_buffer, float)

    def screen(self) -> Tensor:
        """uint8 (H, W, 3)."""
        return torch.from_numpy(np.array(self.game.get_state().screen_buffer))


@contextlib.contextmanager
def open_level(wad: str, name: str, seed: int) -> Iterator[Level]:
    """Start the game in a level, as `open_game` does. Raises `MissingExtra` without `vizdoom`."""
    require_vizdoom("camera-motion")
    import vizdoom

    buffers = ("depth_buffer", "objects_info")
    with open_game(wad, name, seed, size=_DRAWN, buttons=_BUTTONS, buffers=buffers) as game:
        yield Level(game, vizdoom, level_name(wad, name))


@dataclass(frozen=True)
class _Way:
    """What is to be filmed from where the camera stands."""

    path: CameraPath
    poses: Array  #: (N, 7) of the path, at every picture that is taken
    facing: float  #: degrees from east to north that yaw 0 is
    scale: float  #: game units of one unit of the path
    shutter: int  #: pictures that one frame is made of
    fires: bool  #: the player's own gun


@dataclass(frozen=True)
class _Flight:
    """What was seen on a way, at N moments."""

    screens: list[Tensor]  #: (N) uint8 (h, w, 3)
    eyes: Array  #: (N, 3) east, north and up
    yaw: Array  #: (N,) degrees to the right of `facing`
    up: Array  #: (N,) degrees
    near: Array  #: (N, h, w) 1 over the distances, in units of the path
    start: Array  #: (3,) where the eyes were before


def film(level: Level, path: CameraPath, frames: int, size: tuple[int, int], rng: np.random.Generator) -> Take | None:
    """Film a path from somewhere in the level. None where it is blocked or there is nothing to see.

    How far a move takes the picture is only known when it is done: it is flown again, with its way corrected.
    """
    spot = np.array(level.spots[rng.integers(len(level.spots))]) + rng.uniform(-48, 48, 2)
    facing = float(rng.uniform(0, 360))
    height = rng.uniform(2, 40)
    fires = rng.random() < 0.08
    shutter = _TICS if rng.random() < 0.35 else 1
    poses = path.poses((np.arange(frames * shutter) + 1) / (frames * shutter))
    scale: float | None = None
    for _ in range(_FLIGHTS):
        typical = level.go_to(spot, facing)
        if typical is None:
            return None
        scale = scale or typical
        way = _Way(path, poses, facing, scale, shutter, fires)
        level.rise(height + float(poses[0, Y] - poses[:, Y].min()) * scale / _STRETCH)  # room to go down
        parallax = visible_parallax(scale / _within(level.depth(), path.fov), path)
        flight = None if is_hidden(parallax) else _fly(level, way)
        if flight is None:
            return None
        done = size_in_picture(flight.near, poses, path)
        if done is None or is_as_large(done, path):
            return _develop(level.name, way, flight, parallax, size)
        scale *= path.size / max(done, path.size / 4)
    return None


def _fly(level: Level, way: _Way) -> _Flight | None:
    """None where the way is blocked, or something hides the view."""
    start, wanted, tics = level.eyes, way.poses, _TICS // way.shutter
    course = start + _to_game(wanted[:, :3] - wanted[0, :3], way.facing) * way.scale
    late = np.append(np.diff(course[:, 2]), 0.0) / tics  # the height that is drawn is a tic late
    screens, eyes, looks, near = [], [], [], []
    for i, aim in enumerate(course):
        ahead = aim + np.array([0, 0, late[i]])
        fires = way.fires and i % 8 < 4
        level.move(ahead, way.facing - wanted[i, YAW], wanted[i, PITCH], tics=tics, fires=fires)
        depth = level.depth()
        if np.abs(level.eyes - aim).max() > 0.02 * way.scale + 2 or _is_covered(depth):
            return None
        screens.append(level.screen())
        eyes.append(level.eyes)
        looks.append(level.looks)
        near.append(way.scale / _within(depth, way.path.fov))
    angle, up = np.array(looks).T
    return _Flight(screens, np.array(eyes), way.facing - angle, up, np.array(near), start)


def _develop(name: str, way: _Way, flight: _Flight, parallax: Parallax | None, size: tuple[int, int]) -> Take:
    """The pictures as the path's lens would have taken them, and where the camera really was."""
    wanted = way.poses
    looks = rotations(wanted[:, YAW], wanted[:, PITCH], wanted[:, ROLL]) @ rays(way.path.fields_of_view(wanted))
    views = turned(flight.screens, flight.yaw, flight.up, looks, size)
    poses = wanted.copy()
    poses[:, :3] = _from_game(flight.eyes - flight.start, way.facing) / way.scale + wanted[0, :3]
    facts = {
        "level": name,
        "position": [round(float(v), 1) for v in flight.start],
        "facing": round(way.facing, 2),
        "distance": round(way.scale, 1),
        "fires": way.fires,
        "shutter": way.shutter,
        "parallax": parallax and [round(v, 4) for v in parallax],
    }
    return views.unflatten(0, (-1, way.shutter)), poses[way.shutter - 1 :: way.shutter], facts


def _push(way: Array, velocity: Array, tics: int) -> Array:
    """(2,) the thrust per tic that leads `way` far in some tics. Each adds the thrust, moves, and brakes."""
    by_velocity, by_push, gone_by_velocity, gone_by_push = 1.0, 0.0, 0.0, 0.0
    for _ in range(tics):
        by_push += 1
        gone_by_velocity, gone_by_push = gone_by_velocity + by_velocity, gone_by_push + by_push
        by_velocity, by_push = by_velocity * _FRICTION, by_push * _FRICTION
    push: Array = (way - gone_by_velocity * velocity) / gone_by_push
    limited: Array = push * min(1.0, _THRUST / max(float(np.hypot(*push)), 1e-9))
    return limited


def _within(depth: Array, fov: float) -> Array:
    """(h, w) the part of (H, W) distances that a lens of this many degrees sees, of every fourth point."""
    h, w = depth.shape
    share = float(np.tan(np.radians(fov) / 2) / np.tan(np.radians(_WIDE) / 2))
    top, left = (int(side * (1 - share) / 2) for side in (h, w))
    return depth[top : h - top : 4, left : w - left : 4]


def _is_covered(depth: Array) -> bool:
    """Whether something before the lens, an explosion or a wall, hides much of the view."""
    h, w = depth.shape
    return float((depth[h // 5 : -h // 5, w // 5 : -w // 5] < 37).mean()) > 0.12


def _median_distance(depth: Array) -> float | None:
    """Median distance in the middle of the view; None for a wall before the nose, the sky, or hardly any depth."""
    h, w = depth.shape
    middle = depth[h // 4 : -h // 4, w // 4 : -w // 4]
    typical = float(np.median(middle))
    low, high = np.quantile(middle, (0.1, 0.9))
    return typical if 90 < typical < 830 and high > 1.4 * low and np.quantile(middle, 0.02) > 41 else None


def _to_game(ways: Array, facing: float) -> Array:
    """(T, 3) right, up, forwards -> east, north, up, for a camera that faces this angle."""
    c, s = np.cos(np.radians(facing)), np.sin(np.radians(facing))
    x, y, z = ways[:, X], ways[:, Y], ways[:, Z]
    return np.stack([x * s + z * c, -x * c + z * s, y / _STRETCH], -1)


def _from_game(ways: Array, facing: float) -> Array:
    c, s = np.cos(np.radians(facing)), np.sin(np.radians(facing))
    east, north, up = ways.T
    return np.stack([east * s - north * c, up * _STRETCH, east * c + north * s], -1)


def turned(screens: list[Tensor], yaw: Array, up: Array, looks: Array, size: tuple[int, int]) -> Tensor:
    """The game's wide pictures as another camera in the same place sees them: (T, 3, H, W) in 0..255.

    screens: (T) uint8 (h, w, 3); yaw, up: (T,) degrees that the game's camera looked at; looks: (T, 3, 3) from the
    wanted pictures' points to world directions; size: (H, W).
    """
    height, width, _ = screens[0].shape
    half = np.tan(np.radians(_WIDE) / 2)
    canvas = np.tile(np.diag([1 / half, -width / height / half, 1.0]), (len(screens), 1, 1))
    canvas[:, 1, 2] = width / height / half * _STRETCH * np.tan(np.radians(up))
    game = rotations((yaw + 180) % 360 - 180, 0 * yaw, 0 * yaw)
    homographies = canvas @ game.transpose(0, 2, 1) @ looks
    views = [
        picture(screen.permute(2, 0, 1).float(), homography[None], whole(size), mirror=True)[0]
        for screen, homography in zip(screens, homographies, strict=True)
    ]
    return torch.cat(views)

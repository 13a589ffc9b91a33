"""Views of a level: from a place that sees something chosen, with what each pixel is of.

The game's ways, all measured: it draws 90 degrees, stretched by 1.2 upwards; looking up or down moves the picture
plane, so that the horizon stays a row; outside of a level nothing is drawn, and older pictures show through.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uniformer.doom.game import level_name, open_game
from uniformer.labels import IGNORED

#: What the game calls a kind of thing, and its class here. What it calls otherwise (fireballs, smoke) is of no class.
KINDS = {
    "Monster": "monster",
    "Ammo": "ammo",
    "Health": "health",
    "Armor": "armor",
    "Weapon": "weapon",
    "Key": "key",
    "Powerup": "powerup",
    "LightSource": "light",
    "Vegetation": "tree",
    "Hazard": "barrel",
    "Decoration": "column",
    "Gore": "gore",
    "Gibs": "gore",
}
THINGS = tuple(dict.fromkeys(KINDS.values()))
_DRAWN_AS = {"Stalagtite": "tree"}  # Freedoom's picture is another than what the game's name says
_SEE_THROUGH = frozenset({"Spectre"})  # all but invisible: they are there, and nobody need find them
SURFACES = ("wall", "floor", "ceiling")  #: a wall may be the sky, which the game does not tell apart

_FLAT = 1  # in the labels buffer: a floor or a ceiling; 0 is a wall or the sky, the rest are objects
_WALK = 20  # tics until those who see the camera have woken up
_TURNS = ("TURN_LEFT_RIGHT_DELTA", "LOOK_UP_DOWN_DELTA")
_BUFFERS = ("labels_buffer", "objects_info", "sectors_info")
_TRIES = 600  # at one view; most take fewer than ten
_NEAR, _FAR = 72.0, 420.0  # of what is looked at, game units: a monster is 56 high
_ROOM = 24.0  # from the camera to the nearest wall, game units
_CLEAR = 44.0  # from the camera to any thing, game units: within one, nothing else is to be seen
_LEAST_SEEN = 1 / 2500  # of the picture that what is looked at must cover: 123 pixels of 640x480
_LEAST_SPREAD = 14.0  # standard deviation of grey that a picture needs: below it is all but black

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


class Thing(NamedTuple):
    """One of the things in a view."""

    kind: str  #: of THINGS
    mask: npt.NDArray[np.bool_]  #: (H, W) its visible pixels
    is_solid: bool  #: and not seen through


@dataclass(frozen=True, eq=False)
class View:
    """What was seen, and of what each pixel is."""

    picture: Bytes  #: (H, W, 3)
    classes: Bytes  #: (H, W) of SURFACES + THINGS; 255: of no class, or seen through
    things: tuple[Thing, ...]  #: the largest first
    facts: dict[str, Any]  #: for the record: where the camera was, what it was to look at


class Level:
    """A running game in one level: what `open_level` gives."""

    def __init__(self, game: Any, module: Any, name: str):
        variables = module.GameVariable
        self._place = (variables.POSITION_X, variables.POSITION_Y)
        self._looks = (variables.ANGLE, variables.PITCH)
        self._game = game
        self.name = name
        self._prepare()

    def _prepare(self) -> None:
        self._game.send_game_command("god")
        self._game.make_action([0.0, 0.0], _WALK)
        state = self._game.get_state()
        lines = [(line.x1, line.y1, line.x2, line.y2) for s in state.sectors for line in s.lines if line.is_blocking]
        self._walls = np.array(lines, float)  # (N, 4); doors and lifts move up and down only

    def _read(self, variables: Sequence[Any]) -> Floats:
        return np.array([self._game.get_game_variable(v) for v in variables])

    def take(self, rng: np.random.Generator) -> View | None:
        """A view of a thing of a class drawn from those in the level, each as likely. None where none was found."""
        for tries in range(1, _TRIES + 1):
            objects = [o for o in self._game.get_state().objects if o.category in KINDS]
            solid = [(kind_of(o.category, o.name), o) for o in objects if o.name not in _SEE_THROUGH]
            wanted = rng.choice(sorted({str(kind) for kind, _ in solid}))
            aims = [o for kind, o in solid if kind == wanted]
            target = aims[rng.integers(len(aims))]
            distance = float(np.exp(rng.uniform(np.log(_NEAR), np.log(_FAR))))
            angle = rng.uniform(0, 360)
            turn, up = rng.uniform(-34, 34), float(rng.normal(0, 7))
            there = np.array([target.position_x, target.position_y])
            here = there - distance * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
            around = np.array([(o.position_x, o.position_y) for o in objects]) - here
            is_free = np.hypot(*around.T).min() > _CLEAR and is_open(here, there, self._walls)
            if not is_free or not self._go(here, (angle + turn) % 360, up):
                continue
            view = self._view(target.id, {"aim": str(wanted), "distance": round(distance), "tries": tries})
            if view is not None:
                return view
        return None

    def _go(self, here: Floats, angle: float, up: float) -> bool:
        """Whether the camera stands there."""
        self._game.send_game_command(f"warp {here[0]:.1f} {here[1]:.1f}")
        old, down = self._read(self._looks)
        right = (old - angle + 180) % 360 - 180
        self._game.make_action([right, up + down], 1)  # the pitch that is read is downwards
        if self._game.is_episode_finished():
            self._game.new_episode()
            self._prepare()
            return False
        return bool(np.abs(self._read(self._place) - here).max() < 1)

    def _view(self, target: int, facts: dict[str, Any]) -> View | None:
        """None where the target is hidden, or it is too dark."""
        state = self._game.get_state()
        buffer, picture = np.array(state.labels_buffer), np.array(state.screen_buffer)
        pixels = np.bincount(buffer.ravel(), minlength=256)
        aimed = sum(pixels[label.value] for label in state.labels if label.object_id == target)
        if aimed < buffer.size * _LEAST_SEEN or picture.mean(2).std() < _LEAST_SPREAD:
            return None
        angle, down = self._read(self._looks)
        classes = surfaces(buffer, horizon(buffer.shape, -down))
        things: list[Thing] = []
        for label in sorted(state.labels, key=lambda label: (-pixels[label.value], label.value)):
            kind, is_solid = kind_of(label.object_category, label.object_name), label.object_name not in _SEE_THROUGH
            if kind is None or not pixels[label.value]:
                continue
            things.append(Thing(kind, buffer == label.value, is_solid))
            if is_solid:
                classes[things[-1].mask] = len(SURFACES) + THINGS.index(kind)
        x, y = (round(float(v), 1) for v in self._read(self._place))
        facts = {"level": self.name, "position": [x, y], "angle": round(float(angle), 2), **facts}
        return View(picture, classes, tuple(things), facts | {"up": round(-float(down), 2)})


@contextlib.contextmanager
def open_level(wad: str, level: str, seed: int, size: tuple[int, int]) -> Iterator[Level]:
    """Start the game in a level, as `open_game` does."""
    import vizdoom

    with open_game(wad, level, seed, size=size, buttons=_TURNS, buffers=_BUFFERS) as game:
        yield Level(game, vizdoom, level_name(wad, level))


def kind_of(category: str, name: str) -> str | None:
    """The class of what the game calls so; None where it is of none."""
    return _DRAWN_AS.get(name, KINDS.get(category))


def horizon(size: tuple[int, ...], up: float) -> int:
    """The first row of a picture (H, W) that is below the horizon, for a camera that looks `up` by some degrees."""
    height, width = size
    return round(height / 2 + 1.2 * width / 2 * float(np.tan(np.radians(up))))


def surfaces(buffer: Bytes, below: int) -> Bytes:
    """(H, W) walls, floors and ceilings of a labels buffer, and 255 for objects: floors are below the horizon."""
    classes = np.full_like(buffer, IGNORED)
    classes[buffer == 0] = SURFACES.index("wall")
    flat = buffer == _FLAT
    split = max(0, below)
    classes[:split][flat[:split]] = SURFACES.index("ceiling")
    classes[split:][flat[split:]] = SURFACES.index("floor")
    return classes


def is_open(here: Floats, there: Floats, walls: Floats) -> bool:
    """Whether a camera `here` (2,) has room, and sees as far as `there` (2,) over any wall of (N, 4) x1, y1, x2, y2."""
    first, second = walls[:, :2], walls[:, 2:]
    along = second - first
    share = np.clip(((here - first) * along).sum(1) / np.maximum((along**2).sum(1), 1e-9), 0, 1)
    if np.hypot(*(first + share[:, None] * along - here).T).min(initial=np.inf) < _ROOM:
        return False
    way = there - here
    sides = _cross(way, first - here) * _cross(way, second - here)
    other = _cross(along, here - first) * _cross(along, there - first)
    return not bool(((sides < 0) & (other < 0)).any())


def _cross(a: Floats, b: Floats) -> Floats:
    cross: Floats = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return cross

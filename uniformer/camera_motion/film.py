"""A short film of several shots, made on the spot from the photographs beside this file: what moves is known exactly.

It is filmed by the camera of the benchmark (`uniformer.camera_motion`), from photographs that training never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uniformer.camera_motion.classes import CLASSES, LOOK_ALIKES
from uniformer.camera_motion.footage import FPS, as_footage, level_light, write_clip
from uniformer.camera_motion.paths import draw_path
from uniformer.camera_motion.photos import Photo, build_scene, film_scene, load_photo
from uniformer.camera_motion.visibility import shows_something
from uniformer.support.jobs import one_thread
from uniformer.timelines.timeline import Segment, Timeline

SHOTS = 10  #: of the film, each with another motion
SIZE = (180, 240)  #: height and width, pixels
FRAMES = 24  #: of one shot: as long as the clips that the model in the package learned from
CREDITS = (
    "The film is made from photographs of SpaceX (public domain), Lav Varshney (CC0), Aitzol Berasategi and "
    'Trevor "Freespace" (CC BY 4.0), cut out, recoloured and set in motion.'
)


@dataclass(frozen=True)
class Take:
    """One shot as it was filmed."""

    motion: str
    start: float  #: seconds
    end: float


@dataclass(frozen=True)
class Verdict:
    """What was filmed, and what the timeline makes of it."""

    take: Take
    row: Segment  #: of the timeline, the one that covers most of the take

    @property
    def is_right(self) -> bool:
        return self.row.motion == self.take.motion

    @property
    def goes_right(self) -> bool:
        """Whether the direction at least is right: that the camera turned where it moved, only parallax tells."""
        return self.is_right or {self.row.motion, self.take.motion} in map(set, LOOK_ALIKES)


def make_film(path: Path, seed: int = 0) -> tuple[Take, ...]:
    """Write the film (H.264) and say what happens in it. The seed draws motions, scenes and footage, nothing is picked.

    Raises `InputError` where the file cannot be written.
    """
    rng = np.random.default_rng(seed)
    motions = [str(name) for name in rng.permutation(list(CLASSES))[:SHOTS]]
    photos = _photos()
    with one_thread():  # more would wait for each other: it is many small steps
        shots = [_shot(motion, photos, rng) for motion in motions]
    write_clip(path, np.concatenate(shots), rng)
    length = FRAMES / FPS
    return tuple(Take(motion, number * length, (number + 1) * length) for number, motion in enumerate(motions))


def _photos() -> list[Photo]:
    with as_file(files("uniformer") / "assets" / "photos") as folder:
        return [load_photo(path) for path in sorted(folder.glob("*.jpg"))]


def _shot(motion: str, photos: Sequence[Photo], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(T, H, W, 3) of a scene in which there is something to see."""
    moments = (np.arange(FRAMES) + 1) / FRAMES
    while True:
        path = draw_path(motion, rng)
        take = film_scene(build_scene(photos, path, rng), path, moments, SIZE)
        if take is not None and shows_something(take[0], moves=motion != "static"):
            return as_footage(level_light(take[0], rng), rng)


def judge(takes: Sequence[Take], timeline: Timeline) -> tuple[Verdict, ...]:
    """Each take beside the row of the timeline that covers most of it."""

    def shared(take: Take, row: Segment) -> float:
        return min(take.end, row.end) - max(take.start, row.start)

    return tuple(Verdict(take, max(timeline.rows, key=lambda row: shared(take, row))) for take in takes)

"""`make` writes the benchmark: clips in a folder per class, and what exactly the camera did in each."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from uniformer.camera_motion import doom, photos
from uniformer.camera_motion.classes import CLASSES
from uniformer.camera_motion.footage import FPS, as_footage, held, level_light, write_clip
from uniformer.camera_motion.geometry import Array
from uniformer.camera_motion.paths import AXES, CameraPath, draw_path, per_width
from uniformer.camera_motion.visibility import shows_something
from uniformer.config import did_you_mean
from uniformer.doom.game import level_name, require_vizdoom
from uniformer.errors import InputError
from uniformer.support.files import atomic_path, write_whole
from uniformer.support.jobs import one_thread, run_parallel
from uniformer.support.progress import OnProgress
from uniformer.support.resume import open_journal
from uniformer.support.texts import parse_json, read_whole

WORLDS = ("doom", "photos")
SPLITS = ("train", "val", "test")
FRAMES = 24
SIZE = (120, 160)  # height, width
RECORD = "paths.jsonl"
ABOUT = "about.json"

_VERSION = 4  # of what a seed gives: raise it with any change that alters a clip
_TRIES = 60  # in one level or set of photographs, for one clip
_PLACES = 12  # levels or sets of photographs
_PHOTOS = 8  # in one chunk
_DRAWN = 0.25  # of them are drawn (`leaves`): no photograph need be seen often
_BLUR = 3.0  # pixels at most between the pictures that a blurred frame is made of
# Of the range of sizes (on a logarithmic scale) that each world takes: in the game's levels there is no room for more.
_LARGEST = {"doom": 0.75, "photos": 1.0}

Pictures = dict[str, list[Path]]  # the photographs of each split


@dataclass(frozen=True)
class Request:
    """All that decides about the bytes of the clips, but for the versions of the packages."""

    train: int
    val: int
    test: int
    seed: int
    worlds: tuple[str, ...]
    photos: str | None
    version: int = _VERSION

    def __post_init__(self) -> None:
        for name in SPLITS:
            if getattr(self, name) < 0:
                raise InputError(f"expected a number of {name} clips from 0 up, got {getattr(self, name)}")
        if self.train + self.val + self.test == 0:
            raise InputError("expected at least one clip to make, got none for train, val and test")
        if self.seed < 0:
            raise InputError(f"expected a seed from 0 up, got {self.seed}")
        if not self.worlds:
            raise InputError(f"expected at least one world of {', '.join(WORLDS)}, got none")
        for world in self.worlds:
            if world not in WORLDS:
                raise InputError(f"unknown world {world!r}{did_you_mean(world, WORLDS)}")


@dataclass(frozen=True)
class Chunk:
    """Clips that are made together, in one level or of a few photographs: each class at most once."""

    split: str
    number: int
    world: str
    labels: tuple[str, ...]

    def path(self, label: str) -> str:
        return f"{self.split}/{label}/{self.world}_{self.number:05d}.mp4"


@dataclass(frozen=True)
class Made:
    """What `make` did."""

    clips: int  #: in the folder now
    new: int  #: made by this run
    drawn: int  #: that this run had to draw, those that were thrown away included
    per_class: dict[str, dict[str, int]]  #: split -> class -> clips


def make(
    out: Path,
    *,
    train: int,
    val: int,
    test: int,
    seed: int = 0,
    worlds: Sequence[str] = WORLDS,
    photo_folder: Path | None = None,
    workers: int = 2,
    progress: OnProgress | None = None,
) -> Made:
    """Write the benchmark: `<split>/<class>/<world>_<number>.mp4`, the record `paths.jsonl`, and `about.json`.

    A run that was stopped goes on where it was: the same command makes what is missing, in the same bytes, with any
    number of processes. Classes have equal numbers of clips, up to one.

    Args:
        out: the folder; made if missing.
        train, val, test: clips of each split. Their levels and photographs differ.
        seed: another seed, another set.
        worlds: "doom", "photos" or both, by turns.
        photo_folder: photographs to use besides scikit-image's, found at any depth. What cannot be read or is smaller
            than 160 pixels is left out, with a warning.
        workers: processes; 0 works in this one, but for games, which need one of their own.
        progress: called with (clips there, of how many).

    Raises `InputError` for numbers, worlds and folders that cannot be used, and where `out` holds a set that was made
    with other settings; `MissingExtra` where `vizdoom` or scikit-image is missing and a world needs it.
    """
    recipe = Request(
        train, val, test, seed, tuple(worlds), None if photo_folder is None else str(photo_folder.resolve())
    )
    if "doom" in recipe.worlds:
        require_vizdoom("camera-motion")
    pictures: Pictures = {}
    if "photos" in recipe.worlds:
        pictures = {split: photos.usable(photos.find_photos(split, photo_folder)) for split in SPLITS}
    chunks = sorted(plan(recipe), key=lambda chunk: chunk.number)  # a set that is not complete yet has all splits
    out = out.absolute()  # a game that makes clips changes its process's folder
    job = partial(make_chunk, out=out, recipe=recipe, pictures=pictures)
    total, new, drawn = sum(len(chunk.labels) for chunk in chunks), 0, 0
    outputs = [out / ABOUT, *(out / chunk.path(label) for chunk in chunks for label in chunk.labels)]
    with open_journal(out / RECORD, outputs, overwrite=True) as journal:
        _begin(out, recipe, pictures)
        there = {path for path, entry in journal.entries.items() if _is_whole(out, entry)}
        waiting = [chunk for chunk in chunks if not all(chunk.path(label) in there for label in chunk.labels)]
        done = total - sum(len(chunk.labels) for chunk in waiting)
        if "doom" in recipe.worlds:
            workers = max(workers, 1)  # a game changes its process's folder: never this one's
        for chunk, entries in run_parallel(job, waiting, workers):
            if entries is None:
                raise RuntimeError(f"the process that made {chunk} died")
            for entry in entries:
                journal.add(entry)
                drawn += entry["drawn"]
            new += len(entries)
            done += len(entries)
            if progress is not None:
                progress(done, total)
        entries = [journal.entries[chunk.path(label)] for chunk in chunks for label in chunk.labels]
        entries.sort(key=lambda entry: entry["path"])
        write_whole(out / RECORD, "".join(json.dumps(entry) + "\n" for entry in entries))
    counts = {s: dict(Counter(e["class"] for e in entries if e["split"] == s)) for s in SPLITS}
    return Made(len(entries), new, drawn, counts)


def plan(recipe: Request) -> Iterator[Chunk]:
    """The chunks of all splits: each but a split's last holds every class once, the worlds take turns."""
    for index, split in enumerate(SPLITS):
        left = getattr(recipe, split)
        number = 0
        while left > 0:
            order = np.random.default_rng([recipe.seed, index, number]).permutation(list(CLASSES))
            labels = tuple(str(label) for label in order[:left])
            yield Chunk(split, number, recipe.worlds[number % len(recipe.worlds)], labels)
            left -= len(labels)
            number += 1


def _begin(out: Path, recipe: Request, pictures: Pictures) -> None:
    """Writes `about.json`, or checks that the one there tells of the same set; clears away what a kill cut short."""
    about = {
        "recipe": asdict(recipe),
        "classes": CLASSES,
        "frames": FRAMES,
        "fps": FPS,
        "size": SIZE,
        "axes": AXES,
        "levels": {s: [level_name(*level) for level in doom.LEVELS[s]] for s in SPLITS},
        "photographs": {split: [path.name for path in paths] for split, paths in pictures.items()},
        "packages": {name: _package_version(name) for name in ("av", "numpy", "torch", "scikit-image", "vizdoom")},
    }
    try:
        if not (out / ABOUT).exists():
            write_whole(out / ABOUT, json.dumps(about, indent=1) + "\n")
        old = parse_json(read_whole(out / ABOUT, "what a set was made with"), str(out / ABOUT))
        settings = {"recipe": old["recipe"], "photographs": old["photographs"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        expected = "expected a folder to write to or a set to go on with"
        raise InputError(f"{out}: {expected}, found neither: {error}") from None
    wanted = parse_json(json.dumps({name: about[name] for name in settings}), "the settings")
    if settings != wanted:
        before = {**settings["recipe"], "photographs": settings["photographs"]}
        now = {**wanted["recipe"], "photographs": wanted["photographs"]}
        other = next(name for name in now if before.get(name) != now[name])
        raise InputError(
            f"{out}: expected to go on with the settings it was begun with, found another value of {other!r}"
        )


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_whole(out: Path, entry: dict[str, Any]) -> bool:
    try:
        split, label, _ = entry["path"].split("/")
        is_same = (entry["split"], entry["class"]) == (split, label)
        return is_same and (out / entry["path"]).stat().st_size == entry["bytes"]
    except (OSError, KeyError, AttributeError, ValueError):  # an entry of something else
        return False


# ------------------------------------------------------------------------------------------------------------- a chunk

# One try at a clip: (moments (T, S, 3, H, W), poses (T, 7), facts about where), or None.
_Shot = tuple[Tensor, Array, dict[str, Any]]
_Camera = Callable[[CameraPath, np.random.Generator], _Shot | None]


@one_thread()
def make_chunk(chunk: Chunk, *, out: Path, recipe: Request, pictures: Pictures) -> list[dict[str, Any]]:
    """Make a chunk's clips and return their entries for the record. Depends on the arguments alone."""
    entries: dict[str, dict[str, Any]] = {}
    tries: Counter[str] = Counter()
    # One for all classes and tries, so that what is blocked more often, as large moves are, does not become rarer;
    # it only gives way where a whole level or set of photographs has no room for it.
    largeness = np.random.default_rng(_seed(chunk, recipe, len(CLASSES) + _PLACES)).uniform(0, _LARGEST[chunk.world])
    for place in range(_PLACES):
        missing = [label for label in chunk.labels if label not in entries]
        if not missing:
            break
        with _open_place(chunk, place, recipe, pictures) as camera:
            for label in missing:
                for _ in range(_TRIES):
                    seed = _seed(chunk, recipe, list(CLASSES).index(label), tries[label])
                    tries[label] += 1
                    entry = _try(chunk, label, largeness * 0.9**place, camera, out, seed)
                    if entry is not None:
                        entries[label] = entry | {"drawn": tries[label]}
                        break
    if len(entries) < len(chunk.labels):
        unseen = ", ".join(label for label in chunk.labels if label not in entries)
        tried = f"{_TRIES} tries in each of {_PLACES} places"
        raise InputError(
            f"{chunk.world}, {chunk.split}: expected to find views that show {unseen}, found none in {tried}"
        )
    return list(entries.values())


def _seed(chunk: Chunk, recipe: Request, *what: int) -> list[int]:
    """Of one of the things that are drawn for a chunk."""
    return [recipe.seed, SPLITS.index(chunk.split), chunk.number, *what]


def _try(
    chunk: Chunk, label: str, largeness: float, camera: _Camera, out: Path, seed: list[int]
) -> dict[str, Any] | None:
    rng = np.random.default_rng(seed)
    path = draw_path(label, rng, largeness)
    shot = camera(path, rng)
    if shot is None:
        return None
    moments, poses, facts = shot
    frames = moments.mean(1)[held(FRAMES, rng)]  # what falls on the film while the shutter is open
    if not shows_something(frames, moves=label != "static"):
        return None
    footage = as_footage(level_light(frames, rng), rng)
    target = out / chunk.path(label)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        encoding = write_clip(temporary, footage, rng)
    return {
        "path": chunk.path(label),
        "split": chunk.split,
        "class": label,
        "world": chunk.world,
        "seed": seed,
        "bytes": target.stat().st_size,
        **facts,
        **path.facts(),
        **encoding,
        "poses": np.round(poses, 4).tolist(),
    }


@contextlib.contextmanager
def _open_place(chunk: Chunk, place: int, recipe: Request, pictures: Pictures) -> Iterator[_Camera]:
    """A level, or a handful of photographs, and what films there."""
    rng = np.random.default_rng(_seed(chunk, recipe, len(CLASSES) + place))
    if chunk.world == "doom":
        levels = doom.LEVELS[chunk.split]
        wad, name = levels[(chunk.number // len(recipe.worlds) + place) % len(levels)]
        with doom.open_level(wad, name, int(rng.integers(1 << 31))) as level:
            yield lambda path, rng: doom.film(level, path, FRAMES, SIZE, rng)
    else:
        found = pictures[chunk.split]
        chosen = rng.choice(len(found), min(_PHOTOS, len(found)), replace=False)
        chosen = chosen[rng.random(len(chosen)) >= _DRAWN]
        loaded = [photos.load_photo(found[i]) for i in chosen]
        loaded += [photos.draw_photo(rng) for _ in range(_PHOTOS - len(chosen))]
        names = {"photographs": [found[i].name for i in chosen]}
        yield partial(_film_photos, loaded, names)


def _shutter(path: CameraPath, rng: np.random.Generator) -> int:
    """Pictures that one frame is made of: one, or in three of ten as many as make a blur of what they show."""
    if rng.random() < 0.7:
        return 1
    step = float(np.abs(np.diff(path.poses(np.linspace(0, 1, 9)), axis=0) / per_width(path.fov)).max()) / 3
    return int(np.clip(np.ceil(step / 2 * SIZE[1] / _BLUR), 3, 5))


def _film_photos(
    loaded: list[photos.Photo], names: dict[str, Any], path: CameraPath, rng: np.random.Generator
) -> _Shot | None:
    steps = _shutter(path, rng)
    shutter = np.arange(1 - steps, 1) / 2 / max(1, steps - 1)  # open for half of a frame's time, or for a moment
    moments = ((np.arange(FRAMES)[:, None] + 1 + shutter) / FRAMES).ravel()
    take = photos.film_scene(photos.build_scene(loaded, path, rng), path, moments, SIZE)
    if take is None:
        return None
    views, parallax = take
    facts = names | {"shutter": steps, "parallax": parallax and [round(v, 4) for v in parallax]}
    return views.unflatten(0, (FRAMES, steps)), path.poses(moments[steps - 1 :: steps]), facts

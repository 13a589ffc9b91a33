"""`make` writes the set "rooms": views of ViZDoom's levels with boxes, instance masks and label maps."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uniformer.config import did_you_mean
from uniformer.datasets.layouts import CLASSES_FILE
from uniformer.doom import coco
from uniformer.doom.game import LEVELS, TRAIN_LEVELS, level_name, require_vizdoom
from uniformer.doom.views import THINGS, View, open_level
from uniformer.errors import Checked, InputError, reason
from uniformer.reading.label_png import to_png
from uniformer.support.files import LOCK_NAME, atomic_path, bytes_of, write_whole
from uniformer.support.jobs import run_parallel
from uniformer.support.progress import OnProgress
from uniformer.support.resume import claim, open_journal

RECORD = "views.jsonl"
ABOUT = "about.json"
PICTURES = 3600
SIZE = "640x480"
SIZES = ("320x240", "400x300", "512x384", "640x480", "800x600", "1024x768")  #: that the game draws, 4 to 3
SPLIT_LEVELS = {"train": TRAIN_LEVELS, "val": tuple(level for level in LEVELS if level not in TRAIN_LEVELS)}

_VERSION = 1  # of what a seed gives: raise it with any change that alters a picture or what is said of it
_VALIDATE = 6  # one picture of so many
_TOGETHER = 10  # pictures of one game: starting one takes as long as some twenty views
_PLACES = 5  # levels that a game is started in, one after the other, until there are enough views
_QUALITY = 92  # of JPEG


@dataclass(frozen=True)
class Request(Checked):
    """All that decides about the bytes of the set, but for the versions of the packages."""

    pictures: int
    size: str
    seed: int
    version: int = _VERSION

    def _problems(self) -> Iterable[str]:
        if self.pictures < 2:
            yield f"expected at least 2 pictures, one to train and one to validate, got {self.pictures}"
        if self.seed < 0:
            yield f"expected a seed from 0 up, got {self.seed}"
        if self.size not in SIZES:
            yield f"expected a size of {', '.join(SIZES)}, got {self.size!r}{did_you_mean(self.size, SIZES)}"

    @property
    def height_and_width(self) -> tuple[int, int]:
        width, height = self.size.split("x")
        return int(height), int(width)

    @property
    def per_split(self) -> dict[str, int]:
        val = max(1, round(self.pictures / _VALIDATE))
        return {"train": self.pictures - val, "val": val}


@dataclass(frozen=True)
class Chunk:
    """Pictures that are made together, in one game: numbers `first` to `first + count - 1` of a split."""

    split: str
    number: int
    first: int
    count: int

    @property
    def paths(self) -> list[str]:
        return [f"images/{self.split}/{i:06d}.jpg" for i in range(self.first, self.first + self.count)]


@dataclass(frozen=True)
class Made:
    """What `make` did."""

    pictures: int  #: in the folder now
    new: int  #: made by this run
    per_split: dict[str, dict[str, int]]  #: split -> class -> instances, without those marked as crowd


def make(
    out: Path,
    *,
    pictures: int = PICTURES,
    size: str = SIZE,
    seed: int = 0,
    workers: int = 2,
    progress: OnProgress | None = None,
) -> Made:
    """Write the set: `images/SPLIT/NUMBER.jpg`, `labels/SPLIT/NUMBER.png` and `annotations/instances_SPLIT.json`.

    `classes.txt` names the label maps' classes, `about.json` says what it was made with, `views.jsonl` from where.
    A run that was stopped goes on where it was: the same command makes what is missing, in the same bytes, with any
    number of processes.

    Args:
        out: the folder; made if missing.
        pictures: of both splits; one of six validates. Their levels differ.
        size: width x height, one of `SIZES`.
        seed: another seed, another set.
        workers: processes, at least one: a game changes its process's folder.
        progress: called with (pictures there, of how many).

    Raises `InputError` for numbers, sizes and folders that cannot be used, and where `out` holds something else or a
    set that was made with other settings; `MissingExtra` without `vizdoom`.
    """
    request = Request(pictures, size, seed)
    require_vizdoom("rooms")
    chunks = sorted(plan(request), key=lambda chunk: chunk.number)  # a set that is not complete yet has both splits
    out = out.absolute()
    _check_folder(out)
    new = 0
    paths = [path for chunk in chunks for path in chunk.paths]
    files = [out / ABOUT, out / CLASSES_FILE, *(_annotations(out, split) for split in SPLIT_LEVELS)]
    outputs = [*files, *(out / path for path in paths), *(_label_map(out, path) for path in paths)]
    with open_journal(out / RECORD, outputs, overwrite=True) as journal:
        claim(out / ABOUT, _about(request), "pictures")
        waiting = [c for c in chunks if not all(_is_whole(out, journal.entries.get(path)) for path in c.paths)]
        done = pictures - sum(chunk.count for chunk in waiting)
        for chunk, entries in run_parallel(partial(make_chunk, out=out, request=request), waiting, max(workers, 1)):
            if entries is None:
                raise RuntimeError(f"the process that made {chunk} died")
            for entry in entries:
                journal.add(entry)
            new += len(entries)
            done += len(entries)
            if progress is not None:
                progress(done, pictures)
        record = [journal.entries[path] for path in sorted(paths)]
        write_whole(out / RECORD, "".join(json.dumps(entry) + "\n" for entry in record))
        write_whole(out / CLASSES_FILE, "".join(f"{name}\n" for name in coco.CLASSES))
    return Made(pictures, new, _write_annotations(out, record, request))


def plan(request: Request) -> Iterator[Chunk]:
    """The chunks of both splits, which take the split's levels by turns."""
    for split, count in request.per_split.items():
        for number, first in enumerate(range(0, count, _TOGETHER)):
            yield Chunk(split, number, first, min(_TOGETHER, count - first))


def _check_folder(out: Path) -> None:
    """It is empty, missing, or has a set."""
    try:
        there = {path.name for path in out.iterdir()} if out.exists() else set[str]()
    except OSError as error:
        raise InputError(f"{out}: expected a folder to write to, found none: {reason(error)}") from None
    if ABOUT not in there and (others := sorted(there - {RECORD, LOCK_NAME})):
        raise InputError(f"{out}: expected a new folder or a set to go on with, found {others[0]!r} and no {ABOUT}")


def _about(request: Request) -> dict[str, Any]:
    """What the set is made with, as JSON has it. Other versions of these packages give other bytes."""
    return {
        **asdict(request),
        "classes": list(coco.CLASSES),
        "palette": [list(color) for color in coco.PALETTE],
        "levels": {split: [level_name(*level) for level in levels] for split, levels in SPLIT_LEVELS.items()},
        "packages": {name: importlib.metadata.version(name) for name in ("vizdoom", "pillow", "numpy")},
    }


def _annotations(out: Path, split: str) -> Path:
    return out / "annotations" / f"instances_{split}.json"


def _label_map(out: Path, path: str) -> Path:
    """images/train/000001.jpg -> labels/train/000001.png"""
    return (out / "labels" / Path(path).relative_to("images")).with_suffix(".png")


def _is_whole(out: Path, entry: Mapping[str, Any] | None) -> bool:
    """Whether the two files of an entry are as long as it says."""
    if entry is None:
        return False
    try:
        return [bytes_of(out / entry["path"]), bytes_of(_label_map(out, entry["path"]))] == entry["bytes"]
    except (KeyError, TypeError, ValueError):  # an entry of something else
        return False


def _write_annotations(out: Path, record: Sequence[dict[str, Any]], request: Request) -> dict[str, dict[str, int]]:
    """The files of both splits; instances of each class in them."""
    counts = {}
    for split in SPLIT_LEVELS:
        pictures = [entry for entry in record if entry["split"] == split]
        about = f"rooms, {split}: ViZDoom's levels, seed {request.seed}, version {request.version}"
        found = coco.instances(pictures, request.height_and_width, about)
        write_whole(_annotations(out, split), json.dumps(found))
        classes = Counter(THINGS[a["category_id"] - 1] for a in found["annotations"] if not a["iscrowd"])
        counts[split] = {name: classes[name] for name in THINGS}
    return counts


# ------------------------------------------------------------------------------------------------------------- a chunk


def make_chunk(chunk: Chunk, *, out: Path, request: Request) -> list[dict[str, Any]]:
    """Make a chunk's pictures and return their entries for the record. Depends on the arguments alone."""
    rng = np.random.default_rng([request.seed, list(SPLIT_LEVELS).index(chunk.split), chunk.number])
    levels = SPLIT_LEVELS[chunk.split]
    entries: list[dict[str, Any]] = []
    for place in range(_PLACES):
        wad, name = levels[(chunk.number + place * 7) % len(levels)]
        with open_level(wad, name, int(rng.integers(1 << 31)), request.height_and_width) as level:
            for path in chunk.paths[len(entries) :]:
                view = level.take(rng)
                if view is None:
                    break
                entries.append(_write(view, chunk.split, path, out))
        if len(entries) == chunk.count:
            return entries
    raise InputError(f"{chunk.split}: expected views in which something is to be seen, found none in {_PLACES} levels")


def _write(view: View, split: str, path: str, out: Path) -> dict[str, Any]:
    picture, labels = out / path, _label_map(out, path)
    os.makedirs(picture.parent, exist_ok=True)
    os.makedirs(labels.parent, exist_ok=True)
    with atomic_path(picture) as temporary:
        Image.fromarray(view.picture).save(temporary, "JPEG", quality=_QUALITY)
    write_whole(labels, to_png(view.classes, coco.PALETTE))
    return {
        "path": path,
        "split": split,
        "bytes": [bytes_of(picture), bytes_of(labels)],
        **view.facts,
        "annotations": coco.annotations_of(view),
    }

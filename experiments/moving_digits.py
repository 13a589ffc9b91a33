"""Clips: a small video UniFormer learns how handwritten digits move, in which rhythm they change, and whether they
count up or down, which no single frame tells, and is tested on digits never seen.

python experiments/moving_digits.py --out DIR [--seeds 3] [--jobs 2]

Motion, ten classes. A digit has five properties - place across, place down, angle, size, light - each a point on a
circle: the canvas wraps round, and so do size and light, from the largest to the smallest. All five are drawn evenly,
then one of them advances from frame to frame, at a random pace. The class is which one, and which way. So each single
frame has the same distribution under every class, and so have a clip's frames as a set under the two directions of a
property: guessing gives 10 % from one frame, and 50 % at most from frames out of order.

Rhythm, six classes. Three properties of a digit - place across, size, light - have two states each, and the eight
frames show all eight combinations once. One property changes at every frame, one at every second and one only in the
middle; the class is which does which. As a set, the frames have the same distribution under all classes: guessing gives
17 % from one frame and from all of them out of order.

Counting, two classes. Four digits, two frames each, every frame in another hand: 7 8 9 0 or 0 9 8 7. As a set, the
frames have the same distribution under both classes: guessing gives 50 % from one frame and from all of them out of
order. Here a network must read before it can count, so this is where an image network's weights should help.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import av
import common
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

FRAMES = 8
PACE = 0.05, 0.12  # least and most of the circle from frame to frame: directions are ambiguous from 0.5 on
LEAST_SIZE, SIZES = 10, 2.2  # pixels a side of the smallest scan, and how many times as large the largest
LEAST_LIGHT = 0.3  # of white
MOTIONS = {  # class -> which property changes, and which way
    "right": (0, 1), "left": (0, -1), "down": (1, 1), "up": (1, -1), "clockwise": (2, 1), "counterclockwise": (2, -1),
    "grow": (3, 1), "shrink": (3, -1), "brighten": (4, 1), "fade": (4, -1),
}  # fmt: skip
RHYTHMS = {  # class -> properties by their places in a course: changes at every frame, at every second, in the middle
    "-".join(names): tuple({"across": 0, "size": 3, "light": 4}[name] for name in names)
    for names in permutations(("across", "size", "light"))
}
CLIPS = {"train": 4800, "val": 500, "test": 1000}
COUNTING_CLIPS = {"train": 160, "val": 500}
STARTS = {"scratch": None, "centre": "center", "mean": "mean"}  # how a video network begins -> init.inflate


class Task(NamedTuple):
    """What video networks are trained on, in a folder of the task's name."""

    classes: int
    epochs: int


FULL = {"motion": Task(10, 8), "rhythm": Task(6, 10)}  # from scratch, with all controls
BEGUN = {"counting": Task(2, 20), "motion": Task(10, 2)}  # short, from each of the `STARTS`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and the report")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, of one thread each (default: 2)")
    args = parser.parse_args()

    began, out, seeds = time.monotonic(), args.out, range(args.seeds)
    write_data(out)
    work: dict[str, Any] = {"reading": {seed: partial(reading_run, out, seed) for seed in seeds}}
    for name in FULL:
        work[name] = {seed: partial(full_run, out, name, seed) for seed in seeds}
        work[f"{name}_blind"] = {seed: partial(blind_run, out, name, seed) for seed in seeds}
    found = common.results(args.jobs, work)
    starts = {
        task: {start: {seed: partial(begun_run, out, task, start, seed) for seed in seeds} for start in STARTS}
        for task in BEGUN
    }
    facts = {**found, "starts": common.results(args.jobs, starts)}
    facts["conditions"] = common.conditions((time.monotonic() - began) / 60, args.jobs)
    common.write_report(out, facts, tables(facts))


# ---- clips -----------------------------------------------------------------------------------------------------------


def random_courses(motions: list[str], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The properties of every frame, as shares of their circles, (N, T, 5)."""
    courses = np.repeat(rng.random((len(motions), 1, 5)), FRAMES, axis=1)
    for course, (which, way) in zip(courses, map(MOTIONS.__getitem__, motions), strict=True):
        course[:, which] += way * rng.uniform(*PACE) * np.arange(FRAMES)
    return courses % 1


def random_rhythms(names: list[str], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """As `random_courses`, for `RHYTHMS`: place across has two states anywhere, size and light a low and a high one."""
    courses = np.repeat(rng.random((len(names), 1, 5)), FRAMES, axis=1)
    for course, name in zip(courses, names, strict=True):
        for beat, which in enumerate(RHYTHMS[name]):
            state = (np.arange(FRAMES) >> beat & 1) ^ rng.integers(2)
            low, step = (rng.random(), rng.uniform(0.3, 0.5)) if which == 0 else rng.uniform((0, 0.65), (0.15, 0.8))
            course[:, which] = low + state * step
    return courses % 1


def draw(scans: npt.NDArray[np.float32], courses: npt.NDArray[np.float64]) -> common.Pixels:
    """Scans (N, 8, 8) of 0 to 1 on their courses (N, T, 5), as grey frames (N, T, SIZE, SIZE)."""
    across, down, turn, growth, light = torch.from_numpy(courses).float().flatten(0, 1).T  # (N*T,) each
    size = LEAST_SIZE * SIZES**growth
    pixel = (torch.arange(common.SIZE) + 0.5) / common.SIZE
    # From the middle of the digit, the short way round, in pixels: (N*T, SIZE) of -SIZE/2 to SIZE/2
    x, y = (common.SIZE * ((pixel - middle[:, None] + 0.5) % 1 - 0.5) for middle in (across, down))
    x, y = x[:, None, :], y[:, :, None]
    angle = 2 * torch.pi * turn
    cos, sin, half = (v[:, None, None] for v in (angle.cos(), angle.sin(), size / 2))
    places = torch.stack(((cos * x + sin * y) / half, (cos * y - sin * x) / half), dim=-1)  # (N*T, S, S, 2) in the scan
    still = torch.from_numpy(scans).repeat_interleave(courses.shape[1], 0)[:, None]
    seen = F.grid_sample(still, places, align_corners=False)[:, 0]  # black outside the scan
    grey = (LEAST_LIGHT ** (1 - light))[:, None, None] * seen * 255
    return grey.round().byte().numpy().reshape(*courses.shape[:2], common.SIZE, common.SIZE)


def write_data(out: Path) -> None:
    """What is learnt and tested, in splits that share no digit: a folder for each split and class.

    `motion/` and `rhythm/`, and of their tests the same clips out of order and standing still; their middle frames in
    `<task>_frames/`; `counting/`; and the scans themselves in `pictures/`, by digit.
    """
    images, labels = common.handwritten()
    parts = dict(zip(CLIPS, common.split(labels, 0.6, 0.15), strict=True))
    rng = np.random.default_rng(0)
    for task, classes, courses in (("motion", MOTIONS, random_courses), ("rhythm", RHYTHMS, random_rhythms)):
        for part, rows in parts.items():
            names = (list(classes) * CLIPS[part])[: CLIPS[part]]
            clips = draw(images[rng.choice(rows, len(names))], courses(names, rng))
            for number, (clip, name) in enumerate(zip(clips, names, strict=True)):
                file = f"{name}/{number}"
                write_clip(out / task / part / f"{file}.avi", clip)
                common.write_picture(out / f"{task}_frames" / part / f"{file}.png", clip[FRAMES // 2])
                if part == "test":
                    write_clip(out / f"{task}_shuffled" / f"{file}.avi", clip[rng.permutation(FRAMES)])
                    write_clip(out / f"{task}_one_frame" / f"{file}.avi", clip[[FRAMES // 2] * FRAMES])
    common.write_pictures(out / "pictures", parts)
    for name, count in COUNTING_CLIPS.items():
        for number in range(count):
            way = ("up", "down")[number % 2]
            scans = images[random_count(labels, parts[name], way, rng)]
            write_clip(out / "counting" / name / way / f"{number}.avi", np.stack([common.enlarged(s) for s in scans]))


def random_count(labels: common.Rows, rows: common.Rows, way: str, rng: np.random.Generator) -> common.Rows:
    """The scans that four digits in turn are shown by, each digit by two, (T,) of `rows`; after nine comes nought."""
    steps = np.arange(FRAMES) // 2 * {"up": 1, "down": -1}[way]
    digits = (rng.integers(10) + steps) % 10
    return np.array([rng.choice(rows[labels[rows] == digit]) for digit in digits])


def write_clip(path: Path, frames: common.Pixels) -> None:
    """Grey frames (T, H, W) as they are: what a codec leaves out of a moving picture would tell that it moves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as file:
        stream = file.add_stream("rawvideo", rate=FRAMES)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "gray"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        file.mux(stream.encode(None))


# ---- runs ------------------------------------------------------------------------------------------------------------


def train(out: Path, recipe: str, data: str, seed: int, name: str, *settings: str) -> Path:
    """One training run in a folder of its own."""
    folder = out / "runs" / f"{name}-seed{seed}"
    given = (f"data.root={out.resolve()}", f"data.train={data}", f"data.val={data}", f"seed={seed}", *settings)
    recipe_file = common.RECIPES / f"{recipe}.toml"
    common.uniformer("train", recipe_file, *given, "--out", folder, "--device", "cpu", log=folder / "train.log")
    return folder


def full_run(out: Path, name: str, seed: int) -> dict[str, float]:
    """A task from scratch: per cent right of the test's clips, of the same ones with their frames out of order, and of
    one frame of each repeated."""
    task = FULL[name]
    settings = (f"schedule.epochs={task.epochs}", f"model.num_classes={task.classes}")
    folder = train(out, "moving_digits", name, seed, name, *settings)
    tests = {
        "as they are": out / name / "test",
        "frames out of order": out / f"{name}_shuffled",
        "one frame, repeated": out / f"{name}_one_frame",
    }
    result = folder / "model.safetensors"
    return {which: common.top1(result, data, folder / data.name) for which, data in tests.items()}


def blind_run(out: Path, name: str, seed: int) -> float:
    """The image twin learns the task from middle frames: per cent of the test's right."""
    data = f"{name}_frames"
    folder = train(out, "still_digits", data, seed, data, f"model.num_classes={FULL[name].classes}")
    return common.top1(folder / "model.safetensors", out / data / "test", folder / "test")


def reading_run(out: Path, seed: int) -> float:
    """The image twin learns to read: per cent of the test's right. Video networks begin with its weights."""
    folder = train(out, "still_digits", "pictures", seed, "pictures", "schedule.epochs=6")
    return common.top1(folder / "model.safetensors", out / "pictures" / "test", folder / "test")


def begun_run(out: Path, name: str, start: str, seed: int) -> dict[int, float]:
    """A short video run from one of the `STARTS`: per cent right of the validation's clips by step."""
    task = BEGUN[name]
    settings = [f"schedule.epochs={task.epochs}", f"model.num_classes={task.classes}"]
    if STARTS[start]:
        image = out / "runs" / f"pictures-seed{seed}" / "model.safetensors"
        settings += [f"init.checkpoint={image.resolve()}", f"init.inflate={STARTS[start]}"]
    return dict(validations(train(out, "moving_digits", name, seed, f"{name}-{start}", *settings)))


def validations(folder: Path) -> Iterator[tuple[int, float]]:
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as f:
        for row in csv.DictReader(f):
            if row["val_top1"]:
                yield int(row["step"]), round(100 * float(row["val_top1"]), 2)


# ---- tables ----------------------------------------------------------------------------------------------------------


def tables(facts: dict[str, Any]) -> str:
    text = ""
    for name, task in FULL.items():
        runs = facts[name].values()
        scores = {f"video network: {which}": [run[which] for run in runs] for which in next(iter(runs))}
        scores["image network, trained and tested on middle frames"] = list(facts[f"{name}_blind"].values())
        head = f"{name}: top-1 on the test, %; guessing gives {100 / task.classes:.1f}"
        text += table(head, [f"seed {seed}" for seed in facts[name]], scores)
    text += table("(reading digits, for the starts below)", [], {"image network": list(facts["reading"].values())})
    for name, starts in facts["starts"].items():
        curves = {start: list(runs.values()) for start, runs in starts.items()}
        steps = list(curves["scratch"][0])
        rows = [
            (start, *(common.mean_and_spread([curve[step] for curve in curves[start]]) for step in steps))
            for start in curves
        ]
        head = f"{name}: start; top-1 on the validation, %; guessing gives {100 // BEGUN[name].classes}"
        text += "\n" + common.markdown((head, *(f"after {step} steps" for step in steps)), rows)
    return text


def table(head: str, columns: list[str], scores: dict[str, list[float]]) -> str:
    """One row for each name: its scores where there are columns for them, then mean and range."""
    rows = [
        (name, *(f"{value:.1f}" for value in values[: len(columns)]), common.mean_and_spread(values))
        for name, values in scores.items()
    ]
    return "\n" + common.markdown((head, *columns, "mean (range)"), rows)


if __name__ == "__main__":
    main()

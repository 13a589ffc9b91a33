"""Clips: a small video UniFormer learns how a handwritten digit moves, which no single frame tells, and is tested on
digits never seen.

python experiments/moving_digits.py --out DIR [--seeds 3] [--jobs 2]

A clip is a digit with five properties - place across, place down, angle, size, light - each a point on a circle: the
canvas wraps round, and so do size and light, from the largest to the smallest. All five are drawn evenly, then one of
them advances from frame to frame, at a random pace. The class is which one, and which way. So each single frame has
the same distribution under every class, and so has the set of a clip's frames under the two directions of a property:
guessing gives 10 % from one frame, and 50 % at most from frames out of order.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import common
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

CANVAS, FRAMES = 32, 8  # pixels a side, frames a clip
PACE = 0.05, 0.12  # least and most of the circle from frame to frame: directions are ambiguous from 0.5 on
LEAST_SIZE, SIZES = 10, 2.2  # pixels a side of the smallest scan, and how many times as large the largest
LEAST_LIGHT = 0.3  # of white
MOTIONS = {  # class -> which property changes, and which way
    "right": (0, 1), "left": (0, -1), "down": (1, 1), "up": (1, -1), "clockwise": (2, 1), "counterclockwise": (2, -1),
    "grow": (3, 1), "shrink": (3, -1), "brighten": (4, 1), "fade": (4, -1),
}  # fmt: skip
CLIPS = {"train": 4800, "val": 500, "test": 1000}
EPOCHS, SHORT = 8, 3  # of training in full, and for comparing starting weights
STARTS = {"scratch": None, "centre": "center", "mean": "mean"}  # how a video network begins -> init.inflate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and the report")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, of one thread each (default: 2)")
    args = parser.parse_args()

    began, out, seeds = time.monotonic(), args.out, range(args.seeds)
    write_data(out)
    ordered = common.side_by_side(args.jobs, [partial(full_run, out, seed) for seed in seeds])
    images = [partial(image_run, out, seed, data) for data in ("frames", "pictures") for seed in seeds]
    found = common.side_by_side(args.jobs, images)
    blind, pretrained = found[: args.seeds], found[args.seeds :]
    short = [(start, seed) for start in STARTS for seed in seeds]
    curves = common.side_by_side(args.jobs, [partial(short_run, out, seed, start) for start, seed in short])
    facts: dict[str, Any] = {
        "clips": CLIPS,
        "digit_of_a_picture": pretrained,
        "motion_from_one_frame_2d": blind,
        "motion": ordered,
        "starts": {name: [c for c, (start, _) in zip(curves, short, strict=True) if start == name] for name in STARTS},
        "conditions": common.conditions((time.monotonic() - began) / 60, args.jobs),
    }
    common.write_report(out, facts, tables(facts))


# ---- clips -----------------------------------------------------------------------------------------------------------


def random_courses(motions: list[str], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The properties of every frame, as shares of their circles, (N, T, 5)."""
    courses = np.repeat(rng.random((len(motions), 1, 5)), FRAMES, axis=1)
    for course, (which, way) in zip(courses, map(MOTIONS.__getitem__, motions), strict=True):
        course[:, which] += way * rng.uniform(*PACE) * np.arange(FRAMES)
    return courses % 1


def draw(scans: npt.NDArray[np.float32], courses: npt.NDArray[np.float64]) -> common.Pixels:
    """Scans (N, 8, 8) of 0 to 1 on their courses (N, T, 5), as grey frames (N, T, CANVAS, CANVAS)."""
    across, down, turn, growth, light = torch.from_numpy(courses).float().flatten(0, 1).T  # (N*T,) each
    size = LEAST_SIZE * SIZES**growth
    pixel = torch.arange(CANVAS) + 0.5
    # Pixels from the middle of the digit, the short way round: (N*T, CANVAS) of -CANVAS/2 to CANVAS/2
    x, y = ((pixel - CANVAS * middle[:, None] + CANVAS / 2) % CANVAS - CANVAS / 2 for middle in (across, down))
    x, y = x[:, None, :], y[:, :, None]
    cos, sin, half = (
        v[:, None, None] for v in (torch.cos(2 * torch.pi * turn), torch.sin(2 * torch.pi * turn), size / 2)
    )
    places = torch.stack(((cos * x + sin * y) / half, (cos * y - sin * x) / half), dim=-1)  # (N*T, S, S, 2) in the scan
    still = torch.from_numpy(scans).repeat_interleave(courses.shape[1], 0)[:, None]
    seen = F.grid_sample(still, places, align_corners=False)[:, 0]  # black outside the scan
    grey = (LEAST_LIGHT ** (1 - light))[:, None, None] * seen * 255
    return grey.round().byte().numpy().reshape(*courses.shape[:2], CANVAS, CANVAS)


def write_data(out: Path) -> None:
    """`clips/` by motion, in splits that share no digit; copies of the test clips out of order and standing still; and
    single frames as pictures, by motion in `frames/` and by digit in `pictures/`."""
    images, labels = common.handwritten()
    rng = np.random.default_rng(0)
    for name, rows in zip(CLIPS, common.split(labels, 0.6, 0.15), strict=True):
        motions = list(MOTIONS) * (CLIPS[name] // len(MOTIONS))
        chosen = rng.choice(rows, len(motions))
        clips = draw(images[chosen], random_courses(motions, rng))
        for number, (clip, motion, digit) in enumerate(zip(clips, motions, labels[chosen], strict=True)):
            write_clip(out / "clips" / name / motion / f"{number}.avi", clip)
            write_picture(out / "frames" / name / motion / f"{number}.png", clip[FRAMES // 2])
            write_picture(out / "pictures" / name / str(digit) / f"{number}.png", clip[0])
            if name == "test":
                write_clip(out / "test_shuffled" / motion / f"{number}.avi", clip[rng.permutation(FRAMES)])
                write_clip(out / "test_one_frame" / motion / f"{number}.avi", clip[[FRAMES // 2] * FRAMES])


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


def write_picture(path: Path, frame: common.Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(path)


# ---- runs ------------------------------------------------------------------------------------------------------------


def train(out: Path, recipe: str, data: str, seed: int, name: str, *settings: str) -> Path:
    """One training run in a folder of its own."""
    folder = out / "runs" / f"{name}-seed{seed}"
    given = (f"data.root={out.resolve()}", f"data.train={data}", f"data.val={data}", f"seed={seed}", *settings)
    recipe_file = common.RECIPES / f"{recipe}.toml"
    common.uniformer("train", recipe_file, *given, "--out", folder, "--device", "cpu", log=folder / "train.log")
    return folder


def image_run(out: Path, seed: int, data: str) -> float:
    """The image twin on single frames: per cent of the test's right."""
    folder = train(out, "still_digits", data, seed, data)
    return common.top1(folder / "model.safetensors", out / data / "test", folder / "test")


def video_run(out: Path, seed: int, start: str, epochs: int) -> Path:
    """A video network on clips; the folder of the run."""
    settings = [f"schedule.epochs={epochs}"]
    if STARTS[start]:
        image = out / "runs" / f"pictures-seed{seed}" / "model.safetensors"
        settings += [f"init.checkpoint={image.resolve()}", f"init.inflate={STARTS[start]}"]
    return train(out, "moving_digits", "clips", seed, f"{start}-{epochs}epochs", *settings)


def full_run(out: Path, seed: int) -> dict[str, Any]:
    """From scratch: per cent right of the test's clips, of the same ones with their frames out of order, and of one
    frame of each repeated; and of the validation's clips by step."""
    folder = video_run(out, seed, "scratch", EPOCHS)
    tests = {
        "as they are": out / "clips" / "test",
        "frames out of order": out / "test_shuffled",
        "one frame, repeated": out / "test_one_frame",
    }
    scores = {name: common.top1(folder / "model.safetensors", data, folder / data.name) for name, data in tests.items()}
    return {"test": scores, "val": dict(validations(folder))}


def short_run(out: Path, seed: int, start: str) -> dict[int, float]:
    """Per cent right of the validation's clips by step."""
    return dict(validations(video_run(out, seed, start, SHORT)))


def validations(folder: Path) -> Iterator[tuple[int, float]]:
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as f:
        for row in csv.DictReader(f):
            if row["val_top1"]:
                yield int(row["step"]), round(100 * float(row["val_top1"]), 2)


# ---- tables ----------------------------------------------------------------------------------------------------------


def tables(facts: dict[str, Any]) -> str:
    by_test = {
        f"video network, {name}": [run["test"][name] for run in facts["motion"]] for name in facts["motion"][0]["test"]
    }
    by_test["image network, trained and tested on middle frames"] = facts["motion_from_one_frame_2d"]
    rows = [
        (name, *(f"{score:.1f}" for score in scores), common.mean_and_spread(scores))
        for name, scores in by_test.items()
    ]
    head = ("test clips: top-1, % (guessing: 10)", *(f"seed {i}" for i in range(len(rows[0]) - 2)), "mean (range)")
    steps = list(facts["starts"]["scratch"][0])
    compared = [
        (name, *(common.mean_and_spread([curve[step] for curve in curves]) for step in steps))
        for name, curves in facts["starts"].items()
    ]
    start_head = ("start; validation clips, %", *(f"after {step} steps" for step in steps))
    return common.markdown(head, rows) + "\n" + common.markdown(start_head, compared)


if __name__ == "__main__":
    main()

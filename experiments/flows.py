"""Does a camera-motion set do what its labels say, and what do they give away? Measured in its clips, by dense optical
flow (OpenCV's DIS, every second frame), knowing nothing of the camera.

python experiments/flows.py OUT --out DIR [--train 1400] [--jobs 2]

- the truth: in how many clips the picture goes the way of the label, and comes back where it should;
- twins, of which only parallax may tell which is which (pan and truck, tilt and pedestal, zoom and push or pull): how
  often the amount of a turn or zoom is greater than that of a move, 50 % where amounts tell nothing;
- how far a network without parallax would get: logistic regression on the sequence of affine motions, and on their sum,
  trained on `--train` clips of train and asked of val.

Needs `pip install opencv-python-headless scikit-learn`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import av
import common
import cv2
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uniformer.camera_motion.classes import LOOK_ALIKES
from uniformer.camera_motion.make import RECORD

# What is measured from frame to frame: a robust affine motion, and the medians over all points.
RIGHT, DOWN, GROWTH, CLOCKWISE, SQUEEZE, MEDIAN_RIGHT, MEDIAN_DOWN, MEDIAN_GROWTH = range(8)
AFFINE = slice(RIGHT, MEDIAN_RIGHT)
MEDIAN = {RIGHT: MEDIAN_RIGHT, DOWN: MEDIAN_DOWN, GROWTH: MEDIAN_GROWTH}
#: class -> which way the picture goes, and the sign; those that come back: which way they begin
WAYS = {
    "pan_left": (RIGHT, 1),
    "pan_right": (RIGHT, -1),
    "truck_left": (RIGHT, 1),
    "truck_right": (RIGHT, -1),
    "tilt_up": (DOWN, 1),
    "tilt_down": (DOWN, -1),
    "pedestal_up": (DOWN, 1),
    "pedestal_down": (DOWN, -1),
    "zoom_in": (GROWTH, 1),
    "zoom_out": (GROWTH, -1),
    "push_in": (GROWTH, 1),
    "pull_out": (GROWTH, -1),
    "roll_left": (CLOCKWISE, 1),
    "roll_right": (CLOCKWISE, -1),
}
BEGINNINGS = {
    "pan_left_then_right": (RIGHT, 1),
    "pan_right_then_left": (RIGHT, -1),
    "push_in_then_pull_out": (GROWTH, 1),
    "pull_out_then_push_in": (GROWTH, -1),
}
EVERY = 4  # points of the flow that are looked at, each way
NEAR = 0.1  # of the width: points nearer to the middle say little of growth
FITS = 4  # of an affine motion, each with less weight on what went another way in the one before

Array = npt.NDArray[np.floating[Any]]


def motions(path: Path) -> Array:
    """(steps, 8) of a clip: widths to the right and down, growth, radians, squeeze; the medians of the first three."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    seen = frames[::2] if len(frames) % 2 else [*frames[::2], frames[-1]]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.array([_motion(flow.calc(first, second, None)) for first, second in itertools.pairwise(seen)])


def _motion(flow: Array) -> list[float]:
    """(8,) of one step, from the flow (H, W, 2) in pixels."""
    H, W, _ = flow.shape
    y, x = (np.mgrid[:H, :W] - np.array([H - 1, W - 1])[:, None, None] / 2)[:, ::EVERY, ::EVERY].reshape(2, -1) / W
    right, down = flow[::EVERY, ::EVERY].reshape(-1, 2).T / W
    terms, weights = np.stack([np.ones_like(x), x, y], 1), np.ones_like(x)
    for _ in range(FITS):
        weighted = terms * weights[:, None]
        (a, ax, ay), (b, bx, by) = (np.linalg.lstsq(weighted, v * weights, rcond=None)[0] for v in (right, down))
        off = np.hypot(right - terms @ (a, ax, ay), down - terms @ (b, bx, by))
        weights = 1 / (1 + (off / (2 * np.median(off) + 1e-6)) ** 2)
    distance = np.hypot(x, y)
    outside = distance > NEAR
    growth = np.median((right * x + down * y)[outside] / distance[outside] ** 2)
    affine = (a, b, (ax + by) / 2, (bx - ay) / 2, (ax - by) / 2)
    return [float(v) for v in (*affine, np.median(right), np.median(down), growth)]


def told(turns: Array, moves: Array) -> float:
    """How often, in per cent, a turn's amount is greater than a move's: 50 where amounts tell nothing."""
    return 100 * float((turns[:, None] > moves).mean() + (turns[:, None] == moves).mean() / 2)


def as_labelled(label: str, found: Array) -> bool:
    """Whether the picture of a clip goes as its class says, given its (steps, 8) motions."""
    if label in WAYS:
        way, sign = WAYS[label]
        return bool(found[:, way].sum() * sign > 0)
    way, sign = BEGINNINGS[label]
    part = len(found) * 3 // 8
    return bool(found[:part, way].sum() * sign > 0 > found[-part:, way].sum() * sign)


def truth(entries: Sequence[dict[str, Any]], found: Sequence[Array]) -> list[tuple[Any, ...]]:
    """World, kind of class, how many clips do as labelled, of how many."""
    counts: Counter[tuple[str, str, bool]] = Counter()
    for entry, motion in zip(entries, found, strict=True):
        label = entry["class"]
        if label in WAYS or label in BEGINNINGS:
            kind = "one way" if label in WAYS else "there and back"
            counts[entry["world"], kind, as_labelled(label, motion)] += 1
    kinds = sorted({key[:2] for key in counts})
    return [(*kind, counts[(*kind, True)], counts[(*kind, True)] + counts[(*kind, False)]) for kind in kinds]


def twins(entries: Sequence[dict[str, Any]], found: Sequence[Array]) -> list[tuple[Any, ...]]:
    """World, twins, clips of both, how far each goes as a share of its size, how often the turn goes farther."""
    rows = []
    for world, pair in itertools.product(sorted({e["world"] for e in entries}), LOOK_ALIKES):
        column = MEDIAN[WAYS[pair[0]][0]]
        turns, moves = (
            np.array(
                [
                    (abs(motion[:, column].sum()), entry["size"])
                    for entry, motion in zip(entries, found, strict=True)
                    if (entry["world"], entry["class"]) == (world, label)
                ]
            ).reshape(-1, 2)
            for label in pair
        )
        if len(turns) and len(moves):
            shares = [f"{np.median(v[:, 0] / v[:, 1]):.2f}" for v in (turns, moves)]
            share = f"{told(turns[:, 0], moves[:, 0]):.0f}"
            rows.append((world, " and ".join(pair), len(turns), len(moves), *shares, share))
    return rows


def without_parallax(entries: Sequence[dict[str, Any]], found: Sequence[Array]) -> list[tuple[Any, ...]]:
    """What is shown, world, per cent of val that a linear model names rightly; then its most frequent mistakes."""
    labels = np.array([e["class"] for e in entries])
    worlds, val = np.array([e["world"] for e in entries]), np.array([e["split"] == "val" for e in entries])
    rows: list[tuple[Any, ...]] = []
    mistakes: Counter[tuple[str, str]] = Counter()
    for shown in ("sequence", "sum"):
        values = np.stack([m[:, AFFINE].ravel() if shown == "sequence" else m[:, AFFINE].sum(0) for m in found])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(values[~val], labels[~val])
        said = model.predict(values[val])
        right = said == labels[val]
        rows.append((shown, "all", f"{100 * right.mean():.1f}"))
        rows += [(shown, w, f"{100 * right[worlds[val] == w].mean():.1f}") for w in sorted(set(worlds[val]))]
        if shown == "sequence":
            mistakes.update((t, s) for t, s in zip(labels[val], said, strict=True) if t != s)
    per_class = Counter(labels[val])
    wrong = [(f"{t} for {s}", "mistake", f"{100 * n / per_class[t]:.0f}") for (t, s), n in mistakes.most_common(12)]
    return rows + wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what `uniformer data make camera-motion` wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=1400, help="clips of train, beside all of val")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    begin = time.perf_counter()
    if not (args.data / RECORD).is_file():
        parser.error(f"{args.data}: expected what `uniformer data make camera-motion` wrote, found no {RECORD}")
    lines = map(json.loads, (args.data / RECORD).read_text("utf-8").splitlines())
    there = [e for e in lines if (args.data / e["path"]).exists()]
    chosen = sorted(there, key=lambda entry: Path(entry["path"]).stem[-5:])  # by chunks, which have every class once
    entries = [e for e in chosen if e["split"] == "train"][: args.train] + [e for e in chosen if e["split"] == "val"]
    with ProcessPoolExecutor(args.jobs, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        found = list(pool.map(motions, [args.data / e["path"] for e in entries], chunksize=8))
    tables = {
        "truth": (("world", "classes", "as labelled", "of"), truth(entries, found)),
        "twins": (
            ("world", "twins", "turns", "moves", "amount / size", "of moves", "turn is greater, %"),
            twins(entries, found),
        ),
    }
    if len({e["split"] for e in entries}) == 2:
        tables["without parallax"] = (("affine motions", "world", "% of val"), without_parallax(entries, found))
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"conditions": common.conditions((time.perf_counter() - begin) / 60, args.jobs)}
    facts |= {name: rows for name, (_, rows) in tables.items()}
    text = "\n".join(common.markdown(head, rows) for head, rows in tables.values())
    common.write_report(args.out, facts, text)


if __name__ == "__main__":
    main()

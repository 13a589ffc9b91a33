"""Does the amount by which the picture moves tell twins apart? In the camera-motion benchmark only parallax may.

python experiments/twins.py OUT --out DIR [--split train] [--clips 600] [--jobs 2]

Twins are a turn or a zoom and the move that takes the picture the same way: pan and truck, tilt and pedestal, zoom and
push or pull. Their amounts are measured in the clips themselves, knowing nothing of the camera: dense optical flow
(scikit-image's `optical_flow_ilk`) from frame to frame, of all points the median, summed over the clip. Needs
`pip install 'uniformer[camera-motion]'`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import av
import common
import numpy as np
import numpy.typing as npt
from skimage.registration import optical_flow_ilk

from uniformer.camera_motion.make import RECORD

RIGHT, DOWN, GROWTH = range(3)
#: (turn or zoom, move) -> which way the picture goes
TWINS = {
    ("pan_left", "truck_left"): RIGHT,
    ("pan_right", "truck_right"): RIGHT,
    ("tilt_up", "pedestal_up"): DOWN,
    ("tilt_down", "pedestal_down"): DOWN,
    ("zoom_in", "push_in"): GROWTH,
    ("zoom_out", "pull_out"): GROWTH,
}
AXES = {label: axis for pair, axis in TWINS.items() for label in pair}
SCALE = 2  # flow is measured at half of the size
NEAR = 0.1  # of the width: points nearer to the middle say little of growth

Array = npt.NDArray[np.floating[Any]]


def amount(path: Path, axis: int) -> float:
    """How far the picture goes: widths to the right or down, or the logarithm of its growth; without its sign."""
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)]).astype(np.float32)
    T, H, W = frames.shape
    frames = frames.reshape(T, H // SCALE, SCALE, W // SCALE, SCALE).mean((2, 4)) / 255
    total = sum(_step(first, second, axis) for first, second in itertools.pairwise(frames))
    return abs(total)


def _step(first: Array, second: Array, axis: int) -> float:
    """The median over all points of what happens between two frames (H, W)."""
    H, W = first.shape
    down, right = optical_flow_ilk(first, second, radius=6, prefilter=True) / W
    if axis != GROWTH:
        return float(np.median((right, down)[axis]))
    y, x = np.mgrid[:H, :W] / W
    y, x = y - y.mean(), x - x.mean()
    distance = np.hypot(x, y)
    outside = distance > NEAR
    return float(np.median(((right * x + down * y)[outside]) / distance[outside] ** 2))


def told(turns: Array, moves: Array) -> float:
    """How often, in per cent, a turn's amount is greater than a move's: 50 where amounts tell nothing."""
    return 100 * float((turns[:, None] > moves).mean() + (turns[:, None] == moves).mean() / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what `uniformer data make camera-motion` wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--clips", type=int, default=600, help="at most so many of twins")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    begin = time.perf_counter()
    if not (args.data / RECORD).is_file():
        parser.error(f"{args.data}: expected what `uniformer data make camera-motion` wrote, found no {RECORD}")
    lines = (args.data / RECORD).read_text("utf-8").splitlines()
    entries = [e for e in map(json.loads, lines) if e["split"] == args.split and e["class"] in AXES]
    entries = [e for e in entries if (args.data / e["path"]).exists()]
    entries = [entries[i] for i in np.random.default_rng(0).permutation(len(entries))[: args.clips]]
    with ProcessPoolExecutor(args.jobs) as pool:
        paths, axes = [args.data / e["path"] for e in entries], [AXES[e["class"]] for e in entries]
        amounts = list(pool.map(amount, paths, axes, chunksize=4))
    rows = []
    for world in sorted({e["world"] for e in entries}):
        for pair in TWINS:
            found = [
                [(a, a / e["size"]) for e, a in zip(entries, amounts, strict=True) if (e["world"], e["class"]) == key]
                for key in ((world, pair[0]), (world, pair[1]))
            ]
            if not all(found):
                continue
            turns, moves = (np.array(values) for values in found)
            by_size = [f"{np.median(values[:, 1]):.2f}" for values in (turns, moves)]
            share = told(turns[:, 0], moves[:, 0])
            rows.append((world, " and ".join(pair), len(turns), len(moves), *by_size, f"{share:.0f}"))
    head = ("world", "twins", "turns", "moves", "amount / size", "of moves", "turn is greater, %")
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"conditions": common.conditions((time.perf_counter() - begin) / 60, args.jobs), "rows": rows}
    common.write_report(args.out, facts, common.markdown(head, rows))


if __name__ == "__main__":
    main()

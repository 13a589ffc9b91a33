"""What others would say of the real shots: which way the camera goes, by published rules and a tool on PyPI.

python experiments/real_peers.py --media DIR --out DIR

The shots are the 104 of `real_shots.py` whose label is one of seven directions; `real_amounts.py` has ours on the same.

- **shotdrift** 0.2.2 (`pip install --no-deps shotdrift==0.2.2`; left out where it is not installed): its dominant move
  over 12 frames a second, by the sign of its net pan or scale; a roll is none of the seven.
- **VBench's rule** (`vbench2_beta_i2v/camera_motion.py`): a grid of 10 x 10 points followed from the first frame to the
  last; the middle points of the four edges go right, left, down or up if by more than a share of the shorter side, and
  pairs of them name the motion. Published with 0.005 (VBench) and 0.25 (Open-Sora's copy, with the mean of four
  points); and with the best share for all films but the one that is judged. Points are followed by Lucas-Kanade here,
  by CoTracker there. Right where the only answer is the label.
- **Open-Sora's rule** (`tools/caption/camera_motion_detect.py`): dense flow by Farneback between every 15th frame, the
  medians of its length and angle, the share of pixels that go away from the middle; the motion that more than half of
  the pairs have. The angle is measured so that a camera that goes right is near 180 degrees and down near 270; what is
  just below 360 and just above 0 has a median anywhere. `mended` takes the median vector instead, frames a twelfth of a
  second apart at 192 pixels, and the answer that most pairs have.

All are shown frames scaled to 320 pixels across.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import common
import cv2
import numpy as np
import numpy.typing as npt
from real_amounts import LEVELS, WAYS, shot_frames
from real_fusion import wilson
from real_shots import Media, read_list

RATE = 12.0  # frames a second, where a rule has none of its own
SIDE = 320  # pixels of the longer side that all are shown
SMALL = 192  # and that dense flow is mended at
GRID = 10
FACTORS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.25)
INTERVAL = 15  # frames

Grey = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float64]


def thinned(frames: Sequence[Any], times: Sequence[float]) -> list[Any]:
    """Frames about `RATE` a second."""
    kept, last = [], -np.inf
    for frame, at in zip(frames, times, strict=True):
        if at - last >= 0.9 / RATE:
            kept.append(frame)
            last = at
    return kept


def scaled(frame: Any, side: int = SIDE) -> Any:
    scale = min(1.0, side / max(frame.shape[:2]))
    size = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def grey(frame: Any, side: int = SIDE) -> Grey:
    return np.asarray(cv2.cvtColor(scaled(frame, side), cv2.COLOR_RGB2GRAY), np.uint8)


# ---- shotdrift -------------------------------------------------------------------------------------------------------


def by_shotdrift(tool: Any, frames: Sequence[Any]) -> str:
    path = tool.measure_frames(np.stack(frames), segment=False, anchors=0).path
    if path is None or path.dominant == "static":
        return "static"
    if path.dominant == "zoom":
        return "in" if path.logscale[-1] > 0 else "out"
    if path.dominant == "roll":
        return "roll"
    x, y = float(path.tx[-1]), float(path.ty[-1])  # of the picture, to the right and down
    return ("left" if x > 0 else "right") if abs(x) >= abs(y) else ("up" if y > 0 else "down")


# ---- VBench's rule ---------------------------------------------------------------------------------------------------


def followed(frames: Sequence[Any]) -> Vectors:
    """How far each point of a grid gets, in terms of the shorter side: (rows, columns, 2)."""
    greys = [grey(frame) for frame in frames]
    height, width = greys[0].shape
    places = np.linspace(0.05, 0.95, GRID)
    start = np.stack(np.meshgrid(places * width, places * height), axis=-1).reshape(-1, 1, 2).astype(np.float32)
    points = start
    for before, after in pairwise(greys):
        points, _, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, winSize=(21, 21), maxLevel=4)  # type: ignore[call-overload]
    return np.asarray((points - start).reshape(GRID, GRID, 2) / min(height, width), float)


#: (what an edge does, what the opposite does) -> the camera: of the left and right edges, and of top and bottom
_BOTH = {("left", "left"): "right", ("right", "right"): "left", ("down", "down"): "up", ("up", "up"): "down"}
_UPRIGHT = {**_BOTH, ("static", "static"): "static", ("up", "down"): "in", ("down", "up"): "out"}
_ACROSS = {**_BOTH, ("static", "static"): "static", ("left", "right"): "in", ("right", "left"): "out"}


def edge_words(vector: Vectors, factor: float) -> list[str]:
    x, y = vector.tolist()
    words = ["right"] * (x > factor) + ["left"] * (x < -factor) + ["down"] * (y > factor) + ["up"] * (y < -factor)
    return words or ["static"]


def by_edges(moved: Vectors, factor: float, points: slice = slice(5, 6)) -> str:
    """The only answer of VBench's rule, or all of them."""
    top, down = moved[0, points].mean(0), moved[-1, points].mean(0)
    left, right = moved[points, 0].mean(0), moved[points, -1].mean(0)
    found = set[str]()
    for table, pair in ((_UPRIGHT, (top, down)), (_ACROSS, (left, right))):
        one, other = (edge_words(vector, factor) for vector in pair)
        found |= {table[a, b] for a in one for b in other if (a, b) in table}
    if len(found) > 1:
        found.discard("static")
    return "+".join(sorted(found)) or "none"


# ---- Open-Sora's rule ------------------------------------------------------------------------------------------------


def flow_word(flow: Vectors, mended: bool) -> str:
    """What a pair of frames shows, by their flow (H, W, 2)."""
    height, width = flow.shape[:2]
    length, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1], angleInDegrees=True)
    middle = float(np.median(angle))
    if mended:
        x, y = np.median(flow.reshape(-1, 2), axis=0)
        middle = float(np.degrees(np.arctan2(y, x)) % 360)
    if np.median(length) < 1.0:
        return "static"
    at = np.stack(np.meshgrid(np.arange(width) - width / 2, np.arange(height) - height / 2), axis=-1)
    outwards = float((np.linalg.norm(at + flow, axis=-1) >= np.linalg.norm(at, axis=-1)).mean())
    if outwards < 0.4:
        return "out"
    if outwards > 0.6:
        return "in"
    return ("left", "up", "right", "down")[int((middle + 45) % 360 // 90)]


def by_farneback(frames: Sequence[Any], mended: bool) -> str:
    chosen = [grey(frame, SMALL) for frame in frames] if mended else [grey(frame) for frame in frames[::INTERVAL]]
    flows = [cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in pairwise(chosen)]  # type: ignore[call-overload]
    words = Counter(flow_word(np.asarray(flow, float), mended) for flow in flows)
    if not words:
        return "none"
    word, count = words.most_common(1)[0]
    return word if mended or count > len(flows) / 2 else "none"


# ---- all of them -----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, required=True, help="where the packages and repositories are unpacked")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    begin = time.perf_counter()
    media = Media(args.media)
    tool = None
    try:
        tool = importlib.import_module("shotdrift")
    except ImportError:
        print("shotdrift is left out: pip install --no-deps shotdrift==0.2.2", file=sys.stderr)
    truth, films, answers, moved = list[str](), list[str](), dict[str, list[str]](), list[Vectors]()
    for shot in read_list():
        film, way = media.film(shot.source, shot.path), LEVELS[shot.label][0]
        if film is None or way not in WAYS.values():
            continue
        frames, times = shot_frames(film, shot)
        frames = [scaled(frame) for frame in frames]
        some = thinned(frames, times.tolist())
        truth.append(way)
        films.append(f"{shot.source}/{shot.path}")
        moved.append(followed(some))
        said = {
            "VBench's rule, 0.005": by_edges(moved[-1], 0.005),
            "Open-Sora's copy of it, 0.25, four points": by_edges(moved[-1], 0.25, slice(3, 7)),
            "Open-Sora's Farneback rule": by_farneback(frames, mended=False),
            "Open-Sora's Farneback rule, mended": by_farneback(some, mended=True),
        }
        if tool is not None:
            said["shotdrift 0.2.2"] = by_shotdrift(tool, some)
        for name, word in said.items():
            answers.setdefault(name, []).append(word)
    answers["VBench's rule, the best share of other films"] = best_of_others(moved, films, truth)
    rows = [(name, right(said, truth)) for name, said in sorted(answers.items())]
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"conditions": common.conditions((time.perf_counter() - begin) / 60, 1), "answers": answers, "truth": truth}
    text = common.markdown(("", "direction of seven"), rows)
    common.write_report(args.out, facts, f"### {len(truth)} real shots, right, %\n\n{text}")


def best_of_others(moved: Sequence[Vectors], films: Sequence[str], truth: Sequence[str]) -> list[str]:
    """VBench's rule with the share that is right most often in all other films."""
    said = {factor: [by_edges(vectors, factor) for vectors in moved] for factor in FACTORS}

    def score(factor: float, film: str) -> int:
        return sum(s == t for s, t, f in zip(said[factor], truth, films, strict=True) if f != film)

    best = {film: max(FACTORS, key=lambda factor: score(factor, film)) for film in sorted(set(films))}
    return [said[best[film]][place] for place, film in enumerate(films)]


def right(said: Sequence[str], truth: Sequence[str]) -> str:
    return wilson(sum(s == t for s, t in zip(said, truth, strict=True)), len(truth))


if __name__ == "__main__":
    main()

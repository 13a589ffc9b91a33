"""How far a picture goes, as `experiments/twins.py` measures it: on clips of which it is known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from skimage import data, transform

from uniformer.camera_motion.footage import write_clip

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FRAMES = 7


@pytest.fixture(scope="module")
def twins() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)  # where a script finds its neighbours
        yield import_module("twins")


def film(path: Path, *, right: float = 0.0, down: float = 0.0, growth: float = 0.0) -> Path:
    """A photograph that goes so many widths from frame to frame, or grows by so much, about the middle."""
    photo = transform.resize(data.astronaut(), (240, 320), anti_aliasing=True)
    frames = []
    for i in range(FRAMES):
        scale = np.exp(growth * i)
        centre = transform.SimilarityTransform(translation=(-79.5, -59.5))
        grown = transform.SimilarityTransform(scale=1 / scale, translation=(159.5, 119.5))
        moved = transform.SimilarityTransform(translation=(-160 * right * i, -160 * down * i))
        frames.append(transform.warp(photo, centre + grown + moved, output_shape=(120, 160), order=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, (np.stack(frames) * 255).astype(np.uint8), np.random.default_rng(0))
    return path


def test_the_amount_is_how_far_the_picture_goes(tmp_path: Path, twins: ModuleType) -> None:
    steps = FRAMES - 1
    aside = film(tmp_path / "aside.mp4", right=0.02)
    assert twins.amount(aside, twins.RIGHT) == pytest.approx(0.02 * steps, rel=0.15)
    assert twins.amount(aside, twins.DOWN) < 0.01
    assert twins.amount(film(tmp_path / "up.mp4", down=-0.01), twins.DOWN) == pytest.approx(0.01 * steps, rel=0.15)
    assert twins.amount(film(tmp_path / "in.mp4", growth=0.03), twins.GROWTH) == pytest.approx(0.03 * steps, rel=0.15)


def test_the_share_of_pairs(twins: ModuleType) -> None:
    assert twins.told(np.array([2.0, 3.0]), np.array([1.0, 0.5])) == 100
    assert twins.told(np.array([1.0]), np.array([1.0])) == 50
    assert twins.told(np.array([1.0, 4.0]), np.array([2.0, 3.0])) == 50


def test_the_table(tmp_path: Path) -> None:
    entries = []
    for label, right in (("pan_left", 0.02), ("truck_left", 0.01)):
        name = f"train/{label}/photos_00000.mp4"
        film(tmp_path / name, right=right)
        entries.append({"path": name, "split": "train", "class": label, "world": "photos", "size": 0.1})
    (tmp_path / "paths.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    out = tmp_path / "out"
    command = [sys.executable, EXPERIMENTS / "twins.py", tmp_path, "--out", out, "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ((world, pair, turns, moves, of_turns, of_moves, share),) = json.loads((out / "report.json").read_text())["rows"]
    assert (world, pair, turns, moves, share) == ("photos", "pan_left and truck_left", 1, 1, "100")
    assert float(of_turns) == pytest.approx(2 * float(of_moves), rel=0.2)

"""How a picture goes, as `experiments/flows.py` measures it: on clips of which it is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from skimage import data, transform

from tests.scripts import ROOT, script
from uniformer.camera_motion.footage import write_clip

FRAMES = 13
flows = script("experiments/flows.py")


def film(path: Path, *, right: float = 0.0, down: float = 0.0, growth: float = 0.0, turn: float = 0.0) -> Path:
    """A photograph that goes so many widths from frame to frame, grows by so much or turns by so many radians;
    in a folder "..._then_..." it comes back in the second half."""
    photo = transform.resize(data.astronaut(), (240, 320), anti_aliasing=True)
    frames = []
    for i in range(FRAMES):
        step = min(i, FRAMES - 1 - i) if "then" in path.parent.name else i
        centre = transform.SimilarityTransform(translation=(-79.5, -59.5))
        grown = transform.SimilarityTransform(
            scale=np.exp(-growth * step), rotation=-turn * step, translation=(159.5, 119.5)
        )
        moved = transform.SimilarityTransform(translation=(-160 * right * step, -160 * down * step))
        frames.append(transform.warp(photo, centre + grown + moved, output_shape=(120, 160), order=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, (np.stack(frames) * 255).astype(np.uint8), np.random.default_rng(0))
    return path


def test_motions_are_what_the_picture_does(tmp_path: Path, flows: ModuleType) -> None:
    steps = FRAMES - 1
    aside = flows.motions(film(tmp_path / "aside.mp4", right=0.01)).sum(0)
    for column in (flows.RIGHT, flows.MEDIAN_RIGHT):
        assert aside[column] == pytest.approx(0.01 * steps, rel=0.15)
    assert np.abs(aside[[flows.DOWN, flows.MEDIAN_DOWN, flows.CLOCKWISE]]).max() < 0.01
    up = flows.motions(film(tmp_path / "up.mp4", down=-0.01)).sum(0)
    assert up[[flows.DOWN, flows.MEDIAN_DOWN]] == pytest.approx(-0.01 * steps, rel=0.15)
    closer = flows.motions(film(tmp_path / "in.mp4", growth=0.02)).sum(0)
    assert closer[[flows.GROWTH, flows.MEDIAN_GROWTH]] == pytest.approx(0.02 * steps, rel=0.15)
    round_ = flows.motions(film(tmp_path / "round.mp4", turn=0.02)).sum(0)
    assert round_[flows.CLOCKWISE] == pytest.approx(0.02 * steps, rel=0.15)


def test_the_share_of_pairs(flows: ModuleType) -> None:
    assert flows.told(np.array([2.0, 3.0]), np.array([1.0, 0.5])) == 100
    assert flows.told(np.array([1.0]), np.array([1.0])) == 50
    assert flows.told(np.array([1.0, 4.0]), np.array([2.0, 3.0])) == 50


def test_the_tables(tmp_path: Path) -> None:
    entries = []
    clips = {
        ("train", "pan_left"): {"right": 0.01},
        ("train", "truck_left"): {"right": 0.02},
        ("train", "roll_right"): {"turn": 0.02},  # the other way round than its name says
        ("train", "pan_right_then_left"): {"right": -0.01},
        ("val", "roll_right"): {"turn": 0.022},
        ("val", "pan_right_then_left"): {"right": -0.011},
    }
    for (split, label), motion in clips.items():
        name = f"{split}/{label}/photos_00000.mp4"
        film(tmp_path / name, **motion)
        entries.append({"path": name, "split": split, "class": label, "world": "photos", "size": 0.1})
    (tmp_path / "paths.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "experiments/flows.py", tmp_path, "--out", out, "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["truth"] == [["photos", "one way", 2, 4], ["photos", "there and back", 2, 2]]
    ((world, pair, turns, moves, of_turns, of_moves, share),) = report["twins"]
    assert (world, pair, turns, moves, share) == ("photos", "pan_left and truck_left", 1, 1, "0")
    assert float(of_turns) == pytest.approx(float(of_moves) / 2, rel=0.2)
    assert ["sequence", "all", "100.0"] in report["without parallax"]

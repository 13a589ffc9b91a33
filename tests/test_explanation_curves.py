"""The experiment on explanations: deletion and insertion over time, where by a linear network each frame adds a known
share, so that both curves are known; and the set whose classes are photographs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tests.scripts import script
from tests.tolerance import assert_close

experiment = script("experiments/explanations.py")
photo_parts = script("experiments/photo_parts.py")


@pytest.mark.parametrize("frames_of_a_piece", [1, 2])
def test_over_time_they_are_exact_by_a_linear_network(experiment: ModuleType, frames_of_a_piece: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 64, 96, 3)).astype(np.uint8)
    weights, bias, gone = rng.standard_normal(pixels.shape), 0.5, experiment.blurred(pixels)
    shares = (weights * (pixels.astype(float) - gone)).sum((1, 2, 3)).reshape(-1, frames_of_a_piece).sum(1)
    pieces = np.arange(len(pixels)).reshape(-1, frames_of_a_piece)

    def linear(frames: np.ndarray) -> float:
        return float((weights * frames).sum() + bias)

    orders = {"most first": shares, "least first": -shares}
    found = experiment.curves_of(pixels, list(pieces), orders, linear, rng)
    for name, worth in orders.items():
        steps = np.array_split(np.argsort(-worth), experiment.STEPS)
        done = np.cumsum([0, *(shares[step].sum() for step in steps)])
        deleted, inserted = linear(pixels) - done, linear(gone) + done
        assert_close(found[name], [deleted.mean(), inserted.mean()], weights.size, scale=255 * abs(weights).sum())
        assert_close(deleted[-1], linear(gone), weights.size, scale=255 * abs(weights).sum())
    deletion, insertion = zip(*(found[name] for name in ("most first", "middle", "random", "least first")), strict=True)
    assert deletion[0] < min(deletion[1:3]) <= max(deletion[1:3]) < deletion[3]
    assert insertion[0] > max(insertion[1:3]) >= min(insertion[1:3]) > insertion[3]


def test_parts_are_of_their_photograph_and_never_twice(
    photo_parts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for name, mean in {"dark": 40, "light": 200}.items():
        noise = np.random.default_rng(0).integers(-40, 40, (300, 400, 3))
        Image.fromarray((mean + noise).astype(np.uint8)).save(tmp_path / "photos" / f"{name}.png")
    counts = {"train": 6, "val": 2}
    options = [part for split, count in counts.items() for part in (f"--{split}", str(count))]
    monkeypatch.setattr(sys, "argv", ["photo_parts.py", str(tmp_path / "photos"), str(tmp_path / "set"), *options])
    photo_parts.main()
    parts = {}
    for split, count in counts.items():
        for name in ("dark", "light"):
            files = sorted((tmp_path / "set" / split / name).iterdir())
            assert len(files) == count
            for file in files:
                with Image.open(file) as part:
                    assert part.size == (128, 128)
                    assert abs(np.asarray(part).mean() - {"dark": 40, "light": 200}[name]) < 10
                parts[file] = file.read_bytes()
    assert len(set(parts.values())) == len(parts) == 16

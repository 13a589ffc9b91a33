"""It learns: short forms of the experiments in `experiments/`, whose full figures are in docs/learning.md."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from tests.scored import evaluate_model
from tests.scripts import script
from uniformer.checkpoints.load import load_model
from uniformer.datasets.open import open_dataset
from uniformer.training.loop import fit
from uniformer.training.recipe import load_recipe

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
RECIPES = EXPERIMENTS / "recipes"
experiment = script("experiments/moving_digits.py")


def top1(run: Path, data: Path) -> float:
    """Share right of a folder per class, by a run's result."""
    model, contract, _ = load_model(run / "model.safetensors")
    assert contract.input is not None
    scores = evaluate_model(model, open_dataset(data), contract.input, device="cpu", batch_size=32, workers=0)
    return scores.metrics()["top1"]


def test_learns_to_read_digits(experiment: ModuleType, tmp_path: Path) -> None:
    common = experiment.common
    parts = dict(zip(("train", "test"), common.split(common.handwritten()[1], 2 / 3), strict=True))
    common.write_pictures(tmp_path / "digits", parts)
    recipe = load_recipe(RECIPES / "still_digits.toml", ["epochs=2"])
    fit(recipe, open_dataset(tmp_path / "digits", split="train"), out=tmp_path / "run", device="cpu")
    assert top1(tmp_path / "run", tmp_path / "digits" / "test") > 0.9


DIRECTIONS = ["right", "left", "down", "up"]


def write_four_directions(experiment: ModuleType, folder: Path) -> None:
    """Upright digits of one size and light that move in four directions; those to be tested on are not trained on."""
    images, labels = experiment.common.handwritten()
    rng = np.random.default_rng(0)
    for split, count, rows in zip(("train", "test"), (960, 200), experiment.common.split(labels, 2 / 3), strict=True):
        motions = DIRECTIONS * (count // len(DIRECTIONS))
        courses = experiment.random_courses(motions, rng)
        courses[..., 2:] = 0.0, 0.6, 1.0  # angle, size, light
        clips = experiment.draw(images[rng.choice(rows, count)], courses)
        for number, (clip, motion) in enumerate(zip(clips, motions, strict=True)):
            name = f"{motion}/{number}.avi"
            experiment.write_clip(folder / split / name, clip)
            if split == "test":
                experiment.write_clip(folder / "shuffled" / name, clip[rng.permutation(len(clip))])
                experiment.write_clip(folder / "one_frame" / name, clip[[4] * len(clip)])


def test_learns_directions_from_the_order_of_frames(experiment: ModuleType, tmp_path: Path) -> None:
    """Guessing gives 25 %, and 50 % at most where frames out of order still tell across from up and down."""
    write_four_directions(experiment, tmp_path / "clips")
    recipe = load_recipe(RECIPES / "moving_digits.toml", ["epochs=3", "model.num_classes=4"])
    fit(recipe, open_dataset(tmp_path / "clips" / "train"), out=tmp_path / "run", device="cpu")
    assert top1(tmp_path / "run", tmp_path / "clips" / "test") > 0.85
    assert top1(tmp_path / "run", tmp_path / "clips" / "shuffled") < 0.6
    assert top1(tmp_path / "run", tmp_path / "clips" / "one_frame") < 0.45


def test_one_frame_has_the_same_distribution_under_every_motion(experiment: ModuleType) -> None:
    """The places on the five circles, at any frame, are spread alike: by the Kolmogorov-Smirnov distance to even."""
    motions = list(experiment.MOTIONS) * 2000
    courses = experiment.random_courses(motions, np.random.default_rng(0)).reshape(2000, 10, experiment.FRAMES, 5)
    even = (np.arange(2000)[:, None, None, None] + 0.5) / 2000
    distance = np.abs(np.sort(courses, axis=0) - even).max(axis=0)  # (10, T, 5)
    assert distance.max() < 0.05  # above it by chance: 2 exp(-2 * 2000 * 0.05^2) = 0.00009
    steps = (np.diff(courses, axis=2) + 0.5) % 1 - 0.5  # and yet each class moves its own way
    for motion, (which, way) in enumerate(experiment.MOTIONS.values()):
        own = steps[:, motion, :, which] * way
        assert experiment.PACE[0] <= own.min() + 1e-9
        assert own.max() <= experiment.PACE[1] + 1e-9
        assert np.abs(np.delete(steps[:, motion], which, axis=-1)).max() < 1e-9


def test_every_rhythm_shows_the_same_frames(experiment: ModuleType) -> None:
    """Each clip has all eight combinations of the three properties' states once, whichever the class."""
    rhythms = list(experiment.RHYTHMS) * 50
    courses = experiment.random_rhythms(rhythms, np.random.default_rng(0))
    for rhythm, course in zip(rhythms, courses, strict=True):
        assert np.ptp(course[:, 1:3], axis=0).max() == 0  # down and angle stay
        states = np.stack([course[:, which] != course[0, which] for which in (0, 3, 4)])
        assert len(np.unique(states, axis=1).T) == experiment.FRAMES
        changes = [int((np.diff(course[:, which]) != 0).sum()) for which in experiment.RHYTHMS[rhythm]]
        assert changes == [7, 3, 1]


def test_no_digit_is_both_learnt_from_and_tested_on(experiment: ModuleType) -> None:
    _, labels = experiment.common.handwritten()
    parts = experiment.common.split(labels, 0.6, 0.15)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for rows in parts:
        shares = np.bincount(labels[rows]) / np.bincount(labels)
        assert np.ptp(shares) < 0.02


def test_counting_shows_four_digits_in_turn(experiment: ModuleType) -> None:
    _, labels = experiment.common.handwritten()
    rows, rng = np.arange(500, 1000), np.random.default_rng(0)
    for way, step in (("up", 1), ("down", -1)):
        scans = np.stack([experiment.random_count(labels, rows, way, rng) for _ in range(100)])
        assert set(scans.flat) <= set(rows)
        digits = labels[scans].reshape(100, 4, 2)  # two scans of each
        assert (digits[..., 0] == digits[..., 1]).all()
        assert (np.diff(digits[..., 0], axis=1) % 10 == step % 10).all()
        assert set(digits[:, 0, 0]) == set(range(10))

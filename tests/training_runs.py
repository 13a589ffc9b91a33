"""Small data sets and recipes that train in seconds, for the tests of training."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from tests import odd_media
from tests.tiny import same
from tests.tolerance import assert_close, terms_of
from uniformer.checkpoints.load import load_model
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.open import open_dataset
from uniformer.support.settings import Table, merged, to_toml
from uniformer.training.recipe import Recipe, recipe_from

TINY = {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 64], "head_dim": 16, "num_classes": 2}
COLOURS = {
    "blue": (30, 60, 200),
    "red": (200, 60, 30),
}  # class -> colour: plain to see, once a network has learnt at all

#: No draw but the order of the samples.
STILL: Table = {
    "augment": {"rand_augment": "none", "scale": [1.0, 1.0], "ratio": [1.0, 1.0], "flip": 0.0, "erase_prob": 0.0},
    "mixing": {"prob": 0.0, "label_smoothing": 0.0},
}
#: Batch norms that stay as they are, so that a batch may be divided without a trace.
FROZEN_NORMS: Table = {"optimizer": {"freeze": ["stages.0", "stages.1", "norm"]}}
#: And an eps above rounding: what is 0 in truth, as the gradient of the keys' bias, AdamW makes as large as any other.
STEADY: Table = merged(FROZEN_NORMS, {"optimizer": {"eps": 1e-4}})

IMAGES: Table = {
    "name": "tiny",
    "arch": "uniformer_small",
    "batch_size": 4,
    "model": TINY,
    "input": {"size": [32, 32], "resize": 32},
    "optimizer": {"lr": 2e-3, "clip_grad": 20.0},
    "schedule": {"epochs": 2, "warmup_epochs": 0, "per": "step"},
    "data": {"workers": 0},
    "loop": {"log_every": 1},
}
CLIPS: Table = merged(
    IMAGES,
    {
        "arch": "uniformer_small_video",
        "input": {"frames": 4, "stride": 2, "clips": 1},
        "augment": {"rand_augment": "rand-m5-n2-mstd0.25", "interpolation": "bilinear", "repeats": 2},
    },
)


def recipe(*changes: Table, base: Table = IMAGES) -> Recipe:
    return recipe_from(table(*changes, base=base))


def table(*changes: Table, base: Table = IMAGES) -> Table:
    for change in changes:
        base = merged(base, change)
    return base


def recipe_file(path: Path, *changes: Table, base: Table = IMAGES) -> Path:
    path.write_text(to_toml(table(*changes, base=base)))
    return path


def make_images(folder: Path, train: int = 8, val: int = 4, size: int = 40) -> Path:
    """`train` and `val` pictures of each class, one colour and noise each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, colour in COLOURS.items():
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                noise = rng.integers(-25, 26, size=(size, size, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


def make_clips(folder: Path, train: int = 3, frames: int = 16) -> Path:
    """`train` clips of each class: numbered frames, slow or fast."""
    for name, pace in (("fast", 7), ("slow", 1)):
        place = folder / "train" / name
        place.mkdir(parents=True, exist_ok=True)
        for i in range(train):
            odd_media.encode(place / f"{i}.mp4", frames=frames, size=(64, 48), number=lambda k, p=pace, i=i: k * p + i)
    return folder


def splits(folder: Path, **options: Any) -> tuple[Manifest, Manifest]:
    train = open_dataset(folder, split="train", **options)
    return train, open_dataset(folder, split="val", classes=train.classes, **options)


def rows_of(path: Path) -> list[dict[str, str]]:
    """A CSV file with a header; nothing where it does not exist yet."""
    if not path.exists():
        return []
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def losses(out: Path) -> list[float]:
    """Of each step that a run has done."""
    return [float(row["loss"]) for row in rows_of(out / "metrics.csv") if row["loss"]]


def same_weights(one: Path, other: Path, name: str = "model.safetensors") -> bool:
    """Whether a file of two runs' folders holds the same tensors, bit for bit."""
    return same(load_file(one / name), load_file(other / name))


def assert_same_learning(one: Path, other: Path) -> None:
    """Losses and weights, but for the order of the sums of all steps."""
    terms = len(losses(other)) * terms_of(load_model(other / "model.safetensors")[0])
    assert_close(losses(one), losses(other), terms)
    mine, true = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert mine.keys() == true.keys()
    for key, tensor in true.items():
        if (
            tensor.is_floating_point()
        ):  # what stays 0 in truth has no size of its own: it may be off by a share of a step
            assert_close(mine[key], tensor, terms, scale=max(float(tensor.abs().max()), IMAGES["optimizer"]["lr"]))
        else:
            assert torch.equal(mine[key], tensor), key

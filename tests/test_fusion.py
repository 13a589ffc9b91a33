"""From the answers to parts of a video to one: what is averaged, what slow motion asks for, and what contracts say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import films
from tests.tiny import CLIPS, refused, tiny_model
from tests.tolerance import assert_close
from uniformer.camera_motion.classes import LOOK_ALIKES
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.records import BUNDLED
from uniformer.checkpoints.save import save_checkpoint
from uniformer.config import InputSpec
from uniformer.inference.predictor import Predictor
from uniformer.reading.sampling import clip_indices
from uniformer.tasks.fusion import Fusion, average_views

NAMES = ("left", "right", "shake", "static", "up", "down", "in")
PARTS = [[0, 1], [0, 0.5], [0.5, 1]]
SPARSE = replace(CLIPS, sampling="sparse", clips=1)


def contract(spec: InputSpec = SPARSE, **details: Any) -> Contract:
    return Contract(tiny_model(ndim=3).config, input=spec, classes=NAMES, details=details)


def logits(views: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((views, len(NAMES))).astype(np.float32)


def log_p(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).double().log_softmax(-1).numpy()


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_without_parts_it_is_the_mean_over_views_to_the_bit(average: Any) -> None:
    spec = replace(SPARSE, average=average, clips=4)
    assert np.array_equal(Fusion(contract(spec))(logits(4)), average_views(logits(4), spec))


def test_each_length_counts_alike_and_so_do_the_views_of_a_part() -> None:
    x = logits(6)  # two clips of each part
    p = log_p(x)
    expected = 0.5 * p[:2].mean(0) + 0.25 * (p[2:4].mean(0) + p[4:].mean(0))
    found = Fusion(contract(replace(SPARSE, clips=2), parts=PARTS))(x)
    assert_close(found, np.exp(log_p(expected)), len(NAMES))


def test_temperature_and_prior() -> None:
    found = Fusion(contract(temperature=0.5, prior={"up": 3.0}))(logits(1))
    expected = log_p(logits(1))[0] / 0.5 + np.log([1, 1, 1, 1, 3, 1, 1])
    assert_close(found, np.exp(log_p(expected)), len(NAMES))


def test_parts_that_stand_still_do_not_speak_against_slow_motion() -> None:
    """The whole hardly tells left from static; its halves stand still. But where they say shake, static loses."""
    whole = np.array([2, 0, 0, 1.5, 0, 0, 0], np.float32)
    still = np.array([0, 0, 0, 9, 0, 0, 0], np.float32)
    shaking = np.array([0, 0, 9, 0, 0, 0, 0], np.float32)
    slow = {"static": [name for name in NAMES if name not in ("static", "shake")]}
    plain, made = Fusion(contract(parts=PARTS)), Fusion(contract(parts=PARTS, slow=slow))
    assert NAMES[int(plain(np.stack([whole, still, still])).argmax())] == "static"
    assert NAMES[int(made(np.stack([whole, still, still])).argmax())] == "left"
    assert NAMES[int(made(np.stack([whole, shaking, shaking])).argmax())] == "shake"


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({"parts": [[0, 0.5]]}, "the first the whole"),
        ({"parts": [[0, 1], [0.5, 0.5]]}, "expected parts of a video"),
        ({"parts": "halves"}, "expected parts as"),
        ({"temperature": 0}, "expected a temperature of more than 0, got 0"),
        ({"temperature": "warm"}, "expected temperature as"),
        ({"prior": {"left": -1.0}}, "expected a prior of more than 0"),
        ({"prior": {"sideways": 2.0}}, "classes that the network has, got 'sideways'"),
        ({"slow": {"static": ["sideways"]}}, "classes that the network has, got 'sideways'"),
    ],
)
def test_what_a_contract_cannot_say(details: dict[str, Any], message: str, tmp_path: Path) -> None:
    """In a file from anywhere: one line, before anything is decoded."""
    save_checkpoint(tiny_model(ndim=3), tmp_path / "net.safetensors", contract(**details))
    with refused(message):
        Predictor(tmp_path / "net.safetensors")(np.zeros((8, 64, 64, 3), np.uint8))


def test_parts_are_sampled_as_if_they_were_the_whole() -> None:
    spec = replace(SPARSE, parts=((0.0, 1.0), (0.0, 0.5), (0.5, 1.0)))
    whole, first, second = clip_indices(spec, 60)
    assert np.array_equal(whole, clip_indices(SPARSE, 60)[0])
    assert np.array_equal(first, clip_indices(SPARSE, 30)[0])
    assert np.array_equal(second, 30 + first)


@pytest.mark.parametrize("count", [1, 3, SPARSE.frames, SPARSE.frames + 3])
def test_a_short_part_is_widened_so_that_frames_do_not_repeat(count: int) -> None:
    spec = replace(SPARSE, parts=((0.0, 1.0), (0.0, 0.1), (0.9, 1.0)))
    found = clip_indices(spec, count)
    assert found.min() >= 0
    assert found.max() < count
    wide = clip_indices(SPARSE, min(count, SPARSE.frames))[0]
    assert np.array_equal(found[1], wide)
    assert np.array_equal(found[2], max(count - SPARSE.frames, 0) + wide)


# ---- the model in the package ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled() -> Predictor:
    return Predictor(BUNDLED, device="cpu")


def moved(x: float, y: float) -> np.ndarray:
    """A window over a photograph that goes so many of its sides right and down, within two seconds: (48, 96, 96, 3)."""
    photo, side = films.photo(2), 140
    places = [(256 + side * x * t, 192 + side * y * t) for t in np.linspace(-0.5, 0.5, 48)]
    boxes = [(cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2) for cx, cy in places]
    return np.stack([np.asarray(photo.resize((96, 96), Image.Resampling.BICUBIC, box)) for box in boxes])


@pytest.mark.parametrize(
    ("x", "y", "pair"),
    [(0, 1.5, "tilt_down"), (0, -1.5, "tilt_up"), (1.5, 0, "pan_right"), (0.15, 0, "pan_right"), (0, 0, "static")],
)
def test_fast_and_slow_moves_of_a_photograph(x: float, y: float, pair: str, bundled: Predictor) -> None:
    """Seen as a whole alone, a tilt of 1.5 heights in two seconds was any other motion."""
    said = bundled(moved(x, y), fps=24).labels[0].name
    assert said in next((twins for twins in LOOK_ALIKES if pair in twins), (pair,))


def test_what_is_trained_from_it_has_an_input_of_its_own() -> None:
    """Parts belong to answers, not to what the next network is fed in training."""
    in_parts = contract(parts=PARTS)
    stored, fed = in_parts.input, Predictor((tiny_model(ndim=3), in_parts), device="cpu").spec
    assert isinstance(stored, InputSpec)
    assert fed is not None
    assert (len(stored.parts), len(fed.parts)) == (1, 3)

"""Things pasted before the lens: where they are told to be, and the rest as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from uniformer.config import InputSpec
from uniformer.errors import InputError
from uniformer.reading.augment import augment_clip
from uniformer.reading.foreground import Motion, _pasted, paste_foreground
from uniformer.reading.options import Augment

SPEC = InputSpec(frames=4, size=(40, 40), resize=40)
BARE = Augment(rand_augment=None, erase_prob=0, flip=0, interpolation="bilinear")


def clip(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 60, 80, 3), np.uint8)


def test_a_cutout_is_where_its_motion_says() -> None:
    """White on black; the picture goes from -1 to 1 both ways, sizes are halves of its height."""
    x, y, size = np.array([-0.5, 0.0, 0.4]), np.array([0.2, -0.3, 0.0]), np.array([0.2, 0.4, 0.3])
    box = torch.cat([torch.full((3, 32, 32), 255.0), torch.ones(1, 32, 32)])
    seen = _pasted(torch.zeros(3, 3, 60, 80), box, Motion(x, y, size, np.zeros(3)), slimness=0.5)[:, 0] / 255
    rows, columns = torch.arange(60) + 0.5, torch.arange(80) + 0.5
    area = seen.sum((1, 2))
    assert area.numpy() == pytest.approx((60 * size) ** 2 * 0.5, rel=0.07)  # as wide as half its height
    centres = (seen.sum(1) * columns).sum(1) / area, (seen.sum(2) * rows).sum(1) / area
    assert centres[0].numpy() == pytest.approx(40 * (1 + x), abs=0.2)
    assert centres[1].numpy() == pytest.approx(30 * (1 + y), abs=0.2)


def test_a_cutout_turns_without_growing() -> None:
    box = torch.cat([torch.full((3, 32, 32), 255.0), torch.ones(1, 32, 32)])
    still = np.zeros(2)
    motion = Motion(still, still, np.full(2, 0.5), np.array([0.0, np.pi / 2]))
    seen = _pasted(torch.zeros(2, 3, 60, 80), box, motion, slimness=0.5)[:, 0] > 127
    tall, wide = ((frame.any(1).sum().item(), frame.any(0).sum().item()) for frame in seen)
    assert tall == (30, 16) or tall == pytest.approx((30, 15), abs=1)
    assert wide == pytest.approx(tall[::-1], abs=1)


def test_clips_stay_clips_and_seeds_repeat() -> None:
    untouched = 0
    for seed in range(20):
        frames = clip(seed)
        before = frames.copy()
        pasted = paste_foreground(frames, np.random.default_rng(seed))
        assert np.array_equal(frames, before)
        assert (pasted.shape, pasted.dtype) == (frames.shape, np.uint8)
        assert np.array_equal(pasted, paste_foreground(frames, np.random.default_rng(seed)))
        assert not np.array_equal(pasted, frames)
        untouched += (pasted == frames).all((0, 3)).mean() > 0.1
    assert untouched > 8  # in two of three nothing but the cut-outs changes


def test_it_comes_as_often_as_asked_and_no_draw_is_spent_without_it() -> None:
    plain = [augment_clip(clip(), SPEC, BARE, np.random.default_rng(seed)) for seed in range(60)]
    seldom = replace(BARE, foreground=0.3)
    changed = 0
    for seed, view in enumerate(plain):
        rng = np.random.default_rng(seed)
        if rng.random() >= 0.3:  # the draw that decides; what follows is the plain augmentation
            expected = augment_clip(clip(), SPEC, BARE, rng)
            assert torch.equal(augment_clip(clip(), SPEC, seldom, np.random.default_rng(seed)), expected)
        else:
            changed += 1
        assert torch.equal(view, augment_clip(clip(), SPEC, BARE, np.random.default_rng(seed)))
    assert 8 < changed < 30
    with pytest.raises(InputError, match=r"expected foreground in \[0, 1\], got 2"):
        Augment(foreground=2)

"""Dense label maps that follow a picture's augmentation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.data.auto_augment import rand_augment_transform

from tests.test_augment import BARE, IMAGE, SIZE, STRINGS, picture
from uniformer.config import InputSpec
from uniformer.reading.augment import MOVING, augment_labelled_image, draw
from uniformer.reading.options import Augment


def test_a_label_map_follows_the_operations_that_move_pixels():
    """A picture of 4 x 4 plain blocks, each of its own red, and a map of the blocks' numbers: they move alike."""
    block, grid = 32, (4, 4)
    numbers = np.arange(16).reshape(grid)
    source = np.zeros((4 * block, 4 * block, 3), np.uint8)
    source[..., 0] = 10 + 12 * numbers.repeat(block, axis=0).repeat(block, axis=1)
    label_map = torch.from_numpy(np.stack((np.ones(grid), numbers))[:, None]).float()  # (2, 1, 4, 4)
    spec = InputSpec(size=(128, 128), resize=128, mean=(0.9, 0.9, 0.9), std=(1.0, 1.0, 1.0))  # uncovered: red of 230
    name = "rand-m6-n1-p1"
    augment = Augment(name, scale=(1, 1), ratio=(1, 1), flip=0.5, erase_prob=0)
    seen = dict.fromkeys(MOVING, 0)
    for i in range(80):
        np.random.seed(draw(128, 128, spec, augment, np.random.default_rng(i)).seed)  # noqa: NPY002
        (operation,) = np.random.choice(rand_augment_transform(name, {}).ops, 1)  # noqa: NPY002
        view, moved, crop = augment_labelled_image(source, label_map, spec, augment, np.random.default_rng(i))
        assert crop.tolist() == [0, 0, 1, 1]
        if operation.name not in MOVING:
            assert torch.equal(moved[1, 0].sort(dim=1).values, label_map[1, 0])  # flipped, perhaps
            continue
        seen[operation.name] += 1
        red = ((view[0] + 0.9) * 255).round().int()
        for row, column in np.ndindex(grid):
            patch = red[block * row + 12 : block * row + 20, block * column + 12 : block * column + 20]
            if patch.max() - patch.min() > 3:
                continue  # on an edge
            score, number = moved[:, 0, row, column]
            uncovered = patch.float().mean() > 215
            assert bool(score == 0) == bool(uncovered)
            if not uncovered:
                assert number == round((float(patch.float().mean()) - 10) / 12)
    assert all(seen.values())


@pytest.mark.parametrize("name", STRINGS)
def test_label_maps_keep_their_shape_whatever_the_operations(name):
    label_map = torch.rand(2, 5, 18, 18).half()
    augment = Augment(name, op_interpolation="random", interpolation="random")
    for seed in range(6):
        view, moved, crop = augment_labelled_image(picture(0), label_map, IMAGE, augment, np.random.default_rng(seed))
        assert view.shape == (3, *SIZE)
        assert moved.shape == label_map.shape
        assert moved.dtype == label_map.dtype
        assert (crop >= 0).all()
        assert (crop <= 1).all()
        box = draw(70, 90, IMAGE, augment, np.random.default_rng(seed)).crop.source
        expected = [box.top / 70, box.left / 90, (box.top + box.height) / 70, (box.left + box.width) / 90]
        assert crop.tolist() == pytest.approx(expected)


def test_without_operations_a_label_map_is_only_flipped():
    label_map = torch.rand(2, 5, 6, 6)
    for flip, expected in ((0.0, label_map), (1.0, label_map.flip(-1))):
        augment = replace(BARE, flip=flip)
        _, moved, _ = augment_labelled_image(picture(0), label_map, IMAGE, augment, np.random.default_rng(0))
        assert torch.equal(moved, expected)

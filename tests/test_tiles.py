"""Tiles of huge pictures: together they answer for every pixel once."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tiny import refused
from uniformer.reading.tiles import tiles_of


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (100, 300), (1000, 77), (257, 511), (4000, 3000)])
@pytest.mark.parametrize("side", [64, 100, 256])
def test_every_pixel_is_answered_for_once(size: tuple[int, int], side: int) -> None:
    seen = np.zeros(size, np.uint8)
    ground = np.arange(size[0])[:, None] * 10_000 + np.arange(size[1])
    found = np.full(size, -1)
    tiles = list(tiles_of(*size, side))
    for tile in tiles:
        part = ground[tile.rows, tile.columns]
        assert part.shape == (min(size[0], side), min(size[1], side))
        seen[tile.kept_rows, tile.kept_columns] += 1
        found[tile.kept_rows, tile.kept_columns] = part[tile.inside]
    assert (seen == 1).all()
    assert np.array_equal(found, ground)


def test_no_border_is_answered_for_but_the_pictures() -> None:
    side = 128
    for tile in tiles_of(1000, 700, side):
        for looked, kept, length in ((tile.rows, tile.kept_rows, 1000), (tile.columns, tile.kept_columns, 700)):
            assert looked.start == 0 or kept.start - looked.start >= side // 8
            assert looked.stop == length or looked.stop - kept.stop >= side // 8


def test_tiles_have_a_least_size() -> None:
    with refused("expected tiles of at least 64 pixels, got 8"):
        next(tiles_of(10, 10, 8))

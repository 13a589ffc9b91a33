"""Masks as run lengths: to the byte what pycocotools writes, and what it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from tests.tiny import refused
from uniformer.reading.run_lengths import compressed, counts_of, decode_mask, encode_mask


def discs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(int(rng.integers(0, 6))):
        cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(1, max(height, width) / 2)
        mask ^= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    return mask


def made_masks() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    masks = {
        "none": np.zeros((5, 7), bool),
        "all": np.ones((5, 7), bool),
        "one pixel": np.ones((1, 1), bool),
        "first pixel": np.eye(6, dtype=bool) & (np.arange(6) == 0),
        "last pixel": np.eye(6, dtype=bool) & (np.arange(6) == 5),
        "noise": rng.random((61, 83)) < 0.5,
        "a long run": np.arange(3_000_000).reshape(1500, 2000) > 2_990_000,
        "a flat picture": rng.random((1, 500)) < 0.1,
        "a tall picture": rng.random((500, 1)) < 0.1,
        "nothing": np.zeros((0, 4), bool),
    }
    sizes = rng.integers(1, 200, (40, 2)).tolist()
    return masks | {f"discs {number}": discs(rng, *size) for number, size in enumerate(sizes)}


@pytest.mark.parametrize(("name", "mask"), made_masks().items(), ids=made_masks())
def test_they_are_those_of_pycocotools(name: str, mask: np.ndarray) -> None:
    want = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    found = encode_mask(mask)
    assert found == {"size": list(mask.shape), "counts": want["counts"].decode()}
    assert np.array_equal(decode_mask(found), mask)
    assert np.array_equal(decode_mask(want), mask)  # as bytes too
    listed = {"size": found["size"], "counts": counts_of(found).tolist()}
    assert np.array_equal(decode_mask(listed), mask)
    assert compressed(found) == compressed(want) == compressed(listed) == found


def test_numbers_and_views_are_taken_for_masks() -> None:
    mask = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3
    assert encode_mask(mask) == encode_mask(mask != 0)
    assert encode_mask(mask[::2, ::-1]) == encode_mask(np.ascontiguousarray(mask[::2, ::-1] != 0))


DAMAGED: dict[str, Any] = {
    "no size": {"counts": "0"},
    "a size of three": {"size": [1, 2, 3], "counts": "6"},
    "a size of texts": {"size": ["1", "2"], "counts": "2"},
    "a negative size": {"size": [-1, -2], "counts": "2"},
    "no counts": {"size": [2, 2]},
    "too few pixels": {"size": [2, 2], "counts": "3"},
    "too many": {"size": [2, 2], "counts": "5"},
    "another kind of text": {"size": [2, 2], "counts": "né"},
    "cut off": {"size": [200, 2], "counts": "PnZ"[:2]},
    "endless": {"size": [2, 2], "counts": "PPPPPPPPPPPPPPPP0"},
    "a negative count": {"size": [2, 2], "counts": [-2, 6]},
    "a negative difference": {"size": [2, 2], "counts": "O5"},
    "counts of another kind": {"size": [2, 2], "counts": [1.5, 2.5]},
    "a terabyte": {"size": [10**6, 10**6], "counts": [10**12]},
    "a wide nothing": {"size": [2**31, 0], "counts": []},
    "a side beyond 32 bits": {"size": [2**31, 1], "counts": [2**31]},
    "a character that no question mark stands for": {"size": [1, 15], "counts": "\u20ac"},
    "a list": [1, 2],
}


@pytest.mark.parametrize("runs", DAMAGED.values(), ids=DAMAGED)
def test_damaged_ones_are_refused_in_a_line(runs: Any) -> None:
    with refused("expected"):
        decode_mask(runs)

"""Which items a network learnt from, in a few bytes an item: carried by its contract, so that no test forgets it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uniformer.config import Typed
from uniformer.errors import shown

BITS_AN_ITEM = 32  # up to a quarter million items: one of five million others is then taken for one of them
LEAST_BYTES = 1 << 9  # a filter of a few bits would know few patterns
MOST_BYTES = 1 << 20  # however many there are: with a million items one of 55 others is
MOST_HASHES = 32

Sums = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class TrainedOn(Typed):
    """A Bloom filter of the sums of items, 64 bits each: none of them is missed, few others are taken for one of them.

    It tells no names and no contents. Raises `InputError` for values that are out of bounds.
    """

    items: int
    hashes: int  #: bits that an item sets
    bits: str  #: base64, little-endian in each byte

    def _problems(self) -> Iterable[str]:
        if not 0 <= self.items < 1 << 40:
            yield f"expected trained_on of 0 to {1 << 40} items, got {self.items}"
        if not 1 <= self.hashes <= MOST_HASHES:
            yield f"expected trained_on of 1 to {MOST_HASHES} hashes, got {self.hashes}"
        try:
            size = len(self._bytes)
        except ValueError:
            yield f"expected the bits of trained_on in base64, got {shown(repr(self.bits))}"
            return
        if not 1 <= size <= MOST_BYTES:
            yield f"expected 1 to {MOST_BYTES} bytes of trained_on, got {size}"

    @classmethod
    def of(cls, sums: Sums) -> TrainedOn:
        """Of the items' sums, (N,)."""
        size = min(max(-(-len(sums) * BITS_AN_ITEM // 8), LEAST_BYTES), MOST_BYTES)
        hashes = min(max(round(8 * size / max(len(sums), 1) * math.log(2)), 1), MOST_HASHES)
        bits = np.zeros(8 * size, np.bool_)
        for places in _places(sums, hashes, len(bits)):
            bits[places] = True
        packed = np.packbits(bits, bitorder="little").tobytes()
        return cls(len(sums), hashes, base64.b64encode(packed).decode())

    def has(self, sums: Sums) -> npt.NDArray[np.bool_]:
        """Whether each of the items with these sums is among them, (N,)."""
        bits = np.unpackbits(np.frombuffer(self._bytes, np.uint8), bitorder="little")
        found = np.ones(len(sums), np.bool_)
        for places in _places(sums, self.hashes, len(bits)):
            found &= bits[places] == 1
        return found

    @property
    def mistaken(self) -> float:
        """The share of other items that are taken for one of them."""
        return float((1 - math.exp(-self.hashes * self.items / (8 * len(self._bytes)))) ** self.hashes)

    @property
    def _bytes(self) -> bytes:
        return base64.b64decode(self.bits, validate=True)


def _places(sums: Sums, hashes: int, bits: int) -> Iterator[npt.NDArray[np.int64]]:
    """The bits of each item, one after the other: from one half of its sum in steps of the other."""
    first, step = sums & np.uint64(0xFFFFFFFF), sums >> np.uint64(32) | np.uint64(1)
    for number in range(hashes):
        yield ((first + np.uint64(number) * step) % np.uint64(bits)).astype(np.int64)

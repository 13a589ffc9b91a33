"""Many texts as two arrays, and parts of any kind that lie one after the other."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uniformer.errors import InputError

_CHUNK = 1 << 16  # rows gathered at once: bounds the index array of `Strings.take`


@dataclass(frozen=True, eq=False)
class Strings:
    """Many texts as one array of bytes. `offsets` (N + 1,) says where each begins and ends in `blob`."""

    blob: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def pack(cls, texts: Iterable[str]) -> Strings:
        blob, offsets = bytearray(), array("q", [0])
        for text in texts:
            blob += os.fsencode(text)  # a file name need not be valid UTF-8
            offsets.append(len(blob))
        return cls(np.frombuffer(bytes(blob), np.uint8), np.frombuffer(offsets, np.int64))

    def __post_init__(self) -> None:
        check_offsets("texts", self.offsets, len(self.blob))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]  # from the end where negative
        return os.fsdecode(self.blob[self.offsets[index] : self.offsets[index + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def take(self, indices: npt.NDArray[np.int64]) -> Strings:
        starts, ends = self.offsets[:-1][indices], self.offsets[1:][indices]
        offsets = offsets_of(ends - starts)
        blob = np.empty(offsets[-1], np.uint8)
        for low in range(0, len(indices), _CHUNK):
            part = slice(low, low + _CHUNK)
            first = offsets[part][0]
            last = offsets[min(low + _CHUNK, len(indices))]
            blob[first:last] = self.blob[spans(starts[part], ends[part])]
        return Strings(blob, offsets)


def check_offsets(what: str, offsets: npt.NDArray[np.int64], end: int) -> None:
    """Raises `InputError` unless each part begins where the one before ends, from 0 to `end`."""
    is_sound = offsets.ndim == 1 and len(offsets) and offsets[0] == 0 and offsets[-1] == end
    if not (is_sound and (offsets[1:] >= offsets[:-1]).all()):
        raise InputError(f"expected {what} one after the other, from 0 to {end}, found other offsets")


def offsets_of(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(N + 1,): where each of N parts of these sizes begins, one after the other, and where the last ends."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def spans(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The integers of [starts[0], ends[0]), then of [starts[1], ends[1]), ..."""
    sizes = ends - starts
    begins = np.cumsum(sizes) - sizes  # where each span lies in the answer
    return np.repeat(starts - begins, sizes) + np.arange(sizes.sum())

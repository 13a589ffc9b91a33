"""A huge picture in tiles: each is looked at with what lies around it, and answers for its own part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from uniformer.errors import InputError


class Tile(NamedTuple):
    """A part of a picture: what is looked at, and what of it is answered for."""

    rows: slice  #: looked at, in pixels of the picture
    columns: slice
    kept_rows: slice  #: answered for; the kept parts of all tiles fill the picture, each pixel once
    kept_columns: slice

    @property
    def inside(self) -> tuple[slice, slice]:
        """The kept part in pixels of the tile."""
        return _less(self.kept_rows, self.rows.start), _less(self.kept_columns, self.columns.start)


def tiles_of(height: int, width: int, side: int) -> Iterator[Tile]:
    """Tiles of at most `side` pixels, all of one size, row by row; neighbours share a quarter of it or more, and the
    middle of that divides them. Raises `InputError` for sides under 64."""
    if side < 64:
        raise InputError(f"expected tiles of at least 64 pixels, got {side}")
    for rows, kept_rows in _cuts(height, side):
        for columns, kept_columns in _cuts(width, side):
            yield Tile(rows, columns, kept_rows, kept_columns)


def _cuts(length: int, side: int) -> Iterator[tuple[slice, slice]]:
    count = 1 if length <= side else 1 + -(-(length - side) // (side - side // 4))
    starts = [0, *(round(i * (length - side) / (count - 1)) for i in range(1, count))]
    ends = [min(start + side, length) for start in starts]
    borders = [0, *((end + start) // 2 for end, start in zip(ends, starts[1:], strict=False)), length]
    for number in range(count):
        yield slice(starts[number], ends[number]), slice(borders[number], borders[number + 1])


def _less(span: slice, start: int) -> slice:
    return slice(span.start - start, span.stop - start)

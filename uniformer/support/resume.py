"""Finished work on disk, so that a run that was cut short goes on: whose results they are, and records as they come.

A kill can spoil the last record of a file at most: it is dropped and made again. Nothing that is there is touched
before the first new record. numpy only.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import warnings
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from uniformer.errors import InputError, cannot_write
from uniformer.support.closing import Closing
from uniformer.support.files import atomic_path, check_outputs, clear_away, locked, make_folder, write_whole
from uniformer.support.texts import parse_json, read_whole

Record = TypeVar("Record")

PIECE = 1 << 20  # bytes of a file that are copied at a time

# ---- whose results they are ------------------------------------------------------------------------------------------


def claim(path: Path, run: Mapping[str, Any], what: str) -> None:
    """Write into `path` what the folder's results, `what` in a word, are of; or find the same said there already.

    Raises `InputError` where its folder holds another run's results or cannot be written.
    """
    found = read_claim(path)
    if found is None:
        clear_away([path])
        write_whole(path, json.dumps(run, indent=2) + "\n")
        return
    other = [name for name in {**run, **found} if found.get(name) != run.get(name)]
    if other:
        raise InputError(
            f"{path.parent} holds {what} of another run ({', '.join(other)} differ): expected an empty folder or the "
            "same run"
        )


def read_claim(path: Path) -> dict[str, Any] | None:
    """What a folder's results are of; None where there are none. Raises `InputError` for a damaged file."""
    if not path.is_file():
        return None
    expected = "a description of results"
    run = parse_json(read_whole(path, expected), str(path), expected)
    if not isinstance(run, dict):
        raise InputError(f"{path}: expected a description of results, found something else")
    return run


# ---- records, appended as they come ----------------------------------------------------------------------------------


Data = bytes | mmap.mmap  #: what a file holds


class Codec(Protocol[Record]):
    """How records lie in a file, one after the other, behind a `header`."""

    header: bytes

    def encode(self, record: Record, /) -> bytes: ...

    def decode(self, data: Data, path: Path, /) -> Iterable[tuple[Record, slice]]:
        """The records of a file that stay, and where they lie: without what a kill cut short.

        Raises `InputError` where `data` is another kind of file.
        """


class Records(Closing, Generic[Record]):
    """A file of records, each safe from a kill of this process once `add` returns.

    The first one is written together with those of earlier runs that stay, whole or not at all; `resume=False` begins
    anew. Raises `InputError` where the file is of another kind or cannot be written.
    """

    def __init__(self, path: Path, codec: Codec[Record], *, resume: bool = True):
        is_stream = path.exists() and not path.is_file()  # what /dev/fd/N links to has no path
        self.path = path.resolve() if path.is_symlink() and not is_stream else path
        self._codec, self._resume = codec, resume
        self._data: Data = b""
        self._kept: list[slice] | None = None  # what of it stays, until it is written
        self._file: Any = None

    def read(self) -> list[Record]:
        """The records of earlier runs that stay. The file is read piece by piece, and not held."""
        records = list[Record]()
        self._data, self._kept = self._mapped(), []
        for record, where in self._codec.decode(self._data, self.path):
            records.append(record)
            touches = bool(self._kept) and self._kept[-1].stop == where.start
            begin = self._kept.pop().start if touches else where.start
            self._kept.append(slice(begin, where.stop))
        return records

    def _mapped(self) -> Data:
        """What the file holds, with the file for its memory."""
        try:
            if not self._resume or not self.path.is_file() or not self.path.stat().st_size:
                return b""
            with open(self.path, "rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror}") from None

    def add(self, record: Record) -> None:
        """Append one record."""
        data = self._codec.encode(record)
        try:
            if self._file is None:
                data = self._begin(data)
            left = memoryview(data)
            while left:  # on a full disk one call takes a part, and the next one says why
                left = left[self._file.write(left) :]
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def _begin(self, data: bytes) -> bytes:
        """Open the file, with the first record in it; what is still to be written: of a device or a pipe, all."""
        if self._kept is None:
            self.read()
        first = itertools.chain([self._codec.header], *map(self._pieces, self._kept or []), [data])
        if self.path.is_file() or not self.path.exists():
            clear_away([self.path])
            with atomic_path(self.path) as temporary, open(temporary, "wb") as f:
                f.writelines(first)
            first = itertools.chain()
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        left = b"".join(first)
        self._data, self._kept = b"", []
        return left

    def _pieces(self, where: slice) -> Iterator[bytes]:
        """A part of what stays, some of it at a time."""
        for begin in range(where.start, where.stop, PIECE):
            yield self._data[begin : min(begin + PIECE, where.stop)]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def whole_lines(data: Data) -> Iterator[slice]:
    """Where the lines of a file lie, with their ends; the last is left out where it has none."""
    begin = 0
    while end := data.find(b"\n", begin) + 1:  # names may hold what else splitlines splits at
        yield slice(begin, end)
        begin = end


class _JsonLines:
    header = b""

    def encode(self, entry: dict[str, Any]) -> bytes:
        return json.dumps(entry).encode() + b"\n"

    def decode(self, data: Data, path: Path) -> Iterable[tuple[dict[str, Any], slice]]:
        for number, line in enumerate(whole_lines(data), start=1):
            try:
                entry = parse_json(data[line], str(path))
                hash(entry["path"])
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{path}, line {number}: expected an entry of a journal, found another") from None
            yield entry, line


class Journal(Records[dict[str, Any]]):
    """One JSON object a line; `entries` holds what is there by its "path". Of two with one path the later counts."""

    def __init__(self, path: Path, *, resume: bool = True):
        super().__init__(path, _JsonLines(), resume=resume)
        self.entries = {entry["path"]: entry for entry in self.read()}

    def add(self, entry: dict[str, Any]) -> None:
        super().add(entry)
        self.entries[entry["path"]] = entry


@contextmanager
def open_journal(
    path: Path,
    outputs: Collection[Path],
    inputs: Iterable[str] = (),
    *,
    resume: bool = True,
    overwrite: bool = False,
) -> Iterator[Journal]:
    """The journal of work that writes `outputs`, its folder locked and cleared of what a kill left half written.

    Raises `InputError` where the folder has another run, where an output is one of `inputs` or, unless `overwrite`,
    where outputs are there but no journal.
    """
    with locked(path.parent) as unlocked:
        if unlocked:
            warnings.warn(unlocked, stacklevel=1)
        check_outputs(outputs, inputs, overwrite=overwrite or path.exists())
        try:
            path.touch()  # before the first output: from now on those that are there are of this work
        except OSError as error:
            raise cannot_write(path, error) from None
        with Journal(path, resume=resume) as journal:
            yield journal


class _FixedRows:
    """Rows of one size, each with its checksum. One that fails it, as a crash of the machine may leave, is dropped."""

    header = b""

    def __init__(self, dtype: np.dtype[Any]):
        self._dtype = dtype

    def encode(self, row: npt.NDArray[Any]) -> bytes:
        data = row.tobytes()
        return data + zlib.crc32(data).to_bytes(4, "little")

    def decode(self, data: Data, path: Path) -> Iterable[tuple[npt.NDArray[Any], slice]]:
        size = self._dtype.itemsize + 4
        for begin in range(0, len(data) - size + 1, size):
            piece = data[begin : begin + size]
            if zlib.crc32(piece[:-4]) == int.from_bytes(piece[-4:], "little"):
                yield np.frombuffer(piece, self._dtype, 1), slice(begin, begin + size)


class _ByteRows:
    """Rows (item, data) of any length, each with its length before it and its checksum behind it.

    The length may be what a crash of the machine spoilt, so after a row that fails its sum the next mark is looked for:
    those behind it stay.
    """

    header = b""
    _MARK, _LEAST = b"ROW\0", 32  # a mark, then length, sum and item in 8 bytes each, data, checksum

    def encode(self, row: npt.NDArray[Any]) -> bytes:
        data: bytes = row["row"]["data"].item()
        numbers = (len(data), int(row["sum"]), int(row["row"]["item"]))
        piece = self._MARK + b"".join(n.to_bytes(8, "little") for n in numbers) + data
        return piece + zlib.crc32(piece).to_bytes(4, "little")

    def decode(self, data: Data, path: Path) -> Iterable[tuple[npt.NDArray[Any], slice]]:
        place = data.find(self._MARK)
        while 0 <= place <= len(data) - self._LEAST:
            length, item_sum, item = (int.from_bytes(data[place + k : place + k + 8], "little") for k in (4, 12, 20))
            piece = data[place : place + self._LEAST + length]
            is_whole = len(piece) == self._LEAST + length and item < 1 << 63
            if is_whole and zlib.crc32(piece[:-4]) == int.from_bytes(piece[-4:], "little"):
                row = np.array([(item_sum, (item, piece[28:-4]))], _with_sum(BYTE_ROWS))
                yield row, slice(place, place + len(piece))
                place += len(piece)
            else:
                place += 1
            place = data.find(self._MARK, place)


def _with_sum(dtype: npt.DTypeLike) -> np.dtype[Any]:
    return np.dtype([("sum", "<u8"), ("row", np.dtype(dtype))])


BYTE_ROWS = np.dtype([("item", "<i8"), ("data", "O")])  #: of rows that hold bytes, as many as each needs
ROWS_KEY = "run.json"  #: in a folder of rows: what they are results of


class RowLog:
    """Rows of `dtype`, a structured type with the field `item`, in a folder; `key` says what they are results of.

    Rows are of one size, or `BYTE_ROWS`, whose field `data` holds bytes. With each row lies the sum of the item it was
    made of, out of `sums`, (items,): a row of another sum, as of a file that was replaced, is none. Each process of a
    run appends to a file of its own; who wrote a row does not matter.
    Raises `InputError` where the folder holds rows of another key or cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        key: Mapping[str, str],
        dtype: npt.DTypeLike,
        sums: npt.NDArray[np.uint64],
    ):
        self._folder, self._key, self._sums = Path(folder), key, sums
        self._dtype = _with_sum(dtype)
        self._codec: Codec[npt.NDArray[Any]] = _ByteRows() if dtype == BYTE_ROWS else _FixedRows(self._dtype)

    def read(self) -> npt.NDArray[Any]:
        """In one process, before the others begin: the rows of earlier runs that still hold, each item once."""
        claim(self._folder / ROWS_KEY, self._key, "answers")
        parts = [Records(path, self._codec).read() for path in sorted(self._folder.glob("rows-*.bin"))]
        kept = np.concatenate([np.empty(0, self._dtype), *(row for part in parts for row in part)])
        rows = kept["row"]
        holds = rows["item"] < len(self._sums)
        holds[holds] = kept["sum"][holds] == self._sums[rows["item"][holds]]
        holds &= kept["sum"] > 0  # of no file there is nothing to go by
        rows = rows[holds]
        return rows[np.unique(rows["item"], return_index=True)[1]]

    @contextmanager
    def begin(self, rank: int) -> Iterator[Callable[[npt.NDArray[Any]], None]]:
        """In every process: what keeps its rows."""
        make_folder(self._folder)  # read() did so, unless on another machine
        with Records(self._folder / f"rows-{rank}.bin", self._codec) as records:
            yield lambda row: records.add(np.array((self._sums[row["item"]], row), self._dtype))

"""Finished rows of a long run in one folder, so that a killed run goes on where it was. numpy only.

Each process appends rows of one fixed size to a file of its own, so a kill can spoil the last row at most: it fails its
checksum and is computed again. Every row carries the number of its item; who wrote it does not matter.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from uniformer.errors import cannot_write
from uniformer.evaluation.claim import claim

KEY_NAME = "run.json"  # what the rows are results of


class ResultLog:
    """Rows of `dtype`, a structured type with the field `item`, under `folder`; `key` says what they are results of.

    Usage: `rows = log.read()` in one process, then `log.begin(rank)` and `log.add(row)` in every one, then `close()`.
    Raises `InputError` where the folder holds rows of another key or cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], key: Mapping[str, str], dtype: npt.DTypeLike):
        self.folder, self.key = Path(folder), dict(key)
        self.dtype = np.dtype(dtype)
        self._stored = np.dtype([("row", self.dtype), ("crc", "<u4")])
        self._file: Any = None

    def read(self) -> npt.NDArray[Any]:
        """The rows of earlier runs, each item once."""
        claim(self.folder / KEY_NAME, self.key, "answers")
        parts = [self._read_part(path) for path in sorted(self.folder.glob("rows-*.bin"))]
        rows = np.concatenate([np.empty(0, self.dtype), *parts])
        return rows[np.unique(rows["item"], return_index=True)[1]]

    def begin(self, rank: int) -> Self:
        """Open this process's file; a row that a kill cut short is dropped."""
        path = self.folder / f"rows-{rank}.bin"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # read() made it, unless on another machine
            self._file = open(path, "ab")  # noqa: SIM115 - closed by close()
            size = self._file.tell()
            self._file.truncate(size - size % self._stored.itemsize)
        except OSError as error:
            raise cannot_write(path, error) from None
        return self

    def add(self, row: npt.NDArray[Any]) -> None:
        """Append one row, safe from a kill of this process once the call returns."""
        data = row.tobytes()
        try:
            self._file.write(data + zlib.crc32(data).to_bytes(4, "little"))
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._file.name, error) from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _read_part(self, path: Path) -> npt.NDArray[Any]:
        data = path.read_bytes()
        stored = np.frombuffer(data, self._stored, count=len(data) // self._stored.itemsize)
        intact = [zlib.crc32(row["row"].tobytes()) == row["crc"] for row in stored]
        return stored["row"][np.array(intact, bool)]

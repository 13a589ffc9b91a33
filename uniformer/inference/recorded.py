"""Answers in a file of JSON lines, read back one by one: to be drawn, or written in another form."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

from uniformer.checkpoints.contract import Contract
from uniformer.errors import InputError
from uniformer.support.closing import Closing
from uniformer.support.texts import parse_json
from uniformer.tasks.pictured import PictureResult


class Recorded(Closing, Mapping[Hashable, PictureResult]):
    """The answers in a file, by source or, of the frames of a video, by (source, frame); failures are passed over.

    Only their places are held, and the file as it is now: that it is replaced or grows changes nothing. Raises
    `InputError` for a line that is no answer.
    """

    def __init__(self, path: Path, kind: type[PictureResult], contract: Contract):
        self._path, self._kind, self._contract = path, kind, contract
        self._places: dict[Hashable, int] = {}
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        place = 0
        for number, line in enumerate(self._file, start=1):
            if line.endswith(b"\n"):  # the last one may have been cut by a kill
                plain = _parsed(line, f"{path}, line {number}")
                if "error" not in plain:
                    self._places[answered(plain["source"], plain.get("frame"))] = place
            place += len(line)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._places)

    def __getitem__(self, key: Hashable) -> PictureResult:
        self._file.seek(self._places[key])
        return self._kind.from_dict(_parsed(self._file.readline(), str(self._path)), self._contract)

    def close(self) -> None:
        self._file.close()


def answered(source: str, frame: int | None = None) -> Hashable:
    """What has an answer: a source, or a frame of it."""
    return source if frame is None else (source, frame)


def _parsed(line: bytes, where: str) -> Mapping[str, Any]:
    plain = parse_json(line.decode("utf-8", "surrogateescape"), where)
    if not isinstance(plain, Mapping) or not isinstance(plain.get("source"), str):
        raise InputError(f"{where}: expected an answer of `uniformer predict`")
    return plain

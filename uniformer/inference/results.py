"""Answers as text, one source after the other: JSON lines, CSV or a table; and reading them back after a kill."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from uniformer.errors import InputError, shown, visible
from uniformer.inference.recorded import answered
from uniformer.support.csv_text import csv_line, plain_cell
from uniformer.support.files import changed_at
from uniformer.support.resume import Data, whole_lines
from uniformer.support.texts import parse_json, readable, to_json_line
from uniformer.tasks.task import Failure, Result

AnswerFormat = Literal["table", "jsonl", "csv"]
#: The end of a line of answers: weights and options, the form of the network, the device.
_COMPUTED = re.compile(rb'[",][0-9a-f]+(?:\+[0-9a-f]+)? ([\w/ ]+) on \w+(?:"}|,)\r?\n')


class Answers:
    """How the answers of one checkpoint lie in a file: a `resume.Codec`. `weights` tells it, and what it was fed, from
    others.

    Read back are the sources of answers that still hold, of frames of a video (source, frame): failures are tried
    again, but for frames that cannot be decoded, and so are sources that changed after `since` (ns), which `changed`
    names then. Raises `InputError` for a file of anything else or with answers of
    other weights.
    """

    def __init__(self, form: AnswerFormat, weights: str, kind: type[Result], *, since: int | None = None):
        self._form, self._weights, self._since = form, weights, since
        self.changed = set[str]()
        self._fields = ("source", *kind.CSV_FIELDS, "weights", "error")
        self.header = ",".join(self._fields).encode() + b"\n" if form == "csv" else b""

    def text(self, result: Result | Failure) -> str:
        """One answer, or why there is none; in a table failures are left to standard error."""
        if self._form == "jsonl":
            again = isinstance(result, Failure) and result.frame is not None and not result.lasts
            return to_json_line(result.to_dict() | ({} if again else {"weights": self._weights}))
        if isinstance(result, Failure):
            return self._failure(result) if self._form == "csv" else ""
        if self._form == "csv":
            return "".join(csv_line((result.source, *row, self._weights, "")) for row in result.csv_rows())
        lines = [*(f"  {line}" for line in result.lines()), *(f"  note: {note}" for note in result.notes)]
        return "\n".join([visible(result.title()), *(shown(line, 400) for line in lines)]) + "\n"

    def _failure(self, failure: Failure) -> str:
        row: dict[str, Any] = dict.fromkeys(self._fields, "") | {"source": failure.source, "error": failure.error}
        if failure.frame is not None:
            time = "" if failure.time is None else round(failure.time, 3)
            row |= {"frame": failure.frame, "time": time}
        if failure.lasts:  # to be told from what is to be tried again
            row["weights"] = self._weights
        return csv_line(row.values())

    def encode(self, result: Result | Failure) -> bytes:
        # Names of files need not be UTF-8: Python holds their stray bytes as surrogates, which go back to the same.
        return self.text(result).encode("utf-8", "surrogateescape")

    def decode(self, data: Data, path: Path) -> Iterable[tuple[Any, slice]]:
        answers: list[list[_Row]] = []
        for row in _csv_rows(data, path, self._fields) if self._form == "csv" else _jsonl_rows(data, path):
            if row.weights is None:
                continue
            if row.weights != self._weights:
                raise InputError(
                    f"{path}: line {row.number} is of a checkpoint with other weights or options ({row.weights}, not "
                    f"{self._weights}): expected results of one checkpoint in one way, give another --out"
                )
            if row.is_first or not answers:
                answers.append([])
            answers[-1].append(row)
        several = self._form == "csv" and "rank" in self._fields  # rows of one answer
        if several and answers and not self._is_whole(answers[-1], answers[:-1]):
            answers.pop()  # a kill between two rows of one answer leaves some of them
        if self._since is not None:
            sources = {rows[0].source for rows in answers}
            self.changed = {source for source in sources if changed_at(source) > self._since}
        kept = (rows for rows in answers if rows[0].source not in self.changed)
        return ((rows[0].key, slice(rows[0].where.start, rows[-1].where.stop)) for rows in kept)

    def _is_whole(self, answer: list[_Row], before: list[list[_Row]]) -> bool:
        if answer[0].rows is None:  # as many rows as all others
            return bool(before) and len(answer) == len(before[0])
        return len(answer) == max(answer[0].rows, 1)


class _Row(NamedTuple):
    number: int
    source: str
    weights: str | None  #: what tells a checkpoint from all others; None of a failure
    is_first: bool  #: of its answer
    where: slice  #: in the file
    frame: int | None = None  #: of a video whose frames have answers of their own
    rows: int | None = None  #: of the answer, where they say it

    @property
    def key(self) -> Any:
        """What has the answer: a source, or a frame of it."""
        return answered(self.source, self.frame)


def recorded_form(path: Path) -> str | None:
    """The form of the network, in full, in which the first of the answers in a file was computed; None where it holds
    none. Raises `InputError` where it cannot be read."""
    with readable(path, "answers"), open(path, "rb") as file:
        found = next(filter(None, map(_COMPUTED.search, file)), None)
    return found and found[1].decode()


def _jsonl_rows(data: Data, path: Path) -> Iterator[_Row]:
    for number, line in enumerate(whole_lines(data), start=1):
        try:
            result = parse_json(data[line].decode("utf-8", "surrogateescape"), f"{path}, line {number}")
            hash(result["source"])
            frame = result.get("frame")
            failed = "error" in result
            weights = result["weights"] if not failed else None if frame is None else result.get("weights")
            yield _Row(number, result["source"], weights, True, line, frame)
        except (ValueError, KeyError, TypeError):
            raise _foreign(path, number) from None


def _csv_rows(data: Data, path: Path, fields: tuple[str, ...]) -> Iterator[_Row]:
    rank, frame, count = (fields.index(name) if name in fields else None for name in ("rank", "frame", "count"))
    begin = end = number = 0

    def lines() -> Iterator[str]:
        nonlocal end
        for line in whole_lines(data):
            end = line.stop
            yield data[line].decode("utf-8", "surrogateescape")

    try:
        for number, row in enumerate(csv.reader(lines()), start=1):
            where, begin = slice(begin, end), end
            if number == 1 and tuple(row) == fields:
                continue
            if number == 1 or len(row) != len(fields):
                if number > 1 and end == data.rfind(b"\n") + 1:  # cut inside a name of several lines
                    return
                raise _foreign(path, number)
            yield _Row(
                number, plain_cell(row[0]), row[-2] or None, rank is None or row[rank] in ("", "0", "1"), where,
                _number(row, frame), _number(row, count),
            )  # fmt: skip
    except csv.Error:
        raise _foreign(path, number + 1) from None


def _number(row: list[str], column: int | None) -> int | None:
    return int(row[column]) if column is not None and row[column].isdecimal() else None


def _foreign(path: Path, line: int) -> InputError:
    return InputError(f"{path}: expected results of `uniformer predict`, found line {line} to be something else")

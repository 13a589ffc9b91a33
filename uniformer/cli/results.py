"""What `uniformer predict` writes per file, and reading it back to go on after a kill."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from uniformer.errors import InputError
from uniformer.support.resume import whole_lines

CSV_FIELDS = ("source", "rank", "name", "score", "index", "weights", "error")


def as_jsonl(result: dict[str, Any]) -> str:
    return json.dumps(result, ensure_ascii=False) + "\n"


def as_csv(result: dict[str, Any]) -> str:
    """One row per label, or one with the error."""
    source = result["source"]
    if "error" in result:
        return _csv_text([(source, "", "", "", "", "", result["error"])])
    labels = enumerate(result["labels"], start=1)
    return _csv_text((source, n, b["name"], b["score"], b["index"], result["weights"], "") for n, b in labels)


def as_table(result: dict[str, Any]) -> str:
    if "error" in result:
        return ""  # said on standard error already
    lines = [result["source"]]
    for label in result["labels"]:
        lines.append(f"  {100 * label['score']:6.2f} %  {'█' * round(20 * label['score']):20}  {label['name']}")
    lines += [f"  note: {note}" for note in result["notes"]]
    return "\n".join(lines) + "\n"


FORMATS = {"jsonl": as_jsonl, "csv": as_csv, "table": as_table}
HEADERS = {"jsonl": "", "csv": ",".join(CSV_FIELDS) + "\n", "table": ""}


def _csv_text(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


class Answers:
    """How the answers of one checkpoint lie in the file of `--out`: a `resume.Codec`. `weights` tells it from others.

    Read back are the sources of answers: failures are tried again. Raises `InputError` for a file of
    anything else or with answers of other weights.
    """

    def __init__(self, form: str, weights: str):
        self._form, self._weights = form, weights
        self.header = HEADERS[form].encode()

    def encode(self, result: dict[str, Any]) -> bytes:
        # Names of files need not be UTF-8: Python holds their stray bytes as surrogates, which go back to the same.
        return FORMATS[self._form](result).encode("utf-8", "surrogateescape")

    def decode(self, data: bytes, path: Path) -> Iterable[tuple[dict[str, Any], bytes]]:
        answers: list[list[_Row]] = []
        for row in (_csv_rows if self._form == "csv" else _jsonl_rows)(data, path):
            if row.weights is None:
                continue
            if row.weights != self._weights:
                raise InputError(
                    f"{path}: line {row.number} is of a checkpoint with other weights ({row.weights}, not "
                    f"{self._weights}): expected results of one checkpoint, give another --out"
                )
            if row.is_first or not answers:
                answers.append([])
            answers[-1].append(row)
        if self._form == "csv" and answers and (len(answers) == 1 or len(answers[-1]) < len(answers[0])):
            answers.pop()  # a kill between two rows of one source leaves some of its labels
        return (({"source": rows[0].source}, b"".join(row.text for row in rows)) for rows in answers)


class _Row(NamedTuple):
    number: int
    source: str
    weights: str | None  #: what tells a checkpoint from all others; None of a failure
    is_first: bool  #: of its source
    text: bytes


def _jsonl_rows(data: bytes, path: Path) -> Iterator[_Row]:
    for number, line in enumerate(whole_lines(data), start=1):
        try:
            result = json.loads(line.decode("utf-8", "surrogateescape"))
            hash(result["source"])
            yield _Row(number, result["source"], None if "error" in result else result["weights"], True, line)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _foreign(path, number) from None


def _csv_rows(data: bytes, path: Path) -> Iterator[_Row]:
    lines, begin, number = whole_lines(data), 0, 0
    reader = csv.reader(line.decode("utf-8", "surrogateescape") for line in lines)
    try:
        for number, row in enumerate(reader, start=1):
            text, begin = b"".join(lines[begin : reader.line_num]), reader.line_num
            if number == 1 and tuple(row) == CSV_FIELDS:
                continue
            if number == 1 or len(row) != len(CSV_FIELDS):
                if number > 1 and begin == len(lines):  # cut inside a name of several lines
                    return
                raise _foreign(path, number)
            yield _Row(number, row[0], None if row[6] else row[5], row[1] == "1", text)
    except csv.Error:
        raise _foreign(path, number + 1) from None


def _foreign(path: Path, line: int) -> InputError:
    return InputError(f"{path}: expected results of `uniformer predict`, found line {line} to be something else")

"""What `uniformer predict` writes per file, and reading it back to go on after a kill."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

from uniformer.errors import InputError, cannot_write
from uniformer.support.files import atomic_path

CSV_FIELDS = ("source", "rank", "name", "score", "index", "weights", "error")
#: Names of files need not be UTF-8: Python holds their stray bytes as surrogates, which go back to the same bytes.
ENCODING: dict[str, str] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


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


@contextmanager
def open_output(path: str, *, append: bool) -> Iterator[IO[str]]:
    """The file for results. Raises `InputError` when it cannot be opened, or a write fails in the block."""
    try:
        with open(path, "a" if append else "w", **ENCODING) as out:  # type: ignore[call-overload]
            yield out
    except OSError as error:
        raise cannot_write(path, error) from None


class _Row(NamedTuple):
    line: int
    source: str
    weights: str  #: what tells a checkpoint from all others
    failed: bool
    text: str


def finished(path: str, form: str, weights: str) -> set[str]:
    """Sources with a result in the file of an earlier run, in the format `form`.

    The file is rewritten without failures, which are tried again, and without what a kill cut short. Raises
    `InputError` for a file of anything else or with results of other `weights`, and leaves it as it is.
    """
    try:
        with open(path, **ENCODING) as f:  # type: ignore[call-overload]
            text = f.read()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    text = text[: text.rfind("\n") + 1]
    rows = [row for row in (_csv_rows if form == "csv" else _jsonl_rows)(text, path) if not row.failed]
    for row in rows:
        if row.weights != weights:
            raise InputError(
                f"{path}: line {row.line} is of a checkpoint with other weights ({row.weights}, not {weights}): "
                "expected results of one checkpoint, give another --out"
            )
    if form == "csv" and rows:  # a kill between two rows of one source leaves some of its labels
        counts, last = Counter(row.source for row in rows), rows[-1].source
        if len(counts) == 1 or counts[last] < counts[rows[0].source]:
            rows = [row for row in rows if row.source != last]
    with atomic_path(path) as temporary, open(temporary, "w", **ENCODING) as f:  # type: ignore[call-overload]
        f.writelines([HEADERS[form], *(row.text for row in rows)])
    return {row.source for row in rows}


def _jsonl_rows(text: str, path: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n")[:-1], start=1):  # names may hold what else splitlines splits at
        try:
            result = json.loads(line)
            failed = "error" in result
            yield _Row(number, result["source"], "" if failed else result["weights"], failed, line + "\n")
        except (ValueError, KeyError, TypeError):
            raise _foreign(path, number) from None


def _csv_rows(text: str, path: str) -> Iterator[_Row]:
    rows = list(csv.reader(io.StringIO(text, newline="")))
    for number, row in enumerate(rows, start=1):
        if number == 1 and tuple(row) == CSV_FIELDS:
            continue
        if number == 1 or len(row) != len(CSV_FIELDS):
            if number == len(rows) > 1:  # cut inside a name of several lines
                return
            raise _foreign(path, number)
        yield _Row(number, row[0], row[5], bool(row[6]), _csv_text([row]))


def _foreign(path: str, line: int) -> InputError:
    return InputError(f"{path}: expected results of `uniformer predict`, found line {line} to be something else")

"""Rows of CSV as we write them: what a spreadsheet would run as a formula stays a text, and reads back as it was.

Such a text gets an apostrophe before it, which spreadsheets take for "this is text"; numbers stay numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Literal

_RUNS = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)


def csv_line(fields: Iterable[object], separator: str = ",") -> str:
    """One row, its line break included; `plain_cell` undoes what is done to a field."""
    text, cells = io.StringIO(), list(map(_inert, fields))
    returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)  # which the writer does not quote by itself
    quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=separator, lineterminator="\n", quoting=quoting).writerow(cells)
    return text.getvalue()


def plain_cell(cell: str) -> str:
    """A cell that was read, as it was before `csv_line`."""
    return cell[1:] if cell.startswith("'") and _RUNS.match(cell) else cell


def _inert(value: object) -> object:
    if isinstance(value, str) and _RUNS.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value

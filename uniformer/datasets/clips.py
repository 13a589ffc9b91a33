"""Tables of clips as curators keep them: columns of any kind, of which one names the files. Read and written row by
row, so that memory does not grow with them.

CSV and its like have a header; JSON lines and Parquet need none. The file's column is found by its name, as in lists of
labelled files (`columns.py`), and so are `start` and `end`, seconds of a part.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from uniformer.datasets.columns import meanings
from uniformer.datasets.records import READERS, load_pyarrow, parquet_file
from uniformer.datasets.tables import SEPARATORS, cells_of, number_in, text_in
from uniformer.errors import InputError, shown
from uniformer.reading.sources import is_url
from uniformer.support.csv_text import csv_line
from uniformer.support.files import content_sum
from uniformer.support.texts import to_json_line

TABLES = (".csv", ".tsv", *READERS)  #: endings of what is read
FORMS = (".csv", ".jsonl", ".parquet")  #: endings of what is written
_ROWS = 1024  # of Parquet written together
_LOOKED_AT = 64  # rows whose files are looked for before the work

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ClipTable:
    """Clips, each with what else is known of it."""

    name: str  #: what messages call it
    columns: tuple[str, ...]
    read: Callable[[], Iterator[Row]]  #: all rows, anew each time
    parts: Mapping[str, str]  #: what a column means -> its name: path; start and end, where there are any
    root: str  #: where paths that are not absolute begin
    key: str  #: tells its rows from others
    schema: Any = None  #: of Parquet: the types of the columns

    def clip_of(self, row: Row, number: int) -> tuple[str, tuple[float, float] | None]:
        """The file of a row, counted from 0, and the part of it that is meant, in seconds.

        Raises `InputError` where the row names none.
        """
        place = f"{self.name}, row {number + 1}"
        said = {what: row.get(name) for what, name in self.parts.items()}
        path = text_in(said["path"], "path", place)
        if not path:
            raise InputError(f"{place}: expected the path of a file, found none")
        start, end = number_in(said, "start", place), number_in(said, "end", place)
        if (start is None) != (end is None) or (start is not None and end is not None and not 0 <= start < end):
            raise InputError(f"{place}: expected a part with 0 <= start < end seconds, got {start} to {end}")
        span = None if start is None or end is None else (start, end)
        return path if is_url(path) else os.path.join(self.root, path), span

    def check(self) -> int:
        """The number of rows. Raises `InputError` for a damaged table, for one without rows, and where none of the
        first files is there."""
        first = [self._exists(row) for row in islice(self.read(), _LOOKED_AT)]
        if not any(first):
            found = f"none of the first {len(first)}" if first else "no row"
            raise InputError(f"{self.name}: expected files that begin in {self.root or '.'} (--root), found {found}")
        return sum(1 for _ in self.read())

    def _exists(self, row: Row) -> bool:
        try:
            path, _ = self.clip_of(row, 0)
            return is_url(path) or os.path.exists(path)
        except (InputError, ValueError):
            return False


def clips_of_paths(paths: Sequence[str]) -> ClipTable:
    """A table of files alone, in one column."""
    key = hashlib.blake2b(b"\0".join(map(os.fsencode, paths)), digest_size=8).hexdigest()
    return ClipTable("the files", ("path",), lambda: ({"path": path} for path in paths), {"path": "path"}, "", key)


def open_clips(path: Path, root: str | os.PathLike[str] | None = None) -> ClipTable:
    """A table of clips, whose relative paths begin in `root`, else in its own folder.

    Raises `InputError` where it cannot be read, or does not name the files; `MissingExtra` for Parquet without pyarrow.
    """
    suffix, schema = path.suffix.lower(), None
    if suffix == ".parquet":
        with parquet_file(path) as file:
            schema = file.schema_arrow
        columns, read = tuple(schema.names), lambda: _parquet_rows(path)
    elif suffix in READERS:
        columns, read = _keys(path), lambda: _json_rows(path)
    elif suffix in TABLES:
        columns, read = _header(path), lambda: _table_rows(path)
    else:
        raise InputError(f"{path}: expected a table of clips ({' '.join(TABLES)}), found {suffix or 'no ending'}")
    if len(set(columns)) < len(columns):
        raise InputError(f"{path}: expected each column once, found {shown(', '.join(columns))}")
    found = {what: name for name, what in zip(columns, meanings(columns, str(path)), strict=True) if what}
    if "path" not in found:
        raise InputError(f"{path}: expected a column of files, such as path, found {shown(', '.join(columns))}")
    parts = {what: name for what, name in found.items() if what in ("path", "start", "end")}
    base = os.path.dirname(path) if root is None else os.fspath(root)
    return ClipTable(str(path), columns, read, parts, base, str(content_sum(path, with_time=True)), schema)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _separator(path: Path) -> str:
    """What cuts the header into most columns."""
    cut = {sign: len(next(cells_of(path, sign, None), (0, []))[1]) for sign in SEPARATORS.values() if sign != " "}
    return max(cut, key=cut.__getitem__)


def _header(path: Path) -> tuple[str, ...]:
    names = next(cells_of(path, _separator(path), None), (0, []))[1]
    if not names:
        raise InputError(f"{path}: expected a table of clips, found an empty file")
    return tuple(names)


def _table_rows(path: Path) -> Iterator[Row]:
    lines = cells_of(path, _separator(path), None)
    _, names = next(lines)
    for number, cells in lines:
        if len(cells) != len(names):
            raise InputError(f"{path}, line {number}: expected {len(names)} fields, found {len(cells)}")
        yield dict(zip(names, cells, strict=True))


def _json_rows(path: Path) -> Iterator[Row]:
    for place, record in READERS[path.suffix.lower()](path):
        if not isinstance(record, dict):
            raise InputError(f"{path}, {place}: expected an object with the path of a file, found {shown(record)!r}")
        yield record


def _keys(path: Path) -> tuple[str, ...]:
    """Of all objects, in the order in which they are met."""
    return tuple(dict.fromkeys(key for record in _json_rows(path) for key in record))


def _parquet_rows(path: Path) -> Iterator[Row]:
    with parquet_file(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


# ---- writing ---------------------------------------------------------------------------------------------------------


def check_form(path: str | os.PathLike[str]) -> None:
    """Raises `InputError` for a name of another ending than `FORMS`, `MissingExtra` for Parquet without pyarrow."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMS:
        raise InputError(f"{path}: expected a name that ends in {', '.join(FORMS)}, got {suffix or 'none'}")
    if suffix == ".parquet":
        load_pyarrow()


def write_clips(path: Path, suffix: str, table: ClipTable, added: Mapping[str, type], rows: Iterable[Row]) -> None:
    """Rows of the table's columns and of those `added`, by type, into a file of a form of `FORMS`."""
    columns = [*table.columns, *added]
    if suffix == ".parquet":
        _write_parquet(path, table, added, rows)
        return
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as f:
        if suffix == ".csv":
            f.write(csv_line(columns))
            f.writelines(csv_line(map(_cell, map(row.get, columns))) for row in rows)
        else:
            f.writelines(to_json_line({name: _plain(row.get(name)) for name in columns}) for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return value
    plain = "" if value is None else _plain(value)
    return plain if isinstance(plain, str) else to_json_line(plain).rstrip("\n")


def _plain(value: Any) -> Any:
    """What JSON has no form of, as Parquet may hold: dates and bytes are texts."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_plain, value))
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _write_parquet(path: Path, table: ClipTable, added: Mapping[str, type], rows: Iterable[Row]) -> None:
    """Columns that came from Parquet keep their types; others are texts, as their file has them."""
    arrow, parquet = load_pyarrow()
    types = {str: arrow.string(), float: arrow.float64(), int: arrow.int64(), bool: arrow.bool_()}
    names = {name: name.encode("utf-8", "backslashreplace").decode() for name in (*table.columns, *added)}
    own = table.schema or arrow.schema([(names[name], arrow.string()) for name in table.columns])
    schema = arrow.schema([*own, *(arrow.field(name, types[kind]) for name, kind in added.items())])
    texts = () if table.schema is not None else table.columns

    def fit(row: Row) -> Row:
        """As the schema has it. Parquet holds UTF-8 only."""
        values = {name: row.get(name) for name in names}
        values |= {name: str(_cell(values[name])) for name in texts if values[name] is not None}
        return {names[n]: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for n, v in values.items()}

    with parquet.ParquetWriter(path, schema) as writer:
        waiting = iter(rows)
        while some := list(map(fit, islice(waiting, _ROWS))):
            writer.write_table(arrow.Table.from_pylist(some, schema))

"""Lists as records: text in any usual encoding, JSON, JSON lines, Parquet; what a key means says `columns`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uniformer.datasets.columns import meanings
from uniformer.errors import InputError, first_line, load_extra, shown
from uniformer.support.texts import check_file, parse_json, readable, text_encoding

Records = Iterator[tuple[str, Any]]  # place in the file ("line 7"), record


def text_of(path: Path, newline: str | None = None) -> Iterator[str]:
    """The lines of a list. Raises `InputError` where it cannot be read, or is no text."""
    check_file(path, "a list of files")
    with readable(path, "a list of files"):
        with open(path, "rb") as f:
            encoding = text_encoding(f.read(1024), f"{path}: expected a list of files")
        try:
            # Names of files need not be valid UTF-8.
            with open(path, encoding=encoding, errors="surrogateescape", newline=newline) as f:
                yield from f
        except UnicodeError as error:
            raise InputError(f"{path}: expected a list of files, found damaged text: {first_line(error)}") from None


def json_records(path: Path) -> Records:
    """The elements of the array that the file is."""
    records = parse_json("".join(text_of(path)), f"{path}, the file")
    if not isinstance(records, list):
        raise InputError(f"{path}: expected a JSON array of objects, found {type(records).__name__}")
    return ((f"entry {number}", record) for number, record in enumerate(records, 1))


def json_lines(path: Path) -> Records:
    """An object a line."""
    for number, line in enumerate(text_of(path), 1):
        if line.strip():
            yield f"line {number}", parse_json(line, f"{path}, line {number}")


def parquet_records(path: Path) -> Records:
    """The rows, with the columns that are of use and the first that is not."""
    with parquet_file(path) as file:
        names = file.schema_arrow.names
        useful = [name for name, m in zip(names, meanings(names, str(path)), strict=True) if m is not None]
        records = (record for batch in file.iter_batches(columns=useful or names[:1]) for record in batch.to_pylist())
        yield from ((f"row {number}", record) for number, record in enumerate(records, 1))


def column_names(path: Path) -> list[str]:
    """The names of a Parquet file's columns, or the keys of the first record."""
    if path.suffix.lower() == ".parquet":
        with parquet_file(path) as file:
            return list(file.schema_arrow.names)
    _, record = next(READERS[path.suffix.lower()](path), ("", {}))
    return list(map(str, record)) if isinstance(record, dict) else []


def class_names(path: Path) -> tuple[str, ...] | None:
    """The names behind the labels of a Parquet file by the `datasets` library (its `ClassLabel`), where it has them."""
    if path.suffix.lower() != ".parquet":
        return None
    with parquet_file(path) as file:
        names = file.schema_arrow.names
        about = (file.schema_arrow.metadata or {}).get(b"huggingface")
        column = next(
            (n for n, m in zip(names, meanings(names, str(path)), strict=True) if m in ("label", "class")), ""
        )
    try:
        feature = parse_json((about or b"{}").decode(), f"{path}, the schema")["info"]["features"][column]
        feature = feature if isinstance(feature, dict) else feature[0]  # several labels a row, as it was once written
        found = feature.get("feature", feature)["names"]
    except (KeyError, TypeError, IndexError, AttributeError, UnicodeError):
        return None  # labels that are texts, or numbers without names
    if not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
        raise InputError(f"{path}: expected names of classes in its schema, found {shown(found)}")
    return tuple(found)


@contextmanager
def parquet_file(path: Path) -> Iterator[Any]:
    """A Parquet file by pyarrow. Raises `InputError` for a damaged one, also while it is read; `MissingExtra`."""
    arrow, parquet = load_pyarrow("reading Parquet lists")
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a Parquet file, found a damaged one: {shown(first_line(error))}") from None


def load_pyarrow(purpose: str = "a Parquet file") -> tuple[Any, Any]:
    """The packages pyarrow and pyarrow.parquet, or `MissingExtra`."""
    arrow, parquet = (load_extra(name, "pyarrow", "parquet", purpose) for name in ("pyarrow", "pyarrow.parquet"))
    return arrow, parquet


READERS = {".json": json_records, ".jsonl": json_lines, ".ndjson": json_lines, ".parquet": parquet_records}

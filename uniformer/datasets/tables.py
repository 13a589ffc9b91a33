"""Lists of labelled files in any usual form, as rows: CSV and its like, JSON, JSON lines, Parquet.

What a column means is read off its name where there is a header, else off the shape of the lines.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from uniformer.errors import InputError, MissingExtra, first_line
from uniformer.labels import normal_form
from uniformer.reading.frames import VIDEO_SUFFIXES
from uniformer.reading.pictures import IMAGE_SUFFIXES
from uniformer.support.texts import check_file, parse_json

TABLE_SUFFIXES = frozenset({".csv", ".list", ".tsv", ".txt"})
LIST_SUFFIXES = TABLE_SUFFIXES | {".json", ".jsonl", ".ndjson", ".parquet"}

SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "space": " "}
_NAME_OF = {character: name for name, character in SEPARATORS.items()}

_ALIASES = {
    "path": "path file file_name file_path video video_path video_name image image_path clip folder",
    "id": "id video_id",
    "label": "label labels target targets y label_id label_idx class_id class_index category_id",
    "class": "class class_name label_name category action template",
    "youtube_id": "youtube_id",
    "start": "start start_time time_start t_start start_sec start_seconds",
    "end": "end end_time time_end t_end end_sec end_seconds",
    "frames": "frames num_frames frame_count total_frames n_frames",
    "split": "split set subset",
    "group": "group subject",
}
_MEANING = {normal_form(alias): meaning for meaning, aliases in _ALIASES.items() for alias in aliases.split()}
_SHAPES = {2: ("path", "label"), 3: ("path", "frames", "label"), 4: ("path", "start", "end", "label")}

_WHOLE = re.compile(r"[+-]?\d+")
_SUFFIX = re.compile(rf"\.({'|'.join(s[1:] for s in sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))})\b", re.IGNORECASE)
_KINETICS = re.compile(r"(.{11})_\d{6}_\d{6}$")
_UCF = re.compile(r"(v_.+_g\d+)_c\d+$")
_SAMPLE = 64  # lines looked at to recognise a table

_Record = Mapping[str, Any]  # meaning (a key of _ALIASES) -> value


@dataclass(frozen=True)
class ListRow:
    """One line of a list, its labels not yet looked up."""

    place: str  #: for messages: "line 7"
    path: str
    labels: tuple[str, ...]
    start: float | None = None
    end: float | None = None
    frames: int | None = None
    group: str | None = None
    split: str | None = None


def is_whole(text: str) -> bool:
    """Is it an integer, so that a label is a number and not a name?"""
    return _WHOLE.fullmatch(text) is not None


def group_of(path: str) -> str | None:
    """The recording a clip was cut from, where its name tells: a Kinetics clip's video, a UCF101 clip's group."""
    stem = os.path.splitext(os.path.basename(path))[0]
    match = _KINETICS.fullmatch(stem) or _UCF.fullmatch(stem)
    return match[1] if match else None


def read_rows(path: Path, separator: str = "auto", *, split_labels: bool = True) -> Iterator[ListRow]:
    """The rows of a list file, by its suffix. `split_labels` takes "a|b" as two labels.

    Raises:
        InputError: the file is not a list, or a line of it is not like the others; the message has its number.
        MissingExtra: a Parquet file without the package pyarrow.
    """
    for place, record in _records(path, separator):
        yield _row(record, f"{path}, {place}", split_labels)


def describe(path: Path, separator: str = "auto") -> str:
    """How `read_rows` understands a file: 'table (comma: path, label)'."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        return f"{path.suffix.lower()[1:]} list"
    shape = _shape_of(path, separator)
    header = "with header" if shape.has_header else "no header"
    return f"list ({_NAME_OF[shape.separator]}-separated, {header}: {', '.join(filter(None, shape.columns))})"


def columns_of(path: Path, separator: str = "auto") -> frozenset[str]:
    """What the columns of a list file mean, of its first record."""
    return frozenset(next((record.keys() for _, record in _records(path, separator)), ()))


def _records(path: Path, separator: str) -> Iterator[tuple[str, _Record]]:
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        yield from _table(path, separator)
    elif suffix in LIST_SUFFIXES:
        read = _json if suffix == ".json" else _parquet if suffix == ".parquet" else _json_lines
        yield from ((place, _named(record, path, place)) for place, record in read(path))
    else:
        kinds = " ".join(sorted(LIST_SUFFIXES))
        raise InputError(f"{path}: expected a list of files ({kinds}), found a file {suffix or 'without a suffix'}")


# ----------------------------------------------------------------------------------------------------------- one row


def _row(record: _Record, place: str, split_labels: bool) -> ListRow:
    start, end = _number(record, "start", place), _number(record, "end", place)
    name, group = _text(record.get("path")) or _text(record.get("id")), _text(record.get("group")) or None
    video = _text(record.get("youtube_id"))
    if video and not name:  # the original Kinetics lists: clips were cut out and named after the times
        if start is None or end is None:
            raise InputError(f"{place}: expected time_start and time_end beside youtube_id {video!r}")
        name, group, start, end = f"{video}_{int(start):06d}_{int(end):06d}", video, None, None
    if not name:
        raise InputError(f"{place}: expected the path of a file, found none")
    if (start is None) != (end is None) or (start is not None and end is not None and not 0 <= start < end):
        raise InputError(f"{place}: expected a segment with 0 <= start < end seconds, got {start} to {end}")
    frames = _number(record, "frames", place)
    if frames is not None and (frames != int(frames) or not 1 <= frames < 1 << 31):
        raise InputError(f"{place}: expected a positive number of frames, got {frames:g}")
    labels = _labels(record.get("label", record.get("class")), place, split_labels)
    return ListRow(
        place,
        name,
        labels,
        start,
        end,
        None if frames is None else int(frames),
        group or group_of(name) or (name if start is not None else None),
        _text(record.get("split")) or None,
    )


def _labels(value: Any, place: str, split_labels: bool) -> tuple[str, ...]:
    if isinstance(value, str):
        text = value.strip()
        if split_labels and text.startswith("[") and text.endswith("]"):
            try:
                value = parse_json(text, place)
            except InputError:
                value = text  # "[something] falling on [something]"
        elif split_labels and "|" in text:
            value = text.split("|")
        else:
            value = text
    names = tuple(map(_text, value)) if isinstance(value, list | tuple) else (_text(value),)
    if not all(names):
        raise InputError(f"{place}: expected a label, found an empty one")
    if len(set(names)) < len(names):
        raise InputError(f"{place}: expected each label once, got {', '.join(names)}")
    return names


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN: a float column of whole numbers, as pandas writes it
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _number(record: _Record, name: str, place: str) -> float | None:
    text = _text(record.get(name))
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = float("inf")
    if abs(number) == float("inf"):
        raise InputError(f"{place}: expected a number for {name}, got {text!r}")
    return number


# ------------------------------------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class _Shape:
    """How the lines of a table are cut, and what the pieces mean (None for a column of no use here)."""

    separator: str
    columns: tuple[str | None, ...]
    has_header: bool


def _table(path: Path, separator: str) -> Iterator[tuple[str, _Record]]:
    shape = _shape_of(path, separator)
    count = len(shape.columns)
    lines = _cells(path, shape.separator, None if shape.has_header else count)
    for number, cells in islice(lines, int(shape.has_header), None):
        if len(cells) != count:
            raise InputError(
                f"{path}, line {number}: expected {count} fields ({', '.join(c or '-' for c in shape.columns)}) "
                f"separated by {_NAME_OF[shape.separator]}, found {len(cells)}"
            )
        yield f"line {number}", {c: cell for c, cell in zip(shape.columns, cells, strict=True) if c is not None}


def _shape_of(path: Path, separator: str) -> _Shape:
    if separator != "auto":
        character = SEPARATORS.get(separator, separator)
        if character not in _NAME_OF:
            raise InputError(f"expected a separator of {', '.join(SEPARATORS)} or auto, got {separator!r}")
        found = _shape_with(path, character)
        if found is None:
            other = next((c for c in _NAME_OF if c != character and _shape_with(path, c)), None)
            hint = f"; it looks separated by {_NAME_OF[other]}" if other else ""
            raise InputError(f"{path}: expected lines separated by {_NAME_OF[character]}, found {_head(path)!r}{hint}")
        return found
    for character in ("\t", ";", ",", " "):
        shape = _shape_with(path, character)
        if shape is not None:
            return shape
    raise InputError(
        f"{path}: expected lines 'path label', 'folder frames label' or 'video start end label', or a header that "
        f"names a path and a label, found {_head(path)!r}"
    )


def _shape_with(path: Path, separator: str) -> _Shape | None:
    """The shape of a table if this is its separator, else None. By the first lines: one odd line further on is a
    mistake to be reported, but one among the first is enough to say no."""
    lines = [cells for _, cells in islice(_cells(path, separator, None), _SAMPLE)]
    if not lines:
        raise InputError(f"{path}: expected a list of files, found an empty file")
    if _is_header(lines[0]):
        return _Shape(separator, _meanings(lines[0], str(path)), True)
    for count in (4, 3, 2):
        cut = [cells for _, cells in islice(_cells(path, separator, count), _SAMPLE)]
        if all(len(cells) == count for cells in cut) and sum(_fits(cells, separator) for cells in cut) > len(cut) / 2:
            return _Shape(separator, _SHAPES[count], False)
    return None


def _is_header(names: Sequence[str]) -> bool:
    """Do these names tell a path and a label?"""
    known = {_MEANING.get(normal_form(name)) for name in names}
    return bool(known & {"path", "id", "youtube_id"} and known & {"label", "class"})


def _meanings(names: Sequence[str], place: str) -> tuple[str | None, ...]:
    """What each column means. Of two with one meaning the one with the plain name counts: "label", not "label_id"."""
    forms = [normal_form(name) for name in names]
    found = [_MEANING.get(form) for form in forms]
    for meaning in {m for m in found if m is not None and found.count(m) > 1}:
        plain = normal_form(meaning)
        if forms.count(plain) != 1:
            same = ", ".join(name for name, m in zip(names, found, strict=True) if m == meaning)
            raise InputError(f"{place}: expected one column that says {meaning}, found {same}")
        found = [m if m != meaning or form == plain else None for form, m in zip(forms, found, strict=True)]
    return tuple(found)


def _fits(cells: Sequence[str], separator: str) -> bool:
    """Does a line without a header have one of `_SHAPES`? No label looks like a file's name."""
    path, *between, label = (cell.strip() for cell in cells)
    if _SUFFIX.search(label) or not path:
        return False
    if len(between) == 1:
        return is_whole(between[0]) and not _SUFFIX.search(path)
    if separator == " " and not between:  # or any text would do
        return is_whole(label) or _SUFFIX.search(path) is not None
    return all(re.fullmatch(r"\d+(\.\d*)?", cell) for cell in between)


def _cells(path: Path, separator: str, count: int | None) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of the lines that are not blank. Between spaces, the last `count` fields count: the first
    one, a path, may hold spaces itself."""
    if separator == " ":
        for number, line in enumerate(text_of(path, newline=""), 1):
            if line.strip():
                yield number, line.split() if count is None else line.rsplit(None, count - 1)
        return
    try:
        reader = csv.reader(text_of(path, newline=""), delimiter=separator)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(f"{path}: expected a list of files, found a damaged one: {error}") from None


def text_of(path: Path, newline: str | None = None) -> Iterator[str]:
    """The lines of a list. Raises `InputError` where it cannot be read."""
    check_file(path, "a list of files")
    try:
        # Names of files need not be valid UTF-8; a byte order mark is what spreadsheets begin with.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as f:
            yield from f
    except OSError as error:
        raise InputError(f"{path}: expected a list of files, found no readable file: {error.strerror}") from None


def _head(path: Path) -> str:
    return next((",".join(cells) for _, cells in _cells(path, ",", None)), "")[:80]


# ----------------------------------------------------------------------------------------------------- JSON, Parquet


def _named(record: Any, path: Path, place: str) -> _Record:
    """A record with the meanings of its keys for keys."""
    if not isinstance(record, dict):
        raise InputError(f"{path}, {place}: expected an object with a path and a label, found {str(record)[:60]!r}")
    if not _is_header(tuple(map(str, record))):
        raise InputError(f"{path}, {place}: expected a path and a label, found {', '.join(map(str, record))[:80]!r}")
    if "template" in record:  # Something-Something V2: "label" is a sentence about this clip, "template" its class
        record = {key: value for key, value in record.items() if key != "label"}
    meanings = _meanings(tuple(map(str, record)), f"{path}, {place}")
    return {m: _file(v, path, place) for m, v in zip(meanings, record.values(), strict=True) if m is not None}


def _file(value: Any, path: Path, place: str) -> Any:
    """`datasets` writes a file as {"bytes": ..., "path": ...}; only files on the disk are of use here."""
    if not isinstance(value, dict):
        return value
    if value.get("bytes") is not None or not value.get("path"):
        raise InputError(f"{path}, {place}: expected the path of a file, found the file's content inside the list")
    return value["path"]


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text_of(path), 1):
        if line.strip():
            yield f"line {number}", _parsed(line, path, f"line {number}")


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    records = _parsed("".join(text_of(path)), path, "the file")
    if not isinstance(records, list):
        raise InputError(f"{path}: expected a JSON array of objects, found {type(records).__name__}")
    return ((f"entry {number}", record) for number, record in enumerate(records, 1))


def _parsed(text: str, path: Path, place: str) -> Any:
    return parse_json(text, f"{path}, {place}")


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", "reading Parquet lists") from None
    try:
        with parquet.ParquetFile(path) as file:
            useful = [name for name in file.schema_arrow.names if normal_form(name) in _MEANING]
            records = (record for batch in file.iter_batches(columns=useful) for record in batch.to_pylist())
            yield from ((f"row {number}", record) for number, record in enumerate(records, 1))
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a Parquet file, found a damaged one: {first_line(error)}") from None

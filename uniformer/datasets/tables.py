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
from numbers import Number
from pathlib import Path
from typing import Any

from uniformer.datasets.columns import is_header, meanings, unread
from uniformer.datasets.records import READERS, column_names, text_of
from uniformer.errors import InputError, shown
from uniformer.labels import is_whole
from uniformer.reading.frames import VIDEO_SUFFIXES
from uniformer.reading.pictures import IMAGE_SUFFIXES
from uniformer.support.csv_text import plain_cell
from uniformer.support.texts import parse_json

TABLE_SUFFIXES = frozenset({".csv", ".list", ".tsv", ".txt"})
LIST_SUFFIXES = TABLE_SUFFIXES | READERS.keys()

SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "space": " "}
_NAME_OF = {character: name for name, character in SEPARATORS.items()}

_SHAPES = {2: ("path", "label"), 3: ("path", "frames", "label"), 4: ("path", "start", "end", "label")}

_SUFFIX = re.compile(rf"\.({'|'.join(s[1:] for s in sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))})\b", re.IGNORECASE)
_KINETICS = re.compile(r"(.{11})_\d{6}_\d{6}$")
_UCF = re.compile(r"(v_.+_g\d+)_c\d+$")
# A film's name, or the word that says what is numbered; a place in a larger picture. The last two are Roboflow's: a
# film's frames, and the copies that it makes of a picture.
_OF_ONE = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(.*?)[_\-. ]?(?:frame|frm|tile|patch|crop)[_\-. ]?\d+(?:[_\-. x]\d+)*",
        r"(.+?)[_\-. ](?:x|r|row)[_\-]?\d+[_\-. ]?(?:y|c|col|column)[_\-]?\d+",
        r"(.+?[_.](?:mp4|mov|avi|mkv|webm|m4v))[_\-]\d+(?:_(?:jpg|png|jpeg))?(?:\.rf\.\w+)?",
        r"(.+?)(?:_(?:jpg|png|jpeg))?\.rf\.\w+",
    )
)
_SAMPLE = 64  # lines looked at to recognise a table

_Record = Mapping[str, Any]  # meaning of a column -> value


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


def group_of(path: str) -> str | None:
    """The recording a clip was cut from, where its name tells: a Kinetics clip's video, a UCF101 clip's group."""
    stem = os.path.splitext(os.path.basename(path))[0]
    match = _KINETICS.fullmatch(stem) or _UCF.fullmatch(stem)
    return match[1] if match else None


def film_or_picture_of(path: str) -> str:
    """What an annotated picture was cut from, where its name tells: the film of a frame, the picture of a tile, in its
    folder; else the path itself."""
    folder, name = os.path.split(path)
    stem = os.path.splitext(name)[0]
    if (recording := group_of(path)) is not None:
        return os.path.join(folder, recording)
    found = next(filter(None, (pattern.fullmatch(stem) for pattern in _OF_ONE)), None)
    return path if found is None else os.path.join(folder, found[1])


def read_rows(path: Path, separator: str = "auto", *, split_labels: bool = True) -> Iterator[ListRow]:
    """The rows of a list file, by its suffix. `split_labels` takes "a|b" as two labels.

    Raises:
        InputError: the file is not a list, or a line of it is not like the others; the message has its number.
        MissingExtra: a Parquet file without the package pyarrow.
    """
    for place, record in _records(path, separator):
        yield _row(record, f"{path}, {place}", split_labels)


def row_of(record: Any, path: Path, place: str, *, split_labels: bool = True) -> ListRow:
    """The row that a record of a list says. Raises `InputError` for one without a path and a label."""
    return _row(_named(record, path, place), f"{path}, {place}", split_labels)


def describe(path: Path, separator: str = "auto") -> str:
    """How `read_rows` understands a file: 'list (comma-separated, no header: path, label)'."""
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        said, names = f"{suffix[1:]} list", column_names(path)
    else:
        shape = _shape_of(path, separator)
        header = "with header" if shape.has_header else "no header"
        columns = ", ".join(filter(None, shape.columns))
        said = f"list ({_NAME_OF[shape.separator]}-separated, {header}: {columns})"
        names = _names(next(cells_of(path, shape.separator, None))[1]) if shape.has_header else []
    unused = unread(names, str(path))
    return f"{said}, columns not used: {', '.join(unused)}" if unused else said


def has_header(path: Path, separator: str = "auto") -> bool:
    """Do the columns have names? Else they are known by the shape of the lines."""
    return path.suffix.lower() not in TABLE_SUFFIXES or _shape_of(path, separator).has_header


def columns_of(path: Path, separator: str = "auto") -> frozenset[str]:
    """What the columns of a list file mean, of its first record."""
    return frozenset(next((record.keys() for _, record in _records(path, separator)), ()))


def _records(path: Path, separator: str) -> Iterator[tuple[str, _Record]]:
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        yield from _table(path, separator)
    elif suffix in READERS:
        yield from ((place, _named(record, path, place)) for place, record in READERS[suffix](path))
    else:
        kinds = " ".join(sorted(LIST_SUFFIXES))
        raise InputError(f"{path}: expected a list of files ({kinds}), found a file {suffix or 'without a suffix'}")


# ----------------------------------------------------------------------------------------------------------- one row


def _row(record: _Record, place: str, split_labels: bool) -> ListRow:
    start, end = number_in(record, "start", place), number_in(record, "end", place)
    path, number, video, group, split = (
        text_in(record.get(key), key, place) for key in ("path", "id", "youtube_id", "group", "split")
    )
    name = path or number
    for what, text in (("path", name), ("group", group)):
        try:
            os.fsencode(text)
        except UnicodeEncodeError:  # JSON can say half of a character
            raise InputError(f"{place}: expected a {what} that a file can have, found {shown(text)!r}") from None
    if video and not name:  # the original Kinetics lists: clips were cut out and named after the times
        if start is None or end is None:
            raise InputError(f"{place}: expected time_start and time_end beside youtube_id {shown(video)!r}")
        name, group, start, end = f"{video}_{int(start):06d}_{int(end):06d}", video, None, None
    if not name:
        raise InputError(f"{place}: expected the path of a file, found none")
    if (start is None) != (end is None) or (start is not None and end is not None and not 0 <= start < end):
        raise InputError(f"{place}: expected a segment with 0 <= start < end seconds, got {start} to {end}")
    frames = number_in(record, "frames", place)
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
        split or None,
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
    several = value if isinstance(value, list | tuple) else [value]
    names = tuple(text_in(one, "label", place) for one in several)
    if not all(names):
        raise InputError(f"{place}: expected a label, found an empty one")
    if len(set(names)) < len(names):
        raise InputError(f"{place}: expected each label once, got {shown(', '.join(names))}")
    return names


def text_in(value: Any, what: str, place: str) -> str:
    """A value of a list as text, "" for none. Raises `InputError` for what is neither text nor a number."""
    if value is None or value != value:  # NaN: a float column of whole numbers, as pandas writes it
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str | Number):
        raise InputError(
            f"{place}: expected a text or a number for {what}, found {shown(value)} ({type(value).__name__})"
        )
    return str(value).lstrip(" \n").rstrip()  # a tab or a return before it is the name's own


def number_in(record: _Record, name: str, place: str) -> float | None:
    text = text_in(record.get(name), name, place)
    if not text:
        return None
    try:
        number = float(text.replace("_", "?"))  # 1_0 is no number but to Python
    except ValueError:
        number = float("inf")
    if abs(number) == float("inf"):
        raise InputError(f"{place}: expected a number for {name}, got {shown(text)!r}")
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
    lines = cells_of(path, shape.separator, None if shape.has_header else count)
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
    lines = [cells for _, cells in islice(cells_of(path, separator, None), _SAMPLE)]
    if not lines:
        raise InputError(f"{path}: expected a list of files, found an empty file")
    if is_header(_names(lines[0])):
        return _Shape(separator, meanings(_names(lines[0]), str(path)), True)
    for count in (4, 3, 2):
        cut = [cells for _, cells in islice(cells_of(path, separator, count), _SAMPLE)]
        if all(len(cells) == count for cells in cut) and sum(_fits(cells, separator) for cells in cut) > len(cut) / 2:
            if _is_unknown_header(cut):
                raise unknown_header(path, cut[0])
            return _Shape(separator, _SHAPES[count], False)
    return None


def _names(cells: Sequence[str]) -> list[str]:
    """A header's names: it may be written as a comment."""
    return [cells[0].lstrip("# "), *cells[1:]]


def unknown_header(path: Path, names: Sequence[str]) -> InputError:
    """The first line says no file, and its names are not known."""
    found = shown(", ".join(names))
    return InputError(f"{path}, line 1: expected a path and a label, or their names (path, label), found {found!r}")


def _is_unknown_header(lines: Sequence[Sequence[str]]) -> bool:
    """Is the first line of another kind than all the others: no file where they have one, or no number?"""
    first, *others = lines
    if not others or _SUFFIX.search(first[0]):
        return False
    are_files = all(_SUFFIX.search(cells[0]) for cells in others)
    return are_files or any(
        not is_whole(name.strip()) and all(is_whole(cells[i].strip()) for cells in others)
        for i, name in enumerate(first[1:], 1)
    )


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


def cells_of(path: Path, separator: str, count: int | None) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of the lines that are not blank. Between spaces, the last `count` fields count: the first
    one, a path, may hold spaces itself."""
    if separator == " ":
        for number, line in enumerate(text_of(path, newline=""), 1):
            if line.strip():
                yield number, line.split() if count is None else line.rsplit(None, count - 1)
        return
    reader = csv.reader(text_of(path, newline=""), delimiter=separator)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, list(map(plain_cell, cells))
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise InputError(f"{where}: expected a list of files, found a damaged one: {error}") from None


def _head(path: Path) -> str:
    return shown(next((",".join(cells) for _, cells in cells_of(path, ",", None)), ""))


# ----------------------------------------------------------------------------------------------------- JSON, Parquet


def _named(record: Any, path: Path, place: str) -> _Record:
    """A record with the meanings of its keys for keys."""
    if not isinstance(record, dict):
        raise InputError(f"{path}, {place}: expected an object with a path and a label, found {shown(record)!r}")
    names = tuple(map(str, record))
    if not is_header(names):
        raise InputError(f"{path}, {place}: expected a path and a label, found {shown(', '.join(names))!r}")
    if "template" in record:  # Something-Something V2: "label" is a sentence about this clip, "template" its class
        record = {key: value for key, value in record.items() if key != "label"}
    found = meanings(tuple(map(str, record)), f"{path}, {place}")
    return {m: _file(v, path, place) for m, v in zip(found, record.values(), strict=True) if m is not None}


def _file(value: Any, path: Path, place: str) -> Any:
    """`datasets` writes a file as {"bytes": ..., "path": ...}; only files on the disk are of use here."""
    if not isinstance(value, dict):
        return value
    if value.get("bytes") is not None or not value.get("path"):
        raise InputError(f"{path}, {place}: expected the path of a file, found the file's content inside the list")
    return value["path"]

"""Files that are read whole, and what their text says: one way to read a file, one reader of JSON and one of TOML.

What others wrote may be a pipe that nobody writes to, larger than memory, or nested deeper than whoever walks over it
can follow: all that is refused here, before it is used.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from uniformer.errors import ACTING, InputError, first_line, reason

LARGEST = 1 << 28  #: bytes of a file read whole: contracts, caches and lists are far smaller
DEEPEST = 50  #: levels of tables and arrays within each other
_LARGEST_TOML = 1 << 20  # its reader is Python's own, and slow
_MARKS = {  # the longer first, which begin like the shorter
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class NotJson(InputError):
    """A text that is no JSON, or nested too deep."""


class NotToml(InputError):
    """A text that is no TOML, whatever its size."""


def check_file(path: str | os.PathLike[str], expected: str) -> None:
    """Raises `InputError` unless `path` is a readable, regular, non-empty file: a FIFO would block for ever."""
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            path.open("rb").close()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path}: expected {expected}, found no readable file: {reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: expected {expected}, found something that is not a regular file")
    if not status.st_size:
        raise InputError(f"{path}: expected {expected}, found an empty file")


def read_whole(path: str | os.PathLike[str], expected: str, most: int = LARGEST) -> bytes:
    """All bytes of a file. Raises `InputError` as `check_file` does, and where it has more than `most` bytes."""
    check_file(path, expected)
    try:
        with open(path, "rb") as f:
            data = f.read(most + 1)
    except OSError as error:
        raise InputError(f"{path}: expected {expected}, found no readable file: {reason(error)}") from None
    if len(data) > most:
        raise InputError(f"{path}: expected {expected}, found a file of more than {most >> 20} MB")
    return data


def read_text(path: str | os.PathLike[str], expected: str, most: int = LARGEST) -> str:
    """A file's text, UTF-8 unless a byte order mark says otherwise, without it, lines ending in newlines.

    Raises `InputError` as `read_whole`, and where it is no text.
    """
    data = read_whole(path, expected, most)
    encoding = text_encoding(data, f"{path}: expected {expected}")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected {expected}, found no {encoding.upper()} at byte {error.start}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_encoding(start: bytes, expected: str) -> str:
    """How a text is encoded that begins so: by its mark, else UTF-8. Raises `InputError` where it is no text."""
    marked = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if marked is None and b"\0" in start[:1024]:
        raise InputError(f"{expected}, found no text (UTF-16 needs its byte order mark; media are named, not piped)")
    return marked or "utf-8"


def parse_json(text: str | bytes, where: str, expected: str = "JSON") -> Any:
    """What a JSON text says. Raises `NotJson` for another text, and one nested too deep.

    `where` is what messages call it, `expected` what they ask for.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise NotJson(_too_deep(where, expected)) from None
    except ValueError as error:  # UnicodeDecodeError too
        raise NotJson(f"{where}: expected {expected}, found something else: {first_line(error)}") from None
    if _is_deep(value):
        raise NotJson(_too_deep(where, expected))
    return value


def to_json_line(value: Any) -> str:
    """A value as one line of JSON, which may be printed: what a terminal would act on is escaped."""
    return ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False)) + "\n"


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """What a TOML text says. Raises `NotToml`, and `InputError` for what is too large or nested too deep."""
    if len(text) > _LARGEST_TOML:
        raise InputError(f"{where}: expected TOML, found more than {_LARGEST_TOML >> 20} MB of it")
    # The dots of one key after the other: Python's reader takes memory by the square of their number.
    joints = re.sub(r"[^.,=#\[\]{}\n]+", "", re.sub(r"\.\.+", "", text))
    if "." * DEEPEST in joints:
        raise InputError(_too_deep(where, "TOML"))
    import tomllib  # which few commands need

    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise InputError(_too_deep(where, "TOML")) from None
    except ValueError as error:  # its own, and dates and numbers that are none
        raise NotToml(f"{where} is not TOML: {first_line(error)}") from None
    if _is_deep(table):
        raise InputError(_too_deep(where, "TOML"))
    return table


def _is_deep(value: Any) -> bool:
    """Whether containers lie more than `DEEPEST` levels within each other; level by level, as recursion would end."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _too_deep(where: str, expected: str) -> str:
    return f"{where}: expected {expected}, found more than {DEEPEST} levels within each other"

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from uniformer.errors import ACTING, InputError, first_line, reason

LARGEST = 1 << 28  #: bytes of a file read whole: contracts, caches and lists are far smaller
LARGEST_STREAM = 1 << 32  #: bytes of a file that is read piece by piece
DEEPEST = 50  #: levels of tables and arrays within each other
_PIECE = 1 << 20  # characters that are read at once
_NEAR = 16  # characters before the end of a piece in which what is cut off looks like a mistake
_LARGEST_TOML = 1 << 20  # its reader is Python's own, and slow
_MARKS = {  # the longer first, which begin like the shorter
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


_SPACE = re.compile(r"[ \t\n\r]*")


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


@contextmanager
def readable(path: str | os.PathLike[str], expected: str) -> Iterator[None]:
    """What the system says while a file is read, as an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: expected {expected}, found no readable file: {reason(error)}") from None


def read_whole(path: str | os.PathLike[str], expected: str, most: int = LARGEST) -> bytes:
    """All bytes of a file. Raises `InputError` as `check_file` does, and where it has more than `most` bytes."""
    check_file(path, expected)
    with readable(path, expected), open(path, "rb") as f:
        data = f.read(most + 1)
    if len(data) > most:
        raise InputError(f"{path}: expected {expected}, found a file of more than {most / (1 << 20):g} MB")
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


def read_json_arrays(
    path: str | os.PathLike[str], expected: str, takers: Mapping[str, Callable[[Any], None]]
) -> set[str]:
    """Go once through a JSON object that may be larger than memory: elements of the arrays named go to their takers.

    What else the object has is passed over. Only one element and a piece of the file are held at a time. Gives the
    object's keys. Raises `InputError` as `read_text` does, for more than `LARGEST_STREAM` bytes, for what is no JSON
    object (`NotJson`), and for a value that a taker is for and that is no array.
    """
    check_file(path, expected)
    with readable(path, expected):
        with open(path, "rb") as f:
            if os.fstat(f.fileno()).st_size > LARGEST_STREAM:
                raise InputError(f"{path}: expected {expected}, found a file of more than {LARGEST_STREAM >> 30} GB")
            encoding = text_encoding(f.read(1024), f"{path}: expected {expected}")
        try:
            with open(path, encoding=encoding) as text:
                return _JsonReader(text, f"{path}: expected {expected}").arrays(takers)
        except UnicodeDecodeError:
            raise InputError(f"{path}: expected {expected}, found no {encoding.upper()}") from None


class _JsonReader:
    """A JSON object read value by value; `_text[_at:]` is what was read of the file and is not used yet."""

    def __init__(self, file: IO[str], expected: str):
        self._file, self._expected = file, expected
        self._text, self._at, self._before, self._ended = "", 0, 0, False
        self._decode = json.JSONDecoder().raw_decode

    def arrays(self, takers: Mapping[str, Callable[[Any], None]]) -> set[str]:
        keys = set[str]()
        for _ in self._items("{", "}"):
            key = self._value()
            if not isinstance(key, str):
                raise self._wrong("a key that is no text")
            self._expect(":")
            keys.add(key)
            take = takers.get(key)
            if take is None:
                self._value()
                continue
            for _ in self._items("[", "]"):
                take(self._value())
        if self._next():
            raise self._wrong("more behind the object")
        return keys

    def _items(self, begin: str, end: str) -> Iterator[None]:
        """Once for each item between the brackets, whose value the caller takes."""
        self._expect(begin)
        if self._next() == end:
            self._at += 1
            return
        while True:
            yield
            if self._next() == end:
                self._at += 1
                return
            self._expect(",")

    def _expect(self, sign: str) -> None:
        if (found := self._next()) != sign:
            raise self._wrong(f"{found!r} instead of {sign!r}" if found else "an end too soon")
        self._at += 1

    def _next(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._more()

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except RecursionError:
                raise NotJson(f"{self._expected}, found a value nested too deep") from None
            except json.JSONDecodeError as error:
                is_cut = error.pos + _NEAR >= len(self._text) or error.msg.startswith("Unterminated string")
                if self._ended or not is_cut:
                    self._at = error.pos
                    raise self._wrong(first_line(error).partition(": line")[0]) from None
            except ValueError as error:  # a number of more digits than Python converts
                raise self._wrong(first_line(error)) from None
            else:
                if end < len(self._text) or self._ended:  # a number may go on in the next piece
                    self._at = end
                    return value
            self._more()

    def _more(self) -> None:
        """Another piece: as long again as what is at hand, so that a long value is not tried too often."""
        rest = self._text[self._at :]
        piece = self._file.read(max(_PIECE, len(rest)))
        self._before, self._text, self._at, self._ended = self._before + self._at, rest + piece, 0, not piece

    def _wrong(self, found: str) -> NotJson:
        return NotJson(f"{self._expected}, found something else at character {self._before + self._at}: {found}")


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

"""What a user's list of files means: folders, patterns, lists in a text file or on standard input."""

from __future__ import annotations

import glob
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uniformer.errors import InputError, reason, shown
from uniformer.reading.frames import VIDEO_SUFFIXES, natural_order
from uniformer.reading.pictures import IMAGE_SUFFIXES
from uniformer.reading.sources import is_url
from uniformer.support.texts import readable, text_encoding


@dataclass
class LeftOut:
    """What a search passed over, by the reason: how many of them, and the first names."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, why: str, name: str) -> None:
        self.counts[why] = self.counts.get(why, 0) + 1
        if len(names := self.first.setdefault(why, [])) < 3:
            names.append(shown(name))

    def clear(self) -> None:
        self.counts.clear()
        self.first.clear()

    def __str__(self) -> str:
        """'files that are no videos: 2 (a.txt, b.doc)', "" for nothing."""
        more = {why: ", ..." if count > len(self.first[why]) else "" for why, count in self.counts.items()}
        return "; ".join(
            f"{why}: {count} ({', '.join(self.first[why])}{more[why]})" for why, count in self.counts.items()
        )


OnError = Callable[[str, InputError], None]


def expand(arguments: Iterable[str], *, clips: bool, on_error: OnError | None = None) -> Iterator[str]:
    """The media files behind command-line arguments, one after the other.

    A file is itself, and so is an address (http or https); a .txt file is a list, one a line, relative to the list;
    "-" is such a list on standard input; a folder is searched for images (for networks of images) or videos
    (`clips`), where a folder with images but no videos directly in it is one clip; a pattern with * is what it
    matches. A path that does not exist, or a folder that cannot be looked into, is passed on: reading it says so, and
    the others go on. What a search leaves out is a warning.

    Raises `InputError` for an argument with nothing behind it, or calls `on_error` with both, and goes on.
    """
    for argument in arguments:
        try:
            yield from _behind(argument, clips, on_error)
        except InputError as error:
            if on_error is None:
                raise
            on_error(argument, error)


def _behind(argument: str, clips: bool, on_error: OnError | None) -> Iterator[str]:
    if argument == "-":
        yield from _listed(sys.stdin.buffer.read(), Path(), "standard input")
    elif is_url(argument):
        yield argument
    elif os.path.isdir(argument):
        yield from _folder(Path(argument), clips)
    elif argument.lower().endswith(".txt") and os.path.isfile(argument):
        yield from _listed(_bytes_of(argument), Path(argument).parent, argument)
    elif glob.has_magic(argument) and not os.path.exists(argument):
        found = list(_matching(argument))
        if not found:
            raise InputError(f"nothing matches {argument}")
        yield from _once(expand(found, clips=clips, on_error=on_error))
    else:
        yield argument


def _matching(pattern: str) -> Iterator[str]:
    """What a pattern matches, sorted within each folder; ** is every folder below, each once, whatever leads to it.

    Python's own ** goes round in a loop of links until the system stops it, and never ends in two of them.
    """
    head, deep, tail = pattern.partition("**")
    if not deep or not head.endswith(("", os.sep)[bool(head)]) or tail[:1] not in ("", os.sep):
        yield from sorted(glob.glob(pattern))
        return
    for base in sorted(glob.glob(head)) if head else [os.curdir]:
        for place, _ in folders_below(base, LeftOut()):
            inside, real = glob.escape(place if head else os.path.relpath(place)), os.path.realpath(place)
            for path in _matching(os.path.join(inside, tail.lstrip(os.sep) or "*")):
                if os.path.commonpath([real, os.path.realpath(path)]) != os.path.realpath(path):  # no link back up
                    yield path


def _once(paths: Iterable[str]) -> Iterator[str]:
    """Without those that are found a second time, in a folder that was found itself, or through a link."""
    found = set[tuple[str, str]]()
    for path in paths:
        place = os.path.realpath(os.path.dirname(path)), os.path.basename(path)
        if place not in found:
            found.add(place)
            yield path


def _bytes_of(path: str) -> bytes:
    with readable(path, "a list of files"):
        return Path(path).read_bytes()


def _listed(data: bytes, folder: Path, where: str) -> Iterator[str]:
    """The paths and addresses of a list; their bytes are kept, whatever their encoding.

    A line that begins with # is a comment, unless there is a file of that name.
    """
    encoding = text_encoding(data, f"{where}: expected a list of files")
    try:
        text = data.decode(encoding, "surrogateescape")
    except UnicodeError as error:
        raise InputError(f"{where}: expected a list of files, found damaged text: {error}") from None
    names, left_out = [], LeftOut()
    for line in filter(None, map(str.strip, text.split("\n"))):
        if not line.startswith("#") or os.path.exists(folder / line):
            names.append(line)
        elif os.path.splitext(line)[1].lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
            left_out.add("lines taken for comments", line)
    _warn(where, left_out)
    if not names:
        raise InputError(f"{where}: expected a list of files, found none")
    for name in names:
        yield name if is_url(name) else os.fspath(folder / name)


def _folder(folder: Path, clips: bool) -> Iterator[str]:
    """Media files below a folder, in natural order; with `clips` also folders that hold the frames of one."""
    suffixes = VIDEO_SUFFIXES if clips else IMAGE_SUFFIXES
    found, left_out, closed = False, LeftOut(), list[str]()

    def order(name: str) -> Any:
        return natural_order(Path(name))

    def on_error(error: OSError) -> None:
        closed.append(error.filename)

    for path, names in folders_below(folder, left_out, order=order, on_error=on_error):
        here = [Path(path, name) for name in names]
        wanted = sorted((p for p in here if p.suffix.lower() in suffixes), key=natural_order)
        are_frames = clips and not wanted and any(p.suffix.lower() in IMAGE_SUFFIXES for p in here)
        for item in [Path(path)] if are_frames else wanted:
            found = True
            yield os.fspath(item)
        for file in here:
            if file.suffix.lower() not in (IMAGE_SUFFIXES if are_frames else suffixes):
                left_out.add(f"files that are no {'videos' if clips else 'images'}", os.path.relpath(file, folder))
    _warn(str(folder), left_out)
    yield from closed
    if not found and not closed:
        kind = "videos or frames" if clips else "images"
        raise InputError(f"{folder}: expected a folder with {kind} in it, found none")


def folders_below(
    folder: str | os.PathLike[str],
    left_out: LeftOut,
    *,
    order: Callable[[str], Any] | None = None,
    on_error: Callable[[OSError], None] | None = None,
) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, in order, each with the names of its files; links are followed, hidden ones left.

    A folder that links lead to again, or back up to, comes once. One that cannot be listed raises `InputError`, unless
    there is an `on_error` to be called with the system's.
    """
    seen = {_identity(above) for above in Path(folder).absolute().parents}
    for place, folders, files in os.walk(folder, onerror=on_error or _raise, followlinks=True):
        if (here := _identity(place)) in seen:
            left_out.add("links to folders searched already", os.path.relpath(place, folder))
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=order)
        yield place, [name for name in files if not name.startswith(".")]


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _raise(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot look into this folder: {reason(error)}")


def _warn(where: str, left_out: LeftOut) -> None:
    if left_out.counts:
        warnings.warn(shown(f"{where}: left out {left_out}", 1000), stacklevel=1)

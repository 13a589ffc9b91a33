"""What a user's list of files means: folders, patterns, lists in a text file or on standard input."""

from __future__ import annotations

import codecs
import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from uniformer.errors import InputError, reason
from uniformer.reading.frames import VIDEO_SUFFIXES, natural_order
from uniformer.reading.pictures import IMAGE_SUFFIXES
from uniformer.reading.sources import is_url


def expand(arguments: Iterable[str], *, clips: bool) -> Iterator[str]:
    """The media files behind command-line arguments, one after the other.

    A file is itself, and so is an address (http or https); a .txt file is a list, one a line, relative to the list;
    "-" is such a list on standard input; a folder is searched for images (for networks of images) or videos
    (`clips`), where a folder with images but no videos directly in it is one clip; a pattern with * is what it
    matches. A path that does not exist is passed on: reading it says so, and the others go on.
    """
    for argument in arguments:
        if argument == "-":
            yield from _listed(sys.stdin.buffer.read(), Path(), "standard input")
        elif is_url(argument):
            yield argument
        elif os.path.isdir(argument):
            yield from _folder(Path(argument), clips)
        elif argument.lower().endswith(".txt") and os.path.isfile(argument):
            yield from _listed(Path(argument).read_bytes(), Path(argument).parent, argument)
        elif glob.has_magic(argument) and not os.path.exists(argument):
            found = sorted(glob.glob(argument, recursive=True))
            if not found:
                raise InputError(f"nothing matches {argument}")
            yield from expand(found, clips=clips)
        else:
            yield argument


def _listed(data: bytes, folder: Path, where: str) -> Iterator[str]:
    """The paths and addresses of a list; their bytes are kept, whatever their encoding."""
    lines = [line.strip() for line in os.fsdecode(data.removeprefix(codecs.BOM_UTF8)).split("\n")]
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise InputError(f"{where}: expected a list of files, found none")
    for name in names:
        yield name if is_url(name) else os.fspath(folder / name)


def _folder(folder: Path, clips: bool) -> Iterator[str]:
    """Media files below a folder, in natural order; with `clips` also folders that hold the frames of one."""
    suffixes = VIDEO_SUFFIXES if clips else IMAGE_SUFFIXES
    found = False
    for path, folders, names in os.walk(folder, onerror=_unreadable):
        folders.sort(key=lambda name: natural_order(Path(name)))
        here = [Path(path, name) for name in names if not name.startswith(".")]
        wanted = sorted((p for p in here if p.suffix.lower() in suffixes), key=natural_order)
        if clips and not wanted and any(p.suffix.lower() in IMAGE_SUFFIXES for p in here):
            wanted = [Path(path)]
        for item in wanted:
            found = True
            yield os.fspath(item)
    if not found:
        kind = "videos or frames" if clips else "images"
        raise InputError(f"{folder}: expected a folder with {kind} in it, found none")


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot look into this folder: {reason(error)}")

"""What is done about an error that nobody foresaw: a line for the user, and a file for whoever is to mend it."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from uniformer.errors import first_line, shown

PACKAGES = ("uniformer", "torch", "torchvision", "timm", "av", "numpy", "pillow", "safetensors", "huggingface_hub")


def unforeseen(error: BaseException, arguments: Sequence[str]) -> str:
    """The line to print, which says where the report lies: in the current folder, else in that for temporary files.

    The report has the versions, the command line and the traceback, those of worker processes included. No file is
    ever replaced.
    """
    said = f"unforeseen {type(error).__name__}: {shown(first_line(error))}"
    text = "\n".join(_report(error, arguments))
    name = f"uniformer-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    for path in _places(name):
        with contextlib.suppress(OSError):
            with open(path, "x", encoding="utf-8", errors="backslashreplace") as f:
                f.write(text)
            return f"{said}; a mistake of this program: {shown(path, 500)} tells its developers more"
    return f"{said}; a mistake of this program, and no file could be written that tells more"


def _places(name: str) -> Iterator[Path]:
    for folder in (Path(), Path(tempfile.gettempdir())):
        for again in ("", *(f"-{number}" for number in range(2, 10))):
            with contextlib.suppress(OSError):  # a folder that is gone
                yield folder.absolute() / f"{name}{again}.txt"


def _report(error: BaseException, arguments: Sequence[str]) -> Iterator[str]:
    yield f"command: {shlex.join(['uniformer', *arguments])}"
    yield f"system: Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores"
    yield f"packages: {', '.join(f'{name} {_version(name)}' for name in PACKAGES)}"
    yield f"processes: RANK {os.environ.get('RANK', '-')} of {os.environ.get('WORLD_SIZE', '-')}, pid {os.getpid()}"
    yield ""
    yield "".join(traceback.format_exception(error))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"

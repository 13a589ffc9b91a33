"""The command line for tests: in this process or in one of its own, and what came of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

COMMAND = [sys.executable, "-m", "uniformer.cli"]


class Ended(NamedTuple):
    status: int
    out: str
    err: str


Cli = Callable[..., Ended]  # runs a command in this process: the fixture `cli`


def spawn(*args: object, shell: str = "", env: dict[str, str] | None = None, **options: object) -> Ended:
    """Run a command in a process of its own, or through a shell that has it as "$@"."""
    command = ["sh", "-c", shell, "sh", *COMMAND] if shell else COMMAND
    done = subprocess.run(
        [*command, *map(str, args)], text=True, capture_output=True, env={**os.environ, **(env or {})}, **options
    )  # type: ignore[call-overload]
    return Ended(done.returncode, done.stdout, done.stderr)


def at_a_terminal(*args: object, columns: int) -> str:
    """What a command writes to a terminal of so many columns."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")} | {"TERM": "xterm"}
    process = subprocess.Popen([*COMMAND, *map(str, args)], stdin=there, stdout=there, stderr=there, env=env)
    os.close(there)
    data = b""
    with contextlib.suppress(OSError):  # how Linux tells that the other side was closed
        while part := os.read(here, 1 << 16):
            data += part
    os.close(here)
    assert process.wait() == 0
    return data.decode()


def without_progress(text: str) -> str:
    """What a command said on standard error, less the lines on how far it has come, which only slow machines see."""
    return re.sub(r"^.*: \d+ of \d+ \(\d+%\) in [\d:]+(, about [\d:]+ to go)?\n", "", text, flags=re.M)


def one_line(ended: Ended, *words: str) -> None:
    """Bad input: status 2, exactly one line on standard error, nothing on standard output."""
    assert (ended.status, ended.out) == (2, ""), ended
    assert ended.err.startswith("uniformer")
    assert ended.err.count("\n") == 1, ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err


def predict(cli: Cli, media: Path, *args: object, net: str = "clips") -> Ended:
    return cli("predict", "--checkpoint", media / f"{net}.safetensors", *args)


def sources(ended: Ended) -> list[str]:
    return [json.loads(line)["source"] for line in ended.out.splitlines()]

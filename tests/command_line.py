"""The command line for tests: in this process or in one of its own, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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

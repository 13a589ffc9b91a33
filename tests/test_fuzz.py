"""A short form of the fuzzing (`fuzz_reader.py` is the long one), and proof that it would notice a failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_damaged_files_give_frames_or_one_line() -> None:
    command = [sys.executable, str(HERE / "fuzz_reader.py"), "--count", "66", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(line.split()[:2] for line in done.stdout.splitlines())
    assert int(counts["frames"]) + int(counts["InputError"]) == int(counts["all"]) == 66
    assert int(counts["frames"]) > 10
    assert int(counts["InputError"]) > 5


def misbehave(path: Path) -> str:
    """In the place of the reader: what a case's name says."""
    match path.stem:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(60)
        case "memory":
            bytearray(b"x") * (2200 << 20)
    return "frames"


def test_a_crash_a_hang_and_a_glut_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)  # it is a program: its neighbours are found beside it
    import fuzz_reader

    names = ["good", "crash", "good", "hang", "memory", "good"]
    cases = []
    for number, name in enumerate(names):
        path = tmp_path / str(number) / f"{name}.mp4"
        path.parent.mkdir()
        path.write_bytes(b"x")
        cases.append(fuzz_reader.Case(number, path, name))
    done = fuzz_reader.run(iter(cases), keep=None, use=misbehave, seconds=5)
    outcomes = [outcome.split()[0].rstrip(",") for _, outcome in done]
    assert outcomes == ["frames", "crash", "frames", "hang", "memory", "frames"]

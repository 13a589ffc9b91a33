"""A short form of the fuzzing (`fuzz_reader.py` is the long one), and proof that it would notice a failure."""

from __future__ import annotations

import importlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are programs: their neighbours are found beside them."""
    monkeypatch.syspath_prepend(HERE)


def counts_of(program: str, count: int, capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    """How many of so many damaged files ended how; none of them in a way that is not allowed."""
    fuzz_reader, module = map(importlib.import_module, ("fuzz_reader", program))
    kinds = (module.__doc__, module.cases, module.use, module.ALLOWED)
    status = fuzz_reader.main(["--count", str(count), "--seed", "7"], *kinds)
    said = capsys.readouterr().out
    assert status == 0, said
    return {kind: int(number) for kind, number, *_ in map(str.split, said.splitlines())}


def test_damaged_files_give_frames_or_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    counts = counts_of("fuzz_reader", 66, capsys)
    assert counts["frames"] + counts["InputError"] == counts["all"] == 66
    assert counts["frames"] > 10
    assert counts["InputError"] > 5


def test_damaged_checkpoints_compute_or_give_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    counts = counts_of("fuzz_checkpoints", 70, capsys)
    assert counts["computes"] + counts["InputError"] == counts["all"] == 70
    assert counts["computes"] > 1
    assert counts["InputError"] > 30


def misbehave(path: Path) -> str:
    """In the place of the reader: what a case's name says."""
    match path.stem:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "spin":
            while True:
                pass
        case "sleep":
            time.sleep(PATIENCE)
        case "memory":
            bytearray(b"x") * (2200 << 20)
    return "frames"


def test_a_crash_a_hang_and_a_glut_are_noticed(tmp_path: Path) -> None:
    names = ["good", "crash", "good", "spin", "memory", "good"]
    assert outcomes(names, tmp_path, seconds=5) == ["frames", "crash", "frames", "hang", "memory", "frames"]


def test_one_that_waits_for_ever_is_noticed(tmp_path: Path) -> None:
    """Alone: it never answers, while others might only be slow."""
    assert outcomes(["sleep"], tmp_path, patience=1) == ["hang"]


def outcomes(names: list[str], folder: Path, **limits: int) -> list[str]:
    """What comes of files of these names, read by one worker."""
    import fuzz_reader

    cases = []
    for number, name in enumerate(names):
        path = folder / str(number) / f"{name}.mp4"
        path.parent.mkdir()
        path.write_bytes(b"x")
        cases.append(fuzz_reader.Case(number, path, name))
    done = fuzz_reader.run(iter(cases), use=misbehave, **limits)
    return [outcome.split()[0].rstrip(",") for _, outcome in done]

"""One run in one folder, with real processes."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tiny import IMAGES, refused, save_tiny
from tests.training_runs import make_images
from uniformer.cli.main import main
from uniformer.errors import InputError
from uniformer.support.lock import NAME, locked

# Holds the folder until its standard input ends; a child of it, as loading processes are, lives on.
HOLDER = """
import os, sys, time
from pathlib import Path
from uniformer.support.lock import locked
with locked(Path(sys.argv[1])) as note:
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process has the folder, and a child of its own; both are gone in the end."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process, child
    finally:
        os.kill(child, 9)
        process.kill()
        process.wait()


def test_a_held_folder_is_refused_and_says_by_whom(tmp_path: Path) -> None:
    with held(tmp_path) as (process, _):
        who = f"process {process.pid} on {socket.gethostname()}"
        with refused(f"{tmp_path} is in use by {who}: "), locked(tmp_path):
            pass
        assert (tmp_path / NAME).read_text() == f"{who}\n"
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
        assert not (tmp_path / NAME).exists()
        with locked(tmp_path) as note:
            assert note == ""


def test_a_killed_process_leaves_no_lock_even_while_a_child_lives(tmp_path: Path) -> None:
    with held(tmp_path) as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)  # it is there
        assert (tmp_path / NAME).exists()
        with locked(tmp_path) as note:
            assert note == ""
            assert (tmp_path / NAME).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert list(tmp_path.iterdir()) == []


def _count(folder: Path, counter: Path, rounds: int) -> None:
    """Add one to a number in a file, `rounds` times, each in the lock."""
    done = 0
    while done < rounds:
        try:
            with locked(folder):
                counter.write_text(str(int(counter.read_text()) + 1))
                done += 1
        except InputError:
            pass  # it is in use


def test_processes_that_come_and_go_never_meet(tmp_path: Path) -> None:
    """The file is removed each time: whoever opened it before must not take that for the lock."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_count, args=(tmp_path / "out", counter, 100)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert counter.read_text() == "300"


def test_without_locks_a_note_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with locked(tmp_path / "a") as note:
        assert note.startswith(f"no locks on the file system of {tmp_path / 'a'}: nothing keeps a second run out")
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    with locked(tmp_path / "a") as note:
        assert note.endswith("nothing keeps a second run out of it")
    (tmp_path / "file").touch()
    with refused("cannot write .*file/run.lock: "), locked(tmp_path / "file"):
        pass


@pytest.mark.parametrize("command", ["eval", "features"])
def test_evaluation_into_a_held_folder_ends_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_images(tmp_path / "images", train=1, val=1)
    network = save_tiny(tmp_path / "tiny.safetensors", IMAGES)
    with held(tmp_path / "out"):
        before = sorted((tmp_path / "out").iterdir())
        assert main([command, str(network), str(data), "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert "is in use by process" in said.err
        assert sorted((tmp_path / "out").iterdir()) == before

"""One run in one folder or file, with real processes."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import odd_media
from tests.patience import PATIENCE
from tests.tiny import IMAGES, refused, save_tiny
from tests.training_runs import make_images
from uniformer.cli.main import main
from uniformer.errors import InputError
from uniformer.support.files import LOCK_NAME, atomic_path, locked

# Holds the output until its standard input ends; a child of it, as loading processes are, lives on.
HOLDER = """
import os, sys, time
from pathlib import Path
from uniformer.support.files import locked
with locked(Path(sys.argv[1]), is_file=sys.argv[2] == "is_file=True") as note:
    child = os.fork()
    if not child:
        time.sleep(int(sys.argv[3]))
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(output: Path, how: str = "is_file=False") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process has the folder or file, and a child of its own; both are gone in the end."""
    command = [sys.executable, "-c", HOLDER, str(output), how, str(PATIENCE)]
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
        assert (tmp_path / LOCK_NAME).read_text() == f"{who}\n"
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
        assert not (tmp_path / LOCK_NAME).exists()
        with locked(tmp_path) as note:
            assert note == ""


def test_a_killed_process_leaves_no_lock_even_while_a_child_lives(tmp_path: Path) -> None:
    with held(tmp_path) as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)  # it is there
        assert (tmp_path / LOCK_NAME).exists()
        with locked(tmp_path) as note:
            assert note == ""
            assert (tmp_path / LOCK_NAME).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
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
            time.sleep(0.001)  # it is in use; whoever has it shall come to run


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
    with refused("cannot write .*file: "), locked(tmp_path / "file"):
        pass


def test_a_file_is_held_under_all_its_names_and_its_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "out.csv").touch()
    (tmp_path / "link").symlink_to("out.csv")
    (tmp_path / "out").mkdir()
    with held(tmp_path / "out.csv", "is_file=True") as (process, _):
        for name in ("out.csv", "link", "out/../out.csv"):
            who = f"{name} is in use by process {process.pid} on .*: expected a file of one run"
            with refused(who), locked(f"{tmp_path}/{name}", is_file=True):
                pass
        with locked(tmp_path), locked(tmp_path / "other.csv", is_file=True):
            pass
        assert (tmp_path / ".out.csv.lock").exists()
    with locked(tmp_path / "out.csv", is_file=True):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out", "out.csv"]
    with locked("/dev/null", is_file=True) as note:  # nothing of it is kept
        assert note == ""
    assert not Path("/dev/.null.lock").exists()
    with refused(f"cannot write {tmp_path}: it is a folder"), locked(tmp_path, is_file=True):
        pass
    with refused("cannot write .*/out.csv/in: "), locked(tmp_path / "out.csv" / "in" / "out.csv", is_file=True):
        pass


def test_a_missing_folder_is_made_and_goes_again_where_nothing_comes_into_it(tmp_path: Path) -> None:
    for place, is_file in ((tmp_path / "a" / "b", False), (tmp_path / "a" / "b" / "out.csv", True)):
        with refused("no"), locked(place, is_file=is_file):
            assert (tmp_path / "a" / "b").is_dir()
            raise InputError("no")
        assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine"):
        pass
    with locked(tmp_path / "a" / "b"), atomic_path(tmp_path / "a" / "c" / "file") as temporary:
        temporary.write_text("x")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a", "a/c", "a/c/file", "mine"]


@pytest.mark.parametrize("command", ["eval", "features", "predict", "data scan", "data prepare", "data make"])
def test_a_run_into_a_held_output_ends_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, _, task = command.partition(" ")
    data, out = make_images(tmp_path / "images", train=1, val=1), tmp_path / "out"
    network = save_tiny(tmp_path / "tiny.safetensors", IMAGES)
    (tmp_path / "videos").mkdir()
    odd_media.encode(tmp_path / "videos" / "a.mp4", frames=3)
    (tmp_path / "videos.csv").write_text("path,label\nvideos/a.mp4,0\n")
    arguments = {
        "eval": [str(network), str(data), "--out", str(out)],
        "features": [str(network), str(data), "--out", str(out)],
        "predict": [str(data), "--checkpoint", str(network), "--out", str(out)],
        "data scan": [str(data), "--split", "val", "--out", str(out)],
        "data prepare": [str(tmp_path / "videos.csv"), "--out", str(out)],
        "data make": ["camera-motion", str(out), "--worlds", "photos", "--train", "1", "--val", "0", "--test", "0"],
    }[command]
    with held(out, f"is_file={verb == 'predict'}"):
        before = sorted(tmp_path.rglob("*"))
        assert main([verb, *filter(None, [task]), *arguments]) == 2
        said = capsys.readouterr()
        assert said.out.count("\n") == (task in ("scan", "prepare")), "what the data were taken for is said before"
        assert said.err.count("\n") == 1
        assert f"uniformer: {out} is in use by process" in said.err
        assert sorted(tmp_path.rglob("*")) == before

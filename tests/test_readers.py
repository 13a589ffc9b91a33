"""Waiting for other processes: reading ones, workers, and the others of a run; in order, and with an end."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.command_line import Cli, spawn
from tests.patience import PATIENCE, wait_until
from tests.tiny import CLIPS, refused, save_tiny
from tests.training_processes import ended, said, start_several, start_work
from tests.training_runs import losses, make_images, recipe_file
from uniformer.cli.main import main
from uniformer.errors import InputError
from uniformer.support.jobs import run_parallel
from uniformer.support.readers import read_in_order
from uniformer.support.waiting import VARIABLE, Silence, is_stopped, patience, work_done


def several(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {
        "pixels": torch.from_numpy(rng.random((3, 99, 99), np.float32)),
        "part": torch.arange(20).reshape(4, 5)[:, ::2],
        "none": np.empty((0, 3)),
        "labels": (np.arange(number), torch.tensor(number)),
        "text": f"\udcff{number}",
    }


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_come_in_order_with_the_same_bits(workers: int) -> None:
    here, there = (list(read_in_order(several, range(20), w)) for w in (0, workers))
    assert [answer["text"] for answer in here] == [answer["text"] for answer in there]
    for mine, other in zip(here, there, strict=True):
        assert torch.equal(mine["pixels"], other["pixels"])
        assert torch.equal(mine["part"], other["part"])
        assert mine["none"].shape == other["none"].shape
        assert np.array_equal(mine["labels"][0], other["labels"][0])
        assert int(mine["labels"][1]) == int(other["labels"][1])
        other["pixels"] += 1  # it may be written to


def test_no_more_is_read_ahead_than_asked_for_and_nothing_stays() -> None:
    taken: list[int] = []

    def jobs() -> Any:
        for number in range(1000):
            taken.append(number)
            yield number

    before = children()
    source = read_in_order(several, jobs(), 2)
    next(source)
    assert len(taken) == 5
    assert len(children() - before) == 2
    source.close()
    assert children() <= before


def children() -> set[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return set(map(int, found))


def odd(number: int) -> Any:
    """What the seventh job does depends on the sign of the others."""
    if number >= 0:
        return number
    {
        -1: lambda: _raise(InputError("one line")),
        -2: lambda: _raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.mp4")),
        -3: lambda: _raise(MemoryError()),
        -4: lambda: os.kill(os.getpid(), signal.SIGKILL),
        -5: lambda: os._exit(7),
        -6: lambda: os.kill(os.getpid(), signal.SIGSTOP),
        -7: lambda: _raise(_Odd(1, 2)),
    }[number]()
    return number


class _Odd(Exception):
    """Cannot be pickled as exceptions usually are."""

    def __init__(self, one: int, two: int):
        super().__init__("odd")


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("job", "kind", "message"),
    [
        (-1, InputError, "^one line$"),
        (-2, OSError, "No space left on device: 'a.mp4'"),
        (-3, MemoryError, ""),
        (
            -4,
            InputError,
            r"^reading process \d+ ended by signal SIGKILL: is memory short\?; expected what it was to read$",
        ),
        (-5, InputError, r"^reading process \d+ ended with status 7; "),
        (
            -6,
            InputError,
            r"^reading process (\d+) gave no sign of life for \d s \(stopped by a signal: kill -CONT \1\): ",
        ),
        (-7, RuntimeError, "^_Odd: odd$"),
    ],
)
def test_what_goes_wrong_in_a_reading_process_is_said_here(
    job: int, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    before, found = children(), []
    source = read_in_order(odd, [0, 1, 2, 3, job, 5, 6], 2)
    with pytest.raises(kind, match=message) as caught:
        found.extend(source)  # which takes them one by one
    assert found == [0, 1, 2, 3]
    assert children() <= before
    if job == -7:
        assert "in odd" in str(caught.value.__cause__), "the traceback from there"


def test_reading_processes_go_with_the_one_that_asked(tmp_path: Path) -> None:
    code = """
import os, sys, time
from uniformer.support.readers import read_in_order
def job(n):
    open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
    return b"a" * (1 << 22 if n > 2 else 1)  # one waits for a job, the other to be rid of its answer
if __name__ == "__main__":
    source = read_in_order(job, range(1, 4), 2)
    next(source)
    time.sleep(9999)
"""
    (tmp_path / "code.py").write_text(code)
    (tmp_path / "pids").mkdir()
    parent = subprocess.Popen([sys.executable, tmp_path / "code.py", tmp_path / "pids"])
    wait_until(lambda: len(list((tmp_path / "pids").iterdir())) == 2, lambda: parent.poll() is None)
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(_is_alive(int(path.name)) for path in (tmp_path / "pids").iterdir()))


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- resources that are short ----------------------------------------------------------------------------------------

SMALL = 'mount -t tmpfs -o size=64k none /dev/shm && exec "$@"'  # less than one view


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import odd_media

    folder = tmp_path_factory.mktemp("listed")
    save_tiny(folder / "net.safetensors", CLIPS)
    for number in range(6):
        odd_media.encode(folder / f"{number}.mp4", frames=9)
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{number}.mp4,0\n" for number in range(6)))
    return folder


def evaluation(folder: Path) -> list[str]:
    return ["eval", str(folder / "net.safetensors"), str(folder / "list.csv"), "--workers", "2"]


@pytest.mark.usefixtures("one_thread")
def test_shared_memory_may_be_small(listed: Path, cli: Cli) -> None:
    unshared = ["unshare", "-m", "sh", "-c", SMALL, "sh"]
    if subprocess.run([*unshared, "true"], capture_output=True, check=False).returncode:
        pytest.skip("not allowed to mount a small /dev/shm here")
    small, usual = spawn(*evaluation(listed), shell=shlex.join(unshared) + ' "$@"'), cli(*evaluation(listed))
    assert (small.status, usual.status) == (0, 0), small.err
    assert small.out == usual.out


def evaluate_within(folder: Path, kind: int, most: int) -> None:
    """In a process that may have no more than so much of something."""
    resource.setrlimit(kind, (most, most))
    sys.exit(main(evaluation(folder)))


@pytest.mark.parametrize(("kind", "most"), [(resource.RLIMIT_NOFILE, 40), (resource.RLIMIT_FSIZE, 20_000)])
def test_files_may_be_few(kind: int, most: int, listed: Path, tmp_path: Path) -> None:
    """Few that may be open, and none that may be long: then answers come through the socket."""
    out = tmp_path / "out"
    assert ended(start_work(out, evaluate_within, listed, kind, most)) == 0, said(out)
    assert "Traceback" not in said(out)


def test_reading_after_work_with_two_threads(listed: Path) -> None:
    """A copy of a process has the locks of its threads, and not the threads."""
    code = """
import sys
import torch, uniformer
torch.set_num_threads(2)
net, clip, data = sys.argv[1:]
predictor = uniformer.Predictor(net, workers=2)
answers = [str(a.labels) for a in predictor.run([clip] * 4)]
found = uniformer.evaluate(net, data, workers=2, batch_size=1)
print(found.scores.ok.sum(), len(set(answers)))
"""
    command = [
        sys.executable,
        "-c",
        code,
        str(listed / "net.safetensors"),
        str(listed / "0.mp4"),
        str(listed / "list.csv"),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, env=env, text=True, capture_output=True, check=True, timeout=PATIENCE)
    assert done.stdout.split() == ["6", "1"]


# ---- signs of life ---------------------------------------------------------------------------------------------------


def test_a_process_lives_while_it_computes_and_not_while_it_is_stopped() -> None:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        first = work_done([process.pid])
        wait_until(lambda: work_done([process.pid]) != first)
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(process.pid))
        first, silence = work_done([process.pid]), Silence()
        wait_until(lambda: silence.look(work_done([process.pid])) > 0.05)
        assert work_done([process.pid]) == first
        os.kill(process.pid, signal.SIGCONT)
        wait_until(lambda: work_done([process.pid]) != first)
        assert silence.look(work_done([process.pid])) == 0
    finally:
        process.kill()
        process.wait()
    assert not is_stopped(process.pid)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "", "1e30"])
def test_patience_is_a_number_of_seconds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with refused(f"expected a number of seconds above 0 in the variable {VARIABLE}, got "):
        patience()


def stop(_job: int) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def test_workers_that_are_stopped_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    with refused(r"^worker \d+ and \d+ gave no sign of life for \d+ s \(stopped by a signal: kill -CONT \d+"):
        list(run_parallel(stop, range(2), 2))


# ---- the other processes of a run ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal_", "message"),
    [
        (signal.SIGKILL, "uniformer: another process of this run has ended: expected its answer ("),
        (signal.SIGSTOP, "uniformer: process 1 of 2 gave no sign of life for "),
    ],
)
def test_a_lost_process_ends_the_others_in_one_line(signal_: int, message: str, tmp_path: Path) -> None:
    data = {"root": str(make_images(tmp_path / "images")), "train": "train", "workers": 0}
    recipe = recipe_file(tmp_path / "long.toml", {"data": data, "schedule": {"epochs": 10_000}})
    out = tmp_path / "out"
    first, second = start_several(2, recipe, out, **{VARIABLE: "5"})
    wait_until(lambda: losses(out), first.is_alive)
    os.kill(second.pid or 0, signal_)
    assert ended(first) == 2
    assert said(out).splitlines()[-1].startswith(message)
    assert "Traceback" not in said(out)
    second.kill()
    second.join()

"""Training in processes of its own, for tests: started, waited for, killed, compared.

All but those of torchrun are forked from a server that has imported everything once: importing would take most of the
time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tests.patience import PATIENCE
from uniformer.cli import main as cli
from uniformer.training.state import read_state

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["uniformer.cli.train", "uniformer.training.loop", "uniformer.training.fit_head", "uniformer.datasets.prepare",
     "jinja2", "torch._dynamo", "torchvision", "onnxruntime", "onnxscript", "skimage.data", "tests.training_runs"]
)  # fmt: skip

Child = multiprocessing.process.BaseProcess


@contextlib.contextmanager
def _settled(said: Path, variables: dict[str, str]) -> Iterator[None]:
    """In a new process: as one from a shell with these variables, its output in the file `said`."""
    os.environ.update(variables)
    multiprocessing.set_start_method("fork", force=True)  # of loading processes
    torch.set_num_threads(1)
    with open(said, "w", buffering=1) as f, contextlib.redirect_stdout(f), contextlib.redirect_stderr(f):
        yield


def _main(arguments: list[str], said: Path, most_bytes: int | None, fatal: bool, variables: dict[str, str]) -> None:
    """The command line in a new process."""
    with _settled(said, variables):
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
            if fatal:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
        status = cli.main(arguments)
    sys.exit(status)


def start(
    recipe: Path,
    out: Path,
    *,
    most_bytes: int | None = None,
    fatal: bool = False,
    says: Path | None = None,
    **variables: str,
) -> Child:
    """`train` into the folder `out`, its output in the file `says`, by default one beside it.

    A write beyond `most_bytes` fails as on a full disk; or, if that is `fatal`, the kernel kills the process in it.
    """
    arguments = ["train", str(recipe), "--out", str(out), "--device", "cpu"]
    said = _beside(says or out, variables)
    child = SERVER.Process(target=_main, args=(arguments, said, most_bytes, fatal, variables))
    child.start()
    return child


def start_command(arguments: list[str], folder: Path, *, says: Path | None = None, **variables: str) -> Child:
    """A command run in a folder, its output in the file `says`, by default one beside it."""
    child = SERVER.Process(target=_command, args=(arguments, folder, _beside(says or folder, variables), variables))
    child.start()
    return child


def _command(arguments: list[str], folder: Path, said: Path, variables: dict[str, str]) -> None:
    os.chdir(folder)
    _main(arguments, said, None, False, variables)


def start_work(folder: Path, work: Callable[..., object], *given: object, **variables: str) -> Child:
    """A function of a module in a process of its own, its output in a file beside the folder."""
    child = SERVER.Process(target=_work, args=(work, given, _beside(folder, variables), variables))
    child.start()
    return child


def _work(work: Callable[..., object], given: tuple[object, ...], said: Path, variables: dict[str, str]) -> None:
    with _settled(said, variables):
        work(*given)


def _beside(out: Path, variables: dict[str, str]) -> Path:
    return out.with_name(f"{out.name}.{variables.get('RANK', 0)}.said")


def start_several(
    processes: int, recipe: Path, out: Path, *, says: Path | None = None, **variables: str
) -> list[Child]:
    """With the variables that torchrun would set."""
    return [start(recipe, out, says=says, **place, **variables) for place in places(processes)]


def places(processes: int) -> list[dict[str, str]]:
    """The variables that torchrun would set, for each of the processes of one run."""
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


def torchrun(options: list[str], command: list[str], said: Path) -> subprocess.Popen[bytes]:
    """torchrun with the command line, one thread a process; all that it says in a file."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "uniformer.cli", *command]
    with open(said, "w") as f:
        return subprocess.Popen(torchrun, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=f, stderr=f)


def ended(*children: Child) -> int:
    """Wait for them all; the first one's status."""
    for child in children:
        child.join(PATIENCE)
        assert child.exitcode is not None, "it hangs"
    status = children[0].exitcode
    assert status is not None
    return status


def said(out: Path, rank: int = 0) -> str:
    return _beside(out, {"RANK": str(rank)}).read_text()


def finish(recipe: Path, out: Path) -> None:
    assert ended(start(recipe, out)) == 0, said(out)


def kill(child: Child, is_time: Callable[[], bool]) -> bool:
    """Kill with SIGKILL when `is_time()`; whether that came before the end."""
    while child.is_alive() and not is_time():
        time.sleep(0.0002)
    child.kill()
    return ended(child) == -signal.SIGKILL


def step_of(out: Path) -> int:
    return read_state(out / "state.pt")["progress"]["step"] if (out / "state.pt").exists() else 0

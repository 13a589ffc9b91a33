"""Work in several processes: what becomes of them when the one that gave it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.patience import PATIENCE, wait_until

JOBS = """
import os, sys, time
from pathlib import Path
from uniformer.support.jobs import run_parallel

def work(folder):
    begun, ended = Path(folder) / f"{os.getpid()}.begun", Path(folder) / f"{os.getpid()}.ended"
    begun.touch()
    try:
        time.sleep(int(sys.argv[2]))
    finally:
        ended.touch()

if __name__ == "__main__":
    list(run_parallel(work, [sys.argv[1]] * 2, 2))
"""


def test_workers_end_with_the_process_that_gave_the_work(tmp_path: Path) -> None:
    """Killed with -9, too, and they clean up: a game that one of them started would run on for ever."""
    (tmp_path / "jobs.py").write_text(JOBS)
    process = subprocess.Popen([sys.executable, tmp_path / "jobs.py", tmp_path, str(PATIENCE)])
    try:
        wait_until(lambda: len(list(tmp_path.glob("*.begun"))) == 2, lambda: process.poll() is None)
        workers = [int(path.stem) for path in tmp_path.glob("*.begun")]
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(_is_alive(worker) for worker in workers))
    finally:
        process.kill()
        for path in tmp_path.glob("*.begun"):
            if _is_alive(int(path.stem)):
                os.kill(int(path.stem), signal.SIGKILL)
    assert len(list(tmp_path.glob("*.ended"))) == 2


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"

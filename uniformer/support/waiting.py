"""Waiting for other processes: until they have answered, have ended, or give no sign of life any more.

A slow machine is no reason to give up, so what is limited is not time: a process lives while it computes or reads, or
says so itself, and how long it has not is counted only while this process looks. One that was stopped does neither.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from uniformer.errors import InputError, shown

PATIENCE = 600.0  #: seconds without a sign of life until a process is given up
VARIABLE = "UNIFORMER_PATIENCE"  #: another number of seconds
EVERY = 5.0  #: seconds between two looks, at most


def patience() -> float:
    """How long to wait without a sign of life, in seconds. Raises `InputError` where the variable is no such number."""
    text = os.environ.get(VARIABLE, str(PATIENCE))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise InputError(f"expected a number of seconds above 0 in the variable {VARIABLE}, got {shown(text)}")
    return seconds


class Silence:
    """How long something has given the same sign, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sign: object = self  # of nobody
        self._looked = time.monotonic()

    def look(self, sign: object) -> float:
        """The seconds of silence so far; a new sign ends it. Time in which nobody looked counts as one look."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * EVERY), now
        self.seconds, self._sign = (self.seconds + passed if sign == self._sign else 0.0), sign
        return self.seconds


def work_done(pids: Iterable[int]) -> tuple[object, ...]:
    """What processes have computed and read so far; it stays the same while they are stopped, or wait for ever."""
    return tuple(_work_of(pid) for pid in pids)


def _work_of(pid: int) -> object:
    """Clock ticks in use and bytes read, on Linux; None elsewhere, and of a process that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        read = Path(f"/proc/{pid}/io").read_text().split("\n", 1)[0]
    except OSError:
        return None
    return fields[11], fields[12], read


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or a debugger, where the system tells."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "tT"
    except OSError:
        return False


def gave_no_sign(who: str, pids: Iterable[int], seconds: float, awaited: str) -> InputError:
    """The line that ends a wait."""
    stopped = [str(pid) for pid in pids if is_stopped(pid)]
    hint = f" (stopped by a signal: kill -CONT {' '.join(stopped)})" if stopped else ""
    return InputError(
        f"{who} gave no sign of life for {seconds:.0f} s{hint}: expected {awaited}; {VARIABLE} sets how many seconds"
    )

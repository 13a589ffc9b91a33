"""Timing several things against each other: one process for each, taking turns, many rounds.

A process of its own gives each contender its threads, its allocator and its peak of memory to itself; taking turns lets
a slow minute of the machine fall on all of them alike. Ratios are of what was measured in one run, never across runs.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import machine

Run = Callable[[], Any]

#: what `compare` may go by; that of the processor leaves out what others do on the machine
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass(frozen=True)
class Contender:
    """One thing to time. `build(*arguments)` is called in its process and returns what a round runs, and facts."""

    name: str
    build: Callable[..., tuple[Run, dict[str, Any]]]
    arguments: tuple[Any, ...] = ()


@dataclass
class Result:
    """What a contender came to."""

    name: str
    facts: dict[str, Any]
    seconds: list[float] = field(default_factory=list)  #: one a round
    memory_mb: float = 0.0  #: of its process, Python and libraries and weights included, at its peak while it runs
    error: str | None = None  #: why it did not run

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def times_faster(self, other: Result) -> float:
        """Than another of the same rounds: the median of the rounds' ratios."""
        return statistics.median(theirs / mine for theirs, mine in zip(other.seconds, self.seconds, strict=True))

    def row(self) -> dict[str, Any]:
        spread = (
            {} if not self.seconds else {"median": self.median, "least": min(self.seconds), "most": max(self.seconds)}
        )
        return asdict(self) | spread


def compare(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    threads: int,
    neighbour: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Result]:
    """Run the contenders in turn, `rounds` times, each with `threads` threads; with `neighbour`, beside a busy process.

    One that fails (a package is missing) is reported and left out. `clock`, one of `CLOCKS`, is read before and after a
    run on a CPU.
    """
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_started(contender, threads, clock)) for contender in contenders]
        results = [Result(contender.name, {}) for contender in contenders]
        for result, pipe in zip(results, workers, strict=True):
            _take(result, pipe)
        if neighbour:
            stack.enter_context(_busy_neighbour())
        for number in range(rounds):
            order = range(len(contenders)) if number % 2 == 0 else reversed(range(len(contenders)))
            for i in order:
                if results[i].error is None:
                    workers[i].send("run")
                    _take(results[i], workers[i])
    return results


def finished(results: list[Result]) -> list[Result]:
    """The results, all of which must have run."""
    for result in results:
        if result.error is not None:
            raise SystemExit(f"{result.name}: {result.error}")
    return results


def _take(result: Result, pipe: Connection) -> None:
    try:
        kind, value = pipe.recv()
    except EOFError:
        kind, value = "error", "its process died"
    if kind == "error":
        result.error = value
    elif kind == "facts":
        result.facts, result.memory_mb = value
    else:
        result.seconds.append(value)


@contextlib.contextmanager
def _started(contender: Contender, threads: int, clock: Callable[[], float]) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    saved = {name: os.environ.get(name) for name in machine.THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(machine.THREAD_VARIABLES, str(threads)))
    process = context.Process(target=_work, args=(contender, threads, theirs, clock), daemon=True)
    process.start()
    theirs.close()
    for name, value in saved.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    try:
        yield ours
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _work(contender: Contender, threads: int, pipe: Connection, clock: Callable[[], float]) -> None:
    """In the contender's process: build, run twice unmeasured, then once for each message."""
    try:
        run, facts = contender.build(*contender.arguments, threads=threads)
        gc.collect()
        machine.forget_peak_memory()
        run()
        memory = machine.peak_memory()
        run()
        pipe.send(("facts", (facts, memory)))
    except Exception as error:
        pipe.send(("error", traceback.format_exception_only(error)[-1].strip().splitlines()[0]))
        return
    with contextlib.suppress(EOFError):
        while pipe.recv():
            gc.collect()
            pipe.send(("time", _seconds(run, clock)))


def _seconds(run: Run, clock: Callable[[], float]) -> float:
    """Of one run; of one that uses a GPU with all that it left the GPU to do."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        from uniformer.speed.timings import seconds

        return seconds(run, torch.device("cuda", torch.cuda.current_device()))
    begin = clock()
    run()
    return clock() - begin


@contextlib.contextmanager
def _busy_neighbour() -> Iterator[None]:
    """A process that keeps one core busy with another's work: products of matrices, one thread."""
    process = multiprocessing.get_context("spawn").Process(target=_busy, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _busy() -> None:
    import torch

    torch.set_num_threads(1)
    a = torch.randn(512, 512)
    while True:
        a = (a @ a).clamp(-1, 1)

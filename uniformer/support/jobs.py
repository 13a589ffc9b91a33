"""Work over many files in parallel processes, of which one may crash."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from uniformer.errors import InputError
from uniformer.support.waiting import EVERY, Silence, gave_no_sign, patience, work_done

Job = TypeVar("Job")
Answer = TypeVar("Answer")

_CLEANING = 3  # seconds that a job has to clean up
_AHEAD = 4  # jobs handed out per process: enough to keep it busy, few to repeat after a crash


@contextmanager
def one_thread() -> Iterator[None]:
    """In here torch computes with one thread, as a job among others does, and then with as many as before."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_parallel(
    function: Callable[[Job], Answer], jobs: Iterable[Job], workers: int
) -> Iterator[tuple[Job, Answer | None]]:
    """(job, answer) as they come, from `workers` fresh processes; 0 does the work in this one.

    Decoders are C code that a damaged file may crash. A job that takes its process down is answered by None, and the
    others go on. `function` must be importable by its name, as `multiprocessing` asks. What it raises is raised here,
    and `InputError` where no process has given a sign of life for `patience()`.
    """
    if workers < 0:
        raise InputError(f"expected a number of worker processes from 0 up, got {workers}")
    waiting = iter(jobs)
    if workers == 0:
        yield from ((job, function(job)) for job in waiting)
        return
    suspects: list[Job] = []
    is_done = False
    while not is_done:
        running: dict[Future[Answer], Job] = {}
        with _pool(workers) as pool:
            try:
                while True:
                    for job in islice(waiting, _AHEAD * workers - len(running)):
                        suspects.append(job)  # until it is handed over
                        running[pool.submit(function, job)] = job
                        suspects.pop()
                    if not running:
                        is_done = True
                        break
                    for future in _done(running, pool):
                        answer = future.result()
                        yield running.pop(future), answer
            except BrokenProcessPool:
                suspects += running.values()
        yield from _one_by_one(function, suspects)


def _one_by_one(function: Callable[[Job], Answer], jobs: list[Job]) -> Iterator[tuple[Job, Answer | None]]:
    """Each job alone in a process, which the next one takes over unless it crashed: then that job is to blame."""
    while jobs:
        with _pool(1) as pool:
            is_alive = True
            while jobs and is_alive:
                answer: Answer | None = None
                try:
                    (future,) = _done([pool.submit(function, jobs[0])], pool)
                    answer = future.result()
                except BrokenProcessPool:
                    is_alive = False
                yield jobs.pop(0), answer


def _done(futures: Collection[Future[Answer]], pool: ProcessPoolExecutor) -> Collection[Future[Answer]]:
    """The next ones that are done. Raises `InputError` where none of the processes gives a sign of life any more."""
    limit, silence = patience(), Silence()
    while True:
        done = wait(futures, min(EVERY, limit / 4), FIRST_COMPLETED).done
        if done:
            return done
        workers = dict(pool._processes)  # no public name tells them
        silent = silence.look(work_done(workers))
        if silent >= limit:
            problem = gave_no_sign(f"worker {' and '.join(map(str, workers))}", workers, silent, "what it works on")
            for worker in workers.values():  # or leaving the pool would wait for them
                worker.kill()
            raise problem


def _pool(workers: int) -> ProcessPoolExecutor:
    # Fresh processes: a fork of one with threads (torch, a terminal's progress bar) may hang.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """In a worker: go when the process that gives the work has gone, killed perhaps, and clean up on the way."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        while True:  # the pool takes what ends a job for its answer, and waits for the next: that wait has to end too
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_CLEANING)

    threading.Thread(target=watch, daemon=True).start()

"""Reading processes: jobs go out, answers come back in their order, and every wait has an end.

Arrays travel in memory without a name, of which a kill leaves nothing and which does not depend on the size of
/dev/shm, or, where that cannot be had, through the socket. What a job raises is raised here; a process that ends, or
gives no sign of life, ends the work in one line.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from copyreg import dispatch_table
from itertools import cycle, islice
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from multiprocessing.util import Finalize
from typing import Any, TypeVar

import torch

from uniformer.errors import InputError, first_line
from uniformer.support.waiting import EVERY, Silence, gave_no_sign, patience, work_done

Job = TypeVar("Job")
Answer = TypeVar("Answer")

AHEAD = 2  #: jobs handed to each process in advance
HURRIED = 20.0  # seconds of silence to bear once the run is to stop
_ALIGNED = 64  # bytes: where each array begins
# How reading processes start. Python 3.14 would start them from a server: seconds of imports for each.
START = "fork" if sys.platform == "linux" else None


def read_in_order(
    function: Callable[[Job], Answer],
    jobs: Iterable[Job],
    workers: int,
    *,
    is_to_stop: Callable[[], object] = lambda: False,
) -> Generator[Answer]:
    """`function(job)` of each job, in order, by `workers` processes that read ahead; with 0 in this one.

    Answers are anything that can be pickled; CPU tensors and arrays in them are shared, not copied through a pipe.
    `is_to_stop` says whether a stop was asked for, after which a process that is silent is given up soon.
    Raises what `function` raised, and `InputError` for a process that ended or gave no sign of life for `patience()`.
    """
    if workers == 0:
        yield from map(function, jobs)
        return
    with contextlib.ExitStack() as stack:
        readers: list[_Reader] = []
        for _ in range(workers):
            readers.append(_Reader(function, [reader.connection for reader in readers]))
            stack.callback(readers[-1].end)
        waiting, asked = iter(jobs), deque[_Reader]()
        turn = cycle(readers)
        for job in islice(waiting, AHEAD * workers):
            asked.append(next(turn))
            asked[-1].ask(job)
        while asked:
            reader = asked.popleft()
            answer = reader.answer(is_to_stop)
            for job in islice(waiting, 1):
                asked.append(next(turn))
                asked[-1].ask(job)
            yield answer


class _Reader:
    """One process, and the way to it."""

    def __init__(self, function: Callable[[Any], Any], others: Sequence[Connection]):
        context: Any = multiprocessing.get_context(START)
        self.connection, theirs = context.Pipe()
        inherited = [*others, self.connection] if START == "fork" else []
        self._process = context.Process(target=_serve, args=(function, theirs, inherited), daemon=True)
        self._process.start()
        theirs.close()
        # Also where the interpreter ends with the work half done: it would wait for processes that ignore its signal.
        self.end = Finalize(self, _end, (self._process, self.connection), exitpriority=10)

    def ask(self, job: Any) -> None:
        try:
            self.connection.send(job)
        except OSError:
            raise self._ended() from None

    def answer(self, is_to_stop: Callable[[], object]) -> Any:
        try:
            self._wait(is_to_stop)
            data, sizes, is_shared = self.connection.recv()
            if is_shared:
                self._wait(is_to_stop)
            answer = _unpacked(self.connection, data, sizes, is_shared)
        except (EOFError, ConnectionError):
            raise self._ended() from None
        if isinstance(answer, _Raised):
            raise answer.error from answer.cause
        return answer

    def _wait(self, is_to_stop: Callable[[], object]) -> None:
        """Until there is something to receive, if only the end."""
        pid, limit, silence = self._process.pid, patience(), Silence()
        while not self.connection.poll(min(EVERY, limit / 4)):
            silent = silence.look(work_done([pid]))
            if silent >= (min(limit, HURRIED) if is_to_stop() else limit):
                raise gave_no_sign(f"reading process {pid}", [pid], silent, "what it was to read")

    def _ended(self) -> InputError:
        self._process.join(HURRIED)
        code = self._process.exitcode or 0
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        hint = ": is memory short?" if code == -signal.SIGKILL else ""
        return InputError(f"reading process {self._process.pid} ended {how}{hint}; expected what it was to read")


def _end(process: Any, connection: Connection) -> None:
    """It holds nothing that a kill could spoil."""
    connection.close()
    process.kill()
    process.join()
    process.close()


# ---- in the process --------------------------------------------------------------------------------------------------


class _Told(Exception):
    """What another process says of an error, as a cause: its traceback."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _Raised:
    """An error instead of an answer."""

    def __init__(self, error: Exception):
        self.error = error if isinstance(error, InputError | MemoryError | OSError) else _portable(error)
        self.cause = _Told("".join(traceback.format_exception(error)))


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of any class, with any state
        return RuntimeError(f"{type(error).__name__}: {first_line(error)}")
    return error


def _serve(function: Callable[[Any], Any], connection: Connection, inherited: Sequence[Connection]) -> None:
    """Answer jobs until nobody asks any more. Signals are left to the parent: one to the whole group must not take the
    data away from the step that is to be finished and saved."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for other in inherited:  # or nobody could tell that the parent has gone
        other.close()
    torch.set_num_threads(1)
    parent = os.getppid()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            while not connection.poll(EVERY):
                if os.getppid() != parent:
                    return
            job = connection.recv()
            try:
                answer: Any = function(job)
            except Exception as error:
                answer = _Raised(error)
            _send(connection, answer)


# ---- answers on their way --------------------------------------------------------------------------------------------


# How answers are pickled: tensors as NumPy arrays, whose memory is left out of the pickle.
_TABLE = {**dispatch_table, torch.Tensor: lambda tensor: (torch.from_numpy, (tensor.detach().numpy(),))}


def _send(connection: Connection, answer: Any) -> None:
    """The pickle, the sizes of its arrays, and they themselves: in memory of their own, else after it."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=5, buffer_callback=buffers.append)
    pickler.dispatch_table = _TABLE
    try:
        pickler.dump(answer)
        parts = [memoryview(buffer.raw()) for buffer in buffers]
    except Exception as error:
        return _send(connection, _Raised(TypeError(f"an answer that cannot be sent: {first_line(error)}")))
    sizes = [part.nbytes for part in parts]
    memory = _memory_for(parts)
    connection.send((stream.getvalue(), sizes, memory is not None))
    if memory is None:
        for part in parts:
            connection.send_bytes(part)
    else:
        send_handle(connection, memory, os.getppid())
        os.close(memory)
    return None


def _memory_for(parts: Sequence[memoryview]) -> int | None:
    """A file of no name with all parts in it; None where there are none or the system has no room for one."""
    total = _starts([part.nbytes for part in parts])[-1]
    if not total or not hasattr(os, "memfd_create"):
        return None
    handle = -1
    try:
        handle = os.memfd_create("uniformer")
        os.posix_fallocate(handle, 0, total)
        with mmap.mmap(handle, total) as memory:
            for start, part in zip(_starts([part.nbytes for part in parts]), parts, strict=False):
                memory[start : start + part.nbytes] = part
    except OSError:
        if handle >= 0:
            os.close(handle)
        return None
    return handle


def _unpacked(connection: Connection, data: bytes, sizes: Sequence[int], is_shared: bool) -> Any:
    if not is_shared:
        return pickle.loads(data, buffers=[bytearray(connection.recv_bytes()) for _ in sizes])
    try:
        handle = recv_handle(connection)
    except RuntimeError:  # the system took the message and left out what it had no room for
        raise InputError("too many open files to take what a reading process has read: raise `ulimit -n`") from None
    starts = _starts(sizes)
    try:
        memory = memoryview(mmap.mmap(handle, starts[-1]))
    finally:
        os.close(handle)
    parts = [memory[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    return pickle.loads(data, buffers=parts)


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where each part begins, and the end of the last."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // _ALIGNED) * _ALIGNED)
    return starts

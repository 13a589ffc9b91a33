"""The processes of one run: who this one is, and the few things they tell one another. One process needs no set-up.

Processes are started by torchrun (or SLURM's srun with the same variables): RANK, WORLD_SIZE, LOCAL_RANK.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed as dist
from torch import nn

from uniformer.errors import InputError, first_line
from uniformer.support.files import locked
from uniformer.support.waiting import EVERY, Silence, gave_no_sign, patience

T = TypeVar("T")
CPU = torch.device("cpu")
LOST = 2  #: exit status of a process that gave up another one
LEFT = 1 << 48  # what a process adds to its count at the end
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}  #: by the names of recipes


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    nodes: int = 1  #: machines
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def all_gather(self, value: T) -> list[T]:
        """The value of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def broadcast(self, make: Callable[[], T]) -> T:
        """What `make` gives in the main process, in all of them; so is an `InputError` of it, that none waits in vain.

        So only the main process needs the output folder.
        """
        if self.size == 1:
            return make()
        box: list[tuple[T | None, InputError | None]] = [(None, None)]
        if self.is_main:
            try:
                box = [(make(), None)]
            except InputError as error:
                box = [(None, error)]
        dist.broadcast_object_list(box, src=0, device=self.device)
        value, problem = box[0]
        if problem is not None:
            raise problem
        return value  # type: ignore[return-value]

    @contextmanager
    def alone_in(self, folder: Path) -> Iterator[str]:
        """Keep other runs out of `folder`, as `locked` does, by the main process."""
        with ExitStack() as stack:
            yield self.broadcast(lambda: stack.enter_context(locked(folder)))

    def broadcast_buffers(self, modules: Iterable[nn.Module]) -> None:
        """Give every process the main one's buffers: in training the statistics of batch norms are each one's own."""
        if self.size > 1:
            for module in modules:
                for buffer in module.buffers():
                    dist.broadcast(buffer, src=0)


def current_process_group(device: str | torch.device = CPU) -> ProcessGroup:
    """The torch.distributed group this process is in already, or itself alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return ProcessGroup(device=torch.device(device))
    return ProcessGroup(dist.get_rank(), dist.get_world_size(), device=torch.device(device))


@contextmanager
def process_group(device: str = "auto") -> Iterator[ProcessGroup]:
    """Join the run that torchrun's variables describe, if any: gloo between CPUs, NCCL between GPUs.

    `device`: "auto" takes the GPU of this process's number on its machine, where there are GPUs.
    Raises `InputError` for variables that do not fit together and for a device that is not there.
    """
    rank, size, local = (_number(name, usual) for name, usual in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    if not 0 <= rank < size:
        raise InputError(f"expected RANK below WORLD_SIZE, got {rank} of {size}")
    place = pick_device(device, local)
    if dist.is_available() and dist.is_initialized():  # by a script of the caller's own, which also leaves it
        yield current_process_group(place)
        return
    if size == 1:
        yield ProcessGroup(device=place)
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    # A process that is done waits for the others: evaluating long videos may take it far beyond the usual minutes. So
    # what ends a wait is not a time, but that one of them gives no sign of life.
    limit = patience()
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(hours=12))
    with _all_alive(rank, size, limit), _lost_in_one_line():
        try:
            yield ProcessGroup(rank, size, max(size // _number("LOCAL_WORLD_SIZE", size), 1), place)
        finally:
            dist.destroy_process_group()


@contextmanager
def _lost_in_one_line() -> Iterator[None]:
    """What gloo and NCCL say where another process has ended, as an `InputError`."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            why = first_line(error).rpartition("] ")[2].split(". ")[0]
            raise InputError(f"another process of this run has ended: expected its answer ({why})") from None
        raise


@contextmanager
def _all_alive(rank: int, size: int, limit: float) -> Iterator[None]:
    """While the block runs, a process that none of the others hears of for `limit` seconds ends all of them.

    Each counts up a number of its own in the store by which the processes met. What waits for a process that was
    stopped waits in C, from where nothing can be raised: this process then says who is lost, and exits.
    """
    heard: dict[str, object] = {}
    is_over = threading.Event()

    def beat() -> None:
        with suppress(RuntimeError):  # the store went with the process that kept it
            store = dist.TCPStore(os.environ["MASTER_ADDR"], _number("MASTER_PORT", 0), None, False)
            while not is_over.wait(min(EVERY, limit / 8)):
                store.add(f"uniformer alive {rank}", 1)
                for other in range(size):
                    heard[f"process {other}"] = store.add(f"uniformer alive {other}", 0)
                heard["the store"] = object()  # this loop goes on
            store.add(f"uniformer alive {rank}", LEFT)

    def watch() -> None:
        silences = {f"process {other}": Silence() for other in range(size) if other != rank} | {"the store": Silence()}
        while not is_over.wait(min(EVERY, limit / 4)):
            for who, silence in silences.items():
                if silence.look(heard.get(who)) >= limit and not _has_left(heard.get(who)):
                    name = f"{who} of {size}" if who != "the store" else f"what keeps the {size} processes together"
                    print(f"uniformer: {gave_no_sign(name, (), limit, 'its answer')}", file=sys.stderr, flush=True)
                    sys.stdout.flush()
                    os._exit(LOST)

    beating, watching = (threading.Thread(target=work, daemon=True) for work in (beat, watch))
    beating.start()
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        beating.join(EVERY)  # it tells the others


def _has_left(count: object) -> bool:
    """Whether the number that a process counts up says that it is done, and will be silent from now on."""
    return isinstance(count, int) and count >= LEFT


def _number(name: str, usual: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return usual
    if not text.isdecimal():
        raise InputError(f"expected a whole number in the variable {name}, got {text!r}")
    return int(text)


def pick_device(name: str, local: int = 0) -> torch.device:
    """The device of this name; "auto" is a GPU where there is one. Number `local` of several, where none is named.

    Raises `InputError` for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"cannot compute on device {name!r}: {first_line(error, 150)}") from None
    return device

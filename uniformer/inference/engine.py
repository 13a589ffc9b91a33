"""The one loop: sources in, raw outputs of a network out. Batching, reading ahead, failures and order stand here alone.

    load (probe, which frames, read, crop)  ->  groups of views  ->  network  ->  an `Outcome` for each source, in order

Prediction, evaluation, features and timelines run it. Sources go through the network in groups that only their places,
the views of one and the batch size decide; one that cannot be read leaves zeros in its place, so that shapes stay and
no neighbour moves a digit. What goes wrong in reading a source is that source's failure, never the run's; so is memory
that it alone asks too much of. A group that does asks again source by source.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from uniformer.checkpoints.contract import Contract
from uniformer.config import InputSpec
from uniformer.errors import InputError, UnfitInput, first_line, is_out_of_memory
from uniformer.reading.transforms import Floats
from uniformer.reading.views import Views
from uniformer.support.progress import Pace
from uniformer.tasks.task import Outputs, Task

S = TypeVar("S")
Read = Views | str  #: the views of a source, or why there are none
Answer = Outputs | str  #: of a source, or why there is none


class Network(Protocol):
    """What computes: in torch (`networks.TorchNetwork`), or exported and without torch (`speed.runtimes.Exported`)."""

    contract: Contract
    report: Any  #: of loading the file, if there was one

    def __call__(self, views: Floats, batch_size: int) -> Outputs:
        """Views (V, 3, ...) -> outputs (V, ...), `batch_size` views at a time."""

    def whole(self, task: Task, views: Views, batch_size: int) -> Outputs:
        """What a dense network answers to a whole picture; see `Task.answer`."""

    @property
    def compute(self) -> str:
        """The form it computes in."""

    @property
    def exact_form(self) -> str:
        """The same in full, with all that its last digits depend on."""

    @property
    def device_type(self) -> str:
        """Where it computes: "cpu", "cuda"."""

    @property
    def weights(self) -> str:
        """What tells the weights from all others, whatever they are called; `whole_weights` is the whole sum."""


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """What came of one source: outputs for its views, (V, ...) each, or an error."""

    source: S
    outputs: Outputs = ()
    views: Views | None = None  #: what the network was fed
    seconds: float = 0.0  #: its share of the network's time
    error: str | None = None


def group_size(views: int, batch_size: int) -> int:
    """How many sources go through the network together: as many as have `batch_size` views, at least one."""
    return max(1, batch_size // views)


def run(
    network: Any,
    sources: Iterable[S],
    load: Callable[[S], Views],
    spec: InputSpec | Task,
    *,
    batch_size: int = 8,
    workers: int = 2,
    processes: bool = False,
    name: Callable[[S], str] = str,
    pace: Pace | None = None,
) -> Generator[Outcome[S]]:
    """The outcome of each source, in order, as they come; `load` gives the views that `spec` describes, or whole
    pictures, where it is a task of these: each goes through the network alone.

    Sources are read ahead by `workers` threads while the network computes, or by as many processes where `sources` is a
    sequence and `processes` says so; 0 reads in between. `name` is what messages call a source. `pace` is told how long
    the network waited for data and how long it computed.
    """
    each = spec.views if isinstance(spec, InputSpec) else 0
    size = group_size(each, batch_size) if each else 1
    with closing(_read_ahead(sources, load, workers, processes, name)) as arriving:
        while True:
            begin = time.perf_counter()
            group = list(islice(arriving, size))
            if not group:
                return
            ready = time.perf_counter()
            answers = _answers(network, [read for _, read in group], spec, batch_size)
            spent = time.perf_counter() - ready
            if pace is not None:
                pace.add(len(group), ready - begin, spent)
            for (source, read), answer in zip(group, answers, strict=True):
                yield _outcome(source, read, answer, spent / len(group), name)


def _answers(network: Any, group: Sequence[Read], spec: InputSpec | Task, batch_size: int) -> list[Answer]:
    """What the network says of each source of a group; nothing of those without views."""
    if all(isinstance(read, str) for read in group):
        return [()] * len(group)  # nothing of them is left to compute
    try:
        if not isinstance(spec, InputSpec):
            return [network.whole(spec, group[0], batch_size)]
        outputs = network(_stacked(group, spec), batch_size)
        firsts = range(0, len(group) * spec.views, spec.views)
        return [tuple(o[first : first + spec.views] for o in outputs) for first in firsts]
    except Exception as error:
        if isinstance(spec, InputSpec) and not is_out_of_memory(error):
            raise  # views are of one size: if one does not fit the network, none does
        fault = fault_of_source(error)
    # The error is let go of by now, and with it what the network had computed
    if isinstance(spec, InputSpec) and max(len(group), batch_size) > 1:
        return [answer for read in group for answer in _answers(network, [read], spec, 1)]
    return [fault]


def fault_of_source(error: Exception) -> str:
    """Why a source has no answer, where it alone is at fault: it does not fit the network, or wants more memory than
    there is. Raises any other error again."""
    if isinstance(error, UnfitInput):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory: {first_line(error)}"
    raise error


def _outcome(source: S, read: Read, answer: Answer, seconds: float, name: Callable[[S], str]) -> Outcome[S]:
    if isinstance(read, str):
        return Outcome(source, error=read)
    if isinstance(answer, str):
        return Outcome(source, error=f"{name(source)}: {answer}")
    if not all(np.isfinite(o).all() for o in answer):
        wrong = f"{name(source)}: expected finite numbers of the network, got NaN or infinity"
        return Outcome(source, views=read, error=wrong)
    return Outcome(source, answer, read, seconds)


def _stacked(group: Sequence[Read], spec: InputSpec) -> Floats:
    """The views of a group, (sources x views, 3, ...): zeros where there are none."""
    if len(group) == 1 and isinstance(group[0], Views):
        return group[0].array
    shape = (spec.views, 3, *((spec.frames,) if spec.is_video else ()), *spec.size)
    return np.concatenate([np.zeros(shape, np.float32) if isinstance(read, str) else read.array for read in group])


# ---- reading ahead ---------------------------------------------------------------------------------------------------


def _read_ahead(
    sources: Iterable[S], load: Callable[[S], Views], workers: int, processes: bool, name: Callable[[S], str]
) -> Generator[tuple[S, Read]]:
    """Each source with its views or its error, in order; a few are read in advance, so memory does not grow."""
    guarded = _Guarded(load, name)
    if workers == 0:
        yield from ((source, guarded(source)) for source in sources)
    elif processes:
        assert isinstance(sources, Sequence)
        from uniformer.support.readers import read_in_order

        yield from zip(sources, read_in_order(guarded, sources, min(workers, len(sources))), strict=True)
    else:
        yield from _by_threads(sources, guarded, workers)


@dataclass(frozen=True)
class _Guarded(Generic[S]):
    """`load`, with an error in words in place of the views. It can be pickled, for processes."""

    load: Callable[[S], Views]
    name: Callable[[S], str]

    def __call__(self, source: S) -> Read:
        try:
            return self.load(source)
        except InputError as error:
            return str(error)
        except Exception as error:  # a decoder's or a file system's own: of this source, not of the run
            return f"{self.name(source)}: cannot be read: {type(error).__name__}: {first_line(error)}"


def _by_threads(sources: Iterable[S], load: Callable[[S], Read], workers: int) -> Iterator[tuple[S, Read]]:
    queue: deque[tuple[S, Future[Read]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="read") as pool:
        try:
            for source in sources:
                queue.append((source, pool.submit(load, source)))
                if len(queue) > workers:
                    first, future = queue.popleft()
                    yield first, future.result()
            while queue:
                first, future = queue.popleft()
                yield first, future.result()
        finally:
            for _, future in queue:
                future.cancel()

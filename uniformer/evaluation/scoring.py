"""A network's answers to a data set, scored: multi-view testing as published, every item exactly once, resumable.

The same digits come out whatever the number of processes and however often the work was cut short: items go through
the engine in groups that only the data set, the views and the batch size decide, and a group is never shared between
processes. (On CPUs the number of threads of a process must be the same, as torch's sums depend on it: torchrun sets one
where OMP_NUM_THREADS says nothing.) The form in which the network computes is part of what a run's results are of: one
that goes on takes the form that was recorded, whatever has been measured on the machine since.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uniformer.config import Config, InputSpec, Precision, to_dict
from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.sums import item_sums
from uniformer.errors import InputError, check_word
from uniformer.inference import engine
from uniformer.inference.networks import form_to_take
from uniformer.reading.views import Decoder, Views, load_views
from uniformer.speed.timings import Compute
from uniformer.support.distributed import ProcessGroup
from uniformer.support.progress import OnProgress, Pace
from uniformer.support.resume import ROWS_KEY, RowLog, read_claim
from uniformer.tasks.task import Metric, Task

FORM_NAMES = {"fast by torch/torch": "inference form"}  #: what `run_key` has called a form since it was the only one


@dataclass(frozen=True)
class Reading:
    """How items are read and computed."""

    device: Any = "cpu"  #: a name or a torch.device
    precision: Precision = "float32"
    batch_size: int = 8  #: views in one forward pass
    workers: int = 2  #: processes that read and decode; 0 reads in this one
    backend: Decoder = "pyav"
    follow_seconds: bool = False  #: scale strides by a video's frame rate
    compute: Compute | None = None  #: form of the network; the best that `uniformer bench` found, or "fast"

    def __post_init__(self) -> None:
        check_word("precision", self.precision, Precision)
        if self.batch_size < 1 or self.workers < 0:
            raise InputError(
                f"expected batch_size of at least 1 and workers of at least 0, got {self.batch_size} and {self.workers}"
            )


@dataclass(frozen=True)
class Items:
    """Reads the items of a data set by row, as `spec` says. It can be pickled, for reading processes."""

    manifest: Any
    spec: InputSpec | Task
    reading: Reading

    def __call__(self, row: int) -> Views:
        if isinstance(self.spec, Task):
            return self._whole(self.spec, row)
        item, reading = self.manifest[row], self.reading
        return load_views(
            item.path, self.spec, backend=reading.backend, follow_seconds=reading.follow_seconds, span=item.span
        )

    def _whole(self, task: Task, row: int) -> Views:
        """A whole picture. Raises `InputError` where it is not as large as annotated: nothing would lie on anything."""
        views, path = task.load(self.manifest.path(row)), self.manifest.path(row)
        height, width = self.manifest.size(row)
        if (views.height, views.width) != (height, width):
            raise InputError(
                f"{path}: expected a picture of {width}x{height}, as annotated, found {views.width}x{views.height}"
            )
        return views


def score(
    network: engine.Network,
    metric: Metric,
    spec: InputSpec | Task,
    reading: Reading,
    group: ProcessGroup,
    *,
    store: str | os.PathLike[str] | None = None,
    progress: OnProgress | None = None,
    pace: Pace | None = None,
) -> Any:
    """The scores (`metric.result`) of `metric.manifest`, from `spec.clips` x `spec.crops` views of each item, or from
    whole pictures, as the task does that `spec` then is.

    A file that cannot be read has no answer: the scores' `errors` say why, and it counts as wrong. Each process of
    `group` takes its share of the items and all get the whole result. With `store`, a folder, finished items are kept
    there and a run that was cut short goes on; items without an answer, and those whose file was replaced, are tried
    again.
    Raises `InputError` when network, data and spec do not fit, or when the folder holds another run's results.
    """
    manifest = metric.manifest
    check_fits(network.contract.config, manifest, spec)
    if isinstance(spec, Task):
        spec.check()
    log = None
    if store is not None:
        sums = group.broadcast(lambda: item_sums(manifest, with_time=True))
        log = RowLog(store, run_key(network, manifest, spec, reading), metric.dtype, sums)
    finished = group.broadcast(lambda: np.empty(0, metric.dtype) if log is None else log.read())
    has = np.zeros(len(manifest), bool)
    has[finished["item"]] = True
    together = (1, 1) if isinstance(spec, Task) else (spec.views, reading.batch_size)
    groups = [g for g in item_groups(len(manifest), *together) if not has[g.start : g.stop].all()]

    rows: list[npt.NDArray[Any]] = []
    errors: dict[int, str] = {}
    with nullcontext() if log is None else log.begin(group.rank) as keep:
        for outcome in run_items(
            network, manifest, spec, groups[group.rank :: group.size], reading, progress=progress, pace=pace
        ):
            if has[outcome.source]:
                continue  # of a group that a kill cut short
            if outcome.error is not None:
                errors[outcome.source] = outcome.error
                continue
            try:
                rows.append(metric.row(outcome.source, _answer(spec, outcome)))
            except Exception as error:
                errors[outcome.source] = f"{manifest.path(outcome.source)}: {engine.fault_of_source(error)}"
                continue
            if keep is not None:
                keep(rows[-1])
    parts = group.all_gather((np.array(rows, metric.dtype), errors))
    every = np.concatenate([finished, *(rows for rows, _ in parts)])
    return metric.result(every, {item: why for _, part in parts for item, why in part.items()})


def _answer(spec: InputSpec | Task, outcome: engine.Outcome[int]) -> Any:
    """What a metric takes: outputs, or a task's result."""
    if not isinstance(spec, Task):
        return outcome.outputs
    assert outcome.views is not None
    return spec.decode(outcome.outputs, outcome.views, 0)


def run_items(
    network: Callable[..., Any],
    manifest: Manifest | AnnotatedSet,
    spec: InputSpec | Task,
    groups: Sequence[range],
    reading: Reading,
    *,
    progress: OnProgress | None = None,
    pace: Pace | None = None,
) -> Generator[engine.Outcome[int]]:
    """The engine's outcomes for the rows of `groups`, read by worker processes. `progress`: of this process."""
    rows = [row for group in groups for row in group]
    done = 0
    outcomes = engine.run(
        network, rows, Items(manifest, spec, reading), spec,
        batch_size=reading.batch_size, workers=reading.workers, processes=True, name=manifest.path, pace=pace,
    )  # fmt: skip
    with closing(outcomes):
        for done, outcome in enumerate(outcomes, start=1):
            if progress is not None:
                progress(done, len(rows))
            yield outcome


def item_groups(items: int, views: int, batch_size: int) -> list[range]:
    """Consecutive items that go through the network together."""
    size = engine.group_size(views, batch_size)
    return [range(first, min(first + size, items)) for first in range(0, items, size)]


def check_fits(config: Config, manifest: Manifest | AnnotatedSet, spec: InputSpec | Task) -> None:
    """Raises `InputError` where clips meet images among model, data and spec, or the data set is empty or of another
    task."""
    if isinstance(spec, Task) and spec.name != (found := getattr(manifest, "task", "classification")):
        raise InputError(f"expected data annotated for {spec.name}, as the checkpoint is for it, got some for {found}")
    is_video = isinstance(spec, InputSpec) and spec.is_video
    kinds = {"the model": config.is_video, "the input": is_video, "the data": manifest.kind != "image"}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name} {'clips' if video else 'images'}" for name, video in kinds.items())
        raise InputError(f"expected clips or images throughout, got {said}")
    if not len(manifest):
        raise InputError("expected a data set of at least one item, got an empty one")


# ---- what a stored result depends on ---------------------------------------------------------------------------------


def run_key(
    network: Any, manifest: Manifest | AnnotatedSet, spec: InputSpec | Task, reading: Reading
) -> dict[str, str]:
    """Everything that decides the digits of a result, by name, but what the files hold, which is kept item by item.

    The labels do not; nor does where the data lie.
    """
    items = hashlib.sha256()
    parts = (manifest.start, manifest.end) if isinstance(manifest, Manifest) else ()
    for column in (manifest.paths.blob, manifest.paths.offsets, *parts):
        items.update(b"none" if column is None else np.ascontiguousarray(column).tobytes())
    whole = hashlib.sha256(json.dumps(to_dict(network.contract.config)).encode())
    whole.update(network.whole_weights.encode())
    return {
        "model": whole.hexdigest(),
        "data": items.hexdigest(),
        "views": spec.described() if isinstance(spec, Task) else json.dumps(to_dict(spec)),
        "precision": f"{reading.precision} on {network.device_type}",
        "network": FORM_NAMES.get(network.exact_form, network.exact_form),
        "batch_size": str(reading.batch_size),
        "decoding": f"{reading.backend}{', follow seconds' if reading.follow_seconds else ''}",
    }


def form_to_go_on(asked: str | None, folder: str | os.PathLike[str] | None, name: str = ROWS_KEY) -> str | None:
    """The form in which a run with results in a folder goes on: `form_to_take` by what is recorded there."""
    said = (read_claim(Path(folder, name)) or {}).get("network") if folder else None
    return form_to_take(asked, next((form for form, old in FORM_NAMES.items() if old == said), said))

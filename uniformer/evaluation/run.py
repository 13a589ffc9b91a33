"""Scores of a model over a data set: multi-view testing as published, every item exactly once, resumable.

    load_views (clips x crops)  ->  network  ->  mean over views  ->  Scores

The same digits come out whatever the number of processes and however often the work was cut short: items go through
the network in groups that only the data set, the views and the batch size decide, a group is never shared between
processes, and a file that cannot be read leaves zeros in its place, so that shapes stay. (On CPUs the number of threads
of a process must be the same, as torch's sums depend on it: torchrun sets one where OMP_NUM_THREADS says nothing.)
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import DataLoader, Dataset

from uniformer.checkpoints.proof import digest
from uniformer.config import InputSpec, to_dict
from uniformer.datasets.manifest import Manifest
from uniformer.errors import InputError
from uniformer.evaluation.result_log import ResultLog
from uniformer.tasks.scores import Scores
from uniformer.inference.networks import DTYPES, best_form, forward_views, inference_form
from uniformer.inference.predictor import average_views
from uniformer.network.model import UniFormer
from uniformer.reading.views import Backend, load_views
from uniformer.speed.timings import Compute, view_size
from uniformer.support.distributed import WORKER_START, World
from uniformer.support.progress import Pace

Precision = Literal["float32", "bfloat16", "float16"]
Progress = Callable[[int, int], None]  # called with items done and items in all, of this process
Forward = Callable[[Any, Tensor], tuple[Tensor, ...]]  # a form of the network, (B, 3, ...) -> outputs (B, ...)


@dataclass(frozen=True)
class Reading:
    """How items are read and computed."""

    device: str | torch.device = "cpu"
    precision: Precision = "float32"
    batch_size: int = 8  #: views in one forward pass
    workers: int = 2  #: processes that read and decode; 0 reads in this one
    backend: Backend = "pyav"
    follow_seconds: bool = False  #: scale strides by a video's frame rate
    compute: Compute | None = None  #: form of the network; the best that `uniformer bench` found, or "fast"

    def __post_init__(self) -> None:
        if self.precision not in DTYPES:
            raise InputError(f"expected precision {', '.join(DTYPES)}, got {self.precision!r}")
        if self.batch_size < 1 or self.workers < 0:
            raise InputError(
                f"expected batch_size of at least 1 and workers of at least 0, got {self.batch_size} and {self.workers}"
            )


def evaluate(
    model: UniFormer,
    manifest: Manifest,
    spec: InputSpec,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    batch_size: int = 8,
    workers: int = 2,
    backend: Backend = "pyav",
    follow_seconds: bool = False,
    progress: Progress | None = None,
    store: str | os.PathLike[str] | None = None,
    compute: Compute | None = None,
    pace: Pace | None = None,
) -> Scores:
    """The model's answer for every item, from `spec.clips` x `spec.crops` views each, averaged as `spec` says.

    Labels of the manifest are rows of the model's classifier. A file that cannot be read has no answer: the scores'
    `errors` say why, and it counts as wrong. Within a torch.distributed group each process takes its share of the items
    and all get the whole result. With `store`, a folder, finished items are kept there and a run that was cut short
    goes on; items without an answer are tried again. `compute` is the form of the network, as in `Predictor`.
    `pace` is told how long this process waited for data and how long it computed.

    The model is put on `device`, computes in evaluation mode, and is left in the mode it was in.
    Raises `InputError` when model, data and spec do not fit, or when the folder holds another run's results.
    """
    reading = Reading(device, precision, batch_size, workers, backend, follow_seconds, compute)
    _check(model, manifest, spec)
    dtype = _row_type(model.config.num_classes)
    log = None if store is None else ResultLog(store, run_key(model, manifest, spec, reading), dtype)
    world = this_world(device)
    finished = world.from_main(lambda: np.empty(0, dtype) if log is None else log.read())
    has = np.zeros(len(manifest), bool)
    has[finished["item"]] = True
    groups = [g for g in item_groups(len(manifest), spec.views, batch_size) if not has[g.start : g.stop].all()]

    rows: list[npt.NDArray[Any]] = []
    errors: dict[int, str] = {}
    with nullcontext() if log is None else closing(log.begin(world.rank)):
        mine = groups[world.rank :: world.size]
        for outcome in run_groups(model, _logits, manifest, spec, mine, reading, progress, pace):
            if has[outcome.item]:
                continue  # of a group that a kill cut short
            if outcome.error is not None:
                errors[outcome.item] = outcome.error
                continue
            logits = outcome.outputs[0]  # (V, K)
            rows.append(np.array((outcome.item, logits.mean(dim=0), average_views(logits.numpy(), spec)), dtype))
            if log is not None:
                log.add(rows[-1])
    parts = world.gathered((np.array(rows, dtype), errors))
    return _assembled(manifest, finished, parts)


def _logits(network: UniFormer, x: Tensor) -> tuple[Tensor, ...]:
    return (network(x),)


def _check(model: UniFormer, manifest: Manifest, spec: InputSpec) -> None:
    width = model.config.num_classes
    if model.config.output != "logits" or not width:
        raise InputError("expected a model with a classifier to evaluate, got a backbone")
    check_fits(model, manifest, spec)
    if len(manifest.labels) and not 0 <= int(manifest.labels.min()) <= int(manifest.labels.max()) < width:
        raise InputError(
            f"expected labels in 0 .. {width - 1}, the model's classes, "
            f"got {int(manifest.labels.min())} .. {int(manifest.labels.max())}"
        )


def check_fits(model: UniFormer, manifest: Manifest, spec: InputSpec) -> None:
    """Raises `InputError` where clips meet images among model, data and spec, or the data set is empty."""
    kinds = {"the model": model.config.is_video, "the input": spec.is_video, "the data": manifest.kind != "image"}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name} {'clips' if video else 'images'}" for name, video in kinds.items())
        raise InputError(f"expected clips or images throughout, got {said}")
    if not len(manifest):
        raise InputError("expected a data set of at least one item, got an empty one")


def _row_type(classes: int) -> np.dtype[Any]:
    return np.dtype([("item", "<i8"), ("logits", "<f4", (classes,)), ("probabilities", "<f4", (classes,))])


def _assembled(
    manifest: Manifest, finished: npt.NDArray[Any], parts: Sequence[tuple[npt.NDArray[Any], dict[int, str]]]
) -> Scores:
    """The scores of all items from the rows kept before and those of every process, with its errors."""
    rows = np.concatenate([finished, *(rows for rows, _ in parts)])
    errors = {item: why for _, part in parts for item, why in part.items()}
    count, classes = len(manifest), rows["logits"].shape[1]
    logits, probabilities = np.zeros((count, classes), np.float32), np.zeros((count, classes), np.float32)
    ok = np.zeros(count, bool)
    logits[rows["item"]], probabilities[rows["item"]], ok[rows["item"]] = rows["logits"], rows["probabilities"], True
    names = manifest.classes if len(manifest.classes) == classes else ()
    labels = label_array(manifest, classes)
    return Scores(probabilities, logits, labels, ok, item_names(manifest), names, dict(sorted(errors.items())))


def label_array(manifest: Manifest, classes: int) -> npt.NDArray[Any]:
    """The labels of every row: int32 (N,), or bool (N, classes) of a multi-label set."""
    if not manifest.is_multi_label:
        return np.array(manifest.labels, np.int32)
    labels = np.zeros((len(manifest), classes), bool)
    for i in range(len(manifest)):
        labels[i, list(manifest.labels_of(i))] = True
    return labels


def item_names(manifest: Manifest) -> tuple[str, ...]:
    """The path of every row as the manifest has it, with the part in seconds where one is meant: 'a.mp4#3.5-7'."""
    if manifest.start is None or manifest.end is None:
        return tuple(manifest.paths)
    spans = zip(manifest.paths, manifest.start.tolist(), manifest.end.tolist(), strict=True)
    return tuple(path if start != start else f"{path}#{start:g}-{end:g}" for path, start, end in spans)


# ---- items in groups: read by workers, computed in order -------------------------------------------------------------


def item_groups(items: int, views: int, batch_size: int) -> list[range]:
    """Consecutive items that go through the network together: as many as have `batch_size` views, at least one."""
    size = max(1, batch_size // views)
    return [range(first, min(first + size, items)) for first in range(0, items, size)]


@dataclass(frozen=True)
class Outcome:
    """What came of one item: the outputs of its views, (V, ...) each, or why there are none."""

    item: int
    outputs: tuple[Tensor, ...] = ()  #: float32, on the CPU
    seconds: npt.NDArray[np.float64] | None = None  #: the times of its frames, (clips, T), where it has a clock
    error: str | None = None


def run_groups(
    model: UniFormer,
    forward: Forward,
    manifest: Manifest,
    spec: InputSpec,
    groups: Sequence[range],
    reading: Reading,
    progress: Progress | None = None,
    pace: Pace | None = None,
) -> Generator[Outcome]:
    """`forward`, which runs (part of) `model` or of its inference form, on every view of the items of `groups`."""
    done, total = 0, sum(map(len, groups))
    with computing(model, reading.device):
        size, dtype = view_size(model.config, spec), DTYPES[reading.precision]
        compute = reading.compute or best_form(model, size, torch.device(reading.device), dtype)
        network = inference_form(model, compute, size, dtype)
        begin = time.perf_counter()
        for loaded in read_groups(manifest, spec, groups, reading):
            items, ready = groups[loaded.number], time.perf_counter()
            outputs = _outputs(model, partial(forward, network), loaded, reading)
            outputs = [o.unflatten(0, (len(items), spec.views)) for o in outputs]
            if pace is not None:
                pace.add(len(items), ready - begin, time.perf_counter() - ready)
            done += len(items)
            if progress is not None:
                progress(done, total)
            for place, item in enumerate(items):
                error, mine = loaded.errors.get(place), tuple(o[place] for o in outputs)
                if error is None and not all(o.isfinite().all() for o in mine):
                    error = f"{manifest.path(item)}: expected finite numbers of the network, got NaN or infinity"
                yield Outcome(item, error=error) if error else Outcome(item, mine, loaded.seconds[place])
            begin = time.perf_counter()


def _outputs(
    model: UniFormer, forward: Callable[[Tensor], tuple[Tensor, ...]], loaded: Loaded, reading: Reading
) -> list[Tensor]:
    """Every output for all views of a group, `batch_size` views at a time: a shape that no neighbour decides."""
    weight = next(model.parameters())
    pixels = loaded.pixels.to(weight.dtype)
    return forward_views(forward, pixels, weight.device, DTYPES[reading.precision], reading.batch_size)


@contextmanager
def computing(model: UniFormer, device: str | torch.device) -> Iterator[None]:
    """The model on `device` in evaluation mode; afterwards each module is back in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.to(device).eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class Loaded(NamedTuple):
    """What a worker hands over for one group: zeros stand for the views of items that could not be read."""

    number: int  #: of the group in the list asked for
    pixels: Tensor  #: (items x views, 3, ...)
    seconds: list[npt.NDArray[np.float64] | None]  #: of each item
    errors: dict[int, str]  #: place in the group -> why


def read_groups(manifest: Manifest, spec: InputSpec, groups: Sequence[range], reading: Reading) -> Iterator[Loaded]:
    """The views of each group, in order, read ahead by worker processes (one thread each)."""
    workers = min(reading.workers, len(groups))
    loader = DataLoader(
        _Groups(manifest, spec, groups, reading),
        batch_size=None,  # a group is a batch already
        num_workers=workers,
        multiprocessing_context=WORKER_START if workers else None,
        pin_memory=torch.device(reading.device).type == "cuda",
    )
    yield from loader


class _Groups(Dataset[Loaded]):
    def __init__(self, manifest: Manifest, spec: InputSpec, groups: Sequence[range], reading: Reading):
        self._manifest, self._spec, self._groups, self._reading = manifest, spec, groups, reading

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, number: int) -> Loaded:
        spec, items = self._spec, self._groups[number]
        clip = (spec.frames,) if spec.is_video else ()
        pixels = torch.zeros(len(items), spec.views, 3, *clip, *spec.size)
        seconds: list[npt.NDArray[np.float64] | None] = [None] * len(items)
        errors = {}
        for place, item in enumerate(items):
            row = self._manifest[item]
            span = None if row.start is None or row.end is None else (row.start, row.end)
            try:
                views = load_views(
                    row.path,
                    spec,
                    backend=self._reading.backend,
                    follow_seconds=self._reading.follow_seconds,
                    span=span,
                )
            except InputError as error:
                errors[place] = str(error)
                continue
            pixels[place], seconds[place] = views.pixels, views.seconds
        return Loaded(number, pixels.flatten(0, 1), seconds, errors)


# ---- several processes -----------------------------------------------------------------------------------------------


def this_world(device: str | torch.device) -> World:
    """The torch.distributed group this process is in, or itself alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return World(device=torch.device(device))
    return World(dist.get_rank(), dist.get_world_size(), device=torch.device(device))


# ---- what a stored result depends on ---------------------------------------------------------------------------------


def run_key(model: UniFormer, manifest: Manifest, spec: InputSpec, reading: Reading) -> dict[str, str]:
    """Everything that decides the digits of a result, by name. The labels do not; nor does where the data lie."""
    items = hashlib.sha256()
    for column in (manifest.paths.blob, manifest.paths.offsets, manifest.start, manifest.end):
        items.update(b"none" if column is None else np.ascontiguousarray(column).tobytes())
    network = hashlib.sha256(json.dumps(to_dict(model.config)).encode())
    network.update(digest(model.state_dict().values()).encode())
    return {
        "model": network.hexdigest(),
        "data": items.hexdigest(),
        "views": json.dumps(to_dict(spec)),
        "precision": f"{reading.precision} on {torch.device(reading.device).type}",
        "network": "plain" if reading.compute == "plain" else "inference form",
        "batch_size": str(reading.batch_size),
        "decoding": f"{reading.backend}{', follow seconds' if reading.follow_seconds else ''}",
    }

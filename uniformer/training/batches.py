"""Training batches: which samples, in which order, augmented how.

All of it follows from the seed and the place in the run, so the same batches come whatever the number of worker
processes and of training processes, and a run goes on at any step as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from uniformer.checkpoints.pickles import read_pickle
from uniformer.config import InputSpec
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.samples import LabelledRows
from uniformer.errors import InputError, MissingExtra
from uniformer.reading.augment import augment_labelled_image
from uniformer.reading.options import Augment
from uniformer.reading.pipeline import augmented
from uniformer.support.distributed import CPU
from uniformer.support.readers import read_in_order
from uniformer.support.texts import check_file

ORDER, SAMPLE, MIXING, NETWORK = range(4)  # what draws are for: each has its own stream of numbers
SUBSTITUTES = 20  # tries to replace an unreadable file before the run gives up

Unreadable = list[tuple[str, str]]  #: path and reason of files that others stand in for


def rng_at(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """The random numbers of one purpose at one place of the run."""
    return np.random.default_rng((seed, purpose, *place))


class Place(NamedTuple):
    """One sample of a run."""

    epoch: int
    position: int  #: in the epoch
    row: int  #: of the manifest
    label: int | None = None  #: the class that it is drawn for, where classes are drawn equally often


class Batch(NamedTuple):
    """What one process is fed in one pass. A sample's copies stand together."""

    x: Tensor  #: (B, 3, [T,] h, w)
    labels: Tensor  #: int64 (B,), or float32 (B, K) of a multi-label set
    label_maps: Tensor | None  #: (B, 2, k, M, M), for token labeling
    crops: Tensor | None  #: (B, 4), see `losses.label_map_targets`
    unreadable: tuple[tuple[str, str], ...]  #: path and reason of files that others stand in for
    stood_in: int  #: samples that another one stands in for

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        """With `move` done to every tensor."""
        maps, crops = (None if part is None else move(part) for part in (self.label_maps, self.crops))
        return self._replace(x=move(self.x), labels=move(self.labels), label_maps=maps, crops=crops)


class Sample(NamedTuple):
    """One row, read and augmented `copies` times."""

    views: Tensor  #: (copies, 3, [T,] h, w)
    label: Tensor
    label_maps: list[Tensor]
    crops: list[Tensor]
    unreadable: Unreadable


class AnyBatch(Protocol):
    """A batch of any task."""

    @property
    def x(self) -> Tensor: ...  #: (B, 3, ...), what the network is shown
    @property
    def unreadable(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def stood_in(self) -> int: ...

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        """With `move` done to every tensor, such as `lambda part: part.to(device, non_blocking=True)`."""
        ...


S = TypeVar("S")
B = TypeVar("B", bound=AnyBatch)
B_co = TypeVar("B_co", bound=AnyBatch, covariant=True)


class Samples(Protocol[B_co]):
    """A data set as training reads it, for any task: batches by the places of their samples."""

    def __len__(self) -> int: ...  #: rows that a `Place` may name
    def batch(self, places: list[Place]) -> B_co: ...
    def members(self) -> Members: ...  #: of the classes, to draw these equally often


# ---- which samples ---------------------------------------------------------------------------------------------------


class Members(NamedTuple):
    """Which samples have which classes, as pairs."""

    rows: npt.NDArray[np.int64]  #: (P,)
    labels: npt.NDArray[np.integer]  #: (P,)


class Draws(NamedTuple):
    """The samples of one epoch in order."""

    rows: npt.NDArray[np.int64]  #: (count,)
    labels: npt.NDArray[np.integer] | None = None  #: (count,) the classes that they are drawn for

    def place(self, epoch: int, position: int) -> Place:
        """One of them."""
        label = None if self.labels is None else int(self.labels[position])
        return Place(epoch, position, int(self.rows[position]), label)


def epoch_draws(count: int, seed: int, epoch: int, *, repeated: int = 1, members: Members | None = None) -> Draws:
    """The `count` samples of one epoch: shuffled, each once.

    With `repeated`, each is drawn that many times in a row and as many fewer are drawn at all (repeated augmentation,
    arXiv:1902.05509). With `members` every class is drawn equally often, small ones several times over; samples of none
    are not.
    """
    rng = rng_at(seed, ORDER, epoch)
    rows, labels = Draws(rng.permutation(count)) if members is None else _balanced(count, members, rng)
    in_a_row = np.repeat(np.arange(-(-count // repeated)), repeated)[:count]
    return Draws(rows[in_a_row], None if labels is None else labels[in_a_row])


def _balanced(count: int, members: Members, rng: np.random.Generator) -> Draws:
    order = np.argsort(members.labels, kind="stable")
    classes, starts = np.unique(members.labels[order], return_index=True)
    quota, rest = divmod(count, len(classes))
    quotas = quota + (rng.permutation(len(classes)) < rest)  # some are drawn once more
    of_classes = np.split(members.rows[order], starts[1:])
    rows = [np.resize(rng.permutation(rows), many) for rows, many in zip(of_classes, quotas, strict=True)]
    mixed = rng.permutation(count)
    return Draws(np.concatenate(rows)[mixed], np.repeat(classes, quotas)[mixed])


def share(batch: int, rank: int, size: int) -> npt.NDArray[np.int64]:
    """The positions of a batch that one of `size` processes takes, ascending, (batch / size,).

    The first and the last stay together, the second and the last but one, and so on: mixing blends the two of such a
    pair, so it blends the same samples whatever the number of processes, where a process has an even number of them.
    Neighbours go to different processes, so the draws of a repeated augmentation do.
    """
    half = -(-batch // 2)
    pairs = np.stack((np.arange(half), batch - 1 - np.arange(half)), axis=1)  # (half, 2), a middle one with itself
    if batch // size % 2:
        return np.arange(rank, batch, size)
    return np.sort(pairs[rank::size].ravel())


@dataclass(frozen=True)
class Plan:
    """How the samples of a run fall into epochs, steps, passes and processes.

    The last, partial batch of an epoch is left out. Raises `InputError` for fewer samples than one batch.
    """

    count: int  #: samples
    batch_size: int  #: of one step, over passes and processes
    epochs: int  #: where `iterations` does not say how long
    seed: int = 0
    passes: int = 1  #: accumulated, of one step
    rank: int = 0
    size: int = 1
    repeated: int = 1
    balanced: Members | None = None  #: of the classes, which are then drawn equally often
    iterations: int | None = None  #: steps of the whole run, whose last epoch may end early

    def __post_init__(self) -> None:
        if self.count < self.batch_size:
            raise InputError(
                f"expected at least one batch of {self.batch_size} samples, got {self.count}: set a smaller batch_size"
            )
        if self.balanced is not None and not len(self.balanced.rows):
            raise InputError("data.balanced needs classes, found no sample that has one")

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return self.count // self.batch_size

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.steps * self.epochs if self.iterations is None else self.iterations

    def epoch(self, step: int) -> int:
        """The epoch, counted from 1, that step `step`, counted from 1, belongs to."""
        return -(-step // self.steps)

    def ends_epoch(self, step: int) -> bool:
        """Whether step `step`, counted from 1, is the last of its epoch."""
        return step % self.steps == 0 or step == self.total

    def places(self, start: int) -> Iterator[list[Place]]:
        """The samples of each pass of this process, from step `start` of the run to its end."""
        size = self.batch_size // self.passes
        mine = share(size, self.rank, self.size)
        for epoch in range(start // self.steps, self.epoch(self.total)):
            draws = epoch_draws(self.count, self.seed, epoch, repeated=self.repeated, members=self.balanced)
            first = start % self.steps if epoch == start // self.steps else 0
            last = min(self.steps, self.total - epoch * self.steps)
            for begin in range(first * self.batch_size, last * self.batch_size, size):
                yield [draws.place(epoch, position) for position in (begin + mine).tolist()]


# ---- reading them ----------------------------------------------------------------------------------------------------


class TrainingSet(Dataset[Sample]):
    """Samples by `Place`, each augmented `augment.repeats` times from one decoding.

    `label_maps` is the folder of token labeling's maps: <class folder>/<name>.pt for each picture, whose classes are
    below `num_classes`.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: InputSpec,
        augment: Augment,
        *,
        seed: int = 0,
        label_maps: str | None = None,
        num_classes: int | None = None,
    ):
        self.manifest, self.spec, self.augment = manifest, spec, augment
        self.seed, self.label_maps = seed, None if spec.is_video else label_maps
        self._num_classes = num_classes
        self._rows = LabelledRows(manifest, spec, augment)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, place: Place) -> Sample:
        """Where a file cannot be read another one stands in, see `read_or_stand_in`."""
        rng = rng_at(self.seed, SAMPLE, place.epoch, place.position)
        return read_or_stand_in(self._sample, place.row, len(self.manifest), self.manifest.path, rng)

    def members(self) -> Members:
        """Of files with one label each."""
        return Members(np.arange(len(self)), self.manifest.labels)

    def batch(self, places: list[Place]) -> Batch:
        """What one process is fed in one pass."""
        return collate([self[place] for place in places])

    def _sample(self, row: int, rng: np.random.Generator, unreadable: Unreadable) -> Sample:
        pixels, label = self._rows.read(row, rng)
        copies = rng.spawn(self.augment.repeats)
        if self.label_maps is None:
            views = [augmented(pixels, self.spec, self.augment, copy) for copy in copies]
            return Sample(torch.stack(views), label, [], [], unreadable)
        whole = read_label_map(self.label_maps, self.manifest.path(row), self._num_classes)
        drawn = [augment_labelled_image(pixels, whole, self.spec, self.augment, copy) for copy in copies]
        views, maps, crops = map(list, zip(*drawn, strict=True))
        return Sample(torch.stack(views), label, maps, crops, unreadable)


def read_or_stand_in(
    read: Callable[[int, np.random.Generator, Unreadable], S],
    row: int,
    count: int,
    path: Callable[[int], str],
    rng: np.random.Generator,
) -> S:
    """`read(row, rng, unreadable)`, where that is one of `count` rows; of another one where it raises `InputError`.

    That one is drawn at random, always the same at the same place of the run; `unreadable` holds what it stands in for.
    Raises `InputError` where `SUBSTITUTES` in a row cannot be read, and `MissingExtra` at once.
    """
    unreadable: Unreadable = []
    for _ in range(SUBSTITUTES):
        try:
            return read(row, rng, unreadable)
        except MissingExtra:  # no other file will do either
            raise
        except InputError as error:
            unreadable.append((path(row), str(error)))
            row = int(rng.integers(count))
    raise InputError(f"expected readable files, found {SUBSTITUTES} unreadable ones in a row: {unreadable[-1][1]}")


def read_label_map(folder: str, path: str, num_classes: int | None = None) -> Tensor:
    """The published map of a picture, float32 (2, k, M, M): scores and classes.

    It has the picture's name and lies in a folder of the same name as the picture's, as in the published archive.
    Raises `InputError` where there is none, and for classes that are not below `num_classes`.
    """
    file = Path(folder, Path(path).parent.name, Path(path).stem + ".pt")
    check_file(file, f"the label map of {path}")
    try:
        label_map = read_pickle(file)
    except InputError as error:
        why = str(error).replace(str(file), "it")
        raise InputError(f"{file}: expected a label map, found another kind of file: {why}") from None
    if not isinstance(label_map, Tensor) or label_map.ndim != 4 or label_map.shape[0] != 2:
        raise InputError(f"{file}: expected a label map (2, k, M, M), found {getattr(label_map, 'shape', 'no tensor')}")
    label_map = label_map.float()
    most = math.inf if num_classes is None else num_classes
    if not (label_map.isfinite().all() and (label_map[1] >= 0).all() and (label_map[1] < most).all()):
        raise InputError(f"{file}: expected finite scores, and classes from 0 up to below {most}, found others")
    return label_map


# ---- batches ---------------------------------------------------------------------------------------------------------


def batches(
    dataset: Samples[B],
    plan: Plan,
    *,
    start: int = 0,
    workers: int = 0,
    device: torch.device = CPU,
    is_to_stop: Callable[[], object] = lambda: False,
) -> Iterator[B]:
    """Every pass of this process from step `start` of the run to its end, read ahead by `workers` processes.

    For a GPU, `device`, they lie in memory that is copied to it quickly. `is_to_stop`: as in `read_in_order`.
    """
    read = read_in_order(dataset.batch, plan.places(start), workers, is_to_stop=is_to_stop)
    return read if device.type == "cpu" else _pinned(read, device)


def _pinned(source: Iterator[B], device: torch.device) -> Iterator[B]:
    """The batches, put into pinned memory by a thread while the one before is computed on."""

    def following() -> B | None:
        torch.cuda.set_device(device)  # of this thread, which would else use the first
        batch = next(source, None)
        return None if batch is None else batch.moved(Tensor.pin_memory)

    with ThreadPoolExecutor(1, thread_name_prefix="pin") as pool:
        future = pool.submit(following)
        while (batch := future.result()) is not None:
            future = pool.submit(following)
            yield batch


def standing_in(samples: Sequence[Any]) -> tuple[tuple[tuple[str, str], ...], int]:
    """Path and reason of the files that others stand in for, and in how many samples they do."""
    return tuple(bad for sample in samples for bad in sample.unreadable), sum(bool(s.unreadable) for s in samples)


def collate(samples: list[Sample]) -> Batch:
    copies = len(samples[0].views)
    maps = [label_map for sample in samples for label_map in sample.label_maps]
    return Batch(
        torch.cat([sample.views for sample in samples]),
        torch.stack([sample.label for sample in samples]).repeat_interleave(copies, dim=0),
        torch.stack(maps) if maps else None,
        torch.stack([crop for sample in samples for crop in sample.crops]) if maps else None,
        *standing_in(samples),
    )

"""The seam between a task and all that serves every task: training loop, inference engine, evaluator, export, pages.

A task is made from a contract and has five things: `build`, `targets_and_loss`, `decode`, `metric` and `contract`.
Nothing outside its own files names a task. No torch here: an exported network predicts without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from uniformer.checkpoints.contract import Contract
from uniformer.errors import InputError
from uniformer.reading.transforms import Floats
from uniformer.reading.views import Source, Views
from uniformer.tasks.vocabulary import Words

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from uniformer.tasks.objective import Objective
    from uniformer.tasks.options import TargetOptions

Outputs = tuple[Floats, ...]  #: of a network for the views of one source, (V, ...) each


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a network says of one source: a task's own answer, and where it came from."""

    source: str = ""
    checkpoint: str = ""  #: its published id, or its architecture
    frames: list[list[int]] | None = None  #: the frames of each clip, for videos
    seconds: list[list[float]] | None = None  #: their times, where the video has a clock
    num_frames: int | None = None
    fps: float | None = None
    notes: tuple[str, ...] = ()  #: anything out of the ordinary: repeated or unreadable frames, scaled strides
    timings: dict[str, float] = field(default_factory=dict)  #: seconds: read, transform, network

    CSV_FIELDS: ClassVar[tuple[str, ...]] = ("answer",)  #: columns of `csv_rows`

    def answer(self) -> dict[str, Any]:
        """The answer itself, as JSON has it."""
        raise NotImplementedError

    def csv_rows(self) -> list[tuple[Any, ...]]:
        """The answer as rows of a table for programs, one or more."""
        return [tuple(self.answer().values())]

    def title(self) -> str:
        """What the lines are of."""
        return self.source

    def lines(self) -> list[str]:
        """The answer as lines for people."""
        return [f"{name}: {value}" for name, value in self.answer().items()]

    def in_short(self) -> str:
        """The answer in a few words, the same for answers that say the same."""
        return "; ".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "source": self.source,
            "checkpoint": self.checkpoint,
            **self.answer(),
            "frames": self.frames,
            "seconds": self.seconds and [[round(t, 3) for t in clip] for clip in self.seconds],
            "num_frames": self.num_frames,
            "fps": self.fps and round(self.fps, 3),
            "notes": list(self.notes),
            "timings": {name: round(value, 4) for name, value in self.timings.items()},
        }


class Evidence(NamedTuple):
    """What of an answer is to be explained."""

    name: str  #: the class, the box or the key point
    value: float  #: its probability, score or share in the answer
    score: Callable[[int], Tensor]  #: runs the network on one view: what that speaks for the answer, one number
    views: tuple[int, ...]  #: those that have a part in it
    boxes: tuple[tuple[float, float, float, float], ...]  #: what each shows: top, left, height, width in the source
    pooled: bool  #: whether it is an answer to a whole view, not to a place in it
    stage: int = 4  #: whose map is best looked at


@dataclass(frozen=True)
class Failure:
    """A source that gave no answer, and why."""

    source: str
    error: str
    frame: int | None = None  #: of a video whose frames have answers of their own: its number
    time: float | None = None  #: seconds from the first frame
    lasts: bool = False  #: whether another try gives the same: of a frame that cannot be decoded

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, **moment_of(self.frame, self.time), "error": self.error}


def moment_of(frame: int | None, time: float | None) -> dict[str, Any]:
    """A frame of a video as JSON has it: its number and its time in seconds; nothing of what is no frame."""
    return {} if frame is None else {"frame": frame, "time": time and round(time, 3)}


class ScoredItems(Protocol):
    """What a metric makes of a whole data set."""

    paths: tuple[str, ...]  #: of the items
    ok: npt.NDArray[np.bool_]  #: (N,), whether there is an answer
    errors: Mapping[int, str]  #: why a row has none

    def metrics(self, missing: Any = "error") -> dict[str, float]: ...
    def facts(self) -> dict[str, Any]: ...
    def save(self, path: str | os.PathLike[str]) -> None: ...


@runtime_checkable
class Selectable(Protocol):
    """Scores of which a part can be had."""

    def select(self, rows: npt.NDArray[Any]) -> Any: ...


@runtime_checkable
class WithAnswers(Protocol):
    """Scores that write the answers beside them, in the form that others read."""

    def save_answers(self, folder: str | os.PathLike[str]) -> dict[str, Path]: ...


class Metric(ABC):
    """How good answers are: `row` keeps what counts of an item, in any process, `result` makes scores of all rows.

    Rows are of one type, so they can be written as they come and read back after a kill, and the scores depend neither
    on the number of processes nor on the order in which items came.
    """

    dtype: np.dtype[Any]  #: of a row; it has the field `item`. `support.resume.BYTE_ROWS` where rows vary in length
    manifest: Any  #: what is scored: a `Manifest` with labels as the network's, or an `AnnotatedSet`
    notes: list[str]  #: what a reader must know before believing the scores
    forms: tuple[str, ...] = ("npz", "parquet")  #: that its scores can be saved in
    measures: tuple[str, ...]  #: names in `summary` that an epoch can be the best by; all but "loss" better when high

    @abstractmethod
    def row(self, item: int, answer: Any) -> npt.NDArray[Any]:
        """What is kept of an item: of the network's outputs for its views or, of a whole picture, of the `Result`."""

    @abstractmethod
    def result(self, rows: npt.NDArray[Any], errors: Mapping[int, str]) -> Any:
        """The scores (`ScoredItems`) of all items from the rows of those that have one."""

    @abstractmethod
    def summary(self, scores: Any) -> dict[str, float]:
        """The measures that training goes by, shares in 0..1."""

    def answer_paths(self, folder: str | os.PathLike[str]) -> list[Path]:
        """The files that scores write into a folder by `save_answers`; none where they have no such thing."""
        return []

    def examine(self, scores: Any) -> tuple[Any, list[str]]:
        """Are scores plausible? The scores, set right where that was asked for, and what is odd, in sentences."""
        return scores, []


class Task(ABC):
    """One task with one network. `name` is what contracts call it."""

    name: ClassVar[str]
    result: ClassVar[type[Result]]  #: what `decode` gives
    measures: ClassVar[tuple[str, ...]]  #: that training goes by, in the order of its tables; the loss is the last
    #: Whether a source is a whole picture in a size of its own, which goes through the network alone: then the task has
    #: `load` and `answer`. Else sources are views, all of one size, that the contract's `InputSpec` describes.
    whole: ClassVar[bool] = False
    notes: tuple[str, ...] = ()  #: what a reader of its answers to a data set must know
    options_type: ClassVar[type | None] = None  #: the dataclass of how its answers are made, where that can be chosen

    def __init__(self, contract: Contract, **options: Any):
        if options:
            raise InputError(f"unknown option {next(iter(options))!r} of {self.name}: it has none")
        #: what a checkpoint must store: network, input, and what answers mean
        self.contract = replace(contract, task=self.name)

    @cached_property
    def words(self) -> Words:
        """What answers call the classes."""
        return Words(class_names(self.contract))

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with its heads, freshly initialised."""

    @abstractmethod
    def targets_and_loss(self, options: TargetOptions, train_set: Any, val_set: Any) -> Callable[[Any], Objective]:
        """What makes, of the network, the module of targets and losses that training runs.

        The sets are a `Manifest` or an `AnnotatedSet` each, as the task has it; `val_set` may be none.
        Raises `InputError` at once where options and data do not fit the network.
        """

    def check(self) -> None:  # noqa: B027 - most tasks ask for nothing
        """Raises `InputError`, before any source is read, where options of answers ask for what the contract lacks."""

    def load(self, source: Source) -> Views:
        """What the network is fed for a whole picture. Raises `InputError` where it cannot be read."""
        raise NotImplementedError

    def answer(self, form: Any, views: Any, device: torch.device, batch_size: int) -> tuple[Tensor, ...]:
        """What the network, in some form of it, makes of a whole picture: the outputs that `decode` takes."""
        raise NotImplementedError

    def evidence(self, network: Any, views: Any, device: torch.device, target: str | None, number: int) -> Evidence:
        """What speaks for one part of the answer: a class or key point `target`, by default the first that the network
        would name, and the `number`-th of that kind, from 1. Raises `InputError` where there is none."""
        raise NotImplementedError

    def on(self, data: Any, boxes: str | os.PathLike[str] | None = None) -> Task:
        """The task as it is tested on a data set; `boxes`, a file, says where people are, for those who ask."""
        if boxes is not None:
            raise InputError(f"expected no boxes of people for {self.name}, got {boxes}")
        return self

    def described(self) -> str:
        """What its answers depend on beside the network, in words that stay the same."""
        raise NotImplementedError

    @abstractmethod
    def decode(self, outputs: Outputs, views: Views, top_k: int) -> Any:
        """Outputs for one source's views -> the answer in the source's own pixels and seconds, `top_k` of each kind."""

    @abstractmethod
    def metric(self, manifest: Any, *, label_order: str = "numbers") -> Metric:
        """What scores answers to a data set.

        `label_order` says what labels mean: "numbers" takes them for the network's, "names" matches them by name, "fix"
        also reads them in the order that fits the answers.
        """


def best_first(values: Sequence[float] | npt.NDArray[Any], most: int) -> list[int]:
    """Places of the highest values, at most `most`, equal ones in their order."""
    return np.argsort(-np.asarray(values), kind="stable")[:most].tolist()


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a class; of a network that names none, its number."""
    return names[label] if names else f"class {label}"


def class_names(contract: Contract) -> tuple[str, ...]:
    """Of all classes."""
    return tuple(class_name(contract.classes, label) for label in range(contract.config.num_classes))

"""From a file, a folder or an array to an answer: the one door for Python, the command line, the page and the server.

load_views (probe, which frames, read, crop)  ->  engine (network)  ->  the task's decode (labels, boxes, ...)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from uniformer.config import InputSpec, Precision
from uniformer.errors import InputError, check_word
from uniformer.inference import engine
from uniformer.inference.networks import TorchNetwork, open_network, pooled_features
from uniformer.reading.pictures import is_image
from uniformer.reading.sources import Media, name_of_source
from uniformer.reading.transforms import Floats
from uniformer.reading.video import open_video
from uniformer.reading.views import Decoder, Source, Views, load_views
from uniformer.speed.timings import Compute
from uniformer.tasks import option_names, task_of
from uniformer.tasks.task import Failure, Result, Task

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract
    from uniformer.checkpoints.identify import CheckpointSource
    from uniformer.network.model import UniFormer


T = TypeVar("T")


class Predictor:
    """A network with everything around it, ready for many files.

        predictor = Predictor("uniformer_small.k400_16x4")
        print(predictor("clip.mp4").labels[0])
        for result in predictor.run(paths):
            ...

    Args:
        model: a published id, a file, a folder, a hub repository - or a network with its contract, which is taken
            over: moved to the device, made float32 and put into evaluation mode. Or a file written by `export`, .xml
            or .onnx, which is run on the CPU by OpenVINO or ONNX Runtime, without torch.
        clips, crops: views of a video; the checkpoint's own by default.
        top_k: labels to keep.
        device: "auto" takes a GPU when there is one.
        precision: "float32", "bfloat16" or "float16".
        batch_size: views in one forward pass; a video's views are split, or several images joined, to reach it.
        backend: what decodes videos, "pyav" or "torchcodec".
        follow_seconds: scale strides by a video's frame rate, so that clips last as long as in training.
        workers: threads that read ahead.
        compute: the form of the network: "plain" as it is, "fast" as `uniformer.optimize` makes it, "compiled",
            "openvino" or "onnxruntime"; by default the fastest that `uniformer bench` found here, or "fast".
        task: what the network is for; by default what its contract says.
        asked: what a file does not tell, as in `load_model`: head_dim, window, global_every, block_eps, like, sampling,
            classes (what is only assumed of its input is a warning); and how answers are made, as the task has it:
            `tasks.classification.ClassOptions`, `tasks.detection.DetectionOptions`,
            `tasks.segmentation.SegmentationOptions`, `tasks.pose.PoseOptions`; None for as usual.
    """

    def __init__(
        self,
        model: CheckpointSource | tuple[UniFormer, Contract],
        *,
        clips: int | None = None,
        crops: Literal[1, 3] | None = None,
        top_k: int = 5,
        device: str = "auto",
        precision: Precision = "float32",
        batch_size: int = 8,
        backend: Decoder = "pyav",
        follow_seconds: bool = False,
        workers: int = 2,
        compute: Compute | None = None,
        task: type[Task] | None = None,
        **asked: Any,
    ):
        _check_counts(top_k=top_k, batch_size=batch_size, workers=workers)
        check_word("backend", backend, Decoder)
        answers = {name: told for name in option_names() if (told := asked.pop(name, None)) is not None}
        self.network = open_network(model, device=device, precision=precision, compute=compute, **asked)
        self.contract = self.network.contract
        self.report = self.network.report  #: of loading the file
        made = task_of if task is None else task
        self.task: Task = made(self.contract, **answers)
        self.spec = fed_to(self.task, clips, crops)  #: what the network is fed; None for whole pictures
        self.top_k, self.batch_size, self.workers = top_k, batch_size, workers
        self.precision: Precision = precision
        self.compute = compute  #: as asked for
        self.backend: Decoder = backend
        self.follow_seconds = follow_seconds
        self.span: tuple[float, float] | None = None  #: start and end in seconds of the part of a video that is seen
        #: what stands before a network that computes for several at a time, where there is such a thing
        self.through: Callable[[engine.Network], engine.Network] | None = None

    def __call__(self, source: Source, *, fps: float | None = None) -> Any:
        """The answer for one source: a path, an address, bytes, an open file, an array, a list or folder of frames.

        Raises `InputError` when there is none. `fps`: of frames without a clock.
        """
        outcome = next(self._run(self.network, [source], lambda s: self.views(s, fps=fps), workers=0))
        result = self._result(outcome, name_of_source(source))
        if isinstance(result, Failure):
            raise InputError(result.error)
        return result

    def views(self, source: Source, *, fps: float | None = None) -> Views:
        """What the network is fed for a source."""
        if self.spec is None:
            return self.task.load(source)
        return load_views(
            source, self.spec, backend=self.backend, follow_seconds=self.follow_seconds, fps=fps, span=self.span
        )

    def run(
        self, sources: Iterable[Source], *, on_views: Callable[[Source, Views], None] | None = None
    ) -> Iterator[Any]:
        """Answers in the order of `sources`, as they come. A source that cannot be read gives a `Failure`.

        Files are read ahead in threads while the network computes. `on_views` is shown what the network is fed.
        """
        for outcome in self._run(self.network, sources, self.views, self.workers):
            if outcome.views is not None and on_views is not None:
                on_views(outcome.source, outcome.views)
            yield self._result(outcome, name_of_source(outcome.source))

    def run_on_views(
        self, items: Iterable[T], views: Callable[[T], Views], spec: InputSpec
    ) -> Iterator[engine.Outcome[T]]:
        """Raw outputs for views of `spec` that are at hand already, in order."""
        return self._run(self.network, items, views, workers=0, spec=spec)

    def _run(
        self,
        network: engine.Network,
        sources: Iterable[T],
        load: Callable[[T], Views],
        workers: int,
        spec: InputSpec | None = None,
        name: Callable[[T], str] = name_of_source,
    ) -> Iterator[engine.Outcome[T]]:
        self.task.check()
        return engine.run(
            network if self.through is None else self.through(network), sources, load, spec or self.spec or self.task,
            batch_size=self.batch_size, workers=workers, name=name,
        )  # fmt: skip

    def answer_with(self, **options: Any) -> None:
        """From now on make answers with other options of the task, those that are not named as usual.

        Raises `InputError` for one that the task has not, or that asks for what the contract lacks.
        """
        made = task_of(self.contract, **options)
        made.check()
        self.task = made

    def asked(
        self,
        *,
        clips: int | None = None,
        crops: Literal[1, 3] | None = None,
        top_k: int | None = None,
        follow_seconds: bool | None = None,
        span: tuple[float, float] | None = None,
        **options: Any,
    ) -> Predictor:
        """One with the same network that is asked for other views, labels or options of the task, or for a part of each
        video (`span`, start and end in seconds); those that are not named stay as they are, but where one of the task's
        is named its others are as usual.

        Raises `InputError` as `Predictor` does.
        """
        other = copy(self)
        if not (clips is crops is None):
            other.spec = fed_to(self.task, clips, crops) if self.spec is None else with_views(self.spec, clips, crops)
        if top_k is not None:
            _check_counts(top_k=top_k)
            other.top_k = top_k
        if follow_seconds is not None:
            other.follow_seconds = follow_seconds
        if span is not None:
            if other.spec is None or not other.spec.is_video:
                raise InputError("expected a network of clips for a part of a video, got one of pictures")
            other.span = span
        if options:
            other.answer_with(**options)
        return other

    def frames(self, source: Media, *, every: int = 1) -> Iterator[Any]:
        """Of a dense network: an answer to every frame of a video, or every so many, with its number and time.

            for result in predictor.frames("street.mp4", every=5):
                print(result.frame, result.time, len(result))

        A frame that cannot be decoded is a `Failure`. Raises `InputError` for what is no video.
        """
        from uniformer.inference.frames import see_frames

        if self.spec is not None:
            raise InputError("expected a network for whole pictures to see each frame of a video, got a classifier")
        if every < 1:
            raise InputError(f"expected every of at least 1, got {every}")
        with open_video(source, backend=self.backend) as reader:
            for seen in see_frames(self, reader, name_of_source(source), every=every):
                yield seen.answer

    def answers(
        self, items: Iterable[T], load: Callable[[T], Views], name: Callable[[T], str]
    ) -> Iterator[tuple[T, Any]]:
        """Items that `load` makes views of, read ahead as sources are, each with its answer; `name` is for messages."""
        for outcome in self._run(self.network, items, load, self.workers, name=name):
            yield outcome.source, self._result(outcome, name(outcome.source))

    def logits(self, views: Floats) -> Floats:
        """The network's answers to views (V, 3, ...), `batch_size` at a time -> (V, K)."""
        return self.network(views, self.batch_size)[0]

    def embed(self, sources: Iterable[Source]) -> Floats:
        """Pooled features of each source, (N, C): the last map averaged over time, space and views.

            similarity = predictor.embed(["a.mp4", "b.mp4"]) @ predictor.embed(["c.mp4"]).T

        Raises `InputError` where a source cannot be read, and for an exported network, which has answers only.
        """
        rows = []
        for outcome in self._run(self.features, sources, self.views, self.workers):
            if outcome.error is not None:
                raise InputError(outcome.error)
            rows.append(outcome.outputs[0].mean(axis=0))
        return np.stack(rows) if rows else np.empty((0, self.contract.config.dims[-1]), np.float32)

    @cached_property
    def features(self) -> TorchNetwork:
        """The network with pooled features in place of answers: its inference copy is made once."""
        mine = self.network
        if self.spec is None:
            raise InputError(f"expected a classifier to take features of, got a network for {self.task.name}")
        if not isinstance(mine, TorchNetwork):
            raise InputError("expected a checkpoint to take features of, got an exported network: it has answers only")
        return TorchNetwork(
            mine.model, mine.contract, device=mine.device, precision=self.precision, compute="fast",
            forward=pooled_features(),
        )  # fmt: skip

    def _result(self, outcome: engine.Outcome[Any], source: str) -> Result | Failure:
        views = outcome.views
        if outcome.error is not None or views is None:
            return Failure(source, outcome.error or "no views")
        try:
            answer = self.task.decode(outcome.outputs, views, self.top_k)
        except Exception as error:
            return Failure(source, f"{source}: {engine.fault_of_source(error)}")
        return replace(
            answer,
            source=source,
            checkpoint=self.contract.id or self.contract.arch,
            frames=None if views.frames is None else views.frames.tolist(),
            seconds=None if views.seconds is None else views.seconds.tolist(),
            num_frames=views.num_frames,
            fps=views.fps,
            notes=views.notes,
            timings={**views.timings, "network": outcome.seconds},
        )


def predict(source: Source, model: CheckpointSource | None = None, **options: Any) -> Any:
    """The labels of one image or video: a path, a URL, bytes, an array, a list of frames, a folder of frames.

        uniformer.predict("clip.mp4", model="uniformer_small.k400_16x4").labels[0].name

    `options` are those of `Predictor`; for more than one source, make one and keep it. Without `model` a small
    Kinetics-400 model is fetched for videos, an ImageNet one for images. Where the one for videos cannot be fetched,
    the model in the package stands in, with a warning: it names the motion of the camera.
    """
    if model is None:
        from uniformer.checkpoints.records import DEFAULT_IMAGE, DEFAULT_VIDEO

        model, note = default_or_bundled(DEFAULT_IMAGE if is_image(source) else DEFAULT_VIDEO)
        if note:
            warnings.warn(note, stacklevel=2)
    return Predictor(model, **options)(source)


def default_or_bundled(default: str) -> tuple[str, str | None]:
    """What to use where no checkpoint is named: `default`, or, if that cannot be fetched, the model in the package and
    a line that says so. Nothing stands in for a network of images: its `InputError` comes when it is loaded.
    """
    from uniformer.checkpoints.fetch import NotFetched, fetch
    from uniformer.checkpoints.records import BUNDLED, DEFAULT_VIDEO, get_checkpoint

    if default != DEFAULT_VIDEO:
        return default, None
    try:
        fetch(get_checkpoint(default))
    except NotFetched as error:
        line = f"the default checkpoint {default} could not be fetched ({error.reason}): "
        return BUNDLED, f"{line}using the bundled model, which names camera motion, not actions"
    return default, None


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"expected {name} of at least 1, got {value}")


def fed_to(task: Task, clips: int | None, crops: Literal[1, 3] | None) -> InputSpec | None:
    """`with_views` of a task's input; None for whole pictures, whose sizes vary: they have no clips and crops."""
    if not task.whole:
        return with_views(task.contract.input_of_classifier(), clips, crops)
    if not (clips is crops is None):
        raise InputError(f"expected no clips and crops for {task.name}: pictures are seen whole")
    return None


def with_views(spec: InputSpec, clips: int | None, crops: Literal[1, 3] | None) -> InputSpec:
    """The input with so many clips and crops instead of the checkpoint's. Raises `InputError` for clips of an image."""
    if not spec.is_video and clips not in (None, 1):
        raise InputError(f"expected one clip for a network of images, got {clips}")
    return replace(spec, clips=spec.clips if clips is None else clips, crops=spec.crops if crops is None else crops)

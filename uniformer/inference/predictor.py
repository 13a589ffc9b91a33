"""From a file, a folder or an array to ranked labels. The one door for Python, the command line and evaluation.

load_views (probe, which frames, read, crop)  ->  network  ->  mean over views, softmax, names

The network is a checkpoint's, in torch (`inference.py`), or an exported one, which needs no torch (`exported.py`).
"""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.fetch import NotFetched, fetch
from uniformer.checkpoints.records import BUNDLED, DEFAULT_IMAGE, DEFAULT_VIDEO, get_checkpoint
from uniformer.config import InputSpec
from uniformer.errors import InputError
from uniformer.reading.transforms import Floats, is_tensor
from uniformer.reading.views import Backend, Source, Views, load_views
from uniformer.speed.timings import Compute

if TYPE_CHECKING:
    from uniformer.checkpoints.identify import CheckpointSource
    from uniformer.inference.networks import TorchNetwork
    from uniformer.network.model import UniFormer
    from uniformer.speed.runtimes import Exported

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Label:
    """One answer: the class, its row in the classifier, and its probability."""

    name: str
    score: float
    index: int


@dataclass(frozen=True)
class Prediction:
    """What a network says of one source."""

    source: str
    labels: tuple[Label, ...]  #: best first, at most top-k
    probabilities: npt.NDArray[np.float32]  #: of every class, (K,)
    checkpoint: str = ""  #: its published id, or its architecture
    frames: list[list[int]] | None = None  #: the frames of each clip, for videos
    seconds: list[list[float]] | None = None  #: their times, where the video has a clock
    num_frames: int | None = None
    fps: float | None = None
    notes: tuple[str, ...] = ()  #: anything out of the ordinary: repeated or unreadable frames, scaled strides
    timings: dict[str, float] = field(default_factory=dict)  #: seconds: read, transform, network

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: everything but the whole distribution."""
        return {
            "source": self.source,
            "checkpoint": self.checkpoint,
            "labels": [{"name": b.name, "score": round(b.score, 6), "index": b.index} for b in self.labels],
            "frames": self.frames,
            "seconds": self.seconds and [[round(t, 3) for t in clip] for clip in self.seconds],
            "num_frames": self.num_frames,
            "fps": self.fps and round(self.fps, 3),
            "notes": list(self.notes),
            "timings": {name: round(value, 4) for name, value in self.timings.items()},
        }


@dataclass(frozen=True)
class Failure:
    """A source that gave no answer, and why."""

    source: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "error": self.error}


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
        dtype: "float32", "bfloat16" or "float16".
        batch_size: views in one forward pass; a video's views are split, or several images joined, to reach it.
        backend: what decodes videos, "pyav" or "torchcodec".
        follow_seconds: scale strides by a video's frame rate, so that clips last as long as in training.
        workers: threads that read ahead.
        head_dim: for files that nothing else tells it of.
        compute: the form of the network: "plain" as it is, "fast" as `uniformer.optimize` makes it, "compiled",
            "openvino" or "onnxruntime"; by default the fastest that `uniformer bench` found here, or "fast".
    """

    def __init__(
        self,
        model: CheckpointSource | tuple[UniFormer, Contract],
        *,
        clips: int | None = None,
        crops: Literal[1, 3] | None = None,
        top_k: int = 5,
        device: str = "auto",
        dtype: Precision = "float32",
        batch_size: int = 8,
        backend: Backend = "pyav",
        follow_seconds: bool = False,
        workers: int = 2,
        head_dim: int | None = None,
        compute: Compute | None = None,
    ):
        if dtype not in get_args(Precision):
            raise InputError(f"expected dtype {', '.join(get_args(Precision))}, got {dtype!r}")
        for name, value in (("top_k", top_k), ("batch_size", batch_size), ("workers", workers)):
            if value < 1:
                raise InputError(f"expected {name} of at least 1, got {value}")
        if backend not in get_args(Backend):
            raise InputError(f"expected backend {' or '.join(get_args(Backend))}, got {backend!r}")
        self.network = _network(model, device=device, dtype=dtype, compute=compute, head_dim=head_dim)
        self.contract = self.network.contract
        self.report = self.network.report  #: of loading the file
        self.spec = _with_views(self.contract.input_of_classifier(), clips, crops)
        self.top_k, self.batch_size, self.workers = top_k, batch_size, workers
        self.backend: Backend = backend
        self.follow_seconds = follow_seconds

    def __call__(self, source: Source, *, fps: float | None = None) -> Prediction:
        """The labels of one source. Raises `InputError` when it cannot be read. `fps`: of frames without a clock."""
        return self._predict([(source, self.views(source, fps=fps))])[0]

    def views(self, source: Source, *, fps: float | None = None) -> Views:
        """What the network is fed for a source."""
        return load_views(source, self.spec, backend=self.backend, follow_seconds=self.follow_seconds, fps=fps)

    def run(
        self, sources: Iterable[Source], *, on_views: Callable[[Source, Views], None] | None = None
    ) -> Iterator[Prediction | Failure]:
        """Predictions in the order of `sources`, as they come. A source that cannot be read gives a `Failure`.

        Files are read ahead in threads while the network computes. `on_views` is shown what the network is fed.
        """
        waiting: list[tuple[Source, Views]] = []
        for source, views in self._read_ahead(sources):
            if isinstance(views, Views):
                waiting.append((source, views))
                if on_views is not None:
                    on_views(source, views)
            full = sum(len(v.array) for _, v in waiting) >= self.batch_size
            if waiting and (full or isinstance(views, InputError)):
                yield from self._predict(waiting)
                waiting = []
            if isinstance(views, InputError):
                yield Failure(_name(source), str(views))
        if waiting:
            yield from self._predict(waiting)

    def _read_ahead(self, sources: Iterable[Source]) -> Iterator[tuple[Source, Views | InputError]]:
        """Views of each source in order; a few are read in advance, so memory does not grow with the list."""
        queue: deque[tuple[Source, Future[Views]]] = deque()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="read") as pool:
            try:
                for source in sources:
                    queue.append((source, pool.submit(self.views, source)))
                    if len(queue) > self.workers:
                        yield _outcome(queue.popleft())
                while queue:
                    yield _outcome(queue.popleft())
            finally:
                for _, future in queue:
                    future.cancel()

    def _predict(self, batch: list[tuple[Source, Views]]) -> list[Prediction]:
        begin = time.perf_counter()
        logits = self.logits(np.concatenate([views.array for _, views in batch]))
        each = (time.perf_counter() - begin) / len(batch)
        ends = np.cumsum([len(views.array) for _, views in batch])
        parts = np.split(logits, ends[:-1])
        return [self._answer(s, v, part, each) for (s, v), part in zip(batch, parts, strict=True)]

    def logits(self, views: Floats) -> Floats:
        """The network's answers to views (V, 3, ...), `batch_size` at a time -> (V, K)."""
        return self.network(views, self.batch_size)

    def _answer(self, source: Source, views: Views, logits: Floats, seconds: float) -> Prediction:
        probabilities = average_views(logits, self.spec)
        best = np.argsort(-probabilities, kind="stable")[: self.top_k].tolist()
        names = self.contract.classes
        labels = tuple(Label(names[i] if names else f"class {i}", float(probabilities[i]), i) for i in best)
        return Prediction(
            source=_name(source),
            labels=labels,
            probabilities=probabilities,
            checkpoint=self.contract.id or self.contract.arch,
            frames=None if views.frames is None else views.frames.tolist(),
            seconds=None if views.seconds is None else views.seconds.tolist(),
            num_frames=views.num_frames,
            fps=views.fps,
            notes=views.notes,
            timings={**views.timings, "network": seconds},
        )


def _network(
    model: CheckpointSource | tuple[UniFormer, Contract],
    *,
    device: str,
    dtype: Precision,
    compute: Compute | None,
    head_dim: int | None,
) -> TorchNetwork | Exported:
    if isinstance(model, str | os.PathLike) and os.fspath(model).endswith((".xml", ".onnx")):
        from uniformer.speed.runtimes import open_exported

        if device not in ("auto", "cpu") or dtype != "float32":
            raise InputError(f"{model}: exported networks compute in float32 on the CPU, got {dtype} on {device}")
        if compute is not None:
            raise InputError(f"{model}: expected a checkpoint to choose a form of, got an exported network")
        return open_exported(model)
    from uniformer.inference.networks import TorchNetwork

    return TorchNetwork(model, device=device, dtype=dtype, compute=compute, head_dim=head_dim)


def average_views(logits: Floats, spec: InputSpec) -> Floats:
    """Logits of a source's views (V, K) -> probabilities (K,): of the mean logits, or the mean of probabilities."""
    if spec.average == "logits":
        return _softmax(logits.mean(axis=0))
    return _softmax(logits).mean(axis=0)


def _softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def predict(source: Source, model: CheckpointSource | None = None, **options: Any) -> Prediction:
    """The labels of one image or video: a path, an array, a list of frames, a folder of frames.

        uniformer.predict("clip.mp4", model="uniformer_small.k400_16x4").labels[0].name

    `options` are those of `Predictor`; for more than one source, make one and keep it. Without `model` a small
    Kinetics-400 model is fetched for videos, an ImageNet one for images. Where the one for videos cannot be fetched,
    the model in the package stands in, with a warning: it names the motion of the camera.
    """
    if model is None:
        model, note = at_hand(DEFAULT_IMAGE if is_image(source) else DEFAULT_VIDEO)
        if note:
            warnings.warn(note, stacklevel=2)
    return Predictor(model, **options)(source)


def at_hand(default: str) -> tuple[str, str | None]:
    """What to use where no checkpoint is named: `default`, or, if that cannot be fetched, the model in the package and
    a line that says so. Nothing stands in for a network of images: its `InputError` comes when it is loaded.
    """
    if default != DEFAULT_VIDEO:
        return default, None
    try:
        fetch(get_checkpoint(default))
    except NotFetched as error:
        line = f"the default checkpoint {default} could not be fetched ({error.reason}): "
        return BUNDLED, f"{line}using the model in the box, which names camera motion, not actions"
    return default, None


def is_image(source: Source) -> bool:
    """Whether a source is one picture rather than a clip, by its type, shape or name."""
    from PIL import Image

    from uniformer.reading.frames import IMAGE_SUFFIXES

    if isinstance(source, np.ndarray) or is_tensor(source):
        return source.ndim == 3
    if isinstance(source, str | os.PathLike):
        return os.path.splitext(source)[1].lower() in IMAGE_SUFFIXES
    return isinstance(source, Image.Image)


def _with_views(spec: InputSpec, clips: int | None, crops: Literal[1, 3] | None) -> InputSpec:
    if not spec.is_video and clips not in (None, 1):
        raise InputError(f"expected one clip for a network of images, got {clips}")
    return replace(spec, clips=spec.clips if clips is None else clips, crops=spec.crops if crops is None else crops)


def _outcome(item: tuple[Source, Future[Views]]) -> tuple[Source, Views | InputError]:
    source, future = item
    try:
        return source, future.result()
    except InputError as error:
        return source, error


def _name(source: Source) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else type(source).__name__

"""What the server answers with, whatever carries it: a request's file and options in, JSON or a picture out."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from threading import Lock, Semaphore
from typing import IO, Any, BinaryIO, Literal, NamedTuple

from uniformer.errors import Checked, InputError, shown
from uniformer.inference.engine import group_size
from uniformer.inference.frames import see_frames
from uniformer.inference.predictor import Predictor
from uniformer.reading.pictures import is_image
from uniformer.reading.video import open_video
from uniformer.support.settings import from_table, parse_override
from uniformer.support.texts import to_json_line
from uniformer.timelines.timeline import timeline
from uniformer.web.batching import Computing, Shared, Turn

MOST_VIEWS = 30  #: of a source that a request may ask for: ten clips in three crops, the most that is published
LONGEST_WINDOW = 20.0  #: seconds of a timeline's windows, whose frames are all held: ten times the usual
JSON, PNG = "application/json", "image/png"


@dataclass(frozen=True)
class Limits(Checked):
    """What a request may ask for."""

    size: int = 256_000_000  #: bytes
    seconds: float = 60.0  #: to arrive, and then to be answered
    length: float = 600.0  #: seconds of a video that is looked at frame by frame
    requests: int = 64  #: that arrive, wait and are worked on at once

    def _problems(self) -> Iterable[str]:
        for name, value in asdict(self).items():
            if not value > 0:
                yield f"expected {name} of more than 0, got {value}"


# ---- options ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartOptions(Checked):
    """Which part of a video is looked at: seconds from its first frame."""

    start: float | None = None
    end: float | None = None

    def _problems(self) -> Iterable[str]:
        if self.span is not None and not 0 <= self.span[0] < self.span[1]:
            yield f"expected a part from 0 s on that ends after its start, got {self.span[0]:g} to {self.span[1]:g} s"

    @property
    def span(self) -> tuple[float, float] | None:
        """None is the whole."""
        if self.start is self.end is None:
            return None
        return self.start or 0.0, math.inf if self.end is None else self.end

    def told(self) -> dict[str, Any]:
        """Those that were named, as `Predictor.asked` takes them: the predictor's own are others."""
        of_predictor = {name: value for name, value in named(self).items() if name not in ("start", "end")}
        return of_predictor if self.span is None else {**of_predictor, "span": self.span}


@dataclass(frozen=True)
class ViewOptions(PartOptions):
    """Of a classifier: what it is fed."""

    clips: int | None = None
    crops: Literal[1, 3] | None = None
    follow_seconds: bool | None = None


@dataclass(frozen=True)
class LabelOptions(ViewOptions):
    """Of a classifier's labels."""

    top_k: int | None = None
    vocabulary: str | None = None


@dataclass(frozen=True)
class PictureOptions:
    """Of detection, segmentation and pose, those that the checkpoint's task has; `every` is of videos."""

    score: float | None = None
    most: int | None = None
    keep: str | None = None
    mode: str | None = None
    tile: int | None = None
    flip: bool | None = None
    every: int = 1

    def of_task(self) -> dict[str, Any]:
        """Those that were named, as `Predictor.asked` takes them."""
        told = {name: value for name, value in named(self).items() if name != "every"}
        return told if self.keep is None else {**told, "keep": tuple(map(str.strip, self.keep.split(",")))}


@dataclass(frozen=True)
class TimelineOptions(PartOptions):
    """Of a timeline: seconds of a window, whether shots are told apart, and what motions are called."""

    window: float | None = None
    cuts: bool = True
    vocabulary: str | None = None


def named(options: Any) -> dict[str, Any]:
    """Those that say anything: others are the predictor's own."""
    return {name: value for name, value in asdict(options).items() if value is not None}


def parsed(kind: type[Any], told: Iterable[tuple[str, str]]) -> Any:
    """Options from the texts of a query or a form. Raises `InputError` for one that is unknown or said twice."""
    table: dict[str, Any] = {}
    for name, text in told:
        if not name.strip():
            raise InputError(f"expected options with names, got {shown(text)!r} without one")
        key, value = parse_override(f"{name}={text}")
        if key in table:
            raise InputError(f"expected {key} once, got it twice")
        table[key] = value
    return from_table(kind, table)


# ---- answers ---------------------------------------------------------------------------------------------------------


class Upload(io.BufferedIOBase, BinaryIO):
    """What a client sent, under the client's name for it. Reading ends with the request's time, so that nothing goes on
    for long that nobody waits for. Closing it lets go of the file."""

    def __init__(self, file: IO[bytes], name: str, turn: Turn):
        self._file, self._name, self._turn = file, name, turn

    @property
    def name(self) -> str:
        return self._name

    def readable(self) -> bool:
        return True

    seekable = readable

    def read(self, size: int | None = -1, /) -> bytes:
        self._turn.left()
        return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


class Answer(NamedTuple):
    body: bytes
    kind: str = JSON


def as_json(plain: Any) -> Answer:
    return Answer(to_json_line(plain).encode())


class Service:
    """A predictor that answers several requests at once.

    Args:
        wait: seconds that views wait for others to go through the network with.
        seen: is told the number of views that went through together.
    """

    def __init__(
        self, predictor: Predictor, limits: Limits, *, wait: float = 0.005, seen: Callable[[int], None] = lambda n: None
    ):
        predictor.task.check()
        self.predictor, self.limits = predictor, limits
        spec = predictor.spec
        together = 1 if spec is None else group_size(spec.views, predictor.batch_size)
        #: one batch computes, the next waits, and as many requests are decoded as there are workers
        self._threads = ThreadPoolExecutor(predictor.workers + 2 * together, thread_name_prefix="request")
        self._places = Semaphore(predictor.workers)
        self._at_work = set[Turn]()
        self._computing = Computing(predictor.batch_size, wait, others=lambda: len(self._at_work), seen=seen)
        self._making_features = Lock()
        labels = LabelOptions if spec is not None else PictureOptions
        #: by the last part of their address
        self.verbs: Mapping[str, tuple[Callable[..., Answer], type[Any]]] = {
            "predict": (self._predict, labels),
            "timeline": (self._timeline, TimelineOptions),
            "embed": (self._embed, ViewOptions),
        }

    def close(self, *, now: bool = False) -> None:
        """Answer what was asked, and end; or leave what is not begun."""
        self._threads.shutdown(wait=not now, cancel_futures=now)
        if not now:
            self._computing.close()

    def submit(self, verb: str, file: IO[bytes], name: str, options: Any, until: float, kind: str) -> Future[Answer]:
        """The answer to a file, which is closed then; `kind` is what is wanted. It raises `InputError` for what the
        client got wrong, `OutOfTime`, and `NetworkFailed`."""
        return self._threads.submit(self._answer, verb, file, name, options, until, kind)

    def _answer(self, verb: str, file: IO[bytes], name: str, options: Any, until: float, kind: str) -> Answer:
        turn = Turn(self._places, until)
        with Upload(file, name, turn) as upload, turn:
            self._at_work.add(turn)
            try:
                return self.verbs[verb][0](upload, options, turn, kind)
            except InputError:
                turn.left()  # raises, where nothing is wrong with the file but that the time is over
                raise
            finally:
                self._at_work.discard(turn)

    def _mine(self, turn: Turn, **options: Any) -> Predictor:
        """The predictor as one request uses it."""
        mine = self.predictor.asked(**options)
        if mine.spec is not None and self.predictor.spec is not None:
            most = max(MOST_VIEWS, self.predictor.spec.views)
            if mine.spec.views > most:
                raise InputError(f"expected at most {most} views of a source, got {mine.spec.views}")
        mine.through = partial(Shared, self._computing, turn)
        return mine

    def _predict(self, upload: Upload, options: LabelOptions | PictureOptions, turn: Turn, kind: str) -> Answer:
        if isinstance(options, LabelOptions):
            return as_json(self._mine(turn, **options.told())(upload).to_dict())
        predictor = self._mine(turn, **options.of_task())
        if not is_image(upload):
            return self._frames(upload, predictor, options.every)
        result = predictor(upload)
        if kind != PNG:
            return as_json(result.to_dict())
        drawn = io.BytesIO()
        result.plot(upload).save(drawn, "PNG")
        return Answer(drawn.getvalue(), PNG)

    def _frames(self, upload: Upload, predictor: Predictor, every: int) -> Answer:
        if every < 1:
            raise InputError(f"expected every of at least 1, got {every}")
        with open_video(upload, backend=predictor.backend) as reader:
            self._check_length(upload, reader.info.duration or 0)
            seen = see_frames(predictor, reader, upload.name, every=every)
            return as_json(
                {"source": upload.name, "frames": [each.answer.to_dict() for each in seen if each.answer is not None]}
            )

    def _timeline(self, upload: Upload, options: TimelineOptions, turn: Turn, _: str) -> Answer:
        first = 0.0 if options.span is None else options.span[0]

        def check(done: float, end: float) -> None:
            turn.left()
            self._check_length(upload, end - first)

        if options.window is not None and options.window > LONGEST_WINDOW:
            raise InputError(f"expected a window of at most {LONGEST_WINDOW:g} s, got {options.window:g}")
        words = {} if options.vocabulary is None else {"vocabulary": options.vocabulary}
        mine = self._mine(turn, **words)
        found = timeline(upload, mine, window=options.window, cuts=options.cuts, span=options.span, progress=check)
        return Answer(found.to_json().encode())

    def _embed(self, upload: Upload, options: ViewOptions, turn: Turn, _: str) -> Answer:
        with self._making_features:
            _features = self.predictor.features  # made once, and shared by the copies
        mine = self._mine(turn, **options.told())
        (row,) = mine.embed([upload])
        checkpoint = mine.contract.id or mine.contract.arch
        return as_json({"source": upload.name, "checkpoint": checkpoint, "features": row.tolist()})

    def _check_length(self, upload: Upload, seconds: float) -> None:
        if seconds > self.limits.length:
            most = self.limits.length
            raise InputError(f"{upload.name}: expected a video of at most {most:g} s, found {seconds:.1f} s")

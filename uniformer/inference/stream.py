"""A sliding clip over frames that come one after the other: what a network says of the last seconds, again and again.

frames with times -> cropped once, as they come -> a ring of views -> the clip that ends with the newest -> network

An answer is what `predict` says of that clip cut out of the film: the same frames, the same pixels. Frames that never
came are stood in for as those that a file cannot give: by the nearest.
"""

from __future__ import annotations

import math
import threading
import time as clocks
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from uniformer.config import InputSpec
from uniformer.errors import InputError
from uniformer.inference.predictor import Predictor
from uniformer.reading.pictures import to_pixels
from uniformer.reading.sampling import clip_indices, window_seconds
from uniformer.reading.transforms import Floats, view_array
from uniformer.reading.views import Views
from uniformer.tasks.classification import Label
from uniformer.tasks.task import Failure

STEPS = 4  # answers within the length of a clip, where nobody says how many
GAP = 0.5  # seconds without a frame, from which on a clip begins anew ...
GAP_FRAMES = 2  # ... or as many frames, where they are further apart
FINEST = 8  # frames kept within the time of one: what comes faster is left out, so that memory stays bounded
EPSILON = 1e-6  # seconds, or frames, by which times may be off


def told_time(seconds: float) -> float:
    """To the millisecond; 0 where rounding leaves -0."""
    return round(seconds, 3) + 0.0


@dataclass(frozen=True)
class Answer:
    """What a network says of a clip."""

    source: str
    start: float  #: of the clip, seconds on the stream's clock
    end: float  #: the time of its newest frame
    times: tuple[float, ...]  #: of the frames that the network was fed of the whole clip, (T,)
    run: int  #: from 0; a clip that was begun anew, after a gap, is of the next
    labels: tuple[Label, ...]  #: best first, at most the predictor's top-k
    probabilities: Floats  #: of every class, (K,)
    latency: float  #: seconds from the arrival of the newest frame

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; times in seconds, to the millisecond."""
        labels = [{"name": label.name, "score": round(label.score, 6), "index": label.index} for label in self.labels]
        start, end, *times = map(told_time, (self.start, self.end, *self.times))
        return {
            "answer": labels, "source": self.source, "start": start, "end": end, "times": times,
            "latency": round(self.latency, 4),
        }  # fmt: skip


class Clip(NamedTuple):
    """What the network is to see."""

    source: str
    start: float
    end: float
    times: tuple[float, ...]
    run: int
    arrived: float  #: when its newest frame came, by `time.monotonic`
    views: Views  #: (parts x crops, 3, T, h, w)


class _Held(NamedTuple):
    """A frame in the ring."""

    time: float
    view: Floats  #: (crops, 3, 1, h, w)


class Stream:
    """The last seconds of frames that are pushed one by one, and answers to them.

        stream = Stream(uniformer.Predictor("uniformer_small.k400_16x4"), fps=25)
        for time, frame in frames:
            if answer := stream.push(frame, time):
                print(answer.end, answer.labels[0].name)

    The first answer comes when the clip is whole. A clip begins anew after half a second without a frame, and where the
    clock steps back. Frames may change their size; each is cropped by its own. Memory does not grow: it holds the
    crops of a clip's frames.

    Args:
        predictor: with a network of clips; its crops and `top_k` hold.
        fps: frames a second of the source, where it is known: clips then take the frames that `predict` takes with
            `follow_seconds`. By default the rate that the network was trained at.
        window: seconds of a clip; by default as long as in training, or 2 s (`sampling.window_seconds`).
        every: seconds from an answer to the next; by default a quarter of a clip. No more than frames come.
        name: what answers call it.

    Raises `InputError` for a network of images, an unknown rate, and a window too short for a clip.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        fps: float | None = None,
        window: float | None = None,
        every: float | None = None,
        name: str = "stream",
    ):
        self.predictor, self.name = predictor, name
        self.spec = clip_spec(predictor)
        self.fps = _rate(self.spec, fps)
        self.window = window_seconds(self.spec, self.fps) if window is None else window
        self.every = self.window / STEPS if every is None else every
        for word, seconds in (("window", self.window), ("every", self.every)):
            if not 0 < seconds <= 86_400:
                raise InputError(f"expected {word} of more than 0 seconds, up to a day, got {seconds:g}")
        count = math.ceil(self.window * self.fps - EPSILON)
        least = max(2, self.spec.frames // 2)  # as in timelines
        if count < least:
            raise InputError(
                f"expected a window of at least {least / self.fps:.3g} s at {self.fps:g} frames a second, for clips of "
                f"{self.spec.frames} frames, got {self.window:.3g} s"
            )
        places = clip_indices(self.spec, count, fps=self.fps, follow_seconds=self.spec.fps is not None)
        self._length = (count - 1) / self.fps  # seconds from a clip's first frame to its newest
        self._ages = (count - 1 - places) / self.fps  # of frames to be fed, as the newest comes: (parts, T)
        self._gap = max(GAP, GAP_FRAMES / self.fps)
        self._lock = threading.Lock()  # one thread may add while another takes clips
        self._ring: deque[_Held] = deque()
        self._size = (0, 0)
        self._arrived = 0.0
        self._next: float | None = None  # when an answer is due; None until the clip is whole
        self.due = False  #: whether an answer is to be given
        self.run = 0
        self.frames = self.left_out = 0  #: frames taken, and not taken
        self.answered = self.skipped = 0  #: answers given, and those that were due while another was being given

    def push(self, frame: Any, time: float) -> Answer | None:
        """Take a frame, uint8 RGB (H, W, 3) or what else `predict` takes as pixels, at so many seconds. The answer to
        the clip that ends with it, where one is due.

        Raises `InputError` for what is no picture, a time that is no number, and answers that are not finite.
        """
        self.add(frame, time)
        if not self.due:
            return None
        (answer,) = answers_to(self.predictor, [self.clip()])
        if isinstance(answer, Failure):
            raise InputError(answer.error)
        return answer

    def add(self, frame: Any, time: float, *, arrived: float | None = None) -> None:
        """Take a frame without answering: `due` tells whether an answer is. `arrived`: when it came, by
        `time.monotonic`."""
        if not math.isfinite(time):
            raise InputError(f"{self.name}: expected a frame's time in seconds, got {time}")
        came = clocks.monotonic() if arrived is None else arrived
        last = self._ring[-1].time if self._ring else -math.inf
        if 0 <= time - last < 1 / (FINEST * self.fps) - EPSILON:
            self.left_out += 1
            return
        pixels = to_pixels(frame)
        view = view_array(pixels[None, None], self.spec)
        with self._lock:
            if self._ring and not 0 < time - last <= self._gap + EPSILON:
                self._ring.clear()
                self._next, self.due, self.run = None, False, self.run + 1
            self._ring.append(_Held(time, view))
            self._size, self._arrived = (pixels.shape[0], pixels.shape[1]), came
            self.frames += 1
            while len(self._ring) > 1 and self._ring[1].time <= time - self._length:
                self._ring.popleft()
            self._look_whether_due(time)

    def _look_whether_due(self, time: float) -> None:
        half = 0.5 / self.fps  # clocks of files are rounded: the frame that is nearest counts
        if self._next is None:
            if self._ring[0].time > time - self._length + half:
                return
            self._next = time
        if time < self._next - half:
            return
        self.skipped += self.due  # the one before was not given
        self.due = True
        self._next += self.every * (math.floor((time + half - self._next) / self.every) + 1)

    def clip(self) -> Clip:
        """The clip that ends with the newest frame, to be answered."""
        with self._lock:
            held, size, arrived, run = list(self._ring), self._size, self._arrived, self.run
            self.due = False
            self.answered += 1
        times = np.array([frame.time for frame in held])
        places = _nearest(times, times[-1] - self._ages)
        array = np.concatenate([np.concatenate([held[place].view for place in part], axis=2) for part in places])
        views = Views(array, *size, boxes=(), seconds=times[places], fps=self.fps)
        end, fed = float(times[-1]), tuple(times[places[0]].tolist())
        return Clip(self.name, end - self._length, end, fed, run, arrived, views)

    def __len__(self) -> int:
        """Frames that are held."""
        return len(self._ring)


def answers_to(predictor: Predictor, clips: Iterable[Clip]) -> Iterator[Answer | Failure]:
    """What the network says of clips, in order: those of several streams go through it together, as many as the
    predictor's batch size allows."""
    for outcome in predictor.run_on_views(clips, lambda clip: clip.views, clip_spec(predictor)):
        clip = outcome.source
        if outcome.error is not None or outcome.views is None:
            yield Failure(clip.source, f"{clip.source}, {clip.end:.2f} s: {outcome.error}", time=clip.end)
            continue
        said = predictor.task.decode(outcome.outputs, outcome.views, predictor.top_k)
        yield Answer(
            clip.source, clip.start, clip.end, clip.times, clip.run, said.labels, said.probabilities,
            clocks.monotonic() - clip.arrived,
        )  # fmt: skip


def clip_spec(predictor: Predictor) -> InputSpec:
    """What a predictor's network is fed of a stream: one clip at a time. Raises `InputError` for one of images."""
    if predictor.spec is None or not predictor.spec.is_video:
        raise InputError("expected a network of clips for a stream, got one of images")
    return replace(predictor.spec, clips=1)


def _rate(spec: InputSpec, fps: float | None) -> float:
    rate = spec.fps if fps is None else fps
    if rate is None or not 0 < rate <= 1e6:
        raise InputError(f"expected fps in (0, 1e6] of a stream for a network that does not say its own, got {rate}")
    return rate


def _nearest(times: Any, wanted: Any) -> Any:
    """Of rising times (N,) the places of those nearest to each wanted (..., T), of two equally near the earlier."""
    if len(times) == 1:
        return np.zeros(wanted.shape, np.int64)
    after = np.searchsorted(times, wanted).clip(1, len(times) - 1)
    before = after - 1
    return np.where(wanted - times[before] <= times[after] - wanted + EPSILON, before, after)

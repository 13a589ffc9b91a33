"""What happens when in a video: `timeline` cuts it into shots and names the motion of the camera over time.

frames, each once -> shots -> windows of about 2 s, one beginning every 0.5 s -> network -> equal neighbours merged
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from uniformer.checkpoints.records import BUNDLED
from uniformer.config import WHOLE, InputSpec
from uniformer.errors import InputError, MissingExtra
from uniformer.inference.predictor import Predictor
from uniformer.reading.frames import VideoReader
from uniformer.reading.pictures import Pixels
from uniformer.reading.sampling import clip_indices, part_ranges, window_seconds
from uniformer.reading.sources import Media, name_of_source
from uniformer.reading.transforms import Floats, view_array
from uniformer.reading.views import Views, frames_within, open_clip
from uniformer.support.csv_text import csv_line
from uniformer.tasks.drawing import Stretch, colour_of
from uniformer.tasks.task import Outputs
from uniformer.timelines.drawn import OverTime
from uniformer.timelines.fit import Amounts, Step, Steps, Tracker, total
from uniformer.timelines.levels import SURE, Levels
from uniformer.timelines.rows import (
    AMOUNT_FIELDS,
    CSV_FIELDS,
    LEVEL_FIELDS,
    STEPS,
    Segment,
    Shot,
    Window,
    borders,
    rows_of,
)
from uniformer.timelines.shots import Look, look_at, with_cuts

if TYPE_CHECKING:
    from uniformer.checkpoints.identify import CheckpointSource

LEAST_WINDOW = 0.01  # seconds: two frames of 200 a second; each step of shorter ones would be tried in vain
SHORTEST = 0.5  # seconds of a shot below which nothing is said of it
GAP = 0.5  # seconds of frames that cannot be decoded, from which on a shot ends there
EPSILON = 1e-6  # seconds by which times may be off

__all__ = ["CSV_FIELDS", "Segment", "Timeline", "Window", "borders", "timeline"]


@dataclass(frozen=True)
class Timeline(OverTime):
    """What a network says of a video, over time. Rows are in order and do not overlap."""

    source: str
    checkpoint: str
    classes: tuple[str, ...]
    duration: float  #: seconds
    fps: float | None
    rows: tuple[Segment, ...]
    windows: tuple[Window, ...]
    notes: tuple[str, ...] = ()
    fields: tuple[str, ...] = CSV_FIELDS  #: what there is to say of a row, the columns of its CSV

    TEXTS: ClassVar = {".json": "to_json", ".csv": "to_csv", ".srt": "to_srt"}

    def stretches(self) -> list[Stretch]:
        said = [(row, self.classes.index(row.motion)) for row in self.rows if row.motion]
        return [Stretch(row.said, row.confidence or 0, row.start, row.end, colour_of(k)) for row, k in said]

    def to_json(self) -> str:
        """Rows and windows; times in seconds, to the millisecond."""
        rows = [dict(zip(self.fields, row.values(self.fields), strict=True)) for row in self.rows]
        windows = [
            {
                "shot": w.shot, "start": round(w.start, 3), "end": round(w.end, 3), "frames": list(w.frames),
                "probabilities": [round(float(p), 4) for p in w.probabilities],
            }
            for w in self.windows
        ]  # fmt: skip
        plain = {
            "source": self.source, "checkpoint": self.checkpoint, "duration": round(self.duration, 3),
            "fps": self.fps and round(self.fps, 3), "notes": list(self.notes), "rows": rows,
            "classes": list(self.classes), "windows": windows,
        }  # fmt: skip
        return json.dumps(plain, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """A header and one line per row."""
        return "".join(map(csv_line, [self.fields, *(row.values(self.fields) for row in self.rows)]))

    def to_srt(self) -> str:
        """Subtitles (SubRip): what the camera does, shown while it does it."""
        said = [row for row in self.rows if row.motion and _milliseconds(row.end) > _milliseconds(row.start)]
        return "\n".join(
            f"{number}\n{_clock(row.start)} --> {_clock(row.end)}\n{row.said} ({100 * (row.confidence or 0):.0f} %)\n"
            for number, row in enumerate(said, start=1)
        )


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(_milliseconds(seconds), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"


def timeline(
    source: Media,
    model: CheckpointSource | Predictor = BUNDLED,
    *,
    window: float | None = None,
    cuts: bool = True,
    span: tuple[float, float] | None = None,
    vocabulary: str | None = None,
    min_confidence: float | None = None,
    amounts: bool | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Timeline:
    """What happens when in a video of any length, a path, bytes, a file or an address, by a network of clips.

        for row in uniformer.timeline("film.mp4").rows:
            print(row.start, row.end, row.motion, row.confidence)

    The file is decoded once, frame by frame, and memory does not grow with it but for the answers. Shots are told
    apart by hard cuts (`shots.with_cuts`). Shots longer than a window are seen through windows that overlap.

    Args:
        model: a checkpoint, as `Predictor` takes it, or a `Predictor`: the model in the package by default.
        window: seconds of a window; by default as long as the network's clips last in training, or 2 s.
        cuts: False takes the whole video for one shot.
        span: start and end in seconds of the part to look at; times are still from the first frame of the video.
        vocabulary: others' words for the camera's motions, as `Predictor` takes it; of a `Predictor` its own hold.
        min_confidence: probability below which a row is unsure of its direction or else its kind; by default 0.5 for
            checkpoints whose labels have levels, and nothing is said of it for others.
        amounts: whether to measure how far the camera goes, which needs OpenCV; by default for checkpoints that say
            what amounts tell of their labels, where OpenCV is installed. What they say is joined with the network's.
        progress: called now and then with the seconds done and all seconds.

    Raises:
        InputError: the file is no video, has no clock, or holds no frame that can be decoded; the network is one of
            images; the window is shorter than 0.01 s, or the confidence no probability; a vocabulary is given with a
            `Predictor`.
        MissingExtra: amounts are asked for without OpenCV.
    """
    if isinstance(model, Predictor) and vocabulary is not None:
        raise InputError("expected a vocabulary with a checkpoint: a predictor has its own")
    predictor = model if isinstance(model, Predictor) else Predictor(model, vocabulary=vocabulary)
    if predictor.spec is None or not predictor.spec.is_video:
        raise InputError("expected a network of clips for a timeline, got one of images")
    if window is not None and not window >= LEAST_WINDOW:
        raise InputError(f"expected a window of at least {LEAST_WINDOW:g} seconds, got {window}")
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise InputError(f"expected a confidence from 0 to 1, got {min_confidence}")
    contract = predictor.contract
    names = predictor.task.words.names
    levels = Levels(contract, contract.classes or names)
    least = SURE if min_confidence is None and not levels.is_plain else min_confidence
    tracker, missing = tracker_of(levels, amounts)
    shots: list[Shot] = []
    with open_clip(source, predictor.backend) as reader:
        film = _Film(reader, replace(predictor.spec, clips=1), window, span, tracker)
        clips = _clips(_parts(film, _marked(film, cuts), progress), shots)
        windows = list(_answers(predictor, film, clips, levels))
    if not shots:
        raise InputError(f"{reader.info.path}: expected a video, found no frame that can be decoded")
    by_shot: dict[int, list[Window]] = {shot.number: [] for shot in shots}
    for one in windows:
        by_shot[one.shot].append(one)
    of_words = levels if names == contract.classes else Levels(replace(contract, details={}), names)
    rows = (rows_of(shot, by_shot[shot.number], names, film.step, of_words, least) for shot in shots)
    return Timeline(
        source=name_of_source(source),
        checkpoint=contract.id or contract.arch,
        classes=names,
        duration=float(film.ends[-1]),
        fps=film.fps,
        rows=tuple(chain.from_iterable(rows)),
        windows=tuple(windows),
        notes=(*_notes(film, shots, by_shot), *missing),
        fields=CSV_FIELDS + LEVEL_FIELDS * (least is not None) + AMOUNT_FIELDS * (tracker is not None),
    )


def tracker_of(levels: Levels, amounts: bool | None) -> tuple[Tracker | None, list[str]]:
    """What measures amounts, if anything is to; and in a line what is missing where it would have been of use."""
    if amounts is False or (amounts is None and not levels.facts.reach):
        return None, []
    try:
        return Tracker(), []
    except MissingExtra as why:
        if amounts:
            raise
        return None, [f"the network's word alone: {why}"]


# ---- reading ---------------------------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    number: int
    view: Floats  #: (crops, 3, 1, h, w)
    step: Step | None  #: that was measured up to it


class _Key(NamedTuple):
    """What tells a part of a window from others: windows that overlap have parts in common."""

    shot: int
    microseconds: int  #: when it begins
    frames: tuple[int, ...]


class _Part(NamedTuple):
    """A part of a window, before the network has seen it."""

    key: _Key
    pixels: Floats  #: (crops, 3, T, h, w)


class _Clip(NamedTuple):
    """A window, before the network has seen its parts; the first of them is the whole."""

    shot: int
    start: float
    end: float
    parts: tuple[_Part, ...]
    amounts: Amounts | None


class _Film:
    """A video that is being read, and how it is to be looked at."""

    def __init__(
        self,
        reader: VideoReader,
        spec: InputSpec,
        window: float | None,
        span: tuple[float, float] | None,
        tracker: Tracker | None,
    ):
        info = reader.info
        self.first, self.count = frames_within(reader, span)
        self.reader, self.spec, self.fps, self.tracker = reader, spec, info.fps, tracker
        self.times = reader.times(range(info.num_frames))
        self.ends = np.append(self.times[1:], max(info.duration or 0.0, self.times[-1]))  # when each frame goes
        self.follows = spec.fps is not None and info.fps is not None  # strides that follow seconds
        window = window_seconds(spec, info.fps) if window is None else window
        self.window, self.step = window, window / STEPS
        self.part = replace(spec, parts=WHOLE)
        self.least = max(2, spec.frames // 2)  # frames of a window: where most are repeated, motion looks like none
        self.seen = 0
        self.first_lost: int | None = None

    def frames(self) -> Iterator[tuple[_Frame, Look]]:
        """Every frame that can be decoded, once."""
        for number, picture in self.reader.pictures(self.first, self.first + self.count):
            if number > self.first + self.seen and self.first_lost is None:
                self.first_lost = self.first + self.seen
            self.seen += 1
            pixels = _shrunk(picture(), self.spec)
            step = None if self.tracker is None else self.tracker.add(pixels, float(self.times[number]))
            yield _Frame(number, view_array(pixels[None, None], self.spec), step), look_at(pixels)

    def is_torn(self, before: int, after: int) -> bool:
        """Whether too many frames are missing between two."""
        return after > before + 1 and float(self.times[after] - self.ends[before]) > GAP

    def clip(self, shot: int, start: float, frames: Sequence[_Frame], steps: Steps) -> Iterator[_Clip]:
        """The window that begins at `start`, of frames and steps from there on; none where it has too few frames."""
        inside = [frame for frame in frames if self.times[frame.number] < start + self.window - EPSILON]
        if len(inside) < self.least:
            return
        end = float(self.ends[inside[-1].number])
        length = min(self.window, end - start)
        moments = (self.times[[frame.number for frame in inside]] - start) / length
        parts = []
        for (first, last), (begin, _) in zip(part_ranges(self.spec, moments), self.spec.parts, strict=True):
            (places,) = clip_indices(self.part, last - first, fps=self.fps, follow_seconds=self.follows)
            chosen = [inside[first + place] for place in places]
            key = _Key(shot, round(1e6 * (start + begin * length)), tuple(frame.number for frame in chosen))
            parts.append(_Part(key, np.concatenate([frame.view for frame in chosen], axis=2)))
        yield _Clip(shot, start, end, tuple(parts), total(steps, start, end))


def _shrunk(pixels: Pixels, spec: InputSpec) -> Pixels:
    """A large picture at a fraction of its size, still three times as large as the network's: half of the time of full
    HD went into resizing every frame. Not where the network was fed plain bilinear pictures, which this would smooth.
    """
    times = min(pixels.shape[:2]) // (3 * spec.resize)
    if spec.interpolation == "bilinear" or times < 2:
        return pixels
    return np.asarray(Image.fromarray(pixels).reduce(times))


def _marked(film: _Film, cuts: bool) -> Iterator[tuple[_Frame, bool]]:
    """Frames, and whether a shot begins with each."""
    if cuts:
        return with_cuts(film.frames())
    return ((frame, place == 0) for place, (frame, _) in enumerate(film.frames()))


class _OpenShot:
    """A shot while its frames come in; no more of them are held than a window and a step need."""

    def __init__(self, film: _Film, number: int, first: int):
        self.film, self.number = film, number
        self.start = self.next = float(film.times[first])
        self.last = first
        self.steps: list[Step] = []
        self.end_of_windows: float | None = None
        self.held: deque[_Frame] = deque()

    def add(self, frame: _Frame) -> Iterator[_Clip]:
        """The windows that are complete as this frame comes."""
        film = self.film
        while film.times[frame.number] >= self.next + film.window - EPSILON:
            yield from self._window(self.next)
            self.end_of_windows = self.next + film.window
            self.next += film.step
        self.held.append(frame)
        self.last = frame.number
        if frame.step is not None and frame.step.start >= self.start - EPSILON:  # not from the shot before
            self.steps.append(frame.step)

    def close(self) -> Iterator[_Clip | Shot]:
        """The last window, which ends with the shot, and the shot."""
        film, end = self.film, float(self.film.ends[self.last])
        if self.end_of_windows is None:
            if end - self.start >= SHORTEST - EPSILON:
                yield from self._window(self.start)
        elif end - self.end_of_windows > film.step / 2:
            yield from self._window(end - film.window)
        yield Shot(self.number, self.start, end, np.array(self.steps).reshape(-1, len(Step._fields)))

    def _window(self, start: float) -> Iterator[_Clip]:
        while self.held and self.film.times[self.held[0].number] < start - EPSILON:
            self.held.popleft()
        first = bisect_right(self.steps, start, key=attrgetter("end"))
        yield from self.film.clip(self.number, start, self.held, self.steps[first:])


def _parts(
    film: _Film, frames: Iterable[tuple[_Frame, bool]], progress: Callable[[float, float], None] | None
) -> Iterator[_Clip | Shot]:
    """The windows of each shot as they are complete, and after them the shot."""
    shot: _OpenShot | None = None
    for frame, is_first in frames:
        if shot is not None and (is_first or film.is_torn(shot.last, frame.number)):
            yield from shot.close()
        if shot is None or is_first or film.is_torn(shot.last, frame.number):
            shot = _OpenShot(film, 1 if shot is None else shot.number + 1, frame.number)
        yield from shot.add(frame)
        if progress is not None:
            progress(float(film.ends[frame.number]), float(film.ends[film.first + film.count - 1]))
    if shot is not None:
        yield from shot.close()


# ---- answering -------------------------------------------------------------------------------------------------------


def _clips(parts: Iterable[_Clip | Shot], shots: list[Shot]) -> Iterator[_Clip]:
    """The windows; shots are added to the list as they end."""
    for part in parts:
        if isinstance(part, Shot):
            shots.append(part)
        else:
            yield part


def _answers(predictor: Predictor, film: _Film, clips: Iterable[_Clip], levels: Levels) -> Iterator[Window]:
    """What the network and the amounts say of each window; a part that windows share goes through the network once."""
    info = film.reader.info
    waiting: deque[tuple[_Clip, list[_Key]]] = deque()
    said: dict[_Key, Outputs | None] = {}  # none: the network has not answered yet

    def views(part: _Part) -> Views:
        return Views(part.pixels, info.height, info.width, ())

    def unseen() -> Iterator[_Part]:
        for clip in clips:
            waiting.append((clip._replace(parts=()), [part.key for part in clip.parts]))  # without its pixels
            new = [part for part in clip.parts if part.key not in said]
            said.update((part.key, None) for part in new)
            yield from new

    def whole() -> Iterator[Window]:
        while waiting and all(said[key] is not None for key in waiting[0][1]):
            clip, keys = waiting.popleft()
            outputs = tuple(map(np.concatenate, zip(*(said[key] or () for key in keys), strict=True)))
            answer = predictor.task.decode(outputs, Views(outputs[0], info.height, info.width, ()), 1)
            probabilities = predictor.task.words(levels.joined(answer.probabilities, clip.amounts))
            yield Window(clip.shot, clip.start, clip.end, keys[0].frames, probabilities)
            for key in [key for key in said if key < keys[0]]:  # later windows begin later
                del said[key]

    for outcome in predictor.run_on_views(unseen(), views, film.part):
        if outcome.error is not None:
            raise InputError(f"{info.path}, {outcome.source.key.microseconds / 1e6:.2f} s: {outcome.error}")
        said[outcome.source.key] = outcome.outputs
        yield from whole()
    yield from whole()


def _notes(film: _Film, shots: Sequence[Shot], windows: Mapping[int, Sequence[Window]]) -> Iterator[str]:
    yield from film.reader.notes
    count = film.count
    if film.seen < count:
        lost = film.first + film.seen if film.first_lost is None else film.first_lost
        yield f"{count - film.seen} of {count} frames cannot be decoded, the first at {film.times[lost]:.2f} s"
    short = [shot for shot in shots if not windows[shot.number]]
    if short:
        what = "1 shot is" if len(short) == 1 else f"{len(short)} shots are"
        yield f"{what} too short to tell: less than {SHORTEST:g} s or {film.least} frames"

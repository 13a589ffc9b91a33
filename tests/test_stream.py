"""Streams: the answer to a sliding clip is the one to that clip cut out of the file."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import odd_media
from tests.films import Pixels, pan, shake, write
from tests.tiny import CLIPS, IMAGES, refused, save_tiny
from uniformer import Predictor
from uniformer.config import InputSpec
from uniformer.inference.stream import Answer, Stream, answers_to
from uniformer.reading.transforms import view_array
from uniformer.reading.video import open_video
from uniformer.reading.views import load_views
from uniformer.tasks.fusion import average_views

SPARSE = InputSpec(size=(64, 64), resize=64, interpolation="bicubic", frames=8, sampling="sparse", stride=4, fps=30.0)
RATE, WINDOW = 24, 1.0
NETS = {
    "sparse": SPARSE,
    "crops": replace(SPARSE, crops=3),
    "dense": CLIPS,  # 4 frames, every second one at 30 a second: 0.27 s, 6.4 frames of the film
    "dense, as a film of 24": replace(CLIPS, fps=24.0),
    "parts": replace(SPARSE, parts=((0.0, 1.0), (0.0, 0.5), (0.5, 1.0))),
    "light": replace(SPARSE, interpolation="bilinear", frames=4, stride=None),
}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    root = tmp_path_factory.mktemp("nets")
    return {name: Predictor(save_tiny(root / f"{name}.safetensors", spec)) for name, spec in NETS.items()}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pan and a shaking shot, 2 s together; 24 frames a second."""
    return write(tmp_path_factory.mktemp("film") / "film.mp4", chain(pan(0, 30), shake(1, 18, 2)), rate=RATE)


@pytest.fixture(scope="module")
def frames(film: Path) -> Pixels:
    with open_video(film) as reader:
        return reader.read(range(reader.info.num_frames))


def made(predictor: Predictor, **options: Any) -> Stream:
    """A stream that answers at every frame."""
    window = WINDOW if predictor.spec is not None and predictor.spec.sampling == "sparse" else None
    return Stream(predictor, **{"fps": RATE, "window": window, "every": 1e-3, **options})


def pushed(stream: Stream, frames: Any, times: Any) -> list[Answer]:
    answers = (stream.push(frame, float(time)) for frame, time in zip(frames, times, strict=True))
    return [answer for answer in answers if answer is not None]


def of_the_part(predictor: Predictor, source: Any, newest: float, count: int, fps: float = RATE) -> np.ndarray:
    """What the network says of `count` frames of a file or an array that end at a time."""
    assert predictor.spec is not None
    spec = replace(predictor.spec, clips=1)
    span = (newest - (count - 0.5) / fps, newest + 0.5 / fps)
    rate = None if isinstance(source, Path) else fps
    views = load_views(source, spec, span=span, follow_seconds=True, fps=rate)
    probabilities: np.ndarray = predictor.task.decode((predictor.logits(views.array),), views, 1).probabilities
    return probabilities


def equal(answer: Answer, probabilities: np.ndarray) -> None:
    assert np.abs(answer.probabilities - probabilities).max() <= 1e-6


# ---- the same clip ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_at_every_offset_it_is_the_clip_cut_out_of_the_file(
    net: str, film: Path, frames: Pixels, nets: dict[str, Predictor]
) -> None:
    stream = made(nets[net])
    count = int(np.ceil(stream.window * RATE - 1e-6))
    answers = pushed(stream, frames, np.arange(len(frames)) / RATE)
    assert [round(answer.end * RATE) for answer in answers] == list(range(count - 1, len(frames)))
    for answer in answers:
        equal(answer, of_the_part(nets[net], film, answer.end, count))
    assert len({answer.labels[0].score for answer in answers}) > 10  # they are of different clips


def test_as_long_as_in_training_by_default(nets: dict[str, Predictor]) -> None:
    assert Stream(nets["dense"], fps=25).window == pytest.approx(8 / 30)
    assert Stream(nets["sparse"], fps=25).window == 2.0
    assert Stream(nets["sparse"]).fps == 30.0  # of the contract


@pytest.mark.parametrize("net", ["sparse", "dense"])
def test_over_dropped_frames_the_nearest_stands_in(net: str, frames: Pixels, nets: dict[str, Predictor]) -> None:
    """As where a file cannot give a frame: of two equally near the earlier."""
    rng = np.random.default_rng(0)
    kept = np.flatnonzero((rng.random(len(frames)) < 0.6) | (np.arange(len(frames)) % 8 == 0))
    assert np.diff(kept).max() > 2
    stream = made(nets[net])
    count = int(np.ceil(stream.window * RATE - 1e-6))
    answers = pushed(stream, frames[kept], kept / RATE)
    assert len(answers) == (kept >= count - 1).sum()
    for answer in answers:
        newest = round(answer.end * RATE)
        there = kept[kept <= newest]
        nearest = [int(there[np.argmin(np.abs(there - number))]) for number in range(newest + 1)]
        equal(answer, of_the_part(nets[net], frames[nearest], answer.end, count))


@pytest.mark.filterwarnings("ignore:.*frames are readable")
def test_over_frames_that_a_damaged_file_cannot_give(nets: dict[str, Predictor], tmp_path: Path) -> None:
    path = odd_media.broken_middle(tmp_path)
    with open_video(path) as reader:
        there = [(number, picture()) for number, picture in reader.all_pictures()]
    assert 0 < len(there) < odd_media.FRAMES
    stream = made(nets["sparse"], fps=25)
    for answer in pushed(stream, [frame for _, frame in there], [number / 25 for number, _ in there])[::3]:
        equal(answer, of_the_part(nets["sparse"], path, answer.end, 25, 25))


def test_over_a_change_of_size_each_frame_is_cropped_by_its_own(frames: Pixels, nets: dict[str, Predictor]) -> None:
    predictor = nets["sparse"]
    assert predictor.spec is not None
    mixed = [frame if number < 30 else frame.repeat(2, 0)[:, 8:-8] for number, frame in enumerate(frames)]
    stream = made(predictor)
    for answer in pushed(stream, mixed, np.arange(len(mixed)) / RATE):
        fed = [mixed[round(time * RATE)] for time in answer.times]
        views = np.concatenate([view_array(frame[None, None], stream.spec) for frame in fed], axis=2)
        equal(answer, average_views(predictor.logits(views), stream.spec))


def test_rounded_clocks_lose_no_answer_and_no_frame(frames: Pixels, nets: dict[str, Predictor]) -> None:
    """Times in milliseconds, as in webm, are up to half of one off."""
    exact = pushed(made(nets["sparse"], every=1 / RATE), frames, np.arange(len(frames)) / RATE)
    rounded = pushed(made(nets["sparse"], every=1 / RATE), frames, (np.arange(len(frames)) / RATE).round(3))
    assert len(rounded) == len(exact) == len(frames) - RATE + 1
    for one, other in zip(exact, rounded, strict=True):
        equal(one, other.probabilities)


def test_several_streams_go_through_the_network_together(frames: Pixels, nets: dict[str, Predictor]) -> None:
    streams = [made(nets["crops"], name=name) for name in "abc"]
    for number in range(RATE + 3):
        for place, stream in enumerate(streams):
            stream.add(frames[number + 4 * place], number / RATE)
    together = list(answers_to(nets["crops"], [stream.clip() for stream in streams]))
    assert [answer.source for answer in together] == ["a", "b", "c"]
    for place, (answer, stream) in enumerate(zip(together, streams, strict=True)):
        assert isinstance(answer, Answer)
        equal(answer, of_the_part(nets["crops"], frames, (RATE + 2 + 4 * place) / RATE, RATE))
        assert not stream.due


# ---- when ------------------------------------------------------------------------------------------------------------


def test_answers_come_at_even_distances(frames: Pixels, nets: dict[str, Predictor]) -> None:
    answers = pushed(made(nets["sparse"], every=0.25), frames, np.arange(len(frames)) / RATE)
    assert [round(answer.end * RATE) for answer in answers] == [23, 29, 35, 41, 47]


@pytest.mark.parametrize("jump", [0.6, -0.5])
def test_after_a_gap_or_a_step_back_the_clip_begins_anew(
    jump: float, frames: Pixels, nets: dict[str, Predictor]
) -> None:
    times = np.arange(len(frames)) / RATE
    times[26:] += jump
    answers = pushed(made(nets["sparse"], window=0.5), frames, times)
    first = [answer for answer in answers if answer.run == 0]
    then = [answer for answer in answers if answer.run == 1]
    assert len(first) + len(then) == len(answers)
    assert [first[0].end, first[-1].end] == pytest.approx([11 / RATE, 25 / RATE])
    assert [then[0].start, then[0].end] == pytest.approx([times[26], times[26 + 11]])


def test_memory_does_not_grow_over_an_hour(nets: dict[str, Predictor]) -> None:
    """7,200 frames, 2 a second, and 60 answers."""
    stream = Stream(nets["light"], fps=2, every=60)
    frame = np.zeros((8, 8, 3), np.uint8)

    def seconds(start: int, end: int) -> None:
        for number in range(start * 2, end * 2):
            stream.push(frame, number / 2)

    seconds(0, 100)
    gc.collect()
    tracemalloc.start()
    seconds(100, 160)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    seconds(160, 3540)
    tracemalloc.start()
    seconds(3540, 3600)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(stream) <= 5
    assert after <= before + 20_000  # a frame's crop is 49,152 bytes
    assert stream.frames == 7_200


def test_frames_that_come_too_fast_do_not_fill_memory(frames: Pixels, nets: dict[str, Predictor]) -> None:
    stream = made(nets["sparse"], every=60)
    for number in range(5000):
        stream.push(frames[0], number * 1e-4)
    assert len(stream) <= 8 * RATE + 2
    assert stream.frames + stream.left_out == 5000


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_what_cannot_be_streamed_is_refused(nets: dict[str, Predictor], tmp_path: Path, frames: Pixels) -> None:
    with refused("expected a network of clips for a stream"):
        Stream(Predictor(save_tiny(tmp_path / "images.safetensors", IMAGES)))
    rateless = Predictor(save_tiny(tmp_path / "rateless.safetensors", replace(SPARSE, fps=None)))
    with refused("expected fps"):
        Stream(rateless)
    assert Stream(rateless, fps=10).window == 2.0
    for options in ({"window": 0.0}, {"every": -1.0}, {"window": float("nan")}):
        with refused("of more than 0 seconds"):
            Stream(nets["sparse"], **options)
    with refused("expected a window of at least"):
        Stream(nets["sparse"], window=0.05)
    stream = made(nets["sparse"])
    with refused("expected a frame's time"):
        stream.push(frames[0], float("nan"))
    with refused("expected"):
        stream.push(frames[0][:, :, :1].repeat(5, 2), 0.0)

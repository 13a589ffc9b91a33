"""Feeds watched by a network: at the speed of the world and as fast as it goes, one and several; the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from tests.command_line import COMMAND, Cli, one_line
from tests.films import Pixels, pan, shake, write
from tests.live_server import live
from tests.patience import PATIENCE, wait_until
from tests.tiny import IMAGES, refused, save_tiny
from uniformer import Predictor
from uniformer.config import InputSpec
from uniformer.inference.latency import forms_at_hand, in_size, stride, within_latency
from uniformer.inference.stream import Answer, Stream
from uniformer.inference.watch import Ended, Pace, Watched, watch
from uniformer.reading.feeds import FileFeed, RawFeed, RawForm
from uniformer.reading.video import open_video
from uniformer.reading.views import load_views
from uniformer.tasks.fusion import average_views

SPARSE = InputSpec(size=(64, 64), resize=64, interpolation="bilinear", frames=8, sampling="sparse", fps=30.0)
RATE, WINDOW, FRAMES = 24, 1.0, 60


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of clips, one of images, two films of 2.5 s and 1.5 s, and one too short for a clip."""
    root = tmp_path_factory.mktemp("watch")
    save_tiny(root / "clips.safetensors", SPARSE)
    save_tiny(root / "images.safetensors", IMAGES)
    write(root / "a.mp4", chain(pan(0, 40), shake(1, FRAMES - 40, 2)), rate=RATE)
    write(root / "b.mp4", pan(2, 36), rate=RATE)
    write(root / "short.mp4", pan(2, 12), rate=RATE)
    (root / "text.mp4").write_bytes(b"This is no video.\n" * 99)
    return root


@pytest.fixture(scope="module")
def predictor(root: Path) -> Predictor:
    return Predictor(root / "clips.safetensors")


@pytest.fixture(scope="module")
def frames(root: Path) -> Pixels:
    with open_video(root / "a.mp4") as reader:
        return reader.read(range(FRAMES))


def watched(predictor: Predictor, path: Path, **options: Any) -> Watched:
    feed = FileFeed(str(path))
    return Watched(feed, Stream(predictor, **{"fps": RATE, "window": WINDOW, "name": feed.name, **options}))


def true_of(predictor: Predictor, path: Any, end: float) -> np.ndarray:
    """What the network says of the clip of a film, or of its frames, that ends there."""
    span = (end - WINDOW + 0.5 / RATE, end + 0.5 / RATE)
    fps = None if isinstance(path, str) else RATE
    views = load_views(path, SPARSE, span=span, follow_seconds=True, fps=fps)
    return average_views(predictor.logits(views.array), SPARSE)


@pytest.mark.parametrize("is_live", [False, True])
def test_several_films_give_the_answers_of_each(is_live: bool, root: Path, predictor: Predictor) -> None:
    """Whatever was left out on a slow machine: an answer is that of the clip which it names."""
    films = [watched(predictor, root / name, every=0.25) for name in ("a.mp4", "b.mp4")]
    found = list(watch(predictor, films, live=is_live))
    for film in films:
        mine = [one for one in found if isinstance(one, Answer) and one.source == film.feed.name]
        assert mine
        assert len(mine) == film.stream.answered
        assert all(one.end < other.end for one, other in pairwise(mine))
        if not is_live:
            count = 7 if film is films[0] else 3
            assert [round(one.end * RATE) for one in mine] == [23 + 6 * number for number in range(count)]
        if not film.stream.left_out:
            for one in mine[:: 1 if is_live else 2]:
                assert np.abs(one.probabilities - true_of(predictor, film.feed.name, one.end)).max() <= 1e-6
    ended = [one for one in found if isinstance(one, Ended)]
    assert sorted(ended) == [Ended(str(root / "a.mp4"), None), Ended(str(root / "b.mp4"), None)]


def test_where_the_network_is_slower_the_newest_frame_counts(predictor: Predictor, frames: Pixels) -> None:
    """A pipe is emptied at once, far faster than the network answers."""
    here, there = os.pipe()
    many = np.concatenate([frames] * 8)
    height, width = frames.shape[1:3]

    def write_all() -> None:
        with os.fdopen(there, "wb") as file:
            file.write(many.tobytes())

    writer = threading.Thread(target=write_all)
    writer.start()
    stream = Stream(predictor, fps=RATE, window=WINDOW, every=1 / RATE)
    found = list(watch(predictor, [Watched(RawFeed(here, RawForm(width, height, RATE)), stream)]))
    writer.join()
    os.close(here)
    assert stream.frames == len(many)
    assert stream.answered + stream.skipped == len(many) - RATE + 1
    assert found.pop() == Ended("-", None)
    assert len(found) == stream.answered
    for one in found[:: max(1, len(found) // 8)]:
        assert isinstance(one, Answer)
        newest = round(one.end * RATE)
        part = many[newest - RATE + 1 : newest + 1]
        assert np.abs(one.probabilities - true_of(predictor, part, (RATE - 1) / RATE)).max() <= 1e-6


def test_one_bad_feed_never_ends_the_rest(root: Path, predictor: Predictor) -> None:
    class Breaking(FileFeed):
        """A real one whose file goes bad."""

        def arrivals(self) -> Iterator[Any]:
            for place, arrival in enumerate(super().arrivals()):
                if place == 30:
                    raise OSError("the disk is gone")
                yield arrival

    breaking = Breaking(str(root / "b.mp4"))
    films = [
        watched(predictor, root / "a.mp4"),
        watched(predictor, root / "short.mp4"),
        Watched(breaking, Stream(predictor, fps=RATE, window=WINDOW, name="breaking")),
    ]
    found = list(watch(predictor, films, live=False))
    errors = {Path(one.source).name: one.error for one in found if isinstance(one, Ended)}
    assert errors == {
        "a.mp4": None,
        "short.mp4": f"{root / 'short.mp4'}: expected a clip of 1.00 s, it ended after 12 frames",
        "b.mp4": f"{root / 'b.mp4'}: cannot be read: OSError: the disk is gone",
    }
    assert isinstance(found[-1], Ended)
    assert found[-1].source == str(root / "a.mp4")  # the others' ends are told when they come
    assert [one.source for one in found if isinstance(one, Answer)].count("breaking") == 2
    assert films[0].stream.answered == 7


def test_who_leaves_early_stops_the_threads(root: Path, predictor: Predictor) -> None:
    before = threading.active_count()
    answers = watch(predictor, [watched(predictor, root / "a.mp4")])
    next(answers)
    answers.close()
    wait_until(lambda: threading.active_count() == before)


def test_a_recording_keeps_its_pace_and_a_live_feed_follows_the_least_late_frame() -> None:
    over = threading.Event()
    over.set()  # waits for nothing
    pace = Pace(True, over)
    begin = pace(0.0)
    assert begin is not None
    assert [pace(time) for time in (1.0, 2.0)] == pytest.approx([begin + 1, begin + 2])
    pace = Pace(False, over)
    begin = pace(100.0)
    assert begin is not None
    early = pace(200.0)  # in no time: so it was not the first one that came soonest
    assert early is not None
    assert early < begin + 100
    assert pace(100.5) is None  # 99.5 s late ...
    assert [pace(time) is None for time in (200.1, 200.25)] == [False, False]  # ... and these are not


# ---- a budget of latency ---------------------------------------------------------------------------------------------


def test_the_stride_is_what_the_budget_leaves() -> None:
    assert stride(0.2, 0.05, 0.002, 1, 25) == pytest.approx(0.2 - 0.05 - 0.002 - 0.02)
    assert stride(0.2, 0.05, 0.002, 2, 25) == pytest.approx(0.2 - 0.1 - 0.002 - 0.02)
    assert stride(0.1, 0.05, 0.002, 1, 25) is None  # busy all the time
    assert stride(0.04, 0.05, 0.0, 1, 25) is None


def test_what_meets_a_budget_is_taken_and_told(predictor: Predictor) -> None:
    said: list[str] = []
    asked: list[int] = []

    def candidates() -> Iterator[Predictor]:
        for side in (64, 32):
            asked.append(side)
            yield in_size(predictor, side)

    choice = within_latency(candidates(), 60.0, pictures=[(96, 128)] * 2, fps=RATE, say=said.append)
    assert asked == [64]  # the others are not made
    assert choice.every is not None
    assert 0 < choice.every < 60
    assert choice.predictor.network.compute in ("plain", "fast")
    (line,) = said
    assert line.startswith("within 60000 ms: tiny.test, ")
    assert "64x64" in line
    with refused(r"expected a latency that can be met here, got 0 ms: tiny.test, \w+, (64x64|32x32) needs \d+ ms"):
        within_latency(candidates(), 1e-6, pictures=[(96, 128)])
    assert asked == [64, 64, 32]


def test_another_form_or_size_keeps_the_rest(predictor: Predictor, frames: Pixels) -> None:
    forms = list(forms_at_hand(predictor))
    assert [one.network.compute for one in forms][:2] == ["plain", "fast"]
    small = in_size(predictor, 32)
    assert small.spec is not None
    assert (small.spec.size, small.spec.resize) == ((32, 32), 32)
    for one in (*forms, small):
        assert one.spec is not None
        stream = Stream(one, fps=RATE, window=WINDOW, every=1)
        (answer,) = filter(None, (stream.push(frame, n / RATE) for n, frame in enumerate(frames[:RATE])))
        views = load_views(frames[:RATE], one.spec, fps=RATE)
        expected = average_views(predictor.logits(views.array), one.spec)
        assert np.abs(answer.probabilities - expected).max() <= 1e-4
    assert predictor.spec == SPARSE


# ---- the command line ------------------------------------------------------------------------------------------------


def stream(cli: Cli, root: Path, *args: object, net: str = "clips") -> Any:
    return cli("stream", "--checkpoint", root / f"{net}.safetensors", *args)


def test_events_of_films_as_lines(cli: Cli, root: Path) -> None:
    levels = ("--enter", 0.2, "--leave", 0.15, "--window", 1)
    ended = stream(cli, root, root / "a.mp4", root / "b.mp4", "--fast", "--answers", "--every", 0.25, *levels)
    assert ended.status == 0
    lines = [json.loads(line) for line in ended.out.splitlines()]
    answers = [line for line in lines if "answer" in line]
    assert [line["source"] for line in answers].count(str(root / "a.mp4")) == 7
    open_events: dict[tuple[str, int], float] = {}
    for line in lines:
        if line.get("event") == "start":
            open_events[line["source"], line["index"]] = line["start"]
        elif line.get("event") == "end":
            assert open_events.pop((line["source"], line["index"])) == line["start"] < line["end"]
    assert not open_events
    assert sum("event" in line for line in lines) >= 2
    assert ended.err.splitlines() == [
        f"uniformer: {root / 'a.mp4'}: 60 frames; 7 answers",
        f"uniformer: {root / 'b.mp4'}: 36 frames; 3 answers",
    ]
    quiet = stream(cli, root, root / "a.mp4", "--fast", "--quiet", "--every", 0.25, *levels)
    assert quiet.err == ""
    assert quiet.out.splitlines() == [
        line for line in ended.out.splitlines() if '"event"' in line and f'"{root / "a.mp4"}"' in line
    ]


def test_within_a_latency(cli: Cli, root: Path) -> None:
    ended = stream(cli, root, root / "a.mp4", "--fast", "--window", 1, "--latency", "30s", "--or-size", 32)
    assert ended.status == 0
    assert "within 30000 ms: tiny.test, " in ended.err
    one_line(stream(cli, root, root / "a.mp4", "--latency", "0.001ms", "--or-size", 32), "latency that can be met")


def test_a_source_that_fails_and_one_that_does_not(cli: Cli, root: Path) -> None:
    ended = stream(cli, root, root / "text.mp4", root / "a.mp4", root / "none.mp4", "--fast", "--quiet")
    assert ended.status == 1
    assert [line.split(": ")[1] for line in ended.err.splitlines()] == [str(root / "text.mp4"), str(root / "none.mp4")]
    one_line(stream(cli, root, root / "none.mp4"), "no such file")
    one_line(stream(cli, root, root / "short.mp4", "--fast", "--quiet"), "expected a clip of 2.00 s, it ended after 12")


def test_what_does_not_go_together_is_one_line(cli: Cli, root: Path) -> None:
    film = root / "a.mp4"
    one_line(stream(cli, root, film, net="images"), "expected a network of clips")
    one_line(stream(cli, root, film, film), "expected each source once")
    one_line(stream(cli, root, "-"), "--raw")
    one_line(stream(cli, root, film, "--raw", "8x8@5"), "--raw")
    one_line(stream(cli, root, "-", "--raw", "8by8"), "640x480@25")
    one_line(stream(cli, root, film, "--enter", 0.2), "--leave <= --enter")
    one_line(stream(cli, root, film, "--or-size", 64), "--latency")
    one_line(stream(cli, root, film, "--latency", "1s", "--every", 1), "--latency or --every")
    one_line(stream(cli, root, film, "--latency", "soon"), "200ms")
    one_line(stream(cli, root, film, "--window", 0.01), "expected a window")
    one_line(stream(cli, root, "ftp://127.0.0.1/x"), "http, https, rtsp")


@contextmanager
def running(root: Path, *args: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes], IO[bytes]]]:
    """`uniformer stream` in a process of its own, and its three streams; ended in any case."""
    command = [*COMMAND, "stream", *args, "--checkpoint", str(root / "clips.safetensors")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            yield process, process.stdin, process.stdout, process.stderr
        finally:
            watchdog.cancel()
            process.kill()


LEVELS = ("--window", "1", "--enter", "0.1", "--leave", "0.01")  #: at which events begin at once, and do not end


def test_a_signal_ends_it_cleanly(root: Path, frames: Pixels) -> None:
    """Events that last are ended, nothing is lost, status 0; here of raw frames on a pipe that stays open. SIGTERM does
    the same to the stream of a server, below."""
    height, width = frames.shape[1:3]
    with running(root, "-", "--raw", f"{width}x{height}@{RATE}", *LEVELS) as (process, into, out, err):
        into.write(frames.tobytes())
        into.flush()
        lines = [json.loads(out.readline())]
        assert (lines[0]["event"], lines[0]["source"]) == ("start", "-")
        process.send_signal(signal.SIGINT)
        lines += map(json.loads, out)
        said = err.read().decode()
        assert process.wait() == 0, said
    begun = {line["index"] for line in lines if line["event"] == "start"}
    assert {line["index"] for line in lines if line["event"] == "end"} == begun
    (line,) = said.splitlines()
    assert line.startswith("uniformer: -: ")


def test_signals_act_as_before_afterwards(cli: Cli, root: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert stream(cli, root, root / "a.mp4", "--fast", "--quiet", "--window", 1).status == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_server_that_dies_and_returns(root: Path, predictor: Predictor, tmp_path: Path) -> None:
    """Through the whole way: answers go on, on one clock."""
    data = write(tmp_path / "live.ts", pan(0, 72), rate=RATE).read_bytes()
    with (
        live(data) as server,
        running(root, server.url, "--reconnect", "600", "--answers", *LEVELS) as (process, _, out, err),
    ):
        lines = [json.loads(out.readline())]
        server.die()
        lost = re.search(rb"lost at ([\d.]+) s", err.readline())
        assert lost is not None
        server.start()
        assert b"back after" in err.readline()
        while lines[-1]["end"] is None or lines[-1]["end"] < float(lost[1]) + 0.5:
            lines.append(json.loads(out.readline()))
        process.terminate()
        lines += map(json.loads, out)
        assert process.wait() == 0
    ends = [line["end"] for line in lines if "answer" in line]
    assert ends == sorted(ends)
    starts = sum(line.get("event") == "start" for line in lines)
    assert starts == sum(line.get("event") == "end" for line in lines) > 0

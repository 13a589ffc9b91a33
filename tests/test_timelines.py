"""Timelines: what is looked at, what is said of it when, and how it is written down."""

from __future__ import annotations

import csv
import gc
import io
import json
import re
from copy import copy
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import uniformer
from tests import odd_media
from tests.films import pan, shake, write
from tests.tiny import CLIPS, IMAGES, refused, save_tiny, tiny_model
from tests.tolerance import assert_close, terms_of
from uniformer import Predictor, Timeline, timeline
from uniformer.checkpoints.contract import Contract
from uniformer.config import InputSpec
from uniformer.reading.video import open_video
from uniformer.reading.views import load_views
from uniformer.timelines import timeline as timelines
from uniformer.timelines.levels import Levels
from uniformer.timelines.rows import Shot, rows_of
from uniformer.timelines.shots import AROUND

PARTS = ((0.0, 1.0), (0.0, 0.5), (0.25, 0.75), (0.5, 1.0), *((n / 4, (n + 1) / 4) for n in range(4)))
SPARSE = InputSpec(  # the stride means nothing then
    size=(64, 64), resize=64, interpolation="bilinear", frames=8, sampling="sparse", stride=4, fps=30.0
)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    root = tmp_path_factory.mktemp("nets")
    specs = {
        "sparse": SPARSE,
        "crops": replace(SPARSE, crops=3),
        "antialiased": replace(SPARSE, interpolation="bicubic"),
        "dense": CLIPS,
        "parts": replace(SPARSE, parts=PARTS),
        "images": IMAGES,
    }
    return {name: Predictor(save_tiny(root / f"{name}.safetensors", spec)) for name, spec in specs.items()}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pan of 5 s, a hard cut, a shaking shot of 3 s; 24 frames a second."""
    return write(tmp_path_factory.mktemp("film") / "film.mp4", chain(pan(0, 120), shake(1, 72, 2)))


def check(result: Timeline) -> None:
    """What holds for every timeline: in order, inside the video, without overlap, shots counted from 1."""
    assert result.rows
    for row in result.rows:
        assert 0 <= row.start < row.end <= result.duration
        assert (row.motion in result.classes and 0 < (row.confidence or 0) <= 1) or not row.motion
    for before, after in pairwise(result.rows):
        assert before.end <= after.start
        assert after.shot in (before.shot, before.shot + 1)
        assert after.shot != before.shot or (before.end == after.start and before.motion != after.motion)
    assert result.rows[0].shot == 1


# ---- what is looked at -----------------------------------------------------------------------------------------------


def test_a_hard_cut_is_where_it_was_made(film: Path, nets: dict[str, Predictor]) -> None:
    result = timeline(film, nets["sparse"])
    check(result)
    (cut,) = {row.start for row in result.rows if row.shot == 2} & {row.end for row in result.rows if row.shot == 1}
    assert cut == pytest.approx(5.0, abs=1e-6)
    assert (result.rows[0].start, result.rows[-1].end) == (0.0, pytest.approx(8.0))
    assert result.notes == ()


def test_windows_overlap_and_cover_each_shot(film: Path, nets: dict[str, Predictor]) -> None:
    result = timeline(film, nets["sparse"])
    first = [(window.start, window.end) for window in result.windows if window.shot == 1]
    assert first == [(pytest.approx(0.5 * n), pytest.approx(0.5 * n + 2)) for n in range(7)]
    second = [(window.start, window.end) for window in result.windows if window.shot == 2]
    assert second == [(pytest.approx(5 + 0.5 * n), pytest.approx(7 + 0.5 * n)) for n in range(3)]


@pytest.mark.parametrize("net", ["sparse", "crops", "antialiased", "dense", "parts"])
def test_a_window_is_seen_as_predict_sees_that_part(net: str, film: Path, nets: dict[str, Predictor]) -> None:
    """Same frames, same pixels, same probabilities as of the part alone; the film is read once, not part by part."""
    predictor = nets[net]
    spec = replace(predictor.spec, clips=1)
    result = timeline(film, predictor)
    assert len(result.windows) > 6
    for window in result.windows[:: max(1, len(result.windows) // 6)]:
        span = (window.start, window.end)
        views = load_views(film, spec, span=span, follow_seconds=True)
        assert views.frames is not None
        assert window.frames == tuple(views.frames[0])
        logits = predictor.logits(views.array)
        said = predictor.task.decode((logits,), views, 1).probabilities
        assert_close(window.probabilities, said, terms_of(tiny_model(ndim=3)))


def test_a_part_that_windows_share_is_seen_once(film: Path, nets: dict[str, Predictor]) -> None:
    """Each step brings one whole, one half and one quarter, and each shot the others of its first window."""
    seen = list[int]()
    predictor = copy(nets["parts"])
    network = predictor.network
    predictor.network = lambda views, batch_size: (seen.append(len(views)), network(views, batch_size))[1]  # type: ignore
    result = timeline(film, predictor)
    shots = {window.shot for window in result.windows}
    on_grid = [w for w in result.windows if (w.start - result.rows[0].start) % 0.5 < 1e-6]
    assert len(on_grid) == len(result.windows) > 6
    assert sum(seen) == 3 * len(result.windows) + len(shots) * (len(PARTS) - 3)


def test_a_large_video_is_seen_nearly_as_predict_sees_it(nets: dict[str, Predictor], tmp_path: Path) -> None:
    """Its frames are shrunk in two steps, which predict does in one."""
    large = (np.asarray(Image.fromarray(frame).resize((960, 720), Image.Resampling.BICUBIC)) for frame in pan(0, 48))
    path = write(tmp_path / "large.mp4", large)
    (window,) = timeline(path, nets["antialiased"]).windows
    predicted = nets["antialiased"](path)
    assert window.frames == tuple((predicted.frames or [])[0])
    assert np.allclose(window.probabilities, predicted.probabilities, atol=1e-3)


def test_a_dense_network_sees_as_much_as_in_training(film: Path, nets: dict[str, Predictor]) -> None:
    windows = timeline(film, nets["dense"]).windows  # 4 frames, every second one, at 30 frames per second: 0.27 s
    assert windows[0].end == pytest.approx(8 / 30, abs=1 / 24)


def test_the_window_can_be_chosen(film: Path, nets: dict[str, Predictor]) -> None:
    result = timeline(film, nets["sparse"], window=1.0)
    check(result)
    assert result.windows[0].end == pytest.approx(1.0)
    with refused("expected a window of at least 0.01 seconds, got 0"):
        timeline(film, nets["sparse"], window=0)


def test_a_film_in_memory(film: Path, nets: dict[str, Predictor]) -> None:
    whole, same = timeline(film, nets["sparse"]), timeline(film.read_bytes(), nets["sparse"])
    assert (same.source, same.rows, len(same.windows)) == ("bytes", whole.rows, len(whole.windows))


def test_without_cuts_it_is_one_shot(film: Path, nets: dict[str, Predictor]) -> None:
    result = timeline(film, nets["sparse"], cuts=False)
    check(result)
    assert {row.shot for row in result.rows} == {1}
    assert result.rows[-1].end == pytest.approx(8.0)


def test_neighbours_are_merged_and_the_shot_is_covered() -> None:
    """What the windows of a shot say, put together by hand."""
    shares = np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.0, 1.0]], np.float32)
    windows = [timelines.Window(1, n / 2, n / 2 + 2, (), p) for n, p in enumerate(shares)]
    contract = Contract(replace(tiny_model(ndim=3).config, num_classes=2), classes=("a", "b"))
    rows = rows_of(Shot(1, 0.0, 4.6), windows, ("a", "b"), 0.5, Levels(contract, ("a", "b")), None)
    assert [(row.motion, row.start, row.end) for row in rows] == [("a", 0.0, 2.25), ("b", 2.25, 4.6)]
    means = [0.85, 2.6 / 3, 0.6]  # of a window and its neighbours
    assert rows[0].confidence == pytest.approx((1.25 * means[0] + 0.5 * means[1] + 0.5 * means[2]) / 2.25)


# ---- odd videos ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_a_video_too_short_to_tell(frames: int, nets: dict[str, Predictor], tmp_path: Path) -> None:
    result = timeline(write(tmp_path / "short.mp4", pan(0, frames)), nets["sparse"])
    assert [(row.shot, row.start, row.motion, row.confidence) for row in result.rows] == [(1, 0.0, "", None)]
    assert result.rows[0].end == result.duration == pytest.approx(frames / 24)
    assert result.notes == ("1 shot is too short to tell: less than 0.5 s or 4 frames",)
    assert result.windows == ()
    assert result.to_csv() == f"shot,start,end,motion,confidence\n1,0.0,{frames / 24:.3f},,\n"
    assert result.to_srt() == ""


def test_a_shot_of_one_frame(nets: dict[str, Predictor], tmp_path: Path) -> None:
    result = timeline(write(tmp_path / "one.mp4", chain(pan(0, 48), pan(1, 1), pan(2, 48))), nets["sparse"])
    check(result)
    assert [row.shot for row in result.rows if not row.motion] == [2]
    assert {row.shot for row in result.rows} == {1, 2, 3}
    assert result.notes == ("1 shot is too short to tell: less than 0.5 s or 4 frames",)


def test_few_frames_a_second(nets: dict[str, Predictor], tmp_path: Path) -> None:
    """Two seconds of two frames each would be mostly repeats, which look like a camera that stands still."""
    result = timeline(write(tmp_path / "slow.mp4", pan(0, 20, 1), rate=1), nets["sparse"])
    assert [row.motion for row in result.rows] == [""]
    assert "too short to tell" in result.notes[0]


def test_a_damaged_middle_leaves_the_rest(nets: dict[str, Predictor], tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4", pan(0, 240, 2), gop=1)
    data, lost = bytearray(whole.read_bytes()), range(100, 140)
    with av.open(str(whole)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for number in lost:
        position, size = packets[number]
        data[position : position + size] = bytes(size)
    (tmp_path / "torn.mp4").write_bytes(data)
    result = timeline(tmp_path / "torn.mp4", nets["sparse"])
    check(result)
    assert result.notes == (f"40 of 240 frames cannot be decoded, the first at {100 / 24:.2f} s",)
    ((before, after),) = [pair for pair in pairwise(result.rows) if pair[0].shot != pair[1].shot]
    assert (before.end, after.start) == (pytest.approx(100 / 24), pytest.approx(140 / 24))
    assert not {n for window in result.windows for n in window.frames} & set(lost)


def test_a_lost_end(nets: dict[str, Predictor], tmp_path: Path) -> None:
    result = timeline(odd_media.truncated(tmp_path), nets["sparse"])  # 60 frames at 25 a second, before it was cut
    check(result)
    assert result.notes == ("1 of 32 frames cannot be decoded, the first at 1.24 s",)  # the packet that is cut itself
    assert result.rows[-1].end == pytest.approx(1.24)


@pytest.mark.parametrize("maker", odd_media.BAD, ids=lambda maker: maker.__name__)
def test_what_is_no_video_is_refused_in_one_line(
    maker: odd_media.Maker, nets: dict[str, Predictor], tmp_path: Path
) -> None:
    path = maker(tmp_path)
    with refused(re.escape(str(path))):
        timeline(path, nets["sparse"])


def test_what_cannot_be_done(film: Path, nets: dict[str, Predictor], tmp_path: Path) -> None:
    with refused("expected a network of clips for a timeline, got one of images"):
        timeline(film, nets["images"])
    with refused("expected a video, found no readable file: no such file"):
        timeline(tmp_path / "none.mp4", nets["sparse"])
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.fromarray(odd_media.picture(1)).save(frames / "1.png")
    with refused("expected a video with a clock, found image files"):
        timeline(frames, nets["sparse"])


@pytest.mark.parametrize("maker", odd_media.GOOD, ids=lambda maker: maker.__name__)
def test_every_odd_container_gives_a_timeline(
    maker: odd_media.Maker, nets: dict[str, Predictor], tmp_path: Path
) -> None:
    result = timeline(maker(tmp_path), nets["sparse"])
    check(result)
    assert result.notes == () or re.search("too short|mended", result.notes[0])


def test_memory_does_not_grow_with_the_video(nets: dict[str, Predictor], tmp_path: Path) -> None:
    """The frames alive at any time are those of a window, a step and the search for cuts."""
    path = write(tmp_path / "long.mp4", pan(0, 1000, 1))
    alive: list[int] = []

    def watch(done: float, total: float) -> None:
        if round(done * 24) % 50 == 0:
            alive.append(sum(type(o) is timelines._Frame for o in gc.get_objects()))

    assert len(timeline(path, nets["sparse"], progress=watch).windows) > 70
    assert len(alive) == 20
    assert max(alive) <= 24 * 2.5 + 2 * AROUND + 3


# ---- how it is written -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(film: Path, nets: dict[str, Predictor]) -> Timeline:
    return timeline(film, nets["sparse"])


def test_json(result: Timeline, film: Path) -> None:
    read = json.loads(result.to_json())
    assert (read["source"], read["checkpoint"], read["fps"], read["duration"]) == (str(film), "tiny.test", 24.0, 8.0)
    assert len(read["rows"]) == len(result.rows)
    for row, true in zip(read["rows"], result.rows, strict=True):
        assert list(row) == ["shot", "start", "end", "motion", "confidence"]
        assert row["start"] == pytest.approx(true.start, abs=5e-4)
        assert (row["shot"], row["motion"]) == (true.shot, true.motion)
    for window in read["windows"]:
        assert len(window["probabilities"]) == len(read["classes"]) == 7
        assert sum(window["probabilities"]) == pytest.approx(1, abs=1e-3)


def test_csv(result: Timeline) -> None:
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [float(row["start"]) for row in rows] == [pytest.approx(row.start, abs=5e-4) for row in result.rows]
    assert [(int(row["shot"]), row["motion"]) for row in rows] == [(row.shot, row.motion) for row in result.rows]
    assert all(0 < float(row["confidence"]) <= 1 for row in rows)


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d\d):([0-5]\d):([0-5]\d),(\d{3})", text)
    assert match, text
    hours, minutes, whole, thousandths = map(int, match.groups())
    return 3600 * hours + 60 * minutes + whole + thousandths / 1000


def parse_srt(text: str) -> list[tuple[int, float, float, str]]:
    """As a player reads it: blocks of a number, a time span and lines of text, with an empty line between."""
    blocks = []
    for block in text.rstrip("\n").split("\n\n"):
        number, span, *lines = block.split("\n")
        start, end = span.split(" --> ")
        blocks.append((int(number), seconds(start), seconds(end), "\n".join(lines)))
    return blocks


def test_srt(result: Timeline) -> None:
    blocks = parse_srt(result.to_srt())
    assert [number for number, *_ in blocks] == list(range(1, len(result.rows) + 1))
    for (_, start, end, words), row in zip(blocks, result.rows, strict=True):
        assert (start, end) == (pytest.approx(row.start, abs=6e-4), pytest.approx(row.end, abs=6e-4))
        assert words == f"{row.motion} ({100 * (row.confidence or 0):.0f} %)"
    assert all(a[2] <= b[1] for a, b in pairwise(blocks))


def test_srt_of_hours_and_of_names_that_would_break_it(result: Timeline) -> None:
    row = replace(result.rows[0], start=3723.0045, end=7199.9999, motion="pan_left\n\n2 --> 3", confidence=0.999)
    blocks = parse_srt(replace(result, rows=(row,)).to_srt())
    assert blocks == [(1, 3723.004, 7200.0, "pan left 2 -> 3 (100 %)")]


def test_it_is_part_of_the_package() -> None:
    assert uniformer.timeline is timeline
    assert uniformer.Timeline is Timeline


# ---- a part of a video -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", [None, odd_media.h264_open_gop, odd_media.mpeg_ts_cut, odd_media.variable_rate])
def test_a_part_is_seen_as_if_it_were_the_whole(
    maker: Any, film: Path, nets: dict[str, Predictor], tmp_path: Path
) -> None:
    """The same frames as those of that part in a pass over the whole, wherever keyframes lie."""
    path = film if maker is None else maker(tmp_path)
    with open_video(path) as reader:
        count, times = reader.info.num_frames, reader.times(range(reader.info.num_frames))
    first, last = count // 3, count - 2
    span = (float(times[first]), float(times[last]))
    with open_video(path) as reader:
        part = {number: picture() for number, picture in reader.pictures(first, last)}
    with open_video(path) as reader:
        whole = {number: picture() for number, picture in reader.all_pictures() if first <= number < last}
    assert list(part) == list(whole) == list(range(first, last))
    assert all(np.array_equal(part[number], whole[number]) for number in part)
    result = timeline(path, nets["sparse"], span=span, cuts=False)
    assert (result.rows[0].start, result.rows[-1].end) == (pytest.approx(span[0]), pytest.approx(span[1]))
    assert {number for window in result.windows for number in window.frames} <= set(part)
    if maker is None:
        from_start = timeline(path, nets["sparse"], span=(0.0, 8.0))
        assert from_start.rows == timeline(path, nets["sparse"]).rows
        with refused("expected a part within 7.96 s, got 9 to 10 s"):
            timeline(path, nets["sparse"], span=(9.0, 10.0))

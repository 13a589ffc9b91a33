"""Markers for editing programs: read back by OpenTimelineIO, in its own form and by its adapters of the other two."""

from __future__ import annotations

import os
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import opentimelineio as otio
import pytest

from tests.films import pan, write
from tests.test_timelines import SPARSE
from tests.tiny import refused, save_tiny
from uniformer.cli.main import main
from uniformer.timelines.markers import RATES, Edit, editing_rate, to_edl, to_fcpxml, to_otio
from uniformer.timelines.timeline import Segment, Timeline

NTSC = (24000 / 1001, 30000 / 1001, 60000 / 1001)
EVERY_RATE = [*map(float, RATES), 29.83, 12.0, 120.0]
ODD = 'zoë & <b>"1"</b> 100 %\n2 \udcff.mp4'  # a line break, and a byte that is no UTF-8


def made(fps: float | None, name: str = "film.mp4") -> Timeline:
    """Three shots, a second of frames that cannot be decoded before the last; motions begin between frames."""
    rows = (
        Segment(1, 0.0, 5.02, "pan_left", 0.9),
        Segment(1, 5.02, 8.0, "static", 0.3),
        Segment(2, 8.0, 61.0, "", None),
        Segment(3, 62.0, 630.01, "push_in_then_pull_out", 0.755),
        Segment(3, 630.01, 4000.0, "zoom_in", 0.5),
    )
    return Timeline(name, "tiny", ("pan_left",), 4000.0, fps, rows, ())


def marks_of(timeline: Timeline, rate: float) -> list[tuple[int, str]]:
    return [
        (round(row.start * rate), f"{row.motion.replace('_', ' ')} {100 * (row.confidence or 0):.0f} %")
        for row in timeline.rows
        if row.motion
    ]


def shots_of(rate: float) -> list[tuple[int, int]]:
    return [(round(start * rate), round(end * rate)) for start, end in ((0, 8), (8, 61), (62, 4000))]


def test_a_film_without_a_frame_to_mark_is_one_line() -> None:
    """Five frames at a thousand a second are over before one of sixty is."""
    short = Timeline("film.mp4", "tiny", (), 0.005, 1000.0, (Segment(1, 0.0, 0.005, "", None),), ())
    for form in (to_edl, to_fcpxml, to_otio):
        with refused("film.mp4: expected a frame at 60 a second to set markers in, found 0.005 s"):
            form(short)


# ---- frames and time code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [float(rate) for rate in RATES])
def test_time_code_is_the_librarys_at_every_frame_that_matters(rate: float) -> None:
    """All frames of eleven minutes and those around every minute of a day; 24 hours are midnight."""
    edit = Edit.of(made(rate))
    assert edit.drops == (rate in (30000 / 1001, 60000 / 1001))
    minutes = [round(60 * rate * n) + more for n in range(24 * 60) for more in range(-3, 4)]
    day = 24 * 3600 * edit.nominal - edit.drops * 24 * 6 * 9 * edit.nominal // 15
    for frame in [*range(round(660 * rate)), *(f for f in minutes if 0 <= f < day)]:
        assert edit.timecode(frame) == otio.opentime.to_timecode(
            otio.opentime.RationalTime(frame, rate), rate, edit.drops
        )
    assert edit.timecode(day).replace(";", ":") == "00:00:00:00"


def test_rates_that_editing_programs_do_not_know_are_shown_at_one_they_do() -> None:
    found = {fps: editing_rate(fps) for fps in (23.98, 29.83, 15, 12.5, 12, 10, 120, 240, 59.9)}
    assert found == {
        23.98: Fraction(24000, 1001), 29.83: Fraction(30000, 1001), 15: 30, 12.5: 25, 12: 24, 10: 30, 120: 60, 240: 60,
        59.9: Fraction(60000, 1001),
    }  # fmt: skip
    with refused("expected a film with a frame rate to set markers in"):
        to_edl(made(None))


# ---- read back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", EVERY_RATE)
def test_opentimelineio_reads_shots_markers_and_names(fps: float, tmp_path: Path) -> None:
    path = os.fspath(tmp_path / ODD)
    timeline, rate = made(fps, path), float(editing_rate(fps))
    read: Any = otio.adapters.read_from_string(to_otio(timeline), "otio_json")
    clips = list(read.find_clips())
    assert read.global_start_time == otio.opentime.RationalTime(0, rate)
    assert [_range(clip.source_range) for clip in clips] == shots_of(rate)
    assert [_range(clip.range_in_parent()) for clip in clips] == shots_of(rate)  # the gap holds its place
    found = [(marker.marked_range.start_time.to_frames(), marker.name) for clip in clips for marker in clip.markers]
    assert found == marks_of(timeline, rate)
    said = [dict(marker.metadata["uniformer"]) for clip in clips for marker in clip.markers]
    assert said[2] == {"motion": "push_in_then_pull_out", "confidence": 0.755}
    assert [marker.color for clip in clips for marker in clip.markers] == ["GREEN", "YELLOW", "GREEN", "GREEN"]
    assert os.fsencode(
        unquote(clips[0].media_reference.target_url, errors="surrogateescape")
    ) == b"file://" + os.fsencode(path)
    assert read.name.isprintable()


def _range(time: Any) -> tuple[int, int]:
    return time.start_time.to_frames(), time.end_time_exclusive().to_frames()


@pytest.mark.parametrize("fps", EVERY_RATE)
def test_an_edl_says_what_it_should(fps: float) -> None:
    timeline, rate = made(fps, f"/films/{ODD}"), float(editing_rate(fps))
    text = to_edl(timeline)
    drops = rate in (30000 / 1001, 60000 / 1001)
    assert text.splitlines()[1] == ("FCM: DROP FRAME" if drops else "FCM: NON-DROP FRAME")

    def frame(code: str) -> int:
        return int(otio.opentime.from_timecode(code, rate).to_frames())

    events = re.findall(r"^(\d{3})  AX       V     C        (\S+) (\S+) (\S+) (\S+)$", text, re.M)
    assert [int(event[0]) for event in events] == [1, 2, 3]
    assert [(frame(a), frame(b)) for _, a, b, *_ in events] == shots_of(rate)
    assert all(event[1:3] == event[3:5] and (";" in event[1]) == drops for event in events)
    locators = re.findall(r"^\* LOC: (\S+) (?:GREEN |YELLOW)  (.+)$", text, re.M)
    assert [(frame(code), name) for code, name in locators] == marks_of(timeline, rate)
    assert len(text.splitlines()) == 3 + 2 * len(events) + len(locators)  # the line break in the name breaks none
    text.encode()


@pytest.mark.parametrize("fps", EVERY_RATE)
def test_final_cuts_xml_says_what_it_should(fps: float) -> None:
    timeline, rate = made(fps, f"/films/{ODD}"), editing_rate(fps)
    root = ElementTree.fromstring(to_fcpxml(timeline))

    def frames(text: str | None) -> int:
        count = Fraction((text or "").removesuffix("s")) * rate
        assert count.denominator == 1  # on a frame, as Final Cut demands
        return int(count)

    assert frames(root.findall(".//format")[0].get("frameDuration")) == 1
    clips = root.findall(".//spine/asset-clip")
    for name in ("offset", "start"):
        places = [(frames(clip.get(name)), frames(clip.get(name)) + frames(clip.get("duration"))) for clip in clips]
        assert places == shots_of(float(rate))
    spine = root.findall(".//spine/*")
    assert [frames(a.get("offset")) + frames(a.get("duration")) for a in spine[:-1]] == [
        frames(b.get("offset")) for b in spine[1:]
    ]
    found = [(frames(mark.get("start")), mark.get("value")) for clip in clips for mark in clip.findall("marker")]
    assert found == marks_of(timeline, float(rate))
    is_dropped = float(rate) in (30000 / 1001, 60000 / 1001)
    assert {element.get("tcFormat") for element in root.iter() if element.get("tcFormat")} == {
        ("NDF", "DF")[is_dropped]
    }
    assert (root.findall(".//asset")[0].get("src") or "").endswith("%0A2%20%FF.mp4")


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0, 50.0, 60.0, *NTSC])
def test_the_librarys_own_adapter_reads_the_edl(fps: float) -> None:
    pytest.importorskip("otio_cmx3600_adapter")
    timeline = made(fps)
    read: Any = otio.adapters.read_from_string(to_edl(timeline), "cmx_3600", rate=fps)
    clips = list(read.find_clips())
    assert [_range(clip.source_range) for clip in clips] == shots_of(fps)
    assert {clip.name for clip in clips} == {"film.mp4"}
    if not Edit.of(timeline).drops:  # it passes over locators with the time codes of dropped frames
        found = [(mark.marked_range.start_time.to_frames(), mark.name) for clip in clips for mark in clip.markers]
        assert found == marks_of(timeline, fps)


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0, 50.0, 60.0])  # it takes 23.976 for 23
def test_the_librarys_own_adapter_reads_final_cuts_xml(fps: float) -> None:
    pytest.importorskip("otio_fcpx_xml_adapter")
    timeline = made(fps)
    read: Any = otio.adapters.read_from_string(to_fcpxml(timeline), "fcpx_xml")[0]
    clips = list(read.find_clips())
    assert [_range(clip.source_range) for clip in clips] == shots_of(fps)
    assert [mark.name for clip in clips for mark in clip.markers] == [name for _, name in marks_of(timeline, fps)]


# ---- on the command line ---------------------------------------------------------------------------------------------


def test_the_demo_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = write(tmp_path / "my film.mp4", pan(0, 60), rate=15)
    net, out = save_tiny(tmp_path / "tiny.safetensors", SPARSE), tmp_path / "out"
    command = ["demo", str(film), "--checkpoint", str(net), "--quiet", "--markers", "otio", "edl", "fcpxml"]
    assert main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "markers count 30 frames a second, which editing programs know, not the film's 15" in said
    assert sorted(path.suffix for path in out.iterdir()) == [
        ".csv",
        ".edl",
        ".fcpxml",
        ".html",
        ".json",
        ".otio",
        ".srt",
    ]
    read: Any = otio.adapters.read_from_file(os.fspath(out / "timeline.otio"))
    assert [_range(clip.source_range) for clip in read.find_clips()] == [(0, 120)]
    assert (out / "timeline.edl").read_text().startswith("TITLE: my film.mp4\n")
    for wrong in (["--out", str(tmp_path / "page.html")], []):
        assert main([*command, *wrong]) == 2
        assert "expected videos of your own, and --out with a folder, for --markers" in capsys.readouterr().err
    assert main([*command, "--out", str(out)]) == 2  # nothing that is there is replaced
    assert "it is there already" in capsys.readouterr().err


def test_without_the_package_one_line_says_so_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    film = write(tmp_path / "film.mp4", pan(0, 30))
    assert main(["demo", str(film), "--out", str(tmp_path / "out"), "--markers", "otio"]) == 2
    assert "pip install 'uniformer[otio]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

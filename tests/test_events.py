"""Events: what begins when and ends when, by probabilities that are known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.tiny import refused
from uniformer.inference.events import Event, Events
from uniformer.inference.stream import Answer
from uniformer.support.texts import to_json_line

NAMES = ("walk", "run", "rest")


def answer(end: float, probabilities: Sequence[float], run: int = 0) -> Answer:
    """Of a clip of 2 s."""
    return Answer("a.mp4", end - 2, end, (end,), run, (), np.array(probabilities, np.float32), 0.0)


def told(events: Events, answers: Sequence[Answer]) -> list[Event]:
    return [event for one in answers for event in events.add(one)] + list(events.close())


def brief(events: Sequence[Event]) -> list[tuple[str, float, float | None]]:
    return [(event.name, event.start, event.end) for event in events]


def test_an_event_begins_and_ends_between_the_middles_of_clips() -> None:
    shares = [(0.9, 0.1, 0.0), (0.9, 0.1, 0.0), (0.1, 0.9, 0.0), (0.1, 0.9, 0.0)]
    found = told(Events(NAMES, smooth=0), [answer(2 + number, p) for number, p in enumerate(shares)])
    assert brief(found) == [
        ("walk", 0.0, None),  # as its clip
        ("walk", 0.0, 2.5),  # middles at 1, 2, 3 and 4
        ("run", 2.5, None),
        ("run", 2.5, 5.0),  # as the last clip
    ]
    assert [event.told for event in found] == [2, 4, 4, 5]
    assert [event.score for event in found] == pytest.approx([0.9, 0.9, 0.9, 0.9])


def test_one_that_hovers_between_the_levels_does_not_flicker() -> None:
    shares = [0.51, 0.45, 0.52, 0.31, 0.49, 0.29, 0.49]
    answers = [answer(2 + number, (share, 1 - share, 0.0)) for number, share in enumerate(shares)]
    steady = [event for event in told(Events(NAMES, smooth=0), answers) if event.name == "walk"]
    assert brief(steady) == [("walk", 0.0, None), ("walk", 0.0, 5.5)]
    assert steady[1].score == pytest.approx(np.mean(shares[:5]))
    flickering = told(Events(NAMES, smooth=0, enter=0.5, leave=0.5), answers)
    assert sum(event.name == "walk" and event.end is not None for event in flickering) == 2


def test_smoothing_is_by_time_and_not_by_answers() -> None:
    """A step from 0 to 1 reaches 1 - exp(-t / smooth), however often it is looked at."""
    for every in (0.1, 0.25):
        answers = [answer(2.0, (0, 1, 0))]
        answers += [answer(2 + every * number, (1, 0, 0)) for number in range(1, 41)]
        events = Events(NAMES, enter=0.6, smooth=1.0)
        (start,) = [event for event in told(events, answers) if event.name == "walk" and event.end is None]
        expected = math.ceil(-math.log(0.4) / every) * every
        assert start.told == pytest.approx(2 + expected)
        assert start.score == pytest.approx(1 - math.exp(-expected), abs=1e-5)


def test_several_events_may_overlap_and_each_has_its_own_end() -> None:
    answers = [answer(2, (0.6, 0.4, 0)), answer(3, (0.4, 0.6, 0)), answer(4, (0.2, 0.8, 0))]
    assert brief(told(Events(NAMES, smooth=0), answers)) == [
        ("walk", 0.0, None),
        ("run", 1.5, None),
        ("walk", 0.0, 2.5),
        ("run", 1.5, 4.0),
    ]


def test_a_clip_that_begins_anew_ends_all_events_with_the_one_before() -> None:
    answers = [answer(2, (0.9, 0.1, 0)), answer(3, (0.9, 0.1, 0)), answer(12, (0.9, 0.1, 0), run=1)]
    assert brief(told(Events(NAMES), answers)) == [
        ("walk", 0.0, None),
        ("walk", 0.0, 3.0),
        ("walk", 10.0, None),
        ("walk", 10.0, 12.0),
    ]


def test_lines_for_programs() -> None:
    found = told(Events((), smooth=0), [answer(2, (0.9, 0.1, 0)), answer(3, (0.1, 0.9, 0))])
    lines = [json.loads(to_json_line(event.to_dict())) for event in found]
    assert lines[0] == {
        "event": "start", "source": "a.mp4", "name": "class 0", "index": 0, "start": 0.0, "end": None, "score": 0.9,
        "told": 2.0,
    }  # fmt: skip
    assert [line["event"] for line in lines] == ["start", "end", "start", "end"]
    assert lines[1]["end"] == 1.5


def test_a_clip_that_begins_with_its_source_begins_at_0_and_not_below() -> None:
    """A clip's length is taken from its end: what is left may be a rounding below 0."""
    first = replace(answer(2, (0.9, 0.1, 0)), start=-1e-16)
    (event, _) = told(Events((), smooth=0), [first])
    for line in (to_json_line(first.to_dict()), to_json_line(event.to_dict())):
        assert '"start": 0.0,' in line, line


def test_levels_that_are_none_are_refused() -> None:
    for enter, leave in ((0.3, 0.5), (1.0, 0.5), (0.5, 0.0), (math.nan, 0.3)):
        with refused("expected levels"):
            Events(NAMES, enter=enter, leave=leave)
    with refused("expected smooth"):
        Events(NAMES, smooth=-1)

"""Two levels of a label, doubt, and what amounts say beside the network, by details that stand in a checkpoint."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.films import pan, write
from tests.tiny import CLIPS, refused, tiny_model
from uniformer import Predictor, timeline
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.records import BUNDLED
from uniformer.checkpoints.save import save_checkpoint
from uniformer.cli.main import main
from uniformer.errors import MissingExtra
from uniformer.timelines.fit import Amounts, Step
from uniformer.timelines.levels import Levels
from uniformer.timelines.rows import AMOUNT_FIELDS, CSV_FIELDS, LEVEL_FIELDS, Segment, Shot, Window, rows_of

NAMES = ("pan_left", "truck_left", "pan_right", "zoom_in", "static")
LEVELS = {
    "pan_left": ["left", "pan"], "truck_left": ["left", "truck"], "pan_right": ["right", "pan"],
    "zoom_in": ["in", "zoom"], "static": ["static", ""],
}  # fmt: skip
REACH = {"left": ["x", -0.1], "right": ["x", 0.1], "in": ["growth", 0.2]}
DETAILS = {"levels": LEVELS, "reach": REACH, "power": 2.0, "weight": 0.5}


def contract(**details: Any) -> Contract:
    spec = replace(CLIPS, sampling="sparse", clips=1)
    return Contract(tiny_model(ndim=3, num_classes=len(NAMES)).config, input=spec, classes=NAMES, details=details)


def levels(**details: Any) -> Levels:
    return Levels(contract(**(details or DETAILS)), NAMES)


def amounts(**found: float) -> Amounts:
    zeros = dict.fromkeys(("x", "y", "growth", "roll", "x_and_back", "growth_and_back", "shake", "parallax"), 0.0)
    return Amounts(**{"seconds": 2.0, "inliers": 1.0, **zeros, **found})


def steps(seconds: float, **each: float) -> np.ndarray:
    """Steps of a twelfth of a second that each do the same."""
    count = round(12 * seconds)
    zeros = dict.fromkeys(Step._fields[2:], 0.0)
    return np.array([Step(n / 12, (n + 1) / 12, **{**zeros, "inliers": 1.0, **each}) for n in range(count)])


# ---- amounts beside the network --------------------------------------------------------------------------------------


def test_what_was_measured_joins_as_odds() -> None:
    """Twice the reach of the left, to the power of 2, is four to one against none, for each of its kinds."""
    p = np.array([0.2, 0.2, 0.2, 0.2, 0.2], np.float32)
    found = levels().joined(p, amounts(x=-0.2))
    assert found[0] / found[4] == pytest.approx(4, rel=1e-5)
    assert found[0] == found[1]
    assert found[2] / found[4] == pytest.approx(0.02**2, rel=1e-5)  # the other way: as little as nothing
    assert found.sum() == pytest.approx(1)
    assert found.dtype == np.float32


def test_the_kind_is_the_networks() -> None:
    p = np.array([0.01, 0.09, 0.1, 0.2, 0.6], np.float32)
    found = levels().joined(p, amounts(x=-1.0))
    assert NAMES[int(found.argmax())] == "truck_left"
    assert found[1] / found[0] == pytest.approx(9**0.5, rel=1e-5)  # its weight is a half


def test_without_amounts_or_reach_it_is_the_networks_word_to_the_bit() -> None:
    p = np.array([0.1, 0.2, 0.3, 0.3, 0.1], np.float32)
    assert levels().joined(p, None) is p
    assert levels(levels=LEVELS).joined(p, amounts(x=1.0)) is p


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({"levels": {**LEVELS, "pan_up": ["up", "pan"]}}, "'pan_up'"),
        ({"levels": {"static": ["static", ""]}}, "levels of the classes that the network has"),
        ({"levels": {**LEVELS, "static": "static"}}, "expected levels as"),
        ({**DETAILS, "reach": {"up": ["y", 0.1]}}, "'up'"),
        ({**DETAILS, "reach": {"left": ["yaw", 0.1]}}, "got 0.1 yaw"),
        ({**DETAILS, "reach": {"left": ["x", 0]}}, "got 0 x"),
        ({**DETAILS, "power": 0}, "expected a power and a weight of more than 0"),
    ],
)
def test_details_of_another_form_are_refused(details: dict[str, Any], message: str) -> None:
    with refused(message):
        levels(**details)


# ---- rows ------------------------------------------------------------------------------------------------------------


def rows(
    shares: list[list[float]], least: float | None, table: np.ndarray | None = None, **details: Any
) -> list[Segment]:
    windows = [Window(1, n / 2, n / 2 + 2, (), np.array(p, np.float32)) for n, p in enumerate(shares)]
    end = windows[-1].end
    shot = Shot(1, 0.0, end, steps(end) if table is None else table)
    return rows_of(shot, windows, NAMES, 0.5, levels(**details), least)


def test_the_direction_comes_first_and_then_the_kind() -> None:
    """The likeliest class is zoom in, but left is likelier, as one of two kinds."""
    (row,) = rows([[0.3, 0.25, 0.05, 0.35, 0.05]] * 3, 0.5)
    assert (row.direction, row.kind, row.motion) == ("left", "pan", "pan_left")
    assert row.confidence == pytest.approx(0.3)
    assert row.unsure == "kind"
    assert row.said == "left (pan?)"


def test_kinds_that_change_are_one_row() -> None:
    (row,) = rows([[0.6, 0.3, 0, 0, 0.1], [0.5, 0.4, 0, 0, 0.1], [0.3, 0.6, 0, 0, 0.1]], 0.5)
    assert row.motion == "pan_left"
    assert row.unsure == "kind"


@pytest.mark.parametrize(
    ("shares", "unsure", "said"),
    [
        ([0.3, 0.1, 0.1, 0.2, 0.3], "direction", "unsure (pan left?)"),
        ([0.4, 0.3, 0.1, 0.1, 0.1], "kind", "left (pan?)"),
        ([0.7, 0.1, 0.1, 0.1, 0.0], "", "pan left"),
        ([0.1, 0.1, 0.1, 0.1, 0.6], "", "static"),
    ],
)
def test_doubt(shares: list[float], unsure: str, said: str) -> None:
    (row,) = rows([shares], 0.5)
    assert (row.unsure, row.said) == (unsure, said)


def test_two_strong_motions_are_both_said() -> None:
    """Left, and nearer by more than the reach of nearer in each two seconds."""
    (row,) = rows([[0.8, 0.1, 0, 0.1, 0]] * 5, 0.5, steps(4, x=-0.05, growth=0.01))
    assert row.also == ("in",)
    assert row.said == "pan left + in"
    assert row.amounts is not None
    assert row.amounts.x == pytest.approx(-2.4)
    assert row.amounts_said == "-2.40 widths, +0.48 doublings"
    (slow,) = rows([[0.8, 0.1, 0, 0.1, 0]] * 5, 0.5, steps(4, x=-0.05, growth=0.005))
    assert slow.also == ()


def test_classes_without_levels_are_directions_of_their_own() -> None:
    plain = Levels(replace(contract(), details={}), NAMES)
    windows = [Window(1, 0, 2, (), np.array([0.3, 0.3, 0.0, 0.4, 0.0], np.float32))]
    (row,) = rows_of(Shot(1, 0.0, 2.0), windows, NAMES, 0.5, plain, None)
    assert row == Segment(1, 0.0, 2.0, "zoom_in", pytest.approx(0.4))
    (row,) = rows_of(Shot(1, 0.0, 2.0), windows, NAMES, 0.5, plain, 0.5)
    assert (row.direction, row.kind, row.unsure) == ("zoom_in", "", "direction")


# ---- of a film -------------------------------------------------------------------------------------------------------


def network(**details: Any) -> Predictor:
    return Predictor((tiny_model(ndim=3, num_classes=len(NAMES)), contract(**details)))


@pytest.fixture(scope="module")
def net() -> Predictor:
    return network(**DETAILS)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("films") / "pan.mp4", pan(0, 60))


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_tells_direction_doubt_and_amounts(film: Path, net: Predictor) -> None:
    pytest.importorskip("cv2")
    result = timeline(film, net)
    assert result.fields == CSV_FIELDS + LEVEL_FIELDS + AMOUNT_FIELDS
    (row,) = result.rows
    assert row.amounts is not None
    assert abs(row.amounts.x) > 0.2
    assert row.direction == ("left" if row.amounts.x < 0 else "right")  # whatever an untrained network says
    (line,) = table(result.to_csv())
    assert tuple(line) == result.fields
    assert float(line["widths"]) == pytest.approx(row.amounts.x, abs=1e-4)
    told = json.loads(result.to_json())["rows"][0]
    assert told["widths"] == pytest.approx(row.amounts.x, abs=1e-4)
    assert told["unsure"] == row.unsure
    assert row.said in result.to_srt()


def test_without_amounts_the_answer_is_the_networks(film: Path, net: Predictor) -> None:
    plain = timeline(film, network())
    assert plain.fields == CSV_FIELDS
    found = timeline(film, net, amounts=False)
    assert found.fields == CSV_FIELDS + LEVEL_FIELDS
    assert not found.notes
    for one, other in zip(found.windows, plain.windows, strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)


def test_another_network_may_be_asked_for_amounts_and_doubt(film: Path) -> None:
    pytest.importorskip("cv2")
    bare = network()
    plain, found = timeline(film, bare), timeline(film, bare, amounts=True, min_confidence=1.0)
    assert [replace(row, direction="", unsure="", amounts=None) for row in found.rows] == list(plain.rows)
    assert all(row.unsure == "direction" and row.amounts is not None for row in found.rows)


def test_without_opencv_a_note_says_what_is_missing(
    film: Path, net: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = timeline(film, net)
    (note,) = result.notes
    assert "pip install 'uniformer[motion]'" in note
    assert result.fields == CSV_FIELDS + LEVEL_FIELDS
    with pytest.raises(MissingExtra):
        timeline(film, net, amounts=True)
    assert not timeline(film, network()).notes


def test_amounts_of_a_shot_do_not_reach_over_a_cut(tmp_path: Path, net: Predictor) -> None:
    pytest.importorskip("cv2")
    frames = [np.ascontiguousarray(f) for f in pan(0, 50)]
    still = [255 - frames[0][::-1]] * 50
    result = timeline(write(tmp_path / "cut.mp4", [*frames, *still]), net)
    assert [row.shot for row in result.rows] == [1, 2]
    second = result.rows[1].amounts
    assert second is not None
    assert max(abs(second.x), abs(second.y), abs(second.growth)) < 0.01


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_confidence_is_a_probability(share: float, film: Path, net: Predictor) -> None:
    with refused("expected a confidence from 0 to 1"):
        timeline(film, net, min_confidence=share)


# ---- on the command line, and the model in the package ---------------------------------------------------------------


def test_the_demo_says_how_sure_and_how_far(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    save_checkpoint(tiny_model(ndim=3, num_classes=len(NAMES)), tmp_path / "net.safetensors", contract(**DETAILS))
    asked = ["demo", str(film), "--checkpoint", str(tmp_path / "net.safetensors"), "--quiet", "--out"]
    assert main([*asked, str(tmp_path / "sure"), "--min-confidence", "0"]) == 0
    said = capsys.readouterr().out
    (line,) = table((tmp_path / "sure" / "timeline.csv").read_text())
    assert tuple(line) == CSV_FIELDS + LEVEL_FIELDS + AMOUNT_FIELDS
    assert "how far" in said
    assert f"{float(line['widths']):+.2f} widths" in said
    assert f"{float(line['widths']):+.2f} widths" in (tmp_path / "sure" / "timeline.html").read_text()
    assert main([*asked, str(tmp_path / "unsure"), "--min-confidence", "1", "--no-amounts"]) == 0
    said = capsys.readouterr().out
    (line,) = table((tmp_path / "unsure" / "timeline.csv").read_text())
    assert tuple(line) == CSV_FIELDS + LEVEL_FIELDS
    assert line["unsure"] == "direction"
    assert "unsure" in said
    assert "how far" not in said


def test_the_model_in_the_package_measures_a_pan(tmp_path: Path) -> None:
    """A window goes right over a photograph, by 3 of its 128 pixels a frame."""
    pytest.importorskip("cv2")
    video = write(tmp_path / "pan.mp4", pan(2, 41))
    (row,) = timeline(video, BUNDLED).rows
    assert (row.direction, row.unsure in ("", "kind")) == ("right", True)
    assert row.amounts is not None
    assert row.amounts.y == pytest.approx(0, abs=0.02)
    assert row.amounts.growth == pytest.approx(0, abs=0.02)
    with av.open(str(video)) as container:
        width = container.streams.video[0].width
    assert row.amounts.x == pytest.approx(3 * 40 / width, rel=0.05)

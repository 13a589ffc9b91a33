"""Others' words for the camera's motions: the table, what is added up, and every door that takes a vocabulary."""

from __future__ import annotations

import csv
import json
import re
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import uniformer
from tests.films import pan, shake, write
from tests.test_timelines import PARTS, SPARSE, check
from tests.tiny import refused, tiny_model
from uniformer import Predictor, timeline
from uniformer.camera_motion.classes import CLASSES, LOOK_ALIKES, REVERSED
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.save import save_checkpoint
from uniformer.cli.main import main
from uniformer.tasks.vocabulary import VOCABULARIES, Words, load_vocabulary

# What the lists hold, as their authors print them: counted apart from the table, so that a word misspelt there fails.
PUBLISHED = {
    name: set(words.replace("\n", ",").replace(" ", "").replace("~", " ").strip(",").split(","))
    for name, words in {
        "kandinsky": """arc_left,arc_right,dolly_in,dolly_out,pan_left,pan_right,pedestal_down,pedestal_up,pov,roll_left
            roll_right,shake,static,tilt_down,tilt_up,track,truck_left,truck_right,undefined,zoom_in,zoom_out""",
        "vbench": "pan_left,pan_right,tilt_up,tilt_down,zoom_in,zoom_out,static,None",
        "opensora": """static,zoom~in,zoom~out,pan~left,tilt~up,pan~right,tilt~down,unknown,pan/tilt,dynamic""",
        "camerabench": """no-shaking,minimal-shaking,unsteady,very-unsteady,complex-motion,no-motion,static,minor-motion
            regular-speed,slow-speed,fast-speed,dolly-in,dolly-out,truck-left,truck-right,pedestal-up,pedestal-down
            pan-left,pan-right,tilt-up,tilt-down,roll-CW,roll-CCW,zoom-in,zoom-out,arc-CW,arc-CCW,side-tracking
            pan-tracking,aerial-tracking,tail-tracking,lead-tracking,arc-tracking,tilt-tracking""",
    }.items()
}
OPPOSITE = {"left": "right", "up": "down", "in": "out", "CCW": "CW", "nearer": "farther"}


def save_namer(folder: Path) -> Path:
    """A random network with the names of camera motions, which sees clips in parts."""
    model, path = tiny_model(3, ndim=3, num_classes=len(CLASSES)), folder / "namer.safetensors"
    details = {"parts": [list(part) for part in PARTS], "temperature": 0.2}
    save_checkpoint(model, path, Contract(model.config, "", SPARSE, tuple(CLASSES), id="random.namer", details=details))
    return path


@pytest.fixture(scope="module")
def namer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_namer(tmp_path_factory.mktemp("namer"))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("film") / "film.mp4", chain(pan(0, 60), shake(1, 60, 2)))


# ---- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_class_has_a_word_and_every_word_is_accounted_for(name: str) -> None:
    found = load_vocabulary(name)
    assert set(found.words) <= set(CLASSES)
    assert len(found.source) > 30
    used = set(found.words.values())
    assert not used & set(found.unused)
    assert len(set(found.unused)) == len(found.unused)
    if name in PUBLISHED:
        assert used | {found.other} | set(found.unused) == PUBLISHED[name]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_opposite_motions_differ_by_the_side_alone(name: str) -> None:
    word = load_vocabulary(name).word
    for motion in CLASSES:
        opposite = REVERSED[motion]
        if motion.endswith(("left", "up", "in")) and opposite != motion:
            there = re.sub(r"(?<![a-z])(left|up|in|CCW|nearer)(?![a-z])", lambda side: OPPOSITE[side[0]], word(motion))
            assert (word(opposite), word(motion) == there) == (there, word(motion) == load_vocabulary(name).other)


@pytest.mark.parametrize("name", ["opensora", "plain", "vbench"])
def test_what_only_parallax_tells_apart_is_one_word_where_a_list_knows_directions_only(name: str) -> None:
    word = load_vocabulary(name).word
    assert all(word(turn) == word(move) for turn, move in LOOK_ALIKES)
    assert len({word(turn) for turn, _ in LOOK_ALIKES}) == len(LOOK_ALIKES)


def test_probabilities_of_one_word_add_up() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(len(CLASSES))).astype(np.float32)
    words = Words(list(CLASSES), "vbench")
    said = dict(zip(words.names, words(p), strict=True))
    classes = list(CLASSES)
    assert said["pan_left"] == p[classes.index("pan_left")] + p[classes.index("truck_left")]
    assert sum(said.values()) == pytest.approx(1, abs=len(CLASSES) * float(np.finfo(np.float32).eps))
    assert len(said) == 8


def test_other_classes_and_other_names_are_refused() -> None:
    with refused(r"unknown vocabulary 'vbenche' \(did you mean 'vbench' or"):
        load_vocabulary("vbenche")
    with refused("expected a network of the camera's motions .* 'pan_left' is a class of one of the two alone"):
        Words(["cat", "dog"], "vbench")
    with refused("'dolly_zoom' is a class of one"):
        Words([*CLASSES, "dolly_zoom"], "plain")


# ---- the doors -------------------------------------------------------------------------------------------------------


def test_predict_in_python_and_on_the_command_line(
    namer: Path, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, theirs = (Predictor(namer, **more)(film) for more in ({}, {"vocabulary": "opensora"}))
    words = Words(list(CLASSES), "opensora")
    assert np.array_equal(theirs.probabilities, own.probabilities)
    assert {label.name: label.score for label in theirs.labels}.items() <= dict(
        zip(words.names, words(own.probabilities).tolist(), strict=True)
    ).items()
    assert theirs.labels[0].score == words(own.probabilities).max()
    out = tmp_path / "out.jsonl"
    command = ["predict", str(film), "--checkpoint", str(namer), "--out", str(out)]
    assert main([*command, "--vocabulary", "opensora"]) == 0
    assert json.loads(out.read_text())["labels"][0]["name"] == theirs.labels[0].name
    assert main([*command, "--resume"]) == 2  # the same network in other words
    assert "other weights or options" in capsys.readouterr().err


def test_a_timeline_merges_what_one_word_covers(namer: Path, film: Path) -> None:
    own = timeline(film, namer)
    theirs = timeline(film, namer, vocabulary="plain")
    check(theirs)
    words = Words(list(CLASSES), "plain")
    assert theirs.classes == words.names
    for a, b in zip(own.windows, theirs.windows, strict=True):
        assert np.array_equal(words(a.probabilities), b.probabilities)
    with refused("a predictor has its own"):
        timeline(film, Predictor(namer), vocabulary="plain")


def test_the_demo_writes_the_words(namer: Path, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "demo",
        str(film),
        "--checkpoint",
        str(namer),
        "--vocabulary",
        "camerabench",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*command, "--quiet"]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "timeline.csv").open()))
    assert rows
    assert {row["motion"] for row in rows} <= PUBLISHED["camerabench"]
    assert "What the camera does" in (tmp_path / "out" / "timeline.html").read_text()


def test_the_demos_own_film_is_judged_in_the_words(
    namer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--checkpoint", str(namer), "--vocabulary", "vbench", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert " of 10 right" in said
    assert not any(name.replace("_", " ") in said for name in ("truck left", "pedestal up", "push in", "roll left"))


def test_where_a_vocabulary_is_none(
    namer: Path, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actions = tiny_model(0, ndim=3)
    path = tmp_path / "actions.safetensors"
    save_checkpoint(actions, path, Contract(actions.config, "", SPARSE))
    assert main(["predict", str(film), "--checkpoint", str(path), "--vocabulary", "plain"]) == 2
    assert "expected a network of the camera's motions" in capsys.readouterr().err
    data = tmp_path / "data" / "pan_left"
    data.mkdir(parents=True)
    (data / "a.mp4").write_bytes(film.read_bytes())
    with refused("expected no vocabulary to be scored in"):
        uniformer.evaluate(namer, tmp_path / "data", vocabulary="plain")

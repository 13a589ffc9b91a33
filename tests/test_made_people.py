"""The data of `experiments/made_people`: the same from the same seed, splits apart, annotations that are true."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO
from PIL import Image

from tests.scripts import script
from tests.tiny import refused

COUNT = 12
make = script("experiments/made_people/make.py")


@pytest.fixture(scope="module")
def made(make: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("people")
    return json.loads(make.write_split(folder, "val", COUNT, 3).read_text()) | {"folder": folder}


def test_the_same_seed_makes_the_same_files(make: ModuleType, made: dict[str, Any], tmp_path: Path) -> None:
    make.write_split(tmp_path, "val", 3, 3)
    for n in range(3):
        name = f"val/{n:05d}.jpg"
        assert (tmp_path / name).read_bytes() == (made["folder"] / name).read_bytes()
    make.write_split(tmp_path, "val", 1, 4)
    assert (tmp_path / "val/00000.jpg").read_bytes() != (made["folder"] / "val/00000.jpg").read_bytes()


def test_data_of_another_seed_are_made_anew(make: ModuleType, tmp_path: Path) -> None:
    run = import_module("run")
    first = run.made(tmp_path, "val", 2, 3)
    (tmp_path / "val/00000.jpg").write_bytes(b"kept")
    assert run.made(tmp_path, "val", 2, 3) == first
    assert (tmp_path / "val/00000.jpg").read_bytes() == b"kept"
    assert run.made(tmp_path, "val", 2, 4) != first
    assert (tmp_path / "val/00000.jpg").read_bytes() != b"kept"


def test_no_body_no_hue_and_no_background_is_in_both_splits(make: ModuleType) -> None:
    assert not set(make.BACKGROUNDS["train"]) & set(make.BACKGROUNDS["val"])
    bodies, drawing = import_module("bodies"), import_module("drawing")
    assert sorted(drawing.HUES_OF["train"] + drawing.HUES_OF["val"]) == list(range(drawing.HUES))

    def cells(split: str) -> set[tuple[int, int]]:
        drawn = [bodies.make_body(np.random.default_rng(n), split) for n in range(300)]
        return {(int((b.leg - 0.43) / 0.10 * 4), int((b.build - 0.75) / 0.6 * 4)) for b in drawn}

    assert not cells("train") & cells("val")
    assert (len(cells("train")), len(cells("val"))) == (12, 4)
    assert {leg for leg, _ in cells("val")} == {build for _, build in cells("val")} == {0, 1, 2, 3}


def test_it_is_a_coco_data_set(made: dict[str, Any]) -> None:
    """Which a reader of such sets takes; boxes lie in their pictures and hold all that is seen of a person."""
    coco = COCO(made["folder"] / "val.json")
    assert len(coco.getImgIds()) == COUNT
    seen = hidden = outside = 0
    for image in coco.loadImgs(coco.getImgIds()):
        with Image.open(made["folder"] / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
        people = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert 1 <= len(people) <= 3
        for person in people:
            x, y, w, h = person["bbox"]
            assert min(x, y) >= 0
            assert (x + w <= image["width"]) & (y + h <= image["height"])
            assert 400 <= person["area"] <= w * h
            points = np.array(person["keypoints"]).reshape(17, 3)
            visible = points[points[:, 2] == 2, :2]
            assert ((visible >= [x - 0.5, y - 0.5]) & (visible <= [x + w - 0.5, y + h - 0.5])).all()
            assert person["num_keypoints"] == (points[:, 2] > 0).sum()
            seen, hidden, outside = (n + (points[:, 2] == v).sum() for n, v in ((seen, 2), (hidden, 1), (outside, 0)))
    assert seen > 4 * hidden > 0 < outside
    (person,) = coco.loadCats(coco.getCatIds())
    assert person["keypoints"][:3] == ["nose", "left_eye", "right_eye"]
    assert len(person["skeleton"]) == 19


def test_what_is_seen_of_a_key_point(make: ModuleType) -> None:
    """Two balls, the nearer half in front of the other: its point is seen, the other's is hidden."""
    drawing = import_module("drawing")
    red, blue = (
        drawing.Cloth(np.array(c, float), np.array(c, float), "plain", 1.0) for c in ((250, 0, 0), (0, 0, 250))
    )
    nose, eye = (
        drawing.Part(name, np.array([place, place], float), (6.0, 6.0), 0.0, cloth)
        for name, place, cloth in (("nose", (20, 20), red), ("left_eye", (24, 20), blue))
    )
    canvas, owners = np.zeros((40, 40, 3), np.float32), np.zeros((40, 40), np.int32)
    drawing.draw(canvas, owners, [nose, eye], 1, 40.0)
    assert canvas[20, 15, 0] > 100 > canvas[20, 24, 0]
    assert canvas[20, 24, 2] > 100
    points = np.full((17, 2), -9.0)
    points[:3] = (20, 20), (24, 20), (15, 20)
    record = make.annotation(owners > 0, owners - 1, [nose, eye], points)
    assert record["keypoints"][:9] == [20, 20, 1, 24, 20, 2, 15, 20, 1]
    assert record["keypoints"][9:] == [0] * 42
    assert record["bbox"] == [15, 15, 15, 11]
    assert record["area"] == int((owners > 0).sum())


# ---- how well people are found ---------------------------------------------------------------------------------------


def answers_of(made: dict[str, Any], off: float = 0.0) -> dict[str, Any]:
    """Everybody found, each key point so many longer sides of the box too far to the right."""
    names = {image["id"]: Path(image["file_name"]).name for image in made["images"]}
    found: dict[str, Any] = {name: [] for name in names.values()}
    for person in made["annotations"]:
        x, y, w, h = person["bbox"]
        points = np.array(person["keypoints"], float).reshape(17, 3)
        points[:, 0] += off * max(w, h)
        found[names[person["image_id"]]].append({"box": [x, y, x + w, y + h], "keypoints": points.tolist()})
    return found


def test_shares_of_key_points_found(make: ModuleType, made: dict[str, Any]) -> None:
    pck = import_module("pck")

    def shares(answers: dict[str, Any]) -> dict[str, float]:
        return pck.table(*pck.distances(made, answers))["seen"]

    assert shares(answers_of(made)) == {"within 0.1": 100, "within 0.05": 100}
    assert shares(answers_of(made, 0.07)) == {"within 0.1": 100, "within 0.05": 0}
    assert shares({}) == {"within 0.1": 0, "within 0.05": 0}
    some = answers_of(made)
    lost = some.pop(Path(made["images"][0]["file_name"]).name)
    share = 1 - sum(v == 2 for p in made["annotations"][: len(lost)] for v in p["keypoints"][2::3]) / sum(
        v == 2 for p in made["annotations"] for v in p["keypoints"][2::3]
    )
    assert shares(some)["within 0.1"] == round(100 * share, 2)


def test_controls_know_nothing_of_the_picture(make: ModuleType, made: dict[str, Any]) -> None:
    """Key points of somebody else in another picture; the usual place of each in a box."""
    control, pck = import_module("control"), import_module("pck")
    swapped = control.exchanged(made, 0)
    pairs = list(zip(made["annotations"], swapped["annotations"], strict=True))
    assert all(mine["bbox"] == theirs["bbox"] for mine, theirs in pairs)
    assert not any(mine["keypoints"] == theirs["keypoints"] for mine, theirs in pairs)
    one = [person for person in made["annotations"] if person["image_id"] == made["annotations"][0]["image_id"]]
    with refused("expected people in several pictures, to exchange them, found"):
        control.exchanged({**made, "annotations": one}, 0)
    states = sorted(tuple(p["keypoints"][2::3]) for p in made["annotations"])
    assert sorted(tuple(p["keypoints"][2::3]) for p in swapped["annotations"]) == states
    places = control.usual_places(made)
    assert places[0, 1] < places[11, 1] < places[15, 1]  # nose, hip, ankle
    found = pck.table(*pck.distances(made, control.guesses(made, places)))["seen"]
    assert 5 < found["within 0.1"] < 60

"""Which annotated pictures are learnt from and which validated on, of one's own and of a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.annotated_sets import coco_set, coco_table, instance, label_map, picture, pose_set, values_of, write_json
from tests.tiny import refused
from uniformer.datasets.annotated import open_annotated
from uniformer.datasets.statement import oddities, statement
from uniformer.datasets.tables import film_or_picture_of
from uniformer.errors import InputError
from uniformer.training.dense_sets import own_sets, recipe_sets
from uniformer.training.recipe import load_recipe
from uniformer.training.setup import target_options, task_for

NAMES = [f"{i}.jpg" for i in range(4)]


def test_of_ones_own_pictures_what_is_not_used_is_said(tmp_path: Path) -> None:
    """Also a validation split that other pictures stand in for."""
    root, other = str(coco_set(tmp_path / "mine")), str(coco_set(tmp_path / "other"))
    train, val, said = own_sets(root, "detection", None, None, None)
    assert (len(train), val.item_names()[0]) == (3, "val2017/val_0.jpg")
    assert said == [*statement({"train": train, "val": val})]
    train, val, said = own_sets(root, "detection", other, None, ["dog", "cat"])  # type: ignore[arg-type]
    assert (val.root, val.classes) == (other, ("dog", "cat"))
    assert said[-1] == "neither trained nor validated on: val"
    train, val, said = own_sets(root, "detection", None, "train", None)
    assert (len(train), len(val)) == (2, 1)
    assert said[-2:] == [
        "no validation split: 1 of 3 pictures held out", "neither trained nor validated on: val"
    ]  # fmt: skip
    with refused("too little to hold a fifth out"):
        own_sets(str(pose_set(tmp_path / "people")), "pose", None, None, None)


CUT = {
    "frames": [f"{film}_frame_{n:03}.jpg" for film in "abcdefgh" for n in range(5)],
    "tiles": [f"{photo}_x{x}_y{y}.jpg" for photo in "abcde" for x in (0, 9) for y in (0, 9)],
    "roboflow": [f"{film}_mp4-{n}_jpg.rf.{n}abc.jpg" for film in "abcdefgh" for n in range(3)],
    "copies": [f"{name}_jpg.rf.{n}abc.jpg" for name in "abcdefghij" for n in range(3)],
}  # fmt: skip


@pytest.mark.parametrize("kind", CUT)
def test_what_was_cut_from_one_thing_is_held_out_together(kind: str, tmp_path: Path) -> None:
    names = CUT[kind]
    train_set, val_set, said = own_sets(str(set_of(tmp_path, names)), "detection", None, None, None)
    sources = [{film_or_picture_of(name) for name in part.item_names()} for part in (train_set, val_set)]
    assert not sources[0] & sources[1]
    assert len(train_set) + len(val_set) == len(names)
    assert 0 < len(val_set) <= max(len(names) // 5, len(names) // len(sources[0] | sources[1]))
    kept = "frames of one film and parts of one picture kept together, by their names"
    assert f"no validation split: {len(val_set)} of {len(names)} pictures held out, {kept}" in said


def test_pictures_of_names_that_tell_nothing_are_held_out_one_by_one(tmp_path: Path) -> None:
    """As before, to the picture; a number alone tells nothing."""
    names = [f"img_{n:04}.jpg" for n in range(20)]
    _, val_set, said = own_sets(str(set_of(tmp_path / "a", names)), "detection", None, None, None)
    order = np.random.default_rng(0).permutation(20)
    assert list(val_set.item_names()) == [names[n] for n in sorted(order[:4])]
    assert "no validation split: 4 of 20 pictures held out" in said
    film = [f"a_frame_{n}.jpg" for n in range(10)]
    _, val_set, said = own_sets(str(set_of(tmp_path / "b", film)), "detection", None, None, None)
    assert len(val_set) == 2
    assert any(line.endswith("as the others are: val will look better than it is") for line in said)


def set_of(root: Path, names: list[str]) -> Path:
    """A set of boxes in pictures of these names."""
    for number, name in enumerate(names):
        picture(root / name, number, (8, 8))
    table = coco_table(names, [instance(n, 100 + n, 7, (0, 0, 4, 4)) for n in range(len(names))])
    for image in table["images"]:
        image |= {"height": 8, "width": 8}
    write_json(root / "things.json", table)
    return root


def test_a_recipe_validates_on_what_it_names_alone(tmp_path: Path) -> None:
    root, other = coco_set(tmp_path / "mine"), coco_set(tmp_path / "other")
    recipe = load_recipe("mask_rcnn_1x_xxs", [f"data.root={root}", f"data.val={other}"])
    train, val, _ = recipe_sets(replace(recipe, data=replace(recipe.data, val=None)))
    assert (len(train), val) == (3, None)
    train, val, _ = recipe_sets(recipe)
    assert val is not None
    assert (val.root, val.item_names()[0], val.classes) == (str(other), "val2017/val_0.jpg", train.classes)


def test_a_recipe_wants_to_know_where_the_data_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with refused("mask_rcnn_1x_xxs: expected data.root=DIR, the folder of COCO 2017, got none"):
        recipe_sets(load_recipe("mask_rcnn_1x_xxs"))
    coco_set(tmp_path)
    assert len(recipe_sets(load_recipe("mask_rcnn_1x_xxs"))[0]) == 3


def test_key_points_of_another_number_than_the_recipe_s_are_refused(tmp_path: Path) -> None:
    recipe, data = load_recipe("top_down_256x192_global_small"), open_annotated(pose_set(tmp_path), task="pose")
    with refused("the train set has 3 classes, the network 17: model.num_classes=3 would fit"):
        task_for(recipe, data).targets_and_loss(target_options(recipe), data, None)


def test_pictures_that_are_left_out_are_said(tmp_path: Path) -> None:
    (coco_set(tmp_path) / "train2017/train_0.jpg").unlink()
    train, _, said = own_sets(str(tmp_path), "detection", None, None, None)
    assert len(train) == 2
    assert said[1:4] == [
        "train: pictures that are listed and not there: 1 (train2017/train_0.jpg)",
        "train: crowds, which are neither learnt from nor counted: 1"
        " (train2017/train_1.jpg: annotation 3, box 0, 0, 60, 40)",
        "train: pictures without annotations: 1 (train2017/train_2.jpg)",
    ]
    assert "train: pictures of no use, left out: 1" in said


@pytest.mark.parametrize("whose", ["own", "recipe"])
def test_crowds_and_empty_pictures_are_said_before_training(whose: str, tmp_path: Path) -> None:
    """They are not learnt from; and it is what an evaluation of the set says, too."""
    coco_set(tmp_path)
    if whose == "own":
        train, _, said = own_sets(str(tmp_path), "detection", None, None, None)
    else:
        train, _, said = recipe_sets(load_recipe("mask_rcnn_1x_xxs", [f"data.root={tmp_path}"]))
    odd = list(oddities({"train": train}))
    assert [line.partition(":")[2].partition(":")[0].strip() for line in odd] == [
        "crowds, which are neither learnt from nor counted",
        "pictures without annotations",
    ]
    assert set(odd) <= set(said)


@pytest.mark.parametrize("given", ["split", "val"])
def test_key_points_of_others_are_no_validation(given: str, tmp_path: Path) -> None:
    people = pose_set(tmp_path / "people")
    table = people / "annotations/person_keypoints_val2017.json"
    text = table.read_text()
    other = pose_set(tmp_path / "other")
    (other / table.relative_to(people)).write_text(text.replace("left_hand", "left_foot").replace("right_hand", "x"))
    with refused("expected its own key points as classes, nose, left_foot, x, got nose, left_hand, right_hand"):
        own_sets(str(people), "pose", str(other), "val" if given == "split" else None, None)


@pytest.mark.parametrize(("split", "purpose"), [("train", "learn from"), ("val", "validate on")])
def test_pictures_that_are_all_of_no_use_are_refused(split: str, purpose: str, tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / f"images/{part}/0.jpg")
        if part != split:
            label_map(tmp_path / f"masks/{part}/0.png", values_of(0))
    (tmp_path / "masks" / split).mkdir()
    said = f"expected pictures to {purpose}, found none of use in 1 picture: pictures without a label map: 1"
    with refused(said):
        own_sets(str(tmp_path), "segmentation", None, None, None)
    with refused(said):
        recipe_sets(load_recipe("fpn_xxs", [f"data.train={tmp_path}", f"data.val={tmp_path}"]))


@pytest.mark.parametrize("crowd", [True, False])
def test_a_set_of_crowds_or_empty_pictures_alone_is_not_learnt_from(crowd: bool, tmp_path: Path) -> None:
    there = [instance(i, 100 + i, 7, (4, 4, 20, 20), iscrowd=1) for i in range(4)] if crowd else []
    for i, name in enumerate(NAMES):
        picture(tmp_path / "train" / name, i)
    file = write_json(tmp_path / "annotations/instances_train.json", coco_table(NAMES, there))
    with pytest.raises(InputError, match="expected an instance to learn from, found none in 3 pictures"):
        own_sets(str(tmp_path), "detection", None, None, None)
    write_json(file, coco_table(NAMES, [instance(i, 100 + i, 7, (4, 4, 20, 20)) for i in range(4)]))
    train_set, val_set, _ = own_sets(str(tmp_path), "detection", None, None, None)
    assert (len(train_set), len(val_set)) == (3, 1)

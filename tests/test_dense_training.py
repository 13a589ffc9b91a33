"""Dense networks in training, end to end: own data without a recipe, going on, several processes, what comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import uniformer
from tests import annotated_sets
from tests.shapes import CLASSES, detection_set, pose_set, segmentation_set
from tests.tiny import IMAGES as VIEWS
from tests.tiny import refused, same, save_tiny
from tests.training_processes import ended, finish, kill, said, start, start_several
from tests.training_runs import assert_same_learning, losses, rows_of, same_weights
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.save import save_checkpoint
from uniformer.config import Config, Head, PersonCrop, Scaling
from uniformer.datasets.annotated import open_annotated
from uniformer.heads import build_network
from uniformer.network.variants import dense_input
from uniformer.support.settings import Table, merged, to_toml
from uniformer.training.recipe import EffectiveLR, effective_lr, load_recipe, resolved
from uniformer.training.run import open_for_recipe, plan_training
from uniformer.training.setup import amount, fingerprint

MODEL: Table = {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 64], "head_width": 64}
COMMON: Table = {
    "batch_size": 4,
    "data": {"workers": 0},
    "schedule": {"kind": "poly", "min_lr": 1e-5, "per": "step", "warmup_steps": 5},
    "loop": {"log_every": 1},
}
STILL: dict[str, Table] = {
    "mask_rcnn": {
        "regions": 16, "input": {"shortest": 96, "longest": 96},
        "augment": {"sides": [96], "longest": 96, "flip": 0.0}, "keep": {"metric": "box_ap"},
    },
    "semantic_fpn": {
        "input": {"shortest": 64, "longest": 64}, "keep": {"metric": "miou"},
        "augment": {
            "shortest": 64, "longest": 64, "crop": [64, 64], "ratio": [1.0, 1.0], "flip": 0.0, "colour": {"prob": 0.0},
        },
    },
    "topdown": {
        "input": {"size": [96, 96]}, "keep": {"metric": "ap"},
        "augment": {"flip": 0.0, "half_body": 0.0, "scale": 0.0, "rotation": 0.0, "shift": 0.0},
    },
}  # fmt: skip


def recipe_file(path: Path, head: str, classes: int, *changes: Table) -> Path:
    table = {"arch": f"{head}.uniformer_nano", "model": {**MODEL, "num_classes": classes}}
    for change in (COMMON, STILL[head], *changes):
        table = merged(table, change)
    path.write_text(to_toml(table))
    return path


def on(folder: Path, **more: Any) -> Table:
    return {"data": {"train": str(folder), "val": str(folder), **more}}


# ---- they learn ------------------------------------------------------------------------------------------------------


def trained(recipe: Path, out: Path, data: Path) -> tuple[dict[str, float], Path]:
    """The measures of the result on what it learnt, by `evaluate`, and its file."""
    run = uniformer.train(recipe, out=out, device="cpu")
    found = uniformer.evaluate(run.paths["model"], data, device="cpu", workers=0)
    return found.metrics, run.paths["model"]


def test_a_segmenter_learns_four_pictures_by_heart(tmp_path: Path) -> None:
    data = segmentation_set(tmp_path / "set")
    steps: Table = {"optimizer": {"lr": 5e-3}, "schedule": {"iterations": 60}, "loop": {"eval_every": 60}}
    metrics, path = trained(
        recipe_file(tmp_path / "r.toml", "semantic_fpn", 3, steps, on(data)), tmp_path / "out", data
    )
    assert metrics["miou"] > 0.9
    _, contract, _ = load_model(path)
    assert (contract.task, contract.classes) == ("segmentation", ("0", "1", "2"))
    assert contract.scores["miou"] == pytest.approx(100 * metrics["miou"], abs=0.01)
    assert contract.trained_on is not None
    assert contract.trained_on.items == 4
    with refused("expected items that the checkpoint was not trained on, found none among 4"):
        uniformer.evaluate(path, data, split="held-out", device="cpu")
    result = uniformer.predict(data / "images" / "0.png", model=path)
    assert {region.name for region in result.regions} == {"0", "1", "2"} & {region.name for region in result.regions}


@pytest.mark.slow
def test_a_detector_learns_four_pictures_by_heart(tmp_path: Path) -> None:
    data = detection_set(tmp_path / "set")
    steps: Table = {"optimizer": {"lr": 1e-3}, "schedule": {"iterations": 70}, "loop": {"eval_every": 70}}
    metrics, path = trained(recipe_file(tmp_path / "r.toml", "mask_rcnn", 2, steps, on(data)), tmp_path / "out", data)
    assert metrics["box_ap50"] > 0.9
    assert metrics["mask_ap50"] > 0.9
    assert load_model(path)[1].classes == tuple(CLASSES)


@pytest.mark.slow
def test_a_pose_network_learns_four_figures_by_heart(tmp_path: Path) -> None:
    data = pose_set(tmp_path / "set")
    steps: Table = {"optimizer": {"lr": 3e-3}, "schedule": {"iterations": 100}, "loop": {"eval_every": 100}}
    metrics, path = trained(recipe_file(tmp_path / "r.toml", "topdown", 3, steps, on(data)), tmp_path / "out", data)
    assert metrics["ap50"] > 0.9
    contract = load_model(path)[1]
    assert contract.details["flip_pairs"] == [[1, 2]]
    assert contract.input == PersonCrop(size=(96, 96))


# ---- going on, several processes -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("head", "make", "classes"), [("mask_rcnn", detection_set, 2), ("topdown", pose_set, 3)])
def test_a_killed_run_ends_with_the_same_weights_bit_for_bit(
    tmp_path: Path, head: str, make: Any, classes: int
) -> None:
    """With everything that is drawn: pictures, regions, people, drop path."""
    data = make(tmp_path / "set")
    drawn: Table = {
        "batch_size": 2, "model": {"drop_path": 0.2}, "optimizer": {"accumulate": 2, "lr": 1e-3}, "ema": {"decay": 0.9},
        "augment": {"flip": 0.5} | ({"rotation": 20.0, "rotation_prob": 1.0} if head == "topdown" else {}),
        "schedule": {"iterations": 7}, "keep": {"every_steps": 1},
    }  # fmt: skip
    recipe = recipe_file(tmp_path / "r.toml", head, classes, drawn, {"data": {"train": str(data)}})
    finish(recipe, tmp_path / "whole")
    out = tmp_path / "out"
    assert kill(start(recipe, out), lambda: len(losses(out)) >= 3)
    finish(recipe, out)
    assert losses(out) == losses(tmp_path / "whole")
    assert len(losses(out)) == 7
    for name in ("model.safetensors", "average.safetensors"):
        assert same_weights(tmp_path / "whole", out, name)


def test_a_run_does_not_go_on_where_masks_or_label_maps_are_others(tmp_path: Path) -> None:
    maps, coco = segmentation_set(tmp_path / "maps"), annotated_sets.coco_set(tmp_path / "coco")
    drawn, file = maps / "annotations/0.png", coco / "annotations/instances_train2017.json"
    of_both = lambda: [fingerprint(open_annotated(source), None) for source in (maps, file)]  # noqa: E731
    before = of_both()
    assert before == of_both()
    with Image.open(drawn) as image:
        values = np.array(image)
    values[:2] = 1 - values[:2].clip(0, 1)
    Image.fromarray(values).save(drawn)
    table = json.loads(file.read_text())
    next(one for one in table["annotations"] if not one["iscrowd"])["segmentation"][0][0] += 1
    file.write_text(json.dumps(table))
    for then, now in zip(before, of_both(), strict=True):
        assert [key for key in then if then[key] != now[key]] == ["masks"]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """Batch norms stand still: each process has its own."""
    norms = ["backbone.stages.0", "backbone.stages.1", "keypoint_head.deconv_layers"]
    steady: Table = {
        "optimizer": {"freeze": norms, "eps": 1e-4, "lr": 1e-3}, "schedule": {"iterations": 4},
        "augment": {"flip": 0.5, "rotation": 20.0}, "data": {"train": str(pose_set(tmp_path / "set"))},
    }  # fmt: skip
    recipe = recipe_file(tmp_path / "r.toml", "topdown", 3, steady)
    finish(recipe, tmp_path / "alone")
    assert ended(*start_several(2, recipe, tmp_path / "out")) == 0, said(tmp_path / "out")
    assert "Warning" not in said(tmp_path / "out")
    assert_same_learning(tmp_path / "out", tmp_path / "alone")


@pytest.mark.slow
def test_two_processes_train_and_validate_a_detector_without_masks(tmp_path: Path) -> None:
    """The mask head gets no gradients, in any process. They learn what one learns: anchors and regions are chosen by
    picture, and as many of each, so that the divisors are the same. Batch norms stand still."""
    data = detection_set(tmp_path / "set", masks=False)
    short: Table = {
        "optimizer": {"lr": 1e-3, "eps": 1e-4, "freeze": ["backbone.stages.0", "backbone.stages.1"]},
        "schedule": {"iterations": 2}, "regions": 8,
    }  # fmt: skip
    recipe = recipe_file(tmp_path / "r.toml", "mask_rcnn", 2, short, on(data))
    finish(recipe, tmp_path / "alone")
    assert ended(*start_several(2, recipe, tmp_path / "out")) == 0, said(tmp_path / "out")
    assert_same_learning(tmp_path / "out", tmp_path / "alone")
    _, contract, _ = load_model(tmp_path / "out" / "model.safetensors")
    assert contract.details == {"masks": False}
    assert "box_ap" in contract.scores
    assert "mask_ap" not in contract.scores


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_broken_picture_does_not_end_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = segmentation_set(tmp_path / "set", count=6)
    (data / "images" / "3.png").write_bytes((data / "images" / "3.png").read_bytes()[:200])
    steps: Table = {"schedule": {"iterations": 3}, "loop": {"max_bad_fraction": 0.5}}
    recipe = recipe_file(tmp_path / "r.toml", "semantic_fpn", 3, steps, {"data": {"train": str(data)}})
    run = uniformer.train(recipe, out=tmp_path / "out", device="cpu")
    assert [Path(row["path"]).name for row in rows_of(run.paths["unreadable"])] == ["3.png"]
    assert "another sample stands in" in capsys.readouterr().out
    with refused("of 6 samples of this epoch could not be read, more than loop.max_bad_fraction=0"):
        uniformer.train(recipe, ["loop.max_bad_fraction=0.0"], out=tmp_path / "strict", device="cpu")


def test_numbers_that_are_not_finite_end_the_run_in_one_line(tmp_path: Path) -> None:
    wild: Table = {"optimizer": {"lr": 1e30}, "schedule": {"iterations": 30}}
    data = {"data": {"train": str(segmentation_set(tmp_path / "set"))}}
    with refused("training does not get past step"):
        uniformer.train(
            recipe_file(tmp_path / "r.toml", "semantic_fpn", 3, wild, data), out=tmp_path / "out", device="cpu"
        )


def test_a_batch_norm_with_one_value_is_one_line(tmp_path: Path) -> None:
    data: Table = {"batch_size": 1, "data": {"train": str(segmentation_set(tmp_path / "set"))}}
    path = recipe_file(tmp_path / "r.toml", "semantic_fpn", 3, data, {"schedule": {"iterations": 2}})
    with refused(r"expected several pictures in one pass for the batch norms of upernet\.uniformer_nano, got 1: set a"):
        uniformer.train(path, ["arch=upernet.uniformer_nano"], out=tmp_path / "out", device="cpu")


# ---- own data without a recipe ---------------------------------------------------------------------------------------


def saved(path: Path, head: Head, classes: tuple[str, ...], spec: Any = None) -> Path:
    """A small network with its contract."""
    torch.manual_seed(3)
    config = Config(
        depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), head_dim=16, head=head, head_width=64,
        output="normed_maps", num_classes=len(classes),
    )  # fmt: skip
    contract = Contract(config, "", spec or dense_input(config), classes)
    save_checkpoint(build_network(config), path, contract)  # type: ignore[arg-type]
    return path


def test_own_pictures_pick_head_sizes_and_preset(tmp_path: Path) -> None:
    classifier = str(save_tiny(tmp_path / "net.safetensors", VIEWS))
    shapes = plan_training(detection_set(tmp_path / "shapes", count=12), checkpoint=classifier)
    recipe = shapes.recipe
    assert (recipe.arch, recipe.model.head, recipe.model.num_classes) == ("mask_rcnn.uniformer_small", "mask_rcnn", 2)
    assert (recipe.model.dims, recipe.model.head_dim) == ((16, 32, 64, 64), 16)
    assert isinstance(recipe.input, Scaling)
    assert (recipe.input.shortest, recipe.input.longest) == (128, 213)  # 64 pixels, as COCO's 480 are seen at 800
    assert recipe.augment.sides == (64, 96, 128)  # type: ignore[union-attr]
    assert recipe.optimizer.freeze == ("backbone",)
    assert (recipe.keep.result, recipe.keep.metric) == ("best", "box_ap")
    said = "\n".join(shapes.reasons)
    assert "COCO JSON for detection; 12 pictures, 24 instances" in said
    assert "no validation split: 2 of 12 pictures held out" in said
    assert "preset 'head' for 10 training pictures: the backbone stays as it is" in said
    assert "seen with short sides of up to 128 pixels" in said
    asked = plan_training(tmp_path / "shapes", ["input.shortest=96"], checkpoint=classifier)
    assert "seen with short sides" not in "\n".join(asked.reasons)
    assert shapes.sets is not None
    assert [len(part) for part in shapes.sets if part is not None] == [10, 2]
    maps = plan_training(segmentation_set(tmp_path / "maps"), ["optimizer.freeze=[]"], checkpoint=classifier)
    assert (maps.recipe.model.head, maps.recipe.input.shortest) == ("semantic_fpn", 64)  # type: ignore[union-attr]
    assert maps.recipe.augment.crop == (64, 64)  # type: ignore[union-attr]
    assert "as asked, everything learns" in maps.reasons[-2]
    people = plan_training(pose_set(tmp_path / "people"), checkpoint=classifier)
    assert (people.recipe.model.head, people.recipe.input) == ("topdown", PersonCrop())
    assert people.recipe.augment.half_body == 0  # type: ignore[union-attr]


def test_another_batch_of_own_pictures_keeps_the_rate_unless_the_rule_asks_for_more(tmp_path: Path) -> None:
    """The rates of the presets are for batches of all sizes; `lr_rule=batch` is in proportion to the preset's batch."""
    data = detection_set(tmp_path / "set", count=12)
    start = str(save_tiny(tmp_path / "net.safetensors", VIEWS))

    def rate(*settings: str) -> EffectiveLR:
        return effective_lr(plan_training(data, settings, checkpoint=start).recipe)

    assert rate().lr == rate("batch_size=4").lr == 2e-4
    assert rate("batch_size=4").sentence == (
        "learning rate 0.0002, as written, for a batch of 2; this run's batch is 4, for which optimizer.lr_rule=batch "
        "would give 0.0004"
    )
    assert rate("batch_size=4", "optimizer.lr_rule=batch").lr == 4e-4


def test_samples_of_poses_are_people(tmp_path: Path) -> None:
    data = open_annotated(annotated_sets.pose_set(tmp_path / "set"), split="val", task="pose")
    assert amount(data) == "1 person in 2 pictures"
    boxes = open_annotated(annotated_sets.coco_set(tmp_path / "boxes"), split="train")
    assert amount(boxes) == "3 samples"


def test_the_recipe_of_own_pictures_is_written_whole(tmp_path: Path) -> None:
    classifier = str(save_tiny(tmp_path / "net.safetensors", VIEWS))
    for make in (detection_set, segmentation_set, pose_set):
        recipe = plan_training(make(tmp_path / make.__name__), checkpoint=classifier).recipe
        path = tmp_path / f"{make.__name__}.toml"
        path.write_text(resolved(recipe))
        assert load_recipe(path) == recipe


def test_a_published_recipe_finds_its_splits_in_the_published_folders(tmp_path: Path) -> None:
    root, others = annotated_sets.coco_set(tmp_path / "coco"), annotated_sets.pose_set(tmp_path / "people")
    said: list[str] = []
    boxes = open_for_recipe(load_recipe("mask_rcnn_1x_xs", [f"data.root={root}"]), said.append)
    assert [None if part is None else (len(part), part.has_masks) for part in boxes] == [(3, True), (2, True)]
    people = ["data.train=annotations/person_keypoints_val2017.json", "data.val=none", f"data.root={others}"]
    train_set, val_set = open_for_recipe(load_recipe("top_down_256x192_global_small", people))
    assert (train_set.classes, val_set) == (tuple(annotated_sets.JOINTS), None)
    with refused("expected data.train, the annotations or folder of the training pictures, got none"):
        open_for_recipe(load_recipe("fpn_xxs", ["data.train=none"]))
    with refused("has 2 classes, the network 80"):
        uniformer.train("mask_rcnn_1x_xs", [f"data.root={root}", "init.checkpoint=none"], out=tmp_path / "run")


def test_a_setting_or_a_checkpoint_says_another_head(tmp_path: Path) -> None:
    maps = segmentation_set(tmp_path / "maps")
    start = str(saved(tmp_path / "upernet.safetensors", "upernet", ("0", "1", "2"), Scaling(256, 128, by="nothing")))
    plan = plan_training(maps, checkpoint=start)
    assert plan.recipe.model.head == "upernet"
    assert isinstance(plan.recipe.input, Scaling)
    assert (plan.recipe.input.by, plan.recipe.input.shortest) == ("nothing", 64)
    asked = plan_training(maps, ["arch=semantic_fpn.uniformer_nano"], checkpoint=start)
    assert (asked.recipe.arch, asked.recipe.model.num_classes) == ("semantic_fpn.uniformer_nano", 3)
    other = plan_training(maps, ["model.head=semantic_fpn"], checkpoint=start).recipe
    assert (other.arch, other.model.head, other.model.dims) == (
        "semantic_fpn.uniformer_small",
        "semantic_fpn",
        (16, 32, 64, 64),
    )


def test_a_network_of_another_task_is_a_start(tmp_path: Path) -> None:
    """Of it the backbone, under a new head with that head's own input; `arch=` says that it is meant."""
    data = detection_set(tmp_path / "shapes", count=12)
    start = str(saved(tmp_path / "maps.safetensors", "semantic_fpn", ("0", "1", "2")))
    settings = [
        "arch=mask_rcnn.uniformer_nano", "model.depths=[1, 1, 1, 1]", "model.dims=[16, 32, 64, 64]",
        "model.head_dim=16", "model.overlap=0", "regions=8", "schedule.iterations=1", "data.workers=0",
    ]  # fmt: skip
    plan = plan_training(data, settings, checkpoint=start)
    assert (plan.recipe.model.head, plan.recipe.model.num_classes) == ("mask_rcnn", 2)
    assert isinstance(plan.recipe.input, Scaling)
    assert (plan.recipe.input.by, plan.recipe.input.shortest) == (Scaling().by, 128)  # 64 pixels, as 480 at 800
    run = uniformer.train(data, settings, checkpoint=start, out=tmp_path / "run", device="cpu")
    of_both = {key: value for key, value in load_file(start).items() if key.startswith("backbone.")}
    trained = load_file(run.paths["model"])
    assert of_both
    assert same(of_both, {key: trained[key] for key in of_both})  # it stood still


@pytest.mark.parametrize("arch", ["semantic_fpn.uniformer_nano", "upernet.uniformer_base"])
def test_an_architecture_that_the_usual_start_does_not_fit_wants_a_checkpoint(arch: str, tmp_path: Path) -> None:
    """Said before hundreds of megabytes are fetched that could not be loaded."""
    maps = segmentation_set(tmp_path / "maps")
    with refused(f"{arch}: expected --checkpoint, as the usual start, .*ade20k, has another backbone"):
        plan_training(maps, [f"arch={arch}"])


def test_what_cannot_be_learnt_is_one_line(tmp_path: Path) -> None:
    shapes, one = detection_set(tmp_path / "shapes"), detection_set(tmp_path / "one", count=1)
    pose = str(saved(tmp_path / "pose.safetensors", "topdown", ("a", "b", "c")))
    net = str(save_tiny(tmp_path / "net.safetensors", VIEWS))
    with refused("expected annotations for pose, in COCO's JSON"):
        plan_training(shapes, checkpoint=pose)
    with refused("expected annotations for pose, in COCO's JSON"):
        plan_training(shapes, ["arch=topdown.uniformer_nano"], checkpoint=net)
    for setting in ("arch=uniformer_small", "arch=semantic_fpn.uniformer_nano", "model.head=semantic_fpn"):
        with refused("expected an architecture for detection, got one for|expected annotations for segmentation"):
            plan_training(shapes, [setting], checkpoint=net)
    with refused(r"unknown model 'rcnn\.uniformer_small' \(did you mean 'mask_rcnn\.uniformer_small'"):
        plan_training(shapes, ["model.head=rcnn"], checkpoint=net)
    with refused("too little to hold a fifth out: expected several pictures, found 1"):
        plan_training(one, checkpoint=net)
    with refused("data.root: expected it for recipes only"):
        plan_training(shapes, ["data.root=x"])
    with refused("expected no root for annotated pictures"):
        plan_training(shapes, root="x")
    with refused(r"unknown setting 'augment\.rand_augment'"):
        plan_training(shapes, ["augment.rand_augment=none"], checkpoint=net)


def test_own_pictures_from_a_folder_to_a_checkpoint_that_answers(tmp_path: Path) -> None:
    """The command line's way: trained, validated, reported, predicted with; the same command does nothing again."""
    data = segmentation_set(tmp_path / "maps", count=10)
    start = str(save_tiny(tmp_path / "net.safetensors", VIEWS))
    settings = ["epochs=2", "data.workers=0", "batch_size=4", "loop.log_every=1"]
    run = uniformer.train(data, settings, checkpoint=start, out=tmp_path / "run", device="cpu")
    assert set(run.paths) >= {"model", "best", "recipe", "metrics", "split", "report"}
    assert run.metrics["val_miou"] >= 0
    held_out = (tmp_path / "run" / "split" / "val.txt").read_text().splitlines()
    assert len(held_out) == 2
    assert all(Path(path).is_file() for path in held_out)
    model, contract, _ = load_model(run.paths["model"])
    assert contract.config.head == "semantic_fpn"
    assert contract.input == plan_training(data, settings, checkpoint=start).recipe.input
    backbone = {k: v for k, v in load_file(start).items() if f"backbone.{k}" in model.state_dict()}
    assert same(backbone, {key: model.state_dict()[f"backbone.{key}"] for key in backbone})  # it stood still
    figures = json.loads((tmp_path / "run" / "held-out" / "metrics.json").read_text())
    assert figures["metrics"]["items"] == 2
    assert uniformer.predict(held_out[0], model=run.paths["model"]).labels.shape == (64, 64)
    scores = uniformer.evaluate(run.paths["model"], data, split="held-out", device="cpu", workers=0)
    assert scores.metrics["miou"] == pytest.approx(run.metrics["val_miou"], abs=1e-6)
    before = run.paths["model"].stat().st_mtime_ns
    again = uniformer.train(data, settings, checkpoint=start, out=tmp_path / "run", device="cpu")
    assert again.metrics == run.metrics
    assert load_file(again.paths["model"]).keys() == load_file(run.paths["model"]).keys()
    assert before <= again.paths["model"].stat().st_mtime_ns

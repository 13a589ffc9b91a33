"""What dense networks learn in a step: losses, gradients, what decays, what stands still, what they start from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.shapes import CLASSES, detection_set, pose_set, segmentation_set
from tests.tiny import IMAGES as VIEWS
from tests.tiny import refused, save_tiny
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.identify import open_checkpoint
from uniformer.checkpoints.save import save_checkpoint
from uniformer.config import Config, Head
from uniformer.datasets.annotated import AnnotatedSet, open_annotated
from uniformer.heads import build_network
from uniformer.heads.pyramid import DenseNetwork
from uniformer.heads.segmentation import segmentation_losses
from uniformer.labels import IGNORED
from uniformer.network.variants import dense_input
from uniformer.support.settings import Table
from uniformer.tasks import detection_losses, task_of
from uniformer.tasks.detection_losses import Truth
from uniformer.training.batches import Place
from uniformer.training.log import Log
from uniformer.training.optim import decays, freeze, make_optimizer, train_mode
from uniformer.training.recipe import Recipe, recipe_from
from uniformer.training.samples import samples_of
from uniformer.training.sections import Optimizer
from uniformer.training.setup import share_statistics, target_options, task_for
from uniformer.training.start import class_layers, initialised, rows_in_order
from uniformer.training.step import total

TINY: Table = {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 64], "head_width": 32}
LIGHT: Table = {**TINY, "head_dim": 32}
MAKERS: dict[str, Callable[[Path], Path]] = {
    "detection": detection_set, "segmentation": segmentation_set, "pose": pose_set,
}  # fmt: skip
INPUTS: dict[str, Table] = {
    "detection": {"input": {"shortest": 64, "longest": 64}, "augment": {"sides": [64], "longest": 64}, "regions": 8},
    "segmentation": {
        "input": {"shortest": 64, "longest": 64},
        "augment": {"shortest": 64, "longest": 64, "crop": [64, 64], "ratio": [1.0, 1.0]},
    },
    "pose": {"input": {"size": [64, 64]}, "augment": {"half_body": 0.0}},
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AnnotatedSet]:
    folder = tmp_path_factory.mktemp("sets")
    return {task: open_annotated(make(folder / task)) for task, make in MAKERS.items()}


def dense_recipe(arch: str, classes: int, model: Table = TINY, **settings: Any) -> Recipe:
    from uniformer.network.variants import get_config

    task = get_config(arch).task
    table = {"name": "small", "arch": arch, "model": {**model, "num_classes": classes}, "batch_size": 2}
    return recipe_from({**table, **INPUTS[task], **settings})


def objective_of(arch: str, data: AnnotatedSet, model: Table = TINY) -> tuple[Any, Any]:
    """A module of targets and losses, and a batch of two."""
    recipe = dense_recipe(arch, len(data.classes), model)
    task = task_for(recipe, data)
    torch.manual_seed(0)
    network = task.build()
    objective = task.targets_and_loss(target_options(recipe), data, None)(network)
    return objective, samples_of(recipe, data).batch([Place(0, row, row) for row in range(2)])


HEADS = [
    ("mask_rcnn.uniformer_nano", "detection", TINY),
    pytest.param("cascade_mask_rcnn.uniformer_nano", "detection", TINY, marks=pytest.mark.slow),
    ("semantic_fpn.uniformer_nano", "segmentation", TINY),
    pytest.param("upernet.uniformer_nano", "segmentation", TINY, marks=pytest.mark.slow),
    ("topdown.uniformer_nano", "pose", TINY),
    ("semantic_fpn.uniformer_xs", "segmentation", LIGHT),
]  # fmt: skip


@pytest.mark.parametrize(("arch", "kind", "model"), HEADS)
def test_a_step_of_each_head(sets: dict[str, AnnotatedSet], arch: str, kind: str, model: Table) -> None:
    """Finite losses that follow from the batch and its draws alone, and gradients where they are promised."""
    objective, batch = objective_of(arch, sets[kind], model)
    train_mode(objective.model)

    def losses(draws: list[int]) -> tuple[dict[str, float], torch.Tensor]:
        torch.manual_seed(1)  # drop path and dropout, which each step seeds
        drawn = batch._replace(draws=draws) if kind == "detection" else batch
        found = objective(*objective.targets(drawn, np.random.default_rng(draws)))
        return {name: value.item() for name, value in found.items()}, total(found)

    (first, loss), (again, _), (other, _) = (losses(draws) for draws in ([3, 5], [3, 5], [4, 5]))
    assert all(map(np.isfinite, first.values()))
    assert first == again
    assert (other != first) == (kind == "detection")  # whose anchors and regions are drawn
    loss.backward()
    unused = [name for name, p in objective.model.named_parameters() if p.grad is None]
    assert bool(unused) == objective.leaves_parameters_out, unused


def test_the_hardest_pixels_of_each_picture(sets: dict[str, AnnotatedSet]) -> None:
    """`hardest`: the mean over that share of them, each picture's own; of all of them the published loss."""
    logits = torch.randn(2, 5, 8, 10, dtype=torch.float64)
    labels = torch.randint(5, (2, 8, 10))
    labels[0, :3] = IGNORED
    each = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").flatten(1)
    fifth = torch.stack([part.sort(descending=True).values[:16].mean() for part in each]).mean()
    torch.testing.assert_close(segmentation_losses([logits], labels, 0.2)["loss_seg"], fifth)
    torch.testing.assert_close(segmentation_losses([logits], labels)["loss_seg"], each.mean())

    data = sets["segmentation"]
    losses = {}
    for hardest in (1.0, 0.1):
        recipe = dense_recipe("semantic_fpn.uniformer_nano", len(data.classes), hardest=hardest)
        task = task_for(recipe, data)
        torch.manual_seed(0)
        objective = task.targets_and_loss(target_options(recipe), data, None)(task.build())
        batch = samples_of(recipe, data).batch([Place(0, 0, 0), Place(0, 1, 1)])
        losses[hardest] = total(objective(*objective.targets(batch, np.random.default_rng(0)))).item()
    assert losses[0.1] > losses[1.0]


def test_boxes_alone_teach_no_masks_and_the_contract_says_so(tmp_path: Path) -> None:
    data = open_annotated(detection_set(tmp_path / "boxes", masks=False))
    recipe = dense_recipe("mask_rcnn.uniformer_nano", 2)
    task = task_for(recipe, data)
    objective = task.targets_and_loss(target_options(recipe), data, None)(task.build())
    assert objective.leaves_parameters_out
    assert task.contract.details == {"masks": False}
    assert not task_of(task.contract).has_masks  # type: ignore[attr-defined]
    batch = samples_of(recipe, data).batch([Place(0, 0, 0)])
    assert "loss_mask" not in objective(*objective.targets(batch, np.random.default_rng(0)))


def test_things_without_a_mask_are_learnt_as_boxes_alone(tmp_path: Path) -> None:
    root = detection_set(tmp_path / "some")
    table = json.loads((root / "_annotations.coco.json").read_text())
    del table["annotations"][0]["segmentation"]
    (root / "_annotations.coco.json").write_text(json.dumps(table))
    data = open_annotated(root)
    assert any(f.text.endswith("in a set with masks: learnt as boxes alone: 1") for f in data.findings)
    objective, batch = objective_of("mask_rcnn.uniformer_nano", data)
    first, second = batch.truths
    assert (first.masked.tolist(), second.masked) == ([False, True], None)

    def losses(truth: Truth) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        return objective(*objective.targets(batch._replace(truths=[truth, second]), np.random.default_rng(3)))

    as_it_is = losses(first)
    full = first.masks.clone()
    full[0] = True
    assert losses(first._replace(masks=full)) == as_it_is  # whatever stands where there is no mask
    taken = losses(first._replace(masked=None))
    assert taken["loss_mask"] != as_it_is["loss_mask"]
    assert {name for name in taken if taken[name] != as_it_is[name]} == {"loss_mask"}
    nobody = losses(first._replace(masked=torch.zeros(2, dtype=torch.bool)))
    assert torch.isfinite(nobody["loss_mask"])


def test_masks_in_pieces_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    masks, of = torch.rand(7, 40, 60, generator=rng) > 0.5, torch.randint(0, 7, (50,), generator=rng)
    corners = torch.rand(50, 2, generator=rng) * 30
    boxes = torch.cat([corners, corners + 2 + torch.rand(50, 2, generator=rng) * 25], dim=1)
    chosen = detection_losses.Chosen(boxes, of, torch.zeros(50, dtype=torch.bool), 45)
    truth = Truth(torch.zeros(7, 4), torch.zeros(7, dtype=torch.long), masks)
    at_once = detection_losses.mask_targets(chosen, truth, 28)
    assert at_once.unique().tolist() == [0, 1]
    for values in (1, 3 * 40 * 60, 10**9):
        monkeypatch.setattr(detection_losses, "MASK_VALUES", values)
        assert torch.equal(detection_losses.mask_targets(chosen, truth, 28), at_once)
    none = Truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 40, 60, dtype=torch.bool))
    nothing = chosen._replace(truth=torch.full((50,), -1), positives=0)
    assert detection_losses.mask_targets(nothing, none, 28).shape == (0, 28, 28)


def test_boxes_are_reckoned_in_float32_where_layers_compute_in_less(sets: dict[str, AnnotatedSet]) -> None:
    """Anchors up to a thousand pixels lose whole pixels in bfloat16."""
    objective, batch = objective_of("cascade_mask_rcnn.uniformer_nano", sets["detection"])
    objective.eval()
    plain = objective(*objective.targets(batch, np.random.default_rng(3)))
    with torch.autocast("cpu", torch.bfloat16):
        lower = objective(*objective.targets(batch, np.random.default_rng(3)))
    for name, value in lower.items():
        assert value.dtype == torch.float32, name
        if "rpn" in name:  # what follows is of other regions
            assert value.item() == pytest.approx(plain[name].item(), rel=0.1), name


@pytest.mark.parametrize(
    ("arch", "classes", "kind", "message"),
    [
        ("mask_rcnn.uniformer_nano", 3, "detection", r"the train set has 2 classes, the network 3: model\.num_cl"),
        (
            "semantic_fpn.uniformer_nano",
            2,
            "detection",
            r"expected a train set annotated for segmentation, got one for",
        ),
    ],
)
def test_data_that_do_not_fit(sets: dict[str, AnnotatedSet], arch: str, classes: int, kind: str, message: str) -> None:
    recipe = dense_recipe(arch, classes)
    with refused(message):
        task_for(recipe, sets[kind]).targets_and_loss(target_options(recipe), sets[kind], None)


# ---- what decays, what stands still ----------------------------------------------------------------------------------


def network(arch: str) -> DenseNetwork:
    with torch.device("meta"):
        return build_network(dense_recipe(arch, 3).model if "nano" in arch else dense_recipe(arch, 3, LIGHT).model)  # type: ignore[return-value]


def test_what_decays_by_the_published_rules() -> None:
    model = network("cascade_mask_rcnn.uniformer_xs")
    parameters = dict(model.named_parameters())
    assert all(decays(name, p, "all") for name, p in parameters.items())
    spared = {name for name, p in parameters.items() if not decays(name, p, "all but norm")}
    assert {"backbone.stages.0.blocks.0.norm1.weight", "backbone.stages.1.embed.norm.bias"} <= spared
    assert "backbone.stages.2.norm.weight" in spared
    decayed = parameters.keys() - spared
    assert "backbone.stages.0.embed.norm1.weight" in decayed  # a batch norm of the stem, "proj.1" in the reference
    assert "roi_head.bbox_head.0.shared_convs.0.bn.weight" in decayed
    assert "neck.lateral_convs.0.conv.bias" in decayed
    plain = {name for name, p in parameters.items() if decays(name, p)}
    assert plain == {name for name, p in parameters.items() if p.ndim > 1}


def test_groups_of_a_dense_network() -> None:
    model = network("mask_rcnn.uniformer_nano")
    optimizer = make_optimizer(model, Optimizer(layer_decay=0.5, decay="all but norm", weight_decay=0.1), 1.0)
    of = {id(p): name for name, p in model.named_parameters()}
    scales: dict[str, set[float]] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            scales.setdefault(of[id(p)].split(".")[0], set()).add(group["lr_scale"])
            assert (group["weight_decay"] == 0.1) == decays(of[id(p)], p, "all but norm")
    assert scales.pop("backbone") == {0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5, 1.0}  # stem, four blocks, norms of the maps
    assert all(found == {1.0} for found in scales.values())


@pytest.mark.parametrize(
    ("parts", "stays", "learns"),
    [
        (["backbone"], "backbone.stages.3.norm.weight", "neck.lateral_convs.0.conv.weight"),
        (["heads"], "rpn_head.rpn_conv.weight", "backbone.stages.0.embed.conv1.weight"),
        (["backbone.stages.0"], "backbone.stages.0.embed.conv1.weight", "backbone.stages.1.embed.proj.weight"),
    ],
)
def test_parts_that_stand_still(parts: list[str], stays: str, learns: str) -> None:
    model = network("mask_rcnn.uniformer_nano")
    freeze(model, parts)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert stays not in trained
    assert learns in trained
    with refused(r"unknown part 'backbones' to freeze \(did you mean 'backbone'"):
        freeze(model, ["backbones"])


def test_statistics_of_heads_alone_are_shared() -> None:
    class Two:
        size = 2
        device = torch.device("cuda")

    model = network("semantic_fpn.uniformer_nano")
    share_statistics(model, Two())  # type: ignore[arg-type]
    shared = {name for name, m in model.named_modules() if isinstance(m, torch.nn.SyncBatchNorm)}
    assert "decode_head.scale_heads.0.0.bn" in shared
    assert not any(name.startswith("backbone") for name in shared)


# ---- what a run starts from ------------------------------------------------------------------------------------------


def saved(path: Path, head: Head, classes: tuple[str, ...]) -> Path:
    torch.manual_seed(5)
    config = Config(
        depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), head_dim=16, head=head, head_width=32,
        output="normed_maps", num_classes=len(classes),
    )  # fmt: skip
    contract = Contract(config, "", dense_input(config), classes)
    save_checkpoint(build_network(config), path, contract)  # type: ignore[arg-type]
    return path


def started(checkpoint: Path, head: str, classes: tuple[str, ...], folder: Path) -> tuple[DenseNetwork, str]:
    """The network, and what was said."""
    plain = {**TINY, "overlap": 0, "head_dim": 16}
    recipe = dense_recipe(f"{head}.uniformer_nano", len(classes), plain, init={"checkpoint": str(checkpoint)})
    said: list[str] = []
    with Log(folder, quiet=True) as log:
        log.say = said.append  # type: ignore[method-assign]
        model = initialised(recipe, classes, log, lambda: build_network(recipe.model))
    return model, "\n".join(said)


@pytest.mark.parametrize(
    "head", ["mask_rcnn", pytest.param("cascade_mask_rcnn", marks=pytest.mark.slow), "upernet", "topdown"]
)
def test_classes_in_another_order_bring_their_rows_along(tmp_path: Path, head: Head) -> None:
    path = saved(tmp_path / "net.safetensors", head, ("cat", "dog", "owl"))
    theirs = open_checkpoint(path).weights.whole
    same, said = started(path, head, ("cat", "dog", "owl"), tmp_path)
    assert all(torch.equal(value, theirs[key]) for key, value in same.state_dict().items())
    assert "note: the checkpoint's classes" not in said
    moved, said = started(path, head, ("owl", "cat", "dog"), tmp_path)
    assert "classes in another order" in said
    order = torch.tensor([2, 0, 1])
    own = moved.state_dict()
    for key in class_layers(moved):
        assert torch.equal(own[key], rows_in_order(theirs[key], order)), key
    others, said = started(path, head, ("cat", "dog", "bee"), tmp_path)
    assert "but others: the layers that name them are new" in said
    changed = {key for key, value in others.state_dict().items() if not torch.equal(value, theirs[key])}
    assert changed <= class_layers(others).keys()
    assert len(changed) >= len(class_layers(others)) // 2  # biases begin at zero in both


def test_rows_of_each_kind_of_layer() -> None:
    order = torch.tensor([1, 0])
    assert rows_in_order(torch.tensor([10, 11]), order).tolist() == [11, 10]
    assert rows_in_order(torch.tensor([10, 11, 12]), order).tolist() == [11, 10, 12]  # the last is the background
    assert rows_in_order(torch.arange(8), order).tolist() == [4, 5, 6, 7, 0, 1, 2, 3]


def test_a_classifier_or_another_head_gives_its_backbone(tmp_path: Path) -> None:
    names = tuple(CLASSES)
    for path in (
        save_tiny(tmp_path / "classes.safetensors", VIEWS),
        saved(tmp_path / "fpn.safetensors", "upernet", names),
    ):
        model, said = started(path, "mask_rcnn", names, tmp_path)
        theirs = open_checkpoint(path).weights.state
        own = model.backbone.state_dict()
        assert all(torch.equal(own[key], value) for key, value in theirs.items() if key in own)
        assert "new: " in said

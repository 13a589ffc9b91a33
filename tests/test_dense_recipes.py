"""The shipped recipes of dense networks against literal copies of what the authors' configs set."""

from __future__ import annotations

import math

import pytest

from tests.tiny import refused
from uniformer.checkpoints.contract import Contract
from uniformer.config import PersonCrop, Scaling
from uniformer.reading.dense_options import MULTI_SCALE, DetectionAugment, PoseAugment, SegmentationAugment
from uniformer.tasks import task_of
from uniformer.training.optim import learning_rate
from uniformer.training.recipe import Recipe, effective_lr, load_recipe, recipe_from
from uniformer.training.sections import Schedule

#: recipe: backbone, batch, rate, drop path, precision, whether activations were recomputed
RUNS = {
    "mask_rcnn_1x_xxs": ("xxs", 16, 1e-4, 0.0, "float32", False),
    "mask_rcnn_1x_xs": ("xs", 16, 1e-4, 0.15, "float32", False),
    "mask_rcnn_1x_hybrid_small": ("small_h14", 16, 1e-4, 0.2, "float16", True),
    "mask_rcnn_3x_ms_hybrid_small": ("small_h14", 16, 1e-4, 0.1, "float16", True),
    "mask_rcnn_1x_hybrid_base": ("base_h14", 16, 1e-4, 0.3, "float16", False),
    "mask_rcnn_3x_ms_hybrid_base": ("base_h14", 16, 1e-4, 0.3, "float16", True),
    "cascade_mask_rcnn_3x_ms_hybrid_small": ("small_h14", 16, 1e-4, 0.2, "float16", True),
    "cascade_mask_rcnn_3x_ms_hybrid_base": ("base_h14", 16, 1e-4, 0.4, "float16", True),
    "fpn_xxs": ("xxs", 32, 2e-4, 0.0, "float32", False),
    "fpn_xs": ("xs", 32, 2e-4, 0.1, "float32", False),
    "fpn_hybrid_small": ("small_h14", 32, 2e-4, 0.1, "float32", False),
    "fpn_hybrid_base": ("base_h14", 32, 2e-4, 0.2, "float32", False),
    "fpn_global_small": ("small", 32, 2e-4, 0.1, "float32", False),
    "fpn_global_base": ("base", 32, 2e-4, 0.2, "float32", False),
    "upernet_hybrid_small": ("small_h14", 16, 6e-5, 0.25, "float32", False),
    "upernet_hybrid_base": ("base_h14", 16, 6e-5, 0.4, "float32", True),
    "upernet_global_small": ("small", 16, 6e-5, 0.25, "float32", False),
    "upernet_global_base": ("base", 16, 6e-5, 0.4, "float32", True),
    "top_down_256x192_global_small": ("small", 1024, 2e-3, 0.2, "float16", False),
    "top_down_384x288_global_small": ("small", 1024, 2e-3, 0.2, "float16", False),
    "top_down_448x320_global_small": ("small", 512, 1e-3, 0.2, "float16", False),
    "top_down_256x192_global_base": ("base", 1024, 2e-3, 0.4, "float16", False),
    "top_down_384x288_global_base": ("base", 256, 5e-4, 0.5, "float16", False),
    "top_down_448x320_global_base": ("base", 256, 5e-4, 0.55, "float16", False),
}  # fmt: skip

STARTS = {
    "xxs": "uniformer_xxs.in1k_224", "xs": "uniformer_xs.in1k_224",
    "small": "uniformer_small.in1k", "base": "uniformer_base.in1k",
}  # fmt: skip
#: By the start of a name: head, weight decay and its rule, kind of schedule, its length in epochs or steps, warmup
#: steps and where warmup starts, the epochs after which the rate falls.
FAMILIES = {
    "mask_rcnn_1x": ("mask_rcnn", 0.05, "all but norm", "step", (12, None), (500, 0.001), (8, 11)),
    "mask_rcnn_3x": ("mask_rcnn", 0.05, "all but norm", "step", (36, None), (500, 0.001), (27, 33)),
    "cascade_mask_rcnn_3x": ("cascade_mask_rcnn", 0.05, "all but norm", "step", (36, None), (500, 0.001), (27, 33)),
    "fpn": ("semantic_fpn", 1e-4, "all", "cosine", (None, 80_000), (1000, 0.1), ()),
    "upernet": ("upernet", 0.01, "all but norm", "poly", (None, 160_000), (1500, 1e-6), ()),
    "top_down": ("topdown", 0.01, "all", "step", (210, None), (500, 0.001), (170, 200)),
}
ONCE = DetectionAugment(
    flip=0.5, sides=(800,), longest=1333, crop_prob=0.0, keep_empty=False, smallest=32, most_pixels=None
)


@pytest.mark.parametrize(
    ("arch", "metric"),
    [
        ("mask_rcnn.uniformer_nano", "box_ap"), ("upernet.uniformer_nano", "miou"), ("topdown.uniformer_nano", "ap"),
        ("uniformer_small", "top1"),
    ],
)  # fmt: skip
def test_the_best_epoch_is_by_a_measure_of_the_task(arch: str, metric: str) -> None:
    recipe = recipe_from({"name": "own", "arch": arch})
    assert recipe.keep.metric == metric
    assert metric in task_of(Contract(recipe.model, recipe.arch, recipe.input)).measures
    assert recipe_from({"name": "own", "arch": arch, "keep": {"metric": "loss"}}).keep.metric == "loss"


def family(name: str) -> str:
    return next(start for start in FAMILIES if name.startswith(start))


@pytest.mark.parametrize("name", RUNS)
def test_run_as_published(name: str) -> None:
    recipe = load_recipe(name)
    backbone, batch, rate, drop_path, precision, recomputed = RUNS[name]
    head, decay, rule, kind, (epochs, steps), (warmup, first), falls = FAMILIES[family(name)]
    assert (recipe.arch, recipe.model.head) == (f"{head}.uniformer_{backbone}", head)
    assert recipe.init.checkpoint == STARTS[backbone.removesuffix("_h14")]
    assert (recipe.batch_size, effective_lr(recipe).lr, recipe.model.drop_path) == (batch, rate, drop_path)
    assert (recipe.precision, recipe.loop.grad_checkpointing) == (precision, recomputed)
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.name, optimizer.betas) == ("adamw", (0.9, 0.999))
    assert (optimizer.weight_decay, optimizer.decay) == (decay, rule)
    assert (optimizer.clip_grad, optimizer.layer_decay, recipe.ema.decay) == (None, None, None)
    assert (schedule.kind, schedule.iterations, schedule.steps) == (kind, steps, falls)
    assert epochs in (None, schedule.epochs)
    assert (schedule.warmup_steps, schedule.warmup_factor, schedule.warmup_epochs) == (warmup, first, 0)
    assert recipe.regions == 512
    assert recipe.keep.result == "last"


def test_what_is_done_to_pictures() -> None:
    for name in RUNS:
        augment, spec = load_recipe(name).augment, load_recipe(name).input
        if "rcnn_1x" in name:
            assert augment == ONCE
        elif "rcnn_3x" in name:
            assert augment == MULTI_SCALE
            assert (MULTI_SCALE.sides, MULTI_SCALE.crop_sides, MULTI_SCALE.crop) == (
                tuple(range(480, 801, 32)), (400, 500, 600), (384, 600)
            )  # fmt: skip
        elif "top_down" in name:
            assert isinstance(spec, PersonCrop)
            assert augment == PoseAugment(sigma=2.0 if spec.size == (256, 192) else 3.0)
        else:
            assert augment == SegmentationAugment()
            assert isinstance(spec, Scaling)
            assert (spec.longest, spec.shortest) == (2048, 512)


def test_whose_batch_norms_went_by_all_processes() -> None:
    """Of heads of segmenters and cascades; the pose networks' configs ask for it, and their heads have plain ones."""
    shared = {name for name in RUNS if load_recipe(name).sync_batch_norm}
    assert shared == {name for name in RUNS if family(name) in ("fpn", "upernet", "cascade_mask_rcnn_3x")}


def test_oddities_are_said() -> None:
    notes = {name: " ".join(load_recipe(name).notes) for name in RUNS}
    assert {name for name, said in notes.items() if "not released" in said} == {
        "fpn_hybrid_small", "upernet_hybrid_small", "upernet_hybrid_base"
    }  # fmt: skip
    is_global = {name for name in RUNS if "_global_" in name and "top_down" not in name}
    assert {name for name, said in notes.items() if "global attention" in said} == is_global
    assert all(("recomputed" in said) == load_recipe(name).loop.grad_checkpointing for name, said in notes.items())


# ---- the rate over time ----------------------------------------------------------------------------------------------


def rates(recipe: Recipe, steps: int, *at: int) -> list[float]:
    """The rate of the given steps, counted from 0, of epochs of `steps`."""
    effective = effective_lr(recipe)
    return [learning_rate(n // steps + n % steps / steps, effective, recipe.schedule, steps=steps) for n in at]


def test_the_rate_falls_after_epochs_and_rises_over_steps_before() -> None:
    recipe = load_recipe("mask_rcnn_1x_xxs")
    first, half, warm, ninth, twelfth = rates(recipe, 7330, 0, 250, 500, 8 * 7330, 11 * 7330)
    assert (first, half) == pytest.approx((1e-7, 1e-4 * (0.001 + 0.999 / 2)), rel=1e-12)
    assert (warm, ninth, twelfth) == pytest.approx((1e-4, 1e-5, 1e-6), rel=1e-12)


def test_warmup_multiplies_a_curve_that_has_begun() -> None:
    """As mmcv's `LrUpdaterHook` does: the rate is the curve's at this step, times a factor."""
    poly = load_recipe("upernet_global_small")
    at = (0, 750, 1500, 80_000, 159_999)
    factors = [1e-6 + (1 - 1e-6) * min(n / 1500, 1) for n in at]
    wanted = [6e-5 * (1 - n / 160_000) * factor for n, factor in zip(at, factors, strict=True)]
    assert rates(poly, 1263, *at) == pytest.approx(wanted, rel=1e-9)
    cosine = load_recipe("fpn_xxs")
    at = (0, 500, 1000, 40_000, 79_999)
    factors = [0.1 + 0.9 * min(n / 1000, 1) for n in at]
    curve = [2e-12 + (2e-4 - 2e-12) * 0.5 * (1 + math.cos(math.pi * n / 80_000)) for n in at]
    assert rates(cosine, 631, *at) == pytest.approx([a * b for a, b in zip(curve, factors, strict=True)], rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "step"}, r"schedule\.steps, rising epochs, for schedule\.kind 'step'"),
        ({"steps": (3,)}, r"for no other, got \[3\] for 'cosine'"),
        ({"kind": "step", "steps": (8, 8)}, r"rising epochs"),
        ({"iterations": 10}, r"schedule\.iterations of 1 or more, without warmup_epochs"),
        ({"iterations": 0, "warmup_epochs": 0.0}, r"schedule\.iterations of 1 or more"),
        ({"warmup_steps": 5}, r"one of warmup_steps and warmup_epochs, got 5 and 5"),
        ({"warmup_factor": 0.0}, r"warmup_factor and schedule\.factor in \(0, 1\]"),
        ({"kind": "poly", "power": 0.0}, r"positive schedule\.power"),
    ],
)
def test_schedules_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with refused(message):
        Schedule(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("mask_rcnn_1x_xs", "augment.side=[300]", r"unknown setting 'augment\.side' \(did you mean 'augment\.sides'"),
        ("mask_rcnn_1x_xs", "augment.rand_augment=none", r"unknown setting 'augment\.rand_augment'"),
        ("mask_rcnn_1x_xs", "augment.sides=[900, 1400]", r"expected longest from the longest of the short sides"),
        ("mask_rcnn_1x_xs", "mixing.prob=0.5", r"mixing: expected no such settings for detection: they are of classif"),
        ("mask_rcnn_1x_xs", "regions=2", r"expected regions of 4 or more, got 2$"),
        ("fpn_xxs", "regions=64", r"regions: expected no such settings for segmentation: they are of detection$"),
        ("fpn_xxs", "loss.kind=bce", r"loss: expected no such settings for segmentation"),
        ("fpn_xxs", "data.separator=comma", r"data\.separator: expected no such setting for segmentation: it is of"),
        ("fpn_xxs", "input.size=512", r"unknown setting 'input\.size'"),
        ("fpn_xxs", "augment.crop=[500, 500]", r"expected crop as multiples of 32"),
        ("fpn_xxs", "augment.colour.hues=3", r"setting 'augment\.colour\.hues' \(did you mean 'augment\.colour\.hue'"),
        ("top_down_256x192_global_small", "input.size=[250, 192]", r"multiples of 32"),
        ("fpn_xxs", "hardest=0", r"expected hardest above 0, up to 1, got 0.0$"),
        ("mask_rcnn_1x_xs", "hardest=0.2", r"hardest: expected no such settings for detection: they are of segment"),
        ("uniformer_small", "regions=64", r"regions: expected no such settings for classification"),
        ("uniformer_small", "augment.sides=[800]", r"unknown setting 'augment\.sides'"),
        ("fpn_xxs", "arch=mask_rcnn.uniformer_xxs", r"unknown setting 'augment\."),
    ],
)  # fmt: skip
def test_a_bad_setting_is_one_line(name: str, override: str, message: str) -> None:
    with refused(message):
        load_recipe(name, [override])

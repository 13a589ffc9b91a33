"""The shipped recipes against literal copies of what the authors' configs and scripts set."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.test_dense_recipes import RUNS as DENSE
from uniformer.checkpoints.records import get_checkpoint, list_checkpoints
from uniformer.errors import InputError
from uniformer.labels import load_classes
from uniformer.training.recipe import Recipe, effective_lr, list_recipes, load_recipe
from uniformer.training.run import open_for_recipe

R7, R5, R9 = "rand-m7-n4-mstd0.5-inc1", "rand-m5-n2-mstd0.25", "rand-m9-mstd0.5-inc1"

# recipe: batch, rate the optimizer sees on the published machines, epochs, warmup epochs, drop path, operations,
# sampling as frames[xstride] at pixels, clips x crops
RUNS = {
    # ImageNet, plain and light
    "uniformer_small": (1024, 1.0e-3, 300, 5, 0.1, R9, "1@224 1x1"),
    "uniformer_small_plus": (1024, 1.0e-3, 300, 5, 0.1, R9, "1@224 1x1"),
    "uniformer_small_plus_dim64": (1024, 1.0e-3, 300, 5, 0.1, R9, "1@224 1x1"),
    "uniformer_base": (1024, 8.0e-4, 300, 5, 0.3, R9, "1@224 1x1"),
    "uniformer_base_ls": (1024, 8.0e-4, 300, 5, 0.3, R9, "1@224 1x1"),
    "xxs_128": (4096, 3.2e-3, 600, 30, 0.0, "v0", "1@128 1x1"),
    "xxs_160": (4096, 3.2e-3, 600, 30, 0.0, "v0", "1@160 1x1"),
    "xxs_192": (4096, 3.2e-3, 600, 30, 0.0, "v0", "1@192 1x1"),
    "xxs_224": (4096, 3.2e-3, 600, 30, 0.0, "v0", "1@224 1x1"),
    "xs_192": (4096, 4.0e-3, 600, 30, 0.1, R9, "1@192 1x1"),
    "xs_224": (4096, 4.0e-3, 600, 30, 0.1, R9, "1@224 1x1"),
    # ImageNet, token labeling
    "uniformer_small_tl_224": (1024, 1.6e-3, 300, 5, 0.1, R9, "1@224 1x1"),
    "uniformer_small_plus_tl_224": (1024, 1.6e-3, 300, 5, 0.1, R9, "1@224 1x1"),
    "uniformer_base_tl_224": (1024, 1.6e-3, 300, 5, 0.3, R9, "1@224 1x1"),
    "uniformer_large_ls_tl_224": (1024, 1.2e-3, 300, 5, 0.4, R9, "1@224 1x1"),
    "uniformer_small_dim64_tl_224": (1024, 1.6e-3, 300, 5, 0.1, R9, "1@224 1x1"),
    "uniformer_small_plus_dim64_tl_224": (1024, 1.6e-3, 300, 5, 0.1, R9, "1@224 1x1"),
    "uniformer_base_dim64_tl_224": (1024, 1.6e-3, 300, 5, 0.3, R9, "1@224 1x1"),
    "uniformer_small_tl_384": (512, 5.0e-6, 50, 0, 0.1, R9, "1@384 1x1"),
    "uniformer_small_plus_tl_384": (512, 5.0e-6, 50, 0, 0.1, R9, "1@384 1x1"),
    "uniformer_base_tl_384": (512, 5.0e-6, 50, 0, 0.3, R9, "1@384 1x1"),
    "uniformer_large_ls_tl_384": (256, 5.0e-6, 50, 0, 0.3, R9, "1@384 1x1"),
    # Kinetics
    "uniformer_s8x8_k400": (128, 4.0e-4, 100, 10, 0.1, R7, "8x8@224 4x1"),
    "uniformer_s16x4_k400": (32, 1.0e-4, 110, 10, 0.1, R7, "16x4@224 4x1"),
    "uniformer_s16x8_k400": (32, 1.0e-4, 110, 10, 0.1, R7, "16x8@224 4x1"),
    "uniformer_s32x4_k400": (32, 1.0e-4, 110, 10, 0.1, R7, "32x4@224 4x1"),
    "uniformer_b8x8_k400": (64, 2.0e-4, 100, 10, 0.3, R7, "8x8@224 4x1"),
    "uniformer_b16x4_k400": (40, 1.25e-4, 110, 10, 0.3, R7, "16x4@224 4x1"),
    "uniformer_b16x8_k400": (40, 1.25e-4, 110, 10, 0.3, R7, "16x8@224 4x1"),
    "uniformer_b32x4_k400": (32, 1.0e-4, 110, 10, 0.3, R7, "32x4@224 4x1"),
    "uniformer_s16x4_k600": (96, 3.0e-4, 110, 10, 0.1, R7, "16x4@224 4x1"),
    "uniformer_s16x8_k600": (32, 1.0e-4, 110, 10, 0.1, R7, "16x8@224 4x1"),
    "uniformer_b16x4_k600": (40, 1.25e-4, 110, 10, 0.3, R7, "16x4@224 4x1"),
    "uniformer_b16x8_k600": (32, 1.25e-4, 110, 10, 0.3, R7, "16x8@224 4x1"),
    "uniformer_b32x4_k600": (128, 4.0e-4, 110, 10, 0.3, R7, "32x4@224 4x1"),  # on 4 machines
    # Something-Something
    "uniformer_s16_sthv1_prek400": (32, 2.0e-4, 60, 5, 0.2, R7, "16@224 1x3"),
    "uniformer_s16_sthv1_prek600": (32, 2.0e-4, 60, 5, 0.2, R7, "16@224 1x3"),
    "uniformer_s32_sthv1_prek400": (32, 2.0e-4, 60, 5, 0.2, R7, "32@224 1x3"),
    "uniformer_s32_sthv1_prek600": (32, 2.0e-4, 60, 5, 0.3, R7, "32@224 1x3"),
    "uniformer_b16_sthv1_prek400": (40, 2.5e-4, 60, 5, 0.6, R7, "16@224 1x3"),
    "uniformer_b16_sthv1_prek600": (40, 2.5e-4, 60, 5, 0.5, R7, "16@224 1x3"),
    "uniformer_b32_sthv1_prek400": (32, 2.0e-4, 60, 5, 0.6, R7, "32@224 1x3"),
    "uniformer_b32_sthv1_prek600": (32, 2.0e-4, 60, 5, 0.6, R7, "32@224 1x3"),
    "uniformer_s16_sthv2_prek400": (32, 2.0e-4, 50, 5, 0.3, R7, "16@224 1x3"),
    "uniformer_s16_sthv2_prek600": (32, 2.0e-4, 50, 5, 0.3, R7, "16@224 1x3"),
    "uniformer_s32_sthv2_prek400": (32, 2.0e-4, 50, 5, 0.3, R7, "32@224 1x3"),
    "uniformer_s32_sthv2_prek600": (32, 2.0e-4, 50, 5, 0.3, R7, "32@224 1x3"),
    "uniformer_b16_sthv2_prek400": (40, 2.5e-4, 50, 5, 0.4, R7, "16@224 1x3"),
    "uniformer_b16_sthv2_prek600": (40, 2.5e-4, 50, 5, 0.5, R7, "16@224 1x3"),
    "uniformer_b32_sthv2_prek400": (32, 2.0e-4, 50, 5, 0.5, R7, "32@224 1x3"),
    "uniformer_b32_sthv2_prek600": (32, 2.0e-4, 50, 5, 0.5, R7, "32@224 1x3"),
    # UCF101, HMDB51
    "uniformer_s16x4_hmdb51_prek400": (128, 5.0e-5, 25, 5, 0.2, R5, "16x4@224 5x3"),
    "uniformer_s16x4_ucf101_prek400": (128, 5.0e-5, 25, 5, 0.2, R5, "16x4@224 5x3"),
    # light Kinetics
    "uniformer_xs32_192_k400": (128, 4.0e-4, 110, 10, 0.1, R7, "32@192 1x1"),
    "uniformer_xxs16_128_k400": (256, 8.0e-4, 110, 10, 0.05, R5, "16@128 1x1"),
    "uniformer_xxs16_160_k400": (256, 8.0e-4, 110, 10, 0.05, R5, "16@160 1x1"),
    "uniformer_xxs32_160_k400": (256, 8.0e-4, 110, 10, 0.05, R5, "32@160 1x1"),
    "uniformer_xxs4_128_k400": (256, 4.0e-4, 110, 10, 0.05, "rand", "4@128 1x1"),
    "uniformer_xxs4_160_k400": (256, 4.0e-4, 110, 10, 0.05, "rand", "4@160 1x1"),
    "uniformer_xxs8_128_k400": (256, 4.0e-4, 110, 10, 0.05, "rand", "8@128 1x1"),
    "uniformer_xxs8_160_k400": (256, 4.0e-4, 110, 10, 0.05, R5, "8@160 1x1"),
}

# What whole families share, as full settings; a `*` name stands for every recipe that matches.
SHARED = {
    "uniformer_{small,small_plus,small_plus_dim64,base,base_ls}": {
        "precision": "float16", "seed": 0, "init.checkpoint": None, "data.repeated_augmentation": 3,
        "augment.repeats": 1, "augment.interpolation": "bicubic", "augment.flip": 0.5, "mixing.prob": 1.0,
        "mixing.mixup_alpha": 0.8, "mixing.cutmix_alpha": 1.0, "mixing.label_smoothing": 0.1,
        "loss.kind": "soft_target", "optimizer.weight_decay": 0.05, "optimizer.clip_grad": None,
        "schedule.min_lr": 1e-5, "schedule.warmup_lr": 1e-6, "schedule.per": "epoch", "schedule.late": True,
        "schedule.cooldown_epochs": 0, "ema.decay": 0.99996, "ema.evaluate": False, "keep.result": "best",
    },
    "{xxs,xs}_*": {
        "precision": "float32", "data.repeated_augmentation": 1, "loss.kind": "two_head", "schedule.late": True,
        "ema.decay": 0.9999, "ema.evaluate": True, "mixing.prob": 1.0, "keep.result": "best",
    },
    "xxs_*": {"optimizer.weight_decay": 0.1},
    "xs_*": {"optimizer.weight_decay": 0.05},
    "*_tl_224": {
        "precision": "float16", "optimizer.weight_decay": 0.05, "ema.decay": 0.99992, "init.checkpoint": None,
        "schedule.min_lr": 1e-5, "schedule.kind": "cosine",
    },
    "*_tl_{224,384}": {
        "mixing.prob": 0.0, "mixing.label_smoothing": 0.1, "loss.kind": "token_labeling", "augment.flip": 0.5,
        "augment.interpolation": "random", "augment.erase_prob": 0.25, "schedule.late": False,
        "schedule.cooldown_epochs": 10, "data.repeated_augmentation": 1, "optimizer.clip_grad": None,
    },
    "*_tl_384": {"optimizer.weight_decay": 1e-8, "ema.decay": None, "schedule.kind": "constant"},
    "uniformer_*_{k400,k600,prek400,prek600}": {
        "precision": "float16", "init.inflate": "mean", "data.repeated_augmentation": 1, "augment.repeats": 2,
        "augment.op_interpolation": "bicubic", "augment.interpolation": "bilinear", "augment.scale": (0.08, 1.0),
        "augment.jitter_scales": None, "augment.color_jitter": None, "augment.erase_prob": 0.25,
        "augment.erase_mode": "pixel", "mixing.mixup_alpha": 0.8, "mixing.cutmix_alpha": 1.0, "mixing.prob": 1.0,
        "mixing.switch_prob": 0.5, "mixing.mode": "batch", "mixing.label_smoothing": 0.1,
        "optimizer.betas": (0.9, 0.999), "optimizer.eps": 1e-8, "optimizer.clip_grad": 20.0, "model.dropout": 0.0,
        "schedule.warmup_lr": 1e-6, "schedule.min_lr": 1e-6, "schedule.per": "step", "schedule.late": False,
        "ema.decay": None,
    },
    "uniformer_[sb]*_k?00": {
        "seed": 6666, "augment.flip": 0.5, "loss.kind": "soft_target", "optimizer.weight_decay": 0.05,
        "keep.result": "last", "optimizer.lr_rule": "nodes", "input.channels": "rgb", "attention_float32": False,
    },
    "uniformer_*_sthv?_*": {
        "augment.flip": 0.0, "keep.result": "last", "input.channels": "bgr", "input.sampling": "sparse",
        "optimizer.weight_decay": 0.05, "optimizer.lr_rule": "nodes",
    },
    "uniformer_s*_sthv?_*": {"seed": 0},
    "uniformer_b*_sthv?_*": {"seed": 6666},
    "uniformer_*_{ucf101,hmdb51}_*": {
        "augment.flip": 0.5, "keep.result": "best", "optimizer.lr_rule": "none", "loop.eval_every": 1,
        "optimizer.weight_decay": 0.05, "seed": 6666,
    },
    "uniformer_{xxs,xs}*_k400": {"loss.kind": "two_head", "keep.result": "best", "augment.flip": 0.5},
    "uniformer_xxs*_k400": {"optimizer.weight_decay": 0.1},
    "uniformer_xs*_k400": {"optimizer.weight_decay": 0.05},
    "uniformer_xxs32_160_k400": {"attention_float32": False},
    "uniformer_xxs16_*_k400": {"attention_float32": True, "seed": 66666},
}  # fmt: skip


def expand(pattern: str) -> list[str]:
    """Names that match a shell pattern with {a,b} alternatives."""
    if "{" not in pattern:
        return list_recipes(pattern)
    head, rest = pattern.split("{", 1)
    options, tail = rest.split("}", 1)
    return [name for option in options.split(",") for name in expand(head + option + tail)]


def setting(recipe: Recipe, key: str) -> object:
    value: object = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


# ---- the published runs ----------------------------------------------------------------------------------------------


OWN = ["uniformer_nano_camera_motion"]  # not published by the authors


def test_the_shipped_runs_are_these() -> None:
    assert list_recipes() == sorted([*RUNS, *DENSE, *OWN])
    assert list_recipes("*ucf*") == ["uniformer_s16x4_ucf101_prek400"]


@pytest.mark.parametrize("name", RUNS)
def test_run_as_published(name: str) -> None:
    recipe = load_recipe(name)
    batch, lr, epochs, warmup, drop_path, operations, views = RUNS[name]
    rates = effective_lr(recipe, nodes=4 if name == "uniformer_b32x4_k600" else 1)
    assert (recipe.batch_size, rates.lr) == (batch, pytest.approx(lr, rel=1e-12))
    assert (recipe.schedule.epochs, recipe.schedule.warmup_epochs) == (epochs, warmup)
    assert (recipe.model.drop_path, recipe.augment.rand_augment) == (drop_path, operations)
    spec = recipe.input
    frames = f"{spec.frames}x{spec.stride}" if spec.sampling == "dense" else str(spec.frames)
    assert f"{frames}@{spec.size[0]} {spec.clips}x{spec.crops}" == views
    assert spec.size[0] == spec.size[1]


@pytest.mark.parametrize("pattern", SHARED)
def test_settings_of_a_family(pattern: str) -> None:
    names = expand(pattern)
    assert names
    for name in names:
        recipe = load_recipe(name)
        assert {key: setting(recipe, key) for key in SHARED[pattern]} == SHARED[pattern], name


@pytest.mark.parametrize("id", [id for id in list_checkpoints() if get_checkpoint(id).input is not None])
def test_every_record_has_its_recipe(id: str) -> None:
    record = get_checkpoint(id)
    recipe = load_recipe(record.recipe)
    assert recipe.published == id
    assert recipe.record is record
    assert (recipe.arch, recipe.data.dataset, recipe.init.checkpoint) == (record.arch, record.dataset, record.init)
    assert recipe.input == record.input
    assert replace(recipe.model, drop_path=0.0) == record.config
    assert recipe.title


def test_rates_of_the_run_on_four_machines() -> None:
    rates = effective_lr(load_recipe("uniformer_b32x4_k600"), nodes=4)
    assert (rates.lr, rates.warmup_lr, rates.min_lr) == pytest.approx((4e-4, 4e-6, 4e-6), rel=1e-12)
    assert rates.sentence == "learning rate 0.0004, 0.0001 x 4 machines, for a batch of 128"


# ---- the learning rate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides", "nodes", "lr", "sentence"),
    [
        ("uniformer_small", [], 1, 1e-3, "learning rate 0.001 = 0.0005 x batch 1024 / 512"),
        ("uniformer_small", ["batch_size=64"], 2, 6.25e-5, "learning rate 6.25e-05 = 0.0005 x batch 64 / 512"),
        ("uniformer_s16x4_k400", [], 1, 1e-4, "learning rate 0.0001, as written, for a batch of 32"),
        ("uniformer_s16x4_k400", ["batch_size=8"], 1, 1e-4,
         "learning rate 0.0001, as written, for a batch of 32; this run's batch is 8, for which "
         "optimizer.lr_rule=batch would give 2.5e-05"),
        ("uniformer_s16x4_k400", ["batch_size=8", "optimizer.lr_rule=batch"], 1, 2.5e-5,
         "learning rate 2.5e-05 = 0.0001 x batch 8 / 32"),
        ("uniformer_s16x4_k400", ["batch_size=64"], 2, 2e-4,
         "learning rate 0.0002, 0.0001 x 2 machines, for a batch of 64"),
        ("uniformer_s16x4_ucf101_prek400", [], 4, 5e-5, "learning rate 5e-05, as written, for a batch of 128"),
        ("uniformer_base_tl_384", [], 2, 5e-6, "learning rate 5e-06, as written, for a batch of 512"),
    ],
)  # fmt: skip
def test_effective_rate_in_words(name: str, overrides: list[str], nodes: int, lr: float, sentence: str) -> None:
    rates = effective_lr(load_recipe(name, overrides), nodes=nodes)
    assert rates.lr == pytest.approx(lr, rel=1e-12)
    assert rates.sentence == sentence


def test_only_the_rule_of_machines_scales_the_ends() -> None:
    image = load_recipe("uniformer_small", ["batch_size=8192"])
    assert (effective_lr(image).warmup_lr, effective_lr(image).min_lr) == (1e-6, 1e-5)
    clips = effective_lr(load_recipe("uniformer_s16x4_k400"), nodes=2)
    assert (clips.warmup_lr, clips.min_lr) == (2e-6, 2e-6)


def test_no_machines() -> None:
    with pytest.raises(InputError, match=r"^expected at least one machine, got 0$"):
        effective_lr(load_recipe("uniformer_s16x4_k400"), nodes=0)


def test_batch_per_process() -> None:
    recipe = load_recipe("uniformer_s16x4_k400", ["optimizer.accumulate=2"])
    assert recipe.batch_per_process(8) == 2
    with pytest.raises(InputError, match=r"divides by 3 processes x 2 accumulated passes, got 32"):
        recipe.batch_per_process(3)


# ---- the package and its pages ---------------------------------------------------------------------------------------


def test_listing_and_loading_need_no_torch() -> None:
    code = (
        "import sys; from uniformer.training.recipe import *; "
        "r = [load_recipe(n) for n in list_recipes()]; print(len(r));"
        "print([m for m in ('torch', 'torchvision', 'timm', 'numpy', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [str(len(RUNS) + len(DENSE) + len(OWN)), "[]"]


def test_the_page_is_up_to_date() -> None:
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "recipes.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(docs / "make_recipes.py"))["updated"](page) == page


def test_the_examples_of_the_page_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    promised = re.findall(r"sentence\)  # (.*)", code)
    assert capsys.readouterr().out.splitlines()[-1:] == promised
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "birds.toml").write_text(example)
    recipe = load_recipe(tmp_path / "birds.toml")
    assert effective_lr(recipe).lr == 5e-5
    assert recipe.model.num_classes == 25
    bases = {
        path.stem for path in (Path(__file__).parents[1] / "uniformer" / "assets" / "recipes" / "bases").glob("*.toml")
    }
    listed = page.split("holds what the published runs share:")[1].split("Every setting")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == bases


def test_the_data_set_of_a_recipe_names_the_classes_and_their_order(tmp_path: Path) -> None:
    """A folder with a few of the classes of Kinetics gets the rows that the published classifiers have for them."""
    names = load_classes("Kinetics-400")
    few = [names[7], names[3], names[350]]
    for split in ("train", "val"):
        for name in few:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "a.mp4").touch()
    data = ["data.train=train", "data.val=val", f"data.root={tmp_path}"]
    for part in open_for_recipe(load_recipe("uniformer_s16x4_k400", data)):
        assert part is not None
        assert part.classes == names
        assert sorted(part.labels.tolist()) == [3, 7, 350]
    for part in open_for_recipe(
        load_recipe("uniformer_nano_camera_motion", data)
    ):  # no list of these: as they are found
        assert part is not None
        assert part.classes == tuple(sorted(few))

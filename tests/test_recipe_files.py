"""Recipe files, overrides and writing: what works, and one line for every way to get it wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from uniformer.errors import InputError
from uniformer.support.settings import from_table, merged, parse_override, to_toml
from uniformer.training.recipe import Recipe, list_recipes, load_recipe, resolved

# ---- files and bases -------------------------------------------------------------------------------------------------


def test_a_file_on_top_of_a_published_run(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'base = "uniformer_s16x4_k400"\nmodel.num_classes = 7\n[data]\nroot = "/videos"\ntrain = "t.csv"\n'
    )
    (tmp_path / "longer.toml").write_text('base = "mine.toml"\ninput = { frames = 32 }\n')
    published, mine, longer = map(
        load_recipe, ("uniformer_s16x4_k400", str(tmp_path / "mine.toml"), tmp_path / "longer.toml")
    )
    assert (mine.name, mine.title, mine.published, mine.record, mine.notes) == ("mine", "", None, None, ())
    assert longer.name == "longer"
    assert (longer.model.num_classes, longer.data.root, longer.input.frames) == (7, "/videos", 32)
    assert longer.optimizer == published.optimizer
    assert longer.data.dataset == published.data.dataset  # sections merge, they do not replace


def test_notes_and_scores_are_not_inherited(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "uniformer_s16x4_hmdb51_prek400"')
    assert load_recipe("uniformer_s16x4_hmdb51_prek400").notes
    assert load_recipe(tmp_path / "mine.toml").notes == ()


def test_a_file_without_base(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('arch = "uniformer_xxs_video"\ninput.size = 96')
    recipe = load_recipe(tmp_path / "own.toml")
    assert (recipe.input.size, recipe.input.resize, recipe.input.sampling) == ((96, 96), 96, "sparse")


def test_a_relative_path_without_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.toml").write_text('base = "uniformer_small"')
    monkeypatch.chdir(tmp_path)
    assert load_recipe("own.toml").name == "own"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": 'base = "b.toml"', "b": 'base = "a.toml"'}, r"circular base: \S+a\.toml -> \S+b\.toml -> \S+a\.toml$"),
        ({"a": 'base = "./a.toml"'}, r"circular base: \S+a\.toml -> \S+a\.toml$"),
        ({"a": 'base = "gone.toml"'}, r"gone\.toml: expected a recipe, found no readable file: no such file or d"),
        ({"a": 'base = "uniformer_s16x4_k40"'}, r"unknown recipe \S+ \(did you mean 'uniformer_s16x4_k400' or "),
        ({"a": "base = 3"}, r"a\.toml: expected base as the name or path of a recipe, got 3$"),
        ({"a": "arch = "}, r"a\.toml is not TOML: "),
        ({"a": "batch_size = 8"}, r"recipe a: expected arch, the name of an architecture, got none$"),
        ({"a": 'arch = "uniformer_smal"'}, r"recipe a: unknown model \S+ \(did you mean 'uniformer_small' or "),
        ({"a": 'base = "image"\narch = "uniformer_small"\ndrop_path = 0.1'},
         r"recipe a: unknown setting 'drop_path' \(did you mean 'model\.drop_path'\?\)$"),
        ({"a": 'base = "image"\narch = "uniformer_small"\n[optimiser]\nlr = 0.1'},
         r"recipe a: unknown setting 'optimiser\.lr' \(did you mean 'optimizer\.lr'\?\)$"),
        ({"a": 'base = "uniformer_small"\nmodel = 3'}, r"recipe a: model: expected a table, got 3$"),
        ({"a": 'base = "uniformer_small"\ninput = "x"'}, r"recipe a: input: expected a table, got 'x'$"),
        ({"a": 'base = "uniformer_small"\nloss = []'}, r"recipe a: loss: expected a table, got \[\] \(a list\)$"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(tmp_path / "a.toml")
    assert "\n" not in str(caught.value)


WHOLE = ("batch_size", "epochs", "data.workers", "seed", "input.frames", "keep.every", "optimizer.accumulate")


@pytest.mark.parametrize(
    "setting", [f"{key}={number}" for key in WHOLE for number in (-1, 10**30, "1e30", "nan", "inf")]
)
def test_whole_numbers_out_of_range_are_one_line(setting: str) -> None:
    with pytest.raises(InputError, match=r"expected") as caught:
        load_recipe("uniformer_s16x4_k400", [setting])
    assert str(caught.value).isprintable()


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"a\xff")
    with pytest.raises(InputError, match=r"a\.toml: expected a recipe, found no UTF-8 at byte 1$"):
        load_recipe(tmp_path / "a.toml")


# ---- overrides -------------------------------------------------------------------------------------------------------


def test_overrides() -> None:
    recipe = load_recipe(
        "uniformer_s16x4_k400",
        ["data.root=/my videos", "lr=5e-5", "epochs=20", "batch_size=64", "input.size=160", "augment.rand_augment=none",
         "optimizer.betas=[0.9, 0.98]", "optimizer.freeze=['backbone']", "loop.compile=true", "optimizer.clip_grad=1",
         "ema={decay = 0.99}", "model.depths=[1, 1, 1, 1]", "batch_size=16"],
    )  # fmt: skip
    assert recipe.data.root == "/my videos"
    assert (recipe.optimizer.lr, recipe.schedule.epochs, recipe.batch_size) == (5e-5, 20, 16)  # the last one wins
    assert (recipe.input.size, recipe.input.resize) == ((160, 160), 160)  # the short side follows the size
    assert recipe.augment.rand_augment is None
    assert recipe.optimizer.betas == (0.9, 0.98)
    assert recipe.optimizer.freeze == ("backbone",)
    assert type(recipe.optimizer.clip_grad) is float
    assert recipe.ema.decay == 0.99
    assert recipe.model.depths == (1, 1, 1, 1)
    assert recipe.loop.compile is True


def test_words_that_are_no_toml_are_text() -> None:
    assert parse_override("data.root=/x=y z") == ("data.root", "/x=y z")
    assert parse_override("data.root = '2024'") == ("data.root", "2024")
    assert parse_override("data.root=a\nb = 1") == ("data.root", "a\nb = 1")
    assert parse_override("seed=1\nlr = 2") == ("seed", "1\nlr = 2")  # one override sets one thing
    assert parse_override("data.root=") == ("data.root", "")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", r"expected an override such as optimizer\.lr=1e-4, got 'lr'$"),
        ("=3", r"expected an override such as optimizer\.lr=1e-4, got '=3'$"),
        ("optimizer..lr=3", r"expected an override such as"),
        ("optimizer.lrr=1", r"unknown setting 'optimizer\.lrr' \(did you mean 'optimizer\.lr'"),
        ("epoch=1", r"unknown setting 'epoch' \(did you mean 'schedule\.epochs'\?\)$"),
        ("batchsize=1", r"unknown setting 'batchsize' \(did you mean 'batch_size'\?\)$"),
        ("weight_decay=1", r"unknown setting 'weight_decay' \(did you mean 'optimizer\.weight_decay'\?\)$"),
        ("base=video", r"unknown setting 'base'"),
        ("augment.flip.x=1", r"unknown setting 'augment\.flip\.x'"),
        ("seed=1.5", r"seed: expected a whole number, got 1\.5 \(a number\)$"),
        ("seed=true", r"seed: expected a whole number, got true \(true or false\)$"),
        ("loop.compile=1", r"loop\.compile: expected true or false, got 1 \(a whole number\)$"),
        ("lr=fast", r"optimizer\.lr: expected a number, got 'fast' \(text\)$"),
        ("lr=none", r"optimizer\.lr: expected a number, got 'none' \(text\)$"),
        ("data.root=2024", r"data\.root: expected text, got 2024 \(a whole number\): quote it, as in '\"2024\"'$"),
        ("data.train=2024-01-02", r"data\.train: expected text, got 2024-01-02: quote it, as in '\"2024-01-02\"'$"),
        ("loss.kind=mse", r"loss\.kind: expected 'soft_target' or 'two_head' or 'token_labeling' or 'bce', got 'mse'"),
        ("input.crops=1.0", r"input\.crops: expected 1 or 3, got 1\.0 \(a number\)$"),
        ("input.size=[224]", r"input\.size: expected a list of 2, got \[224\]"),
        ("input.size=[1, 'x']", r"input\.size\[1\]: expected a whole number, got 'x' \(text\)$"),
        ("input.resize=100", r"expected a short side of at least the crop \(224, 224\), got 100$"),
        ("augment.scale=0.5", r"augment\.scale: expected a list, got 0\.5 \(a number\)$"),
        ("augment.flip=2", r"expected flip in \[0, 1\], got 2"),
        ("lr=-1", r"expected a positive optimizer\.lr, got -1"),
        ("lr=nan", r"expected a positive optimizer\.lr, got nan"),
        ("lr=inf", r"expected a positive optimizer\.lr, got inf"),
        ("epochs=10", r"expected schedule\.warmup_epochs below the 10 epochs, got 10"),
        ("optimizer.accumulate=5", r"expected a batch_size that optimizer\.accumulate 5 divides, got 32$"),
        ("arch=uniformer_small", r"uniformer_small is for images"),
        ("loss.kind=two_head", r"'two_head' needs a light \(hourglass\) model, got uniformer_small_video$"),
        ("loss.kind=token_labeling", r"'token_labeling' needs a model with token labeling, got uniformer_small_video$"),
        ("ema.evaluate=true", r"ema\.evaluate needs an ema\.decay$"),
        ("model.drop_path=1.5", r"expected drop_path in \[0, 1\], got 1\.5$"),
    ],
)
def test_a_bad_override_is_one_line(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_recipe("uniformer_s16x4_k400", [override])
    assert "\n" not in str(caught.value)


def test_token_labeling_does_not_mix_twice() -> None:
    with pytest.raises(InputError, match=r"set mixing\.prob to 0$"):
        load_recipe("uniformer_small_tl_224", ["mixing.prob=1"])


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_resolved_loads_back_to_the_same_recipe(tmp_path: Path) -> None:
    path = tmp_path / "whole.toml"
    for name in list_recipes():
        recipe = load_recipe(name)
        path.write_text(resolved(recipe), encoding="utf-8")
        assert load_recipe(path) == recipe


def test_resolved_keeps_odd_values(tmp_path: Path) -> None:
    odd = 'a "b" \\ \t \n \x7f \x01 é 漢 \U0001f600 none'
    recipe = load_recipe("uniformer_small", ["input.size=[160, 96]", "data.workers=0", "optimizer.freeze=['stages.0']"])
    recipe = replace(recipe, data=replace(recipe.data, root=odd), title=odd, notes=("none", ""), seed=7)
    (tmp_path / "whole.toml").write_text(resolved(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "whole.toml") == recipe


def test_resolved_follows_another_architecture(tmp_path: Path) -> None:
    (tmp_path / "whole.toml").write_text(resolved(load_recipe("uniformer_small")))
    assert load_recipe(tmp_path / "whole.toml", ["arch=uniformer_base"]).model.depths == (5, 8, 20, 7)


def test_settings_alone() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "d": {"e": 5}}) == {
        "a": {"b": 1, "c": 4},
        "d": {"e": 5},
    }
    assert to_toml({"b": {"x": None}, "a": (1, 2.5, True)}) == 'a = [1, 2.5, true]\n\n[b]\nx = "none"\n'
    assert from_table(Recipe, {}, base=load_recipe("xxs_128")) == load_recipe("xxs_128")

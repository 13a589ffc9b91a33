"""Training on one's own data: what is held out, which settings are heeded, what is said of it, what is left behind."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.command_line import Cli, one_line
from tests.tiny import IMAGES, refused, save_tiny
from tests.training_runs import CLIPS, make_images, recipe, recipe_file
from uniformer.datasets.open import open_dataset
from uniformer.reading.options import Augment
from uniformer.training.recipe import load_recipe, recipe_from

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/CLASS/*.png, eight of each of two classes; others/train and others/val; a network beside them."""
    folder = tmp_path_factory.mktemp("own")
    make_images(folder / "others")
    shutil.copytree(folder / "others" / "train", folder / "data")
    for part, names in (("train", range(6)), ("val", range(6, 8))):
        rows = [f"{name}/{i}.png,{name}" for name in ("blue", "red") for i in names]
        (folder / f"{part}.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    save_tiny(folder / "net.safetensors", IMAGES)
    return folder


@pytest.fixture
def train(own: Path, tmp_path: Path, cli: Cli):  # type: ignore[no-untyped-def]
    def called(data: str, *settings: str, out: str = "run"):  # type: ignore[no-untyped-def]
        start = ["--checkpoint", own / "net.safetensors", "--device", "cpu", "data.workers=0"]
        return cli("train", own / data, *start, "--out", tmp_path / out, *settings)

    return called


# ---- what is held out ------------------------------------------------------------------------------------------------


def test_one_sample_a_class_is_refused_before_the_work(own: Path, tmp_path: Path, train, cli: Cli) -> None:  # type: ignore[no-untyped-def]
    for name in ("blue", "red"):
        (own / "one" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(own / "data" / name / "0.png", own / "one" / name)
    one_line(train("one"), "no validation split", "found 2 of 2 classes", "data.val=")
    assert not list(tmp_path.iterdir())
    shutil.copy(own / "data" / "red" / "1.png", own / "one" / "red")
    shutil.copy(own / "data" / "red" / "2.png", own / "one" / "red")
    shutil.copy(own / "data" / "red" / "3.png", own / "one" / "red")
    ended = train("one")
    assert ended.status == 0
    assert "1 of 5 samples held out, by class, of 1 of 2 classes" in ended.out


def test_what_is_validated_on_without_a_training_sample_is_said(own: Path, tmp_path: Path, train) -> None:  # type: ignore[no-untyped-def]
    slip = shutil.copytree(own / "others", own / "slip", dirs_exist_ok=True)
    (slip / "val" / "red").rename(slip / "val" / "rde")
    ended = train("slip")
    assert ended.status == 0
    assert "note: validated on without a training sample: 1 class, 'rde'" in ended.out


# ---- settings of the data --------------------------------------------------------------------------------------------


def test_data_val_and_data_root_are_obeyed(own: Path, tmp_path: Path, train) -> None:  # type: ignore[no-untyped-def]
    (own / "deep" / "er").mkdir(parents=True, exist_ok=True)
    shutil.copy(own / "train.csv", own / "deep" / "er" / "list.csv")
    lists = [f"data.root={own / 'data'}", f"data.val={own / 'val.csv'}"]
    said = train("deep/er/list.csv", *lists)
    assert said.status == 0
    assert "held out" not in said.out
    assert re.search(r"^train: 12 samples", said.out, re.MULTILINE)
    assert re.search(r"^val: 4 samples", said.out, re.MULTILINE)
    short = train("deep/er/list.csv", f"root={own / 'data'}", out="short")  # as the error of a list calls it
    assert short.status == 0
    one_line(
        train("train.csv", f"data.root={own / 'data'}", "data.val=none.csv", out="a"), "none.csv: expected a folder"
    )
    one_line(train("deep/er/list.csv", f"data.root={own / 'deep'}", out="b"), "expected files such as")
    folder = train("data", f"data.val={own / 'others'}", out="c")
    assert re.search(r"^val: 8 samples", folder.out, re.MULTILINE)


def test_labels_that_count_from_one_can_be_trained_on(own: Path, tmp_path: Path, train) -> None:  # type: ignore[no-untyped-def]
    text = (own / "train.csv").read_text().replace(",blue", ",1").replace(",red", ",2")
    (own / "data" / "numbers.csv").write_text(text)
    one_line(train("data/numbers.csv"), "they seem to count from one (label_base=1 says so")
    assert train("data/numbers.csv", "label_base=1").status == 0
    assert load_recipe(tmp_path / "run" / "recipe.toml").data.label_base == 1


def test_settings_that_say_what_else_to_train_on_or_from_are_refused(
    own: Path, tmp_path: Path, train, cli: Cli
) -> None:  # type: ignore[no-untyped-def]
    one_line(train("data", "data.train=x.csv"), "data.train=x.csv: expected it for recipes only")
    one_line(
        train("data", "init.checkpoint=b.pth"), "expected one checkpoint to start from, got", "init.checkpoint=b.pth"
    )
    one_line(train("data", "init.checkpoint=none"), "init.checkpoint=none: expected a checkpoint")
    one_line(train("data", "data=5"), "data: expected a table, got 5")
    net = f"init.checkpoint={own / 'net.safetensors'}"
    ended = cli("train", own / "data", net, "--out", tmp_path / "run", "--device", "cpu", "data.workers=0")
    assert ended.status == 0
    assert f"starting from {own / 'net.safetensors'}" in ended.out
    assert "features of" in ended.out  # it is no reason to train a network


# ---- how long, and what is said of it --------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 2, 3, 40])
def test_warmup_follows_the_epochs_asked_for(epochs: int, own: Path, train, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shown = train("data", f"epochs={epochs}", "--print")
    assert shown.status == 0
    (tmp_path / "shown.toml").write_text(shown.out)
    schedule = load_recipe(tmp_path / "shown.toml").schedule
    assert (schedule.epochs, schedule.warmup_epochs) == (epochs, epochs / 20)
    (tmp_path / "shown.toml").write_text(train("data", f"epochs={epochs}", "schedule.warmup_epochs=0.5", "--print").out)
    assert load_recipe(tmp_path / "shown.toml").schedule.warmup_epochs == 0.5


@pytest.mark.parametrize(
    ("settings", "words", "learning"),
    [
        ([], "the network stays as it is and gets a new classifier, fitted to features", None),
        (["augment.flip=0"], "by steps, as asked: a new classifier learns, the network before it stays", "130"),
        (["epochs=2", "optimizer.freeze=[]"], "as asked, everything learns$", "0.14 M"),
        (["optimizer.freeze=[\"stages.3\"]"], "as asked, everything learns but stages.3$", "0.08 M"),
    ],
)  # fmt: skip
def test_what_is_said_to_learn_is_what_learns(
    settings: list[str],
    words: str,
    learning: str | None,
    train,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    ended = train("data", *settings, *(["epochs=1"] if settings else []))
    assert ended.status == 0
    assert re.search(rf"^preset 'classifier' for \d+ training samples: .*{words}", ended.out, re.MULTILINE)
    found = re.search(r"parameters, (.*) to train", ended.out)
    assert (found and found[1]) == learning


def test_a_balance_that_is_not_wanted_is_not_said_to_be_drawn(own: Path, train) -> None:  # type: ignore[no-untyped-def]
    rows = (own / "train.csv").read_text().splitlines()
    (own / "data" / "uneven.csv").write_text("\n".join([*rows[:7], rows[7]]) + "\n")
    val = f"data.val={own / 'data' / 'uneven.csv'}"
    assert "1 to 6 samples: every class is drawn equally often" in train("data/uneven.csv", val).out
    assert "1 to 6 samples: drawn as they are" in train("data/uneven.csv", val, "data.balanced=false", out="as").out


# ---- what is left behind ---------------------------------------------------------------------------------------------


def test_a_refused_run_leaves_no_folder(own: Path, media: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    tiny, net, new = recipe_file(tmp_path / "tiny.toml"), own / "net.safetensors", tmp_path / "new" / "run"
    before = sorted(tmp_path.iterdir())
    parts = [f"data.train={own / 'others' / 'train'}", f"data.val={own / 'others' / 'val'}"]
    for command in (
        ["train", own / "data", "--checkpoint", tmp_path / "bad.pth"],
        ["train", tiny, *parts, f"init.checkpoint={tmp_path / 'bad.pth'}"],
        ["train", tiny, *parts, "loop.tensorboard=true", "keep.metric=top3"],
        ["train", tiny, *parts, "batch_size=400"],
        ["eval", tmp_path / "bad.pth", own / "data"],
        ["eval", net, tmp_path / "nothing"],
        ["features", net, own / "data", "--stages", 3, "--form", "parquet"],
        ["predict", media / "photos", "--checkpoint", tmp_path / "bad.pth"],
        ["data", "scan", tmp_path / "nothing"],
    ):
        ended = cli(*command, "--out", new / "a.csv" if command[0] == "predict" else new)
        assert ended.status == 2, ended
        assert ended.err.count("\n") == 1
        assert sorted(tmp_path.iterdir()) == before, command


def test_a_missing_folder_is_made_by_every_verb(own: Path, media: Path, tmp_path: Path, cli: Cli) -> None:
    net, out = own / "net.safetensors", tmp_path / "a" / "b"
    assert cli("predict", media / "photos", "--checkpoint", net, "--out", out / "p" / "a.jsonl").status == 0
    assert cli("eval", net, own / "data", "--class-order", "numbers", "--workers", 0, "--out", out / "e").status == 0
    assert cli("convert", net, out / "c" / "a.safetensors").status == 0
    assert [len(list((out / name).iterdir())) for name in "pec"] == [1, 4, 1]


def test_a_run_replaces_no_file_that_no_run_left(own: Path, tmp_path: Path, cli: Cli, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    parts = {"data": {"train": str(own / "others" / "train"), "val": str(own / "others" / "val")}}
    for name in ("recipe.toml", "tiny.toml"):
        recipe_file(tmp_path / name, parts, {"schedule": {"epochs": 1}})
    text = (tmp_path / "recipe.toml").read_text()
    for given in ("recipe.toml", "tiny.toml"):  # the file itself, and one that may be the base of others
        one_line(cli("train", given, "--out", ".", "--device", "cpu"), "cannot write recipe.toml: it is there already")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.toml", "tiny.toml"]
    assert (tmp_path / "recipe.toml").read_text() == text
    shutil.copy(own / "net.safetensors", tmp_path / "model.safetensors")
    (tmp_path / "recipe.toml").unlink()
    again = ["train", str(own / "data"), "--checkpoint", "model.safetensors", "--out", ".", "data.workers=0"]
    one_line(cli(*again)._replace(out=""), "cannot write model.safetensors: it is there already")
    assert (tmp_path / "model.safetensors").read_bytes() == (own / "net.safetensors").read_bytes()
    assert cli("train", "tiny.toml", "--out", "run", "--device", "cpu").status == 0
    assert cli("train", "run/recipe.toml", "--out", "run", "--device", "cpu").status == 0  # goes on with itself


# ---- settings of clips on images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["mirror=0.5", "reverse=0.1", "foreground=1.0", "even_frames=true"])
def test_what_only_clips_have_is_refused_for_images(setting: str, own: Path, train) -> None:  # type: ignore[no-untyped-def]
    name = setting.split("=")[0]
    changes = [f"augment.{setting}", "augment.flip=0"]
    one_line(train("data", *changes), f"augment.{name} is for clips")
    changed = {"augment": {"flip": 0.0, name: setting.endswith("true") or 0.5}}
    with refused(f"augment.{name} is for clips"):
        recipe(changed)
    with refused(f"augment.{name} is for clips"):
        open_dataset(own / "data").torch_dataset(IMAGES, augment=Augment(**changed["augment"]))  # type: ignore[arg-type]
    assert recipe(changed, base=CLIPS).augment.flip == 0


def test_a_warmup_that_nobody_states_fits_a_short_run() -> None:
    short = {"name": "x", "arch": "uniformer_small"}
    for epochs, warmup in ((300, 5), (6, 5), (5, 5 / 60), (1, 1 / 60)):
        assert recipe_from(short, [f"epochs={epochs}"]).schedule.warmup_epochs == pytest.approx(warmup)
    with refused("expected schedule.warmup_epochs below the 2 epochs, got 5"):
        recipe_from(short, ["epochs=2", "schedule.warmup_epochs=5"])

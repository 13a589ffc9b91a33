"""What a network learnt from: recorded with the run and in its checkpoint, and never forgotten when it is tested."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import Cli, one_line
from tests.test_save import edited
from tests.tiny import IMAGES, refused, save_tiny, tiny_model
from tests.training_runs import COLOURS, recipe, splits
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.save import save_checkpoint, verify
from uniformer.checkpoints.trained_on import MOST_BYTES, TrainedOn
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.open import open_dataset
from uniformer.training.loop import fit
from uniformer.training.result import rank

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- the filter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 61, 5_000, 1_000_000])
def test_no_item_is_missed_and_few_others_are_taken_for_one(count: int) -> None:
    draw = np.random.default_rng(count)
    mine, others = (draw.integers(1, 2**64, n, dtype=np.uint64) for n in (count, 200_000))
    found = TrainedOn.of(mine)
    assert found.has(mine).all()
    assert found.has(others).mean() <= found.mistaken * 1.1 + 1e-4
    assert found.mistaken < 0.02
    assert len(base64.b64decode(found.bits)) <= min(MOST_BYTES, max(4 * count, 512))


def test_a_contract_carries_it_and_refuses_what_is_none(tmp_path: Path) -> None:
    model = tiny_model()
    contract = Contract(model.config, input=IMAGES, trained_on=TrainedOn.of(np.arange(1, 62, dtype=np.uint64)))
    save_checkpoint(model, tmp_path / "a.safetensors", contract)
    kept, problems = verify(tmp_path / "a.safetensors")
    assert problems == []
    assert kept.trained_on == contract.trained_on
    told = json.loads(contract.to_json())
    for name, value, words in (
        ("items", -1, "expected trained_on of 0 to"),
        ("items", True, "expected items as int"),
        ("hashes", 0, "expected trained_on of 1 to 32 hashes"),
        ("hashes", 10**9, "expected trained_on of 1 to 32 hashes"),
        ("bits", "a name.mp4", "in base64, got 'a name.mp4'"),
        ("bits", "", "expected 1 to 1048576 bytes of trained_on, got 0"),
        ("bits", "A" * (MOST_BYTES // 3 * 4 + 8), "bytes of trained_on, got"),
        ("bits", 5, "expected bits as str"),
        ("more", 5, "TypeError"),
    ):
        with refused(f"a.json.*{words}"):
            Contract.from_json(json.dumps({**told, "trained_on": {**told["trained_on"], name: value}}), "a.json")
    with refused("holds no readable description"):
        Contract.from_json(json.dumps({**told, "trained_on": [1]}), "a.json")


def test_contracts_without_it_are_written_and_proven_as_before(tmp_path: Path) -> None:
    contract, problems = verify(save_tiny(tmp_path / "a.safetensors", IMAGES))
    assert (problems, contract.trained_on) == ([], None)
    assert "trained_on" not in json.loads(contract.to_json())
    trained = replace(contract, trained_on=TrainedOn.of(np.arange(1, 9, dtype=np.uint64)))
    assert trained.digest() != contract.digest()  # so that the proof covers it


# ---- training on one folder, and testing on it -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of two classes, 16 pictures each; half of red's look blue, so that not all can be right."""
    folder = tmp_path_factory.mktemp("own") / "data"
    draw = np.random.default_rng(0)
    for label, (name, colour) in enumerate(COLOURS.items()):
        (folder / name).mkdir(parents=True)
        for i in range(16):
            tint = COLOURS["blue"] if label and i % 2 else colour
            pixels = np.clip(np.array(tint) + draw.integers(-25, 26, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    save_tiny(folder.parent / "net.safetensors", IMAGES)
    return folder


def train(cli: Cli, own: Path, out: Path, *more: object) -> str:
    net = own.parent / "net.safetensors"
    ended = cli("train", own, "--checkpoint", net, "--out", out, "--device", "cpu", "data.workers=0", *more)
    assert ended.status == 0, ended
    return ended.out


def evaluate(cli: Cli, run: Path, *more: object) -> str:
    ended = cli("eval", run / "model.safetensors", *more, "--device", "cpu", "--workers", 0)
    assert ended.status == 0, ended
    return ended.out


@pytest.mark.parametrize("preset", ["classifier", "loop"])
def test_a_run_records_its_split_and_an_evaluation_knows_it(preset: str, own: Path, tmp_path: Path, cli: Cli) -> None:
    run, more = tmp_path / "run", ["epochs=1", "lr=1e-3"] if preset == "loop" else []
    said = train(cli, own, run, *more)
    held = int(re.search(r"(\d+) of 32 samples held out", said)[1])  # type: ignore[index]
    assert f"\ntrain: {32 - held} samples\nval: {held} samples, both of {own}: a folder per class" in said
    listed = {name: (run / "split" / f"{name}.csv").read_text().splitlines()[1:] for name in ("train", "val")}
    assert (len(listed["train"]), len(listed["val"])) == (32 - held, held)
    assert sorted(line.split(",")[0] for part in listed.values() for line in part) == sorted(
        map(str, own.rglob("*.png"))
    )
    assert open_dataset(run / "split", split="val").classes == ("blue", "red")
    page = json.loads((run / "held-out" / "metrics.json").read_text())
    assert f"on the validation samples: top-1 {100 * page['metrics']['top1']:.2f} %" in said
    assert (run / "held-out" / "report.html").exists()
    assert (run / "recipe.toml").exists()

    contract, problems = verify(run / "model.safetensors")
    assert problems == []
    assert not re.search(r"\.png|elsewhere|own", contract.to_json())  # no names
    moved = shutil.copytree(own, tmp_path / "elsewhere" / "renamed")
    (moved / "red" / "0.png").rename(moved / "red" / "zero.png")
    whole = evaluate(cli, run, moved, "--out", tmp_path / "whole")
    facts = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert facts["held_out"]["items"] == held == page["metrics"]["items"]
    assert facts["held_out"]["top1"] == page["metrics"]["top1"]
    assert facts["trained_on"]["items"] == 32 - held
    shares = [f"top-1 {100 * facts[part]['top1']:.2f} %" for part in ("trained_on", "held_out")]
    words = f"{32 - held} of 32 items were trained on, {shares[0]}; {held} were not, {shares[1]}"
    assert f"note: {words}; --split held-out scores those alone" in whole
    assert words in (tmp_path / "whole" / "report.html").read_text()
    alone = evaluate(cli, run, moved, "--split", "held-out", "--out", tmp_path / "alone")
    assert "trained on" not in alone
    assert f"; held-out: {held} items of 32\n" in alone
    facts = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    assert (facts["metrics"]["items"], facts["metrics"]["top1"]) == (held, page["metrics"]["top1"])


@pytest.mark.parametrize("more", [[], ["epochs=1"]], ids=["classifier", "loop"])
def test_copies_on_both_sides_of_a_split_are_said_at_once(more: list[str], own: Path, tmp_path: Path, cli: Cli) -> None:
    same = shutil.copytree(own, tmp_path / "same")
    for number in range(1, 16):
        shutil.copy(same / "blue" / "0.png", same / "blue" / f"{number}.png")
    net = ["--checkpoint", own.parent / "net.safetensors", "--device", "cpu", "data.workers=0", *more]
    said = cli("train", same, *net, "--out", tmp_path / "run").out
    assert re.search(
        r"on the validation samples: .*; 3 of 6 items were trained on, top-1 .* %; 3 were not, top-1 ", said
    )


def test_of_very_many_items_it_is_said_that_they_are_not_noted(
    own: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uniformer.training.setup.MOST_NOTED", 20)
    assert "which items are learnt from is not noted in the checkpoint: of more than 20" in train(cli, own, tmp_path)
    assert load_model(tmp_path / "model.safetensors")[1].trained_on is None


def test_features_and_probes_leave_out_what_was_trained_on_too(own: Path, tmp_path: Path, cli: Cli) -> None:
    train(cli, own, tmp_path / "run")
    options = ["--split", "held-out", "--device", "cpu", "--workers", 0, "--out"]
    model = tmp_path / "run" / "model.safetensors"
    assert cli("features", model, own, *options, tmp_path / "features").status == 0
    held = len((tmp_path / "run" / "split" / "val.csv").read_text().splitlines()) - 1
    assert json.loads((tmp_path / "features" / "features.json").read_text())["shards"] == 1
    probe = ["--probe", "knn", "--train", tmp_path / "run" / "split" / "train.csv"]
    assert cli("eval", model, own, *probe, *options, tmp_path / "probe").status == 0
    assert json.loads((tmp_path / "probe" / "metrics.json").read_text())["metrics"]["items"] == held
    learnt = cli("eval", model, tmp_path / "run" / "split" / "train.csv", "--device", "cpu", "--workers", 0)
    assert (
        f"note: {32 - held} of {32 - held} items were trained on: these figures say little of other items" in learnt.out
    )
    one_line(
        cli("eval", model, tmp_path / "run" / "split" / "train.csv", *options[:4]),
        f"expected items that the checkpoint was not trained on, found none among {32 - held}",
    )
    one_line(
        cli("eval", own.parent / "net.safetensors", own, *options[:4]),
        "--split held-out leaves out what a checkpoint was trained on: expected one that says so", "got tiny.test",
    )  # fmt: skip


@pytest.mark.slow
def test_an_exported_network_knows_it_too(own: Path, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("openvino")
    train(cli, own, tmp_path / "run")
    assert cli("export", tmp_path / "run" / "model.safetensors", tmp_path / "small.xml").status == 0
    ended = cli("eval", tmp_path / "small.xml", own, "--workers", 0)
    assert re.search(r"note: \d+ of 32 items were trained on, top-1 .* %; \d+ were not, top-1 ", ended.out)


def test_what_a_filter_takes_for_trained_on_by_mistake_is_said(own: Path, tmp_path: Path, cli: Cli) -> None:
    train(cli, own, tmp_path / "run")
    few = TrainedOn(3, 1, base64.b64encode(b"\x0f\x00").decode())  # a quarter of all sums
    model = tmp_path / "run" / "model.safetensors"
    edited(model, lambda contract: contract.update(trained_on=vars(few)))
    said = cli("eval", model, own, "--device", "cpu", "--workers", 0).out
    assert f"({100 * few.mistaken:.2g} % of others count as trained on, by the checkpoint's list)" in said


# ---- one rule for the best -------------------------------------------------------------------------------------------


def test_the_best_is_the_first_of_the_highest_rank() -> None:
    tried = [
        {"val_top1": 0.5, "val_mean_class": 0.9, "val_loss": 0.1},
        {"val_top1": 0.75, "val_mean_class": 0.2, "val_loss": 0.9},
        {"val_top1": 0.75, "val_mean_class": 0.3, "val_loss": 0.8},
        {"val_top1": 0.75, "val_mean_class": 0.4, "val_loss": 0.8},
    ]
    best = {metric: max(range(4), key=lambda i: rank(tried[i], metric)) for metric in ("top1", "mean_class", "loss")}
    assert best == {"top1": 2, "mean_class": 0, "loss": 0}


def test_the_classifier_and_the_loop_choose_by_the_metric_of_the_recipe(own: Path, tmp_path: Path, cli: Cli) -> None:
    for metric in ("top1", "loss"):
        said = train(cli, own, tmp_path / metric, f"keep.metric={metric}")
        assert "features of" in said  # no reason to train a network
        lines = re.findall(r"regularisation .*: (val_top1 .*)", said)
        tried = [{k: float(v) for k, v in (part.split() for part in line.split(", "))} for line in lines]
        best = max(tried, key=lambda scores: rank(scores, metric))
        assert f"model.safetensors, {', '.join(f'{name} {value:.4g}' for name, value in best.items())}" in said


# ---- validation that cannot be read ----------------------------------------------------------------------------------


def vanishing(val_set: Manifest, rows: list[int]) -> Manifest:
    """The set, with rows whose files have gone since it was opened."""
    paths = [f"gone/{i}.png" if i in rows else val_set.path(i) for i in range(len(val_set))]
    return replace(val_set, paths=type(val_set.paths).pack(paths), root="")


def test_validation_files_that_vanish_end_the_run_in_words(pictures: Path, tmp_path: Path) -> None:
    train_set, val_set = splits(pictures)
    count = len(val_set)
    chosen = recipe({"schedule": {"epochs": 2}, "loop": {"max_bad_fraction": 0.3}})
    with refused(f"{count} of {count} validation samples could not be read, more than loop.max_bad_fraction=0.3"):
        fit(chosen, train_set, vanishing(val_set, list(range(count))), out=tmp_path / "all", device="cpu")
    assert not (tmp_path / "all" / "best.safetensors").exists()
    fit(chosen, train_set, vanishing(val_set, [1]), out=tmp_path / "one", device="cpu")
    assert "gone/1.png" in (tmp_path / "one" / "unreadable.csv").read_text()
    patient = recipe({"loop": {"max_bad_fraction": 1.0}})
    with refused("could not be read, which leaves none"):
        fit(patient, train_set, vanishing(val_set, list(range(count))), out=tmp_path / "none", device="cpu")


def test_a_classifier_is_not_chosen_by_validation_files_that_are_gone(own: Path, tmp_path: Path, cli: Cli) -> None:
    copy = shutil.copytree(own, tmp_path / "val")
    for path in copy.rglob("1*.png"):
        path.write_bytes(b"no picture")
    net = own.parent / "net.safetensors"
    start = ["train", own, f"data.val={copy}", "--checkpoint", net, "--device", "cpu", "data.workers=0"]
    ended = cli(*start, "--out", tmp_path / "run")
    assert ended.status == 2
    assert "14 of 32 validation samples could not be read, more than loop.max_bad_fraction=0.1" in ended.err
    assert not (tmp_path / "run" / "model.safetensors").exists()

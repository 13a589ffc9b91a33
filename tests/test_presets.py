"""Training on one's own data without a recipe, and the command."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.scored import evaluate_model
from tests.training_runs import losses, make_images, recipe
from uniformer.checkpoints import save as checkpoint
from uniformer.cli import main as cli
from uniformer.datasets.open import open_dataset
from uniformer.errors import InputError
from uniformer.training.loop import fit

pytestmark = pytest.mark.usefixtures("one_thread")


def test_own_data_needs_no_recipe(tmp_path, pictures, sets, capsys):
    fit(recipe({"schedule": {"epochs": 2}}), *sets, out=tmp_path / "first", device="cpu")
    own = make_images(tmp_path / "own", train=9, val=3)
    (own / "train" / "red").rename(own / "train" / "warm")
    (own / "val" / "red").rename(own / "val" / "warm")
    capsys.readouterr()
    start = ["train", str(own), "--checkpoint", str(tmp_path / "first" / "model.safetensors"), "--device", "cpu"]
    assert cli.main([*start, "--out", str(tmp_path / "features"), "data.workers=0"]) == 0
    said = capsys.readouterr().out
    assert "preset 'classifier' for 18 training samples" in said
    assert "the classifier is new" in said
    assert re.search(r"^  \d+ of 18, 0:\d\d:\d\d left$", said, re.MULTILINE)
    assert "  18 of 18, 0:00:00 left" in said
    result = tmp_path / "features" / "model.safetensors"
    contract, problems = checkpoint.verify(result)
    assert problems == []
    assert contract.classes == ("blue", "warm")
    model, _, _ = checkpoint.load_model(result)
    val = open_dataset(own, split="val")
    assert (
        contract.scores["top1"] == 100 * evaluate_model(model, val, contract.input, workers=0).metrics()["top1"] == 100
    )
    trained = [
        "optimizer.freeze=[]",
        "loop.log_every=1",
        "epochs=1",
        "schedule.warmup_epochs=0",
        "lr=1e-3",
        "data.workers=0",
    ]
    assert cli.main([*start, "--out", str(tmp_path / "loop"), *trained]) == 0
    assert losses(tmp_path / "loop")


def test_the_preset_follows_the_number_of_samples_and_their_balance(sets, tmp_path):
    from uniformer.training.own_data import own_recipe, preset_for, wants_features

    assert [preset_for(n).name for n in (10, 499, 500, 4999, 5000)] == [
        "classifier", "classifier", "last stage", "last stage", "whole network",
    ]  # fmt: skip
    fit(recipe({"schedule": {"epochs": 1}}), *sets, out=tmp_path, device="cpu")
    contract, _ = checkpoint.verify(tmp_path / "model.safetensors")
    rows = np.arange(600) % 16
    many = sets[0].select(rows)
    chosen, said = own_recipe(many, contract, "x.safetensors")
    assert chosen.optimizer.freeze == ("stages.0", "stages.1", "stages.2")
    assert chosen.input == contract.input
    assert "600 training samples" in said[0]
    assert not chosen.data.balanced
    assert not wants_features(chosen, [])
    uneven = sets[0].select(np.concatenate([np.arange(8), np.array([8])]))
    chosen, said = own_recipe(uneven, contract, "x.safetensors", ["loop.log_every=3"])
    assert chosen.data.balanced
    assert said[1] == "classes have 1 to 8 samples: every class is drawn equally often"
    assert wants_features(chosen, ["loop.log_every=3"])
    assert not wants_features(chosen, ["lr=1e-3"])
    with pytest.raises(InputError, match=r"expected images for x\.safetensors, got clips"):
        own_recipe(replace(sets[0], kind="video"), contract, "x.safetensors")


def test_a_classifier_is_fitted_without_unreadable_files_and_not_where_they_are_too_many(tmp_path, sets, capsys):
    fit(recipe({"schedule": {"epochs": 1}}), *sets, out=tmp_path / "first", device="cpu")
    own = make_images(tmp_path / "own", train=9, val=3)
    start = ["train", str(own), "--checkpoint", str(tmp_path / "first" / "model.safetensors"), "--device", "cpu"]
    (own / "train" / "red" / "3.png").write_bytes(b"no picture")
    assert cli.main([*start, "--out", str(tmp_path / "one"), "data.workers=0"]) == 0
    assert "unreadable, left out: " in capsys.readouterr().out
    (own / "train" / "blue" / "3.png").write_bytes(b"no picture")
    assert cli.main([*start, "--out", str(tmp_path / "two"), "data.workers=0"]) == 2
    assert "2 of 18 training samples could not be read, more than loop.max_bad_fraction=0.1" in capsys.readouterr().err
    assert not (tmp_path / "two" / "model.safetensors").exists()
    assert (tmp_path / "two" / "unreadable.csv").read_text().count("3.png") >= 2


def test_data_without_a_validation_split_has_one_held_out(tmp_path, sets):
    from uniformer.training.own_data import with_validation

    whole = sets[0].select(np.concatenate([np.arange(16)] * 2))
    first, second, said = with_validation(whole)
    assert len(first) + len(second) == 32
    assert 4 <= len(second) <= 8
    assert said.endswith(f"{len(second)} of 32 samples held out, by class")


def test_the_command_line_shows_a_recipe_and_refuses_in_one_line(tmp_path, capsys):
    assert cli.main(["train", "uniformer_s16x4_k400", "--print", "batch_size=16", "lr=1e-5"]) == 0
    shown = capsys.readouterr().out
    assert "batch_size = 16" in shown
    assert "lr = 1e-05" in shown
    assert cli.main(["train", "uniformer_s16x4_k40"]) == 2
    assert "found neither as 'uniformer_s16x4_k40' (did you mean 'uniformer_s16x4_k400'" in capsys.readouterr().err
    assert cli.main(["train", "uniformer_s16x4_k400"]) == 2
    assert "expected data.train, the list or folder of the training samples, got none" in capsys.readouterr().err
    for wrong in ("--nonsense", "nonsense"):
        with pytest.raises(SystemExit):
            cli.main(["verify", "a.safetensors", wrong])
        assert f"unrecognized arguments: {wrong}" in capsys.readouterr().err

"""A second task trains, evaluates on two processes, resumes, predicts and exports with nothing but its own file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import uniformer
from tests.tiny import refused, same
from tests.tolerance import assert_close, rounding, terms_of
from tests.toy_task import Number, Redness, evaluate, train
from tests.training_processes import ended, kill, places, said, start_work
from tests.training_runs import STILL, TINY, recipe_file
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import load_model

LEVELS = ("0.1", "0.5", "0.9")
SETTINGS = {
    "model": {**TINY, "num_classes": 1},
    "batch_size": 24,  # all samples: batch norms take away what is common to a batch
    "schedule": {"epochs": 60},
    "optimizer": {"lr": 4e-3},
    "keep": {"metric": "loss", "result": "best", "every_steps": 5},
    "loop": {"eval_every": 10},
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose folder is how red they are rather than blue, a recipe, and a run of it."""
    root, rng = tmp_path_factory.mktemp("seam"), np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for level in LEVELS:
            place = root / "data" / part / level
            place.mkdir(parents=True)
            for i in range(count):
                colour = 40 + 170 * np.array([float(level), 0.3, 1 - float(level)])
                pixels = np.clip(colour + rng.integers(-20, 21, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    data = {"data": {"train": str(root / "data"), "val": str(root / "data")}}
    recipe_file(root / "recipe.toml", STILL, SETTINGS, data)
    uniformer.train(root / "recipe.toml", out=root / "run", device="cpu", task=Redness)
    return root


def test_it_learns(folder: Path) -> None:
    result = uniformer.train(folder / "recipe.toml", out=folder / "run", device="cpu", task=Redness)  # finished
    assert result.metrics["val_loss"] < 0.06  # of numbers whose variance is 0.1
    assert {"model", "best", "state", "metrics", "recipe"} <= result.paths.keys()
    assert "val_loss" in result.paths["metrics"].read_text().splitlines()[0]
    assert load_model(folder / "run" / "model.safetensors")[1].task == "number"


def test_it_predicts(folder: Path) -> None:
    predictor = uniformer.Predictor(folder / "run" / "model.safetensors", device="cpu", task=Redness)
    blue, red = predictor.run([folder / "data/val/0.1/0.png", folder / "data/val/0.9/0.png"])
    assert isinstance(blue, Number)
    assert blue.value < 0.4 < 0.6 < red.value
    assert blue.to_dict()["value"] == round(blue.value, 6)
    with refused("expected a checkpoint of the task 'classification', .*got one of 'number'"):
        uniformer.Predictor(folder / "run" / "model.safetensors", device="cpu")


def test_it_is_evaluated_by_one_and_by_two_processes(folder: Path, tmp_path: Path) -> None:
    given = folder / "run" / "model.safetensors", folder / "data"
    alone = uniformer.evaluate(*given, out=tmp_path / "one", device="cpu", workers=0, task=Redness)
    trained = uniformer.train(folder / "recipe.toml", out=folder / "run", device="cpu", task=Redness)
    sums = terms_of(load_model(given[0])[0])  # in other batches
    assert alone.metrics["loss"] == pytest.approx(trained.metrics["val_loss"], abs=rounding(torch.float32, sums))
    assert "largest error" in json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert "<svg" not in (tmp_path / "one" / "report.html").read_text()
    out = tmp_path / "two"
    assert ended(*(start_work(out, evaluate, *given, out, **place) for place in places(2))) == 0, said(out)
    assert len(list((out / "answers").glob("rows-*.bin"))) == 2
    one, two = (np.load(tmp_path / name / "scores.npz") for name in ("one", "two"))
    assert one["said"].tobytes() == two["said"].tobytes()
    assert json.loads((out / "found.json").read_text()) == alone.metrics


def test_its_evaluation_goes_on(folder: Path, tmp_path: Path) -> None:
    words = [str(folder / "run" / "model.safetensors"), str(folder / "data")]
    whole = uniformer.evaluate(*words, out=tmp_path, device="cpu", workers=0, batch_size=2, task=Redness)
    (rows,) = (tmp_path / "answers").glob("rows-*.bin")
    rows.write_bytes(rows.read_bytes()[: 4 * (16 + 4) + 7])  # as a kill leaves it: four items, and a part of one
    seen: list[tuple[int, int]] = []
    again = uniformer.evaluate(
        *words, out=tmp_path, device="cpu", workers=0, batch_size=2, task=Redness,
        progress=lambda *now: seen.append(now),
    )  # fmt: skip
    assert seen
    assert seen[-1][1] < len(whole.scores.ok)
    assert again.scores.said.tobytes() == whole.scores.said.tobytes()


@pytest.mark.slow
def test_its_training_goes_on_after_a_kill(folder: Path, tmp_path: Path) -> None:
    child = start_work(tmp_path, train, folder / "recipe.toml", tmp_path)
    assert kill(child, (tmp_path / "best.safetensors").exists), said(tmp_path)
    uniformer.train(folder / "recipe.toml", out=tmp_path, device="cpu", task=Redness)
    once, killed = (load_model(path / "model.safetensors")[0].state_dict() for path in (folder / "run", tmp_path))
    assert same(once, killed)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "package"), [(".onnx", "onnxscript"), (".xml", "openvino")])
def test_it_is_exported(folder: Path, tmp_path: Path, form: str, package: str) -> None:
    pytest.importorskip(package)
    model, contract, _ = load_model(folder / "run" / "model.safetensors")
    uniformer.export(model, contract, tmp_path / f"red{form}")
    exported = uniformer.Predictor(tmp_path / f"red{form}", task=Redness)
    own = uniformer.Predictor((model, contract), device="cpu", task=Redness)
    picture = folder / "data/val/0.5/1.png"
    assert_close([exported(picture).value], [own(picture).value], terms_of(model))
    found = uniformer.evaluate(tmp_path / f"red{form}", folder / "data", workers=0, task=Redness)
    assert found.metrics["loss"] < 0.06


def test_what_it_cannot_use_is_refused_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    os.symlink(folder / "data" / "train" / "0.1", tmp_path / "data" / "blue")
    os.symlink(folder / "data" / "train" / "0.9", tmp_path / "data" / "red")
    data = {"data": {"train": str(tmp_path / "data")}, "keep": {"result": "last"}}
    recipe_file(tmp_path / "recipe.toml", STILL, SETTINGS, data)
    with refused("expected numbers for the names of classes"):
        uniformer.train(tmp_path / "recipe.toml", out=tmp_path / "run", device="cpu", task=Redness)


def test_a_contract_of_a_classifier_says_what_it_always_did(folder: Path) -> None:
    _, contract, _ = load_model(folder / "run" / "model.safetensors")
    assert json.loads(contract.to_json())["task"] == "number"
    assert "task" not in json.loads(Contract(contract.config).to_json())

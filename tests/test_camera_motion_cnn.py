"""The 3D CNN that UniFormer is held against on camera motion: equal in multiply-adds, trained by the same loop."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from tests.scripts import script
from tests.tiny import refused, same
from uniformer import count_macs
from uniformer.camera_motion.classes import CLASSES, REVERSED
from uniformer.camera_motion.make import make
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.records import BUNDLED
from uniformer.datasets.open import open_dataset
from uniformer.inference.predictor import Predictor

if importlib.util.find_spec("skimage") is None:
    pytest.skip("needs scikit-image", allow_module_level=True)

SMALL = ("input.frames=8", "input.size=32", "input.resize=32", "batch_size=2", "epochs=2", "schedule.warmup_epochs=1")
SETTINGS = (*SMALL, "loop.eval_every=1", "data.workers=0")
FORMS = ["as they are", "frames out of order", "middle frame, repeated", "backwards"]
experiment = script("experiments/camera_motion_cnn.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of photographs: four to train on, as a list that knows all classes, and two of the test split."""
    out = tmp_path_factory.mktemp("made") / "set"
    make(out, train=4, val=0, test=2, worlds=["photos"], workers=0)
    open_dataset(out / "train", classes=list(CLASSES)).save(out / "train.manifest")
    return out


@pytest.fixture(scope="module")
def runs(experiment: ModuleType, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each network, tested."""
    parts = (f"data.train={data / 'train.manifest'}", f"data.val={data / 'train.manifest'}")
    folders = {name: tmp_path_factory.mktemp("runs") / name for name in ("r3d", "uniformer")}
    for name, folder in folders.items():
        assert experiment.run_training(name, (*SETTINGS, *parts), folder).stopped_by is None
        experiment.measure(folder, data)
    return folders


def test_the_cnn_costs_as_many_multiply_adds_as_the_uniformer(experiment: ModuleType, runs: dict[str, Path]) -> None:
    found = {name: json.loads((run / "test.json").read_text())["macs"] for name, run in runs.items()}
    assert found["uniformer"] == count_macs(experiment.recipe_of("uniformer", SMALL).model, (8, 32, 32))
    assert abs(found["r3d"] / found["uniformer"] - 1) < 0.03


def test_every_cnn_costs_as_many_at_the_recipes_size(experiment: ModuleType) -> None:
    recipe = experiment.recipe_of("uniformer", ())
    clip = (recipe.input.frames, *recipe.input.size)
    target = count_macs(recipe.model, clip)
    for name in experiment.CNNS:
        network = experiment.network_of(experiment.recipe_of(name, ()))
        assert abs(experiment.macs(network, recipe.model, clip) / target - 1) < 0.03


def test_both_networks_train_and_are_tested_alike(runs: dict[str, Path]) -> None:
    for name, run in runs.items():
        facts = json.loads((run / "test.json").read_text())
        assert facts["network"] == ("r3d" if name == "r3d" else "uniformer_nano_camera_motion")
        assert [v["epoch"] for v in facts["validation"]] == [1, 2]
        assert all(0 <= v[score] <= 1 for v in facts["validation"] for score in ("val_top1", "ema_top1"))
        assert list(facts["percent"]) == FORMS
        assert facts["clips"] == 2
        tensors = load_file(run / "model.safetensors")
        assert sum(t.numel() for key, t in tensors.items() if is_parameter(key)) == facts["parameters"]


def is_parameter(key: str) -> bool:
    return not key.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_files_of_the_cnn_do_not_pass_for_a_uniformer(runs: dict[str, Path]) -> None:
    with safe_open(runs["r3d"] / "model.safetensors", "pt") as file:
        assert not file.metadata()
    with refused("the tensors are not of a whole UniFormer"):
        Predictor(runs["r3d"] / "model.safetensors")


def test_the_same_call_goes_on(experiment: ModuleType, runs: dict[str, Path], data: Path) -> None:
    run = runs["r3d"]
    parts = (f"data.train={data / 'train.manifest'}", f"data.val={data / 'train.manifest'}")
    before = load_file(run / "average.safetensors")
    experiment.run_training("r3d", (*SETTINGS, *parts), run)
    assert same(load_file(run / "average.safetensors"), before)
    with refused("other settings .name: r3d there, uniformer_nano_camera_motion here"):
        experiment.run_training("uniformer", (*SETTINGS, *parts), run)


def test_a_table_of_several_runs(experiment: ModuleType, runs: dict[str, Path], tmp_path: Path) -> None:
    table = experiment.summary(list(runs.values())).splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == ["r3d", "uniformer_nano_camera_motion"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "test.json").write_text((runs["r3d"] / "test.json").read_text())
    recipe = (runs["r3d"] / "recipe.toml").read_text()
    changed = re.sub(r"\blr = [\d.e-]+", "lr = 0.0003", recipe).replace("seed = 0", "seed = 1")
    (other / "recipe.toml").write_text(changed)
    with refused("differ by their seeds alone"):
        experiment.summary([runs["r3d"], other])
    with refused("different seeds"):
        experiment.summary([runs["r3d"], runs["r3d"]])
    with refused("found no test.json"):
        experiment.summary([tmp_path])


def test_clips_are_counted_as_the_network_names_them(experiment: ModuleType, data: Path) -> None:
    """Whole, as in training, and not with their parts."""
    model, contract, _ = load_model(BUNDLED)
    predictor = Predictor((model, replace(contract, details={})), device="cpu")
    manifest = open_dataset(data / "test")
    counts = experiment.camera_motion.count(
        lambda clips: experiment.torch.from_numpy(predictor.logits(clips.numpy())),
        predictor.contract.classes,
        manifest,
        predictor.spec,
    )
    truth = [manifest.classes[label] for label in manifest.labels]
    said = [predictor(manifest.path(row)).labels[0].name for row in range(len(manifest))]
    assert counts.clips.total() == len(manifest) == 2
    assert counts.right["as they are"].total() == sum(s == t for s, t in zip(said, truth, strict=True))
    assert set(counts.right["backwards"]) <= {REVERSED[name] for name in truth}

"""From folders to a trained checkpoint to its evaluation, by the commands alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.training_runs import make_images, recipe_file
from uniformer.cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the folders of the two splits, each named directly; what it said is in said.txt."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = recipe_file(folder / "tiny.toml", {"schedule": {"epochs": 1}})
    parts = [f"data.train={images / 'train'}", f"data.val={images / 'val'}"]
    with pytest.MonkeyPatch.context() as patch, open(folder / "said.txt", "w") as said:
        patch.setattr("sys.stdout", said)
        assert main(["train", str(recipe), *parts, "--out", str(folder), "--device", "cpu"]) == 0
    return folder


def test_folders_of_splits_are_named_directly(
    images: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = (trained / "said.txt").read_text()
    for split, count in (("train", 16), ("val", 8)):
        assert f"{split}: {count} samples, {images / split}: a folder per class ({split}/ alone: 2 classes)" in said
    evaluating = ["eval", str(trained / "model.safetensors"), str(images / "val"), "--device", "cpu", "--workers", "0"]
    assert main(evaluating) == 0
    assert f"{images / 'val'}: a folder per class (val/ alone: 2 classes)" in capsys.readouterr().out
    assert main([*evaluating, "--split", "train"]) == 2
    assert "val: expected several splits to choose 'train' from, found one set" in capsys.readouterr().err


def test_the_scores_of_ones_own_training_are_not_called_published(
    images: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(trained / "model.safetensors"), str(images), "--device", "cpu", "--workers", "0"]
    assert main(["eval", *arguments, "--out", str(tmp_path / "eval")]) == 0
    said = capsys.readouterr().out
    facts = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert "published_scores" not in facts
    assert facts["training_scores"]["top1"] == pytest.approx(100 * facts["metrics"]["top1"], abs=1e-3)
    words = f"in training, on its own validation set: top-1 {facts['training_scores']['top1']:g} %, "
    assert words in said
    assert words in (tmp_path / "eval" / "report.html").read_text()
    assert main(["eval", *arguments, "--probe", "knn", "--out", str(tmp_path / "probe")]) == 0
    facts = json.loads((tmp_path / "probe" / "metrics.json").read_text())
    assert not {"published_scores", "training_scores"} & facts.keys()  # which are those of another classifier


def test_the_slurm_script_of_the_page_is_sound_and_passes_its_arguments_on(tmp_path: Path) -> None:
    """By bash, with an srun that shows what it was given; for a real cluster see the page."""
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", page, re.DOTALL)
    (tmp_path / "train.slurm").write_text(script)
    for name, body in (("scontrol", "echo first; echo second"), ("srun", 'printf "%s\\n" "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    given = {"SLURM_JOB_NODELIST": "first,second", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}
    command = ["bash", "-eu", str(tmp_path / "train.slurm"), "a recipe", "lr=1"]
    environment = {**os.environ, **given, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout.splitlines()
    assert words[0] == "torchrun"
    assert "--rdzv-endpoint=first:29500" in words
    assert words[words.index("-m") :] == ["-m", "uniformer.cli", "train", "a recipe", "lr=1"]

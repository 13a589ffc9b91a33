"""Two torchrun agents that meet over loopback, as on two machines: they learn and score what one machine does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.test_evaluate import make_videos, same_bits
from tests.tiny import CLIPS, save_tiny
from tests.training_processes import ended, free_port, places, said, start_command, start_several, torchrun
from tests.training_runs import losses, make_images, recipe_file, same_weights
from uniformer.cli.main import main
from uniformer.tasks.scores import Scores

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def on_two_machines(command: list[str], folder: Path) -> str:
    """The same command given to two agents of one process each; what both said.

    The agent that ends last may find the other one's store gone, and torch then tells of it at length.
    """
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-id=test", "--rdzv-backend=c10d"]
    options.append(f"--rdzv-endpoint=127.0.0.1:{free_port()}")
    files = [folder / f"agent{number}.said" for number in range(2)]
    agents = [torchrun(options, command, file) for file in files]
    words = []
    for agent, file in zip(agents, files, strict=True):
        status = agent.wait(PATIENCE)
        words.append(file.read_text())
        assert status == 0, words[-1]
    return "".join(words)


def test_two_machines_learn_what_two_processes_of_one_learn(tmp_path: Path) -> None:
    data = {"root": str(make_images(tmp_path / "images")), "train": "train", "val": "val", "workers": 0}
    recipe = recipe_file(tmp_path / "tiny.toml", {"data": data})
    out = tmp_path / "two"
    words = on_two_machines(["train", str(recipe), "--out", str(out), "--device", "cpu"], tmp_path)
    assert "2 processes on 2 machines, 2 samples each in one pass" in words
    assert words.count("epoch 1/2: mean loss") == 1
    assert ended(*start_several(2, recipe, tmp_path / "one")) == 0, said(tmp_path / "one")
    assert "2 processes on 1 machine," in said(tmp_path / "one")
    assert losses(out) == losses(tmp_path / "one")
    assert same_weights(tmp_path / "one", out)


def test_two_machines_give_the_same_scores(tmp_path: Path) -> None:
    videos = make_videos(tmp_path)
    (videos / "list.csv").write_text("".join(f"{i}.mp4,{i}\n" for i in range(6)))
    network = save_tiny(tmp_path / "tiny.safetensors", CLIPS)
    command = ["eval", str(network), str(videos / "list.csv"), "--device", "cpu", "--workers", "0", "--out"]
    first_of_each = [place | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"} for place in places(2)]  # as torchrun says
    two = [start_command([*command, str(tmp_path / "two")], tmp_path, **place) for place in first_of_each]
    assert ended(*two) == 0, said(tmp_path)
    assert (said(tmp_path) + said(tmp_path, 1)).count("95 % interval") == 1
    assert main([*command, str(tmp_path / "one")]) == 0
    assert len(list((tmp_path / "two" / "answers").glob("rows-*.bin"))) == 2
    one, two = (Scores.load(tmp_path / name / "scores.npz") for name in ("one", "two"))
    assert one.ok.all()
    assert same_bits(one, two)

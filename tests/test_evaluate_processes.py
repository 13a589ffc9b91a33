"""Evaluation and features in several real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.patience import PATIENCE
from tests.test_evaluate import make_videos, same_bits
from tests.tiny import CLIPS, save_tiny
from tests.training_processes import ended, places, said, start_command, torchrun
from uniformer.cli.main import main
from uniformer.tasks.scores import Scores

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors", CLIPS)


@pytest.fixture(scope="module")
def many(videos: Path) -> Path:
    """Eleven items, and a twelfth that is missing."""
    rows = [f"{i % 6}.mp4,{i % 7},{0.01 * i:.2f},{0.8 + 0.01 * i:.2f}" for i in range(11)]
    path = videos / "many.csv"
    path.write_text("path,label,start,end\n" + "\n".join([*rows, "gone.mp4,0,0,1"]) + "\n")
    return path


def in_processes(count: int, arguments: list[str], folder: Path) -> tuple[int, str]:
    """The status of a command in so many processes, as torchrun would start them, and what all of them said."""
    children = [start_command(arguments, folder, **place) for place in places(count)]
    return ended(*children), "".join(said(folder, rank) for rank in range(count))


def by_torchrun(count: int, arguments: list[str], folder: Path) -> tuple[int, str]:
    """The same, started by torchrun itself."""
    child = torchrun(["--standalone", f"--nproc-per-node={count}"], arguments, folder / "said")
    return child.wait(PATIENCE), (folder / "said").read_text()


@pytest.mark.slow
def test_one_two_and_three_processes_give_the_same_digits(checkpoint: Path, many: Path, tmp_path: Path) -> None:
    arguments = ["eval", str(checkpoint), str(many), "--device", "cpu", "--workers", "1", "--batch-size", "4"]
    arguments += ["--missing", "skip", "--out"]
    assert main([*arguments, str(tmp_path / "1")]) == 0
    for count, run in ((2, by_torchrun), (3, in_processes)):
        status, words = run(count, [*arguments, str(tmp_path / str(count))], tmp_path)
        assert status == 0, words
        assert words.count("95 % interval") == 1
        kept = list((tmp_path / str(count) / "answers").glob("rows-*.bin"))
        assert len(kept) == count
        # Each readable item once: its number, logits, probabilities, a checksum.
        assert sum(path.stat().st_size for path in kept) == 11 * (8 + 8 + 2 * 4 * 7 + 4)
    one, two, three = (Scores.load(tmp_path / str(count) / "scores.npz") for count in (1, 2, 3))
    assert one.ok.tolist() == [True] * 11 + [False]
    assert list(one.errors) == [11]
    assert same_bits(one, two)
    assert same_bits(one, three)
    assert one.errors == two.errors == three.errors


@pytest.mark.slow
def test_two_processes_write_the_same_features(checkpoint: Path, many: Path, tmp_path: Path) -> None:
    arguments = ["features", str(checkpoint), str(many), "--device", "cpu", "--stages", "4", "--out"]
    assert main([*arguments, str(tmp_path / "one")]) == 1  # a file is missing
    status, words = in_processes(2, [*arguments, str(tmp_path / "two")], tmp_path)
    assert status == 1, words
    shards = sorted(path.name for path in (tmp_path / "one").glob("*.safetensors"))
    assert len(shards) == 2
    for name in shards:
        one, two = (load_file(tmp_path / folder / name) for folder in ("one", "two"))
        assert {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in two.items()}

"""Training in processes of its own: killed, stopped, out of disk, several together."""

import os
import random
import signal
import socket
import time

import pytest

from tests.patience import PATIENCE, wait_until
from tests.training_processes import (
    ended,
    finish,
    kill,
    said,
    start,
    start_several,
    step_of,
    torchrun,
)
from tests.training_runs import (
    CLIPS,
    STEADY,
    assert_same_learning,
    losses,
    make_clips,
    make_images,
    recipe_file,
    same_weights,
)
from uniformer.cli import main as cli
from uniformer.support.settings import Table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), train=12)


# ---- one process, killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The recipe of a run with every random thing in it, and the folder of one that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    everything: Table = {
        "model": {"drop_path": 0.2},
        "data": {"root": str(make_clips(folder / "clips", train=6)), "train": "train", "val": "train", "workers": 1},
        "schedule": {"epochs": 5},
        "keep": {"every_steps": 2, "result": "best"},
        "ema": {"decay": 0.9},
    }
    recipe = recipe_file(folder / "everything.toml", everything, base=CLIPS)
    finish(recipe, folder / "out")
    return recipe, folder / "out"


@pytest.mark.parametrize("attempt", range(2))
def test_a_run_killed_at_random_moments_ends_with_the_same_weights_bit_for_bit(tmp_path, whole, attempt):
    recipe, reference = whole
    rng, out = random.Random(), tmp_path / "out"
    kills, moments = 0, []
    for longest in (0, 0.2, 0.2, 0.2):  # the first kill comes long before the end, the others may come too late
        steps, seconds = step_of(out) + rng.randint(0, 4), rng.random() * longest
        moments.append((steps, seconds))
        seen: list[float] = []

        def is_time(steps: int = steps, seconds: float = seconds, seen: list[float] = seen) -> bool:
            if not seen and len(losses(out)) >= steps:
                seen.append(time.monotonic())
            return bool(seen) and time.monotonic() >= seen[0] + seconds

        kills += kill(start(recipe, out), is_time)
    assert kills, "every run ended before its kill"
    finish(recipe, out)
    for name in ("model.safetensors", "best.safetensors", "average.safetensors"):
        assert same_weights(reference, out, name)
    assert losses(out) == losses(reference), moments


def test_a_kill_while_a_state_is_written_leaves_the_one_before(tmp_path, whole):
    recipe, reference = whole
    out = tmp_path / "out"
    assert kill(start(recipe, out), lambda: len(losses(out)) >= 3)
    before, size = step_of(out), (out / "state.pt").stat().st_size
    assert ended(start(recipe, out, most_bytes=size // 2, fatal=True)) == -signal.SIGXFSZ
    assert step_of(out) == before >= 2
    assert list(out.glob(".state.pt.*")), "half a state"
    finish(recipe, out)
    assert not list(out.glob(".*")), "what a kill left is cleared away"
    assert same_weights(reference, out)


def test_a_second_run_into_the_same_folder_ends_in_one_line_and_disturbs_nothing(tmp_path, whole):
    recipe, reference = whole
    out, other = tmp_path / "out", tmp_path / "other"
    first = start(recipe, out)
    wait_until(lambda: losses(out), first.is_alive)
    os.kill(first.pid or 0, signal.SIGSTOP)
    before = {path: path.read_bytes() for path in out.iterdir()}
    line = f"uniformer: {out} is in use by process {first.pid} on {socket.gethostname()}: expected a folder of one run;"
    assert ended(start(recipe, out, says=other)) == cli.BAD_INPUT
    pair = start_several(2, recipe, out, says=tmp_path / "pair")
    assert ended(*pair) == pair[1].exitcode == cli.BAD_INPUT
    for words in (said(other), said(tmp_path / "pair"), said(tmp_path / "pair", 1)):
        assert words.startswith(line)
        assert words.count("\n") == 1
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    os.kill(first.pid or 0, signal.SIGCONT)
    assert ended(first) == 0
    assert same_weights(reference, out)
    assert not (out / "run.lock").exists()


def test_a_full_disk_ends_the_run_in_one_line_and_leaves_the_last_state(tmp_path, images):
    small: Table = {"data": {"root": str(images), "train": "train", "workers": 0}, "schedule": {"epochs": 3}}
    recipe, out = recipe_file(tmp_path / "small.toml", small), tmp_path / "out"
    assert kill(start(recipe, out), lambda: len(losses(out)) >= 2)
    before = (out / "state.pt").read_bytes()
    assert ended(start(recipe, out, most_bytes=len(before) // 2)) == cli.BAD_INPUT
    assert said(out).splitlines()[-1] == f"uniformer: cannot write {out / 'state.pt'}: File too large"
    assert "Traceback" not in said(out)
    assert (out / "state.pt").read_bytes() == before
    assert not list(out.glob(".*"))
    finish(recipe, out)
    assert (out / "model.safetensors").exists()


# ---- several processes


@pytest.fixture(scope="module")
def alone(tmp_path_factory, images):
    """A recipe whose steps must not depend on the processes, as no batch norm learns, and its run by one process."""
    folder = tmp_path_factory.mktemp("alone")
    steady: Table = {"batch_size": 12, "data": {"root": str(images), "train": "train", "val": "val", "workers": 0}}
    recipe = recipe_file(folder / "steady.toml", steady, STEADY, {"schedule": {"epochs": 3}})
    finish(recipe, folder / "out")
    return recipe, folder / "out"


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_learn_what_one_learns(tmp_path, alone, processes):
    recipe, reference = alone
    out = tmp_path / "out"
    assert ended(*start_several(processes, recipe, out)) == 0, said(out)
    assert f"{processes} processes on 1 machine," in said(out)
    assert said(out).count("epoch 1/3: mean loss") == 1
    assert said(out, 1) == ""  # one of them speaks
    assert "Warning" not in said(out)
    assert_same_learning(out, reference)


def test_torchrun_starts_them_and_a_signal_to_it_ends_them_so_that_one_can_go_on(tmp_path, alone):
    recipe, reference = alone
    out = tmp_path / "out"
    command = ["train", str(recipe), "--out", str(out), "--device", "cpu"]
    child = torchrun(["--standalone", "--nproc-per-node=2"], command, tmp_path / "said")
    wait_until(lambda: losses(out), lambda: child.poll() is None)
    child.send_signal(signal.SIGTERM)  # torchrun passes it on
    child.wait(PATIENCE)
    assert 1 <= step_of(out) <= 6
    finish(recipe, out)
    assert_same_learning(out, reference)


def test_a_signal_to_one_process_ends_all(tmp_path, alone):
    recipe, _ = alone
    out = tmp_path / "out"
    long = recipe_file(tmp_path / "long.toml", {"base": str(recipe), "schedule": {"epochs": 1000}}, base={})
    children = start_several(2, long, out)
    wait_until(lambda: losses(out), children[0].is_alive)
    os.kill(children[1].pid or 0, signal.SIGTERM)
    assert ended(*children) == 128 + signal.SIGTERM
    assert children[1].exitcode == 128 + signal.SIGTERM
    assert "stopped by signal 15 at step" in said(out)
    assert "the same command goes on from there" in said(out)


def test_shared_statistics_of_batch_norms_are_refused_between_cpus(tmp_path, alone):
    recipe, _ = alone
    asked = recipe_file(tmp_path / "asked.toml", {"base": str(recipe), "sync_batch_norm": True}, base={})
    children = start_several(2, asked, tmp_path / "out")
    assert ended(*children) == children[1].exitcode == cli.BAD_INPUT
    line = "uniformer: sync_batch_norm=true needs GPUs, as torch's SyncBatchNorm; got several processes on CPUs"
    for rank in (0, 1):
        assert said(tmp_path / "out", rank).splitlines()[-1] == line
    assert "Traceback" not in said(tmp_path / "out")


def test_processes_agree_on_unreadable_files(tmp_path):
    folder = make_images(tmp_path / "images", train=6)
    (folder / "train" / "red" / "1.png").write_bytes(b"no picture")
    data = {"root": str(folder), "train": "train", "workers": 0}
    recipe = recipe_file(tmp_path / "bad.toml", {"data": data, "loop": {"max_bad_fraction": 0.5}})
    assert ended(*start_several(2, recipe, tmp_path / "out")) == 0
    assert said(tmp_path / "out").count("unreadable, another sample stands in") == 1
    strict = recipe_file(tmp_path / "strict.toml", {"data": data, "loop": {"max_bad_fraction": 0.0}})
    children = start_several(2, strict, tmp_path / "strict")
    assert ended(*children) == cli.BAD_INPUT
    assert children[1].exitcode == cli.BAD_INPUT
    assert "1 of 12 samples of this epoch could not be read" in said(tmp_path / "strict")


def test_processes_agree_that_a_state_is_damaged(tmp_path, alone):
    recipe, _ = alone
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.pt").write_bytes(b"half a file")
    children = start_several(2, recipe, tmp_path / "out")
    assert ended(*children) == children[1].exitcode == cli.BAD_INPUT
    for rank in (0, 1):
        line = "state.pt: expected the state of a run ('uniformer run 1'), found another kind of file: it is no"
        assert line in said(tmp_path / "out", rank)


def test_processes_agree_on_steps_to_leave_out(tmp_path, images):
    data = {"root": str(images), "train": "train", "workers": 0}
    wild = recipe_file(tmp_path / "wild.toml", {"data": data, "optimizer": {"lr": 1e30, "clip_grad": "none"}})
    assert ended(*start_several(2, wild, tmp_path / "out")) == cli.BAD_INPUT
    words = said(tmp_path / "out")
    assert "uniformer: training does not get past step" in words
    assert "(process 0)" in words
    assert "(process 1)" in words

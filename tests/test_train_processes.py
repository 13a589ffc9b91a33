"""Training as it is run: processes that are killed, stopped, run out of disk, or work together by torchrun."""

import csv
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training_runs import CLIPS, FROZEN_NORMS, make_clips, make_images, recipe_file
from uniformer.settings import Table
from uniformer.training_state import load_state

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TIMEOUT = 300  # seconds, for a process on a busy machine


def command(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "uniformer.cli", "train", str(recipe), "--out", str(out), "--device", "cpu"]


def run(arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT, **options)


def finished(arguments: list[str]) -> str:
    done = run(arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def torchrun(processes: int, arguments: list[str]) -> list[str]:
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *start, *arguments[1:]]


def losses(out: Path) -> list[float]:
    with open(out / "metrics.csv", newline="") as f:
        return [float(row["loss"]) for row in csv.DictReader(f) if row["loss"]]


def assert_same_weights(one: Path, other: Path, name: str = "model.safetensors") -> None:
    a, b = load_file(one / name), load_file(other / name)
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), train=12)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), train=6)


# ---- one process, killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory, clips):
    """The recipe of a run with every random thing in it, and the folder of one that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    everything: Table = {
        "model": {"drop_path": 0.2},
        "data": {"root": str(clips), "train": "train", "val": "train", "workers": 1},
        "schedule": {"epochs": 5},
        "keep": {"every_steps": 2, "result": "best"},
        "ema": {"decay": 0.9},
    }
    recipe = recipe_file(folder / "everything.toml", everything, base=CLIPS)
    begin = time.monotonic()
    finished(command(recipe, folder / "out"))
    return recipe, folder / "out", time.monotonic() - begin


def kill_after(arguments: list[str], is_time, seconds: float = TIMEOUT) -> bool:
    """Start, kill with SIGKILL when `is_time()`; whether that came before the end."""
    child = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < end:
        if is_time():
            child.kill()
            break
        time.sleep(0.0002)
    child.wait(TIMEOUT)
    return child.returncode == -signal.SIGKILL


def test_a_run_killed_at_random_moments_ends_with_the_same_weights_bit_for_bit(tmp_path, whole):
    recipe, reference, _ = whole
    rng, out = random.Random(), tmp_path / "out"
    kills, moments = 0, []
    for _ in range(3):
        before = load_state(out / "state.pt")["progress"]["step"] if (out / "state.pt").exists() else 0
        wanted = before + rng.randint(1, 5)
        extra = rng.random() * 0.1
        begun = None

        def is_time(wanted=wanted, extra=extra) -> bool:
            nonlocal begun
            if begun is None and (out / "metrics.csv").exists() and len(losses(out)) >= wanted:
                begun = time.monotonic()
            return begun is not None and time.monotonic() >= begun + extra

        kills += kill_after(command(recipe, out), is_time)
        moments.append((wanted, extra))
    assert kills, "every run ended before its kill"
    finished(command(recipe, out))
    for name in ("model.safetensors", "best.safetensors", "average.safetensors"):
        assert_same_weights(reference, out, name)
    assert losses(out) == losses(reference), moments


def test_a_kill_while_a_state_is_written_leaves_the_one_before(tmp_path, whole):
    recipe, reference, _ = whole
    out = tmp_path / "out"

    def is_writing() -> bool:
        if not (out / "metrics.csv").exists() or len(losses(out)) < 3:
            return False
        return any(name.startswith(".state.pt.") for name in os.listdir(out))

    assert kill_after(command(recipe, out), is_writing), "no state was seen being written"
    assert load_state(out / "state.pt")["progress"]["step"] >= 0
    finished(command(recipe, out))
    assert_same_weights(reference, out)


def test_a_full_disk_ends_the_run_in_one_line_and_leaves_the_last_state(tmp_path, images):
    small: Table = {"data": {"root": str(images), "train": "train", "workers": 0}, "schedule": {"epochs": 3}}
    recipe, out = recipe_file(tmp_path / "small.toml", small), tmp_path / "out"
    assert kill_after(command(recipe, out), lambda: (out / "metrics.csv").exists() and len(losses(out)) >= 2)
    before = (out / "state.pt").read_bytes()

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, resource.RLIM_INFINITY))

    done = run(command(recipe, out), preexec_fn=little_room)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"uniformer: cannot write {out / 'state.pt'}: File too large"
    assert "Traceback" not in done.stderr
    assert (out / "state.pt").read_bytes() == before
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == []
    finished(command(recipe, out))
    assert (out / "model.safetensors").exists()


# ---- several processes


@pytest.fixture(scope="module")
def alone(tmp_path_factory, images):
    """A recipe whose steps must not depend on the processes, as no batch norm learns, and its run by one process."""
    folder = tmp_path_factory.mktemp("alone")
    steady: Table = {"batch_size": 12, "data": {"root": str(images), "train": "train", "val": "val", "workers": 0}}
    recipe = recipe_file(folder / "steady.toml", steady, FROZEN_NORMS, {"schedule": {"epochs": 3}})
    finished(command(recipe, folder / "out"))
    return recipe, folder / "out"


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_learn_what_one_learns(tmp_path, alone, processes):
    recipe, reference = alone
    said = finished(torchrun(processes, command(recipe, tmp_path / "out")))
    assert f"{processes} processes on 1 machine" in said
    assert said.count("epoch 1/3: mean loss") == 1  # one of them speaks
    assert losses(tmp_path / "out") == pytest.approx(losses(reference), rel=2e-5)
    one, other = load_file(reference / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    for key in one:
        assert torch.allclose(one[key].double(), other[key].double(), atol=2e-4), key


def test_processes_stopped_by_a_signal_can_be_followed_by_one(tmp_path, alone):
    recipe, reference = alone
    out = tmp_path / "out"
    child = subprocess.Popen(
        torchrun(2, command(recipe, out)), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while child.poll() is None and not ((out / "metrics.csv").exists() and losses(out)):
        time.sleep(0.001)
    child.send_signal(signal.SIGTERM)  # torchrun passes it on
    child.wait(TIMEOUT)
    step = load_state(out / "state.pt")["progress"]["step"]
    finished(command(recipe, out))
    assert 1 <= step <= 6
    assert losses(out) == pytest.approx(losses(reference), rel=2e-5)


def test_processes_agree_on_a_step_left_out_and_on_unreadable_files(tmp_path, images):
    folder = make_images(tmp_path / "images", train=6)
    (folder / "train" / "red" / "1.png").write_bytes(b"no picture")
    several: Table = {
        "data": {"root": str(folder), "train": "train", "workers": 0},
        "schedule": {"epochs": 1},
        "loop": {"max_bad_fraction": 0.5},
    }
    recipe = recipe_file(tmp_path / "several.toml", several)
    said = finished(torchrun(2, command(recipe, tmp_path / "out")))
    assert said.count("unreadable, another sample stands in") == 1
    wild = recipe_file(tmp_path / "wild.toml", several, {"optimizer": {"lr": 1e30, "clip_grad": "none"}})
    done = run(torchrun(2, command(wild, tmp_path / "wild")))
    assert done.returncode != 0
    assert "uniformer: training does not get past step" in done.stderr
    assert "(process 0)" in done.stdout
    assert "(process 1)" in done.stdout

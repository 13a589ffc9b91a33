"""What belongs to the whole process is, after each of the package's doors, as it was before."""

from __future__ import annotations

import gc
import locale
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
import torch

import uniformer
from tests import odd_media
from tests.tiny import CLIPS, TINY, save_tiny
from tests.training_runs import make_images, recipe, splits
from uniformer.camera_motion.make import make
from uniformer.datasets.prepare import reencode
from uniformer.datasets.scan import scan
from uniformer.training.loop import fit

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)


def state(*, drawn: bool = True) -> dict[str, Any]:
    """Of the process; `drawn`: also of the generators that all code draws from."""
    gc.collect()
    found: dict[str, Any] = {
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in SIGNALS],
        "threads": {thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio")},
        "processes": [process.pid for process in multiprocessing.active_children()],
        "warnings": ([*warnings.filters], warnings.showwarning),
        "search path": [*sys.path],
        "recursion": sys.getrecursionlimit(),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "locale": locale.setlocale(locale.LC_ALL),
        "mask": _mask(),
        "output": (sys.stdout, sys.stderr, sys.excepthook),
        "logging": (logging.getLogger().level, [*logging.getLogger().handlers]),
        "numpy": (np.geterr(), np.get_printoptions()),
        "pictures": (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES),
        "torch threads": torch.get_num_threads(),
        "torch type": torch.get_default_dtype(),
        "torch gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "torch precision": torch.is_autocast_enabled("cpu"),
        "torch exactness": (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()),
        "torch libraries": (torch.backends.mkldnn.enabled, torch.backends.cudnn.benchmark),
        "torch's list": [*torch.serialization.get_safe_globals()],
        "torch sharing": torch.multiprocessing.get_sharing_strategy(),
    }
    if drawn:
        drawn_from: Any = np.random.get_state()  # noqa: NPY002 - others may draw from it
        found["draws"] = (random.getstate(), drawn_from[1].tolist(), torch.get_rng_state().tolist())
    return found


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("given")
    for number in range(3):
        odd_media.encode(root / f"{number}.mp4", frames=9)
    (root / "list.csv").write_text("path,label\n" + "".join(f"{number}.mp4,{number}\n" for number in range(3)))
    return {
        "clip": root / "0.mp4",
        "list": root / "list.csv",
        "net": save_tiny(root / "net.safetensors", CLIPS),
        "images": make_images(root / "images", train=4, val=2),
    }


def _predict(given: dict[str, Path], out: Path) -> object:
    return uniformer.predict(given["clip"], model=given["net"])


def _predict_many(given: dict[str, Path], out: Path) -> object:
    return list(uniformer.Predictor(given["net"], workers=2).run([given["clip"], "none.mp4", given["clip"]]))


def _evaluate(given: dict[str, Path], out: Path) -> object:
    return uniformer.evaluate(given["net"], given["list"], out=out, workers=2)


def _train(given: dict[str, Path], out: Path) -> object:
    random_in_everything = {"model": {"drop_path": 0.2}, "schedule": {"epochs": 1}, "data": {"workers": 1}}
    return fit(recipe(random_in_everything), *splits(given["images"]), out=out, device="cpu")


def _verify(given: dict[str, Path], out: Path) -> object:
    return uniformer.verify(given["net"])


def _scan(given: dict[str, Path], out: Path) -> object:
    return scan({"all": uniformer.open_dataset(given["list"])}, out, workers=0)


def _prepare(given: dict[str, Path], out: Path) -> object:
    return reencode(uniformer.open_dataset(given["list"]), out, short_side=32, workers=0)


def _make(given: dict[str, Path], out: Path) -> object:
    pytest.importorskip("skimage")
    return make(out, train=1, val=0, test=0, worlds=["photos"], workers=0)


def _make_in_games(given: dict[str, Path], out: Path) -> object:
    pytest.importorskip("vizdoom")
    return make(out, train=1, val=0, test=0, worlds=["doom"], workers=0)


def _export(given: dict[str, Path], out: Path) -> object:
    pytest.importorskip("onnxscript")
    model = uniformer.UniFormer(TINY).eval()
    return uniformer.export(model, uniformer.Contract(TINY, input=uniformer.InputSpec((32, 32), 32)), f"{out}.onnx")


def _fail(given: dict[str, Path], out: Path) -> object:
    for action in (
        lambda: uniformer.predict(given["list"], model=given["net"]),
        lambda: uniformer.evaluate(given["list"], given["list"]),
        lambda: uniformer.train("none"),
    ):
        with pytest.raises(uniformer.InputError):
            action()
    return None


LOADS = {_predict, _predict_many, _evaluate, _verify, _export, _fail}  # a network that is made is drawn first
SLOW = (_make_in_games, _export)
DOORS: list[Callable[[dict[str, Path], Path], object]] = [
    _predict, _predict_many, _evaluate, _train, _verify, _scan, _prepare, _make, _fail,
]  # fmt: skip


@pytest.mark.parametrize("door", [*DOORS, *(pytest.param(door, marks=pytest.mark.slow) for door in SLOW)])
def test_a_door_leaves_the_process_as_it_was(
    door: Callable[[dict[str, Path], Path], object], given: dict[str, Path], tmp_path: Path
) -> None:
    door(given, tmp_path / "first")  # imports change things of their own, once
    before = state(drawn=door not in LOADS)
    door(given, tmp_path / "second")
    after = state(drawn=door not in LOADS)
    assert {name for name in before if before[name] != after[name]} == set()


def test_a_package_that_is_imported_changes_nothing() -> None:
    """But what the packages change that it stands on."""
    code = """
import os, signal, sys, warnings
def state():
    return os.getcwd(), dict(os.environ), signal.getsignal(signal.SIGTERM), [*warnings.filters], sys.getrecursionlimit()
before = state()
import uniformer
assert state() == before
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)

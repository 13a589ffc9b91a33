"""Fixtures of several test files. With `pytest -n`, each worker and its children compute on one thread: more would only
be in each other's way."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.command_line import Cli, Ended
    from uniformer.datasets.manifest import Manifest
    from uniformer.training.step import Run

if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):  # as images of containers say: each process that is started here
    sys.dont_write_bytecode = False  # would compile all that it imports of the package again
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end: no search for garbage is to go through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As in the processes that tests start: torch's digits depend on the threads, and tiny networks gain from none."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process, which spares importing torch each time."""
    from tests.command_line import Ended
    from uniformer.cli.main import main

    def run(*args: object) -> Ended:
        capfd.readouterr()
        try:
            status = main([str(a) for a in args])
        except SystemExit as error:
            status = int(error.code or 0)
        sys.stdout.flush()
        return Ended(status, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of clips and of images; videos, images, and files that are neither."""
    from PIL import Image

    from tests import odd_media
    from tests.tiny import CLIPS, IMAGES, save_tiny

    root = tmp_path_factory.mktemp("media")
    save_tiny(root / "clips.safetensors", CLIPS)
    save_tiny(root / "images.safetensors", IMAGES)
    videos = root / "videos"
    (videos / "inside").mkdir(parents=True)
    odd_media.h264(videos)
    odd_media.gif(videos / "inside")
    (root / "broken.mp4").write_bytes(b"This is no video.\n" * 99)
    for folder in ("frames", "photos"):
        (root / folder).mkdir()
        for number in (1, 2, 10):
            Image.fromarray(odd_media.picture(number)).save(root / folder / f"img_{number}.png")
    return root


@pytest.fixture(scope="module")
def many(media: Path) -> Path:
    """120 videos."""
    folder = media / "many"
    folder.mkdir()
    for number in range(120):
        os.link(media / "videos/h264.mp4", folder / f"{number:03}.mp4")
    return folder


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures to train with and eight to validate, blue and red."""
    from tests.training_runs import make_images

    return make_images(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def sets(pictures: Path) -> tuple[Manifest, Manifest]:
    """The training and the validation set of `pictures`."""
    from tests.training_runs import splits

    return splits(pictures)


@pytest.fixture
def prepared(tmp_path: Path, sets: tuple[Manifest, Manifest]) -> Iterator[Run]:
    """A run that is ready for its first step."""
    from tests.training_runs import recipe
    from uniformer.support.distributed import ProcessGroup
    from uniformer.training.log import Log
    from uniformer.training.setup import set_up

    with Log(tmp_path) as log:
        run, _ = set_up(recipe(), *sets, tmp_path, ProcessGroup(), log)
        yield run


# ---- a browser -------------------------------------------------------------------------------------------------------

HOW = "install a browser for these tests: apt-get install chromium chromium-driver; pip install selenium"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.fail(HOW)
    try:
        from selenium import webdriver
    except ImportError:
        pytest.fail(HOW)
    options = webdriver.ChromeOptions()
    options.binary_location = program
    flags = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync disable-dev-shm-usage window-size=1160,1000 "
        "use-fake-device-for-media-stream use-fake-ui-for-media-stream"  # a camera that everybody may use
    )
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()

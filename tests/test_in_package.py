"""The model that comes with the package: found without a network, and what `uniformer predict` falls back to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import odd_media
from tests.patience import PATIENCE
from tests.tiny import refused
from uniformer import Predictor, get_checkpoint, list_checkpoints, verify
from uniformer.checkpoints.fetch import fetch
from uniformer.checkpoints.identify import open_checkpoint
from uniformer.checkpoints.records import BUNDLED, DEFAULT_IMAGE, DEFAULT_VIDEO
from uniformer.cli.main import main

NO_NETWORK = {"HF_ENDPOINT": "http://127.0.0.1:9", "HTTP_PROXY": "", "HTTPS_PROXY": ""}  # a port that nobody serves


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_media.h264(tmp_path_factory.mktemp("clip"))


def uniformer(home: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own that has no network and an empty cache."""
    return subprocess.run(
        [sys.executable, "-m", "uniformer.cli", *map(str, args)],
        env={**os.environ, **NO_NETWORK, "HF_HOME": str(home), "UNIFORMER_CHECKPOINTS": str(home)},
        text=True, capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def test_the_file_is_small_whole_and_says_what_it_is() -> None:
    path = fetch(get_checkpoint(BUNDLED), offline=True)
    assert path.stat().st_size < 5_000_000
    contract, problems = verify(path)
    assert problems == []
    assert (contract.id, contract.input is not None and contract.input.is_video) == (BUNDLED, True)
    assert {"pan_left", "tilt_up", "zoom_in", "static"} <= set(contract.classes)
    weights = open_checkpoint(BUNDLED).weights
    assert {t.dtype for t in weights.state.values() if t.is_floating_point()} == {torch.float16}


def test_its_record_is_what_the_file_says() -> None:
    record, contract = get_checkpoint(BUNDLED), open_checkpoint(BUNDLED).weights.contract
    assert contract is not None
    assert (record.arch, record.input, record.num_classes) == (contract.arch, contract.input, len(contract.classes))
    assert record.file is None
    assert record.params == sum(p.numel() for p in Predictor(BUNDLED).network.model.parameters())


def test_it_is_listed_apart_from_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert BUNDLED not in list_checkpoints()
    assert list_checkpoints(in_package=True) == [*list_checkpoints(), BUNDLED]
    assert main(["models", "*k400_16x?"]) == 0
    assert "in the package" not in capsys.readouterr().out
    assert main(["models"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(BUNDLED)]
    assert line.rstrip().endswith("in the package (not published)")
    assert main(["models", BUNDLED]) == 0
    assert "in the package (not published)" in capsys.readouterr().out
    assert main(["models", BUNDLED, "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["path"]).is_file()


def test_listing_it_needs_no_torch() -> None:
    code = f"import sys, uniformer; uniformer.get_checkpoint({BUNDLED!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_nearly_right() -> None:
    with refused(f"unknown checkpoint 'uniformer_nano_video.camera' .did you mean '{BUNDLED}'"):
        get_checkpoint("uniformer_nano_video.camera")


def test_it_predicts_and_is_evaluated_by_its_id(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(clip), "--checkpoint", BUNDLED, "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == BUNDLED
    for name in ("pan_left", "tilt_up"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").write_bytes(clip.read_bytes())
    assert main(["eval", BUNDLED, str(tmp_path), "--workers", "1"]) == 0
    assert "top-1" in capsys.readouterr().out


def test_predict_falls_back_to_it_where_the_default_cannot_be_had(clip: Path, tmp_path: Path) -> None:
    ended = uniformer(tmp_path, "predict", clip, "--format", "jsonl")
    assert ended.returncode == 0, ended.stderr
    chosen, note = ended.stderr.splitlines()
    assert chosen == f"no --checkpoint given: {DEFAULT_VIDEO}, which takes videos and folders of frames"
    assert note.startswith(
        f"the default checkpoint {DEFAULT_VIDEO} could not be fetched (cannot reach http://127.0.0.1:"
    )
    assert note.endswith("using the bundled model, which names camera motion, not actions")
    assert json.loads(ended.stdout)["checkpoint"] == BUNDLED


def test_in_python_the_fallback_is_a_warning(clip: Path, tmp_path: Path) -> None:
    code = f"import uniformer; print(uniformer.predict({str(clip)!r}).checkpoint)"
    ended = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], text=True, capture_output=True, check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "UNIFORMER_CHECKPOINTS": str(tmp_path)},
    )  # fmt: skip
    assert ended.stdout.strip() == BUNDLED
    assert f"UserWarning: the default checkpoint {DEFAULT_VIDEO} could not be fetched (offline" in ended.stderr


@pytest.mark.parametrize("checkpoint", [DEFAULT_VIDEO, None])
def test_nothing_stands_in_for_a_named_checkpoint_or_for_images(
    clip: Path, tmp_path: Path, checkpoint: str | None
) -> None:
    picture = tmp_path / "photo.png"
    Image.fromarray(odd_media.picture(1)).save(picture)
    what = (clip, "--checkpoint", checkpoint) if checkpoint else (picture,)
    ended = uniformer(tmp_path, "predict", *what)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "box" not in ended.stderr
    assert f"of {checkpoint or DEFAULT_IMAGE}: cannot reach" in ended.stderr

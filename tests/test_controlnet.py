"""The faces of ControlNet's segmentation preprocessor: the recorded picture by each, as their users call them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.dense_golden import CASES, weights_of
from tests.golden import FOLDER, normals
from tests.hub_server import serve
from tests.tiny import refused
from uniformer.controlnet import FILE, REPOSITORY, Annotator, UniformerSegmentor, as_rgb
from uniformer.labels import load_classes, load_palette

DOCS = Path(__file__).parents[1] / "docs" / "controlnet.md"
RECORDED = np.load(FOLDER / "controlnet.npz")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated weights in the form of the published file."""
    path = tmp_path_factory.mktemp("annotator") / FILE
    meta = {"CLASSES": load_classes("ADE20K"), "PALETTE": load_palette("ADE20K")}
    torch.save({"meta": meta, "state_dict": weights_of(CASES["upernet_small"]), "optimizer": {}}, path)
    return path


@pytest.fixture(scope="module")
def resized() -> np.ndarray:
    """The picture that the recorded run was handed, in steps of 8 pixels, as ControlNet's `resize_image` makes it."""
    height, width = 300, 260
    steps = normals("image:controlnet_seg", [height // 8 + 1, width // 8 + 1, 3])
    blocks = np.clip(np.round(128 + 90 * steps), 0, 255).astype(np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    small = np.asarray(cv2.resize(picture, (256, 320), interpolation=cv2.INTER_AREA), np.uint8)
    near = np.abs(small.reshape(-1)[RECORDED["resized_at"]].astype(int) - RECORDED["resized"])
    assert near.max() <= 1  # OpenCV 4 and 5 round a pixel differently
    return small


def is_recorded(painted: np.ndarray) -> bool:
    """The same colours wherever the reference itself is sure."""
    unsure = np.unpackbits(RECORDED["unsure"])[: painted.shape[0] * painted.shape[1]].reshape(painted.shape[:2])
    wanted = np.array(load_palette("ADE20K"), np.uint8)[RECORDED["labels"]]
    return bool((painted == wanted).all(axis=2)[unsure == 0].all())


@pytest.fixture(scope="module")
def annotator(file: Path) -> Annotator:
    return Annotator(file)


@pytest.fixture(scope="module")
def painted(annotator: Annotator, resized: np.ndarray) -> np.ndarray:
    return annotator(resized)


def test_colours_are_those_of_the_recorded_run(resized: np.ndarray, painted: np.ndarray) -> None:
    assert (painted.shape, painted.dtype) == (resized.shape, np.uint8)
    assert is_recorded(painted)
    near = painted.reshape(-1)[RECORDED["colours_at"]] == RECORDED["colours"]
    assert near.mean() > 0.99


def test_the_channels_can_be_put_right(file: Path, resized: np.ndarray, painted: np.ndarray) -> None:
    """Handed the picture the other way round, the mended annotator sees what the originals saw."""
    assert np.array_equal(Annotator(file, swap=False)(resized[:, :, ::-1]), painted)


FACES = """
import sys
import numpy as np
from uniformer.controlnet import UniformerDetector, apply_uniformer, unload_uniformer_model

picture = np.load(sys.argv[1])
unload_uniformer_model()  # nothing is loaded: nothing happens
first = apply_uniformer(picture)
unload_uniformer_model()
np.save(sys.argv[2], np.stack([first, UniformerDetector(device="cpu")(picture)]))
"""


def test_controlnet_and_webui_fetch_the_file_once(file: Path, resized: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "picture.npy", resized)
    arguments = [sys.executable, "-c", FACES, str(tmp_path / "picture.npy"), str(tmp_path / "painted.npy")]
    with serve({f"{REPOSITORY}/{FILE}": file.read_bytes()}) as hub:
        places = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | places, check=False)
        assert done.returncode == 0, done.stderr
        assert len(hub.downloads()) == 1
    for painted in np.load(tmp_path / "painted.npy"):
        assert is_recorded(painted)


def test_comfyui(file: Path, resized: np.ndarray) -> None:
    segmentor = UniformerSegmentor.from_pretrained(str(file.parent)).to("cpu")
    as_array = segmentor(resized, detect_resolution=256)
    assert isinstance(as_array, np.ndarray)
    assert is_recorded(as_array)  # multiples of 64 already: nothing is filled up
    # Hardly more than squares from here on: whatever comes is seen with a short side of 512 pixels.
    few_colours = Image.fromarray(resized[:250, :240]).quantize(32)  # its numbers are places in a palette, not grey
    in_rgb = few_colours.convert("RGB")
    as_image = segmentor(in_rgb, 100, upscale_method="INTER_LANCZOS4")
    assert isinstance(as_image, Image.Image)
    assert as_image.size == (100, 104)
    for same in (few_colours, np.asarray(in_rgb)):
        found = segmentor(same, detect_resolution=100, output_type="np", upscale_method="INTER_LANCZOS4")
        assert np.array_equal(found, np.asarray(as_image))


def test_grey_and_transparent_pictures() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 7), np.uint8)
    grey = np.repeat(picture[:, :, None], 3, axis=2)
    for same in (picture, picture[:, :, None], grey, np.dstack([grey, np.full_like(picture, 255)])):
        assert np.array_equal(as_rgb(same), grey)
    assert (as_rgb(np.dstack([grey, np.zeros_like(picture)])) == 255).all()  # on white


def test_what_is_wrong_is_said(
    file: Path, annotator: Annotator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with refused("expected a picture as uint8 .H, W, 3., got float32 of shape .8, 8, 3."):
        annotator(np.zeros((8, 8, 3), np.float32))
    with refused("no checkpoint at .*none.pth"):
        Annotator(tmp_path / "none.pth")
    torch.save(weights_of(CASES["fpn_xxs"]), tmp_path / "other.pth")
    with refused("other.pth: expected tensors like those of upernet.uniformer_small.ade20k, of widths .*, found"):
        Annotator(tmp_path / "other.pth")
    with refused("cannot fetch upernet_global_small.pth of nobody/nothing: "):
        UniformerSegmentor.from_pretrained("nobody/nothing", cache_dir=str(tmp_path / "cache"))
    segmentor = UniformerSegmentor.from_pretrained(str(file))
    with refused("expected a picture as uint8 .H, W, 3., got float64 of shape .8, 8, 3."):
        segmentor(np.zeros((8, 8, 3)))
    with refused("expected no option 'resolution' of a segmentor"):
        segmentor(np.zeros((8, 8, 3), np.uint8), resolution=3)
    with refused("expected a filter of OpenCV such as INTER_CUBIC, got 'CUBIC'"):
        segmentor(np.zeros((8, 8, 3), np.uint8), upscale_method="CUBIC")


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("annotator/uniformer", "UniformerDetector"),
        ("annotator/uniformer", "apply_uniformer, unload_uniformer_model"),
        ("custom_controlnet_aux/uniformer", "UniformerSegmentor"),
    ],
)
def test_the_projects_import_it_by_the_file_of_the_docs(folder: str, names: str, tmp_path: Path) -> None:
    """The file that docs/controlnet.md says, in its place, imported as the projects do."""
    lines = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.endswith(f"import {names}")]
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "__init__.py").write_text(lines[0])
    code = f"from {folder.replace('/', '.')} import {names}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_it_needs_neither_timm_nor_opencv() -> None:
    """Whose versions broke the originals."""
    code = (
        "import sys; sys.modules |= {'timm': None, 'cv2': None, 'mmcv': None}; "
        "from uniformer.controlnet import UniformerDetector, UniformerSegmentor, apply_uniformer; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr

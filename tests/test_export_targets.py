"""Files for every runtime: networks of clips without 3D convolutions, and what the runtimes make of them."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import uniformer
from tests.test_dense_speed import dense_network
from tests.tiny import CLIPS, IMAGES, TINY, refused, save_tiny, tiny_model
from tests.tolerance import assert_close, terms_of
from uniformer.checkpoints.contract import Contract
from uniformer.cli.main import main
from uniformer.config import Config, PersonCrop
from uniformer.inference.predictor import Predictor
from uniformer.network.model import UniFormer
from uniformer.network.variants import VARIANTS
from uniformer.speed.export import _as_written, _traced, write_graph
from uniformer.speed.framewise import FramewiseUniFormer
from uniformer.speed.runtimes import TARGETS, open_exported

LIGHT = {"keep_ratio": 0.5, "overlap": 1, "depths": (1, 1, 3, 2)}
FAMILIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "light": LIGHT,
    "split": {"split_attention": True},
    "long kernels": {"time_kernel": 3, "overlap": 4, "layer_scale": 0.3},
}


def needs(form: str) -> None:
    """Skips where a package of a target is missing."""
    for package in TARGETS[form].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{TARGETS[form].name} needs {package}: pip install 'uniformer[{TARGETS[form].extra}]'")


# ---- the rewriting ---------------------------------------------------------------------------------------------------


def assert_same(config: Config, grid: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = UniFormer(config).double().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
    x = torch.randn(2, config.in_chans, *grid, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(x)
        for dtype, allowed in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            found = FramewiseUniFormer(model, grid, dtype)(x.to(dtype).flatten(3))
            assert found.dtype == dtype
            assert float((found - wanted).abs().max()) <= allowed * float(wanted.abs().max())


@pytest.mark.parametrize("name", [name for name, config in VARIANTS.items() if config.is_video])
def test_every_video_architecture_is_a_sum_over_frames(name: str, one_thread: None) -> None:
    """Its widths, heads and kinds of blocks; of its depths at most two, and three where tokens are chosen."""
    config = VARIANTS[name]
    most = (2, 2, 3, 2) if config.is_hourglass else (2, 2, 2, 2)
    assert_same(replace(config, depths=tuple(map(min, config.depths, most)), num_classes=40), (4, 64, 64))


@pytest.mark.parametrize(
    ("family", "grid"),
    [("plain", (1, 64, 64)), ("light", (5, 70, 75)), ("split", (2, 32, 96)), ("long kernels", (2, 70, 75))],
)
def test_any_frames_and_size(family: str, grid: tuple[int, int, int], one_thread: None) -> None:
    """Kernels longer than the clip, and rows and columns that the strides drop, among them."""
    assert_same(tiny_model(ndim=3, **FAMILIES[family]).config, grid)


def test_clips_of_another_shape_are_one_line() -> None:
    network = FramewiseUniFormer(tiny_model(ndim=3), (4, 64, 64))
    with refused(r"expected clips of shape \(B, 3, 4, 4096\), got \(1, 3, 4, 64, 64\)"):
        network(torch.zeros(1, 3, 4, 64, 64))
    with refused("input of 4 x 16 x 64 is too small"):
        FramewiseUniFormer(tiny_model(ndim=3), (4, 16, 64))


@pytest.mark.parametrize("family", [*FAMILIES, "windows", "semantic_fpn", "topdown"])
def test_no_graph_has_a_3d_convolution_or_five_dimensions(family: str) -> None:
    size: tuple[int, ...] = (3, 64, 96)
    if family in FAMILIES:
        network, size = tiny_model(ndim=3, **FAMILIES[family]), (3, 4, 64, 64)
    elif family == "windows":
        network = tiny_model(window=3, global_every=2, depths=(1, 1, 2, 1))
    else:
        network = dense_network(family, window=3)  # type: ignore[arg-type]
    with torch.no_grad():
        program = _traced(*_as_written(network, size, "2d" if family in FAMILIES else None), ".onnx")
    values = [node.meta.get("val") for node in program.graph.nodes]
    assert max(value.ndim for value in values if isinstance(value, torch.Tensor)) <= 4
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.conv2d.default" in called
    assert not {"aten.conv3d.default", "aten.alias.default"} & called


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("targets") / "clips.safetensors", CLIPS)


def some_views(count: int, *size: int) -> torch.Tensor:
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("form", [".onnx", ".xml", ".pte", ".tflite"])
def test_a_file_without_3d_convolutions_answers_as_its_checkpoint(
    form: str, checkpoint: Path, tmp_path: Path, one_thread: None
) -> None:
    needs(form)
    out, paper = tmp_path / f"clips{form}", tmp_path / "receipt.json"
    assert main(["export", str(checkpoint), str(out), "--conv3d", "2d", "--receipt", str(paper)]) == 0
    receipt = json.loads(paper.read_text())
    assert (receipt["target"], receipt["conv3d"], receipt["agreement"]) == (TARGETS[form].name, "2d", 1)
    assert receipt["gap"] <= 1e-5
    assert receipt["seconds"] > 0
    assert {"torch", *TARGETS[form].packages} <= receipt["versions"].keys()
    views = some_views(5, 3, 4, 64, 64)
    model = Predictor(checkpoint).network.model
    network = Predictor(out)
    assert network.contract == Predictor(checkpoint).contract
    with torch.no_grad():
        wanted = model(views)
    for at_once in (1, 2, 5):
        assert_close(network.network(views.numpy(), at_once)[0], wanted, terms_of(tiny_model(ndim=3)))


@pytest.mark.parametrize(
    ("family", "form"),
    [
        *(("light", form) for form in (".onnx", ".pt2", ".pte", ".tflite")),
        *((family, form) for family in ("image", "topdown") for form in (".pte", ".tflite")),
    ],
)
def test_light_networks_images_and_poses(family: str, form: str, tmp_path: Path, one_thread: None) -> None:
    """Tokens are chosen, gathered and scattered by each runtime's own means."""
    needs(form)
    model: Any = (
        dense_network("topdown") if family == "topdown" else tiny_model(**LIGHT, ndim=3 if family == "light" else 2)
    )
    spec = {"light": CLIPS, "image": IMAGES, "topdown": PersonCrop(size=(64, 96))}[family]
    receipt = uniformer.export(model, Contract(model.config, input=spec), tmp_path / f"a{form}", conv3d="2d")
    assert receipt.conv3d == ("2d" if family == "light" else None)
    assert receipt.gap <= 1e-5


@pytest.mark.parametrize("form", [".onnx", ".xml", ".pt2"])
def test_of_equal_scores_the_first_tokens_are_kept(form: str, tmp_path: Path, one_thread: None) -> None:
    """As a network is made its class token is zero and attends to all alike; a flat picture does the same to others."""
    needs(form)
    torch.manual_seed(0)
    model = UniFormer(replace(TINY, **LIGHT)).eval()
    assert uniformer.export(model, Contract(model.config, input=IMAGES), tmp_path / f"a{form}").gap <= 1e-5


def test_an_archive_of_torch_export_needs_no_package_of_ours(tmp_path: Path) -> None:
    model = tiny_model(ndim=3)
    contract = Contract(model.config, input=CLIPS)
    uniformer.export(model, contract, tmp_path / "clips.pt2")
    told = {"uniformer": ""}
    program = torch.export.load(tmp_path / "clips.pt2", extra_files=told)
    assert Contract.from_json(told["uniformer"], "clips.pt2") == contract
    views = some_views(3, 3, 4, 64, 64)
    with torch.no_grad():
        assert_close(program.module()(views), model(views), terms_of(model))


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_a_target_cannot_do_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(ndim=3)
    contract = Contract(model.config, input=CLIPS)
    with refused("a.pte: expected conv3d 2d, ExecuTorch has no 3D convolutions"):
        uniformer.export(model, contract, tmp_path / "a.pte", conv3d="3d")
    with refused("expected conv3d 3d, 2d, got '4d'"):
        uniformer.export(model, contract, tmp_path / "a.onnx", conv3d="4d")  # type: ignore[arg-type]
    for form in TARGETS:
        missing = [name for name in TARGETS[form].packages if importlib.util.find_spec(name) is None]
        if missing:
            with refused(f"needs the package {missing[0]!r}: pip install 'uniformer.{TARGETS[form].extra}.'"):
                uniformer.export(model, contract, tmp_path / f"a{form}")
    assert not list(tmp_path.iterdir())
    assert main(["predict", "clip.mp4", "--checkpoint", str(tmp_path / "a.pt2")]) == 2
    error = capsys.readouterr().err
    assert "networks for torch.export are only written here, not run" in error
    assert error.count("\n") == 1
    (tmp_path / "a.onnx").mkdir()
    with refused("cannot write .*a.onnx: a folder is there"):
        uniformer.export(model, contract, tmp_path / "a.onnx")


@pytest.mark.parametrize("form", [".pte", ".tflite"])
def test_files_that_are_no_exports_are_one_line(form: str, tmp_path: Path) -> None:
    needs(form)
    model = tiny_model()
    write_graph(model, (3, 64, 64), tmp_path / f"a{form}", Contract(model.config, input=IMAGES))
    whole = (tmp_path / f"a{form}").read_bytes()
    (tmp_path / f"bare{form}").write_bytes(whole[: whole.rindex(b"PK\3\4")])  # without what was attached
    with refused("found no description of a model in it"):
        open_exported(tmp_path / f"bare{form}")
    (tmp_path / f"text{form}").write_text("not a network")
    with refused(f"{TARGETS[form].name} cannot read it"):
        open_exported(tmp_path / f"text{form}")

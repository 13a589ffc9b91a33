"""Networks with heads as graphs: compiled whole, exported, and written for OpenVINO and ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import uniformer
from tests.annotated_sets import picture
from tests.command_line import Cli, one_line
from tests.shapes import segmentation_set
from tests.test_dense_speed import BACKBONES, an_input, dense_config, dense_network, outputs
from tests.tiny import refused
from tests.tolerance import assert_close, terms_of
from uniformer import speed
from uniformer.checkpoints.contract import Contract
from uniformer.config import Head, PersonCrop, Scaling
from uniformer.inference.predictor import Predictor
from uniformer.network.model import UniFormer
from uniformer.speed.export import export
from uniformer.speed.forms import best_form, inference_form
from uniformer.speed.runtimes import open_exported


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()  # else networks of earlier tests count as recompilations of this one


# ---- in torch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["upernet", "topdown"])
def test_a_whole_network_compiles_and_exports(head: Head, one_thread: None) -> None:
    """The plain network and its inference copy, with windows."""
    network, x = dense_network(head, window=3), an_input(2, (64, 96))
    wanted = outputs(network, x)[4]
    with torch.no_grad():
        for form in (network, speed.prepare(network, training=False)):
            compiled = torch.compile(form, fullgraph=True, backend="aot_eager")
            assert_close(compiled(x), wanted, terms_of(network))
        exported = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        assert_close(exported.module()(x[:1]), wanted[:1], terms_of(network))


@pytest.mark.parametrize("backbone", ["hybrid", "light"])
def test_the_backbone_of_a_dense_network_compiles_whole(backbone: str, one_thread: None) -> None:
    network, x = UniFormer(dense_config("upernet", **BACKBONES[backbone]).backbone).eval(), an_input(1)
    with torch.no_grad():
        found = torch.compile(network, fullgraph=True, backend="aot_eager")(x)
        for one, other in zip(found, network(x), strict=True):
            assert_close(one, other, terms_of(network))


def test_the_forms_of_whole_pictures(one_thread: None) -> None:
    """Those whose size varies have no runtime; a detector's levels can be compiled as far as they go."""
    network, x = dense_network("mask_rcnn"), an_input(1)
    assert inference_form(network, "plain", None, torch.float32) is network
    assert best_form(network, None, torch.device("cpu"), torch.float32) == "fast"
    fast = inference_form(network, "fast", None, torch.float32)
    for one, other in zip(outputs(fast, x), outputs(network, x), strict=True):
        assert_close(one, other, terms_of(network))
    with refused("expected compute plain, fast or compiled for pictures of any size, got openvino"):
        inference_form(network, "openvino", None, torch.float32)
    with refused("expected a network without regions to export, got mask_rcnn: their number varies"):
        uniformer.optimize(network, backend="onnxruntime", example=x)


# ---- files -----------------------------------------------------------------------------------------------------------


def contract_of(head: Head) -> Contract:
    given = PersonCrop(size=(64, 96)) if head == "topdown" else Scaling(longest=2048, shortest=512, by="resizing")
    details = {"flip_pairs": [[0, 1], [2, 3]]} if head == "topdown" else {}
    classes = tuple(map(str, range(7)))
    return Contract(dense_config(head), input=given, classes=classes, id="tiny.dense", details=details)


FILES: dict[Head, str] = {"semantic_fpn": "network.onnx", "topdown": "network.xml"}


@pytest.fixture(scope="module", params=FILES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Head, Path]:
    """A network as a file, which takes some time."""
    for package in ("openvino", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    head: Head = request.param
    path, size = tmp_path_factory.mktemp("files") / FILES[head], None if head == "topdown" else (64, 96)
    torch._dynamo.reset()
    receipt = export(dense_network(head), contract_of(head), path, size=size)
    assert receipt.gap <= 1e-4
    assert (receipt.agreement, receipt.conv3d) == (1, None)
    return head, path


def test_a_file_answers_as_the_network(written: tuple[Head, Path], one_thread: None) -> None:
    head, path = written
    network, opened, x = dense_network(head), open_exported(path), an_input(3, (64, 96))
    assert opened.contract == contract_of(head)
    assert opened.size == (3, 64, 96)
    found = opened(x.numpy(), 2)  # a whole batch and a rest
    assert found.shape == (3, 7, 16, 24)
    assert_close(found, outputs(network, x)[4], terms_of(network))
    with refused("cannot compute views of .3, 64, 64."):
        opened(np.zeros((1, 3, 64, 64), np.float32), 1)


def test_a_file_predicts_as_the_checkpoint_at_its_size(
    written: tuple[Head, Path], tmp_path: Path, one_thread: None, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (head, name), network = written, dense_network(written[0])
    contract = contract_of(head)
    monkeypatch.chdir(tmp_path)
    exported, own = Predictor(name), Predictor((network, contract), device="cpu")
    for number, sides in enumerate(((128, 192), (70, 50))):  # of the file's proportions, and of others
        picture(tmp_path / f"{number}.png", number, sides)
        views = exported.views(f"{number}.png")
        found = exported.network.whole(exported.task, views, 2)
        wanted = own.network.whole(exported.task, views, 2)
        if head == "topdown":
            assert_close(found[0], wanted[0], terms_of(network))
        else:
            assert (views.array.shape, found[0].shape) == ((1, 3, 64, 96), (1, *sides))
            assert (found[0] != wanted[0]).mean() < 1e-3  # where two classes are as likely
    if head == "semantic_fpn":
        same = Predictor((network, replace(contract, input=Scaling(96, 64, by="nothing"))), device="cpu")
        assert (same("0.png").labels != exported("0.png").labels).mean() < 1e-3
        one_line(cli("predict", "0.png", "--checkpoint", name, "--mode", "slide"), "pictures of 96x64 alone, got slide")
        assert cli("predict", "1.png", "--checkpoint", name, "--tile", "64", "--maps", "maps").status == 0
        tested = cli("eval", name, segmentation_set(tmp_path / "set"), "--workers", "0")
        assert "  whole pictures, resized to 96 x 64, float32\n" in tested.out, tested.err
    ended = cli("predict", "0.png", "1.png", "--checkpoint", name, "--draw", "drawn", "--out", "found.jsonl")
    assert ended.status == 0, ended.err
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["0.png", "1.png"]
    assert len(Path("found.jsonl").read_text().splitlines()) == 2
    assert "checkpoint:   tiny.dense\n" in cli("models", name).out


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    out, segmenter = tmp_path / "network.onnx", dense_network("semantic_fpn")
    for network, contract, size, said in (
        (
            dense_network("mask_rcnn"),
            contract_of("mask_rcnn"),
            (64, 64),
            "network without regions to export, got mask_rcnn",
        ),
        (
            segmenter,
            contract_of("semantic_fpn"),
            None,
            "size of the pictures that semantic_fpn is exported for, got none",
        ),
        (segmenter, contract_of("semantic_fpn"), (64, 16), "exported for, got 64x16"),
        (
            dense_network("topdown"),
            contract_of("topdown"),
            (64, 64),
            "expected no size of pictures: the network is fed .64, 96.",
        ),
        (
            UniFormer(dense_config("upernet").backbone),
            Contract(dense_config("upernet").backbone),
            None,
            "got a backbone",
        ),
    ):
        with refused(said):
            export(network, contract, out, size=size)
    assert json.dumps(sorted(tmp_path.iterdir())) == "[]"

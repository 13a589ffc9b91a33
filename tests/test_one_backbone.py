"""One set of weights in all four: an image classifier's file starts a video network, detectors, segmenters, poses."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import IMAGES, TINY, save_tiny
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import create_model, load_checkpoint
from uniformer.checkpoints.save import save_checkpoint
from uniformer.network.model import UniFormer

SMALL: dict[str, Any] = {name: getattr(TINY, name) for name in ("depths", "dims", "head_dim")}
HEADS = ("mask_rcnn", "cascade_mask_rcnn", "semantic_fpn", "upernet", "topdown")
KEPT = "stages."  # what all of them share: the four stages


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a classifier of images with seven classes."""
    return save_tiny(tmp_path_factory.mktemp("classifier") / "model.safetensors", IMAGES)


def stages(network: Any) -> dict[str, Tensor]:
    """The tensors of the four stages, without the norms of their maps."""
    backbone = network if isinstance(network, UniFormer) else network.backbone
    norms = {f"stages.{i}.norm" for i in range(4)}
    state = backbone.state_dict()
    return {key: t for key, t in state.items() if key.startswith(KEPT) and key.rpartition(".")[0] not in norms}


def image_network(classifier: Path) -> UniFormer:
    return create_model("uniformer_small", **SMALL, checkpoint=classifier).eval()


@pytest.mark.parametrize("head", HEADS)
def test_dense_networks_begin_with_the_classifier(head: str, classifier: Path) -> None:
    """To the bit; what is new is the head and the norms of the maps, all of it reported, and that is a warning."""
    source = stages(image_network(classifier))
    with pytest.warns(UserWarning, match="tensors of the model: they are new and want training"):
        dense = create_model(f"{head}.uniformer_small", **SMALL, checkpoint=classifier).eval()
    found = stages(dense)
    assert found.keys() == source.keys()
    assert all(torch.equal(found[key], source[key]) for key in source)
    again = create_model(f"{head}.uniformer_small", **SMALL)
    report = load_checkpoint(again, classifier, allow_new=("*",))
    assert sorted(key.removeprefix("backbone.") for key in report.loaded) == sorted(source)
    norms = {f"backbone.stages.{i}.norm.{name}" for i in range(4) for name in ("weight", "bias")}
    heads = {key for key in dense.state_dict() if not key.startswith("backbone.")}
    assert set(report.new) == norms | heads
    beyond = image_network(classifier).state_dict().keys() - source.keys()  # the last norm and the classes
    assert {key.removeprefix("backbone.") for key in report.ignored} == beyond


def test_the_same_picture_gives_the_same_maps_in_all(classifier: Path) -> None:
    """Image, video of the picture standing still, detector, segmenter, pose network: stage by stage."""
    picture = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    image = image_network(classifier)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # new heads, as above
        maps = image.forward_intermediates(picture)
        for head in HEADS:
            dense = create_model(f"{head}.uniformer_small", **SMALL, checkpoint=classifier).eval()
            normed = dense.backbone(picture)
            for stage, plain, found in zip(dense.backbone.stages, maps, normed, strict=True):
                norm = stage.norm(plain.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
                assert torch.allclose(found, norm, atol=1e-5)
        video = create_model("uniformer_small_video", **SMALL, checkpoint=classifier, inflate="center").eval()
        still = picture[:, :, None].expand(-1, -1, 8, -1, -1)
        for plain, found in zip(maps, video.forward_intermediates(still), strict=True):
            assert torch.allclose(found, plain[:, :, None].expand_as(found), atol=1e-4)
        assert torch.allclose(video(still), image(picture), atol=1e-4)


def test_a_trained_dense_network_lends_its_backbone_on(classifier: Path, tmp_path: Path) -> None:
    """A pose network's file is the start of a detector; the norms of its maps come along."""
    with pytest.warns(UserWarning, match="want training"):
        pose = create_model("topdown.uniformer_small", **SMALL, checkpoint=classifier)
    save_checkpoint(pose, tmp_path / "pose.safetensors", Contract(pose.config))
    with pytest.warns(UserWarning, match="want training"):
        detector = create_model(
            "mask_rcnn.uniformer_small", **SMALL, num_classes=3, checkpoint=tmp_path / "pose.safetensors"
        )
    theirs, ours = pose.backbone.state_dict(), detector.backbone.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_windows_are_a_matter_of_the_dense_network(classifier: Path) -> None:
    """They have no tensors: the same weights attend in windows, and that is said."""
    with pytest.warns(UserWarning, match="want training"):
        dense = create_model("mask_rcnn.uniformer_small", **SMALL, window=2, checkpoint=classifier).eval()
    image = image_network(classifier)
    assert all(torch.equal(a, b) for a, b in zip(stages(dense).values(), stages(image).values(), strict=True))

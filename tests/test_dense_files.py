"""Files of detectors, segmentors and pose networks: in the form of the official code and in ours, there and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.dense_golden import CASES, MANIFESTS, weights_of
from tests.tiny import refused
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.keys import to_published, to_reference
from uniformer.checkpoints.load import create_model, load_checkpoint, load_model
from uniformer.checkpoints.records import get_checkpoint, list_checkpoints
from uniformer.checkpoints.save import convert, save_checkpoint, verify
from uniformer.config import TASKS, Config, PersonCrop, Scaling, to_dict
from uniformer.heads import build_network
from uniformer.heads.keys import HEAD_KEYS
from uniformer.heads.macs import count_macs
from uniformer.labels import load_classes, load_details, load_palette
from uniformer.network.variants import get_config

DENSE = [id for id in list_checkpoints() if get_checkpoint(id).config.head is not None]
SMALL = {"depths": (1, 1, 1, 1), "dims": (16, 32, 64, 64), "head_dim": 32}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def published(name: str, **meta: object) -> dict[str, object]:
    """A file of the official code's trainers, with the golden weights."""
    case = next(case for case in CASES.values() if case["manifest"] == name)
    state = {f"module.{key}": value for key, value in weights_of(case).items()}
    amp = {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 3}}
    return {"meta": {"epoch": 12, **meta}, "state_dict": state, "optimizer": {"state": {}}, "amp": amp}


def test_there_are_24_records() -> None:
    assert len(DENSE) == 24


@pytest.mark.parametrize("id", DENSE)
def test_the_network_of_each_record_has_the_published_tensors(id: str) -> None:
    record = get_checkpoint(id)
    kind, size = record.arch.replace("topdown", "pose").split(".uniformer_")
    with torch.device("meta"):
        state = to_published(build_network(record.config).state_dict())
    assert {key: list(value.shape) for key, value in state.items()} == MANIFESTS[f"{kind}_{size.removesuffix('_h14')}"]
    contract = Contract(record.config, record.arch, record.input, record.classes, details=record.details)
    assert Contract.from_json(contract.to_json(), "it") == contract
    assert contract.task == record.config.task


def test_a_published_segmentor_loads_and_goes_back(tmp_path: Path) -> None:
    classes, palette = load_classes("ADE20K"), load_palette("ADE20K")
    torch.save(published("semantic_fpn_xxs", CLASSES=list(classes), PALETTE=palette), tmp_path / "fpn_xxs.pth")
    network, contract, report = load_model(tmp_path / "fpn_xxs.pth")
    assert (contract.id, contract.task) == ("semantic_fpn.uniformer_xxs.ade20k", "segmentation")
    assert (contract.classes, contract.details) == (classes, {"palette": [list(c) for c in palette]})
    assert contract.input == Scaling(2048, 512, by="resizing")
    assert not report.new
    convert(tmp_path / "fpn_xxs.pth", tmp_path / "ours.safetensors")
    again, ours, _ = load_model(tmp_path / "ours.safetensors")
    assert same(again.state_dict(), network.state_dict())
    assert (ours.classes, ours.details, ours.input) == (contract.classes, contract.details, contract.input)
    assert verify(tmp_path / "ours.safetensors")[1] == []
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back["state_dict"]) == list(MANIFESTS["semantic_fpn_xxs"])
    assert back["meta"] == {"CLASSES": classes, "PALETTE": [list(c) for c in palette]}
    x = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), network(x))


def test_a_bare_file_under_another_name(tmp_path: Path) -> None:
    state = published("mask_rcnn_xxs")["state_dict"]
    torch.save(state, tmp_path / "some.pth")
    _, contract, _ = load_model(tmp_path / "some.pth")
    assert (contract.arch, contract.config.num_classes, contract.classes) == ("mask_rcnn.uniformer_xxs", 80, ())
    assert contract.input == Scaling()
    backbone = create_model("uniformer_xxs_backbone", checkpoint=tmp_path / "some.pth")
    assert not backbone.config.head


@pytest.mark.parametrize("head", ["mask_rcnn", "cascade_mask_rcnn", "semantic_fpn", "upernet", "topdown"])
def test_any_head_on_a_small_backbone_of_ones_own(head: str, tmp_path: Path) -> None:
    """Trained by other code: what the tensors tell is read off them."""
    network = create_model(f"{head}.uniformer_nano", num_classes=3, **SMALL)
    torch.save({"state_dict": to_published(network.state_dict())}, tmp_path / "own.pth")
    found, contract, _ = load_model(tmp_path / "own.pth", head_dim=32, classes=("a", "b", "c"))
    assert (found.config.head, found.config.num_classes, contract.arch) == (head, 3, "")
    assert same(found.state_dict(), network.state_dict())
    save_checkpoint(found, tmp_path / "own", contract)
    assert load_model(tmp_path / "own")[1].classes == ("a", "b", "c")


@pytest.mark.parametrize("head", TASKS)
def test_narrower_heads(head: str, tmp_path: Path) -> None:
    """`Config.head_width`: every layer of a head in proportion; a file without a config tells it by its tensors."""
    published = create_model(f"{head}.uniformer_small", num_classes=3, **SMALL)
    narrow = create_model(f"{head}.uniformer_small", num_classes=3, head_width=64, **SMALL)
    assert "head_width" not in to_dict(published.config)
    assert Config(**to_dict(narrow.config)) == narrow.config
    wide = published.state_dict()
    assert list(narrow.state_dict()) == list(wide)
    inner = (
        "neck.fpn_convs.0.conv.weight",
        "decode_head.fpn_convs.0.conv.weight",
        "keypoint_head.deconv_layers.3.weight",
    )
    key = next(key for key in inner if key in wide)
    for one, other in zip(narrow.state_dict()[key].shape[:2], wide[key].shape[:2], strict=True):
        assert one * 4 == other
    assert count_macs(narrow.config, (64, 64)) * 3 < count_macs(published.config, (64, 64))

    torch.save(narrow.state_dict(), tmp_path / "narrow.pth")
    again, _, _ = load_model(tmp_path / "narrow.pth", head_dim=32)
    assert again.config.head_width == 64
    assert same(narrow.state_dict(), again.state_dict())
    with refused("expected head_width in "):
        create_model(f"{head}.uniformer_small", head_width=0)


def test_mmpose_1_calls_the_head_otherwise(tmp_path: Path) -> None:
    network = create_model("topdown.uniformer_nano", **SMALL)
    state = {key.replace("keypoint_head.", "head."): v for key, v in to_published(network.state_dict()).items()}
    torch.save({"state_dict": state}, tmp_path / "pose.pth")
    found, contract, _ = load_model(tmp_path / "pose.pth", head_dim=32)
    assert same(found.state_dict(), network.state_dict())
    assert contract.details == load_details("COCO 2017 keypoints")
    assert isinstance(contract.input, PersonCrop)
    assert any("assumed input: crops of 256 x 192" in note for note in contract.notes)


def test_a_classifier_is_what_detectors_start_from(tmp_path: Path) -> None:
    classifier = create_model("uniformer_small", **SMALL)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    with pytest.warns(UserWarning, match=r"has no \d+ tensors of the model: they are new and want training"):
        detector = create_model(
            "mask_rcnn.uniformer_small", num_classes=2, checkpoint=tmp_path / "classifier.pth", **SMALL
        )
    assert torch.equal(
        detector.backbone.stages[0].blocks[0].ffn.fc1.weight, classifier.stages[0].blocks[0].ffn.fc1.weight
    )
    fresh = create_model("mask_rcnn.uniformer_small", num_classes=2, **SMALL)
    with refused("lacks .* of the model: backbone.stages.0.norm.weight"):
        load_checkpoint(fresh, tmp_path / "classifier.pth")


def test_what_is_ignored_is_called_as_in_the_file(tmp_path: Path) -> None:
    classifier = create_model("uniformer_small", **SMALL)
    own, state = dict(classifier.state_dict()), to_reference(classifier.state_dict())
    of_mmaction = {f"backbone.{key}": value for key, value in state.items() if not key.startswith("head.")}
    of_mmaction |= {key.replace("head.", "cls_head.fc_cls."): state[key] for key in ("head.weight", "head.bias")}
    for name, tensors, norm, row in (
        ("ours", own, "norm.bias", "head.bias"),
        ("reference", {"model": state}, "norm.bias", "head.bias"),
        ("mmaction", {"state_dict": of_mmaction}, "backbone.norm.bias", "cls_head.fc_cls.bias"),
    ):
        torch.save(tensors, tmp_path / f"{name}.pth")
        detector = create_model("mask_rcnn.uniformer_small", num_classes=2, **SMALL)
        new = ("backbone.stages.*.norm.*", *HEAD_KEYS)
        report = load_checkpoint(detector, tmp_path / f"{name}.pth", allow_new=new)
        assert {norm, row} <= set(report.ignored), name
        assert len(report.ignored) == 7  # norm and classifier
        backbone = create_model("uniformer_small", features_only=True, **SMALL)
        assert {norm, row} <= set(load_checkpoint(backbone, tmp_path / f"{name}.pth").ignored), name


def test_nothing_is_said_to_be_taken_off_that_stays(tmp_path: Path) -> None:
    network = create_model("topdown.uniformer_nano", num_classes=3, **SMALL)
    save_checkpoint(network, tmp_path / "ours.safetensors", Contract(network.config, "", PersonCrop((64, 64))))
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    torch.save({"state_dict": to_published(network.state_dict())}, tmp_path / "published.pth")

    def taken_off(name: str, **told: int) -> list[str]:
        return [note for note in load_model(tmp_path / name, **told)[2].notes if "unwrapped" in note]

    assert taken_off("ours.safetensors") == taken_off("bare.pth", head_dim=32) == []
    assert taken_off("published.pth", head_dim=32) == ["unwrapped from 'state_dict'"]


def test_other_classes_bring_a_new_end_alone(tmp_path: Path) -> None:
    first = create_model("upernet.uniformer_nano", num_classes=5, **SMALL)
    torch.save(to_published(first.state_dict()), tmp_path / "five.pth")
    model = create_model("upernet.uniformer_nano", num_classes=2, **SMALL)
    with refused("has 5 classes, the model 2: begin a new classifier with new_classifier=True"):
        load_checkpoint(model, tmp_path / "five.pth")
    report = load_checkpoint(model, tmp_path / "five.pth", new_classifier=True)
    ends = [f"{head}.conv_seg.{leaf}" for head in ("decode_head", "auxiliary_head") for leaf in ("weight", "bias")]
    assert sorted(report.new) == sorted(ends)
    with pytest.warns(UserWarning, match="are new and want training"):
        other = create_model("mask_rcnn.uniformer_nano", checkpoint=tmp_path / "five.pth", **SMALL)
    assert torch.equal(other.backbone.stages[2].norm.weight, first.backbone.stages[2].norm.weight)


def test_windows_are_an_option_at_test_time(tmp_path: Path) -> None:
    """The published files with global attention have three settings."""
    network = create_model("semantic_fpn.uniformer_nano", **SMALL)
    torch.save(to_published(network.state_dict()), tmp_path / "a.pth")
    for window, every in ((0, None), (32, None), (32, 4)):
        _, contract, _ = load_model(tmp_path / "a.pth", head_dim=32, window=window, global_every=every)
        assert (contract.config.window, contract.config.global_every) == (window or None, every)


def test_a_head_wants_maps_and_classes() -> None:
    with refused("expected normed maps of images and at least one class under the head 'upernet', got output 'logits'"):
        create_model("upernet.uniformer_nano", output="logits")
    with refused("expected normed maps of images and at least one class under the head 'topdown'"):
        create_model("topdown.uniformer_nano", num_classes=0)
    with refused("unknown model 'mask_rcnn.uniformer_smal' .did you mean 'mask_rcnn.uniformer_small'"):
        get_config("mask_rcnn.uniformer_smal")
    with refused("expected the input of a network as Scaling, got PersonCrop"):
        Contract(get_config("upernet.uniformer_nano"), input=PersonCrop())
    with refused("expected details of texts, finite numbers, lists and dictionaries alone"):
        Contract(get_config("upernet.uniformer_nano"), details={"palette": float("nan")})

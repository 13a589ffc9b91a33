"""What a file is: channels per head, which no tensor tells, and the architecture, which tensors do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.test_checkpoint import openmmlab, reference, saved
from tests.tiny import IMAGES, TINY, refused, save_tiny, tiny_model
from uniformer.checkpoints.identify import identify, name_of
from uniformer.checkpoints.load import load_checkpoint, load_model
from uniformer.checkpoints.records import get_checkpoint
from uniformer.network import variants
from uniformer.network.model import UniFormer

# ---- channels per head -----------------------------------------------------------------------------------------------

LIGHT = replace(variants.XXS, depths=(1, 1, 1, 1), num_classes=7)  # the only published widths of its kind


def test_head_dim_is_told_by_the_contract(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    with refused("the file's contract says head_dim 16, the model has 32"):
        load_checkpoint(tiny_model(head_dim=32), path)
    with refused("the file's contract says head_dim 16, the caller 32"):
        load_model(path, head_dim=32)
    assert "head_dim 16 from the file's contract" in load_model(path, head_dim=16)[2].notes


def test_head_dim_is_told_by_the_record(tmp_path: Path) -> None:
    path = saved(tmp_path / "uniformer_small_in1k.pth", reference(tiny_model()))
    with refused("the record of uniformer_small.in1k says head_dim 64, the model has 16"):
        load_checkpoint(tiny_model(), path)
    with refused("the record of uniformer_small.in1k says head_dim 64, the caller 32"):
        load_model(path, head_dim=32)
    report = load_checkpoint(tiny_model(1, head_dim=64), path)
    assert "head_dim 64 from the record of uniformer_small.in1k" in report.notes


def test_head_dim_is_told_by_the_record_of_a_conversion(tmp_path: Path) -> None:
    url = get_checkpoint("uniformer_small.k400_16x4").file.converted_url
    path = saved(tmp_path / url.rsplit("/", 1)[1], {"state_dict": openmmlab(tiny_model(ndim=3))})
    with refused("the record of uniformer_small.k400_16x4 says head_dim 64, the model has 16"):
        load_checkpoint(tiny_model(ndim=3), path)


def test_head_dim_of_the_only_published_model_of_these_widths(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", reference(UniFormer(LIGHT)))
    model, _, report = load_model(path)
    assert model.config == LIGHT
    assert any(note.startswith("head_dim 28 from the only published model of widths") for note in report.notes)
    with refused("says head_dim 28, the model has 56"):
        load_checkpoint(UniFormer(replace(LIGHT, head_dim=56)), path)
    assert load_model(path, head_dim=56)[0].config.head_dim == 56  # one's own model, said so


def test_head_dim_is_told_by_the_caller(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", reference(tiny_model()))
    with refused("expected head_dim for .*a.pth: tensors do not tell it"):
        load_model(path)
    model, contract, report = load_model(path, head_dim=16)
    assert model.config == TINY
    assert contract.notes[0] == "head_dim 16 from the caller"
    assert "head_dim 16 from the caller" in report.notes
    with refused("expected head_dim to divide the width 64 of a global stage, got head_dim 48"):
        load_model(path, head_dim=48)
    report = load_checkpoint(tiny_model(1), path)
    assert "head_dim 16 from the model: the file does not tell" in report.notes


# ---- what a file is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_every_variant_is_known_by_its_tensors(name: str) -> None:
    config = variants.get_config(name).backbone
    if "." in name:  # with a head: tests of dense files
        assert name_of(variants.get_config(name)) == name
        assert replace(variants.get_config(name), head=None, num_classes=0) == config
        return
    with torch.device("meta"):
        state = UniFormer(config).state_dict()
    found = identify(state, config.head_dim)
    if config.layer_scale is not None:  # its initial value leaves no trace
        found = replace(found, layer_scale=config.layer_scale)
    if name.endswith("_h14"):  # windows leave no trace: a hybrid backbone looks like the global one
        assert name_of(found) == name.removesuffix("_h14")
        return
    assert found == config
    assert name_of(identify(state, config.head_dim)) == name
    assert name_of(replace(config, num_classes=9 * bool(config.num_classes), drop_path=0.3)) == name


def test_layer_scale_is_part_of_the_name() -> None:
    large = variants.get_config("uniformer_large_ls_tl")
    assert name_of(replace(large, layer_scale=None)) == ""
    assert name_of(replace(large, layer_scale=0.2)) == "uniformer_large_ls_tl"
    assert name_of(replace(variants.BASE, layer_scale=0.2)) == ""  # on all four stages: not uniformer_base_ls
    assert name_of(TINY) == ""


def test_a_narrower_head_and_other_anchors_are_part_of_no_name() -> None:
    """So an answer of such a network says which it is."""
    for name in ("semantic_fpn.uniformer_nano", "mask_rcnn.uniformer_nano"):
        config = variants.get_config(name)
        assert name_of(replace(config, head_width=64, num_classes=3)) == name
    assert name_of(replace(config, head_width=64, anchor_scale=4.0)) == name
    assert name_of(replace(config, head_width=64, depths=(1, 1, 1, 1))) == ""

"""The records against literal copies of the published tables, so that a slip in checkpoints.toml fails here."""

from __future__ import annotations

import pickle
import re
import runpy
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest

from uniformer.checkpoints.records import get_checkpoint, list_checkpoints
from uniformer.config import INPUTS, TASKS, Config, InputSpec
from uniformer.errors import InputError
from uniformer.network.variants import VARIANTS, default_input, get_config, list_models

# id: architecture, parameters, top-1, GFLOPs as printed, frames x pixels x clips x crops
CLASSIFICATION = {
    "uniformer_small.in1k": ("uniformer_small", 21_545_256, 82.9, 3.6, "1x224x1x1"),
    "uniformer_small_plus.in1k": ("uniformer_small_plus", 24_032_552, 83.4, 4.2, "1x224x1x1"),
    "uniformer_small_plus_dim64.in1k": ("uniformer_small_plus_dim64", 24_032_552, 83.4, 4.2, "1x224x1x1"),
    "uniformer_base.in1k": ("uniformer_base", 49_776_552, 83.8, 8.3, "1x224x1x1"),
    "uniformer_base_ls.in1k": ("uniformer_base_ls", 49_796_520, 83.9, 8.3, "1x224x1x1"),
    "uniformer_small_dim32.tl_in1k_224": ("uniformer_small_tl", 22_058_256, 83.4, 3.6, "1x224x1x1"),
    "uniformer_small_plus_dim32.tl_in1k_224": ("uniformer_small_plus_tl", 24_545_552, 83.9, 4.2, "1x224x1x1"),
    "uniformer_base_dim32.tl_in1k_224": ("uniformer_base_tl", 50_289_552, 85.1, 8.3, "1x224x1x1"),
    "uniformer_large_ls.tl_in1k_224": ("uniformer_large_ls_tl", 100_103_888, 85.6, 12.6, "1x224x1x1"),
    "uniformer_small_dim64.tl_in1k_224": ("uniformer_small_dim64_tl", 22_058_256, 83.4, 3.6, "1x224x1x1"),
    "uniformer_small_plus_dim64.tl_in1k_224": ("uniformer_small_plus_dim64_tl", 24_545_552, 83.6, 4.2, "1x224x1x1"),
    "uniformer_base_dim64.tl_in1k_224": ("uniformer_base_dim64_tl", 50_289_552, 84.8, 8.3, "1x224x1x1"),
    "uniformer_small_dim32.tl_in1k_384": ("uniformer_small_tl", 22_058_256, 84.6, 11.9, "1x384x1x1"),
    "uniformer_small_plus_dim32.tl_in1k_384": ("uniformer_small_plus_tl", 24_545_552, 84.9, 13.7, "1x384x1x1"),
    "uniformer_base_dim32.tl_in1k_384": ("uniformer_base_tl", 50_289_552, 86.0, 27.2, "1x384x1x1"),
    "uniformer_large_ls.tl_in1k_384": ("uniformer_large_ls_tl", 100_103_888, 86.3, 39.2, "1x384x1x1"),
    "uniformer_xxs.in1k_128": ("uniformer_xxs", 10_215_280, 76.8, 0.43, "1x128x1x1"),
    "uniformer_xxs.in1k_160": ("uniformer_xxs", 10_215_280, 79.1, 0.67, "1x160x1x1"),
    "uniformer_xxs.in1k_192": ("uniformer_xxs", 10_215_280, 79.9, 0.96, "1x192x1x1"),
    "uniformer_xxs.in1k_224": ("uniformer_xxs", 10_215_280, 80.6, 1.3, "1x224x1x1"),
    "uniformer_xs.in1k_192": ("uniformer_xs", 16_509_264, 81.5, 1.4, "1x192x1x1"),
    "uniformer_xs.in1k_224": ("uniformer_xs", 16_509_264, 82.0, 2.0, "1x224x1x1"),
    "uniformer_small.k400_8x8": ("uniformer_small_video", 21_400_400, 78.4, 70, "8x224x4x1"),
    "uniformer_small.k400_16x4": ("uniformer_small_video", 21_400_400, 80.8, 167, "16x224x4x1"),
    "uniformer_small.k400_16x8": ("uniformer_small_video", 21_400_400, 80.8, 167, "16x224x4x1"),
    "uniformer_small.k400_32x4": ("uniformer_small_video", 21_400_400, 82.0, 438, "32x224x4x1"),
    "uniformer_base.k400_8x8": ("uniformer_base_video", 49_813_200, 79.8, 161, "8x224x4x1"),
    "uniformer_base.k400_16x4": ("uniformer_base_video", 49_813_200, 82.0, 387, "16x224x4x1"),
    "uniformer_base.k400_16x8": ("uniformer_base_video", 49_813_200, 81.7, 387, "16x224x4x1"),
    "uniformer_base.k400_32x4": ("uniformer_base_video", 49_813_200, 82.9, 1036, "32x224x4x1"),
    "uniformer_small.k600_16x4": ("uniformer_small_video", 21_503_000, 82.8, 167, "16x224x4x1"),
    "uniformer_small.k600_16x8": ("uniformer_small_video", 21_503_000, 82.7, 167, "16x224x4x1"),
    "uniformer_base.k600_16x4": ("uniformer_base_video", 49_915_800, 84.0, 387, "16x224x4x1"),
    "uniformer_base.k600_16x8": ("uniformer_base_video", 49_915_800, 83.4, 387, "16x224x4x1"),
    "uniformer_base.k600_32x4": ("uniformer_base_video", 49_915_800, 84.5, 1036, "32x224x4x1"),
    "uniformer_small.ssv1_16_prek400": ("uniformer_small_video", 21_284_462, 57.2, 125, "16x224x1x3"),
    "uniformer_small.ssv1_16_prek600": ("uniformer_small_video", 21_284_462, 57.6, 125, "16x224x1x3"),
    "uniformer_small.ssv1_32_prek400": ("uniformer_small_video", 21_284_462, 58.8, 329, "32x224x1x3"),
    "uniformer_small.ssv1_32_prek600": ("uniformer_small_video", 21_284_462, 59.9, 329, "32x224x1x3"),
    "uniformer_base.ssv1_16_prek400": ("uniformer_base_video", 49_697_262, 59.1, 290, "16x224x1x3"),
    "uniformer_base.ssv1_16_prek600": ("uniformer_base_video", 49_697_262, 58.8, 290, "16x224x1x3"),
    "uniformer_base.ssv1_32_prek400": ("uniformer_base_video", 49_697_262, 60.9, 777, "32x224x1x3"),
    "uniformer_base.ssv1_32_prek600": ("uniformer_base_video", 49_697_262, 61.0, 777, "32x224x1x3"),
    "uniformer_small.ssv2_16_prek400": ("uniformer_small_video", 21_284_462, 67.7, 125, "16x224x1x3"),
    "uniformer_small.ssv2_16_prek600": ("uniformer_small_video", 21_284_462, 69.4, 125, "16x224x1x3"),
    "uniformer_small.ssv2_32_prek400": ("uniformer_small_video", 21_284_462, 69.0, 329, "32x224x1x3"),
    "uniformer_small.ssv2_32_prek600": ("uniformer_small_video", 21_284_462, 70.4, 329, "32x224x1x3"),
    "uniformer_base.ssv2_16_prek400": ("uniformer_base_video", 49_697_262, 70.4, 290, "16x224x1x3"),
    "uniformer_base.ssv2_16_prek600": ("uniformer_base_video", 49_697_262, 70.2, 290, "16x224x1x3"),
    "uniformer_base.ssv2_32_prek400": ("uniformer_base_video", 49_697_262, 71.1, 777, "32x224x1x3"),
    "uniformer_base.ssv2_32_prek600": ("uniformer_base_video", 49_697_262, 71.2, 777, "32x224x1x3"),
    "uniformer_small.ucf101_16x4_prek400": ("uniformer_small_video", 21_247_013, 98.3, 625, "16x224x5x3"),
    "uniformer_small.hmdb51_16x4_prek400": ("uniformer_small_video", 21_221_363, 77.5, 625, "16x224x5x3"),
    "uniformer_xxs.k400_f4_r128": ("uniformer_xxs_ls_video", 9_840_616, 63.2, 1.0, "4x128x1x1"),
    "uniformer_xxs.k400_f4_r160": ("uniformer_xxs_ls_video", 9_840_616, 65.8, 1.6, "4x160x1x1"),
    "uniformer_xxs.k400_f8_r128": ("uniformer_xxs_ls_video", 9_840_616, 68.3, 2.0, "8x128x1x1"),
    "uniformer_xxs.k400_f8_r160": ("uniformer_xxs_video", 9_833_896, 71.4, 3.3, "8x160x1x1"),
    "uniformer_xxs.k400_f16_r128": ("uniformer_xxs_video", 9_833_896, 73.3, 4.2, "16x128x1x1"),
    "uniformer_xxs.k400_f16_r160": ("uniformer_xxs_video", 9_833_896, 75.1, 6.9, "16x160x1x1"),
    "uniformer_xxs.k400_f32_r160": ("uniformer_xxs_video", 9_833_896, 77.9, 15.4, "32x160x1x1"),
    "uniformer_xs.k400_f32_r192": ("uniformer_xs_video", 16_099_552, 78.6, 34.2, "32x192x1x1"),
}
# id: first score; the architecture is its beginning
DENSE = {
    "mask_rcnn.uniformer_xxs.coco_1x": ("box_ap", 42.8),
    "mask_rcnn.uniformer_xs.coco_1x": ("box_ap", 44.6),
    "mask_rcnn.uniformer_small_h14.coco_1x": ("box_ap", 45.6),
    "mask_rcnn.uniformer_small_h14.coco_3x_ms": ("box_ap", 48.2),
    "mask_rcnn.uniformer_base_h14.coco_1x": ("box_ap", 47.4),
    "mask_rcnn.uniformer_base_h14.coco_3x_ms": ("box_ap", 50.3),
    "cascade_mask_rcnn.uniformer_small_h14.coco_3x_ms": ("box_ap", 52.1),
    "cascade_mask_rcnn.uniformer_base_h14.coco_3x_ms": ("box_ap", 53.8),
    "semantic_fpn.uniformer_xxs.ade20k": ("miou", 42.3),
    "semantic_fpn.uniformer_xs.ade20k": ("miou", 44.4),
    "semantic_fpn.uniformer_small_h14.ade20k": ("miou", 46.3),
    "semantic_fpn.uniformer_base_h14.ade20k": ("miou", 47.0),
    "semantic_fpn.uniformer_small.ade20k": ("miou", 46.6),
    "semantic_fpn.uniformer_base.ade20k": ("miou", 48.0),
    "upernet.uniformer_small_h14.ade20k": ("miou", 46.9),
    "upernet.uniformer_base_h14.ade20k": ("miou", 48.9),
    "upernet.uniformer_small.ade20k": ("miou", 47.6),
    "upernet.uniformer_base.ade20k": ("miou", 50.0),
    "topdown.uniformer_small.coco_256x192": ("ap", 74.0),
    "topdown.uniformer_small.coco_384x288": ("ap", 75.9),
    "topdown.uniformer_small.coco_448x320": ("ap", 76.2),
    "topdown.uniformer_base.coco_256x192": ("ap", 75.0),
    "topdown.uniformer_base.coco_384x288": ("ap", 76.7),
    "topdown.uniformer_base.coco_448x320": ("ap", 77.4),
}
UNRELEASED = {
    "uniformer_small.k400_32x4",
    "semantic_fpn.uniformer_small_h14.ade20k",
    "upernet.uniformer_small_h14.ade20k",
    "upernet.uniformer_base_h14.ade20k",
}


# ---- architectures ---------------------------------------------------------------------------------------------------


def test_variants_are_the_published_ones_and_our_own() -> None:
    headless = [name for name in VARIANTS if "." not in name]
    assert len(headless) == 25 + 2
    published = {get_checkpoint(id).arch for id in list_checkpoints()}
    assert published <= set(VARIANTS)
    assert set(headless) - published == {
        "uniformer_nano_video", *(name for name in VARIANTS if "_backbone" in name)
    }  # fmt: skip
    backbones = [name.replace("_backbone", "") for name in headless if "_backbone" in name]
    assert list(VARIANTS)[len(headless) :] == [f"{head}.{name}" for head in TASKS for name in backbones]
    assert list_models() == list(VARIANTS)
    assert list_models("*_tl") == [name for name in VARIANTS if name.endswith("_tl")]
    assert len(list_models("*_tl")) == 7
    assert len(list_models("*_video")) == 6
    assert len(list_models("*_backbone*")) == 7
    assert {config.drop_path for config in VARIANTS.values()} == {0.0}


@pytest.mark.parametrize(
    ("name", "differences"),
    [
        ("uniformer_small", {}),
        ("uniformer_small_plus", {"depths": (3, 5, 9, 3), "head_dim": 32, "overlap": 4}),
        ("uniformer_base_ls", {"depths": (5, 8, 20, 7), "layer_scale": 1e-6, "layer_scale_stages": (3, 4)}),
        ("uniformer_small_tl", {"head_dim": 32, "token_labeling": True}),
        ("uniformer_base_dim64_tl", {"depths": (5, 8, 20, 7), "token_labeling": True}),
        ("uniformer_small_video", {"ndim": 3, "num_classes": 400}),
        ("uniformer_small_backbone_h14", {"num_classes": 0, "output": "normed_maps", "window": 14, "global_every": 4}),
    ],
)
def test_a_variant_is_its_differences(name: str, differences: dict[str, object]) -> None:
    config, default = get_config(name), Config()
    assert {
        f.name: getattr(config, f.name) for f in fields(Config) if getattr(config, f.name) != getattr(default, f.name)
    } == differences


def test_head_dims() -> None:
    """A wrong head_dim loads without a complaint, so every one is written down here too."""
    by_head_dim: dict[int, list[str]] = {}
    for name in (name for name in VARIANTS if "." not in name):  # with a head it is the backbone's
        by_head_dim.setdefault(get_config(name).head_dim, []).append(name.removeprefix("uniformer_"))
    assert by_head_dim[28] == ["xxs", "xxs_video", "xxs_ls_video", "xxs_backbone"]
    token_labeling = ["small_tl", "small_plus_tl", "base_tl"]
    assert by_head_dim[32] == [
        "small_plus",
        *token_labeling,
        "xs",
        "xs_video",
        "nano_video",
        "xs_backbone",
        "nano_backbone",
    ]
    assert sorted(by_head_dim) == [28, 32, 64]


def test_unknown_model() -> None:
    with pytest.raises(InputError, match=r"^unknown model 'uniformer_smal' \(did you mean 'uniformer_small'.*\)$"):
        get_config("uniformer_smal")


# ---- records ---------------------------------------------------------------------------------------------------------


def test_every_published_checkpoint_is_there_once() -> None:
    ids = list_checkpoints()
    assert len(ids) == len(set(ids)) == 85
    assert set(ids) == {*CLASSIFICATION, *DENSE}
    assert Counter(get_checkpoint(id).dataset for id in ids) == {
        "ImageNet-1K": 22,
        "Kinetics-400": 16,
        "Kinetics-600": 5,
        "Something-Something V1": 8,
        "Something-Something V2": 8,
        "UCF101 split 1": 1,
        "HMDB51 split 1": 1,
        "COCO 2017": 8,
        "ADE20K": 10,
        "COCO 2017 keypoints": 6,
    }
    assert {id for id in ids if get_checkpoint(id).file is None} == UNRELEASED


@pytest.mark.parametrize("id", CLASSIFICATION)
def test_classification_record(id: str) -> None:
    arch, params, top1, gflops, views = CLASSIFICATION[id]
    record = get_checkpoint(id)
    spec = record.input
    assert spec is not None
    assert (record.arch, record.params, record.scores["top1"], record.gflops) == (arch, params, top1, gflops)
    assert f"{spec.frames}x{spec.size[0]}x{spec.clips}x{spec.crops}" == views
    assert spec.is_video == record.config.is_video
    assert record.config.num_classes == record.num_classes
    count = spec.views if record.gflops_cover == "all views" else 1
    assert record.macs_g is not None
    if "large_ls" not in id:  # the one figure that does not fit; see its note
        assert record.macs_g * count == pytest.approx(gflops, rel=0.04)
    else:
        assert any("do not fit" in note for note in record.notes)


@pytest.mark.parametrize("id", DENSE)
def test_dense_record(id: str) -> None:
    score, value = DENSE[id]
    record = get_checkpoint(id)
    assert (record.arch, record.scores[score]) == (id.rpartition(".")[0], value)
    assert isinstance(record.input, INPUTS[record.config.task])
    assert record.input_note
    assert record.config == VARIANTS[record.arch]
    assert len(record.classes) == record.config.num_classes
    size = re.search(r"(\d+)x(\d+)$", id)
    assert size is None or record.input.size == tuple(map(int, size.groups()))


def test_every_record_is_whole() -> None:
    drives, names = [], []
    for record in map(get_checkpoint, list_checkpoints()):
        assert record.arch in VARIANTS
        assert record.init is None or record.init in list_checkpoints()
        assert (record.init is None) == (record.dataset == "ImageNet-1K" and "384" not in record.id)
        assert all(0 < score < 100 for score in record.scores.values())
        assert record.recipe
        if record.file is None:
            continue
        assert re.fullmatch(r"1[-\w]{32}", record.file.drive_id)
        assert record.file.md5 is None or re.fullmatch(r"[0-9a-f]{32}", record.file.md5)
        assert not record.file.md5_verified
        drives.append(record.file.drive_id)
        names.append(record.file.name)
    assert len(drives) == len(set(drives)) == 85 - len(UNRELEASED)
    assert len(names) == len(set(names))  # files placed by hand are found by name


def test_initial_weights_fit_the_network() -> None:
    for record in map(get_checkpoint, list_checkpoints()):
        if record.init is not None:
            config, first = record.config, get_checkpoint(record.init).config
            assert (config.depths, config.dims, config.head_dim) == (first.depths, first.dims, first.head_dim), (
                record.id
            )


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("uniformer_small.in1k", InputSpec()),
        ("uniformer_xxs.in1k_160", InputSpec(size=(160, 160), resize=182)),
        ("uniformer_base_dim32.tl_in1k_224", InputSpec(resize=248)),
        ("uniformer_large_ls.tl_in1k_384", InputSpec(size=(384, 384), resize=426)),
        ("uniformer_small.k400_8x8", {"frames": 8, "stride": 8, "sampling": "dense", "clips": 4, "fps": 30.0}),
        (
            "uniformer_base.ssv1_32_prek600",
            {"frames": 32, "sampling": "sparse", "crops": 3, "channels": "bgr", "fps": 12.0},
        ),
        (
            "uniformer_small.ssv2_16_prek400",
            {"frames": 16, "sampling": "sparse", "crops": 3, "channels": "bgr", "fps": 30.0},
        ),
        (
            "uniformer_small.ucf101_16x4_prek400",
            {"frames": 16, "stride": 4, "sampling": "dense", "clips": 5, "crops": 3, "fps": 25.0},
        ),
        (
            "uniformer_small.hmdb51_16x4_prek400",
            {"frames": 16, "stride": 4, "sampling": "dense", "clips": 5, "crops": 3, "channels": "bgr", "fps": 30.0},
        ),
        (
            "uniformer_xs.k400_f32_r192",
            {"size": (192, 192), "resize": 192, "frames": 32, "sampling": "sparse", "fps": 30.0},
        ),
    ],
)
def test_inputs(id: str, expected: InputSpec | dict[str, object]) -> None:
    if isinstance(expected, dict):
        video = InputSpec(
            resize=224, interpolation="bilinear", mean=(0.45,) * 3, std=(0.225,) * 3, frames=16, sampling="sparse"
        )
        expected = replace(video, **expected)  # type: ignore[arg-type]
    assert get_checkpoint(id).input == expected


def test_channel_order_goes_with_the_dataset() -> None:
    """The frames of these sets went through OpenCV, whose order is BGR, and nothing turned them."""
    for record in map(get_checkpoint, list_checkpoints()):
        if isinstance(record.input, InputSpec):
            bgr = record.dataset.startswith(("Something-Something", "HMDB51"))
            assert record.input.channels == ("bgr" if bgr else "rgb"), record.id


@pytest.mark.parametrize("name", VARIANTS)
def test_every_architecture_has_a_default_input(name: str) -> None:
    config = get_config(name)
    spec = default_input(config)
    assert spec.is_video == config.is_video
    assert default_input(config, 64).size == (64, 64)


# ---- finding them ----------------------------------------------------------------------------------------------------


def test_list_checkpoints() -> None:
    assert list_checkpoints("uniformer_base.k400_*") == [
        "uniformer_base.k400_8x8",
        "uniformer_base.k400_16x4",
        "uniformer_base.k400_16x8",
        "uniformer_base.k400_32x4",
    ]
    assert list_checkpoints("nothing*") == []
    assert len(list_checkpoints(task="video classification")) == 39
    assert len(list_checkpoints("*_32x4", dataset="Kinetics-600", arch="uniformer_base_video")) == 1


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (
            {"task": "video classificaton"},
            "no checkpoint has task 'video classificaton' .did you mean 'video classification'",
        ),
        ({"dataset": "kinetics 400"}, "no checkpoint has dataset 'kinetics 400' .did you mean 'Kinetics-400'"),
        ({"arch": "resnet"}, "no checkpoint has arch 'resnet' .known: "),
    ],
)
def test_unknown_filters(filters: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list_checkpoints(**filters)  # type: ignore[arg-type]


def test_unknown_checkpoint() -> None:
    with pytest.raises(
        InputError, match=r"^unknown checkpoint 'uniformer_small.k400_16x5' \(did you mean .*_16x4'.*\)$"
    ):
        get_checkpoint("uniformer_small.k400_16x5")


def test_records_are_values() -> None:
    record = get_checkpoint("uniformer_small.in1k")
    with pytest.raises(AttributeError):
        record.arch = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(record)) == record  # they travel to worker processes
    assert len({record, get_checkpoint("uniformer_small.in1k")}) == 1


def test_listing_needs_no_torch() -> None:
    code = (
        "import sys, uniformer; uniformer.list_models(); uniformer.list_checkpoints(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- docs ------------------------------------------------------------------------------------------------------------


def test_the_model_zoo_page_is_up_to_date() -> None:
    docs = Path(__file__).parent.parent / "docs"
    text = (docs / "model-zoo.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(docs / "make_model_zoo.py"))["updated"](text) == text, (
        "run: python docs/make_model_zoo.py"
    )

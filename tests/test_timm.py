"""timm's own doors to our networks: its registry, its kinds of checks over every image variant, its folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, create_transform, resolve_model_data_config
from timm.models import get_pretrained_cfg, is_model_pretrained
from timm.optim import param_groups_layer_decay
from timm.utils import AverageMeter, accuracy

import uniformer
import uniformer.timm
from tests import odd_media
from tests.hub_server import serve
from tests.tiny import IMAGES, TINY, refused, same, save_tiny, tiny_model
from tests.tolerance import assert_close, terms_of
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.records import default_checkpoint
from uniformer.network.variants import VARIANTS

NAMES = sorted(name for name, config in VARIANTS.items() if not config.is_video and config.output == "logits")
SHALLOW = {"depths": (1, 1, 2, 2)}  # of any variant: every kind of block, at its own widths
every_variant = pytest.mark.parametrize("name", NAMES)


def shallow(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **SHALLOW, **options)


# ---- every variant ---------------------------------------------------------------------------------------------------


def test_every_variant_of_images_is_registered_and_no_other() -> None:
    ours = timm.list_models(module="timm") if "timm" in timm.list_modules() else []
    assert sorted(ours) == sorted([*NAMES, "uniformer"])
    assert all(timm.is_model(name) for name in NAMES)


@every_variant
def test_it_runs_forward_and_backward(name: str) -> None:
    model = shallow(name, num_classes=5, drop_path_rate=0.1, drop_rate=0.1)
    assert (model.config.drop_path, model.config.dropout, model.num_classes) == (0.1, 0.1, 5)
    model.train()
    outputs = model(torch.randn(2, 3, 64, 64))
    assert outputs.shape == (2, 5)
    outputs.mean().backward()
    silent = [key for key, p in model.named_parameters() if p.grad is None]
    assert all(key.startswith(("cls_", "stages.3.blocks")) for key in silent)
    assert bool(silent) <= model.config.is_hourglass
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_variant
def test_it_gives_features_and_takes_other_classifiers(name: str) -> None:
    model, x = shallow(name, num_classes=0).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = model(x)
        assert features.shape == (1, model.num_features)
        assert torch.equal(model.forward_head(model.forward_features(x), pre_logits=True), features)
        model.reset_classifier(3)
        assert (model(x).shape, model.num_classes) == ((1, 3), 3)
        model.reset_classifier(0)
        assert torch.equal(model(x), features)


@every_variant
def test_it_gives_maps_of_the_stages_asked_for(name: str) -> None:
    model, x = shallow(name, features_only=True, out_indices=(0, 2, 3)).eval(), torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        maps = model(x)
        whole = shallow(name).eval().forward_intermediates(x, indices=(0, 2, 3))
    for found, same_map, dim, stride in zip(
        maps, whole, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert found.shape == (1, dim, 96 // stride, 64 // stride)
        assert torch.equal(found, same_map)


@every_variant
def test_its_tensors_and_its_description_are_those_of_the_package(name: str) -> None:
    with torch.device("meta"):
        theirs, ours = timm.create_model(name), uniformer.create_model(name)
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    if name in {record.arch for record in uniformer.timm._PUBLISHED.values()}:
        record = uniformer.get_checkpoint(default_checkpoint(name))
        cfg = get_pretrained_cfg(name)
        assert is_model_pretrained(name)
        assert cfg.input_size[1:] == theirs.pretrained_cfg["input_size"][1:] == record.input.size
        for key in (cfg.classifier,) if isinstance(cfg.classifier, str) else cfg.classifier:
            assert theirs.get_submodule(key).out_features == cfg.num_classes == 1000
        assert theirs.get_submodule(cfg.first_conv).in_channels == 3
    layers = {group["lr_scale"] for group in param_groups_layer_decay(theirs, layer_decay=0.5)}
    assert len(layers) == sum(theirs.config.depths) + 2


def test_every_published_checkpoint_has_its_tag() -> None:
    tags = {name.partition(".")[2] for name in timm.list_models("uniformer*", pretrained=True)}
    assert tags >= {"in1k", "in1k_128", "in1k_160", "tl_in1k_224", "tl_in1k_384"}
    assert len(uniformer.timm._PUBLISHED) == len(uniformer.list_checkpoints(task="image classification"))
    assert timm.create_model("uniformer_xxs.in1k_160", **SHALLOW).pretrained_cfg["input_size"] == (3, 160, 160)


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "saved", IMAGES)


def test_a_folder_of_ours_is_loaded_by_its_path(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    image = Image.fromarray(odd_media.picture(3, 120, 90))
    views = create_transform(**resolve_model_data_config(model))(image)[None]
    predictor = uniformer.Predictor(str(folder), compute="plain", top_k=7)
    with torch.no_grad():
        assert_close(model(views).softmax(1)[0], torch.tensor(sorted_scores(predictor, image)), terms_of(model))
    untrained = timm.create_model(f"local-dir:{folder}")
    assert untrained.config == model.config
    assert not same(untrained.state_dict(), model.state_dict())


def sorted_scores(predictor: uniformer.Predictor, image: Image.Image) -> list[float]:
    """In the order of the classes."""
    return [label.score for label in sorted(predictor(image).labels, key=lambda label: label.index)]


def test_a_folder_on_the_hub_is_loaded_by_its_name(folder: Path, tmp_path: Path) -> None:
    files = {f"someone/tiny/{path.name}": path.read_bytes() for path in folder.iterdir()}
    code = "import timm, uniformer.timm; model = timm.create_model('hf-hub:someone/tiny@main', pretrained=True); "
    code += "print(model.pretrained_cfg['input_size'], float(model.head.bias.detach().double().sum()))"
    with serve(files) as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    expected = float(tiny_model().head.bias.detach().double().sum())
    assert done.stdout.strip() == f"(3, 64, 64) {expected}", done.stderr


def test_a_folder_of_a_variant_is_found_under_its_name(tmp_path: Path) -> None:
    model = uniformer.create_model("uniformer_xxs")
    uniformer.save_checkpoint(model, tmp_path / "xxs")
    assert json.loads((tmp_path / "xxs" / "config.json").read_text())["architecture"] == "uniformer_xxs"
    loaded = timm.create_model(f"local-dir:{tmp_path / 'xxs'}", pretrained=True)
    assert same(loaded.state_dict(), model.state_dict())


def test_weights_are_fitted_as_timm_users_ask(folder: Path) -> None:
    source = f"local-dir:{folder}"
    given = tiny_model().state_dict()
    fewer = timm.create_model(source, pretrained=True, num_classes=3)
    assert fewer.num_classes == 3
    assert torch.equal(fewer.stages[2].embed.proj.weight, given["stages.2.embed.proj.weight"])
    grey = timm.create_model(source, pretrained=True, in_chans=1)
    assert_close(grey.stages[0].embed.proj.weight, given["stages.0.embed.proj.weight"].sum(1, keepdim=True), 3)
    maps = timm.create_model(source, pretrained=True, features_only=True)
    assert maps.feature_info.channels() == list(TINY.dims)
    assert same(maps.state_dict(), {k: v for k, v in given.items() if not k.startswith(("norm.", "head."))})


def test_weights_may_lie_elsewhere(tmp_path: Path) -> None:
    model = uniformer.create_model("uniformer_xxs", **SHALLOW)
    uniformer.save_checkpoint(model, tmp_path / "mine.safetensors")
    for overlay in ({"file": str(tmp_path / "mine.safetensors")}, {"state_dict": model.state_dict()}):
        loaded = shallow("uniformer_xxs", pretrained=True, pretrained_cfg_overlay=overlay)
        assert same(loaded.state_dict(), model.state_dict())
    loaded = shallow("uniformer_xxs", checkpoint_path=tmp_path / "mine.safetensors")
    assert same(loaded.state_dict(), model.state_dict())
    torch.save({"state_dict": loaded.state_dict()}, tmp_path / "theirs.pth")  # as timm's CheckpointSaver does
    back = uniformer.create_model("uniformer_xxs", checkpoint=tmp_path / "theirs.pth", **SHALLOW)
    assert same(back.state_dict(), model.state_dict())


def test_published_weights_come_by_the_packages_own_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the folder of checkpoints that are at hand; a file that is not what it should be is refused in one line."""
    record = uniformer.get_checkpoint("uniformer_xxs.in1k_128")
    (tmp_path / record.file.name).write_bytes(b"<html>")
    monkeypatch.setenv("UNIFORMER_CHECKPOINTS", str(tmp_path))
    with refused(f"{record.file.name} is no checkpoint: expected tensors, found a web page"):
        timm.create_model("uniformer_xxs", pretrained=True)


def test_a_loop_of_timm_gives_our_scores(folder: Path, tmp_path: Path) -> None:
    names = [f"class of number {i}" for i in range(7)]
    for i in range(14):
        path = tmp_path / "pictures" / names[i % 7] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(odd_media.picture(i, 90 + 3 * i, 80)).save(path)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    data = create_dataset("", tmp_path / "pictures", split="", is_training=False)
    loader = create_loader(data, batch_size=4, use_prefetcher=False, num_workers=0, **as_loaders_take_it(model))
    top1 = AverageMeter()
    with torch.no_grad():
        for images, targets in loader:
            top1.update(accuracy(model(images), targets)[0].item(), len(images))
    ours = uniformer.evaluate(str(folder), tmp_path / "pictures", device="cpu", workers=0)
    assert 0 < top1.avg < 100
    assert 100 * ours.metrics["top1"] == pytest.approx(top1.avg, rel=1e-6)  # timm's are float32; a picture is 7 %


def as_loaders_take_it(model: torch.nn.Module) -> dict[str, object]:
    """The data configuration of a model, without what is the transform's alone."""
    config = resolve_model_data_config(model)
    return {key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}


# ---- what does not fit -----------------------------------------------------------------------------------------------


def test_what_cannot_be_had_is_one_line(folder: Path, tmp_path: Path) -> None:
    with refused("unknown option 'img_sise' of Config"):
        timm.create_model("uniformer_xxs", img_sise=224)
    with refused("expected global_pool 'avg'"):
        timm.create_model("uniformer_xxs", num_classes=0, global_pool="max")
    with refused("expected a folder that says what network it is of"):
        timm.create_model("uniformer")
    with refused(r"expected of pretrained_cfg_overlay where weights lie .*, got \['mean'\]"):
        timm.create_model("uniformer_xxs", pretrained_cfg_overlay={"mean": (0, 0, 0)})
    with refused("expected to be told where the weights of uniformer_xxs lie"):
        timm.create_model("uniformer_xxs", pretrained=True, pretrained_cfg={"num_classes": 7})
    with refused("expected no cache_dir for uniformer_xxs: published weights are kept where HF_HOME says"):
        timm.create_model("uniformer_xxs", pretrained=True, cache_dir=tmp_path)
    with refused("expected no pretrained_cfg_overlay"):
        timm.create_model(f"local-dir:{folder}", pretrained_cfg_overlay={"file": "a.pth"})
    clips = tiny_model(ndim=3)
    uniformer.save_checkpoint(clips, tmp_path / "clips")
    with refused("clips: expected a classifier of images for timm, found a network for classification of clips"):
        timm.create_model(f"local-dir:{tmp_path / 'clips'}")
    spec = replace(IMAGES, channels="bgr")
    uniformer.save_checkpoint(tiny_model(), tmp_path / "bgr", Contract(TINY, "", spec))
    with pytest.warns(UserWarning, match="fed blue, green, red"):
        timm.create_model(f"local-dir:{tmp_path / 'bgr'}", pretrained=True)

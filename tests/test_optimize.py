"""Every inference form gives what the plain network gives, in all families and precisions, and stays a copy."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import uniformer
from tests import odd_media
from tests.scored import evaluate_model
from tests.tiny import CLIPS, IMAGES, refused, same, save_tiny, tiny_model
from tests.tolerance import assert_close, layers_of, off, rounding, terms_of
from uniformer import speed
from uniformer.config import Config
from uniformer.datasets.manifest import Item, Manifest
from uniformer.evaluation.features import extract_features, load_features
from uniformer.evaluation.scoring import Reading
from uniformer.inference.predictor import Predictor
from uniformer.network.blocks import LocalBlock
from uniformer.network.model import UniFormer
from uniformer.speed import fold
from uniformer.speed.blocks import OneDnnConv3d
from uniformer.speed.network import FastUniFormer
from uniformer.speed.timings import Compute

FAMILIES: dict[str, dict[str, Any]] = {
    "images": {},
    "clips": {"ndim": 3},
    "split attention": {"ndim": 3, "split_attention": True},
    "time kernel": {"ndim": 3, "time_kernel": 3},
    "layer scale": {"layer_scale": 0.3},
    "layer scale in two stages": {"ndim": 3, "layer_scale": 0.3, "layer_scale_stages": (3, 4)},
    "overlap": {"overlap": 4},
    "overlap of clips": {"ndim": 3, "overlap": 4},
    "token labeling": {"token_labeling": True},
    "hourglass": {"keep_ratio": 0.5, "depths": (1, 1, 3, 2)},
    "hourglass of clips": {"ndim": 3, "keep_ratio": 0.4, "overlap": 1, "depths": (1, 1, 3, 2)},
    "hourglass that keeps all": {"keep_ratio": 1.0},
    "windows": {"window": 3, "output": "normed_maps"},
    "hybrid": {"window": 3, "global_every": 2, "depths": (1, 1, 3, 1), "output": "maps"},
    "features": {"num_classes": 0},
}
FORMS: tuple[Compute, ...] = ("fast", "plain")


def an_input(config: Config, batch: int = 2, size: tuple[int, ...] = (5, 72, 64)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, config.in_chans, *size[-config.ndim :], generator=generator)


def outputs(model: UniFormer, x: Tensor) -> list[Tensor]:
    """All that a network says of an input: its answer, its maps, and what only training asks for."""
    with torch.no_grad():
        answer = model(x)
        said = [*answer] if isinstance(answer, tuple) else [answer]
        said += model.forward_intermediates(x)
        if model.norm is not None:
            said.append(model.forward_features(x))
        if model.aux_head is not None:
            said += model.forward_token_labels(x, (4, 4, 12, 12))[:2]
        if model.cls_head is not None:
            said += model.forward_class_token(x)
    return said


def assert_answers(found: list[Tensor], wanted: list[Tensor], terms: int) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, terms)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_gives_what_the_plain_network_gives(family: str, dtype: torch.dtype, one_thread: None) -> None:
    model = tiny_model(**FAMILIES[family]).to(dtype)
    x = an_input(model.config).to(dtype)
    wanted = outputs(model, x)
    assert_answers(outputs(uniformer.optimize(model), x), wanted, terms_of(model))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["images", "clips", "layer scale", "token labeling"])
def test_in_16_bits_it_is_as_close_as_the_plain_network(family: str, one_thread: None) -> None:
    model = tiny_model(**FAMILIES[family])
    x = an_input(model.config, batch=8)
    wanted = outputs(copy.deepcopy(model).double(), x.double())[0]
    plainly = off(outputs(copy.deepcopy(model).bfloat16(), x.bfloat16())[0], wanted)
    fast = uniformer.optimize(model, dtype=torch.bfloat16)
    (found, *_) = outputs(fast, x)  # type: ignore[arg-type]
    assert found.dtype == torch.bfloat16
    assert 0 < off(found, wanted) <= max(3 * plainly, rounding(torch.bfloat16))


@pytest.mark.parametrize("family", ["clips", "hourglass", "split attention"])
def test_attention_stays_in_float32_where_training_had_it_so(family: str, one_thread: None) -> None:
    model = speed.prepare(tiny_model(**FAMILIES[family]), training=True, attention_float32=True)
    x = an_input(model.config)
    for dtype, roundings in ((torch.float32, terms_of(model)), (torch.bfloat16, layers_of(model))):
        with torch.no_grad():
            assert_close(uniformer.optimize(model, dtype=dtype)(x), model(x), roundings)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("uniformer_small_video", (4, 64, 64)),
        ("uniformer_xxs_ls_video", (4, 64, 64)),
        ("uniformer_xs", (96, 96)),
        ("uniformer_small_plus_tl", (64, 64)),
        ("uniformer_base_ls", (64, 64)),
        ("uniformer_small_backbone_h14", (96, 64)),
    ],
)
def test_real_variants(name: str, size: tuple[int, ...], one_thread: None) -> None:
    torch.manual_seed(0)
    model = uniformer.create_model(name).eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_((torch.rand_like(value) - 0.5) / 25)
    x = an_input(model.config, 1, size)
    fast = uniformer.optimize(model)
    assert_answers(outputs(fast, x)[:5], outputs(model, x)[:5], terms_of(model))  # type: ignore[arg-type]


# ---- the model it is made of, and what may be done with it --------------------------------------------------------


@pytest.mark.parametrize("family", ["clips", "hourglass", "overlap"])
def test_the_model_stays_as_it_is(family: str, one_thread: None) -> None:
    model = tiny_model(**FAMILIES[family]).train()
    before, x = copy.deepcopy(model.state_dict()), an_input(model.config)
    fast = uniformer.optimize(model)
    fast(x)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert same(model.state_dict(), before)
    with torch.no_grad():
        wanted = copy.deepcopy(model).eval()(x)
        for p in model.parameters():
            p.zero_()
    assert_close(fast(x), wanted, terms_of(fast))  # nor does the copy change with the model


def test_it_is_of_no_use_for_training(one_thread: None) -> None:
    fast = uniformer.optimize(tiny_model())
    assert not fast.training
    assert not fast(an_input(Config()).requires_grad_()).requires_grad
    with refused("expected the model itself for training"):
        fast.train()
    assert fast.eval() is fast
    with refused("got one that is optimised already"):
        uniformer.optimize(fast)  # type: ignore[arg-type]


def test_any_batch_and_size_come_after_one_another(one_thread: None) -> None:
    model = tiny_model(ndim=3, keep_ratio=0.5)
    fast = uniformer.optimize(model)
    for batch, size in ((1, (2, 32, 32)), (3, (5, 64, 96)), (1, (1, 33, 47)), (2, (8, 40, 32))):
        x = an_input(model.config, batch, size)
        assert_answers(outputs(fast, x), outputs(model, x), terms_of(model))  # type: ignore[arg-type]
    with refused("is too small"):
        fast(torch.zeros(1, 3, 2, 16, 16))
    with refused("expected clips of shape"):
        fast(torch.zeros(1, 3, 32, 32))


def test_the_layout_of_the_input_does_not_matter(one_thread: None) -> None:
    fast = uniformer.optimize(tiny_model(ndim=3))
    x = an_input(Config(ndim=3))
    wanted, kept = fast(x), x.clone()
    for laid in (x.contiguous(memory_format=torch.channels_last_3d), x.transpose(0, 2).contiguous().transpose(0, 2)):
        assert_close(fast(laid), wanted, terms_of(fast))
    assert torch.equal(x, kept)


def test_autocast_does_not_reach_it(one_thread: None) -> None:
    model = tiny_model(ndim=3)
    fast, x = uniformer.optimize(model), an_input(model.config)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), uniformer.optimize(model)(x))
        assert fast(x).dtype == torch.float32


def test_it_can_be_copied_pickled_and_moved(one_thread: None) -> None:
    fast, x = uniformer.optimize(tiny_model(ndim=3, keep_ratio=0.5)), an_input(Config(ndim=3))
    wanted = fast(x)
    assert torch.equal(copy.deepcopy(fast)(x), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(fast))(x), wanted)
    other = uniformer.optimize(tiny_model(seed=1, ndim=3, keep_ratio=0.5))
    other.load_state_dict(fast.state_dict())
    assert torch.equal(other(x), wanted)
    assert_close(fast.double()(x), wanted, terms_of(fast))
    with pytest.raises(RuntimeError, match="Missing key"):
        fast.load_state_dict(tiny_model(ndim=3, keep_ratio=0.5).state_dict())


def test_a_shared_copy_holds_only_what_was_folded() -> None:
    model = tiny_model(ndim=3)
    fast = FastUniFormer(model, share=True)
    own = {p.data_ptr() for p in model.parameters()}
    added = [name for name, p in fast.named_parameters() if p.data_ptr() not in own]
    assert "stages.2.blocks.0.mhra.qkv.weight" not in added
    assert all("blocks" in name or "embed.proj" in name for name in added)
    assert not {p.data_ptr() for p in uniformer.optimize(model).parameters()} & own


def test_wrong_arguments_are_one_line() -> None:
    model = tiny_model()
    with refused("expected backend torch, openvino, onnxruntime, got 'tensorrt'"):
        uniformer.optimize(model, backend="tensorrt")  # type: ignore[arg-type]
    with refused("expected a floating-point dtype, got torch.int8"):
        uniformer.optimize(model, dtype=torch.int8)
    with refused("expected an example input for the backend openvino"):
        uniformer.optimize(model, backend="openvino")
    with refused("expected float32 and no compile for the backend onnxruntime"):
        uniformer.optimize(model, backend="onnxruntime", dtype=torch.bfloat16, example=an_input(model.config))


# ---- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
def test_convolutions_by_onednn_are_torchs(batch: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    own = OneDnnConv3d(3, 8, (3, 3, 3), (1, 2, 2), (1, 1, 1)).to(dtype)
    x = torch.randn(batch, 3, 4, 40, 40, dtype=dtype)  # so small that torch takes its own kernel for one clip
    with torch.no_grad():
        assert_close(own(x), nn.Conv3d.forward(own, x), 3 * 27)


def test_folding_keeps_the_borders() -> None:
    """A constant map through zero-padded convolutions: what a bias folded past the padding would spoil."""
    block = next(m for m in tiny_model(ndim=3).modules() if isinstance(m, LocalBlock)).double()
    weights = fold.local_weights(block, residual=True)
    x = torch.full((1, 16, 3, 5, 5), 0.7, dtype=torch.float64)
    conv = nn.functional.conv3d
    with torch.no_grad():
        wanted = block(x)
        y = conv(x, *weights.pos_embed, padding=1, groups=16)
        value = torch.einsum("oc,bcthw->bothw", weights.value.weight, y) + weights.value.bias.view(-1, 1, 1, 1)
        mixed = conv(value, weights.affinity, padding=2, groups=16)
        y = y + torch.einsum("oc,bcthw->bothw", weights.proj, mixed)
        hidden = torch.einsum("oc,bcthw->bothw", weights.fc1.weight, y) + weights.fc1.bias.view(-1, 1, 1, 1)
        y = y + torch.einsum("oc,bcthw->bothw", weights.fc2, nn.functional.gelu(hidden))
    assert_close(y, wanted, terms_of(block))


# ---- where it is used ------------------------------------------------------------------------------------------------


def test_predictions_are_the_same_plain_or_not(tmp_path: Path, one_thread: None) -> None:
    video = odd_media.h264(tmp_path)
    save_tiny(tmp_path / "clips.safetensors", CLIPS)
    fast, plainly = (Predictor(tmp_path / "clips.safetensors", compute=form) for form in (None, "plain"))
    model, wanted = tiny_model(ndim=3), plainly(video).probabilities
    assert_close(fast(video).probabilities, wanted, terms_of(model))
    assert fast.network.weights == plainly.network.weights
    half = Predictor(tmp_path / "clips.safetensors", precision="bfloat16")
    assert_close(half(video).probabilities, wanted, layers_of(model), dtype=torch.bfloat16)


def test_evaluation_and_features_are_the_same_plain_or_not(tmp_path: Path, one_thread: None) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 80, 90, 3), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    items = [Item(f"{number}.png", (number,)) for number in range(3)]
    manifest = Manifest.from_items(items, kind="image", classes=[f"class {k}" for k in range(7)], root=tmp_path)
    model = tiny_model()
    fast, plainly = (evaluate_model(model, manifest, IMAGES, workers=0, compute=c).logits for c in FORMS)
    assert_close(fast, plainly, terms_of(model))
    assert (fast != plainly).any()  # that is, another arithmetic
    for form in FORMS:
        reading = Reading(workers=0, compute=form)
        extract_features(model, manifest, IMAGES, tmp_path / f"{form}", stages=(1, 3), reading=reading)
    kept, wanted = (load_features(tmp_path / f"{form}").features for form in FORMS)
    assert_close(kept, wanted, terms_of(model))
    with refused(r"holds features of another run \(network differ"):
        extract_features(model, manifest, IMAGES, tmp_path / "plain", stages=(1, 3), reading=Reading(workers=0))
    with refused("expected compute plain or fast for features, got openvino"):
        extract_features(model, manifest, IMAGES, tmp_path / "new", reading=Reading(compute="openvino"))

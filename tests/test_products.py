"""Products and attention by torch and by oneDNN: both give what float64 gives, and who computes is recorded."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import uniformer
from tests.scored import evaluate_model
from tests.tiny import IMAGES, refused, tiny_model
from tests.tolerance import MARGIN, assert_close, assert_close_gradients, off, rounding, terms_of
from uniformer import speed
from uniformer.datasets.manifest import Item, Manifest
from uniformer.network import ops
from uniformer.speed.blocks import feed_forward_
from uniformer.speed.forms import inference_form
from uniformer.speed.network import FastUniFormer
from uniformer.speed.products import (
    NAMES,
    By,
    Library,
    _pays,
    add_product_,
    attention,
    fastest,
    has_onednn,
    product,
    trained_product,
)
from uniformer.support.resume import ROWS_KEY
from uniformer.training.state import PARTS, Progress, read_state, write_state

LIBRARIES = get_args(Library)
TYPES = (torch.float32, torch.bfloat16)
SHAPES = ((1568, 320, 960), (196, 1280, 320), (300, 56, 168), (1, 512, 1000))  # rows, channels in and out


def drawn(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(sum(sizes))).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("rows", "channels", "out"), SHAPES)
def test_products_are_those_of_float64(
    rows: int, channels: int, out: int, library: Library, dtype: torch.dtype, one_thread: None
) -> None:
    x, weight, bias = (drawn(*sizes, dtype=dtype) for sizes in ((rows, channels), (out, channels), (out,)))
    exact = x.double() @ weight.double().T + bias.double()
    added = drawn(rows, out, dtype=dtype)
    wanted = added.double() + exact
    terms = channels + 1 if dtype == torch.float32 else 1  # 16 bits are summed in 32
    with torch.no_grad():
        assert_close(product(x, weight, bias, by=library), exact, terms, dtype=dtype)
        gelu = product(x, weight, bias, by=library, gelu=True)
        assert_close(gelu, nn.functional.gelu(exact), terms + 1, dtype=dtype)
        add_product_(added, x, weight, bias, by=library)
    assert_close(added, wanted, terms + 1, dtype=dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "dim"), [(784, 64), (400, 28), (196, 64), (257, 32)])
def test_attention_by_blocks_is_that_of_float64(tokens: int, dim: int, dtype: torch.dtype, one_thread: None) -> None:
    """In one block, in several of unequal length, and below where it pays; affinities up to 20."""
    q, k, v = (drawn(2, 3, tokens + n, dim, dtype=dtype)[:, :, :tokens] for n in range(3))
    q = 2 * q
    wanted = ops.attention(q.double(), k.double(), v.double())
    with torch.no_grad():
        found = attention(q, k, v, by="onednn")
        plainly = off(attention(q, k, v, by="torch"), wanted)
    assert found.dtype == dtype
    assert off(found, wanted) <= max(MARGIN * plainly, rounding(dtype, dim))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_feed_forward_in_chunks_is_the_whole(library: Library, one_thread: None) -> None:
    torch.manual_seed(0)
    fc1, fc2, norm = nn.Linear(16, 64), nn.Linear(64, 16), nn.LayerNorm(16)
    rows, chunks = torch.randn(18_800, 16), []
    with torch.no_grad():
        wanted = rows + fc2(nn.functional.gelu(fc1(norm(rows))))
        norm.register_forward_hook(lambda _module, _given, normed: chunks.append(len(normed)))
        feed_forward_(rows, fc1, fc2, norm, by=By(library))
    assert chunks == [6267, 6267, 6266]  # 6,250 are to be done at once: not three times so many, and 50 more
    assert_close(rows, wanted, 16 + 64)


@pytest.mark.parametrize(
    ("name", "size"),
    [("uniformer_small_video", (8, 64, 64)), ("uniformer_xxs_video", (8, 96, 96)), ("uniformer_small", (128, 128))],
)
def test_the_whole_network_by_either_is_the_plain_one(name: str, size: tuple[int, ...], one_thread: None) -> None:
    torch.manual_seed(0)
    model = uniformer.create_model(name).eval()
    x = drawn(1, 3, *size)
    with torch.no_grad():
        wanted = model(x)
    found = [FastUniFormer(model, by=By(library, library))(x) for library in LIBRARIES]
    for logits in found:
        assert_close(logits, wanted, terms_of(model))
    assert torch.equal(*found) != has_onednn(torch.float32)  # that is, another arithmetic


def test_nothing_changes_where_onednn_cannot() -> None:
    """Types it does not know, gradients, and graphs are torch's."""
    x, weight = drawn(300, 64), drawn(64, 64)
    with torch.no_grad():
        assert torch.equal(product(x.double(), weight.double()), nn.functional.linear(x.double(), weight.double()))
    assert product(x.requires_grad_(), weight).requires_grad
    fast = FastUniFormer(tiny_model(), by=By("onednn", "onednn")).double()
    assert fast(drawn(1, 3, 64, 64)).dtype == torch.float64


# ---- in training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "channels", "out"), [(1568, 64, 256), (392, 512, 128), (200, 72, 72)])
def test_gradients_are_those_of_float64(rows: int, channels: int, out: int, one_thread: None) -> None:
    """Of inputs in several dimensions too, and gradients of gradients."""
    leaves = [drawn(2, rows // 2, channels), drawn(out, channels), drawn(out)]
    grad, found, wanted = drawn(2, rows // 2, out), [], []
    for kept, run, dtype in ((found, trained_product, torch.float32), (wanted, nn.functional.linear, torch.float64)):
        given = [leaf.to(dtype).requires_grad_() for leaf in leaves]
        y = run(*given)
        kept += [y, *torch.autograd.grad(y, given, grad.to(dtype), retain_graph=True)]
        of_x = torch.autograd.grad(y, given[0], grad.to(dtype), create_graph=True)[0]
        kept.append(torch.autograd.grad(of_x.square().sum(), given[1])[0])
    for mine, true, terms in zip(found, wanted, (channels + 1, out, rows, rows, rows * channels * out), strict=True):
        assert_close(mine, true, terms, dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "size"), [("uniformer_nano_video", (2, 3, 8, 64, 64)), ("uniformer_small", (1, 3, 96, 96))]
)
def test_a_step_by_either_is_that_of_the_plain_network(name: str, size: tuple[int, ...], one_thread: None) -> None:
    torch.manual_seed(0)
    plain = uniformer.create_model(name, num_classes=20).train()
    x, found = drawn(*size), []
    with torch.no_grad():
        for value in plain.parameters():
            value.add_((torch.rand_like(value) - 0.5) / 25)
    for library in LIBRARIES:
        ready = speed.prepare(copy.deepcopy(plain), training=True, by=By(library))
        found.append(gradients(ready, x))
    wanted = gradients(plain.double(), x.double())
    for step in found:
        assert_close_gradients(step, wanted, 2 * terms_of(plain) + x[:, 0].numel(), dtype=torch.float32)
    assert any(not torch.equal(a, b) for a, b in zip(*(step.values() for step in found), strict=True))


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    loss = model(x).square().sum()
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, [*named.values()]), strict=True))


def test_a_training_run_goes_on_by_what_was_recorded(tmp_path: Path, one_thread: None) -> None:
    path = tmp_path / "state.pt"
    write_state(path, {**{name: {} for name in PARTS}, "recipe": "", "progress": asdict(Progress())})
    assert read_state(path)["products"] == "torch/torch"  # as earlier versions computed
    for products in NAMES:
        write_state(path, {**read_state(path), "products": products})
        assert read_state(path)["products"] == products
    write_state(path, {**read_state(path), "products": "mkl"})
    with refused("found products by mkl"):
        read_state(path)


# ---- what is recorded ------------------------------------------------------------------------------------------------


def test_the_choice_is_made_once_and_has_a_name() -> None:
    for dtype in (*TYPES, torch.float64):
        by = fastest(dtype)
        assert by == fastest(dtype)
        assert By.parsed(str(by)) == by
    assert fastest(torch.float64) == By("torch", "torch")
    for wrong in ("onednn", "mkl/torch", "onednn/torch/torch"):
        with refused("expected"):
            By.parsed(wrong)
    form = inference_form(tiny_model(), "fast by onednn/torch", (3, 64, 64), torch.float32)
    assert form.by == By("onednn", "torch")


def test_the_choice_is_tried_on_one_thread() -> None:
    """Two that wait for each other beside other work spend their time alike in whatever they compute."""
    before, seen = torch.get_num_threads(), set[int]()
    torch.set_num_threads(before + 1)

    def run(by: Library) -> Tensor:
        seen.add(torch.get_num_threads())
        return torch.full((600_000 if by == "torch" else 1,), 2.0).exp()

    def fail(by: Library) -> Tensor:
        raise ValueError(by)

    try:
        assert _pays(run)
        with pytest.raises(ValueError, match="torch"):
            _pays(fail)
        assert (seen, torch.get_num_threads()) == ({1}, before + 1)
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def pictures(tmp_path: Path) -> Manifest:
    noise = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(noise.integers(0, 256, (224, 224, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    items = [Item(f"{number}.png", (number,)) for number in range(3)]
    return Manifest.from_items(items, kind="image", classes=[f"class {k}" for k in range(7)], root=tmp_path)


def test_a_run_goes_on_by_what_was_recorded(pictures: Manifest, tmp_path: Path, one_thread: None) -> None:
    """Whatever is the faster by now: also results from before there was a choice, which were torch's."""
    model = tiny_model(dims=(16, 32, 64, 64))
    store = tmp_path / "answers"
    evaluate_model(model, pictures, IMAGES, workers=0, store=store)
    claim = json.loads((store / ROWS_KEY).read_text())
    by = fastest(torch.float32)
    assert claim["network"] == ("inference form" if by == By() else f"fast by {by}")
    for said in ("inference form", "fast by onednn/onednn", "fast by torch/onednn"):
        (store / ROWS_KEY).write_text(json.dumps({**claim, "network": said}))
        for rows in store.glob("rows-*.bin"):
            rows.unlink()
        again = [evaluate_model(model, pictures, IMAGES, workers=0, store=store, compute=c) for c in (None, "fast")]
        assert again[0].logits.tobytes() == again[1].logits.tobytes()
        assert json.loads((store / ROWS_KEY).read_text())["network"] == said
    with refused("network differ"):
        evaluate_model(model, pictures, IMAGES, workers=0, store=store, compute="plain")

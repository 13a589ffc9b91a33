"""The plain network computes by torch's own modules; `speed.prepare` puts speed on for training, and takes it off."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import uniformer
from tests.tiny import TINY, refused, same, tiny_model
from tests.tolerance import assert_close, assert_close_gradients, off, rounding, terms_of
from uniformer import speed
from uniformer.config import Config
from uniformer.network.blocks import GlobalMHRA
from uniformer.network.model import UniFormer
from uniformer.network.ops import attention
from uniformer.speed.convolutions import is_depthwise
from uniformer.speed.depthwise import Depthwise3d
from uniformer.speed.products import By
from uniformer.speed.training_modules import PLAIN, Float32MHRA, stand_in
from uniformer.training.optim import moving_average

FAMILIES: dict[str, dict[str, Any]] = {
    "images": {},
    "clips": {"ndim": 3},
    "split attention": {"ndim": 3, "split_attention": True, "time_kernel": 3},
    "overlap of clips": {"ndim": 3, "overlap": 4},
    "hourglass of clips": {"ndim": 3, "keep_ratio": 0.4, "overlap": 1, "depths": (1, 1, 3, 2)},
}
CLIPS = {name: options for name, options in FAMILIES.items() if options}


def an_input(config: Config, frames: int = 5) -> Tensor:
    size = (frames, 72, 64)[-config.ndim :]
    return torch.randn(2, config.in_chans, *size, generator=torch.Generator().manual_seed(0))


def gradients(model: UniFormer, x: Tensor, dtype: torch.dtype | None = None) -> dict[str, Tensor | None]:
    """The logits and every gradient of a training step, under autocast to `dtype`, in float64."""
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        logits = model(x)
        loss = logits.to(torch.promote_types(logits.dtype, torch.float32)).square().sum()
    found = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
    named = dict(zip([name for name, _ in model.named_parameters()], found, strict=True))
    return {"logits": logits.detach().double()} | {n: None if g is None else g.double() for n, g in named.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_network_is_made_of_torchs_modules(family: str) -> None:
    for module in UniFormer(replace(TINY, **FAMILIES[family])).modules():
        assert type(module).__module__.startswith(("torch.nn.modules.", "uniformer.network."))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_is_that_of_the_plain_network(family: str, one_thread: None) -> None:
    plain = tiny_model(**FAMILIES[family]).train()
    ready = speed.prepare(copy.deepcopy(plain), training=True)
    x = an_input(plain.config)
    found, wanted = gradients(ready, x), gradients(plain.double(), x.double())
    assert_close(found.pop("logits"), wanted.pop("logits"), terms_of(plain), dtype=torch.float32)
    # The layers' products, there and back, and then over all places.
    assert_close_gradients(found, wanted, 2 * terms_of(plain) + x[:, 0].numel(), dtype=torch.float32)


def test_maps_have_their_channels_last_in_training_from_the_stem_on() -> None:
    for options in (CLIPS["clips"], CLIPS["overlap of clips"]):
        model = speed.prepare(tiny_model(**options).train(), training=True)
        stem = model.stages[0].embed(an_input(model.config))  # type: ignore[union-attr, operator]
        assert stem.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("by", [By(), By("onednn")])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_put_on_in_place_and_taken_off(family: str, by: By, one_thread: None) -> None:
    model = tiny_model(**FAMILIES[family]).train()
    x = an_input(model.config)
    wanted, state = copy.deepcopy(model)(x), copy.deepcopy(model.state_dict())
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    kinds = [type(module) for module in modules.values()]
    seen: list[str] = []
    model.stages[0].blocks[0].pos_embed.register_forward_hook(lambda *_: seen.append("hook"))  # type: ignore[union-attr, index]
    for _ in range(2):  # to prepare again is to prepare anew
        assert speed.prepare(model, training=True, attention_float32=True, by=by) is model
        assert all(a is b for a, b in zip(parameters.values(), model.parameters(), strict=True))
        assert all(a is b for a, b in zip(modules.values(), model.modules(), strict=True))
        assert same(model.state_dict(), state)
        changed = {type(module) for module in model.modules()} & set(PLAIN)
        count = {"images": 1, "overlap of clips": 4, "hourglass of clips": 4}.get(family, 3)
        assert len(changed) == count + (by.products == "onednn")  # linear layers
        depthwise = [module for module in model.modules() if isinstance(module, Depthwise3d)]
        assert all(module.by_sample == (by.products == "onednn") for module in depthwise)
    model(x)
    assert seen == ["hook"]
    assert speed.unprepare(model) is model
    assert [type(module) for module in model.modules()] == kinds
    assert torch.equal(model(x), wanted)


def test_copies_averages_and_pickles_stay_prepared(one_thread: None) -> None:
    model = speed.prepare(tiny_model(ndim=3), training=True)
    x = an_input(model.config)
    kinds = [type(module) for module in model.modules()]
    average = moving_average(model, 0.9).module
    with torch.no_grad():
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), average):
            assert [type(module) for module in other.modules()] == kinds
            assert torch.equal(other(x), model(x))


def test_batch_norms_that_share_statistics_stay_so() -> None:
    model = tiny_model(ndim=3)
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    count = sum(isinstance(module, nn.SyncBatchNorm) for module in speed.prepare(model, training=True).modules())
    assert count == sum(isinstance(module, nn.BatchNorm3d) for module in tiny_model(ndim=3).modules())


def test_a_prepared_model_compiles_whole(one_thread: None) -> None:
    torch._dynamo.reset()
    model = speed.prepare(tiny_model(ndim=3, overlap=1).train(), training=True)
    x = an_input(model.config)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found, wanted = (torch.autograd.grad(m(x).square().sum(), [*model.parameters()]) for m in (compiled, model))
    largest = max(float(g.abs().max()) for g in wanted)
    for mine, true in zip(found, wanted, strict=True):
        assert off(mine, true, largest) <= rounding(torch.float32, 2 * terms_of(model) + x[:, 0].numel())


@pytest.mark.parametrize("family", FAMILIES)
def test_its_inference_copy_is_that_of_the_plain_network(family: str, one_thread: None) -> None:
    model = tiny_model(**FAMILIES[family])
    x = an_input(model.config)
    wanted = uniformer.optimize(model)(x)
    assert torch.equal(uniformer.optimize(speed.prepare(model, training=True))(x), wanted)  # type: ignore[arg-type]
    assert torch.equal(speed.prepare(model, training=False, device="cpu")(x), wanted)


def test_attention_in_float32_is_left_alone_by_autocast() -> None:
    torch.manual_seed(0)
    mhra, tokens = GlobalMHRA(32, 16), 20 * torch.randn(2, 9, 32)
    with torch.autocast("cpu", torch.bfloat16):
        _, low_affinity = mhra.with_class_affinity(tokens)
        mhra.__class__ = Float32MHRA
        high = mhra(tokens)
        high_too, affinity = mhra.with_class_affinity(tokens)
        q, k, v = mhra._heads(tokens)
    assert q.dtype == torch.float32
    assert torch.equal(high, high_too)
    mixed = attention(q, k, v).transpose(1, 2).flatten(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(high, mhra.proj(mixed))
    assert not torch.equal(low_affinity, affinity)


@pytest.mark.parametrize("family", ["clips", "hourglass of clips", "split attention"])
def test_attention_stays_in_float32_where_asked(family: str, one_thread: None) -> None:
    model = tiny_model(**FAMILIES[family])
    x = an_input(model.config)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = model(x)
    ready = speed.prepare(copy.deepcopy(model), training=True, attention_float32=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(ready(x), low)
    half = torch.bfloat16
    kept, asked, without = (
        speed.prepare(m, training=False, dtype=half, attention_float32=flag)(x)
        for m, flag in ((ready, False), (model, True), (model, False))
    )
    assert torch.equal(kept, asked)
    assert not torch.equal(kept, without)


def test_what_cannot_be_prepared_is_one_line() -> None:
    with refused("got one that is optimised already"):
        speed.prepare(uniformer.optimize(tiny_model()), training=True)  # type: ignore[arg-type]
    with refused("expected the size of a view to train in bfloat16 on a CPU"):
        speed.prepare(tiny_model(), training=True, dtype=torch.bfloat16)
    for other in ("mine.safetensors", nn.Conv3d(3, 3, 1)):
        with refused(f"expected a UniFormer, or one under torch's wrappers, got {type(other).__name__}"):
            uniformer.optimize(other)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batched attention for a CPU
@pytest.mark.parametrize("family", ["images", "clips"])
def test_gradients_of_each_sample_by_torch_func(family: str, one_thread: None) -> None:
    model = tiny_model(**FAMILIES[family]).eval()
    x = an_input(model.config)

    def of_each() -> dict[str, Tensor]:
        def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
            out: Tensor = functional_call(model, parameters, (sample[None],))
            return out.square().sum()

        return vmap(grad(loss), (None, 0))(dict(model.named_parameters()), x)

    plain = of_each()
    speed.prepare(model, training=True)
    assert_close_gradients(of_each(), plain, terms_of(model))


def test_the_line_that_the_documents_give_for_a_loop_of_ones_own() -> None:
    code = "import uniformer; model = uniformer.create_model('uniformer_nano_video')\n"
    code += "assert uniformer.speed.prepare(model, training=True) is model"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- bfloat16 on a CPU -----------------------------------------------------------------------------------------------
# On processors with AVX512-BF16 torch's own gradients are garbage for clips shorter than a kernel. Elsewhere nothing is
# found wrong, and these tests hold the same of torch alone.


@pytest.mark.parametrize("frames", [3, 4, 8])  # 2, 2 and 4 after the stem, where kernels span 3 and 5
@pytest.mark.parametrize("family", ["clips", "split attention", "overlap of clips"])
def test_in_bfloat16_the_gradients_are_right(family: str, frames: int, one_thread: None) -> None:
    plain = tiny_model(**FAMILIES[family]).train()
    x = an_input(plain.config, frames)
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ready = speed.prepare(copy.deepcopy(plain), training=True, dtype=torch.bfloat16, size=x.shape[1:])
    assert torch.equal(torch.rand(3), drawn)  # the trial took nothing of the caller's draws
    found, wanted = gradients(ready, x, torch.bfloat16), gradients(plain.double(), x.double())
    for name, true in wanted.items():
        mine = found[name]
        if mine is not None and true is not None and true.ndim > 3:  # filters; garbage is off by 0.8 and more
            assert float((mine - true).norm() / true.norm()) < 0.2, name
    wrong = [module for module in ready.modules() if type(module).__name__ == "Float32Conv3d"]
    assert len(said) == bool(wrong)
    assert all("they compute in float32 (" in str(line.message) for line in said)
    assert not any(is_depthwise(module) for module in wrong)  # whose filters' gradients are taken in float32 anyway


@pytest.mark.parametrize(
    "conv",
    [nn.Conv3d(3, 6, (3, 2, 2), (1, 2, 2), (1, 0, 0)), nn.Conv3d(6, 6, 5, padding=2, groups=6), nn.Conv2d(3, 6, 3, 2)],
)
def test_what_torch_gets_wrong_computes_in_float32(conv: nn.Conv2d | nn.Conv3d) -> None:
    ready = copy.deepcopy(conv)
    ready.__class__ = stand_in(conv, wrong=True, attention_float32=False)  # type: ignore[assignment]
    x = torch.randn(2, conv.in_channels, *(2, 8, 8)[-len(conv.kernel_size) :])
    wanted = conv(x)
    exact = torch.autograd.grad(wanted.square().sum(), [*conv.parameters()])
    assert_close(ready(x), wanted, terms_of(ready))
    with torch.autocast("cpu", torch.bfloat16):
        low = ready(x)
        assert (low.dtype, type(ready)) == (torch.bfloat16, stand_in(conv, wrong=True, attention_float32=False))
    assert_close(low, wanted)  # rounded once, at the end
    for mine, true in zip(torch.autograd.grad(low.float().square().sum(), [*ready.parameters()]), exact, strict=True):
        assert float((mine - true).norm() / true.norm()) < 0.05
    in_itself = copy.deepcopy(ready).bfloat16()
    assert in_itself(x.bfloat16()).dtype == torch.bfloat16

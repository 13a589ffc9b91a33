"""One grid of tests over every variant, and the promises of the model class."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tolerance import assert_close, assert_close_gradients, layers_of, off, rounding, terms_of
from uniformer.checkpoints.load import create_model
from uniformer.config import Config, with_options
from uniformer.errors import InputError
from uniformer.network.model import UniFormer
from uniformer.network.ops import attention, from_windows, to_windows
from uniformer.network.variants import VARIANTS, get_config

TINY = {"depths": (1, 1, 2, 2), "dims": (16, 24, 32, 48), "head_dim": 16, "num_classes": 7}
KINDS = {
    "image": Config(**TINY),
    "overlap": Config(**TINY, overlap=4, layer_scale=0.1),
    "tokens": Config(**TINY, token_labeling=True),
    "light": Config(**TINY, overlap=1, keep_ratio=0.5),
    "maps": Config(**TINY, output="normed_maps", window=2, global_every=2),
    "video": Config(**TINY, ndim=3),
    "split": Config(**TINY, ndim=3, split_attention=True, time_kernel=3),
    "light video": Config(**TINY, ndim=3, overlap=1, keep_ratio=0.5, layer_scale=0.1),
}


def small_input(config: Config, batch: int = 2, size: tuple[int, int] = (64, 96), frames: int = 4) -> Tensor:
    grid = (frames, *size) if config.is_video else size
    return torch.randn(batch, config.in_chans, *grid, generator=torch.Generator().manual_seed(0))


def build(config: Config, seed: int = 0) -> UniFormer:
    torch.manual_seed(seed)
    return UniFormer(config).eval()


def values(y: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [y] if isinstance(y, Tensor) else list(y)


def assert_same(a: Tensor | tuple[Tensor, ...], b: Tensor | tuple[Tensor, ...], model: UniFormer) -> None:
    """But for the order of the model's sums."""
    for x, y in zip(values(a), values(b), strict=True):
        assert_close(x, y, terms_of(model))


def gradients(model: UniFormer, x: Tensor) -> dict[str, Tensor | None]:
    """Of the sum of squares of all outputs."""
    model.zero_grad()
    sum(y.square().mean() for y in values(model(x))).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def summed(model: UniFormer, x: Tensor) -> int:
    """What is summed for a gradient: the layers' products there and back, then over all places."""
    return 2 * terms_of(model) + x[:, 0].numel()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Config:
    return KINDS[request.param]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_builds_runs_and_trains(name: str) -> None:
    """On a non-square input: output shapes as declared, and a gradient for every parameter that the loss can reach."""
    config = with_options(get_config(name), {"depths": (1, 1, 2, 1), "drop_path": 0.1})
    model = UniFormer(config)
    x = small_input(config)
    if config.token_labeling:
        logits, dense, _ = model.forward_token_labels(x, (2, 3, 12, 15))
        loss = logits.sum() + dense.square().mean()
    elif config.output == "logits" and config.is_hourglass:
        logits, of_class_token = model.forward_class_token(x)
        loss = logits.sum() + of_class_token.square().mean()
    else:
        loss = sum(y.square().mean() for y in values(model(x)))
    loss.backward()
    unused = {n for n, p in model.named_parameters() if p.grad is None}
    # Dense light models run the class token through but hand out maps only; its last use is choosing tokens.
    assert all(n.startswith("cls_") for n in unused), unused
    maps = model.eval().forward_intermediates(x)
    assert [m.shape[1] for m in maps] == [info.channels for info in model.feature_info]
    assert [tuple(m.shape[2:]) for m in maps] == model.grids(tuple(x.shape[2:]))
    if config.output == "logits":
        assert model(x).shape == (2, config.num_classes)


def test_same_kind_of_output_in_both_modes(kind: Config) -> None:
    model, x = build(kind), small_input(kind)
    assert [y.shape for y in values(model(x))] == [y.shape for y in values(model.train()(x))]


@pytest.fixture
def _fresh_compiler() -> None:
    torch._dynamo.reset()  # else models of earlier tests count as recompilations of this one


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiles_whole(kind: Config) -> None:
    model, x = build(kind), small_input(kind)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_same(compiled(x), model(x), model)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiles_with_inductor() -> None:
    config = replace(KINDS["light"], depths=(1, 1, 2, 1))  # the hardest kind; C++ compilation takes its time
    model, x = build(config), small_input(config)
    with torch.no_grad():
        assert_same(torch.compile(model, fullgraph=True)(x), model(x), model)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("name", ["image", "light", "light video"])
def test_compiled_training_step(name: str) -> None:
    model, x = build(KINDS[name]), small_input(KINDS[name])
    step = torch.compile(
        lambda x: sum(y.square().mean() for y in values(model(x))), fullgraph=True, backend="aot_eager"
    )
    step(x).backward()
    compiled = {name: p.grad for name, p in model.named_parameters()}
    assert_close_gradients(compiled, gradients(model, x), summed(model, x))


def test_exports_with_free_batch(kind: Config) -> None:
    model, x = build(kind), small_input(kind)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    other = small_input(kind, batch=3)
    with torch.no_grad():
        assert_same(program.module()(other), model(other), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(kind: Config, dtype: torch.dtype) -> None:
    """Half precision stays near float32. The light models may choose other tokens, so theirs is only held finite."""
    model, x = build(kind), small_input(kind)
    with torch.no_grad():
        want = model(x)
        with torch.autocast("cpu", dtype):
            got = model(x)
    for a, b in zip(values(got), values(want), strict=True):
        assert a.isfinite().all()
        if not kind.is_hourglass:
            assert off(a, b) <= rounding(dtype, layers_of(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_training(kind: Config, dtype: torch.dtype) -> None:
    """Of clips as long as the longest kernel in stage 1: with shorter ones torch itself can be wrong in bfloat16, and
    `speed.prepare` is for that.
    """
    model, x = build(kind).train(), small_input(kind, size=(32, 64), frames=10)
    with torch.autocast("cpu", dtype):
        loss = sum(y.float().square().mean() for y in values(model(x)))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_many_positions_in_bfloat16() -> None:
    """Token positions are integers: as bfloat16 numbers they would collide above 256, and tokens be lost."""
    config = replace(KINDS["light"], depths=(1, 1, 2, 1))
    model, x = build(config).bfloat16(), small_input(config, batch=1, size=(288, 288)).bfloat16()  # 324 in stage 3
    block = model.stages[2].blocks[1]
    with torch.no_grad():
        for m in block.modules():  # nothing but moving tokens is left: every token must come back to its place
            if isinstance(m, torch.nn.Linear | torch.nn.Conv2d):
                m.weight.zero_()
                m.bias.zero_()
        seen: dict[str, Tensor] = {}
        block.register_forward_pre_hook(lambda m, args: seen.__setitem__("in", args[0].clone()))
        block.register_forward_hook(lambda m, args, out: seen.__setitem__("out", out[0].clone()))
        model(x)
    assert seen["in"].shape[2] * seen["in"].shape[3] > 256
    assert torch.equal(seen["in"], seen["out"])


def test_channels_last(kind: Config) -> None:
    model, x = build(kind), small_input(kind)
    with torch.no_grad():
        want = model(x)
        layout = torch.channels_last_3d if kind.is_video else torch.channels_last
        assert_same(model.to(memory_format=layout)(x.to(memory_format=layout)), want, model)


def test_two_hourglass_models_in_two_threads() -> None:
    """No state is shared: each gives what it gives alone."""
    configs = [KINDS["light"], KINDS["light video"]]
    models = [build(c, seed) for seed, c in enumerate(configs)]
    inputs = [small_input(c, size=(96, 96)) for c in configs]
    with torch.no_grad():
        alone = [m(x) for m, x in zip(models, inputs, strict=True)]
    results: list[list[Tensor]] = [[], []]

    def work(i: int) -> None:
        with torch.no_grad():
            results[i] = [models[i](inputs[i]) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for got, want, model in zip(results, alone, models, strict=True):
        assert len(got) == 20
        for y in got:
            assert_same(y, want, model)


def test_one_model_in_two_threads(kind: Config) -> None:
    model, inputs = build(kind), [small_input(kind), small_input(kind) + 1]
    with torch.no_grad():
        alone = [model(x) for x in inputs]
    results: list[object] = [None, None]

    def work(i: int) -> None:
        with torch.no_grad():
            results[i] = model(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for got, want in zip(results, alone, strict=True):
        assert_same(got, want, model)


def test_samples_do_not_see_one_another(kind: Config) -> None:
    model, x = build(kind).double(), small_input(kind, batch=3).double()
    with torch.no_grad():
        together = values(model(x))
        for i in range(3):
            assert_same(tuple(values(model(x[i : i + 1]))), tuple(y[i : i + 1] for y in together), model)


def test_a_batch_of_one_has_the_gradients_of_its_sample(kind: Config) -> None:
    """torch 2.15's batch norm has others where the batch's stride is not its map's size."""
    model, x = build(kind).double(), small_input(kind, batch=1).double()
    assert_close_gradients(gradients(model, x), gradients(model, x[[0, 0]]), summed(model, x))


def test_grad_checkpointing_changes_nothing(kind: Config) -> None:
    model, x = build(kind), small_input(kind)
    want = gradients(model, x)
    model.set_grad_checkpointing()
    assert_close_gradients(gradients(model, x), want, summed(model, x))


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    from uniformer.network.ops import drop_path

    torch.manual_seed(0)
    x = torch.ones(4000, 3, 2)
    y = drop_path(x, 0.25, training=True)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert all(len(sample.unique()) == 1 for sample in y[:50])
    assert y.mean() == pytest.approx(1, abs=0.05)
    assert drop_path(x, 0.25, training=False) is x


def test_drop_path_rates_rise_over_all_blocks() -> None:
    model = UniFormer(Config(**TINY, drop_path=0.5))
    rates = [block.drop_path_rate for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_features_and_classifier() -> None:
    model, x = build(KINDS["video"]), small_input(KINDS["video"])
    with torch.no_grad():
        assert model.forward_features(x).shape == (2, 48, 2, 2, 3)
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)
        assert model.config.num_classes == 5
        model.reset_classifier(0)
        pooled = model(x)
        assert pooled.shape == (2, 48)
        assert_close(pooled, model.forward_features(x).flatten(2).mean(2), terms_of(model))


def test_reset_classifier_of_models_with_two() -> None:
    for kind, name in (("light", "cls_head"), ("tokens", "aux_head")):
        model = build(KINDS[kind]).double()
        model.reset_classifier(9)
        assert model.head.weight.shape == getattr(model, name).weight.shape == (9, 48)
        assert model.head.weight.dtype == torch.float64
        model.reset_classifier(0)
        assert model.head is None
        assert getattr(model, name) is None


def test_features_only() -> None:
    model = create_model("uniformer_xxs", features_only=True, depths=(1, 1, 1, 1)).eval()
    maps = model(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1:] for m in maps] == [(56, 16, 16), (112, 8, 8), (224, 4, 4), (448, 2, 2)]
    first = model.feature_info[0]
    assert (first.channels, first.stride, first.time_stride) == (56, 4, 1)
    assert not any(n.startswith(("head", "norm")) for n, _ in model.named_parameters())


def test_intermediates_by_index() -> None:
    model, x = build(KINDS["maps"]), small_input(KINDS["maps"])
    with torch.no_grad():
        both = model.forward_intermediates(x, indices=(3, 1))
        assert_same(tuple(both), (model(x)[3], model(x)[1]), model)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (40, 64)])
def test_any_size_and_length(frames: int, size: tuple[int, int]) -> None:
    for kind in ("video", "light video", "split"):
        model, x = build(KINDS[kind]), small_input(KINDS[kind], batch=1, size=size, frames=frames)
        with torch.no_grad():
            assert model(x).isfinite().all()


def test_hourglass_with_one_and_two_positions() -> None:
    """The reference tells "keep all" from sizes and takes the wrong turn on such small grids."""
    for size in ((32, 32), (32, 64)):
        model, x = build(KINDS["light"]).double(), small_input(KINDS["light"], size=size).double()
        with torch.no_grad():
            assert model(x).isfinite().all()


def test_other_input_channels() -> None:
    model = create_model("uniformer_small", in_chans=5, depths=(1, 1, 1, 1), num_classes=3).eval()
    assert model(torch.zeros(1, 5, 32, 32)).shape == (1, 3)


def test_attention_is_that_of_the_paper() -> None:
    q, k, v = torch.randn(3, 2, 4, 50, 16, dtype=torch.float64).unbind(0)
    affinity = (q @ k.transpose(-2, -1) / 16**0.5).softmax(dim=-1)
    assert_close(attention(q, k, v), affinity @ v, 16 + 50)


def test_windows_and_back() -> None:
    x = torch.randn(2, 5, 7, 3)
    windows, padded = to_windows(x, 4)
    assert windows.shape == (2 * 2 * 2, 16, 3)
    assert padded == (8, 8)
    assert torch.equal(from_windows(windows, 4, padded, (5, 7)), x)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 64, 64), r"expected images of shape \(B, C, H, W\), got \(3, 64, 64\)"),
        ((1, 3, 4, 64, 64), r"expected images of shape"),
        ((1, 1, 64, 64), r"expected 3 input channels, got 1"),
        ((1, 3, 31, 64), r"input of 31 x 64 is too small: stage 4 would get a grid of 0 x 2"),
    ],
)
def test_wrong_inputs(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(KINDS["image"])(torch.zeros(shape))


def test_wrong_names_and_options() -> None:
    with pytest.raises(InputError, match=r"unknown model 'uniformer_smal'.*uniformer_small"):
        create_model("uniformer_smal")
    with pytest.raises(InputError, match=r"unknown option 'drop_paths' of Config.*drop_path"):
        create_model("uniformer_small", drop_paths=0.1)
    with pytest.raises(InputError, match="head_dim to divide the width 320"):
        create_model("uniformer_small", head_dim=48)
    with pytest.raises(InputError, match=r"drop_path in \[0, 1\], got 1.5"):
        create_model("uniformer_small", drop_path=1.5)
    with pytest.raises(InputError, match="window attention is defined for images only"):
        create_model("uniformer_small_video", window=14)
    with pytest.raises(InputError, match="token labels need a model with token labeling"):
        build(KINDS["image"]).forward_token_labels(torch.zeros(1, 3, 32, 32))
    with pytest.raises(InputError, match="hourglass"):
        build(KINDS["image"]).forward_class_token(torch.zeros(1, 3, 32, 32))
    with pytest.raises(InputError, match="no classifier to reset"):
        build(KINDS["maps"]).reset_classifier(3)


def test_building_one_model_does_not_change_the_next() -> None:
    before = [n for n, _ in UniFormer(KINDS["image"]).named_parameters()]
    UniFormer(replace(KINDS["image"], layer_scale=0.1))
    UniFormer(KINDS["light"])
    assert [n for n, _ in UniFormer(KINDS["image"]).named_parameters()] == before


def test_initialisation() -> None:
    model = UniFormer(get_config("uniformer_xxs"))
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert all(m.bias.abs().max() == 0 for m in linear)
    assert all(m.weight.std().item() == pytest.approx(0.02, rel=0.1) for m in linear)
    assert model.cls_token.abs().max() == 0

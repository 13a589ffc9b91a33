"""The same numbers as the official code: every case in float64 to 1e-9 and in float32 within its own noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.golden import (
    CASES,
    MANIFESTS,
    ShiftedDepthwise,
    difference,
    digest,
    golden_input,
    golden_model,
    latest_state,
    normals,
    reference_state,
    run_with_features,
    shifted_depthwise,
)
from tests.tolerance import assert_close
from uniformer.checkpoints.keys import from_reference, reference_key, to_reference
from uniformer.checkpoints.load import load_tensors
from uniformer.network.model import UniFormer

FORWARD, TRAIN = (
    sorted((name for name, case in CASES.items() if case["mode"] == mode), key=lambda name: CASES[name]["manifest"])
    for mode in ("eval", "train")
)
INFLATE = [name for name, case in CASES.items() if case["mode"] == "inflate"]
FLOAT64 = 1e-9


@pytest.fixture(scope="module", autouse=True)
def _weights_go_with_the_last_test() -> Iterator[None]:
    yield
    latest_state.cache_clear()


def named_outputs(case: dict[str, Any], y: Any) -> dict[str, Tensor]:
    """What a forward pass returned, under the goldens' names. Pose keeps only the last of the four maps."""
    if isinstance(y, tuple) and next(iter(case["outputs"])).startswith("out"):
        return {f"out{i}": t for i, t in enumerate(y) if f"out{i}" in case["outputs"]}
    return dict(zip(case["outputs"], y if isinstance(y, tuple) else (y,), strict=False))


def check(case_id: str, outputs: dict[str, Tensor], features: dict[str, Tensor], dtype: torch.dtype) -> None:
    case = CASES[case_id]
    assert {k: list(v.shape) for k, v in outputs.items()} == case["outputs"]
    assert set(case["features"]) <= set(features)
    for name, value in outputs.items():
        assert difference(case_id, name, value) <= (FLOAT64 if dtype == torch.float64 else case["tolerance"]), name
    for name, (shape, tolerance) in case["features"].items():
        assert list(features[name].shape) == shape, name
        assert difference(case_id, name, features[name]) <= (FLOAT64 if dtype == torch.float64 else tolerance), name


@pytest.mark.parametrize("size", [(8, 9), (3, 8, 9)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_sums_of_shifted_maps_are_depthwise_convolutions(size: tuple[int, ...], kernel: int) -> None:
    """With what the parity in float64 is computed, against torch: the same there, and torch's own everywhere else."""
    conv = nn.Conv2d if len(size) == 2 else nn.Conv3d
    layer = conv(4, 4, kernel, padding=kernel // 2, groups=4, dtype=torch.float64)
    others = [
        conv(4, 4, kernel, padding=kernel // 2, dtype=torch.float64),
        conv(4, 8, kernel, padding=kernel // 2, groups=4, dtype=torch.float64),
        conv(4, 4, kernel, stride=2, padding=kernel // 2, groups=4, dtype=torch.float64),
        conv(4, 4, kernel, padding=kernel // 2, groups=4),
    ]
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    with torch.no_grad():
        for bias in (layer.bias, None):
            layer.bias = bias
            torchs, ours = layer(x), shifted_depthwise(x, layer.weight, bias)
            assert_close(ours, torchs, kernel ** len(size))
            with ShiftedDepthwise():
                assert torch.equal(layer(x), ours)
        for other in others:
            torchs = other(x.to(other.weight.dtype))
            with ShiftedDepthwise():
                assert torch.equal(other(x.to(other.weight.dtype)), torchs)


@pytest.mark.parametrize("case_id", FORWARD)
def test_forward(case_id: str) -> None:
    case = CASES[case_id]
    model, x = golden_model(case), golden_input(case)
    assert digest([x]) == case["input_sha256"]
    for dtype in (torch.float32, torch.float64):
        model, x = model.to(dtype), x.to(dtype)
        with torch.no_grad(), ShiftedDepthwise():
            y, features = run_with_features(model, lambda: model(x))  # noqa: B023 - called at once
        check(case_id, named_outputs(case, y), features, dtype)


def training_outputs(case: dict[str, Any], model: UniFormer, x: Tensor) -> Any:
    if "returned_box" in case:
        logits, dense, small = model.forward_token_labels(x, case["box"] and tuple(case["box"]))
        assert list(small) == case["returned_box"]
        return logits, dense
    return model.forward_class_token(x) if "logits_cls" in case["outputs"] else model(x)


@pytest.mark.parametrize("case_id", TRAIN)
def test_training_step(case_id: str) -> None:
    """Training-mode outputs, loss, every gradient and every buffer after the step, in float64."""
    case = CASES[case_id]
    model = golden_model(case).double().train()
    y, features = run_with_features(model, lambda: training_outputs(case, model, golden_input(case).double()))
    outputs = named_outputs(case, y)
    check(case_id, outputs, features, torch.float64)

    weights = {
        k: torch.from_numpy(normals(n, list(outputs[k].shape)).astype("float32"))
        for k, n in case["loss_weights"].items()
    }
    loss = sum((outputs[k] * w.double()).sum() for k, w in weights.items())
    assert float(loss.detach()) == pytest.approx(case["loss"], rel=1e-8)
    loss.backward()

    gradients = {reference_key(k): p.grad for k, p in model.named_parameters()}
    assert set(gradients) == set(case["gradients"])
    for key, want in case["gradients"].items():
        got = gradients[key]
        if want is None:
            assert got is None or float(got.norm()) == 0, key
            continue
        assert got is not None, key
        scale = max(want[0], case["gradient_floor"])  # a bias in front of a batch norm has none in truth
        assert abs(float(got.norm()) - want[0]) <= 1e-6 * scale, key
        assert abs(float(got.sum()) - want[1]) / got.numel() ** 0.5 <= 1e-6 * scale, key
    state = to_reference(model.state_dict())
    for key, want in case["buffers_after"].items():
        assert float(state[key].double().norm()) == pytest.approx(want[0], abs=1e-8, rel=1e-8), key


@pytest.mark.parametrize("case_id", INFLATE)
def test_inflation(case_id: str) -> None:
    """An image checkpoint in a video model, as the video runs began: each tensor to the bit, then the logits."""
    case = CASES[case_id]
    model = golden_model(case)
    kept = ("*.scale1", "*.scale2") if case["arch"] == "uniformer_xxs_ls_video" else ()
    new_classifier = case["outputs"]["logits"][1] != 1000
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = load_tensors(
        model,
        from_reference(reference_state(case["source"])),
        inflate="mean",
        new_classifier=new_classifier,
        allow_new=kept,
    )
    # The recorded runs kept the old tensors where ours begins a new classifier: put them back to compare the logits.
    model.load_state_dict({k: before[k] for k in report.new}, strict=False)
    state = to_reference(model.state_dict())
    for key, how, sha in case["inflation"]:
        assert digest([state[key]]) == sha, f"{key} ({how})"
    inflated = {reference_key(k) for k in report.inflated}
    assert inflated == {key for key, how, _ in case["inflation"] if how == "inflated"}
    for dtype in (torch.float32, torch.float64):
        model, x = model.to(dtype), golden_input(case).to(dtype)
        with torch.no_grad(), ShiftedDepthwise():
            y, features = run_with_features(model, lambda: model(x))  # noqa: B023
        check(case_id, {"logits": y}, features, dtype)


@pytest.mark.parametrize("manifest", sorted(MANIFESTS))
def test_keys_both_ways(manifest: str) -> None:
    """Names, order and shapes of the reference's state dict; and the two maps undo each other."""
    theirs = {k: torch.empty(shape, device="meta") for k, shape in MANIFESTS[manifest].items()}
    ours = from_reference(theirs)
    again = to_reference(ours)
    assert list(again) == list(theirs)
    assert [list(t.shape) for t in again.values()] == list(MANIFESTS[manifest].values())
    assert list(from_reference(again)) == list(ours)


@pytest.mark.parametrize("case_id", [c for c in CASES if CASES[c]["mode"] != "inflate"])
def test_our_keys_are_the_models(case_id: str) -> None:
    case = CASES[case_id]
    ours = from_reference({k: torch.empty(s, device="meta") for k, s in MANIFESTS[case["manifest"]].items()})
    from uniformer.config import with_options
    from uniformer.network.variants import get_config

    with torch.device("meta"):
        model = UniFormer(with_options(get_config(case["arch"]), case["options"]))
    state = model.state_dict()
    assert list(ours) == list(state)
    assert [t.shape for t in ours.values()] == [t.shape for t in state.values()]
    assert sum(p.numel() for p in model.parameters()) == case["parameters"]

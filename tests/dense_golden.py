"""What the official detectors, segmentors and pose networks contain and compute, recorded, and networks to compare.

As `golden.py`: weights and inputs come from numpy's PCG64 seeded by name. `dense-outputs.npz` has up to 120 values of
each of the recorded tensors, in float64, at places drawn once.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.golden import FOLDER, GAINS, golden_tensor, normals, read_golden
from uniformer.checkpoints.keys import from_reference
from uniformer.config import Config
from uniformer.heads import build_network
from uniformer.heads.keys import BACKBONE
from uniformer.network.variants import get_config

# The first that fits: here a light backbone's ``cls_upsample`` has the gain of a mask head's ``upsample``.
DENSE_GAINS = {"conv_seg.weight": 3.0, "rpn_cls.weight": 3.0, "rpn_reg.weight": 0.8, "fc_cls.weight": 6.0,
               "fc_reg.weight": 2.0, "conv_logits.weight": 6.0, "upsample.weight": 2.8, "deconv_layers.0.weight": 2.8,
               "deconv_layers.3.weight": 2.8, "deconv_layers.6.weight": 2.8, "final_layer.weight": 2.0,
               **GAINS}  # fmt: skip
PAIRS = [(i, i + 1) for i in range(1, 17, 2)]  # left and right key points of COCO


CASES: dict[str, dict[str, Any]] = read_golden("dense-cases.json.gz")
# published key -> shape, in its order
MANIFESTS: dict[str, dict[str, list[int]]] = read_golden("dense-manifests.json.gz")


def config_of(case: dict[str, Any]) -> Config:
    """The network: its head and size, and what stage 3 attends to in that case."""
    size = next(s for s in ("xxs", "xs", "small", "base") if s in case["manifest"])
    kind = {"pose": "topdown"}.get(found := case["manifest"].rsplit("_", 1)[0], found)
    config = get_config(f"{kind}.uniformer_{size}")
    name = case["name"]
    if name.endswith("w32"):
        return replace(config, window=32)
    if name.endswith("h32"):
        return replace(config, window=32, global_every=4)
    is_hybrid = "hybrid" in case["config"]
    return replace(config, window=14, global_every=4) if is_hybrid else config


def network_of(case: dict[str, Any]) -> nn.Module:
    """Freshly made."""
    return build_network(config_of(case))


def weights_of(case: dict[str, Any]) -> dict[str, Tensor]:
    """In the published keys and order."""
    return _weights(case["manifest"])


def _weights(manifest: str) -> dict[str, Tensor]:
    return {key: golden_tensor(key, shape, gains=DENSE_GAINS) for key, shape in MANIFESTS[manifest].items()}


latest_weights = functools.lru_cache(maxsize=1)(_weights)  #: as `golden.latest_state`


def from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published file's tensors under our keys."""
    backbone = {key.removeprefix(BACKBONE): value for key, value in state.items() if key.startswith(BACKBONE)}
    heads = {key: value for key, value in state.items() if not key.startswith(BACKBONE)}
    return {BACKBONE + key: value for key, value in from_reference(backbone).items()} | heads


def golden_network(name: str, dtype: torch.dtype) -> nn.Module:
    """With the golden weights, in evaluation mode."""
    with torch.device("meta"):  # what would be drawn is replaced
        network = network_of(CASES[name])
    state = from_published(latest_weights(CASES[name]["manifest"]))
    network.load_state_dict({key: value.clone() for key, value in state.items()}, strict=True, assign=True)
    return network.to(dtype).eval()


def input_of(name: str, dtype: torch.dtype) -> Tensor:
    """Images are zero where they are padded."""
    stream, shape, ends = CASES[name]["input"]
    x = torch.from_numpy(normals(stream, shape).astype(np.float32))
    for image, (height, width) in zip(x, ends or [], strict=False):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return x.to(dtype)


@functools.cache
def _outputs() -> Any:
    return np.load(FOLDER / "dense-outputs.npz")


def recorded(name: str, output: str) -> np.ndarray:
    """A tensor of which all values are kept."""
    values = _outputs()[f"{name}/{output}.values"]
    assert f"{name}/{output}.at" not in _outputs().files
    return values.reshape(CASES[name]["outputs"][output][0])


def check(name: str, output: str, got: Any, dtype: torch.dtype) -> None:
    """Compare what was computed with what was recorded: equal whole numbers, 1e-9 in float64, the reference's own noise
    in float32."""
    shape, is_exact, largest, noise, flips = CASES[name]["outputs"][output]
    array = got.detach().numpy() if isinstance(got, Tensor) else np.asarray(got)
    assert list(array.shape) == shape, output
    values, flat = _outputs()[f"{name}/{output}.values"], array.reshape(-1)
    where = _outputs().get(f"{name}/{output}.at")
    flat = flat if where is None else flat[where]
    assert flat.shape == values.shape, output
    if not flat.size:
        return
    if is_exact:
        far = np.abs(flat.astype(np.int64) - values.astype(np.int64))
        if dtype == torch.float32 and "area" in output:  # a pixel whose share is nearly one half
            assert (far <= np.maximum(2, values // 100)).all(), output
            return
        allowed = max(flips, flat.size // 50) if dtype == torch.float32 else 0  # cells whose two best are nearly alike
        assert (far > 0).sum() <= allowed, output
        return
    in_pixels = any(word in output for word in ("boxes", "rois", "proposals", "decoded", "keypoints"))
    allowed = max(2e-5 * max(1.0, largest / 10), 10 * noise, 1e-3 * in_pixels)
    if dtype == torch.float64:
        allowed = (
            1e-3 if output == "keypoints" else 1e-9 * max(1.0, largest)
        )  # key points are float32's in the reference
    assert np.abs(flat - values).max() <= allowed, output

"""The reference's recorded outputs, and the generator of the weights and inputs they were recorded with.

`goldens/` holds, for 55 cases, what the official UniFormer modules compute in float64: no weights and no inputs, for
both come from numpy's PCG64 seeded by name. The weights are made in the reference's own keys, so that every case
also goes through the key map.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from uniformer.checkpoints.keys import from_reference
from uniformer.config import with_options
from uniformer.network.model import UniFormer
from uniformer.network.variants import get_config

FOLDER = Path(__file__).parent / "goldens"
GAINS = {"pos_embed.weight": 0.3, "qkv.weight": 1.25, "attn.proj.weight": 0.7, "conv2.weight": 0.5, "fc2.weight": 0.5,
         "head.weight": 0.5, "head_cls.weight": 0.5}  # fmt: skip


def read_golden(name: str) -> dict[str, Any]:
    return json.loads(gzip.decompress((FOLDER / name).read_bytes()))


CASES: dict[str, dict[str, Any]] = read_golden("cases.json.gz")
MANIFESTS: dict[str, dict[str, list[int]]] = read_golden("manifests.json.gz")  # reference key -> shape, in its order


def normals(name: str, shape: list[int]) -> np.ndarray:
    """float64 standard normals of a stream of their own: the seed is the first 8 bytes of the name's sha256."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape))


def golden_tensor(key: str, shape: list[int], prefix: str = "", gains: Mapping[str, float] = GAINS) -> Tensor:
    """The golden tensor of a reference key: activations stay of order 1 and no softmax is flat or saturated."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    n = normals(prefix + key, shape)
    if leaf in ("bias", "running_mean"):
        n = 0.1 * n
    elif leaf == "running_var":
        n = 1.0 + 0.2 * np.abs(n)
    elif leaf.startswith("gamma_"):
        n = 0.6 + 0.2 * n
    elif leaf == "cls_token":
        n = 0.02 * n
    elif len(shape) == 1:  # the weight of a norm
        n = 1.0 + 0.1 * n
    else:
        gain = next((g for end, g in gains.items() if key.endswith(end)), 1.0)
        n = n * (gain / np.sqrt(float(math.prod(shape[1:]))))
    return torch.from_numpy(n.astype(np.float32))


def reference_state(manifest: str, prefix: str = "") -> dict[str, Tensor]:
    """A state dict in the reference's keys and order."""
    return {key: golden_tensor(key, shape, prefix) for key, shape in MANIFESTS[manifest].items()}


#: Drawing the weights takes longer than much that is computed with them: for cases of one network that follow another.
latest_state = functools.lru_cache(maxsize=1)(reference_state)


def golden_input(case: dict[str, Any]) -> Tensor:
    name, shape = case["input"]
    return torch.from_numpy(normals(name, shape).astype(np.float32))


def digest(tensors: Any) -> str:
    h = hashlib.sha256()
    for t in tensors:
        h.update(np.ascontiguousarray(t.numpy()).tobytes())
    return h.hexdigest()


def golden_model(case: dict[str, Any]) -> UniFormer:
    """The case's variant with the golden weights, in float32 and evaluation mode."""
    with torch.device("meta"):  # what would be drawn is replaced
        model = UniFormer(with_options(get_config(case["arch"]), case["options"]))
    state = from_reference(latest_state(case["manifest"], case.get("weights_prefix", "")))
    model.load_state_dict({key: value.clone() for key, value in state.items()}, strict=True, assign=True)
    return model.eval()


def run_with_features(model: UniFormer, run: Callable[[], Any]) -> tuple[Any, dict[str, Tensor]]:
    """What `run` returns, and what passed the places that the goldens name (`stem`, `stage1`, ..., `aux`)."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, out: seen.__setitem__(name, out[0] if isinstance(out, tuple) else out)

    def save_state(number: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, out: Any) -> None:
            seen[f"cls{number}"], seen[f"scores{number}"] = out[1]

        return hook

    def keep_pooled_score(module: Any, args: Any) -> None:
        seen["scores3"] = args[1].score  # what stage 4 receives: after pooling and rescaling

    hooks = [model.stages[0].embed.register_forward_hook(keep("stem"))]
    hooks += [s.blocks[-1].register_forward_hook(keep(f"stage{i}")) for i, s in enumerate(model.stages, start=1)]
    if model.config.is_hourglass:
        hooks += [model.stages[i].blocks[-1].register_forward_hook(save_state(i + 1)) for i in (2, 3)]
        hooks.append(model.stages[3].blocks[0].register_forward_pre_hook(keep_pooled_score))
    hooks += [
        m.register_forward_hook(keep(n)) for n, m in (("norm", model.norm), ("aux", model.aux_head)) if m is not None
    ]
    try:
        return run(), seen
    finally:
        for hook in hooks:
            hook.remove()


class ShiftedDepthwise(TorchFunctionMode):
    """Computes depthwise convolutions in float64 as sums of shifted maps: the same numbers, a clip in half the time.

    In float64 torch unfolds channel after channel, in which most of a clip's forward pass would go. Other data types
    and other convolutions are left to torch. Not made for backward passes, which torch does better.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (F.conv2d, F.conv3d) and args[0].dtype == torch.float64 and _is_depthwise(*args, **kwargs):
            return shifted_depthwise(*args[:2], args[2] if len(args) > 2 else kwargs.get("bias"))
        return function(*args, **kwargs)


def _is_depthwise(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> bool:
    """Whether a convolution is depthwise and keeps the grid."""
    kernel = weight.shape[2:]
    steps = [(n,) * len(kernel) if isinstance(n, int) else tuple(n) for n in (stride, padding, dilation)]
    kept = [(1,) * len(kernel), tuple(n // 2 for n in kernel), (1,) * len(kernel)]
    return groups == len(weight) == x.shape[1] > 1 and steps == kept


def shifted_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, ...) by a filter per channel, weight (C, 1, k, ...) with k odd, zero-padded -> (B, C, ...)."""
    kernel, grid = weight.shape[2:], x.shape[2:]
    padded = F.pad(x.contiguous(), [n // 2 for n in reversed(kernel) for _ in range(2)])
    by_channel = (-1, *[1] * len(kernel))
    y = torch.zeros(x.shape, dtype=x.dtype) if bias is None else bias.view(by_channel).expand(x.shape).contiguous()
    for tap in itertools.product(*map(range, kernel)):
        seen = padded[(..., *(slice(first, first + size) for first, size in zip(tap, grid, strict=True)))]
        y.addcmul_(seen, weight[(slice(None), 0, *tap)].view(by_channel))
    return y


@functools.cache
def _outputs() -> Any:
    return np.load(FOLDER / "outputs.npz")


def golden_output(case_id: str, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The recorded float64 values, and the flat positions they were taken at (None: all of them)."""
    z, key = _outputs(), f"{case_id}/{name}"
    return z[f"{key}.f64"].reshape(-1), z.get(f"{key}.idx")


def difference(case_id: str, name: str, got: Tensor) -> float:
    """The largest difference between a tensor and its golden."""
    want, where = golden_output(case_id, name)
    flat = got.detach().double().reshape(-1).numpy()
    flat = flat if where is None else flat[where]
    assert flat.shape == want.shape, f"{name}: {flat.shape} values, {want.shape} recorded"
    return float(np.abs(flat - want).max())

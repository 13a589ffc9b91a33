"""The one door to the fast forms: a model in, an inference copy out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from uniformer.checkpoints.contract import Contract
from uniformer.errors import InputError
from uniformer.network.model import UniFormer
from uniformer.speed.convolutions import recall
from uniformer.speed.network import FastUniFormer
from uniformer.speed.runtimes import Exported, open_exported
from uniformer.speed.timings import RUNTIMES

Backend = Literal["torch", "openvino", "onnxruntime"]


def optimize(
    model: UniFormer,
    *,
    dtype: torch.dtype | None = None,
    compile: bool = False,
    backend: Backend = "torch",
    example: Tensor | None = None,
) -> nn.Module:
    """An inference copy of a model, in evaluation mode, that gives the same outputs faster. The model stays as it is.

        fast = uniformer.optimize(model)
        fast = uniformer.optimize(model, backend="openvino", example=torch.randn(1, 3, 16, 224, 224))

    Outputs agree to 1e-4 of the largest in float32, to 1e-10 in float64; docs/speed.md says how much faster, and why.

    Args:
        dtype: what it computes in; the model's own by default. Of 16 bits it takes the place of autocast: for a GPU,
            bfloat16 or float16.
        compile: also by `torch.compile`, at the first input of each shape, which takes a minute or more.
        backend: "torch" gives a `FastUniFormer`: any batch and size, every method of `UniFormer`, can be moved, copied
            and pickled. "openvino" and "onnxruntime" (extras) give a `RuntimeNetwork`: classifiers, in float32 on the
            CPU, any batch, but frames and size of `example` only.
        example: an input. The runtimes need one; on a GPU it tells the size for which depthwise convolutions take the
            forms that `uniformer bench --device cuda` found to be the fastest (otherwise torch's own).

    Raises:
        InputError: the model is an optimised one, or the arguments do not go together.
        MissingExtra: the backend's packages are not installed.
    """
    if isinstance(model, FastUniFormer):
        raise InputError("expected a model as it was created or loaded, got one that is optimised already")
    if backend not in get_args(Backend):
        raise InputError(f"expected backend {', '.join(get_args(Backend))}, got {backend!r}")
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"expected a floating-point dtype, got {dtype}")
    if backend == "torch":
        fast = FastUniFormer(model, dtype)
        if example is not None:
            recall(fast, tuple(example.shape[1:]), next(fast.parameters()).dtype)
        if compile:
            fast.compile()
        return fast
    if compile or dtype not in (None, torch.float32):
        raise InputError(f"expected float32 and no compile for the backend {backend}: it compiles by itself")
    if example is None:
        raise InputError(f"expected an example input for the backend {backend}: it fixes the frames and the size")
    from uniformer.speed.export import write_graph

    size = tuple(example.shape[1:])
    with tempfile.TemporaryDirectory(prefix="uniformer-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, f"network{RUNTIMES[backend]}")
        write_graph(model, size, path, Contract(model.config))
        return RuntimeNetwork(open_exported(path), size)


class RuntimeNetwork(nn.Module):
    """A model run by OpenVINO or ONNX Runtime: clips or images (B, 3, ...) of one size -> logits (B, K), on the CPU.

    It has no parameters and cannot be copied or pickled: `uniformer.export` writes files.
    """

    def __init__(self, network: Exported, size: tuple[int, ...]):
        super().__init__()
        self._network, self.size = network, size
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.size:
            raise InputError(f"expected inputs of shape (B, {', '.join(map(str, self.size))}), got {tuple(x.shape)}")
        return torch.from_numpy(self._network(x.detach().float().cpu().numpy(), len(x)))

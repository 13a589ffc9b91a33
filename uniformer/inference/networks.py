"""The network as prediction, evaluation and features run it in torch: its form, its device, some views at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.identify import CheckpointSource
from uniformer.checkpoints.load import LoadReport, load_model
from uniformer.checkpoints.proof import digest
from uniformer.config import Config
from uniformer.errors import InputError
from uniformer.network.model import UniFormer
from uniformer.reading.transforms import Floats
from uniformer.speed.clock import processor_name
from uniformer.speed.convolutions import recall
from uniformer.speed.export import write_checked
from uniformer.speed.network import FastUniFormer
from uniformer.speed.prepare import RuntimeNetwork
from uniformer.speed.runtimes import open_exported
from uniformer.speed.timings import RUNTIMES, Compute, best_at_hand, exported_path, situation, view_size
from uniformer.support.distributed import pick_device

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchNetwork:
    """A network of a checkpoint with its contract: views in, logits out.

    Args:
        source: a published id, a file, a folder, a hub repository - or a network with its contract. The network is
            taken over: moved to the device, made float32 and put into evaluation mode.
        device: "auto" takes a GPU when there is one.
        dtype: one of `DTYPES`.
        compute: the form it computes in; by default the fastest that `uniformer bench` found here, or "fast".
        head_dim: for files that nothing else tells it of.
    """

    def __init__(
        self,
        source: CheckpointSource | tuple[UniFormer, Contract],
        *,
        device: str = "auto",
        dtype: str = "float32",
        compute: Compute | None = None,
        head_dim: int | None = None,
    ):
        self.device = pick_device(device)
        self.dtype = DTYPES[dtype]
        self.report: LoadReport | None = None  #: of loading the file
        if isinstance(source, tuple):
            model, self.contract = source
        else:
            model, self.contract, self.report = load_model(source, head_dim=head_dim)
        self.model = model.float().to(self.device).eval()
        size = view_size(self.model.config, self.contract.input_of_classifier())
        self.compute = compute or best_form(self.model, size, self.device, self.dtype)
        self._form = inference_form(self.model, self.compute, size, self.dtype)

    def __call__(self, views: Floats, batch_size: int) -> Floats:
        """Views (V, 3, ...) -> logits (V, K), `batch_size` views at a time."""
        pixels = torch.from_numpy(views)
        (logits,) = forward_views(lambda x: (self._form(x),), pixels, self.device, self.dtype, batch_size)
        return np.asarray(logits)

    @property
    def weights(self) -> str:
        """What tells them from all others, whatever they are called."""
        return weights_of(self.model)


def weights_of(model: UniFormer) -> str:
    """What tells a model's weights from all others."""
    return digest(model.state_dict().values())[:12]


def best_form(model: UniFormer, size: Sequence[int], device: torch.device, dtype: torch.dtype) -> Compute:
    """The form that `uniformer bench` found to be the fastest here for views of `size`, and that can start at once."""
    return best_at_hand(situation_of(model.config, size, device, dtype), lambda: weights_of(model), size)


def situation_of(config: Config, size: Sequence[int], device: torch.device, dtype: torch.dtype) -> str:
    """`choice.situation` of this process."""
    return situation(config, size, processor_name(device), str(dtype).removeprefix("torch."), torch.get_num_threads())


def inference_form(model: UniFormer, compute: Compute, size: Sequence[int], dtype: torch.dtype) -> nn.Module:
    """What stands in for a model where only its answers to views of `size` count.

    It shares the model's tensors and computes in the model's own type, or in `dtype` if that is of 16 bits.
    Raises `InputError` for a form that cannot, `MissingExtra` without its packages.
    """
    if compute not in get_args(Compute):
        raise InputError(f"expected compute {', '.join(get_args(Compute))}, got {compute!r}")
    if compute == "plain":
        return model
    if compute in RUNTIMES:
        if dtype != torch.float32 or next(model.parameters()).device.type != "cpu":
            raise InputError(f"expected float32 on the CPU with compute {compute}: it has no other")
        return _by_runtime(model, compute, size)
    fast = FastUniFormer(model, dtype if dtype.itemsize < 4 else None, share=True)
    recall(fast, size, next(fast.parameters()).dtype)
    if compute == "compiled":
        fast.compile()
    return fast


def _by_runtime(model: UniFormer, compute: str, size: Sequence[int]) -> RuntimeNetwork:
    """The network as exported to the cache folder, now if it was not before."""
    path = exported_path(weights_of(model), size, compute)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checked(model, size, path, Contract(model.config))
    return RuntimeNetwork(open_exported(path), tuple(size))


@torch.inference_mode()
def forward_views(
    forward: Callable[[Tensor], tuple[Tensor, ...]],
    pixels: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
) -> list[Tensor]:
    """What `forward` gives for views (V, 3, ...), `batch_size` of them at a time, each output (V, ...) in float32.

    `dtype` below float32 is taken by autocast; inference forms have it already.
    """
    parts = []
    for some in pixels.split(batch_size):
        with torch.autocast(device.type, dtype, enabled=dtype.itemsize < 4):
            outputs = forward(some.to(device, non_blocking=True))
        parts.append([o.float().cpu() for o in outputs])
    return [torch.cat(part) for part in zip(*parts, strict=True)]

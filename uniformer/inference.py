"""The network as prediction, evaluation and features run it in torch: its form, its device, some views at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from uniformer.checkpoint import Report, load_model
from uniformer.contract import Contract, digest
from uniformer.data.transforms import Floats
from uniformer.distributed import pick_device
from uniformer.fast.network import FastUniFormer
from uniformer.identify import Source
from uniformer.model import UniFormer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchNetwork:
    """A network of a checkpoint with its contract: views in, logits out.

    Args:
        source: a published id, a file, a folder, a hub repository - or a network with its contract. The network is
            taken over: moved to the device, made float32 and put into evaluation mode.
        device: "auto" takes a GPU when there is one.
        dtype: one of `DTYPES`.
        plain: compute with the network as it is, not with its inference form.
        head_dim: for files that nothing else tells it of.
    """

    def __init__(
        self,
        source: Source | tuple[UniFormer, Contract],
        *,
        device: str = "auto",
        dtype: str = "float32",
        plain: bool = False,
        head_dim: int | None = None,
    ):
        self.device = pick_device(device)
        self.dtype = DTYPES[dtype]
        self.report: Report | None = None  #: of loading the file
        if isinstance(source, tuple):
            model, self.contract = source
        else:
            model, self.contract, self.report = load_model(source, head_dim=head_dim)
        self.model = model.float().to(self.device).eval()
        self._form = self.model if plain else inference_form(self.model, self.dtype, share=True)

    def __call__(self, views: Floats, batch_size: int) -> Floats:
        """Views (V, 3, ...) -> logits (V, K), `batch_size` views at a time."""
        pixels = torch.from_numpy(views)
        (logits,) = forward_views(lambda x: (self._form(x),), pixels, self.device, self.dtype, batch_size)
        return np.asarray(logits)

    @property
    def weights(self) -> str:
        """What tells them from all others, whatever they are called."""
        return digest(self.model.state_dict().values())[:12]


def inference_form(model: UniFormer, dtype: torch.dtype, *, share: bool = False) -> FastUniFormer:
    """What stands in for a model where only its answers count, in the model's own type, or in `dtype` if that is of
    16 bits. `share` as in `FastUniFormer`."""
    halved = dtype if dtype.itemsize < 4 else None
    return FastUniFormer(model, halved, share=share)


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

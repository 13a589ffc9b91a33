"""The forms in which a network computes an answer: which one, and making it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import nn

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.proof import digest
from uniformer.config import Config
from uniformer.errors import InputError
from uniformer.network.model import UniFormer
from uniformer.speed.clock import processor_name
from uniformer.speed.convolutions import recall
from uniformer.speed.export import write_checked
from uniformer.speed.network import FastUniFormer
from uniformer.speed.prepare import RuntimeNetwork
from uniformer.speed.runtimes import open_exported
from uniformer.speed.timings import RUNTIMES, Compute, best_at_hand, exported_path, situation


def weights_of(model: UniFormer) -> str:
    """What tells a model's weights from all others."""
    return digest(model.state_dict().values())[:12]


def best_form(model: UniFormer, size: Sequence[int], device: torch.device, dtype: torch.dtype) -> Compute:
    """The form that `uniformer bench` found to be the fastest here for views of `size`, and that can start at once."""
    return best_at_hand(situation_of(model.config, size, device, dtype), lambda: weights_of(model), size)


def situation_of(config: Config, size: Sequence[int], device: torch.device, dtype: torch.dtype) -> str:
    """`timings.situation` of this process."""
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

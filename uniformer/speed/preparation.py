"""The one door to speed: a plain model in; the same model ready for training, or a copy of it for inference, out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from uniformer.errors import InputError
from uniformer.heads.pyramid import DenseNetwork
from uniformer.network.model import UniFormer
from uniformer.speed.network import FastUniFormer
from uniformer.speed.products import By, Library, fastest
from uniformer.speed.sixteen_bits import in_short, wrong_convolutions

Model = TypeVar("Model", bound=UniFormer | DenseNetwork)

WHOLE_PICTURE = (3, 256, 256)  # at which the convolutions of a dense network are tried, whose pictures vary in size


def prepare(
    model: Model,
    *,
    training: bool,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    size: Sequence[int] | None = None,
    attention_float32: bool = False,
    share: bool = False,
    tried: bool = False,
    by: By | None = None,
) -> Model:
    """The network with its speed put on: for training the model itself, for inference a copy.

        uniformer.speed.prepare(model, training=True)            # then train it with any loop
        fast = uniformer.speed.prepare(model, training=False)    # as `uniformer.optimize(model)`

    For training some modules are replaced in place by others that have their parameters, names and hooks and compute
    the same faster: state dicts, optimizers, averages, `DistributedDataParallel`, `torch.compile` and checkpoints see
    no difference. `unprepare` puts the plain ones back; to prepare again for something else needs no `unprepare`. Of a
    network with a head the backbone alone is prepared for training; an inference copy is fast as a whole.

    On a CPU in bfloat16 every convolution is first tried at the size it will have (seconds, once per process). One that
    torch gets wrong on this processor computes in float32, and a warning names it.

    Args:
        device: where it is to compute, by default where the model is; for training the model is moved there.
        dtype: what it computes in, the model's own by default. In training of 16 bits that of autocast, which is the
            caller's to switch on.
        size: of one view, (C, [T,] H, W); not needed of a network with a head. On a GPU depthwise convolutions of clips
            take the implementations that `uniformer bench --device cuda` found to be the fastest at this size,
            otherwise torch's own.
        attention_float32: attend in float32, whatever `dtype` and autocast say. Copies of a model so prepared do too.
        share: for inference: take the tensors that stay as they are from the model, which is not going to change.
        tried: no convolution is tried here: the caller does so with all layers (`sixteen_bits.py`).
        by: on a CPU who computes products and, for inference, attention; by default who is the faster here. In training
            of 16 bits it matters to the gradients of large depthwise kernels alone.

    Raises:
        InputError: the model is no network of this package or an inference copy, or `size` is missing for training a
            `UniFormer` in bfloat16 on a CPU.
    """
    network: Any = model  # of either kind from here on
    backbone = network.backbone if isinstance(network, DenseNetwork) else network
    if isinstance(backbone, FastUniFormer):
        raise InputError("expected a model as it was created or loaded, got one that is optimised already")
    if not isinstance(backbone, UniFormer):
        kind = type(model).__name__
        raise InputError(f"expected a UniFormer, as `create_model` and `load_model` give it, got {kind}")
    device = next(network.parameters()).device if device is None else torch.device(device)
    own = next(network.parameters()).dtype
    if training:
        network.to(device)
        size = size if backbone is network else size or WHOLE_PICTURE
        dtype = dtype or own
        if by is None and device.type == "cpu" and dtype in (torch.float32, torch.bfloat16):
            by = fastest(dtype)
        products = by.products if by else "torch"
        _for_training(backbone, dtype, size, attention_float32, tried, products)
        return model
    share = share and device == next(network.parameters()).device
    fast: Any
    if backbone is not network:
        from uniformer.speed.dense import fast_network

        fast = fast_network(network, dtype, attention_float32=attention_float32, share=share, by=by).to(device)
        return fast
    fast = FastUniFormer(network, dtype, attention_float32=attention_float32, share=share, by=by).to(device)
    if size is not None and device.type == "cuda":
        from uniformer.speed.tuning import apply_tuned_kernels

        apply_tuned_kernels(fast, size, next(fast.parameters()).dtype, training=False)
    return fast


def unprepare(model: Model) -> Model:
    """Put the plain modules back in place of those that `prepare` put there for training; the model itself."""
    from uniformer.speed.training_modules import PLAIN

    for module in model.modules():
        if type(module) in PLAIN:
            module.__class__ = PLAIN[type(module)]
            vars(module).pop("implementation", None)
    return model


def _for_training(
    model: UniFormer,
    dtype: torch.dtype,
    size: Sequence[int] | None,
    attention_float32: bool,
    tried: bool,
    products: Library,
) -> None:
    wrong: frozenset[str] = frozenset()
    if not tried and dtype == torch.bfloat16 and next(model.parameters()).device.type == "cpu":
        if size is None:
            raise InputError("expected the size of a view to train in bfloat16 on a CPU: its convolutions are tried")
        wrong = wrong_convolutions(model.config, tuple(size), dtype)
    if wrong:
        warnings.warn(
            f"torch {torch.__version__} computes {len(wrong)} convolutions wrongly in bfloat16 on this processor "
            f"for views of {' x '.join(map(str, size or ()))}: they compute in float32 ({in_short(wrong)})",
            stacklevel=3,
        )
    from uniformer.speed.training_modules import stand_in

    for name, module in unprepare(model).named_modules():
        kind = stand_in(module, wrong=name in wrong, attention_float32=attention_float32, products=products)
        if kind is not None:
            module.__class__ = kind
    if size is not None and next(model.parameters()).device.type == "cuda":
        from uniformer.speed.tuning import apply_tuned_kernels

        apply_tuned_kernels(model, size, dtype, training=True)

"""The forms in which a network gives its answers, by name (`timings.Compute`): here each is made of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import unwrapped
from uniformer.config import Config
from uniformer.errors import InputError, check_word
from uniformer.heads.pyramid import DenseNetwork
from uniformer.network.model import UniFormer
from uniformer.speed.preparation import prepare
from uniformer.speed.products import By
from uniformer.speed.timings import (
    BY,
    INT8,
    RUNTIMES,
    Compute,
    best_at_hand,
    exported_path,
    int8_path,
    last_calibration,
    processor_name,
    situation,
)
from uniformer.support.files import system_folder

if TYPE_CHECKING:
    from uniformer.speed.runtimes import Exported

Backend = Literal["torch", "openvino", "onnxruntime"]


Network = UniFormer | DenseNetwork


def optimize(
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    compile: bool = False,
    backend: Backend = "torch",
    example: Tensor | None = None,
) -> nn.Module:
    """An inference copy of a model, in evaluation mode, that gives the same outputs faster. The model stays as it is;
    wrappers of torch (DataParallel, DistributedDataParallel, AveragedModel, `torch.compile`) are taken off.

        fast = uniformer.optimize(model)
        fast = uniformer.optimize(model, backend="openvino", example=torch.randn(1, 3, 16, 224, 224))

    Outputs agree to 1e-4 of the largest in float32, to 1e-10 in float64; docs/speed.md says how much faster, and why.

    Args:
        dtype: what it computes in; the model's own by default. Of 16 bits it takes the place of autocast: for a GPU,
            bfloat16 or float16.
        compile: also by `torch.compile`, at the first input of each shape, which takes a minute or more.
        backend: "torch" gives a `FastUniFormer`, of a network with a head a copy of its own kind: any batch and size,
            every method, can be moved, copied and pickled. "openvino" and "onnxruntime" (extras) give a
            `RuntimeNetwork`: classifiers, segmenters and pose networks, in float32 on the CPU, any batch, but frames
            and size of `example` only.
        example: an input. The runtimes need one; on a GPU it tells the size for which depthwise convolutions take the
            implementations that `uniformer bench --device cuda` found to be the fastest (otherwise torch's own).

    Raises:
        InputError: the model is an optimised one or none of ours, or the arguments do not go together.
        MissingExtra: the backend's packages are not installed.
    """
    check_word("backend", backend, Backend)
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"expected a floating-point dtype, got {dtype}")
    network: Network = unwrapped(model)
    size = None if example is None else tuple(example.shape[1:])
    if backend == "torch":
        fast = prepare(network, training=False, dtype=dtype, size=size)
        if compile:
            fast.compile()
        return fast
    if compile or dtype not in (None, torch.float32):
        raise InputError(f"expected float32 and no compile for the backend {backend}: it compiles by itself")
    if size is None:
        raise InputError(f"expected an example input for the backend {backend}: it fixes the frames and the size")
    from uniformer.speed.export import write_graph
    from uniformer.speed.runtimes import open_exported

    with system_folder("export") as folder:
        path = folder / f"network{RUNTIMES[backend]}"
        write_graph(network, size, path, Contract(network.config))
        return RuntimeNetwork(open_exported(path), size)


class RuntimeNetwork(nn.Module):
    """A model run by OpenVINO or ONNX Runtime: clips or images (B, 3, ...) of one size -> what `Exported` gives, on the
    CPU.

    It has no parameters and cannot be copied or pickled: `uniformer.export` writes files.
    """

    def __init__(self, network: Exported, size: tuple[int, ...], by: str = ""):
        super().__init__()
        self._network, self.size, self.by = network, size, by
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.size:
            raise InputError(f"expected inputs of shape (B, {', '.join(map(str, self.size))}), got {tuple(x.shape)}")
        return torch.from_numpy(self._network(x.detach().float().cpu().numpy(), len(x)))


def inference_form(model: Network, compute: str, size: Sequence[int] | None, dtype: torch.dtype) -> nn.Module:
    """What stands in for a model where only its answers to views of `size` count; None for whole pictures of any size.

    `compute` is a `Compute` or the full name of a form, which says by what it then computes (`exact_name`). The form
    shares the model's tensors and computes in the model's own type, or in `dtype` if that is of 16 bits. Of a detector
    "compiled" is the way to the pyramid's levels.
    Raises `InputError` for a form that cannot, `MissingExtra` without its packages.
    """
    compute, _, by = compute.partition(BY)
    check_word("compute", compute, Compute)
    if compute == "plain":
        return model
    if compute in (*RUNTIMES, INT8):
        if size is None:
            raise InputError(f"expected compute plain, fast or compiled for pictures of any size, got {compute}")
        if dtype != torch.float32 or next(model.parameters()).device.type != "cpu":
            raise InputError(f"expected float32 on the CPU with compute {compute}: it has no other")
        return _in_8_bits(model, size, by) if compute == INT8 else _by_runtime(model, compute, size)
    fast = prepare(
        model, training=False, dtype=dtype if dtype.itemsize < 4 else None, size=size, share=True,
        by=By.parsed(by) if by else None,
    )  # fmt: skip
    if compute == "compiled":
        fast.compile()
    return fast


def exact_name(compute: str, form: nn.Module) -> str:
    """The name of a form in full, with all that its last digits depend on: "fast by onednn/torch"; "int8 by" what it
    was calibrated on."""
    return f"{compute}{BY}{getattr(form, 'backbone', form).by}" if compute in ("fast", INT8) else compute


def _by_runtime(model: Network, compute: str, size: Sequence[int]) -> RuntimeNetwork:
    """The network as exported to the cache folder, now if it was not before."""
    from uniformer.speed.export import write_checked
    from uniformer.speed.runtimes import open_exported

    path = exported_path(weights_of(model), size, compute)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checked(model, size, path, Contract(model.config))
    return RuntimeNetwork(open_exported(path), tuple(size))


def _in_8_bits(model: Network, size: Sequence[int], calibration: str) -> RuntimeNetwork:
    """The network as `uniformer bench --calibrate` kept it, on what `calibration` tells or else last."""
    from uniformer.speed.runtimes import open_exported

    weights = weights_of(model)
    found = calibration or last_calibration(weights, size)
    if found is None or not (path := int8_path(weights, size, found)).is_file():
        raise InputError(
            "expected a network in 8 bits that was kept here: `uniformer bench CHECKPOINT --calibrate DATA`"
        )
    return RuntimeNetwork(open_exported(path), tuple(size), found)


def best_form(model: Network, size: Sequence[int] | None, device: torch.device, dtype: torch.dtype) -> Compute:
    """The form that `uniformer bench` found to be the fastest here for views of `size`, and that can start at once;
    "fast" for pictures of any size (None)."""
    if size is None:
        return "fast"
    return best_at_hand(situation_of(model.config, size, device, dtype), lambda: weights_of(model), size)


def situation_of(config: Config, size: Sequence[int], device: torch.device, dtype: torch.dtype) -> str:
    """`timings.situation` of this process."""
    return situation(config, size, processor_name(device), str(dtype).removeprefix("torch."), torch.get_num_threads())


def weights_of(model: nn.Module) -> str:
    """What tells a model's weights from all others."""
    from uniformer.checkpoints.proof import digest

    return digest(model.state_dict().values())[:12]


@torch.inference_mode()
def forward_views(
    forward: Callable[[Tensor], tuple[Tensor, ...]],
    pixels: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
) -> list[Tensor]:
    """What `forward` gives for views (V, 3, ...), `batch_size` of them at a time, each output (V, ...) in float32.

    `dtype` below float32 is taken by autocast; inference copies have it already.
    """
    parts = []
    for some in pixels.split(batch_size):
        with torch.autocast(device.type, dtype, enabled=dtype.itemsize < 4):
            outputs = forward(some.to(device, non_blocking=True))
        parts.append([o.float().cpu() for o in outputs])
    return [torch.cat(part) for part in zip(*parts, strict=True)]

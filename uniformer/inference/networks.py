"""What computes in the engine: a checkpoint's network in torch, in a form that suits the machine, or an exported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.told import Told, refuse_told, warn_of_assumed
from uniformer.config import Precision, Scaling
from uniformer.errors import InputError, check_word
from uniformer.reading.transforms import Floats
from uniformer.reading.views import Views
from uniformer.speed.runtimes import TARGETS
from uniformer.speed.timings import BY, view_size
from uniformer.tasks.segmentation import EXPORTED_SIZE
from uniformer.tasks.task import Outputs, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from uniformer.checkpoints.identify import CheckpointSource
    from uniformer.heads.pyramid import DenseNetwork
    from uniformer.inference.engine import Network
    from uniformer.network.model import UniFormer

Forward = Callable[[Any, Any], tuple[Any, ...]]  #: (a form of the network, (B, 3, ...)) -> outputs (B, ...)


def open_network(
    source: CheckpointSource | tuple[UniFormer, Contract],
    *,
    device: str | torch.device = "auto",
    precision: Precision = "float32",
    compute: str | None = None,
    **told: Unpack[Told],
) -> Network:
    """The network of a checkpoint or of an exported file, ready to compute.

    A model with its contract is taken over: moved to the device, made float32 and put into evaluation mode. `told` is
    what the caller says of a file, as in `load_model`; what is only assumed of its input is a warning. Raises
    `InputError` for what cannot be read or computed so.
    """
    check_word("precision", precision, Precision)
    network = (_exported if is_exported(source) else _in_torch)(source, device, precision, compute, told)
    warn_of_assumed(network.contract)
    return network


def _in_torch(source: Any, device: Any, precision: Precision, compute: str | None, told: Told) -> Network:
    from uniformer.checkpoints.load import load_model, unwrapped

    report = None
    if isinstance(source, tuple):
        refuse_told(told, "a model with its contract")
        model, contract = unwrapped(source[0]), source[1]
    else:
        model, contract, report = load_model(source, **told)
    return TorchNetwork(
        model.float().eval(), contract, device=device, precision=precision, compute=compute, report=report
    )


def _exported(source: Any, device: Any, precision: Precision, compute: str | None, told: Told) -> Network:
    if device not in ("auto", "cpu") or precision != "float32":
        raise InputError(f"{source}: exported networks compute in float32 on the CPU, got {precision} on {device}")
    if compute is not None:
        raise InputError(f"{source}: expected a checkpoint to choose a form of, got an exported network")
    refuse_told(told, f"{source}: an exported network")
    return ExportedNetwork(source)


def is_exported(source: Any) -> bool:
    """Whether a source is the name of a file that `export` wrote."""
    return isinstance(source, str | os.PathLike) and os.fspath(source).lower().endswith(tuple(TARGETS))


def form_to_take(asked: str | None, recorded: str | None) -> str | None:
    """The form in which work goes on: as recorded, to the last digit, or what is asked for, if that is another.

    None where nothing is recorded or asked for, or where there is no choice: of an exported network.
    """
    is_other = asked and asked != (recorded or "").partition(BY)[0]
    return asked if recorded in (None, "exported") or is_other else recorded


class ExportedNetwork:
    """A file written by `export`, run by its runtime on the CPU: classifiers by OpenVINO or ONNX Runtime without torch,
    which dense networks need for what is done with maps of logits. A segmenter sees each picture in the size it was
    written for."""

    report = None  #: of loading: nothing is left to be decided then
    compute = exact_form = "exported"

    def __init__(self, path: str | os.PathLike[str]):
        from uniformer.speed.runtimes import open_exported

        self._exported = open_exported(path)
        self.contract = self._exported.contract
        if isinstance(self.contract.input, Scaling):
            details = {**self.contract.details, EXPORTED_SIZE: list(self._exported.size[1:])}
            self.contract = replace(self.contract, details=details)

    def __call__(self, views: Floats, batch_size: int) -> Outputs:
        return (self._exported(views, batch_size),)

    def whole(self, task: Task, views: Views, batch_size: int) -> Outputs:
        import torch

        def form(x: Tensor) -> Tensor:
            return torch.from_numpy(self._exported(x.numpy(), batch_size))

        with torch.inference_mode():
            outputs = task.answer(form, views, torch.device("cpu"), batch_size)
        return tuple(each.numpy() for each in outputs)

    @property
    def weights(self) -> str:
        return self._exported.weights

    whole_weights = weights
    device_type = "cpu"


class TorchNetwork:
    """A model in evaluation mode with its contract, on a device, in the form that computes fastest there.

    Args:
        model: moved to the device.
        device: "auto" takes a GPU when there is one.
        compute: the form it computes in, also by its full name as `exact_form` tells it; by default the fastest that
            `uniformer bench` found here, or "fast".
        forward: what is asked of the form instead of its answers, which only "plain" and "fast" know.
    """

    def __init__(
        self,
        model: UniFormer | DenseNetwork,
        contract: Contract,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        compute: str | None = None,
        report: Any = None,
        forward: Forward | None = None,
    ):
        from uniformer.network.model import UniFormer
        from uniformer.speed.forms import best_form, exact_name, inference_form
        from uniformer.support.distributed import DTYPES, pick_device

        self.contract, self.report = contract, report
        self.device = pick_device(device) if isinstance(device, str) else device
        self.dtype = DTYPES[precision]
        self.model = model.to(self.device)
        is_dense = not isinstance(model, UniFormer)  # whole pictures have no one size
        size = None if is_dense else view_size(model.config, contract.input_of_classifier())
        compute = compute or best_form(model, size, self.device, self.dtype)
        self.form: nn.Module = inference_form(model, compute, size, self.dtype)  #: what stands in for the model
        self.compute: Any = compute.partition(BY)[0]  #: a `Compute`
        self.exact_form = exact_name(self.compute, self.form)
        self._forward = forward or _answers

    def __call__(self, views: Floats, batch_size: int) -> Outputs:
        import torch

        from uniformer.speed.forms import forward_views

        pixels = torch.from_numpy(views).to(next(self.model.parameters()).dtype)
        outputs = forward_views(lambda x: self._forward(self.form, x), pixels, self.device, self.dtype, batch_size)
        return tuple(np.asarray(o) for o in outputs)

    def whole(self, task: Task, views: Views, batch_size: int) -> Outputs:
        """What a dense network answers to a whole picture, as its task asks it."""
        import torch

        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype.itemsize < 4):
            outputs = task.answer(self.form, views, self.device, batch_size)
        return tuple(
            (o.float() if o.dtype.itemsize < 4 and o.is_floating_point() else o).cpu().numpy() for o in outputs
        )

    @property
    def weights(self) -> str:
        return self.whole_weights[:12]

    @property
    def whole_weights(self) -> str:
        """The whole sum over the tensors."""
        from uniformer.checkpoints.proof import digest

        return digest(self.model.state_dict().values())

    @property
    def device_type(self) -> str:
        return self.device.type


def _answers(form: Any, x: Tensor) -> tuple[Tensor, ...]:
    outputs = form(x)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def pooled_features(stages: Sequence[int] = ()) -> Forward:
    """The last map, normed as for the classifier, averaged over its grid (B, C), and the maps of `stages` (1 to 4)."""

    def forward(form: UniFormer, x: Tensor) -> tuple[Tensor, ...]:
        maps = form.forward_intermediates(x)
        last = maps[-1] if form.norm is None else form.norm(maps[-1])
        return last.flatten(2).mean(dim=2), *(maps[stage - 1] for stage in stages)

    return forward


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards each module is back in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

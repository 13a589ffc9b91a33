"""Networks as files for OpenVINO (.xml with its .bin) and ONNX Runtime (.onnx). `runtimes.py` runs them, without torch.

What is written is the inference form as a graph in float32: for any batch, but for the frames and the picture size it
was written for. The contract goes into the file. A file is kept only if its runtime gives the model's own logits, class
by class maps of them for a segmenter, heat maps for a pose network. Detectors are not written: how many regions they
look at, and what is left of them, is decided on the way.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import unwrapped
from uniformer.config import InputSpec, PersonCrop, Scaling
from uniformer.errors import InputError, MissingExtra
from uniformer.heads.detection import Detector
from uniformer.heads.pyramid import DenseNetwork
from uniformer.network.model import UniFormer
from uniformer.speed.preparation import prepare
from uniformer.speed.runtimes import METADATA, form_of, import_openvino, open_exported
from uniformer.speed.timings import view_size
from uniformer.support.files import folder_to_fill, temporary_folder

TOLERANCE = 1e-4  # of the largest logit; float32 in another order of summation moves logits by some 1e-6
PACKAGES = {".xml": ("openvino", ("openvino",)), ".onnx": ("onnx", ("onnxruntime", "onnxscript"))}  # extra, what of it


Network = UniFormer | DenseNetwork


def export(
    model: Network, contract: Contract, out: str | os.PathLike[str], *, size: tuple[int, int] | None = None
) -> float:
    """Write a classifier, a segmenter or a pose network to `out`, .xml or .onnx. Returns the largest error of its
    logits relative to the largest.

    Frames and size are those of `contract.input`; of a segmenter, whose pictures vary, `size` is height and width.
    Raises `InputError` for names that end in something else, networks without a head or a described input, detectors,
    optimised copies, a size too many or too few, and where the logits that the runtime computes from the file are not
    the model's; `MissingExtra` without the packages of the format. Nothing is left at `out` then.
    """
    model = unwrapped(model)
    _check_exportable(model)
    if contract.input is None:
        raise InputError("expected a contract that describes the input, which fixes the exported frames and size")
    return write_checked(model, _size_of_views(contract.input, size, model), Path(out), contract)


def _size_of_views(
    spec: InputSpec | Scaling | PersonCrop, size: tuple[int, int] | None, model: Network
) -> Sequence[int]:
    """(C, [T,] H, W), from what the network was trained with, or as the caller says."""
    if not isinstance(spec, Scaling):
        if size is not None:
            raise InputError(f"expected no size of pictures: the network is fed {spec.size}")
        return view_size(model.config, spec)
    if size is None or min(size) < 32:
        said = "none" if size is None else f"{size[0]}x{size[1]}"
        raise InputError(f"expected the size of the pictures that {model.config.head} is exported for, got {said}")
    return model.config.in_chans, *size


def _check_exportable(model: Network) -> None:
    config = model.config
    if isinstance(model, Detector):
        raise InputError(f"expected a network without regions to export, got {config.head}: their number varies")
    if config.head is None and (config.output != "logits" or not config.num_classes):
        raise InputError("expected a network with a classifier, got a backbone")


def write_checked(model: Network, size: Sequence[int], out: Path, contract: Contract) -> float:
    """`export` for inputs (any batch, *size), whatever the contract says of them."""
    form, example = form_of(out), torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    with folder_to_fill(out.parent), temporary_folder(out) as folder:
        written = folder / f"network{form}"
        write_graph(model, size, written, contract)
        off = _largest_error(model, written, example)
        if not off <= TOLERANCE:  # also catches NaN
            raise InputError(f"{out}: expected the model's logits of the exported file, they are off by {off:.1e}")
        for path in sorted(folder.iterdir()):  # .bin before .xml
            path.replace(out if path.suffix == form else out.with_suffix(path.suffix))
    return off


def write_graph(model: Network, size: Sequence[int], out: Path, contract: Contract) -> None:
    """The inference form as a file, for inputs (any batch, *size)."""
    form = form_of(out)
    _check_exportable(model)
    extra, packages = PACKAGES[form]
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, extra, f"writing {form} files")
    inference = prepare(model, training=False).float().cpu()
    example = torch.zeros(2, *size)  # a batch of one would be taken for a constant
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of deprecations within the exporters
        program = torch.export.export(inference, (example,), dynamic_shapes=({0: batch},), strict=False)
        (_write_openvino if form == ".xml" else _write_onnx)(program, out, contract)


def _write_openvino(program: Any, out: Path, contract: Contract) -> None:
    openvino = import_openvino(f"writing {out.suffix} files")
    graph = openvino.convert_model(program)
    (example,) = program.example_inputs[0]
    graph.reshape([-1, *example.shape[1:]])
    graph.set_rt_info(contract.to_json(), [METADATA])
    openvino.save_model(graph, out, compress_to_fp16=False)


def _write_onnx(program: Any, out: Path, contract: Contract) -> None:
    converted = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["views"], output_names=["logits"])
    assert converted is not None
    converted.model.metadata_props[METADATA] = contract.to_json()
    converted.save(out, external_data=False)


@torch.no_grad()
def _largest_error(model: Network, path: Path, example: Tensor) -> float:
    """Of the file's logits, as a share of the largest. One view and several: another batch than it was traced with."""
    inference = prepare(model, training=False).float().cpu()
    network = open_exported(path)
    want = inference(example)
    found = torch.cat([torch.from_numpy(network(some.numpy(), len(some))) for some in example.split([1, 2])])
    return float((found - want).abs().max() / want.abs().max())

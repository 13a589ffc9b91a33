"""Networks as files for the runtimes of `runtimes.TARGETS`, which run there without this package.

What is written is the inference form as a graph in float32: for any batch, but for the frames and the picture size it
was written for. The contract goes into the file. A file is kept only if its runtime gives the model's own logits, class
by class maps of them for a segmenter, heat maps for a pose network; a `Receipt` says how near. Detectors are not
written: how many regions they look at, and what is left of them, is decided on the way.

Networks of clips can be written without 3D convolutions and without tensors of five dimensions (`framewise.py`), and
are where the runtime has none.
"""

from __future__ import annotations

import importlib.util
import io
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import unwrapped
from uniformer.config import InputSpec, PersonCrop, Scaling
from uniformer.errors import InputError, MissingExtra, cannot_write, check_word, first_line
from uniformer.heads.detection import Detector
from uniformer.heads.pyramid import DenseNetwork
from uniformer.network.model import UniFormer
from uniformer.speed.blocks import FastHourglassBlock
from uniformer.speed.framewise import FramewiseUniFormer
from uniformer.speed.preparation import prepare
from uniformer.speed.runtimes import METADATA, TARGETS, attach, form_of, import_openvino, in_four, open_exported
from uniformer.speed.timings import version_of, view_size
from uniformer.support.files import folder_to_fill, temporary_folder

TOLERANCE = 1e-4  # of the largest logit; float32 in another order of summation moves logits by some 1e-6
OPSET = 20  #: of ONNX: that torch 2.15 writes by itself, read by ONNX Runtime from 1.17 on

Network = UniFormer | DenseNetwork
Conv3d = Literal["3d", "2d"]


@dataclass(frozen=True)
class Receipt:
    """What was found when a file was run, on three random views: one alone, then two together."""

    target: str  #: the runtime's name
    conv3d: Conv3d | None  #: how the network's 3D convolutions were written; None: it has none
    gap: float  #: the largest error of its logits as a share of the largest
    agreement: float  #: the share of views, or of places of their maps, whose best class is the model's
    seconds: float  #: of one view, here, as the runtime comes
    versions: Mapping[str, str]  #: of torch and the packages that wrote it, and "opset" of ONNX

    def __str__(self) -> str:
        return f"its logits are off by {self.gap:.0e} of the largest"


def export(
    model: Network,
    contract: Contract,
    out: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    conv3d: Conv3d | None = None,
) -> Receipt:
    """Write a classifier, a segmenter or a pose network to `out`, whose end says for which runtime.

    Frames and size are those of `contract.input`; of a segmenter, whose pictures vary, `size` is height and width.
    `conv3d` "2d" writes a network of clips without 3D convolutions and tensors of five dimensions; by default that is
    done where the runtime has none.
    Raises `InputError` for names that end in something else, networks without a head or a described input, detectors,
    optimised copies, a size too many or too few, 3D convolutions for a runtime without, and where the logits that the
    runtime computes from the file are not the model's; `MissingExtra` without the packages of the format. Nothing is
    left at `out` then.
    """
    model = unwrapped(model)
    _check_exportable(model)
    if contract.input is None:
        raise InputError("expected a contract that describes the input, which fixes the exported frames and size")
    return write_checked(model, _size_of_views(contract.input, size, model), Path(out), contract, conv3d)


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
        wanted = f"the size of the pictures that {model.config.head} is exported for"
        raise InputError(f"expected {wanted}, got {said}: --size 512x683, size=(512, 683)")
    return model.config.in_chans, *size


def _check_exportable(model: Network) -> None:
    config = model.config
    if isinstance(model, Detector):
        raise InputError(f"expected a network without regions to export, got {config.head}: their number varies")
    if config.head is None and (config.output != "logits" or not config.num_classes):
        raise InputError("expected a network with a classifier, got a backbone")


def write_checked(
    model: Network, size: Sequence[int], out: Path, contract: Contract, conv3d: Conv3d | None = None
) -> Receipt:
    """`export` for inputs (any batch, *size), whatever the contract says of them."""
    form, way = form_of(out), _way(model, out, conv3d)
    example = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    with folder_for(out) as folder:
        written = folder / f"network{form}"
        write_graph(model, size, written, contract, way)
        receipt = _receipt(model, written, example, way)
        if not receipt.gap <= TOLERANCE:  # also catches NaN
            raise InputError(
                f"{out}: expected the model's logits of the exported file, they are off by {receipt.gap:.1e}"
            )
        put_in_place(written, out)
    return receipt


@contextmanager
def folder_for(out: Path) -> Iterator[Path]:
    """Where a network's files are written and tried before they are put at `out`. Raises `InputError` for a folder, and
    where the disk refuses."""
    if out.is_dir():
        raise InputError(f"cannot write {out}: a folder is there; give another name, or remove it first")
    try:
        with folder_to_fill(out.parent), temporary_folder(out) as folder:
            yield folder
    except OSError as error:
        raise cannot_write(out, error) from None


def put_in_place(written: Path, out: Path) -> None:
    for path in sorted(written.parent.glob(f"{written.stem}.*")):  # .bin before .xml
        path.replace(out if path.suffix == written.suffix else out.with_suffix(path.suffix))


def write_graph(
    model: Network, size: Sequence[int], out: Path, contract: Contract, conv3d: Conv3d | None = None
) -> None:
    """The inference form as a file, for inputs (any batch, *size)."""
    form, target = form_of(out), TARGETS[form_of(out)]
    _check_exportable(model)
    for package in target.packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, target.extra, f"writing {form} files")
    with warnings.catch_warnings(), torch.no_grad(), torch.autocast("cpu", enabled=False):
        warnings.simplefilter("ignore")  # of deprecations within the exporters
        network, size = _as_written(model, size, _way(model, out, conv3d))
        WRITERS[form](network, size, out, contract)


def _way(model: Network, out: Path, conv3d: Conv3d | None) -> Conv3d | None:
    """How 3D convolutions are written; None where there are none."""
    target = TARGETS[form_of(out)]
    if conv3d is not None:
        check_word("conv3d", conv3d, Conv3d)
    if not model.config.is_video:
        return None
    if conv3d == "3d" and not target.conv3d:
        raise InputError(f"{out}: expected conv3d 2d, {target.name} has no 3D convolutions")
    return conv3d or ("3d" if target.conv3d else "2d")


def _as_written(model: Network, size: Sequence[int], way: Conv3d | None) -> tuple[nn.Module, tuple[int, ...]]:
    """The network and the shape of its input but for the batch."""
    if way == "2d":
        assert isinstance(model, UniFormer)
        return FramewiseUniFormer(model, tuple(size[1:])).float().cpu(), in_four(tuple(size))
    return prepare(model, training=False).float().cpu(), tuple(size)


# ---- one for each runtime --------------------------------------------------------------------------------------------


def _traced(network: nn.Module, size: tuple[int, ...], form: str) -> Any:
    """The network as torch's graph, for as many views at once as the target takes."""
    is_open = TARGETS[form].most is None
    example = torch.zeros(2 if is_open else 1, *size)  # an open batch of one would be taken for a constant
    shapes = ({0: torch.export.Dim("batch", min=1)},) if is_open else None
    program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.alias.default:  # does nothing, and not every converter knows it
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    return program


def _write_openvino(network: nn.Module, size: tuple[int, ...], out: Path, contract: Contract) -> None:
    openvino = import_openvino(f"writing {out.suffix} files")
    graph = openvino.convert_model(_traced(network, size, ".xml"))
    graph.reshape([-1, *size])
    graph.set_rt_info(contract.to_json(), [METADATA])
    save_openvino(graph, out)


def save_openvino(graph: Any, out: Path) -> None:
    """In float32. Raises `OSError` where the disk refuses, of which OpenVINO says that a stream of C++ has failed."""
    openvino = import_openvino(f"writing {out.suffix} files")
    try:
        openvino.save_model(graph, out, compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(f"is the disk full? ({first_line(error)})") from None


def _write_onnx(network: nn.Module, size: tuple[int, ...], out: Path, contract: Contract) -> None:
    names: dict[str, Any] = {"input_names": ["views"], "output_names": ["logits"]}
    program = _traced(network, size, ".onnx")
    converted = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=OPSET, **names)
    assert converted is not None
    converted.model.metadata_props[METADATA] = contract.to_json()
    converted.save(out, external_data=False)


def _write_pt2(network: nn.Module, size: tuple[int, ...], out: Path, contract: Contract) -> None:
    for block in network.modules():
        if isinstance(block, FastHourglassBlock):
            block.topk_is_stable = False
    whole = io.BytesIO()  # torch's own writer of files ends the process where the disk is full
    torch.export.save(_traced(network, size, ".pt2"), whole, extra_files={METADATA: contract.to_json()})
    out.write_bytes(whole.getbuffer())


def _write_executorch(network: nn.Module, size: tuple[int, ...], out: Path, contract: Contract) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(_traced(network, size, ".pte"), partitioner=[XnnpackPartitioner()])
    left = [node.name for node in lowered.exported_program().graph.nodes if "convolution" in str(node.target)]
    if left:
        raise InputError(f"{out}: expected all convolutions to be XNNPACK's, it leaves {len(left)} of them: {left[0]}")
    out.write_bytes(lowered.to_executorch().buffer)
    attach(out, contract.to_json())


def _write_litert(network: nn.Module, size: tuple[int, ...], out: Path, contract: Contract) -> None:
    import litert_torch

    litert_torch.convert(network, (torch.zeros(1, *size),)).export(os.fspath(out))
    attach(out, contract.to_json())


WRITERS: Mapping[str, Callable[[nn.Module, tuple[int, ...], Path, Contract], None]] = {
    ".xml": _write_openvino,
    ".onnx": _write_onnx,
    ".pt2": _write_pt2,
    ".pte": _write_executorch,
    ".tflite": _write_litert,
}


# ---- and what it computes --------------------------------------------------------------------------------------------


@torch.no_grad()
def _receipt(model: Network, path: Path, example: Tensor, way: Conv3d | None) -> Receipt:
    """Of a file that was just written. One view and several: another batch than it was traced with."""
    target = TARGETS[form_of(path)]
    versions = {name: version_of(name) for name in ("torch", *target.packages)}
    if path.suffix == ".onnx":
        versions["opset"] = str(OPSET)
    run = _runner(path, way)
    want = prepare(model, training=False).float().cpu()(example)
    one, several = example.split([1, 2])
    first = run(one)
    begin = time.perf_counter()
    found = torch.cat([first, run(several)])
    seconds = (time.perf_counter() - begin) / 2
    gap = float((found - want).abs().max() / want.abs().max())
    agreement = float((found.argmax(1) == want.argmax(1)).float().mean())
    return Receipt(target.name, way, gap, agreement, seconds, versions)


def _runner(path: Path, way: Conv3d | None) -> Callable[[Tensor], Tensor]:
    """What computes a file just written."""
    if path.suffix == ".pt2":  # of our own making: one from elsewhere is not opened, torch evaluates what it says
        module = torch.export.load(path).module()
        return lambda views: module(views.flatten(3) if way == "2d" else views)
    network = open_exported(path)
    return lambda views: torch.from_numpy(network(views.numpy(), len(views)))

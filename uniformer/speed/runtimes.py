"""The runtimes that `uniformer export` writes for, and what it wrote, run by them on the CPU. No torch here.

By OpenVINO and ONNX Runtime networks of clips are faster than any other form, and start in a second: importing torch
alone takes several. A clip goes into a graph as (B, C, T, H, W), or into one that was written without 3D convolutions
as (B, C, T, H * W), which is the same memory.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from uniformer.checkpoints.contract import Contract
from uniformer.config import InputSpec, PersonCrop
from uniformer.errors import InputError, MissingExtra, first_line
from uniformer.reading.transforms import Floats
from uniformer.speed.timings import view_size
from uniformer.support.environment import usual

METADATA = "uniformer"  # the name under which the contract lies in the file
LARGEST_CONTRACT = 1 << 24  # bytes

Opened = tuple[Callable[[Floats], Floats], str | None, Sequence[Any]]  #: what runs it, the contract, the input's shape


class Target(NamedTuple):
    """What networks are written for."""

    name: str
    extra: str  #: of this package, that brings
    packages: tuple[str, ...]  #: these, which writing needs
    conv3d: bool  #: whether it computes 3D convolutions
    most: int | None  #: views in a batch; None: any number
    open: Callable[[Path, int | None], Opened] | None  #: with so many threads; None: only written here


class Exported:
    """An exported network with its contract: views in, logits out, in float32 on the CPU."""

    report = None  #: of loading: nothing is left to be decided then

    def __init__(
        self,
        path: Path,
        run: Callable[[Floats], Floats],
        contract: Contract,
        size: tuple[int, ...],
        shape: Sequence[Any],
    ):
        self._path, self._run, self.contract = path, run, contract
        self.size = size  #: of one view, (C, [T,] H, W)
        self.shape, self._most = tuple(shape[1:]), TARGETS[form_of(path)].most  #: of one view, as the graph takes it

    def __call__(self, views: Floats, batch_size: int) -> Floats:
        """Views (V, 3, ...) -> logits (V, K), maps of them (V, K, H / 4, W / 4) of a segmenter or a pose network;
        `batch_size` views at a time. Raises `InputError` where that fails."""
        at_once = min(batch_size, self._most or batch_size)
        try:
            if views.shape[1:] == self.size:
                views = views.reshape(len(views), *self.shape)
            parts = [self._run(views[first : first + at_once]) for first in range(0, len(views), at_once)]
            logits = np.concatenate(parts)
        except Exception as error:  # each runtime has classes of its own
            raise InputError(f"{self._path} cannot compute views of {views.shape[1:]}: {first_line(error)}") from None
        expected, is_dense = (len(views), self.contract.config.num_classes), self.contract.config.head is not None
        if logits.shape[:2] != expected or logits.ndim != (4 if is_dense else 2):
            raise InputError(f"{self._path}: expected logits of shape {expected}, as it says, got {logits.shape}")
        return logits

    @property
    def weights(self) -> str:
        """What tells them from all others, whatever they are called."""
        with open(self._path.with_suffix(".bin") if form_of(self._path) == ".xml" else self._path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()[:12]


def form_of(path: Path) -> str:
    """What kind of exported network a name stands for, as a key of `TARGETS`. Raises `InputError` for other names."""
    form = path.suffix.lower()
    if form not in TARGETS:
        *others, last = TARGETS
        known = f"{', '.join(others)} or {last}"
        raise InputError(f"{path}: expected the name of an exported network, which ends in {known}")
    return form


def in_four(size: tuple[int, ...]) -> tuple[int, ...]:
    """Of a view (C, T, H, W) the shape (C, T, H * W), as a graph without 3D convolutions is given it; others as they
    are."""
    return (*size[:2], size[2] * size[3]) if len(size) == 4 else size


def open_exported(path: str | os.PathLike[str], *, threads: int | None = None) -> Exported:
    """Read a file written by `export`. `threads`: OMP_NUM_THREADS where it is set, else as many as the runtime likes.

    Raises `InputError` when there is no such file, or it holds something else; `MissingExtra` without the runtime.
    """
    path = Path(path)
    target = TARGETS[form_of(path)]
    if target.open is None:
        raise InputError(f"{path}: networks for {target.name} are only written here, not run: see docs/export.md")
    if not path.is_file():
        raise InputError(f"{path}: expected an exported network, found no such file")
    if threads is None and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        threads = int(os.environ["OMP_NUM_THREADS"])
    run, text, shape = target.open(path, threads)
    if text is None:
        raise InputError(
            f"{path}: expected a file written by `uniformer export`, found no description of a model in it"
        )
    contract = Contract.from_json(text, str(path))
    size = view_size(contract.config, spec) if isinstance(spec := contract.input, InputSpec | PersonCrop) else ()
    if size and tuple(shape[1:]) not in (size, in_four(size)):
        raise InputError(f"{path}: expected views of {size}, as its description says, found {tuple(shape[1:])}")
    return Exported(path, run, contract, size or tuple(shape[1:]), shape)


def _openvino(path: Path, threads: int | None) -> Opened:
    openvino = import_openvino(f"{path}, a network for OpenVINO,")
    # The default precision is bfloat16 on processors that have it; the answers are to be the same everywhere.
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    core = core_of(openvino)
    try:
        model = core.read_model(path)
        compiled = core.compile_model(model, "CPU", config)
        text = model.get_rt_info([METADATA]).value if model.has_rt_info([METADATA]) else None
        shape = [d.get_length() if d.is_static else -1 for d in model.input().get_partial_shape()]
    except Exception as error:  # of damaged files not its own errors only
        raise InputError(f"{path}: OpenVINO cannot read it: {_last_line(error)}") from None
    return lambda views: compiled(np.ascontiguousarray(views))[0], text, shape


def _onnxruntime(path: Path, threads: int | None) -> Opened:
    onnxruntime = import_onnxruntime(f"{path}, a network for ONNX Runtime,")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    except Exception as error:  # a class of its own for each of its error codes
        raise InputError(f"{path}: ONNX Runtime cannot read it: {_last_line(error)}") from None
    return lambda views: session.run(None, {given.name: views})[0], text, given.shape


def _executorch(path: Path, threads: int | None) -> Opened:
    try:
        from executorch.runtime import Runtime
    except ImportError:
        raise MissingExtra("executorch", "executorch", f"{path}, a network for ExecuTorch,") from None
    import torch  # which its runtime in Python is given tensors of

    try:
        method = Runtime.get().load_program(path).load_method("forward")
        shape = method.metadata.input_tensor_meta(0).sizes()
    except Exception as error:
        raise InputError(f"{path}: ExecuTorch cannot read it: {_last_line(error)}") from None

    def run(views: Floats) -> Floats:
        answer: Floats = method.execute([torch.from_numpy(np.ascontiguousarray(views))])[0].numpy().copy()
        return answer

    return run, attached(path), shape


def _litert(path: Path, threads: int | None) -> Opened:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingExtra("ai_edge_litert", "litert", f"{path}, a network for LiteRT,") from None
    try:
        interpreter = Interpreter(model_path=os.fspath(path), num_threads=threads)
        interpreter.allocate_tensors()
        (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    except Exception as error:
        raise InputError(f"{path}: LiteRT cannot read it: {_last_line(error)}") from None

    def run(views: Floats) -> Floats:
        interpreter.set_tensor(given["index"], np.ascontiguousarray(views))
        interpreter.invoke()
        logits: Floats = interpreter.get_tensor(answer["index"])  # a copy
        return logits

    return run, attached(path), [int(n) for n in given["shape"]]


def attach(path: Path, text: str) -> None:
    """Put a description behind a file that has no place for one, as a zip archive: LiteRT's own way of doing that, and
    what reads the file from its beginning does not see it."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{METADATA}.json", text)


def attached(path: Path) -> str | None:
    """What `attach` put there, if anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{METADATA}.json")
            return archive.read(info).decode() if info.file_size <= LARGEST_CONTRACT else None
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, zlib.error):
        return None


#: By the ends of their files' names. Extras are those of pyproject.toml.
TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        ".xml": Target("OpenVINO", "openvino", ("openvino",), True, None, _openvino),
        ".onnx": Target("ONNX Runtime", "onnx", ("onnxruntime", "onnxscript"), True, None, _onnxruntime),
        ".pt2": Target("torch.export", "", (), True, None, None),
        ".pte": Target("ExecuTorch", "executorch", ("executorch",), False, 1, _executorch),
        ".tflite": Target("LiteRT", "litert", ("litert_torch", "ai_edge_litert"), False, 1, _litert),
    }
)


@functools.cache
def core_of(openvino: Any) -> Any:
    """One for the life of the process. Each gives its thread a stack for signals (sigaltstack, which Python's handlers
    run on) and frees it when it goes; of two, the one that goes last leaves the freed stack of the other behind, and
    the next signal kills the process."""
    return openvino.Core()


def import_openvino(purpose: str) -> Any:
    """OpenVINO without its telemetry: left alone it reports every import to a server, and waits where there is none."""
    try:
        with without_telemetry():
            import openvino
    except ImportError:
        raise MissingExtra("openvino", "openvino", purpose) from None
    return openvino


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """What is imported does not find the package that OpenVINO and NNCF report by: both have a stub for that."""
    name = "openvino_telemetry"
    before = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(before)


def import_onnxruntime(purpose: str) -> Any:
    """ONNX Runtime without its telemetry: from 1.29 on, left alone, it gives the machine a number, kept in the user's
    cache folder, and reports every process to a server. It reads the variable once, while it is imported."""
    with usual("ORT_DISABLE_TELEMETRY", "1"):
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("onnxruntime", "onnx", purpose) from None
    return onnxruntime


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]

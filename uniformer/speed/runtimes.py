"""Networks that `uniformer export` wrote, run by OpenVINO (.xml) or ONNX Runtime (.onnx). No torch here.

On a CPU they are the fastest form there is, and start in a second: importing torch alone takes several.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uniformer.checkpoints.contract import Contract
from uniformer.config import InputSpec, PersonCrop
from uniformer.errors import InputError, MissingExtra, first_line
from uniformer.reading.transforms import Floats
from uniformer.speed.timings import view_size
from uniformer.support.environment import usual

METADATA = "uniformer"  # the name under which the contract lies in the file
SUFFIXES = (".xml", ".onnx")


class Exported:
    """An exported network with its contract: views in, logits out, in float32 on the CPU."""

    report = None  #: of loading: nothing is left to be decided then

    def __init__(self, path: Path, run: Callable[[Floats], Floats], contract: Contract, size: tuple[int, ...]):
        self._path, self._run, self.contract = path, run, contract
        self.size = size  #: of one view, (C, [T,] H, W)

    def __call__(self, views: Floats, batch_size: int) -> Floats:
        """Views (V, 3, ...) -> logits (V, K), maps of them (V, K, H / 4, W / 4) of a segmenter or a pose network;
        `batch_size` views at a time. Raises `InputError` where that fails."""
        try:
            parts = [self._run(views[first : first + batch_size]) for first in range(0, len(views), batch_size)]
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
    """What kind of exported network a name stands for, as one of `SUFFIXES`. Raises `InputError` for other names."""
    form = path.suffix.lower()
    if form not in SUFFIXES:
        raise InputError(f"{path}: expected the name of an exported network, which ends in {' or '.join(SUFFIXES)}")
    return form


def open_exported(path: str | os.PathLike[str], *, threads: int | None = None) -> Exported:
    """Read a file written by `export`. `threads`: OMP_NUM_THREADS where it is set, else as many as the runtime likes.

    Raises `InputError` when there is no such file, or it holds something else; `MissingExtra` without the runtime.
    """
    path = Path(path)
    form = form_of(path)
    if not path.is_file():
        raise InputError(f"{path}: expected an exported network, found no such file")
    if threads is None and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        threads = int(os.environ["OMP_NUM_THREADS"])
    run, text, shape = (_openvino if form == ".xml" else _onnxruntime)(path, threads)
    if text is None:
        raise InputError(
            f"{path}: expected a file written by `uniformer export`, found no description of a model in it"
        )
    contract = Contract.from_json(text, str(path))
    size = view_size(contract.config, spec) if isinstance(spec := contract.input, InputSpec | PersonCrop) else ()
    if size and size != tuple(shape[1:]):
        raise InputError(f"{path}: expected views of {size}, as its description says, found {tuple(shape[1:])}")
    return Exported(path, run, contract, tuple(shape[1:]))


Opened = tuple[Callable[[Floats], Floats], str | None, Sequence[Any]]  #: what runs it, the contract, the input's shape


def _openvino(path: Path, threads: int | None) -> Opened:
    openvino = import_openvino(f"{path}, a network for OpenVINO,")
    # The default precision is bfloat16 on processors that have it; the answers are to be the same everywhere.
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    core = _core(openvino)
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


@functools.cache
def _core(openvino: Any) -> Any:
    """One for the life of the process. Each gives its thread a stack for signals (sigaltstack, which Python's handlers
    run on) and frees it when it goes; of two, the one that goes last leaves the freed stack of the other behind, and
    the next signal kills the process."""
    return openvino.Core()


def import_openvino(purpose: str) -> Any:
    """OpenVINO without its telemetry: left alone it reports every import to a server, and waits where there is none."""
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # not to be found: OpenVINO has a stub for that
    try:
        import openvino
    except ImportError:
        raise MissingExtra("openvino", "openvino", purpose) from None
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
    return openvino


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

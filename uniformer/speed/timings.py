"""How long things take on this machine: the clock, and what `uniformer bench` measured, kept from run to run.

That is the time of each form of a network, and on a GPU of each implementation of its depthwise convolutions. It lies
in one JSON file of the user's cache folder, networks exported for this machine beside it. torch is not imported with
this file: the command line needs the names.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from uniformer.config import Config, InputSpec, PersonCrop, to_dict
from uniformer.errors import InputError, cannot_write, counted
from uniformer.support.files import write_whole
from uniformer.support.texts import parse_json, read_whole

if TYPE_CHECKING:
    import torch

Compute = Literal["plain", "fast", "compiled", "openvino", "onnxruntime", "int8"]
RUNTIMES = {"openvino": ".xml", "onnxruntime": ".onnx"}  #: what they read
INT8: Compute = "int8"  #: OpenVINO in 8 bits: of networks alone that `uniformer bench --calibrate` kept
AT_ONCE = ("plain", "fast")  #: forms that need nothing prepared
BY = " by "  #: in the full name of a form (`forms.exact_name`): what comes after is a `products.By`
NAME = "forms.json"


def cache_folder() -> Path:
    """Where measurements and exported networks are kept: `uniformer` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "uniformer")


def view_size(config: Config, spec: InputSpec | PersonCrop) -> tuple[int, ...]:
    """The shape of one view, (C, [T,] H, W)."""
    return config.in_chans, *((spec.frames,) if isinstance(spec, InputSpec) and spec.is_video else ()), *spec.size


def situation(config: Config, size: Sequence[int], processor: str, dtype: str, threads: int) -> str:
    """All that a form's time depends on, in one line: the key of the file. `size` is that of one view, (3, [T,] H, W).

    Other versions of torch or of a runtime make another situation, so what was measured with the old ones is forgotten.
    """
    told = json.dumps(to_dict(replace(config, drop_path=0.0, dropout=0.0)), sort_keys=True)  # no matter in evaluation
    network = hashlib.sha256(told.encode()).hexdigest()[:12]
    shape = " x ".join(map(str, size))
    versions = _versions("uniformer", "torch", *RUNTIMES)
    return f"{processor}, {counted(threads, 'thread')}, {dtype}; network {network}, views of {shape}; {versions}"


def depthwise_situation(kernel: int, shape: Sequence[int], use: str, processor: str, dtype: str) -> str:
    """The same for one depthwise convolution on a GPU: `shape` is (C, T, H, W), `use` inference or training."""
    layer = f"depthwise convolution {kernel} x {kernel} x {kernel} of {' x '.join(map(str, shape))}"
    return f"{processor}, {dtype}; {layer}, {use}; {_versions('uniformer', 'torch', 'triton')}"


def cpu_name() -> str:
    """The processor's model and its widest vectors, as Linux tells them; elsewhere what Python knows."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.*)", text, re.MULTILINE)
    wide = next((w for w in ("amx_tile", "avx512f", "avx2", "avx", "asimd") if re.search(rf"\b{w}\b", text)), "")
    return f"{name[1] if name else platform.machine()} {wide}".strip()


def seconds(run: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Seconds of one `run`, the mean of `times` of them one after the other.

    By CUDA's events on a GPU, where calls return before anything is computed; else by the clock.
    """
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - begin) / times
    import torch

    with torch.cuda.device(device):
        torch.cuda.synchronize()
        begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin_event.record()
        for _ in range(times):
            run()
        end_event.record()
        end_event.synchronize()
    return begin_event.elapsed_time(end_event) / 1000 / times


def in_turn(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in every round, one after the other: so a slow minute of the machine falls on all alike."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if turn:  # the first warms up
                taken[name].append(time.perf_counter() - begin)
    return taken


def processor_name(device: torch.device) -> str:
    """What a measurement is kept under."""
    if device.type == "cpu":
        return f"{cpu_name()}, {os.cpu_count()} cores"
    import torch

    return torch.cuda.get_device_name(device)


def remember(key: str, seconds: Mapping[str, float]) -> Path:
    """Keep the time of each form in a situation, in place of what was known of it. Returns the file."""
    path, known = cache_folder() / NAME, remembered()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None
    write_whole(path, json.dumps({**known, key: dict(seconds)}, indent=1) + "\n")
    return path


def remembered() -> dict[str, dict[str, float]]:
    """The seconds of each form, in every situation that was measured on this machine. Raises `InputError`."""
    path = cache_folder() / NAME
    if not path.is_file():
        return {}
    try:
        known = parse_json(read_whole(path, "timings"), str(path))
        if all(isinstance(seconds, float) for times in known.values() for seconds in times.values()):
            return dict(known)
    except (ValueError, AttributeError):
        pass
    raise InputError(f"{path}: expected what `uniformer bench` wrote, found something else: delete it")


def best_at_hand(key: str, weights: Callable[[], str], size: Sequence[int]) -> Compute:
    """The fastest form that was measured in a situation and can start at once; "fast" where nothing was measured.

    A runtime can start at once if the network of these weights was exported for it, in 8 bits if that was kept.
    `torch.compile` never can.
    """
    times = remembered().get(key, {})
    for form in sorted(times, key=lambda name: times[name]):
        if (
            form in AT_ONCE
            or (form in RUNTIMES and exported_path(weights(), size, form).is_file())
            or (form == INT8 and last_calibration(weights(), size) is not None)
        ):
            return form  # type: ignore[return-value]
    return "fast"


def exported_path(weights: str, size: Sequence[int], form: str) -> Path:
    """Where the network of these weights is kept for a runtime."""
    return cache_folder() / f"{weights}-{'x'.join(map(str, size))}{RUNTIMES[form]}"


def int8_path(weights: str, size: Sequence[int], calibration: str) -> Path:
    """Where it is kept in 8 bits; `calibration` tells what it was calibrated on (`quantise.Samples`)."""
    return cache_folder() / f"{weights}-{'x'.join(map(str, size))}-int8-{calibration}.xml"


def last_calibration(weights: str, size: Sequence[int]) -> str | None:
    """Of the network in 8 bits that was kept last; None where none was."""
    there = [(path.stat().st_mtime_ns, path.stem) for path in cache_folder().glob(int8_path(weights, size, "*").name)]
    return max(there)[1].rpartition("-")[2] if there else None


def _versions(*packages: str) -> str:
    return ", ".join(f"{name} {version_of(name)}" for name in packages)


def version_of(package: str) -> str:
    """Of what is installed; "none"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"

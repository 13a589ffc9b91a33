"""Versions of libraries that are known to be bad, on which machines, and where that is said. No torch here.

A row is here because the package meets the fault or goes round it. Where it is only reported, and was not seen by us,
`what` says so. The self-tests find faults that no row tells of; a row tells what no test of a second can find.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from uniformer.support.checks import Check, Verdict

PART = "known faults"


@dataclass(frozen=True)
class Machine:
    """What rows go by."""

    flags: Collection[str]  #: of the processor, as /proc/cpuinfo names them
    has_gpu: bool
    system: str = platform.system()
    machine: str = platform.machine()


@dataclass(frozen=True)
class Fault:
    """Of a package from version `first` on, up to but without `fixed`, on machines where `applies`."""

    package: str
    first: str
    fixed: str | None  #: None: in no version that is known
    applies: Callable[[Machine], bool]
    what: str
    remedy: str  #: what the package does about it, or the line to type
    source: str
    verdict: Verdict = "bad"


FAULTS = (
    Fault(
        "torch", "2.15", None, lambda m: "avx512f" in m.flags,
        "bfloat16: garbage for weight gradients of 3D convolutions whose kernel is longer than the clip",
        "training tries its layers and keeps those that are wrong in float32", "docs/log.md: bfloat16", "worked round",
    ),
    Fault(
        "torch", "2.15", None, lambda m: True,
        "wrong gradients of batch norm for a batch of one whose batch stride is odd, which `reshape` of a transposed "
        "map gives",
        "maps of tokens are made without one", "docs/log.md: batch norm are wrong", "worked round",
    ),
    Fault(
        "torch", "2.9", None, lambda m: "amx_bf16" in m.flags,
        "bfloat16: 3D convolutions of stride above 1 whose output is one column wide are wrong (reported)",
        "training tries its layers; views of 64 pixels and more have wider maps there",
        "github.com/pytorch/pytorch/issues/169688", "worked round",
    ),
    Fault(
        "torch", "2.6", None, lambda m: "avx_ne_convert" in m.flags and "avx512f" not in m.flags,
        "training in 16 bits ends with `DNNL does not support bf16/f16 backward` (reported)",
        "precision=float32", "github.com/pytorch/pytorch/issues/148861, github.com/intel/torch-xpu-ops/issues/4329",
    ),
    Fault(
        "cudnn", "9.8", "9.15", lambda m: m.has_gpu,
        "16 bits: 3D convolutions wrong on large maps, and with torch 2.9, which goes round that, several times slower "
        "and larger (reported)",
        "pip install -U torch, or 'nvidia-cudnn-cu12>=9.15'",
        "github.com/pytorch/pytorch/issues/163539, 166122 and 166643",
    ),
    Fault(
        "openvino", "2026.4", None, lambda m: "avx512_bf16" in m.flags and "amx_tile" not in m.flags,
        "bfloat16: matrix products are wrong (reported of 2026.4.0; one that we tried in 2026.4.1 was right)",
        "exported networks compute in float32", "github.com/openvinotoolkit/openvino/issues/38256", "worked round",
    ),
    Fault(
        "openvino", "2026.4", None, lambda m: True,
        "of two `Core`s in a process the second leaves a freed stack for signals: the next Ctrl-C kills",
        "there is one for the whole process", "docs/log.md: sigaltstack", "worked round",
    ),
    Fault(
        "openvino", "2026.4", None, lambda m: "avx512_vnni" in m.flags,
        "8 bits: garbage for several views at once where NNCF 3.4 took the network for a transformer",
        "it is not told so, and each export is tried alone and among others",
        "docs/log.md: NNCF with `model_type=TRANSFORMER`", "worked round",
    ),
    Fault(
        "onnxruntime", "1.29", None, lambda m: m.system != "Windows",
        "reports every process to a server, and keeps a number of the machine in the user's cache folder",
        "it is told not to where this package imports it; ORT_DISABLE_TELEMETRY=1 tells it everywhere",
        "github.com/microsoft/onnxruntime/pull/27379", "worked round",
    ),
    Fault(
        "opencv-python-headless", "4.14", None, lambda m: (m.system, m.machine) == ("Darwin", "arm64"),
        "scaling pictures to just below their size ends the process (reported)",
        "pip install 'opencv-python-headless<4.13'", "github.com/opencv/opencv/issues/29794",
    ),
)  # fmt: skip


def known_faults(versions: Mapping[str, str], machine: Machine) -> Iterator[Check]:
    """A check of each row that holds here, of packages by their versions; one that says so where none does."""
    count = 0
    for fault in FAULTS:
        version = versions.get(fault.package)
        if version is None or not is_between(version, fault.first, fault.fixed) or not fault.applies(machine):
            continue
        count += 1
        remedy = f"{fault.remedy} ({fault.source})"
        yield Check(PART, f"{fault.package} {version}", "looked up", fault.what, fault.verdict, remedy)
    if not count:
        yield Check(PART, "versions", f"looked up in {len(FAULTS)} rows", "none is known to be bad here")


def is_between(version: str, first: str, end: str | None) -> bool:
    """Whether a version is at least `first` and, where there is an end, before it."""
    return numbers(version) >= numbers(first) and (end is None or numbers(version) < numbers(end))


def numbers(version: str) -> tuple[int, ...]:
    """2.15.0+cpu -> (2, 15, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()

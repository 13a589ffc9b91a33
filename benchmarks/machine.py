"""What a figure depends on besides the code: processor, threads, versions, memory; and where figures are kept."""

from __future__ import annotations

import ctypes
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from uniformer.speed.timings import cpu_name

RESULTS = Path(__file__).parent / "results"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PACKAGES = ("uniformer", "torch", "torchvision", "timm", "transformers", "openvino", "onnxruntime", "av", "numpy")


def conditions(**settings: Any) -> dict[str, Any]:
    """Hardware, versions and settings of a run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_shown, sys.argv[1:])]),
        "commit": _commit(),
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(terse=True),
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES if _version(name)},
        **settings,
    }


def _shown(argument: str) -> str:
    """Where something lies on this machine is nobody else's business."""
    return shlex.quote(Path(argument).name if Path(argument).is_absolute() else argument)


def peak_memory() -> float:
    """Of this process since `forget_peak_memory`, MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024


def forget_peak_memory() -> None:
    """Begin anew, with what is free given back to the system."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return asked.stdout.strip() or None


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def keep(name: str, under: dict[str, Any], rows: Any, table: str) -> None:
    """Print the table; write it and the rows to results/NAME.md and NAME.json. Never to be edited by hand."""
    versions = ", ".join(f"{package} {number}" for package, number in under["versions"].items())
    text = (
        f"{table}\n`{under['command']}`, {under['date']}, {under['processor']}, {under['cores']} cores; {versions}.\n"
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"conditions": under, "rows": rows}, indent=1) + "\n", "utf-8")
    (RESULTS / f"{name}.md").write_text(text, "utf-8")

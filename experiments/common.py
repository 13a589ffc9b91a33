"""What the experiments share: scikit-learn's digits, commands run side by side, what a table is made under."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from uniformer.speed.timings import cpu_name

SIZE = 32  # pixels a side of pictures and of frames
RECIPES = Path(__file__).parent / "recipes"
LIBRARIES = ("uniformer", "torch", "timm", "av", "numpy", "scikit-learn")

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]


def handwritten() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The 1,797 scans that come with scikit-learn, (1797, 8, 8) of 0 to 1, and which digit each is, (1797,)."""
    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


def enlarged(scan: npt.NDArray[np.float32]) -> Pixels:
    """A scan (8, 8) as a grey picture, (SIZE, SIZE)."""
    picture = Image.fromarray(np.round(scan * 255).astype(np.uint8))
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def write_picture(path: Path, grey: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(path)


def write_pictures(folder: Path, parts: Mapping[str, Rows]) -> None:
    """A folder for each split and digit, with the scans of the given rows."""
    images, labels = handwritten()
    for name, rows in parts.items():
        for row in rows:
            write_picture(folder / name / str(labels[row]) / f"{row}.png", enlarged(images[row]))


def split(labels: npt.NDArray[np.int64], *shares: float) -> list[Rows]:
    """Rows in parts of the given shares and a last one of the rest, each with all digits alike; always the same."""
    rows, parts, left = np.arange(len(labels)), [], 1.0
    for share in shares:
        rows, rest = train_test_split(rows, train_size=share / left, stratify=labels[rows], random_state=0)
        parts.append(rows)
        rows, left = rest, left - share
    return [*parts, rows]


def uniformer(*arguments: object, log: Path) -> None:
    """One command of the package, in a process with one thread; what it says goes into `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "uniformer.cli", *map(str, arguments)]
    with open(log, "w", encoding="utf-8") as f:
        done = subprocess.run(command, stdout=f, stderr=subprocess.STDOUT, env={**os.environ, **one_thread})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {log.read_text('utf-8')[-500:]}")


def top1(checkpoint: Path, data: Path, out: Path) -> float:
    """Per cent right, by `uniformer eval`."""
    uniformer("eval", checkpoint, data, "--workers", 0, "--batch-size", 32, "--out", out, log=out / "log.txt")
    return 100 * float(json.loads((out / "metrics.json").read_text("utf-8"))["metrics"]["top1"])


def side_by_side(jobs: int, work: Iterable[Callable[[], Any]]) -> list[Any]:
    """What the pieces of work return, `jobs` of them at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        return [piece.result() for piece in [pool.submit(w) for w in work]]


def results(jobs: int, work: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same nested mappings with what the pieces of work in them return, `jobs` of them at a time."""
    with ThreadPoolExecutor(jobs) as pool:

        def begun(part: Any) -> Any:
            return (
                {key: begun(value) for key, value in part.items()} if isinstance(part, Mapping) else pool.submit(part)
            )

        def ended(part: Any) -> Any:
            return {key: ended(value) for key, value in part.items()} if isinstance(part, Mapping) else part.result()

        found: dict[Any, Any] = ended(begun(work))
        return found


def conditions(minutes: float, jobs: int) -> dict[str, Any]:
    """What to know of a table besides its figures."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "minutes": round(minutes, 1),
        "cpu_minutes": round(_cpu_seconds() / 60, 1),
        "processes": jobs,
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }


def _cpu_seconds() -> float:
    """What this process and those it started have used: unlike the clock, much the same on a busy machine."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def mean_and_spread(values: Sequence[float]) -> str:
    """'98.1 (97.9 to 98.5)': mean, least and most."""
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def write_report(out: Path, facts: dict[str, Any], text: str) -> None:
    """report.json and report.md in `out`; the latter also on standard output."""
    conditions = facts["conditions"]
    under = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    text += (
        f"\n`{conditions['command']}`: {conditions['minutes']} minutes by the clock, {conditions['cpu_minutes']} of "
        f"processor time; {conditions['processes']} processes of one thread at a time on {conditions['cores']} cores "
        f"({conditions['processor']}); {under}.\n"
    )
    (out / "report.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (out / "report.md").write_text(text, encoding="utf-8")
    print(text)

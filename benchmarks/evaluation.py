"""`uniformer eval` as a whole on a folder of clips: how much of the time the network is busy, and how cost grows.

    python benchmarks/evaluation.py --clips 10 100 1000

The network is small_video with random weights at 16x224, or --arch; files of 10 s, 340x256, H.264.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
from films import write_film

FILMS = 8  # different ones; the rest are links to them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--arch", default="uniformer_small_video")
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    under, rows, lines = machine.conditions(arch=args.arch), [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        films = [write_film(folder / f"{i}.mp4", 340, 256, seed=i) for i in range(FILMS)]
        checkpoint = write_checkpoint(folder / "network.safetensors", args.arch)
        sets = {clips: link(folder / f"set{clips}", films, clips) for clips in args.clips}
        for processes in args.processes:
            for clips, data in sets.items():
                row = measured(folder, checkpoint, data, clips, processes)
                rows.append(row)
                lines.append([processes, clips, f"{row['seconds']:.1f}", row["verdict"]])
    head = ("processes", "clips", "seconds, start included", "without start (of the first process)")
    machine.keep(
        f"evaluation-{args.arch.removeprefix('uniformer_')}",
        under,
        rows,
        f"{args.arch}, one view a clip.\n\n{machine.markdown(head, lines)}",
    )


def write_checkpoint(path: Path, arch: str) -> Path:
    import torch

    import uniformer
    from uniformer.checkpoints.contract import Contract
    from uniformer.network.variants import default_input

    torch.manual_seed(0)
    model = uniformer.create_model(arch, num_classes=2)
    one_view = replace(default_input(model.config), clips=1, crops=1)
    uniformer.save_checkpoint(model, path, Contract(model.config, input=one_view, classes=("a", "b")))
    return path


def link(folder: Path, films: list[Path], clips: int) -> Path:
    """A folder of class folders with `clips` links in all."""
    for i in range(clips):
        target = folder / "ab"[i % 2] / f"{i:05d}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(films[i % len(films)])
    return folder


def measured(folder: Path, checkpoint: Path, data: Path, clips: int, processes: int) -> dict[str, Any]:
    out = folder / f"out{clips}-{processes}"
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "uniformer.cli", "eval", str(checkpoint), str(data), "--out", str(out)]
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    verdict = next(line for line in done.stderr.splitlines() if "-bound: " in line)
    return {"processes": processes, "clips": clips, "seconds": seconds, "verdict": verdict}


if __name__ == "__main__":
    main()

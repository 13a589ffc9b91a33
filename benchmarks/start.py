"""From a cold process to the first label: `uniformer predict` on one clip, and what it is made of.

    python benchmarks/start.py

Each command is a process of its own, in turn with the others. The checkpoint is the one in the package; with OpenVINO
installed, also its export, which needs no torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
from films import write_film

CHECKPOINT = "uniformer_nano_video.camera_motion"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    under = machine.conditions(rounds=args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        film = str(write_film(Path(folder, "film.mp4"), 340, 256, seconds=4))
        commands = {
            "python -c pass": ["-c", "pass"],
            "import torch": ["-c", "import torch"],
            "import torch, torchvision, timm": ["-c", "import torch, torchvision, timm"],
            "uniformer --help": ["-m", "uniformer.cli", "--help"],
            "uniformer predict": ["-m", "uniformer.cli", "predict", film, "--checkpoint", CHECKPOINT],
        }
        if importlib.util.find_spec("openvino"):
            exported = str(Path(folder, "network.xml"))
            subprocess.run([sys.executable, "-m", "uniformer.cli", "export", CHECKPOINT, exported], check=True)
            commands["import openvino"] = ["-c", "import openvino"]
            commands["uniformer predict, exported"] = ["-m", "uniformer.cli", "predict", film, "--checkpoint", exported]
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.rounds + 1):  # the first fills the system's cache of files
            for name, command in commands.items():
                begin = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - begin)
    taken = {name: values[1:] for name, values in seconds.items()}
    lines = [(n, f"{statistics.median(v):.2f}", f"{min(v):.2f} to {max(v):.2f}") for n, v in taken.items()]
    table = machine.markdown(("command", "seconds", "least to most"), lines)
    machine.keep("start", under, taken, f"Whole processes, medians of {args.rounds} rounds.\n\n{table}")


if __name__ == "__main__":
    main()

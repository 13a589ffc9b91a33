"""Every benchmark, one after the other.

python benchmarks/all.py [--quick]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
WHOLE = (
    ("inference.py",),
    ("inference.py", "--threads", "1"),
    ("inference.py", "small_video 16x224", "small 224", "--neighbour"),
    ("peers.py",),
    ("reading.py",),
    ("reading.py", "--clips", "10000"),
    ("evaluation.py", "--clips", "10", "100", "--processes", "1", "2"),
    ("start.py",),
    ("training_step.py",),
    ("profile_network.py", "small_video 16x224", "--form", "reference"),
    ("profile_network.py", "small_video 16x224"),
)
QUICK = (
    ("inference.py", "small_video 16x224", "xxs_video 16x160", "small 224", "--rounds", "5"),
    ("peers.py", "--rounds", "3"),
    ("reading.py", "--rounds", "3"),
    ("start.py", "--rounds", "3"),
    ("training_step.py", "--rounds", "3"),
)
GPU = ("gpu.py",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and networks")
    failed = []
    scripts = QUICK if parser.parse_args().quick else WHOLE
    if torch.cuda.is_available():
        scripts = (*scripts, GPU)
    else:
        print(f"{GPU[0]} is left out: it needs a GPU")
    for script, *options in scripts:
        print(f"\n# {script} {' '.join(options)}\n", flush=True)
        if subprocess.run([sys.executable, str(HERE / script), *options]).returncode:
            failed.append(" ".join([script, *options]))
    if failed:
        raise SystemExit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()

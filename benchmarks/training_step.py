"""One step of training on a CPU, forward and backward: the networks as they are against the form of the published code.

python benchmarks/training_step.py
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import machine
from alternate import Contender, compare, finished

#: name -> architecture, (B, 3, T, H, W): the small models of the docs' first trainings
STEPS = {
    "nano_video, 16 clips 8x64": ("uniformer_nano_video", (16, 3, 8, 64, 64)),
    "nano_video, 8 clips 16x64x80": ("uniformer_nano_video", (8, 3, 16, 64, 80)),
    "xxs_video, 4 clips 8x128": ("uniformer_xxs_video", (4, 3, 8, 128, 128)),
    "small_video, 1 clip 8x112": ("uniformer_small_video", (1, 3, 8, 112, 112)),
}


def step(arch: str, shape: tuple[int, ...], form: str, *, threads: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    import torch

    import uniformer
    from uniformer.speed.plain import plain

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = uniformer.create_model(arch, num_classes=20).train()
    model = plain(model) if form == "reference" else model
    x, labels = torch.randn(shape), torch.randint(20, shape[:1])

    def run() -> None:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()

    return run, {"macs": uniformer.count_macs(model.config, shape[2:]) * shape[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    under, rows, lines = machine.conditions(threads=args.threads, rounds=args.rounds), {}, []
    for name, (arch, shape) in STEPS.items():
        pair = [Contender(form, step, (arch, shape, form)) for form in ("reference", "plain")]
        reference, ours = finished(compare(pair, rounds=args.rounds, threads=args.threads))
        rows[name] = [reference.row(), ours.row()]
        per_clip = [1000 * result.median / shape[0] for result in (reference, ours)]
        memory = [f"{result.memory_mb:.0f}" for result in (reference, ours)]
        lines.append([name, *(f"{ms:.0f}" for ms in per_clip), f"{reference.median / ours.median:.2f}", *memory])
    head = ("step", "reference, ms a clip", "ours, ms a clip", "ratio", "reference, MB", "ours, MB")
    text = f"Loss and gradients, float32, {args.threads} threads, medians of {args.rounds} rounds in turn.\n\n"
    machine.keep("training_step", under, rows, text + machine.markdown(head, lines))


if __name__ == "__main__":
    main()

"""One step of training on a CPU, forward and backward: as the published code, plain, and prepared by `speed.prepare`,
in float32 and in bfloat16 under autocast with attention in float32.

python benchmarks/training_step.py
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import machine
from alternate import CLOCKS, Contender, compare, finished

#: name -> architecture, (B, 3, T, H, W): the small models of the docs' first trainings, and camera motion in 16 frames
STEPS = {
    "nano_video, 16 clips 8x64": ("uniformer_nano_video", (16, 3, 8, 64, 64)),
    "nano_video, 8 clips 16x64x80": ("uniformer_nano_video", (8, 3, 16, 64, 80)),
    "nano_video, 16 clips 16x96": ("uniformer_nano_video", (16, 3, 16, 96, 96)),
    "xxs_video, 4 clips 8x128": ("uniformer_xxs_video", (4, 3, 8, 128, 128)),
    "small_video, 1 clip 8x112": ("uniformer_small_video", (1, 3, 8, 112, 112)),
}
FORMS = ("reference", "plain", "prepared", "bfloat16")


def step(arch: str, shape: tuple[int, ...], form: str, *, threads: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    import torch
    from published import published

    import uniformer
    from uniformer import speed

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = uniformer.create_model(arch, num_classes=20).train()
    if form == "reference":
        model = published(model)
    elif form == "prepared":  # as `uniformer train` does
        speed.prepare(model, training=True)
    elif form == "bfloat16":  # as precision=bfloat16 attention_float32=true
        speed.prepare(model, training=True, dtype=torch.bfloat16, size=shape[1:], attention_float32=True)
    x, labels = torch.randn(shape), torch.randint(20, shape[:1])

    def run() -> None:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=form == "bfloat16"):
            logits = model(x)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()

    return run, {"macs": uniformer.count_macs(model.config, shape[2:]) * shape[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for a machine that others use too")
    args = parser.parse_args()
    under, rows, lines = machine.conditions(threads=args.threads, rounds=args.rounds, clock=args.clock), {}, []
    for name, (arch, shape) in STEPS.items():
        contenders = [Contender(form, step, (arch, shape, form)) for form in FORMS]
        results = finished(compare(contenders, rounds=args.rounds, threads=args.threads, clock=CLOCKS[args.clock]))
        rows[name] = [result.row() for result in results]
        for result in results:
            figures = (f"{1000 * result.median / shape[0]:.0f}", f"{results[0].median / result.median:.2f}")
            lines.append([name, result.name, *figures, f"{result.memory_mb:.0f}"])
    head = ("step", "form", "ms a clip", "x faster than reference", "MB")
    how = f"{args.threads} threads, {args.clock} time, medians of {args.rounds} rounds in turn"
    text = f"Loss and gradients, {how}.\n\n"
    machine.keep("training_step", under, rows, text + machine.markdown(head, lines))


if __name__ == "__main__":
    main()

"""Where the time of one network goes: by stage, beside its multiply-adds and the floor, and by operator.

python benchmarks/profile_network.py "small_video 16x224" --form reference
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from typing import Any

import machine
import torch
from networks import OURS, gemm
from published import published
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import uniformer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=OURS)
    parser.add_argument("--form", default="fast", choices=("reference", "plain", "fast"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    arch, shape = OURS[args.network]
    model = uniformer.create_model(arch).eval().requires_grad_(False)
    x = torch.randn(1, *shape)
    macs = counted(model, x)
    model = {"reference": published, "plain": lambda m: m, "fast": uniformer.optimize}[args.form](model)
    seconds, rate = timed(model, x, args.rounds, args.threads)

    whole, floor = seconds[""], {name: count / rate for name, count in macs.items()}
    lines = [
        (name or "all", f"{macs[name] / 1e9:.2f}", f"{1000 * taken:.1f}", f"{taken / whole:.0%}",
         f"{taken / floor[name]:.2f}" if floor[name] else "")
        for name, taken in seconds.items()
    ]  # fmt: skip
    by_operator = operators(model, x)
    under = machine.conditions(threads=args.threads, rounds=args.rounds, form=args.form, network=args.network)
    text = f"{args.network}, {args.form}, {args.threads} threads; floor: {rate / 1e9:.0f} G multiply-adds a second.\n\n"
    text += machine.markdown(("part", "G multiply-adds", "ms", "share", "x floor"), lines)
    top = [(name, f"{ms:.1f}", f"{ms / sum(by_operator.values()):.0%}") for name, ms in list(by_operator.items())[:12]]
    text += "\n" + machine.markdown(("operator", "ms", "share"), top)
    rows = {"macs": macs, "seconds": seconds, "operators_ms": by_operator}
    machine.keep(f"profile-{args.network}-{args.form}".replace(" ", "_"), under, rows, text)


def parts(model: nn.Module) -> dict[str, list[nn.Module]]:
    """What is timed together: each stage's embedding, and its blocks."""
    named: dict[str, list[nn.Module]] = {}
    for number, stage in enumerate(model.stages, start=1):  # type: ignore[arg-type]
        named[f"stage {number}, embedding"] = [stage.embed]
        named[f"stage {number}, blocks"] = list(stage.blocks)
    return named


def counted(model: nn.Module, x: torch.Tensor) -> dict[str, int]:
    """Multiply-adds of each part, and of all under ''."""
    with torch.no_grad(), FlopCounterMode(display=False, depth=8) as counter:
        model(x)
    by_module = {name: sum(counts.values()) // 2 for name, counts in counter.get_flop_counts().items()}
    root = type(model).__name__
    found = {"": by_module["Global"]}
    for number, stage in enumerate(model.stages):  # type: ignore[arg-type]
        under = f"{root}.stages.{number}"
        found[f"stage {number + 1}, embedding"] = by_module.get(f"{under}.embed", 0)
        blocks = (f"{under}.blocks.{i}" for i in range(len(stage.blocks)))
        found[f"stage {number + 1}, blocks"] = sum(by_module.get(name, 0) for name in blocks)
    return found


def timed(model: nn.Module, x: torch.Tensor, rounds: int, threads: int) -> tuple[dict[str, float], float]:
    """Median seconds of all ('') and of each part, and multiply-adds a second of the machine's matrix products."""
    product, facts = gemm(threads=threads)
    spent: dict[str, float] = defaultdict(float)
    begun: dict[nn.Module, float] = {}
    for name, modules in parts(model).items():
        for module in modules:
            module.register_forward_pre_hook(lambda m, _args: begun.update({m: time.perf_counter()}))

            def add(m: nn.Module, _args: Any, _out: Any, name: str = name) -> None:
                spent[name] += time.perf_counter() - begun[m]

            module.register_forward_hook(add)
    runs: list[dict[str, float]] = []
    rates = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        product()
        rates.append(facts["macs"] / (time.perf_counter() - begin))
        spent.clear()
        begin = time.perf_counter()
        with torch.inference_mode():
            model(x)
        runs.append({"": time.perf_counter() - begin} | spent)
    middle = sorted(runs[1:], key=lambda run: run[""])[rounds // 2]
    return middle, sorted(rates[1:])[rounds // 2]


def operators(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    """Milliseconds of each of torch's operators by itself, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as found:
        model(x)
    taken = {event.key: event.self_cpu_time_total / 1000 for event in found.key_averages()}
    return dict(sorted(taken.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main()

"""Whether 8-bit integers pay on this processor: exported networks in float32 and in 8 bits, by each runtime.

pip install 'uniformer[int8]'
python benchmarks/int8.py                 # speed alone, random weights
python benchmarks/int8.py --data SET      # also the model in the package on SET, made by `data make camera-motion`:
                                          # calibrated on its training clips, accuracy on its test clips
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import machine
import numpy as np
from alternate import CLOCKS, Contender, compare, finished
from networks import OURS, Built, Shape, gemm

from uniformer.checkpoints.records import BUNDLED
from uniformer.speed.quantise import WAYS, export_int8, quantise
from uniformer.speed.runtimes import TARGETS, open_exported
from uniformer.speed.timings import cpu_name

NETWORKS = ("small_video 16x224", "xxs_video 16x160", "small 224")
FORMS = ("float32", "int8")
Files = dict[str, Path]  #: of a runtime, by form


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of: {', '.join(OURS)}")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for a machine that others use too")
    args = parser.parse_args()
    under = machine.conditions(threads=args.threads, rounds=args.rounds, clock=args.clock)
    rows: dict[str, Any] = {}
    lines: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for form in WAYS:
            for name in args.networks or NETWORKS * (args.data is None):
                files, shape = write_random(Path(folder, "random"), form, *OURS[name])
                measure(name, shape, files, args, rows, lines)
            if args.data is not None:
                files, shape, accuracy = of_the_package(Path(folder, "package"), form, args.data)
                measure("the model in the package", shape, files, args, rows, lines, accuracy)
    head = (
        "network", "runtime", "form", "seconds", "least to most", "x faster than float32", "x floor", "off by",
        "top-1, %",
    )  # fmt: skip
    text = f"One at a time, {args.threads} threads, {args.clock} time, medians of {args.rounds} rounds in turn.\n\n"
    machine.keep(f"int8-{cpu_name().rpartition(' ')[2]}", under, rows, text + machine.markdown(head, lines))


def measure(
    name: str,
    shape: Shape,
    files: Files,
    args: argparse.Namespace,
    rows: dict[str, Any],
    lines: list[list[str]],
    accuracy: dict[str, float] | None = None,
) -> None:
    contenders = [Contender("floor", gemm)]
    contenders += [Contender(form, exported, (str(files["float32"]), str(files[form]), shape)) for form in FORMS]
    floor, *results = finished(compare(contenders, rounds=args.rounds, threads=args.threads, clock=CLOCKS[args.clock]))
    rate = floor.facts["macs"] / floor.median
    target = TARGETS[files["int8"].suffix].name
    rows[f"{name}, {target}"] = [result.row() for result in (floor, *results)] + [{"accuracy": accuracy}]
    for result in results:
        lines.append([
            name,
            target,
            result.name,
            f"{result.median:.4f}",
            f"{min(result.seconds):.4f} to {max(result.seconds):.4f}",
            f"{results[0].median / result.median:.2f}",
            f"{result.median * rate / result.facts['macs']:.2f}",
            f"{result.facts['difference']:.1e}",
            "" if accuracy is None else f"{accuracy[result.name]:.1f}",
        ])  # fmt: skip


def exported(truth: str, path: str, shape: Shape, *, threads: int) -> Built:
    """A network in a file; how far its logits are off those of the float32 one, of the largest."""
    import uniformer

    network = open_exported(path, threads=threads)
    x = np.random.default_rng(0).standard_normal((1, *shape), np.float32)
    expected = open_exported(truth, threads=threads)(x, 1)
    off = float(np.abs(network(x, 1) - expected).max() / np.abs(expected).max())
    return lambda: network(x, 1), {
        "macs": uniformer.count_macs(network.contract.config, shape[1:]),
        "difference": off,
    }


def write_random(stem: Path, form: str, arch: str, shape: Shape) -> tuple[Files, Shape]:
    """A network with random weights, calibrated on noise: good for timing only."""
    import torch

    import uniformer
    from uniformer.checkpoints.contract import Contract
    from uniformer.speed.export import write_graph

    torch.manual_seed(0)
    model = uniformer.create_model(arch).eval()
    files = {name: stem.with_name(f"{stem.name}-{name}{form}") for name in FORMS}
    write_graph(model, shape, files["float32"], Contract(model.config))
    rng = np.random.default_rng(0)
    quantise(files["float32"], files["int8"], [rng.standard_normal((1, *shape), np.float32) for _ in range(4)])
    return files, shape


def of_the_package(stem: Path, form: str, data: Path) -> tuple[Files, Shape, dict[str, float]]:
    """The model in the package, its input, and its accuracy in each form on the test clips, in per cent."""
    import uniformer
    from uniformer.checkpoints.load import load_model
    from uniformer.speed.export import export

    model, contract, _ = load_model(BUNDLED)
    files = {name: stem.with_name(f"{stem.name}-{name}{form}") for name in FORMS}
    export(model, contract, files["float32"])
    export_int8(model, contract, files["int8"], data, max_loss=100, even_slower=True)
    accuracy = {
        name: 100 * uniformer.evaluate(path, data, split="test").metrics["top1"] for name, path in files.items()
    }
    return files, open_exported(files["int8"]).size, accuracy


if __name__ == "__main__":
    main()

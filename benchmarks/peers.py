"""Published accuracy against measured speed: our networks and what one might take instead, each library's own defaults.

pip install transformers matplotlib; python benchmarks/peers.py
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import machine
from alternate import Contender, Result, compare
from networks import MATCHES, OURS, PEERS, ours, peer

from uniformer import get_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--form", default="fast", help="of our networks: see inference.py")
    args = parser.parse_args()

    under = machine.conditions(threads=args.threads, rounds=args.rounds, form=args.form)
    rows: list[dict[str, Any]] = []
    for kind, dimensions in (("video", 4), ("image", 3)):  # of the input, channels included
        here = {ckpt: name for ckpt, name in MATCHES.items() if len(OURS[name][1]) == dimensions}
        contenders = [Contender(ckpt, ours, (*OURS[name], args.form)) for ckpt, name in here.items()]
        contenders += [Contender(name, peer, (name,)) for name, p in PEERS.items() if len(p.shape) == dimensions]
        for result in compare(contenders, rounds=args.rounds, threads=args.threads):
            rows.append({"kind": kind, "ours": result.name in here} | result.row() | published(result))
    name = f"peers-{args.threads}-threads"
    head = ("network", "published top-1, %", "views", "M parameters", "G multiply-adds a view", "seconds a view",
            "views/s", "seconds a video or image, all views", "MB", "score from")  # fmt: skip
    text = f"Float32, one view at a time, {args.threads} threads, medians of {args.rounds} rounds in turn.\n\n"
    machine.keep(name, under, rows, text + machine.markdown(head, map(line, rows)))
    plot(rows, machine.RESULTS / f"{name}.png")


def published(result: Result) -> dict[str, Any]:
    """Top-1 and the views it was got with; the others' are among their facts."""
    if result.name not in MATCHES:
        return {key: result.facts.get(key) for key in ("score", "views", "source")}
    record = get_checkpoint(result.name)
    views = record.input.clips * record.input.crops
    return {"score": record.scores["top1"], "views": views, "source": "the paper's model zoo"}


def line(row: dict[str, Any]) -> list[str]:
    if row["error"] is not None:
        return [row["name"], f"not run: {row['error']}", *[""] * 8]
    return [
        f"**{row['name']}**" if row["ours"] else row["name"],
        f"{row['score']:.1f}",
        str(row["views"]),
        f"{row['facts']['parameters'] / 1e6:.1f}",
        f"{row['facts']['macs'] / 1e9:.1f}",
        f"{row['median']:.3f}",
        f"{1 / row['median']:.2f}",
        f"{row['views'] * row['median']:.2f}",
        f"{row['memory_mb']:.0f}",
        row["source"],
    ]


def plot(rows: list[dict[str, Any]], path: Any) -> None:
    """Top-1 over clips or images a second at the published testing, all views counted."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), constrained_layout=True)
    for axis, kind in zip(axes, ("video", "image"), strict=True):
        for row in rows:
            if row["kind"] != kind or row["error"] is not None:
                continue
            speed, colour = 1 / (row["median"] * row["views"]), "tab:blue" if row["ours"] else "tab:gray"
            axis.plot(speed, row["score"], "o", color=colour)
            name = row["name"].removeprefix("uniformer_")
            axis.annotate(name, (speed, row["score"]), (4, 4), textcoords="offset points", fontsize=8, color=colour)
        axis.set_xscale("log")
        axis.set_xlabel(f"{kind}s a second, all views of the published testing")
        axis.set_ylabel(f"published top-1, {'Kinetics-400' if kind == 'video' else 'ImageNet-1K'}, %")
        axis.margins(0.3, 0.15)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

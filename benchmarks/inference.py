"""How long one clip or image takes, and how much memory: our networks in their forms, against each other and the floor.

    python benchmarks/inference.py                     # all networks, two threads
    python benchmarks/inference.py "small_video 16x224" --threads 1 --neighbour

The floor is the time that the network's multiply-adds take at the rate of the machine's own matrix products, which is
measured in the same rounds.
"""

from __future__ import annotations

import argparse
import os

import machine
from alternate import CLOCKS, Contender, Result, compare
from networks import FORMS, OURS, gemm, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of: {', '.join(OURS)}; default: all")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--neighbour", action="store_true", help="beside a process that keeps one core busy")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for a machine that others use too")
    args = parser.parse_args()
    unknown = set(args.networks) - OURS.keys()
    if unknown:
        parser.error(f"unknown networks {sorted(unknown)}: expected some of {', '.join(OURS)}")

    settings = {"threads": args.threads, "rounds": args.rounds, "neighbour": args.neighbour, "clock": args.clock}
    under, rows, lines = machine.conditions(**settings), {}, []
    for name in args.networks or OURS:
        contenders = [Contender("floor", gemm)]
        contenders += [Contender(form, ours, (*OURS[name], form)) for form in args.forms]
        results = compare(
            contenders,
            rounds=args.rounds,
            threads=args.threads,
            neighbour=args.neighbour,
            clock=CLOCKS[args.clock],
        )
        rows[name] = [result.row() for result in results]
        lines += table(name, results)
    head = (
        "network",
        "G multiply-adds",
        "form",
        "seconds",
        "least to most",
        "x faster than reference",
        "x floor",
        "MB",
        "off by",
    )
    beside = ", beside a busy neighbour" if args.neighbour else ""
    under_way = f"{args.threads} threads{beside}, {args.clock} time"
    text = f"One at a time, {under_way}, medians of {args.rounds} rounds in turn.\n\n"
    kept = "all" if not args.networks else "-".join(args.networks).replace(" ", "_")
    machine.keep(
        f"inference-{kept}-{args.threads}-threads{'-neighbour' * args.neighbour}",
        under,
        rows,
        text + machine.markdown(head, lines),
    )


def table(name: str, results: list[Result]) -> list[list[str]]:
    rate = results[0].facts["macs"] / results[0].median  # multiply-adds a second
    by_name = {result.name: result for result in results[1:]}
    base = by_name.get("reference")
    reference = base.median if base is not None and base.seconds else None
    lines = []
    for form, result in by_name.items():
        if result.error is not None:
            lines.append([name, "", form, f"not run: {result.error}", *[""] * 5])
            continue
        macs = result.facts["macs"]
        lines.append([
            name,
            f"{macs / 1e9:.1f}",
            form,
            f"{result.median:.3f}",
            f"{min(result.seconds):.3f} to {max(result.seconds):.3f}",
            f"{reference / result.median:.2f}" if reference else "",
            f"{result.median * rate / macs:.2f}",
            f"{result.memory_mb:.0f}",
            f"{result.facts['difference']:.0e}",
        ])  # fmt: skip
    return lines


if __name__ == "__main__":
    main()

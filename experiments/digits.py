"""Images: a small UniFormer learns to read 1,198 handwritten digits and is tested on 599 others.

python experiments/digits.py --out DIR [--seeds 3] [--jobs 2]
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import common


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and the report")
    parser.add_argument("--seeds", type=int, default=3, help="runs, each from other random weights (default: 3)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, of one thread each (default: 2)")
    args = parser.parse_args()

    began = time.monotonic()
    _, labels = common.handwritten()
    parts = dict(zip(("train", "test"), common.split(labels, 2 / 3), strict=True))
    common.write_pictures(args.out / "digits", parts)
    runs = [partial(run, args.out, seed) for seed in range(args.seeds)]
    scores = common.side_by_side(args.jobs, runs)
    facts = {
        "pictures": {name: len(rows) for name, rows in parts.items()},
        "top1": dict(enumerate(scores)),
        "conditions": common.conditions((time.monotonic() - began) / 60, args.jobs),
    }
    rows = [(seed, f"{score:.2f}") for seed, score in enumerate(scores)]
    text = common.markdown(
        ("seed", f"top-1 on {len(parts['test'])} digits never seen, %"),
        [*rows, ("mean", common.mean_and_spread(scores))],
    )
    common.write_report(args.out, facts, text)


def run(out: Path, seed: int) -> float:
    """Train from scratch, then test: per cent right."""
    folder = out / f"seed{seed}"
    given = (f"data.root={out.resolve()}", "data.train=digits", f"seed={seed}")
    recipe = common.RECIPES / "digits.toml"
    common.uniformer("train", recipe, *given, "--out", folder, "--device", "cpu", log=folder / "train.log")
    return common.top1(folder / "model.safetensors", out / "digits" / "test", folder / "test")


if __name__ == "__main__":
    main()

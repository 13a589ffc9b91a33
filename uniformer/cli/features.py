"""`uniformer features`: write a data set's embeddings to a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from uniformer.cli.evaluate import add_reading_arguments, load, open_data, reading
from uniformer.support.progress import progress_bar

HELP = "write the embeddings of a data set"


def add_arguments(p: argparse.ArgumentParser) -> None:
    add_reading_arguments(p)
    p.add_argument("--out", metavar="DIR", required=True, help="folder of the shards; a run cut short goes on there")
    p.add_argument("--per-view", action="store_true", help="keep every view instead of their mean")
    p.add_argument(
        "--stages", type=int, nargs="+", default=[], choices=(1, 2, 3, 4), help="also the maps of these stages"
    )
    p.add_argument("--form", default="safetensors", choices=("safetensors", "parquet"))


def run(args: argparse.Namespace) -> int:
    """Returns 1 if a file could not be read."""
    from uniformer.evaluation.features import extract_features
    from uniformer.support.distributed import joined

    with joined(args.device) as world, world.alone_in(Path(args.out)) as unlocked:
        model, _, spec = load(args)
        manifest = open_data(args, args.data, args.split)
        with progress_bar("items", shown=world.is_main) as bar:
            errors = extract_features(
                model,
                manifest,
                spec,
                args.out,
                per_view=args.per_view,
                stages=args.stages,
                form=args.form,
                reading=reading(args, world),
                progress=bar,
            )
        if world.is_main:
            if unlocked:
                print(f"note: {unlocked}")
            print(f"{manifest.origin}\nwrote features of {len(manifest) - len(errors)} items to {args.out}")
            for row, why in errors.items():
                print(f"uniformer: row {row + 1}: {why}", file=sys.stderr)
    return 1 if errors else 0

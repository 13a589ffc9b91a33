"""`uniformer features`: write a data set's embeddings to a folder."""

from __future__ import annotations

import argparse

from uniformer.cli.options import add_checkpoint_and_data, add_quiet, add_reading, add_told, call, told
from uniformer.cli.tables import say, say_failed
from uniformer.errors import counted
from uniformer.support.progress import progress_bar

HELP = "write the embeddings of a data set"


def add_arguments(p: argparse.ArgumentParser) -> None:
    add_checkpoint_and_data(p)
    add_reading(p)
    add_told(p, but=["classes"])  # there, those of the data
    add_quiet(p)
    p.add_argument("--out", metavar="DIR", required=True, help="folder of the shards; a run cut short goes on there")
    p.add_argument("--per-view", action="store_true", help="keep every view instead of their mean")
    p.add_argument(
        "--stages", type=int, nargs="+", default=[], choices=(1, 2, 3, 4), help="also the maps of these stages"
    )
    p.add_argument(
        "--form", default="safetensors", choices=("safetensors", "parquet"), help="of the shards (default: safetensors)"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 1 if a file could not be read."""
    from uniformer.evaluation.features import write_features

    with progress_bar("items", shown=not args.quiet) as bar:
        written = call(write_features, args, progress=bar, say=say, **told(args))
    if written.is_main:
        if written.note:
            say(f"note: {written.note}")
        count = len(written.manifest) - len(written.errors)
        say(f"wrote features of {counted(count, 'item')} to {args.out}")
        say_failed(written.errors, args.data)
    return 1 if written.errors else 0

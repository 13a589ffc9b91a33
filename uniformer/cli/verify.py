"""`uniformer verify`: prove that a saved checkpoint is intact."""

from __future__ import annotations

import argparse
import sys

from uniformer.cli.tables import say
from uniformer.errors import counted, shown

HELP = "prove that a saved checkpoint is intact"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("file", metavar="CHECKPOINT", help="a file or folder saved by uniformer")


def run(args: argparse.Namespace) -> int:
    from uniformer.checkpoints.save import verify

    contract, problems = verify(args.file)
    for problem in problems:
        say(f"{args.file}: {problem}", file=sys.stderr)
    if problems:
        return 1
    name = contract.id or contract.arch or "own architecture"
    say(f"{args.file}: intact ({shown(name)}, {counted(contract.config.num_classes, 'class')})")
    return 0

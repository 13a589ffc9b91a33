"""`uniformer convert`: turn any readable checkpoint into ours, or ours into the reference's form."""

from __future__ import annotations

import argparse

from uniformer.cli.options import add_told, call, told
from uniformer.cli.tables import say

HELP = "turn any readable checkpoint into ours, or ours into the reference's form"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("source", metavar="IN", help="published id, file, folder or hub repository")
    p.add_argument(
        "out", metavar="OUT", help="name.safetensors, a folder (hub form), or name.pth (the reference's keys)"
    )
    add_told(p)
    p.add_argument(
        "--keep-class-order",
        dest="published_order",
        action="store_false",
        help="leave an OpenMMLab classifier's rows as they are (default: Kinetics-400's in the published order)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    p.add_argument("--averaged", action="store_true", help="take the EMA weights of a training checkpoint")


def run(args: argparse.Namespace) -> int:
    from uniformer.checkpoints.save import convert

    say(call(convert, args, **told(args)))
    say(f"wrote {args.out}")
    return 0

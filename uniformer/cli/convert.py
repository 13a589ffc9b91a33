"""`uniformer convert`: turn any readable checkpoint into ours, or ours into the reference's form."""

from __future__ import annotations

import argparse

HELP = "turn any readable checkpoint into ours, or ours into the reference's form"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("source", metavar="IN", help="published id, file, folder or hub repository")
    p.add_argument(
        "out", metavar="OUT", help="name.safetensors, a folder (hub form), or name.pth (the reference's keys)"
    )
    p.add_argument(
        "--head-dim", type=int, metavar="D", help="channels per attention head, where the file does not tell"
    )
    p.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    p.add_argument("--averaged", action="store_true", help="take the EMA weights of a training checkpoint")


def run(args: argparse.Namespace) -> int:
    from uniformer.checkpoints.save import convert

    print(convert(args.source, args.out, head_dim=args.head_dim, averaged=args.averaged, overwrite=args.overwrite))
    print(f"wrote {args.out}")
    return 0

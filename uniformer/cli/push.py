"""`uniformer push`: publish a checkpoint on the Hugging Face hub, with a page that tells what it is."""

from __future__ import annotations

import argparse

from uniformer.cli.options import add_told, call, told
from uniformer.cli.tables import say

HELP = "publish a checkpoint on the Hugging Face hub, or write its folder"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("source", metavar="CHECKPOINT", help="published id, file, folder or hub repository")
    p.add_argument("repo", metavar="OWNER/NAME", help="the hub repository, made where there is none")
    p.add_argument("--private", action="store_true", help="a repository that others do not see")
    p.add_argument("--revision", default="main", metavar="BRANCH", help="made where it is missing (default: main)")
    p.add_argument("--force", action="store_true", help="replace another network, and a page of one's own")
    p.add_argument("--dry-run", action="store_true", help="write the folder only, and ask no server")
    p.add_argument("--out", metavar="DIR", help="the folder of --dry-run (default: NAME)")
    p.add_argument(
        "--with", dest="beside", action="extend", nargs="+", default=[], metavar="FILE",
        help="files to go there too: exports of the model (an .xml with its .bin) and their receipts",
    )  # fmt: skip
    add_told(p)


def run(args: argparse.Namespace) -> int:
    from uniformer.checkpoints.push import push

    say(f"{'wrote' if args.dry_run else 'pushed:'} {call(push, args, **told(args))}")
    return 0

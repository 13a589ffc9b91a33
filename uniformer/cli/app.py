"""`uniformer app`: a page on this machine, to drop or record films and pictures and see what a network says of them."""

from __future__ import annotations

import argparse

from uniformer.cli.options import add_device, add_listening, add_precision, add_told, told, warn_of_others
from uniformer.cli.tables import say

HELP = "a page to drop films and pictures on, served on this machine"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--checkpoint", action="append", default=[], metavar="ID|FILE|REPO",
        help="a network of any task; given several times, the page offers all (default: the one in the package)",
    )  # fmt: skip
    add_listening(p, port=7860, size=4000, of="what is dropped at once")
    p.add_argument("--open", action="store_true", help="open the page in a browser")
    add_device(p)
    add_precision(p)
    add_told(p)


def run(args: argparse.Namespace) -> int:
    """Until Ctrl-C."""
    from uniformer.web.app import serve_page

    warn_of_others(args.host, "no password")
    serve_page(
        args.checkpoint, host=args.host, port=args.port, size=round(1e6 * args.max_size), open_page=args.open,
        say=lambda line: say(line, flush=True), device=args.device, precision=args.precision, **told(args),
    )  # fmt: skip
    return 0

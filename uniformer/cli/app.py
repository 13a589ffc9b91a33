"""`uniformer app`: a page on this machine, to drop or record films and pictures and see what a network says of them."""

from __future__ import annotations

import argparse

from uniformer.cli.options import add_device, add_precision, add_told, told, whole
from uniformer.cli.tables import say

HELP = "a page to drop films and pictures on, served on this machine"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--checkpoint", action="append", default=[], metavar="ID|FILE|REPO",
        help="a network of any task; given several times, the page offers all (default: the one in the package)",
    )  # fmt: skip
    p.add_argument("--port", type=whole(0, 65_535), default=7860, metavar="N", help="default: 7860; 0: a free one")
    p.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at (default: 127.0.0.1, this one)")
    p.add_argument("--open", action="store_true", help="open the page in a browser")
    add_device(p)
    add_precision(p)
    add_told(p)


def run(args: argparse.Namespace) -> int:
    """Until Ctrl-C."""
    from uniformer.web.app import serve_page

    serve_page(
        args.checkpoint, host=args.host, port=args.port, open_page=args.open, say=lambda line: say(line, flush=True),
        device=args.device, precision=args.precision, **told(args),
    )  # fmt: skip
    return 0

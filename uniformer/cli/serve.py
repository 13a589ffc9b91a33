"""`uniformer serve`: answer files that are posted over HTTP. See docs/serve.md."""

from __future__ import annotations

import argparse
import os

from uniformer.cli.options import (
    add_listening,
    add_reading,
    add_told,
    add_vocabulary,
    call,
    number,
    told,
    warn_of_others,
    whole,
)
from uniformer.cli.tables import say
from uniformer.errors import InputError
from uniformer.support.memory import keep_memory
from uniformer.support.texts import read_text

HELP = "answer files that are posted over HTTP"
TOKEN = "UNIFORMER_TOKEN"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--checkpoint",
        metavar="ID|FILE|REPO",
        help="checkpoint or exported file (default: the one in the package)",
    )
    add_listening(p, port=8000, size=256, of="a request")
    p.add_argument("--token-file", metavar="FILE", help=f"the token clients must send (default: the variable {TOKEN})")
    p.add_argument("--top-k", type=whole(1), default=5, metavar="K", help="labels of an answer (default: 5)")
    add_vocabulary(p)
    group = p.add_argument_group("limits")
    group.add_argument(
        "--max-seconds", type=number(0, 1e7), default=600, metavar="S",
        help="of a video that is looked at frame by frame (default: 600)",
    )  # fmt: skip
    group.add_argument("--max-requests", type=whole(1), default=64, metavar="N", help="at once (default: 64)")
    group.add_argument(
        "--timeout", type=number(0, 86_400), default=60, metavar="S",
        help="for a request to arrive, and then for its answer (default: 60)",
    )  # fmt: skip
    group.add_argument(
        "--wait", type=number(0, 1000, above=False), default=5, metavar="MS",
        help="that views wait for others to go through the network with (default: 5)",
    )  # fmt: skip
    add_reading(p)
    add_told(p)


def run(args: argparse.Namespace) -> int:
    from uniformer.checkpoints.records import BUNDLED
    from uniformer.inference.predictor import Predictor
    from uniformer.web.listening import listening_at
    from uniformer.web.server import serve
    from uniformer.web.service import Limits

    token = _token(args.token_file)
    limits = Limits(round(1e6 * args.max_size), args.timeout, args.max_seconds, args.max_requests)
    if token is None:
        warn_of_others(args.host, "no token")
    with listening_at(args.host, args.port) as listening:  # a network may take long to load, or to be fetched
        predictor = call(Predictor, args, model=args.checkpoint or BUNDLED, vocabulary=args.vocabulary, **told(args))
        name = predictor.contract.id or predictor.contract.arch

        def ready(address: str) -> None:
            keep_memory()  # there is no way back: not before this process is one that serves
            say(f"{name} at {address}", flush=True)

        serve(
            predictor, host=args.host, listening=listening, token=token, limits=limits, wait=args.wait / 1000,
            ready=ready,
        )  # fmt: skip
    return 0


def _token(path: str | None) -> str | None:
    """From a file or the environment: on the command line all users of the machine would see it."""
    given = os.environ.get(TOKEN) if path is None else read_text(path, "a token")
    token = None if given is None else given.strip()
    if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
        raise InputError(f"{path or TOKEN}: expected a token, a word of ASCII characters")
    return token

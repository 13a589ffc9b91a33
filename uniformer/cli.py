"""The command line: `uniformer COMMAND`. Each command is a module of `uniformer.commands`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from uniformer import __version__
from uniformer.commands import convert, evaluate, features, models, predict, verify
from uniformer.errors import InputError

COMMANDS = {
    "predict": predict,
    "eval": evaluate,
    "features": features,
    "models": models,
    "verify": verify,
    "convert": convert,
}
BAD_INPUT, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Bad input is one line on standard error and exit status 2; no traceback."""
    args = build_parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except InputError as error:
        print(f"uniformer: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("uniformer: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `uniformer models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="uniformer",
        description="UniFormer for images and video.",
        epilog="`uniformer COMMAND --help` tells more. Documentation: docs/quickstart.md",
    )
    parser.add_argument("--version", action="version", version=f"uniformer {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        sub = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())

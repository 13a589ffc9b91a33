"""The command line: `uniformer COMMAND`. Each command is a module of this package."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn, TextIO

import uniformer
from uniformer import __version__
from uniformer.cli import (
    app,
    bench,
    completion,
    convert,
    data,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    features,
    models,
    motion,
    predict,
    push,
    recipes,
    serve,
    stream,
    train,
    verify,
)
from uniformer.cli.unforeseen import unforeseen
from uniformer.errors import InputError, first_line, is_out_of_memory, shown

COMMANDS = {
    "demo": demo, "predict": predict, "motion": motion, "stream": stream, "serve": serve, "app": app,
    "explain": explain, "train": train, "eval": evaluate, "features": features, "recipes": recipes, "data": data,
    "models": models, "verify": verify, "convert": convert, "push": push, "export": export, "bench": bench,
    "doctor": doctor, "completion": completion,
}  # fmt: skip
BAD_INPUT, UNFORESEEN, INTERRUPTED = 2, 3, 130

#: Commands that end when the reader of their output goes, as in `uniformer models | head`: printing is all they do,
#: unless they were given a place for files.
PRINTING = (None, "demo", "predict", "motion", "stream", "eval", "recipes", "models", "verify", "doctor", "completion")
PLACES = ("out", "draw", "maps", "show_sampling")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Bad input is one line on standard error and exit status 2; no traceback.

    What nobody foresaw is one line too, and status 3: it says where the report with the traceback lies.
    """
    _open_closed_streams()
    try:
        args = parsed(argv)
        if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to stop
            sys.stdout.reconfigure(errors="backslashreplace")
        only_prints = args.command in PRINTING and not any(getattr(args, place, None) for place in PLACES)
        out, err = _output(sys.stdout, only_prints), _output(sys.stderr, False)
        with _warnings_in_one_line(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status: int = args.run(args)
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return _ended("interrupted", INTERRUPTED)
    except InputError as error:
        return _ended(str(error), BAD_INPUT)
    except OSError as error:  # a full disk behind standard output, a file system that fails
        place = f"{shown(error.filename, 500)}: " if error.filename else ""
        return _ended(f"{place}{shown(error.strerror or first_line(error), 500)}", BAD_INPUT)
    except Exception as error:
        if is_out_of_memory(error):
            return _ended(f"out of memory: {shown(first_line(error))}; smaller batches or views need less", BAD_INPUT)
        return _ended(unforeseen(error, sys.argv[1:] if argv is None else argv), UNFORESEEN)


def _open_closed_streams() -> None:
    """Where standard input, output or error is closed, as by `>&-`, nothing stands in for it: else the next file that
    is opened would have its number, and get what libraries print."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of one command. Ends the process where they are none."""
    args, rest = build_parser().parse_known_args(argv)
    if any(text.startswith("-") for text in rest) or (rest and "settings" not in args):
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes key=value settings up to the first option only
        args.settings += rest
    return args


def _ended(line: str, status: int) -> int:
    with contextlib.suppress(OSError):  # nobody reads standard error any more
        print(f"uniformer: {line}", file=sys.stderr, flush=True)
    return status


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """What the package itself warns of is for users: a line without a place in the code. Others' stay as they are."""
    others, here = warnings.showwarning, os.path.dirname(uniformer.__file__) + os.sep

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category is UserWarning and filename.startswith(here):
            print(f"uniformer: warning: {shown(message, 2000)}", file=sys.stderr)
        else:
            others(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = others


class _Output(io.FileIO):
    """Standard output or error. From when it cannot be written on, what follows goes nowhere; that its reader has gone
    `ends` the work, or is no matter."""

    def __init__(self, number: int, ends: bool):
        super().__init__(number, "w", closefd=False)
        self._ends = ends

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if self._ends or not isinstance(error, BrokenPipeError):
                raise
            return len(data)


def _output(old: TextIO, ends: bool) -> TextIO:
    if type(old) is not io.TextIOWrapper:  # what a caller from Python has put in its place
        return old
    old.flush()
    raw = io.BufferedWriter(_Output(old.fileno(), ends))
    return io.TextIOWrapper(raw, old.encoding, old.errors, line_buffering=True)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage; of several the one of what was asked for is in `parser`."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {shown(message, 500)} (see `{self.prog} --help`)\n")


def _with_packages(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """`run`, where a package of ours may be missing: exported files are run in installations without torch."""
    try:
        return run(args)
    except ModuleNotFoundError as error:
        package = (error.name or "uniformer").partition(".")[0]
        if package == "uniformer":
            raise
        raise InputError(f"this needs the package {package!r}, which is not installed: pip install {package}") from None


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="uniformer",
        description="UniFormer for images and video.",
        epilog="`uniformer COMMAND --help` tells more. Documentation: docs/quickstart.md",
    )
    parser.add_argument("--version", action="version", version=f"uniformer {__version__}")

    def help_(_: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    parser.set_defaults(run=help_)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, module in COMMANDS.items():
        sub = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(sub)
        sub.set_defaults(run=partial(_with_packages, module.run))
    commands.choices["completion"].set_defaults(program=parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

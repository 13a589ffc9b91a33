"""What the two ways of `predict` share: outputs over no inputs, what tells answers apart, what to say at last."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from uniformer.cli.tables import say
from uniformer.errors import counted
from uniformer.labels import names_file
from uniformer.support.files import check_outputs

if TYPE_CHECKING:
    from uniformer.tasks.task import Failure


def check_answers(args: argparse.Namespace, outputs: Sequence[Any], inputs: Sequence[str]) -> None:
    """No file is written over one that is read; with --resume, what is in a folder that is read may be results."""
    inputs = [path for path in (*inputs, args.checkpoint) if path and not (args.resume and os.path.isdir(path))]
    check_outputs(
        outputs, [*inputs, names_file(args.classes), args.boxes], overwrite=args.overwrite or args.resume
    )  # fmt: skip


def whose(args: argparse.Namespace, predictor: Any, options: Mapping[str, Any]) -> str:
    """What tells answers from those of other weights, and where options say what a file does not tell, or how answers
    are made, from those under others."""
    given = {name: getattr(args, name) for name in args.tellable} | dict(options)
    if args.classes is not None:
        given["classes"] = predictor.contract.classes  # a file may have other names by now
    given = {name: value for name, value in given.items() if value is not None}
    digest = hashlib.blake2b(json.dumps(given, sort_keys=True).encode(), digest_size=4).hexdigest()
    return predictor.network.weights + (f"+{digest}" if given else "")


def say_at_last(done: int, again: Collection[str], failures: Sequence[Failure], count: int) -> int:
    """How many had a result, which were done again, and what failed, of `count`; the exit status."""
    if done:
        say(f"{counted(done, 'file')} had a result already", file=sys.stderr)
    if again:
        say(f"{counted(len(again), 'file')} changed since, and done again", file=sys.stderr)
    if failures:
        say(f"{len(failures)} of {counted(count, 'file')} failed:", file=sys.stderr)
        for failure in failures:
            say(f"  {failure.source}", file=sys.stderr)
    return 1 if failures else 0

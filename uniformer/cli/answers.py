"""What the two ways of `predict` share: outputs over no inputs, what tells answers apart, and the way of answers."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniformer.cli.tables import say
from uniformer.errors import InputError, counted
from uniformer.labels import names_file
from uniformer.support.files import check_outputs

if TYPE_CHECKING:
    from uniformer.support.progress import Bar
    from uniformer.tasks.task import Failure, Result


def check_answers(args: argparse.Namespace, outputs: Sequence[Any], inputs: Sequence[str]) -> None:
    """No file is written over one that is read; with --resume, what is in a folder that is read may be results."""
    inputs = [path for path in (*inputs, args.checkpoint) if path and not (args.resume and os.path.isdir(path))]
    check_outputs(
        outputs, [*inputs, names_file(args.classes), args.boxes], overwrite=args.overwrite or args.resume
    )  # fmt: skip


def whose(args: argparse.Namespace, predictor: Any, options: Mapping[str, Any]) -> str:
    """What tells answers from those of other weights, and where options say what a file does not tell, or how answers
    are made, from those under others; the form that they were computed in, and where, as `results.recorded_form` reads
    it."""
    given = {name: getattr(args, name) for name in args.tellable} | dict(options)
    if args.precision != "float32":
        given["precision"] = args.precision
    if args.classes is not None:
        given["classes"] = predictor.contract.classes  # a file may have other names by now
    given = {name: value for name, value in given.items() if value is not None}
    digest = hashlib.blake2b(json.dumps(given, sort_keys=True).encode(), digest_size=4).hexdigest()
    network = predictor.network
    return f"{network.weights}{f'+{digest}' if given else ''} {network.exact_form} on {network.device_type}"


class Work:
    """What `predict` was asked for: the sources, which of them have an answer already, and where answers go as they
    come.

    Raises `InputError` where the one source is not there, and for a file of other answers.
    """

    def __init__(self, args: argparse.Namespace, form: Any, out: str | None, predictor: Any, told: Mapping[str, Any]):
        from uniformer.inference.results import Answers
        from uniformer.reading.paths import expand
        from uniformer.support.resume import Records

        since = os.stat(out).st_mtime_ns if args.resume and out and os.path.isfile(out) else None
        weights = "" if form == "table" else whose(args, predictor, told)
        self.answers = Answers(form, weights, predictor.task.result, since=since)
        self.records = Records[Any](Path(out), self.answers, resume=args.resume) if out else None
        self.done: set[Any] = set(self.records.read()) if self.records else set()
        self.failures: list[Failure] = []
        clips = predictor.spec is not None and predictor.spec.is_video
        self.sources = list(expand(args.paths, clips=clips, on_error=self._not_found))
        self._count = len(self.failures) + len(self.sources)
        if self._count == len(self.failures) == 1:
            raise InputError(self.failures[0].error)

    def _not_found(self, path: str, why: object) -> None:
        from uniformer.tasks.task import Failure

        self.failures.append(Failure(path, str(why)))

    @contextmanager
    def begun(self, bar: Bar) -> Iterator[None]:
        """Say what was not found; the file of answers is closed at the end."""
        self._bar = bar
        for failure in self.failures:
            bar.say(f"uniformer: {failure.error}")
        if self.records is None:
            print(self.answers.header.decode(), end="")
        with self.records or nullcontext():
            yield

    def keep(self, result: Result | Failure) -> None:
        """One more answer, or why there is none."""
        if self.records is None:
            print(self.answers.text(result), end="", flush=True)
        else:
            self.records.add(result)

    def fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        self._bar.say(f"uniformer: {failure.error}")

    def ended(self, had: int) -> int:
        """Say how many had an answer, which were done again, and what failed; the exit status."""
        again = self.answers.changed.intersection(self.sources)
        failed = list(dict.fromkeys(failure.source for failure in self.failures))  # of a video, several frames may be
        if had:
            say(f"{counted(had, 'file')} had a result already", file=sys.stderr)
        if again:
            say(f"{counted(len(again), 'file')} changed since, and done again", file=sys.stderr)
        if failed:
            say(f"{len(failed)} of {counted(self._count, 'file')} failed:", file=sys.stderr)
            for source in failed:
                say(f"  {source}", file=sys.stderr)
        return 1 if failed else 0

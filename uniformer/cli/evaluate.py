"""`uniformer eval`: test a checkpoint on a data set."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from uniformer.cli.options import (
    add_checkpoint_and_data,
    add_quiet,
    add_reading,
    add_told,
    call,
    number,
    told,
    whole,
)
from uniformer.cli.picture_options import add_ways_to_see
from uniformer.cli.tables import print_table, say, say_failed
from uniformer.errors import InputError
from uniformer.support.progress import Pace, progress_bar

if TYPE_CHECKING:
    from uniformer.evaluation.run import Evaluation

HELP = "test a checkpoint on a data set"


def add_arguments(p: argparse.ArgumentParser) -> None:
    add_checkpoint_and_data(p)
    add_reading(p)
    add_told(p, but=["classes"])  # there, those of the data
    add_quiet(p)
    p.add_argument(
        "--missing", default="error", choices=("error", "skip"),
        help="files without an answer: wrong (default: error), or left out",
    )  # fmt: skip
    p.add_argument(
        "--class-order", default="names", choices=("names", "numbers", "fix"),
        help="what labels mean: matched by name where data and checkpoint have names (default), rows of the "
        "classifier as they are, or read in the usual order of these classes that fits the answers",
    )  # fmt: skip
    p.add_argument(
        "--boxes", metavar="FILE",
        help="of a pose network: where people are, as a detector's COCO JSON (default: where they are annotated)",
    )  # fmt: skip
    add_ways_to_see(p)
    p.add_argument(
        "--out", metavar="DIR",
        help="write scores, metrics.json, report.html and the answers of dense networks there; also resumes from it",
    )  # fmt: skip
    p.add_argument("--overwrite", action="store_true", help="replace files of these names of another origin")
    p.add_argument("--form", default="npz", choices=("npz", "parquet"), help="of the scores (default: npz)")
    p.add_argument("--probe", choices=("linear", "knn"), help="test a plain classifier on the checkpoint's features")
    p.add_argument("--train", metavar="DATA", help="what to fit the probe to (default: the train split of DATA)")
    p.add_argument("--k", type=whole(1), default=20, metavar="N", help="neighbours of --probe knn (default: 20)")
    p.add_argument(
        "--temperature", type=number(0, 1e6), default=0.07, metavar="T", help="of --probe knn (default: 0.07)"
    )
    p.add_argument(
        "--c", type=number(0, 1e9), default=1.0, metavar="C",
        help="of --probe linear: larger is less regularised (default: 1)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Returns 1 if a file had no answer, unless such files are to be skipped."""
    from uniformer.evaluation.run import evaluate

    if args.probe and not args.out:
        raise InputError("--probe needs --out: the features are kept there")
    pace = Pace()
    with progress_bar("items", shown=not args.quiet) as bar:
        answers = {name: value for name in ("mode", "flip") if (value := getattr(args, name)) is not None}
        result = call(evaluate, args, progress=bar, pace=pace, say=say, **told(args), **answers)
    if not result.is_main:
        return 0
    if pace.samples:
        say(pace.verdict("clips" if result.spec.is_video else "images"), file=sys.stderr)
    _show(result, args.data)
    if args.out:
        more = " and the answers" if len(result.paths) > 3 else ""
        say(f"wrote scores, metrics.json and report.html{more} to {args.out}")
    return 1 if args.missing == "error" and not result.scores.ok.all() else 0


def _show(result: Evaluation, data: str) -> None:
    from uniformer.reports.measures import figures

    about = result.about
    say(about.title)
    for line in about.lines[1:]:
        say(f"  {line}")
    print_table((), figures(result.metrics), right=(0,))
    if about.known:
        say(f"  {about.known}")
    for note in about.notes:
        say(f"note: {note}")
    say_failed(result.scores.errors, data)

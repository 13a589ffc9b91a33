"""`uniformer motion`: what the camera does in each of many clips, as a table; and clips chosen by it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniformer.cli.options import add_device, add_quiet, add_timeline, add_told, add_vocabulary, call, number, told
from uniformer.cli.tables import say, say_failed
from uniformer.errors import InputError, counted
from uniformer.labels import plain_name
from uniformer.support.progress import progress_bar

if TYPE_CHECKING:
    from uniformer.datasets.clips import ClipTable
    from uniformer.timelines.motions import Asked

HELP = "name the camera's motion in each of many clips, and choose clips by it"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "clips", nargs="+", metavar="TABLE|VIDEO",
        help="a table of clips (.csv, .tsv, .jsonl, .json, .parquet) with a column path; or files, folders, patterns",
    )  # fmt: skip
    p.add_argument("--out", metavar="FILE", help="a table of all rows: .csv, .jsonl or .parquet; a run goes on there")
    p.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    p.add_argument("--root", metavar="DIR", help="where the paths of a table begin (default: its own folder)")
    p.add_argument(
        "--expect", nargs="+", metavar="MOTION", default=[],
        help="such as push-in: without --out print the clips that have it; exit status 1 where one has not",
    )  # fmt: skip
    p.add_argument(
        "--static-from", type=number(0, 1, above=False), metavar="P",
        help="probability of standing from which a clip counts as static (default: 0.3, calibrated)",
    )  # fmt: skip
    add_timeline(p, "clip", "seen at once")
    add_vocabulary(p)
    add_quiet(p)
    add_device(p)
    add_told(p, but=["window", "global_every"])  # as for `demo`


def run(args: argparse.Namespace) -> int:
    """Returns 1 if a clip could not be read, or is not as expected."""
    from uniformer.timelines.motions import STATIC, Asked

    static = STATIC if args.static_from is None else args.static_from
    asked = Asked(tuple(args.expect), static, args.window, not args.no_cuts, args.min_confidence, args.amounts)
    table = _table(args)
    return _write(args, table, asked) if args.out else _print(args, table, asked)


def _table(args: argparse.Namespace) -> ClipTable:
    from uniformer.datasets.clips import TABLES, clips_of_paths, open_clips
    from uniformer.reading.paths import expand

    tables = [path for path in args.clips if Path(path).suffix.lower() in TABLES]
    if not tables:
        paths = list[str]()  # of several arguments one with nothing behind it stands for itself: its answer says so
        on_error = None if len(args.clips) == 1 else lambda argument, _: paths.append(argument)
        for path in expand(args.clips, clips=True, on_error=on_error):
            paths.append(path)
        return clips_of_paths(paths)
    if len(args.clips) > 1:
        raise InputError(f"expected one table of clips, or files alone, got {tables[0]} and more")
    return open_clips(Path(tables[0]), args.root)


def _write(args: argparse.Namespace, table: ClipTable, asked: Asked) -> int:
    from uniformer.checkpoints.records import BUNDLED
    from uniformer.timelines.motions import find_motions

    with progress_bar("clips", shown=not args.quiet) as bar:
        more = {"clips": table, "checkpoint": args.checkpoint or BUNDLED, "asked": asked, "progress": bar}
        found = call(find_motions, args, **more, **told(args))
    if found.is_main:
        if found.note:
            say(f"note: {found.note}", file=sys.stderr)
        unexpected = f", {found.unexpected} not as expected" * bool(asked.expect)
        say(f"wrote {counted(found.clips, 'clip')} to {args.out}{unexpected}")
        say_failed(found.errors, args.clips[0])
        if found.failed:
            say(f"{found.failed} of {counted(found.clips, 'clip')} failed", file=sys.stderr)
    return 1 if found.failed or found.unexpected else 0


def _print(args: argparse.Namespace, table: ClipTable, asked: Asked) -> int:
    """The answers as they come; with `--expect` the names of the clips that are as expected, and no more."""
    from uniformer.checkpoints.records import BUNDLED
    from uniformer.inference.predictor import Predictor
    from uniformer.timelines.motions import EXPECTED, Answering

    predictor = Predictor(args.checkpoint or BUNDLED, device=args.device, vocabulary=args.vocabulary, **told(args))
    answering, count, failed, unexpected = Answering(predictor, asked), table.check(), 0, 0
    with progress_bar("clips", shown=count > 1 and not args.quiet) as bar:
        for place, row in enumerate(table.read()):
            said = answering.row(table, row, place)
            if why := said.get("motion_error"):
                if count == 1:
                    raise InputError(why)
                bar.say(f"uniformer: {why}")
                failed += 1
            elif asked.expect and not said[EXPECTED]:
                unexpected += 1
            else:
                path, _ = table.clip_of(row, place)
                say(path if asked.expect else f"{path}: {_in_words(said)}", flush=True)
            bar(place + 1, count)
    if failed:
        say(f"{failed} of {counted(count, 'clip')} failed", file=sys.stderr)
    return 1 if failed or unexpected else 0


def _in_words(said: dict[str, Any]) -> str:
    from uniformer.timelines.rows import TOO_SHORT

    if not said["motion"]:
        return TOO_SHORT
    share = f"{100 * said['motion_share']:.0f} % of {said['motion_seconds']:.1f} s"
    shots = f", {said['motion_shots']} shots" * (said["motion_shots"] > 1)
    return f"{plain_name(said['motion'])} ({100 * said['motion_confidence']:.0f} %), {share}{shots}"

"""`uniformer data scan|split|prepare|make`: look at a data set, divide it, make it fast to read, or make one."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from uniformer.cli.options import add_data, add_quiet, call, whole
from uniformer.cli.tables import say
from uniformer.config import DenseTask, InputSpec
from uniformer.errors import InputError, counted, shown
from uniformer.labels import names_file
from uniformer.support.files import as_given, check_outputs, make_folder
from uniformer.support.progress import progress_bar

if TYPE_CHECKING:
    from uniformer.datasets.findings import Finding
    from uniformer.datasets.scan import ScanResult

NAMED = 5  # examples of a finding on the terminal
HELP = "look at a data set, divide it, re-encode it for fast reading, or make one"


def add_arguments(p: argparse.ArgumentParser) -> None:
    tasks = p.add_subparsers(dest="action", metavar="ACTION", required=True)

    scan = tasks.add_parser("scan", help="read every file once; HTML report, and a manifest that training uses")
    _add_source(scan, "default: all")
    scan.add_argument("--out", metavar="DIR", help="default: DATA.scan beside it")
    scan.add_argument("--checkpoint", metavar="ID", help="check clip lengths against what this checkpoint is fed")
    scan.add_argument(
        "--task", choices=get_args(DenseTask), help="of annotated pictures, where several kinds of annotation are there"
    )
    scan.add_argument("--full", action="store_true", help="decode every frame, not the first and last wanted ones only")
    scan.add_argument("--no-resume", action="store_true", help="forget what an earlier scan found")
    scan.add_argument("--overwrite", action="store_true", help="replace a report and manifests that no scan wrote")
    scan.set_defaults(action=_scan)

    split = tasks.add_parser("split", help="divide a data set by groups, with each class in proportion")
    _add_source(split)
    split.add_argument(
        "--fractions", metavar="NAME=SHARE,...", default="train=0.8,val=0.2",
        help="the parts, which add up to 1 (default: train=0.8,val=0.2)",
    )  # fmt: skip
    split.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="another division of the same data (default: 0)"
    )
    split.add_argument("--out", metavar="DIR", required=True, help="a list for each part is written there")
    split.add_argument("--overwrite", action="store_true", help="replace lists that are there")
    split.set_defaults(action=_split)

    prepare = tasks.add_parser("prepare", help="re-encode videos to a short side and a short GOP")
    _add_source(prepare)
    prepare.add_argument("--out", metavar="DIR", required=True, help="folder of the new files and their manifest")
    prepare.add_argument(
        "--short-side", type=whole(2, 100_000), default=256, metavar="PIXELS",
        help="smaller videos keep their size (default: 256)",
    )  # fmt: skip
    prepare.add_argument(
        "--gop", type=whole(1, 1_000_000), default=16, metavar="FRAMES",
        help="from one keyframe to the next (default: 16)",
    )  # fmt: skip
    prepare.add_argument("--overwrite", action="store_true", help="replace files that no earlier run wrote")
    prepare.add_argument(
        "--codec", default="h264", metavar="NAME", help="h264 (default), or mjpeg: larger, and quickest to read"
    )
    prepare.set_defaults(action=_prepare)

    make = tasks.add_parser("make", help="make a benchmark; a run that was stopped goes on")
    _add_benchmarks(make)


def _add_benchmarks(make: argparse.ArgumentParser) -> None:
    names = make.add_subparsers(dest="benchmark", metavar="NAME", required=True)

    motion = names.add_parser("camera-motion", help="clips of what a camera does: 20 classes")
    motion.add_argument("out", metavar="OUT", help="folder to write to")
    for part, count in (("train", 10_000), ("val", 1_000), ("test", 2_000)):
        motion.add_argument(f"--{part}", type=whole(0, 10**8), default=count, metavar="CLIPS", help=f"default: {count}")
    motion.add_argument(
        "--worlds", default="doom,photos", metavar="NAME,...",
        help="where it is filmed, in turns (default: doom,photos)",
    )  # fmt: skip
    motion.add_argument("--photos", metavar="DIR", help="photographs to use besides scikit-image's")
    motion.set_defaults(action=_make_camera_motion)

    rooms = names.add_parser("rooms", help="pictures of rooms with boxes, instance masks and label maps")
    rooms.add_argument("out", metavar="OUT", help="folder to write to")
    rooms.add_argument(
        "--pictures", type=whole(2, 10**7), default=3600, metavar="N",
        help="of which every sixth is to validate (default: 3600)",
    )  # fmt: skip
    rooms.add_argument("--size", default="640x480", metavar="WxH", help="of the pictures (default: 640x480)")
    rooms.set_defaults(action=_make_rooms)

    for benchmark in (motion, rooms):
        benchmark.add_argument("--seed", type=whole(0), default=0, metavar="N", help="another set (default: 0)")
        benchmark.add_argument("--workers", type=whole(0, 1024), metavar="N", help="processes (default: one per core)")
        add_quiet(benchmark)


def _add_source(p: argparse.ArgumentParser, split: str = "default: what is there must be one set") -> None:
    p.add_argument("source", metavar="DATA", help="a folder, a list of files or a saved manifest")
    add_data(p, split)
    add_quiet(p)
    p.add_argument("--workers", type=whole(0, 1024), metavar="N", help="processes (default: one per core)")


def run(args: argparse.Namespace) -> int:
    return args.action(args)


def _scan(args: argparse.Namespace) -> int:
    from uniformer.checkpoints.records import get_checkpoint
    from uniformer.datasets.annotated import annotated_kind
    from uniformer.datasets.open import find_splits, open_dataset
    from uniformer.datasets.scan import scan
    from uniformer.datasets.statement import statement

    if args.task or annotated_kind(args.source):
        return _scan_annotated(args)
    splits = [args.split] if args.split else find_splits(args.source)
    sets = {name or "all": call(open_dataset, args, split=name) for name in splits or [None]}
    for line in statement(sets):
        say(line)
    out = _scan_folder(args)
    known = get_checkpoint(args.checkpoint).input if args.checkpoint else None
    spec = known if isinstance(known, InputSpec) else None
    with progress_bar("files", shown=not args.quiet) as progress:
        result = call(scan, args, sets=sets, out=out, spec=spec, resume=not args.no_resume, progress=progress)
    return _say_what_was_found(args, out, result)


def _scan_annotated(args: argparse.Namespace) -> int:
    from uniformer.datasets.annotated import find_annotated_splits, open_annotated
    from uniformer.datasets.annotated_scan import scan_annotated

    of_lists = ("checkpoint", "full", "root", "label_base", "allow_duplicates")
    if given := next((name for name in of_lists if getattr(args, name)), None):
        raise InputError(f"expected no --{given.replace('_', '-')} for annotated pictures, got it")
    splits = [args.split] if args.split else find_annotated_splits(args.source, task=args.task)
    sets = {name or "all": call(open_annotated, args, split=name) for name in splits or [None]}
    for name, data in sets.items():
        say(f"{name}: {data.origin}")  # its findings are among those of the scan
    out = _scan_folder(args)
    with progress_bar("pictures", shown=not args.quiet) as progress:
        result = call(scan_annotated, args, sets=sets, out=out, resume=not args.no_resume, progress=progress)
    return _say_what_was_found(args, out, result)


def _say_what_was_found(args: argparse.Namespace, out: Path, result: ScanResult) -> int:
    from uniformer.reports.dataset import write_dataset_page

    write_dataset_page(result.report, result)
    for finding in result.findings:
        say(f"{finding.level}: {finding.text}")
        if finding.level != "note":
            _print_examples(finding, args.source)
    say(f"report: {result.report}")
    for path in result.manifests.values():
        say(f"manifest: {path}")
    say(f"next: {_next(args, out, result)}")
    return 0 if result.is_fit else 1


def _print_examples(finding: Finding, source: str) -> None:
    """Which they are: the first few, and how many more the report has."""
    for example in finding.examples[:NAMED]:
        say(as_given(f"  {': '.join(example)}", source))
    if finding.count > NAMED:
        say(f"  and {finding.count - NAMED} more in the report")


def _next(args: argparse.Namespace, out: Path, result: ScanResult) -> str:
    """What to do now, as a command where it is one."""
    worst = {finding.title for finding in result.findings if finding.level == "error"}
    if worst - {"unreadable"} or (worst and not result.manifests):
        return "mend what the errors say, and scan again: only new and changed files are looked at"
    if lack := _lack(result):
        return f"{lack}: nothing can be learnt from this set"
    if not result.manifests:
        return shlex.join(["uniformer", "train", os.fspath(args.source), *_told(args)])
    start = ["--checkpoint", args.checkpoint] if args.checkpoint else []
    told = ", which leaves out what cannot be read" if worst else ""
    return shlex.join(["uniformer", "train", os.fspath(out), *start]) + told


def _lack(result: ScanResult) -> str:
    """What must be there before the set can be learnt from."""
    from uniformer.datasets.annotated import AnnotatedSet

    left = (result.sets.get("train") or next(iter(result.sets.values()))).usable()
    if not len(left):
        return "add files that can be read"
    if isinstance(left, AnnotatedSet) and left.maps is None and not left.instances.learnt().any():
        return "mark key points of people" if left.task == "pose" else "annotate instances, not crowds alone"
    return ""


def _told(args: argparse.Namespace) -> list[str]:
    """What was said of annotated pictures, for training, where what is started from says what they are for."""
    from uniformer.datasets.annotated import annotated_kind
    from uniformer.training.own_dense import STARTS

    is_other = args.task and args.task != annotated_kind(args.source)
    said = {"checkpoint": STARTS[args.task] if is_other else None, "split": args.split, "classes": args.classes}
    return [word for name, value in said.items() if value for word in (f"--{name}", value)]


def _scan_folder(args: argparse.Namespace) -> Path:
    """Where the results go: by default beside what is scanned, also where that is called "." or ".."."""
    from uniformer.datasets.scan import JOURNAL

    source = Path(args.source)
    named = source if source.name not in ("", "..") else Path(os.path.abspath(source))
    out = Path(args.out) if args.out else named.with_name(f"{named.name}.scan")
    _check_journal(args, out / JOURNAL)
    return out


def _split(args: argparse.Namespace) -> int:
    from uniformer.datasets.prepare import split, write_list

    fractions = dict[str, float]()
    for part in args.fractions.split(","):
        name, _, value = (text.strip() for text in part.partition("="))
        try:
            if not name or name in fractions or Path(name).name != name:  # each names a file of its own in --out
                raise ValueError
            fractions[name] = float(value)
        except ValueError:
            raise InputError(f"expected --fractions like train=0.8,val=0.2, got {shown(args.fractions)}") from None
    manifest = _manifest(args)
    lists = {Path(args.out, f"{name}.csv"): part for name, part in split(manifest, fractions, seed=args.seed).items()}
    check_outputs(lists, [args.source, names_file(args.classes)], overwrite=args.overwrite)
    make_folder(args.out)
    for path, part in lists.items():
        write_list(part, path)
        say(f"{path}: {len(part)} of {counted(len(manifest), 'item')}")
    if "train" in fractions:
        say(f"next: {shlex.join(['uniformer', 'train', args.out])}")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    from uniformer.datasets.prepare import JOURNAL, reencode

    manifest = _manifest(args)
    _check_journal(args, Path(args.out, JOURNAL))
    with progress_bar("videos", shown=not args.quiet) as progress:
        result = call(reencode, args, manifest=manifest, progress=progress)
    say(result)
    for path, reason in result.failed.items():
        say(as_given(f"  {path}: {reason}", args.source))
    say(f"manifest: {result.path}")
    say(f"next: {shlex.join(['uniformer', 'train', args.out])}")
    return 1 if result.failed else 0


def _made(args: argparse.Namespace, things: str, make: Callable[..., Any]) -> tuple[Any, str]:
    """What making a benchmark's pictures or clips answers, and how long it took, in words."""
    import time

    began = time.monotonic()
    workers = os.cpu_count() or 1 if args.workers is None else args.workers
    with progress_bar(things, shown=not args.quiet) as progress:
        made = make(Path(args.out), seed=args.seed, workers=workers, progress=progress)
    seconds = time.monotonic() - began
    return made, f"in {seconds:.0f} s: {made.new / max(seconds, 1e-9):.1f} {things}/s"


def _make_rooms(args: argparse.Namespace) -> int:
    from uniformer.doom.make import make

    made, time_taken = _made(args, "pictures", partial(make, pictures=args.pictures, size=args.size))
    for split, per_class in made.per_split.items():
        say(f"{split}: {', '.join(f'{name} {count}' for name, count in per_class.items())}")
    if made.new:
        say(f"made {made.new} of {made.pictures} {time_taken}")
    return 0


def _make_camera_motion(args: argparse.Namespace) -> int:
    from uniformer.camera_motion.make import make

    counts = {split: getattr(args, split) for split in ("train", "val", "test")}
    worlds = [world.strip() for world in args.worlds.split(",") if world.strip()]
    photo_folder = Path(args.photos) if args.photos else None
    made, time_taken = _made(args, "clips", partial(make, **counts, worlds=worlds, photo_folder=photo_folder))
    for split, per_class in made.per_class.items():
        each = sorted(set(per_class.values()))
        balance = (
            f", {'-'.join(map(str, each[:1] + each[1:][-1:]))} of each of {counted(len(per_class), 'class')}"
            if each
            else ""
        )
        say(f"{split}: {counted(sum(per_class.values()), 'clip')}{balance}")
    if made.new:
        say(f"made {made.new} ({made.drawn} drawn) {time_taken}")
    say(f"next: {shlex.join(['uniformer', 'train', 'uniformer_nano_camera_motion', f'data.root={args.out}'])}")
    return 0


def _check_journal(args: argparse.Namespace, journal: Path) -> None:
    """A list that has the journal's name is not gone on with."""
    check_outputs([journal], [] if Path(args.source).is_dir() else [args.source], overwrite=True)


def _manifest(args: argparse.Namespace) -> Any:
    from uniformer.datasets.annotated import annotated_kind
    from uniformer.datasets.open import open_dataset
    from uniformer.datasets.statement import statement

    if kind := annotated_kind(args.source):
        raise InputError(f"{args.source}: expected files with a class each, found pictures annotated for {kind}")
    manifest = call(open_dataset, args)
    for line in statement({args.split or "all": manifest}):
        say(line)
    return manifest

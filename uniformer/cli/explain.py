"""`uniformer explain`: where and when a network looked for its answer, over pictures, clips and whole videos."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniformer.cli.options import add_device, add_quiet, add_told, told, whole
from uniformer.cli.tables import say
from uniformer.errors import InputError
from uniformer.labels import names_file
from uniformer.support.files import check_outputs, distinct_names
from uniformer.support.progress import progress_bar

if TYPE_CHECKING:
    from uniformer.explanations.explain import Explainer
    from uniformer.explanations.explanation import Explanation

HELP = "show where and when a network looked for its answer"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("paths", nargs="+", metavar="PATH", help="image, video, folder of frames, folder, pattern or list")
    p.add_argument(
        "--checkpoint", metavar="ID|FILE|REPO", help="whose answer is explained (default: the one in the package)"
    )
    p.add_argument("--out", required=True, metavar="DIR", help="of each file a sheet, arrays and, of videos, a film")
    p.add_argument(
        "--class", dest="target", metavar="NAME", help="class or key point (default: what the network would say)"
    )
    p.add_argument(
        "--number", type=whole(1), default=1, metavar="N", help="box or person of it, best first (default: 1)"
    )
    p.add_argument(
        "--boxes", metavar="FILE|CHECKPOINT", help="of poses: where people are, or a detector that finds them"
    )
    p.add_argument(
        "--map", choices=("stage4", "stage3", "stage2", "stage1", "attention", "kept"),
        help="that films show (default: stage4, of pixels and key points stage2, of boxes by their size)",
    )  # fmt: skip
    p.add_argument("--timeline", action="store_true", help="of clips: see a long video through windows, as `demo` does")
    p.add_argument(
        "--every", type=whole(1), default=1, metavar="N", help="of pictures' networks: every Nth frame (default: 1)"
    )
    p.add_argument("--overwrite", action="store_true", help="replace what is there of an earlier one")
    add_quiet(p)
    add_device(p)
    add_told(p)


def run(args: argparse.Namespace) -> int:
    """Explain files one after the other. Returns 1 if any failed."""
    from uniformer.checkpoints.records import BUNDLED
    from uniformer.explanations.explain import Explainer
    from uniformer.inference.people import people_from
    from uniformer.reading.paths import expand
    from uniformer.reports.explanation import save_explanation

    people = {} if args.boxes is None else {"people": people_from(args.boxes, device=args.device).people}
    explainer = Explainer(args.checkpoint or BUNDLED, device=args.device, **told(args), **people)
    is_of_clips = explainer.predictor.spec is not None and explainer.predictor.spec.is_video
    if args.timeline and not is_of_clips:
        raise InputError("--timeline is for networks of clips, got one of pictures: it explains each frame of a video")
    explainer.check_target(args.target)
    failed, explained = list[str](), 0
    given = expand(args.paths, clips=is_of_clips, on_error=lambda _, why: failed.append(str(why)))
    sources = list(dict.fromkeys(given))
    if len(failed) == 1 and not sources:
        raise InputError(failed[0])
    places = _places(args.out, sources)
    outputs = [path for files in places.values() for path in files.values()]
    check_outputs(
        outputs, [*sources, args.checkpoint, names_file(args.classes), args.boxes], overwrite=args.overwrite
    )  # fmt: skip
    with progress_bar("files", shown=len(sources) > 1 and not args.quiet) as bar:
        for line in failed:
            bar.say(f"uniformer: {line}")
        for number, (source, files) in enumerate(places.items(), start=1):
            try:
                found = _explained(args, explainer, source, is_of_clips)
                note = save_explanation(found, source, files, args.map)
                for line in (*found.notes, *filter(None, [note])):
                    bar.say(_said(source, line))
                say(_line(found, source, files))
                explained += 1
            except InputError as error:
                line = _said(source, str(error))
                if len(sources) == 1:
                    raise InputError(line) from None
                failed.append(source)
                bar.say(f"uniformer: {line}")
            bar(number, len(sources))
    if failed:
        say(f"{len(failed)} failed, {explained} explained", file=sys.stderr)
    return 1 if failed else 0


def _said(source: str, line: str) -> str:
    return line if source in line else f"{source}: {line}"


def _explained(args: argparse.Namespace, explainer: Explainer, source: str, is_of_clips: bool) -> Explanation:
    from uniformer.cli.predict_pictures import is_film

    if args.timeline:
        return explainer.timeline(source, args.target)
    if not is_of_clips and is_film(source):
        return explainer.frames(source, args.target, number=args.number, every=args.every)
    return explainer(source, args.target, number=args.number)


def _places(out: str, sources: list[str]) -> dict[str, dict[str, Path]]:
    """The files of each source."""
    from uniformer.cli.predict_pictures import is_film
    from uniformer.reading.sources import path_of
    from uniformer.tasks.drawn_film import FILMS

    found: dict[str, dict[str, Path]] = {}
    stems = distinct_names([os.path.splitext(path_of(source))[0] for source in sources])
    for source, stem in zip(sources, stems, strict=True):
        found[source] = {"sheet": Path(out, f"{stem}.explained.png"), "arrays": Path(out, f"{stem}.explained.npz")}
        if is_film(source) and not os.path.isdir(source):
            ending = os.path.splitext(path_of(source))[1].lower()
            found[source]["film"] = Path(out, f"{stem}.explained{ending if ending in FILMS else '.mp4'}")
    return found


def _line(found: Explanation, source: str, files: dict[str, Path]) -> str:
    """What was explained, and where it lies."""
    names: dict[str, Any] = dict.fromkeys(part.name for part in found.parts)
    value = f" ({found.parts[0].value:.3f})" if len(found.parts) == 1 else ""
    return f"{source}: {', '.join(names)}{value} -> {', '.join(path.name for path in files.values())}"

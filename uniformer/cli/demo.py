"""`uniformer demo`: what is the camera doing? Without a file, in a film made on the spot; else in your own videos.

The model is the one in the package, so nothing is fetched.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from uniformer.cli.options import number, whole
from uniformer.cli.tables import print_table, say
from uniformer.errors import InputError
from uniformer.support.files import atomic_path, check_outputs, make_folder, system_folder
from uniformer.support.progress import progress_bar

if TYPE_CHECKING:
    from uniformer.camera_motion.film import Take, Verdict
    from uniformer.inference.predictor import Predictor
    from uniformer.timelines.timeline import Segment, Timeline

HELP = "name the motion of the camera over time, in a film made on the spot or in your own videos"
PAGE = "uniformer-demo.html"
FILES = tuple(f"timeline.{form}" for form in ("json", "csv", "srt", "html"))  # of a video


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("videos", nargs="*", metavar="VIDEO", help="your own videos (default: a film made on the spot)")
    p.add_argument(
        "--out",
        metavar="DIR|HTML",
        help="with videos: a folder for timeline.json, .csv, .srt and page; "
        f"without: the name of the page (default: {PAGE})",
    )
    p.add_argument("--overwrite", action="store_true", help="replace what is there of an earlier one")
    p.add_argument("--seed", type=whole(0), metavar="N", help="another film (default: 0)")
    p.add_argument(
        "--checkpoint", metavar="ID|FILE|REPO", help="another network of clips (default: the one in the package)"
    )
    p.add_argument(
        "--window", type=number(0, 86_400), metavar="SECONDS", help="that the network sees at once (default: about 2)"
    )
    p.add_argument("--no-cuts", action="store_true", help="take each video for one shot")
    p.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU when there is one)")


def run(args: argparse.Namespace) -> int:
    """Returns 1 if one of several videos failed."""
    from uniformer.checkpoints.records import BUNDLED
    from uniformer.inference.predictor import Predictor

    if args.videos and args.seed is not None:
        raise InputError("--seed is for the demo's own film: expected no videos with it")
    files = [place / name for place in _places(args.out, args.videos) if place for name in FILES]
    inputs = [*args.videos, *filter(None, [args.checkpoint])]
    check_outputs(files if args.videos else [args.out or PAGE], inputs, overwrite=args.overwrite)
    predictor = Predictor(args.checkpoint or BUNDLED, device=args.device)
    return _own_videos(args, predictor) if args.videos else _made_film(args, predictor)


# ---- the film made on the spot ---------------------------------------------------------------------------------------


def _made_film(args: argparse.Namespace, predictor: Predictor) -> int:
    from uniformer.camera_motion.film import judge, make_film
    from uniformer.reports.film import write_film_page

    page, seed = Path(args.out or PAGE), args.seed or 0
    _check_names(predictor)
    make_folder(page.parent)
    with system_folder("demo") as folder:
        film = folder / "film.mp4"
        begin = time.perf_counter()
        takes = make_film(film, seed)
        made = time.perf_counter()
        timeline = _timeline(film, args, predictor)
        verdicts = judge(takes, timeline)
        say(
            f"{len(takes)} shots filmed from photographs (seed {seed}) in {made - begin:.1f} s, "
            f"seen by {timeline.checkpoint} in {time.perf_counter() - made:.1f} s\n"
        )
        _print_verdicts(verdicts)
        right = sum(verdict.is_right for verdict in verdicts)
        say(f"\n{right} of {len(verdicts)} right; {_cuts_found(takes, timeline)}")
        write_film_page(page, timeline, film, verdicts, title="What is the camera doing?")
    say(f"page: {page}")
    return 0


def _check_names(predictor: Predictor) -> None:
    from uniformer.camera_motion.classes import CLASSES

    missing = [name for name in CLASSES if name not in predictor.contract.classes]
    if missing:
        name = predictor.contract.id or predictor.contract.arch or "this one"
        raise InputError(
            f"expected a checkpoint that names camera motion for the demo's film; {name} has no {missing[0]}"
        )


def _print_verdicts(verdicts: Iterable[Verdict]) -> None:
    from uniformer.timelines.timeline import plain_name

    rows = [
        (
            f"{v.take.start:.1f} - {v.take.end:.1f}",
            plain_name(v.take.motion),
            *_answer(v.row),
            "right" if v.is_right else "WRONG",
        )
        for v in verdicts
    ]
    print_table(("seconds", "what was filmed", "what the network saw", "", ""), rows, right=(0, 3))


def _cuts_found(takes: Sequence[Take], timeline: Timeline) -> str:
    frame = 1 / (timeline.fps or 1)
    cuts = [row.start for before, row in zip(timeline.rows, timeline.rows[1:], strict=False) if row.shot != before.shot]
    found = sum(any(abs(cut - take.start) < frame / 2 for cut in cuts) for take in takes[1:])
    return f"{found} of {len(takes) - 1} cuts found" + (f", {len(cuts) - found} that are none" * (len(cuts) > found))


# ---- the user's videos -----------------------------------------------------------------------------------------------


def _own_videos(args: argparse.Namespace, predictor: Predictor) -> int:
    places = list(_places(args.out, args.videos))
    if args.out is not None:
        make_folder(Path(args.out))  # what cannot be written to is said before hours of work
    failures = 0
    for video, place in zip(args.videos, places, strict=True):
        try:
            timeline = _timeline(Path(video), args, predictor)
            _print_timeline(timeline)
            if place is not None:
                _save(timeline, Path(video), place)
        except InputError as error:
            if len(args.videos) == 1:
                raise
            say(f"uniformer: {error}", file=sys.stderr)
            failures += 1
    if failures:
        say(f"{failures} of {len(args.videos)} files failed", file=sys.stderr)
    return 1 if failures else 0


def _timeline(video: Path, args: argparse.Namespace, predictor: Predictor) -> Timeline:
    from uniformer.timelines.timeline import timeline

    with progress_bar(video.name) as bar:
        return timeline(
            video,
            predictor,
            window=args.window,
            cuts=not args.no_cuts,
            progress=lambda done, total: bar(round(done), round(total)),
        )


def _places(out: str | None, videos: Sequence[str]) -> Iterator[Path | None]:
    """The folder of each video's results: `out`, or one in it for each of several, by their names."""
    seen = Counter[str]()
    for video in videos:
        name = Path(video).name
        seen[name] += 1
        again = f".{seen[name]}" if seen[name] > 1 else ""
        yield None if out is None else Path(out) if len(videos) == 1 else Path(out, name + again)


def _save(timeline: Timeline, video: Path, folder: Path) -> None:
    from uniformer.reports.timeline import write_timeline_page

    make_folder(folder)
    *texts, page = (folder / name for name in FILES)
    for path, text in zip(texts, (timeline.to_json(), timeline.to_csv(), timeline.to_srt()), strict=True):
        with atomic_path(path) as temporary:
            temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
    write_timeline_page(page, timeline, video, title=video.name)
    say(f"{folder}: {', '.join(FILES)}")


def _print_timeline(timeline: Timeline) -> None:
    rows = [(str(row.shot), _minutes(row.start), _minutes(row.end), *_answer(row)) for row in timeline.rows]
    say(timeline.source)
    print_table(("shot", "start", "end", "motion", "confidence"), rows, right=(0, 1, 2, 4))
    for note in timeline.notes:
        say(f"note: {note}")


def _answer(row: Segment) -> tuple[str, str]:
    """What the network says of a row, and how sure it is."""
    from uniformer.timelines.timeline import plain_name

    share = "" if row.confidence is None else f"{100 * row.confidence:.0f} %"
    return plain_name(row.motion) or "(too short to tell)", share


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(100 * seconds), 6000)
    return f"{minutes}:{rest / 100:05.2f}"

"""`uniformer demo`: what is the camera doing? Without a file, in a film made on the spot; else in your own videos.

The model is the one in the package, so nothing is fetched.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from uniformer.cli.options import add_device, add_quiet, add_timeline, add_told, add_vocabulary, told, whole
from uniformer.cli.tables import print_table, say
from uniformer.errors import InputError, counted
from uniformer.labels import names_file, plain_name
from uniformer.reading.sources import is_url, path_of
from uniformer.support.files import (
    check_outputs,
    distinct_names,
    folder_to_fill,
    is_no_folder,
    system_folder,
    write_whole,
)
from uniformer.support.progress import progress_bar
from uniformer.tasks.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from uniformer.camera_motion.film import Take, Verdict
    from uniformer.inference.predictor import Predictor
    from uniformer.timelines.timeline import Timeline

HELP = "name the motion of the camera over time, in a film made on the spot or in your own videos"
PAGE = "uniformer-demo.html"
FORMS = ("json", "csv", "srt", "html")  # of a video's timeline
MARKERS = ("edl", "fcpxml", "otio")  # and of its markers, where they are asked for


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "videos", nargs="*", metavar="VIDEO",
        help="your own: files, folders, patterns, lists as .txt (default: a film made on the spot)",
    )  # fmt: skip
    p.add_argument(
        "--out", metavar="DIR|HTML",
        help="with videos: a folder for timeline.json, .csv, .srt and page, or of one video the name of its page; "
        f"without: the name of the page (default: {PAGE}, or the next free name of its kind)",
    )  # fmt: skip
    p.add_argument(
        "--draw", metavar="DIR|FILM",
        help="with videos: copies of them with their sound, and over them what is seen when",
    )  # fmt: skip
    p.add_argument("--overwrite", action="store_true", help="replace what is there of an earlier one")
    p.add_argument("--seed", type=whole(0), metavar="N", help="another film (default: 0)")
    add_timeline(p, "video", "that the network sees at once")
    p.add_argument(
        "--markers", nargs="+", default=[], choices=MARKERS,
        help="with videos and a folder: for editing programs, CMX 3600, Final Cut's XML, OpenTimelineIO",
    )  # fmt: skip
    add_vocabulary(p)
    add_quiet(p)
    add_device(p)
    add_told(p, but=["window", "global_every"])  # a window of time has that name here, and clips have no other


def run(args: argparse.Namespace) -> int:
    """Returns 1 if one of several videos failed."""
    from uniformer.checkpoints.records import BUNDLED
    from uniformer.inference.predictor import Predictor
    from uniformer.reading.paths import expand
    from uniformer.timelines.markers import check_forms

    if args.videos and args.seed is not None:
        raise InputError("--seed is for the demo's own film: expected no videos with it")
    if args.draw is not None and not args.videos:
        raise InputError("--draw is for videos of your own: expected some with it")
    is_own = bool(args.videos)
    unfound = list[InputError]()
    args.videos = list(expand(args.videos, clips=True, on_error=lambda _, why: unfound.append(why)))
    if len(unfound) == 1 and not args.videos:
        raise unfound[0]
    places = list(_places(args.out, args.videos))
    for place in places:
        if place is not None and not _is_page(place) and os.path.lexists(place) and not place.is_dir():
            raise is_no_folder(place)
    if args.markers:
        if not is_own or any(place is None or _is_page(place) for place in places):
            raise InputError("expected videos of your own, and --out with a folder, for --markers")
        check_forms(args.markers)
    page = Path(args.out) if args.out else _free_page(args.overwrite)
    files = [file for place in places if place for file in _files(place, args.markers)] if is_own else [page]
    drawn = _drawn(args.draw, args.videos)
    files += drawn.values()
    check_outputs(files, [*args.videos, args.checkpoint, names_file(args.classes)], overwrite=args.overwrite)
    predictor = Predictor(args.checkpoint or BUNDLED, device=args.device, vocabulary=args.vocabulary, **told(args))
    top = page if is_own and args.out and not _is_page(page) else page.parent
    with folder_to_fill(top, *(film.parent for film in drawn.values())):  # what cannot be is said before hours of work
        return _own_videos(args, predictor, places, drawn, unfound) if is_own else _made_film(args, predictor, page)


# ---- the film made on the spot ---------------------------------------------------------------------------------------


def _free_page(overwrite: bool) -> Path:
    """The usual page or, so that an earlier demo's stays, the next name that is free."""
    page = Path(PAGE)
    later = (page.with_stem(f"{page.stem}-{number}") for number in count(2))
    return page if overwrite else next(name for name in chain([page], later) if not os.path.lexists(name))


def _made_film(args: argparse.Namespace, predictor: Predictor, page: Path) -> int:
    from uniformer.camera_motion.film import judge, make_film
    from uniformer.reports.film import write_film_page

    seed = args.seed or 0
    _check_names(predictor)
    with system_folder("demo") as folder:
        film = folder / "film.mp4"
        begin = time.perf_counter()
        takes = make_film(film, seed)
        if args.vocabulary is not None:
            words = load_vocabulary(args.vocabulary)
            takes = tuple(replace(take, motion=words.word(take.motion)) for take in takes)
        made = time.perf_counter()
        timeline = _timeline(film, args, predictor)
        verdicts, seen = judge(takes, timeline), time.perf_counter()
        write_film_page(page, timeline, film, verdicts, title="What is the camera doing?")
        say(
            f"{len(takes)} shots filmed from photographs (seed {seed}) in {made - begin:.1f} s, "
            f"seen by {timeline.checkpoint} in {seen - made:.1f} s\n"
        )
        _print_verdicts(verdicts)
        right, directions = sum(v.is_right for v in verdicts), sum(v.goes_right for v in verdicts)
        say(f"\n{right} of {len(verdicts)} right, {directions} in direction; {_cuts_found(takes, timeline)}")
    is_later = not args.out and page != Path(PAGE)
    say(f"page: {page}" + f" ({PAGE} is there already; --overwrite replaces it)" * is_later)
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
    rows = [
        (
            f"{v.take.start:.1f} - {v.take.end:.1f}",
            plain_name(v.take.motion),
            v.row.said,
            v.row.confidence_said,
            "right" if v.is_right else "WRONG kind" if v.goes_right else "WRONG",
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


def _own_videos(
    args: argparse.Namespace, predictor: Predictor, places: Sequence[Path | None], drawn: Mapping[str, Path],
    unfound: Sequence[InputError],
) -> int:  # fmt: skip
    """`drawn`: where films go, `unfound`: the arguments with nothing behind them."""
    asked = len(unfound) + len(args.videos)
    for why in unfound:
        say(f"uniformer: {why}", file=sys.stderr)
    failures = len(unfound)
    for video, place in zip(args.videos, places, strict=True):
        try:
            file = video if is_url(video) else Path(video)
            timeline = _timeline(file, args, predictor)
            _print_timeline(timeline)
            if place is not None:
                _save(timeline, file, place, args.markers)
            if video in drawn:
                timeline.save(drawn[video])
                say(f"drawn: {drawn[video]}")
        except InputError as error:
            if asked == 1:
                raise
            say(f"uniformer: {error}", file=sys.stderr)
            failures += 1
    if failures:
        say(f"{failures} of {counted(asked, 'file')} failed", file=sys.stderr)
    return 1 if failures else 0


def _timeline(video: Path | str, args: argparse.Namespace, predictor: Predictor) -> Timeline:
    from uniformer.timelines.timeline import timeline

    with progress_bar(os.path.basename(video), shown=not args.quiet) as bar:
        return timeline(
            video,
            predictor,
            window=args.window,
            cuts=not args.no_cuts,
            min_confidence=args.min_confidence,
            amounts=args.amounts,
            progress=lambda done, total: bar(round(done), round(total)),
        )


def _places(out: str | None, videos: Sequence[str]) -> Iterator[Path | None]:
    """Where each video's results go: to `out`, a folder or a page, or a folder in it for each of several, by name."""
    if out is not None and len(videos) > 1 and _is_page(Path(out)):
        raise InputError(f"expected a folder for the timelines of {len(videos)} videos, got the page {out}")
    for name in distinct_names(map(path_of, videos)):
        yield None if out is None else Path(out) if len(videos) == 1 else Path(out, name)


def _drawn(where: str | None, videos: list[str]) -> dict[str, Path]:
    """Where each video goes with what is seen in it."""
    if where is None or not videos:
        return {}
    from uniformer.cli.predict_pictures import Places

    return Places(where, None, videos, films=lambda _: True).drawn


def _is_page(out: Path) -> bool:
    return out.suffix.lower() in (".html", ".htm") and not out.is_dir()


def _files(place: Path, markers: Sequence[str]) -> list[Path]:
    """What is written of a video: a page alone, or all in a folder."""
    return [place] if _is_page(place) else [place / f"timeline.{form}" for form in (*FORMS, *dict.fromkeys(markers))]


def _save(timeline: Timeline, video: Path | str, place: Path, markers: Sequence[str]) -> None:
    from uniformer.reports.timeline import write_timeline_page
    from uniformer.timelines.markers import WRITERS, editing_rate

    files = _files(place, markers)
    texts = {".json": timeline.to_json, ".csv": timeline.to_csv, ".srt": timeline.to_srt}
    texts |= {f".{form}": partial(write, timeline) for form, write in WRITERS.items()}
    for path in files:
        if path.suffix in texts:
            write_whole(path, texts[path.suffix](), "surrogateescape")
        else:
            write_timeline_page(path, timeline, video, title=os.path.basename(video))
    fps, rate = timeline.fps or 0.0, float(editing_rate(timeline.fps or 1.0))
    if markers and abs(rate - fps) > 1e-3 * rate:
        say(f"note: markers count {rate:g} frames a second, which editing programs know, not the film's {fps:g}")
    say(f"page: {place}" if files == [place] else f"{place}: {', '.join(path.name for path in files)}")


def _print_timeline(timeline: Timeline) -> None:
    far = any(row.amounts for row in timeline.rows)
    rows = []
    for row in timeline.rows:
        times = _minutes(row.start), _minutes(row.end)
        rows.append((str(row.shot), *times, row.said, row.confidence_said, *[row.amounts_said] * far))
    say(timeline.source)
    head = ("shot", "start", "end", "motion", "confidence", *["how far"] * far)
    print_table(head, rows, right=(0, 1, 2, 4))
    for note in timeline.notes:
        say(f"note: {note}")


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(100 * seconds), 6000)
    return f"{minutes}:{rest / 100:05.2f}"

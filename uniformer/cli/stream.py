"""`uniformer stream`: what happens now in films, cameras and addresses: events as JSON lines, as they come."""

from __future__ import annotations

import argparse
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, get_args

from uniformer.cli.options import add_device, add_precision, add_quiet, add_told, call, number, told, whole
from uniformer.cli.tables import say
from uniformer.errors import InputError, counted, shown
from uniformer.speed.timings import Compute
from uniformer.support.signals import stopped_by_signals

if TYPE_CHECKING:
    from uniformer.inference.predictor import Predictor
    from uniformer.inference.watch import Watched
    from uniformer.reading.feeds import Feed

HELP = "name what happens now in films, cameras and addresses, as events"
DAY = 86_400
UNKNOWN = (720, 1280)  # height and width of frames of which nothing is known before they come


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "sources", nargs="+", metavar="SOURCE",
        help="video file (at its own speed), http(s) or rtsp address, number of a camera, or - (raw frames on stdin)",
    )  # fmt: skip
    p.add_argument("--checkpoint", metavar="ID|FILE|REPO", help="a network of clips (default: the one in the package)")
    p.add_argument("--raw", metavar="WxH@FPS", help="of the frames on standard input, rgb24, such as 640x480@25")
    p.add_argument("--fast", action="store_true", help="every frame and every answer, as fast as it goes")
    p.add_argument("--window", type=number(0, DAY), metavar="SECONDS", help="of a clip (default: as in training, or 2)")
    p.add_argument("--every", type=number(0, DAY), metavar="SECONDS", help="between answers (default: window / 4)")
    p.add_argument(
        "--latency", type=seconds, metavar="200ms", help="choose stride and form so that a change is told within this"
    )
    p.add_argument("--or-size", type=whole(32, 1024), action="append", metavar="N", help="with --latency: or this size")
    p.add_argument("--or-checkpoint", action="append", metavar="ID|FILE", help="with --latency: or this network")
    p.add_argument("--enter", type=number(0, 1), default=0.5, metavar="P", help="an event begins at (default: 0.5)")
    p.add_argument("--leave", type=number(0, 1), default=0.3, metavar="P", help="and ends below (default: 0.3)")
    p.add_argument(
        "--smooth", type=seconds, default=0.5, metavar="SECONDS", help="time constant of smoothing (default: 0.5)"
    )
    p.add_argument("--answers", action="store_true", help="a line for each answer too")
    p.add_argument("--top-k", type=whole(1), default=5, metavar="K", help="labels of an answer (default: 5)")
    p.add_argument(
        "--reconnect", type=seconds, default=60.0, metavar="SECONDS",
        help="try a lost camera or address again for so long (default: 60; 0: never)",
    )  # fmt: skip
    add_quiet(p)
    add_device(p)
    add_precision(p)
    p.add_argument("--compute", choices=get_args(Compute), help="form of the network (default: the best by `bench`)")
    add_told(p, but=["window", "global_every"])  # as for `demo`


def seconds(text: str) -> float:
    """'200ms', '0.2s', '0.2': 0 or more, up to a day."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{0,9})?)(ms|s|)", text)
    value = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else -1.0
    if not 0 <= value <= DAY:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, or such as 200ms, got {shown(text)}")
    return value


def run(args: argparse.Namespace) -> int:
    """Until all sources have ended, or a signal says to stop; returns 1 if one of several failed."""
    from uniformer.checkpoints.records import BUNDLED
    from uniformer.inference.predictor import Predictor
    from uniformer.inference.stream import Stream, clip_spec
    from uniformer.inference.watch import Watched

    _check(args)
    predictor = call(Predictor, args, model=args.checkpoint or BUNDLED, batch_size=len(args.sources), **told(args))
    clip_spec(predictor)  # refuses a network of images before anything is opened
    failed = 0

    def fail(why: str) -> None:
        nonlocal failed
        if len(args.sources) == 1:
            raise InputError(why)
        failed += 1
        _said(why)

    with stopped_by_signals() as stop:
        feeds = _opened(args, stop, fail)
        predictor, every = _within_latency(args, predictor, feeds)
        watched = []
        for feed in feeds:
            try:
                stream = Stream(predictor, fps=feed.fps, window=args.window, every=every, name=feed.name)
            except InputError as error:
                fail(f"{feed.name}: {error}")
                continue
            watched.append(Watched(feed, stream))
        _write_events(args, predictor, watched, stop, fail)
    if not args.quiet:
        _say_how_it_went(watched)
    return 1 if failed else 0


def _check(args: argparse.Namespace) -> None:
    if args.leave > args.enter or args.enter >= 1:
        raise InputError(f"expected --leave <= --enter < 1, got {args.leave:g} and {args.enter:g}")
    if len(set(args.sources)) < len(args.sources):
        raise InputError("expected each source once")
    if ("-" in args.sources) != (args.raw is not None):
        raise InputError("expected --raw WxH@FPS together with one source -, raw frames on standard input")
    if args.latency is None and (args.or_size or args.or_checkpoint):
        raise InputError("expected --latency with --or-size and --or-checkpoint: they are for meeting it")
    if args.latency is not None and args.every is not None:
        raise InputError("expected --latency or --every, got both: the first chooses the second")


def _opened(args: argparse.Namespace, stop: threading.Event, fail: Callable[[str], None]) -> list[Feed]:
    """The feeds of all sources that can be opened."""
    from functools import partial

    from uniformer.reading.feeds import LastingFeed, RawForm, open_feed

    raw = None if args.raw is None else RawForm.parse(args.raw)
    feeds: list[Feed] = []
    for source in args.sources:
        open_it = partial(open_feed, source, raw=raw, stop=stop)
        try:
            feed = open_it()
            if not feed.has_end and source != "-":
                feed = LastingFeed(feed, open_it, patience=args.reconnect, say=_said, stop=stop)
        except InputError as error:
            fail(str(error))
            continue
        feeds.append(feed)
    return feeds


def _said(line: str) -> None:
    say(f"uniformer: {line}", file=sys.stderr, flush=True)


def _within_latency(
    args: argparse.Namespace, predictor: Predictor, feeds: list[Feed]
) -> tuple[Predictor, float | None]:
    """What the streams are to be seen by, and how often."""
    if args.latency is None or not feeds:
        return predictor, args.every
    from uniformer.inference.latency import in_size, within_latency

    def candidates() -> Iterator[Predictor]:
        for checkpoint in [None, *(args.or_checkpoint or ())]:
            base = predictor if checkpoint is None else _other(args, predictor, checkpoint)
            yield base
            for side in args.or_size or ():
                yield in_size(base, side)

    pictures = [feed.size or UNKNOWN for feed in feeds]
    rates = [feed.fps or 30.0 for feed in feeds]
    say_it = _said if not args.quiet else lambda line: None
    choice = within_latency(candidates(), args.latency, pictures=pictures, fps=min(rates), say=say_it)
    return choice.predictor, choice.every


def _other(args: argparse.Namespace, predictor: Predictor, checkpoint: str) -> Predictor:
    """Another network for the same events."""
    from uniformer.inference.predictor import Predictor

    other = call(Predictor, args, model=checkpoint, batch_size=len(args.sources), **told(args))
    if other.contract.classes != predictor.contract.classes:
        raise InputError(f"{checkpoint}: expected a network of the same classes to stand in, got others")
    return other


def _write_events(
    args: argparse.Namespace,
    predictor: Predictor,
    watched: list[Watched],
    stop: threading.Event,
    fail: Callable[[str], None],
) -> None:
    """Write what happens as it happens."""
    from uniformer.inference.events import Events
    from uniformer.inference.stream import Answer
    from uniformer.inference.watch import Ended, watch
    from uniformer.support.texts import to_json_line

    def write(plain: dict[str, Any]) -> None:
        sys.stdout.write(to_json_line(plain))
        sys.stdout.flush()

    levels = {"enter": args.enter, "leave": args.leave, "smooth": args.smooth}
    events = {one.feed.name: Events(predictor.contract.classes, **levels) for one in watched}
    for news in watch(predictor, watched, live=not args.fast, stop=stop):
        if isinstance(news, Answer):
            if args.answers:
                write(news.to_dict())
            for event in events[news.source].add(news):
                write(event.to_dict())
        elif isinstance(news, Ended):
            for event in events[news.source].close():
                write(event.to_dict())
        if not isinstance(news, Answer) and news.error is not None:
            fail(news.error)
    for one in events.values():  # of feeds that a signal ended
        for event in one.close():
            write(event.to_dict())


def _say_how_it_went(watched: list[Watched]) -> None:
    for one in watched:
        stream = one.stream
        left = f", {stream.left_out} left out" * bool(stream.left_out)
        skipped = f", {stream.skipped} not given as the network was busy" * bool(stream.skipped)
        _said(
            f"{one.feed.name}: {counted(stream.frames, 'frame')}{left}; {counted(stream.answered, 'answer')}{skipped}"
        )

"""`uniformer predict`: label images and videos, find things and people in pictures, and the class of each pixel."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from uniformer.cli.answers import Work, check_answers
from uniformer.cli.options import add_quiet, add_reading, add_told, add_vocabulary, call, told, whole
from uniformer.cli.picture_options import add_picture_options, check_options
from uniformer.cli.tables import say
from uniformer.errors import InputError
from uniformer.support.files import distinct_names, folder_to_fill, locked
from uniformer.support.progress import progress_bar

HELP = "label images and videos, find and segment things in them, find people's key points"
TOP_K = 5  #: labels of a file


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "paths", nargs="+", metavar="PATH",
        help="image, video, http(s) address, folder, folder of frames, pattern, .txt list, or - (list on stdin)",
    )  # fmt: skip
    p.add_argument(
        "--checkpoint", metavar="ID|FILE|REPO", help="published id (see `uniformer models`), file or hub repository"
    )
    p.add_argument(
        "--untrained", metavar="ARCH", help="a network with random weights instead: tries the way, needs no download"
    )
    p.add_argument("--top-k", type=whole(1), metavar="K", help=f"labels per file (default: {TOP_K})")
    add_vocabulary(p)
    add_reading(p)
    add_told(p)
    p.add_argument(
        "--format", choices=("table", "jsonl", "csv", "coco"),
        help="default: table, or by the name given with --out; coco: one file of results, not of classifiers",
    )  # fmt: skip
    p.add_argument("--out", metavar="FILE", help="write results there instead of to standard output")
    p.add_argument("--resume", action="store_true", help="with --out: leave out files that have a result there already")
    p.add_argument("--overwrite", action="store_true", help="replace what is at --out, --draw and --show-sampling")
    add_quiet(p)
    p.add_argument(
        "--show-sampling", metavar="PNG|FOLDER", help="picture the frames and crops that the network was fed"
    )
    add_picture_options(p)


def run(args: argparse.Namespace) -> int:
    """Label files one after the other; results are written as they come. Returns 1 if any file failed."""
    form, out = _form(args), args.out
    if not out:
        return _predict(args, form)
    with locked(out, is_file=True) as unlocked:
        if unlocked:
            warnings.warn(unlocked, stacklevel=1)
        check_answers(args, [out], args.paths)
        return _predict(args, form)


def _predict(args: argparse.Namespace, form: Any) -> int:
    from uniformer.inference.predictor import Predictor
    from uniformer.tasks.classification import Prediction
    from uniformer.tasks.task import Failure

    compute = _form_to_go_on(args, f"{args.out}.jsonl" if form == "coco" else args.out)
    predictor = call(Predictor, args, model=_network(args), top_k=args.top_k or TOP_K, compute=compute, **told(args))
    check_options(args, predictor.contract)
    if predictor.task.whole:
        from uniformer.cli.predict_pictures import predict_pictures

        return predict_pictures(args, form, predictor)
    if args.vocabulary is not None:
        predictor.answer_with(vocabulary=args.vocabulary)
    views = {"clips": args.clips, "crops": args.crops, "follow_seconds": args.follow_seconds or None}
    views["vocabulary"] = args.vocabulary
    work = Work(args, form, args.out, predictor, views)
    drawn = _drawn(args.draw, work.sources, predictor)
    undrawn = {source for source, path in drawn.items() if not path.exists()}  # what has an answer is seen again
    sources = [source for source in work.sources if source not in work.done or source in undrawn]
    sheets = _sheets(args.show_sampling, sources)
    check_answers(args, [*filter(None, [args.out]), *sheets.values(), *drawn.values()], sources)
    folders = folder_to_fill(*{path.parent for path in (*sheets.values(), *drawn.values())})
    with folders, progress_bar("files", shown=len(sources) > 1 and not args.quiet) as bar, work.begun(bar):
        results = predictor.run(sources, on_views=_sampling_pictures(sheets, predictor, work))
        for number, result in enumerate(results, start=1):
            if isinstance(result, Failure):
                work.fail(result)
            if result.source not in work.done:
                work.keep(result)
            if isinstance(result, Prediction) and result.source in drawn:
                _made(work, result.source, partial(result.save, drawn[result.source]))
            bar(number, len(sources))
    return work.ended(sum(source in work.done for source in work.sources))


def _drawn(where: str | None, sources: list[str], predictor: Any) -> dict[str, Path]:
    """Where the answers of a classifier are drawn: a film of each clip, a picture of each image."""
    if where is None:
        return {}
    from uniformer.cli.predict_pictures import Places

    return Places(where, None, sources, films=lambda _: predictor.spec.is_video).drawn


def _made(work: Work, source: str, make: Callable[[], None]) -> None:
    """What cannot be written of one source does not end the others."""
    from uniformer.tasks.task import Failure

    try:
        make()
    except InputError as error:
        work.fail(Failure(source, str(error)))


def _form_to_go_on(args: argparse.Namespace, out: str | None) -> str | None:
    """The form of the network: where answers are gone on with, that of those."""
    from uniformer.inference.networks import form_to_take
    from uniformer.inference.results import recorded_form

    goes_on = args.resume and out is not None and os.path.isfile(out)
    return form_to_take(args.compute, recorded_form(Path(out)) if goes_on else None)  # type: ignore[arg-type]


def _form(args: argparse.Namespace) -> str:
    if args.resume and not args.out:
        raise InputError("--resume needs --out: it goes on with the results in that file")
    suffix = Path(args.out or "").suffix
    form = args.format or {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv"}.get(suffix, "table")
    if args.resume and form == "table":
        raise InputError("--resume needs results that can be read back: --format jsonl or csv")
    return form


def _network(args: argparse.Namespace) -> Any:
    """What `Predictor` is to use: the checkpoint asked for, the usual one, or an untrained network."""
    if args.untrained is None:
        if args.checkpoint is None:
            check_options(args, None)
        return args.checkpoint or _usual(args.paths[0])
    if args.checkpoint is not None:
        raise InputError("--untrained and --checkpoint exclude each other")
    from uniformer.checkpoints.contract import Contract
    from uniformer.checkpoints.load import create_model
    from uniformer.checkpoints.told import refuse_told
    from uniformer.labels import PUBLISHED_ON, load_classes, load_details
    from uniformer.network.variants import default_input, dense_input

    refuse_told(told(args), f"the architecture {args.untrained}")
    model = create_model(args.untrained)
    say(f"{args.untrained} with random weights: its labels mean nothing", file=sys.stderr)
    config = model.config
    if config.head is None:
        return model, Contract(config, args.untrained, default_input(config))
    dataset = PUBLISHED_ON[config.task]
    classes, details = load_classes(dataset), load_details(dataset)
    return model, Contract(config, args.untrained, dense_input(config), classes, details=details)


def _default_checkpoint(path: str) -> str:
    from uniformer.checkpoints.records import DEFAULT_IMAGE, DEFAULT_VIDEO
    from uniformer.reading.pictures import is_image

    names = [n for n in os.listdir(path) if not n.startswith(".")] if os.path.isdir(path) else [path]
    return DEFAULT_IMAGE if names and all(map(is_image, names)) else DEFAULT_VIDEO


def _usual(path: str) -> str:
    """A small published model for the first path, an image, a folder of images or a video; the bundled one for videos
    where that cannot be fetched."""
    from uniformer.checkpoints.records import DEFAULT_VIDEO
    from uniformer.inference.predictor import default_or_bundled

    usual = _default_checkpoint(path)
    taken = "videos and folders of frames" if usual == DEFAULT_VIDEO else "images"
    say(f"no --checkpoint given: {usual}, which takes {taken}", file=sys.stderr)
    checkpoint, note = default_or_bundled(usual)
    if note:
        say(note, file=sys.stderr)
    return checkpoint


def _sheets(where: str | None, sources: list[str]) -> dict[str, Path]:
    """Where the sampling sheet of each source goes: the file `where`, or into that folder when there are several."""
    if where is None:
        return {}
    if len(sources) == 1 and Path(where).suffix:
        return {sources[0]: Path(where)}
    from uniformer.reading.sources import path_of

    return {
        source: Path(where, f"{name}.sampling.png")
        for source, name in zip(sources, distinct_names(map(path_of, sources)), strict=True)
    }


def _sampling_pictures(sheets: dict[str, Path], predictor: Any, work: Work) -> Callable[[Any, Any], None] | None:
    """What draws the sampling sheet of each source."""
    if not sheets:
        return None
    from uniformer.reports.sampling import sampling_sheet, save_sheet

    return lambda source, views: _made(
        work, source, lambda: save_sheet(sampling_sheet(views, predictor.spec, source), sheets[source])
    )

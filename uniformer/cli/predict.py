"""`uniformer predict`: label images and videos."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

from uniformer.errors import InputError
from uniformer.speed.timings import Compute
from uniformer.support.files import check_outputs, locked, make_folder
from uniformer.support.progress import progress_bar

HELP = "label images and videos"


def add_compute_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--compute", choices=get_args(Compute), help="form of the network (default: the best by `uniformer bench`)"
    )
    p.add_argument("--plain", dest="compute", action="store_const", const="plain", help="short for --compute plain")


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image, video, http(s) address, folder, folder of frames, pattern, .txt list, or - (list on stdin)",
    )
    p.add_argument(
        "--checkpoint", metavar="ID|FILE|REPO", help="published id (see `uniformer models`), file or hub repository"
    )
    p.add_argument(
        "--untrained", metavar="ARCH", help="a network with random weights instead: tries the way, needs no download"
    )
    p.add_argument("--clips", type=int, help="clips per video (default: the checkpoint's)")
    p.add_argument("--crops", type=int, choices=(1, 3), help="crops per clip (default: the checkpoint's)")
    p.add_argument("--top-k", type=int, default=5, metavar="K", help="labels per file (default: 5)")
    p.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU when there is one)")
    p.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "float16"))
    p.add_argument("--batch-size", type=int, default=8, metavar="N", help="views per forward pass (default: 8)")
    p.add_argument("--workers", type=int, default=2, metavar="N", help="threads that read ahead (default: 2)")
    p.add_argument("--backend", default="pyav", choices=("pyav", "torchcodec"), help="video decoder")
    p.add_argument(
        "--follow-seconds", action="store_true", help="scale strides by the frame rate, as long clips as in training"
    )
    p.add_argument(
        "--head-dim", type=int, metavar="D", help="channels per attention head, for files that nothing tells it of"
    )
    add_compute_arguments(p)
    p.add_argument(
        "--format", choices=("table", "jsonl", "csv"), help="default: table, or by the name given with --out"
    )
    p.add_argument("--out", metavar="FILE", help="write results there instead of to standard output")
    p.add_argument("--resume", action="store_true", help="with --out: leave out files that have a result there already")
    p.add_argument("--overwrite", action="store_true", help="replace what is at --out and --show-sampling")
    p.add_argument(
        "--show-sampling", metavar="PNG|FOLDER", help="picture the frames and crops that the network was fed"
    )


def run(args: argparse.Namespace) -> int:
    """Label files one after the other; results are written as they come. Returns 1 if any file failed."""
    form, out = _form(args), args.out
    if not out:
        return _predict(args, form)
    with locked(out, is_file=True) as unlocked:
        if unlocked:
            warnings.warn(unlocked, stacklevel=1)
        _check_outputs(args, [out], args.paths)
        return _predict(args, form)


def _check_outputs(args: argparse.Namespace, outputs: list[Any], inputs: list[str]) -> None:
    """No file is written over one that is read; with --resume, what is in a folder that is read may be results."""
    inputs = [path for path in (*inputs, args.checkpoint) if path and not (args.resume and os.path.isdir(path))]
    check_outputs(outputs, inputs, overwrite=args.overwrite or args.resume)


def _predict(args: argparse.Namespace, form: str) -> int:
    from uniformer.cli.results import FORMATS, HEADERS, Answers
    from uniformer.inference.predictor import Failure, Predictor
    from uniformer.reading.paths import expand
    from uniformer.support.resume import Records

    predictor = Predictor(
        _network(args),
        clips=args.clips,
        crops=args.crops,
        top_k=args.top_k,
        device=args.device,
        precision=args.precision,
        batch_size=args.batch_size,
        backend=args.backend,
        follow_seconds=args.follow_seconds,
        workers=args.workers,
        head_dim=args.head_dim,
        compute=args.compute,
    )
    weights = "" if form == "table" else predictor.network.weights
    answers = Records(Path(args.out), Answers(form, weights), resume=args.resume) if args.out else None
    done = {answer["source"] for answer in answers.read()} if answers else set()
    sources = [s for s in expand(args.paths, clips=predictor.spec.is_video) if s not in done]
    sheets = _sheets(args.show_sampling, sources)
    _check_outputs(args, [*filter(None, [args.out]), *sheets.values()], sources)
    failures = []
    with answers or nullcontext(), progress_bar("files", shown=len(sources) > 1) as bar:
        on_views = _sampling_pictures(sheets, predictor)
        if answers is None:
            print(HEADERS[form], end="")
        for number, result in enumerate(predictor.run(sources, on_views=on_views), start=1):
            if isinstance(result, Failure):
                failures.append(result)
                bar.say(f"uniformer: {result.error}")
            said = result.to_dict() | {"weights": weights}
            if answers is None:
                print(FORMATS[form](said), end="", flush=True)
            else:
                answers.add(said)
            bar(number, len(sources))
    if done:
        print(f"{len(done)} files had a result already", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(sources)} files failed:", file=sys.stderr)
        for failure in failures:
            print(f"  {failure.source}", file=sys.stderr)
    return 1 if failures else 0


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
        return args.checkpoint or _at_hand(_default_checkpoint(args.paths[0]))
    if args.checkpoint is not None:
        raise InputError("--untrained and --checkpoint exclude each other")
    from uniformer.checkpoints.contract import Contract
    from uniformer.checkpoints.load import create_model
    from uniformer.network.variants import default_input

    model = create_model(args.untrained)
    print(f"{args.untrained} with random weights: its labels mean nothing", file=sys.stderr)
    return model, Contract(model.config, args.untrained, default_input(model.config))


def _default_checkpoint(path: str) -> str:
    """A small published model for the kind of the first path: images, or a folder of nothing but images, or videos."""
    from uniformer.checkpoints.records import DEFAULT_IMAGE, DEFAULT_VIDEO
    from uniformer.reading.pictures import is_image

    names = [n for n in os.listdir(path) if not n.startswith(".")] if os.path.isdir(path) else [path]
    images = bool(names) and all(map(is_image, names))
    checkpoint = DEFAULT_IMAGE if images else DEFAULT_VIDEO
    print(f"no --checkpoint given: {checkpoint}", file=sys.stderr)
    return checkpoint


def _at_hand(default: str) -> str:
    """The default, or the model in the box where that cannot be fetched."""
    from uniformer.inference.predictor import at_hand

    checkpoint, note = at_hand(default)
    if note:
        print(note, file=sys.stderr)
    return checkpoint


def _sheets(where: str | None, sources: list[str]) -> dict[str, Path]:
    """Where the sampling sheet of each source goes: the file `where`, or into that folder when there are several."""
    if where is None:
        return {}
    if len(sources) == 1 and Path(where).suffix:
        return {sources[0]: Path(where)}
    sheets, seen = {}, Counter[str]()
    for source in sources:
        name = Path(source).name
        seen[name] += 1  # files of several folders may share a name
        sheets[source] = Path(where, f"{name}{f'.{seen[name]}' if seen[name] > 1 else ''}.sampling.png")
    return sheets


def _sampling_pictures(sheets: dict[str, Path], predictor: Any) -> Callable[[Any, Any], None] | None:
    """What draws the sampling sheet of each source."""
    if not sheets:
        return None
    from uniformer.reports.sampling import sampling_sheet, save_sheet

    for folder in {path.parent for path in sheets.values()}:
        make_folder(folder)
    return lambda source, views: save_sheet(sampling_sheet(views, predictor.spec, source), sheets[source])

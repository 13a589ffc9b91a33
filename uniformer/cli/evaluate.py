"""`uniformer eval`: test a checkpoint on a data set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniformer.cli.predict import add_compute_arguments
from uniformer.errors import InputError
from uniformer.support.progress import Pace, progress_bar

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract
    from uniformer.config import InputSpec
    from uniformer.datasets.manifest import Manifest
    from uniformer.tasks.scores import Scores
    from uniformer.network.model import UniFormer
    from uniformer.support.distributed import World

HELP = "test a checkpoint on a data set"


def add_arguments(p: argparse.ArgumentParser) -> None:
    add_reading_arguments(p)
    p.add_argument("--missing", default="error", choices=("error", "skip"), help="how files without an answer count")
    p.add_argument(
        "--class-order",
        default="names",
        choices=("names", "numbers", "fix"),
        help="what labels mean: matched by name where data and checkpoint have names (default), rows of the "
        "classifier as they are, or read in the usual order of these classes that fits the answers",
    )
    p.add_argument(
        "--out", metavar="DIR", help="write scores, metrics.json and report.html there; also resumes from it"
    )
    p.add_argument("--form", default="npz", choices=("npz", "parquet"), help="of the scores (default: npz)")
    p.add_argument("--probe", choices=("linear", "knn"), help="test a plain classifier on the checkpoint's features")
    p.add_argument("--train", metavar="DATA", help="what to fit the probe to (default: the train split of DATA)")
    p.add_argument("--k", type=int, default=20, help="neighbours of --probe knn (default: 20)")
    p.add_argument("--temperature", type=float, default=0.07, help="of --probe knn (default: 0.07)")
    p.add_argument("--c", type=float, default=1.0, help="of --probe linear: larger is less regularised (default: 1)")


def add_reading_arguments(p: argparse.ArgumentParser) -> None:
    """What `eval` and `features` have in common: the checkpoint, the data, how they are read."""
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="published id, file, folder or hub repository")
    p.add_argument("data", metavar="DATA", help="a folder, a list of files or a saved manifest")
    p.add_argument("--split", help="train, val or test, where DATA holds several (default: val, else test)")
    p.add_argument("--classes", metavar="FILE|NAME", help="names of DATA's labels: a file, or such as Kinetics-400")
    p.add_argument("--root", metavar="DIR", help="where the paths of a list begin")
    p.add_argument("--separator", default="auto", choices=("auto", "comma", "tab", "semicolon", "space"))
    p.add_argument("--label-base", type=int, default=0, metavar="N", help="the first label, of lists that count from 1")
    p.add_argument("--clips", type=int, help="clips per video (default: the checkpoint's)")
    p.add_argument("--crops", type=int, choices=(1, 3), help="crops per clip (default: the checkpoint's)")
    p.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU when there is one)")
    p.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "float16"))
    p.add_argument("--batch-size", type=int, default=8, metavar="N", help="views per forward pass (default: 8)")
    p.add_argument("--workers", type=int, default=2, metavar="N", help="processes that read and decode (default: 2)")
    p.add_argument("--backend", default="pyav", choices=("pyav", "torchcodec"), help="video decoder")
    p.add_argument("--follow-seconds", action="store_true", help="scale strides by the frame rate")
    p.add_argument("--head-dim", type=int, metavar="D", help="channels per attention head, where nothing tells it")
    add_compute_arguments(p)


def run(args: argparse.Namespace) -> int:
    """Returns 1 if a file had no answer, unless such files are to be skipped."""
    from uniformer.support.distributed import joined

    if args.probe and not args.out:
        raise InputError("--probe needs --out: the features are kept there")
    with joined(args.device) as world, _folder(args, world) as unlocked:
        model, contract, spec = load(args)
        manifest = open_data(args, args.data, args.split)
        notes = [unlocked] if unlocked else []
        if args.probe:
            scores, manifest, more = _probed(args, model, spec, manifest, world)
            notes += more
        else:
            if args.class_order != "numbers":
                manifest, note = _matched(manifest, contract)
                notes += [note] if note else []
            scores = _evaluated(args, model, spec, manifest, world)
        if not world.is_main:
            return 0
        if not args.probe:
            scores = replace(scores, classes=contract.classes or scores.classes)
            scores, more = _examined(args, scores, contract)
            notes += more
        _show(args, scores, manifest, contract, spec, notes)
    return 1 if args.missing == "error" and not scores.ok.all() else 0


def _folder(args: argparse.Namespace, world: World) -> AbstractContextManager[str]:
    """The folder of the results, if there is to be one, for this run alone."""
    return world.alone_in(Path(args.out)) if args.out else nullcontext("")


def load(args: argparse.Namespace) -> tuple[UniFormer, Contract, InputSpec]:
    """The network, and what it is fed: the checkpoint's input with the views asked for."""
    from uniformer.checkpoints.load import load_model

    model, contract, _ = load_model(args.checkpoint, head_dim=args.head_dim)
    if contract.input is None:
        raise InputError(f"{args.checkpoint} does not say what it is fed: expected a checkpoint of a classifier")
    views = {name: value for name in ("clips", "crops") if (value := getattr(args, name)) is not None}
    if not contract.input.is_video and views.get("clips", 1) != 1:
        raise InputError(f"expected one clip for a network of images, got {args.clips}")
    return model.float(), contract, replace(contract.input, **views)


def open_data(args: argparse.Namespace, data: str, split: str | None) -> Manifest:
    """A data set as a manifest; the validation split where there are several and none is named."""
    from uniformer.datasets.open import find_splits, open_source

    if split is None:
        there = find_splits(data)
        split = next((name for name in ("val", "test", "train") if name in there), None)
    options: dict[str, Any] = {"classes": args.classes, "separator": args.separator, "label_base": args.label_base}
    return open_source(data, split=split, root=args.root, **options)


def _matched(manifest: Manifest, contract: Contract) -> tuple[Manifest, str | None]:
    from uniformer.tasks.class_order import match_labels

    return match_labels(manifest, contract.classes)


def _evaluated(args: argparse.Namespace, model: UniFormer, spec: InputSpec, manifest: Manifest, world: World) -> Scores:
    from uniformer.evaluation.run import evaluate

    pace = Pace()
    with progress_bar("items", shown=world.is_main) as bar:
        scores = evaluate(
            model,
            manifest,
            spec,
            device=world.device,
            precision=args.precision,
            batch_size=args.batch_size,
            workers=args.workers,
            backend=args.backend,
            follow_seconds=args.follow_seconds,
            progress=bar,
            store=Path(args.out, "answers") if args.out else None,
            compute=args.compute,
            pace=pace,
        )
    if world.is_main and pace.samples:
        print(pace.verdict("clips" if spec.is_video else "images"), file=sys.stderr)
    return scores


def _examined(args: argparse.Namespace, scores: Scores, contract: Contract) -> tuple[Scores, list[str]]:
    """Is the order of classes plausible? With `--class-order fix` the labels are set right."""
    from uniformer.tasks.class_order import examine

    found = examine(scores, contract.classes)
    if found is None:
        return scores, ["the order of classes is left as it is: nothing speaks against it"] * (
            args.class_order == "fix"
        )
    if found.order is None:
        return scores, list(found.sentences)
    if args.class_order == "fix":
        labels = found.order[scores.labels].astype(scores.labels.dtype)
        return replace(scores, labels=labels), [f"labels read in {found.order_name} order, as --class-order fix asks"]
    again = "" if args.out else " (with --out nothing is computed twice)"
    return scores, [*found.sentences, f"--class-order fix reads them in {found.order_name} order{again}"]


def _probed(
    args: argparse.Namespace, model: UniFormer, spec: InputSpec, test: Manifest, world: World
) -> tuple[Scores, Manifest, list[str]]:
    """Features of both sets, then the probe. Labels are the data's own: the classifier plays no part."""
    from uniformer.tasks.class_order import match, relabelled
    from uniformer.evaluation.features import extract_features, load_features
    from uniformer.evaluation.probe import probe_scores

    train = open_data(args, args.train or args.data, None if args.train else "train")
    order = match(test.classes, train.classes)
    if order is None:
        raise InputError(f"expected the test classes among the training classes: {train.origin}; {test.origin}")
    test = relabelled(test, order, train.classes)
    for name, manifest in (("train", train), ("test", test)):
        folder = Path(args.out, f"features-{name}")
        with progress_bar(f"{name} items", shown=world.is_main) as bar:
            extract_features(model, manifest, spec, folder, reading=reading(args, world), progress=bar)
    sets = [load_features(Path(args.out, f"features-{name}")) for name in ("train", "test")]
    scores = probe_scores(args.probe, *sets, k=args.k, temperature=args.temperature, c=args.c)
    seen = {train.path(i) for i in range(len(train))}
    both = sum(test.path(i) in seen for i in range(len(test)))
    notes = [f"fitted to {train.origin}"]
    return scores, test, notes + ([f"{both} files are in the training set as well"] if both else [])


def reading(args: argparse.Namespace, world: World) -> Any:
    from uniformer.evaluation.run import Reading

    views = args.batch_size, args.workers, args.backend, args.follow_seconds
    return Reading(world.device, args.precision, *views, compute=args.compute)


# ---- what is shown and written ---------------------------------------------------------------------------------------


def _show(
    args: argparse.Namespace,
    scores: Scores,
    manifest: Manifest,
    contract: Contract,
    spec: InputSpec,
    notes: list[str],
) -> None:
    from uniformer.reports.evaluation import About, figures

    name = contract.id or contract.arch or "model"
    what = f"{args.probe} probe of {name}" if args.probe else name
    about = About(
        title=f"{what} on {Path(args.data).name}",
        lines=(f"checkpoint {args.checkpoint}", manifest.origin, f"{views_in_words(spec)}, {args.precision}"),
        notes=tuple(notes),
        known="" if args.probe else known_scores(contract)[2],
    )
    metrics = scores.metrics(args.missing)
    print(about.title)
    for line in about.lines[1:]:
        print(f"  {line}")
    for figure, value in figures(metrics):
        print(f"{figure:>18}  {value}")
    if about.known:
        print(f"  {about.known}")
    for note in notes:
        print(f"note: {note}")
    for row, why in scores.errors.items():
        print(f"uniformer: row {row + 1}: {why}", file=sys.stderr)
    if args.out:
        _write(args, scores, manifest, contract, spec, about, metrics)
        print(f"wrote scores, metrics.json and report.html to {args.out}")


def _write(
    args: argparse.Namespace,
    scores: Scores,
    manifest: Manifest,
    contract: Contract,
    spec: InputSpec,
    about: Any,
    metrics: dict[str, float],
) -> None:
    from uniformer.config import to_dict
    from uniformer.tasks.scores import per_class
    from uniformer.reports.evaluation import write_page
    from uniformer.support.files import atomic_path

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    scores.save(out / f"scores.{args.form}")
    facts: dict[str, Any] = {**asdict(about), "metrics": metrics, "input": to_dict(spec), "probe": args.probe}
    if not args.probe:
        kind, known, _ = known_scores(contract)
        facts[kind] = known
    facts["failed"] = [{"path": scores.paths[i], "error": why} for i, why in scores.errors.items()]
    if not scores.is_multi_label:
        found = per_class(scores)
        columns = zip(found.count.tolist(), found.correct.tolist(), strict=True)
        facts["classes"] = [{"name": scores.name(k), "items": n, "right": r} for k, (n, r) in enumerate(columns)]
    for name, text in (
        ("metrics.json", json.dumps(facts, indent=2) + "\n"),
        ("report.html", write_page(scores, manifest, about, metrics)),
    ):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")


def views_in_words(spec: InputSpec) -> str:
    """'4 x 3 views of 16 frames, 224 x 224'."""
    size = f"{spec.size[1]} x {spec.size[0]}"
    if not spec.is_video:
        return f"{spec.crops} view{'s' * (spec.crops > 1)}, {size}"
    return f"{spec.clips} x {spec.crops} views of {spec.frames} frames, {size}"


def known_scores(contract: Contract) -> tuple[str, dict[str, float], str]:
    """What the checkpoint scored before, in percent: "published_scores" or "training_scores"; the scores; in words.

    Published scores are of the authors' checkpoints; any other brings those of its training's own validation.
    """
    from uniformer.checkpoints.records import get_checkpoint, list_checkpoints

    if contract.id in list_checkpoints():
        record = get_checkpoint(contract.id)
        scores, spec, what = dict(record.scores), record.input, f"published for {record.id} on {record.dataset}"
        kind = "published_scores"
    else:
        scores, spec, what = dict(contract.scores), contract.input, "in training, on its own validation set"
        kind = "training_scores"
    if not scores or spec is None:
        return kind, scores, ""
    return kind, scores, f"{what}: {_in_words(scores)}, with {views_in_words(spec)}"


def _in_words(scores: Mapping[str, float]) -> str:
    names = {
        "top1": "top-1",
        "top5": "top-5",
        "one_view_top1": "top-1 of one view",
        "mean_class": "mean per class",
        "map": "mean precision",
    }
    return ", ".join(f"{names.get(name, name)} {value:g} %" for name, value in scores.items())

"""What `uniformer predict` and `uniformer models` do, behind the arguments."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from uniformer import zoo
from uniformer.config import to_dict
from uniformer.errors import InputError
from uniformer.zoo import Checkpoint

CSV_FIELDS = ("source", "rank", "name", "score", "index", "error")


# ---- predict ---------------------------------------------------------------------------------------------------------


def predict_files(args: argparse.Namespace) -> int:
    """Label files one after the other; results are written as they come. Returns 1 if any file failed."""
    from uniformer.predictor import Failure, Predictor
    from uniformer.sources import expand

    form = _form(args)
    done = _finished(args, form)
    predictor = Predictor(
        args.checkpoint or _default_checkpoint(args.paths[0]), clips=args.clips, crops=args.crops, top_k=args.top_k, device=args.device, dtype=args.dtype,
        batch_size=args.batch_size, backend=args.backend, follow_seconds=args.follow_seconds, workers=args.workers,
        head_dim=args.head_dim,
    )  # fmt: skip
    sources = [s for s in expand(args.paths, clips=predictor.spec.is_video) if s not in done]
    failures = []
    with ExitStack() as stack:
        out: IO[str] = sys.stdout
        if args.out:
            out = stack.enter_context(open(args.out, "a" if args.resume else "w", encoding="utf-8", newline=""))
        if form == "csv" and not done:
            print(",".join(CSV_FIELDS), file=out)
        show = _Progress(len(sources), stack)
        for result in predictor.run(sources, on_views=_sampling_pictures(args.show_sampling, predictor, len(sources))):
            if isinstance(result, Failure):
                failures.append(result)
                show.note(result.error)
            print(FORMATS[form](result.to_dict()), file=out, end="", flush=True)
            show.step()
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


def _finished(args: argparse.Namespace, form: str) -> set[str]:
    """Sources with a result in the output file of an earlier run.

    Failures are tried again, and a last line that a kill cut short is dropped: the file is rewritten without them.
    """
    if not (args.resume and os.path.exists(args.out)):
        return set()
    with open(args.out, encoding="utf-8", newline="") as f:
        text = f.read()
    kept, done = [], set()
    for line in text.splitlines(keepends=True):
        if form == "csv" and line.strip() == ",".join(CSV_FIELDS):
            kept.append(line)
            continue
        source = _finished_source(line, form)
        if source is not None:
            kept.append(line)
            done.add(source)
    from uniformer.files import atomic_path

    with atomic_path(args.out) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8", newline="")
    return done


def _finished_source(line: str, form: str) -> str | None:
    """The source a whole line of output is about, None for a failure or half a line."""
    if not line.endswith("\n"):
        return None
    if form == "csv":
        row = dict(zip(CSV_FIELDS, next(csv.reader([line])), strict=False))
        return row["source"] if len(row) == len(CSV_FIELDS) and not row["error"] else None
    try:
        result = json.loads(line)
        return result["source"] if "error" not in result else None
    except (ValueError, KeyError, TypeError):
        return None


def _as_jsonl(result: dict[str, Any]) -> str:
    return json.dumps(result, ensure_ascii=False) + "\n"


def _as_csv(result: dict[str, Any]) -> str:
    """One row per label, or one with the error."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for rank, label in enumerate(result.get("labels", ()), start=1):
        rows.writerow((result["source"], rank, label["name"], label["score"], label["index"], ""))
    if "error" in result:
        rows.writerow((result["source"], "", "", "", "", result["error"]))
    return text.getvalue()


def _as_table(result: dict[str, Any]) -> str:
    if "error" in result:
        return ""  # said on standard error already
    lines = [result["source"]]
    for label in result["labels"]:
        lines.append(f"  {100 * label['score']:6.2f} %  {'█' * round(20 * label['score']):20}  {label['name']}")
    lines += [f"  note: {note}" for note in result["notes"]]
    return "\n".join(lines) + "\n"


FORMATS = {"jsonl": _as_jsonl, "csv": _as_csv, "table": _as_table}


def _default_checkpoint(path: str) -> str:
    """A small published model for the kind of the first path: images, or a folder of nothing but images, or videos."""
    from uniformer.predictor import DEFAULT_IMAGE, DEFAULT_VIDEO, is_image

    names = os.listdir(path) if os.path.isdir(path) else [path]
    images = bool(names) and all(is_image(name) for name in names if not name.startswith("."))
    checkpoint = DEFAULT_IMAGE if images else DEFAULT_VIDEO
    print(f"no --checkpoint given: {checkpoint}", file=sys.stderr)
    return checkpoint


def _sampling_pictures(where: str | None, predictor: Any, count: int) -> Callable[[Any, Any], None] | None:
    """What draws the sampling sheet of each source: to the file `where`, or into it as a folder when there are several."""
    if where is None:
        return None
    from uniformer.show import sampling_sheet, save_sheet

    folder = count > 1 or not Path(where).suffix
    if folder:
        Path(where).mkdir(parents=True, exist_ok=True)

    def draw(source: Any, views: Any) -> None:
        path = Path(where, f"{Path(source).name}.sampling.png") if folder else Path(where)
        save_sheet(sampling_sheet(views, predictor.spec, source), path)

    return draw


class _Progress:
    """A progress bar on standard error for long work at a terminal; failures are said in a line of their own."""

    def __init__(self, total: int, stack: ExitStack):
        self._bar = None
        if total > 1 and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

            bar = Progress(
                *Progress.get_default_columns()[:2],
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar = stack.enter_context(bar)
            self._task = self._bar.add_task("files", total=total)

    def step(self) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def note(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(f"uniformer: {line}", markup=False, highlight=False)
        else:
            print(f"uniformer: {line}", file=sys.stderr)


# ---- models ----------------------------------------------------------------------------------------------------------


def show_models(args: argparse.Namespace) -> int:
    """The zoo as a table, as JSON lines, or one record whole."""
    ids = zoo.list_checkpoints(args.pattern, task=args.task, dataset=args.dataset, arch=args.arch)
    if not ids:
        if not any(c in args.pattern for c in "*?["):
            zoo.get_checkpoint(args.pattern)  # raises, naming the nearest ids
        raise InputError(f"no published checkpoint matches {args.pattern!r}")
    records = [zoo.get_checkpoint(id) for id in ids]
    if args.json:
        for record in records:
            print(json.dumps(_plain(record), ensure_ascii=False))
    elif args.pattern == ids[0]:
        _show_one(records[0])
    else:
        _show_table(records)
    return 0


def _plain(record: Checkpoint) -> dict[str, Any]:
    from dataclasses import asdict

    plain = {k: v for k, v in vars(record).items() if k not in ("scores", "input", "file")}
    return {
        **plain,
        "scores": dict(record.scores),
        "input": record.input and to_dict(record.input),
        "file": record.file and asdict(record.file),
    }


def _show_table(records: list[Checkpoint]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("checkpoint", "left"), ("data set", "left"), ("input", "left"), ("views", "right"),
                          ("params", "right"), ("GMACs", "right"), ("score", "right"), ("weights", "left")):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for r in records:
        table.add_row(*_row(r))
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)
    print(f"{len(records)} checkpoints. `uniformer models ID` shows one whole; GMACs are of one view.")


def _row(r: Checkpoint) -> Iterator[str]:
    yield r.id
    yield r.dataset
    if r.input is None:
        yield r.input_note[:24]
        yield ""
    else:
        size = f"{r.input.size[0]}"
        stride = {"dense": f"x{r.input.stride}", "sparse": " sparse", None: ""}[r.input.sampling]
        yield f"{r.input.frames}{stride}, {size}" if r.input.is_video else size
        yield f"{r.input.clips}x{r.input.crops}"
    yield f"{r.params / 1e6:.1f}M" if r.params else f"{r.params_m:g}M" if r.params_m else ""
    yield f"{r.macs_g:.2f}" if r.macs_g else ""
    name, value = next(iter(r.scores.items()))
    yield f"{name} {value:g}"
    yield "not published" if r.file is None else "hub" if r.file.hub_repo else "Drive"


def _show_one(r: Checkpoint) -> None:
    def show(name: str, value: object) -> None:
        if value not in (None, "", ()):
            print(f"{name + ':':14}{value}")

    print(r.id)
    show("architecture", r.arch)
    show("task", f"{r.task}, {r.dataset}, {r.num_classes} classes")
    show("scores", ", ".join(f"{k} {v:g}" for k, v in r.scores.items()))
    show("parameters", f"{r.params:,}" if r.params else f"{r.params_m:g} M" if r.params_m else None)
    show("GMACs", f"{r.macs_g:.2f} for one view" if r.macs_g else None)
    show("published", f"{r.gflops:g} GFLOPs for {r.gflops_cover} {r.gflops_at}".strip() if r.gflops else None)
    if r.input is not None:
        show("input", ", ".join(f"{k} {v}" for k, v in to_dict(r.input).items() if v is not None))
    show("input", r.input_note)
    show("started from", r.init or "scratch")
    show("recipe", r.recipe)
    show("licence", r.licence)
    if r.file is None:
        show("weights", "never published")
    else:
        show("file", f"{r.file.name}" + ("" if r.file.name_verified else f" (name by {r.file.name_source})"))
        show("hub", r.file.hub_repo and f"{r.file.hub_repo}" + ("" if r.file.hub_verified else " (unverified)"))
        show("Drive", f"https://drive.google.com/file/d/{r.file.drive_id}/view")
        show("md5", r.file.md5 and r.file.md5 + ("" if r.file.md5_verified else " (unverified)"))
        show("conversion", r.file.converted_url)
    for note in r.notes:
        show("note", note)

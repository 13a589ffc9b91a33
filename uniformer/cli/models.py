"""`uniformer models`: the checkpoints as a table, as JSON lines, or one record whole."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from uniformer.cli.tables import print_table, say
from uniformer.errors import InputError, counted
from uniformer.support.texts import to_json_line

if TYPE_CHECKING:
    from uniformer.checkpoints.records import Checkpoint

HELP = "list the checkpoints, published or in the package, or show one whole"
IN_THE_PACKAGE = "in the package (not published)"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "pattern", nargs="?", default="*", metavar="ID|PATTERN", help="an id, or a pattern such as '*k400*' (quote it)"
    )
    p.add_argument("--task", metavar="TASK", help="for example 'video classification'")
    p.add_argument("--dataset", metavar="NAME", help="for example 'Kinetics-400'")
    p.add_argument("--arch", metavar="ARCH", help="for example uniformer_small_video")
    p.add_argument("--json", action="store_true", help="one JSON object per checkpoint and line")


def run(args: argparse.Namespace) -> int:
    from uniformer.checkpoints.records import get_checkpoint, list_checkpoints

    wanted = {"task": args.task, "dataset": args.dataset, "arch": args.arch}
    ids = list_checkpoints(args.pattern, **wanted, in_package=True)
    if not ids:
        if not any(c in args.pattern for c in "*?["):
            get_checkpoint(args.pattern)  # raises, naming the nearest ids
        raise InputError(f"no published checkpoint matches {args.pattern!r}")
    records = [get_checkpoint(id) for id in ids]
    if args.json:
        for record in records:
            print(to_json_line(_plain(record)), end="")
    elif args.pattern == ids[0]:
        _show_one(records[0])
    else:
        _show_table(records)
    return 0


def _plain(record: Checkpoint) -> dict[str, Any]:
    from dataclasses import asdict

    from uniformer.config import to_dict

    plain = {k: v for k, v in vars(record).items() if k not in ("scores", "input", "file")}
    return {
        **plain,
        "scores": dict(record.scores),
        "input": record.input and to_dict(record.input),
        "file": record.file and asdict(record.file),
    }


def _show_table(records: list[Checkpoint]) -> None:
    header = ("checkpoint", "data set", "input", "views", "params", "GMACs", "score", "weights")
    print_table(header, [tuple(_row(record)) for record in records], right=(3, 4, 5, 6))
    say(f"{counted(len(records), 'checkpoint')}. `uniformer models ID` shows one whole; GMACs are of one view.")


def _row(r: Checkpoint) -> Iterator[str]:
    from uniformer.config import InputSpec

    yield r.id
    yield r.dataset
    if not isinstance(r.input, InputSpec):
        yield r.input_note[:24]
        yield ""
    else:
        size = f"{r.input.size[0]}"
        stride = {"dense": f"x{r.input.stride}", "sparse": " sparse", None: ""}[r.input.sampling]
        yield f"{r.input.frames}{stride}, {size}" if r.input.is_video else size
        yield f"{r.input.clips}x{r.input.crops}"
    yield f"{r.params / 1e6:.1f}M" if r.params else f"{r.params_m:g}M" if r.params_m else ""
    yield f"{r.macs_g:.2f}" if r.macs_g else ""
    yield " ".join(f"{name} {value:g}" for name, value in list(r.scores.items())[:1])
    if r.path is not None:
        yield IN_THE_PACKAGE
    else:
        yield "not published" if r.file is None else "hub" if r.file.hub_repo else "Drive"


def _show_one(r: Checkpoint) -> None:
    from uniformer.config import to_dict

    def show(name: str, value: object) -> None:
        if value not in (None, "", ()):
            say(f"{name + ':':14}{value}")

    say(r.id)
    show("architecture", r.arch)
    show("task", f"{r.task}, {r.dataset}, {counted(r.num_classes, 'class')}")
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
    if r.path is not None:
        show("weights", IN_THE_PACKAGE)
        show("file", r.path)
    elif r.file is None:
        show("weights", "never published")
    else:
        show("file", f"{r.file.name}" + ("" if r.file.name_verified else f" (name by {r.file.name_source})"))
        show("hub", r.file.hub_repo and f"{r.file.hub_repo}" + ("" if r.file.hub_verified else " (unverified)"))
        show("Drive", f"https://drive.google.com/file/d/{r.file.drive_id}/view")
        show("md5", r.file.md5 and r.file.md5 + ("" if r.file.md5_verified else " (unverified)"))
        show("conversion", r.file.converted_url)
    for note in r.notes:
        show("note", note)

"""`uniformer models`: the checkpoints as a table, as JSON lines, or one whole: a record, or what a file says."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from uniformer.cli.tables import print_table, say
from uniformer.errors import InputError, counted
from uniformer.support.texts import to_json_line

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract
    from uniformer.checkpoints.records import Checkpoint
    from uniformer.config import Input

HELP = "list the checkpoints, published or in the package, or show one whole, or a file"
IN_THE_PACKAGE = "in the package (not published)"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="ID|PATTERN|FILE",
        help="an id, a pattern such as '*k400*' (quote it), or a file or folder",
    )
    p.add_argument("--task", metavar="TASK", help="for example 'video classification'")
    p.add_argument("--dataset", metavar="NAME", help="for example 'Kinetics-400'")
    p.add_argument("--arch", metavar="ARCH", help="for example uniformer_small_video")
    p.add_argument("--json", action="store_true", help="one JSON object per checkpoint and line")


def run(args: argparse.Namespace) -> int:
    from uniformer.checkpoints.fetch import is_path
    from uniformer.checkpoints.records import get_checkpoint, list_checkpoints

    wanted = {"task": args.task, "dataset": args.dataset, "arch": args.arch}
    ids = list_checkpoints(args.pattern, **wanted, in_package=True)
    if not ids:
        if is_path(args.pattern):
            if given := next((name for name, value in wanted.items() if value), None):
                raise InputError(f"{args.pattern}: expected no --{given} beside a file")
            return _describe(args.pattern, args.json)
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
    rows = [tuple(_row(record)) for record in records]
    told = [place for place in range(len(header)) if any(row[place] for row in rows)]
    right = [told.index(place) for place in (3, 4, 5, 6) if place in told]
    print_table([header[i] for i in told], [[row[i] for i in told] for row in rows], right=right)
    say(f"{counted(len(records), 'checkpoint')}. `uniformer models ID` shows one whole; GMACs are of one view.")


def _row(r: Checkpoint) -> Iterator[str]:
    yield r.id
    yield r.dataset
    yield from _input(r.input)
    yield f"{r.params / 1e6:.1f}M" if r.params else f"{r.params_m:g}M" if r.params_m else ""
    yield f"{r.macs_g:.2f}" if r.macs_g else ""
    yield " ".join(f"{name} {value:g}" for name, value in list(r.scores.items())[:1])
    if r.path is not None:
        yield IN_THE_PACKAGE
    else:
        yield "not published" if r.file is None else "hub" if r.file.hub_repo else "Drive"


def _input(spec: Input | None) -> tuple[str, str]:
    """Frames and size of what a network is fed, and how many views of it."""
    from uniformer.config import InputSpec, Scaling

    if spec is None:
        return "", ""
    if isinstance(spec, Scaling):
        return f"{spec.shortest}, up to {spec.longest}", ""
    if not isinstance(spec, InputSpec):
        return f"{spec.size[0]}x{spec.size[1]}", ""
    size, stride = spec.size[0], {"dense": f"x{spec.stride}", "sparse": " sparse", None: ""}[spec.sampling]
    return f"{spec.frames}{stride}, {size}" if spec.is_video else f"{size}", f"{spec.clips}x{spec.crops}"


def _show(name: str, value: object) -> None:
    if value not in (None, "", ()):
        say(f"{name + ':':14}{value}")


def _show_input(spec: Input | None) -> None:
    from uniformer.config import to_dict

    _show("input", spec and ", ".join(f"{k} {v}" for k, v in to_dict(spec).items() if v is not None))


def _describe(path: str, as_json: bool) -> int:
    """What a file says of itself; where it says nothing, what its tensors tell."""
    from uniformer.inference.networks import is_exported

    if is_exported(path):
        from uniformer.speed.runtimes import open_exported

        contract = open_exported(path).contract
    else:
        from uniformer.checkpoints.identify import open_checkpoint

        contract = open_checkpoint(path).contract
    if as_json:
        print(to_json_line({"file": path, **contract.to_dict()}), end="")
    else:
        _show_contract(path, contract)
    return 0


def _show_contract(path: str, c: Contract) -> None:
    say(path)
    _show("architecture", c.arch or "one of its own")
    _show("checkpoint", c.id)
    count = counted(c.config.num_classes, "key point" if c.task == "pose" else "class")
    _show("task", ", ".join(filter(None, [c.task, c.dataset, count])))
    _show("names", ", ".join(c.classes) or "none")
    _show("scores", ", ".join(f"{k} {v:g}" for k, v in c.scores.items()))
    _show_input(c.input)
    _show("details", ", ".join(c.details))
    _show("licence", c.licence)
    _show("trained on", c.trained_on and counted(c.trained_on.items, "item"))
    shape = c.proof and "x".join(map(str, c.proof.shape))
    _show("proof", f"outputs for an input of {shape}: `uniformer verify` computes them anew" if c.proof else "none")
    for note in c.notes:
        _show("note", note)


def _show_one(r: Checkpoint) -> None:
    say(r.id)
    _show("architecture", r.arch)
    _show("task", f"{r.task}, {r.dataset}, {counted(r.num_classes, 'class')}")
    _show("scores", ", ".join(f"{k} {v:g}" for k, v in r.scores.items()))
    _show("parameters", f"{r.params:,}" if r.params else f"{r.params_m:g} M" if r.params_m else None)
    _show("GMACs", f"{r.macs_g:.2f} for one view" if r.macs_g else None)
    _show("published", f"{r.gflops:g} GFLOPs for {r.gflops_cover} {r.gflops_at}".strip() if r.gflops else None)
    _show_input(r.input)
    _show("input", r.input_note)
    _show("started from", r.init or "scratch")
    _show("recipe", r.recipe)
    _show("licence", r.licence)
    if r.path is not None:
        _show("weights", IN_THE_PACKAGE)
        _show("file", r.path)
    elif r.file is None:
        _show("weights", "never published")
    else:
        _show("file", f"{r.file.name}" + ("" if r.file.name_verified else f" (name by {r.file.name_source})"))
        _show("hub", r.file.hub_repo and f"{r.file.hub_repo}" + ("" if r.file.hub_verified else " (unverified)"))
        _show("Drive", f"https://drive.google.com/file/d/{r.file.drive_id}/view")
        _show("md5", r.file.md5 and r.file.md5 + ("" if r.file.md5_verified else " (unverified)"))
        _show("conversion", r.file.converted_url)
    for note in r.notes:
        _show("note", note)

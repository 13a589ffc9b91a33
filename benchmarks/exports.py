"""Which network can be written for which runtime, and how near its logits come: every file is run where that can be.

    python benchmarks/exports.py                                       # everything, hours; what is known stays
    python benchmarks/exports.py uniformer_xs_video --targets .onnx    # some of it
    python benchmarks/exports.py --table                               # only the table of docs/export.md, anew

A target whose packages are not installed is left as it is known. Weights are random, blocks are at most as many in a
stage as show every kind of them, clips have 4 frames of 64 pixels: what an operator does to a graph depends on none of
that. Receipts lie in results/exports.json; the table says what passed, and why the rest did not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import uniformer
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import create_model
from uniformer.config import InputSpec, PersonCrop, Scaling
from uniformer.errors import InputError, first_line
from uniformer.network.variants import VARIANTS, default_input, dense_input
from uniformer.speed.runtimes import TARGETS

ROOT = Path(__file__).parents[1]
KNOWN, PAGE = ROOT / "benchmarks" / "results" / "exports.json", ROOT / "docs" / "export.md"
BEGIN, END = "<!-- table: made by benchmarks/exports.py -->\n", "<!-- end of table -->\n"
NETWORKS = (
    *(name for name, config in VARIANTS.items() if config.is_video),
    "uniformer_small", "uniformer_small_plus", "uniformer_small_tl", "uniformer_large_ls_tl", "uniformer_xxs",
    "uniformer_xs", "semantic_fpn.uniformer_small_h14", "upernet.uniformer_small_h14", "topdown.uniformer_small",
    "mask_rcnn.uniformer_small_h14",
)  # fmt: skip
SIDE = 64
DEPTHS, LIGHT = (1, 1, 2, 1), (1, 1, 3, 2)  # of light networks those blocks too that choose their tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=NETWORKS, help="default: all of the table")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--conv3d", choices=("2d", "3d"), help="of clips (default: the target's own)")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    known: dict[str, dict[str, Any]] = json.loads(KNOWN.read_text("utf-8")) if KNOWN.is_file() else {}
    for name in () if args.table else args.networks:
        for form in args.targets:
            if all(map(importlib.util.find_spec, TARGETS[form].packages)):
                known.setdefault(name, {}).update(tried(name, form, args.conv3d))
                print(name, form, known[name], flush=True)
                KNOWN.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
                write_table(known)
    write_table(known)


def write_table(known: dict[str, dict[str, Any]]) -> None:
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(known)}\n{END}{rest.split(END)[1]}", "utf-8")


def tried(name: str, form: str, conv3d: Any) -> dict[str, Any]:
    """The receipt, or what was said instead, under the target and the way of 3D convolutions."""
    config = VARIANTS[name]
    torch.manual_seed(0)
    most = LIGHT if config.is_hourglass else DEPTHS
    model = create_model(name, depths=tuple(map(min, config.depths, most))).eval()
    spec = default_input(config) if config.head is None else dense_input(config)
    if isinstance(spec, InputSpec):
        spec = replace(spec, size=(SIDE, SIDE), resize=SIDE, frames=4 if config.is_video else 1)
    elif isinstance(spec, PersonCrop):
        spec = replace(spec, size=(SIDE, SIDE))
    size = (SIDE, SIDE) if isinstance(spec, Scaling) else None
    default = "3d" if TARGETS[form].conv3d else "2d"
    key = f"{form} {conv3d or default}" if config.is_video else form
    with tempfile.TemporaryDirectory() as folder:
        try:
            contract = Contract(model.config, input=spec)
            receipt = uniformer.export(model, contract, Path(folder, f"a{form}"), size=size, conv3d=conv3d)
        except InputError as error:
            return {key: {"said": str(error).replace(folder, "").lstrip("/")}}
        except Exception as error:  # each converter has its own
            return {key: {"said": f"{type(error).__name__}: {first_line(error)}"}}
    return {key: asdict(receipt)}


def table(known: dict[str, dict[str, Any]]) -> str:
    """A row for every network, a column for every target, and the reasons below."""
    reasons: list[str] = []
    heads = [f"{target.name} `{form}`" for form, target in TARGETS.items()]
    lines = [f"| float32 | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    for name in (name for name in NETWORKS if name in known):
        cells = [cell(known.get(name, {}), form, reasons) for form in TARGETS]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    views = [f"{target.name} {target.most or 'any number'}" for target in TARGETS.values()]
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", f"Views in a batch: {', '.join(views)}.", "", *notes]) + ("\n" if notes else "")


def cell(receipts: dict[str, Any], form: str, reasons: list[str]) -> str:
    said = []
    for key in (form, f"{form} 3d", f"{form} 2d"):
        found = receipts.get(key)
        way = key.removeprefix(form).strip()
        if found is None:
            continue
        if "said" in found:
            if found["said"] not in reasons:
                reasons.append(found["said"])
            said.append(f"{way} no [{reasons.index(found['said']) + 1}]".strip())
        else:
            said.append(f"{way} {found['gap']:.0e}".strip())
    return ", ".join(said) or "not tried"


if __name__ == "__main__":
    main()

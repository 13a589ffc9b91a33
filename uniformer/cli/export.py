"""`uniformer export`: write a checkpoint's network for another runtime, to be run without torch."""

from __future__ import annotations

import argparse
import json
import re
import sys
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from uniformer.cli.options import add_int8, add_told, told
from uniformer.cli.tables import say
from uniformer.errors import InputError
from uniformer.labels import names_file
from uniformer.support.files import atomic_path, check_outputs

if TYPE_CHECKING:
    from uniformer.speed.export import Receipt
    from uniformer.speed.quantise import Int8Receipt

HELP = "write a network for OpenVINO, ONNX Runtime, browsers, phones"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="published id, file, folder or hub repository")
    p.add_argument(
        "out", metavar="OUT",
        help="name.xml (OpenVINO; the weights go to name.bin), name.onnx (ONNX Runtime, browsers), name.pt2 "
        "(torch.export), name.pte (ExecuTorch with XNNPACK) or name.tflite (LiteRT)",
    )  # fmt: skip
    p.add_argument(
        "--conv3d", choices=("2d", "3d"),
        help="2d: of clips no 3D convolution and no tensor of five dimensions (default where the runtime has none)",
    )  # fmt: skip
    p.add_argument("--size", metavar="HxW", help="of the pictures that a segmenter is written for, such as 512x683")
    add_int8(p, "--int8: ")
    p.add_argument("--int8", action="store_true", help="a classifier in 8-bit integers, for OpenVINO or ONNX Runtime")
    p.add_argument("--even-slower", action="store_true", help="--int8: keep it where it is not faster here, too")
    add_told(p)
    p.add_argument("--receipt", metavar="FILE", help="write what was found when the file was run, as JSON")
    p.add_argument("--overwrite", action="store_true", help="replace what is at OUT")


def run(args: argparse.Namespace) -> int:
    from uniformer.checkpoints.load import load_model
    from uniformer.checkpoints.told import warn_of_assumed
    from uniformer.speed.export import export
    from uniformer.speed.quantise import export_int8

    out = Path(args.out)
    files = [out, *([out.with_suffix(".bin")] if out.suffix.lower() == ".xml" else []), *filter(None, [args.receipt])]
    _check_int8(args)
    check_outputs(files, [args.checkpoint, names_file(args.classes), args.calibrate], overwrite=args.overwrite)
    model, contract, _ = load_model(args.checkpoint, **told(args))
    warn_of_assumed(contract)
    receipt: Receipt | Int8Receipt
    with atomic_path(args.receipt) if args.receipt else nullcontext() as kept:  # before the work: it may be refused
        if args.int8:
            receipt = export_int8(
                model, contract, args.out, args.calibrate, conv3d=args.conv3d, max_loss=args.max_loss,
                even_slower=args.even_slower, say=partial(say, file=sys.stderr),
            )  # fmt: skip
        else:
            receipt = export(model, contract, args.out, size=_size(args.size), conv3d=args.conv3d)
        if kept is not None:
            kept.write_text(json.dumps(asdict(receipt), indent=1) + "\n", encoding="utf-8")
    say(f"wrote {args.out}: {receipt}")
    return 0


def _check_int8(args: argparse.Namespace) -> None:
    if args.int8 and args.calibrate is None:
        raise InputError("--int8: expected --calibrate DATA too, clips or images to calibrate on and to judge by")
    if args.int8 and args.size:
        raise InputError("--int8: expected no --size, it is for classifiers, which have one")
    if not args.int8 and (args.even_slower or (args.calibrate, args.max_loss) != (None, None)):
        raise InputError("--calibrate, --max-loss, --even-slower: expected --int8 too, which they are of")


def _size(text: str | None) -> tuple[int, int] | None:
    """Height and width."""
    if text is None:
        return None
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)
    if sides is None:
        raise InputError(f"--size: expected height and width such as 512x683, got {text!r}")
    return int(sides[1]), int(sides[2])

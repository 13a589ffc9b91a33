"""Options that several commands share, and handing parsed ones to the Python function that does the work."""

from __future__ import annotations

import argparse
import inspect
import math
import sys
from collections.abc import Callable, Collection
from typing import Any, TypeVar, get_args

from uniformer.cli.tables import say
from uniformer.config import Precision
from uniformer.errors import shown
from uniformer.speed.timings import Compute
from uniformer.tasks.vocabulary import VOCABULARIES
from uniformer.web.listening import LOOPBACK, reaches_others

R = TypeVar("R")


def call(function: Callable[..., R], args: argparse.Namespace, **more: Any) -> R:
    """`function` with every option that it has a parameter of the same name for, and `more`."""
    names = inspect.signature(function).parameters
    return function(**{name: value for name, value in vars(args).items() if name in names} | more)


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """The type of an option that takes a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {shown(text)}")
        return number

    return parse


def number(least: float, most: float, *, above: bool = True) -> Callable[[str], float]:
    """The type of an option that takes a number `above` or, where not, from `least`, up to `most`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (above and value == least):
            words = f"above {least:g} up to {most:g}" if above else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"expected a number {words}, got {shown(text)}")
        return value

    return parse


def add_reading(p: argparse.ArgumentParser) -> None:
    """How sources are read and computed: the same for `predict`, `eval` and `features`."""
    p.add_argument("--clips", type=whole(1, 1000), metavar="N", help="clips per video (default: the checkpoint's)")
    p.add_argument("--crops", type=int, choices=(1, 3), help="crops per clip (default: the checkpoint's)")
    add_device(p)
    add_precision(p)
    p.add_argument(
        "--batch-size", type=whole(1, 100_000), default=8, metavar="N", help="views per forward pass (default: 8)"
    )
    p.add_argument(
        "--workers", type=whole(0, 1024), default=2, metavar="N", help="that read and decode ahead (default: 2)"
    )
    p.add_argument("--backend", default="pyav", choices=("pyav", "torchcodec"), help="video decoder (default: pyav)")
    p.add_argument(
        "--follow-seconds", action="store_true", help="scale strides by the frame rate, as long clips as in training"
    )
    p.add_argument(
        "--compute", choices=get_args(Compute), help="form of the network (default: the best by `uniformer bench`)"
    )
    p.add_argument("--plain", dest="compute", action="store_const", const="plain", help="short for --compute plain")


def add_checkpoint_and_data(p: argparse.ArgumentParser) -> None:
    """What `eval` and `features` are given."""
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="published id, file, folder or hub repository")
    p.add_argument("data", metavar="DATA", help="a folder, a list of files or a saved manifest")
    add_data(p, "default: val, else test; held-out leaves out what CHECKPOINT was trained on")


def add_data(p: argparse.ArgumentParser, split: str) -> None:
    """How a data set is read: the same for all that take one; `split` says which part is taken where none is named."""
    p.add_argument("--split", metavar="NAME", help=f"train, val or test, where DATA holds several ({split})")
    p.add_argument("--classes", metavar="FILE|NAME", help="names of DATA's labels: a file, or such as Kinetics-400")
    p.add_argument("--root", metavar="DIR", help="where the paths of a list begin")
    p.add_argument(
        "--separator", default="auto", choices=("auto", "comma", "tab", "semicolon", "space"),
        help="between the columns of a list (default: auto, by looking)",
    )  # fmt: skip
    p.add_argument(
        "--label-base", type=whole(-(2**31)), default=0, metavar="N",
        help="the first label of a list, such as 1 (default: 0)",
    )  # fmt: skip
    p.add_argument("--allow-duplicates", action="store_true", help="keep rows that name the same part of a file twice")


def add_int8(p: argparse.ArgumentParser, of: str = "") -> None:
    """How a network in 8 bits is made and judged."""
    p.add_argument("--calibrate", metavar="DATA", help=f"{of}folder or list of labelled clips or images")
    p.add_argument(
        "--max-loss", type=number(0, 100, above=False), metavar="POINTS",
        help=f"{of}of accuracy that it may lose on items held out (default: 0.5)",
    )  # fmt: skip


def add_quiet(p: argparse.ArgumentParser) -> None:
    p.add_argument("--quiet", action="store_true", help="no progress; warnings and errors are still said")


def add_precision(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--precision", default="float32", choices=get_args(Precision), help="of the computation (default: float32)"
    )


def add_device(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--device", default="auto", metavar="DEVICE", help="cpu, cuda, cuda:1, ... (default: a GPU when there is one)"
    )


def add_vocabulary(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--vocabulary", choices=VOCABULARIES, help="others' words for the camera's motions (default: the network's)"
    )


def add_timeline(p: argparse.ArgumentParser, what: str, window: str) -> None:
    """How `demo` and `motion` look at each `what` over time: by which network, through which windows, how sure."""
    p.add_argument(
        "--checkpoint", metavar="ID|FILE|REPO", help="another network of clips (default: the one in the package)"
    )
    p.add_argument("--window", type=number(0, 86_400), metavar="SECONDS", help=f"{window} (default: about 2)")
    p.add_argument(
        "--min-confidence", type=number(0, 1, above=False), metavar="SHARE",
        help="what is less probable is called unsure: the direction, or else the kind of motion (default: 0.5 for the "
        "network in the package)",
    )  # fmt: skip
    p.add_argument(
        "--amounts", action=argparse.BooleanOptionalAction,
        help="measure how far the camera goes, and let that count beside the network's word; needs OpenCV (default: "
        "with the network in the package, where OpenCV is installed)",
    )  # fmt: skip
    p.add_argument("--no-cuts", action="store_true", help=f"take each {what} for one shot")


TOLD: dict[str, dict[str, Any]] = {  # options by their names in `checkpoints.told.Told`
    "head_dim": {"type": whole(1, 100_000), "metavar": "D", "help": "channels per head, where nothing tells it"},
    "window": {"type": whole(0, 100_000), "metavar": "N", "help": "size of stage 3's attention windows (0: none)"},
    "global_every": {"type": whole(1, 1000), "metavar": "N", "help": "with windows: every N-th block attends globally"},
    "block_eps": {"type": number(0, 1), "metavar": "E", "help": "of layer norms: 1e-5 if from mmaction2 or mmpose"},
    "like": {"metavar": "ID", "help": "what CHECKPOINT does not tell is as in this published one: input, head_dim"},
    "sampling": {
        "metavar": "HOW", "help": "which frames make a clip: 16x4 (frames x stride), 16 (spread), dense or sparse"
    },
    "classes": {"metavar": "FILE|NAME", "help": "names of the classifier's rows: a file, or such as Kinetics-400"},
}  # fmt: skip


def add_listening(p: argparse.ArgumentParser, *, port: int, size: int, of: str) -> None:
    """Where `app` and `serve` listen, and how many megabytes they take of what they are sent, which is `of`."""
    p.add_argument(
        "--host", default=LOOPBACK, metavar="ADDRESS", help=f"to listen at (default: {LOOPBACK}, this machine alone)"
    )
    p.add_argument("--port", type=whole(0, 65_535), default=port, metavar="N", help=f"default: {port}; 0: a free one")
    p.add_argument("--max-size", type=number(0, 1e7), default=size, metavar="MB", help=f"of {of} (default: {size})")


def warn_of_others(host: str, why: str) -> None:
    """Say so where others than this machine reach what listens at `host`."""
    if reaches_others(host):
        say(f"uniformer: warning: {why}: all who reach {host} are answered", file=sys.stderr)


def add_told(p: argparse.ArgumentParser, *, but: Collection[str] = ()) -> None:
    """What may be said of a checkpoint that does not tell it itself, for all commands that take one."""
    group = p.add_argument_group("what a checkpoint does not tell")
    names = [name for name in TOLD if name not in but]
    for name in names:
        group.add_argument(f"--{name.replace('_', '-')}", **TOLD[name])
    p.set_defaults(tellable=names)


def told(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_told` has parsed, for a function that takes it."""
    return {name: getattr(args, name) for name in args.tellable}

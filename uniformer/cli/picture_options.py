"""The options of `predict` that are for one kind of network, and refusing those that are for another."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from uniformer.cli.options import number, whole
from uniformer.errors import InputError

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract

DENSE = ("detection", "segmentation", "pose")
CLASSIFIERS = {"clips", "crops", "top_k", "follow_seconds", "show_sampling", "vocabulary"}
#: Options, by the tasks that know them. Those that a checkpoint's does not know are refused.
OPTIONS: dict[str, tuple[str, ...]] = {
    "score": ("detection", "pose"),
    "most": ("detection",),
    "keep": ("detection", "segmentation"),
    "mode": ("segmentation",),
    "tile": ("segmentation",),
    "flip": ("segmentation", "pose"),
    "boxes": ("pose",),
    "maps": ("segmentation",),
    "every": DENSE,
} | dict.fromkeys(CLASSIFIERS, ("classification",))  # fmt: skip


def add_picture_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--draw", metavar="DIR|FILE", help="answers drawn onto the pictures; videos as films with their sound"
    )
    group = p.add_argument_group("detection, segmentation and pose")
    group.add_argument("--maps", metavar="DIR", help="segmentation: the classes of pixels as PNGs, indexed")
    group.add_argument(
        "--every", type=whole(1), metavar="N", help="of videos: look at every N-th frame (default: at each)"
    )
    group.add_argument(
        "--score", type=number(0, 1, above=False), metavar="S", help="that things (0.05) and people (0) must reach"
    )
    group.add_argument("--most", type=whole(1, 10_000), metavar="N", help="things of a picture (default: 100)")
    group.add_argument("--keep", metavar="A,B", help="these classes alone, such as person,car")
    add_ways_to_see(group)
    group.add_argument(
        "--tile",
        type=whole(64, 1 << 13),
        metavar="PX",
        help="segmentation: see huge pictures in tiles of such a side",
    )
    group.add_argument(
        "--boxes", metavar="FILE|CHECKPOINT", help="pose: where people are: COCO JSON, CSV, answers, or a detector"
    )


def add_ways_to_see(p: argparse._ActionsContainer) -> None:
    """What both `predict` and `eval` may ask of dense networks."""
    p.add_argument("--mode", metavar="HOW", help="segmentation: whole, slide (windows) or multi-scale (six sizes)")
    p.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, default=None,
        help="average with the mirrored picture (default: in pose, and of several sizes)",
    )  # fmt: skip


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them. Raises `InputError` where there are none."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise InputError("--keep: expected names with commas between them, got none")
    return found


def check_options(args: argparse.Namespace, contract: Contract | None) -> None:
    """Raises `InputError` for an option that is not for the task of a checkpoint; None: the usual, which classifies."""
    task = "classification" if contract is None else contract.task
    whose = (
        "name a checkpoint of these" if contract is None else f"{contract.id or contract.arch or 'this'} is for {task}"
    )
    given = {name: tasks for name, tasks in OPTIONS.items() if _is_given(name, getattr(args, name))}
    if args.format == "coco":
        given["format coco"] = DENSE
    for name, tasks in given.items():
        if task not in tasks:
            *others, last = tasks
            kinds = f"{', '.join(others)} and {last}" if others else last
            raise InputError(f"--{name.replace('_', '-')} is for {kinds}: {whose}")


def _is_given(name: str, value: Any) -> bool:
    return value is not None and (value is not False or name == "flip")

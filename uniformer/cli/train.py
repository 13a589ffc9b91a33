"""`uniformer train`: train by a recipe, or on one's own data without one."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from uniformer.cli.options import add_data, add_device, add_told, call, told
from uniformer.cli.tables import say

HELP = "train or fine-tune on a data set"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", metavar="RECIPE|DATA", help="name of a recipe, a .toml file, or a data set of one's own")
    p.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="change a setting, such as batch_size=16 or lr=1e-4"
    )
    p.add_argument("--checkpoint", metavar="ID|FILE|REPO", help="what to start from (default: a small published model)")
    p.add_argument("--out", metavar="DIR", help="folder of the run; going on is the same command (default: runs/NAME)")
    add_data(p, "default: train, validated on val, else test")
    add_device(p)
    p.add_argument("--print", action="store_true", help="print the whole recipe and stop")
    add_told(p, but=["classes"])  # they are those of the data


def run(args: argparse.Namespace) -> int:
    """Returns 0 when the run is finished, 128 + the signal's number when one stopped it."""
    from uniformer.training.recipe import resolved
    from uniformer.training.run import plan_training, run_plan

    plan = call(plan_training, args, **told(args))
    if args.print:
        sys.stdout.write(resolved(plan.recipe))
        return 0
    for reason in plan.reasons:
        say(reason, flush=True)
    result = call(run_plan, args, plan=plan, signals=noted_signals, say=say)
    return 128 + result.stopped_by if result.stopped_by else 0


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """SIGTERM and SIGINT go into a list instead of ending the process; a third SIGINT interrupts as usual
    (the second may be torchrun passing on what the terminal sent to all).

    Only in the main thread of a process, as Python has it; in others signals do what they did.
    """
    seen: list[int] = []

    def note(number: int, _frame: object) -> None:
        if number == signal.SIGINT and seen.count(number) >= 2:
            raise KeyboardInterrupt
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""`uniformer doctor`: what this machine, its libraries and this installation can do and get wrong."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import groupby

from uniformer import __version__
from uniformer.cli.tables import print_table, say
from uniformer.errors import counted
from uniformer.support.checks import Check
from uniformer.support.texts import to_json_line

HELP = "what this machine and installation can do and get wrong"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="one JSON object instead of the page")


def run(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from uniformer.speed.doctor import examine

    checks = []
    for part, some in groupby(examine(), key=lambda check: check.part):
        found = list(some)
        checks += found
        if not args.json:
            _show(part, found)
    broken = [check for check in checks if check.is_broken]
    if args.json:
        about = {"uniformer": __version__, "broken": len(broken), "checks": [asdict(check) for check in checks]}
        print(to_json_line(about), end="")
    else:
        bad = sum(check.verdict == "bad" for check in checks)
        said = f"{counted(len(checks), 'check')}, {bad} bad"
        say(f"{said}, {counted(len(broken), 'thing')} that the package needs broken" if broken else f"{said}: it works")
    return 1 if broken else 0


def _show(part: str, checks: Iterable[Check]) -> None:
    """What is alike but for its name is one line."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for check in checks:
        alike.setdefault((check.verdict, check.found, check.remedy), []).append(check.name)
    say(part)
    print_table((), [("", verdict, ", ".join(names), found) for (verdict, found, _), names in alike.items()])
    for (_, _, remedy), names in alike.items():
        if remedy:
            say(f"  {', '.join(names)}: {remedy}")
    say()

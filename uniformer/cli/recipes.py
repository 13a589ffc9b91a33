"""`uniformer recipes`: list the published runs, or print one whole."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from uniformer.cli.tables import print_table
from uniformer.errors import counted

if TYPE_CHECKING:
    from uniformer.training.recipe import Recipe

HELP = "list the published training runs, or print one whole"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="NAME|PATTERN|FILE",
        help="a name, a pattern such as '*k400*' (quote it), or a .toml file",
    )
    p.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="with --print: settings to change")
    p.add_argument("--print", action="store_true", help="print the resolved whole as TOML, which can be edited and run")


def run(args: argparse.Namespace) -> int:
    from uniformer.errors import InputError
    from uniformer.training.recipe import list_recipes, load_recipe, resolved

    if args.print:
        print(resolved(load_recipe(args.pattern, args.settings)), end="")
        return 0
    if args.settings:
        raise InputError(f"settings such as {args.settings[0]} go with --print, or with `uniformer train`")
    names = list_recipes(args.pattern)
    if not names:
        load_recipe(args.pattern)  # raises, naming the nearest
    print_table(("recipe", "score", "run"), [(name, *_facts(load_recipe(name))) for name in names])
    print(
        f"{counted(len(names), 'recipe')}. `uniformer recipes NAME --print` shows one whole, "
        "`uniformer train NAME` runs it."
    )
    return 0


def _facts(recipe: Recipe) -> tuple[str, str]:
    scores = {} if recipe.record is None else recipe.record.scores
    return ", ".join(f"{name} {value:g}" for name, value in list(scores.items())[:1]), recipe.title

"""`uniformer recipes`: list the published runs, or print one whole."""

from __future__ import annotations

import argparse

HELP = "list the published training runs, or print one whole"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "pattern", nargs="?", default="*", help="a name, a pattern such as '*k400*' (quote it), or a .toml file"
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
    width = max(map(len, names), default=0)
    for name in names:
        recipe = load_recipe(name)
        record = recipe.record
        score = "" if record is None else ", ".join(f"{k} {v:g}" for k, v in list(record.scores.items())[:1])
        print(f"{name:{width}}  {score:10}  {recipe.title}")
    print(f"{len(names)} recipes. `uniformer recipes NAME --print` shows one whole, `uniformer train NAME` runs it.")
    return 0

"""`uniformer train`: train by a recipe, or on one's own data without one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from uniformer.config import did_you_mean
from uniformer.errors import InputError

if TYPE_CHECKING:
    from uniformer.datasets.manifest import Manifest
    from uniformer.training.recipe import Recipe
    from uniformer.training.result import Outcome

HELP = "train or fine-tune on a data set"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", metavar="RECIPE|DATA", help="name of a recipe, a .toml file, or a data set of one's own")
    p.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="change a setting, such as batch_size=16 or lr=1e-4"
    )
    p.add_argument("--checkpoint", metavar="ID|FILE|REPO", help="what to start from (default: a small published model)")
    p.add_argument("--out", metavar="DIR", help="folder of the run; going on is the same command (default: runs/NAME)")
    p.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU when there is one)")
    p.add_argument("--print", action="store_true", help="print the whole recipe and stop")


def run(args: argparse.Namespace) -> int:
    """Returns 0 when the run is finished, 128 + the signal's number when one stopped it."""
    from uniformer.training.recipe import list_recipes

    is_recipe = args.what in list_recipes() or args.what.endswith(".toml")
    if not is_recipe and not Path(args.what).exists():
        raise InputError(
            f"expected a recipe or a data set, found neither as {args.what!r}{did_you_mean(args.what, list_recipes())}"
        )
    outcome = _by_recipe(args) if is_recipe else _on_own_data(args)
    return 128 + outcome.stopped_by if outcome is not None and outcome.stopped_by else 0


def _by_recipe(args: argparse.Namespace) -> Outcome | None:
    from uniformer.training.recipe import load_recipe

    settings = list(args.settings)
    if args.checkpoint:
        settings.append(f"init.checkpoint={args.checkpoint}")
    recipe = load_recipe(args.what, settings)
    if _shown(args, recipe):
        return None
    from uniformer.training.loop import train

    train_set, val_set = open_data(recipe)
    return train(recipe, train_set, val_set, out=_folder(args, recipe), device=args.device)


def open_data(recipe: Recipe) -> tuple[Manifest, Manifest | None]:
    """The data sets that a recipe names."""
    from uniformer.datasets.open import find_splits, open_source
    from uniformer.labels import DISTINCT

    data = recipe.data
    if data.train is None:
        raise InputError("expected data.train, the list or folder of the training samples, got none")
    # Other data sets than these, and ImageNet's folders, are recognised, or in the order of the names that are found.
    known: Sequence[str] | str | None = data.dataset if data.dataset in DISTINCT else None
    found: list[Manifest] = []
    for split, name in (("train", data.train), ("val", data.val)):
        if name is None:
            continue
        source = Path(data.root or "", name)
        part = split if split in find_splits(source) else None  # a source of several splits, or this one alone
        root = data.root if source.is_file() else None
        found.append(open_source(source, split=part, classes=known, separator=data.separator, root=root))
        names = found[0].classes
        known = names if len(set(names)) == len(names) else None
    return found[0], found[1] if len(found) > 1 else None


def _on_own_data(args: argparse.Namespace) -> Outcome | None:
    from uniformer.checkpoints.identify import open_checkpoint
    from uniformer.checkpoints.records import DEFAULT_IMAGE, DEFAULT_VIDEO
    from uniformer.datasets.open import find_splits, open_source
    from uniformer.training.own_data import own_recipe, wants_features, with_validation

    splits, said = find_splits(args.what), []
    if "train" in splits and len(splits) > 1:
        train_set = open_source(args.what, split="train")
        held_out = "val" if "val" in splits else "test"
        val_set = open_source(
            args.what, split=held_out, classes=train_set.classes, multi_label=train_set.is_multi_label or None
        )
    else:
        train_set, val_set, how = with_validation(open_source(args.what))
        said.append(how)
    checkpoint = args.checkpoint or (DEFAULT_IMAGE if train_set.kind == "image" else DEFAULT_VIDEO)
    said.append(f"starting from {checkpoint}")
    contract = open_checkpoint(checkpoint).contract
    name = Path(args.what).resolve().stem
    recipe, why = own_recipe(train_set, contract, checkpoint, args.settings, name=name)
    if _shown(args, recipe):
        return None
    print("\n".join([*said, *why]), flush=True)
    if wants_features(recipe, args.settings):
        from uniformer.training.fit_head import fit_head

        return fit_head(recipe, train_set, val_set, out=_folder(args, recipe), device=args.device)
    from uniformer.training.loop import train

    return train(recipe, train_set, val_set, out=_folder(args, recipe), device=args.device)


def _folder(args: argparse.Namespace, recipe: Recipe) -> Path:
    return Path(args.out or Path("runs", recipe.name))


def _shown(args: argparse.Namespace, recipe: Recipe) -> bool:
    """Print the recipe where that was asked for."""
    if args.print:
        from uniformer.training.recipe import resolved

        sys.stdout.write(resolved(recipe))
    return bool(args.print)

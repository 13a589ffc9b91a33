"""`train`: train or fine-tune by a recipe, or on one's own data without one, as `uniformer train` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from uniformer.checkpoints.records import DEFAULT_IMAGE, DEFAULT_VIDEO
from uniformer.checkpoints.told import NetworkTold, assumed_input, refuse_told
from uniformer.config import DenseTask, did_you_mean
from uniformer.datasets.annotated import AnnotatedSet, annotated_kind
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.open import choose_split, find_splits, open_dataset, open_for_training
from uniformer.datasets.statement import oddities, statement
from uniformer.errors import InputError
from uniformer.labels import DATASETS
from uniformer.network.variants import get_config
from uniformer.support.settings import Table, from_table
from uniformer.training.dense_sets import own_sets, recipe_sets
from uniformer.training.own_data import own_recipe, wants_features, with_validation
from uniformer.training.own_dense import own_dense_recipe, usual_start
from uniformer.training.recipe import Recipe, asked, list_recipes, load_recipe, section
from uniformer.training.samples import DataSet
from uniformer.training.sections import Data, Init

if TYPE_CHECKING:
    from uniformer.checkpoints.identify import Opened
    from uniformer.tasks.task import Task
    from uniformer.training.loop import Signals
    from uniformer.training.result import TrainingResult


@dataclass(frozen=True)
class TrainingPlan:
    """What is going to be trained on what, and why so."""

    recipe: Recipe
    reasons: tuple[str, ...] = ()  #: of the choices that were made for the user, in sentences
    sets: tuple[DataSet, DataSet | None] | None = None  #: where they are open already
    opened: Opened | None = None  #: the checkpoint of `recipe.init`, where it has been read already
    by_features: bool = False  #: whether a classifier on features computed once does all that is asked for


def train(
    what: str | os.PathLike[str],
    settings: Sequence[str] = (),
    *,
    checkpoint: str | None = None,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    task: type[Task] | None = None,
    split: str | None = None,
    classes: str | None = None,
    root: str | None = None,
    separator: str = "auto",
    label_base: int = 0,
    allow_duplicates: bool = False,
    **told: Unpack[NetworkTold],
) -> TrainingResult:
    """Train by a recipe, or fine-tune on one's own data; the same call goes on with a run that was cut short.

        uniformer.train("data/clips", checkpoint="uniformer_small.k400_16x4").metrics["val_top1"]
        uniformer.train("uniformer_s16x4_k400", ["data.root=/k400", "data.train=train.csv", "batch_size=16"])

    Args:
        what: the name of a recipe, a .toml file, or a data set as `open_dataset` takes it, or `open_annotated`: boxes,
            masks, key points or maps of labels.
        settings: changes such as "batch_size=16" or "lr=1e-4".
        checkpoint: what to start from; for one's own data a small published model by default.
        out: folder of the run, by default runs/NAME.
        device: "auto" takes a GPU when there is one. Under torchrun every process calls this.
        task: what the network is for; classification by default.
        split, classes, root, separator, label_base, allow_duplicates: of one's own data, as in `open_dataset`. Without
            `split` the training split is learnt from, where there is one, and validated on "val", else "test"; with it
            that part alone, of which a fifth is held out. The setting data.val names other data to validate on.
        told: what the checkpoint does not tell of itself, as in `load_model`, for one's own data; a recipe says it.

    Raises `InputError` before the first step where recipe, data and checkpoint do not fit, and as `loop.fit` does.
    """
    plan = plan_training(
        what, settings,
        checkpoint=checkpoint, split=split, classes=classes, root=root, separator=separator, label_base=label_base,
        allow_duplicates=allow_duplicates, **told,
    )  # fmt: skip
    return run_plan(plan, out=out, device=device, task=task)


def plan_training(
    what: str | os.PathLike[str],
    settings: Sequence[str] = (),
    *,
    checkpoint: str | None = None,
    split: str | None = None,
    classes: str | None = None,
    root: str | None = None,
    separator: str = "auto",
    label_base: int = 0,
    allow_duplicates: bool = False,
    **told: Unpack[NetworkTold],
) -> TrainingPlan:
    """What `train` would do. The data of a recipe are opened later. Raises `InputError` as `train`."""
    name = os.fspath(what)
    options = {
        "classes": classes, "root": root, "separator": separator, "label_base": label_base,
        "allow_duplicates": allow_duplicates,
    }  # fmt: skip
    options = {key: value for key, value in options.items() if value not in (None, "auto", 0)}
    if name in list_recipes() or name.endswith(".toml"):
        refuse_told(told, f"the recipe {name}")
        if options or split:
            names = ", ".join([*options, *(["split"] if split else [])])
            raise InputError(f"{name}: expected settings such as data.root=DIR beside a recipe, got {names}")
        start = [f"init.checkpoint={checkpoint}"] if checkpoint else []
        return TrainingPlan(load_recipe(name, [*settings, *start]))
    if not Path(name).exists():
        raise InputError(
            f"expected a recipe or a data set, found neither as {name!r}{did_you_mean(name, list_recipes())}"
        )
    from uniformer.checkpoints.identify import open_checkpoint

    table = asked(settings)
    start_from = _start(table, checkpoint)
    if (found := annotated_kind(name)) is not None:
        data = from_table(Data, section(table, "data"), "data.")
        return _plan_dense(name, found, data, settings, start_from, split, options, told)
    train_set, val_set, reasons = _own_sets(name, from_table(Data, section(table, "data"), "data."), split, options)
    start_from = start_from or (DEFAULT_IMAGE if train_set.kind == "image" else DEFAULT_VIDEO)
    opened = open_checkpoint(start_from, **told)
    recipe, why = own_recipe(train_set, opened.contract, start_from, settings, name=Path(name).resolve().stem)
    reasons = [*reasons, f"starting from {start_from}", *assumed_input(opened.contract), *why]
    return TrainingPlan(recipe, tuple(reasons), (train_set, val_set), opened, wants_features(recipe, settings))


def _plan_dense(
    source: str, found: DenseTask, data: Data, settings: Sequence[str], checkpoint: str | None, split: str | None,
    options: Mapping[str, Any], told: Any,
) -> TrainingPlan:  # fmt: skip
    """What `train` would do with annotated pictures, for what the architecture is for, where a setting names one, or
    the checkpoint that is started from, or else the data."""
    from uniformer.checkpoints.identify import open_checkpoint

    for name in options:
        if name != "classes":
            raise InputError(f"{source}: expected no {name} for annotated pictures: it is of lists of files")
    for name in ("train", "root"):
        if getattr(data, name) is not None:
            raise InputError(f"data.{name}: expected it for recipes only; here {source} is what is learnt from")
    opened = None if checkpoint is None else open_checkpoint(checkpoint, **told)
    arch = asked(settings).get("arch")
    named = get_config(arch).task if isinstance(arch, str) else "classification"
    if named == "classification" and opened is not None:
        named = opened.contract.config.task
    task: DenseTask = found if named == "classification" else named
    train_set, val_set, said = own_sets(source, task, data.val, split, options.get("classes"))
    checkpoint = checkpoint or usual_start(task, arch)
    opened = opened or open_checkpoint(checkpoint, **told)
    recipe, why = own_dense_recipe(train_set, opened.contract, checkpoint, settings, name=Path(source).resolve().stem)
    return TrainingPlan(recipe, (*said, f"starting from {checkpoint}", *why), (train_set, val_set), opened)


def run_plan(
    plan: TrainingPlan,
    *,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    task: type[Task] | None = None,
    signals: Signals | None = None,
    say: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Do what was planned. `signals`: as in `loop.fit`; `say` gets each line of what is odd about a recipe's data."""
    recipe = plan.recipe
    folder = Path(out or Path("runs", recipe.name))
    train_set, val_set = plan.sets or open_for_recipe(recipe, say)
    if plan.by_features and task is None:
        assert isinstance(train_set, Manifest)
        assert not isinstance(val_set, AnnotatedSet)
        from uniformer.training.fit_head import fit_head

        return fit_head(recipe, train_set, val_set, out=folder, device=device, opened=plan.opened, own=True)
    from uniformer.training.loop import fit

    own = plan.sets is not None
    return fit(
        recipe, train_set, val_set,
        out=folder, device=device, task=task, opened=plan.opened, own=own, signals=signals,
    )  # fmt: skip


def _start(settings: Table, checkpoint: str | None) -> str | None:
    """What one's own training starts from, where it is said: by `checkpoint`, or by a setting. Raises `InputError`."""
    given = section(settings, "init")
    init = from_table(Init, given, "init.")
    if "checkpoint" not in given or init.checkpoint == checkpoint:
        return checkpoint
    if init.checkpoint is None:
        raise InputError("init.checkpoint=none: expected a checkpoint to start from, or a recipe to train from scratch")
    if checkpoint is not None:
        two = f"{checkpoint} and init.checkpoint={init.checkpoint}"
        raise InputError(f"expected one checkpoint to start from, got {two}")
    return init.checkpoint


def _own_sets(
    source: str, data: Data, split: str | None, options: Mapping[str, Any]
) -> tuple[Manifest, Manifest, list[str]]:
    """Training and validation set of one's own data, and what was decided.

    `data`: the settings that were given, `options`: how the data are read, where it is said otherwise.
    """
    if data.train is not None:
        raise InputError(f"data.train={data.train}: expected it for recipes only; here {source} is what is learnt from")
    settings = {"root": data.root, "separator": data.separator, "label_base": data.label_base}
    reading = {**settings, "classes": data.dataset if data.dataset in DATASETS else None, **options}
    val = None if data.val is None else _beside(reading["root"], data.val)
    train_set, val_set, said = open_for_training(source, val, split, **reading)
    if val_set is not None:
        return train_set, val_set, [*statement({"train": train_set, "val": val_set}), *said]
    whole = [*statement({"data": train_set}), *said]
    train_set, val_set, how = with_validation(train_set)
    return train_set, val_set, [*whole, how]


def _beside(root: str | None, name: str) -> str:
    """A list or folder of the data: below `root`, where it is there, else as it is written."""
    below = Path(root or "", name)
    return str(below) if below.exists() else name


def open_for_recipe(recipe: Recipe, say: Callable[[str], None] | None = None) -> tuple[DataSet, DataSet | None]:
    """The data sets that a recipe names; `say` gets what is odd in them. Raises `InputError` where it names none."""
    train_set: DataSet
    val_set: DataSet | None
    if recipe.model.head is not None:
        train_set, val_set, odd = recipe_sets(recipe)
    else:
        train_set, val_set = _labelled_sets(recipe)
        odd = list(oddities({"train": train_set} | ({} if val_set is None else {"val": val_set})))
    if say is not None:
        for line in odd:
            say(line)
    return train_set, val_set


def _labelled_sets(recipe: Recipe) -> tuple[Manifest, Manifest | None]:
    """The data sets of labelled files that a recipe names."""
    data = recipe.data
    if data.train is None:
        raise InputError("expected data.train, the list or folder of the training samples, got none")
    # Other data sets than these, and ImageNet's folders, are recognised, or in the order of the names that are found.
    known: Sequence[str] | str | None = data.dataset if data.dataset in DATASETS else None
    reading = partial(open_dataset, separator=data.separator, label_base=data.label_base)
    found: list[Manifest] = []
    for split, name in (("train", data.train), ("val", data.val)):
        if name is None:
            continue
        source = Path(data.root or "", name)
        part = choose_split(source, find_splits(source), (split,))  # of a source of several splits, or this one alone
        root = data.root if source.is_file() else None
        opened = reading(source, split=part, classes=known, root=root)
        found.append(opened.by_number())  # numbers without names are rows of the recipe's classifier
        names = found[0].classes
        known = names if len(set(names)) == len(names) else None
    return found[0], found[1] if len(found) > 1 else None

"""Training recipes: everything a run needs, in nested frozen dataclasses read from TOML. No torch here.

A recipe file states its difference from a base (`base = "kinetics400"`), so that a run reads as what is special about
it. The published runs and their bases lie in `uniformer/assets/recipes/`, with the settings as they were actually run:
the authors' config files (github.com/Sense-X/UniFormer) after the overrides of their shell scripts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from uniformer.checkpoints.records import Checkpoint, get_checkpoint
from uniformer.config import INPUTS, Config, Input, InputSpec, TaskName, did_you_mean
from uniformer.errors import Checked, InputError
from uniformer.network.variants import VARIANTS, default_input, dense_input, get_config
from uniformer.reading.dense_options import DetectionAugment, PoseAugment, SegmentationAugment
from uniformer.reading.options import Augment
from uniformer.support.settings import (
    NONE,
    Table,
    from_table,
    keys,
    leaves,
    merged,
    nearest,
    nested,
    parse_override,
    to_toml,
)
from uniformer.support.texts import parse_toml, read_text
from uniformer.tasks.options import REGIONS, Loss, Mixing
from uniformer.training.sections import Data, Ema, Init, Keep, Loop, Optimizer, Schedule

#: Of overrides, never of files; the last two are what a data set's errors call them.
ALIASES = {
    "lr": "optimizer.lr", "epochs": "schedule.epochs", "root": "data.root", "label_base": "data.label_base",
}  # fmt: skip


AnyAugment = Augment | DetectionAugment | SegmentationAugment | PoseAugment
AUGMENTS: Mapping[TaskName, type[AnyAugment]] = MappingProxyType(
    {
        "classification": Augment,
        "detection": DetectionAugment,
        "segmentation": SegmentationAugment,
        "pose": PoseAugment,
    }
)  #: what `augment` holds, by what the network is for
#: What the best epoch is by, where nothing is said.
METRICS: Mapping[TaskName, str] = MappingProxyType(
    {"classification": "top1", "detection": "box_ap", "segmentation": "miou", "pose": "ap"}
)
#: Settings that networks for other tasks have no use for.
OF_TASK: Mapping[str, TaskName] = MappingProxyType(
    {"mixing": "classification", "loss": "classification", "regions": "detection", "hardest": "segmentation"}
)

OF_LISTS = ("separator", "label_base", "label_maps")  #: of `data`: annotated pictures have no use for them


@dataclass(frozen=True)
class Recipe(Checked):
    """One training run. In a file, `model` holds differences from the architecture `arch` (`variants.get_config`) and
    `input` from its usual input (`variants.default_input`); everything else holds differences from these defaults.
    """

    name: str
    arch: str
    model: Config
    input: Input  #: of training and validation alike; clips and crops are validation's
    title: str = ""
    published: str | None = None  #: id of the checkpoint that this recipe gave: its record has the scores
    notes: tuple[str, ...] = ()  #: what is unusual or unverified
    batch_size: int = 1024  #: samples in one step of the optimizer, over all processes, before `augment.repeats`
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  #: of training; float16 comes with loss scaling
    attention_float32: bool = False  #: keep attention out of the lower precision
    #: statistics of a batch over all processes (of GPUs): in the head of a dense network, as some published runs; in
    #: all of a classifier, whose published runs had each its own
    sync_batch_norm: bool = False
    regions: int = REGIONS  #: of a picture that a step of a detector looks at, at most a quarter of them things
    hardest: float = 1.0  #: share of a picture's pixels that a segmenter learns, those of the largest loss
    seed: int = 0
    init: Init = field(default_factory=Init)
    data: Data = field(default_factory=Data)
    augment: AnyAugment = field(default_factory=Augment)  #: by what the network is for, see `AUGMENTS`
    mixing: Mixing = field(default_factory=Mixing)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    ema: Ema = field(default_factory=Ema)
    keep: Keep = field(default_factory=Keep)
    loop: Loop = field(default_factory=Loop)

    def _problems(self) -> Iterable[str]:
        if self.model.is_video != self.input.is_video:
            kinds = {True: "clips", False: "images"}
            yield f"{self.arch} is for {kinds[self.model.is_video]}, the input for {kinds[self.input.is_video]}"
        if self.loss.kind == "two_head" and not self.model.is_hourglass:
            yield f"loss.kind 'two_head' needs a light (hourglass) model, got {self.arch}"
        if (self.loss.kind == "token_labeling") and not self.model.token_labeling:
            yield f"loss.kind 'token_labeling' needs a model with token labeling, got {self.arch}"
        if self.loss.kind == "token_labeling" and self.mixing.is_on:
            yield "loss.kind 'token_labeling' mixes inside the network: set mixing.prob to 0"
        if isinstance(self.augment, Augment) and not self.input.is_video:
            yield from self.augment.not_for_images()
        task = self.model.task
        if not isinstance(self.input, INPUTS[task]) or not isinstance(self.augment, AUGMENTS[task]):
            yield (
                f"expected input and augment for {task}, got {type(self.input).__name__} and "
                f"{type(self.augment).__name__}"
            )
        usual = {"mixing": Mixing(), "loss": Loss(), "regions": REGIONS, "hardest": 1.0}
        yield from (
            f"{name}: expected no such settings for {task}: they are of {OF_TASK[name]}"
            for name in unused(self.model)
            if getattr(self, name) != usual[name]
        )
        if self.regions < 4:
            yield f"expected regions of 4 or more, got {self.regions}"
        if not 0 < self.hardest <= 1:
            yield f"expected hardest above 0, up to 1, got {self.hardest}"
        for name in OF_LISTS if task != "classification" else ():
            if getattr(self.data, name) != getattr(Data(), name):
                yield f"data.{name}: expected no such setting for {task}: it is of labelled files"
        if self.batch_size < 1 or self.batch_size % self.optimizer.accumulate:
            passes = self.optimizer.accumulate
            yield f"expected a batch_size that optimizer.accumulate {passes} divides, got {self.batch_size}"
        if self.seed < 0:
            yield f"expected a seed of 0 or more, got {self.seed}"

    @property
    def record(self) -> Checkpoint | None:
        """The published checkpoint that this recipe gave."""
        return None if self.published is None else get_checkpoint(self.published)

    def batch_per_process(self, processes: int) -> int:
        """Samples of one backward pass in one process. Raises `InputError` where `batch_size` does not divide."""
        size, rest = divmod(self.batch_size, processes * self.optimizer.accumulate)
        if rest:
            parts = f"{processes} processes x {self.optimizer.accumulate} accumulated passes"
            raise InputError(f"expected a batch_size that divides by {parts}, got {self.batch_size}")
        return size


# ---- reading and writing ---------------------------------------------------------------------------------------------

# These say what one file is; a file based on another is something else.
OWN = ("name", "title", "published", "notes")


def list_recipes(pattern: str = "*") -> list[str]:
    """Names of the published runs that match a shell pattern, sorted. Bases are not among them."""
    names = (entry.name for entry in files("uniformer").joinpath("assets", "recipes").iterdir())
    return sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml") and fnmatchcase(n[:-5], pattern))


def load_recipe(name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a published run (by name) or of a TOML file (a path, or a name ending in .toml).

    `overrides` are texts such as `data.root=/x`, `optimizer.lr=1e-4` or `batch_size=64`, in TOML's notation; words that
    are no TOML value are text, and `none` empties a setting. `lr` and `epochs` are short for their full names.
    Raises `InputError` for unknown names and settings (with the nearest), wrong types and values, and circular bases.
    """
    table = _read(name_or_path, ())
    table.setdefault("name", Path(name_or_path).stem if _is_path(name_or_path) else str(name_or_path))
    return recipe_from(table, overrides)


def recipe_from(table: Table, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a table such as a file holds, with `name` and `arch`. Overrides and errors as for `load_recipe`."""
    try:
        return _recipe(merged(table, asked(overrides)))
    except InputError as error:
        raise InputError(f"recipe {table['name']}: {error}") from None


def asked(overrides: Sequence[str]) -> Table:
    """What overrides ask for, as the tables of a file. Raises `InputError` for a text that is none."""
    table: Table = {}
    for text in overrides:
        key, value = parse_override(text)
        table = merged(table, nested(ALIASES.get(key, key), value))
    return table


def resolved(recipe: Recipe) -> str:
    """The whole recipe as TOML without a base, which loads back to the same recipe."""
    table = {key: value for key, value in asdict(recipe).items() if key not in unused(recipe.model)}
    variant = asdict(get_config(recipe.arch))
    # Only differences from the architecture: written in full, they would outlive a change of `arch`.
    table["model"] = {key: value for key, value in table["model"].items() if value != variant[key]}
    return to_toml(table)


def _recipe(table: Table) -> Recipe:
    arch = table.get("arch", "none")
    _check_keys(table, VARIANTS[arch].task if isinstance(arch, str) and arch in VARIANTS else "classification")
    if not isinstance(arch, str) or "arch" not in table:
        raise InputError(f"expected arch, the name of an architecture, got {arch}")
    model = from_table(Config, section(table, "model"), "model.", get_config(arch))
    augment = from_table(AUGMENTS[model.task], section(table, "augment"), "augment.")
    parts = {"model": model, "input": _input(table, model), "augment": augment, "schedule": _with_warmup(table)}
    parts["keep"] = {"metric": METRICS[model.task], **section(table, "keep")}
    return from_table(Recipe, {**table, **parts})


def _check_keys(table: Table, task: TaskName) -> None:
    """Raises `InputError` for a setting that networks for this task do not have, naming the nearest."""
    by_task = {"input": INPUTS[task], "augment": AUGMENTS[task]}
    known = [key for key in keys(Recipe) if key not in by_task]
    known += [key for name, kind in by_task.items() for key in keys(kind, f"{name}.")]
    sections = {f.name for f in fields(Recipe)}  # a value where a table belongs is another error
    for key, _ in leaves(table):
        if key not in known and key not in sections:
            raise InputError(f"unknown setting {key!r}{nearest(key, known)}")


def _input(table: Table, model: Config) -> Input:
    """What a table says of the input, over what networks of this kind are usually fed."""
    options = section(table, "input")
    if model.head is not None:
        return from_table(INPUTS[model.task], options, "input.", dense_input(model))
    size = options.get("size")
    if type(size) is int:  # one number is a square, and what goes by it (the short side before the crop) follows
        options["size"] = [size, size]
        usual = default_input(model, size)
    else:
        usual = default_input(model)
    return from_table(InputSpec, options, "input.", usual)


def unused(model: Config) -> tuple[str, ...]:
    """Settings that a network of this kind has no use for."""
    return tuple(name for name, task in OF_TASK.items() if task != model.task)


def _with_warmup(table: Table) -> Table:
    """The schedule of a table; a warmup that nobody states keeps its share of a run too short for the usual one."""
    schedule, usual = section(table, "schedule"), Schedule()
    if schedule.get("warmup_steps") or schedule.get("iterations") not in (None, NONE):
        schedule.setdefault("warmup_epochs", 0.0)
    epochs = schedule.get("epochs", usual.epochs)
    if "warmup_epochs" in schedule or type(epochs) is not int or not 1 <= epochs <= usual.warmup_epochs:
        return schedule
    return {**schedule, "warmup_epochs": usual.warmup_epochs * epochs / usual.epochs}


def section(table: Table, name: str) -> Table:
    """A table's part of this name, empty where it has none. Raises `InputError` for a value in its place."""
    section = table.get(name, {})
    if not isinstance(section, dict):
        raise InputError(f"{name}: expected a table, got {section!r}")
    return dict(section)


def _read(source: str | os.PathLike[str], chain: tuple[str, ...]) -> Table:
    """The table of a file over those of its bases."""
    text, label, folder = _text(source)
    if label in chain:
        raise InputError(f"circular base: {' -> '.join((*chain, label))}")
    table = parse_toml(text, label)
    base = table.pop("base", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise InputError(f"{label}: expected base as the name or path of a recipe, got {base!r}")
    below = _read(folder / base if _is_path(base) else base, (*chain, label))
    return merged({key: value for key, value in below.items() if key not in OWN}, table)


def _is_path(source: str | os.PathLike[str]) -> bool:
    text = os.fspath(source)
    return not isinstance(source, str) or text.endswith(".toml") or os.sep in text or "/" in text


def _text(source: str | os.PathLike[str]) -> tuple[str, str, Path]:
    """Text of a recipe file, what to call it, and the folder that paths in it start from."""
    if _is_path(source):
        path = Path(source).resolve()
        return read_text(path, "a recipe"), str(path), path.parent
    recipes = files("uniformer").joinpath("assets", "recipes")
    for place in (recipes, recipes.joinpath("bases")):
        entry = place.joinpath(f"{source}.toml")
        if entry.is_file():
            return entry.read_text(encoding="utf-8"), str(source), Path()
    raise InputError(f"unknown recipe {str(source)!r}{did_you_mean(str(source), list_recipes())}")


# ---- learning rate ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EffectiveLR:
    """The rates a run uses, and why in a sentence."""

    lr: float  #: the peak
    warmup_lr: float
    min_lr: float
    sentence: str


def effective_lr(recipe: Recipe, *, nodes: int = 1) -> EffectiveLR:
    """The learning rates after the recipe's scaling rule, on `nodes` machines.

    batch: the peak alone follows the batch (the image code). nodes: all three rates are multiplied by the number of
    machines (the video code, whose batch is per machine). none: as written. Raises `InputError` for no machine.
    """
    if nodes < 1:
        raise InputError(f"expected at least one machine, got {nodes}")
    optimizer, schedule, batch = recipe.optimizer, recipe.schedule, recipe.batch_size
    share = batch / optimizer.lr_batch
    if optimizer.lr_rule == "batch":
        lr = optimizer.lr * share
        why = f"{optimizer.lr:g} x batch {batch} / {optimizer.lr_batch}"
        return EffectiveLR(lr, schedule.warmup_lr, schedule.min_lr, f"learning rate {lr:g} = {why}")
    factor = nodes if optimizer.lr_rule == "nodes" else 1
    lr = optimizer.lr * factor
    why = f"{optimizer.lr:g} x {nodes} machines" if factor > 1 else "as written"
    sentence = f"learning rate {lr:g}, {why}, for a batch of {optimizer.lr_batch * factor}"
    if share != factor:
        sentence += (
            f"; this run's batch is {batch}, for which optimizer.lr_rule=batch would give {optimizer.lr * share:g}"
        )
    return EffectiveLR(lr, schedule.warmup_lr * factor, schedule.min_lr * factor, sentence)

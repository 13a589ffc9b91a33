"""Makes the tables of docs/recipes.md anew from the recipes: python docs/make_recipes.py"""

from __future__ import annotations

from pathlib import Path

from uniformer.checkpoints.records import get_checkpoint, list_checkpoints
from uniformer.config import InputSpec, Scaling
from uniformer.reading.options import Augment
from uniformer.training.recipe import Recipe, effective_lr, load_recipe

BEGIN = "<!-- tables: made by docs/make_recipes.py from uniformer/assets/recipes -->\n"
END = "<!-- end of tables -->\n"

HEADER = ("recipe", "top-1", "input", "batch", "learning rate", "epochs", "drop path", "operations", "starts from")
DENSE = ("recipe", "score", "input", "batch", "learning rate", "length", "drop path", "decay", "starts from")
SCORES = {"box_ap": "box AP", "mask_ap": "mask AP", "miou": "mean IoU", "ap": "AP"}


def updated(text: str) -> str:
    """The page with its tables made anew; the prose around them stays."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def tables() -> str:
    """A table per data set and kind of training, in the order of the records, then the notes of single runs."""
    records = [get_checkpoint(id) for id in list_checkpoints()]
    recipes = [load_recipe(record.recipe) for record in records if record.input is not None]
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(_title(recipe), []).append(recipe)
    notes = "".join(f"- `{recipe.name}`: {note}\n" for recipe in recipes for note in recipe.notes)
    return "\n".join([*(f"### {title}\n\n{_table(rows)}" for title, rows in groups.items()), f"### Notes\n\n{notes}"])


def _title(recipe: Recipe) -> str:
    if recipe.model.head is not None:
        return f"{recipe.data.dataset}, {recipe.model.task}"
    kinds = {"token_labeling": ", token labeling", "two_head": ", light models"}
    return f"{recipe.data.dataset}{kinds.get(recipe.loss.kind, '')}"


def _table(recipes: list[Recipe]) -> str:
    is_dense = recipes[0].model.head is not None
    header, row = (DENSE, _dense_row) if is_dense else (HEADER, _row)
    rows = [header, ["---"] * len(header), *map(row, recipes)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(recipe: Recipe) -> list[str]:
    record, spec, schedule = recipe.record, recipe.input, recipe.schedule
    assert record is not None
    assert isinstance(spec, InputSpec)
    assert isinstance(recipe.augment, Augment)
    stride = f" x {spec.stride}" if spec.sampling == "dense" else ""
    frames = f"{spec.frames}{stride}, " if spec.is_video else ""
    # Where the rate goes by machines, the batch tells how many there were.
    nodes = recipe.batch_size // recipe.optimizer.lr_batch if recipe.optimizer.lr_rule == "nodes" else 1
    cooldown = f" + {schedule.cooldown_epochs}" if schedule.cooldown_epochs else ""
    return [
        f"`{recipe.name}`",
        f"{record.scores['top1']:.1f}",
        f"{frames}{spec.size[0]}",
        str(recipe.batch_size),
        f"{effective_lr(recipe, nodes=nodes).lr:.3g}",
        f"{schedule.epochs}{cooldown}, warmup {schedule.warmup_epochs:g}",
        f"{recipe.model.drop_path:g}",
        f"`{recipe.augment.rand_augment}`",
        f"`{recipe.init.checkpoint}`" if recipe.init.checkpoint else "scratch",
    ]


def _dense_row(recipe: Recipe) -> list[str]:
    record, spec, schedule = recipe.record, recipe.input, recipe.schedule
    assert record is not None
    scores = [f"{name} {record.scores[key]:.1f}" for key, name in SCORES.items() if key in record.scores]
    fed = f"short side {spec.shortest}" if isinstance(spec, Scaling) else " x ".join(map(str, spec.size))
    length = f"{schedule.epochs} epochs" if schedule.iterations is None else f"{schedule.iterations} steps"
    return [
        f"`{recipe.name}`",
        ", ".join(scores),
        fed,
        str(recipe.batch_size),
        f"{effective_lr(recipe).lr:.3g}, {schedule.kind}",
        f"{length}, warmup {schedule.warmup_steps} steps",
        f"{recipe.model.drop_path:g}",
        f"{recipe.optimizer.weight_decay:g}, {recipe.optimizer.decay}",
        f"`{recipe.init.checkpoint}`",
    ]


if __name__ == "__main__":
    path = Path(__file__).with_name("recipes.md")
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")

"""The weights that a run starts from: drawn, or a checkpoint's, with a new end where the classes are others."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uniformer.checkpoints.identify import Opened, open_checkpoint
from uniformer.checkpoints.load import load_checkpoint, new_parts
from uniformer.heads.keys import CLASS_LAYERS, classes_of, head_of
from uniformer.heads.pyramid import DenseNetwork
from uniformer.network.model import UniFormer
from uniformer.tasks.class_order import match
from uniformer.training.log import Log
from uniformer.training.recipe import Recipe


def initialised(
    recipe: Recipe, classes: tuple[str, ...], log: Log, make: Callable[[], Any], opened: Opened | None = None
) -> Any:
    """The network as training begins: as `make` draws it, or with the weights of `recipe.init`.

    Its classifier is new where the checkpoint has other classes than `classes`, by number or by name; the same ones in
    another order bring their rows along. So are the layers of a dense network that have an output for each class; all
    of its head is new where the checkpoint is of a classifier, or has another head.
    """
    torch.manual_seed(recipe.seed)
    model = make()
    if recipe.init.checkpoint is None:
        return model
    opened = opened or open_checkpoint(recipe.init.checkpoint)
    if isinstance(model, DenseNetwork):
        return _dense(model, classes, log, opened)
    report = load_checkpoint(
        model,
        opened,
        inflate=recipe.init.inflate if recipe.model.is_video else None,
        new_classifier=True,
        allow_ignored=() if recipe.model.token_labeling else ("aux_head.*",),
    )
    log.say(str(report))
    known = opened.classes
    head = opened.weights.state.get("head.weight")
    if not known and head is not None and len(head) == recipe.model.num_classes:
        log.say("  note: the checkpoint names no classes: the rows of its classifier are taken by number")
    if len(known) != recipe.model.num_classes or known == classes:
        return model
    order = match(classes, known)
    if order is None or len(order) < len(known):
        model.reset_classifier(recipe.model.num_classes)
        log.say("  note: as many classes as in the checkpoint, but others: the classifier is new")
    elif (order != np.arange(len(order))).any():
        reorder_classifier(model, torch.from_numpy(order))
        log.say("  note: the checkpoint's classes in another order: its classifier's rows were put in this one")
    return model


@torch.no_grad()
def reorder_classifier(model: UniFormer, order: Tensor) -> None:
    """Row i of each classifier becomes what row `order[i]` was; order: int64 (K,)."""
    for head in (model.head, model.cls_head, model.aux_head):
        if isinstance(head, nn.Linear):
            head.weight.copy_(head.weight[order])
            head.bias.copy_(head.bias[order])


def _dense(model: DenseNetwork, classes: tuple[str, ...], log: Log, opened: Opened) -> DenseNetwork:
    drawn = {key: value.clone() for key, value in class_layers(model).items()}
    report = load_checkpoint(model, opened, new_classifier=True, allow_new=new_parts(opened, model.config))
    log.say(str(report))
    heads, known = opened.weights.heads, opened.classes
    if head_of(heads) != model.config.head or classes_of(heads) != len(classes) or known == classes:
        return model
    if not known:
        log.say("  note: the checkpoint names no classes: the rows of its head are taken by number")
        return model
    order = match(classes, known)
    if order is None:
        model.load_state_dict(drawn, strict=False)
        log.say("  note: as many classes as in the checkpoint, but others: the layers that name them are new")
    elif (order != np.arange(len(order))).any():
        with torch.no_grad():
            for value in class_layers(model).values():
                value.copy_(rows_in_order(value, torch.from_numpy(order)))
        log.say("  note: the checkpoint's classes in another order: its head's rows were put in this one")
    return model


def class_layers(model: DenseNetwork) -> dict[str, Tensor]:
    """The tensors with rows for each class, by key."""
    state = model.state_dict()
    return {key: value for key, value in state.items() if any(fnmatchcase(key, part) for part in CLASS_LAYERS)}


def rows_in_order(value: Tensor, order: Tensor) -> Tensor:
    """Rows of a layer with one or four for each class, or one more for background: class i becomes what `order[i]` was.

    value: (K, ...), (4 K, ...) or (K + 1, ...); order: int64 (K,).
    """
    count = len(order)
    if len(value) == count + 1:
        return value[torch.cat([order, order.new_tensor([count])])]
    return value.unflatten(0, (count, -1))[order].flatten(0, 1)

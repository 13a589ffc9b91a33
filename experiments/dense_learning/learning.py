"""UniFormer's dense networks and torchvision's small ones, from scratch, on the set "rooms": one loop, one recipe.

    uniformer data make rooms ROOMS --size 320x240
    python experiments/dense_learning/learning.py ROOMS RECIPE --out RUN [KEY=VALUE ...]
    python experiments/dense_learning/learning.py ROOMS RECIPE --out RUN --network lraspp      # or ssdlite
    python experiments/dense_learning/learning.py ROOMS RECIPE --out RUN --shuffled

The first is `uniformer train RECIPE data.train=ROOMS data.val=ROOMS --out RUN`. `--shuffled` is the control that must
fail: each picture is learnt with the truth of another one. RUN/result.json holds the scores on the other levels,
multiply-adds and conditions; stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from networks import RIVALS
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1]))  # where `common` is

import common

from uniformer.datasets.annotated import AnnotatedSet
from uniformer.tasks.segmentations import Segmentation
from uniformer.tasks.task import Task
from uniformer.training.loop import fit
from uniformer.training.recipe import load_recipe
from uniformer.training.run import open_for_recipe
from uniformer.training.setup import task_for


def shuffled(data: AnnotatedSet) -> AnnotatedSet:
    """Each picture with the truth of the one half a set further on. All pictures must be of one size."""
    others = data.select(np.roll(np.arange(len(data)), -(len(data) // 2)))
    return replace(data, instances=others.instances, maps=others.maps)


def by_place(task: Task, train: AnnotatedSet, val: AnnotatedSet) -> dict[str, float]:
    """What a place in the picture alone tells: its most frequent class in the training split, scored on the other."""
    counts = np.zeros((len(train.classes), *train.size(0)), np.int32)
    for row in range(len(train)):
        counts += train.label_map(row) == np.arange(len(train.classes))[:, None, None]
    usual = counts.argmax(0).astype(np.uint8)
    metric = task.metric(val)
    answer = Segmentation(labels=usual, classes=val.classes, palette=(), height=len(usual), width=len(usual[0]))
    rows = np.array([metric.row(row, answer) for row in range(len(val))])
    return metric.summary(metric.result(rows, {}))


@torch.no_grad()
def gigamacs(network: torch.nn.Module, task: Task, val: AnnotatedSet) -> float:
    """Multiply-adds of the answer to a picture, in 1e9: with as many regions as there are, the mean of ten."""
    network.eval()
    rows = range(min(10, len(val)))
    with FlopCounterMode(display=False) as counter:
        for row in rows:
            task.answer(network, task.load(val.path(row)), torch.device("cpu"), 1)
    return round(counter.get_total_flops() / 2e9 / len(rows), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="ROOMS", help="made by uniformer data make rooms")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="change a setting of the recipe")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN")
    parser.add_argument("--network", choices=["uniformer", *RIVALS], default="uniformer")
    parser.add_argument("--shuffled", action="store_true", help="the truth of other pictures: the control")
    args = parser.parse_intermixed_args()

    began = time.monotonic()
    recipe = load_recipe(args.recipe, [f"data.train={args.data}", f"data.val={args.data}", *args.settings])
    make, task = RIVALS.get(args.network, (None, None))
    train, val = open_for_recipe(recipe)
    learnt = fit(recipe, shuffled(train) if args.shuffled else train, val, out=args.out, network=make, task=task)
    if learnt.stopped_by:
        raise SystemExit(128 + learnt.stopped_by)
    work = task_for(recipe, train, task).on(val)
    network = work.build() if make is None else make(recipe.model)
    scores = {name.removeprefix("val_"): round(100 * score, 2) for name, score in learnt.metrics.items()}
    result = {
        "network": args.network,
        "control": args.shuffled,
        "scores": scores,
        "gigamacs": gigamacs(network, work, val),
        "parameters": sum(p.numel() for p in network.parameters()),
        "conditions": common.conditions((time.monotonic() - began) / 60, 1),
    }
    if val.task == "segmentation" and args.network == "uniformer":
        result["place alone"] = {name: round(100 * score, 2) for name, score in by_place(work, train, val).items()}
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

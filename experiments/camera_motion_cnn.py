"""3D CNNs of as many multiply-adds as UniFormer-nano on the camera-motion benchmark: R3D-18 and R(2+1)D-18 of narrow
widths (arXiv:1711.11248), trained by the same recipe, in the same loop, on the same clips, from the same seeds.

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 experiments/camera_motion_cnn.py \
        --train RUN --network r3d data.train=MANIFEST data.val=MANIFEST data.workers=1 seed=0     # again: goes on
    python experiments/camera_motion_cnn.py --test RUN [RUN ...] --data DATA
    python experiments/camera_motion_cnn.py --summarize RUN [RUN ...]

A RUN is a folder of `uniformer train` or of `--train`. `--test` shows the test split of DATA, made by `uniformer data
make camera-motion`, to the weights that validated best, the best epoch's or the average of the last ones, and writes
RUN/test.json; after training `--data` does the same. `--summarize` prints what runs of several seeds come to.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import camera_motion
import common
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, Conv3DSimple

from uniformer.config import Config
from uniformer.datasets.open import open_dataset
from uniformer.errors import InputError
from uniformer.network.model import UniFormer
from uniformer.network.ops import Grid
from uniformer.support.files import atomic_path
from uniformer.training.loop import fit
from uniformer.training.recipe import Optimizer, Recipe, load_recipe
from uniformer.training.result import AVERAGE, RESULT, TrainingResult
from uniformer.training.run import open_for_recipe
from uniformer.training.setup import STATE, Network
from uniformer.training.state import read_state

RECIPE = "uniformer_nano_camera_motion"
UNIFORMER = "uniformer"


class Kind(NamedTuple):
    """What tells one CNN from another."""

    title: str
    stem: Grid  #: strides of its stem in time, height and width
    whole: bool  #: 3x3x3 convolutions instead of spatial and temporal ones in turn


#: With a stem of (2, 4, 4) the first stage has the grid of UniFormer's; that of (1, 2, 2) is the original's: four to
#: eight times the places, which leaves a third of the channels.
CNNS = {
    "r3d": Kind("R3D-18", (2, 4, 4), True),
    "r2plus1d": Kind("R(2+1)D-18", (2, 4, 4), False),
    "r2plus1d_fine": Kind("R(2+1)D-18", (1, 2, 2), False),
}
TEST = "test.json"  # in a run's folder
TOLERANCE = 0.03  # between multiply-adds that count as equal
BATCH = 8  # clips at a time, of what is timed
ROUNDS = 5


class ConvNet(nn.Module):
    """R3D-18 or R(2+1)D-18: a stem, four stages of two residual blocks, mean, classifier.

    Args:
        config: what the loop asks of a network; the input and the classes of the UniFormer that it is held against.
        dims: widths of the four stages.
        kind: which of them. Each stage after the first halves time, height and width.
    """

    def __init__(self, config: Config, dims: Sequence[int], kind: Kind):
        super().__init__()
        self.config = config
        self.stem = _whole_stem(config, dims[0], kind) if kind.whole else _divided_stem(config, dims[0], kind)
        conv = Conv3DSimple if kind.whole else Conv2Plus1D
        blocks: list[nn.Module] = [BasicBlock(dims[0], dims[0], conv) for _ in range(2)]
        for before, width in pairwise(dims):
            shortcut = nn.Sequential(nn.Conv3d(before, width, 1, stride=2, bias=False), nn.BatchNorm3d(width))
            blocks += [BasicBlock(before, width, conv, 2, shortcut), BasicBlock(width, width, conv)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(dims[-1], config.num_classes)
        for m in self.modules():  # as torchvision's
            if isinstance(m, nn.Conv3d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) -> logits (B, num_classes)."""
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3, 4)))


def _whole_stem(config: Config, width: int, kind: Kind) -> nn.Module:
    conv = nn.Conv3d(config.in_chans, width, (3, 7, 7), kind.stem, (1, 3, 3), bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(width), nn.ReLU(inplace=True))


def _divided_stem(config: Config, width: int, kind: Kind) -> nn.Module:
    middle = max(45 * width // 64, 1)  # 45 of 64 in the original
    return nn.Sequential(
        nn.Conv3d(config.in_chans, middle, (1, 7, 7), (1, *kind.stem[1:]), (0, 3, 3), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, width, (3, 1, 1), (kind.stem[0], 1, 1), (1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


# ---- which network ---------------------------------------------------------------------------------------------------


def recipe_of(network: str, settings: Sequence[str]) -> Recipe:
    """The recipe of the model in the package, for another network if one is named."""
    recipe = load_recipe(RECIPE, settings)
    if network == UNIFORMER:
        return recipe
    dims = equal_dims(recipe.model, _clip(recipe), CNNS[network])
    title = f"{CNNS[network].title} of widths {', '.join(map(str, dims))}, camera motion"
    return replace(recipe, name=network, title=title)


def network_of(recipe: Recipe) -> Network:
    """What makes the network of a run. The name of its recipe tells which it is."""
    if recipe.name not in CNNS:
        return UniFormer
    kind = CNNS[recipe.name]
    return partial(ConvNet, dims=equal_dims(recipe.model, _clip(recipe), kind), kind=kind)


@cache
def equal_dims(config: Config, clip: Grid, kind: Kind) -> tuple[int, ...]:
    """Widths at which the CNN costs as many multiply-adds as the UniFormer of `config` on a clip (T, H, W).

    One after the other, each is as large as it can be if the following ones are to be twice as large each.
    Raises `InputError` where that misses by more than `TOLERANCE`.
    """
    target, dims = macs(UniFormer, config, clip), ()

    def cost(*widths: int) -> int:
        following = [widths[-1] * 2**k for k in range(1, 5 - len(widths))]
        return macs(partial(ConvNet, dims=(*widths, *following), kind=kind), config, clip)

    for _ in range(4):
        some = range(2 * dims[-1], 2 * dims[-1] + 16) if dims else range(1, 128)
        place = bisect_right(some, target, key=lambda width: cost(*dims, width))
        dims = (*dims, some[max(place - 1, 0)])
    if abs(cost(*dims) - target) > TOLERANCE * target:
        raise InputError(f"expected widths for {target} multiply-adds, found none nearer than {cost(*dims)}")
    return dims


def macs(network: Network, config: Config, clip: Grid) -> int:
    """Multiply-adds of convolutions and matrix products for one clip, as `uniformer.count_macs` counts them."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(config).eval()(torch.empty(1, config.in_chans, *clip))
    return counter.get_total_flops() // 2  # torch counts a multiply-add as two


def _clip(recipe: Recipe) -> Grid:
    """The size of a clip, (T, H, W)."""
    return recipe.input.frames, *recipe.input.size


# ---- test ------------------------------------------------------------------------------------------------------------


def measure(run: Path, data: Path) -> dict[str, Any]:
    """What a run's network says of the test split, with what it validated at; also written into the run's folder."""
    recipe, validated = load_recipe(run / "recipe.toml"), validations(run)
    weights = best_weights(recipe, validated)
    if not (run / weights).is_file():
        raise InputError(f"{run}: expected a run that is finished, found no {weights}")
    network = network_of(recipe)(recipe.model)
    network.load_state_dict(load_file(run / weights))
    network.eval()
    classes = read_state(run / STATE)["data"]["classes"]
    with torch.inference_mode():
        counts = camera_motion.count(network, classes, open_dataset(data / "test"), recipe.input)
    facts = {
        "network": recipe.name,
        "title": recipe.title,
        "seed": recipe.seed,
        "parameters": sum(p.numel() for p in network.parameters()),
        "macs": macs(network_of(recipe), recipe.model, _clip(recipe)),
        "validation": validated,
        "weights": weights,
        "clips": counts.clips.total(),
        "percent": counts.percent(),
        "clips_by_class": counts.clips,
        "right_by_class": counts.right,
        "versions": common.conditions(0, 1)["versions"],
    }
    with atomic_path(run / TEST) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    camera_motion.report("test", counts)
    return facts


def validations(run: Path) -> list[dict[str, float]]:
    """The scores of each validation, by epoch."""
    with open(run / "metrics.csv", newline="", encoding="utf-8") as f:
        rows = [row for row in csv.DictReader(f) if row["val_top1"]]
    if not rows:
        raise InputError(f"{run}: expected a run that was validated, found no scores in its metrics.csv")
    scores = ("epoch", "step", "val_top1", "val_loss", "ema_top1", "ema_loss")
    return [{name: float(row[name]) for name in scores if row[name]} for row in rows]


def best_weights(recipe: Recipe, validated: Sequence[dict[str, float]]) -> str:
    """The file of a run that validated best: its result, or the average of its last weights."""
    own = [scores["val_top1"] for scores in validated]
    result = max(own) if recipe.keep.result == "best" else own[-1]
    return AVERAGE if validated[-1].get("ema_top1", 0.0) > result else RESULT


# ---- several runs ----------------------------------------------------------------------------------------------------


def summary(runs: Sequence[Path]) -> str:
    """A table of tested runs, by network: mean over the seeds, and the least and the most."""
    found: dict[str, list[tuple[Recipe, dict[str, Any]]]] = {}
    for run in runs:
        if not (run / TEST).is_file():
            raise InputError(f"{run}: expected a run that was tested (--test), found no {TEST}")
        recipe, facts = load_recipe(run / "recipe.toml"), json.loads((run / TEST).read_text("utf-8"))
        found.setdefault(recipe.name, []).append((recipe, facts))
    everything = [recipe for group in found.values() for recipe, _ in group]
    check_alike(everything, name="", optimizer=Optimizer())  # each network may have a learning rate of its own
    for name, group in found.items():
        numbers = [recipe.seed for recipe, _ in group]
        if len(set(numbers)) < len(numbers):
            raise InputError(f"expected runs of {name} of different seeds, got {numbers}")
        check_alike([recipe for recipe, _ in group])
    times = clip_times({name: group[0][0] for name, group in found.items()})
    forms = [*next(iter(found.values()))[0][1]["percent"]]
    rows = []
    for name, group in found.items():
        recipe, facts = group[0][0], [f for _, f in group]
        shares = [common.mean_and_spread([f["percent"][form] for f in facts]) for form in forms]
        seeds = ", ".join(str(f["seed"]) for f in facts)
        parameters, multiply_adds = facts[0]["parameters"] / 1e6, facts[0]["macs"] / 1e6
        cost = (f"{parameters:.2f}", f"{multiply_adds:.0f}", f"{1000 * times[name]:.1f}")
        rows.append((name, *cost, f"{recipe.optimizer.lr:g}", seeds, *shares))
    head = ("network", "parameters, M", "multiply-adds, M", "CPU time a clip, ms", "learning rate", "seeds")
    return common.markdown((*head, *(f"{form}, %" for form in forms)), rows)


def check_alike(recipes: Sequence[Recipe], **apart: Any) -> None:
    """Raises `InputError` where runs differ by more than the seed, how they went about it, and fields set `apart`."""
    first = recipes[0]
    same: dict[str, Any] = {"seed": 0, "title": "", "notes": (), "keep": first.keep, "loop": first.loop, **apart}
    for recipe in recipes:
        if replace(recipe, data=replace(recipe.data, workers=first.data.workers), **same) != replace(first, **same):
            raise InputError(f"expected runs that differ by their seeds alone, got other settings in {recipe.name} too")


def clip_times(recipes: dict[str, Recipe]) -> dict[str, float]:
    """Processor seconds of one clip's forward pass on one thread, in turn, each network's fastest of a few rounds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    networks = {name: network_of(recipe)(recipe.model).eval() for name, recipe in recipes.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, network in networks.items():
                clips = torch.zeros(BATCH, network.config.in_chans, *_clip(recipes[name]))
                begin = time.process_time()
                network(clips)
                times[name].append((time.process_time() - begin) / BATCH)
    torch.set_num_threads(threads)
    return {name: min(spent) for name, spent in times.items()}


# ---- command line ----------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--train", metavar="RUN", type=Path)
    what.add_argument("--test", metavar="RUN", type=Path, nargs="+")
    what.add_argument("--summarize", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=f"change a setting of the recipe {RECIPE}")
    parser.add_argument("--network", choices=(UNIFORMER, *CNNS), default="r3d")
    parser.add_argument("--data", type=Path, help="the benchmark's folder, whose test split is shown to the network")
    args = parser.parse_args()
    if args.test and args.data is None:
        parser.error("--test needs --data")
    if args.summarize:
        print(summary(args.summarize), end="")
        return 0
    if args.train:
        outcome = run_training(args.network, args.settings, args.train)
        if outcome.stopped_by:
            return 128 + outcome.stopped_by
    is_main = os.environ.get("RANK", "0") == "0"
    if args.data is not None and is_main:
        for run in args.test or [args.train]:
            measure(run, args.data)
    return 0


def run_training(network: str, settings: Sequence[str], out: Path) -> TrainingResult:
    recipe = recipe_of(network, settings)
    return fit(recipe, *open_for_recipe(recipe), out=out, network=network_of(recipe))


if __name__ == "__main__":
    sys.exit(main())

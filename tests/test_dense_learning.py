"""The experiment of dense learning: every network goes through the one loop, and the control has no picture's truth."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.scripts import script
from uniformer.datasets.annotated import open_annotated
from uniformer.doom.make import make
from uniformer.network.variants import get_config

for package in ("vizdoom", "faster_coco_eval", "sklearn"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}", allow_module_level=True)

FOLDER = Path(__file__).parents[1] / "experiments/dense_learning"
SHORT = ("batch_size=2", "schedule.epochs=1", "schedule.warmup_steps=1", "input.shortest=64", "input.longest=96")
SETTINGS = {
    "semantic_fpn": (*SHORT, "augment.shortest=64", "augment.longest=96", "augment.crop=[64, 64]"),
    "mask_rcnn": (*SHORT, "augment.sides=[64]", "augment.longest=96"),
}
learning = script("experiments/dense_learning/learning.py")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures to train on and two to validate."""
    out = tmp_path_factory.mktemp("rooms") / "set"
    make(out, pictures=12, size="320x240", workers=1)
    return out


@pytest.mark.parametrize(
    ("recipe", "network", "measure"),
    [
        ("semantic_fpn", "uniformer", "miou"),
        ("semantic_fpn", "lraspp", "miou"),
        ("mask_rcnn", "ssdlite", "box_ap"),
    ],
)
def test_every_network_learns_and_is_scored(
    learning: ModuleType, rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    recipe: str, network: str, measure: str,
) -> None:  # fmt: skip
    command = ["learning.py", str(rooms), str(FOLDER / f"recipes/{recipe}.toml"), "--network", network]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "run"), *SETTINGS[recipe]])
    learning.main()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 <= result["scores"][measure] <= 100
    assert result["gigamacs"] > 0.01
    if network == "uniformer" and measure == "miou":
        assert 5 < result["place alone"]["miou"] < 30
    steps = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(steps) == 2  # its head, and the one epoch


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_the_control_learns_from_the_truth_of_other_pictures(learning: ModuleType, rooms: Path, task: str) -> None:
    data = open_annotated(rooms, split="train", task=task)
    control = learning.shuffled(data)
    assert control.item_names() == data.item_names()
    for row in range(len(data)):
        partner = (row + len(data) // 2) % len(data)
        assert partner != row
        if task == "segmentation":
            assert np.array_equal(control.label_map(row), data.label_map(partner))
        else:
            assert np.array_equal(control.annotations(row).boxes, data.annotations(partner).boxes)
            assert np.array_equal(control.annotations(row).masks(240, 320), data.annotations(partner).masks(240, 320))


def test_ssdlites_boxes_are_parts_of_the_picture(learning: ModuleType) -> None:
    """torchvision takes shares of a side: per cent would be boxes of many pictures, none of which is ever matched."""
    from torchvision.models.detection.image_list import ImageList

    network = learning.RIVALS["ssdlite"][0](get_config("mask_rcnn.uniformer_nano")).network
    maps = [torch.zeros(1, 1, n, n) for n in (20, 10, 5, 3, 2, 1)]
    (boxes,) = network.anchor_generator(ImageList(torch.zeros(1, 3, 320, 320), [(320, 320)]), maps)
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt() / 320
    assert 0.04 < float(sides.min()) < 0.06
    assert 0.5 < float(sides.max()) <= 1.0

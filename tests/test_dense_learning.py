"""The experiment of dense learning: its scores are right, its control has no picture's own truth, and it runs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from uniformer.doom.make import make
from uniformer.reading.run_lengths import decode_mask

for package in ("vizdoom", "faster_coco_eval"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}", allow_module_level=True)

SIZE = (64, 96)
SETTINGS = {"lr": 1e-3, "weight_decay": 0.02, "batch_size": 2, "steps": 2, "seed": 0, "shuffled": False}


@pytest.fixture(scope="module")
def learning() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "experiments/dense_learning")
        yield import_module("learning")


@pytest.fixture(scope="module")
def splits(learning: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Ten pictures to train on and two to validate."""
    out = tmp_path_factory.mktemp("rooms") / "set"
    make(out, pictures=12, size="320x240", workers=1)
    return {name: learning.read_split(out, name, SIZE, None) for name in ("train", "val")}


@pytest.mark.parametrize("name", ["lraspp", "semantic_fpn", "ssdlite", "mask_rcnn"])
def test_every_network_learns_and_answers(learning: ModuleType, splits: dict, name: str) -> None:
    torch.manual_seed(0)
    subject = learning.SUBJECTS[name](SIZE)
    before = [p.clone() for p in subject.network.parameters()]
    losses = learning.train(subject, splits["train"], argparse.Namespace(**SETTINGS))
    assert np.isfinite(losses).all()
    changed = [not torch.equal(a, b) for a, b in zip(before, subject.network.parameters(), strict=True)]
    assert np.mean(changed) > 0.9  # a batch without a truth of some class leaves its weights
    assert learning.gigamacs(subject, splits["val"]) > 0.01
    found = learning.scores(subject, splits)
    wanted = {"ssdlite": ["boxes"], "mask_rcnn": ["boxes", "masks"]}.get(name, ["maps", "place alone"])
    assert list(found) == wanted
    for figures in found.values():
        assert 0 <= figures.get("mIoU", figures.get("AP")) <= 100


def test_the_same_command_scores_again_without_training(
    learning: ModuleType, splits: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    command = ["learning.py", str(splits["val"].root), "--network", "lraspp", "--out", str(run)]
    monkeypatch.setattr(sys, "argv", [*command, "--size", *map(str, SIZE), "--steps", "2", "--batch-size", "2"])
    monkeypatch.setattr(learning, "SETTLING", 3)
    learning.main()
    first, weights = json.loads((run / "result.json").read_text()), (run / "weights.pt").stat().st_mtime_ns
    learning.main()
    again = json.loads((run / "result.json").read_text())
    assert (run / "weights.pt").stat().st_mtime_ns == weights
    assert [again[k] for k in ("settings", "losses", "maps")] == [first[k] for k in ("settings", "losses", "maps")]
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--seed", "1"])
    with pytest.raises(SystemExit, match="holds a run of other settings"):
        learning.main()


def test_norms_are_settled_by_the_mean_of_some_batches(
    learning: ModuleType, splits: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "SETTLING", 3)
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3, momentum=0.01))
    fed = []

    def loss(batch: object) -> None:
        fed.append(batch.pictures)
        network(batch.pictures)

    subject = learning.Subject(network, loss, None, is_detector=False)
    learning.settle_norms(subject, splits["train"], argparse.Namespace(**SETTINGS))
    torch.testing.assert_close(network[0].running_mean, torch.cat(fed).mean((0, 2, 3)))
    assert (len(fed), network[0].momentum) == (3, 0.01)


def test_the_truth_scores_100(learning: ModuleType, splits: dict) -> None:
    """Boxes, masks and label maps, as they are in the files."""
    val = splits["val"]
    truth = [
        {k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 0.9}
        for found in val.instances
        for a in found
    ]
    for kind in ("bbox", "segm"):
        assert learning.coco_scores(truth, val, kind)["AP"] == 100
        assert learning.coco_scores(truth[:1], val, kind)["AP"] < 100
    maps = learning.map_scores(lambda row, size: np.asarray(learning.label_map(val.root, val.images[row])), val)
    assert (maps["mIoU"], maps["accuracy"]) == (100, 100)
    walls = learning.map_scores(lambda row, size: np.zeros(size, int), val)
    assert walls["mIoU"] == pytest.approx(walls["accuracy"] / len(walls["classes"]), abs=0.01)


def test_a_mirrored_batch_is_mirrored_in_all_its_parts(splits: dict) -> None:
    train = splits["train"]
    rows = list(range(4))
    plain, turned = (train.batch(rows, rows, [flip] * 4, with_masks=True) for flip in (False, True))
    assert torch.equal(turned.pictures, plain.pictures.flip(3))
    assert torch.equal(turned.maps, plain.maps.flip(2))
    for i in rows:
        assert torch.equal(turned.masks[i], plain.masks[i].flip(2))
        assert torch.equal(turned.labels[i], plain.labels[i])
        torch.testing.assert_close(turned.boxes[i][:, [0, 2]], SIZE[1] - plain.boxes[i][:, [2, 0]])
        for box, mask, annotation in zip(plain.boxes[i], plain.masks[i], train.instances[i], strict=True):
            whole = decode_mask(annotation["segmentation"])
            assert mask.mean() == pytest.approx(whole.mean(), abs=0.01)
            x1, y1, x2, y2 = box.tolist()
            outside = mask.clone()
            outside[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = 0
            assert not outside.any()


def test_the_control_learns_from_the_truth_of_other_pictures(learning: ModuleType, splits: dict) -> None:
    seen = []

    class Watched:
        def __init__(self, split: object):
            self.pictures = split.pictures

        def batch(self, rows: list, truths: list, flips: list, *, with_masks: bool) -> list:
            seen.extend(zip(rows, truths, strict=True))
            return rows

    network = torch.nn.Linear(1, 1)
    subject = learning.Subject(network, lambda rows: network.weight.sum(), None, is_detector=False)
    for is_control in (False, True):
        seen.clear()
        learning.train(subject, Watched(splits["train"]), argparse.Namespace(**(SETTINGS | {"shuffled": is_control})))
        assert len(seen) == 4
        assert all((row == truth) != is_control for row, truth in seen)

"""Tiny networks of the dense tasks and data to test them on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import uniformer
from tests.annotated_sets import label_map, picture, values_of
from tests.made_objects import KINDS, POINTS, SIGMAS, made, write_set
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import create_model
from uniformer.checkpoints.save import save_checkpoint
from uniformer.config import PersonCrop, Scaling

TASKS = ("detection", "segmentation", "pose")
SMALL = {"depths": (1, 1, 1, 1), "dims": (16, 32, 64, 64), "head_dim": 32, "head_width": 64}
INPUTS: dict[str, Any] = {"detection": Scaling(32, 32), "segmentation": Scaling(160, 64, by="nothing"),
                          "pose": PersonCrop((64, 64))}  # fmt: skip
GROUND = ("sky", "road", "tree")
JOINTS = tuple(f"point {k}" for k in range(POINTS))
ORDER = (3, 0, 4, 1, 2)
COUNT = 5


def save_dense(path: Path, head: str, classes: tuple[str, ...], *, width: int = 64, **details: Any) -> Path:
    """A tiny network of random weights; of a detector they are such that it finds a few things in a picture."""
    torch.manual_seed(0)
    model = create_model(f"{head}.uniformer_nano", **{**SMALL, "head_width": width}, num_classes=len(classes)).eval()
    if head == "mask_rcnn":
        with torch.no_grad():
            model.roi_head.bbox_head.fc_cls.weight *= 20  # type: ignore[union-attr, operator]
            model.roi_head.bbox_head.fc_cls.bias[-1] = 8  # type: ignore[union-attr, index]
    contract = Contract(model.config, "", INPUTS[model.config.task], classes, id=f"tiny.{head}", details=details)
    save_checkpoint(model, path, contract)
    return path


def make_nets(root: Path) -> dict[str, Path]:
    """A checkpoint of each dense task."""
    pairs, limbs = [[0, 1], [2, 3]], [[0, 1], [1, 2]]
    return {
        "detection": save_dense(root / "detection.safetensors", "mask_rcnn", KINDS),
        "segmentation": save_dense(root / "segmentation.safetensors", "semantic_fpn", GROUND[::-1]),
        "pose": save_dense(
            root / "pose.safetensors", "topdown", JOINTS, sigmas=SIGMAS.tolist(), flip_pairs=pairs, skeleton=limbs
        ),
    }


def make_sets(root: Path) -> dict[str, Path]:
    """A few annotated pictures for each."""
    truths, _, sizes = made(11, COUNT)
    write_set(root / "detection", truths, sizes, ORDER)
    write_set(root / "pose", replace(truths, labels=truths.labels * 0), sizes, (), people=True)
    for i in range(COUNT):
        picture(root / f"segmentation/images/val/{i}.jpg", i)
        label_map(root / f"segmentation/labels/val/{i}.png", values_of(i))
    (root / "names.txt").write_text("\n".join(GROUND))
    return {"detection": root / "detection", "pose": root / "pose", "segmentation": root / "segmentation"}


def evaluated(task: str, net: Path, data: Path, out: Path) -> uniformer.evaluation.run.Evaluation:
    """All of it, in this process or among others."""
    classes = str(data.parent / "names.txt") if task == "segmentation" else None
    return uniformer.evaluate(net, data, classes=classes, out=out, device="cpu", workers=0)


def evaluate_all(nets: dict[str, Path], sets: dict[str, Path], out: Path) -> None:
    """All tasks, as one of several processes."""
    torch.distributed.init_process_group("gloo")
    for task in TASKS:
        evaluated(task, nets[task], sets[task], out / task)
    torch.distributed.destroy_process_group()

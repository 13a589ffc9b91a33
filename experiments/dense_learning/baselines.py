"""Torchvision's small networks on the set "rooms", from scratch: what UniFormer's dense networks are held against.

    uniformer data make rooms ROOMS --size 320x240
    python experiments/dense_learning/baselines.py ROOMS --network ssdlite --out RUN          # boxes
    python experiments/dense_learning/baselines.py ROOMS --network lraspp --out RUN           # label maps
    python experiments/dense_learning/baselines.py ROOMS --network ssdlite --out RUN --shuffled

`--shuffled` is the control that must fail: each picture is trained with the truth of another one. RUN/result.json holds
the scores on the other levels (COCO's box AP by faster-coco-eval; mean IoU), multiply-adds, losses and conditions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from uniformer.doom.coco import CLASSES
from uniformer.doom.views import THINGS
from uniformer.speed.timings import cpu_name

IGNORED = 255  #: the value of a label map's pixels that are of no class
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARM_UP = 0.05  # of the steps

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Split:
    """The pictures of a split and their truth."""

    pictures: Bytes  #: (N, H, W, 3), as the networks are fed
    boxes: list[npt.NDArray[np.float32]]  #: (M, 4) x1, y1, x2, y2 of each, in those pixels, without crowd
    labels: list[npt.NDArray[np.int64]]  #: (M,) from 1 up
    maps: Bytes  #: (N, H, W) in those pixels
    truth: Path  #: the annotation file
    ids: list[int]  #: of the pictures in it


def read_split(root: Path, name: str, size: tuple[int, int], count: int | None) -> Split:
    """The first `count` pictures of a split, or all, brought to `size` (H, W)."""
    path = root / "annotations" / f"instances_{name}.json"
    found = json.loads(path.read_text("utf-8"))
    images = found["images"][:count]
    height, width = size
    pictures = np.empty((len(images), height, width, 3), np.uint8)
    maps = np.empty((len(images), height, width), np.uint8)
    boxes: list[Any] = [[] for _ in images]
    labels: list[Any] = [[] for _ in images]
    rows = {image["id"]: row for row, image in enumerate(images)}
    for annotation in found["annotations"]:
        row = rows.get(annotation["image_id"])
        if row is not None and not annotation["iscrowd"]:
            x, y, w, h = annotation["bbox"]
            scale = np.array([width / images[row]["width"], height / images[row]["height"]] * 2)
            boxes[row].append(np.array([x, y, x + w, y + h]) * scale)
            labels[row].append(annotation["category_id"])
    for row, image in enumerate(images):
        with Image.open(root / image["file_name"]) as picture:
            pictures[row] = picture.resize((width, height), Image.Resampling.BILINEAR)
        with Image.open(root / image["file_name"].replace("images/", "labels/").replace(".jpg", ".png")) as labelled:
            maps[row] = labelled.resize((width, height), Image.Resampling.NEAREST)
    return Split(
        pictures,
        [np.array(b, np.float32).reshape(-1, 4) for b in boxes],
        [np.array(k, np.int64) for k in labels],
        maps,
        path,
        list(rows),
    )


def network_of(name: str, size: tuple[int, int]) -> nn.Module:
    """Torchvision's, with fresh weights, for this set's classes; SSDlite fed in this size instead of 320 x 320."""
    if name == "lraspp":
        return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(CLASSES))
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(THINGS) + 1)
    fixed = (size[1], size[0])  # width first
    network.transform = GeneralizedRCNNTransform(
        min(size), max(size), [0.5] * 3, [0.5] * 3, size_divisible=1, fixed_size=fixed
    )
    return network


def as_floats(pictures: Bytes) -> Tensor:
    """(B, H, W, 3) -> (B, 3, H, W) in 0..1, channels last in memory."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def loss_of(
    name: str, network: nn.Module, split: Split, rows: list[int], truths: list[int], flips: list[bool]
) -> Tensor:
    """Of a batch: pictures `rows` with the truth of `truths`, which the control has in another order."""
    turn = np.array(flips)[:, None, None]
    x = as_floats(np.where(turn[..., None], split.pictures[rows][:, :, ::-1], split.pictures[rows]))
    if name == "lraspp":
        maps = np.where(turn, split.maps[truths][:, :, ::-1], split.maps[truths])
        target = torch.from_numpy(maps).long()
        return F.cross_entropy(network(normalised(x))["out"], target, ignore_index=IGNORED)
    width = x.shape[3]
    targets = []
    for row, is_flipped in zip(truths, flips, strict=True):
        boxes = torch.from_numpy(split.boxes[row])
        if is_flipped:
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        targets.append({"boxes": boxes, "labels": torch.from_numpy(split.labels[row])})
    return sum(network(list(x), targets).values(), torch.zeros(()))


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Rows without an end, every one once in a round."""
    while True:
        order = rng.permutation(count)
        yield from (order[i : i + size].tolist() for i in range(0, count - size + 1, size))


def train(args: argparse.Namespace, network: nn.Module, split: Split) -> list[float]:
    """AdamW, a linear warm-up, a cosine to zero, mirrored by chance. The mean loss of every 20 steps."""
    rng = np.random.default_rng(args.seed)
    count = len(split.pictures)
    partner = np.roll(np.arange(count), count // 2) if args.shuffled else np.arange(count)
    optimizer = torch.optim.AdamW(network.parameters(), args.lr, weight_decay=args.weight_decay)
    warm = max(1, round(WARM_UP * args.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warm) / (args.steps - warm))),
    )
    network.train()
    losses: list[float] = []
    recent: list[float] = []
    for step, rows in zip(range(1, args.steps + 1), batches(count, args.batch_size, rng), strict=False):
        flips = (rng.random(len(rows)) < 0.5).tolist()
        loss = loss_of(args.network, network, split, rows, partner[rows].tolist(), flips)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        recent.append(float(loss.detach()))
        if step % 20 == 0:
            losses.append(round(float(np.mean(recent)), 4))
            recent = []
            print(
                f"step {step} of {args.steps}: loss {losses[-1]}, {time.process_time():.0f} s of processor", flush=True
            )
    return losses


# ---- scores


@torch.no_grad()
def box_scores(network: nn.Module, split: Split) -> dict[str, Any]:
    """COCO's figures of boxes, by faster-coco-eval, and AP of each class, in per cent."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(str(split.truth))
    found = []
    for row, image in enumerate(split.ids):
        (answer,) = network([as_floats(split.pictures[row : row + 1])[0]])
        info = truth.imgs[image]
        scale = torch.tensor([info["width"] / split.pictures.shape[2], info["height"] / split.pictures.shape[1]] * 2)
        for box, score, label in zip(answer["boxes"] * scale, answer["scores"], answer["labels"], strict=True):
            x1, y1, x2, y2 = box.tolist()
            bbox = [x1, y1, x2 - x1, y2 - y1]
            found.append({"image_id": image, "category_id": int(label), "bbox": bbox, "score": float(score)})
    evaluator = COCOeval_faster(truth, truth.loadRes(found), "bbox")
    evaluator.params.imgIds = split.ids
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    precision = np.asarray(evaluator.eval["precision"])[:, :, :, 0, -1]  # thresholds, recalls, classes; all areas
    per_class = {name: percent(p[p > -1]) for name, p in zip(THINGS, precision.transpose(2, 0, 1), strict=True)}
    return {**{n: round(100 * float(s), 2) for n, s in zip(names, evaluator.stats, strict=False)}, "classes": per_class}


def percent(values: npt.NDArray[Any]) -> float | None:
    return round(100 * float(values.mean()), 2) if len(values) else None


@torch.no_grad()
def map_scores(predict: Any, split: Split, root: Path) -> dict[str, Any]:
    """Mean IoU over the classes that there are, in per cent, on label maps of the original size."""
    names = [image["file_name"] for image in json.loads(split.truth.read_text("utf-8"))["images"]]
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for row, name in enumerate(names[: len(split.ids)]):
        with Image.open(root / name.replace("images/", "labels/").replace(".jpg", ".png")) as labelled:
            truth = np.asarray(labelled)
        answer = predict(split.pictures[row : row + 1], truth.shape)
        is_known = truth != IGNORED
        pairs = truth[is_known].astype(np.int64) * len(CLASSES) + answer[is_known]
        counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    both = counts.sum(0) + counts.sum(1) - counts.diagonal()
    each = {n: percent(np.array([counts[i, i] / both[i]])) for i, n in enumerate(CLASSES) if counts[i].sum()}
    accuracy = percent(np.array([counts.diagonal().sum() / counts.sum()]))
    return {"mIoU": round(float(np.mean(list(each.values()))), 2), "accuracy": accuracy, "classes": each}


def maps_of(network: nn.Module) -> Any:
    def predict(pictures: Bytes, size: tuple[int, int]) -> npt.NDArray[np.int64]:
        logits = network(normalised(as_floats(pictures)))["out"]
        return F.interpolate(logits, size, mode="bilinear").argmax(1)[0].numpy()

    return predict


def place_alone(split: Split) -> Any:
    """What a place in the picture alone tells: its most frequent class in training."""
    counts = np.stack([(split.maps == value).sum(0) for value in range(len(CLASSES))])
    usual = Image.fromarray(counts.argmax(0).astype(np.uint8))

    def predict(pictures: Bytes, size: tuple[int, int]) -> npt.NDArray[np.int64]:
        return np.asarray(usual.resize((size[1], size[0]), Image.Resampling.NEAREST)).astype(np.int64)

    return predict


def gigamacs(network: nn.Module, size: tuple[int, int], name: str) -> float:
    """Multiply-adds of one picture, in 1e9."""
    network.eval()
    x = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network([x] if name == "ssdlite" else x[None])
    return round(counter.get_total_flops() / 2e9, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="ROOMS", help="made by uniformer data make rooms")
    parser.add_argument("--network", choices=("ssdlite", "lraspp"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and result.json")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), metavar=("H", "W"), help="default: 192 256")
    parser.add_argument("--steps", type=int, default=1200, help="default: 1200")
    parser.add_argument("--batch-size", type=int, default=16, help="default: 16")
    parser.add_argument("--lr", type=float, default=1e-3, help="default: 0.001")
    parser.add_argument("--weight-decay", type=float, default=0.02, help="default: 0.02")
    parser.add_argument("--pictures", type=int, help="of each split, the first ones (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--shuffled", action="store_true", help="the truth of other pictures: the control")
    args = parser.parse_args()

    began = time.monotonic()
    torch.manual_seed(args.seed)
    size = (args.size[0], args.size[1])
    splits = {name: read_split(args.data, name, size, args.pictures) for name in ("train", "val")}
    network = network_of(args.network, size)
    macs = gigamacs(network, size, args.network)
    losses = train(args, network.to(memory_format=torch.channels_last), splits["train"])
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), args.out / "weights.pt")
    network.eval()
    if args.network == "ssdlite":
        scores = {"boxes": box_scores(network, splits["val"])}
    else:
        scores = {
            "maps": map_scores(maps_of(network), splits["val"], args.data),
            "place alone": map_scores(place_alone(splits["train"]), splits["val"], args.data),
        }
    result = {
        "settings": {k: v for k, v in vars(args).items() if k not in ("data", "out")},
        "pictures": {name: len(split.pictures) for name, split in splits.items()},
        "gigamacs": macs,
        "parameters": sum(p.numel() for p in network.parameters()),
        **scores,
        "losses": losses,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "cpu_minutes": round(time.process_time() / 60, 1),
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "faster-coco-eval")},
    }
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print({k: v for k, v in result.items() if k != "losses"})


if __name__ == "__main__":
    main()

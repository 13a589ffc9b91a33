"""UniFormer's dense networks and torchvision's small ones, from scratch, on the set "rooms": same pictures, same loop.

    uniformer data make rooms ROOMS --size 320x240
    python experiments/dense_learning/learning.py ROOMS --network semantic_fpn --out RUN    # or lraspp: label maps
    python experiments/dense_learning/learning.py ROOMS --network mask_rcnn --out RUN       # or ssdlite: boxes
    python experiments/dense_learning/learning.py ROOMS --network semantic_fpn --out RUN --shuffled

`--shuffled` is the control that must fail: each picture is trained with the truth of another one. RUN/result.json holds
the scores on the other levels (COCO's AP by faster-coco-eval; mean IoU), multiply-adds, losses and conditions. Trained
once, the same command only scores again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from data import Split, as_floats, label_map, read_split
from networks import SUBJECTS, Subject
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from uniformer.doom.coco import CLASSES
from uniformer.doom.views import THINGS
from uniformer.reading.run_lengths import encode_mask
from uniformer.speed.timings import cpu_name

IGNORED = 255  #: in a label map: no class
WARM_UP = 0.05  # of the steps
SETTLING = 30  # batches
LARGEST_STEP = 5.0  # norm of the gradients
TRAINED = "training.json"  # in RUN, beside the weights
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")  # of COCO's first figures

Classes = npt.NDArray[np.int64]
Predict = Callable[[int, tuple[int, int]], Classes]  # a row of the split -> its classes, in the size (H, W)


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Rows without an end, each once in a round."""
    while True:
        order = rng.permutation(count)
        yield from (order[i : i + size].tolist() for i in range(0, count - size + 1, size))


def train(subject: Subject, split: Split, args: argparse.Namespace) -> list[float]:
    """AdamW, a linear warm-up, a cosine to zero, mirrored by chance. The mean loss of every 20 steps."""
    rng = np.random.default_rng(args.seed)
    count = len(split.pictures)
    partner = np.roll(np.arange(count), count // 2) if args.shuffled else np.arange(count)
    parameters = list(subject.network.parameters())
    optimizer = torch.optim.AdamW(parameters, args.lr, weight_decay=args.weight_decay)
    warm = max(1, round(WARM_UP * args.steps))

    def rate(step: int) -> float:
        return min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warm) / max(1, args.steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    subject.network.train()
    losses: list[float] = []
    recent: list[float] = []
    for step, rows in zip(range(1, args.steps + 1), batches(count, args.batch_size, rng), strict=False):
        flips = (rng.random(len(rows)) < 0.5).tolist()
        loss = subject.loss(split.batch(rows, partner[rows].tolist(), flips, with_masks=subject.needs_masks))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, LARGEST_STEP)
        optimizer.step()
        schedule.step()
        recent.append(float(loss.detach()))
        if step % 20 == 0 or step == args.steps:
            losses.append(round(float(np.mean(recent)), 4))
            recent = []
            print(
                f"step {step} of {args.steps}: loss {losses[-1]}, {time.process_time():.0f} s of processor", flush=True
            )
    return losses


@torch.no_grad()
def settle_norms(subject: Subject, split: Split, args: argparse.Namespace) -> None:
    """Batch norms' means and variances anew, over some batches: torchvision's follow the weights by 1 to 3 % a step,
    too slowly for so few steps."""
    norms = [m for m in subject.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    usual = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    subject.network.train()
    for _, rows in zip(
        range(SETTLING), batches(len(split.pictures), args.batch_size, np.random.default_rng(1)), strict=False
    ):
        subject.loss(split.batch(rows, rows, [False] * len(rows), with_masks=subject.needs_masks))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


# ---- scores ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def detections(subject: Subject, split: Split) -> list[dict[str, Any]]:
    """What is found on each picture as COCO's results, in the pixels of the originals."""
    found = []
    for row, image in enumerate(split.images):
        (answer,) = subject.answer(as_floats(split.pictures[row : row + 1]))
        size = (image["height"], image["width"])
        scale = torch.tensor([size[1] / split.pictures.shape[2], size[0] / split.pictures.shape[1]] * 2)
        for i, (box, score, label) in enumerate(zip(answer.boxes * scale, answer.scores, answer.labels, strict=True)):
            x1, y1, x2, y2 = box.tolist()
            result = {"image_id": image["id"], "category_id": int(label) + 1, "score": float(score)}
            result["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            if answer.masks is not None:
                mask = F.interpolate(answer.masks[i][None, None].float(), size, mode="bilinear")[0, 0] >= 0.5
                result["segmentation"] = encode_mask(mask.numpy())
            found.append(result)
    return found


def coco_scores(found: list[dict[str, Any]], split: Split, kind: str) -> dict[str, Any]:
    """COCO's figures of "bbox" or "segm" by faster-coco-eval, and AP of each class, in per cent."""
    from faster_coco_eval import COCO, COCOeval_faster

    if not found:
        return dict.fromkeys(NAMES, 0.0)
    truth = COCO(str(split.truth))
    evaluator = COCOeval_faster(truth, truth.loadRes(found), kind)
    evaluator.params.imgIds = [image["id"] for image in split.images]
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    precision = np.asarray(evaluator.eval["precision"])[:, :, :, 0, -1]  # thresholds, recalls, classes; all areas
    per_class = {name: percent(p[p > -1]) for name, p in zip(THINGS, precision.transpose(2, 0, 1), strict=True)}
    return {**{n: round(100 * float(s), 2) for n, s in zip(NAMES, evaluator.stats, strict=False)}, "classes": per_class}


def percent(values: npt.NDArray[Any]) -> float | None:
    return round(100 * float(values.mean()), 2) if len(values) else None


def map_scores(predict: Predict, split: Split) -> dict[str, Any]:
    """Mean IoU over the classes that there are, in per cent, on label maps of the original size."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for row, image in enumerate(split.images):
        with label_map(split.root, image) as labelled:
            truth = np.asarray(labelled)
        is_known = truth != IGNORED
        pairs = truth[is_known].astype(np.int64) * len(CLASSES) + predict(row, truth.shape)[is_known]
        counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    both = counts.sum(0) + counts.sum(1) - counts.diagonal()
    there = np.flatnonzero(counts.sum(1))
    each = {CLASSES[i]: round(100 * float(counts[i, i] / both[i]), 2) for i in there}
    accuracy = round(100 * float(counts.diagonal().sum() / counts.sum()), 2)
    return {"mIoU": round(float(np.mean(list(each.values()))), 2), "accuracy": accuracy, "classes": each}


def by_network(subject: Subject, split: Split) -> Predict:
    @torch.no_grad()
    def predict(row: int, size: tuple[int, int]) -> Classes:
        logits = subject.answer(as_floats(split.pictures[row : row + 1]))
        return F.interpolate(logits, size, mode="bilinear").argmax(1)[0].numpy()

    return predict


def by_place(split: Split) -> Predict:
    """What a place in the picture alone tells: its most frequent class in this split."""
    counts = np.stack([(split.maps == value).sum(0) for value in range(len(CLASSES))])
    usual = Image.fromarray(counts.argmax(0).astype(np.uint8))

    def predict(row: int, size: tuple[int, int]) -> Classes:
        return np.asarray(usual.resize((size[1], size[0]), Image.Resampling.NEAREST)).astype(np.int64)

    return predict


def scores(subject: Subject, splits: dict[str, Split]) -> dict[str, Any]:
    if not subject.is_detector:
        own = map_scores(by_network(subject, splits["val"]), splits["val"])
        return {"maps": own, "place alone": map_scores(by_place(splits["train"]), splits["val"])}
    found = detections(subject, splits["val"])
    kinds = {"boxes": "bbox"} | ({"masks": "segm"} if subject.needs_masks else {})
    return {name: coco_scores(found, splits["val"], kind) for name, kind in kinds.items()}


@torch.no_grad()
def gigamacs(subject: Subject, split: Split) -> float:
    """Multiply-adds of the answer to a picture, in 1e9: of a detector with regions, the mean of the first ten."""
    subject.network.eval()
    rows = range(min(10, len(split.pictures)))
    with FlopCounterMode(display=False) as counter:
        for row in rows:
            subject.answer(as_floats(split.pictures[row : row + 1]))
    return round(counter.get_total_flops() / 2e9 / len(rows), 3)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="ROOMS", help="made by uniformer data make rooms")
    parser.add_argument("--network", choices=list(SUBJECTS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and result.json")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), metavar=("H", "W"), help="default: 192 256")
    parser.add_argument("--steps", type=int, default=1000, help="default: 1000")
    parser.add_argument("--batch-size", type=int, default=16, help="default: 16")
    parser.add_argument("--lr", type=float, default=1e-3, help="default: 0.001")
    parser.add_argument("--weight-decay", type=float, default=0.02, help="default: 0.02")
    parser.add_argument("--pictures", type=int, help="of each split, the first ones (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--shuffled", action="store_true", help="the truth of other pictures: the control")
    return parser.parse_args()


def trained_before(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What a finished training of these settings left; None where there is none."""
    if not (out / TRAINED).is_file():
        return None
    found: dict[str, Any] = json.loads((out / TRAINED).read_text("utf-8"))
    if found["settings"] != settings:
        raise SystemExit(f"{out} holds a run of other settings: {found['settings']}")
    return found


def main() -> None:
    args = arguments()
    began = time.monotonic()
    torch.manual_seed(args.seed)
    size = (args.size[0], args.size[1])
    splits = {name: read_split(args.data, name, size, args.pictures) for name in ("train", "val")}
    subject = SUBJECTS[args.network](size)
    subject.network.to(memory_format=torch.channels_last)
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(args).items() if k not in ("data", "out")}
    trained = trained_before(args.out, settings)
    if trained is None:
        losses = train(subject, splits["train"], args)
        args.out.mkdir(parents=True, exist_ok=True)
        torch.save(subject.network.state_dict(), args.out / "weights.pt")
        trained = {"settings": settings, "cpu_minutes": round(time.process_time() / 60, 1), "losses": losses}
        (args.out / TRAINED).write_text(json.dumps(trained) + "\n", encoding="utf-8")
    subject.network.load_state_dict(torch.load(args.out / "weights.pt"))
    settle_norms(subject, splits["train"], args)
    result = {
        **trained,
        "pictures": {name: len(split.pictures) for name, split in splits.items()},
        "gigamacs": gigamacs(subject, splits["val"]),
        "parameters": sum(p.numel() for p in subject.network.parameters()),
        **scores(subject, splits),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "faster-coco-eval")},
    }
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print({k: v for k, v in result.items() if k != "losses"})


if __name__ == "__main__":
    main()

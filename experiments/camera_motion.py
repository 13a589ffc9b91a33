"""What a network of camera motion lives by: its accuracy as it is, and on the same clips out of order, standing still
and played backwards.

python experiments/camera_motion.py DATA [--checkpoint FILE] [--split test]

DATA is a folder made by `uniformer data make camera-motion`. Backwards, a clip shows the opposite motion
(`camera_motion.classes.REVERSED`), and that is what counts as right.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import common
import numpy as np
import torch
from torch import Tensor

from uniformer.camera_motion.classes import CLASSES, REVERSED
from uniformer.data.sources import open_source
from uniformer.predictor import IN_PACKAGE, Predictor

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--checkpoint", default=IN_PACKAGE)
    parser.add_argument("--split", default="test")
    args = parser.parse_args()

    predictor = Predictor(args.checkpoint, device="cpu")
    names = list(predictor.contract.classes)
    manifest = open_source(args.data / args.split)
    rng = np.random.default_rng(0)
    right: dict[str, Counter[str]] = {}
    confused: Counter[tuple[str, str]] = Counter()
    for start in range(0, len(manifest), BATCH):
        items = [manifest[row] for row in range(start, min(start + BATCH, len(manifest)))]
        labels = [manifest.classes[item.labels[0]] for item in items]
        clips = torch.cat([predictor.views(item.path).pixels for item in items])  # (B, 3, T, h, w)
        for kind, seen, truth in variants(clips, labels, rng):
            said = [names[i] for i in predictor.logits(seen.numpy()).argmax(1).tolist()]
            right.setdefault(kind, Counter()).update(t for s, t in zip(said, truth, strict=True) if s == t)
            if kind == "as they are":
                confused.update((t, s) for s, t in zip(said, truth, strict=True) if s != t)
    report(args, Counter(manifest.classes[manifest[row].labels[0]] for row in range(len(manifest))), right, confused)


def variants(clips: Tensor, labels: list[str], rng: np.random.Generator) -> list[tuple[str, Tensor, list[str]]]:
    """Clips (B, 3, T, h, w) and their classes in four forms."""
    frames = clips.shape[2]
    shuffled = torch.stack([clip[:, rng.permutation(frames)] for clip in clips])
    still = clips[:, :, [frames // 2]].expand_as(clips)
    return [
        ("as they are", clips, labels),
        ("frames out of order", shuffled, labels),
        ("middle frame, repeated", still, labels),
        ("backwards", clips.flip(2), [REVERSED[label] for label in labels]),
    ]


def report(
    args: argparse.Namespace, counts: Counter[str], right: dict[str, Counter[str]], confused: Counter[tuple[str, str]]
) -> None:
    total = counts.total()
    rows = [(kind, f"{100 * found.total() / total:.1f}") for kind, found in right.items()]
    print(common.markdown((f"{total} clips of {args.split}", "top-1, %"), rows))
    ordered = right["as they are"]
    print(
        common.markdown(
            ("class", "right, %"), [(name, f"{100 * ordered[name] / counts[name]:.0f}") for name in CLASSES]
        )
    )
    print(common.markdown(("is", "taken for", "clips"), [(*pair, n) for pair, n in confused.most_common(12)]))
    backwards = [
        (name, f"{100 * right['backwards'][opposite] / counts[name]:.0f}")
        for name, opposite in REVERSED.items()
        if name != opposite
    ]
    print(common.markdown(("class, played backwards", "taken for its opposite, %"), backwards))
    print(json.dumps(common.conditions(0, 1)["versions"]))


if __name__ == "__main__":
    main()

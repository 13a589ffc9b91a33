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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import common
import numpy as np
import torch
from torch import Tensor

from uniformer.camera_motion.classes import CLASSES, REVERSED
from uniformer.checkpoints.records import BUNDLED
from uniformer.config import InputSpec
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.open import open_dataset
from uniformer.errors import InputError
from uniformer.evaluation.scoring import Reading, item_groups, run_items
from uniformer.inference.predictor import Predictor

BATCH = 32
AS_THEY_ARE, BACKWARDS = "as they are", "backwards"


@dataclass
class Counts:
    """Clips by class: how many there are, and how many of them a network names rightly in each form."""

    clips: Counter[str] = field(default_factory=Counter)
    right: dict[str, Counter[str]] = field(default_factory=dict)  #: form -> class that it shows
    confused: Counter[tuple[str, str]] = field(default_factory=Counter)  #: (is, taken for), as they are

    def percent(self) -> dict[str, float]:
        """Per cent right in each form."""
        return {form: 100 * found.total() / self.clips.total() for form, found in self.right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--checkpoint", default=BUNDLED)
    parser.add_argument("--split", default="test")
    args = parser.parse_args()

    predictor = Predictor(args.checkpoint, device="cpu")
    if predictor.contract.classes is None:
        raise InputError(f"expected a network that names its classes, got {args.checkpoint}")
    counts = count(
        lambda clips: torch.from_numpy(predictor.logits(clips.numpy())),
        predictor.contract.classes,
        open_dataset(args.data / args.split),
        predictor.contract.input,  # the network alone, as in training: whole clips, not their parts
    )
    report(args.split, counts)


def count(
    logits: Callable[[Tensor], Tensor], names: Sequence[str], manifest: Manifest, spec: InputSpec, workers: int = 0
) -> Counts:
    """What a network, (B, 3, T, h, w) -> (B, K) of the classes `names`, says of the clips in all forms."""
    if spec.views != 1:
        raise InputError(f"expected an input of one view a clip, got {spec.views}")
    counts, rng = Counts(), np.random.default_rng(0)
    groups = item_groups(len(manifest), 1, BATCH)
    clips = run_items(lambda views, _: (views,), manifest, spec, groups, Reading(batch_size=BATCH, workers=workers))
    for group in groups:
        some = list(islice(clips, len(group)))
        for problem in filter(None, (clip.error for clip in some)):
            raise InputError(problem)
        labels = [manifest.classes[manifest.labels_of(row)[0]] for row in group]
        counts.clips.update(labels)
        pixels = torch.from_numpy(np.concatenate([clip.outputs[0] for clip in some]))
        for form, seen, truth in variants(pixels, labels, rng):
            said = [names[i] for i in logits(seen).argmax(1).tolist()]
            counts.right.setdefault(form, Counter()).update(t for s, t in zip(said, truth, strict=True) if s == t)
            if form == AS_THEY_ARE:
                counts.confused.update((t, s) for s, t in zip(said, truth, strict=True) if s != t)
    return counts


def variants(clips: Tensor, labels: list[str], rng: np.random.Generator) -> list[tuple[str, Tensor, list[str]]]:
    """Clips (B, 3, T, h, w) and their classes in four forms."""
    frames = clips.shape[2]
    shuffled = torch.stack([clip[:, rng.permutation(frames)] for clip in clips])
    still = clips[:, :, [frames // 2]].expand_as(clips)
    return [
        (AS_THEY_ARE, clips, labels),
        ("frames out of order", shuffled, labels),
        ("middle frame, repeated", still, labels),
        (BACKWARDS, clips.flip(2), [REVERSED[label] for label in labels]),
    ]


def report(split: str, counts: Counts) -> None:
    clips, right = counts.clips, counts.right
    rows = [(form, f"{share:.1f}") for form, share in counts.percent().items()]
    print(common.markdown((f"{clips.total()} clips of {split}", "top-1, %"), rows))
    ordered = [(name, f"{100 * right[AS_THEY_ARE][name] / clips[name]:.0f}") for name in CLASSES if clips[name]]
    print(common.markdown(("class", "right, %"), ordered))
    print(common.markdown(("is", "taken for", "clips"), [(*pair, n) for pair, n in counts.confused.most_common(12)]))
    backwards = [
        (name, f"{100 * right[BACKWARDS][opposite] / clips[name]:.0f}")
        for name, opposite in REVERSED.items()
        if name != opposite and clips[name]
    ]
    print(common.markdown(("class, played backwards", "taken for its opposite, %"), backwards))
    print(json.dumps(common.conditions(0, 1)["versions"]))


if __name__ == "__main__":
    main()

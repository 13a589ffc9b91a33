"""Detection, segmentation and pose: how long a picture takes and how much memory, our networks and what one might take
instead.

    python benchmarks/dense.py                       # all rows, one thread, in processor time
    python benchmarks/dense.py pose "upernet 512x683" --rounds 9 --threads 2 --clock wall

Forms of ours: `published` (the published code's arithmetic: the whole affinity is formed, patch embeddings are copied,
windows are cut out by copies), `plain`, `prepared` (`uniformer.optimize`), `bfloat16` and OpenVINO. A detection is all
of it: levels, 1,000 regions, boxes, the masks of 100, laid into the picture. The others' networks are as their
libraries make them; those of transformers are left out where it is not installed. Random weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import machine
from alternate import CLOCKS, Contender, Result, compare
from networks import Built, counted

FORMS = ("published", "plain", "prepared", "bfloat16", "openvino")
PAIRS = 1000  # of a region and a class that pass a detector's threshold
HEAD = ("network and input", "form", "published score", "M parameters", "G multiply-adds", "seconds",
        "least to most", "x faster than published", "x faster than plain", "MB", "off by")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One network of ours at one size, and the others beside it, by names in `PEERS`."""

    checkpoint: str
    size: tuple[int, int]
    score: str  #: of the record's scores
    peers: tuple[str, ...] = ()


ROWS = {
    "pose 256x192": Row("topdown.uniformer_small.coco_256x192", (256, 192), "ap", ("ViTPose-B",)),
    "semantic_fpn 512x704": Row("semantic_fpn.uniformer_small.ade20k", (512, 704), "miou", ("SegFormer-B2",)),
    "upernet 512x683": Row("upernet.uniformer_small.ade20k", (512, 683), "miou", ("DeepLabV3-R50",)),
    "mask_rcnn 800x1333": Row("mask_rcnn.uniformer_small_h14.coco_1x", (800, 1344), "box_ap", ("Mask R-CNN v2 R50",)),
    "semantic_fpn 512x2048": Row("semantic_fpn.uniformer_small.ade20k", (512, 2048), "miou"),
    "upernet 512x2048": Row("upernet.uniformer_small.ade20k", (512, 2048), "miou"),
}

#: library, what makes it, its published score and where that is from
PEERS: dict[str, tuple[str, str, str]] = {
    "Mask R-CNN v2 R50": ("torchvision", "maskrcnn_resnet50_fpn_v2", "47.4 box AP, torchvision"),
    "DeepLabV3-R50": ("torchvision", "deeplabv3_resnet50", "66.4 mIoU of VOC's classes in COCO, torchvision"),
    "SegFormer-B2": ("transformers", "Segformer", "46.5 mIoU, arXiv 2105.15203"),
    "ViTPose-B": ("transformers", "VitPose", "75.8 AP, arXiv 2204.12484"),
}


def ours(checkpoint: str, size: tuple[int, int], form: str, *, threads: int) -> Built:
    """A network of ours in a form, and its answer's distance from the plain one's."""
    import torch
    from published import published

    import uniformer
    from uniformer.heads import build_network

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = uniformer.get_checkpoint(checkpoint).config
    network: Any = build_network(config).eval()
    x = torch.randn(1, 3, *size)
    with torch.inference_mode():
        expected = _one(network(x))
    facts = {
        "macs": uniformer.count_macs(config, size),
        "parameters": sum(p.numel() for p in network.parameters()),
        "input": [3, *size],
    }
    if form == "published":
        network = published(network)
    elif form == "openvino":
        network = uniformer.optimize(network, backend="openvino", example=x)
    elif form != "plain":
        network = uniformer.optimize(network, dtype=torch.bfloat16 if form == "bfloat16" else None)
    with torch.inference_mode():
        found = _one(network(x))
    facts["difference"] = float((found - expected).abs().max() / expected.abs().max())
    del expected, found
    run = _detection(network, x) if config.task == "detection" else lambda: network(x)
    return _without_gradients(run), facts


def _detection(network: Any, x: Any) -> Callable[[], Any]:
    """A picture to masks laid into it, with as many candidates as a real one has."""
    import torch

    from uniformer.heads.detection import Limits, paste_masks, region_features, with_images

    size, scales = tuple(x.shape[2:]), [torch.ones(4)]

    def proposed() -> tuple[Any, Any]:
        levels = network(x)
        return levels, [r[:, :4] for r in network.proposals(network.rpn_head(levels), [size], Limits())]

    with torch.inference_mode():
        levels, regions = proposed()
        logits, _ = network.roi_head.box_heads[0](region_features(levels, with_images(regions), 7))
        limits = Limits(score=float(logits.softmax(1)[:, :-1].flatten().topk(PAIRS).values[-1]))
    del levels, regions, logits

    def run() -> Any:
        levels, regions = proposed()
        found = network.detect(levels, regions, [size], scales, limits)
        (shares,) = network.masks(levels, found, scales)
        return paste_masks(shares, found[0].boxes, size)

    return run


def peer(name: str, size: tuple[int, int], *, threads: int) -> Built:
    """Another library's network by its own defaults, in float32."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    library, build, _ = PEERS[name]
    x = torch.rand(1, 3, *size)
    if library == "torchvision":
        from torchvision.models import get_model

        few = {"min_size": size[0], "max_size": size[1]} if "rcnn" in build else {}
        model = get_model(build, weights=None, weights_backbone=None, **few).eval()
    else:
        model = _of_transformers(build).eval()
    facts = {"macs": counted(model, x), "parameters": sum(p.numel() for p in model.parameters()), "input": [3, *size]}
    return _without_gradients(lambda: model(x)), facts


def _of_transformers(build: str) -> Any:
    import transformers

    if build == "Segformer":  # B2
        config = transformers.SegformerConfig(
            depths=[3, 4, 6, 3], hidden_sizes=[64, 128, 320, 512], decoder_hidden_size=768, num_labels=150
        )
        return transformers.SegformerForSemanticSegmentation(config)
    backbone = transformers.VitPoseBackboneConfig(out_indices=[12])  # B, 256 x 192
    return transformers.VitPoseForPoseEstimation(transformers.VitPoseConfig(backbone_config=backbone, num_labels=17))


def _one(answer: Any) -> Any:
    return answer if hasattr(answer, "shape") else answer[0]


def _without_gradients(run: Callable[[], Any]) -> Callable[[], Any]:
    import torch

    return torch.inference_mode()(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"or beginnings of: {', '.join(ROWS)}; default: all")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="processor")
    args = parser.parse_args()
    chosen = [name for name in ROWS if not args.rows or any(name.startswith(asked) for asked in args.rows)]
    settings = {"threads": args.threads, "rounds": args.rounds, "clock": args.clock}
    under, rows, lines = machine.conditions(**settings), {}, []
    for name in chosen:
        row = ROWS[name]
        forms = [f for f in args.forms if f != "openvino" or not name.startswith("mask_rcnn")]
        contenders = [Contender(form, ours, (row.checkpoint, row.size, form)) for form in forms]
        contenders += [Contender(other, peer, (other, row.size)) for other in row.peers]
        results = compare(contenders, rounds=args.rounds, threads=args.threads, clock=CLOCKS[args.clock])
        rows[name] = [result.row() for result in results]
        lines += table(name, row, results)
        print(machine.markdown(HEAD, lines), flush=True)
    text = (
        f"One picture at a time, {args.threads} thread(s), {args.clock} time, medians of {args.rounds} rounds in turn; "
        "times faster are medians of the rounds' ratios. MB is the peak of a process, its libraries included.\n\n"
    )
    kept = "all" if not args.rows else "-".join(args.rows).replace(" ", "_")
    machine.keep(f"dense-{kept}-{args.threads}-threads", under, rows, text + machine.markdown(HEAD, lines))


def table(name: str, row: Row, results: list[Result]) -> list[list[str]]:
    from uniformer import get_checkpoint

    by_name = {result.name: result for result in results}
    lines = []
    for form, result in by_name.items():
        score = PEERS[form][2] if form in PEERS else f"{get_checkpoint(row.checkpoint).scores[row.score]} {row.score}"
        if result.error is not None:
            lines.append([name, form, score, f"not run: {result.error}", *[""] * 7])
            continue
        faster = [by_name.get(other) for other in ("published", "plain")]
        lines.append([
            name,
            f"**{form}**" if form not in PEERS else form,
            score,
            f"{result.facts['parameters'] / 1e6:.1f}",
            f"{result.facts['macs'] / 1e9:.1f}",
            f"{result.median:.3f}",
            f"{min(result.seconds):.3f} to {max(result.seconds):.3f}",
            *(f"{result.times_faster(other):.2f}" if other and other.seconds else "" for other in faster),
            f"{result.memory_mb:.0f}",
            f"{result.facts['difference']:.0e}" if "difference" in result.facts else "",
        ])  # fmt: skip
    return lines


if __name__ == "__main__":
    main()

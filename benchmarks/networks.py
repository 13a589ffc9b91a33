"""The contenders of the inference benchmarks: our networks in several forms, and what one might take instead.

All with random weights, which cost what trained ones cost. The scores beside them are published ones: of torchvision's
networks read from the installed package, of the others from the papers named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
Built = tuple[Callable[[], Any], dict[str, Any]]

#: name -> architecture, input (C, T, H, W) or (C, H, W)
OURS: dict[str, tuple[str, Shape]] = {
    "small_video 16x224": ("uniformer_small_video", (3, 16, 224, 224)),
    "small_video 32x224": ("uniformer_small_video", (3, 32, 224, 224)),
    "base_video 16x224": ("uniformer_base_video", (3, 16, 224, 224)),
    "xs_video 32x192": ("uniformer_xs_video", (3, 32, 192, 192)),
    "xxs_video 16x160": ("uniformer_xxs_video", (3, 16, 160, 160)),
    "small 224": ("uniformer_small", (3, 224, 224)),
    "base 224": ("uniformer_base", (3, 224, 224)),
    "xxs 224": ("uniformer_xxs", (3, 224, 224)),
}
FORMS = ("reference", "plain", "fast", "fast_bfloat16", "openvino", "onnxruntime")


def ours(arch: str, shape: Shape, form: str, *, threads: int) -> Built:
    """One of our networks in a form as `uniformer bench` names it, or `fast` in 16 bits; `reference` computes as the
    published code does.
    """
    import torch
    from published import published

    import uniformer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = uniformer.create_model(arch).eval()
    x = torch.randn(1, *shape)
    with torch.inference_mode():
        expected = model(x)
    facts = {
        "macs": uniformer.count_macs(model.config, shape[1:]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "input": list(shape),
    }
    if form == "reference":
        model = published(model)
    elif form == "fast":
        model = uniformer.optimize(model)
    elif form == "fast_bfloat16":  # pays where the processor has instructions for it
        model, x = uniformer.optimize(model, dtype=torch.bfloat16), x.bfloat16()
    elif form in ("openvino", "onnxruntime"):
        model = uniformer.optimize(model, backend=form, example=x)
    run = _forward(model, x)
    del model
    facts["difference"] = float((run() - expected).abs().max() / expected.abs().max())
    return run, facts


@dataclass(frozen=True)
class Peer:
    """What a user would pick instead."""

    library: str
    build: str  #: of the library: the function that makes it
    shape: Shape
    score: float | None  #: published top-1, %; None: as the library says
    views: int  #: per video or image in that score
    source: str


PEERS: dict[str, Peer] = {
    "MViTv2-S": Peer("torchvision", "mvit_v2_s", (3, 16, 224, 224), None, 5, "torchvision, Kinetics-400"),
    "Swin3D-T": Peer("torchvision", "swin3d_t", (3, 32, 224, 224), None, 12, "torchvision, Kinetics-400"),
    "R(2+1)D-18": Peer("torchvision", "r2plus1d_18", (3, 16, 112, 112), None, 5, "torchvision, Kinetics-400"),
    "VideoMAE-B": Peer("transformers", "VideoMAE", (3, 16, 224, 224), 81.5, 15, "arXiv 2203.12602"),
    "TimeSformer-B": Peer("transformers", "Timesformer", (3, 8, 224, 224), 78.0, 3, "arXiv 2102.05095"),
    "DeiT-S": Peer("timm", "deit_small_patch16_224", (3, 224, 224), 79.8, 1, "arXiv 2012.12877"),
    "Swin-T": Peer("timm", "swin_tiny_patch4_window7_224", (3, 224, 224), 81.3, 1, "arXiv 2103.14030"),
    "ConvNeXt-T": Peer("timm", "convnext_tiny", (3, 224, 224), 82.1, 1, "arXiv 2201.03545"),
    "EfficientNet-B0": Peer("timm", "efficientnet_b0", (3, 224, 224), 77.1, 1, "arXiv 1905.11946"),
    "MobileNetV3-L": Peer("timm", "mobilenetv3_large_100", (3, 224, 224), 75.2, 1, "arXiv 1905.02244"),
}

#: our published networks that the peers are set against: checkpoint, and the OURS they are timed as
MATCHES: dict[str, str] = {
    "uniformer_small.k400_16x4": "small_video 16x224",
    "uniformer_base.k400_16x4": "base_video 16x224",
    "uniformer_xs.k400_f32_r192": "xs_video 32x192",
    "uniformer_xxs.k400_f16_r160": "xxs_video 16x160",
    "uniformer_small.in1k": "small 224",
    "uniformer_xxs.in1k_224": "xxs 224",
}


def peer(name: str, *, threads: int) -> Built:
    """Another library's network with the public defaults of that library, in float32."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    of = PEERS[name]
    x = torch.randn(1, *of.shape)
    score = of.score
    if of.library == "torchvision":
        from torchvision.models import get_model, get_model_weights

        model = get_model(of.build)
        meta = get_model_weights(of.build).DEFAULT.meta
        score = meta["_metrics"]["Kinetics-400"]["acc@1"]
    elif of.library == "transformers":
        import transformers

        classes, x = 400, x.transpose(1, 2)  # (1, T, 3, H, W)
        config = getattr(transformers, f"{of.build}Config")(num_frames=of.shape[1], num_labels=classes)
        model = getattr(transformers, f"{of.build}ForVideoClassification")(config)
    else:
        import timm

        model = timm.create_model(of.build)
    model.eval()
    facts = {
        "macs": counted(model, x),
        "parameters": sum(p.numel() for p in model.parameters()),
        "input": list(of.shape),
        "score": score,
        "views": of.views,
        "source": of.source,
    }
    return _forward(model, x), facts


def counted(model: Any, x: Any) -> int:
    """Multiply-adds of one forward pass, convolutions and matrix products, as `uniformer.count_macs` counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2


def _forward(model: Any, x: Any) -> Callable[[], Any]:
    import torch

    def run() -> Any:
        with torch.inference_mode():
            return model(x)

    return run


GEMM = 1024  # each side of the matrices whose product tells the machine's own rate


def gemm(*, threads: int) -> Built:
    """The product of two square matrices, float32, by the library that is the faster here: what the floor of all
    others is reckoned from.
    """
    import torch

    from uniformer.speed.products import fastest, product

    torch.set_num_threads(threads)
    a, b = torch.randn(2, GEMM, GEMM)
    by, times = fastest(torch.float32).products, 10

    @torch.no_grad()
    def run() -> None:
        for _ in range(times):
            product(a, b, by=by)

    return run, {"macs": times * GEMM**3}

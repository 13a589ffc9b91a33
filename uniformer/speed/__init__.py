"""Speed, put on from outside: the network of `uniformer.network` computes by itself, here it is made to do so faster.

    preparation.py       the door: a model for training in place, or a copy of it for inference
    training_modules.py  in training: what stands in for modules of the model
    convolutions.py      a network's convolutions, and what they are fed
    sixteen_bits.py      which layers torch computes rightly in 16 bits here; agreement.py: what "rightly" is
    depthwise.py         depthwise 3D convolutions: gradients on a CPU, implementations for a GPU
    kernels.py           one of these: our own kernels (Triton); never run on a card, taken only where measured
    tuning.py            on a GPU: which implementation each layer takes, by measurement

    fold.py              for inference: exact rewritings of weights, batch norms, layer scales, residuals
    blocks.py            the blocks with folded weights, channels last in memory, sums in place
    network.py           the network made of them
    products.py          matrix products and attention by oneDNN; winograd.py: 3x3 convolutions by fewer
    dense_blocks.py      the blocks under a head, for the large maps of whole pictures
    dense.py             networks of detection, segmentation and pose; regions.py: RoIAlign for them

    forms.py             the forms of a network by name; `uniformer.optimize`
    export.py            files for OpenVINO and ONNX Runtime; runtimes.py runs them, without torch
    bench.py             all forms measured on this machine; timings.py keeps what was measured
    doctor.py            `uniformer doctor`: machine.py looks, selftests.py tries, known_faults.py knows

`prepare` and `unprepare` are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uniformer.speed.preparation import prepare, unprepare

__all__ = ["prepare", "unprepare"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from uniformer.speed import preparation

        return getattr(preparation, name)
    raise AttributeError(f"module 'uniformer.speed' has no attribute {name!r}")

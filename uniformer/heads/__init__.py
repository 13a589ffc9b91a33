"""The published networks for dense tasks: heads over the four maps of a backbone, plain, with the names of their files.

pyramid.py        what they share: the feature pyramid, convolutions with norms
segmentation.py   Semantic FPN and UPerNet
detection.py      Mask R-CNN and Cascade Mask R-CNN; boxes.py: anchors, their code, overlaps, suppression
pose.py           TopDown, the simple baseline
macs.py           multiply-adds of networks with heads and without
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uniformer.config import Config
    from uniformer.heads.pyramid import DenseNetwork
    from uniformer.network.model import UniFormer


def build_network(config: Config) -> UniFormer | DenseNetwork:
    """The network that a config describes, freshly initialised: with its head, where it says one."""
    from uniformer.heads.detection import Detector
    from uniformer.heads.pose import PoseNetwork
    from uniformer.heads.segmentation import Segmenter
    from uniformer.network.model import UniFormer

    kinds: dict[str, Callable[[Config], UniFormer | DenseNetwork]] = {
        "classification": UniFormer,
        "detection": Detector,
        "segmentation": Segmenter,
        "pose": PoseNetwork,
    }
    return kinds[config.task](config)

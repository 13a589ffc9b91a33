"""What the tensors of a head tell: which head it is, and of how many classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from uniformer.config import Head

BACKBONE = "backbone."  #: before the backbone's keys, as in the published files
HEAD_KEYS = ("neck.*", "rpn_head.*", "roi_head.*", "decode_head.*", "auxiliary_head.*", "keypoint_head.*")
#: The layers with an output for each class, new where a network is to learn others.
CLASS_LAYERS = ("decode_head.conv_seg.*", "auxiliary_head.conv_seg.*", "roi_head.bbox_head.*fc_cls.*",
                "roi_head.bbox_head.*fc_reg.*", "roi_head.mask_head.*conv_logits.*",
                "keypoint_head.final_layer.*")  # fmt: skip

_SIGNS: tuple[tuple[str, Head, str], ...] = (  # a key that no other head has, the head, and a key with a row a class
    ("roi_head.bbox_head.0.fc_cls.weight", "cascade_mask_rcnn", "roi_head.bbox_head.0.fc_cls.bias"),
    ("roi_head.bbox_head.fc_cls.weight", "mask_rcnn", "roi_head.bbox_head.fc_cls.bias"),
    ("decode_head.scale_heads.0.0.conv.weight", "semantic_fpn", "decode_head.conv_seg.bias"),
    ("decode_head.psp_modules.0.1.conv.weight", "upernet", "decode_head.conv_seg.bias"),
    ("keypoint_head.final_layer.weight", "topdown", "keypoint_head.final_layer.bias"),
)


def head_of(keys: Collection[str]) -> Head | None:
    """The head that has these keys; None where they are of none."""
    return next((head for sign, head, _ in _SIGNS if sign in keys), None)


def width_of(heads: Mapping[str, Tensor]) -> int:
    """The channels of a head's maps, `Config.head_width`; 0 where the tensors do not tell."""
    keys = ("neck.fpn_convs.0.conv.weight", "decode_head.fpn_convs.0.conv.weight", "keypoint_head.final_layer.weight")
    found = next((heads[key] for key in keys if key in heads), None)
    if found is None or found.ndim != 4:
        return 0
    return found.shape[1] // (2 if head_of(heads) == "upernet" else 1)


def classes_of(heads: Mapping[str, Tensor]) -> int:
    """How many classes a head's tensors answer with, without detectors' background; 0 where they are of none."""
    head = head_of(heads)
    rows = next((heads[key] for _, name, key in _SIGNS if name == head and key in heads), None)
    if rows is None or rows.ndim != 1:
        return 0
    return len(rows) - ("rcnn" in str(head))

"""State-dict keys of detectors, segmentors and pose networks: the backbone's are ours, the heads' those of the
published files (`neck.*`, `rpn_head.*`, `roi_head.*`, `decode_head.*`, `auxiliary_head.*`, `keypoint_head.*`)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from uniformer.checkpoints.keys import from_reference, to_reference
from uniformer.heads.keys import BACKBONE


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published file's tensors under our keys. Raises `InputError` naming keys that no backbone has."""
    return _with_backbone(state, from_reference)


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The exact inverse, in the published order. Raises `InputError` naming keys that are not ours."""
    return _with_backbone(state, to_reference)


def _with_backbone(state: Mapping[str, Tensor], rename) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    backbone = {key.removeprefix(BACKBONE): value for key, value in state.items() if key.startswith(BACKBONE)}
    heads = {key: value for key, value in state.items() if not key.startswith(BACKBONE)}
    return {BACKBONE + key: value for key, value in rename(backbone).items()} | heads

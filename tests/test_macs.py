"""Parameters and multiply-adds against the published tables."""

from __future__ import annotations

import pytest
import torch

from uniformer import count_macs, get_checkpoint, list_checkpoints
from uniformer.model import UniFormer
from uniformer.ops import Grid
from uniformer.zoo import Checkpoint

CLASSIFIERS = [id for id in list_checkpoints() if get_checkpoint(id).input is not None]

#: Published GFLOPs that do not fit, and by what factor our count is larger. See docs/model-zoo.md.
MISFITS = {
    "uniformer_large_ls.tl_in1k_224": 1.568,  # both L figures are far off what its layers add up to
    "uniformer_large_ls.tl_in1k_384": 1.604,
}


def size_of(record: Checkpoint) -> Grid:
    assert record.input is not None
    return (record.input.frames, *record.input.size) if record.input.is_video else record.input.size


@pytest.mark.parametrize("id", CLASSIFIERS)
def test_parameters(id: str) -> None:
    record = get_checkpoint(id)
    with torch.device("meta"):
        assert sum(p.numel() for p in UniFormer(record.config).parameters()) == record.params


@pytest.mark.parametrize("id", CLASSIFIERS)
def test_multiply_adds(id: str) -> None:
    """Within 1 % of the count on the reference, and within 4 % of the printed figure, which is rounded."""
    record = get_checkpoint(id)
    ours = count_macs(record.config, size_of(record)) / 1e9
    assert ours == pytest.approx(record.macs_g, rel=0.01)
    if record.gflops is not None:
        assert record.input is not None
        total = ours * (record.input.views if record.gflops_cover == "all views" else 1)
        assert total / record.gflops == pytest.approx(MISFITS.get(id, 1.0), rel=0.035)

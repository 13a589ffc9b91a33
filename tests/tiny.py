"""Networks of a few thousand parameters, for tests in which the size is not the point, and how they are saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.save import save_checkpoint
from uniformer.config import Config, InputSpec
from uniformer.errors import InputError
from uniformer.network.model import UniFormer

TINY = Config(depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), head_dim=16, num_classes=7)
IMAGES = InputSpec(size=(64, 64), resize=72)
CLIPS = InputSpec(
    size=(64, 64), resize=64, interpolation="bilinear", frames=4, sampling="dense", stride=2, clips=2, fps=30.0
)


def tiny_model(seed: int = 0, **options: Any) -> UniFormer:
    """In evaluation mode, with no tensor at its initial value: what a load forgets shows."""
    torch.manual_seed(seed)
    model = UniFormer(replace(TINY, **options)).eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_((torch.rand_like(value) - 0.5) / 5 if value.is_floating_point() else 5)
    return model


def save_tiny(path: Path, spec: InputSpec, seed: int = 0) -> Path:
    """A checkpoint of seven named classes, in our form."""
    model = tiny_model(seed, ndim=3 if spec.is_video else 2)
    names = tuple(f"class of number {i}" for i in range(7))
    contract = Contract(model.config, "", spec, names, id="tiny.test", dataset="seven", scores={"top1": 12.5})
    save_checkpoint(model, path, contract)
    return path


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts have the same keys in the same order and the same bytes."""
    return list(a) == list(b) and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@contextmanager
def refused(pattern: str) -> Iterator[None]:
    """The block must raise an `InputError` of one line that matches."""
    with pytest.raises(InputError, match=pattern) as caught:
        yield
    assert "\n" not in str(caught.value)

"""The whole network as inference computes it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from uniformer.errors import InputError
from uniformer.network.blocks import GlobalBlock, LocalBlock, OverlapEmbed, PatchEmbed, SplitBlock
from uniformer.network.description import STAGES
from uniformer.network.hourglass import HourglassBlock, HourglassState
from uniformer.network.model import Box, Stage, UniFormer
from uniformer.speed.blocks import (
    FastGlobalBlock,
    FastHourglassBlock,
    FastLocalBlock,
    FastMHRA,
    FastOverlapEmbed,
    FastPatchEmbed,
    FastSplitBlock,
)
from uniformer.speed.products import By, compute_by, fastest

FOR_TRAINING = "expected the model itself for training, got its optimised copy"

Forms: TypeAlias = Mapping[type[nn.Module], Any]  #: of plain modules, most special first

FAST: Forms = {
    LocalBlock: FastLocalBlock,
    HourglassBlock: FastHourglassBlock,
    SplitBlock: FastSplitBlock,
    GlobalBlock: FastGlobalBlock,
    OverlapEmbed: FastOverlapEmbed,
    PatchEmbed: FastPatchEmbed,
}


def in_own_type(device: str) -> AbstractContextManager[None]:
    """Whatever autocast says. `torch.export` would write that into the graph, which few runtimes can read: whoever
    exports has to leave autocast before."""
    exporting = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    return nullcontext() if exporting else torch.autocast(device, enabled=False)


class FastUniFormer(UniFormer):
    """An inference copy of a model in evaluation mode: the same inputs, outputs and methods, other weights.

    Batch norms, layer scales and the position embeddings' residuals are folded into other weights, in float64. It
    computes in `dtype`, the model's own by default, whatever autocast says, and without gradients. Its state dict is
    its own: save the model that it was made from. It can be copied, pickled and moved like any module.

    With `attention_float32` it attends in float32, as it does where the model was prepared to train so. `share` takes
    the tensors that stay as they are from the model itself, where `dtype` allows it: for one that is not going to
    change. `by` says who computes products and attention on a CPU, by default the faster of the two. `forms` are those
    of the blocks.
    """

    def __init__(
        self,
        model: UniFormer,
        dtype: torch.dtype | None = None,
        *,
        attention_float32: bool = False,
        share: bool = False,
        by: By | None = None,
        forms: Forms = FAST,
    ):
        nn.Module.__init__(self)
        own = next(model.parameters()).dtype
        dtype = dtype or own
        shared = {id(p): p for p in model.parameters()} if share and dtype == own else {}
        vars(self).update(vars(copy.deepcopy(model, shared)))
        for stage in cast("Iterable[Stage]", self.stages):
            stage.embed = _form(stage.embed, dtype, forms)
            stage.blocks = nn.ModuleList(_form(block, dtype, forms) for block in stage.blocks)
        for module in self.modules():
            if isinstance(module, FastMHRA):
                module.float32 |= attention_float32
        on_cpu = next(model.parameters()).device.type == "cpu"
        self.by = by or (fastest(dtype) if on_cpu else By())
        compute_by(self, self.by)
        self.to(dtype).eval()

    def train(self, mode: bool = True) -> FastUniFormer:
        if mode:
            raise InputError(FOR_TRAINING)
        return super().train(False)

    @torch.no_grad()
    def _run_stages(
        self, x: Tensor, mix_box: Box | None = None, last: int = STAGES[-1]
    ) -> tuple[list[Tensor], HourglassState | None]:
        with in_own_type(x.device.type):
            return super()._run_stages(x.to(next(self.parameters()).dtype), mix_box, last)

    @torch.no_grad()
    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        with in_own_type(features.device.type):
            return super().forward_head(features, pre_logits)


def _form(module: Any, dtype: torch.dtype, forms: Forms) -> Any:
    """The inference form of a block or a patch embedding."""
    return next(fast for plain, fast in forms.items() if isinstance(module, plain))(module, dtype)

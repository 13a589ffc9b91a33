"""The hourglass block of the light models XXS and XS: shrink the tokens, let them interact, recover them (TPAMI 2023).

Each block runs attention and FFN on the better half of the tokens plus one summary of the rest; the rest gets what
the summary got. What is "better" is a score per position: how much the class token attends to it, averaged over the
blocks so far. The class token and the scores travel from block to block as arguments and results (`HourglassState`),
so models, threads and samples never see one another's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer.config import Config
from uniformer.network.blocks import GlobalBlock, scaled
from uniformer.network.ops import Grid, drop_path, to_grid, to_tokens

SCORE_UPDATE = 0.5  # share of the new affinity in a kept token's running score (0.5 in all published models)


class HourglassState(NamedTuple):
    """What one hourglass block hands to the next."""

    cls: Tensor  #: class token, (B, 1, C)
    score: Tensor | None  #: running score of every position, (B, N); None before the first block has set it


class HourglassBlock(GlobalBlock):
    """A global block that works on `keep_ratio` of the tokens, the class token and one summary token."""

    def __init__(self, config: Config, stage: int, drop_path_rate: float, keep_ratio: float):
        super().__init__(config, stage, drop_path_rate)
        self.keep_ratio = keep_ratio

    def forward(self, x: Tensor, state: HourglassState) -> tuple[Tensor, HourglassState]:  # type: ignore[override]
        """x (B, C, *grid) -> x of the same shape, and the state for the next block."""
        tokens, grid = to_tokens(self._positioned(x))
        keep = int(tokens.shape[1] * self.keep_ratio)
        if state.score is None or keep == tokens.shape[1]:
            tokens, state = self._on_all(tokens, state)
        else:
            tokens, state = self._on_kept(tokens, state, state.score, keep)
        return to_grid(tokens, grid), state

    def _on_all(self, tokens: Tensor, state: HourglassState) -> tuple[Tensor, HourglassState]:
        """An ordinary global block over [class, all tokens] that also sets the scores."""
        tokens = torch.cat((state.cls, tokens), dim=1)  # (B, 1 + N, C)
        tokens, _, affinity = self._interact(tokens)
        score = affinity if state.score is None else torch.lerp(state.score, affinity, SCORE_UPDATE)
        return tokens[:, 1:], HourglassState(tokens[:, :1], score)

    def _on_kept(
        self, tokens: Tensor, state: HourglassState, score: Tensor, keep: int
    ) -> tuple[Tensor, HourglassState]:
        # Best first. Stable, so that equal scores do not depend on the device. Integer positions: a position
        # carried beside the features as a float would be wrong above 256 in bfloat16.
        order = score.argsort(dim=1, descending=True, stable=True)  # (B, N)
        score = score.gather(1, order)
        tokens = gather_tokens(tokens, order)

        kept, rest = tokens[:, :keep], tokens[:, keep:]
        weight = score[:, keep:] / score[:, keep:].sum(dim=1, keepdim=True)
        summary = (weight.unsqueeze(-1) * rest).sum(dim=1, keepdim=True)  # (B, 1, C)
        working, update, affinity = self._interact(torch.cat((state.cls, kept, summary.to(kept.dtype)), dim=1))

        kept, rest = working[:, 1:-1], rest + update[:, -1:]
        score = torch.cat(
            (torch.lerp(score[:, :keep], affinity[:, :-1].to(score.dtype), SCORE_UPDATE), score[:, keep:]), dim=1
        )

        # Back to raster order: position order[i] gets the i-th of the sorted ones.
        back = order.argsort(dim=1)
        tokens = gather_tokens(torch.cat((kept, rest.to(kept.dtype)), dim=1), back)
        return tokens, HourglassState(working[:, :1], score.gather(1, back))

    def _interact(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """MHRA and FFN: the tokens, what both branches added (before drop path), and the class token's affinity."""
        mixed, affinity = self.mhra.with_class_affinity(self.norm1(tokens))
        mixed = scaled(mixed, self.scale1)
        tokens = tokens + drop_path(mixed, self.drop_path_rate, self.training)
        refined = scaled(self.ffn(self.norm2(tokens)), self.scale2)
        return tokens + drop_path(refined, self.drop_path_rate, self.training), mixed + refined, affinity


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, N, C) picked by (B, M) -> (B, M, C)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def pool_score(score: Tensor, grid: Grid) -> Tensor:
    """Scores of stage 3 for the half as fine grid of stage 4: 2x2 means in space, each sample's sum kept.

    score (B, N) over `grid` -> (B, N'). Odd sizes lose the last row or column, as in the patch embedding.
    """
    planes = score.reshape(score.shape[0], -1, *grid[-2:])  # (B, T or 1, H, W)
    pooled = F.avg_pool2d(planes, kernel_size=2, stride=2).flatten(1)
    return pooled * (score.sum(dim=1, keepdim=True) / pooled.sum(dim=1, keepdim=True))

"""Maps of a score: class activation by gradients, relevance through attention, and the tokens that were kept.

Each is one number per token of a stage's grid. Where the network after a map is linear, the class-activation map is
exact: with its sign it adds up to the score, or tells what the score loses where a position is as the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer.explanations.trace import Attended, Gradients, Trace
from uniformer.network.blocks import GlobalBlock, SplitBlock
from uniformer.network.hourglass import HourglassBlock
from uniformer.network.model import UniFormer
from uniformer.network.ops import Grid, from_windows, to_windows

Block = tuple[int, int]  #: stage and index


def class_activation(maps: Tensor, grads: Tensor, *, pooled: bool) -> Tensor:
    """What each position adds to a score, with its sign: maps and gradients (B, C, *grid) -> (B, *grid).

    `pooled`, for answers to a whole view: each channel is weighed by its mean gradient, as Grad-CAM does (Selvaraju et
    al. 2017, eq. 1 and 2, before the ReLU); where the map is averaged and classified by a linear layer that is CAM
    (Zhou et al. 2016). Else, for answers to a place: each position by its own gradient (HiResCAM, Draelos and Carin
    2020), which tells one thing from others of its class, and less the mean of all positions: what the score would lose
    if that one were as the rest of the view. Without the mean, peaks lie where features are large.
    """
    shape = (*maps.shape[:2], *(1,) * (maps.ndim - 2))
    if pooled:
        return (grads.flatten(2).mean(dim=2).view(shape) * maps).sum(dim=1)
    return (grads * (maps - maps.flatten(2).mean(dim=2).view(shape))).sum(dim=1)


def attention_relevance(backbone: UniFormer, trace: Trace, grads: Gradients, *, pooled: bool) -> Tensor:
    """What of a score goes back to each token of stage 3 through the attentions of stages 4 and 3: (B, *grid), >= 0.

    It begins with what each token adds to the score (`class_activation`, rectified) and goes back block by block: half
    stays, by the residual, half goes where the attention read, by `class_attention`. Nothing is lost on the way: the
    sum stays. The rule is that of Chefer et al. (ICCV 2021, eq. 5 and 6), whose attention is weighed by its gradient
    and so tells classes apart; as in rollout (Abnar and Zuidema 2020) the rows sum to one, since with a mean over all
    tokens in place of a class token each row's gradient is an Nth of the whole, and the residual alone would remain.
    """
    last = class_activation(trace.maps[4].detach(), grads.maps[4], pooled=pooled).relu()
    tokens, cls = _back_through(backbone, 4, trace, grads, last.flatten(1), last.new_zeros(len(last), 1))
    direct = class_activation(trace.maps[3].detach(), grads.maps[3] - grads.passed, pooled=pooled).relu()
    spread = spread_to(tokens.view(len(tokens), *trace.grid(4)), trace.grid(3))
    tokens, _ = _back_through(backbone, 3, trace, grads, (spread + direct).flatten(1), cls)
    return tokens.view(len(tokens), *trace.grid(3))


def spread_to(relevance: Tensor, grid: Grid) -> Tensor:
    """Relevance (B, *smaller) of stage 4 on the grid of stage 3: each token's a quarter for each of the four that it
    was made of; of those of a last row or column that the embedding left out, none."""
    spread = relevance.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1) / 4
    return F.pad(spread, (0, grid[-1] - spread.shape[-1], 0, grid[-2] - spread.shape[-2]))


def _back_through(
    backbone: UniFormer, stage: int, trace: Trace, grads: Gradients, tokens: Tensor, cls: Tensor
) -> tuple[Tensor, Tensor]:
    """Relevance of a stage's outputs (B, N), and of the class token (B, 1), as that of its inputs."""
    blocks: list[GlobalBlock] = list(backbone.stages[stage - 1].blocks)  # type: ignore[arg-type]
    for index in range(len(blocks) - 1, -1, -1):
        key, block = (stage, index), blocks[index]
        read = {name: (seen, grads.mixed[key][name]) for name, seen in trace.attended[key].items()}
        if isinstance(block, HourglassBlock):
            tokens, cls = _through_hourglass(block, read["mhra"], trace.scores.get(key), tokens, cls)
        elif isinstance(block, SplitBlock):
            tokens = _through_split(read, trace.grid(stage), tokens)
        elif block.window:
            tokens = _through_windows(read["mhra"], block.window, trace.grid(stage), tokens)
        else:
            tokens = 0.5 * (tokens + carried(*read["mhra"], tokens))
    return tokens, cls


def _through_windows(read: tuple[Attended, Tensor], window: int, grid: Grid, tokens: Tensor) -> Tensor:
    """Of what goes to padding, which is nothing of the picture, nothing comes back."""
    windows, padded = to_windows(tokens.view(-1, *grid, 1), window)
    back = from_windows(carried(*read, windows[..., 0])[..., None], window, padded, grid)
    return 0.5 * (tokens + back.flatten(1))


def _through_split(read: Mapping[str, tuple[Attended, Tensor]], grid: Grid, tokens: Tensor) -> Tensor:
    """First through the attention within frames, then, by half, through that of each place over time."""
    T, B = grid[0], len(tokens)
    by_frame = carried(*read["mhra"], tokens.view(B * T, -1))
    by_place = by_frame.view(B, T, -1).transpose(1, 2).flatten(0, 1)  # (B * HW, T)
    by_place = 0.5 * (by_place + carried(*read["time_mhra"], by_place))
    return 0.5 * (tokens + by_place.view(B, -1, T).transpose(1, 2).flatten(1))


def _through_hourglass(
    block: HourglassBlock, read: tuple[Attended, Tensor], score: Tensor | None, tokens: Tensor, cls: Tensor
) -> tuple[Tensor, Tensor]:
    """What the summary got goes to the tokens it was made of, by their scores."""
    chosen = kept_order(block, score, tokens.shape[1])
    if chosen is None:
        working = torch.cat((cls, tokens), dim=1)
        working = 0.5 * (working + carried(*read, working))
        return working[:, 1:], working[:, :1]
    assert score is not None
    order, keep = chosen
    tokens, score = tokens.gather(1, order), score.gather(1, order)
    kept, rest = tokens[:, :keep], tokens[:, keep:]
    back = carried(*read, torch.cat((cls, kept, rest.sum(dim=1, keepdim=True)), dim=1))
    share = score[:, keep:] / score[:, keep:].sum(dim=1, keepdim=True)
    tokens = 0.5 * (tokens + torch.cat((back[:, 1:-1], share * back[:, -1:]), dim=1))
    return tokens.gather(1, order.argsort(dim=1)), 0.5 * (cls + back[:, :1])


def carried(seen: Attended, grad: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of what tokens read (B', N') -> of what they read it from, with the same sum."""
    rows = class_attention(seen, grad)
    return (relevance[:, None] @ rows)[:, 0]


def class_attention(seen: Attended, grad: Tensor) -> Tensor:
    """The attention of a block weighed by the score's gradient for it, its positive part, averaged over the heads, rows
    summing to one: (B', N', N'). A row without any reads itself.

    The gradient for an affinity is the product of those for what is read (`grad`, (B', N', C)) and the values. Head by
    head, so that one matrix of N' x N' is held and not all.
    """
    q, k, v = (part.unflatten(2, (-1, seen.head_dim)) for part in seen.qkv.chunk(3, dim=2))  # (B', N', h, d)
    grad = grad.unflatten(2, (-1, seen.head_dim))
    total = q.new_zeros(len(q), q.shape[1], q.shape[1])
    for head in range(q.shape[2]):
        affinity = (q[:, :, head] @ k[:, :, head].transpose(1, 2) * seen.head_dim**-0.5).softmax(dim=-1)
        total += (affinity * (grad[:, :, head] @ v[:, :, head].transpose(1, 2))).relu()
    sums = total.sum(dim=2, keepdim=True)
    return torch.where(
        sums > 0, total / sums.clamp(min=torch.finfo(total.dtype).tiny), torch.eye(len(total[0])).to(total)
    )


# ---- which tokens were kept ------------------------------------------------------------------------------------------


def kept_order(block: HourglassBlock, score: Tensor | None, count: int) -> tuple[Tensor, int] | None:
    """The order of tokens by which a block chose, best first, and how many it kept; None where it kept all."""
    keep = int(count * block.keep_ratio)
    if score is None or keep == count:
        return None
    return score.argsort(dim=1, descending=True, stable=True), keep


def kept_tokens(backbone: UniFormer, trace: Trace) -> dict[Block, Tensor]:
    """Of each hourglass block that chose, whether a token of its grid was among the kept ones: bool (B, *grid)."""
    found = {}
    for (stage, index), score in trace.scores.items():
        block = backbone.stages[stage - 1].blocks[index]  # type: ignore[index]
        assert isinstance(block, HourglassBlock)
        if (chosen := kept_order(block, score, score.shape[1])) is not None:
            order, keep = chosen
            kept = torch.zeros_like(score, dtype=torch.bool).scatter(1, order[:, :keep], True)
            found[stage, index] = kept.view(len(score), *trace.grid(stage))
    return found


def survival(kept: Mapping[Block, Tensor], grid: Grid) -> Tensor:
    """The share of all blocks that chose in which a token of stage 3 was kept, (B, *grid): a token of stage 4 counts
    for the four that it was made of."""
    whole = [4 * spread_to(each.float(), grid) if stage == 4 else each.float() for (stage, _), each in kept.items()]
    return torch.stack(whole).mean(dim=0)

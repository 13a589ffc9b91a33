"""Networks for semantic segmentation: Semantic FPN (Kirillov et al. 2019) and UPerNet (Xiao et al. 2018).

    image (B, 3, H, W) -> backbone maps of strides 4 to 32 -> head -> logits (B, K, H / 4, W / 4)

Layers and names are those of the published files (TPAMI 2023, Tables 10 and 11).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer.config import Config
from uniformer.heads.pyramid import ConvNorm, DenseNetwork, FeaturePyramid, resize
from uniformer.labels import IGNORED

AUX_WEIGHT = 0.4  #: of the auxiliary head's loss


class _Classifier(nn.Module):
    """The end of every head: dropout of whole channels, then a 1x1 convolution to classes."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.conv_seg = nn.Conv2d(dim, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)  # type: ignore[arg-type]
        self.dropout = nn.Dropout2d(0.1)

    def classify(self, x: Tensor) -> Tensor:
        return self.conv_seg(self.dropout(x))


class FPNHead(_Classifier):
    """Brings the four levels of a pyramid to stride 4 and adds them up."""

    def __init__(self, num_classes: int, width: int):
        super().__init__(width // 2, num_classes)
        self.scale_heads = nn.ModuleList(self._tower(doublings, width) for doublings in range(4))

    @staticmethod
    def _tower(doublings: int, width: int) -> nn.Sequential:
        """A convolution for each doubling of the size, and one where nothing is to be doubled."""
        dim = width // 2
        if not doublings:
            return nn.Sequential(ConvNorm(width, dim, 3))
        layers: list[nn.Module] = []
        for i in range(doublings):
            layers += [ConvNorm(dim if i else width, dim, 3), nn.Upsample(scale_factor=2, mode="bilinear")]
        return nn.Sequential(*layers)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """(B, width, H_i, W_i), strides 4 to 32 -> logits (B, K, H / 4, W / 4)."""
        finest, *others = [tower(x) for tower, x in zip(self.scale_heads, levels, strict=True)]
        for other in others:
            finest = finest + resize(other, finest.shape[2:])
        return self.classify(finest)


class UPerHead(_Classifier):
    """Pools the coarsest map at four scales, goes down a pyramid from there, and joins all levels."""

    SCALES = (1, 2, 3, 6)  # of the pooled maps' sides, cells

    def __init__(self, dims: Sequence[int], num_classes: int, dim: int):
        super().__init__(dim, num_classes)
        last, count = dims[-1], len(self.SCALES)
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), ConvNorm(last, dim, 1)) for side in self.SCALES
        )
        self.bottleneck = ConvNorm(last + count * dim, dim, 3)
        self.lateral_convs = nn.ModuleList(ConvNorm(d, dim, 1) for d in dims[:-1])
        self.fpn_convs = nn.ModuleList(ConvNorm(dim, dim, 3) for _ in dims[:-1])
        self.fpn_bottleneck = ConvNorm(len(dims) * dim, dim, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, C_i, H_i, W_i), strides 4 to 32 -> logits (B, K, H / 4, W / 4)."""
        last = maps[-1]
        pooled = [resize(pool(last), last.shape[2:]) for pool in self.psp_modules]
        merged = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=False)]
        merged.append(self.bottleneck(torch.cat([last, *pooled], dim=1)))
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + resize(merged[i], merged[i - 1].shape[2:])
        levels = [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=False)]
        levels.append(merged[-1])
        finest = levels[0].shape[2:]
        joined = torch.cat([levels[0], *(resize(x, finest) for x in levels[1:])], dim=1)
        return self.classify(self.fpn_bottleneck(joined))


class AuxiliaryHead(_Classifier):
    """A second opinion from the map of stride 16, for training only."""

    def __init__(self, dim_in: int, num_classes: int, dim: int):
        super().__init__(dim, num_classes)
        self.convs = nn.ModuleList([ConvNorm(dim_in, dim, 3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.convs[0](x))


class Segmenter(DenseNetwork):
    """A backbone with one of the two heads. `forward` gives the logits of stride 4, (B, K, H / 4, W / 4)."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.neck: FeaturePyramid | None = None
        self.decode_head: FPNHead | UPerHead
        self.auxiliary_head: AuxiliaryHead | None = None
        if config.head == "semantic_fpn":
            self.neck = FeaturePyramid(config.dims, config.head_width, levels=4)
            self.decode_head = FPNHead(config.num_classes, config.head_width)
        else:
            self.decode_head = UPerHead(config.dims, config.num_classes, 2 * config.head_width)
            self.auxiliary_head = AuxiliaryHead(config.dims[2], config.num_classes, config.head_width)

    def forward(self, x: Tensor) -> Tensor:
        return self._decoded(self.backbone(x))

    def forward_train(self, x: Tensor) -> tuple[Tensor, ...]:
        """The logits, and those of the auxiliary head where there is one."""
        maps = self.backbone(x)
        logits = self._decoded(maps)
        return (logits,) if self.auxiliary_head is None else (logits, self.auxiliary_head(maps[2]))

    def _decoded(self, maps: Sequence[Tensor]) -> Tensor:
        return self.decode_head(maps if self.neck is None else self.neck(maps))


class Seen(NamedTuple):
    """What a network says of a picture in one size."""

    logits: Tensor  #: (1, K, h, w)
    size: tuple[int, int]  #: height and width of the input
    mirrored: bool = False


MOST_VALUES = 1 << 26  # logits of a picture that are held at once: 256 MB of float32


def pixel_classes(seen: Sequence[Seen], size: Sequence[int]) -> Tensor:
    """The class of each pixel of a picture of `size` (H, W): the highest mean share in all that was seen. As uint8 of
    up to 256 classes, else int32.

    As published logits are resized twice, to the size that the network was fed and from there. Band by band, so that
    memory does not grow with the picture.
    """
    height, width = size
    classes = seen[0].logits.shape[1]
    rows = max(1, MOST_VALUES // (classes * width))
    if rows >= height and all(classes * each.size[0] * each.size[1] <= MOST_VALUES for each in seen):
        return _best([resize(resize(each.logits, each.size), size) for each in seen], seen)
    bands = [range(top, min(top + rows, height)) for top in range(0, height, rows)]
    return torch.cat([_best([_resized_rows(each, size, band) for each in seen], seen) for band in bands])


def _best(logits: Sequence[Tensor], seen: Sequence[Seen]) -> Tensor:
    """Of logits (1, K, H, W) the class with the highest mean share, (H, W)."""
    narrow = torch.uint8 if logits[0].shape[1] <= 256 else torch.int32  # of a huge picture int64 is gigabytes
    if len(logits) == 1:
        only = logits[0].argmax(1)[0].to(narrow)
        return only.flip(1) if seen[0].mirrored else only
    shares = [x.softmax(1).flip(3) if each.mirrored else x.softmax(1) for x, each in zip(logits, seen, strict=True)]
    return (sum(shares[1:], shares[0]) / len(shares)).argmax(1)[0].to(narrow)


def _resized_rows(seen: Seen, size: Sequence[int], rows: range) -> Tensor:
    """Some rows of the twice resized logits, (1, K, rows, W)."""
    above, below, _ = _between(seen.size[0], size[0], rows, seen.logits)
    needed = range(int(above[0]), int(below[-1]) + 1)
    once = resize(_lerp_rows(seen.logits, seen.size[0], needed, 0), (len(needed), seen.size[1]))
    return resize(_lerp_rows(once, size[0], rows, needed[0], seen.size[0]), (len(rows), size[1]))


def _lerp_rows(x: Tensor, wanted: int, rows: range, first: int, length: int | None = None) -> Tensor:
    """`rows` of x (1, K, h, w) resized to `wanted` rows; x may be a part, from row `first` of `length` on."""
    above, below, share = _between(length or x.shape[2], wanted, rows, x)
    share = share[:, None]
    return x[:, :, above - first] * (1 - share) + x[:, :, below - first] * share


def _between(length: int, wanted: int, rows: range, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two of `length` rows that each of `rows` out of `wanted` lies between, and the share of the second."""
    at = torch.arange(rows.start, rows.stop, device=like.device, dtype=like.dtype)
    place = ((at + 0.5) * (length / wanted) - 0.5).clamp(min=0)
    above = place.long().clamp(max=length - 1)
    return above, (above + 1).clamp(max=length - 1), place - above


def window_logits(network: nn.Module, x: Tensor, window: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Logits of images (B, 3, H, W) in their size, from overlapping windows, whose logits are averaged; the last window
    in a row is shifted inwards."""
    total = count = torch.zeros((), dtype=x.dtype, device=x.device)
    for top in _starts(x.shape[2], window[0], stride[0]):
        for left in _starts(x.shape[3], window[1], stride[1]):
            part = x[:, :, top : top + window[0], left : left + window[1]]
            bottom, right = top + part.shape[2], left + part.shape[3]
            around = (left, x.shape[3] - right, top, x.shape[2] - bottom)
            total = total + F.pad(resize(network(part), part.shape[2:]), around)
            count = count + F.pad(torch.ones_like(part[:1, :1]), around)
    return total / count


def _starts(length: int, window: int, stride: int) -> list[int]:
    return [min(first, max(length - window, 0)) for first in range(0, max(length - window + stride, 1), stride)]


def segmentation_losses(logits: Sequence[Tensor], labels: Tensor, hardest: float = 1.0) -> dict[str, Tensor]:
    """Cross-entropy of logits (B, K, h, w) in the size of labels (B, H, W), the auxiliary head's by 0.4.

    As published, the sum over labelled pixels is divided by all pixels, those to ignore included. Below 1 `hardest` is
    the share of each picture's pixels that counts, those of the largest loss (Panoptic-DeepLab, arXiv:1911.10194,
    section 3.2): else the many pixels that are right long since outweigh a rare class.
    """
    losses = {}
    for name, weight, x in zip(("loss_seg", "loss_aux"), (1.0, AUX_WEIGHT), logits, strict=False):
        each = F.cross_entropy(resize(x, labels.shape[1:]), labels, ignore_index=IGNORED, reduction="none")
        if hardest < 1:
            each = each.flatten(1).topk(max(int(hardest * each[0].numel()), 1)).values
        losses[name] = weight * each.mean()
    return losses

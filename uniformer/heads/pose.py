"""Top-down pose: a person's crop -> heat maps of key points (the simple baseline of Xiao et al. 2018).

crop (B, 3, H, W) -> last backbone map, stride 32 -> three doublings -> heat maps (B, K, H / 4, W / 4)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from uniformer.config import Config
from uniformer.heads.pyramid import DenseNetwork


class KeypointHead(nn.Module):
    """Three transposed convolutions and a classifier of cells."""

    def __init__(self, dim: int, num_keypoints: int, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        for dim_in in (dim, width, width):
            up = nn.ConvTranspose2d(dim_in, width, 4, stride=2, padding=1, bias=False)
            layers += [up, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(width, num_keypoints, 1)
        for m in self.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(m.weight, std=0.001)
        nn.init.zeros_(self.final_layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.final_layer(self.deconv_layers(x))


class PoseNetwork(DenseNetwork):
    """A backbone with a key-point head. `forward` gives heat maps (B, K, H / 4, W / 4)."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.keypoint_head = KeypointHead(config.dims[-1], config.num_classes, config.head_width)

    def forward(self, x: Tensor) -> Tensor:
        return self.keypoint_head(self.backbone(x)[-1])


def mirrored_average(network: Callable[[Tensor], Tensor], x: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Heat maps of crops (B, 3, H, W) averaged with those of the mirrored crops, mirrored back; `pairs` are left and
    right key points.

    The maps of a mirrored crop lie a cell to the left: they are shifted, and the first column stays.
    """
    return (network(x) + mirror_back(network(x.flip(3)), pairs)) * 0.5


def mirror_back(maps: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Heat maps (B, K, h, w) of mirrored crops as maps of the crops themselves."""
    order = list(range(maps.shape[1]))
    for left, right in pairs:
        order[left], order[right] = right, left
    back = maps[:, order].flip(3)
    return torch.cat([back[..., :1], back[..., :-1]], dim=3)


def pose_loss(maps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean squared difference of heat maps (B, K, h, w), of key points that count: weights (B, K), 0 or 1."""
    weights = weights[:, :, None, None]
    return ((maps - targets) * weights).square().mean()

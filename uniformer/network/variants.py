"""The architectures of the family, `VARIANTS` (name -> `Config`), as differences from one another. No torch here.

After the authors' tables (ICLR 2022, Table 1; TPAMI 2023, Tables 1 and 13) and code (github.com/Sense-X/UniFormer).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType

from uniformer.config import Config, Head, InputSpec, PersonCrop, Scaling, did_you_mean
from uniformer.errors import InputError

SMALL = Config()
SMALL_PLUS = replace(SMALL, depths=(3, 5, 9, 3), head_dim=32, overlap=4)  # printed as S with a dagger
BASE = replace(SMALL, depths=(5, 8, 20, 7))
LARGE = replace(SMALL, depths=(5, 10, 24, 7), dims=(128, 192, 448, 640))
XXS = replace(
    SMALL, depths=(2, 5, 8, 2), dims=(56, 112, 224, 448), head_dim=28, mlp_ratio=3.0, overlap=1, keep_ratio=0.5
)
XS = replace(XXS, depths=(3, 5, 9, 3), dims=(64, 128, 256, 512), head_dim=32)
NANO = replace(SMALL, depths=(1, 2, 4, 2), dims=(24, 48, 96, 192), head_dim=32, overlap=1)  # ours, never published


def _video(image: Config) -> Config:
    return replace(image, ndim=3, num_classes=400)


def _token_labeling(plain: Config, head_dim: int = 32) -> Config:
    # The token labeling runs call 32 the usual head_dim; the same names mean 64 in the plain image models.
    return replace(plain, token_labeling=True, head_dim=head_dim)


def _backbone(image: Config) -> Config:
    return replace(image, num_classes=0, output="normed_maps")


def _hybrid14(backbone: Config) -> Config:
    return replace(backbone, window=14, global_every=4)


_BACKBONES = {
    "uniformer_small": _backbone(SMALL),
    "uniformer_small_h14": _hybrid14(_backbone(SMALL)),
    "uniformer_base": _backbone(BASE),
    "uniformer_base_h14": _hybrid14(_backbone(BASE)),
    "uniformer_xxs": _backbone(XXS),
    "uniformer_xs": _backbone(XS),
    "uniformer_nano": _backbone(NANO),
}

#: Classes of the published networks with each head: those of COCO, of ADE20K, and COCO's key points.
_HEADS: Mapping[Head, int] = {
    "mask_rcnn": 80, "cascade_mask_rcnn": 80, "semantic_fpn": 150, "upernet": 150, "topdown": 17,
}  # fmt: skip

#: Every architecture with published weights, and our own nano. `drop_path` is 0: it belongs to a training recipe, not
#: to the network.
VARIANTS: Mapping[str, Config] = MappingProxyType(
    {
        # images
        "uniformer_small": SMALL,
        "uniformer_small_plus": SMALL_PLUS,
        "uniformer_small_plus_dim64": replace(SMALL_PLUS, head_dim=64),
        "uniformer_base": BASE,
        "uniformer_base_ls": replace(BASE, layer_scale=1e-6, layer_scale_stages=(3, 4)),
        "uniformer_small_tl": _token_labeling(SMALL),
        "uniformer_small_plus_tl": _token_labeling(SMALL_PLUS),
        "uniformer_base_tl": _token_labeling(BASE),
        "uniformer_small_dim64_tl": _token_labeling(SMALL, head_dim=64),
        "uniformer_small_plus_dim64_tl": _token_labeling(SMALL_PLUS, head_dim=64),
        "uniformer_base_dim64_tl": _token_labeling(BASE, head_dim=64),
        "uniformer_large_ls_tl": replace(_token_labeling(LARGE, head_dim=64), layer_scale=1e-6),  # all four stages
        "uniformer_xxs": XXS,
        "uniformer_xs": XS,
        # video
        "uniformer_small_video": _video(SMALL),
        "uniformer_base_video": _video(BASE),
        "uniformer_xxs_video": _video(XXS),
        "uniformer_xxs_ls_video": replace(_video(XXS), layer_scale=0.1),  # all four stages
        "uniformer_xs_video": _video(XS),
        "uniformer_nano_video": _video(NANO),
        # dense prediction: four layer-normed maps, no classifier
        **{
            f"{name.removesuffix('_h14')}_backbone{'_h14' * name.endswith('_h14')}": c for name, c in _BACKBONES.items()
        },
        # the same under a head, such as "mask_rcnn.uniformer_small_h14"
        **{
            f"{head}.{name}": replace(backbone, head=head, num_classes=classes)
            for head, classes in _HEADS.items()
            for name, backbone in _BACKBONES.items()
        },
    }
)


def list_models(pattern: str = "*") -> list[str]:
    """Names of architectures that match a shell pattern, in the order of `VARIANTS`."""
    return [name for name in VARIANTS if fnmatchcase(name, pattern)]


def get_config(name: str) -> Config:
    """The architecture of this name. Raises `InputError` with the nearest names when there is none."""
    if name not in VARIANTS:
        raise InputError(f"unknown model {name!r}{did_you_mean(name, VARIANTS)}")
    return VARIANTS[name]


def default_input(config: Config, size: int | None = None) -> InputSpec:
    """What the published runs of this kind of network were fed; `size` is the crop in pixels.

    Clips: 16 frames, stride 4, four clips of one centre crop, as for Kinetics; light (hourglass) models: 16 frames
    spread over the whole video, one view, 160 pixels. Images: one centre crop. Records state what differs.
    """
    if config.is_video:
        size = size or (160 if config.is_hourglass else 224)
        clip = InputSpec(
            size=(size, size),
            resize=size,  # the reference's test loader scales the short side to the crop itself
            interpolation="bilinear",
            mean=(0.45, 0.45, 0.45),
            std=(0.225, 0.225, 0.225),
            frames=16,
            sampling="sparse",
            # The reference follows strides at each file's own rate; 30 is what Kinetics usually has
            fps=30.0,
        )
        return clip if config.is_hourglass else replace(clip, sampling="dense", stride=4, clips=4)
    size = size or 224
    # floor(size / 0.9) is timm's crop share of the token labeling runs, int(256 / 224 * size) that of all others.
    resize = math.floor(size / 0.9) if config.token_labeling else int(256 / 224 * size)
    return InputSpec(size=(size, size), resize=resize, interpolation="bicubic")


def dense_input(config: Config) -> Scaling | PersonCrop:
    """What the published networks with this head were fed; records state the crops of poses that differ.

    Raises `InputError` for a network without a head.
    """
    inputs: dict[str, Scaling | PersonCrop] = {
        "mask_rcnn": Scaling(),
        "cascade_mask_rcnn": Scaling(),
        "semantic_fpn": Scaling(2048, 512, by="resizing"),
        "upernet": Scaling(2048, 512, by="nothing"),
        "topdown": PersonCrop(),
    }
    if config.head is None:
        raise InputError("expected a network with a head, got one without")
    return inputs[config.head]

"""What others need to know of a network, in timm's words: the maps of its stages, the layers of its parameters, and
the input it is for. timm's feature extraction, layer decay and data helpers read these; nothing here imports timm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

from uniformer.config import STRIDES, Config, InputSpec
from uniformer.errors import InputError

STAGES = (0, 1, 2, 3)


class StageInfo(dict[str, Any]):
    """A stage's map: timm's keys `num_chs`, `reduction`, `module` (whose output it is) and `index`, and our
    `time_reduction`."""

    @property
    def channels(self) -> int:
        return self["num_chs"]

    @property
    def stride(self) -> int:
        """In height and width, relative to the input."""
        return self["reduction"]

    @property
    def time_stride(self) -> int:
        """1 for images."""
        return self["time_reduction"]


class FeatureInfo(tuple[StageInfo, ...]):
    """The four stages. `channels()` and `reduction()` are of the maps that are handed out, those of `out_indices`; or
    of the stages asked for, whatever is handed out: `channels(0)`, `channels((0, 1))`."""

    out_indices: tuple[int, ...]

    def __new__(cls, stages: Iterable[StageInfo], out_indices: Sequence[int] = STAGES) -> Self:
        info = super().__new__(cls, stages)
        info.out_indices = tuple(out_indices)
        return info

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """One value, or a list of them."""
        if isinstance(idx, int):
            return self[idx][key]
        return [self[i][key] for i in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("module", idx)


def feature_info(config: Config, out_indices: Sequence[int]) -> FeatureInfo:
    """`module` is the last block of a stage: hooks see its map before the layer norm that a dense backbone adds."""
    return FeatureInfo(
        (
            StageInfo(
                num_chs=dim,
                reduction=stride,
                time_reduction=2 if config.is_video else 1,
                module=f"stages.{index}.blocks.{depth - 1}",
                index=index,
            )
            for index, (dim, stride, depth) in enumerate(zip(config.dims, STRIDES, config.depths, strict=True))
        ),
        out_indices,
    )


def stage_indices(indices: int | Sequence[int]) -> tuple[int, ...]:
    """Stages 0 to 3 as timm lets one name them: their numbers, negative from the end, or how many of the last."""
    asked = tuple(range(-indices, 0)) if isinstance(indices, int) else tuple(indices)
    if not asked or not all(-len(STAGES) <= index < len(STAGES) for index in asked):
        raise InputError(f"expected stages 0 to 3, negative from the end, or how many of the last, got {indices}")
    return tuple(index % len(STAGES) for index in asked)


def layer_of(name: str, depths: Sequence[int], *, coarse: bool = False) -> int:
    """The layer of a parameter: 0 is the stem, then each block counts one, and what follows the last block is one more.

    A later stage's embedding belongs to its first block, and so do the class token (stage 3) and its projection
    (stage 4). With `coarse` stages count instead of blocks, the stem with the first.
    """
    enters = {"cls_token": 2, "cls_proj": 3}  # stage, counted from 0
    parts = name.split(".")
    is_inside = parts[0] == "stages" and "norm" not in parts[2:3]  # not: heads, last norms, norms of a backbone's maps
    if not is_inside and parts[0] not in enters:
        return len(depths) if coarse else sum(depths) + 1
    stage = enters[parts[0]] if parts[0] in enters else int(parts[1])
    if coarse:
        return stage
    if parts[2:3] == ["blocks"]:
        return sum(depths[:stage]) + int(parts[3]) + 1
    return 0 if stage == 0 else sum(depths[:stage]) + 1


def classifier_names(config: Config) -> tuple[str, ...]:
    """The classifiers that a network has: one on the mean token, of light models one on the class token, with token
    labeling one on every token."""
    if config.output != "logits" or not config.num_classes:
        return ()
    wanted = {"head": True, "cls_head": config.is_hourglass, "aux_head": config.token_labeling}
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def pretrained_cfg(config: Config, spec: InputSpec, classifier: Sequence[str]) -> dict[str, Any]:
    """timm's description of a model, for its data helpers. Of clips the input is (C, T, H, W); `channels` is ours.

    `crop_pct` is such that timm's floor(size / crop_pct) is the short side of `spec`.
    """
    size = min(spec.size)
    crop_pct = size / spec.resize
    if math.floor(size / crop_pct) != spec.resize:
        crop_pct = math.nextafter(crop_pct, 0)
    return {
        "num_classes": config.num_classes if classifier else 0,
        "input_size": (config.in_chans, *((spec.frames,) if spec.is_video else ()), *spec.size),
        "interpolation": spec.interpolation,
        "mean": spec.mean,
        "std": spec.std,
        "crop_pct": crop_pct,
        "crop_mode": "center",
        "channels": spec.channels,
        "first_conv": f"stages.0.embed.{'conv1' if config.overlap else 'proj'}",
        "classifier": classifier[0] if len(classifier) == 1 else tuple(classifier),
    }

"""UniFormer: one class for every published variant, images and clips (ICLR 2022, Fig. 2; TPAMI 2023, Fig. 3).

    clip -> (patch embedding -> local blocks) x 2 -> (patch embedding -> global blocks) x 2 -> norm -> mean -> head

What a variant is stands in a `Config`; the published ones are the table in `variants.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uniformer.config import Config, InputSpec, with_options
from uniformer.errors import InputError, UnfitInput
from uniformer.network.blocks import (
    EMBED_EPS,
    Block,
    GlobalBlock,
    LocalBlock,
    OverlapEmbed,
    PatchEmbed,
    SplitBlock,
    batch_norm,
)
from uniformer.network.description import (
    STAGES,
    FeatureInfo,
    classifier_names,
    feature_info,
    layer_of,
    pretrained_cfg,
    stage_indices,
)
from uniformer.network.hourglass import HourglassBlock, HourglassState, pool_score
from uniformer.network.ops import Grid, mix_boxed_tokens, to_grid, to_tokens
from uniformer.network.variants import default_input

Box = tuple[int, int, int, int]  # top, left, bottom, right on a grid


class Stage(nn.Module):
    """A patch embedding and its blocks; in a dense backbone also the norm of the map that is handed out."""

    norm: nn.LayerNorm | None

    def __init__(self, config: Config, stage: int, drop_path_rates: list[float]):
        super().__init__()
        dim_in = config.in_chans if stage == 1 else config.dims[stage - 2]
        dim = config.dims[stage - 1]
        embed = OverlapEmbed if stage <= config.overlap else PatchEmbed
        self.embed = embed(config, stage, dim_in, dim)
        self.blocks = nn.ModuleList(_block(config, stage, index, rate) for index, rate in enumerate(drop_path_rates))
        self.norm = nn.LayerNorm(dim, eps=config.block_eps) if config.output == "normed_maps" else None


def _block(config: Config, stage: int, index: int, rate: float) -> Block:
    if stage <= 2:
        return LocalBlock(config, stage, rate)
    if config.keep_ratio is not None:
        # The first block of stage 3 works on all tokens: there is no score yet to choose by.
        return HourglassBlock(config, stage, rate, 1.0 if (stage, index) == (3, 0) else config.keep_ratio)
    if config.split_attention:
        return SplitBlock(config, stage, rate)
    stays_global = config.global_every is not None and (index + 1) % config.global_every == 0
    return GlobalBlock(config, stage, rate, config.window if stage == 3 and not stays_global else None)


class UniFormer(nn.Module):
    """UniFormer for images (B, 3, H, W) or clips (B, 3, T, H, W), any size from 32 pixels, any number of frames.

    `forward` gives logits (B, num_classes), pooled features (B, C) when `num_classes` is 0, or a tuple of maps when
    `config.output` says so. It gives the same kind of thing in training and in evaluation mode; what only training
    needs has methods of its own: `forward_token_labels` and `forward_class_token`.

    Raises `InputError` on an input of another rank or channel count than expected, or too small for the strides.
    """

    out_indices: tuple[int, ...] = STAGES  #: the stages whose maps `forward` gives, where it gives maps
    input_spec: InputSpec | None = None  #: what its weights were trained with, once they were loaded and say so

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.grad_checkpointing = False
        width = config.dims[-1]

        last = max(sum(config.depths) - 1, 1)
        rates = [config.drop_path * i / last for i in range(sum(config.depths))]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dims[2])) if config.is_hourglass else None
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(config.depths, start=1):
            self.stages.append(Stage(config, stage, rates[:depth]))
            rates = rates[depth:]
        self.cls_proj = nn.Linear(config.dims[2], width) if config.is_hourglass else None

        classifies = config.output == "logits"
        self.norm = batch_norm(config.ndim, width) if classifies else None
        self.cls_norm = nn.LayerNorm(width, eps=EMBED_EPS) if classifies and config.is_hourglass else None
        self.head: nn.Module | None = None
        self.cls_head: nn.Module | None = None
        self.aux_head: nn.Module | None = None
        self._initialise(self)
        if classifies:
            self.reset_classifier(config.num_classes)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        """Linear layers: truncated normal of deviation 0.02, bias 0. Everything else keeps torch's defaults."""
        for m in module.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                nn.init.zeros_(m.bias)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New, freshly initialised classifiers for `num_classes` classes; 0 leaves them out. Pooling is the mean."""
        if global_pool not in (None, "avg"):
            raise InputError(f"expected global_pool 'avg' (the mean of all positions), got {global_pool!r}")
        if self.norm is None and num_classes == 0:
            return
        if self.norm is None:
            raise InputError("this model returns maps and has no classifier to reset")
        self.config = with_options(self.config, {"num_classes": num_classes})
        weight = next(self.parameters())
        names = classifier_names(self.config)
        for name in ("head", "cls_head", "aux_head"):
            head = nn.Linear(self.config.dims[-1], num_classes) if name in names else None
            if head is not None:
                self._initialise(head)
                head = head.to(weight.device, weight.dtype)
            setattr(self, name, head)

    # ---- what the network computes

    def forward(self, x: Tensor) -> Any:
        if self.norm is None:
            return tuple(self.forward_intermediates(x))
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The batch-normed last map, (B, C, *grid)."""
        return self._normed(self._run_stages(x)[0][-1])

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits from `forward_features`; with token labeling half of each class's best token score is added.

        With `pre_logits` the mean over all positions, (B, C), which the classifier is fed.
        """
        pooled = self._dropout(features.flatten(2).mean(dim=2))  # (B, C)
        if self.head is None or pre_logits:
            return pooled
        logits = self.head(pooled)
        if self.aux_head is None:
            return logits
        tokens, _ = to_tokens(features)
        return logits + 0.5 * self.aux_head(tokens).amax(dim=1)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = True,
    ) -> list[Tensor]:
        """The outputs of some stages, (B, C_i, [T_i,] H_i, W_i), raw or layer-normed as configured.

        `indices` are stages 0 to 3, negative from the end, or how many of the last; None is `out_indices`. Stages after
        the last one asked for do not run. With `norm` the last stage's map is batch-normed, as the classifier is fed
        it; the norm fits no other. What else timm's helpers ask for has one value: the maps alone, channels first.
        """
        if output_fmt != "NCHW" or not intermediates_only:
            raise InputError("forward_intermediates gives maps alone, channels first ('NCHW', with time after C)")
        asked = self.out_indices if indices is None else stage_indices(indices)
        maps, _ = self._run_stages(x, last=max(asked))
        outputs = [_layer_normed(maps[i], self.stages[i].norm) for i in asked]  # type: ignore[arg-type]
        return [self._normed(m) if norm and i == STAGES[-1] else m for i, m in zip(asked, outputs, strict=True)]

    def forward_token_labels(self, x: Tensor, box: Box | None = None) -> tuple[Tensor, Tensor, Box]:
        """Training outputs of token labeling: logits of the mean token (B, K), of every token (B, N, K), and the box.

        With `box`, given on the stem's grid (stride 4), tokens inside it come from the batch in reverse order
        (MixToken). The dense logits are put back on the last grid, where the box is 8 times smaller, rounded down;
        that small box is returned, for the loss to mix the labels by.
        """
        if self.aux_head is None:
            raise InputError("token labels need a model with token labeling and a classifier")
        features = self._normed(self._run_stages(x, box)[0][-1])
        top, left, bottom, right = small = tuple(v // 8 for v in box) if box else (0, 0, 0, 0)
        tokens, grid = to_tokens(features)
        dense = self.aux_head(tokens)
        if box:
            dense, _ = to_tokens(mix_boxed_tokens(to_grid(dense, grid), (top, left, bottom, right)))
        return self.head(self._dropout(tokens.mean(dim=1))), dense, small  # type: ignore[misc, return-value]

    def forward_class_token(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Training outputs of the light models: logits of the mean token and of the class token, both (B, K)."""
        if self.cls_head is None or self.cls_norm is None:
            raise InputError("class token logits need a model with hourglass blocks and a classifier")
        maps, state = self._run_stages(x)
        assert state is not None
        return self.forward_head(self._normed(maps[-1])), self.cls_head(self.cls_norm(state.cls[:, 0]))

    def _run_stages(
        self, x: Tensor, mix_box: Box | None = None, last: int = STAGES[-1]
    ) -> tuple[list[Tensor], HourglassState | None]:
        """The stages' outputs up to `last`, and for the light models the class token and scores after it."""
        self._check_input(x)
        maps: list[Tensor] = []
        state: HourglassState | None = None
        for index, stage in enumerate(self.stages):
            x = stage.embed(x)  # type: ignore[operator]
            if index == 0 and mix_box:
                x = mix_boxed_tokens(x, mix_box)
            if self.cls_token is not None:
                state = self._enter_stage(index, x, state, maps)
            for block in stage.blocks:  # type: ignore[union-attr]
                if state is None:
                    x = self._call(block, x)
                else:
                    x, state = self._call(block, x, state)
            maps.append(x)
            if index == last:
                break
        return maps, state

    def _enter_stage(
        self, index: int, x: Tensor, state: HourglassState | None, maps: list[Tensor]
    ) -> HourglassState | None:
        """Class token and scores as stages 3 and 4 of a light model receive them; None in the local stages."""
        if index < 2:
            return None
        if state is None:
            assert self.cls_token is not None
            return HourglassState(self.cls_token.expand(x.shape[0], -1, -1), None)
        assert self.cls_proj is not None
        assert state.score is not None
        return HourglassState(self.cls_proj(state.cls), pool_score(state.score, tuple(maps[-1].shape[2:])))

    def _call(self, block: nn.Module, *args: Any) -> Any:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def _normed(self, x: Tensor) -> Tensor:
        if self.norm is None:
            raise InputError("this model returns maps: it has no last norm, use forward_intermediates")
        return self.norm(x)

    def _dropout(self, pooled: Tensor) -> Tensor:
        return nn.functional.dropout(pooled, self.config.dropout, self.training)

    # ---- what others need to know of it

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: recompute each block's activations in the backward pass."""
        self.grad_checkpointing = enable

    @property
    def num_features(self) -> int:
        """Channels of the last map, and of the features that the classifier is fed."""
        return self.config.dims[-1]

    @property
    def num_classes(self) -> int:
        """0 without a classifier."""
        return 0 if self.head is None else self.config.num_classes

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and strides of the four maps: `feature_info[0].channels`, `feature_info.channels()`."""
        return feature_info(self.config, self.out_indices)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """For `timm.data.resolve_model_data_config`: the input of the weights, or of the published runs of its kind."""
        classifiers = [name for name in ("head", "cls_head", "aux_head") if getattr(self, name) is not None]
        return pretrained_cfg(self.config, self.input_spec or default_input(self.config), classifiers)

    def get_classifier(self) -> nn.Module:
        """The classifier; a `ModuleList` where there are two (light models, token labeling), `Identity` for none."""
        heads = [head for head in (self.head, self.cls_head, self.aux_head) if head is not None]
        return heads[0] if len(heads) == 1 else nn.ModuleList(heads) if heads else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """From a parameter's name to its layer, for timm's layer decay and grouping; see `description.layer_of`."""
        return partial(layer_of, depths=self.config.depths, coarse=coarse)

    def no_weight_decay(self) -> set[str]:
        """None by name: in the published runs all of more than one dimension decayed (see `parameter_groups`)."""
        return set()

    def grids(self, size: Grid) -> list[Grid]:
        """The grids of the four stages for an input of `size` ([T,] H, W). Raises `UnfitInput` if one is empty."""
        grids: list[Grid] = []
        for number, stage in enumerate(self.stages, start=1):
            grid = grids[-1] if grids else size
            for m in stage.modules():
                if isinstance(m, nn.Conv2d | nn.Conv3d) and max(m.stride) > 1:  # a patch embedding's
                    padding = cast(Grid, m.padding)
                    geometry = zip(grid, m.kernel_size, m.stride, padding, strict=True)
                    grid = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in geometry)
            if min(grid) < 1:
                raise UnfitInput(
                    f"input of {_times(size)} is too small: stage {number} would get a grid of {_times(grid)}"
                )
            grids.append(grid)
        return grids

    def _check_input(self, x: Tensor) -> None:
        config = self.config
        if x.ndim != config.ndim + 2:
            shape = "(B, C, T, H, W)" if config.is_video else "(B, C, H, W)"
            raise InputError(
                f"expected {'clips' if config.is_video else 'images'} of shape {shape}, got {tuple(x.shape)}"
            )
        if x.shape[1] != config.in_chans:
            raise InputError(f"expected {config.in_chans} input channels, got {x.shape[1]} (shape {tuple(x.shape)})")
        if not torch.compiler.is_compiling():
            self.grids(tuple(x.shape[2:]))


def _layer_normed(x: Tensor, norm: nn.LayerNorm | None) -> Tensor:
    """LayerNorm over the channels of a map (B, C, *grid)."""
    if norm is None:
        return x
    tokens, grid = to_tokens(x)
    return to_grid(norm(tokens), grid)


def _times(size: Grid) -> str:
    return " x ".join(map(str, size))

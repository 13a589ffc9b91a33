"""What all models are: a network of this package, loaded strictly, saved with what is still true of it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from uniformer.checkpoints.load import CLASSIFIER
from uniformer.checkpoints.proof import digest
from uniformer.errors import InputError
from uniformer.heads import build_network
from uniformer.network.model import UniFormer
from uniformer.transformers.config import UniFormerConfig, of_other_weights


class Model(PreTrainedModel):
    config_class = UniFormerConfig
    base_model_prefix = "network"  # transformers adds it to the keys of our own files
    main_input_name = "pixel_values"
    task: ClassVar[str] = "classification"
    is_video: ClassVar[bool] = False
    _loaded = ""  # digest of the tensors as they were loaded

    def __init__(self, config: UniFormerConfig):
        super().__init__(config)
        ours = config.contract.config
        headless = ours.head is None and ours.output != "logits"
        if ours.task != self.task or headless or ours.is_video != self.is_video:
            wanted, found = ("clips" if is_video else "images" for is_video in (self.is_video, ours.is_video))
            raise InputError(
                f"expected a network for {self.task} of {wanted}, got a network for {ours.task} of {found}"
            )
        self.network = build_network(ours)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            UniFormer._initialise(module)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As transformers has it, but that it computes in float32 unless told otherwise, whatever a file is kept in, as
        `Predictor` does; and that only a classifier may be missing or left over: else `InputError`."""
        if (asked := kwargs.pop("torch_dtype", None)) is not None:  # its older name
            kwargs.setdefault("dtype", asked)
        if kwargs.get("dtype") in (None, "auto"):
            kwargs["dtype"] = torch.float32
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        heads = tuple(f"network.{pattern.removesuffix('*')}" for pattern in CLASSIFIER)
        for what in ("missing_keys", "unexpected_keys"):
            if wrong := sorted(key for key in info[what] if not key.startswith(heads)):
                raise InputError(
                    f"{model.name_or_path}: expected the tensors of the network, found {len(wrong)} "
                    f"{what.partition('_')[0]}: {wrong[0]}"
                )
        if not info["missing_keys"] and not info["mismatched_keys"]:
            model._loaded = digest(model.network.state_dict().values())
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As transformers has it. Scores, proof and origin stay with the weights that they are of."""
        contract, now = self.config.contract, digest(self.network.state_dict().values())
        if now != self._loaded:
            self.config.hold(of_other_weights(contract))
        elif contract.proof is not None and contract.proof.sha256 != now:  # the same in another precision
            self.config.hold(replace(contract, proof=None))
        super().save_pretrained(save_directory, *args, **kwargs)

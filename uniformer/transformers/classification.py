"""Classifiers of images and of clips, which average their views as the checkpoint asks."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import ImageClassifierOutput

from uniformer.config import WHOLE, InputSpec
from uniformer.tasks.fusion import Fusion
from uniformer.transformers.model import Model


class _Classifier(Model):
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutput | tuple[Tensor, ...]:
        """`pixel_values` (B, 3, H, W), of clips (B, 3, T, H, W), or several views of each (B, V, 3, ...), averaged as
        the checkpoint asks -> logits (B, K) and, with `labels`, the loss."""
        views = pixel_values.ndim == self.network.config.ndim + 3
        logits = self.network(pixel_values.flatten(0, 1) if views else pixel_values)
        if views:
            logits = self._averaged(logits.unflatten(0, pixel_values.shape[:2]))
        elif self._fusion is not None and not self._fusion.is_plain and self._fusion.spec.parts == WHOLE:
            logits = self._averaged(logits[:, None])
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        output = ImageClassifierOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output

    @cached_property
    def _fusion(self) -> Fusion | None:
        """What makes one answer of views; None where the checkpoint does not say what it is fed."""
        contract = self.config.contract
        return Fusion(contract) if isinstance(contract.input, InputSpec) else None

    def _averaged(self, logits: Tensor) -> Tensor:
        """(B, V, K) -> (B, K). Of mean probabilities their logarithms: what softmax makes those probabilities of.

        What a checkpoint knows of parts, temperature and priors (`Fusion`) is of its answers: gradients see the mean.
        """
        fusion = self._fusion
        if fusion is None:
            return logits.mean(1)
        if not fusion.is_plain and not logits.requires_grad:
            probabilities = np.stack([fusion(views) for views in logits.float().cpu().numpy()])
            return torch.from_numpy(probabilities).to(logits).log()
        if fusion.spec.average == "probabilities":
            return logits.softmax(-1).mean(1).log()
        return logits.mean(1)


class UniFormerForImageClassification(_Classifier):
    is_video = False


class UniFormerForVideoClassification(_Classifier):
    is_video = True

"""Processors: files to what a network is fed, as its checkpoint says, and outputs to answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.video_processing_utils import BaseVideoProcessor

from uniformer.checkpoints.hosts import write_processor
from uniformer.config import InputSpec, Scaling
from uniformer.errors import InputError
from uniformer.heads.segmentation import Seen, pixel_classes
from uniformer.reading.views import load_views
from uniformer.reading.whole import load_whole
from uniformer.transformers.config import UniFormerConfig
from uniformer.transformers.dense import UniFormerDetections, UniFormerSegmenterOutput


def _spec_of(name: str | os.PathLike[str], is_video: bool, options: dict[str, Any]) -> InputSpec | Scaling:
    options = {key: value for key, value in options.items() if not key.startswith("_from")}
    contract = UniFormerConfig.from_pretrained(name, **options).contract
    if isinstance(contract.input, Scaling) and not is_video:
        return contract.input
    spec = contract.input_of_classifier()
    if spec.is_video != is_video:
        raise InputError(
            f"{name}: expected a network of {'clips' if is_video else 'images'}, found one of "
            f"{'clips' if spec.is_video else 'images'}"
        )
    return spec


def _batch(sources: Sequence[Any], spec: InputSpec | Scaling, return_tensors: object) -> BatchFeature:
    """`pixel_values`, (B, 3, ...) float32, or of more than one view (B, V, 3, ...); of whole pictures also their sizes
    and factors."""
    if return_tensors not in (None, "pt"):
        raise InputError(f"expected return_tensors 'pt', got {return_tensors!r}")
    if isinstance(spec, Scaling):
        return _whole_pictures(sources, spec)
    views = torch.from_numpy(np.stack([load_views(source, spec).array for source in sources]))
    return BatchFeature({"pixel_values": views.squeeze(1) if spec.views == 1 else views})


def _whole_pictures(sources: Sequence[Any], spec: Scaling) -> BatchFeature:
    seen = [load_whole(source, spec) for source in sources]
    shapes = sorted({views.array.shape[2:] for views in seen})
    if len(shapes) > 1:
        raise InputError(f"expected pictures of one shape in a batch, got inputs of {shapes[0]} and {shapes[1]}")
    return BatchFeature(
        {
            "pixel_values": torch.from_numpy(np.concatenate([views.array for views in seen])),
            "sizes": torch.tensor([views.size for views in seen]),
            "factors": torch.from_numpy(np.array([views.factors for views in seen])),
        }
    )


class _Processor:
    """What both kinds of processors do: their input is that of the checkpoint, in the model's own `config.json`."""

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    is_video: ClassVar[bool]

    def __init__(self, spec: InputSpec | Scaling):
        super().__init__()
        self.spec = spec

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> Any:
        return cls(_spec_of(name, cls.is_video, options))

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **_: Any) -> None:
        """Only who reads the input: what it is stands in the model's own `config.json`."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_processor(folder, is_video=self.is_video)


class UniFormerImageProcessor(_Processor, BaseImageProcessor):
    """Pictures to views as the checkpoint says: paths, PIL images, arrays, or a list of them."""

    is_video = False

    def __call__(self, images: Any, return_tensors: str | None = "pt") -> BatchFeature:
        return _batch(images if isinstance(images, list | tuple) else [images], self.spec, return_tensors)

    def post_process_semantic_segmentation(
        self, outputs: UniFormerSegmenterOutput, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        """The class of each pixel, (H, W) for every picture, in `target_sizes` or the input's size."""
        assert outputs.logits is not None
        assert outputs.input_size is not None
        height, width = outputs.input_size.tolist()
        sizes = target_sizes or [(height, width)] * len(outputs.logits)
        return [
            pixel_classes([Seen(logits[None].float(), (height, width), False)], size).long()
            for logits, size in zip(outputs.logits, sizes, strict=True)
        ]

    def post_process_object_detection(
        self, outputs: UniFormerDetections, threshold: float = 0.5, target_sizes: object = None
    ) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each picture above a score; boxes are in the picture's pixels already."""
        found = zip(outputs.boxes or (), outputs.scores or (), outputs.labels or (), strict=True)
        return [
            {
                "boxes": boxes[scores > threshold],
                "scores": scores[scores > threshold],
                "labels": labels[scores > threshold],
            }
            for boxes, scores, labels in found
        ]


class UniFormerVideoProcessor(_Processor, BaseVideoProcessor):
    """Videos to views, sampled as the checkpoint says: paths, addresses, bytes, arrays (T, H, W, 3), or several."""

    is_video = True

    def __call__(
        self,
        videos: Any,
        num_frames: int | None = None,
        do_sample_frames: bool = True,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Raises `InputError` for another number of frames than the network was trained with."""
        assert isinstance(self.spec, InputSpec)
        if num_frames not in (None, self.spec.frames) or not do_sample_frames:
            asked = f"{num_frames} frames" if do_sample_frames else "frames as they come"
            raise InputError(
                f"expected clips of {self.spec.frames} frames, sampled as the checkpoint says, got {asked}"
            )
        return _batch(videos if isinstance(videos, list | tuple) else [videos], self.spec, return_tensors)

"""Processors: files to what a network is fed, as its checkpoint says, and outputs to answers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.detr.image_processing_detr import convert_segmentation_to_rle
from transformers.video_processing_utils import BaseVideoProcessor

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.hosts import write_processor
from uniformer.config import Input, InputSpec, PersonCrop, Scaling
from uniformer.errors import InputError, counted, shown
from uniformer.heads.detection import paste_masks
from uniformer.heads.segmentation import Seen, pixel_classes
from uniformer.reading.people import regions_of
from uniformer.reading.views import load_views
from uniformer.reading.whole import load_people, load_whole
from uniformer.tasks.keypoints import decode_heat_maps
from uniformer.transformers.config import UniFormerConfig
from uniformer.transformers.dense import UniFormerDetections, UniFormerHeatMaps, UniFormerSegmenterOutput


def _contract_of(name: str | os.PathLike[str], options: dict[str, Any]) -> Contract:
    """What `config.json` says, found as transformers finds it."""
    return UniFormerConfig.from_pretrained(
        name, **{key: value for key, value in options.items() if not key.startswith("_from")}
    ).contract


def _spec_of(contract: Contract, is_video: bool, name: str | os.PathLike[str]) -> Input:
    if isinstance(contract.input, Scaling | PersonCrop) and not is_video:
        return contract.input
    spec = contract.input_of_classifier()
    if spec.is_video != is_video:
        raise InputError(
            f"{name}: expected a network of {'clips' if is_video else 'images'}, found one of "
            f"{'clips' if spec.is_video else 'images'}"
        )
    return spec


def _sources(given: Any, return_tensors: object) -> list[Any]:
    """One or several. Raises `InputError` where other arrays than torch's are asked for."""
    if return_tensors not in (None, "pt"):
        raise InputError(f"expected return_tensors 'pt', got {return_tensors!r}")
    if isinstance(given, list | tuple) and not given:
        raise InputError("expected a picture or a video at least, got none")
    return list(given) if isinstance(given, list | tuple) else [given]


def _views(sources: Sequence[Any], spec: InputSpec) -> BatchFeature:
    """`pixel_values`, (B, 3, ...) float32, or of more than one view (B, V, 3, ...)."""
    views = torch.from_numpy(np.stack([load_views(source, spec).array for source in sources]))
    return BatchFeature({"pixel_values": views.squeeze(1) if spec.views == 1 else views})


class _Processor:
    """What both kinds of processors do: their input is that of the checkpoint, in the model's own `config.json`."""

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    is_video: ClassVar[bool]
    spec: Any  #: what the network is fed

    def __init__(self, spec: Input):
        super().__init__()
        self.spec = spec

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> Any:
        """Of a network of images the processor of its task."""
        contract = _contract_of(name, options)
        kind = cls if cls.is_video else _OF_TASK.get(contract.task, UniFormerImageProcessor)
        return kind(_spec_of(contract, cls.is_video, name))

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **_: Any) -> None:
        """Only who reads the input: what it is stands in the model's own `config.json`."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_processor(folder, is_video=self.is_video)


class UniFormerImageProcessor(_Processor, BaseImageProcessor):
    """Pictures to views as the checkpoint says: paths, PIL images, arrays, or a list of them.

    `from_pretrained` gives the one of the network's task, which alone has its post-processing: pipelines look for that.
    """

    is_video = False

    def __call__(self, images: Any, return_tensors: str | None = "pt") -> BatchFeature:
        return _views(_sources(images, return_tensors), self.spec)


class _WholePictures(UniFormerImageProcessor):
    """Of networks that see a picture whole."""

    def __call__(self, images: Any, return_tensors: str | None = "pt") -> BatchFeature:
        """`pixel_values` (B, 3, H, W); heights and widths (B, 2): `sizes` without padding, and of the `pictures`."""
        seen = [load_whole(source, self.spec) for source in _sources(images, return_tensors)]
        shapes = sorted({views.array.shape[2:] for views in seen})
        if len(shapes) > 1:
            raise InputError(f"expected pictures of one shape in a batch, got inputs of {shapes[0]} and {shapes[1]}")
        return BatchFeature(
            {
                "pixel_values": torch.from_numpy(np.concatenate([views.array for views in seen])),
                "sizes": torch.tensor([views.size for views in seen]),
                "pictures": torch.tensor([(views.height, views.width) for views in seen]),
            }
        )


class UniFormerSegmentationProcessor(_WholePictures):
    """Pictures as the checkpoint says, and logits to classes of pixels."""

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


class _Things(NamedTuple):
    """What a picture shows, on a CPU."""

    boxes: Tensor  #: (N, 4), in pixels of `size`
    scores: Tensor  #: (N,)
    labels: Tensor  #: (N,)
    masks: Tensor | None  #: (N, 28, 28)
    size: tuple[int, int]  #: height and width


def _things(outputs: Any, threshold: float, target_sizes: Any) -> Iterator[_Things]:
    """Of each picture what has a score above the threshold, in the picture's own size or the one asked for; of
    `UniFormerDetections`, which pipelines make bare outputs of."""
    own = [(int(height), int(width)) for height, width in outputs.pictures]
    sizes = own if target_sizes is None else [(int(height), int(width)) for height, width in target_sizes]
    if len(sizes) != len(own):
        raise InputError(f"expected a target size of each of {counted(len(own), 'picture')}, got {len(sizes)}")
    masks = outputs.get("masks")
    for number, (size, (height, width)) in enumerate(zip(sizes, own, strict=True)):
        kept = outputs.scores[number] > threshold
        boxes, scores, labels = (
            each[number][kept].detach().cpu() for each in (outputs.boxes, outputs.scores, outputs.labels)
        )
        shares = None if masks is None else masks[number][kept].detach().cpu()
        factors = torch.tensor([size[1] / width, size[0] / height]).repeat(2)
        yield _Things(boxes * factors, scores, labels, shares, size)


class UniFormerDetectionProcessor(_WholePictures):
    """Pictures as the checkpoint says, and things to boxes and masks."""

    def post_process_object_detection(
        self, outputs: UniFormerDetections, threshold: float = 0.5, target_sizes: Any = None
    ) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each picture above a score; boxes in its pixels, or those of `target_sizes`."""
        found = _things(outputs, threshold, target_sizes)
        return [{"boxes": each.boxes, "scores": each.scores, "labels": each.labels} for each in found]

    def post_process_instance_segmentation(
        self,
        outputs: UniFormerDetections,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.0,
        target_sizes: Any = None,
        return_coco_annotation: bool = False,
        return_binary_maps: bool = False,
    ) -> list[dict[str, Any]]:
        """The masks of each picture's things above a score, as other models' processors give them, on a CPU.

        `segmentation` is int32 (H, W), the number of the thing that each pixel is of, the best on top, -1 where there
        is none; with `return_coco_annotation` the runs of each number, as transformers counts them; with
        `return_binary_maps` bool (N, H, W), each mask whole. `segments_info` has `id`, from 1, `label_id` and `score`.
        Left out is what has no pixel, and of numbers what is seen to no more than the share
        `overlap_mask_area_threshold` of its mask.

        Raises `InputError` for outputs without masks, and where both other forms are asked for.
        """
        if return_coco_annotation and return_binary_maps:
            raise InputError("expected one of return_coco_annotation and return_binary_maps, got both")
        if outputs.get("masks") is None:
            raise InputError("expected outputs with masks, of UniFormerForInstanceSegmentation, got boxes alone")
        answers = []
        for found in _things(outputs, threshold, target_sizes):
            numbers, maps, segments = _layers(found, mask_threshold, overlap_mask_area_threshold, return_binary_maps)
            if return_coco_annotation:
                numbers = convert_segmentation_to_rle(numbers)
            answers.append({"segmentation": maps if return_binary_maps else numbers, "segments_info": segments})
        return answers


def _layers(
    found: _Things, mask_threshold: float, least_seen: float, whole: bool
) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
    """The things of a picture laid over another, the best on top: numbers of the topmost (H, W), masks (N, H, W) of
    each if they are `whole`, and what they are. Masks are laid out one after another: together they are large."""
    assert found.masks is not None
    numbers = torch.full(found.size, -1, dtype=torch.int32)
    maps, segments = [torch.empty(0, *found.size, dtype=torch.bool)], list[dict[str, Any]]()
    for box, score, label, share in zip(found.boxes, found.scores, found.labels, found.masks, strict=True):
        (mask,) = paste_masks(share[None], box[None], found.size, mask_threshold)
        seen = mask if whole else mask & (numbers < 0)
        if not seen.sum() > least_seen * mask.sum():
            continue
        segments.append(
            {"id": len(segments) + 1, "label_id": int(label), "was_fused": False, "score": round(float(score), 6)}
        )
        numbers[seen] = len(segments)
        if whole:
            maps.append(mask[None])
    return numbers, torch.cat(maps), segments


class UniFormerPoseProcessor(UniFormerImageProcessor):
    """People of pictures to crops, and their heat maps to key points."""

    def __call__(  # type: ignore[override]
        self, images: Any, boxes: Any = None, return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """`pixel_values` (P, 3, h, w) of the people of all pictures. `boxes`: of each picture (P_i, 4), as COCO has
        them: x, y, width, height in pixels. Raises `InputError` for what is no box."""
        sources, crops = _sources(images, return_tensors), []
        people = _people(boxes)
        if len(people) != len(sources):
            wanted = counted(len(sources), "picture")
            raise InputError(f"expected boxes of the people of each of {wanted}, got those of {len(people)}")
        for source, own in zip(sources, people, strict=True):
            found = own, np.ones(len(own))
            crops.append(load_people(source, self.spec, lambda *_, found=found: found).array)
        return BatchFeature({"pixel_values": torch.from_numpy(np.concatenate(crops))})

    def post_process_pose_estimation(
        self, outputs: UniFormerHeatMaps, boxes: Any, threshold: float | None = None
    ) -> list[list[dict[str, Tensor]]]:
        """Of each picture's people, in the order of their boxes: `keypoints` (K, 2), x and y in the picture's pixels,
        `scores` and `labels` (K,), and `bbox` (4,), x1, y1, x2, y2; of the key points with a score above the threshold.

        `boxes` are those that the processor was given. Raises `InputError` where they are of other people.
        """
        assert outputs.heatmaps is not None
        people = _people(boxes)
        regions = regions_of(np.concatenate([*people, np.empty((0, 4))]), self.spec)
        if len(regions) != len(outputs.heatmaps):
            raise InputError(
                f"expected the boxes that the {len(outputs.heatmaps)} heat maps are of, got {len(regions)}"
            )
        found = zip(*decode_heat_maps(outputs.heatmaps.detach().float().cpu().numpy(), regions), strict=True)
        return [[_pose(*next(found), box, threshold) for box in own] for own in people]


def _pose(points: Any, scores: Any, box: Any, threshold: float | None) -> dict[str, Tensor]:
    kept = np.arange(len(scores)) if threshold is None else np.flatnonzero(scores > threshold)
    return {
        "keypoints": torch.from_numpy(points[kept]).float(),
        "scores": torch.from_numpy(scores[kept]),
        "labels": torch.from_numpy(kept),
        "bbox": torch.from_numpy(box),
    }


def _people(boxes: Any) -> list[npt.NDArray[np.float32]]:
    """Of each picture x, y, width, height as x1, y1, x2, y2: (P_i, 4)."""
    if not isinstance(boxes, Sequence | np.ndarray | Tensor):
        wanted = "boxes= of the people of each picture: x, y, width, height in pixels"
        raise InputError(f"expected {wanted}, got {shown(boxes)}")
    return [_corners(own) for own in boxes]


def _corners(boxes: Any) -> npt.NDArray[np.float32]:
    try:
        found = np.array(boxes, np.float64)
    except (TypeError, ValueError):
        found = np.empty(1)
    if found.size == 0:
        return np.empty((0, 4), np.float32)
    if found.ndim != 2 or found.shape[1] != 4:
        raise InputError(f"expected boxes (P, 4) of the people of a picture, got {shown(boxes)}")
    found[:, 2:] += found[:, :2]
    return found.astype(np.float32)


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
        if num_frames not in (None, self.spec.frames) or not do_sample_frames:
            asked = f"{num_frames} frames" if do_sample_frames else "frames as they come"
            raise InputError(
                f"expected clips of {self.spec.frames} frames, sampled as the checkpoint says, got {asked}"
            )
        return _views(_sources(videos, return_tensors), self.spec)


_OF_TASK: Mapping[str, type[UniFormerImageProcessor]] = MappingProxyType(
    {
        "segmentation": UniFormerSegmentationProcessor,
        "detection": UniFormerDetectionProcessor,
        "pose": UniFormerPoseProcessor,
    }
)

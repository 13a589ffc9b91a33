"""transformers' door to classifiers, segmenters and detectors: importing this registers them with its Auto classes.

    import transformers, uniformer.transformers
    classify = transformers.pipeline("video-classification", model="saved")  # written by `uniformer.save_checkpoint`
    model = transformers.AutoModelForImageClassification.from_pretrained("saved", num_labels=3,
                                                                         ignore_mismatched_sizes=True)

A model holds the network of this package as `network`; a processor reads and samples as the checkpoint says. What
`save_pretrained` writes, `uniformer.load_model` and all that stands on it read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.hosts import (
    MODEL_TYPE,
    OWN,
    folder_fields,
    write_processor,
)
from uniformer.checkpoints.load import CLASSIFIER
from uniformer.checkpoints.proof import digest
from uniformer.config import InputSpec, Scaling
from uniformer.errors import InputError, MissingExtra
from uniformer.heads import build_network
from uniformer.heads.detection import Limits
from uniformer.heads.segmentation import Seen, pixel_classes
from uniformer.network.model import UniFormer
from uniformer.reading.views import load_views
from uniformer.reading.whole import load_whole
from uniformer.support.texts import parse_json
from uniformer.tasks.detection import Detection, things_in
from uniformer.tasks.fusion import Fusion

try:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
        AutoModelForObjectDetection,
        AutoModelForSemanticSegmentation,
        AutoModelForVideoClassification,
        AutoVideoProcessor,
        BatchFeature,
        PreTrainedConfig,
        PreTrainedModel,
    )
    from transformers.image_processing_utils import BaseImageProcessor
    from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput
    from transformers.utils import ModelOutput
    from transformers.video_processing_utils import BaseVideoProcessor
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise MissingExtra("transformers", "transformers", "uniformer.transformers") from None


def _nameless(count: int) -> tuple[str, ...]:
    """What transformers calls classes that nobody has named."""
    return tuple(f"LABEL_{i}" for i in range(count))


def _contract(told: dict[str, Any]) -> Contract:
    return Contract.from_dict(told, "the UniFormerConfig")


def _of_other_weights(contract: Contract) -> Contract:
    """Without what was said of the weights that it was written for: whose they are, what they score and learnt from."""
    note = "changed in transformers: what the weights learnt from there is not known"
    return replace(
        contract, id="", dataset="", scores={}, trained_on=None, proof=None,
        notes=tuple(dict.fromkeys((*contract.notes, note))),
    )  # fmt: skip


class UniFormerConfig(PreTrainedConfig):
    """A contract, as transformers keeps it: its fields are those of `config.json` in a folder of ours."""

    model_type = MODEL_TYPE

    def __post_init__(self, **kwargs: Any) -> None:
        """The names of classes are the contract's, unless others are asked for, or another number of them."""
        if "config" in kwargs and self.id2label is None and kwargs.get("num_labels") is None:
            contract = _contract({key: value for key, value in kwargs.items() if key in OWN})
            self._name_labels(contract.classes or _nameless(contract.config.num_classes))
        super().__post_init__(**kwargs)

    def _name_labels(self, names: Sequence[str]) -> None:
        self.id2label = dict(enumerate(names))
        self.label2id = {name: i for i, name in enumerate(names)}

    @classmethod
    def from_contract(cls, contract: Contract) -> UniFormerConfig:
        return cls(**folder_fields(contract))

    @property
    def contract(self) -> Contract:
        """What it says of the network, with the classes that transformers has.

        Raises `InputError` where it says nothing.
        """
        contract = _contract({key: getattr(self, key) for key in sorted(OWN) if hasattr(self, key)})
        names = tuple(self.id2label[i] for i in range(self.num_labels))
        if names == _nameless(len(names)):
            names = ()
        if len(self.id2label) == contract.config.num_classes and names in ((), contract.classes):
            return contract
        config = replace(contract.config, num_classes=len(self.id2label))  # a classifier of other classes
        return _of_other_weights(replace(contract, config=config, classes=names, details={}))

    def hold(self, contract: Contract) -> None:
        """From now on be of this contract."""
        for key, value in {"trained_on": None, **contract.to_dict()}.items():
            setattr(self, key, value)

    @property
    def num_frames(self) -> int:
        """Of one clip."""
        return self.contract.input_of_classifier().frames

    def to_json_string(self, use_diff: bool = True) -> str:
        """With the contract in its own order, which its proof is of: transformers sorts."""
        text = super().to_json_string(use_diff)
        if not hasattr(self, "config"):
            return text
        told = parse_json(text, "a config") | folder_fields(self.contract)
        return json.dumps(told, indent=2, ensure_ascii=False)


class _Model(PreTrainedModel):
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
            self.config.hold(_of_other_weights(contract))
        elif contract.proof is not None and contract.proof.sha256 != now:  # the same in another precision
            self.config.hold(replace(contract, proof=None))
        super().save_pretrained(save_directory, *args, **kwargs)


class _Classifier(_Model):
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutput | tuple[Tensor, ...]:
        """`pixel_values` (B, 3, H, W), of clips (B, 3, T, H, W), or several views of each (B, V, 3, ...), averaged as
        the checkpoint asks -> logits (B, K) and, with `labels`, the loss."""
        views = pixel_values.ndim == self.network.config.ndim + 3
        logits = self.network(pixel_values.flatten(0, 1) if views else pixel_values)
        if views:
            logits = self._averaged(logits.unflatten(0, pixel_values.shape[:2]))
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


@dataclass
class UniFormerSegmenterOutput(SemanticSegmenterOutput):
    """Logits (B, K, h, w) of some of the input's pixels."""

    input_size: Tensor | None = None  #: (2,), height and width of the input


class UniFormerForSemanticSegmentation(_Model):
    task = "segmentation"

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **_: Tensor) -> UniFormerSegmenterOutput:
        """`pixel_values` (B, 3, H, W) -> logits (B, K, H / 4, W / 4); the processor's
        `post_process_semantic_segmentation` makes classes of the picture's own pixels of them."""
        _refuse_labels(labels)
        return UniFormerSegmenterOutput(
            logits=self.network(pixel_values), input_size=torch.tensor(pixel_values.shape[2:])
        )


@dataclass
class UniFormerDetections(ModelOutput):
    """Of each picture: boxes (N, 4), x1, y1, x2, y2 in its own pixels, scores and labels (N,), the best first."""

    boxes: tuple[Tensor, ...] | None = None
    scores: tuple[Tensor, ...] | None = None
    labels: tuple[Tensor, ...] | None = None


class UniFormerForObjectDetection(_Model):
    task = "detection"

    @cached_property
    def _limits(self) -> Limits:
        return Detection(self.config.contract).limits

    def forward(
        self, pixel_values: Tensor, sizes: Tensor, factors: Tensor, labels: Tensor | None = None
    ) -> UniFormerDetections:
        """As the processor gives them: `pixel_values` (B, 3, H, W), `sizes` (B, 2) without padding, `factors` (B, 4)
        from boxes of the picture to boxes of the input. The thresholds are the checkpoint's."""
        _refuse_labels(labels)
        whole = [(int(height), int(width)) for height, width in sizes]
        _, found = things_in(self.network, pixel_values, whole, list(factors.to(pixel_values)), self._limits)
        return UniFormerDetections(
            boxes=tuple(each.boxes for each in found),
            scores=tuple(each.scores for each in found),
            labels=tuple(each.labels for each in found),
        )


def _refuse_labels(labels: object) -> None:
    if labels is not None:
        raise InputError("expected no labels: dense networks learn by `uniformer train`, not in transformers")


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


AutoConfig.register(MODEL_TYPE, UniFormerConfig)
AutoModelForImageClassification.register(UniFormerConfig, UniFormerForImageClassification)
AutoModelForVideoClassification.register(UniFormerConfig, UniFormerForVideoClassification)
AutoModelForSemanticSegmentation.register(UniFormerConfig, UniFormerForSemanticSegmentation)
AutoModelForObjectDetection.register(UniFormerConfig, UniFormerForObjectDetection)
AutoImageProcessor.register(
    UniFormerConfig,
    image_processor_classes={"pil": UniFormerImageProcessor, "torchvision": UniFormerImageProcessor},
)
AutoVideoProcessor.register(UniFormerConfig, UniFormerVideoProcessor)

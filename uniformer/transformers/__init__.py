"""transformers' door to the networks of all tasks: importing this registers them with its Auto classes.

    import transformers, uniformer.transformers
    classify = transformers.pipeline("video-classification", model="saved")  # written by `uniformer.save_checkpoint`
    model = transformers.AutoModelForImageClassification.from_pretrained("saved", num_labels=3,
                                                                         ignore_mismatched_sizes=True)

A model holds the network of this package as `network`; a processor reads and samples as the checkpoint says. What
`save_pretrained` writes, `uniformer.load_model` and all that stands on it read.
"""

from __future__ import annotations

from uniformer.checkpoints.hosts import MODEL_TYPE
from uniformer.errors import MissingExtra

try:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
        AutoModelForImageSegmentation,
        AutoModelForInstanceSegmentation,
        AutoModelForObjectDetection,
        AutoModelForPoseEstimation,
        AutoModelForSemanticSegmentation,
        AutoModelForVideoClassification,
        AutoVideoProcessor,
    )

    from uniformer.transformers.classification import UniFormerForImageClassification, UniFormerForVideoClassification
    from uniformer.transformers.config import UniFormerConfig
    from uniformer.transformers.dense import (
        UniFormerDetections,
        UniFormerForInstanceSegmentation,
        UniFormerForObjectDetection,
        UniFormerForPoseEstimation,
        UniFormerForSemanticSegmentation,
        UniFormerHeatMaps,
        UniFormerSegmenterOutput,
    )
    from uniformer.transformers.processors import (
        UniFormerDetectionProcessor,
        UniFormerImageProcessor,
        UniFormerPoseProcessor,
        UniFormerSegmentationProcessor,
        UniFormerVideoProcessor,
    )
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise MissingExtra("transformers", "transformers", "uniformer.transformers") from None

__all__ = [
    "UniFormerConfig",
    "UniFormerDetectionProcessor",
    "UniFormerDetections",
    "UniFormerForImageClassification",
    "UniFormerForInstanceSegmentation",
    "UniFormerForObjectDetection",
    "UniFormerForPoseEstimation",
    "UniFormerForSemanticSegmentation",
    "UniFormerForVideoClassification",
    "UniFormerHeatMaps",
    "UniFormerImageProcessor",
    "UniFormerPoseProcessor",
    "UniFormerSegmentationProcessor",
    "UniFormerSegmenterOutput",
    "UniFormerVideoProcessor",
]

AutoConfig.register(MODEL_TYPE, UniFormerConfig)
AutoModelForImageClassification.register(UniFormerConfig, UniFormerForImageClassification)
AutoModelForVideoClassification.register(UniFormerConfig, UniFormerForVideoClassification)
AutoModelForSemanticSegmentation.register(UniFormerConfig, UniFormerForSemanticSegmentation)
AutoModelForObjectDetection.register(UniFormerConfig, UniFormerForObjectDetection)
AutoModelForInstanceSegmentation.register(UniFormerConfig, UniFormerForInstanceSegmentation)
AutoModelForImageSegmentation.register(UniFormerConfig, UniFormerForInstanceSegmentation)  # its pipeline looks here
AutoModelForPoseEstimation.register(UniFormerConfig, UniFormerForPoseEstimation)
AutoImageProcessor.register(
    UniFormerConfig,
    image_processor_classes={"pil": UniFormerImageProcessor, "torchvision": UniFormerImageProcessor},
)
AutoVideoProcessor.register(UniFormerConfig, UniFormerVideoProcessor)

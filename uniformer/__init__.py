"""UniFormer for images and video (ICLR 2022; TPAMI 2023): every published model, from a file to labels in one line.

    uniformer.predict("clip.mp4", model="uniformer_small.k400_16x8")
    model = uniformer.create_model("uniformer_small_video", num_classes=174)

Names are imported when they are first used, so `import uniformer` costs nothing and listing models needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {  # name: (the module it comes from, what it is), in the order of `help(uniformer)`
    "predict": ("inference.predictor", "the labels of one image or video"),
    "Predictor": ("inference.predictor", "a network with everything around it, for many files"),
    "Prediction": ("tasks.classification", "what a classifier says of one source"),
    "Detections": ("tasks.detections", "what a detector says of a picture: boxes, classes, scores, masks"),
    "Segmentation": ("tasks.segmentations", "what a segmenter says of a picture: the class of each pixel"),
    "Poses": ("tasks.poses", "what a pose network says of a picture: people with key points"),
    "Failure": ("tasks.task", "a source that gave no answer, and why"),
    "Stream": ("inference.stream", "the last seconds of frames that come one by one, seen again and again"),
    "timeline": ("timelines.timeline", "the shots of a long video, and what happens in each"),
    "Timeline": ("timelines.timeline", "what `timeline` gives"),
    "explain": ("explanations.explain", "where and when a network looked for one answer"),
    "Explainer": ("explanations.explain", "a network whose answers are explained, for many files"),
    "Explanation": ("explanations.explanation", "maps of an answer over pixels and frames, and a bar over time"),
    "list_models": ("network.variants", "names of architectures"),
    "create_model": ("checkpoints.load", "an architecture by name, with or without a checkpoint's weights"),
    "UniFormer": ("network.model", "the network: a torch module for images or clips"),
    "Config": ("config", "what a network is"),
    "InputSpec": ("config", "what a network is fed: size, frames, sampling, normalisation"),
    "count_macs": ("heads.macs", "multiply-adds of a network"),
    "list_checkpoints": ("checkpoints.records", "ids of published checkpoints"),
    "get_checkpoint": ("checkpoints.records", "what is known of a published checkpoint"),
    "load_model": ("checkpoints.load", "the network that a file is of, with its contract"),
    "load_checkpoint": ("checkpoints.load", "a file's weights into a network, strictly"),
    "save_checkpoint": ("checkpoints.save", "a network and its contract into a file"),
    "Contract": ("checkpoints.contract", "what a file says of itself: network, classes, input, origin"),
    "verify": ("checkpoints.save", "whether a saved file is intact"),
    "convert": ("checkpoints.save", "any readable file into ours, or into the reference's form"),
    "save_pretrained": ("checkpoints.push", "a folder in the hub's form, with a page that tells what it is"),
    "from_pretrained": ("checkpoints.push", "the network of such a folder, or of a hub repository"),
    "push_to_hub": ("checkpoints.push", "a network as a hub repository"),
    "open_dataset": ("datasets.open", "a folder, a list or a saved manifest as samples with labels"),
    "open_annotated": ("datasets.annotated", "pictures with boxes, masks, key points or label maps"),
    "transforms": ("reading.pipeline", "from a file or an array to what a network is fed, in testing or training"),
    "evaluate": ("evaluation.run", "the scores of a checkpoint on a data set"),
    "Scores": ("tasks.scores", "a classifier's probabilities and labels on a data set"),
    "ObjectScores": ("tasks.object_scores", "what a detector or a pose network found in a data set, and what is there"),
    "SegmentationScores": ("tasks.segmentation_scores", "a segmenter's pixels on a data set, by class and answer"),
    "train": ("training.run", "a network trained by a recipe, or on a folder of one's own"),
    "list_recipes": ("training.recipe", "names of the published training runs"),
    "load_recipe": ("training.recipe", "how a network is trained, by name or from a file"),
    "parameter_groups": ("training.optim", "parameters for an optimizer of your own: weight decay, layer decay"),
    "optimize": ("speed.forms", "a copy of a network that computes faster"),
    "export": ("speed.export", "a network as a file for OpenVINO or ONNX Runtime"),
    "export_int8": ("speed.quantise", "a classifier in 8-bit integers, calibrated and judged on your own data"),
    "InputError": ("errors", "what is raised for anything that cannot be used, in one line"),
}

if TYPE_CHECKING:  # the same names for type checkers and editors
    from uniformer.checkpoints.contract import Contract
    from uniformer.checkpoints.load import create_model, load_checkpoint, load_model
    from uniformer.checkpoints.push import from_pretrained, push_to_hub, save_pretrained
    from uniformer.checkpoints.records import get_checkpoint, list_checkpoints
    from uniformer.checkpoints.save import convert, save_checkpoint, verify
    from uniformer.config import Config, InputSpec
    from uniformer.datasets.annotated import open_annotated
    from uniformer.datasets.open import open_dataset
    from uniformer.errors import InputError
    from uniformer.evaluation.run import evaluate
    from uniformer.explanations.explain import Explainer, explain
    from uniformer.explanations.explanation import Explanation
    from uniformer.heads.macs import count_macs
    from uniformer.inference.predictor import Predictor, predict
    from uniformer.inference.stream import Stream
    from uniformer.network.model import UniFormer
    from uniformer.network.variants import list_models
    from uniformer.reading.pipeline import transforms
    from uniformer.speed.export import export
    from uniformer.speed.forms import optimize
    from uniformer.speed.quantise import export_int8
    from uniformer.tasks.classification import Prediction
    from uniformer.tasks.detections import Detections
    from uniformer.tasks.object_scores import ObjectScores
    from uniformer.tasks.poses import Poses
    from uniformer.tasks.scores import Scores
    from uniformer.tasks.segmentation_scores import SegmentationScores
    from uniformer.tasks.segmentations import Segmentation
    from uniformer.tasks.task import Failure
    from uniformer.timelines.timeline import Timeline, timeline
    from uniformer.training.optim import parameter_groups
    from uniformer.training.recipe import list_recipes, load_recipe
    from uniformer.training.run import train

__all__ = list(_PUBLIC)
__doc__ = "\n".join([__doc__ or "", *(f"    {name:<20}{what}" for name, (_, what) in _PUBLIC.items())])


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"uniformer.{_PUBLIC[name][0]}"), name)
    if name == "speed":  # uniformer.speed.prepare, for a training loop of one's own
        return import_module("uniformer.speed")
    raise AttributeError(f"module 'uniformer' has no attribute {name!r}")

"""UniFormer for images and video (ICLR 2022; TPAMI 2023): every published model, from a file to labels in one line.

    uniformer.predict("clip.mp4", model="uniformer_small.k400_16x8")
    model = uniformer.create_model("uniformer_small_video", num_classes=174)

Names are imported when they are first used, so `import uniformer` costs nothing and listing models needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from uniformer.checkpoints.load import create_model, load_checkpoint, load_model
    from uniformer.checkpoints.records import get_checkpoint, list_checkpoints
    from uniformer.checkpoints.save import save_checkpoint, verify
    from uniformer.config import Config, InputSpec
    from uniformer.datasets.open import open_dataset
    from uniformer.errors import InputError
    from uniformer.inference.predictor import Predictor, predict
    from uniformer.network.macs import count_macs
    from uniformer.network.model import UniFormer
    from uniformer.network.variants import list_models
    from uniformer.reading.pipeline import transforms
    from uniformer.speed.export import export
    from uniformer.speed.prepare import optimize
    from uniformer.timelines.timeline import Timeline, timeline

_HOMES = {
    "Config": "config",
    "InputError": "errors",
    "InputSpec": "config",
    "Predictor": "inference.predictor",
    "Timeline": "timelines.timeline",
    "Scores": "tasks.scores",
    "UniFormer": "network.model",
    "count_macs": "network.macs",
    "create_model": "checkpoints.load",
    "evaluate": "evaluation.run",
    "export": "speed.export",
    "get_checkpoint": "checkpoints.records",
    "list_checkpoints": "checkpoints.records",
    "list_models": "network.variants",
    "load_checkpoint": "checkpoints.load",
    "load_model": "checkpoints.load",
    "open_dataset": "datasets.open",
    "optimize": "speed.prepare",
    "predict": "inference.predictor",
    "save_checkpoint": "checkpoints.save",
    "timeline": "timelines.timeline",
    "train": "training.run",
    "transforms": "reading.pipeline",
    "verify": "checkpoints.save",
}

__all__ = [
    "Config",
    "InputError",
    "InputSpec",
    "Predictor",
    "Scores",
    "Timeline",
    "UniFormer",
    "count_macs",
    "create_model",
    "evaluate",
    "export",
    "get_checkpoint",
    "list_checkpoints",
    "list_models",
    "load_checkpoint",
    "load_model",
    "open_dataset",
    "optimize",
    "predict",
    "save_checkpoint",
    "timeline",
    "train",
    "transforms",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"uniformer.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'uniformer' has no attribute {name!r}")

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
    from uniformer.checkpoint import load_checkpoint, load_model, save_checkpoint, verify
    from uniformer.config import Config, InputSpec
    from uniformer.errors import InputError
    from uniformer.exporter import export
    from uniformer.fast.optimize import optimize
    from uniformer.macs import count_macs
    from uniformer.model import UniFormer, create_model
    from uniformer.predictor import Predictor, predict
    from uniformer.timelines import Timeline, timeline
    from uniformer.zoo import get_checkpoint, list_checkpoints, list_models

_HOMES = {
    "Config": "config",
    "InputError": "errors",
    "InputSpec": "config",
    "Predictor": "predictor",
    "Timeline": "timelines",
    "UniFormer": "model",
    "count_macs": "macs",
    "create_model": "model",
    "export": "exporter",
    "get_checkpoint": "zoo",
    "list_checkpoints": "zoo",
    "list_models": "zoo",
    "load_checkpoint": "checkpoint",
    "load_model": "checkpoint",
    "optimize": "fast.optimize",
    "predict": "predictor",
    "save_checkpoint": "checkpoint",
    "timeline": "timelines",
    "verify": "checkpoint",
}

__all__ = [
    "Config",
    "InputError",
    "InputSpec",
    "Predictor",
    "Timeline",
    "UniFormer",
    "count_macs",
    "create_model",
    "export",
    "get_checkpoint",
    "list_checkpoints",
    "list_models",
    "load_checkpoint",
    "load_model",
    "optimize",
    "predict",
    "save_checkpoint",
    "timeline",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"uniformer.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'uniformer' has no attribute {name!r}")

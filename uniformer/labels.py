"""Class names by data set, in the order of the published classifiers' rows."""

from __future__ import annotations

import importlib.util
import json
from importlib import resources
from pathlib import Path

from uniformer.config import did_you_mean
from uniformer.errors import InputError

_FILES = {
    "Kinetics-400": "kinetics400.json",  # the authors' own shuffle: 370 is yoga
    "Kinetics-600": "kinetics600.json",  # another shuffle
    "Something-Something V1": "something_something_v1.json",
    "Something-Something V2": "something_something_v2.json",  # sorted as if the brackets were not there
    "UCF101": "ucf101.json",
    "HMDB51": "hmdb51.json",
}
_IMAGENET = "ImageNet-1K"

#: Data sets of which the names tell the classes apart. ImageNet's do not: cranes are birds and machines.
DISTINCT = tuple(_FILES)


def load_classes(dataset: str) -> tuple[str, ...]:
    """The class names of a data set; position = row of the classifier.

    Kinetics names come in the order of the reference's data lists, which is not alphabetical and not the order of other
    libraries; see `kinetics400_permutation`. ImageNet's are torchvision's. Raises `InputError` for a data set without
    a list here.
    """
    if dataset == _IMAGENET:
        return _imagenet_classes()
    if dataset not in _FILES:
        known = [*_FILES, _IMAGENET]
        raise InputError(f"no class names for the data set {dataset!r}{did_you_mean(dataset, known)}")
    return tuple(json.loads((resources.files("uniformer") / "assets" / "labels" / _FILES[dataset]).read_text("utf-8")))


def kinetics400_permutation() -> list[int]:
    """`p[i]` is the alphabetical index (torchvision, OpenMMLab) of class i in the published order.

    `logits_alphabetical[:, p] = logits_published`. No class keeps its index.
    """
    names = load_classes("Kinetics-400")
    rank = {name: index for index, name in enumerate(sorted(names))}
    return [rank[name] for name in names]


def _imagenet_classes() -> tuple[str, ...]:
    """torchvision's list, from its one file: importing the package would take seconds."""
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        raise InputError("the class names of ImageNet-1K need the package torchvision, which is not installed")
    path = Path(package.submodule_search_locations[0]) / "models" / "_meta.py"
    spec = importlib.util.spec_from_file_location("torchvision_meta", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"expected the class names of ImageNet-1K in {path}, found no such file")
    meta = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(meta)
    names = getattr(meta, "_IMAGENET_CATEGORIES", ())
    if len(names) != 1000:
        raise InputError(f"expected 1000 class names in {path}, found {len(names)}")
    return tuple(names)

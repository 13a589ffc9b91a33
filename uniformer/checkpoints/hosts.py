"""What `config.json` of a folder says beside our contract, so that timm and transformers find the network by it.

    timm           architecture, pretrained_cfg    its own entry point reads the rest: `uniformer.timm`
    transformers   model_type

They are no part of the contract, of no digest, and left out when the folder is read.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from uniformer.checkpoints.contract import Contract
from uniformer.config import Config, InputSpec
from uniformer.network.description import classifier_names, pretrained_cfg
from uniformer.network.variants import default_input
from uniformer.support.files import write_whole
from uniformer.support.texts import NotJson, parse_json, read_whole

MODEL_TYPE = "uniformer"  #: in transformers; in timm the architecture of networks that are no variant by name
PROCESSOR_NAME = "preprocessor_config.json"  #: transformers asks this file who makes a network's input
OWN = frozenset({"uniformer", *(f.name for f in fields(Contract))})  #: the keys of a contract


def to_folder_json(contract: Contract) -> str:
    """The text of `config.json`."""
    return json.dumps(folder_fields(contract), indent=2, ensure_ascii=False) + "\n"


def folder_fields(contract: Contract) -> dict[str, Any]:
    """What `config.json` says: the contract, and what others look for."""
    return contract.to_dict() | _for_hosts(contract)


def read_folder_json(path: Path) -> Contract:
    """The contract in a file `config.json`. Raises `InputError` as `from_folder_json`."""
    return from_folder_json(read_whole(path, "a contract"), str(path))


def from_folder_json(text: bytes, where: str) -> Contract:
    """The contract in what `config.json` says: where it is for others too, without what is theirs alone.

    Raises `InputError` as `Contract.from_json`.
    """
    try:
        told = parse_json(text, where)
    except NotJson:
        return Contract.from_json(text, where)  # says so
    if isinstance(told, dict) and told.get("model_type") == MODEL_TYPE:
        told = {key: value for key, value in told.items() if key in OWN}
    return Contract.from_dict(told, where)


def _for_hosts(contract: Contract) -> dict[str, Any]:
    config, spec = contract.config, contract.input
    found: dict[str, Any] = {"model_type": MODEL_TYPE, "architecture": contract.arch or MODEL_TYPE}
    if config.task == "classification" and not config.is_video:
        input = spec if isinstance(spec, InputSpec) else default_input(config)
        found["pretrained_cfg"] = timm_cfg(config, input)
    return found


def timm_cfg(config: Config, input: InputSpec) -> dict[str, Any]:
    """timm's description of a network of images, in its own keys alone."""
    cfg = pretrained_cfg(config, input, classifier_names(config))
    del cfg["channels"]
    return cfg


def write_processor(folder: Path, *, is_video: bool) -> None:
    """`preprocessor_config.json`: a name. What the input is stands in the contract."""
    write_whole(folder / PROCESSOR_NAME, _processor(is_video))


def is_our_processor(text: bytes) -> bool:
    return text in (_processor(is_video=True), _processor(is_video=False))


def _processor(is_video: bool) -> bytes:
    kind = "Video" if is_video else "Image"
    return (json.dumps({f"{kind.lower()}_processor_type": f"UniFormer{kind}Processor"}, indent=2) + "\n").encode()

"""timm's door to the networks of images: importing this module registers them with timm.

    import timm, uniformer.timm
    model = timm.create_model("uniformer_small", pretrained=True, num_classes=10)
    maps = timm.create_model("uniformer_small", features_only=True, out_indices=(1, 3))
    mine = timm.create_model("local-dir:saved", pretrained=True)  # a folder written by `uniformer.save_checkpoint`

What timm gives is the `UniFormer` of `uniformer.create_model`, loaded by its rules: strictly, pickles as data.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from timm.models import generate_default_cfgs, register_model
from timm.models._builder import resolve_pretrained_cfg
from timm.models._hub import download_from_hf

from uniformer.checkpoints.fetch import REPO_FILES
from uniformer.checkpoints.files import CONFIG_NAME
from uniformer.checkpoints.hosts import MODEL_TYPE, read_folder_json, timm_cfg
from uniformer.checkpoints.identify import CheckpointSource
from uniformer.checkpoints.load import create_model
from uniformer.checkpoints.records import Checkpoint, get_checkpoint, list_checkpoints
from uniformer.config import Config, Input, InputSpec
from uniformer.errors import InputError
from uniformer.network.model import UniFormer
from uniformer.network.variants import VARIANTS

OURS = {"drop_rate": "dropout", "drop_path_rate": "drop_path"}  #: timm's option: our field of `Config`
WEIGHTS = ("state_dict", "file", "hf_hub_id", "url")  #: the fields that say where weights lie; timm asks in this order


class _Origin(NamedTuple):
    config: Config
    input: Input | None
    weights: CheckpointSource | None


def _address(record: Checkpoint) -> str:
    """Where people find the file. It is fetched by our own fetching, which knows more places and sums."""
    assert record.file is not None
    return f"https://drive.google.com/file/d/{record.file.drive_id}"


def _cfg(record: Checkpoint) -> dict[str, Any]:
    """timm's description of published weights."""
    assert isinstance(record.input, InputSpec)
    told = {"url": _address(record), "license": record.licence, "origin_url": "github.com/Sense-X/UniFormer"}
    return timm_cfg(record.config, record.input) | told


_PUBLISHED = {
    f"{record.arch}.{record.id.partition('.')[2]}": record
    for record in map(get_checkpoint, list_checkpoints(task="image classification"))
    if record.file is not None
}  #: by timm's names: architecture and tag
_BY_ADDRESS: dict[object, Checkpoint] = {_address(record): record for record in _PUBLISHED.values()}
default_cfgs = generate_default_cfgs({name: _cfg(record) for name, record in _PUBLISHED.items()})  # timm looks here


def _build(
    arch: str,
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    pretrained_model_args: object = None,  # timm hands on what its own folders record; ours have nothing there
    global_pool: str = "avg",
    **options: Any,
) -> UniFormer:
    """What `timm.create_model` calls. `options`: timm's drop_rate and drop_path_rate, and those of `create_model`.

    Raises `InputError` for an option that nobody knows, and for what does not fit.
    """
    if global_pool != "avg":
        raise InputError(f"expected global_pool 'avg' (the mean of all positions), got {global_pool!r}")
    if unknown := sorted(set(pretrained_cfg_overlay or ()) - set(WEIGHTS)):
        raise InputError(f"expected of pretrained_cfg_overlay where weights lie ({', '.join(WEIGHTS)}), got {unknown}")
    folder = _folder(pretrained_cfg, cache_dir)
    if folder is None:
        found = _registered(arch, pretrained_cfg, pretrained_cfg_overlay)
    elif pretrained_cfg_overlay:
        raise InputError(f"expected no pretrained_cfg_overlay for {folder}: its weights lie beside its description")
    else:
        found = _saved(folder)
    if pretrained and found.weights is None:
        raise InputError(
            f"expected to be told where the weights of {arch} lie ({', '.join(WEIGHTS)}), got no such place"
        )
    if pretrained and folder is None and cache_dir is not None:
        raise InputError(f"expected no cache_dir for {arch}: published weights are kept where HF_HOME says")
    ours = {OURS.get(name, name): value for name, value in options.items()}
    model = create_model(found.config, checkpoint=found.weights if pretrained else None, **ours)
    if model.input_spec is None and isinstance(found.input, InputSpec):
        model.input_spec = found.input
    if model.input_spec is not None and model.input_spec.channels != "rgb":
        warnings.warn(f"{arch} is fed blue, green, red; timm's transforms give red, green, blue", stacklevel=4)
    return model


def _folder(cfg: Any, cache_dir: str | Path | None) -> Path | None:
    """The folder that `local-dir:` or `hf-hub:` named."""
    source = cfg.get("source") if isinstance(cfg, Mapping) else None
    if source == "local-dir":
        return Path(cfg["file"])
    if source == "hf-hub":
        fetched = [download_from_hf(cfg["hf_hub_id"], name, cache_dir=cache_dir) for name in REPO_FILES]
        return Path(fetched[0]).parent
    return None


def _saved(folder: Path) -> _Origin:
    contract = read_folder_json(folder / CONFIG_NAME)
    if contract.config.task != "classification" or contract.config.is_video:
        raise InputError(
            f"{folder}: expected a classifier of images for timm, found a network for {contract.task}"
            f"{' of clips' * contract.config.is_video}"
        )
    return _Origin(contract.config, contract.input, folder)


def _registered(arch: str, cfg: Any, overlay: Mapping[str, Any] | None) -> _Origin:
    if arch == MODEL_TYPE:
        raise InputError(f"expected a folder that says what network it is of (local-dir:, hf-hub:), got {arch!r} alone")
    found = resolve_pretrained_cfg(arch, cfg, dict(overlay or {}))
    weights = next((value for name in WEIGHTS if (value := getattr(found, name))), None)
    record = _BY_ADDRESS.get(found.url)
    if record is not None and weights == found.url:
        weights = record.id
    return _Origin(VARIANTS[arch], None if record is None else record.input, weights)


def _register(arch: str) -> None:
    def build(pretrained: bool = False, **options: Any) -> UniFormer:
        return _build(arch, pretrained, **options)

    build.__name__ = arch
    entry: Callable[..., UniFormer] = build
    register_model(entry)


for _arch in (
    *(name for name, config in VARIANTS.items() if not config.is_video and config.output == "logits"),
    MODEL_TYPE,
):
    _register(_arch)

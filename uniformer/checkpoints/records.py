"""The published models: `VARIANTS` (name -> `Config`) and checkpoint records (id -> `Checkpoint`). No torch here.

The table of architectures is code, because it is written as differences; the records are data, `checkpoints.toml`,
read when first asked for. Both follow the authors' tables (github.com/Sense-X/UniFormer) and code. Checkpoints of our
own lie in the package, `weights/`: each file tells its own record.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from uniformer.config import Config, InputSpec, did_you_mean, with_options
from uniformer.errors import InputError

# ---- architectures ---------------------------------------------------------------------------------------------------

SMALL = Config()
SMALL_PLUS = replace(SMALL, depths=(3, 5, 9, 3), head_dim=32, overlap=4)  # printed as S with a dagger
BASE = replace(SMALL, depths=(5, 8, 20, 7))
LARGE = replace(SMALL, depths=(5, 10, 24, 7), dims=(128, 192, 448, 640))
XXS = replace(
    SMALL, depths=(2, 5, 8, 2), dims=(56, 112, 224, 448), head_dim=28, mlp_ratio=3.0, overlap=1, keep_ratio=0.5
)
XS = replace(XXS, depths=(3, 5, 9, 3), dims=(64, 128, 256, 512), head_dim=32)
NANO = replace(SMALL, depths=(1, 2, 4, 2), dims=(24, 48, 96, 192), head_dim=32, overlap=1)  # ours, never published


def _video(image: Config) -> Config:
    return replace(image, ndim=3, num_classes=400)


def _token_labeling(plain: Config, head_dim: int = 32) -> Config:
    # The token labeling runs call 32 the usual head_dim; the same names mean 64 in the plain image models.
    return replace(plain, token_labeling=True, head_dim=head_dim)


def _backbone(image: Config) -> Config:
    return replace(image, num_classes=0, output="normed_maps")


def _hybrid14(backbone: Config) -> Config:
    return replace(backbone, window=14, global_every=4)


#: Every architecture with published weights, and our own nano. `drop_path` is 0: it belongs to a training recipe, not
#: to the network.
VARIANTS: Mapping[str, Config] = MappingProxyType(
    {
        # images
        "uniformer_small": SMALL,
        "uniformer_small_plus": SMALL_PLUS,
        "uniformer_small_plus_dim64": replace(SMALL_PLUS, head_dim=64),
        "uniformer_base": BASE,
        "uniformer_base_ls": replace(BASE, layer_scale=1e-6, layer_scale_stages=(3, 4)),
        "uniformer_small_tl": _token_labeling(SMALL),
        "uniformer_small_plus_tl": _token_labeling(SMALL_PLUS),
        "uniformer_base_tl": _token_labeling(BASE),
        "uniformer_small_dim64_tl": _token_labeling(SMALL, head_dim=64),
        "uniformer_small_plus_dim64_tl": _token_labeling(SMALL_PLUS, head_dim=64),
        "uniformer_base_dim64_tl": _token_labeling(BASE, head_dim=64),
        "uniformer_large_ls_tl": replace(_token_labeling(LARGE, head_dim=64), layer_scale=1e-6),  # all four stages
        "uniformer_xxs": XXS,
        "uniformer_xs": XS,
        # video
        "uniformer_small_video": _video(SMALL),
        "uniformer_base_video": _video(BASE),
        "uniformer_xxs_video": _video(XXS),
        "uniformer_xxs_ls_video": replace(_video(XXS), layer_scale=0.1),  # all four stages
        "uniformer_xs_video": _video(XS),
        "uniformer_nano_video": _video(NANO),
        # dense prediction: four layer-normed maps, no classifier
        "uniformer_small_backbone": _backbone(SMALL),
        "uniformer_small_backbone_h14": _hybrid14(_backbone(SMALL)),
        "uniformer_base_backbone": _backbone(BASE),
        "uniformer_base_backbone_h14": _hybrid14(_backbone(BASE)),
        "uniformer_xxs_backbone": _backbone(XXS),
        "uniformer_xs_backbone": _backbone(XS),
    }
)


def list_models(pattern: str = "*") -> list[str]:
    """Names of architectures that match a shell pattern, in the order of `VARIANTS`."""
    return [name for name in VARIANTS if fnmatchcase(name, pattern)]


def get_config(name: str) -> Config:
    """The architecture of this name. Raises `InputError` with the nearest names when there is none."""
    if name not in VARIANTS:
        raise InputError(f"unknown model {name!r}{did_you_mean(name, VARIANTS)}")
    return VARIANTS[name]


def default_input(config: Config, size: int | None = None) -> InputSpec:
    """What the published runs of this kind of network were fed; `size` is the crop in pixels.

    Clips: 16 frames, stride 4, four clips of one centre crop, as for Kinetics; light (hourglass) models: 16 frames
    spread over the whole video, one view, 160 pixels. Images: one centre crop. Records state what differs.
    """
    if config.is_video:
        size = size or (160 if config.is_hourglass else 224)
        clip = InputSpec(
            size=(size, size),
            resize=size,  # the reference's test loader scales the short side to the crop itself
            interpolation="bilinear",
            mean=(0.45, 0.45, 0.45),
            std=(0.225, 0.225, 0.225),
            frames=16,
            sampling="sparse",
            # The reference follows strides at each file's own rate; 30 is what Kinetics usually has
            fps=30.0,
        )
        return clip if config.is_hourglass else replace(clip, sampling="dense", stride=4, clips=4)
    size = size or 224
    # floor(size / 0.9) is timm's crop share of the token labeling runs, int(256 / 224 * size) that of all others.
    resize = math.floor(size / 0.9) if config.token_labeling else int(256 / 224 * size)
    return InputSpec(size=(size, size), resize=resize, interpolation="bicubic")


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedFile:
    """Where the weights of a checkpoint lie: the authors' Google Drive, for some also the Hugging Face hub."""

    name: str
    name_source: str  #: who names it: 'pattern' (guessed from its siblings) and 'third party' are not to be relied on
    drive_id: str  #: Google Drive file id
    hub_repo: str | None = None  #: Hugging Face repository with a file of this name
    hub_verified: bool = False  #: whether the authors' own pages or demos name that file
    md5: str | None = None
    md5_verified: bool = False  #: every md5 known today is copied from a third-party index and was checked by nobody
    wrapper: str | None = None  #: dictionary key the weights sit under as reported; '' is none, None unknown
    converted_url: str | None = None  #: OpenMMLab's conversion. Video: its classes are in alphabetical order

    @property
    def name_verified(self) -> bool:
        return self.name_source not in ("pattern", "third party")


@dataclass(frozen=True)
class Checkpoint:
    """One row of the authors' result tables: what was trained, how it is tested, what it scored, where it lies."""

    id: str
    arch: str  #: name in `VARIANTS`
    task: str
    dataset: str
    num_classes: int  #: of the classifier or, for dense tasks, of the head behind the backbone
    input: InputSpec | None  #: None for dense tasks, whose inputs vary in size: see `input_note`
    scores: Mapping[str, float] = field(hash=False)  #: per cent, as printed
    file: PublishedFile | None  #: None where a score was published but no weights
    recipe: str  #: the reference's experiment folder
    licence: str
    init: str | None = None  #: id of the checkpoint whose weights it started from; None is from scratch
    params: int | None = None  #: exact, with classifiers; not counted for dense models with their heads
    params_m: float | None = None  #: millions, as printed
    macs_g: float | None = None  #: 1e9 multiply-adds of convolutions and matrix products, one view; counted by us
    gflops: float | None = None  #: as printed; the authors count one multiply-add as one
    gflops_cover: Literal["one view", "all views"] = "one view"  #: what `gflops` adds up
    gflops_at: str = ""  #: input size of `gflops` where it is not that of `input`
    log_id: str | None = None  #: Google Drive id of the training log
    input_note: str = ""
    notes: tuple[str, ...] = ()
    path: str | None = None  #: of the file, where it lies in the package: trained by us, published by nobody

    @property
    def released(self) -> bool:
        """Whether weights were published."""
        return self.file is not None

    @property
    def config(self) -> Config:
        """The network of this checkpoint; of a dense model, its backbone."""
        config = get_config(self.arch)
        return config if config.output != "logits" else replace(config, num_classes=self.num_classes)


def list_checkpoints(
    pattern: str = "*",
    *,
    task: str | None = None,
    dataset: str | None = None,
    arch: str | None = None,
    in_package: bool = False,
) -> list[str]:
    """Ids that match a shell pattern and have these exact values. Raises `InputError` for a value no record has.

    They are those of the published checkpoints; with `in_package` also those that come with this package.
    """
    wanted = {
        name: value for name, value in (("task", task), ("dataset", dataset), ("arch", arch)) if value is not None
    }
    records = {**_records(), **(_in_package() if in_package else {})}
    for name, value in wanted.items():
        known = dict.fromkeys(getattr(record, name) for record in records.values())
        if value not in known:
            raise InputError(f"no checkpoint has {name} {value!r}{did_you_mean(value, known)}")
    return [
        id
        for id, record in records.items()
        if fnmatchcase(id, pattern) and all(getattr(record, name) == value for name, value in wanted.items())
    ]


def get_checkpoint(id: str) -> Checkpoint:
    """The record of this id. Raises `InputError` with the nearest ids when there is none."""
    records = {**_records(), **_in_package()}
    if id not in records:
        raise InputError(f"unknown checkpoint {id!r}{did_you_mean(id, records)}")
    return records[id]


_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norms: tensors, but no parameters


@cache
def _records() -> Mapping[str, Checkpoint]:
    table = tomllib.loads(files("uniformer").joinpath("assets", "checkpoints.toml").read_text(encoding="utf-8"))
    return MappingProxyType({id: _record(id, row, table) for id, row in _rows(table)})


@cache
def _in_package() -> Mapping[str, Checkpoint]:
    folder = Path(str(files("uniformer"))) / "assets" / "weights"
    return MappingProxyType({path.stem: _record_of_file(path) for path in sorted(folder.glob("*.safetensors"))})


def _record_of_file(path: Path) -> Checkpoint:
    """What a file in our own form says of itself; its name, less the ending, is the id."""
    with open(path, "rb") as file:  # a safetensors file begins with its table as JSON; reading it so imports nothing
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    contract = json.loads(header.pop("__metadata__")["uniformer"])
    sizes = {key: math.prod(tensor["shape"]) for key, tensor in header.items()}
    return Checkpoint(
        id=path.stem,
        arch=contract["arch"],
        task="video classification" if contract["config"]["ndim"] == 3 else "image classification",
        dataset=contract["dataset"],
        num_classes=contract["config"]["num_classes"],
        input=InputSpec(**contract["input"]),
        scores=contract["scores"],
        file=None,
        recipe="",
        licence=contract["licence"],
        params=sum(size for key, size in sizes.items() if not key.endswith(_BUFFERS)),
        notes=tuple(contract["notes"]),
        path=str(path),
    )


def _rows(table: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every checkpoint of the file: its own values over those of its group."""
    for group in table["group"]:
        shared = {key: value for key, value in group.items() if key not in ("results", "files", "notes", "note")}
        for id, result in group["results"].items():
            row = {**shared, **result}
            if "input" in shared or "input" in result:
                row["input"] = {**shared.get("input", {}), **result.get("input", {})}
            row["file"] = {**shared["file"], **group["files"][id]} if "file" in shared else dict(group["files"][id])
            notes = (group.get("note"), group.get("notes", {}).get(id))
            yield id, {**row, "notes": tuple(note for note in notes if note)}


def _record(id: str, row: dict[str, Any], table: Mapping[str, Any]) -> Checkpoint:
    arch, file, spec = row["arch"], row.pop("file"), None
    if "input" in row:
        options = dict(row.pop("input"))
        if options.get("sampling") == "sparse":  # TOML has no null to undo the default stride with
            options["stride"] = None
        spec = with_options(default_input(get_config(arch), options.pop("size")), options)
        row["macs_g"] = table["macs_g"][arch][f"{spec.frames}x{spec.size[0]}"]
        row["params"] = table["params"][arch][str(row["num_classes"])]
    row["log_id"] = file.pop("log_id", None)
    converted_url = table["converted"].get(id)
    published = PublishedFile(**file, converted_url=converted_url) if "drive_id" in file else None
    return Checkpoint(id=id, licence=table["licence"], input=spec, file=published, **row)

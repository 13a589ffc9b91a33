"""Reading any file there is, strictly and without running it; writing ours; proving files intact."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.hub_server import serve
from tests.patience import PATIENCE
from tests.tiny import CLIPS, IMAGES, refused, same, save_tiny, tiny_model
from tests.tolerance import assert_close, off, terms_of
from uniformer.checkpoints.keys import to_reference
from uniformer.checkpoints.load import load_checkpoint
from uniformer.labels import load_classes
from uniformer.network.model import UniFormer

State = dict[str, Tensor]


def reference(model: UniFormer) -> State:
    return to_reference(model.state_dict())


def saved(path: Path, obj: Any, legacy: bool = False) -> Path:
    torch.save(obj, path, _use_new_zipfile_serialization=not legacy)
    return path


def accounted(report: Any, model: UniFormer, file: State) -> None:
    """Every tensor of the model and of the file (ours or the reference's keys) is somewhere in the report, once."""
    assert sorted(report.loaded + report.inflated + report.new) == sorted(model.state_dict())
    of_file = report.loaded + report.inflated + report.ignored + [k for k in report.new if k in file]
    assert sorted(of_file) == sorted(file)


# ---- forms of files --------------------------------------------------------------------------------------------------

BESIDE = {"epoch": 299, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "lr": 1e-3}, "scaler": {"scale": 2.0}}
WRAPPED: dict[str, Callable[[State], Any]] = {
    "flat": lambda s: s,
    "model": lambda s: {"model": s, **BESIDE, "args": argparse.Namespace(lr=1e-3, model="small", sizes=[1, 2])},
    "state_dict": lambda s: {"state_dict": s, "arch": "uniformer_small", "metric": 83.4},
    "model_state": lambda s: {"epoch": 110, "model_state": s, "optimizer_state": {}, "cfg": "NUM_GPUS: 8"},
    "state_dict_ema": lambda s: {"state_dict_ema": s},
    "numpy": lambda s: {
        "model": s,
        "best": np.float64(82.9),
        "epoch": np.int64(7),
        "off": np.float32(0),
        "ok": np.True_,
    },
    "module.": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", WRAPPED)
def test_reference_file(form: str, legacy: bool, tmp_path: Path) -> None:
    source, model = tiny_model(), tiny_model(1)
    report = load_checkpoint(model, saved(tmp_path / "a.pth", WRAPPED[form](reference(source)), legacy))
    assert same(model.state_dict(), source.state_dict())
    assert report.loaded == list(source.state_dict())
    accounted(report, model, source.state_dict())


@pytest.mark.parametrize("form", ["flat", "model", "module."])
def test_state_dict_in_memory_is_unwrapped_too(form: str) -> None:
    source, model = tiny_model(), tiny_model(1)
    load_checkpoint(model, WRAPPED[form](reference(source)))
    assert same(model.state_dict(), source.state_dict())


@pytest.mark.parametrize(("plain", "averaged"), [("model", "model_ema"), ("state_dict", "state_dict_ema")])
def test_averaged(plain: str, averaged: str, tmp_path: Path) -> None:
    one, two = tiny_model(1), tiny_model(2)
    path = saved(tmp_path / "a.pth", {plain: reference(one), averaged: reference(two)})
    model = tiny_model()
    report = load_checkpoint(model, path)
    assert same(model.state_dict(), one.state_dict())
    assert f"took {plain!r}; averaged weights ({averaged!r}) are in the file too" in report.notes
    load_checkpoint(model, path, averaged=True)
    assert same(model.state_dict(), two.state_dict())


@pytest.mark.parametrize("form", ["flat", "model", "model_state", "safetensors", "state dict"])
def test_averaged_is_refused_where_there_is_none(form: str, tmp_path: Path) -> None:
    if form == "safetensors":
        source: Any = save_tiny(tmp_path / "a.safetensors", IMAGES)
    elif form == "state dict":
        source = tiny_model().state_dict()
    else:
        source = saved(tmp_path / "a.pth", WRAPPED[form](reference(tiny_model())))
    with refused("has no averaged weights"):
        load_checkpoint(tiny_model(), source, averaged=True)


def openmmlab(model: UniFormer, rows: list[int] | None = None) -> State:
    """A conversion as OpenMMLab makes it; `rows` are the classifier's in its new order."""
    theirs = {}
    for key, value in reference(model).items():
        is_head = key.startswith("head.")
        name = f"cls_head.fc_cls.{key[5:]}" if is_head else f"backbone.{key}"
        theirs[name] = value[rows] if is_head and rows else value
    return theirs


def test_mmaction2_conversion_gets_the_published_class_order_back(tmp_path: Path) -> None:
    names = load_classes("Kinetics-400")
    source, model = tiny_model(ndim=3, num_classes=400), tiny_model(1, ndim=3, num_classes=400)
    rows = sorted(range(400), key=names.__getitem__)  # alphabetical
    assert (names[rows[0]], names[rows[-1]]) == ("abseiling", "zumba")
    path = saved(tmp_path / "a.pth", {"state_dict": openmmlab(source, rows), "meta": {"dataset": "k400"}})
    report = load_checkpoint(model, path)
    assert same(model.state_dict(), source.state_dict())
    assert any("published class order" in note for note in report.notes)


def test_mmaction2_conversion_with_other_classes_is_left_alone(tmp_path: Path) -> None:
    source, model = tiny_model(ndim=3), tiny_model(1, ndim=3)
    load_checkpoint(model, saved(tmp_path / "a.pth", {"state_dict": openmmlab(source)}))
    assert same(model.state_dict(), source.state_dict())


def test_detector_file_into_a_backbone(tmp_path: Path) -> None:
    options = {"output": "normed_maps", "num_classes": 0}
    source, model = tiny_model(**options), tiny_model(1, **options)
    others = {"neck.lateral_convs.0.conv.weight": torch.ones(2), "rpn_head.rpn_cls.bias": torch.ones(3)}
    path = saved(tmp_path / "a.pth", {"meta": {}, "state_dict": openmmlab(source) | others})
    report = load_checkpoint(model, path)
    assert same(model.state_dict(), source.state_dict())
    assert report.ignored == list(others)
    assert "2 ignored" in str(report)
    assert "rpn_head.rpn_cls.bias" in str(report)


def test_imagenet_file_into_a_backbone(tmp_path: Path) -> None:
    source, model = tiny_model(), tiny_model(1, output="normed_maps", num_classes=0)
    path = saved(tmp_path / "a.pth", {"model": reference(source)})
    with refused("lacks 8 tensors of the model: stages.0.norm.weight"):
        load_checkpoint(model, path)
    report = load_checkpoint(model, path, allow_new=("stages.*.norm.*",))
    assert len(report.new) == 8
    assert {key.split(".")[0] for key in report.ignored} == {"norm", "head"}
    accounted(report, model, source.state_dict())


def test_our_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "a.safetensors", tmp_path / "folder"):
        model = tiny_model(1, ndim=3)
        report = load_checkpoint(model, save_tiny(path, CLIPS))
        assert same(model.state_dict(), tiny_model(ndim=3).state_dict())
        assert report.notes == ["head_dim 16 from the file's contract"]
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == names


def test_hub_repository(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "folder", CLIPS)
    files = {f"someone/tiny/{p.name}": p.read_bytes() for p in folder.iterdir()}
    code = "import uniformer as u; _, c, r = u.load_model('someone/tiny'); print(len(r.loaded), c.id, c.classes[6])"
    with serve(files) as hub:
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "no_proxy": "*"}
        environment |= {"HF_HUB_ETAG_TIMEOUT": str(PATIENCE), "HF_HUB_DOWNLOAD_TIMEOUT": str(PATIENCE)}
        environment.pop("HF_HUB_OFFLINE", None)
        child = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True)
    assert child.stdout.strip() == f"{len(tiny_model(ndim=3).state_dict())} tiny.test class of number 6", child.stderr


# ---- departures that must be asked for -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"overlap": 4}, {"layer_scale": 0.5}, {"token_labeling": True}], ids=str)
def test_center_inflation_gives_a_still_clip_the_image_logits(options: dict[str, Any]) -> None:
    image, video = tiny_model(**options).double(), tiny_model(1, ndim=3, **options).double()
    report = load_checkpoint(video, reference(image), inflate="center")
    accounted(report, video, image.state_dict())
    assert all(image.state_dict()[key].ndim == 4 for key in report.inflated)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert_close(video(x[:, :, None].expand(-1, -1, 6, -1, -1)), image(x), terms_of(video))


def test_center_inflation_is_not_exact_for_light_models() -> None:
    """Class and summary token stay one each while every other token comes once per frame, so they weigh less."""
    options = {"keep_ratio": 0.5, "overlap": 1}
    image, video = tiny_model(**options).double(), tiny_model(1, ndim=3, **options).double()
    load_checkpoint(video, reference(image), inflate="center")
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        still, one, many = image(x), *(video(x[:, :, None].expand(-1, -1, t, -1, -1)) for t in (1, 8))
    assert_close(one, still, terms_of(video))  # one frame on the grid: as many tokens as in the image
    assert off(many, still) > 1e-6


def test_mean_inflation_spreads_kernels_evenly() -> None:
    image, video = tiny_model(), tiny_model(1, ndim=3)
    report = load_checkpoint(video, reference(image), inflate="mean")
    for key in report.inflated:
        flat, deep = image.state_dict()[key], video.state_dict()[key]
        torch.testing.assert_close(deep.sum(dim=2), flat)
        assert (deep == deep[:, :, :1]).all()


def test_unknown_inflation_is_refused_even_where_nothing_needs_it() -> None:
    with refused("expected inflate 'center' or 'mean', got 'centre'"):
        load_checkpoint(tiny_model(), tiny_model().state_dict(), inflate="centre")  # type: ignore[arg-type]


def test_new_classifier_only_when_asked() -> None:
    state, model = tiny_model(num_classes=9).state_dict(), tiny_model(1)
    before = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("head.")}
    with refused("has 9 classes, the model 7: begin a new classifier with new_classifier=True"):
        load_checkpoint(model, state)
    report = load_checkpoint(model, state, new_classifier=True)
    assert report.new == ["head.weight", "head.bias"]
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    accounted(report, model, state)


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("channels", [1, 4, 6, 9])
def test_stem_adapts_to_other_channels(channels: int, overlap: int) -> None:
    state = tiny_model(overlap=overlap).state_dict()
    model = tiny_model(1, in_chans=channels, overlap=overlap)
    with refused(f"takes 3 input channels, the model {channels}: adapt_stem=True adapts the stem"):
        load_checkpoint(model, state)
    report = load_checkpoint(model, state, adapt_stem=True)
    key = "stages.0.embed.conv1.weight" if overlap else "stages.0.embed.proj.weight"
    assert report.inflated == [key]
    kernel, old = model.state_dict()[key], state[key]
    if channels == 4:
        torch.testing.assert_close(kernel, old[:, [0, 1, 2, 0]] * 3 / 4)
    else:  # grey input gives what it gave before
        torch.testing.assert_close(kernel.sum(dim=1), old.sum(dim=1))


def test_adapted_stem_and_inflation_go_together() -> None:
    report = load_checkpoint(tiny_model(ndim=3, in_chans=6), tiny_model().state_dict(), inflate="mean", adapt_stem=True)
    assert "stages.0.embed.proj.weight" in report.inflated


def without(state: State, *keys: str) -> State:
    return {k: v for k, v in state.items() if not k.startswith(keys)}


BAD_STATES: dict[str, tuple[dict[str, Any], Callable[[], Any], str]] = {
    "missing": ({}, lambda: without(tiny_model().state_dict(), "norm."), "lacks 5 tensors of the model: norm.weight"),
    "a whole stage missing": ({}, lambda: without(tiny_model().state_dict(), "stages.2."), "lacks|not of a whole"),
    "unexpected": ({}, lambda: tiny_model(depths=(1, 1, 1, 2)).state_dict(), "that the model has not: stages.3"),
    "unknown": ({}, lambda: tiny_model().state_dict() | {"stages.0.magic": torch.ones(1)}, "UniFormer has: stages.0"),
    "wrong shape": ({"dims": (16, 48, 64, 64)}, lambda: tiny_model().state_dict(), "has shape .* the model expects"),
    "token labeling": ({}, lambda: tiny_model(token_labeling=True).state_dict(), "has not: aux_head.weight, aux_head"),
    "2D into 3D": ({"ndim": 3}, lambda: tiny_model().state_dict(), "is a 2D .* inflate it with inflate='center' or"),
    "3D into 2D": ({}, lambda: tiny_model(ndim=3).state_dict(), r"shape \(16, 3, 3, 4, 4\) .* expects \(16, 3, 4, 4\)"),
    "classes": ({"num_classes": 5}, lambda: tiny_model().state_dict(), "has 7 classes, the model 5"),
    "another network": ({}, lambda: {"conv1.weight": torch.ones(1), "fc.bias": torch.ones(1)}, "is not of a UniFormer"),
    "no tensors": ({}, lambda: {"model": 3, "epoch": 4}, "holds no tensors: expected some, or one of model, "),
    "a list": ({}, lambda: {"model": [torch.ones(1)]}, "holds no tensors"),
    "numbers for names": ({}, lambda: {0: torch.ones(1)}, "holds no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_STATES)
@pytest.mark.parametrize("from_file", [False, True], ids=["memory", "file"])
def test_what_does_not_fit_is_refused_and_leaves_the_model_alone(case: str, from_file: bool, tmp_path: Path) -> None:
    options, state, pattern = BAD_STATES[case]
    model = tiny_model(**options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with refused(pattern):
        load_checkpoint(model, saved(tmp_path / "a.pth", state()) if from_file else state())
    assert same(model.state_dict(), before)


def test_allow_ignored_and_the_report_in_words() -> None:
    state = tiny_model(token_labeling=True).state_dict()
    model = tiny_model(1)
    report = load_checkpoint(model, state, allow_ignored=("aux_head.*",))
    accounted(report, model, state)
    first, second, *_ = str(report).splitlines()
    assert first == f"the state dict: {len(model.state_dict())} tensors loaded, 0 inflated, 0 new, 2 ignored"
    assert second == "  ignored: aux_head.weight, aux_head.bias"


# ---- hostile and broken files ----------------------------------------------------------------------------------------


class Runs:
    """Unpickled without care, it leaves a file behind."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_that_would_run_code_is_refused(form: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "a.pth", tmp_path / "ran"
    payload = {"model": reference(tiny_model()), "args": Runs(f"touch {trace}")}
    if form == "pickle":
        path.write_bytes(pickle.dumps(payload["args"], protocol=2))
    else:
        saved(path, payload, legacy=form == "legacy")
    with refused("refused .*a.pth: beside tensors it holds posix.system"):
        load_checkpoint(tiny_model(), path)
    assert not trace.exists()


def test_a_pickled_object_is_refused_by_name(tmp_path: Path) -> None:
    with refused("it holds torch.nn.modules.linear.Linear"):
        load_checkpoint(tiny_model(), saved(tmp_path / "a.pth", torch.nn.Linear(2, 2)))


def zip_bytes(legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(reference(tiny_model()), stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def cut_safetensors() -> bytes:
    from safetensors.torch import save

    return save(tiny_model().state_dict())[:20000]


PAGE = b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head></html>"
BROKEN: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("a.pth", lambda: b"", "found an empty file"),
    "text": ("a.pth", lambda: b"hello, this is text\n" * 50, "is no checkpoint, or a damaged one"),
    "page": ("a.pth", lambda: b"\n" + PAGE * 9, "found a web page: the download did not give the file"),
    "cut zip": ("a.pth", lambda: zip_bytes()[:20000], "is no checkpoint, or a damaged one"),
    "cut legacy": ("a.pth", lambda: zip_bytes(True)[:20000], "is no checkpoint, or a damaged one"),
    "cut legacy header": ("a.pth", lambda: zip_bytes(True)[:300], "is no checkpoint, or a damaged one"),
    "text as safetensors": ("a.safetensors", lambda: b"{}" * 99, "is no checkpoint, or a damaged one"),
    "cut safetensors": ("a.safetensors", cut_safetensors, "cannot read .*a.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused(case: str, tmp_path: Path) -> None:
    name, data, pattern = BROKEN[case]
    (tmp_path / name).write_bytes(data())
    with refused(pattern):
        load_checkpoint(tiny_model(), tmp_path / name)

"""Checkpoints as the trainers that people use write them: what is around a network is taken off, and said."""

from __future__ import annotations

import json
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import uniformer
from tests.test_checkpoint import openmmlab, reference, saved
from tests.tiny import CLIPS, IMAGES, TINY, refused, same, save_tiny, tiny_model
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import LoadReport, create_model, load_checkpoint, load_model
from uniformer.checkpoints.save import convert, save_checkpoint
from uniformer.config import Config, to_dict
from uniformer.labels import load_classes
from uniformer.network import variants
from uniformer.network.model import UniFormer

State = dict[str, Tensor]


def loaded(path: Path, **options: Any) -> LoadReport:
    """Of a file with the tiny model's weights, which must arrive as they are, by both ways."""
    model, _, report = load_model(path, head_dim=16, **options)
    assert same(model.state_dict(), tiny_model().state_dict())
    other = tiny_model(1)
    into = load_checkpoint(other, path, **options)
    assert same(other.state_dict(), tiny_model().state_dict())
    assert (into.loaded, into.ignored) == (report.loaded, report.ignored)
    return report


# ---- wrappers and prefixes -------------------------------------------------------------------------------------------


def prefixed(prefix: str, state: State | None = None) -> State:
    return {prefix + key: value for key, value in (state or reference(tiny_model())).items()}


PLAIN = prefixed("")
ONE = {"w": torch.ones(3)}
FORMS: dict[str, tuple[Any, str, list[str]]] = {  # the file, what the report says was taken off, what it ignores
    "compiled": (prefixed("_orig_mod."), "_orig_mod.", []),
    "compiled under DDP": (prefixed("module._orig_mod."), "module._orig_mod.", []),
    "DDP under compile": (prefixed("_orig_mod.module."), "_orig_mod.module.", []),
    "Lightning": ({"state_dict": prefixed("model."), "epoch": 1}, "state_dict.model.", []),
    "Lightning, net": ({"state_dict": prefixed("net."), "loops": {}}, "state_dict.net.", []),
    "Lightning with a loss": (
        {"state_dict": {**prefixed("model."), "criterion.weight": torch.ones(7)}},
        "state_dict.model.", ["criterion.weight"],
    ),
    "encoder": (prefixed("encoder."), "encoder.", []),
    "a name of one's own": (prefixed("video_branch.trunk."), "video_branch.trunk.", []),
    "DeepSpeed": ({"module": PLAIN, "ds_version": "0.14", "ds_config": {}}, "module", []),
    "tutorials": ({"model_state_dict": PLAIN, "optimizer_state_dict": {"state": {0: ONE}}}, "model_state_dict", []),
    "net": ({"net": PLAIN, "acc": 93.1}, "net", []),
    "weights": ({"weights": PLAIN}, "weights", []),
    "params": ({"params": PLAIN}, "params", []),
    "nested": ({"model": {"state_dict": PLAIN, "epoch": 3}}, "model.state_dict", []),
    "nested twice": ({"checkpoint": {"model": {"params": prefixed("module.")}}}, "checkpoint.model.params.module.", []),
    "averaged by torch": ({**prefixed("module."), "n_averaged": torch.tensor(3)}, "module.", ["n_averaged"]),
    "counted by thop": (
        {**PLAIN, "total_ops": torch.zeros(1), "blocks1.0.conv1.total_params": torch.zeros(1)},
        "", ["total_ops", "blocks1.0.conv1.total_params"],
    ),
    "a number among the tensors": ({**PLAIN, "epoch": 3, "name": "x"}, "", []),
    "ours, compiled": (prefixed("_orig_mod.", tiny_model().state_dict()), "_orig_mod.", []),
    "ours, in Lightning": ({"state_dict": prefixed("net.", tiny_model().state_dict())}, "state_dict.net.", []),
    "a second network": ({"model": PLAIN, "regressor": ONE}, "model", ["regressor.w"]),
    "a second network inside": ({"model": PLAIN, "heads": {"a": ONE}}, "model", ["heads.a.w"]),
    "another UniFormer": ({"model": PLAIN, "best": {"head.weight": torch.ones(1)}}, "model", ["best.head.weight"]),
    "a tensor beside": ({"model": PLAIN, "temperature": torch.ones(1)}, "model", ["temperature"]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_is_around_a_network_is_taken_off_and_said(form: str, tmp_path: Path) -> None:
    obj, taken_off, ignored = FORMS[form]
    report = loaded(saved(tmp_path / "a.pth", obj))
    assert report.ignored == ignored
    assert [note for note in report.notes if "unwrapped" in note] == [f"unwrapped from {taken_off!r}"] * bool(taken_off)
    model = tiny_model(1)
    assert load_checkpoint(model, obj).ignored == ignored  # in memory
    assert same(model.state_dict(), tiny_model().state_dict())


def test_a_clear_choice_among_networks(tmp_path: Path) -> None:
    other = reference(tiny_model(5))
    report = loaded(saved(tmp_path / "a.pth", {"best_so_far": other, "model": PLAIN}))
    assert len(report.ignored) == len(other)
    assert report.ignored[0].startswith("best_so_far.")
    report = loaded(saved(tmp_path / "b.pth", {"state_dict": {**prefixed("net."), **prefixed("net_ema.", other)}}))
    assert "took 'state_dict.net.'; averaged weights ('state_dict.net_ema.') are in the file too" in report.notes
    model = tiny_model(1)
    load_checkpoint(model, tmp_path / "b.pth", averaged=True)
    assert same(model.state_dict(), tiny_model(5).state_dict())


def test_networks_among_which_nothing_chooses_are_refused(tmp_path: Path) -> None:
    pair = {"student": PLAIN, "teacher": dict(PLAIN)}
    for obj in (
        pair,
        {**prefixed("student."), **prefixed("teacher.")},
        {"state_dict": {**prefixed("q."), **prefixed("k.")}},
    ):
        with refused("a.pth holds 2 UniFormers, '.*(student|q).*', '.*(teacher|k).*': expected one"):
            load_checkpoint(tiny_model(), saved(tmp_path / "a.pth", obj))
    load_checkpoint(tiny_model(), pair["student"])


def test_safetensors_with_a_prefix_and_in_parts(tmp_path: Path) -> None:
    save_file({key: value.contiguous() for key, value in prefixed("module.").items()}, tmp_path / "a.safetensors")
    assert "unwrapped from 'module.'" in loaded(tmp_path / "a.safetensors").notes
    folder, parts = tmp_path / "parts", {}
    folder.mkdir()
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        some = dict(list(PLAIN.items())[number - 1 :: 2])
        save_file(some, folder / name)
        parts |= dict.fromkeys(some, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    loaded(folder)
    loaded(index)
    for text, said in (
        (json.dumps({"weight_map": {"a": "../a.safetensors"}}), "expected an index of safetensors files, found names"),
        (json.dumps({"weight_map": {"a": "b.safetensors"}}), "expected the file b.safetensors beside it"),
        (json.dumps({"weight_map": {**parts, "a\nb": name}}), r"1 are missing: a\\nb"),
        ("[" * 99999, "expected an index of safetensors files"),
        ("{}", "expected an index of safetensors files"),
    ):
        index.write_text(text)
        with refused(said):
            load_model(folder, head_dim=16)


@pytest.mark.parametrize("keys", ["original", "ours"])
def test_allow_ignored_takes_what_only_the_file_has(keys: str, tmp_path: Path) -> None:
    state = PLAIN if keys == "original" else tiny_model().state_dict()
    path = saved(tmp_path / "a.pth", {**state, "regression.weight": torch.ones(3), "blocks3.0.extra": torch.ones(1)})
    for allowed in ((), ("regression.*",), ("blocks*",)):
        with refused("keys? that no UniFormer has: "):
            load_checkpoint(tiny_model(1), path, allow_ignored=allowed)
    with refused("keys? that no UniFormer has: "):
        load_model(path, head_dim=16)
    model = tiny_model(1)
    report = load_checkpoint(model, path, allow_ignored=("regression.*", "blocks3.0.extra"))
    assert report.ignored == ["regression.weight", "blocks3.0.extra"]
    assert same(model.state_dict(), tiny_model().state_dict())


def test_allow_ignored_knows_the_original_names_too(tmp_path: Path) -> None:
    light = tiny_model(keep_ratio=0.5, overlap=1)
    path = saved(tmp_path / "a.pth", reference(light))
    for names in (("cls_*",), ("head_cls.*", "norm_cls.*", "cls_*")):
        with refused("has .* tensors that the model has not" if names[0] == "none" else "has not|lacks"):
            load_checkpoint(tiny_model(1), path, allow_ignored=names)
    more = tiny_model(token_labeling=True)
    assert load_checkpoint(tiny_model(1), reference(more), allow_ignored=("aux_head.*",)).ignored == [
        "aux_head.weight", "aux_head.bias",
    ]  # fmt: skip


# ---- OpenMMLab's trainers --------------------------------------------------------------------------------------------


@pytest.fixture
def mmengine() -> Iterator[Any]:
    """A module of the library's name with its class, as its trainer pickles it: state with methods of the class."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history, self._count_history = np.array([1.0, 0.5]), np.array([1, 1])
            self._statistics_methods = {"min": HistoryBuffer.min}

        def min(self) -> None: ...

    module = types.ModuleType("mmengine.logging.history_buffer")
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    HistoryBuffer.min.__module__, HistoryBuffer.min.__qualname__ = module.__name__, "HistoryBuffer.min"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    names = ("mmengine", "mmengine.logging", module.__name__)
    sys.modules.update(dict.fromkeys(names, module))
    yield module
    for name in names:
        del sys.modules[name]


def training_file(mmengine: Any, model: UniFormer, cfg: str = "", **dataset_meta: Any) -> dict[str, Any]:
    buffers = {"train/loss": mmengine.HistoryBuffer()}
    return {
        "meta": {"epoch": 3, "cfg": cfg, "dataset_meta": dataset_meta, "mmengine_version": "0.10.7"},
        "state_dict": openmmlab(model),
        "message_hub": {"log_scalars": buffers, "runtime_info": {"loss": np.float64(0.5), "best": np.arange(3)}},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3}]},
        "param_schedulers": [{"milestones": {8: 1}}],
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_mmengines_training_files_are_read(legacy: bool, tmp_path: Path, mmengine: Any) -> None:
    path = saved(tmp_path / "epoch_3.pth", training_file(mmengine, tiny_model()), legacy)
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        sys.modules[name] = None  # type: ignore[assignment]  # not to be imported
    report = loaded(path)
    assert report.ignored == []


def test_mmengine_saves_the_average_under_state_dict(tmp_path: Path, mmengine: Any) -> None:
    raw = {f"module.{key}": value for key, value in openmmlab(tiny_model(3)).items()} | {"steps": torch.tensor(9)}
    path = saved(tmp_path / "a.pth", {**training_file(mmengine, tiny_model()), "ema_state_dict": raw})
    for options in ({}, {"averaged": True}):
        assert any("mmengine keeps the averaged weights under" in note for note in loaded(path, **options).notes)


CONFIG = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='MaskRCNN',
    backbone=dict(
        type='UniFormer',
        embed_dim=[64, 128, 320, 512],
        layers=[3, 4, 8, 3],
        head_dim=16,
        drop_path_rate=0.2,
        use_checkpoint=True,
        windows={windows},
        hybrid={hybrid}{size}),
    neck=dict(type='FPN', in_channels=[64, 128, 320, 512]),
    decode_head=dict(type='Other', window_size=7, windows=True))
"""
DENSE: dict[str, Any] = {"output": "normed_maps", "num_classes": 0, "depths": (1, 1, 5, 1)}
WINDOWS = {
    "windows": ("True", "False", ",\n        window_size=14", (14, None)),
    "hybrid": ("False", "True", ",\n        window_size=32", (32, 4)),
    "hybrid of the usual size": ("False", "True", "", (14, 4)),
    "global": ("False", "False", ",\n        window_size=14", (None, None)),
}


@pytest.mark.parametrize("spelling", ["mmcv", "mmengine", "mmpose"])
@pytest.mark.parametrize("case", WINDOWS)
def test_windows_are_read_from_the_settings_in_the_file(case: str, spelling: str, tmp_path: Path) -> None:
    windows, hybrid, size, (window, global_every) = WINDOWS[case]
    text = CONFIG.format(windows=windows, hybrid=hybrid, size=size)
    if spelling == "mmpose":
        text = text.replace("windows=", "use_window=").replace("hybrid=", "use_hybrid=")
    source = tiny_model(**DENSE, window=window, global_every=global_every)
    meta = {"config" if spelling == "mmcv" else "cfg": text}
    others = {"neck.lateral_convs.0.conv.weight": torch.ones(2)}
    path = saved(tmp_path / "a.pth", {"meta": meta, "state_dict": {**openmmlab(source), **others}})
    model, contract, report = load_model(path)  # head_dim stands there too
    assert model.config == contract.config == source.config
    assert report.ignored == list(others)
    x = torch.randn(1, 3, 256, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(model(x), source(x), strict=True):
            assert torch.equal(ours, theirs)
    assert any("says the training's settings in the file" in note for note in report.notes)
    convert(path, tmp_path / "b.safetensors")
    assert load_model(tmp_path / "b.safetensors")[1].config == source.config


def test_windows_that_nothing_tells_are_said_and_can_be_given(tmp_path: Path) -> None:
    source = tiny_model(**DENSE)
    path = saved(tmp_path / "a.pth", {"state_dict": openmmlab(source), "meta": {}})
    _, contract, report = load_model(path, head_dim=16)
    assert contract.config.window is None
    assert any("nothing tells whether stage 3 attends in windows" in note for note in report.notes)
    for options, expected in (
        ({"window": 14}, (14, None)),
        ({"window": 14, "global_every": 4}, (14, 4)),
        ({"window": 0}, (None, None)),
    ):
        model, contract, report = load_model(path, head_dim=16, **options)
        assert (model.config.window, model.config.global_every) == expected
        assert any("says the caller" in note for note in report.notes)
        convert(path, tmp_path / "b.safetensors", head_dim=16, overwrite=True, **options)
        assert load_model(tmp_path / "b.safetensors")[1].config == contract.config
    with refused("global_every needs a window"):
        load_model(path, head_dim=16, global_every=4)
    with refused("window attention is defined for images only"):
        load_model(saved(tmp_path / "c.pth", reference(tiny_model(ndim=3))), head_dim=16, window=14)


def test_another_kind_of_windows_than_in_training_is_said(tmp_path: Path) -> None:
    backbone = UniFormer(variants.get_config("uniformer_xxs_backbone"))
    assert load_checkpoint(backbone, backbone.state_dict()).notes[-1].startswith("head_dim")  # none there
    text = CONFIG.format(windows="False", hybrid="True", size="")
    path = saved(tmp_path / "a.pth", {"meta": {"config": text}, "state_dict": openmmlab(tiny_model(**DENSE))})
    report = load_checkpoint(tiny_model(1, **DENSE), path)
    assert any(
        "in windows of 14, every block number 4 globally" in n and "in this model globally" in n for n in report.notes
    )


def test_a_model_by_name_warns_of_other_windows_than_in_training(tmp_path: Path) -> None:
    text = CONFIG.format(windows="False", hybrid="True", size="")
    path = saved(tmp_path / "a.pth", {"meta": {"config": text}, "state_dict": openmmlab(tiny_model(**DENSE))})
    tiny = {"depths": DENSE["depths"], "dims": TINY.dims, "head_dim": 16}
    with pytest.warns(
        UserWarning, match="attended in windows of 14, every block number 4 globally in training, here glob"
    ):
        create_model("uniformer_small_backbone", checkpoint=path, **tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_model("uniformer_small_backbone_h14", checkpoint=path, **tiny)


def test_windows_do_not_go_into_a_proof_of_other_windows(tmp_path: Path) -> None:
    model = tiny_model(**DENSE)
    save_checkpoint(model, tmp_path / "a.safetensors", Contract(model.config))
    _, contract, _ = load_model(tmp_path / "a.safetensors", window=7)
    assert (contract.config.window, contract.proof) == (7, None)


# ---- the order and the names of classes ------------------------------------------------------------------------------

KINETICS = load_classes("Kinetics-400")
SORTED = sorted(range(400), key=KINETICS.__getitem__)


def of_400(rows: list[int] | None = None, **meta: Any) -> dict[str, Any]:
    return {"state_dict": openmmlab(tiny_model(ndim=3, num_classes=400), rows), "meta": {"dataset_meta": meta}}


def order_of(path: Path, **options: Any) -> tuple[list[int], Contract, LoadReport]:
    """Where in the file's source each row of the classifier stands."""
    model, contract, report = load_model(path, head_dim=16, **options)
    bias = tiny_model(ndim=3, num_classes=400).head.bias.tolist()  # type: ignore[union-attr]
    return [bias.index(value) for value in model.head.bias.tolist()], contract, report  # type: ignore[union-attr]


def test_names_in_the_file_decide_the_order_of_400_classes(tmp_path: Path) -> None:
    own = [f"class {i}" for i in range(400)]
    order, contract, report = order_of(saved(tmp_path / "own.pth", of_400(classes=own)))
    assert order == list(range(400))
    assert contract.classes == tuple(own)
    assert not any("class order" in note for note in report.notes)

    names = [KINETICS[i] for i in SORTED]
    order, contract, report = order_of(saved(tmp_path / "k400.pth", of_400(SORTED, classes=tuple(names))))
    assert order == list(range(400))
    assert contract.classes == KINETICS
    assert any("published class order: as the names in the file say" in note for note in report.notes)

    order, contract, _ = order_of(tmp_path / "k400.pth", published_order=False)
    assert order == SORTED
    assert contract.classes == tuple(names)

    order, contract, _ = order_of(saved(tmp_path / "published.pth", of_400(classes=list(KINETICS))))
    assert order == list(range(400))
    assert contract.classes == KINETICS


def test_400_rows_without_names_are_taken_for_kinetics_unless_switched_off(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", of_400(SORTED))
    order, contract, report = order_of(path)
    assert order == list(range(400))
    assert contract.classes == ()
    assert any("published_order=False" in note for note in report.notes)
    assert order_of(path, published_order=False)[0] == SORTED
    model = tiny_model(1, ndim=3, num_classes=400)
    load_checkpoint(model, path, published_order=False)
    assert model.head.bias.tolist() == tiny_model(ndim=3, num_classes=400).head.bias[SORTED].tolist()  # type: ignore[union-attr]


def test_names_of_any_number_of_classes_are_kept(tmp_path: Path, cli: Any) -> None:
    names = [f"move {i}" for i in range(7)]
    for number, meta in enumerate(({"dataset_meta": {"classes": names}}, {"CLASSES": tuple(names)})):
        path = saved(tmp_path / f"{number}.pth", {"state_dict": openmmlab(tiny_model(ndim=3)), "meta": meta})
        assert load_model(path, head_dim=16)[1].classes == tuple(names)
    wrong = saved(tmp_path / "x.pth", {"state_dict": openmmlab(tiny_model()), "meta": {"CLASSES": names[:5]}})
    assert load_model(wrong, head_dim=16)[1].classes == ()
    done = cli("convert", tmp_path / "0.pth", tmp_path / "out.safetensors", "--head-dim", 16, "--keep-class-order")
    assert done.status == 0
    assert load_model(tmp_path / "out.safetensors")[1].classes == tuple(names)


# ---- what no tensor tells --------------------------------------------------------------------------------------------

SHORT = {"depths": (1, 1, 1, 1), "dims": (64, 128, 320, 512), "num_classes": 3}
OPEN: dict[str, tuple[dict[str, Any], int | None]] = {
    "images, which may be of token labeling less its second classifier": ({}, None),
    "images with layer scale": ({"layer_scale": 1e-6, "layer_scale_stages": (3, 4)}, 64),
    "clips": ({"ndim": 3}, 64),
    "clips, split": ({"ndim": 3, "split_attention": True}, 64),
    "normed maps": ({"num_classes": 0, "output": "normed_maps"}, 64),
    "images of S with a dagger": ({"overlap": 4}, None),
    "token labeling": ({"token_labeling": True}, None),
    "images without a classifier": ({"num_classes": 0}, None),
    "maps without norms": ({"num_classes": 0, "output": "maps"}, None),
    "large token labeling": ({"dims": (128, 192, 448, 640), "token_labeling": True}, 64),
}


@pytest.mark.parametrize("kind", OPEN)
def test_head_dim_is_asked_for_only_where_it_is_open(kind: str, tmp_path: Path) -> None:
    options, published = OPEN[kind]
    config = Config(**{**SHORT, **options})
    path = saved(tmp_path / "a.pth", reference(UniFormer(config)))
    if published is None:
        with refused("expected head_dim for .*a.pth: tensors do not tell it; published with these widths: 32, 64"):
            load_model(path)
        assert load_model(path, head_dim=32)[0].config.head_dim == 32
        return
    _, contract, report = load_model(path)
    assert contract.config == config
    assert any(note.startswith(f"head_dim {published} from the ") for note in report.notes)
    assert load_model(path, head_dim=32)[0].config.head_dim == 32  # one's own


def test_block_epsilon_is_an_option(tmp_path: Path) -> None:
    assert "block_eps" not in to_dict(TINY)
    assert "block_eps" not in json.loads((save_tiny(tmp_path / "a", IMAGES) / "config.json").read_text())["config"]
    plain, other = tiny_model(**DENSE), tiny_model(**DENSE, block_eps=1e-5)
    norms = {name: m.eps for name, m in other.named_modules() if isinstance(m, nn.LayerNorm)}
    assert {name for name, eps in norms.items() if ".embed." in name} == {
        n for n, eps in norms.items() if eps == 1e-5
    } - {name for name in norms if ".embed." not in name}
    assert {m.eps for name, m in plain.named_modules() if isinstance(m, nn.LayerNorm) and ".embed." not in name} == {
        1e-6
    }
    assert {m.eps for name, m in other.named_modules() if isinstance(m, nn.LayerNorm) and ".embed." not in name} == {
        1e-5
    }
    save_checkpoint(other, tmp_path / "b.safetensors")
    model, contract, _ = load_model(tmp_path / "b.safetensors")
    assert contract.config.block_eps == 1e-5
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(x)[3], other(x)[3])
        assert not torch.equal(model(x)[3], plain(x)[3])
    assert create_model("uniformer_xxs", block_eps=1e-5).config.block_eps == 1e-5
    with refused(r"expected block_eps in \[0, 1\], got -1"):
        replace(TINY, block_eps=-1)


# ---- models under wrappers -------------------------------------------------------------------------------------------

AROUND: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compile": lambda m: torch.compile(m),  # type: ignore[return-value]
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "both": lambda m: torch.compile(nn.DataParallel(m)),  # type: ignore[return-value]
}


@pytest.mark.parametrize("around", AROUND)
def test_a_wrapped_model_is_saved_exported_and_loaded_into(around: str, tmp_path: Path) -> None:
    model = tiny_model()
    wrapped: Any = AROUND[around](model)
    save_checkpoint(wrapped, tmp_path / "a.safetensors")
    assert same(load_model(tmp_path / "a.safetensors")[0].state_dict(), model.state_dict())
    load_checkpoint(wrapped, tiny_model(1).state_dict())
    inner = wrapped.module if around == "AveragedModel" else model
    assert same(inner.state_dict(), tiny_model(1).state_dict())
    with refused("expected the name of an exported network, which ends in .xml, .onnx"):  # it got as far as that
        uniformer.export(wrapped, Contract(model.config, input=IMAGES), tmp_path / "a.pb")
    torch.save(wrapped.state_dict(), tmp_path / "a.pth")
    other = tiny_model(2)
    load_checkpoint(other, tmp_path / "a.pth")
    assert same(other.state_dict(), inner.state_dict())


def test_what_cannot_be_saved_is_said_in_one_line(tmp_path: Path) -> None:
    fast, contract = uniformer.optimize(tiny_model(ndim=3)), Contract(tiny_model(ndim=3).config, input=CLIPS)
    for model, said in (
        (fast, "optimised|tensors that its config says"),
        (nn.Linear(2, 2), "expected a UniFormer, .* got Linear"),
        (nn.DataParallel(nn.Linear(2, 2)), "expected a UniFormer"),
    ):
        with refused(said):
            save_checkpoint(model, tmp_path / "a.safetensors", contract)  # type: ignore[arg-type]
        with refused(said):
            uniformer.export(model, contract, tmp_path / "a.onnx")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []

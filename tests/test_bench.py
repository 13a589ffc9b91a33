"""`uniformer bench`: what it measures, what it remembers, and who goes by it."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.command_line import Cli, one_line
from tests.scored import evaluate_model
from tests.tiny import CLIPS, IMAGES, refused, save_tiny, tiny_model
from tests.tolerance import assert_close, rounding, terms_of
from uniformer.config import Config
from uniformer.datasets.manifest import Item, Manifest
from uniformer.inference.predictor import Predictor
from uniformer.speed.bench import forms_here, measure
from uniformer.speed.forms import situation_of, weights_of
from uniformer.speed.timings import NAME, Compute, best_at_hand, exported_path, remember, situation, view_size

SIZE = (3, 4, 64, 64)
RUNTIME_AND_FAST: tuple[Compute, ...] = ("openvino", "fast")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "uniformer"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "clips.safetensors", CLIPS)


def here(config: Config) -> str:
    """The key of this process for views of a tiny network of clips."""
    return situation_of(config, SIZE, torch.device("cpu"), torch.float32)


def test_the_forms_are_measured_against_the_plain_network(one_thread: None) -> None:
    said: list[str] = []
    model = tiny_model(ndim=3)
    found = measure(model, SIZE, ("plain", "fast"), batch=2, rounds=3, say=said.append)
    assert [timing.form for timing in found.timings] == ["plain", "fast"]
    assert [len(timing.seconds) for timing in found.timings] == [3, 3]
    assert len(found.product) == 3
    assert all(timing.off <= rounding(torch.float32, terms_of(model)) for timing in found.timings)
    assert all(min(timing.seconds) > 0 for timing in found.timings)
    assert found.timings[0].off == 0
    assert found.macs == 2 * measure(tiny_model(ndim=3), SIZE, (), rounds=1).macs
    assert found.floor == pytest.approx(found.macs / found.macs_per_second)
    assert said == []


def test_other_logits_than_the_plain_networks_are_refused(one_thread: None) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter("head.weight").fill_(float("nan"))
    with refused("expected the logits of the plain network from fast, they are off by nan"):
        measure(model, (3, 64, 64), ("fast",), rounds=1)


def test_the_command_shows_and_remembers(cli: Cli, clips: Path, cache: Path) -> None:
    shown = cli("bench", clips, "--forms", "plain", "fast", "--rounds", 2)
    assert shown.status == 0, shown.err
    first, second, *_ = shown.out.splitlines()
    assert first == f"{clips}, views of 1 x 3 x 4 x 64 x 64"
    assert f"torch {version('torch')}, " in second
    assert [line.split()[0] for line in shown.out.splitlines() if " 0e+00" in line] == ["plain"]
    assert shown.out.endswith(f"remembered in {cache / NAME}\n")
    ((key, times),) = json.loads((cache / NAME).read_text()).items()
    assert (key, set(times)) == (here(tiny_model(ndim=3).config), {"plain", "fast"})
    as_json = cli("bench", clips, "--forms", "fast", "--rounds", 2, "--frames", 2, "--size", 32, "--json")
    told = json.loads(as_json.out)
    assert told["views"] == [1, 3, 2, 32, 32]
    assert [row["form"] for row in told["forms"]] == ["plain", "fast"]
    kept = json.loads((cache / NAME).read_text()).values()  # another input is another situation
    assert [set(times) for times in kept] == [{"plain", "fast"}, {"fast"}]


def test_an_architecture_is_measured_with_random_weights_and_nothing_else_is_kept(cli: Cli, cache: Path) -> None:
    done = cli("bench", "uniformer_xxs", "--forms", "fast", "--rounds", 1, "--size", 64)
    assert done.status == 0, done.err
    assert [path.name for path in cache.iterdir()] == [NAME]
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    said: list[str] = []
    measure(tiny_model(ndim=3), SIZE, ("onnxruntime",), rounds=1, say=said.append)
    assert said == ["preparing onnxruntime: up to some minutes"]
    assert [path.name for path in cache.iterdir()] == [NAME]


def test_prediction_goes_by_what_was_measured(cli: Cli, clips: Path, tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("openvino")
    video = np.random.default_rng(0).integers(0, 256, (12, 72, 80, 3), dtype=np.uint8)
    unmeasured = Predictor(clips)
    assert unmeasured.network.compute == "fast"  # type: ignore[union-attr]
    assert cli("bench", clips, "--forms", "fast", "openvino", "--rounds", 1).status == 0
    model, key = unmeasured.network.model, here(unmeasured.network.contract.config)  # type: ignore[union-attr]
    assert exported_path(weights_of(model), SIZE, "openvino").is_file()

    remember(key, {"compiled": 0.5, "openvino": 1.0, "plain": 2.0, "fast": 3.0})
    other = save_tiny(tmp_path / "other.safetensors", CLIPS, seed=1)
    wanted: list[tuple[Path, Compute | None, Compute]] = [
        (clips, None, "openvino"),  # a compiled one would first take its minute
        (other, None, "plain"),  # its network was not exported
        (clips, "fast", "fast"),
    ]
    answers = []
    for checkpoint, asked, form in wanted:
        predictor = Predictor(checkpoint, compute=asked)
        assert predictor.network.compute == form  # type: ignore[union-attr]
        answers.append(predictor(video).probabilities)
    assert_close(answers[0], answers[2], terms_of(model))
    assert abs(answers[0] - answers[1]).max() > 1e-3
    assert not exported_path("0" * 12, SIZE, "openvino").exists()


def test_a_runtime_that_was_not_measured_can_be_asked_for(clips: Path, cache: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    first = Predictor(clips, compute="onnxruntime")
    (path,) = cache.iterdir()
    written = path.stat().st_mtime_ns
    again = Predictor(clips, compute="onnxruntime")
    assert path.stat().st_mtime_ns == written
    x = np.zeros((1, *SIZE), np.float32)
    assert np.array_equal(first.logits(x), again.logits(x))
    with refused("expected float32 on the CPU with compute onnxruntime"):
        Predictor(clips, compute="onnxruntime", precision="bfloat16")
    with refused("expected compute plain, fast, compiled, openvino, onnxruntime, int8, got 'best'"):
        Predictor(clips, compute="best")  # type: ignore[arg-type]


def test_evaluation_can_be_handed_to_a_runtime(tmp_path: Path, cache: Path, one_thread: None) -> None:
    pytest.importorskip("openvino")
    picture = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "0.png")
    manifest = Manifest.from_items(
        [Item("0.png", (0,))], kind="image", classes=[f"class {k}" for k in range(7)], root=tmp_path
    )
    model = tiny_model()
    found, wanted = (evaluate_model(model, manifest, IMAGES, workers=0, compute=c).logits for c in RUNTIME_AND_FAST)
    assert_close(found, wanted, terms_of(model))
    assert exported_path(weights_of(model), (3, 64, 64), "openvino").is_file()


def test_a_situation_is_all_that_a_time_depends_on() -> None:
    config = Config(ndim=3)
    base = situation(config, SIZE, "cpu", "float32", 2)
    assert base.startswith("cpu, 2 threads, float32; ")
    assert situation(config, SIZE, "cpu", "float32", 1).startswith("cpu, 1 thread, float32; ")
    assert situation(Config(ndim=3, drop_path=0.2, dropout=0.5), SIZE, "cpu", "float32", 2) == base
    others = [
        situation(Config(ndim=3, mlp_ratio=3.0), SIZE, "cpu", "float32", 2),
        situation(config, (3, 8, 64, 64), "cpu", "float32", 2),
        situation(config, SIZE, "gpu", "float32", 2),
        situation(config, SIZE, "cpu", "bfloat16", 2),
        situation(config, SIZE, "cpu", "float32", 1),
    ]
    assert len({base, *others}) == 6
    remember(base, {"plain": 1.0, "fast": 2.0})
    remember(others[0], {"plain": 2.0, "fast": 1.0})
    assert [best_at_hand(key, str, SIZE) for key in (base, *others[:2])] == ["plain", "fast", "fast"]
    assert view_size(config, CLIPS) == SIZE
    assert view_size(Config(), IMAGES) == (3, 64, 64)


def test_only_forms_that_can_run_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert forms_here(torch.device("cpu"), "bfloat16") == ["plain", "fast"]
    assert forms_here(torch.device("cuda"), "bfloat16") == ["plain", "fast", "compiled"]
    assert forms_here(torch.device("cpu"), "float32")[:2] == ["plain", "fast"]


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_goes_wrong_is_one_line(cli: Cli, clips: Path, cache: Path) -> None:
    one_line(cli("bench", "no_such_network"), "no_such_network")
    one_line(cli("bench", clips, "--rounds", 0), "argument --rounds: expected a whole number from 1")
    one_line(cli("bench", "uniformer_small", "--frames", 8), "expected no --frames")
    cache.mkdir(parents=True)
    for text in ("not JSON", "[1]", '{"key": {"fast": "soon"}}'):
        (cache / NAME).write_text(text)
        one_line(
            cli("predict", "--checkpoint", clips, "gone.mp4"), "expected what `uniformer bench` wrote", "delete it"
        )
    (cache / NAME).unlink()
    cache.rmdir()
    cache.write_text("a file where the folder would be")
    with refused(f"cannot write {cache / NAME}"):
        remember("a situation", {"fast": 1.0})

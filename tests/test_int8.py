"""Networks in 8 bits: what they are calibrated on and judged by, what their files say, and when they are not kept."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.command_line import Cli, one_line
from tests.test_doc_examples import DOCS
from tests.test_export import run_alone, run_python
from tests.tiny import IMAGES, refused, save_tiny
from uniformer.checkpoints.load import load_model
from uniformer.inference.predictor import Predictor
from uniformer.network.model import UniFormer
from uniformer.speed.bench import measure
from uniformer.speed.forms import situation_of, weights_of
from uniformer.speed.quantise import DETAILS, TOGETHER, Int8Receipt, Samples, _check
from uniformer.speed.runtimes import open_exported
from uniformer.speed.timings import int8_path, remember

for package in ("openvino", "nncf", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="pip install 'uniformer[int8]'")

CLASSES = 7
ANY = ("--max-loss", "100", "--even-slower")  #: weights are random, and other work may be on the machine

EXPORT = """
import logging, os, signal, sys
sys.addaudithook(lambda event, _: event in ("socket.connect", "socket.getaddrinfo") and print(event))
from uniformer.checkpoints.load import load_model
from uniformer.cli.main import main
from uniformer.errors import InputError
from uniformer.speed.quantise import export_int8
tiny, data, kept, *more = sys.argv[1:]
signal.signal(signal.SIGUSR1, lambda *_: print("arrived"))
for form in (".xml", ".onnx"):
    out = tiny.replace(".safetensors", form)
    assert main(["export", tiny, out, "--int8", "--calibrate", data, "--receipt", f"{out}.json", *more]) == 0
model, contract, _ = load_model(tiny)
try:
    export_int8(model, contract, kept, data, max_loss=-101, even_slower=True)
except InputError as error:
    print(error)
os.kill(os.getpid(), signal.SIGUSR1)
print("openvino_telemetry" in sys.modules, logging.getLoggerClass(), logging.getLogger("nncf").level == logging.ERROR)
"""


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (72, 80, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training and two validation pictures of each class; one is in both, and one cannot be read."""
    folder = tmp_path_factory.mktemp("int8")
    for kind in range(CLASSES):
        for number in range(3):
            picture(folder / "data" / "train" / f"class of number {kind}" / f"{number}.png", 10 * kind + number)
        for number in range(2):
            picture(folder / "data" / "val" / f"class of number {kind}" / f"{number}.png", 100 + 10 * kind + number)
    train, val = (folder / "data" / split / "class of number 3" for split in ("train", "val"))
    shutil.copy(train / "0.png", val / "0.png")
    (train / "1.png").write_bytes(b"no picture")
    save_tiny(folder / "tiny.safetensors", IMAGES)
    return folder / "data"


@pytest.fixture(scope="module")
def written(data: Path) -> subprocess.CompletedProcess[str]:
    """What a process said that wrote a file for each runtime, and then one that may not be kept."""
    (data.parent / "kept").mkdir()
    for name in ("kept.xml", "kept.bin"):
        (data.parent / "kept" / name).write_text("an earlier one")
    done = run_python(
        EXPORT, *map(str, (data.with_name("tiny.safetensors"), data, data.parent / "kept" / "kept.xml")), *ANY
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def files(written: object, data: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Each file with its receipt."""
    return {
        form: (data.with_name(f"tiny{form}"), json.loads(data.with_name(f"tiny{form}.json").read_text()))
        for form in (".xml", ".onnx")
    }


@pytest.mark.parametrize("form", [".xml", ".onnx"])
def test_a_file_in_8_bits_holds_its_receipt_and_the_receipt_is_true(
    form: str, files: dict[str, Any], data: Path
) -> None:
    path, receipt = files[form]
    network, checkpoint = Predictor(path), Predictor(data.with_name("tiny.safetensors"), compute="plain")
    assert network.contract.details == {DETAILS: receipt}
    assert replace(network.contract, details={}) == checkpoint.contract
    held_out = [p for p in sorted((data / "val").rglob("*.png")) if (p.parent.name[-1], p.name) != ("3", "0.png")]
    found, wanted = ([one(p) for p in held_out] for one in (network, checkpoint))
    for answers, name in ((found, "score"), (wanted, "score_float32")):
        right = [a.labels[0].name == p.parent.name for a, p in zip(answers, held_out, strict=True)]
        assert receipt[name] == pytest.approx(np.mean(right))
    same = [a.labels[0].index == b.labels[0].index for a, b in zip(found, wanted, strict=True)]
    assert receipt["agreement"] == pytest.approx(np.mean(same))
    x = np.concatenate([checkpoint.views(p).array for p in held_out])
    logits = checkpoint.logits(x)
    gap = np.abs(open_exported(path)(x, 8) - logits).max() / np.abs(logits).max()
    assert receipt["gap"] == pytest.approx(gap, rel=0.02)
    assert 1e-3 < gap < 0.5  # more than float32's rounding, less than garbage
    assert receipt["together"] <= TOGETHER
    counts = {name: receipt[name] for name in ("calibrated_on", "held_out", "left_out", "measure")}
    assert counts == {"calibrated_on": 20, "held_out": 13, "left_out": 1, "measure": "top1"}
    assert min(receipt["seconds"], receipt["seconds_float32"]) > 0


def test_weights_are_integers(files: dict[str, Any]) -> None:
    import onnx

    assert 'element_type="i8"' in files[".xml"][0].read_text()
    kinds = [t.data_type for t in onnx.load(files[".onnx"][0]).graph.initializer if len(t.dims) > 1]
    assert kinds.count(onnx.TensorProto.INT8) > 0.9 * len(kinds)


def test_quantising_reports_nothing_and_leaves_the_process_as_it_was(
    written: subprocess.CompletedProcess[str], files: dict[str, Any], data: Path
) -> None:
    """No telemetry; no bars of others among the answers; signals arrive; what is not kept replaces nothing."""
    xml, onnx, refusal, *rest = written.stdout.splitlines()
    for line, (path, receipt) in ((xml, files[".xml"]), (onnx, files[".onnx"])):
        assert line.startswith(f"wrote {path}: top1 {100 * receipt['score']:.1f} % of 13 items held out (")
    assert "kept.xml: expected to lose at most -101 points by 8 bits, lost " in refusal
    assert rest == ["arrived", "False <class 'logging.Logger'> False"]
    said = re.findall(
        "^left out: 1 item that cannot be read, such as .+1.png: |^calibrating on 20 items: ", written.stderr, re.M
    )
    assert len(said) == 4, written.stderr
    names = [
        "kept",
        "tiny.safetensors",
        *(f"tiny{end}" for end in (".xml", ".bin", ".onnx", ".xml.json", ".onnx.json")),
    ]
    assert sorted(p.name for p in data.parent.iterdir()) == sorted([data.name, *names])
    kept = {p.name: p.read_text() for p in (data.parent / "kept").iterdir()}
    assert kept == dict.fromkeys(("kept.xml", "kept.bin"), "an earlier one")


@pytest.mark.parametrize(("form", "runtime"), [(".onnx", "onnxruntime,flatbuffers,google"), (".xml", "openvino")])
def test_an_installation_without_torch_answers_in_8_bits(
    form: str, runtime: str, files: dict[str, Any], data: Path
) -> None:
    listed = re.search(r"pip install -c constraints\.txt (.*) onnxruntime", (DOCS / "speed.md").read_text("utf-8"))
    assert listed is not None
    allowed = f"uniformer,{runtime},PIL,rich,markdown_it,mdurl,pygments,{listed[1].replace(' ', ',')}"
    source = data / "val" / "class of number 2" / "0.png"
    (done,) = run_alone(allowed, ("predict", source, "--checkpoint", files[form][0], "--format", "jsonl"))
    assert done.status == 0, done.err
    assert json.loads(done.out)["labels"][0]["name"] == Predictor(files[form][0])(source).labels[0].name


# ---- what it is calibrated on, and judged by -------------------------------------------------------------------------


def test_no_recording_is_calibrated_on_and_held_out(data: Path, tmp_path: Path) -> None:
    _, contract, _ = load_model(data.with_name("tiny.safetensors"))
    said: list[str] = []
    first, again = (Samples.of(contract, data, say=said.append) for _ in range(2))
    assert first.calibration == again.calibration
    assert [a.path for a in first.held_out] == [b.path for b in again.held_out]
    assert (len(first.views), first.left_out, len(said)) == (20, 1, 2)
    held_out = {Path(item.path).relative_to(data) for item in first.held_out}
    copy = Path("val", "class of number 3", "0.png")  # of a training picture, under another name
    assert held_out == {p.relative_to(data) for p in (data / "val").rglob("*.png")} - {copy}

    shutil.copytree(data / "train", tmp_path / "one")  # a set without splits is shared out
    shutil.copy(tmp_path / "one" / "class of number 0" / "0.png", tmp_path / "one" / "class of number 6" / "0.png")
    shared = Samples.of(contract, tmp_path / "one")
    assert len(shared.views) + shared.left_out == 11
    assert 9 <= len(shared.held_out) <= 10
    kept = {Path(item.path).read_bytes() for item in shared.held_out}
    assert len(kept) == len(shared.held_out)
    assert shared.calibration != first.calibration


def test_what_cannot_be_calibrated_on_is_one_line(data: Path, tmp_path: Path) -> None:
    _, contract, _ = load_model(data.with_name("tiny.safetensors"))
    picture(tmp_path / "one" / "class of number 0" / "0.png", 0)
    with refused("expected items to hold out that the network is not calibrated on, found none"):
        Samples.of(contract, tmp_path / "one")
    with refused("expected a folder or a list of files, found nothing there"):
        Samples.of(contract, tmp_path / "gone")
    for number in range(4):
        (tmp_path / "one" / "class of number 0" / f"{number}.png").write_bytes(b"no picture %d" % number)
    said: list[str] = []
    with refused(r"expected items to calibrate on, could read none of 2: .+\.png: "):
        Samples.of(contract, tmp_path / "one", say=said.append)
    assert not said
    shutil.copytree(data / "train", tmp_path / "others")
    (tmp_path / "others" / "class of number 0").rename(tmp_path / "others" / "something else")
    with refused("something else.*`uniformer eval --class-order numbers` takes"):
        Samples.of(contract, tmp_path / "others")


# ---- when it is not kept ---------------------------------------------------------------------------------------------

FOUND = Int8Receipt(
    target="OpenVINO", calibrated_on=200, calibration="0" * 12, held_out=200, left_out=0, measure="top1", score=0.8,
    score_float32=0.81, agreement=0.97, gap=0.04, together=0.001, seconds=0.002, seconds_float32=0.003, versions={},
)  # fmt: skip


def test_a_network_is_kept_only_if_it_is_faster_here_and_loses_no_more_than_allowed() -> None:
    out = Path("a.xml")
    _check(FOUND, out, 1.01, even_slower=False)
    _check(replace(FOUND, score=0.9), out, 0, even_slower=False)
    with refused(r"a.xml: expected to lose at most 0.5 points by 8 bits, lost 1.00: top1 80.0 % of 200 items held out"):
        _check(FOUND, out, 0.5, even_slower=False)
    slower = replace(FOUND, seconds=0.004)
    with refused(r"expected 8 bits to be faster than float32 here, they are not: .* 4.00 ms an item \(3.00\)"):
        _check(slower, out, 2, even_slower=False)
    _check(slower, out, 2, even_slower=True)
    with refused("expected a view's logits to be the same among others, they are off by 3.0e-01"):
        _check(replace(FOUND, together=0.3), out, 100, even_slower=True)
    with refused("expected finite logits in 8 bits, got NaN or infinity"):
        _check(replace(FOUND, gap=float("nan")), out, 100, even_slower=True)


def test_what_goes_together_is_said_in_one_line(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, out = data.with_name("tiny.safetensors"), tmp_path / "network.xml"
    one_line(cli("export", tiny, out, "--int8"), "--int8: expected --calibrate DATA too")
    one_line(cli("export", tiny, out, "--calibrate", data), "expected --int8 too")
    one_line(cli("export", tiny, out, "--max-loss", 1), "expected --int8 too")
    one_line(cli("bench", tiny, "--max-loss", 1), "--max-loss: expected --calibrate DATA too")
    one_line(cli("export", tiny, out, "--int8", "--calibrate", data, "--size", "64x64"), "expected no --size")
    one_line(
        cli("export", tiny, out, "--int8", "--calibrate", data, "--max-loss", -1), "expected a number from 0 to 100"
    )
    one_line(
        cli("export", tiny, out.with_suffix(".pte"), "--int8", "--calibrate", data),
        "expected the name of a network in 8 bits, which ends in .xml or .onnx",
    )
    one_line(
        cli("export", tiny, out, "--int8", "--calibrate", data, "--receipt", "/dev/null/gone/r.json"),
        "cannot write /dev/null/gone",
    )
    inside = picture(tmp_path / "set" / "class of number 0" / "0.png", 0)
    one_line(
        cli("export", tiny, inside, "--int8", "--calibrate", tmp_path / "set", "--overwrite"), "would replace the input"
    )
    monkeypatch.setitem(sys.modules, "nncf", None)
    one_line(
        cli("export", tiny, out, "--int8", "--calibrate", data),
        "writing .xml files in 8 bits needs the package 'nncf': pip install 'uniformer[int8]'",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


# ---- as a form of a checkpoint ---------------------------------------------------------------------------------------

SIZE = (3, 64, 64)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "uniformer"


def keep(file: Path, model: UniFormer, calibration: str) -> None:
    """As `bench --calibrate` keeps it: how fast it is here is not for a test to say."""
    path = int8_path(weights_of(model), SIZE, calibration)
    path.parent.mkdir(parents=True, exist_ok=True)
    for end in (".xml", ".bin"):
        shutil.copy(file.with_suffix(end), path.with_suffix(end))


def test_8_bits_are_taken_only_when_asked_for_or_kept(
    cli: Cli, files: dict[str, Any], data: Path, tmp_path: Path, cache: Path, one_thread: None
) -> None:
    tiny, (file, receipt) = data.with_name("tiny.safetensors"), files[".xml"]
    asked = ("predict", data / "val", "--checkpoint", tiny, "--compute", "int8")
    one_line(
        cli(*asked), "expected a network in 8 bits that was kept here: `uniformer bench CHECKPOINT --calibrate DATA`"
    )
    model, _, _ = load_model(tiny)
    situation = situation_of(model.config, SIZE, torch.device("cpu"), torch.float32)
    remember(situation, {"int8": 1.0, "plain": 2.0, "fast": 3.0})
    assert Predictor(tiny).network.compute == "plain"  # measured for other weights
    rows = ("predict", data / "val", "--checkpoint", tiny, "--out", tmp_path / "rows.jsonl", "--resume", "--quiet")
    assert [cli(*rows).status for _ in range(2)] == [0, 0]
    keep(file, model, receipt["calibration"])
    kept = Predictor(tiny)
    assert kept.network.exact_form == f"int8 by {receipt['calibration']}"  # type: ignore[union-attr]
    assert cli(*rows).status == 0  # goes on in the form that was recorded
    one_line(cli(*rows, "--compute", "int8"), "is of a checkpoint with other weights or options")
    x = np.random.default_rng(0).standard_normal((3, *SIZE), np.float32)
    assert np.array_equal(kept.logits(x), Predictor(file).logits(x))
    remember(situation, {"plain": 2.0, "fast": 3.0})
    assert Predictor(tiny).network.compute == "plain"
    assert cli(*asked).status == 0
    with refused("expected float32 on the CPU with compute int8"):
        Predictor(tiny, compute="int8", precision="bfloat16")
    found = measure(model, SIZE, ("int8",), rounds=1)
    assert 1e-3 < found.timings[1].off < 1


def test_an_evaluation_goes_on_with_what_it_was_begun_with(
    cli: Cli, files: dict[str, Any], data: Path, tmp_path: Path, cache: Path
) -> None:
    tiny, (file, _) = data.with_name("tiny.safetensors"), files[".xml"]
    model, _, _ = load_model(tiny)
    keep(file, model, "0" * 12)
    command = ("eval", tiny, data, "--out", tmp_path / "out", "--compute", "int8", "--workers", 0)
    assert cli(*command).status == 0
    keep(file, model, "1" * 12)
    assert cli(*command).status == 0  # by the earlier one, whatever was kept since
    shutil.rmtree(cache)
    gone = cli(*command)
    assert gone.status == 2
    assert gone.err.splitlines()[-1].startswith("uniformer: expected a network in 8 bits that was kept here: ")


def test_bench_keeps_it_if_it_is_faster(cli: Cli, data: Path, cache: Path) -> None:
    tiny, rest = data.with_name("tiny.safetensors"), ("--forms", "plain", "--rounds", 1, "--json")
    done = cli("bench", tiny, "--calibrate", data, "--max-loss", 100, *rest)
    assert done.status == 0, done.err
    is_kept = "int8" in [row["form"] for row in json.loads(done.out)["forms"]]
    assert [("\nkept in 8 bits: top1 " in done.err), ("\nnot kept in 8 bits: " in done.err)] == [is_kept, not is_kept]
    assert len([*cache.glob("*-int8-*.xml")]) == is_kept
    assert not [*cache.glob(".*")]
    one_line(
        cli("bench", "uniformer_xxs", "--calibrate", data), "--calibrate: expected a checkpoint, in float32 on the CPU"
    )
    (data.parent / "empty").mkdir()
    one_line(cli("bench", tiny, "--calibrate", data.parent / "empty"), "expected a folder per class")
    (data.parent / "empty").rmdir()

"""Exported files: the model's own logits, in a process without torch; and every way in which they can be wrong."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import uniformer
from tests import odd_media
from tests.command_line import Ended
from tests.test_doc_examples import DOCS
from tests.tiny import CLIPS, IMAGES, refused, save_tiny, tiny_model
from tests.tolerance import assert_close, rounding, terms_of
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.records import BUNDLED
from uniformer.cli.main import main
from uniformer.errors import InputError
from uniformer.inference.predictor import Predictor
from uniformer.speed.export import save_openvino, write_graph
from uniformer.speed.runtimes import METADATA, open_exported
from uniformer.tasks.classification import Prediction
from uniformer.tasks.task import Failure

for package in ("openvino", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)

FORMS = (".xml", ".onnx")
ENDS = ".xml, .onnx, .pt2, .pte or .tflite"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network of clips, its two exports, and a video."""
    path = tmp_path_factory.mktemp("export")
    save_tiny(path / "clips.safetensors", CLIPS)
    for form in FORMS:
        assert main(["export", str(path / "clips.safetensors"), str(path / f"clips{form}")]) == 0
    odd_media.h264(path)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_an_export_answers_as_its_checkpoint(form: str, folder: Path) -> None:
    network = Predictor(folder / f"clips{form}", crops=3, batch_size=4)  # 6 views: whole batches and a rest
    checkpoint = Predictor(folder / "clips.safetensors", crops=3)
    found, wanted = network(folder / "h264.mp4"), checkpoint(folder / "h264.mp4")
    assert_close(found.probabilities, wanted.probabilities, terms_of(tiny_model(ndim=3)))
    assert [label.name for label in found.labels] == [label.name for label in wanted.labels]
    assert (found.checkpoint, found.frames) == (wanted.checkpoint, wanted.frames)
    assert network.contract == checkpoint.contract  # classes, input, scores and proof travel along


@pytest.mark.parametrize("form", FORMS)
def test_signals_arrive_after_networks_are_dropped_in_any_order(form: str, folder: Path) -> None:
    """A runtime may give the thread a stack for its signals, and free it: then the next signal ends the process."""
    code = (
        "import os, signal, sys; from uniformer.speed.runtimes import open_exported as opened; "
        "signal.signal(signal.SIGUSR1, lambda *_: print('arrived')); "
        "first, second, third = (opened(sys.argv[1]) for _ in range(3)); "
        "del first; del third; del second; os.kill(os.getpid(), signal.SIGUSR1)"
    )
    done = run_python(code, str(folder / f"clips{form}"))
    assert (done.returncode, done.stdout) == (0, "arrived\n"), done.stderr


@pytest.mark.parametrize("form", FORMS)
def test_runtimes_report_nothing_and_keep_nothing(form: str, folder: Path, tmp_path: Path) -> None:
    """ONNX Runtime, unless it is told, gives the machine a number in the user's cache folder, and reports it."""
    code = (
        "import os, sys; from uniformer.speed.runtimes import open_exported; before = dict(os.environ); "
        "open_exported(sys.argv[1]); sys.exit(before != os.environ)"
    )
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run_python(code, str(folder / f"clips{form}"), **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [*tmp_path.rglob("*")] == []


@pytest.mark.parametrize("form", FORMS)
def test_prediction_by_the_command_needs_no_torch(form: str, folder: Path) -> None:
    code = (
        "import sys; from uniformer.cli.main import main; status = main(sys.argv[1:]); "
        "unwanted = ('torch', 'torchvision', 'timm', 'huggingface_hub', 'safetensors', 'rich', 'openvino_telemetry'); "
        "print([name for name in unwanted if name in sys.modules]); sys.exit(status)"
    )
    arguments = ["predict", "--checkpoint", str(folder / f"clips{form}"), "--format", "jsonl"]
    done = run_python(code, *arguments, str(folder / "h264.mp4"), str(folder / "gone.mp4"))
    assert done.returncode == 1, done.stderr
    good, bad, unwanted = done.stdout.splitlines()
    wanted = Predictor(folder / "clips.safetensors")(folder / "h264.mp4")
    assert json.loads(good)["labels"][0]["name"] == wanted.labels[0].name
    assert_close([json.loads(good)["labels"][0]["score"]], [wanted.labels[0].score], terms_of(tiny_model(ndim=3)))
    assert "no such file" in json.loads(bad)["error"]
    assert unwanted == "[]"


@pytest.mark.parametrize("checkpoint", ["a file", BUNDLED])
def test_prediction_from_a_checkpoint_imports_torch_and_nothing_slow_besides(checkpoint: str, folder: Path) -> None:
    code = (
        "import sys; from uniformer.cli.main import main; main(sys.argv[1:]); "
        "slow = ('torchvision', 'timm', 'huggingface_hub', 'rich', 'torch._dynamo', 'openvino', 'onnxruntime'); "
        "print([name for name in slow if name in sys.modules])"
    )
    network = str(folder / "clips.safetensors") if checkpoint == "a file" else checkpoint
    done = run_python(code, "predict", "--checkpoint", network, str(folder / "h264.mp4"))
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


ALONE = """
import contextlib, importlib.util, io, json, sys

class OnlyThese:  # the packages of an installation without torch, as docs/speed.md lists them, and what they need
    def find_spec(self, name, path=None, target=None):
        first = name.partition(".")[0]
        if first in sys.argv[1].split(",") or first in sys.stdlib_module_names or path is not None:
            return None
        sys.meta_path.remove(self)
        try:
            found = importlib.util.find_spec(first)
        finally:
            sys.meta_path.insert(0, self)
        if found is not None and "site-packages" in str(found.origin or found.submodule_search_locations):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, OnlyThese())
from uniformer.cli.main import main
for command in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(command)
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""


def run_alone(allowed: str, *commands: tuple[object, ...]) -> list[Ended]:
    """Commands, one after the other, in a process that has these packages only."""
    done = run_python(ALONE, allowed, json.dumps([[str(word) for word in command] for command in commands]))
    assert done.returncode == 0, done.stderr
    return [Ended(*json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("form", "runtime"), [(".onnx", "onnxruntime,flatbuffers,google"), (".xml", "openvino")])
def test_an_installation_without_torch(form: str, runtime: str, folder: Path, tmp_path: Path) -> None:
    """The packages that the page lists are all that is needed, and what needs more says so in one line."""
    listed = re.search(r"pip install -c constraints\.txt (.*) onnxruntime", (DOCS / "speed.md").read_text("utf-8"))
    assert listed is not None
    names = {"pillow": "PIL", "rich": "rich,markdown_it,mdurl,pygments"}
    allowed = ",".join(["uniformer", runtime, *(names.get(name, name) for name in listed[1].split())])
    network, video = folder / f"clips{form}", folder / "h264.mp4"
    predicted, models, *without = run_alone(
        allowed,
        ("predict", video, "--checkpoint", network, "--format", "jsonl"),
        ("models", "*k400*"),
        ("predict", video, "--checkpoint", folder / "clips.safetensors"),
        ("verify", folder / "clips.safetensors"),
        ("demo", "--out", tmp_path / "page.html"),
    )
    assert predicted.status == 0, predicted.err
    assert json.loads(predicted.out)["labels"][0]["name"].startswith("class of number")
    assert models.status == 0
    missing = "uniformer: this needs the package 'torch', which is not installed: pip install torch\n"
    assert without == [Ended(2, "", missing)] * 3


def test_help_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import contextlib, sys\nfrom uniformer.cli.main import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['predict', '--help'])\n"
        "print([name for name in ('torch', 'numpy', 'av', 'PIL', 'rich') if name in sys.modules])"
    )
    assert run_python(code).stdout.splitlines()[-1] == "[]"


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


@pytest.mark.parametrize("form", FORMS)
def test_many_files_and_resuming(form: str, folder: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(folder / "h264.mp4", tmp_path / name)
    network = Predictor(folder / f"clips{form}")
    results = list(network.run([tmp_path / "a.mp4", tmp_path / "gone.mp4", tmp_path / "b.mp4"]))
    assert [type(result) for result in results] == [Prediction, Failure, Prediction]
    out = str(tmp_path / "results.jsonl")
    arguments = ["predict", str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), "--out", out, "--resume", "--checkpoint"]
    assert main([*arguments, str(folder / f"clips{form}")]) == 0
    before = Path(out).read_bytes()
    assert main([*arguments, str(folder / f"clips{form}")]) == 0
    assert Path(out).read_bytes() == before
    assert main([*arguments, str(folder / "clips.safetensors")]) == 2  # other weights: rounded otherwise


@pytest.mark.parametrize(
    ("form", "options"),
    [
        (".onnx", {"ndim": 3, "keep_ratio": 0.5, "depths": (1, 1, 3, 2)}),
        (".xml", {"ndim": 3, "keep_ratio": 0.5, "overlap": 1, "depths": (1, 1, 3, 2)}),
        pytest.param(".xml", {"token_labeling": True, "overlap": 4}, marks=pytest.mark.slow),
        pytest.param(".xml", {"ndim": 3, "split_attention": True}, marks=pytest.mark.slow),
        pytest.param(
            ".xml", {"window": 3, "global_every": 2, "depths": (1, 1, 2, 1), "layer_scale": 0.3}, marks=pytest.mark.slow
        ),
    ],
)
def test_every_family_can_be_exported(form: str, options: dict[str, Any], tmp_path: Path, one_thread: None) -> None:
    model = tiny_model(**options)
    spec = CLIPS if model.config.is_video else replace(IMAGES, size=(64, 96), resize=96)
    receipt = uniformer.export(model, Contract(model.config, input=spec), tmp_path / f"network{form}")
    assert receipt.gap <= rounding(torch.float32, terms_of(model))
    network = open_exported(tmp_path / f"network{form}")
    frames = (4,) if model.config.is_video else ()
    for batch in (1, 5):
        x = torch.randn(batch, 3, *frames, *spec.size, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            wanted = model(x).numpy()
        assert_close(network(x.numpy(), 8), wanted, terms_of(model))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_optimize_hands_a_model_to_a_runtime(backend: Any, one_thread: None) -> None:
    model = tiny_model().train()
    fast = uniformer.optimize(model, backend=backend, example=torch.randn(1, 3, 64, 96))
    assert model.training
    x = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        assert_close(fast(x), model.eval()(x), terms_of(model))
    first = fast(x)
    fast(x + 1)
    assert torch.equal(first, fast(x))  # an answer is not overwritten by the next
    with refused(r"expected inputs of shape \(B, 3, 64, 96\), got \(1, 3, 64, 64\)"):
        fast(torch.randn(1, 3, 64, 64))


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    model = tiny_model()
    contract = Contract(model.config, input=IMAGES)
    with refused(f"network.pb: expected the name of an exported network, which ends in {ENDS}"):
        uniformer.export(model, contract, tmp_path / "network.pb")
    with refused("expected a contract that describes the input"):
        uniformer.export(model, Contract(model.config), tmp_path / "network.xml")
    with refused("cannot write /dev/null/gone"):
        uniformer.export(model, contract, "/dev/null/gone/network.xml")
    backbone = tiny_model(output="maps", num_classes=0)
    with refused("expected a network with a classifier, got a backbone"):
        uniformer.export(backbone, Contract(backbone.config, input=IMAGES), tmp_path / "network.xml")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_names_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model()
    contract = Contract(model.config, input=IMAGES)
    views = np.zeros((1, 3, 64, 64), np.float32)
    for name, more in (("-a b.ONNX", []), ("Net.Xml", ["Net.bin"])):
        pytest.importorskip("onnxscript" if not more else "openvino")
        uniformer.export(model, contract, name)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, *more])
        assert open_exported(name)(views, 1).shape == (1, 7)
        for path in tmp_path.iterdir():
            path.unlink()
    for name in ("net.pb", "net", "-", "net.onnx.txt"):
        with refused(f"^{name}: expected the name of an exported network, which ends in {ENDS}$"):
            uniformer.export(model, contract, name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_other_logits_is_not_kept(tmp_path: Path, one_thread: None) -> None:
    model = tiny_model()
    (tmp_path / "network.onnx").write_text("what was there before")
    with torch.no_grad():
        model.get_parameter("stages.2.blocks.0.ffn.fc1.weight").fill_(float("nan"))
    with refused("expected the model's logits of the exported file, they are off by nan"):
        uniformer.export(model, Contract(model.config, input=IMAGES), tmp_path / "network.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    assert (tmp_path / "network.onnx").read_text() == "what was there before"


@pytest.mark.parametrize("form", [*FORMS, ".pt2"])
def test_a_disk_that_is_full_is_one_line_and_leaves_what_was_there(form: str, tmp_path: Path, one_thread: None) -> None:
    """Files may grow to 50 kB only."""
    model, out = tiny_model(), tmp_path / f"network{form}"
    out.write_text("what was there before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with refused(f"^cannot write {re.escape(str(out))}: "):
            uniformer.export(model, Contract(model.config, input=IMAGES), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "what was there before"


@pytest.mark.parametrize("form", FORMS)
def test_files_that_are_no_exports_are_one_line(form: str, folder: Path, tmp_path: Path) -> None:
    runtime = "OpenVINO" if form == ".xml" else "ONNX Runtime"
    with refused("found no such file"):
        open_exported(tmp_path / f"gone{form}")
    (tmp_path / f"text{form}").write_text("<net>not a network</net>")
    with refused(f"{runtime} cannot read it"):
        open_exported(tmp_path / f"text{form}")
    whole = (folder / f"clips{form}").read_bytes()
    (tmp_path / f"half{form}").write_bytes(whole[: len(whole) // 2])
    with refused(f"{runtime} cannot read it"):
        open_exported(tmp_path / f"half{form}")
    if form == ".xml":
        shutil.copy(folder / "clips.xml", tmp_path / "alone.xml")  # without its weights
        with refused("OpenVINO cannot read it"):
            open_exported(tmp_path / "alone.xml")


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_network_of_something_else_is_refused(form: str, folder: Path, tmp_path: Path) -> None:
    content = (folder / f"clips{form}").read_bytes()
    name = b"tiny.test"  # its id, which only the contract holds
    assert name in content
    for file in ("clips.bin",) if form == ".xml" else ():
        shutil.copy(folder / file, tmp_path / "other.bin")
    if form == ".xml":
        (tmp_path / "other.xml").write_bytes(content.replace(b"<uniformer ", b"<uniforms "))
    else:
        (tmp_path / "other.onnx").write_bytes(content.replace(b"uniformer\x12", b"uniforms!\x12"))
    with refused("found no description of a model in it"):
        open_exported(tmp_path / f"other{form}")


def test_what_an_exported_network_cannot_do_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", str(folder / "h264.mp4"), "--checkpoint", str(folder / "clips.xml")]
    for more, said in (
        (["--device", "cuda"], "exported networks compute in float32 on the CPU, got float32 on cuda"),
        (["--precision", "bfloat16"], "exported networks compute in float32 on the CPU, got bfloat16 on auto"),
        (["--plain"], "expected a checkpoint to choose a form of, got an exported network"),
    ):
        assert main([*arguments, *more]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("form", "package", "extra"), [(".xml", "openvino", "openvino"), (".onnx", "onnxruntime", "onnx")]
)
def test_a_missing_runtime_is_one_line(form: str, package: str, extra: str, folder: Path) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from uniformer.cli.main import main; "
    code += "sys.exit(main(sys.argv[1:]))"
    done = run_python(code, "predict", str(folder / "h264.mp4"), "--checkpoint", str(folder / f"clips{form}"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"needs the package '{package}': pip install 'uniformer[{extra}]'" in done.stderr


def test_threads_are_chosen_by_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the time may depend on them."""
    views = np.random.default_rng(0).standard_normal((1, 3, 4, 64, 64)).astype(np.float32)
    answers = []
    for threads in ("1", "2", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        answers += [open_exported(folder / f"clips{form}")(views, 1) for form in FORMS]
    for answer in answers:
        assert_close(answer, answers[0], terms_of(tiny_model(ndim=3)))


def test_a_graph_is_for_the_frames_and_size_of_its_example(folder: Path, tmp_path: Path) -> None:
    model = tiny_model(ndim=3)
    write_graph(model, (3, 6, 32, 64), tmp_path / "network.onnx", Contract(model.config))
    network = open_exported(tmp_path / "network.onnx")
    assert network(np.zeros((2, 3, 6, 32, 64), np.float32), 2).shape == (2, 7)
    with refused("network.onnx cannot compute views of .3, 4, 32, 64.: .*Got invalid dimensions"):
        network(np.zeros((2, 3, 4, 32, 64), np.float32), 2)


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_network_that_is_not_what_it_says_is_one_line(form: str, folder: Path, tmp_path: Path) -> None:
    """Its description is compared with its graph when it is opened, and its logits with its classes when it runs."""
    import onnx
    import openvino

    config = tiny_model(ndim=3).config
    graph: Any = (
        openvino.Core().read_model(folder / "clips.xml") if form == ".xml" else onnx.load(folder / "clips.onnx")
    )

    def described(contract: Contract) -> Path:
        """The graph with another description."""
        path = tmp_path / f"network{form}"
        if form == ".xml":
            graph.set_rt_info(contract.to_json(), [METADATA])
            save_openvino(graph, path)
        else:
            onnx.helper.set_model_props(graph, {METADATA: contract.to_json()})
            onnx.save(graph, path)
        return path

    with refused("network.* expected views of .3, 400, 64, 64., as its description says, found .3, 4, 64, 64."):
        Predictor(described(Contract(config, input=replace(CLIPS, frames=400))))
    network = open_exported(described(Contract(replace(config, num_classes=9), input=CLIPS)))
    with refused("network.* expected logits of shape .2, 9., as it says, got .2, 7."):
        network(np.zeros((2, 3, 4, 64, 64), np.float32), 2)
    network = open_exported(described(Contract(config)))
    with refused("network.* cannot compute views of .3, 5, 64, 64.: "):
        network(np.zeros((2, 3, 5, 64, 64), np.float32), 2)


@pytest.mark.parametrize("form", FORMS)
def test_damaged_descriptions_fail_in_one_line_or_work(form: str, folder: Path, tmp_path: Path) -> None:
    """Bytes changed in the description; what is damaged in a graph is for the runtimes to refuse."""
    content, rng = (folder / f"clips{form}").read_bytes(), np.random.default_rng(0)
    if form == ".xml":
        shutil.copy(folder / "clips.bin", tmp_path / "odd.bin")
    views = np.zeros((1, 3, 4, 64, 64), np.float32)
    begin = content.index(b"num_classes")
    for _ in range(30):
        odd = bytearray(content)
        for place in rng.integers(begin, begin + 200, 3):
            odd[place] = rng.integers(0, 256)
        (tmp_path / f"odd{form}").write_bytes(odd)
        said = ""
        try:
            open_exported(tmp_path / f"odd{form}")(views, 1)
        except InputError as error:
            said = str(error)
        assert "\n" not in said
        assert len(said) < 600

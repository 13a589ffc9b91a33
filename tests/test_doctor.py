"""`uniformer doctor`: what it says here, what it says of faults, and that nothing around it makes it fail."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.command_line import Cli
from tests.test_sixteen_bits import break_torch
from uniformer.network.variants import VARIANTS
from uniformer.reading.decoders import FILMS, Film, encode, try_decoder, try_decoders
from uniformer.speed import machine, selftests
from uniformer.speed.known_faults import FAULTS, Machine, is_between, known_faults
from uniformer.speed.timings import RUNTIMES
from uniformer.support.checks import Check, guarded

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[1]

ALONE = """
import sys
sys.modules["onnxruntime"] = None  # its export takes as long as OpenVINO's, and has tests of its own
sys.addaudithook(lambda event, _: event in ("socket.connect", "socket.getaddrinfo") and print(event, file=sys.stderr))
from uniformer.cli.main import main
sys.exit(main(sys.argv[1:]))
"""  # whoever asks a network is heard


def run_alone(folder: Path, *options: str, **environment: str) -> dict[str, Any]:
    """What `doctor --json` says in a process of its own whose folder may only be read."""
    folder.chmod(0o500)
    done = subprocess.run(
        [sys.executable, *options, "-c", ALONE, "doctor", "--json"],
        cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert (done.returncode, done.stderr, [*folder.iterdir()]) == (0, "", []), done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where nothing is to be had: no cache that can be written, no network, no terminal, no home, hardly a variable."""
    folder = tmp_path_factory.mktemp("read-only")
    nowhere = {"XDG_CACHE_HOME": "/dev/null", "HF_HOME": "/dev/null/hub", "UNIFORMER_CHECKPOINTS": "/dev/null/placed"}
    return run_alone(folder, HOME=str(folder / "nobody"), **nowhere)


def checks_of(page: dict[str, Any], part: str) -> dict[str, Check]:
    return {check["name"]: Check(**check) for check in page["checks"] if check["part"] == part}


def test_it_tells_of_every_part_and_nothing_needed_is_broken(page: dict[str, Any]) -> None:
    parts = dict.fromkeys(check["part"] for check in page["checks"])
    assert list(parts) == [
        "machine", "torch", "libraries", "known faults", "extras", "caches", "fonts", "decoders", "self-tests",
    ]  # fmt: skip
    assert page["broken"] == 0
    assert not any(Check(**check).is_broken for check in page["checks"])
    assert checks_of(page, "libraries")["torch"].found == metadata.version("torch")
    decoded = {name: check.found for name, check in checks_of(page, "decoders").items()}
    assert decoded.items() >= dict.fromkeys(FILMS, "as coded").items()
    for check in page["checks"]:
        assert check["found"], check
        assert bool(check["remedy"]) == (check["verdict"] != "ok"), check


def test_caches_that_cannot_be_written_are_told(page: dict[str, Any]) -> None:
    caches = checks_of(page, "caches")
    for name, remedy in (("measurements", "XDG_CACHE_HOME=FOLDER"), ("checkpoints of the hub", "HF_HOME=FOLDER")):
        assert (caches[name].verdict, caches[name].remedy) == ("bad", remedy)
        assert caches[name].found.startswith("/dev/null/")
        assert caches[name].found.endswith(": cannot be written")
    assert caches["placed checkpoints"].found == "/dev/null/placed: cannot be read"
    assert caches["temporary files"].verdict == "ok"


def test_letters_that_the_font_lacks_are_told(page: dict[str, Any]) -> None:
    (check,) = checks_of(page, "fonts").values()
    assert check.found.startswith("English, ")
    assert check.found.count(", ") == len(machine.LETTERS) - 1
    assert ("no " in check.found) == bool(check.remedy) == (check.verdict == "absent")


def test_the_self_tests_are_of_every_kind_and_type(page: dict[str, Any]) -> None:
    tests = checks_of(page, "self-tests")
    kinds = ("2D convolutions", "3D convolutions", "attention")
    wanted = {f"{kind}, {dtype}" for kind in kinds for dtype in ("float32", "bfloat16", "float16")}
    assert wanted | {"our depthwise, float32", "products, bfloat16", "Winograd's 3x3, float32"} <= tests.keys()
    exact = {name: check.verdict for name, check in tests.items() if name.endswith("float32")}
    assert set(exact.values()) == {"ok"}, exact
    if importlib.util.find_spec("openvino"):
        assert tests["export to openvino"].found.startswith("torch's logits but for ")


def test_an_installation_without_torch(tmp_path: Path) -> None:
    """The packages that run exported networks, in a folder of their own, and no others."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("uniformer", "numpy", "av", "pillow", "rich", "markdown-it-py", "mdurl", "pygments", "onnxruntime"):
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            if not (packages / top).exists() and not top.endswith((".pth", ".py", "__pycache__")):
                (packages / top).symlink_to(found.locate_file(top))
    (tmp_path / "folder").mkdir()
    page = run_alone(tmp_path / "folder", "-S", PYTHONPATH=f"{ROOT}{os.pathsep}{packages}")
    assert {check["part"] for check in page["checks"]} == {
        "machine", "libraries", "known faults", "extras", "caches", "fonts", "decoders",
    }  # fmt: skip
    libraries = checks_of(page, "libraries")
    assert (libraries["torch"].verdict, libraries["numpy"].verdict) == ("absent", "ok")
    assert libraries["torch"].found == "not installed: exported networks run without it"
    assert checks_of(page, "extras")["parquet"].verdict == "absent"
    assert checks_of(page, "extras")["parquet"].remedy == "pip install 'uniformer[parquet]'"


# ---- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def without_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where they are not installed."""
    for package in RUNTIMES:
        monkeypatch.setitem(sys.modules, package, None)


def test_what_is_needed_and_broken_is_exit_status_1_and_what_is_alike_one_line(
    cli: Cli, without_runtimes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *a, **k: right(x, *a, **k) * (0.5 if x.dtype == torch.float32 else 1))
    before = dict(os.environ), torch.get_rng_state().tolist(), torch.get_num_threads()
    ended = cli("doctor")
    assert (ended.status, ended.err) == (1, "")
    assert before == (dict(os.environ), torch.get_rng_state().tolist(), torch.get_num_threads())
    lines = ended.out.splitlines()
    assert f"  ok  {', '.join(FILMS)}  as coded" in lines
    (line,) = [text for text in lines if text.startswith("  bad ") and "float32" in text]
    assert "2D convolutions, float32" in line
    assert "6 of 6 cases wrong: " in line
    assert lines[-1].endswith(", 1 thing that the package needs broken")
    assert "export to" not in ended.out


# ---- faults ----------------------------------------------------------------------------------------------------------


def self_test(name: str) -> Check:
    """A self-test by its name; those after it are not done."""
    return next(check for check in selftests.self_tests(torch.device("cpu")) if check.name == name)


def test_a_gradient_that_is_wrong_in_16_bits_is_worked_round(monkeypatch: pytest.MonkeyPatch) -> None:
    break_torch(monkeypatch, "conv2d", lambda weight: weight.shape[-1] == 5)
    check = self_test("2D convolutions, bfloat16")
    assert (check.verdict, check.is_broken) == ("worked round", False)
    assert check.found.startswith("1 of 6 cases wrong: depthwise 5x5 (cosine ")
    assert "`uniformer train` tries its layers" in check.remedy
    assert self_test("2D convolutions, float32").verdict == "ok"


def test_an_output_that_is_wrong_in_16_bits_is_bad_and_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention",
        lambda q, k, v: right(q, k, v) * (0.9 if torch.is_autocast_enabled("cpu") else 1),
    )  # fmt: skip
    check = self_test("attention, bfloat16")
    assert (check.verdict, check.remedy, check.is_broken) == ("bad", "--precision float32", False)


def test_a_type_that_torch_refuses_is_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    right, refusal = F.conv2d, "DNNL does not support bf16/f16 backward on the platform with avx2_vnni_2"

    def refusing(*args: Any, **more: Any) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError(f"{refusal}\nat convolution.cpp")
        return right(*args, **more)

    monkeypatch.setattr(F, "conv2d", refusing)
    check = self_test("2D convolutions, float16")
    assert (check.verdict, check.remedy, check.is_broken) == ("bad", "precision=float32", False)
    assert check.found == f"RuntimeError: {refusal}"


def test_an_export_that_fails_is_said_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")  # nowhere to write to
    checks = [c for c in selftests.self_tests(torch.device("cpu")) if c.name.startswith("export")]
    assert len(checks) == sum(importlib.util.find_spec(package) is not None for package in RUNTIMES)
    assert all((c.verdict, c.needed) == ("bad", False) and "--compute fast" in c.remedy for c in checks)


def test_the_kinds_that_are_tried_are_all_that_the_family_has() -> None:
    names = tuple(name for name, config in VARIANTS.items() if config.head is None)
    assert set(selftests.family_kinds(names)) == set(selftests.family_kinds())


def test_a_part_that_ends_with_an_error_is_one_check() -> None:
    def half() -> Any:
        yield Check("caches", "first", "", "there")
        raise ModuleNotFoundError("No module named 'av'", name="av")

    first, last = guarded("caches", half, needed=True)
    assert first.verdict == "ok"
    assert (last.is_broken, last.found, last.remedy) == (
        True,
        "ModuleNotFoundError: No module named 'av'",
        "pip install av",
    )


# ---- decoders --------------------------------------------------------------------------------------------------------


def test_a_decoder_that_gives_other_frames_is_bad() -> None:
    """A film that stands still, as of a decoder that seeks nothing."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 80, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    check = try_decoder("h264", FILMS["h264"], out.getvalue(), "pyav")
    assert check.is_broken
    assert check.found == "expected frames of the levels [180, 55, 105], got [80, 80, 80]"


def test_a_codec_without_an_encoder_is_looked_up() -> None:
    films = {name: Film("no such encoder", "mp4", {}) for name in ("av1", "h265")}
    decoded, lacking = try_decoders(films)
    assert (decoded.verdict, decoded.found) == ("ok", "a decoder is there, not tried")
    assert (lacking.verdict, lacking.found, lacking.is_broken) == ("bad", "no decoder", False)


def test_encoding_says_nothing_and_leaves_the_environment(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SVT_LOG", raising=False)
    assert encode(FILMS["av1"])
    assert "SVT_LOG" not in os.environ
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("SVT_LOG", "1")
    assert encode(FILMS["av1"])
    assert os.environ["SVT_LOG"] == "1"


# ---- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "first", "end", "holds"), [
    ("2.15.0+cpu", "2.15", None, True), ("2.14.1", "2.15", None, False), ("9.14.2", "9.8", "9.15", True),
    ("9.15.0", "9.8", "9.15", False), ("2026.4.1", "2026.4", None, True), ("unknown", "1.0", None, False),
])  # fmt: skip
def test_versions_are_compared_by_number(version: str, first: str, end: str | None, holds: bool) -> None:
    assert is_between(version, first, end) == holds


def test_faults_are_told_where_they_hold() -> None:
    versions = {fault.package: fault.first for fault in FAULTS}
    here = Machine(("avx512f", "avx512_bf16", "avx512_vnni"), has_gpu=False, system="Linux", machine="x86_64")
    told = [*known_faults(versions | {"torch": "2.15.0"}, here)]
    assert [check.name for check in told] == [
        *2 * ["torch 2.15.0"], *3 * ["openvino 2026.4"], "onnxruntime 1.29",
    ]  # fmt: skip
    assert all(check.verdict == "worked round" for check in told)
    with_gpu = [*known_faults({"cudnn": "9.10.2", "torch": "2.9.1"}, Machine((), has_gpu=True))]
    assert [(check.name, check.verdict) for check in with_gpu] == [("cudnn 9.10.2", "bad")]
    (none,) = known_faults({"torch": "2.8.0"}, Machine((), has_gpu=False))
    assert (none.verdict, none.found) == ("ok", "none is known to be bad here")


def test_the_page_has_the_table_with_its_sources() -> None:
    log, page = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("log.md", "doctor.md"))
    rows = [line for line in page.splitlines() if re.match(r"\| [\w-]+ \d", line)]
    assert len(rows) == len(FAULTS)
    for fault, row in zip(FAULTS, rows, strict=True):
        assert row.casefold().startswith(f"| {fault.package} {fault.first} ")
        assert ("Reported" in row) == ("(reported" in fault.what)
        source, _, word = fault.source.partition("docs/log.md: ")
        assert word in log
        assert all(number in row for number in re.findall(r"\d{4,}", source))


def test_requirements_are_those_of_the_installation() -> None:
    found = machine.requirements()
    assert {r.package for r in found if not r.extra} >= {"torch", "torchvision", "timm", "av", "numpy", "pillow"}
    assert not {r.extra for r in found} & {"test", "dev"}
    assert all(r.least[0].isdigit() for r in found)


def test_threads_that_share_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> Check:
        return next(check for check in machine.look_at_machine() if check.name == "threads")

    cores = machine.cores_here()
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
    assert threads().verdict == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores + 1))
    assert (threads().verdict, threads().remedy.split(":")[0]) == ("bad", f"OMP_NUM_THREADS={cores}")

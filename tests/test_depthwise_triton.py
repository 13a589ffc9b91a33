"""Our GPU kernels: under Triton's interpreter, through its compiler, and on a GPU where there is one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interpreted_kernels import CASES, DTYPES, all_of_it, drawn, needs_cuda, terms
from tests.tolerance import assert_close, off, rounding
from uniformer.speed.depthwise import depthwise, depthwise_plain

pytest.importorskip("triton")


def allowed(dtype: torch.dtype, terms: int) -> float:
    """The kernels sum in float32, and round to their type once."""
    return rounding(torch.float32, terms) + (0 if dtype == torch.float32 else rounding(dtype))


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """What interpreted_kernels.py found. Triton decides when it is imported whether it interprets."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.interpreted_kernels"],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_the_plain_twin(case: str, interpreted: dict[str, Any]) -> None:
    shape, kernel, _, dtype, _ = CASES[case]
    found = interpreted[case]
    assert len(found["off"]) == 4  # the output, the gradients of input, filters and bias
    assert max(found["off"]) <= allowed(DTYPES[dtype], terms(shape, kernel))
    assert found["types"] == [f"torch.{dtype}"] * 4
    assert found["lies as x"]


def test_the_operators_are_what_torch_asks_of_them(interpreted: dict[str, Any]) -> None:
    assert interpreted["operator"]["opcheck"] == ["SUCCESS"]
    assert interpreted["operator"]["compiled is off"] <= rounding(torch.float32, 27)


def test_other_ways_of_calling(interpreted: dict[str, Any]) -> None:
    found = interpreted["other ways"]
    assert found["second derivatives"] <= rounding(torch.float32, 4 * 27 + 48)
    assert found["odd strides"] <= rounding(torch.float32, 27)
    cast, kept, off, off_kept = found["autocast"]
    assert (cast, kept) == ("torch.bfloat16", "torch.float32")  # what is added to keeps its digits
    assert off_kept <= rounding(torch.float32, 27) < off <= allowed(torch.bfloat16, 27)
    assert found["filters alone"] == [2, 1, 3, 3, 3]


def test_the_compiler_finds_registers_enough(tmp_path: Path) -> None:
    """For Hopper, which needs no GPU: values that do not fit into registers would make the kernels many times slower.

    Unrolled over all taps, the forward kernel took 9 KB of local memory for each thread.
    """
    from triton import backends

    tools = Path(backends.__path__[0], "nvidia", "bin")
    if not (tools / "cuobjdump").exists():
        pytest.skip("this Triton has no tools for NVIDIA's cards")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE.format(folder=str(tmp_path))],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in ("convolve", "correlate"):
        shown = subprocess.run(
            [tools / "cuobjdump", "-res-usage", tmp_path / f"{name}.cubin"], capture_output=True, text=True, check=True
        ).stdout
        ((registers, stack),) = re.findall(r"REG:(\d+) STACK:(\d+)", shown)
        assert int(stack) == 0, name
        assert int(registers) <= 168, name  # three programs of four warps on a multiprocessor at once
    for name in ("convolve", "correlate"):
        loads = re.findall(r"ld\.global\S*", (tmp_path / f"{name}.ptx").read_text())
        assert all(".v" in load for load in loads), name  # several channels at a time


COMPILE = """
from pathlib import Path
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from uniformer.speed import kernels as ours

maps, sizes = dict.fromkeys(("x", "y", "grad", "bias"), "*bf16"), dict.fromkeys(("taps", "sums_out"), "*fp32")
for name, kernel, values in (("convolve", ours._convolve, 2048), ("correlate", ours._correlate, 512)):
    positions, channels = ours._tile(64, 56 * 56, True, values)
    fixed = dict(C=64, K=5, LAST=True, POSITIONS=positions, CHANNELS=channels)
    signature = {{n: "constexpr" if n in fixed else (maps | sizes).get(n, "i32") for n in kernel.arg_names}}
    place = {{n: (i,) for i, n in enumerate(kernel.arg_names)}}
    aligned = {{place[n]: [["tt.divisibility", 16]] for n, kind in signature.items() if kind.startswith("*")}}
    source = ASTSource(kernel, signature, {{place[n]: v for n, v in fixed.items()}}, aligned)
    made = compile(source, target=GPUTarget("cuda", 90, 32))
    Path("{folder}", name + ".cubin").write_bytes(made.asm["cubin"])
    Path("{folder}", name + ".ptx").write_text(made.asm["ptx"])
"""


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(2, 64, 8, 56, 56), (1, 56, 3, 7, 9), (3, 320, 1, 14, 14), (2, 5, 40, 2, 2)])
def test_on_a_gpu(shape: tuple[int, ...], kernel: int, dtype: torch.dtype, residual: bool) -> None:
    for last in (True, False):
        given = [v.cuda() for v in drawn(shape, kernel, last, dtype)]
        found = all_of_it(lambda *v: depthwise(*v, "triton", residual=residual), *given)
        doubled = (v.double() for v in given)
        true = all_of_it(lambda x, *v: depthwise_plain(x, *v) + (x if residual else 0), *doubled)
        assert max(map(off, found, true)) <= allowed(dtype, terms(shape, kernel))
        assert found[0].stride() == given[0].stride()


@needs_cuda
def test_compiled_on_a_gpu() -> None:
    given = [v.cuda() for v in drawn((2, 64, 4, 14, 14), 5, True, torch.float32)]
    compiled = torch.compile(lambda *v: depthwise(*v, "triton"), fullgraph=True)
    found, wanted = (all_of_it(f, *given) for f in (compiled, lambda *v: depthwise(*v, "triton")))
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, terms((2, 64, 4, 14, 14), 5))


def test_triton_is_not_imported_unasked() -> None:
    code = "import sys, torch, uniformer\n"
    code += "uniformer.create_model('uniformer_nano_video')(torch.zeros(1, 3, 4, 64, 64))\n"
    code += "raise SystemExit('uniformer.speed.kernels' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

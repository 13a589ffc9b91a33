"""What a file says of itself is checked before anything is done with it: types, numbers, and sizes by its tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.test_save import edited
from tests.tiny import CLIPS, IMAGES, TINY, refused, save_tiny, tiny_model
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.keys import to_reference
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.save import save_checkpoint, verify
from uniformer.config import Config, InputSpec, to_dict
from uniformer.errors import InputError

ODD: tuple[Any, ...] = ("x", "", [], {}, [[]], None, True, -1, 0, 1.5, float("nan"), float("inf"), 1 << 40, -(1 << 70))
PLACES = [
    *(("config", f.name) for f in fields(Config)),
    *(("input", f.name) for f in fields(InputSpec)),
    *((f.name,) for f in fields(Contract)),
    *(("proof", name) for name in ("shape", "logits", "norm", "sha256", "contract_sha256")),
    ("config", "depths", 2), ("config", "dims", 3), ("input", "size", 0), ("input", "mean", 1), ("input", "std", 2),
    ("classes", 3), ("notes", 0), ("scores", "top1"), ("proof", "shape", 2), ("proof", "logits", 5), ("uniformer",),
]  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The contract of a small network of clips."""
    model = tiny_model(ndim=3)
    names = tuple(f"class of number {i}" for i in range(7))
    contract = Contract(model.config, "", CLIPS, names, "tiny.test", "seven", {"top1": 12.5}, "MIT", ("a note",))
    written = save_checkpoint(model, tmp_path_factory.mktemp("told") / "a.safetensors", contract)
    return json.loads(written.to_json())


def with_value(told: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = json.loads(json.dumps(told))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_value_of_any_kind_is_taken_or_refused_in_one_line(place: tuple[Any, ...], told: dict[str, Any]) -> None:
    """What is taken is of the declared type, and says again what was read."""
    for value in ODD:
        text = json.dumps(with_value(told, place, value))
        said, contract = None, None
        try:
            contract = Contract.from_json(text, "a.safetensors")
        except InputError as error:
            said = str(error)
        if contract is None:
            assert said.startswith("a.safetensors")
            assert "\n" not in said
            assert len(said) < 500
        else:
            again = Contract.from_json(contract.to_json(), "again")
            assert again == contract or "NaN" in text
            hash(contract.config)
            hash((contract.arch, contract.id, contract.dataset, contract.licence, contract.task, contract.classes))
            json.dumps(to_dict(contract.config), allow_nan=False)


BAD: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "text": (("config", "head_dim"), "16", "expected head_dim as int, got '16'"),
    "a truth": (("config", "num_classes"), True, "expected num_classes as int, got True"),
    "not a number": (("config", "mlp_ratio"), float("nan"), "expected mlp_ratio as float, got nan"),
    "infinite": (("input", "mean"), [0.5, 0.5, float("inf")], r"expected mean as tuple.* got \[0.5, 0.5, inf\]"),
    "too few": (("input", "size"), [64], r"expected size as tuple\[int, int\], got \[64\]"),
    "a list as text": (("arch",), [], r"expected arch as str, got \[\]"),
    "a name that is none": (("classes", 2), {"a": 1}, r"expected classes as tuple\[str, ...\], got "),
    "a score that is none": (("scores", "top1"), float("nan"), "expected scores as .* got {'top1': nan}"),
    "a score in words": (("scores", "top1"), "good", "expected scores as"),
    "frames": (("input", "frames"), 100_000, "expected at most 8388608 pixels in a view .* 100000 frames of"),
    "clips": (("input", "clips"), 1 << 30, "expected at most .* pixels in a view .* got 1073741824 views of 4 frames"),
    "a short side": (("input", "resize"), 1 << 30, "expected at most .* pixels .* short side 1073741824"),
    "deviation": (("input", "std", 1), 0.0, "expected a positive std"),
    "rate": (("input", "fps"), -1, "expected fps in"),
    "width of a head": (("config", "head_dim"), 1 << 40, "expected head_dim to divide the width 64"),
    "channels": (("config", "in_chans"), 1 << 15, r"expected in_chans in \[1, 1024\], got 32768"),
    "ratio": (("config", "mlp_ratio"), 1e9, r"expected mlp_ratio in"),
    "version": (("uniformer",), "1", "expected a whole number for its format"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said(case: str, told: dict[str, Any]) -> None:
    place, value, pattern = BAD[case]
    with refused(f"a.json.*{pattern}"):
        Contract.from_json(json.dumps(with_value(told, place, value)), "a.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 9999, '"\\ud800"', "nan", "[1e999]"])
def test_deep_and_odd_json_is_one_line(text: str, tmp_path: Path) -> None:
    with refused("a.json holds no readable description of a uniformer model"):
        Contract.from_json(text, "a.json")
    save_file(tiny_model().state_dict(), tmp_path / "a.safetensors", metadata={"uniformer": text})
    with refused("a.safetensors holds no readable description"):
        load_model(tmp_path / "a.safetensors")


def test_long_and_odd_texts_are_shown_in_part_and_in_one_line(told: dict[str, Any]) -> None:
    for text, said in (("x" * 1_000_000, r"x{50,}\.\.\."), ("\x1b[31m\n", r"\\x1b\[31m\\n'")):
        with refused(rf"a.json holds .* got \['{said}"):
            Contract.from_json(json.dumps(with_value(told, ("config", "head_dim"), [text])), "a.json")
    with refused(r"expected sampling 'dense', 'sparse' or none .images., got 'a\\nb'"):
        Contract.from_json(json.dumps(with_value(told, ("input", "sampling"), "a\nb")), "a.json")


def test_a_report_shows_what_a_file_says_in_one_line_each(tmp_path: Path) -> None:
    model = tiny_model()
    contract = Contract(model.config, input=IMAGES, notes=("first\x1b[2J\nsecond",))
    save_checkpoint(model, tmp_path / "a.safetensors", contract)
    lines = str(load_model(tmp_path / "a.safetensors")[2]).splitlines()
    assert "  note: first\\x1b[2J\\nsecond" in lines
    assert all(line.isprintable() for line in lines)


def test_names_of_classes_do_not_steer_a_terminal(tmp_path: Path, media: Path, cli: Any) -> None:
    model = tiny_model()
    names = tuple(f"\x1b[3{i}mred\r\n{'x' * 3000}" for i in range(7))
    contract = Contract(model.config, input=IMAGES, classes=names, id="an\x07id")
    save_checkpoint(model, tmp_path / "a.safetensors", contract)
    assert Contract.from_json(contract.to_json(), "again").classes == names
    done = cli("predict", media / "photos", "--checkpoint", tmp_path / "a.safetensors")
    assert done.status == 0
    assert all(line.isprintable() and len(line) < 500 for line in done.out.splitlines())
    assert "\\x1b[3" in done.out
    assert "intact (an\\x07id, 7 classes)" in cli("verify", tmp_path / "a.safetensors").out


def test_python_says_the_same() -> None:
    with refused("expected an odd time_kernel, got 2"):
        Config(ndim=3, time_kernel=2)
    with refused("expected dims as"):
        Config(dims=(1.5, 2, 3, 4))  # type: ignore[arg-type]
    with refused("expected scores as"):
        Contract(TINY, scores={"top1": float("inf")})
    assert Config(depths=[1, 2, 3, 4]).depths == (1, 2, 3, 4)  # type: ignore[arg-type]
    assert Config(mlp_ratio=3).mlp_ratio == 3
    assert (tiny_model(layer_scale=1).stages[0].blocks[0].scale1.dtype, TINY.layer_scale) == (torch.float32, None)
    with refused("expected layer_scale in"):
        Config(layer_scale=10**400)


def test_a_proof_is_of_the_built_in_input_and_of_numbers(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", CLIPS)
    edited(path, lambda c: c["proof"].update(shape=[1, 3, 100_000, 4096, 4096]))
    assert any("the proof is of an input of another shape" in problem for problem in verify(path)[1])
    for value in (float("nan"), float("inf"), 1e308):
        edited(save_tiny(path, CLIPS), lambda c, value=value: c["proof"].update(norm=value))
        assert any("logits on the built-in input are off" in problem for problem in verify(path)[1])


@pytest.mark.parametrize("change", [lambda told: [*told, 1.0], lambda told: told[:-1], lambda told: []])
def test_a_proof_has_the_first_logits_no_more_and_no_fewer(
    change: Callable[[list[float]], list[float]], tmp_path: Path
) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    edited(path, lambda c: c["proof"].update(logits=change(c["proof"]["logits"])))
    assert verify(path)[1] == [f"expected 7 logits in the proof, got {len(change([0.0] * 7))}"]


# ---- networks larger than their file ---------------------------------------------------------------------------------


def reference(**options: Any) -> dict[str, torch.Tensor]:
    return to_reference(tiny_model(**options).state_dict())


def blocks(count: int) -> dict[str, torch.Tensor]:
    one = {k: v for k, v in reference().items() if k.startswith("blocks3.0.norm1")}
    return {k.replace("blocks3.0", f"blocks3.{i}"): v for i in range(count) for k, v in one.items()}


def column(rows: int) -> torch.Tensor:
    return torch.zeros(rows, 1, dtype=torch.float8_e4m3fn)


BOMBS: dict[str, Callable[[], dict[str, torch.Tensor]]] = {  # without a contract: what the tensors say
    "classes": lambda: reference() | {"head.weight": column(2_000_000), "head.bias": torch.zeros(7)},
    "blocks": lambda: reference() | blocks(3000),
    "widths": lambda: reference() | {f"blocks{i}.0.pos_embed.bias": torch.zeros(1 << 16) for i in (1, 2, 3, 4)},
    "ratio": lambda: reference() | {"blocks1.0.mlp.fc1.bias": torch.zeros(400_000)},
    "channels": lambda: reference() | {"patch_embed1.proj.weight": torch.zeros(1, 500_000, 1, 1)},
    "frames of a kernel": lambda: reference(ndim=3) | {"patch_embed2.proj.weight": torch.zeros(1, 1, 500_001, 1, 1)},
}
SAYS: dict[str, dict[str, Any]] = {  # with one that says more than the tensors
    "blocks it says": {"depths": [1 << 10] * 4},
    "more blocks than tensors": {"depths": [1, 1, 1 << 9, 1]},
    "widths it says": {"dims": [1 << 15] * 4},
    "ratio it says": {"mlp_ratio": 64.0, "dims": [1 << 14] * 4},
    "classes it says": {"num_classes": 1 << 24},
    "channels it says": {"in_chans": 1 << 10, "dims": [1 << 14] * 4},
    "kernel it says": {"ndim": 3, "time_kernel": 31},
    "windows": {"window": 1 << 30},
}
CHILD = """
import sys, time
from tests.memory import peak_kilobytes
from uniformer.checkpoints.load import create_model, load_model
from uniformer.errors import InputError
for path in sys.argv[1:]:
    for load in (lambda: load_model(path, head_dim=1 if path.endswith("pth") else None),
                 lambda: create_model("uniformer_xxs", checkpoint=path)):
        try:
            load()
        except InputError as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 500, str(error)
            print("refused", flush=True)
print(peak_kilobytes())
"""


def test_a_network_larger_than_its_file_is_refused_before_it_is_built(tmp_path: Path) -> None:
    paths = []
    for name, make in BOMBS.items():
        paths.append(tmp_path / f"{name}.pth")
        torch.save(make(), paths[-1])
    for name, says in SAYS.items():
        paths.append(save_tiny(tmp_path / f"{name}.safetensors", IMAGES))
        edited(paths[-1], lambda c, says=says: (c["config"].update(says), c.update(classes=[], input=None)))
    assert all(path.stat().st_size < 3_500_000 for path in paths)
    child = subprocess.run([sys.executable, "-c", CHILD, *map(str, paths)], text=True, capture_output=True)
    *lines, kilobytes = child.stdout.splitlines() or [""]
    assert child.returncode == 0, (paths[len(lines) // 2 :][:1], child.stderr)
    assert len(lines) == 2 * len(paths), lines
    assert int(kilobytes) < 1_500_000


def test_a_contract_of_another_network_than_the_tensors_is_refused(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    edited(path, lambda c: c["config"].update(depths=[1, 1, 40, 1]))
    with refused("a.safetensors lacks 546 tensors of the model: stages.2.blocks.1"):
        load_model(path)
    edited(path, lambda c: c["config"].update(depths=[1, 1, 400, 1]))
    with refused("a.safetensors has .* tensors, too few for the 403 blocks that its description says"):
        load_model(path)
    assert len(load_file(path)) == len(tiny_model().state_dict())


def test_a_contract_with_half_a_character_is_verified_all_the_same(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    edited(path, lambda c: c.update(licence="\ud800"))
    _, problems = verify(path)
    assert problems

"""The smaller commands, and how all of them behave as processes: pipes, full disks, terminals, imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.command_line import Cli, Ended, at_a_terminal, one_line, predict, spawn
from tests.tiny import IMAGES, save_tiny, tiny_model
from uniformer.checkpoints.keys import to_reference
from uniformer.cli.tables import print_table


def test_models(cli: Cli) -> None:
    table = cli("models", "*k400*")
    assert table.status == 0
    assert "uniformer_small.k400_16x4 " in table.out
    assert "…" not in table.out  # nothing cut
    few = cli("models", "--dataset", "Kinetics-600", "--arch", "uniformer_base_video", "--json")
    records = [json.loads(line) for line in few.out.splitlines()]
    assert {(r["dataset"], r["arch"]) for r in records} == {("Kinetics-600", "uniformer_base_video")}
    assert all(r["input"]["sampling"] == "dense" and r["scores"]["top1"] > 80 for r in records)
    one = cli("models", "uniformer_small.k400_16x8")
    assert one.out.startswith("uniformer_small.k400_16x8\n")
    assert "uniformer_small_k400_16x8.pth" in one.out
    everything = cli("models")
    assert everything.out.splitlines()[-1].startswith(f"{len(everything.out.splitlines()) - 2} checkpoints.")
    one_line(cli("models", "*nothing*"), "no published checkpoint matches '*nothing*'")
    one_line(cli("models", "uniformer_smal.in1k"), "did you mean 'uniformer_small.in1k'")
    one_line(cli("models", "--task", "singing"), "no checkpoint has task 'singing'")


def test_verify(cli: Cli, media: Path, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    assert cli("verify", path) == Ended(0, f"{path}: intact (tiny.test, 7 classes)\n", "")
    data = bytearray(path.read_bytes())
    data[-100] ^= 0xFF
    path.write_bytes(data)
    ended = cli("verify", path)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"{path}: the tensors are not the ones that were saved")
    one_line(cli("verify", tmp_path / "none.safetensors"), "no checkpoint at")
    torch.save(to_reference(tiny_model().state_dict()), tmp_path / "a.pth")
    one_line(cli("verify", tmp_path / "a.pth"), "carries no proof to verify")


def test_convert(cli: Cli, tmp_path: Path) -> None:
    state = to_reference(tiny_model().state_dict())
    torch.save({"model": state}, tmp_path / "a.pth")
    one_line(cli("convert", tmp_path / "a.pth", tmp_path / "b"), "expected head_dim")
    one_line(cli("convert", tmp_path / "a.pth", tmp_path / "b", "--head-dim", 0), "a whole number from 1")
    one_line(cli("convert", tmp_path / "a.pth", tmp_path / "b", "--head-dim", 16, "--averaged"), "no averaged weights")
    ended = cli("convert", tmp_path / "a.pth", tmp_path / "b", "--head-dim", 16)
    assert ended.status == 0
    assert f"{len(state)} tensors loaded, 0 inflated, 0 new, 0 ignored" in ended.out
    assert "head_dim 16 from the caller" in ended.out
    assert ended.out.endswith(f"wrote {tmp_path / 'b'}\n")
    assert cli("verify", tmp_path / "b").status == 0
    assert cli("convert", tmp_path / "b", tmp_path / "c.pth").status == 0
    back = torch.load(tmp_path / "c.pth", weights_only=True)
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


# ---- processes -------------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error() -> None:
    for args in (("models",), ("models", "--json"), ("--help",)):
        ended = spawn(*args, shell='"$@" | head -1')
        assert ended.out.count("\n") == 1
        assert ended.err == ""


def test_a_full_disk_is_one_line(cli: Cli, media: Path) -> None:
    ended = spawn("models", shell='"$@" > /dev/full')
    assert (ended.status, ended.err) == (2, "uniformer: No space left on device\n")
    ended = predict(cli, media, media / "photos", "--out", "/dev/full", "--format", "jsonl", net="images")
    one_line(ended, "cannot write /dev/full: No space left on device")


def test_tables_are_neither_cut_nor_coloured_nor_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"[red]{'x' * 300}[/red]", ":smile: [0]", "b"]
    print_table(("name", "[n]"), [(name, "1") for name in names], right=(1,))
    width = len(names[0])
    rows = [("name", "[n]"), *((name, "1") for name in names)]
    assert capsys.readouterr().out == "".join(f"{name:{width}}  {number:>3}\n" for name, number in rows)
    coloured = spawn("models", env={"FORCE_COLOR": "1", "COLUMNS": "40", "TERM": "xterm-256color"})
    assert coloured.out == spawn("models").out
    assert "\x1b" not in coloured.out


def test_a_table_at_a_terminal_is_wrapped_and_not_cut(cli: Cli) -> None:
    shown = at_a_terminal("recipes", "uniformer_s*_k400", columns=60)
    assert "\x1b[1mrecipe" in shown
    lines = re.sub(r"\x1b\[\d*m", "", shown).splitlines()[:-1]  # the last is no row
    assert max(map(len, lines)) <= 60
    wanted = cli("recipes", "uniformer_s*_k400").out.splitlines()[:-1]
    assert len(lines) > len(wanted) > 3
    assert sorted(" ".join(lines).split()) == sorted(" ".join(wanted).split())


def test_a_terminal_that_cannot_show_a_character_is_no_error() -> None:
    ended = spawn("models", "uniformer_small.in1k", env={"PYTHONIOENCODING": "ascii"})
    assert (ended.status, ended.err) == (0, "")


LOADED = """
import sys
from uniformer.cli.main import main
sys.argv = sys.argv[1:]
try:
    main()
except SystemExit:
    pass
print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}))
"""


def loaded(*args: object) -> set[str]:
    """The top packages that a command imports."""
    done = subprocess.run([sys.executable, "-c", LOADED, "uniformer", *map(str, args)], text=True, capture_output=True)
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "LOADED", done
    return set(last[1:])


def test_help_and_models_import_no_torch() -> None:
    heavy = {"torch", "torchvision", "timm", "av", "numpy", "PIL", "huggingface_hub", "safetensors"}
    assert not loaded("--help") & heavy
    assert not loaded("models", "*k400*") & heavy


def test_predict_imports_neither_torchvision_nor_timm(media: Path) -> None:
    packages = loaded("predict", media / "videos/h264.mp4", "--checkpoint", media / "clips.safetensors")
    assert {"torch", "av"} <= packages
    assert not packages & {"torchvision", "timm", "huggingface_hub", "rich"}

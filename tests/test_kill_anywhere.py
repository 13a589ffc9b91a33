"""A short form of `kill_anywhere.py`, each verb killed once or more; and proof that it would notice what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.kill_anywhere import VERBS, difference, main, results


def test_every_verb_goes_on_after_a_kill(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--count", "1", "--seed", "3"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert [line.split()[0] for line in said.splitlines()[:-1]] == list(VERBS)


def test_what_is_lost_left_or_different_is_noticed(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "out").mkdir(parents=True)
        save_file({"a": np.arange(3)}, tmp_path / name / "out" / "a.safetensors", {"x": "1", "y": name[:1]})
        (tmp_path / name / "out" / "metrics.csv").write_text(f"step,samples_per_s,waiting\n1,{len(name)},0\n")
        (tmp_path / name / "out" / "facts.json").write_text(json.dumps({"a": 1}))
    one = tmp_path / "one" / "out"
    assert difference(results(one), results(tmp_path / "other" / "out")) == ""
    expected = results(one)
    (one / ".a.safetensors.0a1b2c3d.safetensors").touch()
    (one / "metrics.csv").write_text("step,samples_per_s,waiting\n2,0,0\n")
    save_file({"a": np.arange(1, 4)}, one / "a.safetensors", {"x": "1", "y": "o"})
    (one / "facts.json").unlink()
    assert difference(results(one), expected) == (
        "left behind: .a.safetensors.0a1b2c3d.safetensors; lost: facts.json; different: a.safetensors, metrics.csv"
    )

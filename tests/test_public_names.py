"""`dir` and `help` tell what there is, and the one table of names is true."""

from __future__ import annotations

import ast
import pkgutil
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import uniformer


def test_dir_shows_the_public_names_and_no_others() -> None:
    assert sorted([*uniformer.__all__, "__version__"]) == dir(uniformer)
    assert {"predict", "Predictor", "Contract", "parameter_groups", "load_recipe", "InputError"} <= set(dir(uniformer))
    assert {"Scores", "ObjectScores", "SegmentationScores"} <= set(dir(uniformer))  # what `evaluate` gives
    assert not {"Any", "TYPE_CHECKING", "annotations", "import_module"} & set(dir(uniformer))
    with pytest.raises(AttributeError, match="module 'uniformer' has no attribute 'predicts'"):
        _ = uniformer.predicts  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", uniformer.__all__)
def test_every_name_is_at_home_where_the_table_says(name: str) -> None:
    home = f"uniformer.{uniformer._PUBLIC[name][0]}"
    value = getattr(uniformer, name)
    assert value is getattr(import_module(home), name)
    assert value.__module__ == home
    assert (value.__doc__ or "").strip()


def test_type_checkers_see_the_names_of_the_table() -> None:
    tree = ast.parse(Path(uniformer.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"uniformer.{home}" for name, (home, _) in uniformer._PUBLIC.items()}


def test_no_name_is_a_module_too() -> None:
    """Importing the module would put it in the name's place."""
    assert not {module.name for module in pkgutil.iter_modules(uniformer.__path__)} & set(uniformer.__all__)


def test_help_begins_with_every_name_and_a_line_on_it() -> None:
    text = pydoc.plain(pydoc.render_doc(uniformer)).split("PACKAGE CONTENTS")[0]
    for name, (_, what) in uniformer._PUBLIC.items():
        assert f"    {name:<20}{what}\n" in text
    assert max(map(len, (uniformer.__doc__ or "").splitlines())) <= 120


def test_importing_costs_nothing() -> None:
    code = "import sys, uniformer; dir(uniformer); print(sorted({'torch', 'numpy', 'PIL', 'av'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

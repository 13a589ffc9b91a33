"""Programs beside the package, as modules to be tested."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def script(path: str) -> Any:
    """A fixture: the program at a path in the repository as a module, which finds its neighbours while a module of
    tests runs."""

    @pytest.fixture(scope="module")
    def module() -> Iterator[ModuleType]:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(ROOT / Path(path).parent)
            yield import_module(Path(path).stem)

    return module

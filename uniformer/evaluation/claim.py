"""What the results in a folder are results of, as a JSON file beside them: a run goes on with its own only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uniformer.errors import InputError, cannot_write
from uniformer.support.files import atomic_path


def claim(path: Path, run: Mapping[str, Any], what: str) -> None:
    """Write into `path` what the folder's results, `what` in a word, are of; or find the same said there already.

    Raises `InputError` where its folder holds another run's results or cannot be written.
    """
    found = read_claim(path)
    if found is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path.parent, error) from None
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
        return
    other = [name for name in {**run, **found} if found.get(name) != run.get(name)]
    if other:
        raise InputError(
            f"{path.parent} holds {what} of another run ({', '.join(other)} differ): expected an empty folder or the "
            "same run"
        )


def read_claim(path: Path) -> dict[str, Any] | None:
    """What a folder's results are of; None where there are none. Raises `InputError` for a damaged file."""
    if not path.is_file():
        return None
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a description of results, found a damaged one: {error}") from None
    if not isinstance(run, dict):
        raise InputError(f"{path}: expected a description of results, found something else")
    return run

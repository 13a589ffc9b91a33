"""Files of scores: arrays, and facts that are none as JSON beside them, in one .npz. numpy only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from uniformer.errors import InputError
from uniformer.support.files import atomic_path
from uniformer.support.texts import parse_json

S = TypeVar("S")
Arrays = Mapping[str, npt.NDArray[Any]]


def check_name(path: Path, *suffixes: str) -> None:
    """Raises `InputError` where `path` ends otherwise."""
    if path.suffix not in suffixes:
        raise InputError(f"expected a name ending in {' or '.join(suffixes)} for scores, got {path}")


def facts_of(scores: Any, form: str, names: Iterable[str]) -> dict[str, Any]:
    """What JSON holds of scores: their `form`, the fields of these `names`, and why rows have no answer."""
    errors = {str(row): why for row, why in scores.errors.items()}
    return {"format": form, **{name: getattr(scores, name) for name in names}, "errors": errors}


def told_by(facts: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The fields that `facts_of` wrote, lists as tuples. Raises `KeyError` where one is missing."""
    errors = {int(row): why for row, why in facts["errors"].items()}
    return {**{name: tuple(facts[name]) for name in names}, "errors": errors}


def write_npz(path: str | os.PathLike[str], facts: Mapping[str, Any], arrays: Arrays) -> None:
    """Write a file, whole or not at all. Names of files in `facts` need not be valid UTF-8: JSON's escapes carry
    them."""
    check_name(Path(path), ".npz")
    with atomic_path(path) as temporary, open(temporary, "wb") as f:  # as savez puts .npz after other names
        np.savez_compressed(f, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)  # type: ignore[arg-type]


def read_npz(
    path: str | os.PathLike[str], form: str, make: Callable[[dict[str, Any], dict[str, npt.NDArray[Any]]], S]
) -> S:
    """What `make` makes of the facts and arrays of a file of this form. Raises `InputError` for any other file."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as data:
            facts = parse_json(data["facts"].tobytes(), str(path), "a file of scores")
            check_form(facts, form, path)
            arrays = {name: data[name] for name in data.files if name != "facts"}
        return make(facts, arrays)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: expected a file of scores, found none") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: expected a file of scores, found another kind of file or a damaged one") from None
    except Exception as error:  # zipfile's and zlib's own errors
        raise InputError(f"{path}: expected a file of scores, found a damaged one: {type(error).__name__}") from None


def check_form(facts: Mapping[str, Any], form: str, path: Path) -> None:
    """Raises `InputError` where the facts of a file name another form."""
    if facts["format"] != form:
        raise InputError(f"{path}: expected {form!r}, found {facts['format']!r}")

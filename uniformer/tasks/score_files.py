"""Files of scores: arrays, and facts that are none as JSON beside them, in one .npz. numpy only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from uniformer.errors import InputError
from uniformer.support.texts import parse_json

S = TypeVar("S")
Arrays = Mapping[str, npt.NDArray[Any]]


def check_name(path: Path, *suffixes: str) -> None:
    """Raises `InputError` where `path` ends otherwise."""
    if path.suffix not in suffixes:
        raise InputError(f"expected a name ending in {' or '.join(suffixes)} for scores, got {path}")


def write_npz(path: Path, facts: Mapping[str, Any], arrays: Arrays) -> None:
    """Write a file; `facts` say its `format`. Names of files in them need not be valid UTF-8: JSON's escapes carry
    them."""
    with open(path, "wb") as f:  # an open file, as savez puts .npz after other names
        np.savez_compressed(f, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)  # type: ignore[arg-type]


def read_npz(path: Path, form: str, make: Callable[[dict[str, Any], dict[str, npt.NDArray[Any]]], S]) -> S:
    """What `make` makes of the facts and arrays of a file of this form. Raises `InputError` for any other file."""
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

"""Nested frozen dataclasses from TOML tables and `key=value` texts, checked, and back to TOML. No torch here.

TOML has no null: where a setting may be empty, the text "none" says so, in files and on the command line alike.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from uniformer.config import did_you_mean
from uniformer.errors import InputError, shown
from uniformer.support.texts import DEEPEST, NotToml, parse_toml

S = TypeVar("S")
Table = dict[str, Any]
NONE = "none"

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def from_table(cls: type[S], table: Mapping[str, Any], where: str = "", base: S | None = None) -> S:
    """An instance of the dataclass `cls` with the values of `table`, the rest from `base` or the defaults.

    `where` is the dotted path to the table, for messages. Raises `InputError` for an unknown key (naming the nearest),
    for a value of another type, and for what the dataclass itself refuses.
    """
    hints = get_type_hints(cls)
    for key in table:
        if key not in hints:
            raise InputError(f"unknown setting {where + key!r}{nearest(key, list(hints))}")
    values = {key: _converted(value, hints[key], where + key) for key, value in table.items()}
    return cls(**values) if base is None else replace(base, **values)  # type: ignore[type-var]


def _converted(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type that `hint` annotates, or `InputError`."""
    if is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if not isinstance(value, Mapping):
            raise _mismatch(name, "a table", value)
        return from_table(hint, value, f"{name}.")  # type: ignore[arg-type]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        if len(inner) > 1:  # one of several tables, which whoever knows which has made of it already
            if isinstance(value, tuple(inner)):
                return value
            raise _mismatch(name, "a table", value)
        return None if value is None or value == NONE else _converted(value, inner[0], name)
    if origin is Literal:
        if not any(value == arg and type(value) is type(arg) for arg in args):  # 1.0 and true equal 1
            raise _mismatch(name, " or ".join(map(repr, args)), value)
        return value
    if origin is tuple:
        return _tuple(value, args, name)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:  # exactly: bool is an int to Python
        raise _mismatch(name, KINDS[hint], value)
    if hint is int and not -(1 << 63) <= value < 1 << 64:
        raise InputError(f"{name}: expected a whole number of 64 bits, got {shown(value)}")
    return value


def _tuple(value: Any, kinds: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _mismatch(name, "a list", value)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise _mismatch(name, f"a list of {len(kinds)}", value)
    return tuple(
        _converted(item, kind, f"{name}[{i}]") for i, (item, kind) in enumerate(zip(value, kinds, strict=True))
    )


def _mismatch(name: str, expected: str, value: Any) -> InputError:
    kind = KINDS.get(type(value), "a list" if isinstance(value, list | tuple) else "")
    found = {bool: str(value).lower(), str: repr(value)}.get(type(value), str(value))
    hint = f""": quote it, as in '"{value}"'""" if expected == KINDS[str] and not isinstance(value, list | dict) else ""
    return InputError(f"{name}: expected {expected}, got {found}{f' ({kind})' if kind else ''}{hint}")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """`base` with the values of `over`; tables merge key by key, all other values replace."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def parse_override(text: str) -> tuple[str, Any]:
    """`'optimizer.lr=1e-4'` as its dotted key and its value: a TOML value, or Python's True and False; text where it is
    neither."""
    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals or not key or not all(key.split(".")):
        raise InputError(f"expected an override such as optimizer.lr=1e-4, got {shown(text)!r}")
    if key.count(".") >= DEEPEST:
        raise InputError(f"{shown(key)}: expected at most {DEEPEST} names in a key, found {key.count('.') + 1}")
    if raw in ("True", "False"):
        return key, raw == "True"
    try:
        parsed = parse_toml(f"value = {raw}", key)
    except NotToml:
        return key, raw
    return key, parsed["value"] if len(parsed) == 1 else raw


def nested(key: str, value: Any) -> Table:
    """`nested('a.b', 1)` is `{'a': {'b': 1}}`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def keys(cls: type, where: str = "") -> Iterator[str]:
    """The dotted names of all settings of a dataclass."""
    for name, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            yield from keys(hint, f"{where}{name}.")  # type: ignore[arg-type]
        else:
            yield where + name


def leaves(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """All values in nested tables, by their dotted keys."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{where}{key}.")
        else:
            yield where + key, value


def nearest(key: str, known: Sequence[str]) -> str:
    """' (did you mean ...?)' with the known keys of the same last name, in any table, or else with similar ones.

    Of a key without a table the last name may be misspelt too: `epoch` means `schedule.epochs`.
    """
    last, names = key.split(".")[-1], {name.split(".")[-1] for name in known}
    if key not in names and "." not in key:
        last = next(iter(difflib.get_close_matches(key, sorted(names), n=1, cutoff=0.75)), key)
    same = [name for name in known if name.split(".")[-1] == last]
    return f" (did you mean {' or '.join(map(repr, same))}?)" if same else did_you_mean(key, known)


def to_toml(table: Mapping[str, Any]) -> str:
    """TOML text: plain values first, then each table under its heading. None is written as "none"."""
    return "\n".join(_toml_lines(table, "")) + "\n"


def _toml_lines(table: Mapping[str, Any], where: str) -> Iterator[str]:
    yield from (f"{key} = {_literal(value)}" for key, value in table.items() if not isinstance(value, Mapping))
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from ("", f"[{where}{key}]")
            yield from _toml_lines(value, f"{where}{key}.")


def _literal(value: Any) -> str:
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, str):  # a JSON string is a TOML string, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)

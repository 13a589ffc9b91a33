"""The one exception that users are meant to read, and the words that its messages share."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any, get_args

#: What a terminal acts on instead of showing it: control characters, ends of lines, changes of the writing's direction.
ACTING = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class InputError(ValueError):
    """Something the user gave cannot be used: a file, a name, an option, a shape.

    The message is one line that says what was expected and what came. The command line prints it as it is,
    without a traceback, and exits non-zero; anything else that is raised is a bug of ours.
    """

    def __init__(self, message: str):
        super().__init__(shown(message, 2000))


class MissingExtra(InputError):
    """A feature needs an optional package. The message names the extra that installs it."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'uniformer[{extra}]'")


def load_extra(module: str, package: str, extra: str, purpose: str) -> Any:
    """A module of an optional package. Raises `MissingExtra` where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise MissingExtra(package, extra, purpose) from None


class UnfitInput(InputError):
    """An input that a network cannot take: the fault of one source, where sources have sizes of their own."""


class Checked:
    """A dataclass that raises the first of its `_problems` when it is made."""

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise InputError(problem)

    def _problems(self) -> Iterable[str]:
        return ()


def check_word(name: str, value: object, words: Any) -> None:
    """Raises `InputError` unless `value`, an argument of that name, is one of a `Literal`'s words."""
    if value not in get_args(words):
        raise InputError(f"expected {name} {', '.join(get_args(words))}, got {value!r}")


def counted(count: int, noun: str) -> str:
    """'1 row', '2 rows', '2 classes'."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def shown(text: object, most: int = 80) -> str:
    """What a file says, as it may stand in a line: control characters made visible, and cut where it is longer."""
    line = str(text)
    line = line if len(line) <= most else line[: most - 3] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def visible(text: object, *, keep: str = "") -> str:
    """A text for a terminal: what that would act on, but for the characters in `keep`, is written as an escape."""
    return ACTING.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], str(text))


def first_line(error: BaseException, most: int = 200) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:most]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out, also as torch and the system's allocator say it."""
    torch = sys.modules.get("torch")
    by_torch = torch is not None and isinstance(error, torch.OutOfMemoryError)
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or by_torch or "can't allocate memory" in said


def reason(error: Exception) -> str:
    """What the system says is wrong, in lower case as it goes on a sentence."""
    return _of_the_system(error).lower()


def cannot_write(path: object, error: Exception) -> InputError:
    """The refusal to write `path`, with what the system or a library says of it."""
    return InputError(f"cannot write {path}: {_of_the_system(error)}")


def _of_the_system(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)

"""What was tried on this machine, what was found, and what to do about it: the records of `uniformer doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from uniformer.errors import first_line, shown

#: As it should be; wrong here, and the package goes round it; not installed; wrong.
Verdict = Literal["ok", "worked round", "absent", "bad"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    part: str  #: of the machine or the installation, such as "decoders"
    name: str
    tried: str  #: in a few words; "" where it was only looked up
    found: str
    verdict: Verdict = "ok"
    remedy: str = ""  #: what was done about it, or the line to type
    needed: bool = False  #: whether the package does not work without it

    @property
    def is_broken(self) -> bool:
        """Whether it is wrong, and the package needs it."""
        return self.needed and self.verdict == "bad"


def attempt(
    part: str, name: str, tried: str, work: Callable[[], str], *, remedy: str = "", needed: bool = False
) -> Check:
    """Do `work`, which says what it found: "ok", or "bad" with what its error says. `remedy` is for the latter."""
    try:
        return Check(part, name, tried, work(), needed=needed)
    except Exception as error:  # whatever a library raises is what is to be found out
        return Check(part, name, tried, said(error), "bad", remedy, needed)


def guarded(part: str, make: Callable[[], Iterable[Check]], *, needed: bool = False) -> Iterator[Check]:
    """The checks of a part; where they end with an error, that is the last one of them."""
    try:
        yield from make()
    except Exception as error:
        remedy = f"pip install {error.name}" if isinstance(error, ModuleNotFoundError) else ""
        yield Check(part, part, "", said(error), "bad", remedy, needed)


def said(error: Exception) -> str:
    """What a library's error says, in one line with its kind; of our own what it says."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{kind}{shown(first_line(error), 200)}"

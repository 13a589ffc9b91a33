"""The names of a classifier's classes in others' words: one table, `assets/vocabularies.toml`, which tells its sources.

A word may stand for several classes, whose probabilities then add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from uniformer.config import did_you_mean
from uniformer.errors import InputError
from uniformer.support.texts import parse_toml

if TYPE_CHECKING:
    from uniformer.reading.transforms import Floats

VOCABULARIES = ("camerabench", "kandinsky", "opensora", "plain", "vbench")


@dataclass(frozen=True)
class Vocabulary:
    """A list of words."""

    source: str  #: where it was read
    words: Mapping[str, str]  #: class of ours -> the nearest word
    other: str  #: what stands for classes that no word fits
    unused: tuple[str, ...]  #: words that stand for no class of ours

    def word(self, name: str) -> str:
        """What a class of ours is called."""
        return self.words.get(name, self.other)


def load_vocabulary(name: str) -> Vocabulary:
    """One of `VOCABULARIES`. Raises `InputError` for any other name."""
    if name not in VOCABULARIES:
        raise InputError(f"unknown vocabulary {name!r}{did_you_mean(name, VOCABULARIES)}")
    table = _table()[name]
    return Vocabulary(table["source"], table["words"], table["other"], tuple(table["unused"]))


@cache
def _table() -> Mapping[str, dict[str, Any]]:
    text = files("uniformer").joinpath("assets", "vocabularies.toml").read_text(encoding="utf-8")
    return parse_toml(text, "vocabularies.toml")


class Words:
    """The classes of a network in a vocabulary, or as they are where there is none.

    Raises `InputError` for a network of other classes than those that vocabularies are of.
    """

    def __init__(self, classes: Sequence[str], vocabulary: str | None = None):
        self.names = tuple(classes)
        self._rows: list[int] | None = None  #: of each class, the word that it adds to
        if vocabulary is None:
            return
        found, known = load_vocabulary(vocabulary), load_vocabulary("plain").words  # which has a word for each class
        missing = sorted(known.keys() - set(classes)) or sorted(set(classes) - known.keys())
        if missing:
            raise InputError(
                f"expected a network of the camera's motions for the words of {vocabulary}: {missing[0]!r} is a "
                "class of one of the two alone"
            )
        said = list(map(found.word, classes))
        self.names = tuple(dict.fromkeys(said))
        self._rows = [self.names.index(word) for word in said]

    def __call__(self, probabilities: Floats) -> Floats:
        """Of every class (K,) -> of every word (W,)."""
        if self._rows is None:
            return probabilities
        import numpy as np  # not for the list of names, which the command line shows

        return np.bincount(self._rows, weights=probabilities).astype(probabilities.dtype)

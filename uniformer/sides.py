"""Which classes a mirrored picture would turn into another class, so that training must not flip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from uniformer.config import did_you_mean
from uniformer.errors import InputError

_OPPOSITE = {
    "left": "right",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "lefthand": "righthand",
    "lefthanded": "righthanded",
    "clockwise": "counterclockwise",
}
_OPPOSITES = _OPPOSITE | {b: a for a, b in _OPPOSITE.items()} | {"anticlockwise": "clockwise"}

# "right" that names no side: "pulling it right out", "right after"; "left" that is a form of "to leave".
_NO_SIDE = re.compile(r"right (out|away|after|before|now|next|off|on|back|angle|through)\b|left (over|alone|behind)\b")


def flip_sensitive(classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Classes that name a side or a sense of turning: pairs that a flip would swap, and single ones without a partner.

    By the words in the names, so a class such as "writing", whose mirror image is no writing, is not found. In the
    order of `classes`.
    """
    words = {name: _words(name) for name in classes}
    by_words = {tuple(w): name for name, w in words.items()}
    found: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for name in classes:
        mirrored = [_OPPOSITES.get(word, word) for word in words[name]]
        if mirrored == words[name] or name in seen:
            continue
        partner = next((by_words[m] for m in _spellings(mirrored) if m in by_words), None)
        if partner is None and not _names_a_side(words[name]):
            continue
        found.append((name,) if partner is None else (name, partner))
        seen.update(found[-1])
    return found


def mirrored_classes(classes: Sequence[str]) -> list[int]:
    """For each class the index of what its mirror image shows: itself, but where the name says a side.

    Raises `InputError` where a class that names a side has no partner.
    """
    partners = list(range(len(classes)))
    for found in flip_sensitive(classes):
        if len(found) == 1:
            raise InputError(f"augment.mirror: {found[0]!r} names a side, and no class is its mirror image")
        one, other = map(list(classes).index, found)
        partners[one], partners[other] = other, one
    return partners


def reversed_classes(classes: Sequence[str], pairs: Iterable[tuple[str, str]]) -> list[int]:
    """For each class the index of what its clips show when played backwards: itself, but for these pairs.

    Raises `InputError` where a pair names an unknown class, or a class stands in two pairs.
    """
    partners = list(range(len(classes)))
    for pair in pairs:
        for name in pair:
            if name not in classes:
                raise InputError(f"augment.reverse_pairs: unknown class {name!r}{did_you_mean(name, classes)}")
        one, other = map(list(classes).index, pair)
        if (partners[one], partners[other]) != (one, other):
            raise InputError(f"augment.reverse_pairs: {' and '.join(map(repr, pair))}, of which one is in another pair")
        partners[one], partners[other] = other, one
    return partners


def _words(name: str) -> list[str]:
    """TurnLeft, turn_left and "Turn left": the same two words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    spaced = re.sub(r"\b(counter|anti)[ -]+(?=clockwise)", r"\1", spaced.lower())
    spaced = re.sub(r"\b(left|right)[ -]+(?=hand)", r"\1", spaced)
    return re.findall(r"[^\W_]+", spaced)


def _spellings(words: list[str]) -> list[tuple[str, ...]]:
    other = ["anticlockwise" if word == "counterclockwise" else word for word in words]
    return [tuple(words), tuple(other)]


def _names_a_side(words: list[str]) -> bool:
    rest = _NO_SIDE.sub(" ", " ".join(words))
    return any(word in _OPPOSITES for word in rest.split())

"""Class names: those of the published data sets, the one way that names are matched, and the sides that they tell."""

from __future__ import annotations

import importlib.util
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from uniformer.config import did_you_mean
from uniformer.errors import InputError, shown
from uniformer.support.texts import parse_json, read_text

IGNORED = 255  #: in a map of labels: no class, neither learnt nor counted

#: Data sets with a list of names in this package, in the order of the published classifiers' rows.
DATASETS = {
    "Kinetics-400": "kinetics400.json",  # the authors' own shuffle: 370 is yoga
    "Kinetics-600": "kinetics600.json",  # another shuffle
    "Something-Something V2": "something_something_v2.json",  # sorted as if the brackets were not there
    "Something-Something V1": "something_something_v1.json",
    "UCF101": "ucf101.json",
    "HMDB51": "hmdb51.json",
}
#: Of dense tasks, in the order of the labels: what has the same names is no such data set.
DENSE_DATASETS = {
    "COCO 2017": "coco.json",
    "ADE20K": "ade20k.json",  # the label files count from 1, and 0 is unlabelled
    "COCO 2017 keypoints": "coco_keypoints.json",  # of a person
}
PUBLISHED_ON = {"detection": "COCO 2017", "segmentation": "ADE20K", "pose": "COCO 2017 keypoints"}  #: by the task
_IMAGENET = "ImageNet-1K"

LONGEST_NAME = 1000  #: characters of a class name: what is longer is a file misread


def load_classes(dataset: str) -> tuple[str, ...]:
    """The class names of a data set; position = row of the classifier.

    Kinetics names come in the order of the reference's data lists, which is not alphabetical and not the order of other
    libraries: no class of Kinetics-400 keeps its number. ImageNet's are torchvision's. Raises `InputError` for a data
    set without a list here.
    """
    if dataset == _IMAGENET:
        return _imagenet_classes()
    files = DATASETS | DENSE_DATASETS
    if dataset not in files:
        known = [*DATASETS, _IMAGENET, *DENSE_DATASETS]
        raise InputError(f"no class names for the data set {dataset!r}{did_you_mean(dataset, known)}")
    names = _read_asset(files[dataset], dataset)
    return tuple(names["names"] if isinstance(names, dict) else names)


def _read_asset(name: str, dataset: str) -> Any:
    text = (resources.files("uniformer") / "assets" / "labels" / name).read_text("utf-8")
    return parse_json(text, dataset)


def load_details(dataset: str) -> dict[str, Any]:
    """What a dense task must know of a data set beside its classes, as a contract carries it.

    Of ADE20K the palette (RGB); of COCO's key points the skeleton, the pairs that a mirror swaps (both as places in the
    list of names) and the sigmas of OKS; and of both COCO's the thresholds of the published tests.
    """
    if dataset == "COCO 2017":
        return {"thresholds": {"score": 0.05, "most": 100}}
    if dataset == "ADE20K":
        return {"palette": [list(colour) for colour in load_palette(dataset)]}
    if dataset == "COCO 2017 keypoints":
        found = _read_asset(DENSE_DATASETS[dataset], dataset)
        known = {name: found[name] for name in ("skeleton", "flip_pairs", "sigmas")}
        return {**known, "thresholds": {"score": 0.0, "alike": 0.9}}
    return {}


_NEVER_GIVEN = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of COCO's category numbers 1 to 90


PERSON_ID = 1  #: of COCO's category numbers


def category_ids(classes: Sequence[str]) -> tuple[int, ...]:
    """The numbers of classes in COCO's files: its own for its 80, whose numbers have gaps; for others places from 1."""
    places = range(1, len(classes) + 1)
    if tuple(classes) != load_classes("COCO 2017"):
        return tuple(places)
    return tuple(number for number in range(1, 91) if number not in _NEVER_GIVEN)


def names_file(classes: object) -> str | os.PathLike[str] | None:
    """The file that `read_class_names` would read, None where `classes` is none."""
    return classes if isinstance(classes, str | os.PathLike) and os.path.isfile(classes) else None


def _numbered(lines: Sequence[str]) -> str | None:
    """A line of a table whose rows begin with a number, such as `0,abseiling`, with a header or without; None of names.

    Names begin with numbers too: `2 fingers`, `0,5 m`.
    """
    rows = [line for line in lines if line.strip()][1:]
    return rows[0] if rows and all(re.match(r"\s*\d+\s*[,;\t]\s*[^\W\d]", row) for row in rows) else None


def read_class_names(classes: Sequence[str] | str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names as a caller gives them: themselves, the name of a data set, or a file: one a line, or a JSON array.

    Raises `InputError` for what cannot be the name of a class, and a data set without a list here.
    """
    if not isinstance(classes, str | os.PathLike):
        return tuple(classes)
    if names_file(classes) is None:
        return load_classes(os.fspath(classes))
    path = Path(classes)
    text = read_text(path, "names of classes")
    is_json = path.suffix.lower() == ".json"
    names = parse_json(text, str(path), "names of classes") if is_json else text.splitlines()
    if not is_json and (row := _numbered(names)):
        raise InputError(f"{path}: expected one name a line, found a table of numbers and names: '{shown(row)}'")
    if not isinstance(names, list):
        raise InputError(f"{path}: expected a JSON array of names, found {type(names).__name__}")
    for number, name in enumerate(names, 1):
        why = "no text" if isinstance(name, list | dict) or name is None else unfit(str(name))
        if why:
            raise InputError(f"{path}, name {number}: expected the name of a class, found {why}: '{shown(name)}'")
    return tuple(name for name in (str(name).strip() for name in names) if name)


def load_palette(dataset: str) -> tuple[tuple[int, int, int], ...]:
    """The colours that a data set's classes are painted in, in their order: red, green and blue in 0..255.

    Raises `InputError` for a data set without colours here.
    """
    if dataset != "ADE20K":
        raise InputError(f"no colours for the data set {dataset!r}: expected 'ADE20K'")
    return tuple((red, green, blue) for red, green, blue in _read_asset("ade20k_palette.json", dataset))


def _imagenet_classes() -> tuple[str, ...]:
    """torchvision's list, from its one file: importing the package would take seconds."""
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        raise InputError("the class names of ImageNet-1K need the package torchvision, which is not installed")
    path = Path(package.submodule_search_locations[0]) / "models" / "_meta.py"
    spec = importlib.util.spec_from_file_location("torchvision_meta", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"expected the class names of ImageNet-1K in {path}, found no such file")
    meta = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(meta)
    names = getattr(meta, "_IMAGENET_CATEGORIES", ())
    if len(names) != 1000:
        raise InputError(f"expected 1000 class names in {path}, found {len(names)}")
    return tuple(names)


# ---- matching --------------------------------------------------------------------------------------------------------


def words(name: str) -> list[str]:
    """What a name says, whatever its spelling: TurnLeft, turn_left and "Turn left" are the same two words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    spaced = " ".join(re.findall(r"[^\W_]+", spaced))
    return re.sub(r"\b(?:(counter|anti) (?=clockwise)|(left|right) (?=hand(ed)?\b))", r"\1\2", spaced).split()


def plain_name(name: str) -> str:
    """A class as people are shown it, in pictures, films and pages: in words, on one line that subtitles can have."""
    return " ".join(name.replace("_", " ").replace("-->", "->").split())


_WHOLE = re.compile(r"[+-]?\d{1,1000}(?:\.0*)?", re.ASCII)  # Python refuses to convert much longer ones
_SIGNS = "#%&*@"  # what Unicode counts as punctuation, and names mean something by: C# is not C


def whole_number(name: str) -> int | None:
    """The integer that a name is: 7 of "7", "07" and "7.0", which is what pandas makes of a column with gaps."""
    return int(name.partition(".")[0]) if is_whole(name) else None


def is_whole(name: str) -> bool:
    """Is it an integer, so that a label may be a number and not a name?"""
    return _WHOLE.fullmatch(name) is not None


@lru_cache(4096)  # lists of a million rows ask for the same few
def normal_form(name: str) -> str:
    """What the spellings of a name share: letters, digits and symbols, in lower case, accents composed.

    Spaces and punctuation are spelling, but for what tells numbers apart: -90 is not 90, and 1.5 not 15.
    """
    name = name.replace("\N{MINUS SIGN}", "-")
    number = whole_number(name)
    if number is not None:
        return str(number)
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    said = "".join(c if _says(c) else " " for c in re.sub(r"(?<![^\W_])-(?=\d)", "\N{MINUS SIGN}", text))
    return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(said.split()))


def _says(character: str) -> bool:
    """Is it more than spelling? No separators, control characters and punctuation."""
    kind = unicodedata.category(character)
    return character in _SIGNS or not (kind[0] in "ZP" or kind in ("Cc", "Cf"))


def unfit(name: str) -> str | None:
    """Why it cannot be the name of a class, which stands in lists, headers and pages; None where it can."""
    if len(name) > LONGEST_NAME:
        return f"a name of {len(name)} characters"
    if any("\ud800" <= c <= "\udfff" for c in name):
        return "a name that is not UTF-8"
    return "a name of several lines" if name and name.splitlines() != [name] else None


def match_names(names: Iterable[str], known: Sequence[str]) -> list[int | None]:
    """Where each name stands in `known`: the same name, else the only one of the same normal form, else None."""
    same, alike = _places(known), _places([normal_form(name) for name in known])
    return [same.get(name, alike.get(normal_form(name))) for name in names]


def _places(keys: Sequence[str]) -> dict[str, int]:
    """Where each key stands that stands there once."""
    counts = Counter(keys)
    return {key: place for place, key in enumerate(keys) if key and counts[key] == 1}


def alphabetical(names: Iterable[str]) -> list[str]:
    """Sorted as lists of Something-Something are: as if their brackets were not there."""
    return sorted(names, key=lambda name: name.replace("[", "").replace("]", ""))


# ---- sides: which classes a mirrored picture turns into another, so that training must not flip ----------------------

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
    said = {name: words(name) for name in classes}
    by_words = {tuple(w): name for name, w in said.items()}
    found: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for name in classes:
        mirrored = [_OPPOSITES.get(word, word) for word in said[name]]
        if mirrored == said[name] or name in seen:
            continue
        partner = next((by_words[m] for m in _spellings(mirrored) if m in by_words), None)
        if partner is None and not _names_a_side(said[name]):
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


def _spellings(mirrored: list[str]) -> list[tuple[str, ...]]:
    other = ["anticlockwise" if word == "counterclockwise" else word for word in mirrored]
    return [tuple(mirrored), tuple(other)]


def _names_a_side(said: list[str]) -> bool:
    rest = _NO_SIDE.sub(" ", " ".join(said))
    return any(word in _OPPOSITES for word in rest.split())

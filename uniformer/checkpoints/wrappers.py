"""What trainers put around a network: dictionaries in dictionaries and prefixes of keys; and what they say of it.

The network's tensors are where keys such as 'patch_embed1.proj.weight' are, whatever leads to them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from uniformer.checkpoints.pickles import Inert, OddTensor
from uniformer.errors import InputError, shown
from uniformer.heads.keys import BACKBONE, head_of

#: Keys that trainers save a network under; of several networks the one under the first of them is meant.
WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict", "module", "net", "network", "weights", "params",
            "state_dict_ema", "model_ema")  # fmt: skip
AVERAGED = ("model_ema", "state_dict_ema")
OPENMMLAB_CLASSIFIER = "cls_head.fc_cls."  # of mmaction2, the classifier
# Counters that tools leave among the tensors: torch's AveragedModel, thop.
_COUNTERS = re.compile(r"(?:.*\.)?(?:n_averaged|total_ops|total_params)", re.DOTALL)
_OPTIMIZER = re.compile("optim|sched", re.IGNORECASE)  # whose tensors are not of a network
_OF_UNIFORMER = re.compile(
    r"(?P<prefix>(?:[^.]+\.)*?)(?:patch_embed[1-4]|blocks[1-4]\.\d+|stages\.[0-3]\.(?:embed|blocks\.\d+))\."
)


@dataclass
class Network:
    """The tensors of one network, under keys without a prefix."""

    state: dict[str, Any]  #: `Tensor`, or `OddTensor`
    is_backbone: bool  #: of an OpenMMLab model
    heads: dict[str, Any] = field(
        default_factory=dict
    )  #: what an OpenMMLab model has beside its backbone and classifier
    other: list[str] = field(default_factory=list)  #: keys of all other tensors in the file, as they are called there
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """Where a network is: the keys that lead to its dictionary, and its prefix there."""

    path: tuple[str, ...]
    prefix: str
    tensors: Mapping[str, Any]

    def __str__(self) -> str:
        return ".".join(self.path) + ("." if self.path and self.prefix else "") + self.prefix

    @property
    def is_averaged(self) -> bool:
        return "n_averaged" in self.tensors or "ema" in re.split(r"[._]", str(self).lower())

    @property
    def rank(self) -> int:
        known = [WRAPPERS.index(key) for key in self.path[:1] if key in WRAPPERS]
        return known[0] if known else len(WRAPPERS) if self.path else -1


def find_network(obj: Any, where: str, *, averaged: bool = False) -> Network:
    """The network in what a trainer saved. `averaged` takes the EMA weights of a file that carries both.

    Raises `InputError` where there is none, or more than one and nothing tells which is meant.
    """
    if not isinstance(obj, Mapping):
        found = shown(obj.name) if isinstance(obj, Inert) else type(obj).__name__
        raise InputError(f"{where} holds no state dict: expected a dictionary of tensors, found {found}")
    dictionaries = dict(_dictionaries(obj))
    if not dictionaries:
        raise InputError(
            f"{where} holds no tensors: expected some, or one of {', '.join(WRAPPERS)}; found {some_keys(obj)}"
        )
    places = [place for path, tensors in dictionaries.items() for place in _places(path, tensors)]
    if not places:  # of nobody's network: what reads its keys says so
        path = min(dictionaries, key=lambda path: _Place(path, "", {}).rank)
        places = [_Place(path, "", dictionaries[path])]
    chosen, twins, notes = _choose(places, where, averaged, is_swapped="message_hub" in obj)
    return _take_out(chosen, twins, dictionaries, notes)


def _dictionaries(obj: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """All with tensors in them, by the keys that lead there, but for the optimizer's."""
    seen: set[int] = set()
    ahead: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), obj)]
    for path, found in ahead:
        tensors = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, Tensor | OddTensor)}
        if tensors:
            yield path, tensors
        if len(path) == 3:
            continue
        for key, value in found.items():
            is_new = isinstance(value, Mapping) and id(value) not in seen
            if is_new and isinstance(key, str) and not _OPTIMIZER.search(key):
                seen.add(id(value))
                ahead.append(((*path, key), value))


def _places(path: tuple[str, ...], tensors: Mapping[str, Any]) -> list[_Place]:
    counts = Counter(found["prefix"] for found in map(_OF_UNIFORMER.match, tensors) if found)
    return [_Place(path, prefix, tensors) for prefix, n in counts.items() if 2 * n >= max(counts.values())]


def _choose(
    places: list[_Place], where: str, averaged: bool, is_swapped: bool
) -> tuple[_Place, list[_Place], list[str]]:
    """The network that is meant, those that are its averages (or what it is the average of), and what to say."""
    twins, notes = [place for place in places if place.is_averaged], []
    plain = [place for place in places if place not in twins]
    if is_swapped and plain and twins:
        notes.append(f"mmengine keeps the averaged weights under {str(plain[0])!r}, the others under {str(twins[0])!r}")
    elif averaged and not twins:
        raise no_averaged(where)
    elif averaged or not plain:
        plain, twins = twins, plain
    elif twins:
        notes.append(f"took {shown(plain[0])!r}; averaged weights ({shown(twins[0])!r}) are in the file too")
    first = min(plain, key=lambda place: place.rank)
    same = [repr(shown(place)) for place in plain if place.rank == first.rank]
    if len(same) > 1:
        raise InputError(
            f"{where} holds {len(same)} UniFormers, {', '.join(same[:3])}: expected one; load it with torch and hand "
            "over the dictionary of one of them"
        )
    return first, twins, notes


def _take_out(
    chosen: _Place, twins: list[_Place], dictionaries: Mapping[tuple[str, ...], Mapping[str, Any]], notes: list[str]
) -> Network:
    is_backbone = chosen.prefix.endswith(BACKBONE)
    outer = chosen.prefix.removesuffix(BACKBONE)
    head = outer + OPENMMLAB_CLASSIFIER if is_backbone else None
    network = Network({}, is_backbone, notes=notes)
    for path, tensors in dictionaries.items():
        for key, value in tensors.items():
            if path == chosen.path and _COUNTERS.fullmatch(key):
                network.other.append(key)
            elif path == chosen.path and key.startswith(chosen.prefix):
                network.state[key.removeprefix(chosen.prefix)] = value
            elif path == chosen.path and head and key.startswith(head):
                network.state[f"head.{key.removeprefix(head)}"] = value
            elif any(path == twin.path and key.startswith(twin.prefix) for twin in twins):
                continue
            elif path == chosen.path and is_backbone and key.startswith(outer):
                network.heads[_published_head(key.removeprefix(outer))] = value
            else:
                network.other.append(key if path == chosen.path else ".".join((*path, key)))
    if around := str(replace(chosen, prefix=outer) if head_of(network.heads) else chosen):
        notes.append(f"unwrapped from {shown(around)!r}")  # a backbone under its head is where it belongs
    return network


def _published_head(key: str) -> str:
    """As the published files call it: mmpose 1 calls its only head `head`."""
    return f"keypoint_{key}" if key.startswith(("head.deconv_layers.", "head.final_layer.")) else key


def no_averaged(where: str) -> InputError:
    return InputError(f"{where} has no averaged weights: expected {' or '.join(map(repr, AVERAGED))} in it")


def some_keys(obj: Mapping[Any, Any]) -> str:
    return ", ".join(repr(shown(key)) if isinstance(key, str) else str(key)[:20] for key in list(obj)[:4]) or "nothing"


# ---- what a trainer says of the network ------------------------------------------------------------------------------


def told_by_config(obj: Any) -> dict[str, int | None]:
    """Fields of `Config` that no tensor tells, from the settings that OpenMMLab's trainers save as text.

    mmcv and mmengine write them as Python, and the forks spell the windows in several ways. Where the settings do not
    speak of windows, attention is global.
    """
    meta = obj.get("meta") if isinstance(obj, Mapping) else None
    text = (meta.get("config") or meta.get("cfg")) if isinstance(meta, Mapping) else None
    found = re.search(r"\bbackbone'?\s*[=:]\s*(?:dict)?[({]", text) if isinstance(text, str) else None
    if found is None:
        return {}
    settings = _to_closing_bracket(found.string[found.end() :]).replace("use_", "")
    of_interest = r"\b(windows?|hybrid|window_size|head_dim)'?\s*[=:]\s*(True|False|\d{1,4})\b"
    said = dict(reversed(re.findall(of_interest, settings)))  # the first of each counts
    numbers = {name: int(value) for name, value in said.items() if value.isdigit() and int(value)}
    is_hybrid, in_windows = said.get("hybrid") == "True", "True" in (said.get("windows"), said.get("window"))
    told: dict[str, int | None] = {
        "window": numbers.get("window_size", 14) if in_windows or is_hybrid else None,
        "global_every": 4 if is_hybrid and not in_windows else None,
    }
    return told | {name: value for name, value in numbers.items() if name == "head_dim"}


def _to_closing_bracket(text: str) -> str:
    depth = 1
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return text[:place]
    return text


def told_palette(obj: Any) -> tuple[tuple[int, ...], ...]:
    """The colours of the classes that OpenMMLab's trainers save, RGB in 0..255; empty where there are none."""
    meta = obj.get("meta") if isinstance(obj, Mapping) else None
    inner = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    found = [d[key] for d, key in ((inner, "palette"), (meta, "PALETTE")) if isinstance(d, Mapping) and key in d]
    rows = found[0] if found else ()
    are_colours = isinstance(rows, list | tuple) and all(
        isinstance(row, list | tuple) and len(row) == 3 and all(type(n) is int and 0 <= n < 256 for n in row)
        for row in rows
    )
    return tuple(map(tuple, rows)) if are_colours else ()


def told_classes(obj: Any) -> tuple[str, ...]:
    """The names of the classes that OpenMMLab's trainers save; empty where there are none."""
    meta = obj.get("meta") if isinstance(obj, Mapping) else None
    inner = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    found = [d[key] for d, key in ((inner, "classes"), (meta, "CLASSES")) if isinstance(d, Mapping) and key in d]
    names = found[0] if found else ()
    are_names = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if are_names else ()

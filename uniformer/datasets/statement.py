"""What was made of a data set, in the lines that training, evaluation and scanning begin with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.findings import Finding
from uniformer.datasets.manifest import Manifest
from uniformer.errors import shown
from uniformer.reading.paths import LeftOut

AnySet = Manifest | AnnotatedSet

LOOKED_FOR = 20_000  #: rows of a set whose files are looked for: of more, so many all over it


def statement(sets: Mapping[str, AnySet]) -> Iterator[str]:
    """Of each set by its split: how it was read, with what was left out; classes without a row; files that are not
    there, or that a scan could not read. Of an annotated one its findings."""
    for split, manifest in sets.items():
        yield f"{split}: {shown(manifest.origin, 1000)}"
        yield from oddities({split: manifest})


def state(manifest: AnySet, say: Callable[[str], None] | None) -> None:
    """Say the statement of one set, to whoever listens."""
    if say is not None:
        for line in statement({"data": manifest}):
            say(line)


def oddities(sets: Mapping[str, AnySet]) -> Iterator[str]:
    """The lines of a statement but for those that every set has."""
    for split, manifest in sets.items():
        if isinstance(manifest, AnnotatedSet):
            empty = "" if manifest.maps else _empty(manifest)
            lines = [*filter(None, [empty]), *map(_in_a_line, manifest.findings)]
        else:
            lines = [said for said in (_empty(manifest), _missing(manifest), _marked(manifest)) if said]
        yield from (f"{split}: {line}" for line in lines)


def _in_a_line(finding: Finding) -> str:
    """With its first example."""
    such_as = f" ({': '.join(finding.examples[0])}{', ...' if finding.count > 1 else ''})" if finding.examples else ""
    return shown(f"{finding.text}{such_as}", 300)


def _empty(manifest: AnySet) -> str:
    left_out = LeftOut()
    for label in np.flatnonzero(manifest.class_counts() == 0):
        left_out.add(f"of {len(manifest.classes)} classes without a sample", manifest.classes[label])
    return str(left_out)


def _missing(manifest: Manifest) -> str:
    left_out, step = LeftOut(), -(-len(manifest) // LOOKED_FOR) or 1
    rows = range(0, len(manifest), step)
    there = np.zeros(len(manifest.classes), bool)
    for row in rows:
        if os.path.exists(manifest.path(row)):
            there[list(manifest.labels_of(row))] = True
        else:
            left_out.add(f"files not there, of {len(rows)} looked for", manifest.paths[row])
    for label in np.flatnonzero((manifest.class_counts() > 0) & ~there) if step == 1 else ():
        left_out.add("classes of which no file is there", manifest.classes[label])
    return str(left_out)


def _marked(manifest: Manifest) -> str:
    left_out = LeftOut()
    for row in () if manifest.readable is None else np.flatnonzero(~manifest.readable).tolist():
        left_out.add("files that a scan could not read, which are not trained on", manifest.paths[row])
    return str(left_out)

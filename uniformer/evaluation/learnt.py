"""Of the items that a network is tested on, which it learnt from: said beside every score, or left out of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.trained_on import TrainedOn
from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.sums import item_sums
from uniformer.errors import InputError, counted
from uniformer.reports.measures import figures
from uniformer.tasks.task import Selectable

DataSet = TypeVar("DataSet", Manifest, AnnotatedSet)

HELD_OUT = "held-out"  #: in the place of a split's name: the items that the network did not learn from
WORTH_SAYING = 1e-4  # the share of other items that a contract takes for learnt ones


def trained_on(manifest: Manifest | AnnotatedSet) -> TrainedOn:
    """What a contract says of the items that were learnt from; those without a file are none."""
    sums = item_sums(manifest)
    return TrainedOn.of(sums[sums > 0])


def learnt_rows(contract: Contract, manifest: Manifest | AnnotatedSet) -> npt.NDArray[np.bool_]:
    """Which rows the network learnt from, (N,), whatever they are called by now; none where its contract is silent."""
    if contract.trained_on is None:
        return np.zeros(len(manifest), np.bool_)
    sums = item_sums(manifest)
    return (sums > 0) & contract.trained_on.has(sums)


def held_out(contract: Contract, manifest: DataSet) -> DataSet:
    """The rows that the network did not learn from. Raises `InputError` where its contract does not say, or none is."""
    if contract.trained_on is None:
        raise InputError(
            f"--split {HELD_OUT} leaves out what a checkpoint was trained on: expected one that says so, as those of "
            f"`uniformer train` do, got {contract.id or contract.arch or 'one that does not'}"
        )
    learnt = learnt_rows(contract, manifest)
    if learnt.all():
        raise InputError(f"expected items that the checkpoint was not trained on, found none among {len(manifest)}")
    others = manifest.select(~learnt)
    said = f"{manifest.origin}; {HELD_OUT}: {counted(len(others), 'item')} of {len(manifest)}"
    return replace(others, origin=said)


def both_figures(
    scores: Any, learnt: npt.NDArray[np.bool_], contract: Contract, missing: Literal["error", "skip"]
) -> tuple[list[str], dict[str, Any]]:
    """What a reader must know where the network learnt from some items: a sentence, and the metrics of both parts."""
    count, others = int(learnt.sum()), int((~learnt).sum())
    if not count or contract.trained_on is None:
        return [], {}
    facts: dict[str, Any] = {"trained_on": {"items": count}, "held_out": {"items": others}}
    said = f"{count} of {len(learnt)} items were trained on"
    if not others:
        return [f"{said}: these figures say little of other items"], facts
    if isinstance(scores, Selectable):
        parts = {"trained_on": scores.select(learnt), "held_out": scores.select(~learnt)}
        scored = {name: found for name, part in parts.items() if (found := _metrics(part, missing))}
        facts |= scored
        shown = {name: " ".join(figures(found)[0]) for name, found in scored.items()}
        learnt_said, others_said = (shown.get(name, "without answers") for name in parts)
        said += f", {learnt_said}; {others} were not, {others_said}"
    if contract.trained_on.mistaken > WORTH_SAYING:
        said += f" ({100 * contract.trained_on.mistaken:.2g} % of others count as trained on, by the checkpoint's list)"
    return [f"{said}; --split {HELD_OUT} scores those alone"], facts


def _metrics(scores: Any, missing: Literal["error", "skip"]) -> dict[str, float]:
    """Of a part; none where there is nothing to score in it."""
    try:
        return scores.metrics(missing)
    except InputError:
        return {}

"""A model at hand scored on a data set, without a file that says what it is."""

from __future__ import annotations

import os
from typing import Any

from uniformer.checkpoints.contract import Contract
from uniformer.config import InputSpec, Precision
from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.manifest import Manifest
from uniformer.evaluation.scoring import Reading, check_fits, form_to_go_on, score
from uniformer.heads.pyramid import DenseNetwork
from uniformer.inference.networks import TorchNetwork, evaluating
from uniformer.network.model import UniFormer
from uniformer.speed.timings import Compute
from uniformer.support.distributed import current_process_group
from uniformer.support.progress import OnProgress
from uniformer.tasks import task_of
from uniformer.tasks.task import Task


def evaluate_model(
    model: UniFormer | DenseNetwork,
    manifest: Manifest | AnnotatedSet,
    spec: InputSpec | Task,
    *,
    device: Any = "cpu",
    precision: Precision = "float32",
    batch_size: int = 8,
    workers: int = 2,
    progress: OnProgress | None = None,
    store: str | os.PathLike[str] | None = None,
    compute: Compute | None = None,
) -> Any:
    """`score` of a model, fed what `spec` says, or the task of a dense network, which then has its contract; labels of
    the manifest are the model's own."""
    reading = Reading(device, precision, batch_size, workers, compute=compute)
    check_fits(model.config, manifest, spec)
    made = spec.on(manifest) if isinstance(spec, Task) else task_of(Contract(model.config, input=spec))
    form = form_to_go_on(compute, store)
    with evaluating(model):
        network = TorchNetwork(model, made.contract, device=device, precision=precision, compute=form)
        fed, group = made if isinstance(spec, Task) else spec, current_process_group(device)
        return score(network, made.metric(manifest), fed, reading, group, store=store, progress=progress)

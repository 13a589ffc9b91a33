"""What networks are for. `task_of` makes a checkpoint's task from its contract; all other rooms know the seam only.

task.py             the seam: build, targets_and_loss, decode, metric, contract
classification.py   one label or several of an image or clip; its loss (objective.py, losses.py, mixing.py), scores
detection_losses.py what detectors learn from
keypoints.py, segmentation.py   key points and classes of pixels
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uniformer.errors import InputError

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract
    from uniformer.tasks.task import Task


def task_of(contract: Contract) -> Task:
    """The task that a contract is of. Raises `InputError` for one that this version does not know."""
    from uniformer.tasks.classification import Classification

    if contract.task != Classification.name:
        raise InputError(f"expected a checkpoint of the task {Classification.name!r}, got one of {contract.task!r}")
    return Classification(contract)

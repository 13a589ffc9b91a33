"""What networks are for. `task_of` makes a checkpoint's task from its contract; all other rooms know the seam only.

task.py             the seam: build, targets_and_loss, decode, metric, contract
classification.py   one label or several of an image or clip; how answers to views become one (fusion.py); its loss
                    (objective.py, losses.py, mixing.py), scores
detection.py, segmentation.py, pose.py   the dense tasks, over whole_picture.py; detections.py, segmentations.py and
                    poses.py are their results (pictured.py, drawing.py), detection_losses.py what detectors learn from
keypoints.py, person_boxes.py   heat maps and key points; where people are
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from uniformer.errors import InputError

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract
    from uniformer.tasks.task import Task


def task_of(contract: Contract, **options: Any) -> Task:
    """The task that a contract is of; `options` are how its answers are made, as the task has them.

    Raises `InputError` for a task that this version does not know, and for an option that the task has not.
    """
    known = {kind.name: kind for kind in task_types()}
    if contract.task not in known:
        names = ", ".join(map(repr, known))
        raise InputError(f"expected a checkpoint of the task {names}, got one of {contract.task!r}")
    return known[contract.task](contract, **options)


def option_names() -> list[str]:
    """What may be said of how answers are made, of any task."""
    return sorted({f.name for kind in task_types() if kind.options_type for f in fields(kind.options_type)})


def task_types() -> list[type[Task]]:
    """All tasks."""
    from uniformer.tasks.classification import Classification
    from uniformer.tasks.detection import Detection
    from uniformer.tasks.pose import Pose
    from uniformer.tasks.segmentation import Semantic

    return [Classification, Detection, Semantic, Pose]

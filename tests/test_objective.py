"""Losses as the recipe names them, precision, and where a number first goes wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training_runs import TINY, losses, recipe
from uniformer import create_model
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.save import verify
from uniformer.network.model import UniFormer
from uniformer.speed.training_modules import Float32MHRA
from uniformer.support.distributed import ProcessGroup
from uniformer.tasks.classification import Classification
from uniformer.tasks.losses import distillation_loss, soft_target_cross_entropy, two_head_loss
from uniformer.tasks.objective import ClassObjective, ClassTargets
from uniformer.tasks.options import TargetOptions
from uniformer.training.batches import batches
from uniformer.training.diagnosis import first_bad_layer, last_bad_gradient
from uniformer.training.log import Log
from uniformer.training.loop import fit
from uniformer.training.recipe import Loss
from uniformer.training.result import write_weights
from uniformer.training.setup import set_up, share_statistics
from uniformer.training.step import train_step

pytestmark = pytest.mark.usefixtures("one_thread")


def loss_of(model: UniFormer, loss: Loss, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The one loss that a classifier has."""
    (value,) = ClassObjective(model, TargetOptions(loss))(x, targets).values()
    return value


def test_infinite_targets_are_the_loss():
    objective = ClassObjective(UniFormer(recipe().model), TargetOptions())
    task = ClassTargets(torch.randn(2, 3, 32, 32), torch.tensor([[0.0, 1.0], [float("inf"), 0.0]]))
    assert first_bad_layer(objective, task) == "the loss"
    assert first_bad_layer(objective, task._replace(targets=torch.eye(2))) is None
    assert last_bad_gradient(objective.model) is None


def test_each_loss_is_the_one_that_the_recipe_names():
    x, targets = torch.randn(2, 3, 64, 64), torch.eye(2)
    light = create_model("uniformer_xxs", **TINY).eval()
    both = light.forward_class_token(x)
    assert torch.equal(loss_of(light, Loss("two_head"), x, targets), two_head_loss(*both, targets))
    plain = UniFormer(recipe().model).eval()
    logits = plain(x)
    value = soft_target_cross_entropy(logits, targets)
    assert torch.equal(loss_of(plain, Loss(), x, targets), value)
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert torch.equal(loss_of(plain, Loss("bce"), x, targets), each)
    teacher = UniFormer(recipe().model).eval()
    taught = TargetOptions(Loss(teacher="x", teacher_weight=0.25, temperature=2.0))
    learning = ClassObjective(plain, taught, teacher)
    expected = 0.75 * value + 0.25 * distillation_loss(logits, teacher(x), 2.0)
    assert torch.allclose(learning(x, targets)["loss"], expected)
    assert len(list(learning.parameters())) == len(list(plain.parameters()))


def test_token_labeling_trains_from_label_maps(tmp_path, sets):
    for part in sets:
        for row in range(len(part)):
            path = Path(part.path(row))
            (tmp_path / path.parent.name).mkdir(exist_ok=True)
            scores = torch.tensor([[9.0, 1.0], [1.0, 9.0]])[part.labels_of(row)[0]].view(2, 1, 1).expand(2, 4, 4)
            classes = torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 4, 4)
            torch.save(torch.stack((scores, classes)).half(), tmp_path / path.parent.name / f"{path.stem}.pt")
    dense = {
        "arch": "uniformer_small_tl",
        "loss": {"kind": "token_labeling"},
        "mixing": {"prob": 0.0},
        "data": {"label_maps": str(tmp_path)},
        "input": {"size": [64, 64], "resize": 64},
        "schedule": {"epochs": 6},
    }
    outcome = fit(recipe(dense), *sets, out=tmp_path / "run", device="cpu")
    assert outcome.metrics["val_top1"] == 1
    falling = losses(tmp_path / "run")
    assert np.mean(falling[-4:]) < np.mean(falling[:4])


def test_a_recipe_can_keep_attention_in_float32(tmp_path, sets):
    for asked in (True, False):
        chosen = recipe({"attention_float32": asked, "precision": "bfloat16"})
        with Log(tmp_path) as log:
            run, _ = set_up(chosen, *sets, tmp_path, ProcessGroup(), log)
        assert any(isinstance(module, Float32MHRA) for module in run.learner.model.modules()) == asked


def test_batch_norms_of_several_gpus_share_statistics_where_asked(tmp_path):
    plain, shared = (UniFormer(recipe().model).eval() for _ in range(2))
    shared.load_state_dict(plain.state_dict())
    share_statistics(shared, ProcessGroup(0, 1, 1, torch.device("cuda")))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in shared.modules())  # one process has none to share with
    share_statistics(shared, ProcessGroup(0, 2, 1, torch.device("cuda")))
    norms = {name for name, m in plain.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert {name for name, m in shared.named_modules() if isinstance(m, nn.SyncBatchNorm)} == norms
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(x), shared(x))
    write_weights(
        tmp_path / "m.safetensors", shared, Classification(Contract(shared.config, input=recipe().input)), {}, ""
    )
    assert verify(tmp_path / "m.safetensors")[1] == []


def test_float16_steps_whose_scale_was_too_large_are_not_failures(tmp_path, sets):
    chosen = recipe({"precision": "float16", "schedule": {"epochs": 1}})
    with Log(tmp_path) as log:
        run, _ = set_up(chosen, *sets, tmp_path, ProcessGroup(), log)
        (batch, *_) = batches(run.samples, run.plan)
        assert train_step(run, [batch], False).took_effect
        run.learner.scaler.update(2.0**40)
        step = train_step(run, [batch], False)
        assert not step.took_effect
        assert np.isfinite(step.loss)
        assert run.learner.scaler.get_scale() == 2.0**39


def test_mixing_draws_the_same_in_all_processes_of_a_step(prepared):
    (batch, *_) = batches(prepared.samples, prepared.plan)
    tasks = [prepared.learner.objective.targets(batch, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(tasks[0].x, tasks[1].x)
    assert not torch.equal(tasks[0].x, tasks[2].x)

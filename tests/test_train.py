"""The training loop on tiny networks and data: that it learns, goes on, and says in words what is wrong."""

import contextlib
import io
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training_runs import (
    CLIPS,
    FROZEN_NORMS,
    STEADY,
    STILL,
    assert_same_learning,
    losses,
    make_clips,
    make_images,
    recipe,
    rows_of,
    same_weights,
    splits,
)
from uniformer import predict
from uniformer.checkpoints import save as checkpoint
from uniformer.cli.train import noted_signals
from uniformer.datasets.manifest import Item, Manifest
from uniformer.datasets.open import open_dataset
from uniformer.errors import InputError
from uniformer.support.distributed import ProcessGroup
from uniformer.support.progress import Pace
from uniformer.training.batches import batches
from uniformer.training.log import Log, time_left
from uniformer.training.loop import fit, roll_back
from uniformer.training.setup import STATE, save_state, set_up
from uniformer.training.state import read_state, write_state
from uniformer.training.step import find_non_finite, train_step

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- learning


def test_it_learns_and_the_result_predicts(tmp_path, pictures, sets, capsys):
    epochs = {"schedule": {"epochs": 6}, "ema": {"decay": 0.999, "evaluate": True}, "keep": {"result": "best"}}
    outcome = fit(recipe(epochs), *sets, out=tmp_path, device="cpu")
    falling = losses(tmp_path)
    assert len(falling) == 24
    assert np.mean(falling[-4:]) < np.mean(falling[:4])
    assert outcome.metrics["val_top1"] == 1
    assert outcome.stopped_by is None
    label = predict(pictures / "val" / "blue" / "0.png", model=tmp_path / "model.safetensors").labels[0]
    assert label.name == "blue"
    contract, problems = checkpoint.verify(tmp_path / "model.safetensors")
    assert problems == []
    assert contract.classes == ("blue", "red")
    assert contract.input == recipe().input
    assert contract.scores["top1"] == 100
    assert outcome.metrics["ema_top1"] < 1  # the average has hardly moved, and these are not its weights
    said = capsys.readouterr().out
    assert "epoch 6/6: mean loss" in said
    assert "images/s" in said
    assert {"curves", "page"} <= outcome.paths.keys()
    assert '<td class="n">100.00 %</td>' in outcome.paths["page"].read_text()
    validated = [row for row in rows_of(tmp_path / "metrics.csv") if row["val_top1"]]
    assert [int(row["epoch"]) for row in validated] == [1, 2, 3, 4, 5, 6]
    average, problems = checkpoint.verify(tmp_path / "average.safetensors")
    assert problems == []
    assert average.scores["top1"] == 100 * float(validated[-1]["ema_top1"])


def test_clips_with_everything_on_train_and_an_ended_run_is_not_done_again(tmp_path, capsys):
    clips = open_dataset(make_clips(tmp_path / "clips"), split="train")
    chosen = recipe({"precision": "bfloat16", "loop": {"grad_checkpointing": True}}, base=CLIPS)
    out = tmp_path / "run"
    assert fit(chosen, clips, out=out, device="cpu").metrics == {}
    before = (out / STATE).read_bytes(), (out / "metrics.csv").read_bytes()
    assert len(losses(out)) == 2
    fit(chosen, clips, out=out, device="cpu")
    assert before == ((out / STATE).read_bytes(), (out / "metrics.csv").read_bytes())
    assert "going on from step 2 of 2" in capsys.readouterr().out


def test_the_result_does_not_depend_on_workers(tmp_path, sets):
    for workers in (0, 2):
        fit(recipe({"data": {"workers": workers}}), *sets, out=tmp_path / str(workers), device="cpu")
    assert same_weights(tmp_path / "0", tmp_path / "2")
    assert losses(tmp_path / "0") == losses(tmp_path / "2")


def test_accumulated_passes_make_the_same_step(tmp_path, sets):
    for passes in (1, 2):
        chosen = recipe(STILL, STEADY, {"optimizer": {"accumulate": passes}})
        fit(chosen, *sets, out=tmp_path / str(passes), device="cpu")
    assert_same_learning(tmp_path / "2", tmp_path / "1")


class Signalling(io.StringIO):
    """Standard output that sends this process SIGTERM when it is told of `moment`."""

    def __init__(self, moment):
        super().__init__()
        self.moment = moment

    def write(self, text):
        if self.moment in text:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().write(text)


@pytest.mark.parametrize(("moment", "optimizer"), [(1, "adamw"), (5, "adamw"), (5, "muon")])
def test_a_signal_ends_the_run_after_its_step_and_the_same_call_goes_on(tmp_path, sets, moment, optimizer):
    """Bit for bit: also what is drawn for drop path, mixing and augmentation, the averages, the rates, the log."""
    changes = {"model": {"drop_path": 0.2}, "ema": {"decay": 0.9}, "schedule": {"epochs": 3}}
    chosen = recipe({**changes, "optimizer": {"name": optimizer}})
    fit(chosen, *sets, out=tmp_path / "whole", device="cpu")
    out = tmp_path / "cut"
    with contextlib.redirect_stdout(Signalling(f"step {moment}/")):
        outcome = fit(chosen, *sets, out=out, device="cpu", signals=noted_signals)
    assert outcome.stopped_by == signal.SIGTERM
    assert read_state(out / STATE)["progress"]["step"] == moment + 1
    assert not (out / "model.safetensors").exists()
    fit(chosen, *sets, out=out, device="cpu")
    assert same_weights(tmp_path / "whole", out)
    assert same_weights(tmp_path / "whole", out, "average.safetensors")
    assert losses(tmp_path / "whole") == losses(out)


def test_the_run_ends_when_validation_gets_no_better(tmp_path, sets, capsys):
    patient = {"keep": {"patience": 2}, "schedule": {"epochs": 9}, "optimizer": {"lr": 1e-9}}
    fit(recipe(patient, {"schedule": {"kind": "constant"}}, FROZEN_NORMS), *sets, out=tmp_path, device="cpu")
    epochs = [int(row["epoch"]) for row in rows_of(tmp_path / "metrics.csv") if row["val_top1"]]
    assert epochs == [1, 2, 3]  # no better than the first
    why = "no more epochs: 2 validations without a higher val_top1, as keep.patience has it"
    assert why in capsys.readouterr().out.splitlines()
    assert read_state(tmp_path / STATE)["progress"]["finished"]


def test_going_on_with_other_settings_or_data_is_refused(tmp_path, pictures, sets):
    out = tmp_path / "run"
    fit(recipe({"schedule": {"epochs": 1}}), *sets, out=out, device="cpu")
    with pytest.raises(InputError, match=r"other settings \(schedule.epochs: 1 there, 2 here\): give another --out"):
        fit(recipe(), *sets, out=out, device="cpu")
    fit(recipe({"schedule": {"epochs": 1}, "loop": {"log_every": 7}}), *sets, out=out, device="cpu")
    fewer = sets[0].select(range(12))
    with pytest.raises(InputError, match=r"other data \(samples: 16 there, 12 here\)"):
        fit(recipe({"schedule": {"epochs": 1}}), fewer, sets[1], out=out, device="cpu")
    (out / STATE).write_bytes(b"half a file")
    with pytest.raises(InputError, match=r"expected the state of a run \(.*\), found another kind of file"):
        fit(recipe({"schedule": {"epochs": 1}}), *sets, out=out, device="cpu")


# ---- before the first step


def test_what_does_not_fit_is_refused_before_the_first_step(tmp_path, sets):
    def refused(message: str, *changes: dict, train_set=sets[0], val_set=sets[1]) -> None:
        with pytest.raises(InputError, match=message):
            fit(recipe(*changes), train_set, val_set, out=tmp_path / "run", device="cpu")
        assert not (tmp_path / "run" / STATE).exists()

    refused(
        "the train set has 2 classes, the classifier 1: model.num_classes=2 would fit", {"model": {"num_classes": 1}}
    )
    refused("classes of the train set in the same order", val_set=replace(sets[1], classes=("red", "blue")))
    refused("keep.result=best .* need validation data", {"keep": {"result": "best"}}, val_set=None)
    refused("expected keep.metric loss or mean_class or top1 for this data, got top5", {"keep": {"metric": "top5"}})
    refused("at least one batch of 64 samples, got 16", {"batch_size": 64})
    refused("unknown part 'stages.9' to freeze", {"optimizer": {"freeze": ["stages.9"]}})
    refused("expected image items|expected clips", {"input": {}}, train_set=replace(sets[0], kind="video"))
    unlabelled = replace(sets[0], classes=(), labels=sets[0].labels + 5)
    refused("the train set has 7 classes, the classifier 2", train_set=unlabelled, val_set=None)
    several = Manifest.from_items([Item("a", (0, 1))], kind="image", classes=("blue", "red"), multi_label=True)
    refused("need loss.kind=bce, got soft_target", train_set=several, val_set=None)
    size = {"input": {"size": [16, 16], "resize": 16}}
    refused("input of 16 x 16 is too small", size)


def test_a_state_from_before_there_was_a_setting_goes_on(tmp_path, sets):
    one = recipe({"schedule": {"epochs": 1}})
    fit(one, *sets, out=tmp_path, device="cpu")
    state = read_state(tmp_path / STATE)
    older = state["recipe"].replace("sync_batch_norm = false\n", "")
    assert older != state["recipe"]
    write_state(tmp_path / STATE, {**state, "recipe": older})
    fit(one, *sets, out=tmp_path, device="cpu")
    with pytest.raises(InputError, match=r"other settings \(sync_batch_norm: False there, True here\)"):
        fit(replace(one, sync_batch_norm=True), *sets, out=tmp_path, device="cpu")


@pytest.mark.parametrize("products", [None, "onednn/torch", "torch/onednn"])
def test_a_run_goes_on_with_its_products_computed_as_before(tmp_path, sets, products):
    """Whatever is the faster by now; states of earlier versions do not say, as torch was the only way."""
    chosen = recipe({"schedule": {"epochs": 1}})
    with contextlib.redirect_stdout(Signalling("step 1/")):
        fit(chosen, *sets, out=tmp_path, device="cpu", signals=noted_signals)
    state = read_state(tmp_path / STATE)
    del state["products"]
    write_state(tmp_path / STATE, state if products is None else {**state, "products": products})
    fit(chosen, *sets, out=tmp_path, device="cpu")
    assert read_state(tmp_path / STATE)["products"] == (products or "torch/torch")


def test_a_checkpoint_of_other_classes_gets_a_new_classifier(tmp_path, sets, capsys):
    one = {"schedule": {"epochs": 1}}
    fit(recipe(one), *sets, out=tmp_path / "first", device="cpu")
    started = {"init": {"checkpoint": str(tmp_path / "first" / "model.safetensors")}}
    capsys.readouterr()
    renamed = [replace(part, classes=("cold", "warm")) for part in sets]
    for number, parts in enumerate((sets, renamed)):
        fit(recipe(one, started), *parts, out=tmp_path / str(number), device="cpu")
        said = capsys.readouterr().out
        assert "0 new, 0 ignored" in said
        assert ("but others: the classifier is new" in said) == bool(number)


def test_mirroring_is_off_where_labels_name_sides(tmp_path, sets, capsys):
    sided = [replace(part, classes=("turning left", "turning right")) for part in sets]
    with Log(tmp_path) as log:
        run, _ = set_up(recipe(), *sided, tmp_path, ProcessGroup(), log)
        assert run.samples.augment.flip == 0
        assert run.recipe.augment.flip == 0
        assert set_up(recipe(), *sets, tmp_path, ProcessGroup(), log)[0].samples.augment.flip == 0.5
    assert "augment.flip=0 instead of 0.5: classes name sides, such as 'turning left and turning right'" in (
        capsys.readouterr().out
    )


# ---- what goes wrong on the way


def test_files_that_cannot_be_read_are_listed_once_and_too_many_end_the_run(tmp_path):
    folder = make_images(tmp_path / "images", train=10)
    for name in ("3", "7"):
        (folder / "train" / "red" / f"{name}.png").write_bytes(b"no picture")
    parts = splits(folder)
    with pytest.raises(InputError, match=r"2 of 20 samples of this epoch could not be read, .*max_bad_fraction=0.05"):
        fit(recipe({"loop": {"max_bad_fraction": 0.05}}), *parts, out=tmp_path / "strict", device="cpu")
    fit(recipe({"loop": {"max_bad_fraction": 0.1}}), *parts, out=tmp_path / "lenient", device="cpu")
    listed = rows_of(tmp_path / "lenient" / "unreadable.csv")
    assert sorted(Path(row["path"]).name for row in listed) == ["3.png", "7.png"]
    assert all("expected an image" in row["reason"] for row in listed)


def test_a_step_with_an_infinite_input_has_no_effect(prepared):
    (batch, *_) = batches(prepared.samples, prepared.plan)
    train_step(prepared, [batch], False)
    before = {k: v.clone() for k, v in prepared.learner.model.state_dict().items()}
    moments = [s["exp_avg"].clone() for s in prepared.learner.optimizer.state.values()]
    spoilt = batch.x.clone()
    spoilt[1, 0, 3, 3] = float("inf")
    step = train_step(prepared, [batch._replace(x=spoilt)], False)
    assert not step.took_effect
    assert find_non_finite(prepared, [batch._replace(x=spoilt)]) == "the input"
    after = prepared.learner.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(
        torch.equal(a, s["exp_avg"]) for a, s in zip(moments, prepared.learner.optimizer.state.values(), strict=True)
    )
    assert train_step(prepared, [batch], False).took_effect


def test_the_first_layer_that_goes_wrong_is_named(prepared):
    (batch, *_) = batches(prepared.samples, prepared.plan)
    layer = prepared.learner.model.get_submodule("stages.2.blocks.0.ffn.fc2")
    kept = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    assert not train_step(prepared, [batch], False).took_effect
    assert find_non_finite(prepared, [batch]) == "stages.2.blocks.0.ffn.fc2"
    with torch.no_grad():
        layer.weight.copy_(kept)
    handle = layer.weight.register_hook(lambda grad: grad * float("inf"))
    assert not train_step(prepared, [batch], False).took_effect
    assert find_non_finite(prepared, [batch]) == "the gradient of stages.2.blocks.0.ffn.fc2.weight"
    handle.remove()


def test_going_back_halves_the_rate_and_takes_back_weights_and_log(prepared):
    (batch, second, *_) = batches(prepared.samples, prepared.plan)
    save_state(prepared)
    rate = train_step(prepared, [batch], False).rate
    after_one = {k: v.clone() for k, v in prepared.learner.model.state_dict().items()}
    prepared.learner.progress.step = 1
    save_state(prepared)
    prepared.log.metrics(epoch=1, step=1, loss=1.0)
    train_step(prepared, [second], False)
    prepared.learner.progress.step = 2
    prepared.log.metrics(epoch=1, step=2, loss=2.0)
    roll_back(prepared)
    assert all(torch.equal(after_one[k], v) for k, v in prepared.learner.model.state_dict().items())
    assert losses(prepared.out) == [1.0]
    progress = prepared.learner.progress
    assert (progress.step, progress.returns, progress.rate_factor) == (1, 1, 0.5)
    progress.step = 0
    assert train_step(prepared, [batch], False).rate == rate / 2
    roll_back(prepared)
    assert (prepared.learner.progress.returns, prepared.learner.progress.rate_factor) == (2, 0.25)


def test_weights_that_are_not_finite_end_the_run_and_are_named(tmp_path, sets, capsys):
    fit(recipe({"schedule": {"epochs": 1}}), *sets, out=tmp_path / "first", device="cpu")
    tensors = load_file(tmp_path / "first" / "model.safetensors")
    tensors["stages.1.blocks.0.mhra.value.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "spoilt.safetensors")
    started = {"init": {"checkpoint": str(tmp_path / "spoilt.safetensors")}}
    where = "stages.1.blocks.0.mhra.value"
    with pytest.raises(
        InputError, match=f"does not get past step 3: 3 steps in a row .* first in {where}, also at 0.125"
    ):
        fit(recipe(started), *sets, out=tmp_path / "run", device="cpu")
    assert capsys.readouterr().out.count("back to step 0") == 3


# ---- what is said


def test_the_verdict_names_what_limits_the_run():
    assert Pace(100, waiting=3.0, working=1.0).verdict("clips") == "decode-bound: 25 clips/s, the model could take 100"
    assert Pace(100, 0.1, 3.9).verdict("clips") == "model-bound: 25 clips/s, 2% of the time waiting for data"
    assert time_left(2.0, 3605) == "2:00:10"
    assert time_left(100.0, 1000) == "1 d 3:46:40"


def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path):
    log = Log(tmp_path)
    log.rewind(0)
    for step in (1, 2, 3):
        log.metrics(epoch=1, step=step, loss=step / 3)
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text()[:-9])
    Log(tmp_path).rewind(3)
    assert [row["step"] for row in rows_of(path)] == ["1", "2"]
    Log(tmp_path).rewind(1)
    assert [(row["step"], float(row["loss"])) for row in rows_of(path)] == [("1", 1 / 3)]


def test_tensorboard_is_written_where_installed(tmp_path, sets):
    pytest.importorskip("tensorboard")
    fit(recipe({"loop": {"tensorboard": True}, "schedule": {"epochs": 1}}), *sets, out=tmp_path, device="cpu")
    assert list((tmp_path / "tensorboard").glob("events.*"))

"""Real trainers' own files: train a tiny network with each, save it as that library does, load it, compare in float64.

    pip install mmengine 'mmcv-lite<2.2' mmaction2 einops decord 'importlib_metadata<8' lightning accelerate deepspeed
    python -m experiments.trainers

One line for each form of file: the versions, what the report says was taken off, and the largest difference of the
logits from the trained network's own, as a share of the largest; then the same of our file and of the original's form
made of it. A library that is not installed is said and left out. Nothing of them is needed by the package.
"""

from __future__ import annotations

import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import uniformer
from uniformer.config import Config

HEAD_DIM = 16
CONFIG = Config(depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), head_dim=HEAD_DIM, num_classes=7)
IMAGES = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CLIPS = torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 7

Found = Iterator[tuple[str, Path, nn.Module, dict[str, Any]]]  # a form, its file, the network, options of loading


def network() -> uniformer.UniFormer:
    torch.manual_seed(0)
    return uniformer.UniFormer(CONFIG)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(IMAGES), LABELS).backward()
    optimizer.step()


def of_torch(folder: Path) -> Found:
    model = network()
    averaged, optimizer = torch.optim.swa_utils.AveragedModel(model), torch.optim.AdamW(model.parameters())
    for _ in range(2):
        step(model, optimizer)
        averaged.update_parameters(model)
    for name, wrapped in {
        "AveragedModel": averaged,
        "DataParallel": nn.DataParallel(model),
        "torch.compile": torch.compile(model),
    }.items():
        path = folder / f"{name}.pth"
        torch.save({"model": wrapped.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}, path)
        yield name, path, averaged.module if wrapped is averaged else model, {}
    torch.save({"model": model.state_dict(), "model_ema": averaged.module.state_dict()}, folder / "both.pth")
    yield "both, averaged=True", folder / "both.pth", averaged.module, {"averaged": True}


def of_timm(folder: Path) -> Found:
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = network()
    optimizer, ema = torch.optim.AdamW(model.parameters()), ModelEmaV3(model, decay=0.5)
    saver = CheckpointSaver(model, optimizer, model_ema=ema, checkpoint_dir=str(folder), recovery_dir=str(folder))
    step(model, optimizer)
    ema.update(model)
    saver.save_checkpoint(0, metric=1.0)
    yield "CheckpointSaver", folder / "last.pth.tar", model, {}
    yield "CheckpointSaver, averaged=True", folder / "last.pth.tar", ema.module, {"averaged": True}


def of_lightning(folder: Path) -> Found:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = network(), nn.CrossEntropyLoss(weight=torch.ones(7))
            self.save_hyperparameters({"lr": 1e-3})

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 1e-3)

    module, keep = Module(), lightning.pytorch.callbacks.ModelCheckpoint(folder, save_last=True)
    trainer = lightning.Trainer(
        max_epochs=1, callbacks=[keep], logger=False, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(IMAGES, LABELS), 4))
    yield "ModelCheckpoint, with a loss that has weights", folder / "last.ckpt", module.net, {}


def of_accelerate(folder: Path) -> Found:
    from accelerate import Accelerator

    model = network()
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    step(prepared, optimizer)
    accelerator.save_state(str(folder / "state"))
    accelerator.save_model(prepared, str(folder / "model"))
    accelerator.save_model(prepared, str(folder / "shards"), max_shard_size="200KB")
    yield "save_state", folder / "state" / "model.safetensors", model, {}
    yield "save_model", folder / "model" / "model.safetensors", model, {}
    yield "save_model, in parts", folder / "shards", model, {}


def of_deepspeed(folder: Path) -> Found:
    import deepspeed

    model = network()
    settings = {"train_batch_size": 8, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}}}
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # as its launcher does
    store = f"file://{folder}/store"
    deepspeed.init_distributed("gloo", init_method=store, auto_mpi_discovery=False, rank=0, world_size=1)
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=settings)
    engine.backward(nn.functional.cross_entropy(engine(IMAGES), LABELS))
    engine.step()
    engine.save_checkpoint(str(folder / "run"), tag="last", client_state={"epoch": 1})
    yield "save_checkpoint", folder / "run" / "last" / "mp_rank_00_model_states.pt", model, {}


def of_mmengine(folder: Path) -> Found:
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def forward(self, inputs: Tensor, labels: Tensor, mode: str = "loss") -> Any:
            return {"loss": nn.functional.cross_entropy(self.model(inputs), labels)}

    for name, hooks in {"CheckpointHook": [], "CheckpointHook and EMAHook": [{"type": "EMAHook"}]}.items():
        model, work = Model(), folder / name.replace(" ", "-")
        Runner(
            model, str(work), train_dataloader=DataLoader(TensorDataset(IMAGES, LABELS), 4), custom_hooks=hooks,
            train_cfg={"by_epoch": True, "max_epochs": 2}, optim_wrapper={"optimizer": {"type": "AdamW", "lr": 1e-3}},
            param_scheduler={"type": "LinearLR", "start_factor": 0.1}, log_level="ERROR",
        ).train()  # fmt: skip
        path, network_ = work / "epoch_2.pth", model.model
        if hooks:  # the file's `state_dict` is the average, which the hook has swapped in for saving
            network_ = network()
            state = torch.load(path, weights_only=False)["state_dict"]
            network_.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
        yield name, path, network_, {}


def of_mmaction2(folder: Path) -> Found:
    """Its own UniFormer of clips, whose blocks have another epsilon."""
    stub = types.ModuleType("mmaction.models.localizers.drn.drn")  # the wheel of 1.2.0 lacks this file
    stub.DRN = nn.Module  # type: ignore[attr-defined]
    sys.modules |= {"mmaction.models.localizers.drn": types.ModuleType("drn"), stub.__name__: stub}
    import mmaction.models  # noqa: F401  # registers what is built below
    from mmaction.registry import MODELS
    from mmengine.registry import init_default_scope
    from mmengine.runner import save_checkpoint

    init_default_scope("mmaction")
    torch.manual_seed(0)
    backbone = {
        "type": "UniFormer", "depth": [1, 1, 1, 1], "embed_dim": [16, 32, 64, 64], "head_dim": HEAD_DIM, "img_size": 64
    }  # fmt: skip
    head = {"type": "I3DHead", "num_classes": 7, "in_channels": 64, "dropout_ratio": 0.0}
    recognizer = MODELS.build({"type": "Recognizer3D", "backbone": backbone, "cls_head": head})
    optimizer = torch.optim.AdamW(recognizer.parameters())

    class Logits(nn.Module):
        """Its answer to clips: the head on the backbone."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.cls_head = recognizer.backbone, recognizer.cls_head

        def forward(self, x: Tensor) -> Tensor:
            return self.cls_head(self.backbone(x))

    model = Logits()
    nn.functional.cross_entropy(model(CLIPS), LABELS[:2]).backward()
    optimizer.step()
    meta = {"dataset_meta": {"classes": [f"move {i}" for i in range(7)]}, "epoch": 1}
    save_checkpoint({"state_dict": recognizer.state_dict(), "meta": meta}, str(folder / "mmaction.pth"))
    for options in ({"block_eps": 1e-5}, {}):
        yield f"Recognizer3D, block_eps {options.get('block_eps', 'left out')}", folder / "mmaction.pth", model, options


TRAINERS: dict[str, Callable[[Path], Found]] = {
    "torch": of_torch,
    "timm": of_timm,
    "lightning": of_lightning,
    "accelerate": of_accelerate,
    "mmengine": of_mmengine,
    "mmaction2": of_mmaction2,
    "deepspeed": of_deepspeed,  # last: its process group stays
}


@torch.no_grad()
def difference(found: nn.Module, truth: nn.Module) -> float:
    """Of the logits in float64, as a share of the largest."""
    x = (CLIPS if any(p.ndim == 5 for p in truth.parameters()) else IMAGES).double()
    expected = truth.double().eval()(x)
    return float((found.double().eval()(x) - expected).abs().max() / expected.abs().max())


def compare(path: Path, truth: nn.Module, folder: Path, options: dict[str, Any]) -> tuple[list[float], str]:
    """How far our network is off from `path`, from our file made of it, and from the original's made of that."""
    model, _, report = uniformer.load_model(path, head_dim=HEAD_DIM, **options)
    uniformer.save_checkpoint(model, folder / "ours.safetensors")
    uniformer.convert(folder / "ours.safetensors", folder / "theirs.pth", overwrite=True)
    again = uniformer.load_model(folder / "ours.safetensors")[0]
    eps = {"block_eps": options["block_eps"]} if "block_eps" in options else {}
    back = uniformer.load_model(folder / "theirs.pth", head_dim=HEAD_DIM, **eps)[0]
    said = "; ".join(note for note in report.notes if "unwrapped" in note or "averaged" in note)
    return [difference(found, truth) for found in (model, again, back)], said


def main() -> None:
    for name, trainer in TRAINERS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            print(f"{name}: not installed")
            continue
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            for form, path, truth, options in trainer(folder):
                off, said = compare(path, truth, folder, options)
                print(f"{name} {found}, {form}: {', '.join(f'{share:.0e}' for share in off)} ({said})", flush=True)


if __name__ == "__main__":
    main()

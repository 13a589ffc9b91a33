"""Writing our form, proving it intact, converting both ways; `create_model` from a checkpoint."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import CLIPS, IMAGES, TINY, refused, same, save_tiny, tiny_model
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.keys import to_reference
from uniformer.checkpoints.load import create_model, load_checkpoint, load_model
from uniformer.checkpoints.save import convert, save_checkpoint, verify
from uniformer.network.model import UniFormer

VARIED: dict[str, dict[str, Any]] = {
    "image": {},
    "video": {"ndim": 3},
    "scaled": {"layer_scale": 0.5, "layer_scale_stages": (3, 4)},
    "scaled video": {"ndim": 3, "layer_scale": 0.5},
    "overlapping": {"overlap": 4},
    "time kernel": {"ndim": 3, "time_kernel": 3},
    "split": {"ndim": 3, "split_attention": True},
    "token labeling": {"token_labeling": True},
    "light": {"keep_ratio": 0.5, "overlap": 1},
    "light video": {"keep_ratio": 0.5, "overlap": 1, "ndim": 3},
    "backbone": {"num_classes": 0, "output": "normed_maps"},
    "features": {"num_classes": 0},
}


@pytest.mark.parametrize("kind", VARIED)
def test_reference_to_ours_to_reference(kind: str, tmp_path: Path) -> None:
    model = tiny_model(**VARIED[kind])
    state = to_reference(model.state_dict())
    torch.save(state, tmp_path / "theirs.pth")
    convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", head_dim=16)
    loaded, contract, _ = load_model(tmp_path / "ours.safetensors")
    assert loaded.config == contract.config
    assert same(loaded.state_dict(), model.state_dict())
    assert verify(tmp_path / "ours.safetensors")[1] == []
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    assert same(torch.load(tmp_path / "back.pth", weights_only=True), state)


@pytest.mark.parametrize("name", ["a.safetensors", "folder"])
def test_a_contract_survives(name: str, tmp_path: Path) -> None:
    path, model = tmp_path / name, tiny_model(ndim=3)
    scores, classes = {"top1": 71.25, "top5": 90.0}, ("наука", 'gym "ring"', *"abcde")
    notes = ("one", "two")
    contract = Contract(model.config, "", CLIPS, classes, "x.y", "seven", scores, "MIT", notes)
    written = save_checkpoint(model, path, contract)
    assert written.proof is not None
    assert replace(written, proof=None) == contract
    loaded, read, report = load_model(path)
    assert read == written
    assert same(loaded.state_dict(), model.state_dict())
    assert not loaded.training
    assert report.ignored == report.new == report.inflated == []


def test_without_a_contract_the_defaults_of_its_kind_are_written(tmp_path: Path) -> None:
    contract = save_checkpoint(tiny_model(ndim=3), tmp_path / "a.safetensors")
    assert (contract.config, contract.arch) == (replace(TINY, ndim=3), "")
    assert contract.input is not None
    assert contract.input.sampling == "dense"


def test_drop_path_of_a_training_does_not_matter_but_another_network_does(tmp_path: Path) -> None:
    contract = Contract(TINY, input=IMAGES)
    assert save_checkpoint(tiny_model(drop_path=0.2), tmp_path / "a.safetensors", contract).config.drop_path == 0.2
    with refused("the contract describes another network"):
        save_checkpoint(tiny_model(layer_scale=0.5), tmp_path / "a.safetensors", contract)
    with refused("expected a name for each of 7 classes, got 2 names"):
        Contract(TINY, classes=("a", "b"))
    with refused("expected the input of a network of images, got one with dense sampling"):
        Contract(TINY, input=CLIPS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_keep_it(dtype: torch.dtype, tmp_path: Path) -> None:
    model, path = tiny_model().to(dtype), tmp_path / "a.safetensors"
    save_checkpoint(model, path)
    assert verify(path)[1] == []
    assert same(load_model(path)[0].state_dict(), model.state_dict())
    plain = tiny_model(1)
    load_checkpoint(plain, path)
    assert plain.head.weight.dtype == torch.float32  # the model's own


def test_weights_of_mixed_precision_keep_it(tmp_path: Path) -> None:
    model, path = tiny_model(), tmp_path / "a.safetensors"
    model.stages[3].half()
    save_checkpoint(model, path)
    assert verify(path)[1] == []
    assert same(load_model(path)[0].state_dict(), model.state_dict())
    convert(path, tmp_path / "back.pth")
    assert same(torch.load(tmp_path / "back.pth", weights_only=True), to_reference(model.state_dict()))


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.safetensors", "folder"])
def test_one_flipped_byte_among_the_tensors_is_found(name: str, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / name, IMAGES)
    assert verify(path)[1] == []
    file = path / "model.safetensors" if path.is_dir() else path
    whole = file.read_bytes()
    begin, rng = 8 + int.from_bytes(whole[:8], "little"), random.Random(0)
    for place in (begin, len(whole) - 1, *(rng.randrange(begin, len(whole)) for _ in range(6))):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        assert "the tensors are not the ones that were saved (sha256 differs)" in verify(path)[1]


def test_a_changed_label_is_found(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    model = tiny_model(num_classes=2)
    save_checkpoint(model, path, Contract(model.config, classes=("push", "pull")))
    assert verify(path)[1] == []
    config = path / "config.json"
    config.write_text(config.read_text().replace("pull", "bull"))
    assert [p for p in verify(path)[1] if "contract" in p and "sha256 differs" in p]


def test_logits_that_are_no_numbers_are_found(tmp_path: Path) -> None:
    """The first 16 logits are compared one by one, the others by their norm: NaN must not slip through either."""
    model = tiny_model(num_classes=20)
    path = tmp_path / "a.safetensors"
    contract = save_checkpoint(model, path)
    with torch.no_grad():
        model.head.bias[19] = float("nan")  # type: ignore[union-attr]
    from uniformer.checkpoints.proof import check_proof

    assert any("off by nan" in problem for problem in check_proof(model, contract))


def test_no_proof_to_verify(tmp_path: Path) -> None:
    torch.save(to_reference(tiny_model().state_dict()), tmp_path / "a.pth")
    with refused("carries no proof to verify"):
        verify(tmp_path / "a.pth")
    with refused("no checkpoint at"):
        verify(tmp_path / "none.safetensors")


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a saved file with another contract in its header."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as f:
        contract = json.loads(f.metadata()["uniformer"])
    change(contract)
    save_file(load_file(path), path, metadata={"uniformer": json.dumps(contract)})


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer": (lambda c: c.update(uniformer=2), r"a.safetensors: written by a newer .* \(format 2, expected up to 1\)"),
    "no version": (lambda c: c.pop("uniformer"), "holds no readable description"),
    "unknown field": (lambda c: c["config"].update(magic=1), "holds no readable description .*magic"),
    "bad value": (lambda c: c["config"].update(ndim=5), "a.safetensors: expected ndim 2"),
    "words for numbers": (lambda c: c["config"].update(dims=["a", "b", "c", "d"]), "holds no readable description"),
    "another network": (lambda c: c["config"].update(depths=[1, 1, 1, 2]), "lacks 14 tensors of the model: stages.3"),
    "half a proof": (lambda c: c["proof"].pop("norm"), "holds no readable description"),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_a_contract_that_cannot_be_used_is_refused(case: str, tmp_path: Path) -> None:
    change, pattern = EDITS[case]
    edited(save_tiny(tmp_path / "a.safetensors", IMAGES), change)
    with refused(pattern):
        verify(tmp_path / "a.safetensors")


@pytest.mark.parametrize("data", [b"{", b"[]", b"3", b'{"architectures": ["ViT"]}', b"\xff\xfe\x00", b""])
def test_a_folder_of_something_else_is_refused(data: bytes, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "folder", IMAGES)
    (folder / "config.json").write_bytes(data)
    said = (
        "holds no readable description of a uniformer model" if data else ": expected a contract, found an empty file"
    )
    with refused(f"config.json ?{said}"):
        load_model(folder)
    (folder / "config.json").unlink()
    with refused("is no saved model: expected a file config.json in it"):
        load_model(folder)


# ---- writing ---------------------------------------------------------------------------------------------------------

FAILING_WRITE = """
import resource, sys
from uniformer.checkpoints.save import convert
from uniformer.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for out in sys.argv[2:]:
    try:
        convert(sys.argv[1], out, overwrite=True)
    except InputError as error:
        print(error)
"""


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """Files may grow to 50 kB only, as on a full disk."""
    old, new = save_tiny(tmp_path / "old.safetensors", IMAGES), save_tiny(tmp_path / "new.safetensors", IMAGES, seed=1)
    outs = [tmp_path / name for name in ("a.safetensors", "folder", "a.pth")]
    for out in outs:
        convert(old, out)
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    command = [sys.executable, "-c", FAILING_WRITE, str(new), *map(str, outs)]
    child = subprocess.run(command, text=True, capture_output=True)
    assert child.returncode == 0, child.stderr
    assert [line.split(":")[0] for line in child.stdout.splitlines()] == [
        f"cannot write {path}" for path in (outs[0], outs[1] / "model.safetensors", outs[2])
    ]
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files


def test_saving_over_a_file_replaces_it(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    save_tiny(path, IMAGES, seed=1)
    assert same(load_model(path)[0].state_dict(), tiny_model(1).state_dict())
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.stat().st_mode & 0o044  # others may read it, as any new file


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    """safetensors alone puts the two entries of the header in either order, by chance."""
    paths = [save_tiny(tmp_path / f"{number}.safetensors", IMAGES) for number in range(8)]
    assert len({path.read_bytes() for path in paths}) == 1
    assert verify(paths[0])[1] == []


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file/inside", tmp_path / "file/no/such/a.safetensors"):
        with refused("cannot write"):
            save_checkpoint(tiny_model(), path)
    with refused("expected a name ending in .safetensors, or a folder"):
        save_checkpoint(tiny_model(), tmp_path / "a.bin")
    with refused("cannot write"):
        convert(save_tiny(tmp_path / "a.safetensors", IMAGES), tmp_path / "file/no/such/a.pth")


# ---- create_model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of uniformer_xxs, the smallest published network, with 5 classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "xxs.pth"
    torch.save({"model": to_reference(create_model("uniformer_xxs", num_classes=5).state_dict())}, path)
    return path


def test_create_model_takes_the_class_count_of_the_file(imagenet: Path) -> None:
    model = create_model("uniformer_xxs", checkpoint=imagenet, drop_path=0.1)
    assert (model.config.num_classes, model.config.drop_path) == (5, 0.1)
    assert same(to_reference(model.state_dict()), torch.load(imagenet, weights_only=True)["model"])


def test_create_model_with_everything_asked_for(imagenet: Path) -> None:
    file = torch.load(imagenet, weights_only=True)["model"]
    model = create_model("uniformer_xxs_video", checkpoint=imagenet, num_classes=9, in_chans=4, inflate="center")
    state = to_reference(model.state_dict())
    assert state["head.weight"].shape == (9, 448)
    assert torch.equal(state["blocks4.0.attn.qkv.weight"], file["blocks4.0.attn.qkv.weight"])
    assert torch.equal(state["patch_embed2.proj.weight"][:, :, 0], file["patch_embed2.proj.weight"])
    assert torch.equal(state["patch_embed1.proj.0.weight"][:, 3, 1], file["patch_embed1.proj.0.weight"][:, 0] * 3 / 4)


def test_create_model_of_features(imagenet: Path) -> None:
    model = create_model("uniformer_xxs", checkpoint=imagenet, features_only=True)
    assert [tuple(m.shape[1:]) for m in model(torch.zeros(1, 3, 64, 64))] == [
        (56, 16, 16), (112, 8, 8), (224, 4, 4), (448, 2, 2)
    ]  # fmt: skip
    pooled = create_model("uniformer_xxs", checkpoint=imagenet, num_classes=0)
    assert pooled(torch.zeros(1, 3, 64, 64)).shape == (1, 448)


def test_create_model_of_a_backbone_says_that_its_norms_are_new(imagenet: Path) -> None:
    with pytest.warns(UserWarning, match="has no norms for the maps"):
        model = create_model("uniformer_xxs_backbone", checkpoint=imagenet)
    assert len(model(torch.zeros(1, 3, 64, 64))) == 4


def test_create_model_refuses(imagenet: Path) -> None:
    with refused("is a 2D .image. file, the model is 3D"):
        create_model("uniformer_xxs_video", checkpoint=imagenet)
    with refused("unknown model 'uniformer_xxl'.*uniformer_xxs"):
        create_model("uniformer_xxl", checkpoint=imagenet)
    with refused("unknown option 'num_clases'.*num_classes"):
        create_model("uniformer_xxs", checkpoint=imagenet, num_clases=3)
    with refused("no checkpoint at"):
        create_model("uniformer_xxs", checkpoint=imagenet.with_name("none.pth"))
    with refused("unknown checkpoint 'uniformer_small.in1'.*uniformer_small.in1k"):
        create_model("uniformer_small", checkpoint="uniformer_small.in1")


def test_loading_a_state_dict_does_not_tie_the_model_to_it() -> None:
    source = tiny_model()
    model = load_model(source.state_dict(), head_dim=16)[0]
    with torch.no_grad():
        model.head.bias.zero_()  # type: ignore[union-attr]
    assert isinstance(model, UniFormer)
    assert source.head.bias.abs().sum() > 0  # type: ignore[union-attr]

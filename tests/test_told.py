"""What a bare file does not tell: said by the caller, or assumed where the published models agree, and then said so."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import uniformer
from tests import odd_media
from tests.command_line import Cli, one_line
from tests.test_checkpoint import openmmlab, reference, saved
from tests.tiny import CLIPS, IMAGES, refused, save_tiny, tiny_model
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.identify import open_checkpoint
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.records import BUNDLED, get_checkpoint
from uniformer.checkpoints.save import convert, save_checkpoint
from uniformer.checkpoints.told import Told, sampled
from uniformer.cli.main import build_parser
from uniformer.cli.options import TOLD, told
from uniformer.config import InputSpec
from uniformer.labels import load_classes
from uniformer.network import variants
from uniformer.network.model import UniFormer
from uniformer.network.variants import default_input
from uniformer.training.run import plan_training

SSV2 = "uniformer_small.ssv2_16_prek400"
NANO = variants.get_config("uniformer_nano_video")


def bare(path: Path, classes: int, **options: Any) -> Path:
    """A file of the original code, of a small network of clips: tensors and nothing else."""
    return saved(path, reference(tiny_model(num_classes=classes, **{"ndim": 3, **options})))


def nano(path: Path, classes: int) -> Path:
    torch.manual_seed(0)
    return saved(path, reference(UniFormer(replace(NANO, num_classes=classes)).eval()))


# ---- assumed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "like", "words"),
    [
        (400, "uniformer_small.k400_16x4", ("400 classes are those of Kinetics-400", "uniformer_small.k400_8x8")),
        (600, "uniformer_small.k600_16x4", ("those of Kinetics-600", "uniformer_base.k600_32x4")),
        (174, "uniformer_small.ssv1_16_prek400", ("Something-Something V1 and Something-Something V2", "ssv2_32_pre")),
        (101, "uniformer_small.ucf101_16x4_prek400", ("those of UCF101",)),
        (51, "uniformer_small.hmdb51_16x4_prek400", ("those of HMDB51",)),
        (7, None, ("16 frames with stride 4", "no published network of it has 7 classes")),
    ],
)
def test_the_class_count_proposes_the_usual_input(
    classes: int, like: str | None, words: tuple[str, ...], tmp_path: Path
) -> None:
    path = bare(tmp_path / "a.pth", classes)
    model, contract, report = load_model(path, head_dim=16)
    usual = default_input(model.config) if like is None else get_checkpoint(like).input
    assert contract.input == usual
    assert (contract.classes, contract.id, contract.dataset) == ((), "", "")  # nothing is taken for known
    (said,) = [note for note in report.notes if note.startswith("assumed input: ")]
    assert all(word in said for word in (*words, "like= (--like ID) or sampling= (--sampling)"))
    (unnamed,) = [note for note in report.notes if note.startswith("no class names: ")]
    assert ("are as many as those of" in unnamed) == (like is not None)


def test_images_too_and_light_networks_by_their_kind(tmp_path: Path) -> None:
    _, contract, report = load_model(bare(tmp_path / "a.pth", 1000, ndim=2), head_dim=16)
    assert contract.input == get_checkpoint("uniformer_small.in1k").input
    assert any("as uniformer_small.in1k, since 1000 classes are those of ImageNet-1K" in n for n in report.notes)
    light = load_model(bare(tmp_path / "b.pth", 400, keep_ratio=0.5, overlap=1), head_dim=16)[1].input
    assert light is not None
    assert (light.sampling, light.frames) == ("sparse", 16)
    backbone = bare(tmp_path / "c.pth", 0, ndim=2, output="normed_maps")
    assert not any("assumed" in note for note in load_model(backbone, head_dim=16)[2].notes)  # it is fed nothing


def test_what_is_known_is_not_assumed(tmp_path: Path) -> None:
    own = load_model(save_tiny(tmp_path / "a.safetensors", CLIPS))[1]
    published = open_checkpoint(bare(tmp_path / "uniformer_small_k400_8x8.pth", 400, head_dim=64)).contract
    for contract in (own, published):
        assert not any("assumed" in note or "no class names" in note for note in contract.notes)
    assert published.input == get_checkpoint("uniformer_small.k400_8x8").input


def test_what_was_assumed_stays_so_in_our_form(tmp_path: Path) -> None:
    report = convert(bare(tmp_path / "a.pth", 174), tmp_path / "a.safetensors", head_dim=16)
    model, contract, again = load_model(tmp_path / "a.safetensors")
    (line,) = [note for note in contract.notes if note.startswith("assumed input: ")]
    assert line in report.notes
    assert line in again.notes
    for door in (uniformer.Predictor, uniformer.transforms):
        with pytest.warns(UserWarning, match="assumed input") as said:
            door(tmp_path / "a.safetensors")
        assert [str(warning.message) for warning in said] == list(contract.notes[1:])
        assert line.startswith("assumed input: 16 frames spread over the video, 224 x 224 bgr pixels, 1 x 3 views, as ")
    save_checkpoint(model, tmp_path / "b.safetensors")  # without a contract, nor by loading into a model of one's own
    uniformer.load_checkpoint(model, tmp_path / "a.pth")
    save_checkpoint(model, tmp_path / "c.safetensors")
    for name in "bc":
        assert line in load_model(tmp_path / f"{name}.safetensors")[1].notes


@pytest.mark.filterwarnings("always")  # as in a process of its own each time
def test_every_door_says_it_in_a_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # where `bench` keeps its times
    path, video = nano(tmp_path / "a.pth", 20), odd_media.h264(tmp_path)
    data = tmp_path / "data"
    for number, folder in enumerate(("a", "b")):
        (data / folder).mkdir(parents=True)
        (data / folder / f"{number}.mp4").symlink_to(video)
    doors: tuple[tuple[Any, ...], ...] = (
        ("predict", video, "--checkpoint", path, "--clips", 1),
        ("demo", video, "--checkpoint", path, "--no-cuts"),
        ("eval", path, data, "--clips", 1, "--class-order", "numbers"),
        ("features", path, data, "--clips", 1, "--out", tmp_path / "features"),
        ("bench", path, "--rounds", 1, "--forms", "plain", "--size", 32),
    )
    for door in doors:
        ended = cli(*door)
        assert ended.status == 0, ended
        lines = [line for line in ended.err.splitlines() if "assumed input: 16 frames with stride 4" in line]
        assert len(lines) == 1, (door, ended.err)
        assert lines[0].startswith("uniformer: warning: ")
        told = cli(*door, "--sampling", "8", *(("--overwrite",) if door[0] == "eval" else ()),
                   *(("--out", tmp_path / "others") if door[0] == "features" else ()))  # fmt: skip
        assert told.status == 0, told
        assert "assumed" not in told.err


def test_training_on_ones_own_data_says_it_and_is_told(cli: Cli, tmp_path: Path) -> None:
    path, video = nano(tmp_path / "a.pth", 174), odd_media.h264(tmp_path)
    for folder in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / f"{folder[0]}.mp4").write_bytes(video.read_bytes() + folder.encode())
    plan = plan_training(tmp_path / "data", checkpoint=str(path))
    assert any(line.startswith("assumed input: 16 frames spread over the video") for line in plan.reasons)
    printed = cli("train", tmp_path / "data", "--checkpoint", path, "--sampling", "8x2", "--block-eps", 1e-5, "--print")
    assert printed.status == 0, printed
    for line in ('sampling = "dense"', "frames = 8", "stride = 2", "block_eps = 1e-05"):
        assert line in printed.out
    one_line(cli("train", "uniformer_s16x4_k400", "--sampling", "8x2"), "says all of itself: expected no sampling")


# ---- said ------------------------------------------------------------------------------------------------------------


def test_like_gives_what_the_tensors_do_not_tell(tmp_path: Path) -> None:
    config = replace(variants.get_config("uniformer_small_video"), num_classes=174)
    state = UniFormer(config).state_dict()
    model, contract, report = load_model(state, like=SSV2)
    assert model.config == config
    assert contract.input == get_checkpoint(SSV2).input
    assert contract.classes == load_classes("Something-Something V2")
    assert (contract.id, contract.scores) == ("", {})  # like it, not it
    assert f"input as of {SSV2}, says the caller" in report.notes
    assert not any(note.startswith(("assumed", "no class names")) for note in report.notes)
    mine = load_model({k: v[:9] if k.startswith("head.") else v for k, v in state.items()}, like=SSV2)[1]
    assert (mine.input, mine.classes) == (get_checkpoint(SSV2).input, ())  # nine classes of one's own
    with refused("expected tensors like those of uniformer_base.k400_16x4 .uniformer_base_video., found another"):
        load_model(state, like="uniformer_base.k400_16x4")
    with refused("unknown checkpoint 'uniformer_small.ssv2'.*did you mean"):
        load_model(state, like="uniformer_small.ssv2")
    with refused("uniformer_small.in1k"):
        load_model(state, like="uniformer_small.in1k")


def test_like_settles_head_dim_and_windows(tmp_path: Path) -> None:
    stripped = {k: v for k, v in UniFormer(variants.get_config("uniformer_small_tl")).state_dict().items()
                if not k.startswith("aux_head")}  # fmt: skip
    with refused("expected head_dim for the state dict: .* 32, 64 .head_dim= or like= says it, --head-dim or --like"):
        load_model(stripped)
    _, contract, report = load_model(stripped, like="uniformer_small_dim32.tl_in1k_384")
    assert (contract.config.head_dim, contract.input and contract.input.size) == (32, (384, 384))
    assert "head_dim 32 from uniformer_small_dim32.tl_in1k_384" in report.notes
    assert contract.classes == load_classes("ImageNet-1K")
    dense = UniFormer(variants.get_config("uniformer_small_backbone")).state_dict()
    like = load_model(dense, like="mask_rcnn.uniformer_small_h14.coco_1x")[1]
    assert like.config == variants.get_config("uniformer_small_backbone_h14")


def test_the_model_in_the_package_is_a_like_too(tmp_path: Path) -> None:
    _, contract, _ = load_model(nano(tmp_path / "a.pth", 20), like=BUNDLED)
    assert (contract.input, contract.classes) == (get_checkpoint(BUNDLED).input, get_checkpoint(BUNDLED).classes)
    assert len(contract.classes) == 20


DENSE_16 = default_input(variants.get_config("uniformer_small_video"))
SPREAD_16 = get_checkpoint(SSV2).input


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("8x8", {"frames": 8, "stride": 8}),
        ("dense:32x4", {"frames": 32, "stride": 4}),
        ("dense", {}),
        ("sparse", {"sampling": "sparse", "stride": None, "clips": 1, "crops": 3}),
        ("8", {"sampling": "sparse", "frames": 8, "stride": None, "clips": 1, "crops": 3}),
        ("sparse:32", {"sampling": "sparse", "frames": 32, "stride": None, "clips": 1, "crops": 3}),
    ],
)
def test_sampling_in_words(text: str, changed: dict[str, Any]) -> None:
    assert sampled(DENSE_16, text) == replace(DENSE_16, **changed)


def test_sampling_from_spread_to_dense_and_back() -> None:
    assert isinstance(SPREAD_16, InputSpec)
    dense = sampled(SPREAD_16, "16x4")
    assert dense == replace(DENSE_16, channels="bgr")  # as Something-Something's pictures are: frames alone change
    assert sampled(dense, "16") == SPREAD_16


@pytest.mark.parametrize("text", ["", "x4", "16x", "4 of 16", "sparse:16x4", "dense:x4", "16x4x2", "99999", "-8", "٣"])
def test_sampling_in_other_words_is_refused(text: str) -> None:
    with refused("expected sampling as 16x4, 16, dense or sparse, got "):
        sampled(DENSE_16, text)


@pytest.mark.parametrize("text", ["0", "16x0", "0x4", "9999x1"])
def test_sampling_of_nothing_or_too_much_is_refused(text: str) -> None:
    with refused("expected "):
        sampled(DENSE_16, text)


def test_names_come_from_a_file_a_data_set_or_a_list(cli: Cli, tmp_path: Path) -> None:
    path, names = bare(tmp_path / "a.pth", 7), [f"move {i}" for i in range(7)]
    (tmp_path / "names.txt").write_text("\ufeff" + "\n".join(names) + "\n", encoding="utf-8")
    (tmp_path / "names.json").write_text(json.dumps(names))
    for given in (names, tmp_path / "names.txt", str(tmp_path / "names.json")):
        contract = load_model(path, head_dim=16, classes=given)[1]
        assert contract.classes == tuple(names)
        assert not any(note.startswith("no class names") for note in contract.notes)
    with refused("expected a name for each of 7 classes, got 400 names"):
        load_model(path, head_dim=16, classes="Kinetics-400")
    with refused("no class names for the data set 'Kinetics-40'"):
        load_model(path, head_dim=16, classes="Kinetics-40")
    out = tmp_path / "named.safetensors"
    convert(path, out, head_dim=16, classes=tmp_path / "names.txt", sampling="4x2")
    assert cli("verify", out).status == 0
    ended = cli("predict", odd_media.h264(tmp_path), "--checkpoint", out, "--format", "jsonl", "--crops", 1)
    assert json.loads(ended.out)["labels"][0]["name"] in names
    assert ended.err == ""


def test_the_callers_word_goes_before_a_contracts(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", CLIPS)
    before = load_model(path)[1]
    _, contract, _ = load_model(path, sampling="8", classes=[f"move {i}" for i in range(7)], block_eps=1e-5)
    assert contract.input == replace(CLIPS, sampling="sparse", frames=8, stride=None, clips=1, crops=3)
    assert (contract.classes[0], contract.config.block_eps, contract.id) == ("move 0", 1e-5, before.id)
    assert contract.proof is None  # of another network
    assert load_model(path, sampling=None)[1] == before
    with refused("expected no sampling for a network of images, got 8x2"):
        load_model(save_tiny(tmp_path / "b.safetensors", IMAGES), sampling="8x2")


def test_block_eps_is_told_at_every_door(tmp_path: Path) -> None:
    source = tiny_model(ndim=3, block_eps=1e-5).double()
    path = saved(tmp_path / "a.pth", {"state_dict": openmmlab(source), "meta": {}})
    assert any("models trained in mmaction2 and mmpose have 1e-5" in n for n in load_model(path, head_dim=16)[2].notes)
    model, _, report = load_model(path, head_dim=16, block_eps=1e-5)
    assert not any("mmaction2" in note for note in report.notes)
    convert(path, tmp_path / "b.safetensors", head_dim=16, block_eps=1e-5)
    x = torch.randn(1, 3, 4, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for same in (model, load_model(tmp_path / "b.safetensors")[0]):
            assert torch.equal(same(x), source(x))
    with refused("expected block_eps in .0, 1., got 2"):
        load_model(path, head_dim=16, block_eps=2.0)


def test_all_commands_that_take_a_checkpoint_take_the_same_options() -> None:
    elsewhere = {"demo": {"window", "global_every"}, "eval": {"classes"}, "features": {"classes"}, "train": {"classes"}}
    words = {
        "predict": "x",
        "eval": "x y",
        "features": "x y --out z",
        "convert": "x y",
        "export": "x y",
        "bench": "x",
        "serve": "--port 1",
        "app": "--port 1",
    }
    values = {"like": SSV2, "sampling": "16x4", "classes": "names.txt", "block_eps": 1e-5}
    for command in (*words, "demo", "train"):
        wanted = {name: values.get(name, 7) for name in TOLD if name not in elsewhere.get(command, ())}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in wanted.items()]
        args = build_parser().parse_args([command, *words.get(command, "x").split(), *options])
        assert told(args) == wanted, command
    assert TOLD.keys() == Told.__annotations__.keys()


def test_what_leaves_nothing_open_is_told_nothing(cli: Cli, tmp_path: Path) -> None:
    model = tiny_model()
    with refused("a model with its contract says all of itself: expected no head_dim"):
        uniformer.Predictor((model, Contract(model.config, input=IMAGES)), head_dim=16)
    with refused("net.onnx: an exported network says all of itself: expected no like, classes"):
        uniformer.Predictor("net.onnx", like=SSV2, classes=["a"])
    with refused("unknown option 'headdim' of a checkpoint .did you mean 'head_dim'"):
        uniformer.Predictor(save_tiny(tmp_path / "a.safetensors", IMAGES), headdim=16)
    one_line(cli("bench", "uniformer_xxs", "--head-dim", 14), "the architecture uniformer_xxs says all of itself")
    one_line(cli("predict", "x.jpg", "--untrained", "uniformer_xxs", "--like", SSV2), "expected no like")


def test_a_wrapped_network_is_as_good_as_itself() -> None:
    from torch.optim.swa_utils import AveragedModel

    model = tiny_model()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = uniformer.optimize(model)(x)
        for wrapped in (torch.nn.DataParallel(model), AveragedModel(model), torch.compile(model)):
            assert torch.equal(uniformer.optimize(wrapped)(x), expected)  # type: ignore[arg-type]
    contract = Contract(model.config, input=IMAGES)
    answer = uniformer.Predictor((AveragedModel(model), contract))(odd_media.picture(1))  # type: ignore[arg-type]
    assert answer.labels == uniformer.Predictor((model, contract))(odd_media.picture(1)).labels
    for other in (torch.nn.Linear(2, 2), torch.nn.DataParallel(torch.nn.Linear(2, 2))):
        with refused("expected a UniFormer, or one under torch's wrappers, got "):
            uniformer.optimize(other)  # type: ignore[arg-type]
    with warnings.catch_warnings(), refused("expected a model as it was created or loaded, got one that is optimised"):
        uniformer.optimize(uniformer.optimize(model))  # type: ignore[arg-type]

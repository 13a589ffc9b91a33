"""Evaluation, features and probes on real files, in one process and in several, cut short and whole."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from tests.odd_media import encode
from tests.scored import evaluate_model
from tests.tiny import CLIPS, IMAGES, refused, save_tiny, tiny_model
from tests.tolerance import assert_close, layers_of, terms_of
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.save import save_checkpoint
from uniformer.cli.main import main
from uniformer.datasets.manifest import Item, Manifest
from uniformer.evaluation.features import extract_features, load_features
from uniformer.evaluation.run import evaluate
from uniformer.evaluation.scoring import Reading, item_groups
from uniformer.inference.networks import evaluating
from uniformer.inference.predictor import Predictor
from uniformer.network.model import UniFormer
from uniformer.speed.forms import situation_of
from uniformer.speed.timings import remember, view_size
from uniformer.tasks.scores import Scores

NAMES = tuple(f"class of number {i}" for i in range(7))
SPEC = replace(CLIPS, crops=3)  # two clips of three crops


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("videos"))


def make_videos(folder: Path) -> Path:
    """Six different ones, 0.mp4 to 5.mp4, of 30 frames."""
    for i in range(6):
        encode(folder / f"{i}.mp4", frames=30, size=(96, 80), number=lambda n, i=i: (n + 40 * i) % 256)
    return folder


@pytest.fixture(scope="module")
def network() -> UniFormer:
    return tiny_model(ndim=3)


def of_videos(folder: Path, extra: list[Item] | None = None) -> Manifest:
    items = [Item(f"{i}.mp4", (i,)) for i in range(6)]
    for item in extra or []:
        items.insert(3, item)
    return Manifest.from_items(items, kind="video", classes=NAMES, root=folder)


def same_bits(a: Scores, b: Scores) -> bool:
    return all(getattr(a, n).tobytes() == getattr(b, n).tobytes() for n in ("logits", "probabilities", "ok", "labels"))


# ---- one process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_scores_are_what_the_predictor_says(videos: Path, network: UniFormer, average: str) -> None:
    spec = replace(SPEC, average=average)
    scores = evaluate_model(network, of_videos(videos), spec, workers=0)
    predictor = Predictor((network, Contract(network.config, input=spec, classes=NAMES)), device="cpu")
    for row in (1, 4):
        assert_close(scores.probabilities[row], predictor(videos / f"{row}.mp4").probabilities, terms_of(network))
    assert scores.ok.all()
    assert scores.labels.tolist() == list(range(6))
    assert scores.classes == NAMES
    assert len({row.tobytes() for row in scores.logits}) == 6


def test_workers_do_not_change_a_digit(videos: Path, network: UniFormer) -> None:
    seen: list[tuple[int, int]] = []
    alone = evaluate_model(network, of_videos(videos), SPEC, workers=0)
    read_ahead = evaluate_model(network, of_videos(videos), SPEC, workers=2, progress=lambda *now: seen.append(now))
    assert same_bits(alone, read_ahead)
    assert seen == [(n, 6) for n in range(1, 7)]


def test_an_unreadable_file_is_an_error_and_moves_no_other_item(videos: Path, network: UniFormer) -> None:
    (videos / "text.mp4").write_text("no video")
    extra = [Item("gone.mp4", (5,)), Item("text.mp4", (2,))]
    spec = replace(CLIPS, clips=1)  # one view: four items a forward pass, so neighbours share a batch
    whole = evaluate_model(network, of_videos(videos, [Item("0.mp4", (5,)), Item("1.mp4", (2,))]), spec, batch_size=4)
    holes = evaluate_model(network, of_videos(videos, extra), spec, batch_size=4)
    assert holes.ok.tolist() == [True] * 3 + [False] * 2 + [True] * 3
    assert list(holes.errors) == [3, 4]
    assert "text.mp4" in holes.errors[3]
    assert "no such file" in holes.errors[4]
    assert holes.logits[holes.ok].tobytes() == whole.logits[holes.ok].tobytes()
    assert not holes.logits[3:5].any()
    assert holes.metrics()["items"] == 8
    assert holes.metrics("skip")["items"] == 6


def test_parts_of_long_files_are_items_of_their_own(videos: Path, network: UniFormer) -> None:
    items = [Item("0.mp4", (0,)), Item("0.mp4", (0,), 0.0, 0.4), Item("0.mp4", (0,), 0.8, 1.2)]
    manifest = Manifest.from_items(items, kind="video", classes=NAMES, root=videos)
    scores = evaluate_model(network, manifest, SPEC, workers=0)
    assert scores.paths == ("0.mp4", "0.mp4#0-0.4", "0.mp4#0.8-1.2")
    assert len({row.tobytes() for row in scores.logits}) == 3


def test_a_run_that_goes_on_takes_the_form_that_was_recorded(
    videos: Path, network: UniFormer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured on the machine in between changes no digit."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = of_videos(videos)
    for name in ("whole", "cut"):
        whole = evaluate_model(network, manifest, SPEC, workers=0, store=tmp_path / name)
    (rows,) = (tmp_path / "cut").glob("rows-*.bin")
    rows.write_bytes(rows.read_bytes()[: 3 * (8 + 2 * 4 * 7 + 4)])  # three items
    size = view_size(network.config, SPEC)
    remember(situation_of(network.config, size, torch.device("cpu"), torch.float32), {"plain": 1.0, "fast": 2.0})
    assert not same_bits(whole, evaluate_model(network, manifest, SPEC, workers=0))  # a new run goes by it
    assert same_bits(whole, evaluate_model(network, manifest, SPEC, workers=0, store=tmp_path / "cut"))
    with refused("holds answers of another run .network differ"):
        evaluate_model(network, manifest, SPEC, workers=0, store=tmp_path / "cut", compute="plain")


@pytest.mark.parametrize("form", [".onnx", ".xml"])
def test_an_exported_network_is_evaluated_as_its_checkpoint_is(videos: Path, tmp_path: Path, form: str) -> None:
    pytest.importorskip({".onnx": "onnxscript", ".xml": "openvino"}[form])
    save_tiny(tmp_path / "tiny.safetensors", CLIPS)
    assert main(["export", str(tmp_path / "tiny.safetensors"), str(tmp_path / f"tiny{form}")]) == 0
    of_videos(videos).save(tmp_path / "six.manifest")
    found = {}
    for name in ("tiny.safetensors", f"tiny{form}"):
        words = [str(tmp_path / name), str(tmp_path / "six.manifest"), "--workers", "0", "--batch-size", "3"]
        assert main(["eval", *words, "--out", str(tmp_path / f"{name}.eval")]) == 0
        found[name] = Scores.load(tmp_path / f"{name}.eval" / "scores.npz")
    own, exported = found.values()
    assert_close(exported.logits, own.logits, terms_of(tiny_model(ndim=3)))
    assert own.classes == exported.classes
    refusal = main(["features", str(tmp_path / f"tiny{form}"), str(videos), "--out", str(tmp_path / "features")])
    assert refusal == 2


def test_images_go_several_at_a_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (80, 90, 3), np.uint8)).save(tmp_path / f"{i}.png")
    items = [Item(f"{i}.png", (i,)) for i in range(5)]
    manifest = Manifest.from_items(items, kind="image", classes=NAMES, root=tmp_path)
    model = tiny_model()
    two, five = (evaluate_model(model, manifest, IMAGES, batch_size=n, workers=0) for n in (2, 5))
    assert_close(two.logits, five.logits, terms_of(model))
    predictor = Predictor((model, Contract(model.config, input=IMAGES)), device="cpu")
    assert_close(two.probabilities[4], predictor(tmp_path / "4.png").probabilities, terms_of(model))


def test_multi_label_sets_are_scored_by_mean_precision(videos: Path, network: UniFormer) -> None:
    items = [Item("0.mp4", (0, 3)), Item("1.mp4", ()), Item("2.mp4", (3,))]
    manifest = Manifest.from_items(items, kind="video", classes=NAMES, root=videos, multi_label=True)
    scores = evaluate_model(network, manifest, SPEC, workers=0)
    assert scores.labels.tolist() == [[i in labels for i in range(7)] for labels in ((0, 3), (), (3,))]
    assert 0 < scores.metrics()["map"] <= 1


def test_groups_are_decided_by_views_and_batch_alone() -> None:
    assert item_groups(5, 1, 2) == [range(2), range(2, 4), range(4, 5)]
    assert item_groups(3, 6, 8) == [range(1), range(1, 2), range(2, 3)]
    assert item_groups(2, 12, 8) == [range(1), range(1, 2)]


def test_the_model_is_left_in_its_mode(network: UniFormer) -> None:
    model = tiny_model(ndim=3)
    model.train()
    model.stages[0].eval()  # a frozen part
    before = [m.training for m in model.modules()]
    with evaluating(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == before


def test_answers_that_are_no_numbers_are_errors(videos: Path) -> None:
    model = tiny_model(ndim=3)
    with torch.no_grad():
        model.head.bias[2] = float("nan")  # type: ignore[union-attr, index]
    scores = evaluate_model(model, of_videos(videos), SPEC, workers=0)
    assert not scores.ok.any()
    assert "finite" in scores.errors[0]
    assert scores.metrics()["top1"] == 0


def test_half_precision_is_close(videos: Path, network: UniFormer) -> None:
    full, half = (
        evaluate_model(network, of_videos(videos), SPEC, workers=0, precision=p) for p in ("float32", "bfloat16")
    )
    assert_close(half.logits, full.logits, layers_of(network), dtype=torch.bfloat16)
    assert not np.array_equal(full.logits, half.logits)


def test_what_does_not_fit_is_refused(videos: Path, network: UniFormer) -> None:
    manifest = of_videos(videos)
    with refused("expected clips or images throughout"):
        evaluate_model(network, manifest, IMAGES)
    with refused("at least one item"):
        evaluate_model(network, manifest.select([]), SPEC)
    with refused("expected labels in 0 .. 3"):
        evaluate_model(tiny_model(ndim=3, num_classes=4), manifest, SPEC)
    with refused("has no classifier"):
        evaluate_model(tiny_model(ndim=3, num_classes=0), manifest, SPEC)
    with refused("expected precision"):
        evaluate_model(network, manifest, SPEC, precision="float8")  # type: ignore[arg-type]
    with refused("expected batch_size"):
        evaluate_model(network, manifest, SPEC, batch_size=0)


# ---- going on after an end -------------------------------------------------------------------------------------------


def test_stored_answers_are_not_computed_again(videos: Path, network: UniFormer, tmp_path: Path) -> None:
    manifest = of_videos(videos, [Item("late.mp4", (1,))])
    rows = tmp_path / "rows-0.bin"
    first = evaluate_model(network, manifest, SPEC, workers=0, store=tmp_path)
    size = rows.stat().st_size
    row = size // 6
    encode(videos / "late.mp4", frames=30, size=(96, 80))  # what was missing is there now
    seen: list[tuple[int, int]] = []
    second = evaluate_model(network, manifest, SPEC, workers=0, store=tmp_path, progress=lambda *now: seen.append(now))
    (videos / "late.mp4").unlink()
    assert (seen, rows.stat().st_size) == ([(1, 1)], 7 * row)
    assert second.ok.all()
    assert second.logits[first.ok].tobytes() == first.logits[first.ok].tobytes()

    data = bytearray(rows.read_bytes())  # a row spoilt, the last one cut short
    data[row + 20] ^= 1
    rows.write_bytes(bytes(data[: -row // 2]))
    seen.clear()
    third = evaluate_model(network, manifest, SPEC, workers=0, store=tmp_path, progress=lambda *now: seen.append(now))
    assert seen[-1][1] == 2
    assert same_bits(third, first)  # the last row was the late file's, which is missing again
    relabelled = replace(manifest, labels=manifest.labels[::-1])
    assert evaluate_model(network, relabelled, SPEC, workers=0, store=tmp_path).labels.tolist() == list(
        relabelled.labels
    )


def test_another_runs_answers_are_refused(videos: Path, network: UniFormer, tmp_path: Path) -> None:
    manifest = of_videos(videos)
    evaluate_model(network, manifest, CLIPS, workers=0, store=tmp_path)
    with refused(r"another run \(views differ\)"):
        evaluate_model(network, manifest, SPEC, workers=0, store=tmp_path)
    with refused(r"another run \(model differ\)"):
        evaluate_model(tiny_model(1, ndim=3), manifest, CLIPS, workers=0, store=tmp_path)
    with refused(r"another run \(data differ\)"):
        evaluate_model(network, manifest.select([0, 1]), CLIPS, workers=0, store=tmp_path)
    (tmp_path / "file").write_text("")
    with refused("cannot write .*file: "):
        evaluate_model(network, manifest, CLIPS, workers=0, store=tmp_path / "file")


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(videos: Path) -> Path:
    """A list of 8 rows, one of a missing file."""
    lines = [f"{i % 6}.mp4,{i % 7}" if i != 4 else "gone.mp4,3" for i in range(6)]
    path = videos / "val.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors", CLIPS)


@pytest.mark.parametrize("way", [{"missing": "Skip"}, {"form": "csv"}])
def test_an_unknown_way_to_score_is_said_before_the_work(
    way: dict[str, Any], checkpoint: Path, listed: Path, tmp_path: Path
) -> None:
    with refused(f"expected {next(iter(way))} "):
        evaluate(checkpoint, listed, out=tmp_path / "out", **way)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_and_writes(
    checkpoint: Path, listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["eval", str(checkpoint), str(listed), "--device", "cpu", "--workers", "0", "--crops", "3"]
    assert main([*base, "--out", str(tmp_path)]) == 1  # a file is missing
    printed = capsys.readouterr()
    assert "top-1" in printed.out
    assert "2 x 3 views of 4 frames" in printed.out
    assert "gone.mp4" in printed.err
    assert re.search(r"^(model|decode)-bound: [\d.]+ clips/s, ", printed.err, re.MULTILINE)
    facts = json.loads((tmp_path / "metrics.json").read_text())
    scores = Scores.load(tmp_path / "scores.npz")
    assert facts["metrics"] == scores.metrics()
    assert facts["metrics"]["failed"] == 1
    assert [c["name"] for c in facts["classes"]] == list(NAMES)
    assert facts["failed"][0]["path"] == "gone.mp4"
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert main([*base, "--missing", "skip", "--form", "parquet", "--out", str(tmp_path)]) == 0
    assert same_bits(Scores.load(tmp_path / "scores.parquet"), scores)
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["items"] == 5


def test_the_command_finds_the_order_of_the_labels(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that knows its six videos, and a list that numbers the classes by the alphabet."""
    network = tiny_model(ndim=3, num_classes=6)
    names = ("yoga", "archery", "zumba", "bowling", "juggling", "abseiling")
    items = [Item(f"{i}.mp4", (i,), 0.0, 1.1) for i in range(6)]
    manifest = Manifest.from_items(items, kind="video", classes=names, root=videos)
    extract_features(network, manifest, CLIPS, tmp_path / "features", reading=Reading(workers=0))
    with torch.no_grad():  # a classifier of the features' directions, so that video i gets row i
        x = torch.tensor(load_features(tmp_path / "features").features)
        network.head.weight.copy_(60 * torch.linalg.pinv(x - x.mean(dim=0)).T)  # type: ignore[union-attr]
        network.head.bias.copy_(-network.head.weight @ x.mean(dim=0))  # type: ignore[union-attr]
    contract = Contract(network.config, "", CLIPS, names, id="uniformer_small.k400_16x4")
    save_checkpoint(network, tmp_path / "m.safetensors", contract)
    rank = {name: i for i, name in enumerate(sorted(names))}
    lines = [f"{i}.mp4,{rank[names[i]]},0,{1.1 + 0.001 * n:.3f}" for n in range(5) for i in range(6)]  # same frames
    listed = videos / "alphabetical.csv"
    listed.write_text("path,label,start,end\n" + "\n".join(lines) + "\n")
    base = ["eval", str(tmp_path / "m.safetensors"), str(listed), "--device", "cpu", "--workers", "0"]
    assert main(base) == 0
    said = capsys.readouterr().out
    assert "cannot be told from guessing among 6 classes" in said
    assert "--class-order fix reads them in alphabetical order" in said
    assert "published for uniformer_small.k400_16x4 on Kinetics-400: top-1 80.8 %, with 4 x 1 views" in said
    assert main([*base, "--class-order", "fix", "--out", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert facts["metrics"]["top1"] == 1
    assert facts["published_scores"]["top1"] == 80.8
    assert "training_scores" not in facts
    assert "labels read in alphabetical order" in capsys.readouterr().out


def test_the_commands_refuse_in_one_line(
    checkpoint: Path, listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "boxes.csv").write_text("a.jpg,1,2,3,4\n")
    for more in ([], ["--probe", "knn", "--train", str(listed), "--out", str(tmp_path / "out")]):
        for extra, said in (
            (["--no-flip"], "unknown option 'flip' of classification"),
            (["--mode", "slide"], "unknown option 'mode' of classification"),
            (["--boxes", str(tmp_path / "boxes.csv")], "expected no boxes of people for classification"),
        ):
            assert main(["eval", str(checkpoint), str(listed), "--device", "cpu", *more, *extra]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert said in line
    for extra in (["--probe", "knn"], ["--classes", "Kinetics-4000"], ["--device", "cuda:99"]):
        assert main(["eval", str(checkpoint), str(listed), *extra]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    stages = ["--stages", "3", "--form", "parquet", "--out", str(tmp_path)]
    assert main(["features", str(checkpoint), str(listed), *stages]) == 2


# ---- features --------------------------------------------------------------------------------------------------------


def test_features_are_what_the_classifier_sees(videos: Path, network: UniFormer, tmp_path: Path) -> None:
    manifest = of_videos(videos, [Item("gone.mp4", (1,))])
    settings = {"reading": Reading(workers=0)}
    errors = extract_features(network, manifest, SPEC, tmp_path / "a", stages=(1, 4), per_view=True, **settings)  # type: ignore[arg-type]
    kept = load_features(tmp_path / "a")
    assert list(errors) == list(kept.errors) == [3]
    assert kept.features.shape == (7, 6, 64)
    logits = network.head(torch.tensor(kept.features)).mean(dim=1).detach().numpy()  # type: ignore[misc]
    scores = evaluate_model(network, manifest, SPEC, workers=0)
    assert_close(logits[kept.ok], scores.logits[scores.ok], terms_of(network))
    assert (kept.paths, kept.labels.tolist(), kept.classes) == (scores.paths, scores.labels.tolist(), NAMES)

    extract_features(network, manifest, SPEC, tmp_path / "b", form="parquet", **settings)  # type: ignore[arg-type]
    extract_features(network, manifest, SPEC, tmp_path / "c", form="parquet", per_view=True, **settings)  # type: ignore[arg-type]
    assert load_features(tmp_path / "c").features.tobytes() == kept.features.tobytes()
    mean = load_features(tmp_path / "b")
    assert_close(mean.features, kept.features.mean(axis=1), 6)
    assert (mean.paths, mean.errors, mean.ok.tolist()) == (kept.paths, kept.errors, kept.ok.tolist())

    shards = [load_file(path) for path in sorted((tmp_path / "a").glob("*.safetensors"))]
    maps = np.concatenate([shard["stage4"] for shard in shards])
    assert maps.shape == (7, 6, 64, 2, 2, 2)
    pooled = network.norm(torch.tensor(maps).flatten(0, 1)).flatten(2).mean(dim=2).unflatten(0, (7, 6))  # type: ignore[misc]
    assert_close(pooled[:3], kept.features[:3], terms_of(network))
    seconds = np.concatenate([shard["seconds"] for shard in shards])
    assert seconds.shape == (7, 2, 2)
    assert np.isnan(seconds[3]).all()
    assert seconds[0, 0].tolist() == pytest.approx([0.0, 4 / 25], abs=1e-6)  # frames 0 and 4 of 0 2 4 7, at 25 a second


def test_features_go_on_where_they_were_cut_short(videos: Path, network: UniFormer, tmp_path: Path) -> None:
    items = [Item(f"{i % 6}.mp4", (i % 6,)) for i in range(10)]
    manifest = Manifest.from_items(items, kind="video", classes=NAMES, root=videos)
    settings = {"stages": (4,), "reading": Reading(workers=0)}
    extract_features(network, manifest, CLIPS, tmp_path, **settings)  # type: ignore[arg-type]
    whole = load_features(tmp_path)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == 2
    shards[1].unlink()
    with refused("expected 2 shards, found 1"):
        load_features(tmp_path)
    seen: list[tuple[int, int]] = []
    extract_features(network, manifest, CLIPS, tmp_path, progress=lambda *now: seen.append(now), **settings)  # type: ignore[arg-type]
    assert seen[-1] == (2, 2)
    assert load_features(tmp_path).features.tobytes() == whole.features.tobytes()
    with refused("holds features of another run"):
        extract_features(network, manifest, SPEC, tmp_path, **settings)  # type: ignore[arg-type]


def test_a_probe_by_the_command(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{i}.mp4,{i},{0.02 * n:.2f},{1 + 0.02 * n:.2f}" for n in range(4) for i in range(6)]
    for name, part in (("fit.csv", lines[:18]), ("held.csv", lines[18:])):
        (videos / name).write_text("path,label,start,end\n" + "\n".join(part) + "\n")
    for probe in ("linear", "knn"):
        arguments = [str(checkpoint), str(videos / "held.csv"), "--train", str(videos / "fit.csv"), "--k", "3"]
        out = ["--device", "cpu", "--workers", "0", "--out", str(tmp_path)]
        assert main(["eval", *arguments, "--probe", probe, *out]) == 0
        assert f"{probe} probe of tiny.test on held.csv" in capsys.readouterr().out
        assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["top1"] == 1
        assert main(["eval", str(checkpoint), str(videos / "held.csv"), "--probe", probe, *out]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(
            "held.csv: expected several splits to choose 'train' from, found one list; "
            "--train (train=) names what a probe is fitted to"
        )

"""transformers' doors: Auto classes, pipelines that answer as the Predictor does, training, files both ways."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import uniformer
from tests import made_objects, odd_media
from tests.dense_nets import save_dense
from tests.made_objects import KINDS
from tests.odd_media import picture
from tests.tiny import CLIPS, IMAGES, TINY, refused, same, save_tiny, tiny_model
from uniformer.checkpoints.contract import Contract

transformers = pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

import uniformer.transformers as ours  # noqa: E402


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("images") / "saved", IMAGES)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("clips") / "saved", CLIPS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(20):
        Image.fromarray(picture(i, 90 + 7 * i, 200 - 5 * i)).save(folder / f"{i}.{('jpg', 'png')[i % 2]}")
    return [str(path) for path in sorted(folder.iterdir())]


def test_pictures_get_the_predictors_answers(images: Path, photos: list[str]) -> None:
    classify = transformers.pipeline("image-classification", model=str(images), device="cpu")
    predictor = uniformer.Predictor(str(images), device="cpu", top_k=7)
    for photo in photos:
        agree(classify(photo, top_k=7), predictor(photo))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """As cameras, phones and old programs write them: 20 files."""
    folder = tmp_path_factory.mktemp("videos")
    makers = (
        odd_media.h264, odd_media.h264_open_gop, odd_media.hevc, odd_media.vp9, odd_media.av1, odd_media.gif,
        odd_media.vp8_hidden_frames, odd_media.mpeg_ts_cut, odd_media.avi_packed_b_frames, odd_media.variable_rate,
        odd_media.late_start, odd_media.edit_list, odd_media.fragmented, odd_media.same_times,
    )  # fmt: skip
    turns = [{"degrees": d} for d in (90, 180, 270)] + [{"degrees": d, "hflip": True} for d in (0, 90, 180)]
    made = [maker(folder) for maker in makers]
    for number, turn in enumerate(turns):
        (folder / str(number)).mkdir()
        made.append(odd_media.rotated(folder / str(number), **turn))
    return [str(path) for path in made]


def test_videos_get_the_predictors_answers(clips: Path, videos: list[str]) -> None:
    classify = transformers.pipeline("video-classification", model=str(clips), device="cpu")
    predictor = uniformer.Predictor(str(clips), device="cpu", top_k=7)
    assert len(set(videos)) == 20
    for video in videos:
        agree(classify(video, top_k=7), predictor(video))
    with refused("expected clips of 4 frames, sampled as the checkpoint says, got 8 frames"):
        classify(videos[0], num_frames=8)


@pytest.mark.parametrize("parts", [[[0, 1]], [[0, 1], [0, 0.5], [0.5, 1]]], ids=["whole", "parts"])
def test_what_a_checkpoint_knows_of_parts_and_priors_is_heeded(
    parts: list[list[float]], videos: list[str], tmp_path: Path
) -> None:
    """Neither the plain mean of the parts nor what the network says of the whole would be the same answer."""
    model, contract, _ = uniformer.load_model("uniformer_nano_video.camera_motion")
    contract = replace(contract, details={"parts": parts, "temperature": 0.6, "prior": {"static": 2.5}})
    uniformer.save_checkpoint(model, tmp_path / "motion", contract)
    classify = transformers.pipeline("video-classification", model=str(tmp_path / "motion"), device="cpu")
    predictor = uniformer.Predictor(str(tmp_path / "motion"), device="cpu", top_k=20)
    for video in videos[:2]:
        agree(classify(video, top_k=20), predictor(video))
    model = transformers.AutoModelForVideoClassification.from_pretrained(
        str(tmp_path / "motion"), id2label={0: "pull", 1: "push"}, ignore_mismatched_sizes=True
    )  # other classes: what was known of the old ones is not of these
    assert model.config.contract.details == {}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("dense")
    truths, _, sizes = made_objects.made(11, 4)
    made_objects.write_set(root / "set", truths, sizes, range(len(KINDS)))
    names = ("mask_rcnn", "cascade_mask_rcnn", "semantic_fpn")
    return {"set": root / "set", **{name: save_dense(root / name, name, KINDS) for name in names}}


def test_segmenters_give_the_predictors_classes(dense: dict[str, Path], photos: list[str]) -> None:
    segment = transformers.pipeline("image-segmentation", model=str(dense["semantic_fpn"]), device="cpu")
    predictor = uniformer.Predictor(str(dense["semantic_fpn"]), device="cpu")
    for photo in photos[:6]:
        expected = predictor(photo)
        found = {answer["label"]: np.array(answer["mask"]) > 0 for answer in segment(photo)}
        assert set(found) == {expected.classes[label] for label in np.unique(expected.labels)}
        for label, mask in found.items():
            assert np.array_equal(mask, expected.labels == expected.classes.index(label))


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn"])
def test_detectors_give_the_predictors_boxes(name: str, dense: dict[str, Path]) -> None:
    model = transformers.AutoModelForObjectDetection.from_pretrained(str(dense[name])).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(str(dense[name]))
    detect = transformers.pipeline("object-detection", model=str(dense[name]), device="cpu")
    predictor = uniformer.Predictor(str(dense[name]), device="cpu")
    for photo in map(str, sorted(dense["set"].rglob("*.jpg"))):
        expected = predictor(photo)
        with torch.no_grad():
            outputs = model(**processor(Image.open(photo), return_tensors="pt"))
        (found,) = processor.post_process_object_detection(outputs, threshold=0.05)
        assert len(expected.boxes) > 0
        assert np.array_equal(found["labels"], expected.labels)
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-5)
        np.testing.assert_allclose(found["boxes"], expected.boxes, atol=1e-3)
        answers = detect(photo, threshold=0.05)
        assert [answer["label"] for answer in answers] == [expected.names[label] for label in expected.labels]
        assert list(answers[0]["box"].values()) == [int(side) for side in expected.boxes[0]]


def test_dense_networks_are_no_others(dense: dict[str, Path], photos: list[str], tmp_path: Path) -> None:
    with refused("expected a network for detection of images, got a network for segmentation of images"):
        transformers.AutoModelForObjectDetection.from_pretrained(str(dense["semantic_fpn"]))
    model = transformers.AutoModelForSemanticSegmentation.from_pretrained(str(dense["semantic_fpn"]))
    processor = transformers.AutoImageProcessor.from_pretrained(str(dense["semantic_fpn"]))
    with refused("expected pictures of one shape in a batch"):
        processor(photos[:3])
    seen = processor(photos[0])
    with refused("expected no labels: dense networks learn by `uniformer train`"):
        model(**seen, labels=torch.zeros(1, 64, 64))
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again = uniformer.Predictor(str(tmp_path / "again"), device="cpu")
    assert np.array_equal(again(photos[0]).labels, uniformer.Predictor(str(dense["semantic_fpn"]))(photos[0]).labels)


def agree(found: list[dict[str, object]], expected: uniformer.Prediction) -> None:
    assert [answer["label"] for answer in found] == [label.name for label in expected.labels]
    for answer, label in zip(found, expected.labels, strict=True):
        assert answer["score"] == pytest.approx(label.score, abs=1e-5)


# ---- models ----------------------------------------------------------------------------------------------------------


def test_auto_classes_give_our_network_and_its_input(images: Path, clips: Path) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(images)
    assert type(model) is ours.UniFormerForImageClassification
    assert same(model.network.state_dict(), tiny_model().state_dict())
    assert model.config.id2label[3] == "class of number 3"
    model = transformers.AutoModelForVideoClassification.from_pretrained(clips)
    assert same(model.network.state_dict(), tiny_model(ndim=3).state_dict())
    assert model.config.num_frames == 4
    assert transformers.AutoImageProcessor.from_pretrained(images).spec == IMAGES
    assert transformers.AutoVideoProcessor.from_pretrained(clips).spec == CLIPS


@pytest.mark.parametrize(
    "options", [{"keep_ratio": 0.5, "overlap": 1}, {"token_labeling": True}, {"ndim": 3, "keep_ratio": 0.5}]
)
def test_every_kind_of_network_gives_its_own_logits(options: dict[str, object], tmp_path: Path) -> None:
    network = tiny_model(**options)
    uniformer.save_checkpoint(network, tmp_path / "net")
    kind = "Video" if network.config.is_video else "Image"
    model = getattr(transformers, f"AutoModelFor{kind}Classification").from_pretrained(tmp_path / "net")
    assert same(model.network.state_dict(), network.state_dict())
    x = torch.randn(2, 3, 4, 64, 64) if network.config.is_video else torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x).logits, network(x))


def test_a_network_may_be_new_and_features_may_be_batches(images: Path, photos: list[str]) -> None:
    torch.manual_seed(0)
    contract = uniformer.load_model(images)[1]
    model = ours.UniFormerForImageClassification(ours.UniFormerConfig.from_contract(contract))
    assert float(model.network.head.weight.detach().std()) == pytest.approx(0.02, rel=0.2)  # of 448 weights
    processor = transformers.AutoImageProcessor.from_pretrained(images)
    batch = processor([photos[0], Image.open(photos[1]), torch.zeros(3, 80, 90, dtype=torch.uint8).numpy()])
    assert batch["pixel_values"].shape == (3, 3, 64, 64)
    labels = torch.tensor([0, 3, 6])
    output = model(**batch, labels=labels)
    assert torch.equal(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    output.loss.backward()
    assert all(p.grad is not None for p in model.network.parameters())
    assert torch.equal(model(batch["pixel_values"], return_dict=False)[0].argmax(1), output.logits.argmax(1))


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_views_are_averaged_as_the_checkpoint_asks(average: str, tmp_path: Path) -> None:
    spec = replace(IMAGES, crops=3, average=average)
    uniformer.save_checkpoint(tiny_model(), tmp_path / "net", Contract(TINY, "", spec))
    classify = transformers.pipeline("image-classification", model=str(tmp_path / "net"), device="cpu")
    image = Image.fromarray(picture(3, 200, 90))
    expected = uniformer.Predictor(str(tmp_path / "net"), device="cpu", top_k=7)(image)
    found = {answer["label"]: answer["score"] for answer in classify(image, top_k=7)}
    assert found == {f"LABEL_{i}": pytest.approx(p, abs=1e-5) for i, p in enumerate(expected.probabilities)}


def test_what_transformers_saved_we_load(images: Path, photos: list[str], tmp_path: Path) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(images)
    model.save_pretrained(tmp_path / "again")
    transformers.AutoImageProcessor.from_pretrained(images).save_pretrained(tmp_path / "again")
    network, contract, report = uniformer.load_model(tmp_path / "again")
    assert same(network.state_dict(), tiny_model().state_dict())
    assert (contract.classes, contract.input, contract.id) == (
        tuple(model.config.id2label.values()),
        IMAGES,
        "tiny.test",
    )
    assert uniformer.verify(tmp_path / "again")[1] == []
    assert report.ignored == report.new == []
    before, after = (uniformer.predict(photos[0], model=str(path)) for path in (images, tmp_path / "again"))
    assert before.labels == after.labels
    classify = transformers.pipeline("image-classification", model=str(tmp_path / "again"), device="cpu")
    agree(classify(photos[0], top_k=5), before)


def test_what_is_kept_in_half_precision_computes_in_whole(photos: list[str], tmp_path: Path) -> None:
    model = tiny_model().half()
    contract = Contract(TINY, "", IMAGES, tuple("abcdefg"), id="tiny.half", scores={"top5": 9.0, "top1": 3.0})
    uniformer.save_checkpoint(model, tmp_path / "half", contract)
    classify = transformers.pipeline("image-classification", model=str(tmp_path / "half"), device="cpu")
    predictor = uniformer.Predictor(str(tmp_path / "half"), device="cpu", top_k=7)
    for photo in photos[:5]:
        agree(classify(photo, top_k=7), predictor(photo))
    classify.model.save_pretrained(tmp_path / "whole")
    whole = uniformer.load_model(tmp_path / "whole")[1]
    assert (whole.id, list(whole.scores), whole.proof) == ("tiny.half", ["top5", "top1"], None)
    halves = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "half", dtype=torch.float16)
    halves.save_pretrained(tmp_path / "again")
    assert uniformer.verify(tmp_path / "again")[1] == []


def test_another_classifier_is_asked_for_as_transformers_users_do(images: Path, tmp_path: Path) -> None:
    names = {0: "cat", 1: "dog", 2: "emu"}
    model = transformers.AutoModelForImageClassification.from_pretrained(
        images, id2label=names, label2id={v: k for k, v in names.items()}, ignore_mismatched_sizes=True
    )
    given = tiny_model().state_dict()
    assert model.network.head.weight.shape == (3, 64)
    assert 0 < float(model.network.head.weight.detach().abs().max()) < 0.2
    assert all(torch.equal(v, given[k]) for k, v in model.network.state_dict().items() if not k.startswith("head."))
    model.save_pretrained(tmp_path / "three")
    contract = uniformer.load_model(tmp_path / "three")[1]
    assert (contract.classes, contract.config.num_classes, contract.scores) == (("cat", "dog", "emu"), 3, {})


def test_trainer_trains_on_a_folder_of_clips(clips: Path, tmp_path: Path) -> None:
    processor = transformers.AutoVideoProcessor.from_pretrained(clips)
    model = transformers.AutoModelForVideoClassification.from_pretrained(clips)
    video = odd_media.h264(tmp_path)
    for name in ("class of number 1", "class of number 4"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "data" / name / f"{i}.mp4").write_bytes(video.read_bytes())
    files = sorted((tmp_path / "data").rglob("*.mp4"))
    rows = [
        {"pixel_values": processor(path)["pixel_values"][0], "labels": model.config.label2id[path.parent.name]}
        for path in files
    ]
    arguments = transformers.TrainingArguments(
        str(tmp_path / "run"), num_train_epochs=1, save_strategy="steps", save_steps=1,
        per_device_train_batch_size=2, report_to="none", use_cpu=True,
        learning_rate=1e-3, dataloader_num_workers=0,
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, processing_class=processor)
    done = trainer.train()
    assert done.global_step == 2
    assert 0 < done.training_loss < 20
    twin = transformers.AutoModelForVideoClassification.from_pretrained(clips)
    again = transformers.Trainer(twin, arguments, train_dataset=rows, processing_class=processor)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))  # the second of two steps
    assert same(twin.state_dict(), model.state_dict())
    trainer.save_model(str(tmp_path / "trained"))
    network, contract, _ = uniformer.load_model(tmp_path / "trained")
    assert (contract.id, contract.scores, contract.proof, len(contract.notes)) == ("", {}, None, 1)
    assert contract.classes == tuple(model.config.id2label.values())
    uniformer.convert(tmp_path / "trained", tmp_path / "ours")
    assert uniformer.verify(tmp_path / "ours")[1] == []
    assert same(network.state_dict(), model.network.state_dict())
    assert not torch.equal(network.head.weight, tiny_model(ndim=3).head.weight)
    assert uniformer.predict(files[0], model=str(tmp_path / "trained")).labels


# ---- what does not fit -----------------------------------------------------------------------------------------------


def test_what_cannot_be_had_is_one_line(images: Path, clips: Path, tmp_path: Path) -> None:
    with refused("expected a network for classification of clips, got a network for classification of images"):
        transformers.AutoModelForVideoClassification.from_pretrained(images)
    with refused("expected a network of images, found one of clips"):
        transformers.AutoImageProcessor.from_pretrained(clips)  # its pipeline would sample by itself
    with refused("UniFormerConfig holds no readable description of a uniformer model .*depht"):
        ours.UniFormerConfig(uniformer=1, config={"depht": 3}, input=None, proof=None)
    with refused("UniFormerConfig holds no readable description"):
        ours.UniFormerForImageClassification(ours.UniFormerConfig())
    with refused("expected return_tensors 'pt', got 'np'"):
        transformers.AutoImageProcessor.from_pretrained(images)(Image.new("RGB", (90, 90)), return_tensors="np")
    (tmp_path / "half").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "half" / name).write_bytes((images / name).read_bytes())
    from safetensors.torch import save_file

    state = {k: v for k, v in tiny_model().state_dict().items() if k != "stages.1.embed.proj.weight"}
    save_file(state, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    with refused("expected the tensors of the network, found 1 missing: network.stages.1.embed.proj.weight"):
        transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "half")


def test_without_the_package_one_line_names_the_extra() -> None:
    code = "import sys; sys.modules['transformers'] = None; import uniformer.transformers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "needs the package 'transformers': pip install 'uniformer[transformers]'"
    )

"""Names are identity: of classes, however they are spelt or numbered, here and in the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.source_files import message, rows, touch, written
from tests.tiny import tiny_model
from tests.tolerance import assert_close
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.open import open_dataset
from uniformer.datasets.prepare import write_list
from uniformer.labels import alphabetical, load_classes, match_names, normal_form
from uniformer.tasks.class_order import match_labels
from uniformer.training.start import reorder_classifier

ANGLES = ("0", "180", "270", "90")  # as folders of these names are ordered


def folders(root: Path, names: Sequence[str]) -> Manifest:
    touch(root, *(f"{name}/x.mp4" for name in names))
    return open_dataset(root)


def listed(folder: Path, labels: Sequence[object], **options: object) -> Manifest:
    """A list of a file for each label."""
    touch(folder, *(f"{i}.mp4" for i in range(len(labels))))
    text = "path,label\n" + "".join(f"{i}.mp4,{label}\n" for i, label in enumerate(labels))
    return open_dataset(written(folder / "list.csv", text), **options)  # type: ignore[arg-type]


def rows_of(manifest: Manifest, classes: Sequence[str]) -> list[str]:
    """What each label is taken for in a network with these classes."""
    return [classes[label] for label in match_labels(manifest, classes)[0].labels]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"),
        ("Stra\N{LATIN SMALL LETTER SHARP S}e", "STRASSE"),
        ("turn_left", "TurnLeft"),
        ("a.b (c)", "A B c"),
        ("7", "07"),
        ("7", "7.0"),
        ("-90", "-90.0"),
        ("-90", "\N{MINUS SIGN}90"),
        ("turn -90", "turn_\N{MINUS SIGN}90"),
        ("counter-clockwise 2", "CounterClockwise2"),
        ("1.5 m", "1_5 M"),
    ],
)
def test_spellings_of_one_name(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)
    assert match_names([other], [one, "another"]) == [0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("C", "C++"), ("C", "C#"), ("+", "-"), ("<", ">"), ("90", "-90"), ("turn 90", "turn -90"), ("1.5", "15")),
        *(("1 2", "12"), ("v1.0", "v10"), ("50", "50%"), ("cafe", "caf\xe9"), ("\u0915\u093f", "\u0915\u0940")),
    ],
)
def test_other_names(one: str, other: str) -> None:
    assert match_names([other], [one]) == [None]
    assert match_names([one, other], [other, one]) == [1, 0]


@pytest.mark.parametrize("names", [ANGLES, ("+", "-", "="), ("-1", "0", "1"), ("0.5", "1.0", "1.5")])
def test_folders_are_matched_by_their_names_whatever_these_are_made_of(names: tuple[str, ...], tmp_path: Path) -> None:
    manifest = folders(tmp_path, names[1:])
    classes = tuple(reversed(names))
    assert sorted(rows_of(manifest, classes)) == sorted(names[1:])
    assert rows_of(manifest, classes) == [manifest.classes[label] for label in manifest.labels]


def test_classes_of_other_names_are_refused_not_numbered(tmp_path: Path) -> None:
    manifest = folders(tmp_path, ("b", "c", "d"))
    said = message(lambda: match_labels(manifest, ("a", "b", "c")))
    assert "1 of the data's 3 classes are not the checkpoint's, such as 'd'" in said
    assert "--class-order numbers" in said
    same, note = match_labels(manifest, ("a", "b", "c"), strict=False)
    assert same.labels.tolist() == [0, 1, 2]
    assert "labels taken by number" in str(note)
    folder = folders(tmp_path / "digits", ("0", "1", "10"))
    assert "'0', '1', '10'" in message(lambda: match_labels(folder, tuple(map(str, "abcdefghijkl"))))


def test_a_class_without_rows_need_not_be_known(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/z/2.mp4", "val/a/3.mp4", "val/b/4.mp4")
    assert rows_of(open_dataset(tmp_path, split="val"), ("b", "a")) == ["a", "b"]


@pytest.mark.parametrize("form", ["{}", "{}.0", "0{}"])
def test_numbers_in_a_list_are_numbers_in_any_form(form: str, tmp_path: Path) -> None:
    classes = tuple(map(str, range(12)))
    manifest = listed(tmp_path, [form.format(i) for i in range(12)])
    assert manifest.classes == classes
    assert manifest.labels.tolist() == list(range(12))
    some = listed(tmp_path / "some", [form.format(i) for i in (11, 2, 3)])
    assert rows_of(some, classes) == ["11", "2", "3"]
    assert rows_of(some, tuple(sorted(classes))) == ["11", "2", "3"]


def test_labels_that_are_not_all_whole_are_names(tmp_path: Path) -> None:
    assert listed(tmp_path, ("1.0", "1.5", "2.0")).classes == ("1.0", "1.5", "2.0")


def test_numbers_without_names_are_rows_and_that_is_said(tmp_path: Path) -> None:
    names = tuple("abcdefghijkl")
    for labels, base in (((0, 1, 2), 0), ((11, 3), 0), ((12, 4), 1), ((1, 2, 3), 1)):
        manifest = listed(tmp_path / f"{labels}{base}", labels, label_base=base)
        matched, note = match_labels(manifest, names)
        assert matched.labels.tolist() == [label - base for label in labels]
        assert note == "labels taken by number: the data name no classes"
        assert matched.classes == names
    write_list(listed(tmp_path / "again", (0, 1, 2, 1)).select([0, 2]), tmp_path / "again" / "part.csv")
    part = open_dataset(tmp_path / "again" / "part.csv")
    assert part.classes == ("0", "1", "2")
    assert rows_of(part, names) == ["a", "c"]
    manifest = listed(tmp_path / "beyond", (3, 4000))
    assert "expected labels in 0 .. 11, the checkpoint's classes, got 4000" in message(
        lambda: match_labels(manifest, names)
    )
    nameless, note = match_labels(manifest, ())
    assert nameless.labels.tolist() == [3, 4000]
    assert note == "labels taken by number: the checkpoint names no classes"


def test_numbers_are_matched_to_names_that_are_numbers(tmp_path: Path) -> None:
    assert rows_of(listed(tmp_path / "a", (90, 0, 270)), ANGLES) == ["90", "0", "270"]
    manifest = listed(tmp_path / "b", (0, 1, 2, 3))  # rows, or angles? not guessed
    assert "3 of the data's 4 classes are not the checkpoint's" in message(lambda: match_labels(manifest, ANGLES))
    assert rows_of(listed(tmp_path / "c", (1, 2), label_base=1), ("0", "1")) == ["0", "1"]  # as asked


def test_ids_with_gaps_are_as_many_classes_as_there_are(tmp_path: Path) -> None:
    manifest = listed(tmp_path, (205, 7, 30_000, 7))
    assert manifest.classes == ("7", "205", "30000")
    assert manifest.labels.tolist() == [1, 0, 2, 0]
    assert "3 classes by number, 7 to 30000 with gaps" in manifest.origin
    assert match_labels(manifest, manifest.classes) == (manifest, None)
    some = listed(tmp_path / "some", (30_000,))
    assert rows_of(some, manifest.classes) == ["30000"]
    assert some.by_number().labels.tolist() == [30_000]
    million = listed(tmp_path / "million", (3, 10_000_000))
    assert "below 1048576, got 10000000" in message(million.by_number)
    manifest.save(tmp_path / "m.manifest")
    assert Manifest.load(tmp_path / "m.manifest").by_number().labels.tolist() == [205, 7, 30_000, 7]
    assert listed(tmp_path / "few", (0, 1, 3)).classes == ("0", "1", "2", "3")


def test_given_names_that_are_numbers_are_names(tmp_path: Path) -> None:
    assert listed(tmp_path, ("90", "0", "180"), classes=ANGLES).labels.tolist() == [3, 0, 1]
    text = message(lambda: listed(tmp_path, (0, 1), classes=ANGLES))
    assert "line 3: expected one of the 4 classes, got '1'" in text


def test_a_written_list_of_numbered_folders_reads_back(tmp_path: Path) -> None:
    manifest = folders(tmp_path, tuple(map(str, range(12))))
    part = manifest.select([0, 1, 2, 4])  # labels 0, 1, 2, 4 of classes 0, 1, 10, 2
    write_list(part, tmp_path / "part.csv")
    assert rows(open_dataset(tmp_path / "part.csv")) == rows(part)


def test_the_names_behind_the_labels_of_a_parquet_file(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    touch(tmp_path, "a.mp4", "b.mp4")
    one = datasets.ClassLabel(names=["walk", "run"])
    for name, feature, labels in (
        ("one", one, [1, 0]),
        ("several", datasets.Sequence(one), [[1], [0, 1]]),
        ("texts", datasets.Value("string"), ["run", "walk"]),
    ):
        features = datasets.Features({"video": datasets.Value("string"), "label": feature})
        path = tmp_path / f"{name}.parquet"
        datasets.Dataset.from_dict({"video": ["a.mp4", "b.mp4"], "label": labels}, features=features).to_parquet(path)
        manifest = open_dataset(path)
        found = [[manifest.classes[label] for label in item.labels] for item in manifest]
        assert found == [["run"], ["walk", "run"] if name == "several" else ["walk"]]
        assert set(manifest.classes) == {"run", "walk"}


def test_a_classifier_follows_the_order_of_its_classes() -> None:
    model, x = tiny_model(), torch.rand(2, 3, 64, 64)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    with torch.no_grad():
        before = model(x)
        reorder_classifier(model, order)
        assert_close(model(x), before[:, order], model.head.in_features)


def test_classes_of_a_dense_data_set_keep_the_order_of_names(tmp_path: Path) -> None:
    """COCO's 80 names as folders of clips are the user's own classes, in alphabetical order."""
    names = load_classes("COCO 2017")
    for name in names:
        touch(tmp_path, f"{name}/1.mp4")
    assert open_dataset(tmp_path).classes == tuple(alphabetical(names))

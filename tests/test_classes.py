"""Class lists: sizes, the known anchors of each order, and no imports that cost seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import refused
from uniformer.errors import InputError
from uniformer.labels import (
    alphabetical,
    flip_sensitive,
    load_classes,
    match_names,
    read_class_names,
)

SIZES = {
    "Kinetics-400": 400,
    "Kinetics-600": 600,
    "Something-Something V1": 174,
    "Something-Something V2": 174,
    "UCF101": 101,
    "HMDB51": 51,
    "ImageNet-1K": 1000,
}


@pytest.mark.parametrize(("dataset", "size"), SIZES.items())
def test_every_class_has_one_name(dataset: str, size: int) -> None:
    names = load_classes(dataset)
    assert isinstance(names, tuple)
    assert len(names) == len(set(names)) == size
    assert all(name and name == name.strip() for name in names)


# fmt: off
ANCHORS = [
    ("Kinetics-400", 370, "yoga"),  # printed in the authors' notebook
    ("Kinetics-400", 0, "riding a bike"),
    ("Kinetics-600", 240, "massaging person's head"),
    ("Something-Something V2", 140, "Spinning [something] that quickly stops spinning"),  # the clips of known class
    ("Something-Something V2", 127, "Showing [something] on top of [something]"),
    ("Something-Something V2", 45, "Moving [something] up"),
    ("Something-Something V2", 75, "Pretending to put [something] onto [something]"),
    ("Something-Something V2", 109, "Putting [something] on a surface"),
    ("UCF101", 0, "ApplyEyeMakeup"),
    ("HMDB51", 50, "wave"),
    ("ImageNet-1K", 0, "tench"),
    ("ImageNet-1K", 999, "toilet tissue"),
]
# fmt: on


@pytest.mark.parametrize(("dataset", "index", "name"), ANCHORS)
def test_anchors(dataset: str, index: int, name: str) -> None:
    assert load_classes(dataset)[index] == name


def test_something_something_v2_is_sorted_without_its_brackets() -> None:
    names = load_classes("Something-Something V2")
    assert list(names) == alphabetical(sorted(names))
    assert sum(a != b for a, b in zip(names, sorted(names), strict=True)) == 89


def test_other_orders() -> None:
    assert list(load_classes("Something-Something V1")) == sorted(load_classes("Something-Something V1"))
    assert list(load_classes("HMDB51")) == sorted(load_classes("HMDB51"))
    ucf = load_classes("UCF101")
    assert list(ucf) == sorted(ucf, key=str.lower)
    assert ucf.index("Hammering") == ucf.index("HammerThrow") - 1


def test_no_class_of_kinetics400_has_the_number_that_torchvision_gives_it() -> None:
    meta = pytest.importorskip("torchvision.models._meta")
    ours, theirs = load_classes("Kinetics-400"), meta._KINETICS400_CATEGORIES
    assert sorted(ours) == theirs
    assert all(a != b for a, b in zip(ours, theirs, strict=True))  # so a wrong order never looks half right


def test_imagenet_names_are_torchvisions() -> None:
    meta = pytest.importorskip("torchvision.models._meta")
    assert list(load_classes("ImageNet-1K")) == meta._IMAGENET_CATEGORIES


@pytest.mark.parametrize("dataset", ["Cityscapes", ""])
def test_data_sets_without_names(dataset: str) -> None:
    with pytest.raises(InputError, match=r"no class names for the data set ") as error:
        load_classes(dataset)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("table", ["id,name\n0,a\n1,b\n", "0,a\n1,b\n", "1;a\r\n2;b\r\n", "n\tm\n\n 0\ta b\n1\tc, d"])
def test_a_table_is_no_list_of_names(table: str, tmp_path: Path) -> None:
    """Its header would be the first class, and every row another one than it says."""
    path = tmp_path / "names.csv"
    path.write_text(table)
    with refused("names.csv: expected one name a line, found a table of numbers and names: '"):
        read_class_names(path)


@pytest.mark.parametrize(
    "names", [("2 fingers", "1 finger"), ("0,5 m", "1,5 m"), ("1", "2"), ("3, or more", "b, c"), ("0,a",)]
)
def test_names_may_begin_with_numbers(names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(names))
    assert read_class_names(path) == names


def test_near_names_are_suggested() -> None:
    with pytest.raises(InputError, match="did you mean 'Kinetics-400'"):
        load_classes("kinetics 400")


def test_names_cost_no_heavy_import() -> None:
    code = (
        "import sys; from uniformer.labels import load_classes; load_classes('ImageNet-1K');"
        "sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_match_exactly_or_by_their_one_normal_form() -> None:
    known = ("Cardigan", "cardigan", "riding a bike", "Moving [something] up", "C++", "C", "!?")
    asked = (
        "cardigan",
        "Cardigan",
        "CARDIGAN",
        "RidingABike",
        "riding_a_bike",
        "moving something up",
        "c",
        "C++",
        "?!",
    )
    assert match_names(asked, known) == [1, 0, None, 2, 2, 3, 5, 4, None]
    assert match_names(["a", "b"], ["a", "b", "b"]) == [0, None]  # two of one name: nobody knows which
    names = load_classes("ImageNet-1K")
    assert match_names(names, names[::-1]) == list(range(1000))[::-1]


def test_sides_in_names() -> None:
    assert len(flip_sensitive(load_classes("Something-Something V2"))) == 3
    assert flip_sensitive(load_classes("Kinetics-400")) == []
    names = ["TurnLeft", "up", "turn_right", "Wave left hand", "anti-clockwise turn", "Clockwise turn", "upright"]
    assert flip_sensitive(names) == [
        ("TurnLeft", "turn_right"), ("Wave left hand",), ("anti-clockwise turn", "Clockwise turn"),
    ]  # fmt: skip
    assert flip_sensitive(["turn_counter_clockwise", "TurnClockwise"]) == [("turn_counter_clockwise", "TurnClockwise")]
    handles = ["pull the left handle", "pull the right handle"]  # not a lefthandle
    assert flip_sensitive(handles) == [tuple(handles)]

"""A data set as arrays: rows come back as they went in, a saved one is mapped, a damaged one is refused."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.source_files import make, message, some_items
from uniformer.datasets.manifest import FORMAT, Item, Manifest
from uniformer.datasets.strings import Strings


def test_rows_come_back_as_they_went_in() -> None:
    items = some_items(40)
    manifest = make(items)
    assert list(manifest) == items
    assert manifest[-1] == items[-1]
    assert manifest.class_counts().tolist() == [14, 13, 13]
    with pytest.raises(IndexError):
        manifest[40]
    assert len(manifest.usable()) == 39
    draw = np.random.default_rng(0).permutation(40)
    assert list(manifest.select(draw)) == [items[i] for i in draw]
    assert list(manifest.select(np.arange(40) % 3 == 1)) == items[1::3]
    assert list(manifest.select([])) == []


def test_several_labels_a_row() -> None:
    items = [Item("a", (0, 2)), Item("b", ()), Item("c", (1,)), Item("d", (2, 1, 0))]
    manifest = make(items, multi_label=True)
    assert list(manifest) == items
    assert list(manifest.select([3, 1, 0])) == [items[3], items[1], items[0]]
    assert manifest.class_counts().tolist() == [2, 2, 2]
    assert "expected one label" in message(lambda: make(items))


def test_labels_outside_the_classes_are_refused() -> None:
    assert "labels in 0 .. 2, got labels in 1 .. 3" in message(lambda: make([Item("a", (1,)), Item("b", (3,))]))


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_saved_manifest_is_mapped_and_travels_by_its_name(multi_label: bool, tmp_path: Path) -> None:
    manifest = make(some_items(500), multi_label=multi_label, root=tmp_path / "files\udcff", origin="a test")
    manifest.save(tmp_path / "m.manifest")
    loaded = Manifest.load(tmp_path / "m.manifest")
    assert list(loaded) == list(manifest)
    assert (loaded.kind, loaded.classes, loaded.root, loaded.origin) == (
        *("video", manifest.classes, manifest.root, "a test"),
    )
    assert not loaded.labels.flags.owndata
    assert len(pickle.dumps(loaded)) < 1000 < len(pickle.dumps(manifest))
    for one in (loaded, manifest, loaded.select([3, 4])):
        assert list(pickle.loads(pickle.dumps(one))) == list(one)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(len, (loaded,)) == 500


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.manifest"
    make(some_items(20)).save(path)
    data = path.read_bytes()
    for cut in (0, 5, 8, 40, len(data) - 1):
        path.write_bytes(data[:cut])
        assert "expected a saved manifest" in message(lambda: Manifest.load(path))
    assert "expected a saved manifest" in message(lambda: Manifest.load(tmp_path / "none"))


def test_a_row_costs_its_path_and_a_few_bytes() -> None:
    count = 100_000
    names = (f"class_{i % 400:03d}/abcdefghijk_{i:06d}_{i:06d}.mp4" for i in range(count))
    tracemalloc.start()
    manifest = Manifest.from_items(
        (Item(name, (i % 400,)) for i, name in enumerate(names)), kind="video", classes=[str(i) for i in range(400)]
    )
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 65 * count  # 41 bytes of path
    assert peak < 160 * count
    assert len(pickle.dumps(manifest)) < 65 * count


def test_packed_strings_keep_any_file_name() -> None:
    texts = ["", "ä", "日本", "\udcff\udcfe latin", "a" * 1000]
    packed = Strings.pack(texts)
    assert list(packed) == texts
    assert list(packed.take(np.array([4, 0, 3]))) == [texts[4], texts[0], texts[3]]
    assert [packed[-1], packed[-5]] == [texts[-1], texts[0]]
    for outside in (5, -6):
        with pytest.raises(IndexError):
            packed[outside]


# ---- files that are damaged, or were made to harm --------------------------------------------------------------------

FACTS = {"kind": "video", "classes": ["x", "y", "z"], "root": "/r", "origin": "o"}
BAD_FACTS = [
    *({"kind": ["video"]}, {"kind": "sound"}, {"kind": None}, {"classes": None}, {"classes": "xyz"}, {"classes": 3}),
    *({"classes": ["x", ["y"], "z"]}, {"classes": ["x", {}, "z"]}, {"classes": ["x", 1, "z"]}, {"root": ["r"]}),
    *({"origin": 1}, {"classes": ["x", "a\nb", "z"]}, {"classes": ["x", "\ud800", "z"]}, {"classes": ["x"]}),
    *({"classes": ["x", "y" * 10_000, "z"]}, {"numbers_from": "1"}, {"numbers_from": 0}, {"numbers_from": True}),
    *({"classes": ["7", "8", "9"], "numbers_from": 9}, {"classes": ["7", "8", "9" * 50], "numbers_from": 0}),
]


def saved(path: Path, facts: object, **arrays: np.ndarray) -> Path:
    """A manifest of three rows as another program might have written it; an array that is None is left out."""
    whole: dict[str, np.ndarray | None] = {
        "paths.blob": np.frombuffer(b"abc", np.uint8),
        "paths.offsets": np.array([0, 1, 2, 3]),
        "labels": np.array([0, 1, 2], np.int32),
    }
    given = {name.replace("__", "."): value for name, value in arrays.items()}
    text = facts if isinstance(facts, str) else json.dumps(facts)
    kept = {name: value for name, value in (whole | given).items() if value is not None}
    save_file(kept, path, {"format": FORMAT, "manifest": text})
    return path


@pytest.mark.parametrize("facts", [*({**FACTS, **bad} for bad in BAD_FACTS), [], "x", "{", "[" * 100_000, 7, None, {}])
def test_a_manifest_that_says_something_else_is_refused(facts: object, tmp_path: Path) -> None:
    said = message(lambda: Manifest.load(saved(tmp_path / "m.manifest", facts)))
    assert said.startswith(f"{tmp_path / 'm.manifest'}: expected a saved manifest, found ")
    assert len(said) < 500
    assert said.isprintable()


BAD_ARRAYS = {
    "offsets that fall": {"paths__offsets": np.array([0, 2, 1, 3])},
    "offsets before the start": {"paths__offsets": np.array([0, -1, 2, 3])},
    "offsets that begin late": {"paths__offsets": np.array([1, 1, 2, 3])},
    "offsets beyond the end": {"paths__offsets": np.array([0, 1, 2, 1 << 40])},
    "offsets that end early": {"paths__offsets": np.array([0, 1, 2, 2])},
    "no offsets": {"paths__offsets": np.array([], np.int64)},
    "fewer rows": {"paths__offsets": np.array([0, 3])},
    "offsets of another type": {"paths__offsets": np.array([0, 1, 2, 3], np.float64)},
    "offsets in a table": {"paths__offsets": np.array([[0, 1], [2, 3]])},
    "no paths": {"paths__blob": None, "paths__offsets": None},
    "paths without offsets": {"paths__offsets": None},
    "no labels": {"labels": None},
    "labels of another type": {"labels": np.array([0, 1, 2], np.float64)},
    "labels below": {"labels": np.array([0, -1, 2], np.int32)},
    "labels above": {"labels": np.array([0, 3, 2], np.int32)},
    "labels in a table": {"labels": np.array([[0, 1, 2]], np.int32)},
    "label offsets that fall": {"label_offsets": np.array([0, 2, 1, 3])},
    "label offsets before the start": {"label_offsets": np.array([-1, 0, 1, 3])},
    "fewer label offsets": {"label_offsets": np.array([0, 3])},
    "segments of another type": {"start": np.zeros(3, np.int32), "end": np.ones(3, np.int32)},
    "fewer segments": {"start": np.zeros(2), "end": np.ones(2)},
    "groups without names": {"group": np.zeros(3, np.int32)},
    "group names that fall": {
        "group": np.zeros(3, np.int32),
        "group_names__blob": np.frombuffer(b"ab", np.uint8),
        "group_names__offsets": np.array([0, 3, 2]),
    },
    "a column of another name": {"\x1b[2Jwhat": np.zeros(3, np.int32)},
}


@pytest.mark.parametrize("arrays", BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_arrays_that_do_not_fit_are_refused_before_they_are_used(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert len(Manifest.load(saved(tmp_path / "sound.manifest", FACTS))) == 3
    said = message(lambda: Manifest.load(saved(tmp_path / "m.manifest", FACTS, **arrays)))
    assert "m.manifest: expected a saved manifest, found " in said
    assert said.isprintable()

"""A data set as arrays: rows come back as they went in, a saved one is mapped, a damaged one is refused."""

from __future__ import annotations

import multiprocessing
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.source_files import make, message, some_items
from uniformer.datasets.manifest import Item, Manifest, Strings


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

"""What tests of data sources share: files made on disk, and what is wrong said in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from uniformer.datasets.manifest import Item, Manifest
from uniformer.errors import InputError


def touch(folder: Path, *names: str) -> None:
    """Files to be found: nothing here opens them."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def rows(manifest: Manifest) -> list[tuple[str, str]]:
    """(path relative to the root, class name) of each row."""
    return [(os.path.relpath(item.path, manifest.root), manifest.classes[item.labels[0]]) for item in manifest]


def message(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def some_items(count: int) -> list[Item]:
    return [
        Item(
            path=f"a/clip {i} ü.mp4",
            labels=(i % 3,),
            start=None if i % 2 else i / 2,
            end=None if i % 2 else i / 2 + 1,
            frames=None if i % 5 else i + 1,
            group=None if i % 4 == 3 else f"g{i // 4}",
            readable=i != 7,
        )
        for i in range(count)
    ]


def make(items: list[Item], **options: object) -> Manifest:
    return Manifest.from_items(iter(items), kind="video", classes=("x", "y", "z"), **options)  # type: ignore[arg-type]

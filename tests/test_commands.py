"""The smaller commands, and how all of them behave as processes: pipes, full disks, terminals, imports."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import odd_media
from tests.command_line import Cli, Ended, at_a_terminal, one_line, predict, spawn, without_progress
from tests.dense_nets import save_dense
from tests.films import pan, write
from tests.tiny import CLIPS, IMAGES, save_tiny, tiny_model
from uniformer.checkpoints.keys import to_reference
from uniformer.checkpoints.save import save_checkpoint
from uniformer.cli.tables import print_table
from uniformer.errors import counted
from uniformer.support.progress import Lines


def test_models(cli: Cli) -> None:
    table = cli("models", "*k400*")
    assert table.status == 0
    assert "uniformer_small.k400_16x4 " in table.out
    assert "…" not in table.out  # nothing cut
    few = cli("models", "--dataset", "Kinetics-600", "--arch", "uniformer_base_video", "--json")
    records = [json.loads(line) for line in few.out.splitlines()]
    assert {(r["dataset"], r["arch"]) for r in records} == {("Kinetics-600", "uniformer_base_video")}
    assert all(r["input"]["sampling"] == "dense" and r["scores"]["top1"] > 80 for r in records)
    one = cli("models", "uniformer_small.k400_16x8")
    assert one.out.startswith("uniformer_small.k400_16x8\n")
    assert "uniformer_small_k400_16x8.pth" in one.out
    everything = cli("models")
    assert everything.out.splitlines()[-1].startswith(f"{len(everything.out.splitlines()) - 2} checkpoints.")
    one_line(cli("models", "*nothing*"), "no published checkpoint matches '*nothing*'")
    one_line(cli("models", "uniformer_smal.in1k"), "did you mean 'uniformer_small.in1k'")
    one_line(cli("models", "--task", "singing"), "no checkpoint has task 'singing'")


def test_models_describes_a_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pose = save_dense(tmp_path / "pose.safetensors", "topdown", ("nose", "left ear", "right ear"), flip_pairs=[[1, 2]])
    torch.save(to_reference(tiny_model().state_dict()), "a.pth")
    said = cli("models", pose)
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[0] == str(pose)
    for line in (
        "checkpoint:   tiny.topdown", "task:         pose, 3 key points", "names:        nose, left ear, right ear",
        "input:        size [64, 64], enlarge 1.25", "details:      flip_pairs",
        "proof:        outputs for an input of 1x3x64x64: `uniformer verify` computes them anew",
    ):  # fmt: skip
        assert any(found.startswith(line) for found in said.out.splitlines()), (line, said.out)
    plain = json.loads(cli("models", pose, "--json").out)
    assert (plain["file"], plain["task"], plain["details"]) == (str(pose), "pose", {"flip_pairs": [[1, 2]]})
    assert cli("convert", pose, "folder").status == 0
    assert cli("models", "folder").out.splitlines()[1:] == said.out.splitlines()[1:]
    one_line(cli("models", "a.pth"), "expected head_dim for a.pth")
    one_line(cli("models", "none.pth"), "no checkpoint at none.pth")
    one_line(cli("models", "none.onnx"), "none.onnx: expected an exported network, found no such file")
    one_line(cli("models", pose, "--task", "top-down pose estimation"), f"{pose}: expected no --task beside a file")


def test_verify(cli: Cli, media: Path, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    assert cli("verify", path) == Ended(0, f"{path}: intact (tiny.test, 7 classes)\n", "")
    data = bytearray(path.read_bytes())
    data[-100] ^= 0xFF
    path.write_bytes(data)
    ended = cli("verify", path)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"{path}: the tensors are not the ones that were saved")
    one_line(cli("verify", tmp_path / "none.safetensors"), "no checkpoint at")
    torch.save(to_reference(tiny_model().state_dict()), tmp_path / "a.pth")
    one_line(cli("verify", tmp_path / "a.pth"), "carries no proof to verify")


def test_convert(cli: Cli, tmp_path: Path) -> None:
    state = to_reference(tiny_model().state_dict())
    torch.save({"model": state}, tmp_path / "a.pth")
    one_line(cli("convert", tmp_path / "a.pth", tmp_path / "b"), "expected head_dim")
    one_line(cli("convert", tmp_path / "a.pth", tmp_path / "b", "--head-dim", 0), "a whole number from 1")
    one_line(cli("convert", tmp_path / "a.pth", tmp_path / "b", "--head-dim", 16, "--averaged"), "no averaged weights")
    ended = cli("convert", tmp_path / "a.pth", tmp_path / "b", "--head-dim", 16)
    assert ended.status == 0
    assert f"{len(state)} tensors loaded, 0 inflated, 0 new, 0 ignored" in ended.out
    assert "head_dim 16 from the caller" in ended.out
    assert ended.out.endswith(f"wrote {tmp_path / 'b'}\n")
    assert cli("verify", tmp_path / "b").status == 0
    assert cli("convert", tmp_path / "b", tmp_path / "c.pth").status == 0
    back = torch.load(tmp_path / "c.pth", weights_only=True)
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


# ---- names -----------------------------------------------------------------------------------------------------------

NET, DATA, OUT = "-my net.safetensors", "my clips", "-the out"
SCORES = ("scores.npz", "metrics.json", "report.html")
QUICK = ("schedule.epochs=1", "schedule.warmup_epochs=0", "data.workers=0", "optimizer.freeze=[]")
PREPARED = [f"class of number {k}/{n}.mp4" for k in range(2) for n in range(3)]
NO_OTHERS = ("--val=0", "--test=0")
RUN = (
    "recipe.toml", "state.pt", "metrics.csv", "curves.svg", "training.html", "best.safetensors", "split/train.csv",
    "split/val.csv", "split/classes.txt",
    *(f"held-out/{name}" for name in (*SCORES, "answers/run.json", "answers/rows-0.bin")),
)  # fmt: skip
CLASSES = ("class of number 0", "class of number 1")  # two of the network's
VERBS = {  # from another folder than that of the inputs, relative to it, what is said to be written, and what else is
    "predict": (["predict", DATA, "--checkpoint", f"./{NET}", f"--out={OUT}.csv"], [], [f"{OUT}.csv"]),
    "predict a picture": (
        ["predict", f"{DATA}/{CLASSES[0]}/0.mp4", "--checkpoint", f"./{NET}", f"--show-sampling={OUT}"],
        [], [f"{OUT}/0.mp4.sampling.png"],
    ),
    "eval": (
        ["eval", f"./{NET}", DATA, f"--out={OUT}", "--workers", "1"],
        [OUT], [f"{OUT}/{name}" for name in (*SCORES, "answers/run.json", "answers/rows-0.bin")],
    ),
    "features": (
        ["features", f"./{NET}", DATA, f"--out={OUT}", "--workers", "0"],
        [OUT], [f"{OUT}/features.json", f"{OUT}/features-00000.safetensors"],
    ),
    "data scan": (
        ["data", "scan", DATA, f"--out={OUT}", "--workers", "0"],
        [f"{OUT}/report.html", f"{OUT}/all.manifest"], [f"{OUT}/files.jsonl"],
    ),
    "data split": (
        ["data", "split", DATA, f"--out={OUT}"],
        [f"{OUT}/train.csv", f"{OUT}/val.csv"], [f"{OUT}/classes.txt"],
    ),
    "data prepare": (
        ["data", "prepare", DATA, f"--out={OUT}", "--short-side", "32", "--workers", "0"],
        [f"{OUT}/prepared.manifest"],
        [f"{OUT}/{name}" for name in ("prepared.jsonl", *PREPARED)],
    ),
    "data make": (
        ["data", "make", "camera-motion", "--worlds=photos", "--train=1", *NO_OTHERS, "--workers=0", "--", OUT],
        [OUT], [f"{OUT}/about.json", f"{OUT}/paths.jsonl"],
    ),
    "convert": (["convert", "--", NET, f"{OUT}.pth"], [f"{OUT}.pth"], []),
    "convert to a folder": (
        ["convert", "--", NET, OUT], [OUT],
        [f"{OUT}/{name}" for name in ("config.json", "model.safetensors", "preprocessor_config.json")],
    ),
    "demo": (
        ["demo", f"{DATA}/{CLASSES[0]}/0.mp4", f"--out={OUT}", f"--checkpoint=./{NET}"],
        [OUT], [f"{OUT}/timeline.{form}" for form in ("json", "csv", "srt", "html")],
    ),
    "train": (
        ["train", DATA, f"--checkpoint=./{NET}", f"--out={OUT}", *QUICK],
        [f"{OUT}/model.safetensors"], [f"{OUT}/{name}" for name in RUN],
    ),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_names_are_relative_with_spaces_and_a_dash_and_what_is_said_to_be_written_is(
    verb: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if verb == "data make":
        pytest.importorskip("skimage")
    inputs, work = tmp_path / "inputs", tmp_path / "work"
    work.mkdir()
    for name in CLASSES:
        (inputs / DATA / name).mkdir(parents=True)
        for number in range(3):
            odd_media.encode(inputs / DATA / name / f"{number}.mp4", frames=9)
    save_tiny(inputs / NET, CLIPS)
    for name in (NET, DATA):
        (work / name).symlink_to(Path("..", "inputs", name))
    before = files_in(inputs)
    monkeypatch.chdir(work)
    words, said, more = VERBS[verb]
    ended = cli(*words)
    assert ended.status == 0, ended
    assert files_in(inputs) == before
    assert os.getcwd() == str(work)
    for name in said:
        assert name in ended.out, "it is not said"
        assert (work / name).exists()
    written = {name for name in files_in(work) if not name.startswith((f"{NET}", f"{DATA}/"))}
    wanted = {name for name in (*said, *more) if (work / name).is_file()}
    assert set(more) <= wanted
    if verb != "data make":  # whose clip is in a folder of its class
        assert written == wanted


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ---- how far it has come ---------------------------------------------------------------------------------------------


def test_progress_in_a_log_is_a_line_now_and_then() -> None:
    """By a clock of the test's own: a short work says nothing, a day of it some hundred lines."""
    said: list[str] = []
    seconds = [0.0]
    for length, step, least, most in ((9, 1, 0, 0), (65, 1, 6, 6), (86_400, 1, 60, 120)):
        said.clear()
        seconds[0] = 0
        lines = Lines("files", said.append, lambda: seconds[0])
        for done in range(length + 1):
            seconds[0] = done * step
            lines(done, length)
        assert least <= len(said) <= most, said
        assert without_progress("\n".join([*said, ""])) == ""
    assert said[0] == "files: 10 of 86400 (0%) in 0:10, about 23:59:50 to go"
    lines = Lines("files", said.append, lambda: seconds[0])
    seconds[0] += 60
    lines(0, 5)  # nothing is known yet of how long it will take
    assert said[-1] == "files: 0 of 5 (0%) in 1:00"


def test_progress_at_a_terminal_is_a_bar_unless_quiet(media: Path) -> None:
    command = ("predict", media / "videos", "--checkpoint", media / "clips.safetensors")
    assert "2/2" in at_a_terminal(*command, columns=90)
    quiet = at_a_terminal(*command, "--quiet", columns=90)
    assert "2/2" not in quiet
    assert "h264.mp4" in quiet


def test_one_of_a_thing_is_no_plural(cli: Cli, tmp_path: Path) -> None:
    assert [counted(n, noun) for n in (0, 1, 2) for noun in ("row", "class")] == [
        "0 rows", "0 classes", "1 row", "1 class", "2 rows", "2 classes"
    ]  # fmt: skip
    save_checkpoint(tiny_model(num_classes=1), tmp_path / "one.safetensors")
    assert cli("verify", tmp_path / "one.safetensors").out.endswith("(own architecture, 1 class)\n")
    assert cli("models", "uniformer_small.k400_16x?").out.splitlines()[-1].startswith("2 checkpoints. ")
    assert cli("recipes", "uniformer_s16x4_k400*").out.splitlines()[-1].startswith("1 recipe. ")


def test_data_that_were_split_or_prepared_are_trained_on_next(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in CLASSES:
        Path(DATA, name).mkdir(parents=True)
        for number in range(2):
            odd_media.encode(Path(DATA, name, f"{number}.mp4"), frames=4)
    net = save_tiny(tmp_path / "net.safetensors", CLIPS)
    for verb in ("split", "prepare"):
        ended = cli("data", verb, DATA, "--out", f"my {verb}", "--workers", 0)
        last = ended.out.splitlines()[-1]
        assert last == f"next: uniformer train 'my {verb}'", ended
        told = cli(*shlex.split(last)[2:], "--checkpoint", net, "--print")
        assert (told.status, f"my {verb}" in told.out) == (0, True), told
    three = cli("data", "split", DATA, "--out", "2", "--fractions", "a=0.5,b=0.5").out
    assert three.splitlines()[-1] == "2/b.csv: 2 of 4 items"


def test_a_benchmark_that_was_made_is_trained_on_next(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    out = tmp_path / "my bench"
    counts = ("--train=1", "--val=0", "--test=0")
    last = cli("data", "make", "camera-motion", out, "--worlds=photos", *counts, "--workers=0").out.splitlines()[-1]
    words = shlex.split(last)
    assert words == ["next:", "uniformer", "train", "uniformer_nano_camera_motion", f"data.root={out}"]
    assert f'root = "{out}"' in cli(*words[2:], "--print").out


def test_nothing_asked_is_answered_with_help(cli: Cli) -> None:
    ended = cli()
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == cli("--help").out
    one_line(cli("--nothing"), "unrecognized arguments: --nothing")
    one_line(cli("nothing"), "invalid choice: 'nothing'")


# ---- processes -------------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error() -> None:
    for args in (("models",), ("models", "--json"), ("--help",)):
        ended = spawn(*args, shell='"$@" | head -1')
        assert ended.out.count("\n") == 1
        assert ended.err == ""


def test_work_that_makes_files_outlives_its_reader(media: Path, tmp_path: Path) -> None:
    """As of `| head -1`: nothing of what was asked for is missing, and the status is the work's own."""
    write(tmp_path / "a.mp4", pan(0, 24))
    write(tmp_path / "b.mp4", pan(1, 24))
    (tmp_path / "broken.mp4").write_bytes(b"no film" * 20)
    films = [tmp_path / name for name in ("a.mp4", "b.mp4", "broken.mp4")]
    net = ("--checkpoint", media / "clips.safetensors")
    gone = '{ "$@"; echo $? > status; } | true'
    for args, made in (
        (("demo", *films, *net, "--out", "out", "--draw", "drawn"), ("out/b.mp4/timeline.html", "drawn/b.mp4")),
        (("predict", *films, *net, "--draw", "more"), ("more/b.mp4",)),
        (("explain", *films, *net, "--out", "why"), ("why/b.explained.mp4",)),
    ):
        ended = spawn(*args, shell=gone, cwd=tmp_path, env={"PYTHONUNBUFFERED": "1"})
        assert f"{films[2]}: expected a video" in ended.err
        assert all((tmp_path / name).is_file() for name in made), args
        assert (tmp_path / "status").read_text() == "1\n"
    for command in ("demo", "motion"):  # these do nothing but print
        assert spawn(command, *films, *net, shell=gone, cwd=tmp_path, env={"PYTHONUNBUFFERED": "1"}).err == ""
        assert (tmp_path / "status").read_text() == "0\n"


def test_a_full_disk_is_one_line(cli: Cli, media: Path, tmp_path: Path) -> None:
    ended = spawn("models", shell='"$@" > /dev/full')
    assert (ended.status, ended.err) == (2, "uniformer: No space left on device\n")
    ended = predict(cli, media, media / "photos", "--out", "/dev/full", "--format", "jsonl", net="images")
    one_line(ended, "cannot write /dev/full: No space left on device")
    args = ("explain", media / "photos", "--checkpoint", media / "images.safetensors", "--out", "why", "--quiet")
    ended = spawn(*args, shell='"$@" > /dev/full', cwd=tmp_path)
    assert (ended.status, ended.err) == (2, "uniformer: No space left on device\n")


def test_closed_streams_are_no_error(cli: Cli, media: Path, tmp_path: Path) -> None:
    """As services start commands; and nothing that is printed comes into a file that is written."""
    args = ("predict", media / "photos", "--checkpoint", media / "images.safetensors", "--format", "csv", "--plain")
    plain = cli(*args)
    assert spawn(*args, shell='"$@" 2>&-', cwd=tmp_path) == plain._replace(err="")
    assert spawn(*args, shell='"$@" >&-', cwd=tmp_path) == plain._replace(out="")
    assert spawn(*args, "--out", "all.csv", shell='"$@" <&- >&- 2>&-', cwd=tmp_path).status == 0
    assert (tmp_path / "all.csv").read_text() == plain.out
    one_line(spawn("predict", "-", *args[2:], shell='"$@" <&-', cwd=tmp_path), "standard input: expected a list of")
    assert [path.name for path in tmp_path.iterdir()] == ["all.csv"]


def test_results_go_into_a_pipe_by_its_name(cli: Cli, media: Path) -> None:
    args = ("predict", media / "photos", "--checkpoint", media / "images.safetensors", "--format", "csv", "--plain")
    plain = cli(*args)
    assert plain.out.count("\n") > 3
    assert spawn(*args, "--out", "/dev/stdout", shell='"$@" | cat') == plain
    assert spawn(*args, "--out", "/dev/fd/3", shell='"$@" 3>&1 | cat') == plain


def test_tables_are_neither_cut_nor_coloured_nor_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"[red]{'x' * 300}[/red]", ":smile: [0]", "b"]
    print_table(("name", "[n]"), [(name, "1") for name in names], right=(1,))
    width = len(names[0])
    rows = [("name", "[n]"), *((name, "1") for name in names)]
    assert capsys.readouterr().out == "".join(f"{name:{width}}  {number:>3}\n" for name, number in rows)
    coloured = spawn("models", env={"FORCE_COLOR": "1", "COLUMNS": "40", "TERM": "xterm-256color"})
    assert coloured.out == spawn("models").out
    assert "\x1b" not in coloured.out


def test_a_table_at_a_terminal_is_wrapped_and_not_cut(cli: Cli) -> None:
    shown = at_a_terminal("recipes", "uniformer_s*_k400", columns=60)
    assert "\x1b[1mrecipe" in shown
    lines = re.sub(r"\x1b\[\d*m", "", shown).splitlines()[:-1]  # the last is no row
    assert max(map(len, lines)) <= 60
    wanted = cli("recipes", "uniformer_s*_k400").out.splitlines()[:-1]
    assert len(lines) > len(wanted) > 3
    assert sorted(" ".join(lines).split()) == sorted(" ".join(wanted).split())


def test_no_word_of_the_models_is_cut(cli: Cli) -> None:
    words = re.sub(r"\x1b\[[\d;]*m", "", at_a_terminal("models", columns=80)).split()
    wanted = cli("models").out
    assert "800, up to 1333" in wanted
    assert "  256x192 " in wanted
    assert sorted(words) == sorted(wanted.split())


def test_a_terminal_that_cannot_show_a_character_is_no_error() -> None:
    ended = spawn("models", "uniformer_small.in1k", env={"PYTHONIOENCODING": "ascii"})
    assert (ended.status, ended.err) == (0, "")


LOADED = """
import sys
from uniformer.cli.main import main
sys.argv = sys.argv[1:]
try:
    main()
except SystemExit:
    pass
print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}))
"""


def loaded(*args: object) -> set[str]:
    """The top packages that a command imports."""
    done = subprocess.run([sys.executable, "-c", LOADED, "uniformer", *map(str, args)], text=True, capture_output=True)
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "LOADED", done
    return set(last[1:])


def test_help_and_models_import_no_torch() -> None:
    heavy = {"torch", "torchvision", "timm", "av", "numpy", "PIL", "huggingface_hub", "safetensors"}
    assert not loaded("--help") & heavy
    assert not loaded("models", "*k400*") & heavy


def test_predict_imports_neither_torchvision_nor_timm(media: Path) -> None:
    packages = loaded("predict", media / "videos/h264.mp4", "--checkpoint", media / "clips.safetensors")
    assert {"torch", "av"} <= packages
    assert not packages & {"torchvision", "timm", "huggingface_hub", "rich"}

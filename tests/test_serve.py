"""The server: answers of `Predictor`, whatever goes along."""

from __future__ import annotations

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import odd_media
from tests.dense_nets import make_nets
from tests.patience import PATIENCE
from tests.served import Served, error_of, get, make_served, post, same, served
from tests.test_vocabulary import save_namer
from tests.tiny import tiny_model
from tests.tolerance import assert_close, rounding, terms_of
from uniformer import Predictor, timeline
from uniformer.web.batching import Computing

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """And a network of each dense task."""
    path = make_served(tmp_path_factory.mktemp("served"))
    make_nets(path)
    return path


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_python(folder: Path) -> None:
    predictor, film = Predictor(folder / "clips.safetensors"), folder / "h264.mp4"
    with served(predictor) as one:
        found = one.post("predict", film).json()
        assert found["source"] == "h264.mp4"
        same(found, predictor(film).to_dict())
        asked = Predictor(folder / "clips.safetensors", clips=3, crops=3, top_k=2, follow_seconds=True)
        same(one.post("predict", film, clips=3, crops=3, top_k=2, follow_seconds="true").json(), asked(film).to_dict())
        part = one.post("predict", film, top_k=2, start=0.5, end=1.5).json()
        same(part, predictor.asked(top_k=2, span=(0.5, 1.5))(film).to_dict())
        raw = post(f"{one.url}/predict?clips=3&crops=3&top_k=2&follow_seconds=true", content=film.read_bytes())
        same(raw.json(), asked(film).to_dict())
        same(one.post("predict", film).json(), predictor(film).to_dict())  # the options were of one request

        told = json.loads(timeline(film, predictor, window=1.0, cuts=False).to_json())
        same(one.post("timeline", film, window=1, cuts="false").json(), told)
        told = json.loads(timeline(film, predictor, span=(1.0, math.inf)).to_json())
        same(one.post("timeline", film, start=1).json(), told)
        row = one.post("embed", film, end=1).json()["features"]
        assert np.array_equal(np.float32(row), predictor.asked(span=(0, 1)).embed([film])[0])
        for _ in range(2):
            row = one.post("embed", film).json()["features"]
            assert np.array_equal(np.float32(row), predictor.embed([film])[0])
    with served(Predictor(folder / "images.safetensors")) as one:
        same(
            one.post("predict", folder / "picture.png").json(), one.service.predictor(folder / "picture.png").to_dict()
        )
        assert "a network of clips" in error_of(one.post("timeline", film), 422)


def test_openapi_tells_what_there_is(folder: Path) -> None:
    """Options in the address and in the form, each task's own, and what comes back."""
    wanted = {
        "clips": {"start", "end", "clips", "crops", "follow_seconds", "top_k", "vocabulary"},
        "detection": {"score", "most", "keep", "every"},
        "segmentation": {"keep", "mode", "tile", "flip", "every"},
    }
    for net, options in wanted.items():
        with served(Predictor(folder / f"{net}.safetensors")) as one:
            paths = get(f"{one.url}/openapi.json").json()["paths"]
            told = paths["/predict"]["post"]
            asked = {each["name"]: each["schema"] for each in told["parameters"]}
            form = told["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
            assert set(asked) == options
            assert form == {**asked, "file": {"type": "string", "format": "binary"}}
            answers = {"application/json"} | ({"image/png"} if net != "clips" else set())
            assert set(told["responses"]["200"]["content"]) == answers
            assert "error" in told["responses"]["default"]["description"]
            (kind,) = paths["/metrics"]["get"]["responses"]["200"]["content"]
            assert get(f"{one.url}/metrics").headers["content-type"].startswith(kind)
            if net == "clips":
                assert asked["crops"] == {"type": "integer", "enum": [1, 3]}


def test_a_request_may_name_motions_in_others_words(folder: Path) -> None:
    predictor, film = Predictor(save_namer(folder)), folder / "h264.mp4"
    told = json.loads(timeline(film, predictor.asked(vocabulary="vbench")).to_json())
    with served(predictor) as one:
        found = one.post("predict", film, vocabulary="camerabench", top_k=9).json()
        same(found, predictor.asked(vocabulary="camerabench", top_k=9)(film).to_dict())
        assert one.post("timeline", film, vocabulary="vbench").json()["classes"] == told["classes"]
        same(one.post("predict", film).json(), predictor(film).to_dict())
        assert "vbench" in error_of(one.post("predict", film, vocabulary="dutch"), 422)


def test_whole_pictures_and_films_of_them(folder: Path) -> None:
    for task in ("detection", "segmentation", "pose"):
        predictor, picture = Predictor(folder / f"{task}.safetensors"), folder / "picture.png"
        with served(predictor) as one:
            same(one.post("predict", picture).json(), predictor(picture).to_dict())
            drawn = post(f"{one.url}/predict", content=picture.read_bytes(), headers={"Accept": "image/png"})
            assert drawn.headers["content-type"] == "image/png"
            assert Image.open(BytesIO(drawn.content)).tobytes() == predictor(picture).plot().tobytes()
            assert "expected a classifier" in error_of(one.post("embed", picture), 422)
            if task == "segmentation":
                tiled = predictor.asked(tile=64)
                same(one.post("predict", picture, tile=64).json(), tiled(picture).to_dict())
                wide = Image.fromarray(np.zeros((64, 6000, 3), np.uint8))
                wide.save(folder / "wide.png")
                assert "at most 64 tiles, 6000x64 has" in error_of(
                    one.post("predict", folder / "wide.png", tile=64), 422
                )
            if task == "detection":
                frames = one.post("predict", folder / "h264.mp4", every=25).json()["frames"]
                for found, wanted in zip(frames, predictor.frames(folder / "h264.mp4", every=25), strict=True):
                    same(found, wanted.to_dict())
                few = predictor.asked(score=0.2, keep=("cat", "dog"), most=1)
                same(one.post("predict", picture, score=0.2, keep="cat, dog", most=1).json(), few(picture).to_dict())
                assert "expected every of at least 1" in error_of(
                    one.post("predict", folder / "h264.mp4", every=0), 422
                )
                assert "unknown option 'tile' of detection" in error_of(one.post("predict", picture, tile=64), 422)


@pytest.fixture(scope="module")
def films(folder: Path) -> list[Path]:
    return [odd_media.encode(folder / f"{n}.mp4", frames=20 + n, number=lambda i, n=n: 3 * i + n) for n in range(8)]


def all_at_once(one: Served, sent: list[tuple[str, Path]]) -> list[Any]:
    with ThreadPoolExecutor(len(sent)) as pool:
        return list(pool.map(lambda request: one.post(*request), sent))


def test_requests_that_go_alone_are_answered_to_the_bit(folder: Path, films: list[Path]) -> None:
    """Where a batch has no room for two, and one thread decodes for all of them in turns."""
    predictor = Predictor(folder / "clips.safetensors", batch_size=1, workers=1)
    sent = [(verb, film) for film in films[:4] for verb in ("predict", "timeline")]
    with served(predictor) as one:
        answers = all_at_once(one, sent)
    for (verb, film), answer in zip(sent, answers, strict=True):
        wanted = predictor(film).to_dict() if verb == "predict" else json.loads(timeline(film, predictor).to_json())
        same(answer.json(), wanted)
    assert max(one.batches) == 2  # the views of one


def test_batches_move_the_last_digits_only(folder: Path, films: list[Path]) -> None:
    """As in `run`, where float32 rounds otherwise in another number of views; files that are broken do nothing."""
    predictor, terms = Predictor(folder / "clips.safetensors", workers=4, top_k=7), terms_of(tiny_model(ndim=3))
    for verb in ("predict", "embed"):
        with served(predictor, wait=0.05) as one:
            answers = all_at_once(one, [(verb, path) for path in (*films, *[folder / "broken.mp4"] * 2)])
        assert sum(one.batches) == 2 * len(films)
        assert max(one.batches) <= 8
        assert all("expected a video" in error_of(answer, 422) for answer in answers[len(films) :])
        for path, answer in zip(films, answers, strict=False):
            found = answer.json()
            if verb == "embed":
                assert_close(np.float32(found["features"]), predictor.embed([path])[0], terms)
            else:
                wanted = predictor(path).probabilities
                off = [abs(label["score"] - wanted[label["index"]]) for label in found["labels"]]
                assert max(off) <= 5e-7 + rounding(torch.float32, terms)  # six digits are told


def test_what_goes_along_moves_no_digit(folder: Path) -> None:
    network, rng = Predictor(folder / "clips.safetensors").network, np.random.default_rng(0)
    mine, other = rng.standard_normal((2, 2, 3, 4, 64, 64), np.float32)
    (alone, *_), *others = (
        network(np.concatenate([mine, beside]), 8)[0].reshape(2, 2, -1) for beside in (other, 9 * other, other * np.nan)
    )
    assert all(np.array_equal(found[0], alone) for found in others)


def test_calls_that_wait_are_computed_together_and_fail_alone() -> None:
    begun, go_on, sizes = threading.Event(), threading.Event(), list[int]()

    def double(x: Any) -> Any:
        begun.set()
        assert go_on.wait(PATIENCE)
        if (x < 0).any():
            raise ValueError("expected numbers from 0 up")
        return (2 * x,)

    computing = Computing(8, 0, others=lambda: 0, seen=sizes.append)
    first = computing.ask("a", np.ones((1, 3), np.float32), double)
    assert begun.wait(PATIENCE)
    asked = [
        ("a", 3),
        ("b", 2),
        ("a", -1),
        ("a", 4),
        ("a", 4),
        ("b", 2),
    ]  # kind and views; of those below 0, one that fails
    answers = [computing.ask(kind, np.full((abs(n), 3), n, np.float32), double) for kind, n in asked]
    gone = computing.ask("a", np.ones((1, 3), np.float32), double)
    assert gone.cancel()
    go_on.set()
    computing.close()
    assert first.result()[0].tolist() == [[2, 2, 2]]
    for (_, n), answer in zip(asked, answers, strict=True):
        if n < 0:
            assert isinstance(answer.exception(), ValueError)
        else:
            assert np.array_equal(answer.result()[0], np.full((n, 3), 2 * n))
    assert sizes == [1, 3, 4, 4, 4]  # 3 + 1 + 4 failed together and went alone; both of "b" went together

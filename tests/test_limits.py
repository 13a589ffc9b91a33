"""Files that ask for more than they are worth end in one line, within ten seconds of computing and 2 GB; large ones
that are worth it are read."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import fuzz_reader, odd_media
from tests.odd_media import Maker
from tests.test_video import by_name
from tests.tiny import refused
from uniformer.config import InputSpec
from uniformer.reading.options import Augment
from uniformer.reading.pipeline import read_for_training
from uniformer.reading.video import open_video


@pytest.fixture(scope="module")
def flat_8k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_media.flat_8k(tmp_path_factory.mktemp("large"))


def outcomes(*paths: Path, use: Callable[[Path], str] = fuzz_reader.use) -> dict[str, str]:
    """What came of each file in a child process that is ended after ten seconds of computing, by its name."""
    cases = [fuzz_reader.Case(number, path, path.name) for number, path in enumerate(paths)]
    return {case.what: outcome for case, outcome in fuzz_reader.run(iter(cases), use=use)}


def test_bombs_end_in_one_line(tmp_path: Path) -> None:
    paths = [make(tmp_path) for make in odd_media.BOMBS]
    assert set(outcomes(*paths).values()) == {"InputError"}


def test_what_is_large_is_read_in_little_memory(flat_8k: Path, tmp_path: Path) -> None:
    """Frames of 8K, of which sixteen are 1.6 GB; a scan of 200 megapixels."""
    copy = tmp_path / "flat.mp4"
    copy.write_bytes(flat_8k.read_bytes())
    Image.new("L", (16_000, 12_500), 90).save(scan := tmp_path / "scan.tif", compression="tiff_lzw")
    assert outcomes(copy, scan) == {"flat.mp4": "frames", "scan.tif": "frames"}


SAID = {
    odd_media.overlapping: r"overlapping_1000000.mp4: expected less to decode in \d+ bytes, found frames, packets or",
    odd_media.fragment_of_many: "many.mp4: expected a video of at most 16777216 samples, found one that lists 800000",
}


@by_name(list(SAID))
def test_what_is_said_of_them(make: Maker, tmp_path: Path) -> None:
    with refused(SAID[make]):
        open_video(make(tmp_path))


def test_samples_are_counted_in_files_and_in_memory(tmp_path: Path) -> None:
    data = (path := odd_media.overlapping(tmp_path, 80_000_000)).read_bytes()
    for source in (path, data, data.replace(b"moov", b"hoov"), compressed(data)):
        with refused("found one that lists 80000000"):
            open_video(source)


def compressed(data: bytes) -> bytes:
    """An mp4 whose header is compressed, as QuickTime did."""

    def box(kind: bytes, *content: bytes) -> bytes:
        size = 8 + sum(map(len, content))
        return size.to_bytes(4, "big") + kind + b"".join(content)

    start = data.index(b"moov") - 4
    header = data[start:]
    packed = box(b"cmvd", len(header).to_bytes(4, "big"), zlib.compress(header))
    return data[:start] + box(b"moov", box(b"cmov", box(b"dcom", b"zlib"), packed))


def test_a_clip_of_8k_is_trained_on_at_half_its_size(flat_8k: Path) -> None:
    spec = InputSpec(frames=6, stride=1, sampling="dense", interpolation="bilinear")
    frames = read_for_training(flat_8k, spec, Augment(), np.random.default_rng(0))
    assert isinstance(frames, np.ndarray)
    assert frames.shape == (6, 2160, 3840, 3)
    assert np.ptp(frames, axis=(0, 1, 2)).max() <= 1  # one colour

"""Annotated copies of videos: their pictures, times and sound, read back from real files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.odd_media import picture
from tests.tiny import refused
from uniformer.errors import InputError
from uniformer.reading.video import open_video
from uniformer.tasks.drawn_film import film_of

RATE = 48_000  # of the sound
BEEP = 1.0  # seconds into the sound at which it is loud


def with_sound(
    path: Path, codec: str = "aac", *, start: float = 0.0, frames: int = 50, size: tuple[int, int] = (96, 64)
) -> Path:
    """A video of 25 frames a second that begins `start` seconds after its sound, a beep of a tenth of a second."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        sound = container.add_stream(codec, rate=RATE, layout="mono")
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size))
            frame.pts, frame.time_base = round(number + 25 * start), Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        time = np.arange(2 * RATE) / RATE
        wave = np.sin(2 * np.pi * 440 * time) * ((time >= BEEP) & (time < BEEP + 0.1))
        whole = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
        whole.sample_rate, whole.pts, whole.time_base = RATE, 0, Fraction(1, RATE)
        context = sound.codec_context
        cutter = av.AudioResampler(context.format.name, "mono", RATE, context.frame_size or 1024)
        for piece in [*cutter.resample(whole), *cutter.resample(None)]:
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    return path


def beep_in(path: Path) -> float:
    """When the sound is first loud, seconds after the first frame."""
    with open_video(path) as reader, av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray().astype(np.float64)).max(axis=0) > 0.2)
            if len(loud):
                return float(frame.pts * frame.time_base) + loud[0] / frame.sample_rate - reader.start
    raise AssertionError("no sound")


def copy(source: Path, out: Path, *, every: int = 1, grow: int = 0) -> str | None:
    """The frames of a video as they are, `grow` pixels wider."""
    with open_video(source) as reader, film_of(source, out, start=reader.start, rate=reader.info.fps) as film:
        for number, pixels in reader.all_pictures():
            if number % every == 0:
                wider = np.pad(pixels(), ((0, 0), (0, grow), (0, 0)))
                film.add(Image.fromarray(wider), float(reader.times([number])[0]))
    return film.note


@pytest.mark.parametrize("ending", [".mp4", ".MOV"])
@pytest.mark.parametrize("start", [0.0, 0.4])
def test_frames_times_and_sound_are_the_sources(start: float, ending: str, tmp_path: Path) -> None:
    source, out = with_sound(tmp_path / "my film.mp4", start=start), tmp_path / f"drawn{ending}"
    assert copy(source, out) is None
    with open_video(source) as one, open_video(out) as other:
        assert other.info.num_frames == one.info.num_frames == 50
        assert np.allclose(one.times(range(50)), other.times(range(50)), atol=1e-4)
        assert np.abs(one.read([20]).astype(int) - other.read([20])).mean() < 6
    assert beep_in(source) == pytest.approx(BEEP - start, abs=0.03)
    assert beep_in(out) == pytest.approx(BEEP - start, abs=0.03)


@pytest.mark.parametrize("ending", [".mkv", ".webm"])
def test_films_of_other_containers_come_in_their_own(ending: str, tmp_path: Path) -> None:
    """With their sound, where it is one that the container takes; else that is said."""
    source, out = with_sound(tmp_path / "a.mkv", "libopus", start=0.4, frames=25), tmp_path / f"drawn{ending}"
    assert copy(source, out) is None
    with open_video(source) as one, open_video(out) as other, av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == {".mkv": "h264", ".webm": "vp9"}[ending]
        assert np.allclose(one.times(range(25)), other.times(range(25)), atol=2e-3)  # in milliseconds there
        assert np.abs(one.read([20]).astype(int) - other.read([20])).mean() < 6
    assert beep_in(out) == pytest.approx(BEEP - 0.4, abs=0.03)
    said = copy(with_sound(tmp_path / "b.mp4", frames=3), tmp_path / f"other{ending}")
    assert said == {".mkv": None, ".webm": "the sound is left out: aac does not go into webm"}[ending]


def test_fewer_frames_last_longer_and_the_sound_stays(tmp_path: Path) -> None:
    source, out = with_sound(tmp_path / "a.mp4"), tmp_path / "drawn.mp4"
    copy(source, out, every=10, grow=7)
    with open_video(out) as reader:
        assert reader.times(range(5)) == pytest.approx([0, 0.4, 0.8, 1.2, 1.6], abs=1e-3)
        assert (reader.info.width, reader.info.height) == (104, 64)  # even numbers
    assert beep_in(out) == pytest.approx(BEEP, abs=0.03)


def test_sound_that_does_not_go_into_the_file_is_left_out_and_said(tmp_path: Path) -> None:
    source, out = with_sound(tmp_path / "a.avi", "adpcm_ms"), tmp_path / "drawn.mp4"
    assert copy(source, out) == "the sound is left out: adpcm_ms does not go into mp4"
    with av.open(str(out)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_a_film_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    source, out = with_sound(tmp_path / "a.mp4", frames=5), tmp_path / "drawn.mp4"
    out.write_bytes(b"an earlier one")
    with refused("stopped"), film_of(source, out, start=0, rate=25) as film:
        film.add(Image.new("RGB", (64, 48)), 0)
        raise InputError("stopped")
    with refused("expected at least one picture"), film_of(source, out, start=0, rate=25):
        pass
    with refused("expected pictures of one size"), film_of(source, out, start=0, rate=25) as film:
        film.add(Image.new("RGB", (64, 48)), 0)
        film.add(Image.new("RGB", (64, 50)), 0.1)
    assert out.read_bytes() == b"an earlier one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "drawn.mp4"]
    with (
        pytest.raises(InputError, match=r"drawn\.gif: expected the name of a film"),
        film_of(source, tmp_path / "drawn.gif", start=0, rate=25),
    ):
        pass

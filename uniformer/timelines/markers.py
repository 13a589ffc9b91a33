"""A timeline as markers for editing programs: CMX 3600 EDL, Final Cut Pro's XML and OpenTimelineIO.

In each form the film lies on one track, cut into its shots, with a marker where each motion begins. Times count from
the first frame as 0, whatever time code the file has of its own. The adapters of OpenTimelineIO for the first two
(otio-cmx3600-adapter 1.0, otio-fcpx-xml-adapter 1.0) do not serve: one says nothing of drop frames and writes names in
capitals, the other takes 23.976 frames a second for 23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from uniformer.errors import InputError, load_extra, shown
from uniformer.reading.sources import is_url
from uniformer.timelines.timeline import Segment, Timeline

#: Frames a second that editing programs know.
RATES = tuple(
    Fraction(*rate)
    for rate in [(24000, 1001), (24,), (25,), (30000, 1001), (30,), (48000, 1001), (48,), (50,), (60000, 1001), (60,)]
)
SURE = 0.5  # confidence from which a marker is green, not yellow
_LONGEST = 1000  # characters of a name


@dataclass(frozen=True)
class Mark:
    """A motion, in frames of the film."""

    start: int
    end: int
    text: str
    is_sure: bool
    row: Segment


@dataclass(frozen=True)
class Cut:
    """A shot in frames of the film; without a number what lies between two, frames that cannot be decoded."""

    number: int | None
    start: int
    end: int
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Edit:
    """A timeline in frames of a rate that editing programs know."""

    name: str
    url: str
    rate: Fraction
    cuts: tuple[Cut, ...]

    @classmethod
    def of(cls, timeline: Timeline) -> Edit:
        """At the film's own rate, or at the nearest to it or a multiple of it, for films of other rates.

        Raises `InputError` for a film without a rate, and for one that is over before its first frame.
        """
        if not timeline.fps:
            raise InputError(f"{timeline.source}: expected a film with a frame rate to set markers in, found none")
        rate = editing_rate(timeline.fps)
        cuts = tuple(_cuts(timeline.rows, rate))
        if not cuts:
            frame = f"a frame at {float(rate):g} a second"
            raise InputError(f"{timeline.source}: expected {frame} to set markers in, found {timeline.duration:g} s")
        path = Path(timeline.source)
        url = timeline.source if is_url(timeline.source) else path.absolute().as_uri()
        return cls(shown(path.name, _LONGEST), url, rate, cuts)

    @property
    def frames(self) -> int:
        return self.cuts[-1].end

    @property
    def nominal(self) -> int:
        """Frames that time code counts to a second."""
        return round(self.rate)

    @property
    def drops(self) -> bool:
        """Whether time code leaves out numbers, to stay with the clock."""
        return self.nominal % 30 == 0 and self.rate.denominator > 1

    def timecode(self, frame: int) -> str:
        """SMPTE 12M: 29.97 leaves out the first 2 numbers of each minute but every tenth, 59.94 the first 4."""
        if self.drops:
            left_out = self.nominal // 15
            minute, ten = 60 * self.nominal - left_out, 600 * self.nominal - 9 * left_out
            tens, rest = divmod(frame, ten)
            frame += left_out * (9 * tens + max(rest - left_out, 0) // minute)
        seconds, number = divmod(frame, self.nominal)
        hours, minutes = seconds // 3600 % 24, seconds // 60 % 60
        return f"{hours:02}:{minutes:02}:{seconds % 60:02}{';' if self.drops else ':'}{number:02}"


def editing_rate(fps: float) -> Fraction:
    """Of `RATES` the one nearest to a rate or to a multiple of it: 15 frames a second are shown as 30."""
    times = [float(rate) / fps for rate in RATES]
    return RATES[min(range(len(RATES)), key=lambda i: abs(times[i] - max(1, round(times[i]))))]


def _cuts(rows: Sequence[Segment], rate: Fraction) -> Iterator[Cut]:
    """The shots, with what lies between them; a shot that has no frame of its own at this rate is none."""
    end = 0
    for number, group in groupby(rows, key=lambda row: row.shot):
        mine = list(group)
        start, stop = _frame(mine[0].start, rate), _frame(mine[-1].end, rate)
        if stop <= start:
            continue
        if start > end:
            yield Cut(None, end, start)
        yield Cut(number, start, stop, tuple(_marks(mine, rate)))
        end = stop


def _marks(rows: Sequence[Segment], rate: Fraction) -> Iterator[Mark]:
    for row in rows:
        if row.motion:
            sure = row.confidence or 0.0
            text = f"{shown(row.said, _LONGEST)} {100 * sure:.0f} %"
            is_sure = sure >= SURE and not row.unsure
            yield Mark(_frame(row.start, rate), _frame(row.end, rate), text, is_sure, row)


def _frame(seconds: float, rate: Fraction) -> int:
    return round(seconds * rate)


# ---- the forms -------------------------------------------------------------------------------------------------------


def to_edl(timeline: Timeline) -> str:
    """CMX 3600, an event for each shot, the motions as locators (`* LOC`), as Avid's Media Composer reads them.

    Raises `InputError` for a film without a rate.
    """
    edit = Edit.of(timeline)
    lines = [f"TITLE: {edit.name[:70]}", f"FCM: {'' if edit.drops else 'NON-'}DROP FRAME", ""]
    shots = [cut for cut in edit.cuts if cut.number is not None]
    for number, shot in enumerate(shots, start=1):
        span = f"{edit.timecode(shot.start)} {edit.timecode(shot.end)}"
        lines.append(f"{number:03}  {'AX':8} {'V':5} C        {span} {span}")
        lines.append(f"* FROM CLIP NAME: {edit.name}")
        for mark in shot.marks:
            colour = "GREEN" if mark.is_sure else "YELLOW"
            lines.append(f"* LOC: {edit.timecode(mark.start)} {colour:7} {mark.text}")
    return "\n".join(lines) + "\n"


def to_fcpxml(timeline: Timeline) -> str:
    """Final Cut Pro's XML 1.8, which Final Cut and DaVinci Resolve import: a clip for each shot, with its markers.

    Raises `InputError` for a film without a rate.
    """
    edit = Edit.of(timeline)

    def seconds(frames: int) -> str:
        time = frames / edit.rate
        return f"{time.numerator}/{time.denominator}s" if time.denominator > 1 else f"{time.numerator}s"

    element, one = ElementTree.SubElement, seconds(1)
    root = ElementTree.Element("fcpxml", version="1.8")
    resources = element(root, "resources")
    element(resources, "format", id="r1", frameDuration=one)
    length = seconds(edit.frames)
    whole = {"start": "0s", "duration": length, "format": "r1"}
    element(resources, "asset", whole, id="r2", name=edit.name, src=edit.url, hasVideo="1")
    project = element(element(element(root, "library"), "event", name=edit.name), "project", name=edit.name)
    code = "DF" if edit.drops else "NDF"
    sequence = element(project, "sequence", format="r1", duration=length, tcStart="0s", tcFormat=code)
    spine = element(sequence, "spine")
    for cut in edit.cuts:
        place = {"offset": seconds(cut.start), "start": seconds(cut.start), "duration": seconds(cut.end - cut.start)}
        if cut.number is None:
            element(spine, "gap", place, name="Gap")
            continue
        clip = element(spine, "asset-clip", place, ref="r2", name=f"shot {cut.number}", format="r1", tcFormat=code)
        for mark in cut.marks:
            note = f"to {edit.timecode(mark.end)}"
            element(clip, "marker", start=seconds(mark.start), duration=one, value=mark.text, note=note)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n{text}\n'


def to_otio(timeline: Timeline) -> str:
    """OpenTimelineIO's JSON, by that library: markers span their motions, class and confidence are their metadata.

    Raises `InputError` for a film without a rate, `MissingExtra` without the package.
    """
    otio, edit = _opentimelineio(), Edit.of(timeline)
    opentime, schema = otio.opentime, otio.schema

    def span(start: int, end: int) -> Any:
        rate = float(edit.rate)
        return opentime.TimeRange(opentime.RationalTime(start, rate), opentime.RationalTime(end - start, rate))

    def marker(mark: Mark) -> Any:
        said = {"motion": mark.row.motion, "confidence": round(mark.row.confidence or 0.0, 4)}
        colour = schema.MarkerColor.GREEN if mark.is_sure else schema.MarkerColor.YELLOW
        return schema.Marker(mark.text, span(mark.start, mark.end), colour, {"uniformer": said})

    made = schema.Timeline(edit.name, global_start_time=opentime.RationalTime(0, float(edit.rate)))
    track = schema.Track(edit.name, kind=schema.TrackKind.Video)
    made.tracks.append(track)
    for cut in edit.cuts:
        if cut.number is None:
            track.append(schema.Gap(source_range=span(0, cut.end - cut.start)))
            continue
        media = schema.ExternalReference(edit.url, span(0, edit.frames))
        clip = schema.Clip(f"shot {cut.number}", media, span(cut.start, cut.end))
        clip.markers.extend(map(marker, cut.marks))
        track.append(clip)
    return otio.adapters.write_to_string(made, "otio_json") + "\n"


WRITERS: Mapping[str, Callable[[Timeline], str]] = {"edl": to_edl, "fcpxml": to_fcpxml, "otio": to_otio}  #: by ending


def check_forms(forms: Iterable[str]) -> None:
    """Raises `MissingExtra`, before the work, where a form of `WRITERS` needs a package that is not there."""
    if "otio" in forms:
        _opentimelineio()


def _opentimelineio() -> Any:
    return load_extra("opentimelineio", "opentimelineio", "otio", "writing OpenTimelineIO")

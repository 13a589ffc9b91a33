"""What the columns of a list mean, by their names: one table for CSV and its like, JSON and Parquet."""

from __future__ import annotations

import re
from collections.abc import Sequence

from uniformer.errors import InputError, shown
from uniformer.labels import normal_form

_ALIASES = {
    "path": "path file file_name file_path video video_path video_name video_file image image_path image_name "
    "image_file clip clip_path clip_name folder",
    "id": "id video_id",
    "label": "label labels target targets y label_id label_idx class_id class_index category_id",
    "class": "class class_name label_name category action activity template",
    "youtube_id": "youtube_id",
    "start": "start start_time time_start t_start start_sec start_seconds",
    "end": "end end_time time_end t_end end_sec end_seconds",
    "frames": "frames num_frames frame_count total_frames n_frames",
    "split": "split set subset partition phase usage data_split dataset_split split_name",
    "group": "group subject",
}
_MEANING = {normal_form(alias): meaning for meaning, aliases in _ALIASES.items() for alias in aliases.split()}

# Columns that say which part of a file is meant, in whatever unit: to leave one out would change what is labelled.
_EDGE = "start|begin|stop|end|onset|offset|first|last|from|to"
_UNIT = "t|time|frame|f|s|ms|us|ns|sec|secs|second|seconds|msec|millisecond|milliseconds|idx|index|frameidx|timestamp"
_PART = re.compile(
    rf"(clip|seg|segment|event)?({_UNIT})?({_EDGE})({_UNIT})|(clip|seg|segment|event|{_UNIT})({_EDGE})"
    r"|t\d|start|begin|stop|end|onset|offset|segments?|timestamps|interval|span|(time|frame|clip)range"
)

_PART_OF_SET = re.compile(r"(is|for)(train|training|val|valid|validation|dev|test|testing)(ing)?|(train|val|test)flag")


def is_header(names: Sequence[str]) -> bool:
    """Do these names tell a path and a label?"""
    known = {_MEANING.get(normal_form(name)) for name in names}
    return bool(known & {"path", "id", "youtube_id"} and known & {"label", "class"})


def meanings(names: Sequence[str], place: str) -> tuple[str | None, ...]:
    """What each column means, None for one of no use here.

    Of two with one meaning the one with the plain name counts: "label", not "label_id". Raises `InputError` where none
    has it, and for columns that say a part of each file otherwise than as start and end in seconds, or its split
    otherwise than by a word.
    """
    forms = [normal_form(name) for name in names]
    found = [_MEANING.get(form) for form in forms]
    for meaning in {m for m in found if m is not None and found.count(m) > 1}:
        plain = normal_form(meaning)
        if forms.count(plain) != 1:
            same = ", ".join(shown(name) for name, m in zip(names, found, strict=True) if m == meaning)
            raise InputError(f"{place}: expected one column that says {meaning}, found {same}")
        found = [m if m != meaning or form == plain else None for form, m in zip(forms, found, strict=True)]
    parts = [shown(name) for name, form, m in zip(names, forms, found, strict=True) if not m and _PART.fullmatch(form)]
    if parts and not {"start", "end"} <= set(found):
        raise InputError(
            f"{place}: expected the part of a file as columns start and end, in seconds, found {', '.join(parts)}"
        )
    flags = [shown(name) for name, form in zip(names, forms, strict=True) if _PART_OF_SET.fullmatch(form)]
    if flags and "split" not in found:
        raise InputError(f"{place}: expected the split of a file as a column split, found {', '.join(flags)}")
    return tuple(found)


def unread(names: Sequence[str], place: str) -> list[str]:
    """The columns that `meanings` finds no use for."""
    return [shown(name) or "one without a name" for name, m in zip(names, meanings(names, place), strict=True) if not m]

"""The header of a safetensors file: read as its package wrote it, refused where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.source_files import message
from uniformer.support.safetensors_header import read_header


def test_a_header_says_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = {"one": np.ones((2, 3), np.float32), "none": np.ones((0, 4), np.int64), "scalar": np.array(5.0)}
    save_file(arrays, path, {"format": "mine"})
    header = read_header(path)
    assert header is not None
    assert header.metadata == {"format": "mine"}
    data = path.read_bytes()[header.start :]
    for name, array in arrays.items():
        entry = header.tensors[name]
        assert (entry.dtype, entry.shape) == (
            {"float32": "F32", "int64": "I64", "float64": "F64"}[str(array.dtype)],
            array.shape,
        )
        assert data[entry.begin : entry.end] == array.tobytes()


def file_of(tmp_path: Path, header: bytes) -> Path:
    path = tmp_path / "x"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return path


@pytest.mark.parametrize(
    "data", [b"", b"abc", bytes(8), bytes(9), b"PK\x03\x04" * 9, b"path,label\na.mp4,1\n", b"{}" * 99]
)
def test_other_files_are_of_another_kind(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    assert read_header(tmp_path / "x") is None


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": ENTRY | {"data_offsets": [0, 12]}},  # more than there is
        {"a": ENTRY | {"data_offsets": [8, 0]}},
        {"a": ENTRY | {"data_offsets": [0]}},
        {"a": ENTRY | {"shape": [-2]}},
        {"a": ENTRY | {"shape": ["2"]}},
        {"a": ENTRY | {"data_offsets": [0, 8.0]}},
        {"a": ENTRY | {"dtype": ["F32"]}},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": 7},
        {"__metadata__": 3},
        {"__metadata__": {"format": 3}},
    ],
)
def test_a_damaged_header_is_refused_in_one_line(header: dict, tmp_path: Path) -> None:
    path = file_of(tmp_path, json.dumps(header).encode())
    said = message(lambda: read_header(path, "a list"))
    assert said.startswith(f"cannot read {path}: expected a list, found a damaged safetensors file (")


def test_text_that_is_no_json_and_files_that_are_not_there(tmp_path: Path) -> None:
    assert "damaged" in message(lambda: read_header(file_of(tmp_path, b"{nonsense")))
    assert "damaged" in message(lambda: read_header(file_of(tmp_path, b'{"a":' * 5000)))
    assert "found no readable file: no such file" in message(lambda: read_header(tmp_path / "none"))

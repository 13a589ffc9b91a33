"""Rows of bytes in a folder: as safe from kills and crashes as rows of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from uniformer.support.resume import BYTE_ROWS, RowLog

SUMS = np.arange(10, 15, dtype=np.uint64)
DATA = {3: b"first", 0: b"", 4: bytes(range(256)) * 40, 1: b"ROW\0" * 9}


def log_of(folder: Path, sums: np.ndarray = SUMS) -> RowLog:
    return RowLog(folder, {"model": "this"}, BYTE_ROWS, sums)


def kept(folder: Path, sums: np.ndarray = SUMS) -> dict[int, bytes]:
    return {int(row["item"]): row["data"] for row in log_of(folder, sums).read()}


def write(folder: Path, data: dict[int, bytes], rank: int = 0) -> None:
    log = log_of(folder)
    log.read()
    with log.begin(rank) as keep:
        for item, value in data.items():
            keep(np.array((item, value), BYTE_ROWS))


def test_rows_come_back_whoever_wrote_them(tmp_path: Path) -> None:
    write(tmp_path, {3: DATA[3], 0: DATA[0]})
    write(tmp_path, {4: DATA[4], 1: DATA[1]}, rank=1)
    assert kept(tmp_path) == DATA
    write(tmp_path, {2: b"late"})  # a run that goes on
    assert kept(tmp_path) == {**DATA, 2: b"late"}


def test_a_row_of_a_file_that_changed_is_none(tmp_path: Path) -> None:
    write(tmp_path, DATA)
    assert kept(tmp_path, np.where(np.arange(5) == 4, 99, SUMS).astype(np.uint64)).keys() == {0, 1, 3}


def test_wherever_a_kill_stops_the_rows_before_it_stay(tmp_path: Path) -> None:
    write(tmp_path, DATA)
    (path,) = tmp_path.glob("rows-*.bin")
    whole, ends, end = path.read_bytes(), [], 0
    for value in DATA.values():
        ends.append(end := end + 32 + len(value))
    assert end == len(whole)
    for cut in sorted({0, 1, 31, len(whole) - 1, *ends, *(e - 5 for e in ends), *(e + 7 for e in ends[:-1])}):
        path.write_bytes(whole[:cut])
        before = dict(list(DATA.items())[: sum(e <= cut for e in ends)])
        assert kept(tmp_path) == before, cut
        write(tmp_path, {2: b"more"})
        assert kept(tmp_path) == {**before, 2: b"more"}, cut


@pytest.mark.parametrize("place", range(0, 70, 3))
def test_a_byte_that_a_crash_spoilt_costs_one_row(tmp_path: Path, place: int) -> None:
    """Also of a length: rows behind it are found by their marks."""
    write(tmp_path, DATA)
    (path,) = tmp_path.glob("rows-*.bin")
    data = bytearray(path.read_bytes())
    data[place] ^= 0x55
    path.write_bytes(data)
    lost = 3 if place < 37 else 0 if place < 69 else 4
    assert kept(tmp_path) == {item: value for item, value in DATA.items() if item != lost}

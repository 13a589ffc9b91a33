"""A content-addressed store as the hub's xet protocol has it (version 1 of its API): xorbs and shards come in, files
are put together of them, and go out as terms and ranges.

https://huggingface.co/docs/xet: "Xorb Formation & Serialization Format", "MDB Shard File Format", "CAS API".
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

_ENTRY = 48  # bytes of each header and entry of a shard
_LAST = b"\xff" * 32  # the hash that ends its list of files
_VERIFIED, _HAS_SHA256 = 1 << 31, 1 << 30
_STORED, _LZ4, _GROUPED = range(3)  # how a chunk is packed


@dataclass
class Term:
    """A part of a file: chunks `begin` to `end` of a xorb."""

    xorb: str
    size: int
    begin: int
    end: int


@dataclass
class Store:
    xorbs: dict[str, bytes] = field(default_factory=dict)
    terms: dict[str, list[Term]] = field(default_factory=dict)  #: of each file, by its xet hash
    hashes: dict[str, str] = field(default_factory=dict)  #: sha256 -> xet hash

    def take_shard(self, data: bytes) -> None:
        """Notes the files of a shard; what it is made of must be here, and give the content that it says."""
        assert data.startswith(b"HFRepoMetaData\0")
        at = _ENTRY
        while data[at : at + 32] != _LAST:
            name, flags, count = _hash(data[at:]), *struct.unpack("<II", data[at + 32 : at + 40])
            entries = [data[at + _ENTRY * n :][:_ENTRY] for n in range(1, count + 1)]
            self.terms[name] = [Term(_hash(entry), *struct.unpack("<III", entry[36:])) for entry in entries]
            at += _ENTRY * (1 + count * (2 if flags & _VERIFIED else 1))
            assert flags & _HAS_SHA256
            self.hashes[_hash(data[at:])] = name
            assert hashlib.sha256(self.content(name)).hexdigest() == _hash(data[at:])
            at += _ENTRY

    def content(self, name: str) -> bytes:
        return b"".join(b"".join(chunks(self.xorbs[t.xorb])[t.begin : t.end]) for t in self.terms[name])

    def reconstruction(self, name: str, url: str) -> dict[str, Any]:
        """How a client puts a file together: of which chunks, and in which bytes of which addresses they are."""
        ranges = [{"start": term.begin, "end": term.end} for term in self.terms[name]]
        terms = [
            {"hash": term.xorb, "unpacked_length": term.size, "range": part}
            for term, part in zip(self.terms[name], ranges, strict=True)
        ]
        fetch: dict[str, list[dict[str, Any]]] = {}
        for term, part in zip(self.terms[name], ranges, strict=True):
            edges = [0, *accumulate(8 + packed for packed, _, _ in _headers(self.xorbs[term.xorb]))]
            where = {"start": edges[term.begin], "end": edges[term.end] - 1}
            fetch.setdefault(term.xorb, []).append(
                {"range": part, "url": f"{url}/xorb/{term.xorb}", "url_range": where}
            )
        return {"offset_into_first_range": 0, "terms": terms, "fetch_info": fetch}


def chunks(xorb: bytes) -> list[bytes]:
    found, at = [], 0
    for packed, how, size in _headers(xorb):
        data = xorb[at + 8 : at + 8 + packed]
        if how != _STORED:
            data = pa.decompress(data, size, codec="lz4", asbytes=True)
        found.append(_ungrouped(data) if how == _GROUPED else data)
        at += 8 + packed
    return found


def _headers(xorb: bytes) -> list[tuple[int, int, int]]:
    """(bytes that it takes, how it is packed, bytes that it holds) of each chunk."""
    found, at = [], 0
    while at < len(xorb):
        version, packed, how, size = (
            int.from_bytes(xorb[at + begin : at + end], "little") for begin, end in ((0, 1), (1, 4), (4, 5), (5, 8))
        )
        assert version == 0
        found.append((packed, how, size))
        at += 8 + packed
    return found


def _ungrouped(data: bytes) -> bytes:
    """The first bytes of all fours lie first, then the second ones, ..."""
    whole = np.empty(len(data), np.uint8)
    groups = np.split(np.frombuffer(data, np.uint8), list(accumulate(len(whole[n::4]) for n in range(3))))
    for n, group in enumerate(groups):
        whole[n::4] = group
    return whole.tobytes()


def _hash(data: bytes) -> str:
    """Hashes are written as four words of 64 bits, each little-endian."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", data[:32]))

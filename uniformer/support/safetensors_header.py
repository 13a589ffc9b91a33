"""What a safetensors file says of itself, read without its package, which would copy the tensors or import torch.

The file: 8 bytes with the length of the header, the header (JSON: name -> dtype, shape, span of bytes), the data.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from uniformer.errors import InputError, reason
from uniformer.support.texts import LARGEST, parse_json


class TensorEntry(NamedTuple):
    """One tensor of the file."""

    dtype: str  #: safetensors' name: "F32", "I64"
    shape: tuple[int, ...]
    begin: int  #: of its bytes in the data
    end: int


class Header(NamedTuple):
    """All that stands before the data."""

    metadata: dict[str, str]
    tensors: dict[str, TensorEntry]
    start: int  #: of the data in the file, bytes


def read_header(path: str | os.PathLike[str], expected: str = "a safetensors file") -> Header | None:
    """The header of a safetensors file; None for a file of another kind.

    Raises `InputError` where the file cannot be read, or begins like one and is damaged; `expected` is what the message
    asks for.
    """
    wanted = f"cannot read {path}: expected {expected}, found"
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"{wanted} something that is not a regular file")
        with open(path, "rb") as f:
            size, first = int.from_bytes(f.read(8), "little"), f.read(1)
            data = Path(path).stat().st_size - 8 - size  # bytes of it
            if first != b"{" or data < 0 or size > LARGEST:
                return None
            text = first + f.read(size - 1)
    except OSError as error:
        raise InputError(f"{wanted} no readable file: {reason(error)}") from None
    try:
        entries = parse_json(text, "its header")
        metadata = entries.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that is no text")
        tensors = {name: _entry(name, entry, data) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{wanted} a damaged safetensors file ({why})") from None
    return Header(metadata, tensors, 8 + size)


def _entry(name: str, entry: dict[str, Any], data: int) -> TensorEntry:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    are_whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    if not (isinstance(dtype, str) and are_whole and begin <= end <= data):
        raise ValueError(f"{name}: {dtype} of shape {shape} in bytes {begin} to {end} of {data}")
    return TensorEntry(dtype, shape, begin, end)

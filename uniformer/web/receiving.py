"""What a client sends, taken in within limits: a form with one file and options, or the bytes of the file alone."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, NamedTuple

from fastapi import HTTPException, Request, UploadFile
from starlette.datastructures import UploadFile as Part
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from uniformer.errors import reason, shown
from uniformer.web.service import Limits

log = logging.getLogger(__name__)

IN_MEMORY = 1 << 20  # bytes; larger files lie on the disk
MOST_FIELDS, LONGEST_FIELD = 20, 1 << 12  # of a form, beside the file; bytes


class Received(NamedTuple):
    file: BinaryIO
    name: str  #: the client's own, as it may be shown
    told: list[tuple[str, str]]  #: options, of the address and of the form


async def received(request: Request, limits: Limits, folder: str | os.PathLike[str] | None = None) -> Received:
    """A request's file, a large one on the disk in `folder`, and its options.

    Raises `HTTPException`: 413 for too many bytes, 408 for too slow ones, 400 for a form without one file, and for
    what breaks off, 415 for JSON, 507 where the disk refuses."""
    told = request.query_params.multi_items()
    request = Request(request.scope, _counted(request, limits.size))
    kind = request.headers.get("content-type", "").lower()
    is_form = kind.startswith("multipart/form-data")
    if kind.startswith("application/json"):
        raise HTTPException(415, "expected the bytes of a file, or a form with one, got JSON")
    try:
        async with asyncio.timeout(limits.seconds):
            return await (_of_form if is_form else _of_bytes)(request, told, folder)
    except TimeoutError:
        raise HTTPException(408, f"expected the whole request within {limits.seconds:g} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "expected the whole request, it broke off") from None
    except OSError as error:  # its own words may name files of this machine
        log.error("a file could not be kept: %s", error)
        raise HTTPException(507, f"the server cannot keep the file: {reason(error)}") from None


def _counted(request: Request, most: int) -> Any:
    """What receives the body up to so many bytes."""
    problem = HTTPException(413, f"expected a request of at most {most} bytes, got more")
    length = request.headers.get("content-length", "")
    taken = int(length) if length.isdecimal() and int(length) > most else 0

    async def receive() -> Any:
        nonlocal taken
        if taken > most:
            raise problem
        message = await request.receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise problem
        return message

    return receive


async def _of_bytes(request: Request, told: list[tuple[str, str]], folder: Any) -> Received:
    file = _kept_in(folder)
    try:
        whole = UploadFile(file)  # writes to the disk in a thread
        async for part in request.stream():
            await whole.write(part)
        await whole.seek(0)
    except BaseException:
        file.close()
        raise
    return Received(file, "upload", told)


async def _of_form(request: Request, told: list[tuple[str, str]], folder: Any) -> Received:
    parser = _Parser(
        request.headers, request.stream(), max_files=1, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD
    )
    parser.folder = folder
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"expected a form with one file: {error.message}") from None
    files = [value for _, value in form.multi_items() if isinstance(value, Part)]
    if len(files) != 1:
        raise HTTPException(400, "expected a form with one file, got none, or one that broke off")
    last = re.split(r"[\\/]", files[0].filename or "")[-1]
    fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    return Received(files[0].file, shown(last, 200) or "upload", told + fields)


class _Parser(MultiPartParser):
    folder: Any = None  #: where large files lie; Starlette knows the system's alone

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        if self._current_part.file is not None:
            self._current_part.file.file = _kept_in(self.folder)


def _kept_in(folder: Any) -> BinaryIO:
    file: Any = SpooledTemporaryFile(max_size=IN_MEMORY, dir=folder)  # noqa: SIM115 - handed out
    return file

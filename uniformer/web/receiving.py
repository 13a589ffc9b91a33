"""What a client sends, taken in within limits: a form with one file and options, or the bytes of the file alone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, NamedTuple

from fastapi import HTTPException, Request, UploadFile
from starlette.datastructures import UploadFile as Part
from starlette.requests import ClientDisconnect

from uniformer.errors import shown
from uniformer.web.service import Limits

IN_MEMORY = 1 << 20  # bytes; larger files lie on the disk, without a name
MOST_FIELDS = 20  # of a form, beside the file


class Received(NamedTuple):
    file: BinaryIO
    name: str  #: the client's own, as it may be shown
    told: list[tuple[str, str]]  #: options, of the address and of the form


async def received(request: Request, limits: Limits) -> Received:
    """Raises `HTTPException`: 413 for too many bytes, 408 for too slow ones, 400 for a form without one file, and for
    what breaks off."""
    told = request.query_params.multi_items()
    request = Request(request.scope, _counted(request, limits.size))
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    try:
        async with asyncio.timeout(limits.seconds):
            return await (_of_form if is_form else _of_bytes)(request, told)
    except TimeoutError:
        raise HTTPException(408, f"expected the whole request within {limits.seconds:g} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "expected the whole request, it broke off") from None


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


async def _of_bytes(request: Request, told: list[tuple[str, str]]) -> Received:
    with _kept() as file:
        whole = UploadFile(file)  # writes to the disk in a thread
        async for part in request.stream():
            await whole.write(part)
        await whole.seek(0)
    return Received(file, "upload", told)


@contextmanager
def _kept() -> Iterator[BinaryIO]:
    """A file that is closed where it cannot be filled."""
    file: Any = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - handed out
    try:
        yield file
    except BaseException:
        file.close()
        raise


async def _of_form(request: Request, told: list[tuple[str, str]]) -> Received:
    form = await request.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=1 << 12)
    files = [value for _, value in form.multi_items() if isinstance(value, Part)]
    if len(files) != 1:
        raise HTTPException(400, "expected a form with one file, got none, or one that broke off")
    last = re.split(r"[\\/]", files[0].filename or "")[-1]
    fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    return Received(files[0].file, shown(last, 200) or "upload", told + fields)

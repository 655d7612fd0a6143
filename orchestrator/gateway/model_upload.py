"""A model's file on its way to the disk of the fleet's host, in pieces of which few are in memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from orchestrator.gateway.errors import ApiError
from orchestrator.model.archive.index import INDEX_FILE
from orchestrator.model.gguf_header import MAGIC
from orchestrator.model.room import require_room, told_when_full

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,190}\.(gguf|tar)")
_BEGINNINGS = {".gguf": MAGIC, ".tar": INDEX_FILE.encode()}
_SPARE_BYTES = 256 << 20
"""That are left on the disk to others."""
_PIECE_BYTES = 1 << 20


def check_name(name: str) -> None:
    """Check that a file of this name may be one: a GGUF, or an archive of a model.

    Raises:
        ApiError: it may not.
    """
    if not _FILE_NAME.fullmatch(name):
        told = "send a .gguf file, or a .tar that linguabus model export wrote, of letters, digits, '.', '_', '-'"
        raise ApiError(422, told, code="invalid_value", field="name")


async def receive(path: Path, size_bytes: int, pieces: AsyncIterator[bytes], tell: Callable[[int], None]) -> None:
    """Write a file as it comes.

    Args:
        path: its name says what it is to be, see `check_name`; in a folder of its own.
        size_bytes: its length as announced, which is what comes.
        tell: is told how many bytes have come.

    Raises:
        NoRoom: the disk is too full, or becomes so.
        ApiError: it begins as no such file does.
        ClientDisconnect: not all of it came.
    """
    what, folder = f"{path.name} can't be uploaded", path.parent.parent
    beginning = _BEGINNINGS[path.suffix]
    done = 0
    await asyncio.to_thread(require_room, folder, size_bytes + _SPARE_BYTES, what)
    with told_when_full(folder, what), path.open("xb") as file:
        waiting = bytearray()
        async for piece in pieces:
            waiting += piece
            if len(waiting) < min(_PIECE_BYTES, size_bytes - done):
                continue
            if not done and not waiting.startswith(beginning):
                break
            await asyncio.to_thread(file.write, waiting)
            done += len(waiting)
            tell(done)
            await asyncio.to_thread(require_room, folder, size_bytes - done + _SPARE_BYTES, what)
            waiting = bytearray()
    if not done:
        kind = "GGUF file" if path.suffix == ".gguf" else "archive of a model"
        told = f"{path.name} is no {kind}: take a .gguf, or what linguabus model export wrote"
        raise ApiError(422, told, code="invalid_value")

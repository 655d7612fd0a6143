"""The plain part of tar: regular files one after the other, read and written in pieces.

Python's ``tarfile`` reads more than is wanted from a stranger (links, devices, sparse files, headers of any length that
it holds in memory); of it only the layout of a single header is used here.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO

BLOCK_BYTES = tarfile.BLOCKSIZE
PIECE_BYTES = 4 << 20
END = bytes(2 * BLOCK_BYTES)
NAME_BYTES = tarfile.LENGTH_NAME


class TarError(Exception):
    """What was read is not what should come there; the text says what it is."""


def header(name: str, size_bytes: int) -> bytes:
    """The block before a member; the same for the same arguments, whenever and by whomever it is made.

    ``name`` is ASCII, of at most `NAME_BYTES`.
    """
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def padding(size_bytes: int) -> bytes:
    """What fills the last block of a member."""
    return bytes(-size_bytes % BLOCK_BYTES)


def size_of(sizes_bytes: list[int]) -> int:
    """Bytes of a tar whose members have these sizes."""
    return len(END) + sum(BLOCK_BYTES + size + len(padding(size)) for size in sizes_bytes)


def read_header(file: IO[bytes]) -> tuple[str, int] | None:
    """Name and size of the next member, None at the end of the archive.

    Raises:
        TarError: there is something else.
    """
    block = _read(file, BLOCK_BYTES)
    if not any(block):
        if any(_read(file, BLOCK_BYTES)) or file.read(1):
            raise TarError("it goes on behind its end")
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise TarError("it is damaged, or no archive of a model") from error
    if info.type != tarfile.REGTYPE or info.size < 0:
        raise TarError(f"it has a member {info.name!a} that is not a plain file (a link, a folder or the like)")
    return info.name, info.size


def pieces(file: IO[bytes], size_bytes: int) -> Iterator[bytes]:
    """The bytes of a member whose header was read, in pieces; then the next header can be.

    Raises:
        TarError: the file ends before.
    """
    left = size_bytes
    while left:
        piece = _read(file, min(left, PIECE_BYTES))
        left -= len(piece)
        yield piece
    if any(_read(file, len(padding(size_bytes)))):
        raise TarError("it is damaged: what should be empty is not")


def _read(file: IO[bytes], size_bytes: int) -> bytes:
    data = file.read(size_bytes)
    if len(data) < size_bytes:
        raise TarError("it ends too early")
    return data

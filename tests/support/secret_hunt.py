"""Looks for secrets where none belong, in the forms in which they may have got there."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil

_SHORTEST_BYTES = 8
"""Of what is looked for; less is found anywhere."""


def forms(secret: bytes) -> set[bytes]:
    """A secret as it is, in hexadecimal, as part of a URL, and in base64 wherever in a longer text it may begin."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode(), urllib.parse.quote(secret, safe="").encode()}
    for lead in range(3):
        encoded = base64.b64encode(bytes(lead) + secret)
        # The letters at both ends have bits of what stands before and behind.
        part = encoded[(0, 2, 3)[lead] : len(encoded) - (0 if (lead + len(secret)) % 3 == 0 else 4)]
        found |= {part, part.replace(b"+", b"-").replace(b"/", b"_")}
    return {form for form in found if len(form) >= _SHORTEST_BYTES}


def secrets_in(data: bytes, secrets: Mapping[str, bytes]) -> list[str]:
    """Names of the secrets that are in these bytes."""
    return [name for name, secret in secrets.items() if any(form in data for form in forms(secret))]


def readable_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Files below folders that others than their owner may read or write."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o077:
                yield path


def processes(roots: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """Command line and environment of processes and all that they have started, with what they are."""
    for root in roots:
        for process in (top := psutil.Process(root), *top.children(recursive=True)):
            folder = Path("/proc") / str(process.pid)
            yield f"command line of {process.name()}", (folder / "cmdline").read_bytes()
            yield f"environment of {process.name()}", (folder / "environ").read_bytes()

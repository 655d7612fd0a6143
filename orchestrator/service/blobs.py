"""Weights and graphs over HTTP: ``GET`` and ``HEAD /v1/blobs/{sha256}``, with one range. Nothing can be listed.

A file that is not what its name says is not given out: nodes would fetch it again and again. 410 tells them so.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.service.http_access import Access
from schemas.names import is_sha256

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

BLOBS_PATH = "/v1/blobs"
_REMEMBERED = 4096
_ONE_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_log = logging.getLogger(__name__)


def blob_routes(folder: Path, access: Access | None = None) -> list[BaseRoute]:
    """Routes that serve the files of ``folder`` that are named by a SHA-256.

    Args:
        access: says who may fetch; None lets everybody, which is for loopback.
    """
    from starlette.exceptions import HTTPException
    from starlette.responses import FileResponse
    from starlette.routing import Route

    def get_blob(request: Request) -> Response:
        if access:
            access.check(request)
        name = request.path_params["sha256"]
        path = folder / name
        if not is_sha256(name) or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise HTTPException(404)
        status = path.stat()
        if not _is_whole(path, status.st_mtime_ns):
            raise HTTPException(410)
        _keep_one_range(request)
        # The name says what the content is, so a resumed download can't mix two contents.
        headers = {"etag": f'"{name}"', "cache-control": "private, max-age=31536000, immutable"}
        return FileResponse(path, headers=headers, media_type="application/octet-stream", stat_result=status)

    return [Route(BLOBS_PATH + "/{sha256}", get_blob, methods=["GET"])]


def _keep_one_range(request: Request) -> None:
    """Drop a Range that is not one range of bytes, or not of a GET; the answer is the whole file then (RFC 9110, 14.2).

    Starlette would answer up to 100 ranges, read numbers as Python does, and refuse what is to be ignored.
    """
    asked = request.headers.getlist("range")
    if request.method != "GET" or len(asked) != 1 or not _is_one_range(asked[0]):
        request.scope["headers"] = [header for header in request.scope["headers"] if header[0] != b"range"]


def _is_one_range(asked: str) -> bool:
    match = _ONE_RANGE.fullmatch(asked)
    if not match or not any(match.groups()):
        return False
    first, last = match.groups()
    return not (first and last) or int(first) <= int(last)


@functools.lru_cache(maxsize=_REMEMBERED)
def _is_whole(path: Path, _changed_ns: int) -> bool:
    """Is the content of a file what its name says? It is read once after each change."""
    with path.open("rb") as file:
        whole = hashlib.file_digest(file, "sha256").hexdigest() == path.name
    if not whole:
        _log.error("%s is damaged, and not given to nodes: 'linguabus model verify' says what to do", path)
    return whole

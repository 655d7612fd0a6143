"""Weights and graphs over HTTP: ``GET`` and ``HEAD /v1/blobs/{sha256}``, with Range. Nothing can be listed.

A file that is not what its name says is not given out: nodes would fetch it again and again. 410 tells them so.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.names import is_sha256

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

BLOBS_PATH = "/v1/blobs"
_REMEMBERED = 4096
_log = logging.getLogger(__name__)


def blob_routes(folder: Path) -> list[BaseRoute]:
    """Routes that serve the files of ``folder`` that are named by a SHA-256."""
    from starlette.exceptions import HTTPException
    from starlette.responses import FileResponse
    from starlette.routing import Route

    def get_blob(request: Request) -> Response:
        name = request.path_params["sha256"]
        if not is_sha256(name) or not (folder / name).is_file():
            raise HTTPException(404)
        if not _is_whole(folder / name, (folder / name).stat().st_mtime_ns):
            raise HTTPException(410)
        # The name says what the content is, so a resumed download can't mix two contents.
        headers = {"etag": f'"{name}"', "cache-control": "public, max-age=31536000, immutable"}
        return FileResponse(folder / name, headers=headers, media_type="application/octet-stream")

    return [Route(BLOBS_PATH + "/{sha256}", get_blob, methods=["GET"])]


@functools.lru_cache(maxsize=_REMEMBERED)
def _is_whole(path: Path, _changed_ns: int) -> bool:
    """Is the content of a file what its name says? It is read once after each change."""
    with path.open("rb") as file:
        whole = hashlib.file_digest(file, "sha256").hexdigest() == path.name
    if not whole:
        _log.error("%s is damaged, and not given to nodes: 'linguabus model verify' says what to do", path)
    return whole

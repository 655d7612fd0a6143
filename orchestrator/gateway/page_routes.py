"""The page at ``/``, for people: files that are in the package, and what a browser is told to allow them."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException

_START = "index.html"
_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""By the end of a file's name; others, such as licences, are not served."""
HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types dompurify",
        )
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # Looked up each time, and mostly not sent again: another version is another page at once.
    "cache-control": "no-cache",
}


def page_files() -> dict[str, bytes]:
    """The page's files by path."""
    return dict(_files(files("orchestrator.gateway") / "page", ""))


def _files(folder: Traversable, above: str) -> list[tuple[str, bytes]]:
    found = []
    for one in folder.iterdir():
        if one.is_dir():
            found += _files(one, f"{above}{one.name}/")
        elif one.name.rpartition(".")[2] in _TYPES:
            found.append((f"{above}{one.name}", one.read_bytes()))
    return found


def page_routes() -> APIRouter:
    """The routes; nobody is asked for a key, as nothing of a fleet is in the files."""
    router = APIRouter(include_in_schema=False)
    known = {path: _File(path, content) for path, content in page_files().items()}

    @router.api_route("/", methods=["GET", "HEAD"])
    async def start(request: Request) -> Response:
        """The page for a browser; others are told that something is here: Ollama's clients ask before all else."""
        if "text/html" in request.headers.get("accept", ""):
            response = known[_START].response(request)
        else:
            response = PlainTextResponse("linguabus is running")
        response.headers["vary"] = "accept"
        return response

    @router.api_route("/page/{path:path}", methods=["GET", "HEAD"])
    async def file(request: Request, path: str) -> Response:
        """A file that the page needs."""
        if path not in known:
            raise HTTPException(404)
        return known[path].response(request)

    return router


class _File:
    def __init__(self, path: str, content: bytes) -> None:
        self._content = content
        self._type = _TYPES[path.rpartition(".")[2]]
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    def response(self, request: Request) -> Response:
        """The file, or that it has not changed."""
        headers = {**HEADERS, "etag": self._tag}
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        return Response(self._content, headers=headers, media_type=self._type)

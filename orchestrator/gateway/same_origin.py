"""Pages of other hosts can have a browser send requests here: those that change something are refused.

Without keys nothing else tells such a request from one of its user. One with ``Authorization`` is no page's of another
host: browsers ask this server first whether those may send it, and it says no.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi import Request

from orchestrator.gateway.errors import ApiError

_UNCHANGING = ("GET", "HEAD", "OPTIONS")
_OWN_SITES = ("same-origin", "none")
"""Of ``Sec-Fetch-Site``; none: its user has asked for it."""


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Did a page of another host have a browser send this? (pure)

    Args:
        headers: by their names in small letters.
    """
    if "authorization" in headers:
        return False
    if site := headers.get("sec-fetch-site"):
        return site not in _OWN_SITES
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


async def same_origin(request: Request) -> None:
    """Let in what changes nothing, what programs send, and what the page of this gateway sends.

    Raises:
        ApiError: 403, it is another page's.
    """
    if request.method not in _UNCHANGING and is_foreign(request.headers):
        raise ApiError(403, "a page of another host may change nothing here", code="foreign_origin")


async def json_body(request: Request) -> None:
    """Let in a request whose body is said to be JSON, as no form's is.

    Raises:
        ApiError: 415, it is something else.
    """
    if _kind(request) != "application/json":
        raise ApiError(415, "send JSON, with the header content-type: application/json", code="not_json")


async def file_body(request: Request) -> None:
    """Let in a request whose body is said to be a file and nothing else, as no form's is.

    Raises:
        ApiError: 415, it is something else; 411, nobody knows how long it is.
    """
    if _kind(request) != "application/octet-stream":
        raise ApiError(
            415, "send the file itself, with the header content-type: application/octet-stream", code="no_file"
        )
    if "content-length" not in request.headers:
        raise ApiError(411, "send the file with its length, in the header content-length", code="no_length")


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()

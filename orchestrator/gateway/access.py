"""Who calls: by an API key, which is a member of the fleet, or from this machine where no key is asked for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from orchestrator.gateway.access_key import read_key
from orchestrator.service.http_access import Access, Admit

LOCAL = "local"
"""The caller where no key is asked for."""


def key_access(admit: Admit) -> Access:
    """Lets in who has an API key."""
    return Access(admit, read=read_key, scheme="Bearer")


async def known_caller(request: Request) -> str:
    """The caller's name.

    Raises:
        HTTPException: 401, whatever is wrong, or 429 after too many of those.
    """
    access: Access | None = request.app.state.access
    return LOCAL if access is None else access.check(request)


Caller = Annotated[str, Depends(known_caller)]
"""The caller's name, for routes that only callers may ask."""

"""Who calls: by an API key, which is a member of the fleet, or from this machine where no key is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from orchestrator.gateway.access_key import read_key
from orchestrator.gateway.errors import ApiError
from orchestrator.service.http_access import Access, Admit

LOCAL = "local"
"""The caller where no key is asked for."""


def key_access(admit: Admit) -> Access:
    """Lets in who has an API key."""
    return Access(admit, read=read_key, scheme="Bearer")


@dataclass(frozen=True)
class Guard:
    """Who may ask, and who may command: None, everybody who reaches the gateway.

    Attributes:
        may_command: of somebody who may ask, by name.
    """

    access: Access | None = None
    may_command: Callable[[str], bool] = lambda _: True


async def known_caller(request: Request) -> str:
    """The caller's name.

    Raises:
        HTTPException: 401, whatever is wrong, or 429 after too many of those.
    """
    guard: Guard = request.app.state.guard
    return LOCAL if guard.access is None else guard.access.check(request)


Caller = Annotated[str, Depends(known_caller)]
"""The caller's name, for routes that only callers may ask."""


async def commander(request: Request, caller: Caller) -> str:
    """The name of a caller who may command.

    Raises:
        ApiError: 403, this one may not.
    """
    guard: Guard = request.app.state.guard
    if not guard.may_command(caller):
        told = f"{caller}'s key asks and commands nothing: make one on the fleet's host, linguabus key NAME --operator"
        raise ApiError(403, told, code="not_allowed")
    return caller

"""Who calls: by an API key, which is a member of the fleet, or from this machine where no key is asked for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from orchestrator.service.http_access import Access, Admit

PREFIX = "lb-"
LOCAL = "local"
"""The caller where no key is asked for."""


def key_text(name: str, key: str) -> str:
    """An API key as its owner has it: ``lb-NAME.KEY``; a name may have dots, a key has none."""
    return f"{PREFIX}{name}.{key}"


def key_access(admit: Admit) -> Access:
    """Lets in who has an API key."""
    return Access(admit, read=_read, scheme="Bearer")


def _read(given: list[str]) -> tuple[str, str] | None:
    """Name and key of an ``Authorization: Bearer``; None where it is something else."""
    scheme, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    name, dot, key = text.strip().removeprefix(PREFIX).rpartition(".")
    if scheme.lower() != "bearer" or not text.strip().startswith(PREFIX) or not dot:
        return None
    return name, key


def _caller(request: Request) -> str:
    """The caller's name.

    Raises:
        HTTPException: 401, whatever is wrong, or 429 after too many of those.
    """
    access: Access | None = request.app.state.access
    if access is None:
        return LOCAL
    access.check(request)
    pair = _read(request.headers.getlist("authorization"))
    assert pair
    return pair[0]


Caller = Annotated[str, Depends(_caller)]
"""The caller's name, for routes that only callers may ask. Keys are compared in a thread of their own."""

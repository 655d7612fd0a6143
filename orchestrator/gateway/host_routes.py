"""``/api/fleet/...`` of the fleet's host: who may come and go, and which models there are."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from broker.time_span import LONGEST_S
from orchestrator.gateway.access import Caller, Guard, commander
from orchestrator.gateway.errors import ApiError
from orchestrator.gateway.gateway import Gateway
from orchestrator.gateway.host import Host
from orchestrator.gateway.same_origin import file_body, json_body
from orchestrator.gateway.streams import HungUp
from orchestrator.identity.inviting import DEFAULT_EXPIRES_S, Wanted
from schemas.names import LIMITED_PATTERN

_PREFIX = "/api/fleet"
_UPLOAD = "/models/upload"
UPLOAD_PATH = _PREFIX + _UPLOAD
"""Where a body may be as long as a model."""
_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_Name = Annotated[str, Field(pattern=f"^{LIMITED_PATTERN}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Invite(_Body):
    """Whom to invite; see `Wanted`."""

    name: _Name
    role: Literal["node", "client", "operator", "home-assistant"] = "node"
    expires_s: Annotated[float, Field(ge=1, le=LONGEST_S)] = DEFAULT_EXPIRES_S
    phone: bool = False
    again: bool = False


class Named(_Body):
    """A member, or somebody who is invited."""

    name: _Name


class Door(_Body):
    """How long the door is open for who is invited; null: it is shut."""

    open_s: Annotated[float, Field(ge=1, le=LONGEST_S)] | None


class Added(_Body):
    """A model to add, by name."""

    source: Annotated[str, Field(min_length=1, max_length=200)]


def host_routes(gateway: Gateway, host: Host | None, guard: Guard) -> APIRouter:
    """The routes of a gateway; ``host`` None: it runs elsewhere."""
    router = APIRouter(prefix=_PREFIX, tags=["Host"])
    changing = [Depends(commander), Depends(json_body)]

    def here() -> Host:
        if host is None:
            raise ApiError(409, "this is done on the fleet's host, where this gateway does not run", code="not_here")
        return host

    @router.get("/rights")
    async def rights(caller: Caller) -> dict[str, Any]:
        """What the caller may do here; ``upload_bytes``: the most of a model's file, null where none is taken."""
        commands = guard.may_command(caller)
        own = host if commands else None
        has_members = own is not None and own.has_fleet
        return {
            "caller": caller, "commands": commands, "models": own is not None, "members": has_members,
            "upload_bytes": gateway.limits.upload_bytes if own else None,
        }  # fmt: skip

    @router.get("/members", dependencies=[Depends(commander)])
    async def members() -> dict[str, Any]:
        """Members, who is invited, and the door."""
        return await asyncio.to_thread(here().roll)

    @router.post("/members/invite", dependencies=changing)
    async def invite(wanted: Invite) -> dict[str, Any]:
        """Invite a device, for one use: a line for it, also as the squares of a QR code."""
        if wanted.phone and wanted.role != "node":
            raise ApiError(422, "phone: it is for one that lends itself", code="invalid_value", field="phone")
        return await asyncio.to_thread(here().invite, Wanted(**wanted.model_dump()))

    @router.post("/members/revoke", dependencies=changing)
    async def revoke(wanted: Named) -> dict[str, Any]:
        """End a membership at once, or an invitation."""
        await asyncio.to_thread(here().revoke, wanted.name)
        return {"name": wanted.name}

    @router.post("/members/door", dependencies=changing)
    async def door(wanted: Door) -> dict[str, Any]:
        """Open the door for those who are invited, or shut it."""
        await asyncio.to_thread(here().permit, wanted.open_s)
        shown: dict[str, Any] = (await asyncio.to_thread(here().roll))["door"]
        return shown

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """The model that is served, those on the host's disk (null: not known here), and the one being added."""
        served = (await gateway.client.status()).model
        found = await asyncio.to_thread(host.models, served) if host else None
        return {"served": served, "models": found, "adding": host.adding.state() if host else None}

    @router.post("/models/add", dependencies=changing)
    async def add(wanted: Added) -> dict[str, Any]:
        """Begin to add a model by name; ``models`` tells how far it is."""
        await here().adding.begin(wanted.source)
        return {"source": wanted.source}

    @router.post(
        _UPLOAD,
        dependencies=[Depends(commander), Depends(file_body)],
        openapi_extra={"requestBody": {"content": _FILE, "required": True}},
    )
    async def upload(request: Request, name: str) -> dict[str, Any]:
        """Add a model from the body, a GGUF file or what ``linguabus model export`` wrote; answered once it is here.

        ``models`` tells how far it is, before and after.
        """
        try:
            await here().adding.upload(name, int(request.headers["content-length"]), request.stream())
        except ClientDisconnect:
            raise HungUp from None
        return {"source": name}

    @router.post("/models/cancel", dependencies=changing)
    async def cancel() -> dict[str, Any]:
        """Stop adding; nothing of it stays."""
        await here().adding.cancel()
        return {}

    return router

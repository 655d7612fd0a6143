"""``/api/fleet``: the fleet as operators see it, in the forms of the MQTT interface's answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response

from broker.errors import BusError
from orchestrator.client.control_calls import SOLVE_TIMEOUT_S
from orchestrator.client.errors import ClientError, ControlRefused
from orchestrator.gateway.event_stream import COMMENT_STARTING, EventStream, comment, event
from orchestrator.gateway.gateway import Gateway
from orchestrator.gateway.operator_answers import MOST_PAST_EVENTS, as_json
from schemas.contract import dump, load
from schemas.messages import (
    DecisionsReply,
    HistoryReply,
    NoPlanReply,
    PlanConstraints,
    PreviewConstraints,
    PreviewReply,
    ShowDecisions,
    ShowHistory,
    ShowStory,
    StoryReply,
)

MOST_PLANS = 50
RequestId = Annotated[str, Query(pattern="^[0-9a-f]{16}$")]


def fleet_routes(gateway: Gateway) -> APIRouter:
    """The routes of a gateway. What is asked needs an operator's rights on the broker, which are the gateway's own."""
    router = APIRouter(prefix="/api/fleet", tags=["Fleet"])
    client = gateway.client

    @router.get("/status")
    async def status() -> dict[str, Any]:
        """The state of the service."""
        return as_json(await client.status())

    @router.get("/nodes")
    async def nodes() -> dict[str, Any]:
        """All nodes, and how they are doing."""
        return as_json(await client.nodes())

    @router.get("/plan")
    async def plan() -> dict[str, Any]:
        """The plans in force."""
        return as_json(await client.plan())

    @router.get("/overview")
    async def overview() -> dict[str, Any]:
        """Pipelines and nodes at this moment."""
        return as_json(await client.overview())

    @router.get("/moves")
    async def moves() -> dict[str, Any]:
        """Why layers moved or stayed."""
        return as_json(await client.command(ShowDecisions(), DecisionsReply))

    @router.get("/plans")
    async def plans() -> dict[str, Any]:
        """The newest plans that were in force."""
        return as_json(await client.command(ShowHistory(limit=MOST_PLANS), HistoryReply))

    @router.post("/preview")
    async def preview(constraints: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        """The best plan under constraints, as ``linguabus plan --json`` has them; nothing is changed."""
        wanted = PreviewConstraints(constraints=load(PlanConstraints, constraints))
        answers: tuple[type[PreviewReply | NoPlanReply], ...] = (PreviewReply, NoPlanReply)
        return as_json(await client.command(wanted, *answers, timeout_s=SOLVE_TIMEOUT_S))

    @router.get("/trace")
    async def trace(request: RequestId | None = None) -> dict[str, Any] | None:
        """What became of a request, by default of the newest one (null: there was none); nothing of its text."""
        try:
            return as_json(await client.command(ShowStory(request=request), StoryReply))
        except ControlRefused:
            if request is None:
                return None
            raise

    @router.get("/live")
    async def live() -> Response:
        """The fleet as a page draws it, as server-sent events.

        ``fleet`` is a JSON merge patch, first of nothing, and ``happened`` an event, first those of before.
        """
        return EventStream(
            _told(gateway, {"fleet": gateway.live.changes(), "happened": gateway.live.events()}), ExitStack()
        )

    @router.get("/events")
    async def events(past: bool = True) -> Response:
        """Events as they happen, as server-sent events; ``past``: the newest ones before."""
        return EventStream(_told(gateway, {"": gateway.live.events(past=past)}), ExitStack())

    return router


async def _told(gateway: Gateway, coming: Mapping[str, AsyncGenerator[Any, None]]) -> AsyncGenerator[bytes, None]:
    """The lines of a stream of what comes, by its kind, which is an event's name; an empty one: it has none.

    It ends with the gateway's connection to the broker. An orchestrator that is not there is waited for.
    """
    yield COMMENT_STARTING
    came: asyncio.Queue[bytes | None] = asyncio.Queue(MOST_PAST_EVENTS)

    async def tell(kind: str, what: AsyncGenerator[Any, None]) -> None:
        with contextlib.suppress(BusError, ClientError):
            async with aclosing(what):
                async for one in what:
                    await came.put(event(dump(one), kind))
        await came.put(None)

    tasks = [asyncio.create_task(tell(kind, what)) for kind, what in coming.items()]
    try:
        while True:
            try:
                async with asyncio.timeout(gateway.limits.quiet_s):
                    lines = [await came.get()]
                while not came.empty():  # at once: asyncio warns of each piece that it can't send any more
                    lines.append(came.get_nowait())
                yield b"".join(line for line in lines if line)
                if None in lines:
                    return
            except TimeoutError:
                yield comment("still there")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

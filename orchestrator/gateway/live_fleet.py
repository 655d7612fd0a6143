"""The fleet at this moment, for all who watch it: asked for each second, and at once when something happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from orchestrator.client.async_client import AsyncClient
from orchestrator.client.errors import ControlRefused
from orchestrator.gateway.fleet_picture import Picture, away, changes, picture
from orchestrator.gateway.operator_answers import past_events
from schemas.errors import LinguabusError
from schemas.messages import FleetEvent, PlanReply

_EVERY_S = 1.0
_AT_LEAST_S = 0.2
"""Between two looks, however much happens."""


class LiveFleet:
    """Looks at the fleet while anybody watches. For one event loop."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._watchers = 0
        self._looking: asyncio.Task[None] | None = None
        self._picture: Picture = {}
        self._plan: PlanReply | None = None
        self._is_new = asyncio.Condition()
        self._version = 0
        self._hurry = asyncio.Event()

    async def changes(self) -> AsyncGenerator[Picture, None]:
        """The picture, and then merge patches, as it changes; who is slow gets several changes in one."""
        seen = -1
        known: Picture = {}
        async with self._watched():
            while True:
                async with self._is_new:
                    while self._version == seen or not self._picture:
                        await self._is_new.wait()
                    seen, now = self._version, self._picture
                if patch := changes(known, now):
                    known = now
                    yield patch

    async def events(self, *, past: bool = True) -> AsyncGenerator[FleetEvent, None]:
        """What happened lately, if ``past``, and what happens from now on."""
        async with aclosing(self._client.events()) as coming:
            first = asyncio.ensure_future(anext(coming))
            try:
                with contextlib.suppress(LinguabusError):  # nobody is there yet, or it is not ours to ask
                    for one in await past_events(self._client) if past else ():
                        yield one
                while True:
                    one = await first
                    self._hurry.set()
                    yield one
                    first = asyncio.ensure_future(anext(coming))
            finally:
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        self._watchers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                looking, self._looking = self._looking, None
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    async def _look(self) -> None:
        self._picture = {}
        while True:
            found = await self._look_once()
            async with self._is_new:
                self._picture = found
                self._version += 1
                self._is_new.notify_all()
            await asyncio.sleep(_AT_LEAST_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S - _AT_LEAST_S):
                    await self._hurry.wait()
            self._hurry.clear()

    async def _look_once(self) -> Picture:
        try:
            status, overview = await asyncio.gather(self._client.status(), self._client.overview())
            epochs = [str(one.epoch) for one in overview.pipelines if one.epoch]
            plans = self._plan.pipelines if self._plan else ()
            moves = any(one.move or one.progress for one in overview.pipelines) or any(one.next for one in plans)
            if epochs and (moves or epochs != [str(one.epoch) for one in plans]):
                with contextlib.suppress(ControlRefused):  # there is none any more
                    self._plan = await self._client.plan()
            return picture(status, overview, self._plan)
        except LinguabusError as error:
            return away(str(error))

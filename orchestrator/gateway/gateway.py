"""What the interfaces share: the client of the orchestrator, which models are served, how much is asked at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from orchestrator.client.async_answer import AsyncAnswer
from orchestrator.client.async_client import AsyncClient
from orchestrator.client.errors import NoOrchestrator
from orchestrator.client.question import PIPELINE, Question
from orchestrator.gateway.errors import RETRY_AFTER_S, ApiError
from orchestrator.gateway.live_fleet import LiveFleet
from orchestrator.gateway.metrics import AnswerMetrics
from schemas.limits import DEFAULT_PATIENCE_S

STATUS_S = 2.0
"""What the orchestrator has said of itself counts for so long."""
KNOWN_S = 60.0
"""A question goes by what is known for so long, and has it looked up beside: another model's answer is refused."""
AUTO_MODELS = ("", "default", "linguabus")
"""Names by which a caller means whatever is served."""


@dataclass(frozen=True, kw_only=True)
class GatewayLimits:
    """How much may be asked at once, and how long a caller may take."""

    answers: int = 128
    answers_per_caller: int = 64
    upload_bytes: int = 64 << 30
    """Of a model's file that is sent to the fleet's host; the disk mostly says less."""
    quiet_s: float = 10.0
    """In a stream something is said so often, so that nothing between here and the caller ends it."""


class Gateway:
    """A client of the orchestrator for many callers; for one event loop."""

    def __init__(self, client: AsyncClient, limits: GatewayLimits | None = None) -> None:
        self.client = client
        self.limits = limits or GatewayLimits()
        self.started_at = int(time.time())
        self.metrics = AnswerMetrics()
        self.live = LiveFleet(client)
        self._open: Counter[str] = Counter()
        self._models: tuple[str, ...] = ()
        self._takes_tools = False
        self._looked_s = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    # --- models -----------------------------------------------------------------------------------------------

    async def models(self, *, patience_s: float = DEFAULT_PATIENCE_S) -> tuple[str, ...]:
        """The models that are served, by name; ``patience_s``: how long who asks would wait for somebody who knows.

        Raises:
            NoOrchestrator: nobody is there who knows.
        """
        if self.client.is_gone(PIPELINE):
            if self._models and patience_s:  # questions wait for one
                return self._models
            raise NoOrchestrator(self.client.broker)
        if time.monotonic() >= self._looked_s + STATUS_S:
            try:
                await asyncio.shield(self._look())
            except NoOrchestrator:
                if not self._models:
                    raise
        return self._models

    def _look(self) -> asyncio.Task[None]:
        """Ask the orchestrator what it serves, once for all who come meanwhile."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._ask_for_models())
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._looking

    async def _ask_for_models(self) -> None:
        status = await self.client.status()
        self._models = (status.model,) if status.model else ()
        self._takes_tools = status.tool_format is not None
        self._looked_s = time.monotonic()

    async def _soon_models(self, patience_s: float) -> tuple[str, ...]:
        """Those that were served a while ago, for who finds out if it is not so any more; errors as in `models`."""
        age_s = time.monotonic() - self._looked_s
        if age_s >= KNOWN_S or not self._models or self.client.is_gone(PIPELINE):
            return await self.models(patience_s=patience_s)
        if age_s >= STATUS_S:
            self._look()
        return self._models

    async def model(self, wanted: str, *, patience_s: float = DEFAULT_PATIENCE_S) -> str:
        """The model that a caller means; ``patience_s`` as in `models`.

        Raises:
            ApiError: it is not served, or none is.
            NoOrchestrator: nobody is there who knows.
        """
        name, models = wanted.removesuffix(":latest"), await self._soon_models(patience_s)
        if name not in (*AUTO_MODELS, *models):
            models = await self.models(patience_s=patience_s)
        if not models:
            raise ApiError(503, "no model is served yet", code="no_model", retry_after_s=RETRY_AFTER_S)
        if name in AUTO_MODELS:
            return models[0]
        if name in models:
            return name
        served = ", ".join(models)
        raise ApiError(
            404, f"the model {wanted!r} is not served; served: {served}", code="model_not_found", field="model"
        )

    async def takes_tools(self) -> bool:
        """Does the model that is served know tools?

        Raises:
            NoOrchestrator: nobody is there who knows.
        """
        await self.models()
        return self._takes_tools

    # --- questions --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _room(self, caller: str, answers: int) -> Iterator[None]:
        """Hold the room for a caller's open answers.

        Raises:
            ApiError: he has too many open, or all have.
        """
        if self._open[caller] + answers > self.limits.answers_per_caller:
            most = self.limits.answers_per_caller
            raise ApiError(
                429, f"you have {self._open[caller]} answers open, and may have {most}: wait for one to end",
                code="rate_limit_exceeded", retry_after_s=RETRY_AFTER_S,
            )  # fmt: skip
        if self._open.total() + answers > self.limits.answers:
            raise ApiError(
                503, f"{self._open.total()} answers are open, no more fit: ask again later", code="busy",
                retry_after_s=RETRY_AFTER_S,
            )  # fmt: skip
        self._open[caller] += answers
        self.metrics.open.inc(answers)
        try:
            yield
        finally:
            self._open[caller] -= answers
            self.metrics.open.dec(answers)
            self._open += Counter()  # forgets who has none open

    async def ask(self, caller: str, model: str, questions: Sequence[Question], held: ExitStack) -> list[AsyncAnswer]:
        """Ask a model for a caller. Closing ``held`` cancels what has not ended, and gives the room back.

        Raises:
            ApiError: the caller has too many open, or all have.
            MessageError, QuestionTooLong: see `AsyncClient.ask`.
        """
        held.enter_context(self._room(caller, len(questions)))
        answers: list[AsyncAnswer] = []
        held.callback(self._leave, answers)
        for question in questions:
            answer = await self.client.ask(question, model=model)
            answers.append(answer)
        return answers

    def _leave(self, answers: Sequence[AsyncAnswer]) -> None:
        """Read no more of the answers to a question; they count from now on."""
        is_refused = any(answer.is_refused for answer in answers)
        for answer in answers:
            answer.leave()
            if answer.end:
                self.metrics.ended(answer.end)
            else:
                self.metrics.broken_off(is_refused=is_refused)

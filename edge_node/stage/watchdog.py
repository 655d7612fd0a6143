"""A ring's watchdog (pure): what its first stage sends again, unanswered in time or asked for by another stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edge_node.effects import Effect, SendFrame
from edge_node.requests.request import StageRequest
from edge_node.wire.topics import StageTopics
from schemas.codec import Frame, request_id
from schemas.messages import RequestFailureCode


class WatchedStage(Protocol):
    """What the watchdog needs of its stage."""

    topics: StageTopics
    requests: dict[int, StageRequest]

    def failed(self, request: str, code: RequestFailureCode, reason: str) -> Effect: ...


class Watchdog:
    """Watches the requests that a ring's first stage drives. On other stages it has nothing to do."""

    def __init__(self, stage: WatchedStage) -> None:
        self._stage = stage

    def replay(self, frame: Frame, state: StageRequest, now_s: float) -> list[Effect] | None:
        """Answer a stage that lacks what follows a position; None where nobody needs it any more."""
        driver = state.driver
        assert driver
        # Once the answer is complete nobody needs what is asked for, and computing it would give a token too many.
        if driver.finished or frame.attempt != driver.attempt or frame.position >= driver.issued:
            return None
        frames, own_length = driver.replay(frame.position, now_s)
        state.rule.attempt = driver.attempt
        if own_length is not None:
            state.rule.valid_length = own_length
        return self._repeated(frames, state)

    def tick(self, now_s: float) -> list[Effect]:
        """Repeat what the ring did not answer in time."""
        effects: list[Effect] = []
        for number, state in self._stage.requests.items():
            driver = state.driver
            if not driver or not driver.overdue(now_s):
                continue
            if driver.gave_up:
                driver.deadline_s = None
                reason = "the ring gave no token in spite of repeats: see `linguabus nodes`"
                effects.append(self._stage.failed(request_id(number), "no_progress", reason))
                continue
            frames = driver.repeat(now_s)
            state.rule.attempt = driver.attempt
            effects.extend(self._repeated(frames, state))
        return effects

    def deadlines_s(self) -> list[float | None]:
        """When each request is overdue, as far as a token is awaited."""
        return [state.driver.deadline_s for state in self._stage.requests.values() if state.driver]

    def _repeated(self, frames: Sequence[bytes], state: StageRequest) -> list[Effect]:
        """Frames sent again, each in a message of its own: together they may be too long for one."""
        for data in frames:
            state.stats.sent(len(data), decode=False)
        return [SendFrame(self._stage.topics.next, data) for data in frames]

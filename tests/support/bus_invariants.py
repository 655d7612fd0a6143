"""What holds of all messages on the bus, whatever dies (pure): a checker that is shown one message after the other.

Whoever shows them may have missed some, so nothing is concluded from what did not come.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.codec import Kind, decode_frames, request_id, request_number
from schemas.errors import ContractError
from schemas.messages import (
    CloseRequest,
    Heartbeat,
    KeepRequests,
    NodeStatus,
    OpenRequest,
    Plan,
    PrepareSegment,
    StreamEnd,
    StreamError,
    StreamStatus,
    StreamText,
    decode,
)
from schemas.topics import NODE_COMMAND, NODE_HEARTBEAT, NODE_STATUS, PLAN, REQUEST_STREAM, SEGMENT

_FIRST_HOP = "1"
"""Stage 0 issues steps to this stage."""


@dataclass
class _Stream:
    """What one reader was told."""

    ids: dict[int, int] = field(default_factory=dict)
    """Token by its place in the answer."""
    characters: dict[int, str] = field(default_factory=dict)
    """By place in the text."""
    end: StreamEnd | StreamError | None = None


@dataclass
class BusInvariants:
    """Takes in messages as they come and collects what should never be."""

    violations: list[str] = field(default_factory=list)
    rings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The nodes of the plan in force, by pipeline."""
    online: set[str] = field(default_factory=set)
    """Nodes that are there, as far as the broker knows."""
    open_requests: dict[str, int] = field(default_factory=dict)
    """Requests with a KV slot, by node, as its newest heartbeat says."""
    messages: int = 0
    _plans: dict[str, Plan] = field(default_factory=dict)
    """The newest by pipeline."""
    _said: list[Plan] = field(default_factory=list)
    """All plans that were published."""
    _issued: set[tuple[str, str, int, int, int]] = field(default_factory=set)
    """(pipeline, epoch, request, attempt, position) of stage 0's steps."""
    _closed: set[str] = field(default_factory=set)
    """Requests whose end the nodes were told of, unless they were opened again."""
    _open: set[str] = field(default_factory=set)
    """Requests that were ever opened."""
    _streams: dict[str, _Stream] = field(default_factory=dict)

    def take(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        """Look at a message; ``retained``: it was said earlier and comes from the broker's memory."""
        self.messages += 1
        try:
            if place := SEGMENT.match(topic):
                if place["stage"] == _FIRST_HOP:
                    self._steps(place["pipeline"], place["epoch"], payload)
            elif NODE_HEARTBEAT.match(topic):
                self._heartbeat(decode(payload, Heartbeat))
            elif NODE_STATUS.match(topic):
                self._status(decode(payload, NodeStatus))
            elif PLAN.match(topic):
                self._plan(decode(payload, Plan), retained=retained)
            elif NODE_COMMAND.match(topic):
                command = decode(payload, *NODE_COMMAND.messages)
                if isinstance(command, PrepareSegment):
                    self._prepared(command)
                elif isinstance(command, CloseRequest):
                    self._closed.add(command.request)
                elif isinstance(command, KeepRequests):
                    self._closed |= self._open - {*command.requests}
                elif isinstance(command, OpenRequest) and command.stage == 0:
                    self._opened(command)
            elif REQUEST_STREAM.match(topic):
                self._told(decode(payload, *REQUEST_STREAM.messages))
        except ContractError as error:
            self._broken(f"{topic} is against the contract: {error}")

    def forget_requests(self) -> None:
        """Keep nothing of requests that are over."""
        self._issued.clear()
        self._closed.clear()
        self._open.clear()
        self._streams.clear()

    def _broken(self, what: str) -> None:
        self.violations.append(what)

    def _steps(self, pipeline: str, epoch: str, payload: bytes) -> None:
        """Stage 0 issues each (attempt, position) of a request once."""
        for frame in decode_frames(payload):
            if frame.kind is not Kind.ACTIVATION:
                continue
            step = (pipeline, epoch, frame.request, frame.attempt, frame.position)
            if step in self._issued:
                self._broken(
                    f"stage 0 of {pipeline} {epoch} issued position {frame.position} of {request_id(frame.request)}"
                    f" twice in attempt {frame.attempt}"
                )
            self._issued.add(step)

    def _plan(self, plan: Plan, *, retained: bool) -> None:
        """Epochs of a pipeline grow, whoever publishes; a plan that was said again is the same."""
        newest = self._plans.get(plan.pipeline)
        if not retained and plan in self._said:
            return  # whoever lost its connection sends all again that was not acknowledged, in order
        self._said.append(plan)
        if newest and plan.epoch < newest.epoch:
            if not retained:  # a broker that was killed may remember an older one
                self._broken(f"plan {plan.pipeline} {plan.epoch} came after {newest.epoch}")
            return
        if newest and plan.epoch == newest.epoch and plan.ring and newest.ring and plan != newest:
            self._broken(f"plan {plan.pipeline} {plan.epoch} was published in two versions")
        others = [other.epoch for other in self._plans.values() if other.epoch.generation > plan.epoch.generation]
        if others and not retained:
            self._broken(f"plan {plan.pipeline} {plan.epoch} is of an orchestrator that {max(others)} has replaced")
        self._plans[plan.pipeline] = plan
        self.rings[plan.pipeline] = tuple(stage.node for stage in plan.ring)

    def _opened(self, command: OpenRequest) -> None:
        """A request that was closed and is opened again begins afresh, in the same epoch too."""
        self._open.add(command.request)
        if command.request in self._closed:
            self._closed.discard(command.request)
            number = request_number(command.request)
            self._issued = {step for step in self._issued if step[2] != number}

    def _prepared(self, command: PrepareSegment) -> None:
        """Nobody prepares plans once a later orchestrator has published one."""
        newest = max((plan.epoch for plan in self._plans.values()), default=command.epoch)
        if command.epoch.generation < newest.generation:
            self._broken(f"an orchestrator prepares {command.epoch} though {newest} is in force")

    def _heartbeat(self, heartbeat: Heartbeat) -> None:
        self.open_requests[heartbeat.node] = sum(stage.open_requests for stage in heartbeat.stages)

    def _status(self, status: NodeStatus) -> None:
        if status.online:
            self.online.add(status.node)
        else:
            self.online.discard(status.node)
            self.open_requests.pop(status.node, None)

    def _told(self, message: StreamText | StreamStatus | StreamEnd | StreamError) -> None:
        """What a reader is told twice is the same both times, and the end counts what came before it."""
        stream = self._streams.setdefault(message.request, _Stream())
        if isinstance(message, StreamText):
            ids, text = (
                dict(enumerate(message.token_ids, message.first_token)),
                dict(enumerate(message.text, message.first_character)),
            )
            same = all(stream.ids.setdefault(place, token) == token for place, token in ids.items())
            if not same or not all(stream.characters.setdefault(place, c) == c for place, c in text.items()):
                self._broken(f"the text of {message.request} from token {message.first_token} came in two versions")
            return
        if isinstance(message, StreamStatus) or (
            isinstance(message, StreamError) and message.code in ("unknown", "malformed")
        ):
            return  # it goes on
        if stream.end is not None and type(stream.end) is not type(message):
            self._broken(f"{message.request} ended twice: {stream.end} and {message}")
        stream.end = message
        if isinstance(message, StreamEnd):
            unsaid = message.completion_tokens - message.text_tokens  # a token that ends the answer is not sent
            if (
                unsaid not in ((0, 1) if message.finish_reason == "stop" else (0,))
                or len(stream.ids) > message.text_tokens
                or len(stream.characters) > message.text_characters
            ):
                self._broken(
                    f"{message.request} ended after {message.completion_tokens} tokens, {message.text_tokens} of them"
                    f" said; there were {len(stream.ids)}"
                )

"""The stories of requests, event by event: what happened and what was decided on it (pure).

Nothing of prompts and answers is kept, only how much there was. `Stories.record` is shown every event with the effects
that the core has decided on; what concerns a request is told by its id in messages and at the head of notes, by the
pipeline that it is open on, and for nodes and the broker by the moment alone.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.effects import Effect, Note, Publish, SaveTokens
from orchestrator.events import (
    BusDown,
    BusUp,
    Cancelled,
    Event,
    NodeSaid,
    PromptUnusable,
    Submitted,
    Tick,
    TokensHeard,
)
from schemas.messages import (
    MOST_STORY_ENTRIES,
    CloseRequest,
    Heartbeat,
    NodeStatus,
    OpenRequest,
    RequestClosed,
    RequestFailed,
    ResendTokens,
    StreamEnd,
    StreamError,
)
from schemas.topics import NODE_COMMAND, RESPONSE

KEPT_REQUESTS = 300
_MOST_ENTRIES = MOST_STORY_ENTRIES
"""Of one request; the first and the newest stay."""
_FOR_ALL = ("lost", "left", "broker")
"""Notes of these kinds concern every request that has not ended."""


@dataclass(frozen=True)
class StoryEntry:
    """At ``at_s``, by the core's clock, ``cause`` happened; ``decisions`` followed from it."""

    at_s: float
    cause: str
    decisions: tuple[str, ...] = ()


@dataclass
class Story:
    """The story of one request: its entries, oldest first; ``pipeline`` is where it was opened last."""

    request: str
    pipeline: str = ""
    ended: bool = False
    entries: deque[StoryEntry] = field(default_factory=deque)
    left_out: int = 0
    """Entries that were dropped from the middle."""
    _tokens: int = 0
    """Of the newest entry, where it is about tokens."""
    _tokens_from_s: float = 0.0

    def add(self, entry: StoryEntry) -> None:
        """Add an entry."""
        self._tokens = 0
        self.entries.append(entry)
        if len(self.entries) > _MOST_ENTRIES:
            del self.entries[_MOST_ENTRIES // 2]
            self.left_out += 1

    def heard_tokens(self, sender: str, count: int, now_s: float) -> None:
        """Add that tokens came in; those that follow each other are one entry."""
        if self._tokens:
            self.entries.pop()
        else:
            self._tokens_from_s = now_s
        tokens = self._tokens + count
        took_s = now_s - self._tokens_from_s
        over = f" over {took_s:.3f} s" if took_s > 0 else ""
        self.add(StoryEntry(self._tokens_from_s, f"{tokens} tokens from {sender}{over}"))
        self._tokens = tokens


class Stories:
    """The stories of the newest requests, by id."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, Story] = OrderedDict()

    def story(self, request: str) -> Story | None:
        """What became of a request; None for one that is not known, or no longer."""
        return self._of.get(request)

    def newest(self, limit: int) -> list[Story]:
        """The requests that came last, the newest first."""
        return [self._of[request] for request in list(reversed(self._of))[:limit]]

    def record(self, event: Event, effects: Sequence[Effect], now_s: float) -> None:
        """Record an event that the core has handled, and what it decided."""
        if isinstance(event, TokensHeard):
            story = self._of.get(event.request)
            if story is not None:
                story.heard_tokens(event.sender, len(event.ids), now_s)
            if len(effects) <= 1 or (len(effects) == 2 and isinstance(effects[0], SaveTokens)):
                return  # a piece of the answer
        elif isinstance(event, Submitted):
            self._begin(event.request.request)
        elif not effects and not isinstance(event, Cancelled):
            return
        decisions = self._decisions(effects)
        if isinstance(event, PromptUnusable):  # what a template says may have the prompt in it
            told = decisions.get(event.request, [])
            decisions[event.request] = [text.replace(event.reason, event.summary) for text in told]
        if isinstance(event, Submitted | Cancelled) or _is_about_a_request(event):
            decisions.setdefault(_request_of(event), [])
        for request, decided in decisions.items():
            if request in self._of:
                self._of[request].add(StoryEntry(now_s, _cause(event), tuple(decided)))

    def _begin(self, request: str) -> None:
        if request not in self._of:
            self._of[request] = Story(request)
        while len(self._of) > KEPT_REQUESTS:
            ended = (known for known, story in self._of.items() if story.ended)
            del self._of[next(ended, next(iter(self._of)))]

    def _decisions(self, effects: Iterable[Effect]) -> dict[str, list[str]]:
        """What was decided about each request, by its id."""
        found: dict[str, list[str]] = {}
        for effect in effects:
            for request, text in self._told(effect):
                found.setdefault(request, []).append(text)
        return {request: _in_one_line(_CLOSE, _in_one_line(_OPEN, texts)) for request, texts in found.items()}

    def _told(self, effect: Effect) -> Iterator[tuple[str, str]]:
        match effect:
            case Note(text=text):
                request, _, rest = text.partition(" ")
                if request in self._of:
                    yield request, rest
                elif effect.pipeline or effect.kind in _FOR_ALL:
                    for story in self._of.values():
                        if not story.ended and effect.pipeline in ("", story.pipeline):
                            yield story.request, text
            case Publish(topic=topic, message=message):
                request = getattr(message, "request", "")
                text = self._message(topic, message) if request in self._of else ""
                if text:
                    yield request, text

    def _message(self, topic: str, message: Any) -> str:
        """What a message to a node or to the client says; empty for pieces of the answer."""
        place = NODE_COMMAND.match(topic)
        node = place["node"] if place else "?"
        story = self._of[message.request]
        match message:
            case OpenRequest():
                story.pipeline = message.pipeline
                return f"{_OPEN}{node} (stage {message.stage} of {message.pipeline}, epoch {message.epoch})"
            case CloseRequest():
                return _CLOSE + node
            case ResendTokens():
                return f"asked {node} for tokens from position {message.position}"
            case StreamEnd():
                story.ended = True
                return f"told the client: {message.finish_reason}, {message.completion_tokens} tokens"
            case StreamError() if not RESPONSE.match(topic):
                story.ended = True
                return f"told the client: {message.code}: {message.reason}"
        return ""


_OPEN, _CLOSE = "opened on ", "closed on "


def _in_one_line(words: str, texts: list[str]) -> list[str]:
    """Put all texts that begin with the same words, as what was said to every stage, into one line."""
    places = [text.removeprefix(words) for text in texts if text.startswith(words)]
    others = [text for text in texts if not text.startswith(words)]
    return [*others, words + ", ".join(places)] if places else others


def _is_about_a_request(event: Event) -> bool:
    return isinstance(event, NodeSaid) and isinstance(event.message, RequestFailed | RequestClosed)


def _request_of(event: Event) -> str:
    match event:
        case Submitted(request=submit):
            return submit.request
        case Cancelled(cancel=cancel):
            return cancel.request
        case NodeSaid(message=message):
            return str(message.request)
    return ""


def _cause(event: Event) -> str:
    """An event in a few words."""
    match event:
        case Submitted(request=submit):
            count = len(submit.messages)
            turns = f"{count} message{'s' if count > 1 else ''}" if count else "a prompt"
            return f"client {submit.client} asked: {turns}, at most {submit.max_tokens} tokens"
        case Cancelled(client=client):
            return f"client {client} cancelled"
        case TokensHeard(sender=sender):
            return f"with these tokens from {sender}"
        case NodeSaid(node=node, message=message):
            return f"{node} said {_said(message)}"
        case BusUp(stood_still=True):
            return "the orchestrator had stood still"
        case BusUp(reconnect=True):
            return "the broker is back"
        case BusDown():
            return "the broker is out of reach"
        case Tick():
            return "time passed"
    return _CAUSES.get(type(event).__name__, type(event).__name__)


_CAUSES = {
    "Renewed": "its reader had missed something",
    "Malformed": "its client sent a malformed message",
    "PromptEncoded": "its prompt was ready",
    "PromptUnusable": "no prompt could be made",
    "PlanSolved": "the planner answered",
    "SegmentsBuilt": "the graphs of a plan were built",
    "FleetDivided": "the fleet was divided",
    "JobFailed": "the planner failed",
    "Commanded": "an operator gave a command",
    "ModelOpened": "a model was opened",
    "ModelUnusable": "a model could not be opened",
    "PlanHeard": "a plan was heard on the bus",
    "Stopping": "the orchestrator was stopped",
}


def _said(message: Any) -> str:
    match message:
        case RequestFailed():
            return f"that it can't go on ({message.code}): {message.reason}"
        case RequestClosed():
            return f"that stage {message.timing.stage} is closed"
        case NodeStatus(online=online, reason=reason):
            return "that it is here" if online else f"that it is gone: {reason}"
        case Heartbeat():
            return "how it is"
    return type(message).__name__

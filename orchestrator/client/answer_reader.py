"""The answers that a client reads: kept alive, asked for again where something was missed, waited for with patience.

An answer is made as long as it is read: its request is renewed, and the orchestrator told how much of it has come. One
that has forgotten the request, or never heard of it, is asked again with what has come, and the answer goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, replace

from broker.bus import Bus, Refused
from broker.errors import PayloadTooLarge
from orchestrator.client.answer_stream import AnswerStream, StreamMessage
from orchestrator.client.answer_times import AnswerTimes
from orchestrator.client.errors import AnswerIncomplete, QuestionTooLong, find_broker, start_one
from schemas.errors import MessageTooLong
from schemas.messages import CancelRequest, OrchestratorStatus, StreamError, StreamStatus, SubmitRequest, decode, encode
from schemas.topics import REQUEST_CANCEL, REQUEST_RENEW, REQUEST_SUBMIT

RENEW_S = 0.5
SILENCE_S = 3.0
"""After this long without a word of the orchestrator it is asked for one; after as long again it counts as missing."""
_MOST_GONE = 256
"""Pipelines of which that is remembered."""
_SUBMIT_AGAIN_S = 2.0
"""Between two submissions of the same question."""


@dataclass(frozen=True)
class Waiting:
    """What an answer waits for, and since when (monotonic clock)."""

    text: str
    since_s: float
    is_for_orchestrator: bool = False
    """Is nobody there who could be told anything?"""


class AnswerReader:
    """The answers of one client that have not ended, by request. For one thread."""

    def __init__(
        self, bus: Bus, *, name: str, broker: str, remedy: str | None = None, silence_s: float = SILENCE_S
    ) -> None:
        """``name`` is the client's in topics; ``broker`` is the address for people; ``remedy``: where that is gone."""
        self._bus = bus
        self._name = name
        self._broker = broker
        self._remedy = remedy or find_broker(broker)
        self._silence_s = silence_s
        self._first_word_s = silence_s / 3
        """Whoever has taken a question says so at once when asked: that is not waited for as long."""
        self._streams: dict[str, AnswerStream] = {}
        self._waiting: dict[str, Waiting] = {}
        self._submitted_s: dict[str, float] = {}
        self._heard_s = -math.inf
        """When the orchestrator was last heard of, or the last question asked of it while none was open."""
        self._asked_s: float | None = None
        """When it was asked for a word, after a silence; None unless that is still to come."""
        self._cut_s: float | None = None
        """When the connection to the broker was lost; None while there is one."""
        self.due_s = math.inf
        """When `act` next has something to do."""
        self._gone: set[str] = set()
        """Pipelines whose orchestrator has said, or the broker for it, that it is gone."""

    @property
    def requests(self) -> tuple[str, ...]:
        """The requests that have not ended."""
        return tuple(self._streams)

    @property
    def streams(self) -> Collection[AnswerStream]:
        """Those of the requests that have not ended."""
        return self._streams.values()

    def get(self, request: str) -> AnswerStream | None:
        """An answer's stream; None once it has ended or was left."""
        return self._streams.get(request)

    def is_gone(self, pipeline: str) -> bool:
        """Is it known that nobody serves this pipeline? For any thread."""
        return pipeline in self._gone

    # --- orders -----------------------------------------------------------------------------------------------

    def submit(self, submit: SubmitRequest) -> AnswerStream:
        """Ask a question, and read its answer from now on; what comes is noted in what is returned.

        Raises:
            QuestionTooLong: the broker does not pass it on, or no message may be so long.
        """
        now_s = time.monotonic()
        if not self._streams:
            self.heard()
        stream = AnswerStream(submit, AnswerTimes(now_s))
        self._publish(stream, submit)
        self._streams[submit.request] = stream
        self.due_s = min(self.due_s, now_s + RENEW_S)
        return stream

    def cancel(self, request: str) -> None:
        """Tell the orchestrator that nobody wants this answer any more."""
        topic = REQUEST_CANCEL.format(client=self._name, request=request)
        self._bus.publish(topic, encode(CancelRequest(request=request)), qos=1)

    def leave(self, request: str) -> bool:
        """Read no more of an answer; was it being read?"""
        self._waiting.pop(request, None)
        self._submitted_s.pop(request, None)
        return self._streams.pop(request, None) is not None

    def _publish(self, stream: AnswerStream, submit: SubmitRequest) -> None:
        try:
            payload = encode(submit)
            self._bus.publish(REQUEST_SUBMIT.format(client=self._name), payload, qos=1)
        except (PayloadTooLarge, MessageTooLong) as error:
            raise QuestionTooLong(error.size_bytes, error.limit_bytes) from None
        stream.question_bytes = len(payload)
        self._submitted_s[submit.request] = time.monotonic()

    def _submit_again(self, stream: AnswerStream) -> None:
        again = stream.submit_again(time.monotonic())
        try:
            self._publish(stream, again)
        except QuestionTooLong:  # the same tokens are made once more, if the profile keeps the text
            self._publish(stream, replace(again, answer_ids=(), answer_model=None))

    # --- what arrives -----------------------------------------------------------------------------------------

    def take(self, message: StreamMessage | StreamStatus) -> None:
        """Take in a message of an answer."""
        self.heard()
        stream = self._streams.get(message.request)
        if stream is None:
            return
        was_unsure, tokens = stream.unsure, len(stream.token_ids)
        stream.take(message)
        if len(stream.token_ids) > tokens:
            stream.times.piece_came(self._heard_s)
        else:
            stream.times.disturbed()
        if (stream.unsure and not was_unsure) or stream.unknown:
            self.due_s = self._heard_s

    def heard(self) -> None:
        """Note that the orchestrator has said something."""
        self._heard_s, self._asked_s = time.monotonic(), None

    def heard_status(self, payload: bytes) -> None:
        """Note who serves a pipeline; raises `ContractError` for what does not say that."""
        status = decode(payload, OrchestratorStatus)
        if status.state == "gone" and len(self._gone) < _MOST_GONE:
            self._gone.add(status.pipeline)
        elif status.state == "here":
            self._gone.discard(status.pipeline)

    def lost(self) -> None:
        """Note that the connection to the broker is lost."""
        self._cut_s = self._cut_s or time.monotonic()

    def reconnected(self) -> None:
        """Ask again for what may be lost: a broker keeps nothing for who is away."""
        self._cut_s = None
        self.heard()
        for stream in self._streams.values():
            stream.unsure = True
            stream.times.disturbed()
        self.due_s = self._heard_s

    def refused(self, refused: Refused) -> None:
        """Tell the answers whose question it may be that the broker did not take it."""
        reason = f"the broker does not take the question, a message of {refused.size_bytes:,} bytes: {refused.reason}"
        for request, stream in self._streams.items():
            stream.refused(refused.size_bytes, StreamError(request=request, code="failed", reason=reason))

    # --- time -------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Tell the orchestrator which answers are still read, and what may be missing of them."""
        now_s = time.monotonic()
        self.due_s = now_s + RENEW_S if self._streams else math.inf
        if not self._bus.connected:
            return
        is_silent = now_s >= self._heard_s + self._silence_s
        if not is_silent:
            self.due_s = min(self.due_s, self._heard_s + self._silence_s)
        elif self._asked_s is None:
            self._asked_s = now_s
        for request, stream in self._streams.items():
            if stream.unknown:
                if now_s >= self._submitted_s[request] + _SUBMIT_AGAIN_S:
                    self._submit_again(stream)
                continue
            if not stream.heard and stream.asked_s is None:
                stream.unsure, stream.asked_s = True, now_s
            stream.unsure = stream.unsure or is_silent
            topic = REQUEST_RENEW.format(client=self._name, request=request)
            self._bus.publish(topic, encode(stream.renewal()), qos=1)

    def waiting(self, request: str) -> Waiting | None:
        """What an answer waits for; None while pieces come, or nothing is known to be missing."""
        stream, now_s = self._streams.get(request), time.monotonic()
        if stream is None:
            return None
        text, since_s, is_alone = stream.waits_for, now_s, True
        if self._cut_s is not None:
            text, since_s = f"the broker at {self._broker} ({self._remedy})", self._cut_s
        elif self._is_orchestrator_missing(now_s):
            text, since_s = f"the orchestrator: {start_one(self._broker)}", self._heard_s
        elif not stream.heard and stream.asked_s is not None and now_s >= stream.asked_s + self._first_word_s:
            text, since_s = "an orchestrator to answer", self._heard_s
        else:
            is_alone = False
        if not text:
            self._waiting.pop(request, None)
            return None
        before = self._waiting.get(request)
        if before is None or _head(before.text) != _head(text):
            before = self._waiting[request] = Waiting(text, since_s, is_alone)
        return replace(before, text=text)

    def _is_orchestrator_missing(self, now_s: float) -> bool:
        return self._asked_s is not None and now_s >= self._asked_s + self._silence_s

    def check(self, request: str) -> None:
        """Raise `AnswerIncomplete` when the broker or the orchestrator was missing for too long."""
        stream, now_s = self._streams[request], time.monotonic()
        patience_s = stream.submit.patience_s
        if self._cut_s is not None and now_s >= self._cut_s + patience_s:
            raise AnswerIncomplete(
                f"the broker at {self._broker} can't be reached (waited {now_s - self._cut_s:.0f} s): {self._remedy}"
            )
        is_missing = self._is_orchestrator_missing(now_s) and now_s >= self._heard_s + patience_s
        has_gone = self.is_gone(stream.submit.pipeline) and not stream.heard
        if self._cut_s is None and (is_missing or (has_gone and now_s >= stream.times.asked_s + patience_s)):
            since_s = self._heard_s if is_missing else stream.times.asked_s
            raise AnswerIncomplete(
                f"no orchestrator answers on {self._broker} (waited {now_s - since_s:.0f} s): {start_one(self._broker)}"
            )


def _head(text: str) -> str:
    """What is waited for, without how far that is."""
    return text.partition(":")[0]

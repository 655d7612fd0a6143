"""The fast path of a decode step through a stage (pure): from the bytes of one frame to the bytes of the next.

A run of ONNX Runtime leaves nothing of Python in the processor's caches, so what a step costs beside the run is what it
touches: functions, objects, modules. But the steps of an answer are alike. A fast path has the headers of both frames
ready: what arrives is compared with what is expected instead of parsed, checked and queued, what leaves is filled in
instead of built, and what is noted down is noted when the frame is out.

Only a step that is alone and as expected goes this way. Everything else (prompts, batches, guesses, repeats, replays,
what is held) takes the long way, through ``Stage.frame``, ``next_work`` and ``computed``; both leave the same behind.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Protocol

from edge_node.requests.checkpoints import Checkpoints
from edge_node.requests.guesser import Guesser
from edge_node.requests.request import StageRequest
from edge_node.requests.ring_driver import RingDriver, Step
from edge_node.stage.stage_stats import StageStats
from edge_node.stage_spec import StageSpec
from edge_node.wire.frames import tokens_frame
from edge_node.wire.topics import StageTopics
from edge_node.work import Draw, StateCopies
from schemas.codec import SAMPLE, Dtype, Kind, activation_payload_bytes, request_number
from schemas.frame_template import FrameTemplate

_TOKEN = struct.Struct("<i")


class Copying(Protocol):
    """A stage's part in a live move."""

    @property
    def is_copying(self) -> bool: ...


class FastPathStage(Protocol):
    """What a fast path needs of its stage."""

    spec: StageSpec
    topics: StageTopics
    stats: StageStats
    released: bool

    @property
    def move(self) -> Copying: ...

    def guess(self, state: StageRequest, first: int, ids: Sequence[int], count: int, now_s: float) -> Sequence[int]: ...


class DecodeFastPath:
    """The fast path of one request through a stage in the middle of a ring, under one attempt."""

    _ahead = 0
    """Positions from that which a step computes to that of the frame it sends."""

    def __init__(self, stage: FastPathStage, state: StageRequest) -> None:
        self.key = stage.spec.key
        self.input, self.topic = stage.topics.input, stage.topics.next
        """Where its frames come from and go to."""
        self.attempt = state.rule.attempt
        self.request = request_number(state.open.request)
        self.slot = state.slot
        self.position = -1
        """Of the step under way."""
        self.given: Any = None
        """What the step is computed from: the token on the first stage, the payload with the hidden state on others."""
        self.copies: StateCopies | None = None
        """Of the slot's folded states, for the step."""
        self._stage = stage
        self._state = state
        self._rule = state.rule
        self._first, self._end = state.open.prompt_tokens, stage.spec.segment.context_tokens
        self._vocab_size = stage.spec.segment.vocab_size
        self._expected = self._expect()
        self._answer = self._prepare_answer()
        self.due_s = math.inf
        """When the last step has to be looked after: at once if its rows are to be copied to another node."""
        self._data = b""
        """The step's frame."""

    def draw(self) -> Draw:
        """Last stage: what is needed to choose the token."""
        return self._state.draw(self.position + 1)

    def _activation(self, width: int) -> FrameTemplate:
        epoch, dtype = self._stage.spec.epoch, self._stage.spec.segment.wire
        size_bytes = activation_payload_bytes(dtype, 1, width)
        return FrameTemplate(Kind.ACTIVATION, dtype, SAMPLE, 1, self.request, epoch, self.attempt, width, size_bytes)

    def _tokens(self) -> FrameTemplate:
        return FrameTemplate(
            Kind.TOKENS, Dtype.INT32, 0, 1, self.request, self._stage.spec.epoch, self.attempt, 0, _TOKEN.size
        )  # fmt: skip

    def _expect(self) -> FrameTemplate:
        return self._activation(self._stage.spec.segment.width_in)

    def _prepare_answer(self) -> FrameTemplate:
        return self._activation(self._stage.spec.segment.width_out)

    def takes(self, data: bytes, now_s: float) -> bool:
        """Is a message the frame that begins the next step? If so the step is under way, else nothing happened."""
        state, rule, expected = self._state, self._rule, self._expected
        position = rule.valid_length
        if expected.position != position:
            expected.at(position)
        payload = expected.read(data)
        if (
            payload is None
            or not self._first <= position < self._end
            or rule.attempt != self.attempt
            or state.held
            or state.moved
            or state.frames
        ):
            return False
        self.position, self.given = position, payload
        return state.states is None or self._goes_on_from(state.states)

    def _goes_on_from(self, states: Checkpoints) -> bool:
        """Is there a folded state for the step to go on from? If so it has its copies."""
        position = self.position
        if not states.has(position):
            return False
        self.copies = states.run(position, position + 1, self._first)
        self._state.verified = None
        return True

    def frame(self, result: Any, now_s: float) -> bytes:
        """The frame to send: of the payload computed or, on the last stage, the token chosen."""
        answer = self._answer
        if answer.position != self.position:
            answer.at(self.position)
        self._data = data = answer.pack(result)
        return data

    def settle(self, compute_s: float, now_s: float) -> None:
        """Note down the step after its frame has been sent."""
        state, stage = self._state, self._stage
        stage.stats.computed(1, 1, compute_s)
        self._rule.computed(1)
        state.guessed = False
        state.stats.stepped(compute_s, len(self._data))
        self.due_s = 0.0 if stage.move.is_copying else math.inf
        # The headers of the next step's frames, while nobody waits for them.
        self._expected.at(self.position + 1)
        self._answer.at(self.position + 1 + self._ahead)


class FirstStageFastPath(DecodeFastPath):
    """The fast path through the first stage, where a token comes in."""

    _arrived_s = 0.0

    def _expect(self) -> FrameTemplate:
        return self._tokens()

    def takes(self, data: bytes, now_s: float) -> bool:
        """Is a message the token that begins the next step? If so the step is under way, else nothing has changed."""
        state, rule, driver, expected = self._state, self._rule, self._state.driver, self._expected
        if driver is None:
            return False
        position = len(driver.ids)
        if expected.position != position:
            expected.at(position)
        payload = expected.read(data)
        if (
            payload is None
            or position >= self._end
            or driver.attempt != self.attempt
            or rule.attempt != self.attempt
            or state.held
            or state.moved
            or not driver.expects_one_token
        ):
            return False
        (token,) = _TOKEN.unpack(payload)
        if not 0 <= token < self._vocab_size:
            return False
        self.position, self.given, self._arrived_s = position, token, now_s
        return state.states is None or self._goes_on_from(state.states)

    def _begun(self, driver: RingDriver) -> Step:
        """Take the token in and issue its step, which ``takes`` puts off until the frame is out."""
        driver.token(self.attempt, self.position, (self.given,), (), last=False, now_s=self._arrived_s)
        step = driver.steps.popleft()
        self._rule.valid_length = step.position
        return step

    def settle(self, compute_s: float, now_s: float) -> None:
        """Note down the step after its frame has been sent, and when its token is overdue."""
        driver = self._state.driver
        assert driver
        step = self._begun(driver)
        super().settle(compute_s, now_s)
        driver.published(step, self._data, compute_s, now_s)
        assert driver.deadline_s is not None
        self.due_s = min(self.due_s, driver.deadline_s)


class LastStageFastPath(DecodeFastPath):
    """The fast path through the last stage, where a token goes out."""

    _ahead = 1
    _unlearned: tuple[Guesser, Sequence[int], float] | None = None
    """Of the step, if nothing is guessed behind it: who is to learn its token once that is out, and when it came."""

    def takes(self, data: bytes, now_s: float) -> bool:
        """Is a message the frame that begins the next step, and is it known which tokens may come?"""
        allowed = self._state.allowed
        if allowed is not None and not allowed.known(self._rule.valid_length + 1, self._state.tokens):
            return False  # it waits on the long way until that is told
        return super().takes(data, now_s)

    def _prepare_answer(self) -> FrameTemplate:
        return self._tokens()

    def frame(self, result: Any, now_s: float) -> bytes:
        """The frame to send, with the token chosen; also with the answer's end or a guess, where there is one."""
        state = self._state
        position = self.position + 1
        ids = state.take(position, (result,), self._end)
        guesser = state.guesser
        guess: Sequence[int] = ()
        self._unlearned = None
        if guesser and not state.finish and state.allowed is None and guesser.keeps_still(position, ids[0]):
            self._unlearned = guesser, ids, now_s
        else:
            guess = self._stage.guess(state, position, ids, 1, now_s)
        if state.finish or guess:
            data = tokens_frame(
                self.request, self._stage.spec.epoch, self.attempt, position=position, ids=ids, guess=guess,
                window=state.window_positions, finish=state.finish,
            )  # fmt: skip
        else:
            answer = self._answer
            if answer.position != position:
                answer.at(position)
            data = answer.pack(_TOKEN.pack(ids[0]))
        self._data = data
        return data

    def settle(self, compute_s: float, now_s: float) -> None:
        """Note down the step after its frame has been sent, and have the guesser learn from its token."""
        super().settle(compute_s, now_s)
        if self._unlearned is not None:
            guesser, ids, chosen_s = self._unlearned
            guesser.learn(self.position + 1, ids, chosen_s)


def fast_path_of(stage: FastPathStage, state: StageRequest) -> DecodeFastPath:
    """The fast path of a request through a stage."""
    kind = FirstStageFastPath if stage.spec.is_first else LastStageFastPath if stage.spec.is_last else DecodeFastPath
    return kind(stage, state)

"""One stage of one epoch on this node (pure): its requests, and the order in which they are computed.

``next_work`` hands out one run at a time, taking turns among the requests; ``computed`` turns the result into
frames. What is on the wire is decided here, how it is computed is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_node.admission import refuse
from edge_node.effects import CopyPrefix, Effect, Reply, SendFrame, StageKey
from edge_node.frames import activation_frame, replay_frame, token_ids, tokens_frame
from edge_node.guessing import Guesser
from edge_node.positions import PositionRule, Verdict
from edge_node.request import StageRequest
from edge_node.ring import RingDriver, Step
from edge_node.slots import SlotTable
from edge_node.turns import Turns
from edge_node.wire import WIRE_DTYPES, rows_per_message
from edge_node.work import MAX_LOGITS, Computed, FailureCode, Row, RowResult, Work, batch
from schemas.codec import (
    Flag,
    Frame,
    Kind,
    request_id,
    request_number,
)
from schemas.messages import (
    OpenRequest,
    PrepareSegment,
    RequestClosed,
    RequestFailed,
    SegmentReady,
    StageMetrics,
)
from schemas.topics import SEGMENT, TOKEN

_MAX_QUEUED_FRAMES = 512
_METRIC_WEIGHT = 0.1
_MAX_RESENT_TOKENS = 4096


class Stage:
    """The requests of one prepared segment."""

    def __init__(self, spec: PrepareSegment, *, watchdog_min_s: float) -> None:
        self.spec = spec
        self.key: StageKey = (spec.pipeline, spec.epoch, spec.stage)
        self.node = spec.ring[spec.stage].node
        self.is_first = spec.stage == 0
        self.is_last = spec.stage == len(spec.ring) - 1
        self.loaded = False
        self.subscribed = False
        self.ready: SegmentReady | None = None
        """What to report once the topics are subscribed too."""
        self.frames_dropped = 0
        self.decode_ewma_s: float | None = None
        """Smoothed time of a run of one position per row."""
        self.decode_rows_ewma = 0.0
        self._watchdog_min_s = watchdog_min_s
        self._requests: dict[int, StageRequest] = {}
        self._turns = Turns()
        self._groups: dict[int, int] = {}
        self._slots = SlotTable(spec.slots)
        self._wire = WIRE_DTYPES[spec.wire_dtype]
        self._rows_per_message = rows_per_message(self._wire, spec.width_out)
        self._token_topic = TOKEN.format(
            pipeline=spec.pipeline, epoch=spec.epoch, sender=self.node, receiver=spec.ring[0].node
        )
        self._next_topic = "" if self.is_last else self._segment_topic(spec.stage + 1)

    def _segment_topic(self, stage: int) -> str:
        spec = self.spec
        return SEGMENT.format(
            pipeline=spec.pipeline, epoch=spec.epoch, stage=stage, sender=self.node, receiver=spec.ring[stage].node
        )

    @property
    def patterns(self) -> tuple[str, ...]:
        """The subscriptions the stage needs: frames to it and, for the first stage, the last one's tokens."""
        spec = self.spec
        to_me = SEGMENT.filter(pipeline=spec.pipeline, epoch=spec.epoch, stage=spec.stage, receiver=self.node)
        if not self.is_first or self.is_last:
            return (to_me,)
        return to_me, TOKEN.format(
            pipeline=spec.pipeline, epoch=spec.epoch, sender=spec.ring[-1].node, receiver=self.node
        )

    # --- requests ---------------------------------------------------------------------------------------------

    def open(self, message: OpenRequest) -> list[Effect]:
        """Give the request a slot; the first stage begins to work on it."""
        number = request_number(message.request)
        if number in self._requests:
            return []
        refusal = refuse(message, self.spec)
        if refusal is not None:
            return [self._failed(message.request, *refusal)]
        return self._admit(number, message)

    def _admit(self, number: int, message: OpenRequest) -> list[Effect]:
        prefix = request_number(message.prefix_request) if message.prefix_request else None
        # At least two positions are left to compute: one alone would take another path through attention.
        grant = self._slots.take(prefix, min(message.prefix_tokens, max(message.prompt_tokens - 2, 0)))
        if grant is None:
            return [self._failed(message.request, "busy", f"{self.node} has no free KV slot")]
        request = StageRequest(message, grant.slot, PositionRule(valid_length=grant.valid_length))
        if self.is_first:
            request.driver = RingDriver(
                prompt_tokens=message.prompt_tokens,
                chunk_tokens=self.spec.chunk_tokens,
                stages=len(self.spec.ring),
                watchdog_min_s=self._watchdog_min_s,
                ids=list(message.prompt_ids or ()),
                prefix_tokens=grant.valid_length,
            )
            request.driver.start()
        if self.is_last and message.draft_tokens and len(self.spec.ring) > 1:
            longest = min(message.draft_tokens, self.spec.chunk_tokens - 1)
            request.guesser = Guesser(longest, list(message.prompt_ids or ()))
        self._requests[number] = request
        self._regroup()
        self._take_turn(number, request)
        if grant.copy_from is None:
            return []
        return [CopyPrefix(self.key, grant.copy_from, grant.slot, grant.valid_length)]

    def close(self, request: str) -> list[Effect]:
        """Free the request's slot and report what was done for it."""
        number = request_number(request)
        state = self._requests.pop(number, None)
        if state is None:
            return []
        self._regroup()
        self._slots.park(number, state.slot, state.rule.valid_length)
        return [Reply(RequestClosed(request=request, timing=state.timing(self.node, self.spec.stage)))]

    def resend(self, request: str, position: int) -> list[Effect]:
        """Publish generated tokens again, for an orchestrator that missed them."""
        number = request_number(request)
        state = self._requests.get(number)
        if state is None or not self.is_last:
            return []
        ids: list[int] = []
        while position + len(ids) in state.tokens and len(ids) < _MAX_RESENT_TOKENS:
            ids.append(state.tokens[position + len(ids)])
        complete = position + len(ids) - 1 == max(state.tokens, default=-1)
        if not ids:
            return []
        data = self._tokens_frame(number, state, position, ids, state.finish if complete else Flag.NONE, ())
        return [SendFrame(self._token_topic, data)]

    # --- frames -----------------------------------------------------------------------------------------------

    def frame(self, sender: str, frame: Frame, now_s: float) -> list[Effect]:
        """A frame arrived on one of the stage's topics."""
        state = self._requests.get(frame.request)
        if state is None:
            return self._dropped(None)
        if frame.kind is Kind.ACTIVATION and not self.is_first:
            return self._activation(sender, frame, state)
        if frame.kind is Kind.TOKENS and state.driver and sender == self.spec.ring[-1].node:
            return self._token(frame, state, now_s)
        if frame.kind is Kind.REPLAY and state.driver and any(ref.node == sender for ref in self.spec.ring):
            return self._replay(frame, state, now_s)
        return self._dropped(state)

    def _dropped(self, state: StageRequest | None) -> list[Effect]:
        self.frames_dropped += 1
        if state:
            state.frames_dropped += 1
        return []

    def _activation(self, sender: str, frame: Frame, state: StageRequest) -> list[Effect]:
        fits = (
            frame.width == self.spec.width_in
            and frame.dtype is self._wire
            and frame.count <= self.spec.chunk_tokens
            and frame.position + frame.count <= self.spec.context_tokens
            and (frame.count <= MAX_LOGITS or not frame.flags & Flag.VERIFY)
        )
        if sender != self.spec.ring[self.spec.stage - 1].node or not fits or len(state.frames) >= _MAX_QUEUED_FRAMES:
            return self._dropped(state)
        state.frames.append(frame)
        self._take_turn(frame.request, state)
        return []

    def _token(self, frame: Frame, state: StageRequest, now_s: float) -> list[Effect]:
        driver = state.driver
        assert driver
        ids, guess = token_ids(frame)
        stop = frame.position + len(ids) + len(guess)
        if stop > self.spec.context_tokens or not all(0 <= token < self.spec.vocab_size for token in (*ids, *guess)):
            return self._dropped(state)
        if not driver.token(frame.attempt, frame.position, ids, guess, last=bool(frame.flags), now_s=now_s):
            return self._dropped(state)
        self._take_turn(frame.request, state)
        return []

    def _replay(self, frame: Frame, state: StageRequest, now_s: float) -> list[Effect]:
        driver = state.driver
        assert driver
        if frame.attempt != driver.attempt or frame.position >= len(driver.ids):
            return self._dropped(state)
        frames, own_length = driver.replay(frame.position, now_s)
        state.rule.attempt = driver.attempt
        if own_length is not None:
            state.rule.valid_length = own_length
            self._take_turn(frame.request, state)
        return self._repeated(frames, state)

    # --- work -------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Is there a run to hand out (or a turn to discard)?"""
        return self._turns.waiting

    def _take_turn(self, number: int, state: StageRequest) -> None:
        """Requests take turns; each has at most one place in the queues, however much input waits."""
        if state.has_input and not state.waiting:
            state.waiting = True
            self._turns.add(number, is_chunk=state.next_count > 1)

    def next_work(self) -> tuple[Work | None, list[Effect]]:
        """The next run, and what dropped frames on the way there lead to."""
        effects: list[Effect] = []
        rows: list[Row] = []
        turns = self._turns.take(self._groups)
        for number in turns:
            state = self._requests.get(number)
            if state is None:
                continue
            state.waiting = False
            # A replay may have come meanwhile: what waited as a step is a chunk now, and a chunk runs alone.
            if state.has_input and (len(turns) == 1 or state.next_count == 1):
                row = self._issue(number, state) if state.driver else self._accept(number, state, effects)
                if row:
                    rows.append(row)
            self._take_turn(number, state)
        if not rows:
            return None, effects
        lengths = self._slots.parked_lengths()
        lengths.update((state.slot, state.rule.valid_length) for state in self._requests.values())
        return batch(self.key, rows, lengths, last_position=self.spec.context_tokens - 1), effects

    def _regroup(self) -> None:
        """Divide the open requests into batches: one for every stage of the ring to work on at the same time, each of
        neighbouring slots, because a run covers all slots between its first and its last.
        """
        size = min(-(-len(self._requests) // len(self.spec.ring)), self._rows_per_message)
        by_slot = sorted(self._requests, key=lambda number: self._requests[number].slot)
        self._groups = {number: index // size for index, number in enumerate(by_slot)}

    def _issue(self, number: int, state: StageRequest) -> Row:
        """The first stage: the next step of the request."""
        assert state.driver
        step = state.driver.steps.popleft()
        state.rule.valid_length = step.position
        flags = (Flag.SAMPLE if step.sample else 0) | (Flag.VERIFY if step.verify else 0)
        return self._row(number, state, step.position, len(step.ids), flags, ids=step.ids)

    def _accept(self, number: int, state: StageRequest, effects: list[Effect]) -> Row | None:
        """A later stage: the next frame, if the position rule lets it through."""
        frame = state.frames.popleft()
        verdict = state.rule.judge(frame.attempt, frame.position)
        if verdict is Verdict.COMPUTE:
            return self._row(number, state, frame.position, frame.count, frame.flags, frame=frame)
        self._dropped(state)
        if verdict is Verdict.GAP:
            effects.append(SendFrame(self._segment_topic(0), replay_frame(frame, state.rule.valid_length)))
        return None

    def _row(
        self,
        number: int,
        state: StageRequest,
        position: int,
        count: int,
        flags: int,
        *,
        ids: Sequence[int] | None = None,
        frame: Frame | None = None,
    ) -> Row:
        row = Row(
            request=number,
            slot=state.slot,
            attempt=state.rule.attempt,
            position=position,
            count=count,
            sample=bool(flags & Flag.SAMPLE),
            verify=bool(flags & Flag.VERIFY),
            ids=ids,
            frame=frame,
        )
        if not (self.is_last and row.sample):
            return row
        return state.with_draw(row)

    def computed(self, work: Work, result: Computed, now_s: float) -> list[Effect]:
        """A run is done. What its rows send goes out as one message."""
        if work.rows[0].count == 1:
            self._smooth(result.compute_s, len(work.rows))
        failures: list[Effect] = []
        frames: list[bytes] = []
        for row, row_result in zip(work.rows, result.rows, strict=True):
            state = self._requests.get(row.request)
            if state is None or state.rule.attempt != row.attempt:
                continue
            if row_result.failure is not None:
                failures.append(self._failed(request_id(row.request), row_result.failure_code, row_result.failure))
                continue
            state.rule.computed(row.count)
            state.account(row, result.compute_s)
            data = self._advance(row, row_result, state, result.compute_s, now_s)
            if data is not None:
                frames.append(data)
        topic = self._token_topic if self.is_last else self._next_topic
        return [*failures, *([SendFrame(topic, b"".join(frames))] if frames else [])]

    def _advance(
        self, row: Row, result: RowResult, state: StageRequest, compute_s: float, now_s: float
    ) -> bytes | None:
        """What a row sends: the hidden state to the next stage, or the last stage's token."""
        if self.is_last:
            return self._chosen(row, result.tokens, state, now_s) if result.tokens else None
        assert result.payload is not None
        data = activation_frame(
            row, self.spec.epoch, width=self.spec.width_out, dtype=self._wire, payload=result.payload
        )
        if state.driver and row.ids is not None:
            state.driver.published(Step(row.position, row.ids, row.sample), data, compute_s, now_s)
        state.sent(len(data), decode=state.is_decode(row))
        return data

    def _smooth(self, compute_s: float, rows: int) -> None:
        if self.decode_ewma_s is None:
            self.decode_ewma_s, self.decode_rows_ewma = compute_s, float(rows)
        self.decode_ewma_s += _METRIC_WEIGHT * (compute_s - self.decode_ewma_s)
        self.decode_rows_ewma += _METRIC_WEIGHT * (rows - self.decode_rows_ewma)

    def _chosen(self, row: Row, tokens: Sequence[int], state: StageRequest, now_s: float) -> bytes:
        ids = state.take(row, tokens, self.spec.context_tokens)
        # With more requests than stages the ring is never idle: a wrong guess would cost somebody else's time.
        may_guess = len(self._requests) <= len(self.spec.ring)
        guess = state.guess_after(row, ids, now_s, self.spec.context_tokens if may_guess else 0)
        if state.driver:  # a ring of one stage: the token need not travel to come back
            state.driver.token(row.attempt, row.first_draw, ids, guess, last=bool(state.finish), now_s=now_s)
            self._take_turn(row.request, state)
        return self._tokens_frame(row.request, state, row.first_draw, ids, state.finish, guess)

    def _tokens_frame(
        self, number: int, state: StageRequest, position: int, ids: Sequence[int], finish: Flag, guess: Sequence[int]
    ) -> bytes:
        data = tokens_frame(
            number, self.spec.epoch, state.rule.attempt, position=position, ids=ids, guess=guess, finish=finish
        )
        state.sent(len(data), decode=True)
        return data

    def _repeated(self, frames: Sequence[bytes], state: StageRequest) -> list[Effect]:
        """Frames sent again, each in a message of its own: together they may be too long for one."""
        for data in frames:
            state.sent(len(data), decode=False)
        return [SendFrame(self._next_topic, data) for data in frames]

    def _failed(self, request: str, code: FailureCode, reason: str) -> Effect:
        return Reply(RequestFailed(node=self.node, epoch=self.spec.epoch, request=request, code=code, reason=reason))

    @property
    def is_prefilling(self) -> bool:
        """Is a prompt not computed to its end?"""
        return any(state.rule.valid_length < state.open.prompt_tokens for state in self._requests.values())

    # --- time -------------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> list[Effect]:
        """Repeat what the ring did not answer in time."""
        effects: list[Effect] = []
        for number, state in self._requests.items():
            driver = state.driver
            if not driver or not driver.overdue(now_s):
                continue
            if driver.gave_up:
                driver.deadline_s = None
                reason = "the ring gave no token in spite of repeats: see `linguabus nodes`"
                effects.append(self._failed(request_id(number), "no_progress", reason))
                continue
            frames = driver.repeat(now_s)
            state.rule.attempt = driver.attempt
            effects.extend(self._repeated(frames, state))
        return effects

    def next_deadline_s(self) -> float | None:
        """When ``tick`` next has something to do."""
        deadlines = (state.driver.deadline_s for state in self._requests.values() if state.driver)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def metrics(self) -> StageMetrics:
        """For the heartbeat."""
        return StageMetrics(
            pipeline=self.spec.pipeline,
            epoch=self.spec.epoch,
            stage=self.spec.stage,
            decode_s=self.decode_ewma_s,
            decode_rows=self.decode_rows_ewma,
            queue=len(self._turns),
            open_requests=len(self._requests),
        )

"""One stage of one epoch on this node (pure): its requests, and the order in which they are computed.

``next_work`` hands out one run at a time, taking turns among the requests; ``computed`` turns the result into
frames. What is on the wire is decided here, how it is computed is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_node.effects import CopyPrefix, Effect, Reply, SendFrame
from edge_node.migration.handover import Handover
from edge_node.migration.stage_migration import StageMigration
from edge_node.requests.draft_record import DraftRecord
from edge_node.requests.guess_limits import GuessLimits
from edge_node.requests.kv_slots import SlotTable
from edge_node.requests.position_rule import PositionRule, Verdict
from edge_node.requests.request import StageRequest
from edge_node.requests.ring_driver import Step
from edge_node.requests.round_times import RoundTimes
from edge_node.stage.admission import find_slot, fits, most_rows, most_tokens, new_request, refuse
from edge_node.stage.batch_scheduler import BatchScheduler, batches, batches_in_flight
from edge_node.stage.decode_fast_path import DecodeFastPath, fast_path_of
from edge_node.stage.mask_intake import MaskIntake
from edge_node.stage.stage_stats import StageStats
from edge_node.stage.token_frames import token_frames
from edge_node.stage.token_intake import TokenIntake
from edge_node.stage.watchdog import Watchdog
from edge_node.stage_spec import StageSpec
from edge_node.wire.frames import activation_frame, joined_frames, replay_frame
from edge_node.wire.topics import StageTopics
from edge_node.work import Computed, Row, RowResult, Work, batch
from schemas.codec import SAMPLE, VERIFY, Frame, Kind, request_id, request_number
from schemas.messages import OpenRequest, RequestClosed, RequestFailed, RequestFailureCode, SegmentReady, StageMetrics

_MAX_QUEUED_FRAMES = 512


class Stage:
    """The requests of one prepared segment."""

    def __init__(self, spec: StageSpec, *, watchdog_min_s: float, handover: Handover | None = None) -> None:
        self.spec = spec
        self._segment = spec.segment
        self.loaded = False
        self.kv_value_bytes = 4
        self.subscribed = False
        self.ready: SegmentReady | None = None
        """What to report once the topics are subscribed too."""
        self.released = False
        self.frames_dropped = 0
        self.requests: dict[int, StageRequest] = {}
        self.fast_paths: dict[int, DecodeFastPath] = {}
        """By request: the fast path of its decode steps, once there were some."""
        self.slots = handover.slots if handover else SlotTable(spec.segment.slots)
        self.move = StageMigration(self, handover)
        self.topics = StageTopics(spec)
        self.patterns = self.topics.patterns
        self.stats = StageStats()
        self._steps_failed = 0
        self._watchdog_min_s = watchdog_min_s
        self._watchdog = Watchdog(self)
        self._scheduler = BatchScheduler()
        self._groups: dict[int, int] = {}
        self._rows_per_message = most_rows(spec)
        self.masks = MaskIntake(self)
        self._intake = TokenIntake(self)
        self._times, self._record = RoundTimes(), DraftRecord()
        self.drafts = spec.draft is not None
        """Has it a draft model that can be used?"""

    # --- requests ---------------------------------------------------------------------------------------------

    def open(self, message: OpenRequest) -> list[Effect]:
        """Give the request a slot; the first stage begins to work on it."""
        number = request_number(message.request)
        if number in self.requests:
            return []
        refusal = refuse(message, self.spec)
        if refusal is not None:
            return [self.failed(message.request, *refusal)]
        return self._admit(number, message)

    def _admit(self, number: int, message: OpenRequest) -> list[Effect]:
        taken = self.move.take(number, message.moved_tokens)
        grant = find_slot(message, taken, self.slots, self.move.make_room)
        if grant is None:
            return [self.failed(message.request, "busy", f"{self.spec.node} has no free KV slot")]
        self.requests[number] = request = new_request(
            message, self.spec, grant,
            before=taken.before, watchdog_min_s=self._watchdog_min_s, times=self._times, record=self._record,
        )  # fmt: skip
        self._regroup()
        if taken.waits:
            request.held = True
            self.slots.use(grant.slot, PositionRule(valid_length=grant.valid_length))
        else:
            self.begin(number, grant.valid_length)
        if grant.copy_from is None:
            return []
        return [CopyPrefix(self.spec.key, grant.copy_from, grant.slot, grant.valid_length, grant.copies)]

    def begin(self, number: int, valid_length: int) -> None:
        """Begin a request behind its first ``valid_length`` positions, which are here."""
        if (state := self.requests.get(number)) is None:
            return
        state.rule.valid_length = state.begun_at = valid_length
        state.held = self.move.is_held
        self.slots.use(state.slot, state.rule)
        if state.driver:
            state.driver.start(valid_length, state.open.moved_tokens)
        self.take_turn(number, state)

    def close(self, request: str) -> list[Effect]:
        """Free the request's slot and report what was done for it."""
        number = request_number(request)
        self.move.forget(number)
        state = self.give_up(number)
        if state is None or state.moved:
            return []
        self.slots.park(number, state.slot, state.rule.valid_length, state.states)
        return [Reply(RequestClosed(request=request, timing=state.stats.timing(self.spec.node, self.spec.stage)))]

    def give_up(self, number: int) -> StageRequest | None:
        """Forget a request, but not its slot."""
        if (state := self.requests.pop(number, None)) is not None:
            self.stats.tokens += state.tokens_computed
            self.fast_paths.pop(number, None)
            self._regroup()
        return state

    def release(self) -> None:
        """End the stage: slots that it shares with its heir become free."""
        self.released = True
        self.move.close()
        self.fast_paths.clear()
        for number, state in self.requests.items():
            if not state.moved:
                self.slots.park(number, state.slot, 0)

    def resend(self, request: str, position: int) -> list[Effect]:
        """Publish generated tokens again, for an orchestrator that missed them."""
        number = request_number(request)
        state = self.requests.get(number)
        if state is None or not self.spec.is_last:
            return []
        ids, finish = state.tokens_from(position, most_tokens(self.spec, state.open))
        frame = token_frames(state, self.spec.epoch, position, ids, finish, ()) if ids else None
        return [SendFrame(self.topics.token, frame)] if frame else []

    def ask_again(self, request: str) -> list[Effect]:
        """On the first stage: repeat at once what the ring still owes, as nodes of it had lost their connection."""
        state = self.requests.get(request_number(request))
        if state is not None and state.driver:
            state.driver.hurry()
        return []

    def hold(self) -> None:
        """Begin no new step."""
        for state in self.requests.values():
            state.held = True

    def go_on(self) -> None:
        """Go on with the requests that were held."""
        for number, state in self.requests.items():
            state.held = number in self.move.unsettled
            self.take_turn(number, state)

    # --- frames -----------------------------------------------------------------------------------------------

    def frame(self, sender: str, frame: Frame, now_s: float) -> list[Effect]:
        """A frame arrived on one of the stage's topics."""
        state = self.requests.get(frame.request)
        if state is None or frame.kind is Kind.KV_ACK:
            effects = self.move.frame(sender, frame, now_s)
            return self._dropped(None) if effects is None else effects
        if frame.kind is Kind.ACTIVATION and not self.spec.is_first:
            return self._activation(sender, frame, state)
        if frame.kind in (Kind.TOKENS, Kind.GUESS) and sender == self.spec.upstream:
            return [] if self._intake.take(frame, state, now_s) else self._dropped(state)
        if frame.kind is Kind.REPLAY and state.driver and sender in self.spec.nodes:
            return self._replay(frame, state, now_s)
        return self._dropped(state)

    def _dropped(self, state: StageRequest | None) -> list[Effect]:
        self.frames_dropped += 1
        if state:
            state.stats.frames_dropped += 1
        return []

    def _activation(self, sender: str, frame: Frame, state: StageRequest) -> list[Effect]:
        expected = sender == self.spec.upstream and fits(frame, self._segment)
        if not expected or len(state.frames) >= _MAX_QUEUED_FRAMES:
            return self._dropped(state)
        state.arrived(frame)
        self.take_turn(frame.request, state)
        return []

    def _replay(self, frame: Frame, state: StageRequest, now_s: float) -> list[Effect]:
        effects = self._watchdog.replay(frame, state, now_s)
        if effects is None:
            return self._dropped(state)
        self.take_turn(frame.request, state)
        return effects

    def fast_path(self, number: int) -> DecodeFastPath | None:
        """The fast path of a request, under its present attempt; None for one that is not here, or has none."""
        state = self.requests.get(number)
        if state is None or state.open.logprobs is not None:
            return None
        fast_path = self.fast_paths.get(number)
        if fast_path is None or fast_path.attempt != state.rule.attempt:
            fast_path = self.fast_paths[number] = fast_path_of(self, state)
        return fast_path

    # --- work -------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Is there a run to hand out (or a turn to discard)?"""
        return self._scheduler.waiting

    def take_turn(self, number: int, state: StageRequest) -> None:
        """Requests take turns; each has at most one place in the queues, however much input waits."""
        if state.has_input and not state.waiting:
            state.waiting = True
            self._scheduler.add(number, is_chunk=state.next_count > 1)

    def next_work(self) -> tuple[Work | None, list[Effect]]:
        """The next run, and what dropped frames on the way there lead to."""
        effects: list[Effect] = []
        rows: list[Row] = []
        turns = self._scheduler.take(self._groups)
        for number in turns:
            state = self.requests.get(number)
            if state is None:
                continue
            state.waiting = False
            # A replay may have come meanwhile: what waited as a step is a chunk now, and a chunk runs alone.
            if state.has_input and (len(turns) == 1 or state.next_count == 1):
                row = self._issue(number, state) if state.driver else self._accept(number, state, effects)
                if row:
                    rows += state.rows_of(row)
            self.take_turn(number, state)
        if len(rows) == 1:
            return Work(self.spec.key, (rows[0],)), effects
        if not rows:
            return None, effects
        return batch(self.spec.key, rows, self.slots.lengths(), last_position=self._segment.context_tokens - 1), effects

    def _regroup(self) -> None:
        slots = {number: state.slot for number, state in self.requests.items()}
        count = batches_in_flight(self.spec, len(slots))
        self._groups = batches(slots, count=count, rows_per_message=self._rows_per_message)

    def _issue(self, number: int, state: StageRequest) -> Row:
        """First stage: the row for the next step of the request."""
        assert state.driver
        step = state.driver.steps.popleft()
        state.rule.valid_length = step.position
        row = Row(
            number, state.slot, state.rule.attempt, step.position, len(step.ids), step.sample, step.verify, step.ids
        )
        return self._prepared(row, state)

    def _accept(self, number: int, state: StageRequest, effects: list[Effect]) -> Row | None:
        """Later stages: the row for the next frame, if the position rule lets it through."""
        frame = state.frames.popleft()
        if state.refuses(frame):
            return None
        verdict = state.rule.judge(frame.attempt, frame.position, can_begin=state.can_begin(frame.position))
        if verdict is Verdict.COMPUTE:
            sample, verify = bool(frame.flags & SAMPLE), bool(frame.flags & VERIFY)
            place = frame.position, frame.count
            row = Row(number, state.slot, state.rule.attempt, *place, sample, verify, frame=frame)
            return self._prepared(row, state)
        self._dropped(state)
        if verdict is Verdict.GAP:
            effects.append(SendFrame(self.topics.segment(0), replay_frame(frame, state.replay_from(frame.position))))
        return None

    def _prepared(self, row: Row, state: StageRequest) -> Row:
        """A row with what is needed to choose tokens, or to say which are guesses."""
        if row.verify:
            row.marks = state.marks_of(row)
        if self.spec.is_last and row.sample:
            row.guess = state.known_in(row)
            row.draw = state.draw(row.first_draw, row.guess)
        return row

    def computed(self, work: Work, result: Computed, now_s: float) -> list[Effect]:
        """Take in the result of a run. What its rows send goes out as one message."""
        self.stats.computed(len(work.rows), work.rows[0].count, result.compute_s)
        failures: list[Effect] = []
        frames: list[bytes] = []
        for row, row_result in zip(work.rows, result.rows, strict=True):
            state = self.requests.get(row.request)
            if state is None or state.rule.attempt != row.attempt:
                continue
            if row_result.failure is not None:
                failures += self._step_failed(row, row_result.failure, row_result.failure_code, state)
                continue
            if row.again:
                state.stats.positions += row.count
                continue
            if row.verify and self.spec.is_last:
                self._times.length.ran(row.count, result.compute_s, self.stats.expected_s(1, 1))
            decode = state.is_decode(row)
            state.computed(row.count, result.compute_s, len(work.rows), verified=row.verify, decode=decode)
            data = self._advance(row, row_result, state, result.compute_s, now_s)
            if data is not None:
                frames.append(data)
        messages = joined_frames(frames, self.spec.max_message_bytes)
        return [*failures, *(SendFrame(self.topics.next, message) for message in messages)]

    def _step_failed(self, row: Row, reason: str, code: RequestFailureCode, state: StageRequest) -> list[Effect]:
        """Say that a step can't be computed, and whose fault it is. The first that fails here is tried once more; not
        where what arrived is wrong, nor where there are states that positions are folded into, which have gone on."""
        request = request_id(row.request)
        if code == "bad_input":
            sender = self.spec.upstream
            return [self.failed(request, code, f"{reason} from {sender}", suspect=sender)]
        self._steps_failed += 1
        if self._steps_failed == 1 and state.states is None:
            state.put_back(row)
            self.take_turn(row.request, state)
            return []
        return [self.failed(request, code, f"{reason} ({self._steps_failed} steps failed)", suspect=self.spec.node)]

    def _advance(
        self, row: Row, result: RowResult, state: StageRequest, compute_s: float, now_s: float
    ) -> bytes | None:
        """What a row sends: the hidden state to the next stage, or the last stage's token."""
        if self.spec.is_last:
            return self._chosen(row, result, state, now_s) if result.tokens else None
        assert result.payload is not None
        width, dtype = self._segment.width_out, self._segment.wire
        data = activation_frame(row, self.spec.epoch, width=width, dtype=dtype, payload=result.payload)
        if state.driver and row.ids is not None:
            state.driver.published(Step(row.position, row.ids, row.sample, row.verify), data, compute_s, now_s)
        state.stats.sent(len(data), decode=state.is_decode(row))
        return data

    def _chosen(self, row: Row, result: RowResult, state: StageRequest, now_s: float) -> bytes:
        state.logprobs.update(enumerate(result.logprobs, row.first_draw))
        ids = state.take(row.first_draw, result.tokens, self._segment.context_tokens)
        guess = self.guess(state, row.first_draw, ids, row.count, now_s)
        state.verified_up_to(row, row.first_draw + len(ids) - 1)
        if state.driver:  # a ring of one stage: the token need not travel to come back
            state.driver.token(row.attempt, row.first_draw, ids, guess, last=bool(state.finish), now_s=now_s)
            self.take_turn(row.request, state)
        return token_frames(state, self.spec.epoch, row.first_draw, ids, state.finish, guess)

    def guess(self, state: StageRequest, first: int, ids: Sequence[int], count: int, now_s: float) -> Sequence[int]:
        """What may follow tokens that a run of ``count`` positions gave from position ``first`` on."""
        if state.guesser is None or state.finish:
            return ()
        room = state.end(self._segment.context_tokens) - first - len(ids) - 1
        nodes, requests, chunk_tokens = len(self.spec.nodes), len(self.requests), self._segment.chunk_tokens
        limits = GuessLimits.of(nodes=nodes, requests=requests, room=room, chunk_tokens=chunk_tokens)
        return state.guess_after(first, ids, count, now_s, limits)

    def failed(self, request: str, code: RequestFailureCode, reason: str, *, suspect: str | None = None) -> Effect:
        """The report that a request can't go on; ``suspect``: the node whose fault it is."""
        spec = self.spec
        failed = RequestFailed(
            node=spec.node, epoch=spec.epoch, request=request, code=code, reason=reason, suspect=suspect
        )
        return Reply(failed)

    @property
    def is_prefilling(self) -> bool:
        """Is there a request whose prompt is not computed to its end?"""
        return any(state.rule.valid_length < state.open.prompt_tokens for state in self.requests.values())

    # --- time -------------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> list[Effect]:
        """Repeat what the ring did not answer in time; go on with a live move."""
        return [*self.move.tick(now_s), *self._watchdog.tick(now_s)]

    def next_deadline_s(self) -> float | None:
        """When ``tick`` next has something to do."""
        deadlines = (*self._watchdog.deadlines_s(), *self.move.deadlines_s())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def metrics(self) -> StageMetrics:
        """The stage's figures, for the heartbeat."""
        return self.stats.metrics(self.spec, queue=len(self._scheduler), open_requests=len(self.requests))

"""The node's decisions (pure): messages, frames, results and time go in, effects come out.

No socket, no clock, no file, no ONNX Runtime: the service does what the effects say and reports back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edge_node.effects import Effect, LoadSegment, Register, Reply, StandBy, Stop, Subscribe, UnloadSegment, Unsubscribe
from edge_node.migration.handover import Handover
from edge_node.stage.closing import close, close_others
from edge_node.stage.decode_fast_path import DecodeFastPath
from edge_node.stage.draft_turns import DraftTurns
from edge_node.stage.refusal import refusal
from edge_node.stage.stage import Stage
from edge_node.stage.tokens import tokens_of
from edge_node.stage_spec import StageKey, StageSpec
from edge_node.work import Computed, Work
from schemas.codec import HEADER_BYTES, REQUEST, REQUEST_OFFSET, Frame, Kind
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.messages import (
    AllowTokens,
    CloseRequest,
    CopyKv,
    Epoch,
    FinishKv,
    GoOn,
    HoldRequests,
    KeepBlobs,
    KeepRequests,
    LoadFailureCode,
    OpenRequest,
    Plan,
    PrepareProgress,
    PrepareSegment,
    RefuseNode,
    RegisterAgain,
    ReleaseSegment,
    RequestFailed,
    ResendTokens,
    SegmentFailed,
    SegmentReady,
    StageMetrics,
)


class NodeCore:
    """Decides for all stages of one node: takes in messages, frames, results and time, and returns effects."""

    def __init__(self, *, node: str, incarnation: int, memory_bytes: int, watchdog_min_s: float = 1.0) -> None:
        self.node = node
        self.incarnation = incarnation
        self.frames_dropped = 0
        self.max_message_bytes = MAX_PAYLOAD_BYTES
        """What the broker passes on for this node."""
        self.resting = ""
        """Why it takes no stages for now; empty when it does."""
        self._tokens = 0
        """Of answers, on stages that are gone."""
        self.memory_bytes = memory_bytes
        """What the node may use in all by now."""
        self._watchdog_min_s = watchdog_min_s
        self._stages: dict[StageKey, Stage] = {}
        self.drafts = DraftTurns(self._stages)
        self._by_place: dict[tuple[str, int, int, int], Stage] = {}
        """The same by pipeline, stage and the two numbers of the epoch: keys whose hash is no Python function."""
        self._by_input: dict[str, Stage] = {}
        """The same by the topic that the stage's input comes on, but for stages that are a whole ring."""
        self.kept_topics: set[str] = set()
        """Those of tokens to first stages of this node. A node with both ends of a ring hands them over to itself,
        which saves the way to the broker and back, and has not subscribed to them."""
        self._stepping: tuple[Stage, int] | None = None
        """Whose step came last, alone and maybe on the fast path: the next one is probably of the same answer."""
        self._ending: set[StageKey] = set()
        """Over, but the next epoch's stages wait for what is still on its way through them."""

    # --- messages ---------------------------------------------------------------------------------------------

    def message(self, message: Any) -> list[Effect]:
        """A command to this node, or a plan."""
        match message:
            case PrepareSegment():
                return self._prepare(message)
            case Plan():
                return self._commit(message)
            case ReleaseSegment():
                return self._release_epoch(message)
            case OpenRequest():
                return self._open(message)
            case CloseRequest():
                return close(message.request, self._stages.values(), self.node)
            case KeepRequests():
                return close_others(message.requests, self._of_epoch(message.pipeline, message.epoch))
            case ResendTokens():
                if message.first_stage:
                    return self._each(lambda stage: stage.ask_again(message.request))
                return self._each(lambda stage: stage.resend(message.request, message.position))
            case AllowTokens():
                return self._each(lambda stage: stage.masks.allow(message))
            case CopyKv() | FinishKv() | HoldRequests() | GoOn():
                self._move(message)
            case KeepBlobs():
                return [StandBy(message)]
            case RegisterAgain():
                return [Register()]
            case RefuseNode() if message.incarnation == self.incarnation:
                return [Stop(message.reason)]
        return []

    def _each(self, action: Any) -> list[Effect]:
        return [effect for stage in self._stages.values() for effect in action(stage)]

    def _prepare(self, command: PrepareSegment) -> list[Effect]:
        limits = {"memory_bytes": self.memory_bytes, "max_message_bytes": self.max_message_bytes}
        if reason := refusal(command, node=self.node, **limits):
            return [self._prepare_failed(command, reason)]
        spec = StageSpec.of(command)
        if spec.key in self._stages:  # repeated, by QoS 1 or by an orchestrator that has heard nothing since
            return self._report_ready(self._stages[spec.key])
        if self.resting:
            return [self._prepare_failed(command, f"it rests: {self.resting}")]
        handover, load = None, LoadSegment(spec)
        if spec.basis is not None:
            handover = Handover(spec, spec.basis, self._stages, patience_s=self._watchdog_min_s)
            if handover.old:
                load = LoadSegment(spec, handover.old.spec.key, handover.same_segment)
        stage = Stage(spec, watchdog_min_s=self._watchdog_min_s, handover=handover)
        self._stages[spec.key] = self._by_place[_place(spec.key)] = stage
        if len(spec.ring) > 1:
            self._by_input[stage.topics.input] = stage
            if spec.is_first:
                self.kept_topics.add(stage.topics.input)
        return [Subscribe(stage.patterns), load]

    def _prepare_failed(
        self, spec: PrepareSegment | StageSpec, reason: str, code: LoadFailureCode = "refused"
    ) -> Effect:
        failed = SegmentFailed(
            node=self.node, incarnation=self.incarnation, pipeline=spec.pipeline, epoch=spec.epoch, code=code,
            reason=reason,
        )  # fmt: skip
        return Reply(failed)

    def _commit(self, plan: Plan) -> list[Effect]:
        """Put a plan in force: older epochs of its pipeline are over."""
        over = [
            spec.key
            for spec in (stage.spec for stage in self._stages.values())
            if spec.pipeline == plan.pipeline
            and (spec.epoch < plan.epoch or (spec.epoch == plan.epoch and not plan.ring))
        ]
        for stage in self._of_epoch(plan.pipeline, plan.epoch):
            stage.move.close()
        self._ending.update(over)
        return self._end()

    def _end(self) -> list[Effect]:
        """Release the stages that are over and that no stage of a newer epoch waits for."""
        over = [key for key in self._ending if not any(other.move.waits_for(key) for other in self._stages.values())]
        self._ending.difference_update(over)
        return [effect for key in over for effect in self._release(key)]

    def _release_epoch(self, message: ReleaseSegment) -> list[Effect]:
        over = self._of_epoch(message.pipeline, message.epoch)
        return [effect for stage in over for effect in self._release(stage.spec.key)]

    def _of_epoch(self, pipeline: str, epoch: Epoch) -> list[Stage]:
        return [stage for stage in self._stages.values() if stage.spec.key[:2] == (pipeline, epoch)]

    def _move(self, message: CopyKv | FinishKv | HoldRequests | GoOn) -> None:
        for stage in self._of_epoch(message.pipeline, message.epoch):
            match message:
                case CopyKv() if message.stage == stage.spec.stage:
                    stage.move.copy(message)
                case FinishKv() if message.stage == stage.spec.stage:
                    stage.move.finish(message)
                case HoldRequests() if stage.spec.is_first:
                    stage.move.hold(message)
                case GoOn():
                    stage.move.go_on()

    def _release(self, key: StageKey) -> list[Effect]:
        stage = self._stages.pop(key, None)
        if stage is None:
            return []
        del self._by_place[_place(key)]
        self._by_input.pop(stage.topics.input, None)
        self.kept_topics.discard(stage.topics.input)
        self._tokens += tokens_of(stage)
        stage.release()
        if any(other.slots is stage.slots and other.spec.epoch > stage.spec.epoch for other in self._stages.values()):
            stage.slots.forget_parked()
        self.frames_dropped += stage.frames_dropped
        return [Unsubscribe(stage.patterns), UnloadSegment(key)]

    def _open(self, message: OpenRequest) -> list[Effect]:
        stage = self._stages.get((message.pipeline, message.epoch, message.stage))
        if stage is None or not stage.loaded:
            reason = f"{self.node} has no stage {message.stage} of epoch {message.epoch}"
            failed = RequestFailed(
                node=self.node, epoch=message.epoch, request=message.request, code="internal", reason=reason
            )
            return [Reply(failed)]
        return stage.open(message)

    @property
    def has_transfer(self) -> bool:
        """Does a stage have KV rows to send, or something to report about them?"""
        return any(stage.move.has_transfer for stage in self._stages.values())

    def next_transfer(self, now_s: float) -> list[Effect]:
        """A few messages of KV rows from each stage that sends some, and reports about the copying."""
        return self._each(lambda stage: stage.move.next_transfer(now_s))

    # --- loading ----------------------------------------------------------------------------------------------

    def loading(self, key: StageKey, done_bytes: int, total_bytes: int) -> list[Effect]:
        """Report how far the download of a segment's files is."""
        pipeline, epoch, stage = key
        progress = PrepareProgress(
            node=self.node, pipeline=pipeline, epoch=epoch, stage=stage, done_bytes=done_bytes, total_bytes=total_bytes
        )  # fmt: skip
        return [Reply(progress)]

    def loaded(
        self,
        key: StageKey,
        *,
        rss_bytes: int,
        peak_rss_bytes: int,
        downloaded_bytes: int,
        load_s: float,
        kv_value_bytes: int = 4,
        draft_failure: str = "",
    ) -> list[Effect]:
        """Note that a segment is open, and what that took; report its stage ready if nothing else is missing.

        ``draft_failure``: why its draft model can't be used.
        """
        stage = self._stages.get(key)
        if stage is None:
            return [UnloadSegment(key)]
        stage.loaded = True
        stage.kv_value_bytes = kv_value_bytes
        stage.drafts = stage.drafts and not draft_failure
        stage.ready = SegmentReady(
            node=self.node,
            incarnation=self.incarnation,
            pipeline=stage.spec.pipeline,
            epoch=stage.spec.epoch,
            stage=stage.spec.stage,
            rss_bytes=rss_bytes,
            peak_rss_bytes=peak_rss_bytes,
            downloaded_bytes=downloaded_bytes,
            load_s=load_s,
            draft_failure=draft_failure,
        )
        return self._report_ready(stage)

    def segment_failed(self, key: StageKey, reason: str, code: LoadFailureCode) -> list[Effect]:
        """Report that a segment can't be opened, or has come to compute what is wrong, and release its stage."""
        stage = self._stages.get(key)
        if stage is None:
            return []
        return [*self._release(key), self._prepare_failed(stage.spec, reason, code)]

    def give_up(self, reason: str, code: LoadFailureCode) -> list[Effect]:
        """Release all stages at once, and say why; others go on with their requests."""
        return [effect for key in list(self._stages) for effect in self.segment_failed(key, reason, code)]

    def forget_parked(self) -> dict[StageKey, tuple[int, ...]]:
        """Forget the rows of ended requests. Returns, by stage, the slots whose rows nobody needs."""
        loaded = {key: stage.slots for key, stage in self._stages.items() if stage.loaded}
        return {key: slots.forget_parked() for key, slots in loaded.items()}

    def subscribed(self, patterns: Iterable[str]) -> list[Effect]:
        """Note subscriptions that the broker acknowledged, and report stages that are ready by them."""
        acknowledged = set(patterns)
        effects = []
        for stage in self._stages.values():
            if not stage.subscribed and acknowledged.issuperset(stage.patterns):
                stage.subscribed = True
                effects.extend(self._report_ready(stage))
        return effects

    @staticmethod
    def _report_ready(stage: Stage) -> list[Effect]:
        """Report a stage ready, but only when frames can both arrive and be computed."""
        return [Reply(stage.ready)] if stage.subscribed and stage.ready else []

    @property
    def has_stages(self) -> bool:
        """Does the node hold a stage, or get one ready?"""
        return bool(self._stages)

    @property
    def planned_bytes(self) -> int:
        """Memory that the node is expected to need in all; 0 without a stage that looks up rows of tables."""
        specs = (stage.spec for stage in self._stages.values())
        return max((spec.planned_bytes for spec in specs if spec.segment.is_first or spec.segment.is_last), default=0)

    @property
    def has_requests(self) -> bool:
        """Is a request open on one of its stages?"""
        return any(stage.requests for stage in self._stages.values())

    # --- frames and work --------------------------------------------------------------------------------------

    def frame(self, pipeline: str, stage_index: int, sender: str, frame: Frame, now_s: float) -> list[Effect]:
        """Take in a frame that arrived for one of this node's stages."""
        if frame.kind is Kind.LOGPROBS:  # of the tokens beside it; it is for the orchestrator
            return []
        epoch = frame.epoch
        stage = self._by_place.get((pipeline, stage_index, epoch.generation, epoch.counter))
        if stage is None or not stage.loaded:
            self.frames_dropped += 1
            return []
        return stage.frame(sender, frame, now_s)

    def fast_path(self, topic: str, data: bytes, now_s: float) -> DecodeFastPath | None:
        """The fast path of the request whose next decode step a message begins; None where it has to go the long way.

        To be asked for a message that comes alone to a node that has no work. The caller computes the step, sends the
        frame of the fast path and settles the step with it.
        """
        if self._stepping is not None:
            stepping, number = self._stepping
            fast_path = stepping.fast_paths.get(number)
            if fast_path is not None and fast_path.input == topic and fast_path.takes(data, now_s):
                return fast_path
        stage = self._by_input.get(topic)
        if stage is None or not stage.loaded or len(data) < HEADER_BYTES:
            return None
        number = REQUEST.unpack_from(data, REQUEST_OFFSET)[0]
        self._stepping = stage, number
        fast_path = stage.fast_path(number)
        return fast_path if fast_path is not None and fast_path.takes(data, now_s) else None

    @property
    def has_work(self) -> bool:
        """Does a stage have a run to hand out (or a turn to discard)?"""
        return any(stage.has_work for stage in self._stages.values())

    @property
    def is_prefilling(self) -> bool:
        """Is a prompt being computed?"""
        return any(stage.is_prefilling for stage in self._stages.values())

    def next_work(self) -> tuple[Work | None, list[Effect]]:
        """The next run, of the first stage that has one, in the order in which they were prepared."""
        effects: list[Effect] = []
        for stage in self._stages.values():
            work, dropped = stage.next_work()
            effects.extend(dropped)
            if work:
                return work, effects
        return None, effects

    def expected_s(self, work: Work) -> float | None:
        """How long a run will take; None where that is not known yet."""
        stage = self._by_place.get(_place(work.key))
        return stage.stats.expected_s(len(work.rows), work.rows[0].count) if stage else None

    def computed(self, work: Work, result: Computed, now_s: float) -> list[Effect]:
        """Take in the result of a run, and send on what came of it."""
        stage = self._by_place.get(_place(work.key))
        return stage.computed(work, result, now_s) if stage else []

    # --- time -------------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> list[Effect]:
        """Let time-outs act."""
        effects = self._each(lambda stage: stage.tick(now_s))
        return [*effects, *self._end()] if self._ending else effects

    def next_deadline_s(self) -> float | None:
        """When ``tick`` next has something to do."""
        deadlines = (stage.next_deadline_s() for stage in self._stages.values())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def metrics(self) -> tuple[StageMetrics, ...]:
        """Figures of every loaded stage, for the heartbeat."""
        return tuple(stage.metrics() for stage in self._stages.values() if stage.loaded)

    @property
    def tokens(self) -> int:
        """Tokens of answers that the node has had a part in since it started."""
        return self._tokens + sum(tokens_of(stage) for stage in self._stages.values())

    @property
    def total_frames_dropped(self) -> int:
        """Frames dropped since the node started."""
        return self.frames_dropped + sum(stage.frames_dropped for stage in self._stages.values())


def _place(key: StageKey) -> tuple[str, int, int, int]:
    pipeline, epoch, stage = key
    return pipeline, stage, epoch.generation, epoch.counter

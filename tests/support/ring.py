"""Drives real nodes with the bare protocol, without the orchestrator: chosen cuts, chosen frames, every token seen.

What the orchestrator would decide is decided by the test, so that the data plane can be tested and measured alone.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.bus import Delivery
from broker.mqtt import MqttBus
from orchestrator.model.known_answers import KnownAnswers
from orchestrator.model.model import Model
from orchestrator.requests.placement import most_windows
from schemas import messages
from schemas.codec import Flag, Frame, decode_frames, request_number
from schemas.messages import (
    Basis,
    BlobRef,
    CloseRequest,
    DraftModel,
    Epoch,
    Heartbeat,
    KvCopied,
    NodeBirth,
    NodeProfile,
    NodeStatus,
    OpenRequest,
    Plan,
    PrepareSegment,
    RequestClosed,
    RequestFailed,
    RequestsHeld,
    Sampling,
    SegmentFailed,
    SegmentReady,
    StageRef,
    StageTiming,
)
from schemas.topics import NODE_BIRTH, NODE_COMMAND, NODE_HEARTBEAT, NODE_REPLY, NODE_STATUS, PLAN, TOKEN
from tests.support.members import as_orchestrator

PIPELINE = "main"
_UNREACHABLE = "http://127.0.0.1:9/blobs"
"""Blobs are put into the nodes' stores beforehand, unless a test serves them."""


@dataclass
class Answer:
    """What came back for one request."""

    request: str
    prompt_ids: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    """For the last stage's OpenRequest."""
    max_tokens: int = 0
    tokens: dict[int, int] = field(default_factory=dict)
    arrivals_s: list[float] = field(default_factory=list)
    opened_s: float = 0.0
    finish: Flag = Flag.NONE
    failure: RequestFailed | None = None
    timings: dict[int, StageTiming] = field(default_factory=dict)

    @property
    def ids(self) -> list[int]:
        """Generated tokens in order."""
        return [self.tokens[position] for position in sorted(self.tokens)]

    @property
    def tokens_per_s(self) -> float:
        """Decode speed: the first token (prefill) is not counted."""
        return (len(self.arrivals_s) - 1) / (self.arrivals_s[-1] - self.arrivals_s[0])

    @property
    def ttft_s(self) -> float:
        """From opening to the first token."""
        return self.arrivals_s[0] - self.opened_s


def even_cuts(units: int, stages: int) -> list[int]:
    """Unit boundaries [0, ..., units] of an even split."""
    return [round(index * units / stages) for index in range(stages + 1)]


class Ring:
    """One pipeline over nodes that run already."""

    def __init__(self, broker_url: str, model: Model, known_answers: KnownAnswers | None = None) -> None:
        """``known_answers``: to send with plans, as the orchestrator does; then nodes check what they load."""
        self._model = model
        self._known_answers = known_answers
        self.bus = MqttBus(as_orchestrator(broker_url), client_id=f"ring-{secrets.token_hex(4)}")
        self.bus.connect(10.0)
        node_topics = (NODE_BIRTH, NODE_STATUS, NODE_REPLY, NODE_HEARTBEAT)
        self.bus.subscribe([*(topic.filter() for topic in node_topics), TOKEN.filter()])
        self.births: dict[str, NodeBirth] = {}
        self.heartbeats: dict[str, Heartbeat] = {}
        self.online: set[str] = set()
        self.ready: dict[int, SegmentReady] = {}
        """By stage."""
        self.failed: list[SegmentFailed] = []
        self.copied: list[KvCopied] = []
        self.held: list[RequestsHeld] = []
        self.profiles: dict[str, NodeProfile] = {}
        self.answers: dict[int, Answer] = {}
        self.plan: Plan | None = None
        self._counter = 0

    def close(self) -> None:
        """Leave the broker."""
        self.bus.close()

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def poll(self, timeout_s: float) -> None:
        """Take in what arrives."""
        for event in self.bus.poll(timeout_s):
            if isinstance(event, Delivery):
                self._delivery(event)

    def wait(self, what: str, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Poll until ``condition`` holds."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no {what} within {timeout_s} s; failed: {self.failed}")
            self.poll(left_s)

    def _delivery(self, delivery: Delivery) -> None:
        if TOKEN.match(delivery.topic):
            for frame in decode_frames(delivery.payload):
                self._token(frame)
        elif NODE_BIRTH.match(delivery.topic):
            birth = messages.decode(delivery.payload, NodeBirth)
            self.births[birth.node] = birth
        elif NODE_HEARTBEAT.match(delivery.topic):
            heartbeat = messages.decode(delivery.payload, Heartbeat)
            self.heartbeats[heartbeat.node] = heartbeat
        elif NODE_STATUS.match(delivery.topic):
            status = messages.decode(delivery.payload, NodeStatus)
            (self.online.add if status.online else self.online.discard)(status.node)
        else:
            self._reply(messages.decode(delivery.payload, *NODE_REPLY.messages))

    def _reply(self, message: Any) -> None:
        match message:
            case SegmentReady():
                self.ready[message.stage] = message
            case NodeProfile():
                self.profiles[message.node] = message
            case SegmentFailed():
                self.failed.append(message)
            case KvCopied():
                self.copied.append(message)
            case RequestsHeld():
                self.held.append(message)
            case RequestFailed():
                self.answers[request_number(message.request)].failure = message
            case RequestClosed():
                self.answers[request_number(message.request)].timings[message.timing.stage] = message.timing

    def _token(self, frame: Frame) -> None:
        answer = self.answers.get(frame.request)
        if answer is None:
            return
        for index in range(frame.count):
            token = int.from_bytes(frame.payload[4 * index : 4 * index + 4], "little", signed=True)
            if frame.position + index not in answer.tokens:
                answer.tokens[frame.position + index] = token
                answer.arrivals_s.append(time.perf_counter())
            elif answer.tokens[frame.position + index] != token:
                raise AssertionError(f"position {frame.position + index} changed its token")
        answer.finish |= Flag(frame.flags)

    def hand_over(self, blobs: Sequence[BlobRef], home: Path, model: Model | None = None) -> None:
        """Put blobs, of the ring's model or another one, into a node's store without a server (a hard link: the bytes
        are the same)."""
        (home / "blobs").mkdir(parents=True, exist_ok=True)
        for blob in blobs:
            target = home / "blobs" / blob.sha256
            if not target.exists():
                os.link((model or self._model).blobs_folder / blob.sha256, target)

    def deploy(self, homes: Mapping[str, Path], cuts: Sequence[int], **options: Any) -> Plan:
        """Roll a plan out and return when it is in force; the arguments are those of ``prepare``."""
        plan = self.prepare(homes, cuts, **options)
        self.commit(plan)
        return plan

    def prepare(
        self,
        homes: Mapping[str, Path],
        cuts: Sequence[int],
        *,
        wire: str = "fp32",
        context_tokens: int = 512,
        slots: int = 4,
        chunk_tokens: int = 128,
        order: Sequence[str] | None = None,
        blob_url: str | None = None,
        basis: Basis | None = None,
        planned: Callable[[], Mapping[str, int]] = dict,
        draft: Model | None = None,
    ) -> Plan:
        """Have the segments of a plan loaded and return when all are ready.

        Args:
            homes: the nodes, in the ring's order unless ``order`` says otherwise (there, one may come twice).
            cuts: unit boundaries.
            blob_url: where nodes fetch blobs; None puts them into their stores.
            basis: the plan it goes on from, in a live move.
            planned: bytes that are reckoned for each node, by name, once they have registered.
            draft: for the last stage's node to guess with.
        """
        manifest = self._model.manifest
        names = list(order or homes)
        self.wait("nodes", lambda: self.online.issuperset(names))
        self._counter += 1
        epoch = Epoch(generation=1, counter=self._counter)
        ring = tuple(
            StageRef(node=name, start=start, stop=stop)
            for name, start, stop in zip(names, cuts, cuts[1:], strict=False)
        )
        self.ready.clear()
        for stage, ref in enumerate(ring):
            spec = self._model.segment(ref.start, ref.stop, wire=wire)  # type: ignore[arg-type]
            graph = BlobRef(sha256=spec.graph.sha256, size_bytes=spec.graph.size_bytes)
            blobs = tuple(BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes) for blob in spec.blobs)
            told = self.told(draft, context_tokens) if draft and stage == len(ring) - 1 else None
            answer = self._known_answers.of(ref.start, ref.stop) if self._known_answers else None
            if blob_url is None:
                self.hand_over((graph, *blobs, *([answer] if answer else ())), homes[ref.node])
                if told:
                    self.hand_over((told.graph, *told.blobs), homes[ref.node], draft)
            prepare = PrepareSegment(
                pipeline=PIPELINE,
                epoch=epoch,
                stage=stage,
                ring=ring,
                model=manifest.name,
                graph=graph,
                blobs=blobs,
                blob_urls=(blob_url or _UNREACHABLE,),
                kv_layers=tuple(layer.as_told() for layer in manifest.layers if layer.layer in spec.layers),
                width_in=spec.width_in or 0,
                width_out=spec.width_out or 0,
                vocab_size=manifest.vocab_size,
                context_tokens=context_tokens,
                slots=slots,
                chunk_tokens=chunk_tokens,
                same_bits=manifest.numerics.same_bits,
                wire_dtype=wire,  # type: ignore[arg-type]
                planned_bytes=planned().get(ref.node, 0),
                basis=basis,
                draft=told,
                answer=answer,
            )
            self.command(ref.node, prepare)
        self.wait("ready nodes", lambda: len(self.ready) == len(ring) or bool(self.failed), 120.0)
        if self.failed:
            raise AssertionError(self.failed[0].reason)
        return Plan(
            pipeline=PIPELINE,
            epoch=epoch,
            model=manifest.name,
            context_tokens=context_tokens,
            slots=slots,
            wire_dtype=wire,  # type: ignore[arg-type]
            ring=ring,
        )

    @staticmethod
    def told(draft: Model, context_tokens: int) -> DraftModel:
        """A draft model as its node is told of it; whole."""
        manifest = draft.manifest
        spec = draft.segment(0, manifest.num_units)
        return DraftModel(
            model=manifest.name,
            graph=BlobRef(sha256=spec.graph.sha256, size_bytes=spec.graph.size_bytes),
            blobs=tuple(BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes) for blob in spec.blobs),
            kv_layers=tuple(layer.as_told() for layer in manifest.layers),
            vocab_size=manifest.vocab_size,
            context_tokens=min(context_tokens, manifest.max_context),
            same_bits=manifest.numerics.same_bits,
        )

    def commit(self, plan: Plan) -> None:
        """The plan is in force."""
        self.plan = plan
        self.bus.publish(PLAN.format(pipeline=PIPELINE), messages.encode(plan), qos=1, retain=True)

    def command(self, node: str, message: Any) -> None:
        """Give a node a command."""
        self.bus.publish(NODE_COMMAND.format(node=node), messages.encode(message), qos=1)

    def open(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int,
        *,
        sampling: Sampling | None = None,
        eos_ids: Sequence[int] = (),
        request: str | None = None,
        draft_tokens: int = 0,
        draft_windows: int | None = None,
        prefix: Answer | None = None,
        prefix_tokens: int = 0,
    ) -> Answer:
        """Open a request on the deployed plan, with as many windows of guesses as an orchestrator would have."""
        request = request or secrets.token_hex(8)
        if draft_windows is None:
            draft_windows = most_windows(self._model.manifest)
        options = {
            "sampling": sampling or Sampling(), "eos_ids": tuple(eos_ids), "draft_tokens": draft_tokens,
            "draft_windows": draft_windows,
        }  # fmt: skip
        answer = Answer(request, tuple(prompt_ids), options, max_tokens, opened_s=time.perf_counter())
        self.answers[request_number(request)] = answer
        assert self.plan
        self.open_stages(
            answer,
            self.plan,
            prompt_ids,
            prefix_request=prefix.request if prefix else None,
            prefix_tokens=prefix_tokens,
        )
        return answer

    def open_stages(self, answer: Answer, plan: Plan, ids: Sequence[int], **changes: Any) -> None:
        """Open a request on every stage, the first one last; ``ids``: all that is known of it."""
        last = len(plan.ring) - 1
        penalty = answer.options["sampling"].looks_back
        for stage in range(last, -1, -1):
            needs_ids = stage == 0 or (stage == last and (penalty or answer.options["draft_tokens"] > 0))
            message = OpenRequest(
                pipeline=PIPELINE,
                epoch=plan.epoch,
                stage=stage,
                request=answer.request,
                prompt_tokens=len(answer.prompt_ids),
                max_tokens=answer.max_tokens,
                prompt_ids=tuple(ids) if needs_ids else None,
                **(
                    answer.options
                    if stage == last
                    else {"draft_tokens": answer.options["draft_tokens"] if stage == 0 else 0}
                ),
                **changes,
            )
            self.command(plan.ring[stage].node, message)

    def finish(self, answer: Answer, timeout_s: float = 120.0) -> Answer:
        """Wait for the end of an answer, close the request and collect the stages' figures."""
        self.wait("end of an answer", lambda: bool(answer.finish) or answer.failure is not None, timeout_s)
        if answer.failure is not None:
            raise AssertionError(answer.failure.reason)
        self.close_request(answer)
        return answer

    def close_request(self, answer: Answer) -> None:
        """Close a request on every stage and wait for their figures."""
        assert self.plan
        for ref in self.plan.ring:
            self.command(ref.node, CloseRequest(request=answer.request))
        stages = len(self.plan.ring)
        self.wait("closed stages", lambda: len(answer.timings) == stages)

    def ask(self, prompt_ids: Sequence[int], max_tokens: int, **options: Any) -> Answer:
        """Open, wait, close."""
        return self.finish(self.open(prompt_ids, max_tokens, **options))

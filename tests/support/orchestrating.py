"""A small fleet for the orchestrator's core: scripted nodes, a letter-by-letter tokenizer, a clock that is turned by hand.

The answer's token at position p is the letter ``p % 26``, so every text can be told from positions alone.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.config import Timing
from orchestrator.core import Core
from orchestrator.events import (
    BuildSegments,
    BuiltSegment,
    BusUp,
    Commanded,
    Effect,
    Event,
    JobFailed,
    ModelOpened,
    ModelUnusable,
    NodeSaid,
    OpenModel,
    PlanSolved,
    Publish,
    SegmentsBuilt,
    ServedModel,
    SolvePlan,
    Submitted,
    Tick,
    TokensHeard,
)
from orchestrator.model.manifest import Blob, BoundaryInfo, LayerCache, Manifest, SamplingDefaults, Unit
from orchestrator.planning.planner import solve
from orchestrator.planning.problem import Problem
from orchestrator.planning_input import build_problem
from orchestrator.plans import ServingSettings
from orchestrator.single_stages import solve_single_stages
from schemas import PACKAGE_VERSION, PROTOCOL_VERSION
from schemas.codec import Dtype, Flag, Frame, Kind, decode_frame, encode_frame, request_number
from schemas.messages import (
    BlobRef,
    ChatMessage,
    CloseRequest,
    ControlReply,
    ControlRequest,
    Epoch,
    Heartbeat,
    NodeBirth,
    NodeStatus,
    OpenRequest,
    Plan,
    PrepareSegment,
    RequestClosed,
    ResendTokens,
    SegmentFailed,
    SegmentReady,
    StageTiming,
    StreamEnd,
    StreamError,
    StreamText,
    SubmitRequest,
)
from schemas.topics import CONTROL_REPLY, NODE_COMMAND, PLAN, REQUEST_STREAM

MB = 1 << 20
BLOB_URL = "http://127.0.0.1:1/v1/blobs"
EOS = 2


class Letters:
    """A tokenizer whose ids are code points."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return self.encode("".join(turn["content"] for turn in messages))

    def stream(self) -> LetterStream:
        return LetterStream()


class LetterStream:
    def push(self, token_id: int) -> str:
        return chr(token_id)

    def finish(self) -> str:
        return ""


def letter(position: int) -> int:
    """The token at a position."""
    return ord("a") + position % 26


def answer_text(prompt_tokens: int, count: int) -> str:
    """The text of the first ``count`` tokens after a prompt."""
    return "".join(chr(letter(prompt_tokens + i)) for i in range(count))


def make_manifest(
    name: str = "tiny", *, blocks: int = 4, block_bytes: int = 10 * MB, max_context: int = 256
) -> Manifest:
    """A model whose embedding (20 MB) is tied to the head and whose blocks share a table of 1 MB."""
    last = blocks + 1
    blobs = [Blob("e" * 64, 20 * MB, (0, last)), Blob("7" * 64, MB, tuple(range(1, last)))]
    blobs += [Blob(f"{unit:064x}", block_bytes, (unit,)) for unit in range(1, last)]
    units = [Unit(0, "embed", None, ("e" * 64,), 20 * MB, 0, 0)]
    units += [
        Unit(u, "block", u - 1, (f"{u:064x}", "7" * 64), block_bytes + MB, 20_000_000, 1024) for u in range(1, last)
    ]
    units.append(Unit(last, "head", None, ("e" * 64,), 20 * MB, 40_000_000, 0))
    return Manifest(
        format=1, version="0", name=name, source="test", fingerprint="0", family="llama", precision="int4",
        profile="fast", vocab_size=1_114_112, max_context=max_context, logits_dtype="float32", kv_dtype="float32",
        inputs=("input_ids", "attention_mask"),
        boundaries=tuple(BoundaryInfo(unit, 64, "float32", 1) for unit in range(1, last + 1)),
        layers=tuple(LayerCache(layer, 2, 16, 16, "float32", None) for layer in range(blocks)),
        units=tuple(units), blobs=tuple(blobs), bos_id=None, eos_ids=(EOS,), sampling=SamplingDefaults(),
        has_chat_template=True,
    )  # fmt: skip


def make_birth(node: str, *, incarnation: int = 1, memory_mb: int | None = None, **changes: Any) -> NodeBirth:
    """A node of this version. By default it has room for one end and a block of `make_manifest`, or three blocks:
    three such nodes are needed, two are too few."""
    birth = NodeBirth(
        node=node,
        incarnation=incarnation,
        protocol=PROTOCOL_VERSION,
        package_version=PACKAGE_VERSION,
        memory_bytes=0,
        overhead_bytes=50 * MB,
        storage_bytes=10_000 * MB,
        threads=1,
        speed_flops=1e10,
        hop_s=0.0003,
    )
    memory_bytes = _third_of_a_model(birth) if memory_mb is None else memory_mb * MB
    return replace(birth, memory_bytes=memory_bytes, **changes)


def _third_of_a_model(birth: NodeBirth) -> int:
    problem = build_problem(make_manifest(), [birth], context_tokens=256, slots=2, wire_dtype="fp16", chunk_tokens=128)
    embed, block, _ = (problem.unit_memory_bytes(run) for run in problem.runs)
    return problem.fixed_bytes(problem.devices[0]) + embed + block + block // 2


def make_heartbeat(node: str, incarnation: int = 1) -> Heartbeat:
    return Heartbeat(
        node=node,
        incarnation=incarnation,
        uptime_s=1,
        rss_bytes=MB,
        peak_rss_bytes=MB,
        available_bytes=MB,
        blob_bytes=0,
    )


def make_submit(request: int = 1, prompt: str = "hello", **changes: Any) -> SubmitRequest:
    submit = SubmitRequest(
        client="cli", request=f"{request:016x}", messages=(ChatMessage(role="user", content=prompt),), max_tokens=8
    )
    return replace(submit, **changes)


def token_frame(request: str, epoch: Epoch, position: int, ids: Sequence[int], flags: int = 0) -> Frame:
    """A TOKENS frame as it comes out of the codec."""
    frame = Frame(
        kind=Kind.TOKENS, request=request_number(request), epoch=epoch, attempt=0, position=position,
        count=len(ids), dtype=Dtype.INT32, flags=flags, payload=struct.pack(f"<{len(ids)}i", *ids),
    )  # fmt: skip
    return decode_frame(encode_frame(frame))


@dataclass
class ScriptedNode:
    """Answers commands as a node does, without computing anything."""

    birth: NodeBirth
    alive: bool = True
    refuses: str = ""
    """Why it can't load segments; empty when it can."""
    silent: bool = False
    """Does not answer a prepare command."""
    prepared: dict[Epoch, PrepareSegment] = field(default_factory=dict)
    open: dict[str, OpenRequest] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.birth.node

    def react(self, command: Any) -> list[Any]:
        """Replies to a command."""
        match command:
            case PrepareSegment() if self.refuses:
                failed = SegmentFailed(
                    node=self.name, incarnation=self.birth.incarnation, pipeline=command.pipeline,
                    epoch=command.epoch, reason=self.refuses,
                )  # fmt: skip
                return [failed]
            case PrepareSegment() if not self.silent:
                self.prepared[command.epoch] = command
                return [self.ready(command)]
            case OpenRequest():
                self.open[command.request] = command
            case CloseRequest() if command.request in self.open:
                epoch = self.open.pop(command.request).epoch
                timing = StageTiming(node=self.name, stage=self.prepared[epoch].stage, decode_steps=3)
                return [RequestClosed(request=command.request, timing=timing)]
        return []

    def ready(self, command: PrepareSegment) -> SegmentReady:
        return SegmentReady(
            node=self.name, incarnation=self.birth.incarnation, pipeline=command.pipeline, epoch=command.epoch,
            stage=command.stage, rss_bytes=MB, peak_rss_bytes=MB, downloaded_bytes=0, load_s=0.1,
        )  # fmt: skip

    def follow(self, plan: Plan) -> None:
        """A plan is in force: forget older epochs and their requests."""
        self.prepared = {epoch: p for epoch, p in self.prepared.items() if epoch >= plan.epoch}
        self.open = {request: o for request, o in self.open.items() if o.epoch in self.prepared}


def plan_quickly(problem: Problem) -> Any:
    """The real planner without its second proof."""
    return solve_single_stages(problem, lambda p: solve(p, prove=False), lambda p: solve(p, prove=False))


class World:
    """The core, scripted nodes and a clock. Everything a test wants to see is recorded."""

    def __init__(
        self,
        *,
        model: str | None = "tiny",
        models: Mapping[str, Manifest] | None = None,
        timing: Timing | None = None,
        context_tokens: int | None = None,
        slots: int = 2,
        **options: Any,
    ) -> None:
        self.now_s = 100.0
        self.models = dict(models or {"tiny": make_manifest()})
        settings = ServingSettings(
            pipeline="main", context_tokens=context_tokens, slots=slots, wire_dtype="fp16", chunk_tokens=128
        )
        self.core = Core(settings, generation=1, model=model, blob_urls=(BLOB_URL,), timing=timing, **options)
        self.nodes: dict[str, ScriptedNode] = {}
        self.effects: list[Effect] = []
        self.solver: Callable[[Problem], Any] = plan_quickly
        self.hold: tuple[type, ...] = ()
        """Jobs of these kinds are not done."""
        self._heartbeat_due_s = 0.0

    # --- time and events --------------------------------------------------------------------------------------

    def up(self) -> World:
        """Connect."""
        self.event(BusUp(reconnect=False))
        return self

    def event(self, event: Event) -> list[Effect]:
        """Handle an event and all that follows from it at this moment; returns the effects."""
        effects: list[Effect] = []
        events = deque([event])
        while events:
            for effect in self.core.handle(events.popleft(), self.now_s):
                effects.append(effect)
                events.extend(self._follow(effect))
        self.effects += effects
        return effects

    def _follow(self, effect: Effect) -> list[Event]:
        if isinstance(effect, self.hold):
            return []
        match effect:
            case OpenModel(name):
                if name in self.models:
                    return [ModelOpened(name, ServedModel(self.models[name], Letters()))]
                return [ModelUnusable(name, f"there is no model {name!r}")]
            case SolvePlan(job, problem):
                return [PlanSolved(job, self.solver(problem))]
            case BuildSegments(job, name, ring):
                if any(stage.stop > self.models[name].num_units for stage in ring):
                    return [JobFailed(job, "no such unit")]
                return [SegmentsBuilt(job, tuple(_segment(stage.start) for stage in ring))]
            case Publish(topic, message):
                if PLAN.match(topic):
                    for node in self.nodes.values():
                        node.follow(message)
                place = NODE_COMMAND.match(topic)
                node = self.nodes.get(place["node"]) if place else None
                if node and node.alive:
                    return [NodeSaid(node.name, reply) for reply in node.react(message)]
        return []

    def wait(self, seconds: float) -> None:
        """Let time pass: deadlines come due, living nodes send heartbeats each second."""
        end_s = self.now_s + seconds
        while True:
            due_s = min(self.core.next_deadline_s(), self._heartbeat_due_s)
            if due_s > end_s:
                break
            self.now_s = max(self.now_s, due_s)
            if self.now_s >= self._heartbeat_due_s:
                self._heartbeat_due_s = self.now_s + 1.0
                for node in self.nodes.values():
                    if node.alive:
                        self.event(NodeSaid(node.name, make_heartbeat(node.name, node.birth.incarnation)))
            before = self.core.next_deadline_s()
            self.event(Tick())
            assert before > self.now_s or self.core.next_deadline_s() > self.now_s, "a deadline that nothing meets"
        self.now_s = end_s

    # --- nodes ------------------------------------------------------------------------------------------------

    def join(self, *names: str, **birth: Any) -> None:
        """Start nodes."""
        for name in names:
            node = self.nodes[name] = ScriptedNode(make_birth(name, **birth))
            self.event(NodeSaid(name, node.birth))
            self.event(NodeSaid(name, NodeStatus(node=name, incarnation=node.birth.incarnation, online=True)))

    def plan_nodes(self) -> list[str]:
        """Nodes that were told to prepare something, in order of name."""
        return [name for name in sorted(self.nodes) if self.commands(name, PrepareSegment)]

    def solved(self, job: int, outcome: Any) -> None:
        """The planner's answer to a job that was held."""
        self.event(PlanSolved(job, outcome))

    def kill(self, name: str) -> None:
        """A node's connection breaks: its will arrives."""
        node = self.nodes[name]
        node.alive = False
        node.open.clear()
        self.event(
            NodeSaid(name, NodeStatus(node=name, incarnation=node.birth.incarnation, online=False, reason="lost"))
        )

    def serve(self, *names: str, **birth: Any) -> World:
        """Connect, start nodes and wait for their plan."""
        self.up()
        self.join(*names, **birth)
        self.wait(2.0)
        assert self.plan.ring
        return self

    # --- requests ---------------------------------------------------------------------------------------------

    def ask(self, submit: SubmitRequest | None = None) -> str:
        """Submit a request; returns its id."""
        submit = submit or make_submit()
        self.event(Submitted(submit))
        return submit.request

    def generate(self, request: str, count: int, *, start: int | None = None, flags: int = 0) -> None:
        """The last stage publishes ``count`` tokens in one frame, by default those after what its ring was given."""
        last = self.nodes[self.plan.ring[-1].node]
        opened = last.open[request]
        position = self.position(request) if start is None else start
        ids = [letter(p) for p in range(position, position + count)]
        if flags & Flag.STOP:
            ids[-1] = EOS
        self.event(TokensHeard("main", last.name, token_frame(request, opened.epoch, position, ids, flags)))

    def position(self, request: str) -> int:
        """Where the request's next token goes."""
        first = self.nodes[self.plan.ring[0].node].open[request]
        return first.prompt_tokens + len("".join(p.text for p in self.stream(request) if isinstance(p, StreamText)))

    # --- what was published -----------------------------------------------------------------------------------

    def published(self, kind: type, topic: str | None = None) -> list[Any]:
        """Messages of a kind, in order; ``topic`` restricts them to one."""
        return [
            e.message
            for e in self.effects
            if isinstance(e, Publish) and isinstance(e.message, kind) and topic in (None, e.topic)
        ]

    def commands(self, node: str, kind: type) -> list[Any]:
        """Commands to a node."""
        return self.published(kind, NODE_COMMAND.format(node=node))

    @property
    def plan(self) -> Plan:
        """The retained plan."""
        plan: Plan = self.published(Plan)[-1]
        return plan

    def stream(self, request: str) -> list[Any]:
        """What the client of a request got."""
        topic = REQUEST_STREAM.format(client="cli", request=request)
        return [e.message for e in self.effects if isinstance(e, Publish) and e.topic == topic]

    def text(self, request: str) -> str:
        return "".join(piece.text for piece in self.stream(request) if isinstance(piece, StreamText))

    def end(self, request: str) -> StreamEnd | StreamError | None:
        """How a request ended; None while it goes on."""
        ends = [m for m in self.stream(request) if isinstance(m, StreamEnd | StreamError)]
        assert len(ends) <= 1
        return ends[0] if ends else None

    def control(self, operation: str, request: int = 99, **arguments: Any) -> ControlReply | None:
        """Give a command; None while there is no reply."""
        command = ControlRequest(client="cli", request=f"{request:016x}", operation=operation, arguments=arguments)
        self.event(Commanded(command))
        return self.reply(request)

    def reply(self, request: int = 99) -> ControlReply | None:
        """The newest reply to a command."""
        replies = self.published(ControlReply, CONTROL_REPLY.format(client="cli", request=f"{request:016x}"))
        return replies[-1] if replies else None

    def resends(self) -> list[ResendTokens]:
        return self.published(ResendTokens)


def _segment(start: int) -> BuiltSegment:
    blob = BlobRef(sha256="a" * 64, size_bytes=1)
    return BuiltSegment(graph=blob, blobs=(blob,), kv_layers=(), width_in=64 if start else 0, width_out=64)

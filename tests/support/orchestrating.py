"""The orchestrator's core in a small world: scripted nodes, and a clock that is turned by hand."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.balancing.acceptance import Judge
from orchestrator.control_plane import ControlPlane
from orchestrator.core import Core
from orchestrator.deployment.plan import ServingSettings
from orchestrator.effects import (
    Asker,
    BuildSegments,
    CheckPlan,
    CompileGrammar,
    DivideFleet,
    Effect,
    EncodePrompt,
    EvaluatePlan,
    ForgetRequest,
    OpenModel,
    PlanStandby,
    PreviewPlan,
    Publish,
    SaveOpened,
    SaveRequest,
    SaveRunning,
    SaveTokens,
    SolvePlan,
)
from orchestrator.events import (
    BusUp,
    Commanded,
    CommandUnreadable,
    Event,
    FleetDivided,
    GrammarCompiled,
    JobFailed,
    ModelOpened,
    ModelUnusable,
    NodeSaid,
    PlanChecked,
    PlanEvaluated,
    PlanHeard,
    PlanPreviewed,
    PlanSolved,
    PromptEncoded,
    PromptUnusable,
    Restored,
    SavedRequest,
    SegmentsBuilt,
    StandbyPlanned,
    Submitted,
    Tick,
    TokensHeard,
)
from orchestrator.model.manifest import Manifest
from orchestrator.model.prompt import PromptRefused, encode_prompt
from orchestrator.model.served import AnswerGrammar, BuiltSegment, ServedModel
from orchestrator.model.served_draft import ServedDraft
from orchestrator.pipelines.partition import divide
from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Standby
from orchestrator.planning.solver.solve import evaluate, solve
from orchestrator.service.worker import preview
from orchestrator.timing import Timing
from schemas.codec import Flag
from schemas.contract import dump
from schemas.errors import MessageError
from schemas.messages import (
    BlobRef,
    NodeStatus,
    OpenRequest,
    OperatorRefusal,
    Plan,
    PrepareSegment,
    ResendTokens,
    StreamEnd,
    StreamError,
    StreamText,
    SubmitRequest,
    WireDtype,
    decode,
    encode,
)
from schemas.topics import CONTROL_REPLY, CONTROL_SUBMIT, NODE_COMMAND, PLAN, REQUEST_STREAM
from tests.support.invariants import check_core
from tests.support.scripted_grammar import ScriptedGrammar
from tests.support.scripted_nodes import (
    EOS,
    Letters,
    ScriptedNode,
    answer_text,
    letter,
    make_birth,
    make_heartbeat,
    make_manifest,
    make_submit,
    token_frame,
)

BLOB_URL = "http://127.0.0.1:1/v1/blobs"
_LONG_WAIT_S, _SELDOM_S = 60.0, 4.0
"""In waits of more than a minute, with no request open, heartbeats are as seldom as those of a node that is here may
be."""


@dataclass(frozen=True)
class OperatorAnswer:
    """The reply to a command: what was asked for as JSON, or why not."""

    ok: bool
    reason: str
    result: dict[str, Any]


def plan_quickly(problem: Problem) -> Any:
    """The real planner without its second proof."""
    return solve(problem, prove=False)


FORMS = [[*(letter(position) for position in range(5, 13)), *end] for end in ((), (ord("x"), ord("y")), (ord("z"),))]
"""What answers that are bound to a form may be, to a prompt of five tokens: eight letters, and a choice of ends."""


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
        wire: WireDtype | None = None,
        memory_margin: float = 0.0,
        draft: str | None = None,
        **options: Any,
    ) -> None:
        self.now_s = 100.0
        self.models = dict(models or {"tiny": make_manifest()})
        self._settings = ServingSettings(
            pipeline="main", context_tokens=context_tokens, slots=slots, wire_dtype=wire, chunk_tokens=128,
            memory_margin=memory_margin, draft=draft,
        )  # fmt: skip
        self._options = {"model": model, "blob_urls": (BLOB_URL,), "timing": timing, **options}
        self._generation = 0
        self.core = self._new_core()
        self.grammar: AnswerGrammar = ScriptedGrammar(*FORMS, vocab_size=256)
        """Of every form that is compiled."""
        self.model_wire: WireDtype = "fp16"
        """Of every model that is opened."""
        self.nodes: dict[str, ScriptedNode] = {}
        self.effects: list[Effect] = []
        self.solver: Callable[[Problem], Any] = plan_quickly
        self.standby_solver: Callable[[Problem, tuple[Stage, ...]], tuple[Standby, ...]] = lambda *_: ()
        self.hold: tuple[type, ...] = ()
        """Jobs of these kinds are not done."""
        self.condition: dict[str, dict[str, Any]] = {}
        """What a node's heartbeats say besides."""
        self._heartbeat_due_s = 0.0
        self._asked_s: dict[str, float] = {}
        """When each request was submitted."""

    def _new_core(self) -> Core:
        self._generation += 1
        return Core(ControlPlane(self._settings, generation=self._generation, **self._options))

    def restart(
        self,
        *,
        database: bool = True,
        broker: bool = True,
        missing: Sequence[str] = (),
        served_elsewhere: bool = False,
    ) -> None:
        """Another start of the orchestrator; ``missing``: nodes that the broker knows nothing of. ``broker``: it has
        kept what it was told to keep. ``served_elsewhere``: somebody else has gone on with the plan meanwhile."""
        plans = {plan.pipeline: plan for plan in self.published(Plan)} if broker else {}
        running = {effect.plan.pipeline: effect.plan for effect in self.effects if isinstance(effect, SaveRunning)}
        saved = self.saved() if database else ()
        if served_elsewhere:
            saved = tuple(replace(one, epoch="0-0") for one in saved)
        self.core = self._new_core()
        for name, node in self.nodes.items():
            if broker and name not in missing:
                start = node.birth.incarnation
                self.event(NodeSaid(name, node.birth, retained=True))
                self.event(NodeSaid(name, NodeStatus(node=name, incarnation=start, online=node.alive), retained=True))
        for plan in plans.values():
            self.event(PlanHeard(plan, retained=True))
        self.event(Restored(saved, tuple(plan for plan in running.values() if plan.ring) if database else ()))
        self.up()

    def saved(self) -> tuple[SavedRequest, ...]:
        """What the database would have of requests that have not ended."""
        found: dict[str, SavedRequest] = {}
        for effect in self.effects:
            match effect:
                case SaveRequest(submit):
                    age_s = self.now_s - self._asked_s[submit.request]
                    found[submit.request] = SavedRequest(submit, age_s, tokens=submit.answer_ids, ttft_s=submit.ttft_s)
                case SaveOpened(request, model, prompt_ids, epoch):
                    found[request] = replace(found[request], model=model, prompt_ids=prompt_ids, epoch=epoch)
                case SaveTokens(request, first, ids, ttft_s):
                    before = found[request]
                    first_s = ttft_s if before.ttft_s is None else before.ttft_s
                    found[request] = replace(before, tokens=(*before.tokens[:first], *ids), ttft_s=first_s)
                case ForgetRequest(request):
                    found.pop(request, None)
        return tuple(found.values())

    # --- time and events --------------------------------------------------------------------------------------

    def up(self) -> World:
        """Connect."""
        self.event(BusUp(reconnect=False))
        return self

    def event(self, event: Event) -> list[Effect]:
        """Handle an event and all that follows from it at this moment; returns the effects."""
        effects: list[Effect] = []
        if isinstance(event, Submitted):
            self._asked_s.setdefault(event.request.request, self.now_s - event.request.age_s)
        events = deque([event])
        while events:
            decided = self.core.handle(events.popleft(), self.now_s)
            check_core(self.core, self.now_s)
            for effect in decided:
                effects.append(effect)
                events.extend(self._follow(effect))
        self.effects += effects
        return effects

    def _follow(self, effect: Effect) -> list[Event]:
        if isinstance(effect, self.hold):
            return []
        match effect:
            case OpenModel(name, draft=named):
                if name in self.models:
                    draft = ServedDraft(self.models[named]) if named else None
                    served = ServedModel(self.models[name], Letters(), wire=self.model_wire, draft=draft)
                    return [ModelOpened(name, served)]
                return [ModelUnusable(name, f"there is no model {name!r}")]
            case EncodePrompt(request, name, submit):
                try:
                    return [PromptEncoded(request, name, encode_prompt(submit, Letters()))]
                except PromptRefused as refused:
                    return [PromptUnusable(request, name, refused.code, refused.reason, refused.summary)]
            case CompileGrammar(request, name, asked):
                if asked.kind == "regex":
                    return [PromptUnusable(request, name, "bad_request", "no such form", "no such form")]
                return [GrammarCompiled(request, name, self.grammar)]
            case SolvePlan(job, problem):
                return [PlanSolved(job, self.solver(problem))]
            case PreviewPlan(job, problem, pipelines):
                return [PlanPreviewed(job, preview(problem, self.solver(problem), pipelines))]
            case CheckPlan(job, problem):
                return [PlanChecked(job, self.solver(problem))]
            case DivideFleet(job, problem, kept, pipelines, margin):
                division = divide(problem, kept, pipelines=pipelines, margin=margin)
                return [FleetDivided(job, division.groups, division.tokens_per_s)]
            case PlanStandby(pipeline, epoch, problem, stages):
                return [StandbyPlanned(pipeline, epoch, self.standby_solver(problem, stages))]
            case EvaluatePlan(job, problem, stages):
                try:
                    return [PlanEvaluated(job, evaluate(problem, stages))]
                except PlanningError as error:
                    return [JobFailed(job, str(error))]
            case BuildSegments(job, name, ring, draft=named):
                if any(stage.stop > self.models[name].num_units for stage in ring):
                    return [JobFailed(job, "no such unit")]
                segments = [_segment(stage.start) for stage in ring]
                if named:
                    segments[-1] = replace(segments[-1], draft=_segment(self.models[name].num_units))
                return [SegmentsBuilt(job, tuple(segments))]
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
        """Let time pass: deadlines come due, living nodes send heartbeats, each second or in a long wait less often."""
        end_s = self.now_s + seconds
        is_long = seconds > _LONG_WAIT_S and not self.core.plane.pipeline.requests.open_count
        heartbeat_s = _SELDOM_S if is_long else 1.0
        while True:
            due_s = min(self.core.next_deadline_s(), self._heartbeat_due_s)
            if due_s > end_s:
                break
            self.now_s = max(self.now_s, due_s)
            if self.now_s >= self._heartbeat_due_s:
                self._heartbeat_due_s = self.now_s + heartbeat_s
                for node in self.nodes.values():
                    if node.alive:
                        beat = replace(make_heartbeat(node.name, node.birth.incarnation), stages=node.held())
                        self.event(NodeSaid(node.name, replace(beat, **self.condition.get(node.name, {}))))
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

    def generate(self, request: str, count: int, *, start: int | None = None, flags: int = 0) -> list[Effect]:
        """The last stage publishes ``count`` tokens in one frame, by default those after what its ring was given."""
        ring = self.plan_of(self.pipeline_of(request)).ring
        last = self.nodes[ring[-1].node]
        opened = last.open[request]
        position = self.position(request) if start is None else start
        ids = [letter(p) for p in range(position, position + count)]
        if flags & Flag.STOP:
            ids[-1] = EOS
        self.nodes[ring[0].node].tokens[request] = position + count
        frame = token_frame(request, opened.epoch, position, ids, flags)
        return self.event(TokensHeard(self.pipeline_of(request), last.name, frame))

    def position(self, request: str) -> int:
        """Where the request's next token goes."""
        last = self.nodes[self.plan_of(self.pipeline_of(request)).ring[-1].node].open[request]
        told = [piece for piece in self.stream(request) if isinstance(piece, StreamText)]
        return last.prompt_tokens + max((piece.first_token + len(piece.token_ids) for piece in told), default=0)

    # --- the first pipeline's parts ---------------------------------------------------------------------------

    @property
    def underway(self) -> Any:
        """What is to replace its plan: the planner's work, graphs being made, a roll-out, a move; None: nothing."""
        return self.core.plane.pipeline._replanner._work

    def use_judge(self, judge: Judge) -> None:
        """Let another one decide which solutions replace its plan."""
        self.core.plane.pipeline._replanner.use_judge(judge)

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

    def plan_of(self, pipeline: str) -> Plan:
        """A pipeline's retained plan."""
        plan: Plan = self.published(Plan, PLAN.format(pipeline=pipeline))[-1]
        return plan

    def pipeline_of(self, request: str) -> str:
        """Where a request was last opened."""
        opened = [command for command in self.published(OpenRequest) if command.request == request]
        return str(opened[-1].pipeline)

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

    def control(self, operation: str, request: int = 99, **arguments: Any) -> OperatorAnswer | None:
        """Give a command as it comes from the bus; None while there is no reply."""
        if operation in ("preview", "apply"):
            arguments = {"constraints": arguments}
        payload = json.dumps({"type": f"control.{operation}", "v": 1, **arguments}).encode()
        asker = Asker("cli", f"{request:016x}")
        event: Event
        try:
            event = Commanded(asker, decode(payload, *CONTROL_SUBMIT.messages))
        except MessageError as error:
            event = CommandUnreadable(asker, error)
        self.event(event)
        return self.reply(request)

    def reply(self, request: int = 99) -> OperatorAnswer | None:
        """The newest reply to a command, as it would arrive."""
        replies = self.published(object, CONTROL_REPLY.format(client="cli", request=f"{request:016x}"))
        if not replies:
            return None
        answer = decode(encode(replies[-1]), *CONTROL_REPLY.messages)
        if isinstance(answer, OperatorRefusal):
            return OperatorAnswer(ok=False, reason=answer.reason, result={})
        return OperatorAnswer(ok=True, reason="", result=dump(answer))

    @property
    def solves(self) -> int:
        """How often the planner was asked."""
        return sum(isinstance(effect, SolvePlan) for effect in self.effects)

    def resends(self) -> list[ResendTokens]:
        return self.published(ResendTokens)


def begun(world: World, tokens: int = 7, *, patience_s: float = 600.0) -> str:
    """A request for 20 tokens, of which so many are there."""
    request = world.ask(make_submit(max_tokens=20, patience_s=patience_s))
    world.generate(request, tokens)
    return request


def ends_well(world: World, request: str, tokens: int = 7) -> None:
    """Generate what is left of a request that was `begun`: its text is right."""
    assert world.end(request) is None
    world.generate(request, 20 - tokens, flags=Flag.LENGTH)
    assert world.text(request) == answer_text(5, 20)
    assert isinstance(world.end(request), StreamEnd)


def _segment(start: int) -> BuiltSegment:
    blob = BlobRef(sha256="a" * 64, size_bytes=1)
    return BuiltSegment(graph=blob, blobs=(blob,), kv_layers=(), width_in=64 if start else 0, width_out=64)

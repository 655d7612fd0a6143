"""The worker: slow jobs beside the service's thread. One thread opens models, solves and assembles, one answers what
operators ask the planner, one makes prompts, one compiles forms."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from orchestrator.effects import (
    BuildSegments,
    CheckPlan,
    CompileGrammar,
    DivideFleet,
    EncodePrompt,
    EvaluatePlan,
    OpenModel,
    PlanStandby,
    PreviewPlan,
    SolvePlan,
)
from orchestrator.events import (
    Event,
    FleetDivided,
    GrammarCompiled,
    JobFailed,
    ModelOpened,
    ModelUnusable,
    PlanChecked,
    PlanEvaluated,
    PlanPreviewed,
    PlanSolved,
    PromptEncoded,
    PromptUnusable,
    SegmentsBuilt,
    StandbyPlanned,
)
from orchestrator.model.errors import CannotRun, MissingDependency, ModelError
from orchestrator.model.grammar import GrammarCompiler, GrammarRefused
from orchestrator.model.known_answers import KnownAnswers
from orchestrator.model.kv_calibration import measure_kv, read_kv
from orchestrator.model.kv_rounding import IN_HALVES
from orchestrator.model.manifest import Manifest
from orchestrator.model.model import Model
from orchestrator.model.prompt import PromptRefused, encode_prompt
from orchestrator.model.served import BuiltSegment, ServedModel, Tokenizer
from orchestrator.model.served_draft import ServedDraft, why_no_draft
from orchestrator.model.store import ModelStore
from orchestrator.model.tokenizer import ModelTokenizer
from orchestrator.planning.problem import Problem
from orchestrator.planning.solution import Infeasible, Solution
from schemas.codec import HALVES
from schemas.errors import LinguabusError
from schemas.messages import (
    PROBE_CONTEXT_TOKENS,
    BlobRef,
    NoPlanExplanation,
    PlanExplanation,
    ProbePart,
    RoundedKv,
    StageRef,
    UnitKind,
    WireDtype,
)
from schemas.units import BLOCK, EMBED, HEAD

logger = logging.getLogger(__name__)

PROBED_BLOCKS = 3
CLOSE_S = 0.5
"""A job may take this long to end by itself. What it writes is complete or not there, so that it can be left behind."""

Job = (
    OpenModel
    | EncodePrompt
    | CompileGrammar
    | SolvePlan
    | PreviewPlan
    | CheckPlan
    | DivideFleet
    | BuildSegments
    | PlanStandby
    | EvaluatePlan
)
Solver = Callable[[Problem], Solution | Infeasible]


def default_solver(problem: Problem) -> Solution | Infeasible:
    """The planner, imported when first needed: Pyomo takes a second."""
    from orchestrator.planning.solver.solve import solve

    return solve(problem)


class _JobThread:
    """Does one job after the other. A daemon: what takes long must not hold up the end of the process."""

    def __init__(self, run: Callable[[Job], None], name: str) -> None:
        self._run = run
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run_jobs, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        """Begin no further job."""
        self._closed = True
        self._jobs.put(None)

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run_jobs(self) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            self._run(job)


class Worker:
    """Runs jobs one after the other; results wait in ``results``, ``wake`` is called for each.

    Prompts have a thread of their own: they are made in a millisecond, and must not wait for plans. So have forms that
    answers are bound to, and what operators ask the planner: either may take seconds, and neither prompts nor the
    plans that readers wait for are to wait for them.
    """

    def __init__(self, store: ModelStore, *, wake: Callable[[], None], solve: Solver = default_solver) -> None:
        self.results: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._store = store
        self._wake = wake
        self._solve = solve
        self._models: dict[str, Model] = {}
        self._drafts: dict[str, Model] = {}
        self._answers: dict[str, KnownAnswers] = {}
        self._tokenizers: dict[str, Tokenizer] = {}
        self._grammars: dict[str, GrammarCompiler] = {}
        self._held: dict[str, contextlib.ExitStack] = {}
        """Models that can't be removed without force meanwhile, and what lets go of them."""
        self._holding = threading.Lock()
        self._jobs = _JobThread(self._run, "worker")
        self._questions = _JobThread(self._run, "questions")
        self._prompts = _JobThread(self._run, "prompts")
        self._forms = _JobThread(self._run, "forms")

    def submit(self, job: Job) -> None:
        """Do a job after those of its kind that were submitted before."""
        match job:
            case EncodePrompt():
                self._prompts.submit(job)
            case CompileGrammar():
                self._forms.submit(job)
            case PreviewPlan() | CheckPlan():
                self._questions.submit(job)
            case _:
                self._jobs.submit(job)

    def close(self) -> None:
        """Drop jobs that have not begun; those that have may take `CLOSE_S` to end."""
        ends_s = time.monotonic() + CLOSE_S
        threads = (self._prompts, self._forms, self._questions, self._jobs)
        for thread in threads:
            thread.close()
        for thread in threads:
            thread.join(max(0.0, ends_s - time.monotonic()))
        self.keep(())

    def keep(self, models: Collection[str]) -> None:
        """Note which models are in use: all others may be removed from the store. For any thread."""
        with self._holding:
            for name in self._held.keys() - set(models):
                self._held.pop(name).close()

    def _hold(self, name: str) -> None:
        """Mark a model as in use from now on; raises `NoSuchModel`."""
        with self._holding:
            if name not in self._held:
                stack = contextlib.ExitStack()
                stack.enter_context(self._store.in_use(name))
                self._held[name] = stack

    def _run(self, job: Job) -> None:
        try:
            result = self._do(job)
        except LinguabusError as error:
            result = _failure(job, str(error))
        except BaseException as error:  # a panic of a library in Rust is no Exception
            is_private = isinstance(job, EncodePrompt | CompileGrammar)  # then the error may quote what was asked
            logger.error("%s failed: %s", type(job).__name__, type(error).__name__, exc_info=not is_private)
            what = type(error).__name__ if is_private else str(error)
            result = _failure(job, f"internal error, see the orchestrator's log: {what}"[:900])
        self.results.put(result)
        self._wake()

    def _do(self, job: Job) -> Event:
        match job:
            case OpenModel(name, kv_dtype, draft_name):
                self._hold(name)
                model = self._open(name, kv_dtype)
                tokenizer = model.tokenizer()
                fault = tokenizer.check_template()  # which also gets it ready for the first question
                if fault:
                    logger.warning("model %s answers raw prompts only: %s", name, fault)
                if model.manifest.folds_positions:
                    logger.info("model %s: answers are computed one after the other, as each has a state", name)
                draft = self._open_draft(draft_name, model.manifest, tokenizer) if draft_name else None
                served = ServedModel(model.manifest, tokenizer, probe_parts(model), model.wire, draft)
                self._models[name], self._tokenizers[name] = model, tokenizer
                self._grammars[name] = GrammarCompiler(
                    model.tokenizer_path, model.manifest.vocab_size, model.manifest.eos_ids
                )
                self._answers[name] = self._store.known_answers(model)
                return ModelOpened(name, served)
            case EncodePrompt(request, name, submit):
                try:
                    return PromptEncoded(request, name, encode_prompt(submit, self._tokenizers[name]))
                except PromptRefused as refused:
                    return PromptUnusable(request, name, refused.code, refused.reason, refused.summary)
            case CompileGrammar(request, name, grammar):
                try:
                    return GrammarCompiled(request, name, self._grammars[name].compile(grammar))
                except GrammarRefused as refused:
                    return PromptUnusable(request, name, "bad_request", str(refused), refused.summary)
            case SolvePlan(number, problem):
                return PlanSolved(number, self._solve(problem))
            case PreviewPlan(number, problem, pipelines):
                answer = self._solve(problem)
                if isinstance(answer, Infeasible) and answer.fits:
                    problem, answer = answer.fits, self._solve(answer.fits)
                return PlanPreviewed(number, preview(problem, answer, pipelines))
            case CheckPlan(number, problem):
                from orchestrator.planning.solver.solve import solve

                return PlanChecked(number, solve(problem, prove=False))
            case DivideFleet(number, problem, kept, pipelines, margin):
                from orchestrator.pipelines.partition import divide

                division = divide(problem, kept, pipelines=pipelines, margin=margin)
                return FleetDivided(number, division.groups, division.tokens_per_s)
            case EvaluatePlan(number, problem, stages):
                from orchestrator.planning.solver.solve import evaluate

                return PlanEvaluated(number, evaluate(problem, stages))
            case BuildSegments(number, name, ring, wire, positions, draft_name, draft_positions):
                segments = [self._build(name, stage, wire, positions) for stage in ring]
                if draft_name:
                    whole = self._build_draft(draft_name, ring[-1].node, draft_positions)
                    segments[-1] = replace(segments[-1], draft=whole)
                return SegmentsBuilt(number, tuple(segments))
            case PlanStandby(pipeline, epoch, problem, stages):
                from orchestrator.planning.standby.plan_standby import plan_standby

                return StandbyPlanned(pipeline, epoch, plan_standby(problem, stages, disk_only=True).standby)

    def _open(self, name: str, kv_dtype: RoundedKv | None) -> Model:
        """Open a model; where its keys and values are to be in int8 and nobody has found scales for them, find some."""
        model = self._store.open(name)
        if kv_dtype is None:
            return model
        if kv_dtype == HALVES:
            return model.with_rounding(IN_HALVES)
        report = read_kv(model.folder)
        if report is None:
            logger.info("model %s: scales for keys and values in int8 are looked for", name)
            self._store.check(name)
            report = measure_kv(model)
        logger.info("model %s: %s", name, report.summary())
        return model.with_rounding(report.rounding)

    def _open_draft(self, name: str, model: Manifest, tokenizer: ModelTokenizer) -> ServedDraft | None:
        """Open the draft model for a model; None where it is of no use, of which the log tells."""
        try:
            self._hold(name)
            draft = self._store.open(name)
            why_not = why_no_draft(draft, model, tokenizer)
        except ModelError as error:
            why_not = str(error)
        if why_not:
            logger.warning("model %s is served without the draft model %s: %s", model.name, name, why_not)
            return None
        self._drafts[name] = draft
        return ServedDraft(draft.manifest)

    def _build_draft(self, name: str, node: str, positions: int) -> BuiltSegment:
        """All of a draft model as one segment. It is not asked for a known answer: a wrong guess costs time alone."""
        draft = self._drafts[name]
        return build_segment(draft, StageRef(node=node, start=0, stop=draft.manifest.num_units), positions)

    def _build(self, name: str, stage: StageRef, wire: WireDtype, positions: int) -> BuiltSegment:
        """A stage's segment, with what its node has to compute to be believed."""
        built = build_segment(self._models[name], stage, positions, wire)
        try:
            answer = self._answers[name].of(stage.start, stage.stop)
        except (MissingDependency, CannotRun) as error:
            logger.warning("nodes are not asked whether they compute what they should: %s", error)
            return built
        return replace(built, answer=BlobRef(sha256=answer.sha256, size_bytes=answer.size_bytes))


def _failure(job: Job, reason: str) -> Event:
    match job:
        case OpenModel(name):
            return ModelUnusable(name, reason)
        case PlanStandby(pipeline, epoch):
            return StandbyPlanned(pipeline, epoch, (), reason)
        case EncodePrompt(request, name) | CompileGrammar(request, name):
            return PromptUnusable(request, name, "failed", reason, "internal error")
    return JobFailed(job.job, reason)


def preview(
    problem: Problem, answer: Solution | Infeasible, pipelines: int | None = 1
) -> PlanExplanation | NoPlanExplanation:
    """Explain the planner's answer, with the standby units that its nodes would be told to keep.

    As ``division`` it has the pipelines that the fleet would be divided into.
    """
    from orchestrator.planning.explain.explain import explain_plan, no_plan
    from orchestrator.planning.simulation.play import division_of
    from orchestrator.planning.solver.replicas import Replicas, plan_replicas
    from orchestrator.planning.standby.plan_standby import plan_standby

    if isinstance(answer, Infeasible):
        return no_plan(problem, answer)
    explanation = explain_plan(problem, answer, plan_standby(problem, answer.stages, disk_only=True).standby)
    if pipelines != 1:
        found = plan_replicas(problem, prove=False, pipelines=pipelines)
        if isinstance(found, Replicas) and len(found.pipelines) > 1:
            return replace(explanation, division=division_of(found))
    return explanation


def probe_parts(model: Model) -> tuple[ProbePart, ...]:
    """Small segments of a model for nodes to measure: both ends, one block and three from the middle."""
    last = model.manifest.num_units - 1
    middle = 1 + (last - 1) // 2
    start = max(1, min(middle, last - PROBED_BLOCKS))
    ranges: list[tuple[UnitKind, int, int]] = [(EMBED, 0, 1), (BLOCK, start, start + 1)]
    ranges += [(BLOCK, start, min(start + PROBED_BLOCKS, last)), (HEAD, last, last + 1)]
    if ranges[1] == ranges[2]:
        return ()  # one block: no slope to be measured
    return tuple(_probe_part(model, *part) for part in ranges)


def _probe_part(model: Model, kind: UnitKind, start: int, stop: int) -> ProbePart:
    positions = PROBE_CONTEXT_TOKENS + model.manifest.numerics.spare_positions
    built = build_segment(model, StageRef(node="any", start=start, stop=stop), positions)
    return ProbePart(
        kind=kind,
        units=stop - start,
        graph=built.graph,
        blobs=built.blobs,
        kv_layers=built.kv_layers,
        width_in=built.width_in,
        width_out=built.width_out,
    )


def build_segment(model: Model, stage: StageRef, positions: int, wire: WireDtype = "fp32") -> BuiltSegment:
    """A stage's graph and weights as the nodes are told of them, for texts of so many positions."""
    spec = model.segment(stage.start, stage.stop, wire=wire, positions=positions)
    caches = {cache.layer: cache for cache in model.manifest.layers}
    return BuiltSegment(
        graph=BlobRef(sha256=spec.graph.sha256, size_bytes=spec.graph.size_bytes),
        blobs=tuple(BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes) for blob in spec.blobs),
        kv_layers=tuple(caches[layer].as_told() for layer in spec.layers),
        width_in=spec.width_in or 0,
        width_out=spec.width_out or 0,
    )

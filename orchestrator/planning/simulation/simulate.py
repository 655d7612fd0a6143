"""Plays a fleet that is not there: token streams through the stages of planned pipelines, event by event.

Every node is one server with one queue (a node runs one thread). A decode job takes what the plan says its stage
takes, times jitter, divided by the node's speed at that moment; jobs of several streams share a batch where the
device gains from it. A hop keeps its sender busy for `hop_busy_s` and arrives after `hop_s`. Prompts go through in
chunks. Given the same seed the same happens; there is no clock and nothing is measured.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.planning.cost import predict
from orchestrator.planning.problem import Device, Problem, Stage
from orchestrator.planning.simulation.scenario import (
    Balancer,
    FleetEvent,
    Happening,
    Move,
    NodeObservation,
    Observation,
    Record,
    Replan,
    StageObservation,
    Workload,
)
from orchestrator.planning.solution import Prediction
from orchestrator.planning.solver.replicas import answers_first
from orchestrator.planning.stage_cost import StageCost, stage_costs
from schemas.ewma import ewma
from schemas.messages import PROBE_BATCH

EWMA_WEIGHT = 0.2


@dataclass
class _Request:
    pipeline: int
    asked_at_s: float
    tokens: int = 0
    last_token_at_s: float = 0.0


@dataclass
class _Job:
    """One visit of one request to one stage: `tokens` of a prompt chunk, or one decode token."""

    request: _Request
    epoch: int
    tokens: int
    prefill: bool
    last: bool
    stage: int = 0


@dataclass
class _Figures:
    """What a stage says of itself: smoothed time and rows of its decode runs, positions ever computed."""

    run_s: float
    rows: float
    positions: int = 0


@dataclass
class _Node:
    device: Device
    speed: float = 1.0
    alive: bool = True
    busy: bool = False
    queue: deque[_Job] = field(default_factory=deque)
    token_s: float | None = None
    figures: dict[int, _Figures] = field(default_factory=dict)
    """By stage."""


@dataclass
class _Pipeline:
    problem: Problem
    stages: tuple[Stage, ...]
    planned: Prediction
    costs: tuple[StageCost, ...]
    epoch: int = 0
    in_flight: int = 0
    down: bool = False
    move: Move | None = None
    held: list[_Job] = field(default_factory=list)
    open: list[_Request] = field(default_factory=list)
    asked_tokens: int = 0


class Simulation:
    """One run. `problems` and `plan` belong together, one of each per pipeline; pipelines share no device."""

    def __init__(
        self,
        problems: Sequence[Problem],
        plans: Sequence[tuple[Stage, ...]],
        workload: Workload,
        events: Sequence[FleetEvent] = (),
        *,
        replan: Replan = lambda _: None,
        balancer: Balancer | None = None,
    ) -> None:
        self.workload = workload
        self.record = Record()
        self._replan = replan
        self._balancer = balancer
        self._draw = random.Random(workload.seed)
        self._pipelines = [
            _Pipeline(problem, plan, predict(problem, plan), stage_costs(problem, plan))
            for problem, plan in zip(problems, plans, strict=True)
        ]
        devices = {device.name: device for problem in problems for device in problem.devices}
        self._nodes = {name: _Node(device) for name, device in devices.items()}
        self._schedule: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._now = 0.0
        for event in events:
            self._at(event.at_s, lambda event=event: self._happen(event))  # type: ignore[misc]

    def run(self) -> Record:
        """Play until the workload's duration is over."""
        if self.workload.arrivals_per_s is None:
            for _ in range(self.workload.streams or 1):
                self._ask()
        else:
            self._arrive()
        if self._balancer is not None:
            self._at(self.workload.balance_every_s, self._balance)
        while self._schedule and self._schedule[0][0] <= self.workload.duration_s:
            self._now, _, action = heapq.heappop(self._schedule)
            action()
        self._now = self.workload.duration_s
        return self.record

    def _at(self, time_s: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._schedule, (time_s, self._order, action))

    def _say(self, text: str) -> None:
        self.record.diary.append(Happening(self._now, text))

    # Requests

    def _arrive(self) -> None:
        self._ask()
        self._at(self._now + self._draw.expovariate(self.workload.arrivals_per_s or 1.0), self._arrive)

    def _ask(self) -> None:
        pipeline = answers_first([self._expected_s(pipeline) for pipeline in self._pipelines])
        request = _Request(pipeline, self._now)
        self._pipelines[pipeline].open.append(request)
        self._pipelines[pipeline].asked_tokens += self.workload.answer_tokens
        self._prefill(request, self.workload.prompt_tokens)

    def _expected_s(self, pipeline: _Pipeline) -> float:
        """Seconds until a pipeline would have answered one request more: its open ones share the bottleneck."""
        if pipeline.down:
            return float("inf")
        planned = pipeline.planned
        return planned.ttft_s + self.workload.answer_tokens * planned.stream_token_s(len(pipeline.open) + 1)

    def _prefill(self, request: _Request, tokens: int) -> None:
        """Send a prompt (or, after a loss, prompt and tokens so far) to stage 0 in chunks."""
        pipeline = self._pipelines[request.pipeline]
        chunk = pipeline.problem.prefill_chunk_tokens
        for start in range(0, tokens, chunk):
            size = min(chunk, tokens - start)
            self._enter(pipeline, _Job(request, pipeline.epoch, size, prefill=True, last=start + size == tokens))

    def _enter(self, pipeline: _Pipeline, job: _Job) -> None:
        """Bring a job to stage 0, where it waits while the pipeline moves or is down."""
        if pipeline.down or pipeline.move is not None:
            pipeline.held.append(job)
            return
        pipeline.in_flight += 1
        self._queue(pipeline, job)

    def _token(self, pipeline: _Pipeline, request: _Request) -> None:
        """Take a token that the last stage has sampled."""
        if self._now >= self.workload.warmup_s:
            self.record.token_times_s.append(self._now)
            if request.tokens == 0:
                self.record.ttft_s.append(self._now - request.asked_at_s)
            else:
                self.record.token_gap_s.append(self._now - request.last_token_at_s)
        request.tokens += 1
        request.last_token_at_s = self._now
        if request.tokens < self.workload.answer_tokens:
            return
        pipeline.open.remove(request)
        self.record.finished += 1
        if self.workload.arrivals_per_s is None:
            self._ask()

    # Nodes

    def _queue(self, pipeline: _Pipeline, job: _Job) -> None:
        if job.epoch != pipeline.epoch:
            return
        name = pipeline.stages[job.stage].node
        node = self._nodes[name]
        node.queue.append(job)
        longest = self.record.longest_queue
        longest[name] = max(longest.get(name, 0), len(node.queue))
        if not node.busy:
            self._serve(pipeline, node)

    def _serve(self, pipeline: _Pipeline, node: _Node) -> None:
        """Take the next job, with other decode jobs of its stage when the device gains from a batch."""
        while node.queue and node.queue[0].epoch != pipeline.epoch:
            node.queue.popleft()
        if not node.queue or not node.alive:
            return
        batch = [node.queue.popleft()]
        if node.device.decode_batched_s is not None and not batch[0].prefill:
            while node.queue and len(batch) < PROBE_BATCH and self._joins(batch[0], node.queue[0]):
                batch.append(node.queue.popleft())
        cost = pipeline.costs[batch[0].stage]
        took_s = self._service_s(cost, batch) / node.speed
        if self.workload.jitter:
            took_s *= self._draw.lognormvariate(0.0, self.workload.jitter)
        if not batch[0].prefill:
            self._figure(node, batch, took_s)
        busy_s = took_s + (node.device.hop_busy_s * len(batch) if cost.leaves else 0.0)
        node.busy = True
        self.record.busy_s[node.device.name] = self.record.busy_s.get(node.device.name, 0.0) + busy_s
        self._at(self._now + busy_s, lambda: self._done(pipeline, node, batch))

    @staticmethod
    def _figure(node: _Node, batch: list[_Job], took_s: float) -> None:
        rows = float(len(batch))
        node.token_s = ewma(node.token_s, took_s / len(batch), EWMA_WEIGHT)
        seen = node.figures.setdefault(batch[0].stage, _Figures(took_s, rows))
        seen.run_s = ewma(seen.run_s, took_s, EWMA_WEIGHT)
        seen.rows = ewma(seen.rows, rows, EWMA_WEIGHT)
        seen.positions += len(batch)

    @staticmethod
    def _joins(first: _Job, other: _Job) -> bool:
        return not other.prefill and other.stage == first.stage and other.epoch == first.epoch

    @staticmethod
    def _service_s(cost: StageCost, batch: list[_Job]) -> float:
        """Compute time of a prompt chunk, or of a batch of decode tokens."""
        job = batch[0]
        if job.prefill:
            return job.tokens * cost.prompt_token_s + (cost.head_s if job.last else 0.0)
        return cost.run_s(len(batch))

    def _done(self, pipeline: _Pipeline, node: _Node, batch: list[_Job]) -> None:
        node.busy = False
        for job in batch:
            if job.epoch == pipeline.epoch and node.alive:
                self._pass_on(pipeline, node.device, job)
        self._serve(pipeline, node)

    def _pass_on(self, pipeline: _Pipeline, device: Device, job: _Job) -> None:
        """Pass a job to the next stage; from the last one comes a token, and the request's next job to stage 0."""
        problem, final = pipeline.problem, len(pipeline.stages) - 1
        hop_s = 0.0
        if pipeline.costs[job.stage].leaves:
            sent = job.tokens if job.stage < final else 1
            hop_s = device.hop_s - device.hop_busy_s + (sent - 1) * problem.row_s(device)
        if job.stage < final:
            job.stage += 1
            self._at(self._now + max(0.0, hop_s), lambda: self._queue(pipeline, job))
            return
        pipeline.in_flight -= 1
        if job.last:
            self._token(pipeline, job.request)
            if job.request in pipeline.open:
                following = _Job(job.request, pipeline.epoch, 1, prefill=False, last=True)
                self._at(self._now + max(0.0, hop_s), lambda: self._again(pipeline, following))
        self._move_when_empty(pipeline)

    def _again(self, pipeline: _Pipeline, job: _Job) -> None:
        if job.epoch == pipeline.epoch:
            self._enter(pipeline, job)

    # Moves and losses

    def _balance(self) -> None:
        assert self._balancer is not None
        for index, pipeline in enumerate(self._pipelines):
            if pipeline.down or pipeline.move is not None:
                continue
            move = self._balancer.decide(self._observe(index, pipeline))
            if move is not None and move.stages != pipeline.stages:
                pipeline.move = move
                self._say(f"pipeline {index} moves, held for {move.pause_s:.2f} s")
                self._move_when_empty(pipeline)
        self._at(self._now + self.workload.balance_every_s, self._balance)

    def _observe(self, index: int, pipeline: _Pipeline) -> Observation:
        nodes = [
            NodeObservation(
                name,
                node.token_s,
                len(node.queue),
                node.alive,
                tuple(StageObservation(at, it.run_s, it.rows, it.positions) for at, it in node.figures.items()),
            )
            for name, node in self._nodes.items()
            if name in pipeline.problem.device_by_name
        ]
        return Observation(
            self._now,
            index,
            pipeline.stages,
            tuple(nodes),
            requests=len(pipeline.open),
            remaining_tokens=sum(self.workload.answer_tokens - request.tokens for request in pipeline.open),
            positions=sum(self.workload.prompt_tokens + request.tokens for request in pipeline.open),
            asked_tokens=pipeline.asked_tokens,
        )

    def _move_when_empty(self, pipeline: _Pipeline) -> None:
        move, epoch = pipeline.move, pipeline.epoch
        if move is not None and pipeline.in_flight == 0:
            self._at(self._now + move.pause_s, lambda: self._switch(pipeline, move, epoch))

    def _switch(self, pipeline: _Pipeline, move: Move, epoch: int) -> None:
        if pipeline.move is not move or pipeline.epoch != epoch:
            return
        self._follow(pipeline, move.stages)
        pipeline.move = None
        held, pipeline.held = pipeline.held, []
        for job in held:
            self._enter(pipeline, job)

    def _follow(self, pipeline: _Pipeline, stages: tuple[Stage, ...]) -> None:
        for name in pipeline.problem.device_by_name:
            self._nodes[name].figures.clear()
        pipeline.stages, pipeline.planned = stages, predict(pipeline.problem, stages)
        pipeline.costs = stage_costs(pipeline.problem, stages)

    def _happen(self, event: FleetEvent) -> None:
        node = self._nodes[event.device]
        if event.speed is not None:
            node.speed = event.speed
            self._say(f"{event.device} runs at {event.speed:g} of its speed")
        if event.alive is None or event.alive == node.alive:
            return
        node.alive = event.alive
        self._say(f"{event.device} {'is back' if event.alive else 'leaves'}")
        for index, pipeline in enumerate(self._pipelines):
            used = any(stage.node == event.device for stage in pipeline.stages)
            belongs = event.device in pipeline.problem.device_by_name
            if belongs and (pipeline.down if event.alive else used):
                self._recover(index, pipeline)

    def _recover(self, index: int, pipeline: _Pipeline) -> None:
        """Plan on what is there for a pipeline that lost a node, or that has one back; load, replay what is open."""
        pipeline.epoch += 1
        pipeline.in_flight, pipeline.move, pipeline.held, pipeline.down = 0, None, [], True
        left = tuple(device for device in pipeline.problem.devices if self._nodes[device.name].alive)
        stages = self._replan(replace(pipeline.problem, devices=left, incumbent=pipeline.stages)) if left else None
        if stages is None:
            self._say(f"pipeline {index} is down: what is left can't hold the model")
            return
        epoch = pipeline.epoch

        def back() -> None:
            if pipeline.epoch != epoch:
                return
            if not all(self._nodes[stage.node].alive for stage in stages):
                self._recover(index, pipeline)
                return
            pipeline.down = False
            self._follow(pipeline, stages)
            self._say(f"pipeline {index} goes on over {len({stage.node for stage in stages})} nodes")
            pipeline.held = []
            for request in pipeline.open:
                self._prefill(request, self.workload.prompt_tokens + request.tokens)

        self._at(self._now + self.workload.reload_s, back)

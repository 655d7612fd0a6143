"""A live move on a simulated ring, step by step: what the orchestrator does, as the test wants it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from schemas.codec import request_number
from schemas.handover import kv_copies
from schemas.messages import (
    Basis,
    CopyKv,
    FinishKv,
    GoOn,
    HeldRequest,
    HoldRequests,
    KvTarget,
    PrepareSegment,
    ReleaseSegment,
)
from tests.support.simulated_ring import PIPELINE, SimulatedRing


class SimulatedMove:
    """From the ring in force to another one."""

    def __init__(self, ring: SimulatedRing, nodes: Sequence[str], cuts: Sequence[int]) -> None:
        self._ring = ring
        self._nodes, self._cuts = list(nodes), list(cuts)
        self._specs: list[PrepareSegment] = []
        self._basis = Basis(epoch=ring.epoch, ring=ring.refs)
        self._sources: list[int] = []
        ring.copied.clear()
        ring.held.clear()

    def prepare(self) -> None:
        """Load the new segments; returns when all are ready."""
        self._specs = self._ring.prepare(self._nodes, cuts=self._cuts, basis=self._basis)
        self._ring.run(lambda: len(self._ring.ready) == len(self._nodes))

    def copy(self) -> None:
        """Rows begin to travel."""
        targets: dict[int, list[KvTarget]] = defaultdict(list)
        refs = self._specs[0].ring
        for copy in kv_copies(self._basis.ring, refs, self._cuts[-1]):
            target = KvTarget(stage=copy.target, node=refs[copy.target].node, start=copy.start, stop=copy.stop)
            targets[copy.source].append(target)
        self._sources = list(targets)
        for source, wanted in targets.items():
            command = CopyKv(
                pipeline=PIPELINE,
                epoch=self._basis.epoch,
                stage=source,
                to_epoch=self._specs[0].epoch,
                targets=tuple(wanted),
            )
            self._ring.command(self._basis.ring[source].node, command)

    @property
    def has_caught_up(self) -> bool:
        """Have all sources?"""
        return len([copied for copied in self._ring.copied if not copied.final]) >= len(self._sources)

    def hold(self, limit_s: float = 60.0) -> None:
        """Stop at a token boundary."""
        self._ring.command(
            self._basis.ring[0].node, HoldRequests(pipeline=PIPELINE, epoch=self._basis.epoch, limit_s=limit_s)
        )

    def await_hold(self) -> tuple[HeldRequest, ...]:
        """Where the requests are held."""
        self._ring.run(lambda: bool(self._ring.held))
        return self._ring.held[-1].requests

    def finish(self, held: tuple[HeldRequest, ...], limit_s: float = 600.0) -> None:
        """The last rows travel; returns when they have been sent."""
        for source in self._sources:
            command = FinishKv(pipeline=PIPELINE, epoch=self._basis.epoch, stage=source, requests=held)
            self._ring.command(self._basis.ring[source].node, command)
        final = len(self._sources)
        self._ring.run(lambda: len([copied for copied in self._ring.copied if copied.final]) >= final, limit_s)

    def switch(self, held: tuple[HeldRequest, ...], *, moved: bool = True, missed: int = 0) -> None:
        """Open the requests in the new epoch and commit it. Those that ended meanwhile are closed before.

        Args:
            held: where they are held.
            moved: their rows have come along.
            missed: tokens of each that the orchestrator has not heard of.
        """
        refs = self._specs[0].ring
        answers = [(self._ring.answers[request_number(request.request)], request) for request in held]
        answers = [(answer, request) for answer, request in answers if not (answer.closed or answer.complete)]
        going_on = [answer for answer, _ in answers]
        ended = [answer for answer in self._ring.answers.values() if answer not in going_on and not answer.closed]
        self._ring.run(
            lambda: (
                all(len(answer.prompt_ids) + len(answer.ids) >= request.tokens for answer, request in answers)
                and all(answer.complete for answer in ended)
            )
        )
        for answer in ended:
            self._ring.close(answer)
        for answer, request in answers:
            for position in sorted(answer.tokens)[len(answer.tokens) - missed :]:
                del answer.tokens[position]
            self._ring.open_stages(
                answer,
                self._specs[0].epoch,
                [ref.node for ref in refs],
                [*answer.prompt_ids, *answer.ids],
                moved_tokens=request.valid_tokens if moved else 0,
            )
        self._ring.commit(self._specs[0])

    def roll_back(self) -> None:
        """Give it up."""
        for ref in self._basis.ring:
            self._ring.command(ref.node, GoOn(pipeline=PIPELINE, epoch=self._basis.epoch))
        for node in dict.fromkeys(self._nodes):
            self._ring.command(node, ReleaseSegment(pipeline=PIPELINE, epoch=self._specs[0].epoch))

    def go_slowly(self, pause: Callable[[], None], *, wait: bool, missed: int = 0) -> None:
        """All of it with pauses; if ``wait`` nothing is held before the targets have caught up."""
        self.prepare()
        self.copy()
        pause()
        if wait:
            self._ring.run(lambda: self.has_caught_up)
        self.hold()
        held = self.await_hold()
        pause()
        self.finish(held)
        pause()
        self.switch(held, missed=missed)
        pause()

    def go(self) -> None:
        """All of it."""
        self.prepare()
        self.copy()
        self._ring.run(lambda: self.has_caught_up)
        self.hold()
        held = self.await_hold()
        self.finish(held)
        self.switch(held)

"""The open requests of a deployment: what it knows of them and asks of them (a port; pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from orchestrator.deployment.plan import ReadyPlan
from orchestrator.effects import Effect


@dataclass(frozen=True)
class OpenWork:
    """What is open on the working plan."""

    requests: int = 0
    positions: int = 0
    """Prompts and answers so far: what KV caches hold."""
    answer_tokens: int = 0
    """Those of them that are the answers'."""
    remaining_tokens: int = 0
    """Most tokens that are still to come."""


class OpenRequests(Protocol):
    """A pipeline's requests, as far as those need them who change its plan."""

    @property
    def open_count(self) -> int:
        """Requests that stages hold a slot for."""

    @property
    def idle(self) -> bool:
        """Does nobody wait for an answer?"""

    @property
    def open_work(self) -> OpenWork:
        """How much KV cache the open requests hold, and how many tokens they may still want."""

    @property
    def in_prefill(self) -> bool:
        """Does an open request wait for the first token of its ring?"""

    def prepare_move(self, nodes: tuple[str, ...]) -> None:
        """Note that open requests move to these nodes, which may hold KV rows and are told of ends too; or to none."""

    def ring_broken(self, now_s: float) -> list[Effect]:
        """Interrupt the open requests, whose ring is gone: they wait, before all others, to go on in the next one."""

    def ring_returned(self, now_s: float) -> list[Effect]:
        """Have the ring go on at once with what is open: nodes of it that were cut off are back."""

    def move(self, active: ReadyPlan, held: Mapping[str, int], now_s: float) -> list[Effect]:
        """Open requests go on in the next ring, which holds so many of each one's positions, in that order."""

    def go_on(self, active: ReadyPlan, now_s: float) -> list[Effect]:
        """Go on with the requests that an earlier start of the orchestrator has opened in a plan that is adopted."""

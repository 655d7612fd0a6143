"""Tenure: which of several orchestrators serves a pipeline (pure).

Each says so in a retained message, with a will that takes it back. A new one asks first; one that is here answers. Two
that could not hear each other find out as soon as they can: the one of the higher generation stays.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, replace

from orchestrator.errors import PipelineTaken
from schemas import PACKAGE_VERSION
from schemas.messages import OrchestratorStatus


class Claim(enum.Enum):
    """What follows from another orchestrator's message."""

    NOTHING = "nothing"
    ASSERT = "assert"
    """Say again who serves."""
    YIELD = "yield"
    """Serve no longer."""


@dataclass(frozen=True)
class Tenure:
    """An orchestrator's own status, and what it makes of others'."""

    own: OrchestratorStatus

    @classmethod
    def begin(cls, pipeline: str, orchestrator: str, *, generation: int, host: str) -> Tenure:
        """Serve a pipeline from now on."""
        return cls(
            OrchestratorStatus(
                pipeline=pipeline,
                orchestrator=orchestrator,
                state="here",
                generation=generation,
                host=host,
                package_version=PACKAGE_VERSION,
                since=time.time(),
            )
        )

    @property
    def gone(self) -> OrchestratorStatus:
        """What is said at the end."""
        return replace(self.own, state="gone")

    def raised(self, generation: int) -> Tenure:
        """The same with the generation that its epochs have by now."""
        return Tenure(replace(self.own, generation=generation))

    def heard(self, other: OrchestratorStatus) -> Claim:
        """Take in a status that is not its own, or is."""
        if other.orchestrator == self.own.orchestrator or other.pipeline != self.own.pipeline:
            return Claim.NOTHING
        if other.state == "here" and _rank(other) > _rank(self.own):
            return Claim.YIELD
        return Claim.ASSERT


def _rank(status: OrchestratorStatus) -> tuple[int, str]:
    return status.generation, status.orchestrator


def taken(incumbent: OrchestratorStatus) -> PipelineTaken:
    """The error of a second orchestrator."""
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(incumbent.since))
    return PipelineTaken(
        f"an orchestrator serves pipeline {incumbent.pipeline} on this broker already: on {incumbent.host}, since"
        f" {since}, version {incumbent.package_version}; stop it, or take over from it with --take-over"
    )


def superseded(other: OrchestratorStatus) -> str:
    """Why one that served has to end."""
    return (
        f"another orchestrator, on {other.host}, has taken over pipeline {other.pipeline} on this broker: run only one"
        " of them"
    )

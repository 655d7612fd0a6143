"""Messages of orchestrators to each other: who serves, and what another one has to know to go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from schemas.contract import Items, Number, about
from schemas.operator_requests import MOST_LABELS, PlanConstraints
from schemas.parts import Count, Label, Line, Name, NodeLabel, UnsignedInt32
from schemas.registry import message


@message("orchestrator.status")
@dataclass(frozen=True, kw_only=True, slots=True)
class OrchestratorStatus:
    """Who serves a pipeline. Retained; ``gone`` is the orchestrator's will, and ``asks`` is never retained."""

    pipeline: Name = about("The pipeline.")
    orchestrator: Name = about("Which start of an orchestrator it is; drawn at random.")
    state: Literal["here", "gone", "asks"] = about("It serves, it does not any more, or it asks whether anybody does.")
    generation: UnsignedInt32 = about("That of its epochs: of two the higher one serves.", default=0)
    host: Line = about("The machine it runs on.", default="")
    package_version: Label = about("Version of the installed distribution.", default="")
    since: Annotated[float, Number(0, 1e12)] = about("When it began to serve, in seconds since 1970.", default=0.0)


@message("orchestrator.door")
@dataclass(frozen=True, kw_only=True, slots=True)
class DoorState:
    """May devices join the fleet? Retained; nothing of who is invited."""

    pipeline: Name = about("The pipeline of the orchestrator that lets them in.")
    open: bool = about("Whoever is invited may join.")
    open_until: Annotated[float, Number(0, 1e12)] | None = about(
        "When the last open invitation ends, in seconds since 1970; left out while nobody may join.", default=None
    )
    invited: Count = about("Invitations that may be used now.")


@message("orchestrator.wishes")
@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorWishes:
    """What operators want of a pipeline, as its orchestrator remembers it. Retained, for one that stands by."""

    pipeline: Name = about("The pipeline.")
    constraints: PlanConstraints = about("What plans are to respect.", default=PlanConstraints())
    drained: Annotated[tuple[Name, ...], Items(256)] = about("Nodes that are to be empty.", default=())
    model: Name | None = about("The model that is served.", default=None)
    labels: Annotated[tuple[tuple[Name, NodeLabel], ...], Items(MOST_LABELS)] = about(
        "Nodes and what people call them.", default=()
    )

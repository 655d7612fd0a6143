"""Requests of operators to a running orchestrator: one message for each operation.

The topic, ``control/{client}/{request}/submit``, says who asks and in which request; the answer's topic says so too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from schemas import limits
from schemas.contract import Items, Number, Text, about
from schemas.parts import Name, NodeLabel, Percent, RequestId
from schemas.registry import message

MOST_HISTORY = 200
MOST_EVENTS = 500
MOST_STORY_ENTRIES = 200
MOST_LABELS = 256
"""Nodes that are called otherwise than by their names."""

ObjectiveName = Literal["latency", "throughput", "balanced", "paper"]
UnitsText = Annotated[str, Text(min_length=1, max_length=64)]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConstraints:
    """What an operator wants of plans: an objective, and rules that every plan has to respect."""

    objective: ObjectiveName = about("What the best plan is best at.", default="latency")
    exclude: Annotated[tuple[Name, ...], Items(256)] = about("Nodes that get no layers.", default=())
    pins: Annotated[tuple[tuple[UnitsText, Name], ...], Items(256)] = about(
        "Units and the node that is to have them: embed, head, ends (both) or decoder blocks such as 0-9.", default=()
    )
    max_memory_mb: Annotated[tuple[tuple[Name, Annotated[int, Number(1, 2**30)]], ...], Items(256)] = about(
        "Nodes and the most memory that each may be given, in MB (10^6 bytes).", default=()
    )
    context_tokens: Annotated[int, Number(limits.MIN_CONTEXT_TOKENS, limits.MAX_CONTEXT_TOKENS)] | None = about(
        "Tokens of prompt and answer together; left out: as the orchestrator was started.", default=None
    )
    min_battery_percent: Percent | None = about("Nodes with less charge get no layers.", default=None)
    only_on_charger: bool = about("Nodes that run on their battery get no layers.", default=False)


@message("control.nodes")
@dataclass(frozen=True, kw_only=True, slots=True)
class ShowNodes:
    """Who is there, and how are they doing? Answered by ``control.nodes.reply``."""


@message("control.plan")
@dataclass(frozen=True, kw_only=True, slots=True)
class ShowPlan:
    """Which plan is in force? Answered by ``control.plan.reply``."""


@message("control.status")
@dataclass(frozen=True, kw_only=True, slots=True)
class ShowStatus:
    """How is the service? Answered by ``control.status.reply``."""


@message("control.top")
@dataclass(frozen=True, kw_only=True, slots=True)
class ShowOverview:
    """What do pipelines and nodes do at this moment? Answered by ``control.top.reply``."""


@message("control.why")
@dataclass(frozen=True, kw_only=True, slots=True)
class ShowDecisions:
    """Why did layers move or stay? Answered by ``control.why.reply``."""


@message("control.history")
@dataclass(frozen=True, kw_only=True, slots=True)
class ShowHistory:
    """Which plans were in force? Answered by ``control.history.reply``."""

    limit: Annotated[int, Number(1, MOST_HISTORY)] = about("Most plans to tell of, the newest first.", default=20)


@message("control.events")
@dataclass(frozen=True, kw_only=True, slots=True)
class ShowEvents:
    """What happened lately? Answered by ``control.events.reply``."""

    limit: Annotated[int, Number(1, MOST_EVENTS)] = about("Most events to tell of, the newest.", default=MOST_EVENTS)


@message("control.trace")
@dataclass(frozen=True, kw_only=True, slots=True)
class ShowStory:
    """What became of a request? Answered by ``control.trace.reply``."""

    request: RequestId | None = about("The request; null for the newest one.", default=None)


@message("control.preview")
@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewConstraints:
    """What would the best plan be? Answered by ``control.preview.reply``, or ``control.preview.no_plan``."""

    constraints: PlanConstraints = about("What it is to respect.", default=PlanConstraints())


@message("control.apply")
@dataclass(frozen=True, kw_only=True, slots=True)
class ApplyConstraints:
    """Plan with these constraints, now and from now on. Answered by ``control.apply.reply`` once a plan is in force."""

    constraints: PlanConstraints = about("What plans are to respect.", default=PlanConstraints())


@message("control.replan")
@dataclass(frozen=True, kw_only=True, slots=True)
class Replan:
    """Make a new plan, whatever it gains. Answered by ``control.replan.reply`` once it is in force."""


@message("control.rebalance")
@dataclass(frozen=True, kw_only=True, slots=True)
class Rebalance:
    """Compare each plan in force with the best one, and move where that saves time. Answered by
    ``control.rebalance.reply``."""

    dry_run: bool = about("Only compare.", default=False)


@message("control.use_model")
@dataclass(frozen=True, kw_only=True, slots=True)
class UseModel:
    """Serve another model. Answered by ``control.use_model.reply`` once it is served."""

    model: Name = about("The model's name.")


@message("control.drain")
@dataclass(frozen=True, kw_only=True, slots=True)
class DrainNode:
    """Empty a node and give it no layers. Asked again it says how far that is. Answered by ``control.drain.reply``."""

    node: Name = about("The node.")
    undo: bool = about("Let it have layers again.", default=False)


@message("control.rename")
@dataclass(frozen=True, kw_only=True, slots=True)
class RenameNode:
    """Call a node something else where people see it; its name stays. Answered by ``control.rename.reply``."""

    node: Name = about("The node.")
    label: NodeLabel = about("What people call it, no two nodes the same; empty: its name.", default="")


OperatorRequest = (
    ShowNodes
    | ShowPlan
    | ShowStatus
    | ShowOverview
    | ShowDecisions
    | ShowHistory
    | ShowEvents
    | ShowStory
    | PreviewConstraints
    | ApplyConstraints
    | Replan
    | Rebalance
    | UseModel
    | DrainNode
    | RenameNode
)

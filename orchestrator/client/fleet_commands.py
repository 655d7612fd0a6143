"""The commands that a client of the orchestrator can give, each by its own name."""

from __future__ import annotations

from orchestrator.client.control_calls import REPLAN_TIMEOUT_S, SOLVE_TIMEOUT_S, Reply
from schemas.contract import load
from schemas.messages import (
    MOST_EVENTS,
    ApplyConstraints,
    ApplyReply,
    DecisionsReply,
    DrainNode,
    DrainReply,
    EventsReply,
    HistoryReply,
    NodesReply,
    NoPlanReply,
    OperatorRequest,
    OverviewReply,
    PlanConstraints,
    PlanReply,
    PreviewConstraints,
    PreviewReply,
    Rebalance,
    RebalanceReply,
    RenameNode,
    RenameReply,
    Replan,
    ReplanReply,
    ShowDecisions,
    ShowEvents,
    ShowHistory,
    ShowNodes,
    ShowOverview,
    ShowPlan,
    ShowStatus,
    ShowStory,
    StatusReply,
    StoryReply,
    UseModel,
    UseModelReply,
)


class FleetCommands:
    """Reads how the fleet is, and changes it; errors as in `command`."""

    def command(self, command: OperatorRequest, *answers: type[Reply], timeout_s: float | None = None) -> Reply:
        """Give a command and return its answer, which is of one of the types ``answers``."""
        raise NotImplementedError

    def nodes(self) -> NodesReply:
        """All nodes, and how they are doing."""
        return self.command(ShowNodes(), NodesReply)

    def plan(self) -> PlanReply:
        """The plans in force."""
        return self.command(ShowPlan(), PlanReply)

    def status(self, *, timeout_s: float | None = None) -> StatusReply:
        """The state of the service."""
        return self.command(ShowStatus(), StatusReply, timeout_s=timeout_s)

    def overview(self) -> OverviewReply:
        """All pipelines and nodes as they are at this moment."""
        return self.command(ShowOverview(), OverviewReply)

    def decisions(self) -> DecisionsReply:
        """The decisions about why layers moved or stayed."""
        return self.command(ShowDecisions(), DecisionsReply)

    def history(self, limit: int) -> HistoryReply:
        """The newest plans that were in force."""
        return self.command(ShowHistory(limit=limit), HistoryReply)

    def past_events(self, limit: int = MOST_EVENTS) -> EventsReply:
        """The newest events."""
        return self.command(ShowEvents(limit=limit), EventsReply)

    def story(self, request: str | None = None) -> StoryReply:
        """The story of a request, by default of the newest one."""
        return self.command(ShowStory(request=request), StoryReply)

    def preview(self, constraints: PlanConstraints) -> PreviewReply | NoPlanReply:
        """The best plan under constraints; nothing is changed."""
        answers: tuple[type[PreviewReply | NoPlanReply], ...] = (PreviewReply, NoPlanReply)
        return self.command(PreviewConstraints(constraints=constraints), *answers, timeout_s=SOLVE_TIMEOUT_S)

    def apply(self, constraints: PlanConstraints, *, timeout_s: float = REPLAN_TIMEOUT_S) -> ApplyReply:
        """Put the best plan under constraints in force, and remember them."""
        return self.command(ApplyConstraints(constraints=constraints), ApplyReply, timeout_s=timeout_s)

    def replan(self) -> ReplanReply:
        """Make the plan anew."""
        return self.command(Replan(), ReplanReply, timeout_s=REPLAN_TIMEOUT_S)

    def rebalance(self, *, dry_run: bool = False, timeout_s: float | None = None) -> RebalanceReply:
        """Compare the plans in force with the best ones, and move where it pays."""
        usual_s = SOLVE_TIMEOUT_S if dry_run else REPLAN_TIMEOUT_S
        return self.command(Rebalance(dry_run=dry_run), RebalanceReply, timeout_s=timeout_s or usual_s)

    def use_model(self, model: str) -> UseModelReply:
        """Serve another model."""
        return self.command(UseModel(model=model), UseModelReply, timeout_s=REPLAN_TIMEOUT_S)

    def drain(self, node: str, *, undo: bool = False) -> DrainReply:
        """Empty a node, or let it have layers again."""
        return self.command(DrainNode(node=node, undo=undo), DrainReply)

    def rename(self, node: str, label: str) -> RenameReply:
        """Call a node something else where people see it; empty: by its name."""
        return self.command(load(RenameNode, {"node": node, "label": label}), RenameReply)

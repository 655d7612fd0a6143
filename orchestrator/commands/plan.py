"""``linguabus plan``: which node runs what, what that should give, and what else there could be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import click

from broker.option_types import FiniteRange, WholeRange
from orchestrator.commands.connection import connect
from orchestrator.commands.output import print_json
from orchestrator.commands.plan_changes import changes, describe_changes
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from orchestrator.text.figures import SHORT_AGES, age_text, megabytes
from orchestrator.text.table import table
from schemas import limits
from schemas.contract import dump, load
from schemas.messages import (
    MOST_HISTORY,
    CommittedPlan,
    MovesView,
    NoPlanReply,
    PipelineDecisions,
    PlanConstraints,
    PlanInForce,
    PlanOnItsWay,
    PlanReply,
    PreviewReply,
    StageView,
    StandbyView,
)

HEADINGS = ("stage", "node", "units", "decode ms", "hop ms", "planned", "limit", "peak RSS", "on disk")
WHY_HEADINGS = ("when", "times", "decision", "gain", "reason")
HISTORY_HEADINGS = ("epoch", "pipeline", "since", "objective", "model", "ring", "tokens/s", "many")


@click.group("plan", invoke_without_command=True, epilog="Example: linguabus plan --json")
@click.option("--again", is_flag=True, help="Make a new plan first, whatever it gains.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON object.")
@bus_options
@pass_settings
@click.pass_context
def command(context: click.Context, settings: Settings, again: bool, as_json: bool) -> None:
    """Show the plan in force: stages, memory, predicted speed; and the one that is to follow it."""
    if context.invoked_subcommand is not None:
        if again or as_json:
            raise click.UsageError(f"put the options behind {context.invoked_subcommand}")
        return
    with connect(settings) as client:
        if again:
            client.replan()
        plan = client.plan()
    if as_json:
        print_json(dump(plan))
    else:
        click.echo(describe_all(plan))


def _pairs(what: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], list[list[str]]]:
    """Splits ``A=B`` options."""

    def split(_context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[list[str]]:
        pairs = [value.partition("=") for value in values]
        if any(not left or not right for left, _, right in pairs):
            raise click.BadParameter(f"write {what}", param=parameter)
        return [[left, right] for left, _, right in pairs]

    return split


def _limits(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[list[Any]]:
    pairs = _pairs("NODE=MB")(context, parameter, values)
    if any(not size_mb.isdecimal() for _, size_mb in pairs):
        raise click.BadParameter("write NODE=MB, with a whole number of MB", param=parameter)
    return [[node, int(size_mb)] for node, size_mb in pairs]


def constraint_options(function: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command with the options that ``preview`` and ``apply`` have in common."""
    options = (
        click.option(
            "--objective", type=click.Choice(["latency", "throughput", "balanced", "paper"]), default="latency",
            show_default=True, help="One reader, many readers, both, or LinguaLinked's published model.",
        ),
        click.option("--exclude", metavar="NODE", multiple=True, help="Leave a node out."),
        click.option(
            "--pin", "pins", metavar="UNITS=NODE", multiple=True, callback=_pairs("UNITS=NODE"),
            help="Keep units on a node: embed, head, ends (both) or blocks such as 0-9.",
        ),
        click.option(
            "--max-memory", "max_memory_mb", metavar="NODE=MB", multiple=True, callback=_limits,
            help="Most memory that a node may be given, in MB.",
        ),
        click.option(
            "--min-battery", "min_battery_percent", type=FiniteRange(0, 100), metavar="PERCENT",
            help="Leave out nodes whose battery is below, also once it falls below.",
        ),
        click.option("--only-on-charger", is_flag=True, help="Leave out nodes that run on their battery."),
        click.option(
            "--context", "context_tokens", type=WholeRange(limits.MIN_CONTEXT_TOKENS, limits.MAX_CONTEXT_TOKENS),
            help="Tokens of prompt and answer together. [default: as the orchestrator was started]",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        bus_options,
        pass_settings,
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@command.command("preview", epilog="Example: linguabus plan preview --objective throughput --pin ends=my-phone")
@constraint_options
def preview(settings: Settings, as_json: bool, **constraints: Any) -> None:
    """Show the best plan under constraints, what else was possible and why; change nothing."""
    from orchestrator.planning.explain.render import as_text, profiles_text
    from orchestrator.planning.simulation.play import replicas_text

    with connect(settings) as client:
        said = client.preview(_constraints(constraints))
    if as_json:
        print_json({**dump(said), "constraints": asdict(said.constraints)})
    else:
        parts = [as_text(said.explanation), profiles_text(said.profiles)]
        if isinstance(said, PreviewReply) and said.explanation.division:
            parts.insert(1, "The fleet would be divided: " + replicas_text(said.explanation.division))
        click.echo("\n\n".join(parts))
    if isinstance(said, NoPlanReply):
        raise click.exceptions.Exit(2)


def _constraints(options: dict[str, Any]) -> PlanConstraints:
    """The constraints that the options of `constraint_options` state.

    Raises:
        MemberError: a node's name that none can have, or a figure that is too large.
    """
    found: PlanConstraints = load(
        PlanConstraints, {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    )
    return found


@command.command("apply", epilog="Example: linguabus plan apply --exclude old-tablet")
@constraint_options
def apply(settings: Settings, as_json: bool, **constraints: Any) -> None:
    """Make the best plan under constraints the one in force, and remember them for all later plans.

    Without any, earlier constraints are forgotten.
    """
    wanted = _constraints(constraints)
    with connect(settings) as client:
        changed = client.apply(wanted).changed
        plan = client.plan()
    if (wanted.context_tokens or 0) > plan.context_tokens:
        text = f"note: {plan.model} takes no more than {plan.context_tokens} tokens, which are its context now"
        click.echo(text, err=True)
    if as_json:
        print_json({"changed": changed, "plan": dump(plan)})
    else:
        click.echo(("" if changed else "This is the plan in force already.\n") + describe_all(plan))


@command.command("why", epilog="Example: linguabus plan why --json")
@click.option("--limit", type=WholeRange(1, MOST_HISTORY), default=20, show_default=True, help="Newest decisions.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@bus_options
@pass_settings
def why(settings: Settings, limit: int, as_json: bool) -> None:
    """Say why layers moved or stayed: the decisions so far, the newest last."""
    with connect(settings) as client:
        said = client.decisions()
    pipelines = tuple(replace(one, decisions=one.decisions[-limit:]) for one in said.pipelines)
    if as_json:
        print_json(dump(replace(said, pipelines=pipelines)))
    else:
        click.echo("\n\n".join(describe_why(pipeline) for pipeline in pipelines) or "There is no pipeline yet.")


@command.command("history", epilog="Example: linguabus plan history --limit 5")
@click.option("--limit", type=WholeRange(1, MOST_HISTORY), default=20, show_default=True, help="Newest plans.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@bus_options
@pass_settings
def history(settings: Settings, limit: int, as_json: bool) -> None:
    """List the plans that were in force, the newest first."""
    with connect(settings) as client:
        said = client.history(limit)
    if as_json:
        print_json(dump(said))
    elif said.plans:
        click.echo(table(HISTORY_HEADINGS, [_history_row(plan) for plan in said.plans]))
    else:
        click.echo("There was no plan yet.")


@command.command("diff", epilog="Example: linguabus plan diff 3-1 3-2")
@click.argument("before")
@click.argument("after")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@bus_options
@pass_settings
def diff(settings: Settings, before: str, after: str, as_json: bool) -> None:
    """Compare two plans of the history, by their epochs."""
    with connect(settings) as client:
        plans = {plan.epoch: plan for plan in client.history(MOST_HISTORY).plans}
    for epoch in (before, after):
        if epoch not in plans:
            raise click.UsageError(f"there is no plan {epoch} in the history: see linguabus plan history")
    difference = changes(plans[before], plans[after])
    if as_json:
        print_json(difference)
    else:
        click.echo(describe_changes(difference))


def describe_all(plan: PlanReply) -> str:
    """The plans of all pipelines for people."""
    if len(plan.pipelines) == 1:
        return describe(plan)
    return "\n\n".join(f"{one.pipeline}: {describe(one)}" for one in plan.pipelines)


def _kv(plan: PlanInForce) -> str:
    """How keys and values are kept, where that is not as models are."""
    if plan.kv_dtype in (None, "fp32"):
        return ""
    others = f" (in {plan.kv_fp16_blocks} of {plan.unit_count - 2} blocks in fp16)" if plan.kv_fp16_blocks else ""
    return f", keys and values in {plan.kv_dtype}{others}"


def describe(plan: PlanInForce) -> str:
    """The plan for people."""
    rows = [_row(stage) for stage in plan.stages]
    batches = plan.batches[-1]
    note = f"\n{plan.solver_note}" if plan.solver_note else ""
    left_out = f"\nleft out: {plan.left_out}" if plan.left_out else ""
    margin = f"memory limits leave {plan.memory_margin:.0%} of each node's memory free\n" if plan.memory_margin else ""
    before = "" if plan.in_force else "This plan was in force until now; another one is on its way.\n"
    return (
        f"{before}{plan.model} in epoch {plan.epoch}: {plan.context_tokens} tokens of context, {plan.slots} "
        f"requests at once in {batches} {'batch' if batches == 1 else 'batches'}, {plan.wire_dtype} on the wire"
        f"{_kv(plan)}{f', {plan.draft} guesses' if plan.draft else ''}\n"
        f"{table(HEADINGS, rows)}\n{margin}{_standby(plan)}"
        f"predicted {plan.predicted_tokens_per_s:.1f} tokens/s for one request "
        f"({plan.predicted_decode_ms:.1f} ms per token), bottleneck {plan.bottleneck_node}; "
        f"{plan.objective} plan, {plan.status}, by {plan.solver} in {plan.solve_ms:.0f} ms"
        f"{note}{_moves(plan.moves)}{_successor(plan.next)}{left_out}"
    )


def _successor(successor: PlanOnItsWay | None) -> str:
    if successor is None:
        return ""
    ring = " > ".join(f"{stage.node} ({stage.units})" for stage in successor.stages)
    return f"\nnext: {successor.model} in epoch {successor.epoch}, {successor.state}: {ring}"


def _moves(moves: MovesView) -> str:
    """The live move under way, else the last one."""
    now, last = moves.now, moves.last
    if now:
        copied = f", {megabytes(now.copied_bytes)} of {megabytes(now.expected_bytes)} copied"
        waits = f", waits for {', '.join(now.waits_for)}" if now.waits_for else ""
        how = copied if now.mode == "copy" else ", KV rows are computed again"
        return f"\nmoving {now.units} to epoch {now.to_epoch}: {now.phase}{how}{waits}"
    if last:
        return f"\nlast move: {last.units}, readers waited {last.paused_s * 1e3:.0f} ms"
    return ""


def describe_why(pipeline: PipelineDecisions) -> str:
    """A pipeline's decisions for people."""
    where = f"in epoch {pipeline.epoch}" if pipeline.epoch else "has no plan"
    rows = [
        (
            f"{age_text(decision.last_s_ago, SHORT_AGES)} ago",
            f"{decision.times} x",
            decision.verdict,
            f"{decision.gain:.1%}" if decision.gain else "-",
            decision.reason,
        )
        for decision in pipeline.decisions
    ]
    lines = [f"{pipeline.pipeline} {where}"]
    lines.append(table(WHY_HEADINGS, rows) if rows else "Nothing had to be decided yet.")
    if pipeline.stays:
        lines.append(f"The plan stays for now: {pipeline.stays}")
    return "\n".join(lines)


def _row(stage: StageView) -> tuple[str, ...]:
    return (
        str(stage.stage),
        stage.node,
        stage.units,
        f"{stage.predicted_decode_ms:.2f}",
        f"{stage.predicted_hop_ms:.2f}",
        megabytes(stage.planned_bytes),
        megabytes(stage.memory_limit_bytes),
        megabytes(stage.peak_rss_bytes) if stage.peak_rss_bytes is not None else "-",
        megabytes(stage.stored_bytes),
    )


def _standby(plan: PlanInForce) -> str:
    """Which units of its neighbours each node keeps on its disk."""
    nodes: dict[str, list[StandbyView]] = {}
    for kept in plan.standby:
        nodes.setdefault(kept.node, []).append(kept)
    lines = []
    for node, ranges in nodes.items():
        total, here = ranges[0].node_bytes, ranges[0].node_bytes_on_disk
        how_much = megabytes(total) if here is None else f"{megabytes(here)} of {megabytes(total)} on disk"
        lines.append(f"{node} keeps {'; '.join(kept.units for kept in ranges)} on standby: {how_much}\n")
    return "".join(lines)


def _history_row(plan: CommittedPlan) -> tuple[str, ...]:
    ring = " > ".join(f"{stage.node} {stage.stop - stage.start}" for stage in plan.stages)
    return (
        plan.epoch,
        plan.pipeline,
        datetime.fromtimestamp(plan.committed_at).isoformat(" ", "seconds"),
        plan.objective,
        plan.model,
        ring,
        f"{plan.predicted_tokens_per_s:.1f}",
        f"{plan.predicted_tokens_per_s_many:.1f}",
    )

"""``linguabus rebalance``: is there a better plan by now, what would it give, and what would a move cost?"""

from __future__ import annotations

import click

from orchestrator.commands.connection import connect
from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from orchestrator.text.figures import megabytes
from orchestrator.text.table import table
from schemas.contract import dump
from schemas.messages import ComparedFigures, ExpectedMove, PlanComparison, RebalanceReply

HEADINGS = ("node", "now", "ms", "best", "ms")


@click.command("rebalance", epilog="Example: linguabus rebalance --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@bus_options
@pass_settings
def command(settings: Settings, dry_run: bool, as_json: bool) -> None:
    """Make the plan anew with the speeds observed since, and move layers if that saves any time. Every pipeline keeps
    its nodes."""
    with connect(settings) as client:
        said = client.rebalance(dry_run=dry_run)
    if as_json:
        print_json(dump(said))
    else:
        click.echo(describe(said))


def describe(said: RebalanceReply) -> str:
    """The comparisons for people."""
    compared = said.pipelines
    if len(compared) == 1:
        texts, between = [_describe(compared[0])], "\n"
    else:
        texts, between = [f"{one.pipeline}: {_describe(one)}" for one in compared], "\n\n"
    if any(one.moves for one in compared):
        if said.changed is None:
            texts.append("nothing was changed: do it with linguabus rebalance")
        else:
            texts.append("moved" if said.changed else "nothing was moved")
    return between.join(texts)


def _describe(said: PlanComparison) -> str:
    """The comparison of one pipeline for people."""
    now, best = said.now, said.best
    lines = [f"epoch {said.epoch}: {said.reason}"]
    if best:
        before, after = _by_node(now), _by_node(best)
        nodes = dict.fromkeys([*before, *after])
        rows = [(node, *before.get(node, ("-", "-")), *after.get(node, ("-", "-"))) for node in nodes]
        lines.append(table(HEADINGS, rows))
        lines += [f"{name}: {_speed(plan)}" for name, plan in (("now", now), ("best", best)) if plan]
    if said.moves:
        lines.append(_move(said.move))
    return "\n".join(lines)


def _by_node(plan: ComparedFigures | None) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for stage in plan.stages if plan else ():
        units, decode_ms = found.get(stage.node, ("", "0"))
        both = f"{units}; {stage.units}" if units else stage.units
        found[stage.node] = (both, f"{float(decode_ms) + stage.decode_ms:.2f}")
    return found


def _speed(plan: ComparedFigures) -> str:
    return (
        f"{plan.decode_ms:.1f} ms per token, {plan.tokens_per_s:.1f} tokens/s for one request,"
        f" {plan.tokens_per_s_many:.1f} for many"
    )


def _move(move: ExpectedMove | None) -> str:
    if move is None:
        return "open requests can't be moved live: both plans do not fit beside each other"
    lost = f"answers under way lose about {move.lost_ms:.0f} ms"
    if move.mode == "prefill":
        return f"{lost}: their KV rows are computed again"
    return f"{lost}: {megabytes(move.copy_bytes)} of KV rows are copied in {move.copy_ms:.0f} ms while they go on"

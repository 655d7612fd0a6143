"""``linguabus plan``: which node runs what, and what that should give."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.commands.connection import connect
from orchestrator.commands.output import megabytes, print_json, table
from orchestrator.commands.settings import Settings, bus_options, pass_settings

REPLAN_TIMEOUT_S = 600.0
"""Nodes may have to fetch their parts before the new plan is in force."""

HEADINGS = ("stage", "node", "units", "decode ms", "hop ms", "planned", "limit", "peak RSS", "on disk")


@click.command("plan", epilog="Example: linguabus plan --json")
@click.option("--again", is_flag=True, help="Make a new plan first, whatever it gains.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON object.")
@bus_options
@pass_settings
def command(settings: Settings, again: bool, as_json: bool) -> None:
    """Show the plan in force: stages, memory, predicted speed."""
    with connect(settings) as client:
        if again:
            client.control("replan", timeout_s=REPLAN_TIMEOUT_S)
        plan = client.control("plan")
    if as_json:
        print_json(plan)
    else:
        click.echo(describe(plan))


def describe(plan: dict[str, Any]) -> str:
    """The plan for people."""
    rows = [_row(stage) for stage in plan["stages"]]
    return (
        f"{plan['model']} in epoch {plan['epoch']}: {plan['context_tokens']} tokens of context, {plan['slots']} "
        f"requests at once, {plan['wire_dtype']} on the wire\n{table(HEADINGS, rows)}\n"
        f"predicted {plan['predicted_tokens_per_s']:.1f} tokens/s for one request "
        f"({plan['predicted_decode_ms']:.1f} ms per token), bottleneck {plan['bottleneck_node']}; "
        f"{plan['objective']} plan, {plan['status']}, by {plan['solver']} in {plan['solve_ms']:.0f} ms"
    )


def _row(stage: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(stage["stage"]),
        stage["node"],
        stage["units"],
        f"{stage['predicted_decode_ms']:.2f}",
        f"{stage['predicted_hop_ms']:.2f}",
        megabytes(stage["planned_bytes"]),
        megabytes(stage["memory_limit_bytes"]),
        megabytes(stage["peak_rss_bytes"]) if stage["peak_rss_bytes"] is not None else "-",
        megabytes(stage["stored_bytes"]),
    )

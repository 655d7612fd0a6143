"""``linguabus nodes``: who is there and how they are doing."""

from __future__ import annotations

from collections.abc import Sequence

import click

from orchestrator.commands.connection import connect
from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from orchestrator.text.figures import megabytes, size_text
from orchestrator.text.table import table
from schemas.contract import dump
from schemas.messages import NodeView

HEADINGS = (
    "node", "state", "memory", "limit", "blobs", "GFLOP/s", "hop ms", "CPU %", "battery", "sent", "received", "tokens",
    "platform",
)  # fmt: skip


@click.command("nodes", epilog="Example: linguabus nodes --json")
@click.option("--json", "as_json", is_flag=True, help="Print all that is known as one JSON object.")
@bus_options
@pass_settings
def command(settings: Settings, as_json: bool) -> None:
    """List the nodes: memory, speed, what lending them costs; with several pipelines, whose layers a node holds.

    What was sent and received is counted since the node's start, with all headers; tokens are those of answers that it
    had a part in. A battery's rates are known after ten minutes of work, or of none.
    """
    with connect(settings) as client:
        result = client.nodes()
    if as_json:
        print_json(dump(result))
    elif result.nodes:
        click.echo(describe(result.nodes))
    else:
        click.echo(f"no nodes yet: {_how_to_add(settings)}")


def _how_to_add(settings: Settings) -> str:
    if settings.address.username:
        return "invite one with 'linguabus invite NAME'"
    return f"start one with 'linguabus node --broker {settings.address}'"


def describe(nodes: Sequence[NodeView]) -> str:
    """The table of nodes for people."""
    headings: tuple[str, ...] = HEADINGS
    rows = [_row(node) for node in nodes]
    if any(node.label for node in nodes):
        headings = (headings[0], "called", *headings[1:])
        rows = [(row[0], node.label or "-", *row[1:]) for node, row in zip(nodes, rows, strict=True)]
    held = [_pipelines(node) for node in nodes]
    if len(set().union(*held)) > 1:
        headings = (*headings, "pipeline")
        rows = [(*row, ", ".join(sorted(names)) or "-") for row, names in zip(rows, held, strict=True)]
    return table(headings, rows)


def _pipelines(node: NodeView) -> set[str]:
    """The pipelines whose stages a node holds that is here."""
    return {stage.pipeline for stage in node.stages} if node.state == "online" else set()


def _row(node: NodeView) -> tuple[str, ...]:
    return (
        node.node,
        ": ".join(filter(None, (node.state, node.reason or node.drained))),
        "-" if node.rss_bytes is None else megabytes(node.rss_bytes),
        megabytes(node.memory_bytes),
        "-" if node.blob_bytes is None else megabytes(node.blob_bytes),
        f"{node.speed_flops / 1e9:.1f}",
        f"{node.hop_ms:.2f}",
        "-" if node.cpu_percent is None else f"{node.cpu_percent:.0f}",
        _battery(node),
        "-" if node.sent_bytes is None else size_text(node.sent_bytes),
        "-" if node.received_bytes is None else size_text(node.received_bytes),
        "-" if node.tokens is None else str(node.tokens),
        node.platform,
    )


def _battery(node: NodeView) -> str:
    """The charge and, once they are known, what it loses or gains in an hour of work and in one without."""
    if node.battery_percent is None:
        return "-"
    rates = {"serving": node.battery_serving_percent_per_hour, "idle": node.battery_idle_percent_per_hour}
    told = [f"{rate:+.1f}/h {when}" for when, rate in rates.items() if rate is not None]
    return ", ".join([f"{node.battery_percent:.0f} %", *told])

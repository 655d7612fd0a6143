"""``linguabus demo``: the whole thing on this machine, in one command."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

import click

from broker.option_types import WholeRange
from orchestrator.client import Client
from orchestrator.commands.answers import cancel_on_interrupt, cut_mark, tokens_per_s
from orchestrator.commands.exits import INTERRUPTED
from orchestrator.commands.output import describe_broker, warn_of_few_files
from orchestrator.commands.progress import ProgressLines
from orchestrator.commands.settings import default_cache
from orchestrator.commands.terminal import show_piece
from orchestrator.text.figures import megabytes
from orchestrator.text.table import table
from schemas.messages import ChatMessage, StageView

if TYPE_CHECKING:
    from orchestrator.commands.demo_fleet import Fleet

QUESTION = "What is the capital of Japan?"
SYSTEM = "Answer in one short sentence."
MAX_TOKENS = 48


@click.command("demo", epilog="Example: linguabus demo --nodes 4 --question 'What is water made of?'")
@click.option("--question", default=QUESTION, show_default=True, help="What to ask.")
@click.option("--nodes", type=WholeRange(2, 8), default=3, show_default=True, help="How many nodes to start.")
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C, for questions of your own.")
@click.option("--page", "wants_page", is_flag=True, help="As --keep, with a page in the browser for questions.")
def command(question: str, nodes: int, keep: bool, wants_page: bool) -> int:
    """Start a broker, an orchestrator and nodes that are each too small for the model, and ask it something."""
    from orchestrator.commands.demo_fleet import memory_plan, node_overhead_bytes, running_fleet
    from orchestrator.commands.demo_model import demo_model

    warn_of_few_files()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    cache = default_cache()
    with ProgressLines() as progress:
        store, model = demo_model(cache, progress=progress)
    manifest = store.show(model)
    memory = memory_plan(manifest, nodes, node_overhead_bytes())
    click.echo(f"model   {model}: {manifest.num_layers} blocks, {megabytes(manifest.weight_bytes)} of weights")
    with running_fleet(cache / "demo", model, memory.limits_mb) as fleet:
        limits = ", ".join(megabytes(limit * 10**6) for limit in memory.limits_mb)
        click.echo(f"broker  {describe_broker(fleet.broker)}")
        alone = megabytes(memory.alone_bytes)
        click.echo(f"nodes   {nodes} processes that may use {limits}; one alone would need {alone}")
        with Client.connect(fleet.broker.url) as client:
            fleet.wait_until_serving(client, lambda line: click.echo(f"        {line}"))
            plan = client.plan()
            click.echo("ring    " + " -> ".join(f"{stage.node} ({stage.units})" for stage in plan.stages))
            code = _ask(client, question)
            if code:
                return code
            click.echo(_holdings(client, fleet))
        if wants_page:
            click.echo(f"\nin a browser: {fleet.open_page()}")
        if keep or wants_page:
            _wait(fleet)
    click.echo("everything is stopped")
    return 0


def _ask(client: Client, question: str) -> int:
    click.echo(f"\n> {question}")
    messages = [ChatMessage(role="system", content=SYSTEM), ChatMessage(role="user", content=question)]
    answer = client.ask(messages, max_tokens=MAX_TOKENS)
    with cancel_on_interrupt(answer) as cancellation:
        for piece in answer:
            show_piece(piece)
    assert answer.end is not None
    end = answer.end
    speed = f"{tokens_per_s(end):.1f} tokens/s, the first after {end.ttft_s:.2f} s"
    mark = cut_mark(end, MAX_TOKENS)
    click.echo(f"{mark and f' {mark}'}\n\n{end.completion_tokens} tokens, {speed}\n")
    return INTERRUPTED if cancellation.stopped else 0


def _holdings(client: Client, fleet: Fleet) -> str:
    """The table of what each node holds, as planned and as found."""
    on_disk = {node.node: fleet.blob_bytes(node.node) for node in client.nodes().nodes}
    plan = client.plan()  # asked for last: standby units may be arriving
    standby = {kept.node: kept.node_bytes for kept in plan.standby}
    stages: dict[str, list[StageView]] = {}
    for stage in plan.stages:
        stages.setdefault(stage.node, []).append(stage)
    rows = []
    for node, (stage, *others) in stages.items():  # memory and blobs are the node's, the same in all its stages
        rows.append((
            node,
            " and ".join(part.units for part in (stage, *others)),
            megabytes(stage.memory_limit_bytes),
            megabytes(stage.planned_bytes),
            megabytes(stage.peak_rss_bytes or 0),
            megabytes(stage.stored_bytes),
            megabytes(standby.get(node, 0)),
            megabytes(on_disk[node]),
        ))  # fmt: skip
    headings = ("node", "holds", "memory limit", "planned", "peak found", "blobs planned", "standby", "on disk")
    return table(headings, rows)


def _wait(fleet: Fleet) -> None:
    """Wait for Ctrl-C; ends with an error when a part of the fleet ends."""
    click.echo(f"\nask it something: linguabus ask --broker {fleet.broker.url} 'Who are you?'   (stop with Ctrl-C)")
    over = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: over.set())
    while not over.wait(1.0):
        fleet.check()


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt

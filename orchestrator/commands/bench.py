"""``linguabus bench``: how fast the running pipeline answers."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable

import click

from broker.option_types import WholeRange
from orchestrator.client import Client
from orchestrator.commands.bench_report import Combination, Load, Measured, Result, Spread, make_prompt, summarise
from orchestrator.commands.bench_streams import Streams, measure
from orchestrator.commands.connection import connect
from orchestrator.commands.exits import INTERRUPTED
from orchestrator.commands.interrupts import leave_on_signals, stop_on_interrupt
from orchestrator.commands.output import print_json
from orchestrator.commands.progress import ProgressLines
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from orchestrator.text.table import table
from schemas.messages import PlanReply

_SAMPLE_WORDS = 40


def _counts(most: int) -> Callable[[click.Context, click.Parameter, str], tuple[int, ...]]:
    """Make an option's callback for whole numbers from 1 to ``most`` with commas between them; each counts once."""

    def parse(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
        try:
            counts = tuple(dict.fromkeys(int(part) for part in value.split(",")))
        except ValueError:
            raise click.BadParameter(f"{value!r}: use numbers with commas between them", context, parameter) from None
        if not all(1 <= count <= most for count in counts):
            raise click.BadParameter(f"{value!r}: use numbers from 1 to {most}", context, parameter)
        return counts

    return parse


@click.command(
    "bench",
    epilog="Example: linguabus bench --prompt-tokens 32,256 --output-tokens 64 --concurrency 1,4 --repeat 5",
)
@click.option(
    "--prompt-tokens",
    callback=_counts(100_000),
    metavar="N,N,...",
    default="32,256",
    show_default=True,
    help="Lengths of the prompts, roughly; the report has the real ones.",
)
@click.option(
    "--output-tokens",
    callback=_counts(100_000),
    metavar="N,N,...",
    default="64",
    show_default=True,
    help="Most tokens of an answer.",
)
@click.option(
    "--concurrency",
    callback=_counts(256),
    metavar="N,N,...",
    default="1,4",
    show_default=True,
    help="How many streams ask at the same time.",
)
@click.option(
    "--repeat",
    type=WholeRange(1, 10_000),
    default=3,
    show_default=True,
    help="Answers per stream and combination that count.",
)
@click.option(
    "--warm-up",
    type=WholeRange(0, 10_000),
    default=1,
    show_default=True,
    help="Answers per stream and combination before those.",
)
@click.option(
    "--seed",
    type=WholeRange(0, 2**53),
    help="Same seed, same prompts; nodes may still remember those of the last run. [default: random]",
)
@click.option(
    "--same-prompt",
    is_flag=True,
    help="The same prompt each time, as a common system prompt would be: nodes need not compute it again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@bus_options
@pass_settings
def command(
    settings: Settings,
    prompt_tokens: tuple[int, ...],
    output_tokens: tuple[int, ...],
    concurrency: tuple[int, ...],
    repeat: int,
    warm_up: int,
    seed: int | None,
    same_prompt: bool,
    as_json: bool,
) -> int:
    """Measure the running pipeline: every combination of prompt length, output length and number of streams."""
    load = Load(repeat, warm_up, secrets.randbelow(2**32) if seed is None else seed, same_prompt)
    combinations = [
        Combination(prompt, output, streams)
        for prompt in prompt_tokens
        for output in output_tokens
        for streams in concurrency
    ]
    streams = Streams(lambda: connect(settings), seed=load.seed)
    results: list[Result] = []
    with connect(settings) as client:
        plan = client.plan()
        words_per_token = _words_per_token(client, load.seed)
    try:
        with stop_on_interrupt(streams), leave_on_signals(), ProgressLines() as progress:
            for combination in combinations:
                prompts = load.prompts(combination, words_per_token)
                answers = _run(streams, combination, prompts, load.warm_up, progress)
                if streams.stopped:
                    break
                results.append(summarise(combination, answers))
    finally:  # Ctrl-C and errors leave what was measured before
        if results and as_json:
            _show_json(results, plan, load)
        elif results:
            _show_tables(results, plan, load)
    return INTERRUPTED if streams.stopped else 0


def _words_per_token(client: Client, seed: int) -> float:
    """Words per token of the model's tokenizer, found by one short question."""
    asked = measure(client, make_prompt(_SAMPLE_WORDS, f"{seed} words"), 1, seed)
    return _SAMPLE_WORDS / max(asked.end.prompt_tokens, 1)


def _run(
    streams: Streams, combination: Combination, prompts: list[list[str]], warm_up: int, progress: ProgressLines
) -> list[Measured]:
    total = sum(len(mine) - warm_up for mine in prompts)

    def tell(done: int) -> None:
        progress(str(combination), done, total)

    tell(0)
    return streams.run(prompts, combination.output_tokens, warm_up, tell)


def _show_json(results: list[Result], plan: PlanReply, load: Load) -> None:
    pipeline = {key: getattr(plan, key) for key in ("model", "epoch", "slots", "context_tokens", "wire_dtype")}
    nodes = [stage.node for stage in plan.stages]
    rows = [dataclasses.asdict(one) for one in results]
    print_json({**pipeline, "nodes": nodes, **dataclasses.asdict(load), "results": rows})


def _show_tables(results: list[Result], plan: PlanReply, load: Load) -> None:
    nodes = " -> ".join(stage.node for stage in plan.stages)
    click.echo(f"{plan.model} on {nodes}; {plan.slots} slots, wire {plan.wire_dtype}, seed {load.seed}\n")
    click.echo(_table_of_answers(results))
    if any(result.stages for result in results):
        click.echo(f"\n{_table_of_stages(results)}")
    if early := sum(result.ended_early for result in results):
        asked = sum(result.answers for result in results)
        click.echo(f"\n{early} of {asked} answers ended before --output-tokens.")


def _table_of_answers(results: list[Result]) -> str:
    headings = ("prompt", "output", "streams", "answers", "TTFT p50 ms", "p95", "TPOT p50 ms", "p95", "tokens/s",
                "per answer", "bubble %")  # fmt: skip
    return table(headings, [
        (
            f"{one.prompt_tokens:.0f}", f"{one.completion_tokens:.0f}", str(one.combination.streams), str(one.answers),
            *_milliseconds(one.ttft_s), *_milliseconds(one.tpot_s), f"{one.tokens_per_s:.1f}",
            "-" if one.answer_tokens_per_s is None else f"{one.answer_tokens_per_s:.1f}",
            "-" if one.bubble_share is None else f"{100 * one.bubble_share:.0f}",
        )
        for one in results
    ])  # fmt: skip


def _milliseconds(spread: Spread | None) -> tuple[str, str]:
    return (f"{1e3 * spread.p50:.1f}", f"{1e3 * spread.p95:.1f}") if spread else ("-", "-")


def _table_of_stages(results: list[Result]) -> str:
    headings = ("prompt", "output", "streams", "stage", "node", "decode ms/step", "prefill ms", "busy %",
                "bytes/token and hop")  # fmt: skip
    return table(headings, [
        (
            f"{one.prompt_tokens:.0f}", f"{one.completion_tokens:.0f}", str(one.combination.streams), str(share.stage),
            share.node, f"{share.decode_ms:.2f}", f"{share.prefill_ms:.1f}", f"{100 * share.utilisation:.0f}",
            f"{share.bytes_per_token:.0f}",
        )
        for one in results
        for share in one.stages
    ])  # fmt: skip

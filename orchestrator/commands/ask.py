"""``linguabus ask``: one question, one answer."""

from __future__ import annotations

import dataclasses
import sys

import click

from broker.option_types import WholeRange
from orchestrator.client import Answer
from orchestrator.commands.answers import (
    AnswerOptions,
    answer_options,
    cancel_on_interrupt,
    cut_mark,
    statistics,
    tokens_per_s,
)
from orchestrator.commands.connection import connect
from orchestrator.commands.exits import INTERRUPTED
from orchestrator.commands.form_options import form_options, grammar_of
from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from orchestrator.commands.terminal import as_typed, show_piece
from orchestrator.commands.waiting_line import patience_option, told_waiting
from schemas.limits import MAX_ALTERNATIVES
from schemas.messages import ChatMessage, StreamEnd


@click.command("ask", epilog="Example: linguabus ask 'What is the capital of Japan?' --max-tokens 40 --stats")
@click.argument("prompt", required=False)
@answer_options
@click.option(
    "--raw",
    is_flag=True,
    help="Give PROMPT to the model as it is, without the chat template. Only so do markers in it, such as <|im_end|>, "
    "become control tokens; otherwise what you write is text.",
)
@form_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of text as it comes.")
@click.option(
    "--logprobs",
    type=WholeRange(0, MAX_ALTERNATIVES),
    help="With --json: how likely the model found each token, and so many of the likeliest at its place.",
)
@click.option("--stats", is_flag=True, help="Print times and sizes on stderr: TTFT, tokens/s, each stage's share.")
@patience_option
@bus_options
@pass_settings
def command(
    settings: Settings,
    prompt: str | None,
    wanted: AnswerOptions,
    raw: bool,
    json_schema: str | None,
    json_object: bool,
    as_json: bool,
    logprobs: int | None,
    stats: bool,
    patience_s: float,
) -> int:
    """Ask the model a question and print the answer as it comes.

    Without PROMPT the question is what comes from standard input, unless that is a terminal; PROMPT - reads it from
    there in any case. An answer that is not whole is marked on stderr; what it waits for is said there, too.
    """
    if prompt is None or prompt == "-":
        prompt = _read_stdin(wanted=prompt == "-")
    prompt = as_typed(prompt)
    if not prompt.strip():
        raise click.UsageError("PROMPT is empty")
    if raw and wanted.system is not None:
        raise click.UsageError("--system needs the chat template, which --raw turns off")
    if logprobs is not None and not as_json:
        raise click.UsageError("--logprobs needs --json, which has room for them")
    grammar = grammar_of(json_schema, json_object=json_object)
    sampling = wanted.sampling()
    messages = [*wanted.opening(), ChatMessage(role="user", content=prompt)]
    with connect(settings) as client:
        answer = client.ask(
            () if raw else messages,
            prompt=prompt if raw else None,
            max_tokens=wanted.max_tokens,
            sampling=sampling,
            stop=wanted.stop,
            grammar=grammar,
            logprobs=logprobs,
            stats=stats,
            patience_s=patience_s,
        )
        try:
            with cancel_on_interrupt(answer) as cancellation, told_waiting(answer):
                for piece in answer:
                    if not as_json:
                        show_piece(piece)
        finally:
            if answer.text and not as_json:
                click.echo()
    end = answer.end
    assert end is not None
    if as_json:
        report = _report(answer, end, sampling.seed)
        if logprobs is not None:
            report["logprobs"] = [dataclasses.asdict(token) for token in answer.logprobs]
        print_json(report)
    elif mark := cut_mark(end, wanted.max_tokens):
        click.echo(mark, err=True)
    if stats:
        click.echo(statistics(end, answer.times.interrupted_s), err=True)
    return INTERRUPTED if cancellation.stopped or end.finish_reason == "cancelled" else 0


def _read_stdin(*, wanted: bool) -> str:
    """Read the question from standard input. ``wanted``: somebody asked for it, so that a terminal is all right too."""
    if not wanted and sys.stdin.isatty():
        raise _missing_prompt()
    try:
        return sys.stdin.read()
    except OSError:  # it can't be read
        raise _missing_prompt() from None


def _missing_prompt() -> click.UsageError:
    context = click.get_current_context()
    return click.MissingParameter(ctx=context, param_hint="'PROMPT'", param_type="argument")


def _report(answer: Answer, end: StreamEnd, seed: int) -> dict[str, object]:
    return {
        **dataclasses.asdict(end),
        "text": answer.text,
        "token_ids": answer.token_ids,
        "tokens_per_s": round(tokens_per_s(end), 2),
        "interrupted_s": round(answer.times.interrupted_s, 3),
        "seed": seed,
    }

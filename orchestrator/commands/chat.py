"""``linguabus chat``: a conversation."""

from __future__ import annotations

import contextlib

import click

from orchestrator.client import AnswerFailed, AnswerIncomplete, Client
from orchestrator.commands.answers import cancel_on_interrupt, make_sampling, sampling_options, statistics
from orchestrator.commands.connection import connect
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from orchestrator.commands.terminal import as_typed
from schemas.errors import MessageError
from schemas.messages import ChatMessage, Sampling


@click.command("chat", epilog="Example: linguabus chat --system 'You answer in one sentence.' --temperature 0.7")
@sampling_options
@click.option("--stats", is_flag=True, help="Print times and sizes on stderr after each answer.")
@bus_options
@pass_settings
def command(
    settings: Settings,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
    seed: int | None,
    system: str | None,
    stats: bool,
) -> None:
    """Talk with the model. /reset forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C cancels an answer."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() editing and history)
    first = [ChatMessage(role="system", content=as_typed(system))] if system is not None else []
    history = list(first)
    with connect(settings) as client:
        client.status()
        while (line := _read_line()) is not None:
            if line == "/exit":
                return
            if line == "/reset":
                history = list(first)
            elif line.startswith("/"):
                click.echo(f"no such command: {line}; there are /reset and /exit", err=True)
            elif line:
                sampling = make_sampling(temperature, top_k, top_p, repetition_penalty, seed)
                history = _turn(client, history, line, max_tokens, sampling, stats)


def _read_line() -> str | None:
    """The next line without surrounding blanks; "" after Ctrl-C, None at the end of input."""
    try:
        return input("> ").strip()
    except KeyboardInterrupt:
        click.echo()
        return ""
    except EOFError:
        click.echo()
        return None


def _turn(
    client: Client, history: list[ChatMessage], line: str, max_tokens: int, sampling: Sampling, stats: bool
) -> list[ChatMessage]:
    """Ask, print, and return the history with this turn; a turn that failed leaves it as it was."""
    messages = [*history, ChatMessage(role="user", content=line)]
    try:
        answer = client.ask(messages, max_tokens=max_tokens, sampling=sampling, stats=stats)
        with cancel_on_interrupt(answer):
            for piece in answer:
                click.echo(piece, nl=False)
    except (AnswerFailed, AnswerIncomplete, MessageError) as error:
        click.echo()
        click.echo(f"Error: {error}", err=True)
        return history
    click.echo()
    if stats and answer.end is not None:
        click.echo(statistics(answer.end), err=True)
    return [*messages, ChatMessage(role="assistant", content=answer.text)]

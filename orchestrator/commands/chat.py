"""``linguabus chat``: a conversation."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import click

from orchestrator.client import Answer, AnswerFailed, AnswerIncomplete, QuestionTooLong
from orchestrator.commands.answers import (
    AnswerOptions,
    answer_options,
    cancel_on_interrupt,
    cut_by_context,
    cut_mark,
    statistics,
)
from orchestrator.commands.connection import connect
from orchestrator.commands.exits import INTERRUPTED
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from orchestrator.commands.terminal import show_piece
from orchestrator.commands.waiting_line import patience_option, told_waiting
from schemas.errors import MessageError
from schemas.messages import ChatMessage

HELP = """\
/reset  forget the conversation
/help   print this
/exit   leave, as Ctrl-D and two Ctrl-C at an empty prompt do
Ctrl-C  cancel the answer that is being made"""

_Ask = Callable[[list[ChatMessage]], Answer]


@click.command("chat", epilog="Example: linguabus chat --system 'You answer in one sentence.' --temperature 0.7")
@answer_options
@click.option("--keep-all", is_flag=True, help="Refuse what the context has no room for, instead of dropping turns.")
@click.option("--stats", is_flag=True, help="Print times and sizes on stderr after each answer.")
@patience_option
@bus_options
@pass_settings
def command(
    settings: Settings,
    wanted: AnswerOptions,
    keep_all: bool,
    stats: bool,
    patience_s: float,
) -> int:
    """Talk with the model. /help lists what else can be typed; Ctrl-C cancels an answer, Ctrl-D leaves.

    When the context is full, the older half of the turns is dropped.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() editing and history)
    with connect(settings) as client:

        def ask(messages: list[ChatMessage]) -> Answer:
            return client.ask(
                messages,
                max_tokens=wanted.max_tokens,
                sampling=wanted.sampling(),
                stop=wanted.stop,
                stats=stats,
                patience_s=patience_s,
            )

        return _talk(Conversation(ask, wanted.opening(), wanted.max_tokens, keep_all=keep_all, stats=stats))


def _talk(conversation: Conversation) -> int:
    interrupts = 0
    while (line := _read_line()) is not None:
        interrupts = interrupts + 1 if line == _INTERRUPT else 0
        if interrupts == 2:
            return INTERRUPTED
        if interrupts:
            click.echo("(Ctrl-C again leaves)", err=True)
        elif line == "/exit":
            return 0
        elif line == "/reset":
            conversation.reset()
        elif line == "/help":
            click.echo(HELP)
        elif line.startswith("/"):
            click.echo(f"no such command: {line}; /help lists them", err=True)
        elif line:
            conversation.say(line)
    return 0


_INTERRUPT = "\x03"


def _read_line() -> str | None:
    """The next line without surrounding blanks, None at the end of input.

    `_INTERRUPT` after Ctrl-C at an empty prompt; where something was typed, that is thrown away: "".
    """
    try:
        return input("> ").strip()
    except KeyboardInterrupt:
        click.echo()
        return "" if _typed() else _INTERRUPT
    except EOFError:
        click.echo()
        return None


def _typed() -> str:
    """The text in the line that is being edited."""
    readline = sys.modules.get("readline")
    return readline.get_line_buffer().strip() if readline else ""


class Conversation:
    """A conversation: the turns so far, and the opening in front of them."""

    def __init__(self, ask: _Ask, opening: list[ChatMessage], max_tokens: int, *, keep_all: bool, stats: bool) -> None:
        self._ask = ask
        self._opening = opening
        self._max_tokens = max_tokens
        self._keep_all = keep_all
        self._stats = stats
        self._turns: list[tuple[ChatMessage, ChatMessage]] = []
        """Questions with their answers."""
        self._told = False

    def reset(self) -> None:
        """Forget the turns."""
        self._turns.clear()
        self._told = False

    def say(self, line: str) -> None:
        """Ask, print the answer and remember both; a turn that failed is forgotten."""
        question = ChatMessage(role="user", content=line)
        while True:
            earlier = [message for turn in self._turns for message in turn]
            try:
                answer = self._ask([*self._opening, *earlier, question])
                with cancel_on_interrupt(answer), told_waiting(answer):
                    for piece in answer:
                        show_piece(piece)
                break
            except AnswerFailed as error:
                is_full = error.code == "too_long" and bool(self._turns)
                if is_full and not self._keep_all:
                    self._drop_turns()
                    continue
                _tell_failure(f"{error}; /reset forgets the conversation" if is_full else str(error))
                return
            except (AnswerIncomplete, MessageError, QuestionTooLong) as error:
                _tell_failure(str(error))
                return
        click.echo()
        assert answer.end is not None
        if mark := cut_mark(answer.end, self._max_tokens):
            click.echo(mark, err=True)
        if self._stats:
            click.echo(statistics(answer.end, answer.times.interrupted_s), err=True)
        self._turns.append((question, ChatMessage(role="assistant", content=answer.text)))
        if cut_by_context(answer.end, self._max_tokens) and not self._keep_all:
            self._drop_turns()

    def _drop_turns(self) -> None:
        """Forget the older half of the turns: the rest stays for a while, so that nodes need not compute it again."""
        del self._turns[: (len(self._turns) + 1) // 2]
        if not self._told:
            self._told = True
            click.echo("[the context is full: the oldest turns are dropped from here on; /reset drops all]", err=True)


def _tell_failure(reason: str) -> None:
    click.echo()
    click.echo(f"Error: {reason}", err=True)

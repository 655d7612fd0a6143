"""What `ask` and `chat` share: options of an answer, Ctrl-C that cancels, figures about an answer."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from broker.option_types import FiniteRange, WholeRange
from orchestrator.client import Answer
from orchestrator.client.question import random_seed
from orchestrator.commands.interrupts import stop_on_interrupt
from orchestrator.commands.output import on_output_gone
from orchestrator.commands.terminal import as_typed
from orchestrator.text.table import table
from schemas.limits import MAX_ANSWER_TOKENS, MAX_STOP_CHARACTERS, MAX_STOP_STRINGS
from schemas.messages import ChatMessage, Sampling, StageTiming, StreamEnd


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """The options of an answer: what is asked for, apart from the question."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    stop: tuple[str, ...]
    system: str | None

    def sampling(self) -> Sampling:
        """The sampling parameters; without a seed each answer has its own."""
        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=random_seed() if self.seed is None else self.seed,
        )

    def opening(self) -> list[ChatMessage]:
        """What a conversation begins with: the system message, if there is one."""
        return [] if self.system is None else [ChatMessage(role="system", content=as_typed(self.system))]


def _stop_strings(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(texts) > MAX_STOP_STRINGS:
        raise click.BadParameter(f"{len(texts)} texts, the most are {MAX_STOP_STRINGS}")
    if any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in texts):
        raise click.BadParameter(f"a text has 1 to {MAX_STOP_CHARACTERS} characters")
    return tuple(map(as_typed, texts))


def answer_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command with the options of `AnswerOptions`, which it is given as ``wanted``."""

    @functools.wraps(function)
    def with_wanted(*args: Any, **kwargs: Any) -> Any:
        wanted = AnswerOptions(**{field.name: kwargs.pop(field.name) for field in dataclasses.fields(AnswerOptions)})
        return function(*args, wanted=wanted, **kwargs)

    options = (
        click.option("--max-tokens", type=WholeRange(1, MAX_ANSWER_TOKENS), default=256, show_default=True,
                     help="Most tokens to generate."),
        click.option("--temperature", type=FiniteRange(0, 100), default=0.0, show_default=True,
                     help="0 always takes the likeliest token; higher is more varied."),
        click.option("--top-k", type=WholeRange(0, 1_000_000), default=0, show_default=True,
                     help="Choose among the K likeliest tokens; 0 is all."),
        click.option("--top-p", type=FiniteRange(0, 1), default=1.0, show_default=True,
                     help="Choose among the likeliest tokens that together have this probability."),
        click.option("--min-p", type=FiniteRange(0, 1), default=0.0, show_default=True,
                     help="Choose among tokens at least this many times as likely as the likeliest; 0 is all."),
        click.option("--repetition-penalty", type=FiniteRange(0.1, 10), default=1.0, show_default=True,
                     help="Above 1, tokens that were there already become less likely."),
        click.option("--presence-penalty", type=FiniteRange(-2, 2), default=0.0, show_default=True,
                     help="Above 0, tokens that the answer has already become less likely."),
        click.option("--frequency-penalty", type=FiniteRange(-2, 2), default=0.0, show_default=True,
                     help="Above 0, the oftener the answer has a token, the less likely it becomes."),
        click.option("--seed", type=WholeRange(0, 2**53), help="Same seed, same answer. [default: random]"),
        click.option("--stop", metavar="TEXT", multiple=True, callback=_stop_strings,
                     help="End the answer before this text; may be given several times."),
        click.option("--system", metavar="TEXT", help="The system message."),
    )  # fmt: skip
    command: Callable[..., Any] = with_wanted
    for option in reversed(options):
        command = option(command)
    return command


@dataclass
class Cancellation:
    """The cancellation of an answer; ``stopped`` after Ctrl-C."""

    answer: Answer
    stopped: bool = False

    def stop(self) -> None:
        """Cancel the answer."""
        self.stopped = True
        self.answer.cancel()


@contextlib.contextmanager
def cancel_on_interrupt(answer: Answer) -> Iterator[Cancellation]:
    """Cancel an answer on the first Ctrl-C, and leave at once on the second.

    The answer is also cancelled when nobody can read what is printed.
    """
    cancellation = Cancellation(answer)
    with stop_on_interrupt(cancellation), on_output_gone(answer.cancel):
        yield cancellation


def tokens_per_s(end: StreamEnd) -> float:
    """Decode speed: tokens after the first one, by the time after the first one."""
    decode_s = end.total_s - end.ttft_s
    return (end.completion_tokens - 1) / decode_s if end.completion_tokens > 1 and decode_s > 0 else 0.0


def cut_mark(end: StreamEnd, max_tokens: int) -> str:
    """What to print on stderr behind an answer that is not whole; empty for one that is."""
    if end.finish_reason == "cancelled":
        return f"[cut: cancelled after {end.completion_tokens} tokens]"
    if cut_by_context(end, max_tokens):
        return f"[cut: the context is full after {end.completion_tokens} tokens]"
    return f"[cut: {end.completion_tokens} tokens]" if end.finish_reason == "length" else ""


def cut_by_context(end: StreamEnd, max_tokens: int) -> bool:
    """Did the answer end because the context had no room for as many tokens as were asked for?"""
    return end.finish_reason == "length" and end.completion_tokens < max_tokens


def statistics(end: StreamEnd, interrupted_s: float) -> str:
    """The figures of ``--stats``, for people; ``interrupted_s``: how long the answer stood still."""
    pause = f"{interrupted_s:.1f} s of it interrupted, " if interrupted_s else ""
    summary = (
        f"TTFT {end.ttft_s:.3f} s for {end.prompt_tokens} prompt tokens; {end.completion_tokens} tokens in "
        f"{end.total_s:.3f} s, {pause}{tokens_per_s(end):.1f} tokens/s ({end.finish_reason})"
    )
    rows = [_stage_row(stage) for stage in end.stages]
    if not rows:
        return summary
    headings = ("stage", "node", "prefill ms", "decode ms/token", "steps", "bytes/token and hop", "dropped")
    return f"{summary}\n{table(headings, rows)}"


def _stage_row(stage: StageTiming) -> tuple[str, ...]:
    steps = max(stage.decode_steps, 1)
    return (
        str(stage.stage),
        stage.node,
        f"{stage.prefill_s * 1e3:.1f}",
        f"{stage.decode_s / steps * 1e3:.2f}",
        str(stage.decode_steps),
        f"{stage.decode_bytes_out / steps:.0f}",
        str(stage.frames_dropped),
    )

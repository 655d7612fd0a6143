"""What `ask` and `chat` share: sampling options, Ctrl-C that cancels, figures about an answer."""

from __future__ import annotations

import contextlib
import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import click

from orchestrator.client import Answer
from orchestrator.commands.output import on_output_gone
from orchestrator.text.table import table
from schemas.limits import MAX_ANSWER_TOKENS
from schemas.messages import Sampling, StageTiming, StreamEnd

_F = TypeVar("_F", bound=Callable[..., Any])


def sampling_options(function: _F) -> _F:
    """Add the options that `make_sampling` takes, ``--max-tokens`` and ``--system``."""
    options = (
        click.option("--max-tokens", type=click.IntRange(1, MAX_ANSWER_TOKENS), default=256, show_default=True,
                     help="Most tokens to generate."),
        click.option("--temperature", type=click.FloatRange(0, 100), default=0.0, show_default=True,
                     help="0 always takes the likeliest token; higher is more varied."),
        click.option("--top-k", type=click.IntRange(0, 1_000_000), default=0, show_default=True,
                     help="Choose among the K likeliest tokens; 0 is all."),
        click.option("--top-p", type=click.FloatRange(0, 1), default=1.0, show_default=True,
                     help="Choose among the likeliest tokens that together have this probability."),
        click.option("--repetition-penalty", type=click.FloatRange(0.1, 10), default=1.0, show_default=True,
                     help="Above 1, tokens that were there already become less likely."),
        click.option("--seed", type=click.IntRange(0, 2**53), help="Same seed, same answer. [default: random]"),
        click.option("--system", metavar="TEXT", help="The system message."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def make_sampling(
    temperature: float, top_k: int, top_p: float, repetition_penalty: float, seed: int | None
) -> Sampling:
    """Sampling from the options; without a seed each answer has its own."""
    return Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=secrets.randbelow(2**53) if seed is None else seed,
    )


@dataclass
class Interrupt:
    """``pressed`` is true after Ctrl-C."""

    pressed: bool = False


@contextlib.contextmanager
def cancel_on_interrupt(answer: Answer) -> Iterator[Interrupt]:
    """The first Ctrl-C cancels the answer on the nodes, the second one leaves at once. It is cancelled too when nobody
    can read what is printed."""
    interrupt = Interrupt()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if interrupt.pressed:
            raise KeyboardInterrupt
        interrupt.pressed = True
        answer.cancel()

    before = signal.signal(signal.SIGINT, handle)
    try:
        with on_output_gone(answer.cancel):
            yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


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
    """Was there no room for as many tokens as were asked for?"""
    return end.finish_reason == "length" and end.completion_tokens < max_tokens


def statistics(end: StreamEnd) -> str:
    """The figures of ``--stats``, for people."""
    summary = (
        f"TTFT {end.ttft_s:.3f} s for {end.prompt_tokens} prompt tokens; {end.completion_tokens} tokens in "
        f"{end.total_s:.3f} s, {tokens_per_s(end):.1f} tokens/s ({end.finish_reason})"
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

"""A request on one stage: its slot, its place by the position rule, its input queue and what it has cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from edge_node.guessing import Guesser
from edge_node.positions import PositionRule
from edge_node.ring import RingDriver
from edge_node.work import Draw, Row
from schemas.codec import Flag, Frame
from schemas.messages import OpenRequest, Sampling, StageTiming


@dataclass(slots=True)
class StageRequest:
    """A request on this stage."""

    open: OpenRequest
    slot: int
    rule: PositionRule = field(default_factory=PositionRule)
    driver: RingDriver | None = None
    guesser: Guesser | None = None
    """Last stage, where guessing is wanted."""
    guesses: dict[int, Sequence[int]] = field(default_factory=dict)
    """Last stage: the newest guess, by the position of its first token."""
    chosen_s: float | None = None
    """Last stage: when the last token was chosen."""
    frames: deque[Frame] = field(default_factory=deque)
    tokens: dict[int, int] = field(default_factory=dict)
    """Last stage: generated tokens by position."""
    finish: Flag = Flag.NONE
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_steps: int = 0
    positions: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    decode_bytes_out: int = 0
    frames_dropped: int = 0
    waiting: bool = False
    """Has a turn."""

    @property
    def has_input(self) -> bool:
        """Is there something to compute?"""
        return bool(self.driver.steps if self.driver else self.frames)

    @property
    def next_count(self) -> int:
        """Positions of the next input."""
        return len(self.driver.steps[0].ids) if self.driver else self.frames[0].count

    def is_decode(self, row: Row) -> bool:
        """Is the row past the prompt?"""
        return row.position >= self.open.prompt_tokens

    def account(self, row: Row, compute_s: float) -> None:
        """Count a run that the request had a row in: the time is the whole run's, which the request waited for."""
        self.positions += row.count
        if self.is_decode(row):
            self.decode_s += compute_s
            self.decode_steps += 1
        else:
            self.prefill_s += compute_s

    def sent(self, size_bytes: int, *, decode: bool) -> None:
        """Count a frame."""
        self.frames_out += 1
        self.bytes_out += size_bytes
        if decode:
            self.decode_bytes_out += size_bytes

    def history(self, length: int) -> Sequence[int]:
        """Ids of positions [0, length), as far as this stage was told the prompt."""
        known = list(self.open.prompt_ids or ())[:length]
        return known + [self.tokens[position] for position in range(len(known), length)]

    # --- the last stage ---------------------------------------------------------------------------------------

    def with_draw(self, row: Row) -> Row:
        """The row with what choosing its tokens takes."""
        sampling = self.open.sampling or Sampling()
        first = row.first_draw
        history = self.history(first) if sampling.repetition_penalty != 1.0 else ()
        guess = self.guesses.get(first, ()) if row.verify else ()
        return replace(row, draw=Draw(sampling, first, history), guess=guess)

    def take(self, row: Row, tokens: Sequence[int], context_tokens: int) -> Sequence[int]:
        """Note the tokens a row gave, up to the end of the answer, and return those."""
        self.finish = Flag.NONE  # a run repeated after the end comes to the same end again
        limit = min(context_tokens, self.open.prompt_tokens + self.open.max_tokens)
        for index, token in enumerate(tokens):
            position = row.first_draw + index
            self.tokens[position] = token
            if token in self.open.eos_ids:
                self.finish = Flag.STOP
            elif position + 1 >= limit:
                self.finish = Flag.LENGTH
            if self.finish:
                return tokens[: index + 1]
        return tokens

    def guess_after(self, row: Row, tokens: Sequence[int], now_s: float, context_tokens: int) -> Sequence[int]:
        """What may follow the tokens a row gave. A run that is repeated gets the same guess: stage 0 may have either.

        ``context_tokens`` bounds the guess; 0 means that none is wanted now.
        """
        if self.guesser is None or self.finish:
            return ()
        following = row.first_draw + len(tokens)
        if following not in self.guesses:
            step_s = None if self.chosen_s is None else now_s - self.chosen_s
            self.guesser.chosen(row.first_draw, tokens, len(row.guess), step_s)
            self.chosen_s = now_s
            self.guesses = {following: tuple(self.guesser.guess()[: max(context_tokens - following - 1, 0)])}
        return self.guesses[following]

    def timing(self, node: str, stage: int) -> StageTiming:
        """What was done for the request."""
        return StageTiming(
            node=node,
            stage=stage,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            decode_steps=self.decode_steps,
            positions=self.positions,
            frames_out=self.frames_out,
            bytes_out=self.bytes_out,
            decode_bytes_out=self.decode_bytes_out,
            frames_dropped=self.frames_dropped,
        )

"""One run of a segment: what to compute, and what came of it.

A run is either one request's chunk of a prompt, or one position of each of several requests (a batch).

Nobody changes these objects once they are handed over. They are not ``frozen`` because that triples the time of making
one, and each step makes one of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_node.stage_spec import StageKey
from schemas.codec import Frame
from schemas.limits import MAX_GUESSED_TOKENS
from schemas.messages import RequestFailureCode, Sampling

MAX_LOGITS = MAX_GUESSED_TOKENS + 1
"""Logits per request and run: one more than the longest guess that is verified."""


@dataclass(frozen=True, slots=True)
class StateCopies:
    """The copies of a slot's folded states that a run goes on from (None at position 0, where there is nothing to go on
    from), and that it writes."""

    source: int | None
    target: int


Allowed = bytes | int
"""The tokens that may come at a position: a set of them as bits, see `schemas.token_mask`, or the only one."""


@dataclass(slots=True)
class Draw:
    """How to choose the token at ``position``."""

    sampling: Sampling
    position: int
    history: Sequence[int]
    prompt_tokens: int = 0
    """How many ids of the history are the prompt's."""
    logprobs: int | None = None
    """How many likely tokens are to be told beside the one that is chosen; None: nothing is."""
    allowed: Sequence[Allowed] | None = None
    """What may come at ``position`` and behind it, as far as that is known; None: anything."""


@dataclass(slots=True)
class Row:
    """One request's part of a run. Exactly one of ``ids`` (first stage) and ``frame`` is there."""

    request: int
    slot: int
    attempt: int
    position: int
    count: int
    sample: bool
    verify: bool = False
    """Its tokens are guesses, but perhaps the first: choose a token after each as long as they are right."""
    ids: Sequence[int] | None = None
    frame: Frame | None = None
    draw: Draw | None = None
    marks: bytes = b""
    """Of the tokens at its positions, where guesses are verified."""
    guess: Sequence[int] = ()
    """Last stage: the guesses to verify, as far as they are those it has made."""
    copies: StateCopies | None = None
    """Of the slot's folded states."""
    again: bool = False
    """The first positions of a run whose results went out before, with guesses behind them that were wrong: they are
    computed once more, for their state."""

    @property
    def logits(self) -> int:
        """How many of the last positions need logits."""
        return self.count if self.verify else 1

    @property
    def first_draw(self) -> int:
        """Position of the first token that is chosen."""
        return self.position + self.count - self.logits + 1


@dataclass(slots=True)
class Work:
    """One run of the segment.

    ``rows`` are in the order of their slots; more than one only if each is of one position. A batch covers
    neighbouring slots: ``idle`` are (slot, position) of those between them that have nothing to compute; what is
    computed for them goes nowhere, into the KV row that their own next step will write.
    """

    key: StageKey
    rows: tuple[Row, ...]
    idle: tuple[tuple[int, int], ...] = ()


def batch(key: StageKey, rows: Sequence[Row], lengths: Mapping[int, int], *, last_position: int) -> Work:
    """A run of several ``rows``; ``lengths`` has the valid length of each slot that holds something."""
    ordered = tuple(sorted(rows, key=lambda row: row.slot))
    taken = {row.slot for row in ordered}
    between = (slot for slot in range(ordered[0].slot + 1, ordered[-1].slot) if slot not in taken)
    return Work(key, ordered, tuple((slot, min(lengths.get(slot, 0), last_position)) for slot in between))


@dataclass(slots=True)
class DraftWork:
    """One run of a stage's draft model, on the way to its guess of what follows ``ids``."""

    key: StageKey
    slot: int
    ids: Sequence[int]
    draw: Draw
    """How the token would be chosen that is guessed."""


@dataclass(slots=True)
class Drafted:
    """What came of it: a guess, unless there are more ids to be taken in."""

    compute_s: float = 0.0
    count: int = 0
    """Positions of the run."""
    token: int | None = None
    failure: str = ""


@dataclass(slots=True)
class RowResult:
    """What came of a row: a payload for the next stage, tokens of the last stage, neither, or a failure."""

    payload: bytes | None = None
    tokens: tuple[int, ...] = ()
    logprobs: tuple[bytes, ...] = ()
    """How likely each of the tokens was, where that is wanted, packed for the wire."""
    failure: str | None = None
    failure_code: RequestFailureCode = "cannot_run"


@dataclass(slots=True)
class Computed:
    """A run's results, in the order of its rows."""

    compute_s: float
    rows: tuple[RowResult, ...]

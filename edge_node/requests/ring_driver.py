"""What stage 0 knows of a request: its ids, what it has issued, and what to do when the ring stays silent.

Stage 0 issues every (attempt, position) once. It keeps the frames it published until the token they lead to has
come back under its newest attempt: until then a stage may still ask for them. A repeat re-stamps the last of them,
the one that asks for the token, with a new attempt: a stage that lacks the ones before says so and gets them in the
same way. Neither computes anything again.

A token counts by its position alone, whichever attempt brought it, since all attempts lead to the same token: a ring
that is slower than the watchdog thought still answers in its own time, and that time is learnt from the first answer.

Guesses that come with a token are cut into windows, which are issued one behind the other without waiting for the
tokens of the first. As long as the tokens that come are those that were guessed, the windows on their way are left
alone; where one differs, a new attempt begins at its position, so that what is on its way counts no more.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_node.requests.checkpoints import Checkpoints
from schemas.back_off import back_off_s
from schemas.codec import restamp
from schemas.ewma import ewma
from schemas.limits import MAX_GUESSED_TOKENS

_RTT_WEIGHT = 0.125
"""Smoothing of the round trip, as in TCP (RFC 6298)."""
_RTT_MULTIPLE = 8.0
_PREFILL_MULTIPLE = 4.0
_MAX_BACKOFF_S = 60.0
MAX_SILENT_REPEATS = 10


@dataclass(slots=True)
class Step:
    """One run of stage 0: ``ids`` at [position, position + len(ids)).

    ``sample`` asks the ring for a token; ``verify`` says that the ids but the first are guesses to check, or all are.
    Nobody changes it; it is not ``frozen`` because that triples the time of making one.
    """

    position: int
    ids: Sequence[int]
    sample: bool
    verify: bool = False

    @property
    def first_draw(self) -> int:
        """Position of the first token that it asks for."""
        return self.position + (1 if self.verify else len(self.ids))


def chunk_lengths(prompt_tokens: int, chunk_tokens: int) -> list[int]:
    """Lengths of the prefill chunks, none of one token where it can be avoided.

    A chunk of one token takes another path through attention than longer ones and gives other last bits.
    """
    lengths = [chunk_tokens] * (prompt_tokens // chunk_tokens)
    rest = prompt_tokens % chunk_tokens
    if rest == 1 and lengths and chunk_tokens > 2:
        lengths[-1] -= 1
        rest = 2
    return [*lengths, rest] if rest else lengths


@dataclass(slots=True)
class RingDriver:
    """Drives one request from stage 0: issues its steps, takes its tokens, and repeats what gets lost."""

    prompt_tokens: int
    chunk_tokens: int
    stages: int
    watchdog_min_s: float
    ids: list[int]
    """The prompt and all tokens so far."""
    prefix_tokens: int = 0
    """Where the first chunk of the prompt begins: positions before it were there already."""
    states: Checkpoints | None = None
    """Where stage 0 has its folded states, if it has any: what it computes begins there."""
    window_tokens: int = 0
    """Most guesses in one step, behind its first token."""
    window_positions: int = MAX_GUESSED_TOKENS + 1
    """Most positions of a step with guesses, as the last stage told: no more than it may have anyway."""
    same_bits: bool = False
    """What is computed again may be computed in chunks, generated tokens too: the bits are the same in any run."""
    attempt: int = 0
    steps: deque[Step] = field(default_factory=deque)
    finished: bool = False
    frames: list[tuple[int, bytes]] = field(default_factory=list)
    """(position, frame) published and not yet certain to have been computed by every stage."""
    deadline_s: float | None = None
    token_s: float = math.inf
    """When the newest token came."""
    _guesses: Sequence[int] = ()
    """What is guessed to follow the ids."""
    _issued: int = 0
    _guessed_in: int = 0
    """The first attempt in which guesses of now may have been issued."""
    _asked_s: dict[tuple[int, int], float] = field(default_factory=dict)
    """When a token was asked for, by attempt and position."""
    _steps_asked: int = 0
    """Steps published since the last token came back."""
    _compute_s: float = 0.0
    _round_trip_s: float | None = None
    _repeats: int = 0

    def start(self, valid_length: int = 0, moved_tokens: int = 0) -> None:
        """Issue everything behind ``valid_length``; in a live move ``moved_tokens`` positions were said to be there."""
        # In the middle of a prompt chunks go on where they were; what is computed again is what it was at first.
        valid_length = min(valid_length, len(self.ids) - 1)
        in_prompt = moved_tokens <= valid_length < self.prompt_tokens
        self.prefix_tokens = valid_length if in_prompt else 0
        self._compute_from(valid_length)

    def _compute_from(self, position: int) -> None:
        """Issue everything behind a position, and no guesses."""
        self.steps.extend(self._steps_from(position))
        self._issued = len(self.ids)
        self._guesses = ()

    @property
    def expects_one_token(self) -> bool:
        """Is the next token one that a step without guesses follows, if it comes without any?"""
        return self._issued == len(self.ids) and not self._guesses and not self.steps and not self.finished

    @property
    def issued(self) -> int:
        """Where the steps end that were issued."""
        return self._issued

    @property
    def is_owed(self) -> bool:
        """Does the ring owe the request a token?"""
        return self.deadline_s is not None

    def _steps_from(self, position: int) -> list[Step]:
        """Steps that compute [position, len(ids)), with the boundaries the first computation had where these matter.

        With folded states they begin at an earlier position, where there is one.
        """
        if position < self.prefix_tokens:
            self.prefix_tokens = 0  # somebody no longer has the prefix
        steps = []
        start = self.prefix_tokens
        in_chunks = len(self.ids) if self.same_bits and not self.states else self.prompt_tokens
        lengths = chunk_lengths(in_chunks - start, self.chunk_tokens)
        for length in lengths + [1] * (len(self.ids) - in_chunks):
            stop = start + length
            if stop > position:
                steps.append(Step(start, self.ids[start:stop], sample=stop == len(self.ids)))
            start = stop
        if steps and self.states and not self.states.has(steps[0].position):
            return self._steps_from(self.states.before(steps[0].position))
        return steps

    def published(self, step: Step, frame: bytes, compute_s: float, now_s: float) -> None:
        """A step has been computed and its frame sent."""
        self.frames.append((step.position, frame))
        self._steps_asked += 1
        self._compute_s += compute_s
        # A token that came from an older attempt meanwhile is not awaited again.
        if step.sample and step.position + len(step.ids) >= len(self.ids):
            self._asked(step.first_draw, now_s)

    def _asked(self, position: int, now_s: float) -> None:
        """Note that a token is awaited."""
        self._asked_s[self.attempt, position] = now_s
        self.deadline_s = now_s + self._patience_s()

    def _patience_s(self) -> float:
        """How long a token may take: many round trips, and for a prompt many times what this stage needed."""
        patience = self.watchdog_min_s + _PREFILL_MULTIPLE * self.stages * self._compute_s
        if self._round_trip_s is not None:
            patience = max(self.watchdog_min_s, _RTT_MULTIPLE * self._round_trip_s, patience)
        return back_off_s(patience, self._repeats, max(_MAX_BACKOFF_S, patience))

    def token(
        self, attempt: int, position: int, tokens: Sequence[int], guess: Sequence[int], *, last: bool, now_s: float
    ) -> bool:
        """Take in tokens that came back, with a guess of what follows; False for duplicates and for what is not due.

        Where tokens got lost, those that come next say that the guesses before them were right.
        """
        missed = position - len(self.ids)
        issued = max(0, self._issued - len(self.ids)) if attempt >= self._guessed_in else 0
        was_issued = 0 <= missed <= min(len(self._guesses), issued)
        if self.finished or attempt > self.attempt or not was_issued:
            return False
        asked_s = self._asked_s.get((attempt, position))
        if asked_s is not None and self._steps_asked == 1:
            self._round_trip_s = ewma(self._round_trip_s, now_s - asked_s, _RTT_WEIGHT)
        tokens = (*self._guesses[:missed], *tokens)
        is_right = all(token == guessed for token, guessed in zip(tokens, self._guesses, strict=False))
        self.ids.extend(tokens)
        self.token_s = now_s
        newest = len(self.ids) - 1
        if is_right and (self._issued <= newest or newest in self._starts()):
            self._go_on(newest, self._guesses[len(tokens) :], guess, is_newest=attempt == self.attempt)
        else:
            self._refuse(newest, guess)
        self.finished = last
        if last:
            self.steps.clear()
        else:
            self._issue(newest)
        self._progress(now_s)
        return True

    def guessed(self, attempt: int, position: int, guess: Sequence[int]) -> bool:
        """Take in a guess of what follows the tokens before ``position``, which came before; False where it is of no
        use."""
        if self.finished or attempt > self.attempt or position != len(self.ids) or self._issued < position:
            return False
        known = self._guesses
        if len(guess) <= len(known) or guess[: len(known)] != known:
            return False
        self._guesses = guess
        self._issue(position - 1)
        return True

    def cut(self, positions: int) -> None:
        """Cut the guesses that come with a frame, and those after it, into windows of so many positions at the most."""
        if positions > 0:
            self.window_positions = positions

    def _starts(self) -> set[int]:
        """Where the windows begin that were issued."""
        return {position for position, _ in self.frames} | {step.position for step in self.steps}

    def _go_on(self, newest: int, rest: Sequence[int], guess: Sequence[int], *, is_newest: bool) -> None:
        """Leave what is on its way alone: the tokens up to position ``newest`` were guessed."""
        if guess[: len(rest)] == rest:
            rest = guess
        self._guesses = rest
        if is_newest:
            self.frames = [frame for frame in self.frames if frame[0] >= newest]

    def _refuse(self, newest: int, guess: Sequence[int]) -> None:
        """Go back to position ``newest``, where the token is another than was guessed."""
        if self.frames and self.frames[-1][0] >= newest:  # else the next step is new in this attempt, too
            self.attempt += 1
        # The window with the wrong guess is not to be sent again: should anybody lack it, it is computed again.
        self.frames.clear()
        self.steps.clear()
        self._guesses, self._issued, self._guessed_in = guess, newest, self.attempt

    def _issue(self, newest: int) -> None:
        """Issue what is known by now: the newest token, unless it was guessed, and guesses, cut into windows."""
        if self._issued < newest:  # they came of an attempt that was given up
            self._compute_from(self._issued)
            return
        ids = (self.ids[newest], *self._guesses)
        end = newest + len(ids)
        most = min(self.window_tokens + 1, self.window_positions)
        while self._issued < end:
            windows = -(-(end - self._issued) // most)
            count = -(-(end - self._issued) // windows)
            known = ids[self._issued - newest : self._issued - newest + count]
            self.steps.append(Step(self._issued, known, sample=True, verify=count > 1 or self._issued > newest))
            self._issued += count

    def _progress(self, now_s: float) -> None:
        """Note that the ring has given something: patience begins anew for what it still owes."""
        self._steps_asked = 0
        self._compute_s = 0.0
        self._repeats = 0
        owed = not self.finished and bool(self.frames) and self.frames[-1][0] >= len(self.ids) - 1
        self._asked_s = {key: asked_s for key, asked_s in self._asked_s.items() if owed and key[1] >= len(self.ids)}
        self.deadline_s = now_s + self._patience_s() if owed else None

    def overdue(self, now_s: float) -> bool:
        """Has the ring been silent for too long?"""
        return self.deadline_s is not None and now_s >= self.deadline_s

    def hurry(self) -> None:
        """Have what the ring owes be overdue at once: something may have got lost."""
        if self.deadline_s is not None:
            self.deadline_s = 0.0

    @property
    def gave_up(self) -> bool:
        """Has the ring stayed silent through every repeat?"""
        return self._repeats >= MAX_SILENT_REPEATS

    def repeat(self, now_s: float) -> list[bytes]:
        """Repeat the frame that asks for the next token, and those behind it, under a new attempt."""
        self.attempt += 1
        self._repeats += 1
        self._asked(len(self.ids), now_s)
        return self._restamped(self._covering(len(self.ids) - 1))

    def _covering(self, position: int) -> int:
        """The frame that holds a position, by its index; -1 where none that is left does."""
        return max((index for index, (start, _) in enumerate(self.frames) if start <= position), default=-1)

    def _restamped(self, first: int) -> list[bytes]:
        self.frames[first:] = [(position, restamp(frame, self.attempt)) for position, frame in self.frames[first:]]
        return [frame for _, frame in self.frames[first:]]

    def replay(self, position: int, now_s: float) -> tuple[list[bytes], int | None]:
        """Answer a stage that lacks everything from ``position``: what to send again or else to compute again.

        Returns:
            Frames to publish, and the length stage 0's own KV cache goes back to (None: it stays).
        """
        covering = self._covering(position)
        self.attempt += 1
        if covering >= 0:
            if self.deadline_s is not None:
                self._asked(len(self.ids), now_s)
            return self._restamped(covering), None
        self.frames.clear()
        self.steps.clear()
        self._compute_from(position)
        self._progress(now_s)
        return [], self.steps[0].position if self.steps else None

"""A request on one stage: its slot, its place by the position rule and its input queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from edge_node.requests.allowed_tokens import AllowedTokens
from edge_node.requests.checkpoints import Checkpoints
from edge_node.requests.guess_limits import GuessLimits
from edge_node.requests.guess_marks import GuessMarks
from edge_node.requests.guesser import Guesser
from edge_node.requests.position_rule import PositionRule
from edge_node.requests.request_stats import RequestStats
from edge_node.requests.ring_driver import RingDriver, Step
from edge_node.work import Draw, Row
from schemas.codec import SAMPLE, VERIFY, Flag, Frame, marks
from schemas.limits import MAX_GUESSED_WINDOWS
from schemas.messages import OpenRequest, Sampling


@dataclass(slots=True)
class StageRequest:
    """The state of one request on one stage."""

    open: OpenRequest
    slot: int
    rule: PositionRule = field(default_factory=PositionRule)
    driver: RingDriver | None = None
    guesser: Guesser | None = None
    """Last stage, where guessing is wanted."""
    guess_marks: GuessMarks | None = None
    """First stage, likewise."""
    refused: tuple[int, int] | None = None
    """Last stage: the attempt of the newest window that was wrong, and where: what is behind it is of no use."""
    frames: deque[Frame] = field(default_factory=deque)
    tokens: dict[int, int] = field(default_factory=dict)
    """Last stage: generated tokens by position."""
    said: dict[int, int] = field(default_factory=dict)
    """Last stage: all tokens that it has ever chosen. Computed again, in other runs, others might come in the profile
    `fast`; but the reader has these."""
    logprobs: dict[int, bytes] = field(default_factory=dict)
    """Last stage: how likely these were, where that is wanted."""
    finish: Flag = Flag.NONE
    stats: RequestStats = field(default_factory=RequestStats)
    waiting: bool = False
    """Has a turn."""
    held: bool = False
    """Computes nothing for now."""
    guessed: bool = False
    """The last run verified guesses."""
    states: Checkpoints | None = None
    """Where it has its folded states, on a stage that has any."""
    verified: Row | None = None
    """With folded states: the last run, if it verified guesses. Those that were right are run again, for their state.
    """
    begun_at: int = 0
    """Positions that were here when it was opened, computed before or copied."""
    sampling: Sampling = field(init=False)
    looks_back: bool = field(init=False)
    """Last stage: does the choice of a token depend on those before it?"""
    allowed: AllowedTokens | None = field(init=False, default=None)
    """Last stage, where the answer is bound to a form: which tokens may come."""
    moved: bool = False
    """The next epoch's stage has it already; what is still on its way here is computed for that one."""

    def __post_init__(self) -> None:
        self.sampling = self.open.sampling or Sampling()
        self.looks_back = self.sampling.looks_back
        if self.open.has_grammar:
            self.allowed = AllowedTokens()

    @property
    def tokens_computed(self) -> int:
        """Tokens of its answer that were computed here: the prompt's last position gives the first one."""
        answer_at = max(self.begun_at, self.open.prompt_tokens - 1)
        return max(0, self.rule.valid_length - answer_at)

    @property
    def has_input(self) -> bool:
        """Is there something to compute?"""
        if self.held or not (self.driver.steps if self.driver else self.frames):
            return False
        return self.allowed is None or not self._awaits_masks(self.allowed)

    def _awaits_masks(self, allowed: AllowedTokens) -> bool:
        """Is the next input to end in a token, and not known which may come?"""
        if self.driver:
            step = self.driver.steps[0]
            position, count, sample, verify = step.position, len(step.ids), step.sample, step.verify
        else:
            frame = self.frames[0]
            if not self.rule.takes(frame.attempt, frame.position) or self.refuses(frame):
                return False  # it is to be dropped
            position, count = frame.position, frame.count
            sample, verify = bool(frame.flags & SAMPLE), bool(frame.flags & VERIFY)
        first = position + 1 if verify else position + count
        return sample and not allowed.known(first, self.tokens)

    def arrived(self, frame: Frame) -> None:
        """Queue a frame. Where a newer attempt begins, those that wait behind its position are of an older one."""
        if self.frames and self.frames[-1].attempt < frame.attempt:
            self.frames = deque(
                waiting
                for waiting in self.frames
                if waiting.attempt >= frame.attempt or waiting.position < frame.position
            )
        self.frames.append(frame)

    def may_guess(self, tokens: int) -> bool:
        """First stage: is a guess of so many tokens one that was wanted?"""
        window = self.driver.window_tokens + 1 if self.driver else 0
        return self.guess_marks is not None and tokens < window * MAX_GUESSED_WINDOWS

    def marks_of(self, row: Row) -> bytes:
        """The marks of a row whose guesses are to be verified."""
        if row.frame is not None:
            return marks(row.frame)
        assert self.guess_marks
        assert row.ids is not None
        return self.guess_marks.of(row.position, row.ids)

    def put_back(self, row: Row) -> None:
        """Put the input of a row back, which is to be computed again before all others."""
        if self.driver and row.ids is not None:
            self.driver.steps.appendleft(Step(row.position, row.ids, row.sample, row.verify))
        elif row.frame is not None:
            self.frames.appendleft(row.frame)

    @property
    def next_count(self) -> int:
        """Positions of the next input."""
        return len(self.driver.steps[0].ids) if self.driver else self.frames[0].count

    def is_decode(self, row: Row) -> bool:
        """Is the row past the prompt?"""
        return row.position >= self.open.prompt_tokens

    def computed(self, count: int, compute_s: float, rows: int, *, verified: bool, decode: bool) -> None:
        """``count`` positions have been computed, in a run of some rows."""
        self.rule.computed(count)
        self.guessed = verified
        self.stats.computed(count, compute_s, rows, decode=decode)

    def can_begin(self, position: int) -> bool:
        """Is the state at a position here, or can it be had?"""
        return self.states is None or self.states.has(position) or self._again(position) > 0

    def _again(self, position: int) -> int:
        """How many positions of the last run have to be run again before one at ``position``; 0 where that won't do."""
        verified = self.verified
        if verified is None or self.states is None or not self.states.has(verified.position):
            return 0
        count = position - verified.position
        return count if 0 < count < verified.count else 0

    def replay_from(self, position: int) -> int:
        """Where the replay is to begin that leads to a frame at ``position``."""
        length = self.rule.valid_length
        return length if self.states is None else self.states.before(min(position, length))

    def rows_of(self, row: Row) -> list[Row]:
        """A run, and before it what has to be run again, with the copies of the states that they take."""
        if self.states is None:
            return [row]
        rows, again = [row], 0 if self.states.has(row.position) else self._again(row.position)
        if again:
            assert self.verified
            rows.insert(
                0,
                replace(
                    self.verified,
                    attempt=row.attempt,
                    count=again,
                    sample=False,
                    verify=False,
                    draw=None,
                    guess=(),
                    again=True,
                ),
            )
        for each in rows:
            end = each.position + each.count
            each.copies = self.states.run(each.position, end, self.open.prompt_tokens)
        self.verified = row if row.verify else None
        return rows

    @property
    def final_length(self) -> int:
        """Positions whose rows will not be written again, as far as this stage knows."""
        return self.rule.final_length(guessed=self.guessed)

    def in_next_epoch(self, message: OpenRequest) -> StageRequest:
        """The request's state on its next stage, this one's heir: with its slot, its tokens and what it has cost."""
        return StageRequest(
            message,
            self.slot,
            guesser=self.guesser,
            tokens=self.tokens,
            said=self.said,
            logprobs=self.logprobs,
            stats=self.stats,
        )

    def history(self, length: int) -> Sequence[int]:
        """Ids of positions [0, length), as far as this stage was told the prompt."""
        known = list(self.open.prompt_ids or ())[:length]
        return known + [self.tokens[position] for position in range(len(known), length)]

    # --- the last stage ---------------------------------------------------------------------------------------

    def tokens_from(self, position: int, limit: int) -> tuple[list[int], Flag]:
        """Generated tokens from ``position`` on, as far as there is no gap, and the end if they reach it."""
        ids: list[int] = []
        while position + len(ids) in self.tokens and len(ids) < limit:
            ids.append(self.tokens[position + len(ids)])
        reaches_end = position + len(ids) - 1 == max(self.tokens, default=-1)
        return ids, self.finish if reaches_end else Flag.NONE

    def logprobs_of(self, position: int, count: int) -> list[bytes]:
        """How likely the tokens from ``position`` on were; nothing unless that is known of all of them."""
        known = [self.logprobs[place] for place in range(position, position + count) if place in self.logprobs]
        return known if len(known) == count else []

    def draw(self, position: int, guess: Sequence[int] = ()) -> Draw:
        """What is needed to choose tokens from ``position`` on, as long as the guess is right."""
        history = self.history(position) if self.looks_back else ()
        allowed = self.allowed.along(position, self.tokens, guess) if self.allowed else None
        return Draw(self.sampling, position, history, self.open.prompt_tokens, self.open.logprobs, allowed)

    def draw_behind(self, text: Sequence[int]) -> Draw:
        """How the token behind a text would be chosen: the request's text so far, and guesses."""
        history = text if self.looks_back else ()
        return Draw(self.sampling, len(text), history, self.open.prompt_tokens)

    def end(self, context_tokens: int) -> int:
        """Where the answer ends at the latest."""
        return min(context_tokens, self.open.prompt_tokens + self.open.max_tokens)

    def take(self, first: int, tokens: Sequence[int], context_tokens: int) -> Sequence[int]:
        """Note the tokens that a run gave from position ``first`` on, up to the end of the answer, and return those.

        What was known behind them is forgotten: a run that was repeated, or one after it, has written other rows there,
        and stage 0 would go on behind these.
        """
        self.finish = Flag.NONE  # a run repeated after the end comes to the same end again
        limit = self.end(context_tokens)
        for index, chosen in enumerate(tokens):
            position = first + index
            self.tokens[position] = token = self.said.setdefault(position, chosen)
            if token in self.open.eos_ids:
                self.finish = Flag.STOP
            elif position + 1 >= limit:
                self.finish = Flag.LENGTH
            if self.finish or token != chosen:
                tokens = (*tokens[:index], token)
                break
        if self.finish:
            return tokens
        following = first + len(tokens)
        while following in self.tokens:
            del self.tokens[following]
            following += 1
        return tokens

    def refuses(self, frame: Frame) -> bool:
        """Does a window go on from a token that did not come? Then nobody has to compute it, nor what is behind it."""
        if self.guesser is None or not frame.flags & VERIFY:
            return False
        if self.refused is not None and self.refused[0] == frame.attempt and frame.position > self.refused[1]:
            return True
        if not self.rule.takes(frame.attempt, frame.position):
            return False
        if self.guesser.is_right(frame.position, self.tokens.get(frame.position), marks(frame)):
            return False
        self.refused = frame.attempt, frame.position
        return True

    def known_in(self, row: Row) -> Sequence[int]:
        """The guesses in a row, as far as this stage has made them."""
        if self.guesser is None or not row.verify:
            return ()
        return self.guesser.guesses_in(row.position, row.count, row.marks, self.tokens)

    def verified_up_to(self, row: Row, position: int) -> None:
        """Note where the tokens end that a row gave. Where it has more, what it says of the next ones is wrong."""
        self.refused = (row.attempt, position) if position < row.position + row.count else None

    @property
    def window_positions(self) -> int:
        """The most positions of a window that guesses are to be cut into; 0 where there are none."""
        return self.guesser.window_positions if self.guesser else 0

    def guess_after(
        self, first: int, tokens: Sequence[int], count: int, now_s: float, limits: GuessLimits
    ) -> Sequence[int]:
        """What may follow the tokens that a run of ``count`` positions gave from position ``first`` on."""
        assert self.guesser
        following = first + len(tokens)
        certain = self.allowed.certain(following, self.tokens, limits.most_certain) if self.allowed else ()
        return self.guesser.after(first, tokens, count, now_s, limits, certain)

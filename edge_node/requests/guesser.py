"""The last stage's guesses of one request: which it has made, whether those that arrive are these, and the next (pure).

The guesses behind the newest token are a chain. Stage 0 cuts it into windows and issues them one behind the other; as
long as its tokens turn out right the chain only grows, so that windows on their way stay what they are.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from edge_node.requests.draft_guesses import DraftGuesses
from edge_node.requests.guess_limits import GuessLimits
from edge_node.requests.guess_marks import GuessMarks
from edge_node.requests.prompt_lookup import PromptLookup
from edge_node.requests.round_times import RoundTimes
from schemas.common_prefix import common_prefix

FIRST_CREDIT = 0.15
"""What guesses may cost before one was right, in rounds without guesses: a short answer takes no longer by more."""
_CREDIT_PER_ROUND = 0.01
_MOST_CREDIT = 8.0
_NOTHING = GuessLimits(most=0, most_certain=0, windows=1)


class Guesser:
    """Guesses what follows.

    Guesses are paid for: each has a price, what it makes a round longer if it is wrong, and each that was right has
    saved a round. So an answer in which guesses are never right takes hardly longer than without any.
    """

    def __init__(
        self,
        lookup: PromptLookup,
        marks: GuessMarks,
        times: RoundTimes,
        *,
        window: int,
        windows: int,
        eos_ids: Collection[int] = (),
        draft: DraftGuesses | None = None,
    ) -> None:
        """What it needs of one request.

        Args:
            lookup: of its text.
            marks: of its tokens.
            times: of all requests.
            window: most guesses in one run, behind its first token.
            windows: most runs with guesses on their way.
            eos_ids: the tokens that nothing follows.
            draft: guesses of a draft model, where there is one.
        """
        self._eos_ids = frozenset(eos_ids)
        self._lookup = lookup
        self._marks = marks
        self._times = times
        self._window, self._windows = window, windows
        self._windows_now = windows
        self._draft = draft
        self._begin = len(lookup.ids)
        """Position of the first of the newest chain."""
        self._chain: list[int] = []
        self._credit = FIRST_CREDIT
        self._paid = 0
        """Up to this position guesses are paid for."""
        self._asked: deque[tuple[int, float]] = deque()
        """(where the tokens end that stage 0 was told, when), of windows that are on their way."""
        self._chosen_s: float | None = None
        """When tokens were last chosen."""
        self._answered_s: float | None = None
        """When the window was asked for that they came of."""

    def moved(self, times: RoundTimes, draft: DraftGuesses | None = None) -> None:
        """Begin anew on another ring: nothing is on its way there."""
        self._times = times
        self._draft = draft
        self._chain = []
        self._asked.clear()
        self._chosen_s = self._answered_s = None

    def is_right(self, position: int, token: int | None, marks: bytes) -> bool:
        """Does a window begin with the token that was chosen there?"""
        return token is not None and self._marks.right(position, (token,), marks) == 1

    def guesses_in(self, position: int, count: int, marks: bytes, tokens: Mapping[int, int]) -> Sequence[int]:
        """What a window holds behind its first token, as far as it is what was guessed, or chosen by now."""
        ids: list[int] = []
        for place in range(position, position + count):
            index = place - self._begin
            token = tokens.get(place, self._chain[index] if 0 <= index < len(self._chain) else None)
            if token is None:
                break
            ids.append(token)
        return ids[1 : self._marks.right(position, ids, marks)]

    def after(
        self,
        first: int,
        tokens: Sequence[int],
        count: int,
        now_s: float,
        limits: GuessLimits,
        certain: Sequence[int] = (),
    ) -> Sequence[int]:
        """What may follow the tokens that a run of ``count`` positions gave from position ``first`` on.

        Args:
            first: position of the first of the tokens.
            tokens: one or more.
            count: positions of the run.
            now_s: now.
            limits: of what is guessed now; what was guessed before stays.
            certain: what can only follow, in place of what may.
        """
        following = first + len(tokens)
        self._time(first + count - 1, count - 1, now_s)
        right = self._right(first, tokens)
        rest = self._chain[following - self._begin :] if right == len(tokens) else []
        self._credit = min(_MOST_CREDIT, self._credit + right + _CREDIT_PER_ROUND)
        if self._draft:
            self._draft.compare(first, tokens)
        if not rest:
            self._asked.clear()
            if self._draft:
                self._draft.forget()
        if self._lookup.ids[first:following] != list(tokens):
            self._lookup.take(first, tokens)
        most_certain = (self._window + 1) * self._windows - 1
        self._windows_now = self._windows if certain else max(1, min(limits.windows, self._windows))
        longer, cost_each = (list(certain[:most_certain]), 0.0) if certain else self._guess(len(tokens), limits)
        # The end need not be guessed: it is drawn behind the last guess, and nothing is computed for it.
        longer = list(itertools.takewhile(lambda token: token not in self._eos_ids, longer))
        if len(longer) > len(rest) and longer[: len(rest)] == rest:
            rest = longer
        self._begin, self._chain = following, rest
        self._pay(cost_each)
        self._asked.append((following + len(rest), now_s))
        self._chosen_s = now_s
        return rest

    def keeps_still(self, position: int, token: int) -> bool:
        """Is nothing guessed behind this token, whatever it teaches? Then ``learn`` can wait until it is on its way."""
        lookup = self._lookup
        return not self._chain and not self._draft and len(lookup.ids) == position and not lookup.may_follow(token)

    def learn(self, position: int, tokens: Sequence[int], now_s: float) -> None:
        """Take in the token of a run of one position, and guess nothing behind it."""
        self.after(position, tokens, 1, now_s, _NOTHING)

    def _right(self, first: int, tokens: Sequence[int]) -> int:
        """How many of the tokens were guessed."""
        index = first - self._begin
        return common_prefix(list(tokens), self._chain[index : index + len(tokens)]) if index >= 0 else 0

    def _pay(self, cost_each: float) -> None:
        """Pay for the guesses of the chain that were not paid for yet."""
        end = self._begin + len(self._chain)
        self._credit -= cost_each * max(0, end - max(self._begin, self._paid))
        self._paid = end

    def _guess(self, chosen: int, limits: GuessLimits) -> tuple[list[int], float]:
        """What the look-up says, unless a draft model is better, and what each costs; ``chosen`` tokens came last."""
        worth = self._times.worthwhile(
            self._lookup.chances(),
            window=self._window,
            windows=self._windows_now,
            most=limits.most,
            credit=self._credit,
        )
        if self._draft and self._draft.choose(worth, chosen, self._times, limits, self._credit):
            return [], self._draft.cost_each
        return self._lookup.guess(worth.guesses), worth.cost_each

    @property
    def window_positions(self) -> int:
        """The most positions of a window that the chain is to be cut into."""
        length = self._times.length
        return length.positions(1 + len(self._chain), most=1 + self._window, windows=self._windows_now)

    @property
    def awaits_draft(self) -> bool:
        """Is a guess of the draft model wanted?"""
        draft, chain = self._draft, self._chain
        return draft is not None and len(chain) < draft.wanted and draft.takes(len(self._lookup.ids) + len(chain))

    def text(self) -> list[int]:
        """The text and its guesses: what the draft model goes on from."""
        return [*self._lookup.ids, *self._chain]

    @property
    def guessed(self) -> int:
        """How many guesses there are."""
        return len(self._chain)

    def drafted(self, token: int, token_s: float | None, now_s: float) -> Sequence[int]:
        """Take in the draft model's next guess. Returns the chain, if there is enough of it to be sent.

        Args:
            token: the guess.
            token_s: what it took, where it took a run of one position.
            now_s: now.
        """
        draft = self._draft
        assert draft
        if token_s is not None:
            draft.record.ran(token_s)
        draft.said(self._begin + len(self._chain), token)
        if token in self._eos_ids:
            draft.wanted = len(self._chain)
        else:
            self._chain.append(token)
        if len(self._chain) < draft.wanted or not (self._chain and draft.sends):
            return ()
        self._pay(draft.cost_each)
        self._asked.append((self._begin + len(self._chain), now_s))
        return list(self._chain)

    def _time(self, end: int, guesses: int, now_s: float) -> None:
        """Learn from when tokens came of a window with ``guesses`` that ended at position ``end``."""
        while self._asked and self._asked[0][0] < end:
            self._asked.popleft()
        asked_s = self._asked[0][1] if self._asked else None
        if asked_s is not None and asked_s == self._chosen_s:
            self._times.round(guesses, now_s - asked_s)
        elif asked_s is not None and self._chosen_s is not None and asked_s == self._answered_s:
            self._times.behind(now_s - self._chosen_s)
        self._answered_s = asked_s

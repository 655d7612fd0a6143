"""The last stage's guesses: the chain that grows, the windows that are verified, how long the chain is."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.requests.guess_limits import GuessLimits
from edge_node.requests.guess_marks import GuessMarks
from edge_node.requests.guesser import Guesser
from edge_node.requests.prompt_lookup import PromptLookup
from edge_node.requests.round_times import RoundTimes, Worth
from tests.support.strategies import examples

PROMPT = [*range(100, 140), 100, 101]
MARKS = GuessMarks(7, PROMPT)
ANY = GuessLimits(most=100, most_certain=32, windows=16)
NONE = GuessLimits(most=0, most_certain=32, windows=0)


def guesser(window: int = 2, windows: int = 3) -> Guesser:
    return Guesser(PromptLookup(list(PROMPT)), MARKS, RoundTimes(), window=window, windows=windows)


@pytest.fixture(autouse=True)
def as_much_as_there_may_be(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "worthwhile" not in request.node.name:
        monkeypatch.setattr(
            RoundTimes,
            "worthwhile",
            lambda times, chances, *, window, windows, most, credit: Worth(
                max(0, min(most, (window + 1) * windows - 1)), 2.0, 0.0
            ),
        )


def test_the_chain_grows_as_long_as_it_is_right() -> None:
    one = guesser()
    assert one.after(42, (102,), 1, 0.0, ANY) == list(range(103, 111))
    assert one.after(43, (103, 104, 105), 3, 0.1, ANY) == list(range(106, 114))
    assert one.after(46, (106,), 1, 0.2, NONE) == list(range(107, 114)), "what is on its way stays"


def test_a_wrong_guess_ends_the_chain() -> None:
    one = guesser()
    one.after(42, (102,), 1, 0.0, ANY)
    assert one.after(43, (103, 7), 3, 0.1, ANY) == list(range(105, 113)), "7 stands for 104"
    assert one.after(45, (8,), 3, 0.2, ANY) == []
    assert one.after(46, (100,), 1, 0.3, ANY) == []
    assert one.after(47, (101,), 1, 0.4, ANY)[:2] == [102, 103]


def test_what_can_only_follow_comes_first_and_fits_into_the_windows() -> None:
    assert guesser().after(42, (102,), 1, 0.0, NONE, certain=list(range(20))) == list(range(8))
    assert guesser(windows=1).after(42, (102,), 1, 0.0, NONE, certain=list(range(20))) == [0, 1]


def test_nothing_is_guessed_behind_the_end() -> None:
    one = Guesser(PromptLookup(list(PROMPT)), MARKS, RoundTimes(), window=2, windows=3, eos_ids=(105, 2))
    assert one.after(42, (102,), 1, 0.0, ANY) == [103, 104]


def test_a_window_is_verified_as_far_as_it_holds_what_was_guessed() -> None:
    one = guesser()
    one.after(42, (102,), 1, 0.0, ANY)
    tokens = {42: 102}
    assert one.guesses_in(42, 3, MARKS.of(42, (102, 103, 104)), tokens) == [103, 104]
    assert one.guesses_in(42, 3, MARKS.of(42, (102, 103, 9)), tokens) == [103], "of a chain that was given up"
    assert one.guesses_in(49, 3, MARKS.of(49, (109, 110, 111)), tokens) == [110], "that was never sent"
    assert one.is_right(42, 102, MARKS.of(42, (102,)))
    assert not one.is_right(42, 102, MARKS.of(42, (103,)))
    assert not one.is_right(42, None, MARKS.of(42, (102,)))


def test_marks_say_nothing_to_who_does_not_know_the_prompt() -> None:
    ids = (102, 103)
    assert GuessMarks(7, PROMPT).of(42, ids) == MARKS.of(42, ids)
    for other in (GuessMarks(8, PROMPT), GuessMarks(7, PROMPT[:-1])):
        assert other.right(42, ids, MARKS.of(42, ids)) == 0
    assert MARKS.mark(42, 102) != MARKS.mark(43, 102)


@given(st.lists(st.integers(0, 50_000), min_size=1, max_size=12), st.data())
@examples(100)
def test_marks_are_right_up_to_the_first_other_token(ids: list[int], data: st.DataObject) -> None:
    wrong = data.draw(st.integers(0, len(ids)))
    others = [token + (place == wrong) for place, token in enumerate(ids)]
    assert MARKS.right(5, others, MARKS.of(5, ids)) == wrong


def slow_links(plain_s: float = 0.1, guesses_s: float = 0.002, behind_s: float = 0.01) -> RoundTimes:
    """A ring whose rounds are mostly waiting, as it has measured."""
    times = RoundTimes()
    for _ in range(80):
        times.round(0, plain_s)
        times.round(8, plain_s + 8 * guesses_s)
        times.behind(behind_s)
    return times


@pytest.mark.parametrize(
    ("chance", "times", "windows", "expected"),
    [
        (0.98, slow_links(), 8, 71),
        (0.98, slow_links(), 1, 8),
        (0.3, slow_links(), 8, 8),
        (0.02, slow_links(), 8, 0),
        (0.5, slow_links(0.01, 0.008, 0.012), 8, 0),
        (0.98, slow_links(0.01, 0.002, 0.030), 8, 8),
    ],
    ids=["all", "one window", "few", "unlikely", "guesses cost as much as steps", "a window costs more than a round"],
)
def test_so_many_guesses_are_worthwhile(chance: float, times: RoundTimes, windows: int, expected: int) -> None:
    found, gain, _ = times.worthwhile(itertools.repeat(chance), window=8, windows=windows, most=100, credit=math.inf)
    assert (gain > 1.0) is (found > 0)
    assert found == expected if expected in (0, 71) or windows == 1 else 0 < found <= expected


def test_windows_in_flight_are_no_rounds_in_what_is_worthwhile() -> None:
    """What was issued together tells what a window costs; what came with the tokens before tells a round."""
    seen: list[tuple[str, float]] = []

    class Times(RoundTimes):
        def round(self, guesses: int, took_s: float) -> None:
            seen.append((f"{guesses}", round(took_s, 3)))

        def behind(self, took_s: float) -> None:
            seen.append(("behind", round(took_s, 3)))

        def worthwhile(
            self, chances: object, *, window: int, windows: int, most: int, credit: float, each_s: float = 0.0
        ) -> Worth:
            return Worth(min(most, (window + 1) * windows - 1), 2.0, 0.0)

    one = Guesser(PromptLookup(list(PROMPT)), MARKS, Times(), window=2, windows=3)
    one.after(42, (102,), 1, 0.0, ANY)
    one.after(43, (103, 104, 105), 3, 0.1, ANY)
    one.after(46, (106, 107, 108), 3, 0.13, ANY)
    one.after(49, (109, 110, 111), 3, 0.16, ANY)
    one.after(52, (112, 113, 114), 3, 0.21, ANY)
    assert seen == [("2", 0.1), ("behind", 0.03), ("behind", 0.03)]


@given(seed=st.integers(0, 10**6), rounds=st.integers(10, 200))
@examples(50)
def test_guesses_that_are_worthwhile_and_never_right_cost_hardly_anything(seed: int, rounds: int) -> None:
    """The text begins as the prompt does again and again, and never goes on as it did."""
    luck, times = random.Random(seed), slow_links()
    one = Guesser(PromptLookup(list(PROMPT)), MARKS, times, window=8, windows=8)
    position, wrong = len(PROMPT), 0
    while position < len(PROMPT) + rounds:
        place = luck.randrange(30)
        for token in (*PROMPT[place : place + 2], 100_000 + position):
            guess = one.after(position, (token,), 1, 0.0, ANY)
            wrong += len(guess)
            position += 1
    price = times.worthwhile(itertools.repeat(1.0), window=8, windows=8, most=1, credit=math.inf).cost_each
    assert 0 < price * wrong < 0.25 + 0.02 * rounds


def test_guesses_that_were_right_pay_for_more_in_what_is_worthwhile() -> None:
    one = Guesser(PromptLookup(list(PROMPT)), MARKS, slow_links(), window=8, windows=8)
    at_first = one.after(42, (102,), 1, 0.0, ANY)
    later = one.after(43, (103, 104, 105, 106), 4, 0.0, ANY)
    assert 0 < len(at_first) < len(later)

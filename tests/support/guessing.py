"""Guesses that a test makes in place of the look-up: as many as there may be, and right as often as it says."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import pytest

from edge_node.requests.prompt_lookup import PromptLookup
from edge_node.requests.round_times import RoundTimes, Worth

Guess = Callable[[PromptLookup, int], list[int]]


def guess_of(expected: Mapping[tuple[int, ...], Sequence[int]], luck: random.Random, right: float) -> Guess:
    """Guesses of some answers, by their prompts: each token is right with this probability."""

    def guess(prompt_lookup: PromptLookup, most: int) -> list[int]:
        (start,) = [start for start in expected if tuple(prompt_lookup.ids[: len(start)]) == start]
        done = len(prompt_lookup.ids) - len(start)
        return [token if luck.random() < right else 0 for token in expected[start][done : done + most]]

    return guess


def always_guess(patch: pytest.MonkeyPatch, guess: Guess) -> None:
    """Have as many tokens guessed as there may be, whatever that costs."""
    patch.setattr(PromptLookup, "guess", guess)
    patch.setattr(
        RoundTimes,
        "worthwhile",
        lambda times, chances, *, window, windows, most, credit, each_s=0.0: Worth(
            max(0, min(most, (window + 1) * windows - 1)), 2.0, 0.0
        ),
    )

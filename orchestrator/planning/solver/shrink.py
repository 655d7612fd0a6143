"""The largest KV caches that a fleet can hold, where nobody has said how large they are to be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from orchestrator.planning.problem import Problem
from orchestrator.planning.solver.feasible import is_feasible

ENOUGH_TOKENS = 1024
"""A context that most chats fit in: it counts more than several slots, a longer one does not."""
ENOUGH_SLOTS = 2
"""One answer need not wait for another."""


def largest_caches(problem: Problem) -> Problem | None:
    """The problem with the largest caches that fit, by the order of `_choices`; None when none does.

    Steps are coarse on purpose: a plan made again from slightly different figures is to get the same caches, so that
    its requests can be moved to it.
    """
    for context_tokens, slots in _choices(problem):
        smaller = problem.with_caches(context_tokens, slots)
        if is_feasible(smaller):
            return smaller
    return None


def _choices(problem: Problem) -> Iterator[tuple[int, int]]:
    """(context, slots) that may be tried, smaller than what was asked, the best first: enough context, then a second
    slot, then more context, then more slots."""
    contexts = list(_contexts(problem.context_tokens, problem.least_context_tokens))
    slots = range(problem.slots, min(problem.least_slots or problem.slots, problem.slots) - 1, -1)
    choices = itertools.product(contexts, slots)
    smaller = (choice for choice in choices if choice != (problem.context_tokens, problem.slots))
    yield from sorted(smaller, key=_worth, reverse=True)


def _worth(choice: tuple[int, int]) -> tuple[int, int, int, int]:
    context_tokens, slots = choice
    return min(context_tokens, ENOUGH_TOKENS), min(slots, ENOUGH_SLOTS), context_tokens, slots


def _contexts(asked: int, least: int | None) -> Iterator[int]:
    """What was asked, and powers of two and their halfway marks below it."""
    yield asked
    if least is None:
        return
    power = 1 << (asked - 1).bit_length()
    while power >= least:
        for tokens in (power, power * 3 // 4):
            if least <= tokens < asked:
                yield tokens
        power //= 2

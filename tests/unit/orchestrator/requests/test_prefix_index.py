"""Which ended request a prompt goes on from."""

from __future__ import annotations

from orchestrator.requests.prefix_index import PrefixIndex
from schemas.messages import Epoch

EPOCH = Epoch(generation=1, counter=1)
SYSTEM = list(range(20))


def test_the_longest_shared_beginning_wins() -> None:
    book = PrefixIndex(4)
    book.remember("a", EPOCH, [*SYSTEM, 100, 101])
    book.remember("b", EPOCH, [*SYSTEM, 200, 201, 202])
    assert book.find(EPOCH, [*SYSTEM, 200, 201, 300]) == ("b", 22)
    assert book.find(EPOCH, [*SYSTEM, 300]) in (("a", 20), ("b", 20))
    assert book.find(EPOCH, [7, *SYSTEM]) is None


def test_the_last_token_has_no_row() -> None:
    book = PrefixIndex(4)
    book.remember("a", EPOCH, SYSTEM)
    assert book.find(EPOCH, [*SYSTEM, 5]) == ("a", 19)


def test_another_epoch_has_other_rows() -> None:
    book = PrefixIndex(4)
    book.remember("a", EPOCH, SYSTEM)
    later = Epoch(generation=1, counter=2)
    assert book.find(later, SYSTEM) is None
    book.remember("b", later, SYSTEM)
    assert book.find(EPOCH, SYSTEM) is None


def test_the_least_useful_is_forgotten() -> None:
    book = PrefixIndex(2)
    for name, first in (("a", 1), ("b", 2)):
        book.remember(name, EPOCH, [first, *SYSTEM])
    assert book.find(EPOCH, [1, *SYSTEM]) == ("a", 20)
    book.remember("c", EPOCH, [3, *SYSTEM])
    assert book.find(EPOCH, [2, *SYSTEM]) is None
    assert book.find(EPOCH, [1, *SYSTEM]) == ("a", 20)

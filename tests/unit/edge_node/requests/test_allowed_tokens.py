"""What may come in an answer that is bound to a form: what was told holds behind the tokens that it was told for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_node.requests.allowed_tokens import AllowedTokens, Path

A, B, C = b"\x01", b"\x02", b"\x04"


def test_a_set_holds_for_its_position_alone() -> None:
    allowed = AllowedTokens()
    assert not allowed.known(5, {})
    allowed.take(Path(5, (), (A,)))
    assert allowed.along(5, {}, ()) == [A]
    assert not allowed.known(4, {})
    assert not allowed.known(6, {5: 0})


def test_a_path_holds_as_long_as_it_is_followed() -> None:
    allowed = AllowedTokens()
    allowed.take(Path(5, (7, 8), (A, 8, B)))
    assert allowed.along(5, {}, ()) == [A]
    assert allowed.along(5, {}, (7, 9)) == [A, 8]
    assert allowed.along(5, {}, (7, 8, 9)) == [A, 8, B], "behind the path nothing is known"
    assert allowed.along(5, {}, (1, 8)) == [A], "the guess was another one"
    assert allowed.along(6, {5: 7}, ()) == [8]
    assert allowed.along(7, {5: 7, 6: 8}, ()) == [B]
    assert not allowed.known(6, {5: 1}), "another token came"
    assert not allowed.known(7, {5: 7}), "it is not known what came"
    assert not allowed.known(8, {5: 7, 6: 8, 7: 1})


def test_certain_tokens_are_those_that_nothing_else_can_come_for() -> None:
    allowed = AllowedTokens()
    allowed.take(Path(5, (7, 8, 9), (7, 8, A, B)))
    assert allowed.certain(5, {}, 10) == (7, 8)
    assert allowed.certain(5, {}, 1) == (7,)
    assert allowed.certain(5, {}, -1) == ()
    assert allowed.certain(6, {5: 7}, 10) == (8,)
    assert allowed.certain(7, {5: 7, 6: 8}, 10) == ()
    assert allowed.certain(9, {}, 10) == ()


def test_the_newest_path_counts_and_a_few_are_kept_for_repeats() -> None:
    allowed = AllowedTokens()
    allowed.take(Path(5, (7,), (A, B)))
    allowed.take(Path(5, (7,), (A, C)))
    assert allowed.along(6, {5: 7}, ()) == [C]
    for position in range(6, 9):
        allowed.take(Path(position, (), (B,)))
    assert allowed.along(5, {}, ()) == [A]
    allowed.take(Path(9, (), (B,)))
    assert not allowed.known(5, {})


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_what_is_known_is_what_the_path_says_for_the_tokens_that_came(expected: list[int], data: st.DataObject) -> None:
    """Against a plain reading of the rule: what may come at a place depends on all tokens before it."""
    sets = [bytes([index + 1]) for index in range(len(expected) + 1)]
    allowed = AllowedTokens()
    allowed.take(Path(10, tuple(expected), tuple(sets)))
    came = data.draw(st.lists(st.integers(0, 3), max_size=len(expected)))
    guess = data.draw(st.lists(st.integers(0, 3), max_size=4))
    tokens = {10 + index: token for index, token in enumerate(came)}
    found = allowed.along(10 + len(came), tokens, guess)
    if came != expected[: len(came)]:
        assert found == []
        return
    text = [*came, *guess]
    agreed = len(came)
    while agreed < min(len(text), len(expected)) and text[agreed] == expected[agreed]:
        agreed += 1
    assert found == sets[len(came) : agreed + 1]

"""The form that an answer is bound to: what last stages are told, when, and how answers end by it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.requests.answer import Answer, EncodedPrompt
from orchestrator.requests.answer_form import BROKEN, AnswerForm
from orchestrator.requests.told_masks import ToldMasks
from schemas.codec import Flag
from schemas.messages import AllowTokens, Epoch, TokenMask
from schemas.token_mask import mask_id, unpack_mask
from tests.support.scripted_grammar import EOS, ScriptedGrammar, set_of
from tests.support.scripted_nodes import VOCABULARY, LetterStream

REQUEST = "0" * 16
EPOCH = Epoch(generation=1, counter=1)
PROMPT_TOKENS = 10
GRAMMAR = ScriptedGrammar((5, 6, 7, 8), (5, 6, 9, 8, 8), (5, 6, 9, 3))


def answer(*tokens: int, grammar: ScriptedGrammar = GRAMMAR, max_tokens: int = 20) -> Answer:
    form, known = AnswerForm.behind(grammar, tokens)
    prompt = EncodedPrompt("tiny", (0,) * PROMPT_TOKENS)
    return Answer(REQUEST, prompt, max_tokens, VOCABULARY, LetterStream, known, form=form)


def tell(
    one: Answer, guess: Sequence[int] = (), known: ToldMasks | None = None, since: int | None = None
) -> AllowTokens | None:
    assert one.form
    known = known or ToldMasks(64)
    return one.form.tell(
        REQUEST, EPOCH, prompt_tokens=PROMPT_TOKENS, tokens=one.tokens, guess=guess, known=known, since=since
    )


def shown(message: AllowTokens | None) -> tuple[int, tuple[int, ...], list[set[int] | None]] | None:
    """Position, expected tokens, sets."""
    if message is None:
        return None
    seen: dict[str, str] = {}
    sets = [_ids(mask, seen) if mask.id else None for mask in message.masks]
    return message.position, message.expected, sets


def _ids(mask: TokenMask, seen: dict[str, str]) -> set[int]:
    """A set, which is told by its name the second time."""
    assert mask.id
    data = seen[mask.id] if mask.data is None else seen.setdefault(mask.id, mask.data)
    bits = int.from_bytes(unpack_mask(data, 64, mask.id), "little")
    return {number for number in range(64) if bits >> number & 1}


def take(one: Answer, *ids: int, flags: int = 0) -> str:
    """The text of the pieces that these next tokens make."""
    pieces, gap = one.take(one.next_position, ids, flags)
    assert not gap
    return "".join(piece.text for piece in pieces)


def test_the_last_stage_is_told_what_may_come_up_to_where_there_is_a_choice() -> None:
    assert shown(tell(answer())) == (10, (5, 6), [None, None, {7, 9}])


def test_it_is_not_told_what_it_knows() -> None:
    one = answer()
    tell(one)
    take(one, 5)
    assert tell(one) is None
    take(one, 6)
    assert tell(one) is None
    take(one, 9)
    assert shown(tell(one)) == (13, (), [{8, 3}])
    assert tell(one) is None


def test_a_guess_is_followed_as_far_as_it_may_come() -> None:
    one = answer(5, 6)
    assert shown(tell(one, (9, 8))) == (12, (9, 8, 8, EOS), [{7, 9}, {8, 3}, None, None])
    assert tell(one, (9,)) is None
    assert shown(tell(one, (9, 3))) == (12, (9, 3, EOS), [{7, 9}, {8, 3}, None])
    assert shown(tell(one, (4, 4))) == (12, (), [{7, 9}])


def test_a_new_last_stage_and_one_that_asks_are_told_anew() -> None:
    one = answer(5, 6)
    assert one.form
    tell(one)
    one.form.reopened()
    assert shown(tell(one)) == (12, (), [{7, 9}])
    take(one, 9)
    assert shown(tell(one, since=1)) == (11, (6, 9), [None, None, {8, 3}]), "what came is known"
    assert shown(tell(one, since=-4)) == (10, (5, 6, 9), [None, None, None, {8, 3}])


def test_a_set_travels_once() -> None:
    known = ToldMasks(64)
    first, again = (tell(answer(5, 6), known=known) for _ in range(2))
    assert first
    assert again
    assert first.masks[0].data
    assert again.masks[0] == TokenMask(id=mask_id(set_of({7, 9})))


def test_an_answer_ends_where_nothing_can_follow() -> None:
    one = answer()
    take(one, 5, 6, 7)
    assert one.finish is None
    assert take(one, 8) != ""
    assert (one.finish, one.tokens) == ("stop", [5, 6, 7, 8])
    ended = answer()
    take(ended, 5, 6, 7, 8, EOS, flags=int(Flag.STOP))
    assert (ended.finish, ended.text.characters) == ("stop", one.text.characters)


def test_an_answer_may_be_cut() -> None:
    one = answer(max_tokens=3)
    take(one, 5, 6, 7)
    assert one.finish == "length"


@pytest.mark.parametrize("ids", [(4,), (5, 6, 8), (EOS,), (5, 6, EOS)])
def test_a_token_that_may_not_come_is_found_and_is_not_shown(ids: tuple[int, ...]) -> None:
    one = answer()
    flags = int(Flag.STOP) if EOS in ids else 0
    assert take(one, *ids, flags=flags) == ""
    assert one.form
    assert one.form.failure == BROKEN


def test_an_answer_that_goes_on_has_its_form_from_its_tokens() -> None:
    assert shown(tell(answer(5, 6, 9))) == (13, (), [{8, 3}])
    complete = answer(5, 6, 7, 8)
    assert complete.tokens == [5, 6, 7], "the last one is made once more, which ends it"
    take(complete, 8)
    assert complete.finish == "stop"
    damaged = answer(5, 1, 2)
    assert damaged.tokens == [5]


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=4), st.data())
def test_following_what_is_told_always_leads_to_one_of_the_texts(texts: list[list[int]], data: st.DataObject) -> None:
    """A last stage that knows no more than what it was told, and guesses at will."""
    one = answer(grammar=ScriptedGrammar(*texts))
    path: tuple[int, tuple[int, ...], list[set[int] | None]] | None = None
    while one.finish is None:
        guess = data.draw(st.lists(st.integers(0, 3), max_size=3))
        path = shown(tell(one, guess)) or path
        assert path
        position, expected, sets = path
        ahead = one.next_position - position
        assert expected[:ahead] == tuple(one.tokens[len(one.tokens) - ahead :] if ahead else ())
        may = sets[ahead]
        token = expected[ahead] if may is None else data.draw(st.sampled_from(sorted(may)))
        take(one, token, flags=int(Flag.STOP) if token == EOS else 0)
        assert one.form
        assert not one.form.failure
    assert [token for token in one.tokens if token != EOS] in texts

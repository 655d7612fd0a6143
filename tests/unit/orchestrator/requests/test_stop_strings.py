"""Stop strings: the answer ends before the first of them, however its text comes, goes and is told again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.client.answer_stream import AnswerStream
from orchestrator.requests.answer import Answer, EncodedPrompt
from schemas.codec import Flag
from schemas.messages import StreamEnd, StreamText
from tests.support.orchestrating import World
from tests.support.scripted_nodes import VOCABULARY, letter, make_submit

REQUEST = "0" * 16
WORDS = ("a", "b", "ab", "ba", "", "c", "abcab", "\N{TOKYO TOWER}")
"""The texts of tokens; the empty one completes no character."""


class WordStream:
    def push(self, token_id: int) -> str:
        return WORDS[token_id]

    def finish(self) -> str:
        return "?"


def make_answer(stop: Sequence[str], known: Sequence[int] = (), max_tokens: int = 1000) -> Answer:
    return Answer(REQUEST, EncodedPrompt("tiny", ()), max_tokens, VOCABULARY, WordStream, list(known), stop)


def cut(text: str, stop: Sequence[str]) -> str | None:
    """The text before the first stop string, character by character; None if there is none in it."""
    for end in range(1, len(text) + 1):
        if found := [len(one) for one in stop if text[:end].endswith(one)]:
            return text[: end - max(found)]
    return None


def text_of(pieces: Sequence[object]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, StreamText))


def take(answer: Answer, frames: Sequence[Sequence[int]]) -> list[StreamText]:
    """What comes of an answer of these frames, the last of which has its end."""
    pieces: list[StreamText] = []
    for number, frame in enumerate(frames):
        flag = Flag.LENGTH if number == len(frames) - 1 else 0
        pieces += answer.take(answer.next_position, frame, flag)[0]
        if answer.finish:
            break
    return pieces


tokens = st.integers(0, len(WORDS) - 1)
frames = st.lists(st.lists(tokens, min_size=1, max_size=4), min_size=1, max_size=12)
stops = st.lists(st.text("abc?\N{TOKYO TOWER}", min_size=1, max_size=6), max_size=4)


@given(frames=frames, stop=stops)
@example(frames=[[6, 0]], stop=["abcab", "b"])
@example(frames=[[2, 6, 5]], stop=["aba", "ba"])
def test_any_split_into_tokens_and_frames_gives_the_text_before_the_first_stop_string(
    frames: list[list[int]], stop: list[str]
) -> None:
    ids = [token for frame in frames for token in frame]
    whole = "".join(WORDS[token] for token in ids)
    expected = cut(whole + "?", stop)
    answer = make_answer(stop)
    pieces = take(answer, frames)
    assert text_of(pieces) == (whole + "?" if expected is None else expected)
    assert answer.finish == ("length" if expected is None else "stop")
    needed = next((n for n in range(len(ids)) if cut("".join(WORDS[t] for t in ids[:n]), stop) is not None), len(ids))
    assert answer.tokens == ids[:needed], "what was made until the stop string was complete, and no more"
    assert answer.text.tokens == sum(len(piece.token_ids) for piece in pieces) <= len(answer.tokens)
    assert [piece.token_ids for piece in pieces if piece.token_ids] or not text_of(pieces)


@given(frames=frames, stop=stops, reads=st.integers(0, 12), begins=st.integers(0, 12))
def test_a_reader_comes_to_the_same_text_whatever_he_misses_and_whoever_goes_on(
    frames: list[list[int]], stop: list[str], reads: int, begins: int
) -> None:
    """He has ``reads`` pieces of it when another orchestrator, that knows ``begins`` frames, tells him the rest."""
    first = make_answer(stop)
    whole = take(first, frames)
    reader = AnswerStream(make_submit(), question_bytes=0)
    for piece in whole[:reads]:
        reader.take(piece)
    ids = [token for frame in frames for token in frame][: len(first.tokens)]
    known = [token for frame in frames[:begins] for token in frame][: len(ids)]
    other = make_answer(stop, known)
    assert len(other.tokens) <= len(ids) - 1 or first.finish != "stop"
    missed = other.text_after(len(reader.token_ids))
    rest = ids[len(other.tokens) :]
    later = take(other, [[token] for token in rest]) if rest else []
    for piece in [*missed, *later, *other.text_after(len(reader.token_ids) if not missed else 0)]:
        reader.take(piece)
    for piece in other.text_after(len(reader.token_ids)):  # as a reader asks who has a gap
        reader.take(piece)
    if rest:
        assert text_of(reader.waiting) == text_of(whole)
        assert (other.tokens, other.finish) == (first.tokens, first.finish)
        assert (other.text.tokens, other.text.characters) == (first.text.tokens, first.text.characters)


@pytest.mark.parametrize(
    ("texts", "stop", "streamed"),
    [
        (("one ", "<", "/s", "> two"), ("</s>",), ["one ", "", "", ""]),
        (("one ", "<", "b> "), ("</s>",), ["one ", "", "<b> "]),
        (("one<", "<", "/s>"), ("</s>",), ["", "one<", ""]),
        (("a", "b", "c"), ("abc", "b"), ["", "a", ""]),
    ],
    ids=["over tokens", "no stop string after all", "begins twice", "complete first"],
)
def test_nothing_of_a_stop_string_is_streamed_nor_what_may_become_one(
    texts: Sequence[str], stop: Sequence[str], streamed: list[str]
) -> None:
    class Stream:
        push = staticmethod(lambda token_id: texts[token_id])
        finish = staticmethod(lambda: "")

    answer = Answer(REQUEST, EncodedPrompt("tiny", ()), 100, VOCABULARY, Stream, [], stop)
    assert [text_of(answer.take(number, [number], 0)[0]) for number in range(len(texts))] == streamed


def alphabet(stop: str, **changes: object) -> tuple[World, str]:
    """A request whose answer is the alphabet, from f on."""
    world = World().serve("a", "b", "c")
    return world, world.ask(make_submit(max_tokens=20, stop=(stop,), **changes))


def test_the_stages_are_closed_at_once_and_what_was_made_is_counted() -> None:
    world, request = alphabet("ijk")
    world.generate(request, 5)
    assert world.text(request) == "fgh"
    assert world.end(request) is None
    world.generate(request, 3)
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    assert (world.text(request), end.finish_reason) == ("fgh", "stop")
    assert (end.completion_tokens, end.text_tokens, end.text_characters) == (6, 3, 3)
    assert all(request not in node.open for node in world.nodes.values())


@pytest.mark.parametrize("database", [True, False], ids=["restored", "forgotten"])
def test_an_answer_goes_on_to_its_stop_string_in_another_start_of_the_orchestrator(database: bool) -> None:
    world, request = alphabet("ijk", patience_s=600.0)
    world.generate(request, 5)
    world.restart(database=database)
    world.wait(5.0)
    if not database:
        answer_ids = tuple(letter(position) for position in range(5, 8))
        world.ask(make_submit(max_tokens=20, stop=("ijk",), patience_s=600.0, answer_ids=answer_ids))
        world.wait(5.0)
    world.generate(request, 4)
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    assert (end.finish_reason, end.completion_tokens, end.text_characters) == ("stop", 6, 3)


def test_what_was_held_back_is_told_at_the_end_that_a_smaller_context_makes() -> None:
    answer = make_answer(("cc",), max_tokens=100)
    answer.take(0, [0, 5], 0)
    assert text_of(answer.cut()) == "c?"
    assert text_of(answer.text_after(0)) == "ac?"


def test_an_answer_without_stop_strings_holds_nothing_back() -> None:
    answer = make_answer(())
    assert [text_of(answer.take(number, [token], 0)[0]) for number, token in enumerate((0, 1, 6))] == [
        "a",
        "b",
        "abcab",
    ]

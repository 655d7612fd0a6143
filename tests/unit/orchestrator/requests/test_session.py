"""One request: tokens by position, text in pieces, the bounds of a prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.client.answer_stream import AnswerStream
from orchestrator.errors import OrchestratorError
from orchestrator.events import PromptEncoded
from orchestrator.model.prompt import PromptRefused, encode_prompt
from orchestrator.model.served import ServedModel
from orchestrator.requests.answer import Answer, EncodedPrompt
from orchestrator.requests.ending import Ending
from orchestrator.requests.placement import Placement
from orchestrator.requests.session import Session
from schemas.codec import Flag
from schemas.messages import Epoch, Sampling, StageTiming, StreamText, SubmitRequest
from tests.support.scripted_nodes import (
    EOS,
    VOCABULARY,
    Letters,
    LetterStream,
    answer_text,
    letter,
    make_manifest,
    make_submit,
)

MODEL = ServedModel(make_manifest(), Letters())


def make_answer(max_tokens: int = 100) -> Answer:
    return Answer("0" * 16, EncodedPrompt("tiny", (0,) * 10), max_tokens, VOCABULARY, LetterStream)


def ids(start: int, stop: int) -> list[int]:
    return [letter(position) for position in range(start, stop)]


def text_of(pieces: Sequence[StreamText]) -> str:
    return "".join(piece.text for piece in pieces)


def test_tokens_become_text_in_order() -> None:
    answer = make_answer()
    first, _ = answer.take(10, ids(10, 12), 0)
    second, _ = answer.take(12, ids(12, 13), 0)
    assert text_of([*first, *second]) == answer_text(10, 3)
    assert [(piece.first_token, piece.first_character) for piece in [*first, *second]] == [(0, 0), (2, 2)]
    assert second[0].token_ids == (letter(12),)


def test_what_was_seen_is_dropped_and_counted() -> None:
    answer = make_answer()
    answer.take(10, ids(10, 13), 0)
    assert answer.take(10, ids(10, 12), 0) == ([], False)
    assert answer.dropped_tokens == 2
    pieces, _ = answer.take(11, ids(11, 15), 0)
    assert text_of(pieces) == answer_text(10, 5)[3:]


def test_a_gap_takes_nothing_and_says_so() -> None:
    answer = make_answer()
    assert answer.take(11, ids(11, 12), 0) == ([], True)
    assert answer.next_position == 10


def test_the_end_token_is_counted_and_not_shown() -> None:
    answer = make_answer()
    pieces, _ = answer.take(10, [letter(10), EOS], Flag.STOP)
    assert text_of(pieces) == answer_text(10, 1)
    assert answer.finish == "stop"
    assert answer.tokens == [letter(10), EOS]


def test_the_length_flag_ends_the_answer() -> None:
    answer = make_answer()
    answer.take(10, ids(10, 12), Flag.LENGTH)
    assert answer.finish == "length"


def test_max_tokens_ends_the_answer_even_if_the_ring_goes_on() -> None:
    answer = make_answer(max_tokens=2)
    pieces, _ = answer.take(10, ids(10, 20), 0)
    assert text_of(pieces) == answer_text(10, 2)
    assert answer.finish == "length"
    assert answer.take(12, ids(12, 13), 0) == ([], False)


def test_an_end_that_was_missed_is_taken_from_a_repeated_frame() -> None:
    answer = make_answer()
    answer.take(10, ids(10, 12), 0)
    answer.take(10, ids(10, 12), Flag.LENGTH)
    assert answer.finish == "length"


class Halves:
    """Every character takes two tokens."""

    def __init__(self) -> None:
        self.half = ""

    def push(self, token_id: int) -> str:
        whole, self.half = (self.half + chr(token_id), "") if self.half else ("", chr(token_id))
        return whole

    def finish(self) -> str:
        return "?" if self.half else ""


def test_pieces_carry_the_tokens_behind_them_whole_characters_only() -> None:
    answer = Answer("0" * 16, EncodedPrompt("tiny", ()), 100, VOCABULARY, Halves)
    assert answer.take(0, [97], 0) == ([], False)
    (piece,), _ = answer.take(1, [98], 0)
    assert (piece.text, piece.token_ids) == ("ab", (97, 98))
    (last,), _ = answer.take(2, [99], Flag.LENGTH)
    assert (last.text, last.token_ids) == ("?", (99,))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=60))
def test_any_order_repetition_and_loss_gives_a_prefix_of_the_text(frames: list[tuple[int, int]]) -> None:
    answer = make_answer()
    pieces: list[StreamText] = []
    for start, count in frames:
        missing_before = answer.next_position - 10
        got, gap = answer.take(10 + start, ids(10 + start, 10 + start + count), 0)
        assert gap == (start > missing_before)
        pieces += got
    assert text_of(pieces) == answer_text(10, len(answer.tokens))
    lengths = [len(piece.text) for piece in pieces]
    assert [piece.first_character for piece in pieces] == [sum(lengths[:number]) for number in range(len(lengths))]


@given(
    frames=st.lists(st.lists(st.integers(97, 122), min_size=1, max_size=4), min_size=1, max_size=20),
    known=st.integers(0, 20),
    begins=st.integers(0, 10),
    flags=st.sampled_from([0, Flag.LENGTH, Flag.STOP]),
)
def test_text_that_is_told_again_begins_where_the_reader_is(
    frames: list[list[int]], known: int, begins: int, flags: int
) -> None:
    """Two tokens make a character. The reader has ``known`` pieces when another orchestrator tells him the rest, one
    that knew ``begins`` frames from the start; the last frames come as usual."""
    submit, begins = make_submit(), min(begins, len(frames) - 1)

    def told(answer: Answer, first: int) -> list[StreamText]:
        pieces: list[StreamText] = []
        for number, frame in enumerate(frames[first:], first):
            last = number == len(frames) - 1
            pieces += answer.take(answer.next_position, frame, flags if last else 0)[0]
        return pieces

    prompt = EncodedPrompt("tiny", ())
    whole = told(Answer(submit.request, prompt, 1000, VOCABULARY, Halves), 0)
    reader = AnswerStream(submit)
    for piece in whole[:known]:
        reader.take(piece)
    other = Answer(
        submit.request, prompt, 1000, VOCABULARY, Halves, [token for frame in frames[:begins] for token in frame]
    )
    missed = other.text_after(len(reader.token_ids))
    later = told(other, begins)
    for piece in [*missed, *later, *other.text_after(len(reader.token_ids) if not missed else 0)]:
        reader.take(piece)
    assert text_of([piece for piece in reader.waiting if isinstance(piece, StreamText)]) == text_of(whole)
    assert reader.token_ids == [token for piece in whole for token in piece.token_ids]


def test_an_answer_goes_on_behind_tokens_that_were_known_before() -> None:
    answer = make_answer()
    whole = text_of(answer.take(10, ids(10, 20), Flag.LENGTH)[0])
    later = Answer("0" * 16, EncodedPrompt("tiny", (0,) * 10), 100, VOCABULARY, LetterStream, ids(10, 14))
    assert later.next_position == 14
    (piece,), _ = later.take(14, ids(14, 20), Flag.LENGTH)
    assert (piece.first_token, whole[: piece.first_character] + piece.text) == (4, whole)


def encoded(submit: SubmitRequest) -> Session:
    session = Session(submit, submitted_s=1.0)
    session.take(PromptEncoded(submit.request, MODEL.name, encode_prompt(submit, MODEL.tokenizer)))
    return session


def opened(prompt: str = "hello", **changes: Any) -> Session:
    session = encoded(make_submit(prompt=prompt, **changes))
    assert session.fit(MODEL, 256)
    epoch = Epoch(generation=1, counter=1)
    session.open(Placement(epoch=epoch, ring=("a", "b", "c"), eos_ids=(EOS,), begun_at=5))
    return session


def test_a_prompt_longer_than_the_context_names_both_numbers() -> None:
    session = encoded(make_submit(prompt="x" * 20))
    with pytest.raises(PromptRefused, match=r"prompt has 20 tokens, the context is 20") as refused:
        session.fit(MODEL, 20)
    assert refused.value.code == "too_long"


def test_the_answer_is_bounded_by_the_context() -> None:
    session = encoded(make_submit(prompt="x" * 20, max_tokens=1000))
    assert session.fit(MODEL, 32)
    assert session.answer
    assert session.answer.max_tokens == 12


@pytest.mark.parametrize(
    "changes",
    [{"messages": ()}, {"messages": (), "prompt": ""}, {"prompt": "both"}],
    ids=["neither", "empty", "both"],
)
def test_a_request_has_either_messages_or_a_prompt(changes: dict[str, Any]) -> None:
    with pytest.raises(PromptRefused) as refused:
        encode_prompt(replace(make_submit(), **changes), MODEL.tokenizer)
    assert refused.value.code == "bad_request"


def test_a_template_that_refuses_is_the_clients_mistake() -> None:
    class Strict(Letters):
        def encode_chat(self, messages: object, tools: object = ()) -> list[int]:
            raise OrchestratorError("roles must alternate")

    with pytest.raises(PromptRefused, match="roles must alternate"):
        encode_prompt(make_submit(), Strict())


def test_stages_are_opened_from_the_last_to_the_first() -> None:
    commands = opened(sampling=Sampling(temperature=1.0, seed=7)).open_messages(pipeline="main")
    assert [node for node, _ in commands] == ["c", "b", "a"]
    last, middle, first = (message for _, message in commands)
    assert (last.prompt_ids, last.eos_ids) == (None, (EOS,))
    assert last.sampling is not None
    assert last.sampling.seed == 7
    assert (middle.prompt_ids, middle.sampling, middle.eos_ids) == (None, None, ())
    assert first.prompt_ids == tuple(b"hello")
    assert first.sampling is None


@pytest.mark.parametrize("name", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_a_penalty_needs_the_prompt_on_the_last_stage(name: str) -> None:
    commands = opened(sampling=Sampling(**{name: 1.1})).open_messages(pipeline="main")
    assert [message.prompt_ids is not None for _, message in commands] == [True, False, True]


def test_going_on_sends_the_tokens_so_far_and_keeps_the_prompts_length() -> None:
    session = opened()
    assert session.answer
    session.answer.take(5, ids(5, 8), 0)
    (_, first) = session.open_messages(pipeline="main")[-1]
    assert first.prompt_tokens == 5
    assert first.prompt_ids == (*b"hello", *ids(5, 8))
    assert first.max_tokens == 8


def test_another_model_in_mid_answer_is_refused() -> None:
    session = opened()
    assert session.answer
    session.answer.take(5, ids(5, 8), 0)
    with pytest.raises(PromptRefused, match="model was changed"):
        session.fit(ServedModel(make_manifest("other"), Letters()), 256)


def test_stages_come_in_order_and_only_when_asked_for() -> None:
    for stats, expected in ((True, [0, 1]), (False, [])):
        session = opened(stats=stats)
        timings = {1: StageTiming(node="b", stage=1), 0: StageTiming(node="a", stage=0)}
        session.ttft_s, session.ending = 0.5, Ending("stop", 3.0, 3.0, timings)
        end = session.end_message()
        assert [timing.stage for timing in end.stages] == expected
        assert (end.ttft_s, end.total_s, end.prompt_tokens) == (0.5, 2.0, 5)

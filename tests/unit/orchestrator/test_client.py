"""The client of a running orchestrator: order, repeats, gaps, silence, cancelling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from broker.bus import Refused
from broker.memory import MemoryBus
from orchestrator.client import (
    LEASE_S,
    RENEW_S,
    AnswerFailed,
    AnswerIncomplete,
    Client,
    ControlRefused,
    NoOrchestrator,
    QuestionTooLong,
    Waiting,
)
from schemas.errors import MessageError
from schemas.messages import (
    ChatMessage,
    OrchestratorStatus,
    RenewRequest,
    Sampling,
    StreamError,
    StreamStatus,
    SubmitRequest,
    encode,
)
from schemas.operator_requests import PlanConstraints
from schemas.topics import ORCHESTRATOR_STATUS
from tests.support.fake_orchestrator import FakeOrchestrator, StreamMessage, end, goes_on, paris, piece, pieces
from tests.support.polling import DEADLINE_S

QUESTION = [ChatMessage(role="user", content="What is the capital of France?")]


@pytest.fixture
def fake() -> Iterator[FakeOrchestrator]:
    with FakeOrchestrator() as orchestrator:
        yield orchestrator


def test_an_answer_comes_piece_by_piece(fake: FakeOrchestrator) -> None:
    with fake.connect() as client:
        answer = client.ask(QUESTION, max_tokens=7, sampling=Sampling(temperature=0.5, seed=3), stats=True)
        assert list(answer) == ["Par", "is."]
    assert answer.text == "Paris."
    assert answer.token_ids == [0, 1]
    assert answer.end is not None
    assert answer.end.stages[0].node == "phone"
    (submit,) = fake.submitted
    assert (submit.messages, submit.max_tokens, submit.sampling.seed) == (tuple(QUESTION), 7, 3)


def test_messages_that_arrive_twice_count_once(fake: FakeOrchestrator) -> None:
    fake.broker.repeat = lambda delivery: delivery.topic.endswith("/stream")
    with fake.connect() as client:
        assert "".join(client.ask(QUESTION)) == "Paris."
        assert "".join(client.ask(QUESTION)) == "Paris."


def test_two_answers_at_once_are_kept_apart(fake: FakeOrchestrator) -> None:
    fake.answer = lambda submit: [piece(submit.request, submit.messages[0].content), end(submit.request)]
    with fake.connect() as client:
        one = client.ask([ChatMessage(role="user", content="one")])
        two = client.ask([ChatMessage(role="user", content="two")])
        assert "".join(two) == "two"
        assert "".join(one) == "one"


def test_an_answer_never_has_a_hole(fake: FakeOrchestrator) -> None:
    """What is missing is asked for again and again; nobody sends it, until patience is at its end."""
    fake.silence_s = 0.1
    fake.answer = lambda submit: [
        piece(submit.request, "a"),
        piece(submit.request, "c", "ab"),
        end(submit.request, before="abc"),
    ]
    fake.on_renewed = lambda renew: []
    with fake.connect() as client, pytest.raises(AnswerIncomplete, match="no orchestrator answers"):
        list(client.ask(QUESTION, patience_s=0.0))
    assert next(renew.answer_tokens for renew in fake.renewed if renew.repeat) == 1


def test_a_failed_answer_says_why(fake: FakeOrchestrator) -> None:
    def too_long(submit: SubmitRequest) -> list[StreamMessage]:
        return [StreamError(request=submit.request, code="too_long", reason="600 tokens, the context has 512")]

    fake.answer = too_long
    with fake.connect() as client, pytest.raises(AnswerFailed, match="600 tokens") as caught:
        list(client.ask(QUESTION))
    assert caught.value.code == "too_long"


def test_cancel_ends_the_answer_and_is_confirmed(fake: FakeOrchestrator) -> None:
    fake.answer = lambda submit: [piece(submit.request, "Once")]
    with fake.connect() as client:
        answer = client.ask(QUESTION)
        pieces = []
        for text in answer:
            pieces.append(text)
            threading.Thread(target=answer.cancel).start()
    assert pieces == ["Once"]
    assert [cancel.request for cancel in fake.cancelled] == [answer.request]
    assert answer.end is not None
    assert answer.end.finish_reason == "cancelled"


def test_silence_is_fine_as_long_as_somebody_is_there(fake: FakeOrchestrator) -> None:
    """The client asks for a word after a while, and is told that the answer is being computed."""
    fake.silence_s = 0.1
    fake.answer = lambda submit: []
    asked: list[RenewRequest] = []

    def repeat(renew: RenewRequest) -> list[StreamMessage]:
        asked.append(renew)
        if len(asked) == 3:
            threading.Thread(target=answer.cancel).start()
        return goes_on(renew)

    fake.on_renewed = repeat
    with fake.connect() as client:
        answer = client.ask(QUESTION, patience_s=0.0)
        assert list(answer) == []
    assert any(renew.repeat for renew in asked)
    assert answer.end is not None


def test_an_orchestrator_that_vanishes_is_waited_for_and_missed() -> None:
    fake = FakeOrchestrator(control={}, silence_s=0.05)
    fake.answer = lambda submit: [piece(submit.request, "Once")]
    fake.on_renewed = lambda renew: []
    told: list[str] = []
    with fake, fake.connect() as client:
        answer = client.ask(QUESTION, patience_s=1.5)
        answer.on_waiting = lambda waiting: told.append(waiting.text if waiting else "")
        with pytest.raises(AnswerIncomplete, match=r"no orchestrator answers on mqtt://memory:1883 \(waited [12] s\)"):
            list(answer)
    assert set(told) == {"the orchestrator: start one with 'linguabus serve --broker mqtt://memory:1883'"}


def test_who_does_not_wait_is_told_at_once_that_an_orchestrator_has_gone() -> None:
    """It has said so itself; where it has not, silence tells, which here is too long for a test."""
    fake = FakeOrchestrator(control={}, silence_s=10 * DEADLINE_S)
    fake.answer = fake.on_renewed = lambda _: []
    with fake, fake.connect() as client:
        gone = OrchestratorStatus(pipeline="main", orchestrator="0123abcd", state="gone")
        topic = ORCHESTRATOR_STATUS.format(pipeline="main")
        with MemoryBus(fake.broker, client_id="orchestrator") as bus:
            bus.connect()
            bus.publish(topic, encode(gone), qos=1, retain=True)
            with pytest.raises(AnswerIncomplete, match=r"no orchestrator answers on .* start one with"):
                list(client.ask(QUESTION, patience_s=0.0))
            fake.answer = paris
            bus.publish(topic, encode(replace(gone, state="here")), qos=1, retain=True)
            assert "".join(client.ask(QUESTION, patience_s=0.0)) == "Paris."


def test_who_has_no_orchestrator_is_told_so_soon() -> None:
    """Long before that counts as missing."""
    fake = FakeOrchestrator(control={}, silence_s=3.0)
    fake.answer = fake.on_renewed = lambda _: []
    told: list[tuple[str, float]] = []

    def tell(waiting: Waiting | None) -> None:
        if waiting:
            told.append((waiting.text, time.monotonic() - waiting.since_s))
            answer.cancel()

    with fake, fake.connect() as client:
        answer = client.ask(QUESTION, patience_s=60.0)
        answer.on_waiting = tell
        with pytest.raises(AnswerIncomplete, match="cancelled while it waited for an orchestrator to answer"):
            list(answer)
    ((text, waited_s),) = told
    assert text == "an orchestrator to answer"
    assert 1.5 <= waited_s < 6.0


def test_an_orchestrator_that_computes_for_long_is_not_waited_for(fake: FakeOrchestrator) -> None:
    """It says so when it is asked."""
    fake.silence_s = 0.8
    fake.answer = lambda submit: []
    told: list[Waiting | None] = []

    def repeat(renew: RenewRequest) -> list[StreamMessage]:
        if len(fake.renewed) == 3:
            threading.Thread(target=answer.cancel).start()
        return goes_on(renew)

    fake.on_renewed = repeat
    with fake.connect() as client:
        answer = client.ask(QUESTION)
        answer.on_waiting = told.append
        assert list(answer) == []
    assert fake.renewed[0].repeat
    assert told == []


def test_a_broker_that_vanishes_is_waited_for_and_missed(fake: FakeOrchestrator) -> None:
    fake.answer = lambda submit: [piece(submit.request, "Once")]
    with fake.connect() as client:
        answer = client.ask(QUESTION, patience_s=0.0)
        pieces = iter(answer)
        assert next(pieces) == "Once"
        fake.broker.stop()
        with pytest.raises(AnswerIncomplete, match=r"mqtt://memory:1883 can't be reached .*: start it there again"):
            next(pieces)


def test_an_orchestrator_that_knows_nothing_of_an_answer_is_asked_again(fake: FakeOrchestrator) -> None:
    """It has lost its database: the question comes again with the tokens that have come, and the answer goes on."""
    texts = ("Par", "is", ".")

    def answered(submit: SubmitRequest) -> list[StreamMessage]:
        known = len(submit.answer_ids)
        begun = StreamStatus(request=submit.request, model="smollm2")
        told = pieces(submit.request, texts)
        return [begun, *told[known:], end(submit.request, before=texts)] if known else [begun, *told[:2]]

    fake.answer = answered
    fake.on_renewed = lambda renew: [StreamError(request=renew.request, code="unknown", reason="who?")]
    with fake.connect() as client:
        answer = client.ask(QUESTION)
        assert list(answer) == list(texts)
        assert answer.token_ids == [0, 1, 2]
    first, again = fake.submitted
    assert (again.request, again.answer_ids, again.answer_model) == (first.request, (0, 1), "smollm2")
    assert (first.age_s, first.ttft_s) == (0.0, None)
    assert again.ttft_s is not None
    assert 0 < again.ttft_s < again.age_s


def test_a_question_that_was_damaged_on_its_way_is_asked_again_a_few_times(fake: FakeOrchestrator) -> None:
    def unreadable(submit: SubmitRequest) -> list[StreamMessage]:
        return [StreamError(request=submit.request, code="malformed", reason="the message breaks the contract")]

    fake.answer = lambda submit: unreadable(submit) if len(fake.submitted) == 1 else paris(submit)
    with fake.connect() as client:
        assert "".join(client.ask(QUESTION)) == "Paris."
    assert len(fake.submitted) == 2
    fake.answer = unreadable
    fake.on_renewed = lambda renew: [StreamError(request=renew.request, code="malformed", reason="always")]
    with fake.connect() as client, pytest.raises(AnswerFailed, match=r"always|breaks the contract"):
        list(client.ask(QUESTION))


def test_what_an_answer_waits_for_is_told_until_it_goes_on(fake: FakeOrchestrator) -> None:
    fake.answer = lambda submit: [StreamStatus(request=submit.request, waits_for="node tablet: 1 of 3 is here")]
    told: list[str] = []

    def waits(waiting: Waiting | None) -> None:
        told.append(waiting.text if waiting else "goes on")
        if len(told) == 1:
            fake.on_renewed = lambda renew: [
                *pieces(renew.request, ("Paris.",)),
                end(renew.request, before=("Paris.",)),
            ]

    with fake.connect() as client:
        answer = client.ask(QUESTION)
        answer.on_waiting = waits
        assert "".join(answer) == "Paris."
    assert list(dict.fromkeys(told)) == ["node tablet: 1 of 3 is here", "goes on"]


def test_an_answer_that_is_left_early_is_cancelled(fake: FakeOrchestrator) -> None:
    fake.answer = lambda submit: pieces(submit.request, ("Once", " upon"))
    with fake.connect() as client:
        answer = client.ask(QUESTION)
        for _ in answer:
            break
        fake.settle()
        assert [cancel.request for cancel in fake.cancelled] == [answer.request]
        with pytest.raises(AnswerIncomplete, match="left"):
            list(answer)


def test_a_client_that_leaves_cancels_all_that_is_open(fake: FakeOrchestrator) -> None:
    fake.answer = lambda submit: [piece(submit.request, "Once")] if submit.max_tokens > 1 else paris(submit)
    with fake.connect() as client:
        list(client.ask(QUESTION, max_tokens=1))
        begun, unread = client.ask(QUESTION), client.ask(QUESTION)
        pieces = iter(begun)
        next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    fake.settle()
    assert sorted(cancel.request for cancel in fake.cancelled) == sorted([begun.request, unread.request])


def test_what_is_read_is_renewed_while_the_client_waits_for_anything(fake: FakeOrchestrator) -> None:
    fake.silence_s = 60.0
    fake.answer = lambda submit: [StreamStatus(request=submit.request)]
    fake.control = {"status": {}}
    with fake.connect() as client:
        answers = [client.ask(QUESTION), client.ask(QUESTION)]
        renewed: set[str] = set()
        while renewed != {answer.request for answer in answers}:
            client.events(1.0)
            renewed = {renew.request for renew in fake.renewed}
        assert not any(renew.repeat for renew in fake.renewed)
        assert all(submit.lease_s == LEASE_S for submit in fake.submitted)
        for answer in answers:
            client.leave(answer.request)
        client.status()  # what was sent before has been heard
        fake.renewed.clear()
        client.events(3 * RENEW_S)
        assert fake.renewed == []


def test_what_was_sent_while_the_client_was_away_is_asked_for_until_it_comes(fake: FakeOrchestrator) -> None:
    """The connection is lost after the first piece; the first time it is asked, nobody hears."""
    fake.answer = lambda submit: [piece(submit.request, "Par")]
    rest: list[StreamMessage] = []

    def repeat(renew: RenewRequest) -> list[StreamMessage]:
        asked.append((renew.repeat, renew.answer_tokens))
        return [message for message in rest if len(asked) > 1]

    asked: list[tuple[bool, int]] = []
    with fake.connect() as client:
        answer = client.ask(QUESTION)
        texts = ("Par", "is", ".")
        rest += [*pieces(answer.request, texts)[1:], end(answer.request, before=texts)]
        answered = iter(answer)
        assert next(answered) == "Par"
        fake.on_renewed = repeat
        fake.broker.drop("client")
        assert list(answered) == ["is", "."]
    assert asked == [(True, 1), (True, 1)]


def test_an_end_that_comes_before_what_was_lost_is_no_end(fake: FakeOrchestrator) -> None:
    whole: list[StreamMessage] = []

    def lossy(submit: SubmitRequest) -> list[StreamMessage]:
        whole.extend([*pieces(submit.request, "abcd"), end(submit.request, before="abcd")])
        return [whole[0], whole[2], whole[4]]

    fake.answer = lossy
    fake.on_renewed = lambda renew: whole[renew.answer_tokens :] if renew.repeat else []
    with fake.connect() as client:
        assert "".join(client.ask(QUESTION)) == "abcd"


def test_a_lost_last_piece_is_noticed_by_the_end(fake: FakeOrchestrator) -> None:
    fake.answer = lambda submit: [piece(submit.request, "a"), end(submit.request, before="ab")]
    fake.on_renewed = lambda renew: [piece(renew.request, "b", "a"), end(renew.request, before="ab")]
    with fake.connect() as client:
        assert "".join(client.ask(QUESTION)) == "ab"
    assert fake.renewed[0].repeat


def test_control_returns_the_result_or_says_no(fake: FakeOrchestrator) -> None:
    fake.control |= {"plan": {"state": "serving"}, "use_model": "there is no model 'x'"}
    with fake.connect() as client:
        assert client.plan().state == "serving"
        with pytest.raises(ControlRefused, match="no model 'x'"):
            client.use_model("x")
    assert fake.commanded[-1].arguments == {"model": "x"}


def test_an_answer_that_is_none_of_the_contract_is_said(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.fake_orchestrator.encode", lambda _answer: b'{"type": "control.nodes.reply"}')
    with fake.connect() as client, pytest.raises(MessageError, match="v: this version reads 1"):
        client.status()


def test_no_orchestrator_is_said_with_the_line_that_helps(fake: FakeOrchestrator) -> None:
    fake.control = {}
    with fake.connect() as client, pytest.raises(NoOrchestrator, match="linguabus serve --broker mqtt://memory:1883"):
        client.status(timeout_s=0.05)


def test_commands_that_take_long_are_not_awaited_where_nobody_is() -> None:
    commands: list[Callable[[Client], object]] = [
        lambda client: client.use_model("x"),
        Client.replan,
        Client.rebalance,
        lambda client: client.preview(PlanConstraints()),
        lambda client: client.apply(PlanConstraints()),
    ]
    with FakeOrchestrator(control={}, patience_s=0.05) as fake, fake.connect() as client:
        for command in commands:
            with pytest.raises(NoOrchestrator):
                command(client)


def test_what_the_contract_forbids_is_not_sent(fake: FakeOrchestrator) -> None:
    with fake.connect() as client, pytest.raises(MessageError, match="temperature"):
        client.ask(QUESTION, sampling=Sampling(temperature=1000))
    assert fake.submitted == []


def test_a_question_that_the_broker_does_not_pass_on_is_refused_with_both_numbers(fake: FakeOrchestrator) -> None:
    fake.control = {**fake.control, "status": {"max_message_bytes": 5_000}}
    with fake.connect() as client:
        words = r"message of 6,\d{3} bytes, and the broker passes on 5,000 bytes at most"
        with pytest.raises(QuestionTooLong, match=words):
            client.ask(prompt="x" * 6_000)
        assert "".join(client.ask(prompt="x" * 4_500)) == "Paris."
        client.bus.limit_payload(1_000)
        with pytest.raises(QuestionTooLong, match="passes on 1,000 bytes at most"):
            client.ask(prompt="x" * 2_000)
    assert len(fake.submitted) == 1


def test_a_question_that_no_broker_would_pass_on_is_refused_in_the_same_words(fake: FakeOrchestrator) -> None:
    words = r"the question makes a message of 2,000,\d{3} bytes, and 1,500,000 are allowed: shorten it"
    with fake.connect() as client, pytest.raises(QuestionTooLong, match=words):
        client.ask(prompt="x" * 2_000_000)
    assert fake.submitted == []


def test_a_question_that_the_broker_refuses_fails_at_once(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.broker.lose = lambda message: "/submit/" in message.topic
    with fake.connect() as client:
        answer = client.ask(prompt="x" * 100)
        size_bytes = client.reader.get(answer.request).question_bytes  # type: ignore[union-attr]
        refused = Refused("linguabus/v1/request/submit/client", size_bytes, "packet too large")
        monkeypatch.setattr(client.bus, "poll", lambda _: [refused])
        with pytest.raises(AnswerFailed, match=f"does not take the question, a message of {size_bytes} bytes: packet"):
            list(answer)

"""bench: its arithmetic, and the command with an orchestrator that says what the test wants."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator

import pytest

from broker.memory import MemoryBus
from orchestrator import cli
from orchestrator.client import Client
from orchestrator.commands.bench_report import TEXT, Combination, Load, Measured, make_prompt, summarise
from orchestrator.planning.percentile import percentile
from schemas.messages import StageTiming, StreamEnd, StreamError, SubmitRequest
from tests.support.fake_orchestrator import FakeOrchestrator, StreamMessage, end, piece

PLAN = {
    "model": "tiny", "epoch": "3-1", "slots": 4, "context_tokens": 200, "wire_dtype": "fp16",
    "stages": [{"node": "red"}, {"node": "blue"}],
}  # fmt: skip
SHORT = ["bench", "--prompt-tokens", "20,40", "--output-tokens", "2", "--concurrency", "1,3", "--repeat", "2"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOrchestrator]:
    names = itertools.count()

    def connect(broker: str, **_options: object) -> Client:
        name = f"client-{next(names)}"
        bus = MemoryBus(orchestrator.broker, client_id=name)
        bus.connect()
        return Client(bus, name=name, broker=str(broker), silence_s=0.2, control_timeout_s=orchestrator.patience_s)

    with FakeOrchestrator(control={"status": {}, "plan": PLAN}) as orchestrator:
        monkeypatch.setattr(Client, "connect", connect)
        yield orchestrator


def timings(decode_s: float, prefill_s: float = 0.0, steps: int = 10, rows: int = 1) -> tuple[StageTiming, ...]:
    """Of two stages, the first of which works twice as long."""
    return tuple(
        StageTiming(
            node=node, stage=stage, prefill_s=prefill_s, decode_s=decode_s / (stage + 1), decode_steps=steps,
            busy_s=prefill_s + decode_s / (stage + 1) / rows, decode_bytes_out=1000 * steps,
        )
        for stage, node in enumerate(("red", "blue"))
    )  # fmt: skip


def measured(
    submitted_s: float, first_s: float, last_s: float, tokens: int, *, stages: tuple[StageTiming, ...] = ()
) -> Measured:
    return Measured(submitted_s, first_s, last_s, last_s, 1, tokens, end("r", tokens=tokens, stages=stages))


def test_prompts_begin_differently_and_have_their_length() -> None:
    prompts = [make_prompt(50, str(seed)) for seed in range(20)]
    assert {len(prompt.split()) for prompt in prompts} == {50}
    assert len({prompt.split()[0] for prompt in prompts}) > 10
    assert make_prompt(50, "0") == prompts[0]
    long = make_prompt(2000, "0")
    assert len(long.split()) == 2000
    assert set(long.split()) == set(TEXT.split())


def test_a_load_has_a_prompt_for_every_answer() -> None:
    combination = Combination(40, 2, 3)
    prompts = Load(2, 1, 7, same_prompt=False).prompts(combination, words_per_token=0.5)
    assert [len(mine) for mine in prompts] == [3, 3, 3]
    assert len({prompt for mine in prompts for prompt in mine}) == 9
    assert len(prompts[0][0].split()) == 20
    same = Load(2, 1, 7, same_prompt=True).prompts(combination, words_per_token=0.5)
    assert len({prompt for mine in same for prompt in mine}) == 1


def test_times_of_an_answer() -> None:
    answer = measured(1.0, 1.5, 3.5, 11)
    assert (answer.ttft_s, answer.tpot_s) == (0.5, 0.2)
    assert measured(1.0, 1.5, 1.5, 1).tpot_s is None
    in_groups = Measured(0.0, 1.0, 2.0, 2.0, 3, 8, end("r", tokens=8))
    assert in_groups.tpot_s == 0.2


def test_percentiles_are_interpolated() -> None:
    assert percentile([3.0], 0.95) == 3.0
    assert percentile([4.0, 1.0, 2.0, 3.0, 5.0], 0.5) == 3.0
    assert percentile([1.0, 2.0], 0.95) == pytest.approx(1.95)


def test_one_stream_is_accounted_exactly() -> None:
    stages = timings(decode_s=1.0, prefill_s=0.5)
    result = summarise(Combination(5, 11, 1), [measured(0.0, 1.0, 2.0, 11, stages=stages)])
    red, blue = result.stages
    assert (red.decode_ms, blue.decode_ms) == (100.0, 50.0)
    assert (red.utilisation, blue.utilisation) == (0.75, 0.5)
    assert (red.prefill_ms, red.bytes_per_token) == (500.0, 1000.0)
    assert result.bubble_share == 0.25
    assert (result.tokens_per_s, result.answer_tokens_per_s) == (5.5, 10.0)
    assert (result.prompt_tokens, result.completion_tokens, result.ended_early) == (5, 11, 0)


@pytest.mark.parametrize(("streams", "rows"), [(2, 1), (4, 2), (7, 4)])
def test_a_run_of_several_rows_counts_once(streams: int, rows: int) -> None:
    answers = [measured(0.0, 1.0, 10.0, 11, stages=timings(decode_s=1.0, rows=rows)) for _ in range(streams)]
    result = summarise(Combination(5, 12, streams), answers)
    assert result.stages[0].utilisation == pytest.approx(streams * 1.0 / rows / 10.0)
    assert result.stages[0].decode_ms == pytest.approx(100.0)
    assert result.ended_early == streams


def test_stages_of_one_node_share_its_time() -> None:
    both = tuple(StageTiming(node="red", stage=stage, decode_s=0.5, decode_steps=1, busy_s=0.5) for stage in (0, 2))
    result = summarise(Combination(5, 2, 1), [measured(0.0, 1.0, 2.0, 2, stages=both)])
    assert result.bubble_share == 0.5


def test_without_answers_there_is_nothing_to_summarise() -> None:
    with pytest.raises(ValueError, match="no answers"):
        summarise(Combination(1, 1, 1), [])


def test_tables_for_people(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*SHORT, "--seed", "7"]) == 0
    printed = capsys.readouterr()
    title, _, headings, *rows = printed.out.splitlines()
    assert title == "tiny on red -> blue; 4 slots, wire fp16, seed 7"
    assert "TTFT p50 ms" in headings
    assert [row.split()[:4] for row in rows[:4]] == [["5", "2", streams, n] for streams, n in ["12", "36"] * 2]
    assert rows[5].split()[:5] == ["prompt", "output", "streams", "stage", "node"]
    assert [row.split()[3:6] for row in rows[6:10]] == [["0", "phone", "5.00"]] * 4
    assert printed.err.splitlines()[0] == "20 prompt tokens, 2 output tokens, 1 stream ..."
    assert len(printed.err.splitlines()) == 4


def test_json_is_one_object(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*SHORT, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["nodes"], report["repeat"], report["warm_up"]) == ("tiny", ["red", "blue"], 2, 1)
    assert [result["combination"]["streams"] for result in report["results"]] == [1, 3, 1, 3]
    assert [result["answers"] for result in report["results"]] == [2, 6, 2, 6]
    assert report["results"][0]["stages"][0]["bytes_per_token"] == 4608


def test_every_prompt_is_new_and_has_about_its_length(fake: FakeOrchestrator) -> None:
    assert cli.run(SHORT) == 0
    asked = [submit.prompt or "" for submit in fake.submitted]
    assert len(asked) == len(set(asked)) == 1 + 2 * (1 + 3) * (1 + 2)  # the first one counts the words of a token
    assert {len(prompt.split()) for prompt in asked[1:]} == {160, 320}  # 40 words were 5 tokens
    assert {submit.max_tokens for submit in fake.submitted[1:]} == {2}
    assert all(submit.stats for submit in fake.submitted)


def test_the_same_prompt_again_and_again(fake: FakeOrchestrator) -> None:
    assert cli.run([*SHORT[:1], "--prompt-tokens", "20", "--concurrency", "2", "--same-prompt"]) == 0
    assert len({submit.prompt for submit in fake.submitted[1:]}) == 1


@pytest.mark.parametrize("value", ["0", "1,x", "", "1,,2", "257"])
def test_counts_that_are_none(value: str, fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "--concurrency", value]) == 2
    assert capsys.readouterr().err.startswith("Error: Invalid value for '--concurrency'")
    assert fake.submitted == []


def test_without_an_orchestrator(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control, fake.patience_s = {}, 0.1
    assert cli.run(["bench"]) == 2
    assert "start one with 'linguabus serve" in capsys.readouterr().err


def test_without_nodes(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["plan"] = "no nodes are connected"
    assert cli.run(["bench"]) == 2
    assert capsys.readouterr() == ("", "Error: no nodes are connected\n")


@pytest.mark.parametrize(("code", "expected"), [("busy", 1), ("failed", 1), ("too_long", 2)])
def test_an_answer_that_fails_ends_all_streams(
    fake: FakeOrchestrator, code: str, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    good = fake.answer

    def answer(submit: SubmitRequest) -> list[StreamMessage]:
        if len(fake.submitted) <= 4:  # the sample, and one stream's three answers
            return good(submit)
        if len(fake.submitted) == 7:
            return [StreamError(request=submit.request, code=code, reason="the reason")]  # type: ignore[arg-type]
        return [piece(submit.request, "Once")]  # goes on for ever

    fake.answer = answer
    assert cli.run(["bench", "--prompt-tokens", "20", "--concurrency", "1,3", "--repeat", "2"]) == expected
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == "Error: the reason"
    assert printed.out.splitlines()[3].split()[2:4] == ["1", "2"]  # what was measured before
    assert len(fake.cancelled) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_cancels_every_stream(
    fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    def answer(submit: SubmitRequest) -> list[StreamMessage]:
        pieces: list[StreamMessage] = [piece(submit.request, "Once")]
        return [*pieces, end(submit.request)] if len(fake.submitted) == 1 else pieces

    def send_signal() -> None:
        if len(fake.submitted) == 4:
            os.kill(os.getpid(), number)

    fake.answer, fake.on_submitted = answer, send_signal
    assert cli.run(["bench", "--concurrency", "3"]) == code
    fake.settle()
    assert capsys.readouterr().out == ""
    assert {cancel.request for cancel in fake.cancelled} == {submit.request for submit in fake.submitted[1:]}


def test_an_answer_without_text_has_a_ttft(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(submit: SubmitRequest) -> list[StreamMessage]:
        only: StreamEnd = end(submit.request, tokens=1)
        return [only]

    fake.answer = answer
    assert cli.run(["bench", "--prompt-tokens", "20", "--concurrency", "1", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert (result["tpot_s"], result["answer_tokens_per_s"], result["bubble_share"]) == (None, None, None)
    assert result["ttft_s"]["p50"] > 0

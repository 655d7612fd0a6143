"""ask and chat, with an orchestrator that says what the test wants."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import cli
from orchestrator.client import Client, Waiting
from orchestrator.commands import waiting_line
from schemas.messages import (
    ChatMessage,
    Grammar,
    LikelyToken,
    RenewRequest,
    StreamError,
    StreamStatus,
    SubmitRequest,
    TokenLogprobs,
)
from tests.support.fake_orchestrator import FakeOrchestrator, StreamMessage, end, paris, piece, pieces


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOrchestrator]:
    with FakeOrchestrator() as orchestrator:
        monkeypatch.setattr(Client, "connect", orchestrator.connect)
        yield orchestrator


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def fail(code: str) -> object:
    def answer(submit: SubmitRequest) -> list[StreamMessage]:
        return [
            piece(submit.request, "Par"),
            StreamError(request=submit.request, code=code, reason="the reason"),  # type: ignore[arg-type]
        ]

    return answer


def test_ask_prints_the_answer_and_nothing_else(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["ask", "Capital of France?"]) == 0
    assert capsys.readouterr() == ("Paris.\n", "")


SEQUENCE = ("a\tb\n\x1b", "[31mred\x9b", "0m\r\x07 \u05d0\u200d.")
"""Split behind the character that begins it."""


def sequence(submit: SubmitRequest) -> list[StreamMessage]:
    return [*pieces(submit.request, SEQUENCE), end(submit.request, before=SEQUENCE)]


@pytest.mark.parametrize("command", [["ask", "Hello"], ["chat"]])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_an_answer_does_nothing_to_a_terminal_and_is_whole_in_a_file(
    fake: FakeOrchestrator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    is_terminal: bool,
) -> None:
    fake.answer = sequence
    type_lines(monkeypatch, "Hello")
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal, raising=False)
    assert cli.run(command) == 0
    shown = "a\tb\n\\x1b[31mred\\x9b0m\\r\\x07 \u05d0\u200d."
    assert (shown if is_terminal else "".join(SEQUENCE)) in capsys.readouterr().out


def test_ask_passes_its_options_on(fake: FakeOrchestrator) -> None:
    options = "--max-tokens 9 --temperature 0.7 --top-k 40 --top-p 0.9 --repetition-penalty 1.1 --seed 5".split()
    options += "--min-p 0.05 --presence-penalty -0.5 --frequency-penalty 0.25".split()
    assert cli.run(["ask", "Hello", "--system", "Be brief.", *options]) == 0
    (submit,) = fake.submitted
    assert submit.max_tokens == 9
    sampling = submit.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 40, 0.9)
    assert (sampling.repetition_penalty, sampling.seed) == (1.1, 5)
    assert (sampling.min_p, sampling.presence_penalty, sampling.frequency_penalty) == (0.05, -0.5, 0.25)
    assert submit.messages == (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Hello"),
    )


@pytest.mark.parametrize("command", [["ask", "Hello"], ["chat"]])
def test_stop_strings_are_passed_on(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    type_lines(monkeypatch, "Hello")
    assert cli.run([*command, "--stop", "\n\n", "--stop", "User:"]) == 0
    assert fake.submitted[0].stop == ("\n\n", "User:")


@pytest.mark.parametrize("stop", [[""], ["x" * 257], ["x"] * 17])
def test_a_stop_string_outside_the_limits_is_refused_in_a_line(
    fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str], stop: list[str]
) -> None:
    assert cli.run(["ask", "Hello", *(word for text in stop for word in ("--stop", text))]) == 2
    assert "Invalid value for '--stop': " in capsys.readouterr().err
    assert fake.submitted == []


def likely(submit: SubmitRequest) -> list[StreamMessage]:
    top = (LikelyToken(token_id=0, text="Par", logprob=-0.25),)
    told = replace(piece(submit.request, "Par"), logprobs=(TokenLogprobs(text="Par", logprob=-0.25, top=top),))
    return [told, replace(piece(submit.request, "is.", ["Par"]), logprobs=(TokenLogprobs(text="is."),)),
            end(submit.request)]  # fmt: skip


def test_ask_tells_how_likely_tokens_were(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer = likely
    assert cli.run(["ask", "Hello", "--json", "--logprobs", "1"]) == 0
    assert fake.submitted[0].logprobs == 1
    assert json.loads(capsys.readouterr().out)["logprobs"] == [
        {"text": "Par", "logprob": -0.25, "top": [{"token_id": 0, "text": "Par", "logprob": -0.25}]},
        {"text": "is.", "logprob": None, "top": []},
    ]
    assert cli.run(["ask", "Hello", "--logprobs", "1"]) == 2
    assert "--logprobs needs --json" in capsys.readouterr().err


def test_ask_without_a_seed_takes_another_one_each_time(fake: FakeOrchestrator) -> None:
    for _ in range(2):
        cli.run(["ask", "Hello"])
    first, second = fake.submitted
    assert first.sampling.seed != second.sampling.seed


def test_ask_reads_stdin(fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    type_lines(monkeypatch, "A question", "of two lines")
    assert cli.run(["ask", "-"]) == 0
    assert fake.submitted[0].messages[0].content == "A question\nof two lines\n"


def test_ask_raw_sends_no_conversation(fake: FakeOrchestrator) -> None:
    assert cli.run(["ask", "Once upon a time", "--raw"]) == 0
    assert (fake.submitted[0].prompt, fake.submitted[0].messages) == ("Once upon a time", ())


def test_ask_json_is_one_object(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["ask", "Capital of France?", "--json", "--seed", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["text"], report["finish_reason"], report["seed"]) == ("Paris.", "stop", 1)
    assert (report["ttft_s"], report["completion_tokens"], report["tokens_per_s"]) == (0.25, 2, 2.0)
    assert report["interrupted_s"] == 0.0


def test_ask_stats_go_to_stderr(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["ask", "Capital of France?", "--stats"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "Paris.\n"
    summary, headings, stage = printed.err.splitlines()
    assert "TTFT 0.250 s" in summary
    assert "2 tokens in 0.750 s, 2.0 tokens/s" in summary
    assert headings.split()[:2] == ["stage", "node"]
    assert stage.split() == ["0", "phone", "100.0", "5.00", "4", "1152", "0"]


@pytest.mark.parametrize(("code", "expected"), [("too_long", 2), ("no_nodes", 2), ("no_memory", 2), ("failed", 1)])
def test_ask_that_fails_in_the_middle(
    fake: FakeOrchestrator, code: str, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer = fail(code)  # type: ignore[assignment]
    assert cli.run(["ask", "Capital of France?"]) == expected
    assert capsys.readouterr() == ("Par\n", "Error: the reason\n")


def test_ask_without_an_orchestrator(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.silence_s = 0.1
    fake.answer = fake.on_renewed = lambda _: []
    assert cli.run(["ask", "Hello", "--patience", "0"]) == 1
    assert "Error: no orchestrator answers on mqtt://memory:1883" in capsys.readouterr().err


def test_ctrl_c_cancels_on_the_nodes_too(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answer = lambda submit: [piece(submit.request, "Once")]
    fake.on_submitted = press_ctrl_c
    assert cli.run(["ask", "A story, please"]) == 130
    assert [cancel.request for cancel in fake.cancelled] == [fake.submitted[0].request]
    assert capsys.readouterr().out == "Once\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_the_answer_and_leaves_at_once(fake: FakeOrchestrator, number: signal.Signals) -> None:
    """Without waiting for anybody: the orchestrator does not answer any more."""
    fake.answer = lambda submit: [piece(submit.request, "Once")]
    fake.on_submitted = lambda: os.kill(os.getpid(), number)
    before = signal.getsignal(number)
    assert cli.run(["ask", "A story, please"]) == 128 + number
    fake.settle()
    assert [cancel.request for cancel in fake.cancelled] == [fake.submitted[0].request]
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored(fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fake.on_submitted = lambda: os.kill(os.getpid(), signal.SIGHUP)
        assert cli.run(["ask", "Capital of France?"]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_pipe_that_nobody_reads_any_more_cancels_the_answer(fake: FakeOrchestrator, options: list[str]) -> None:
    """Also while there is nothing to write: the next token may take a minute."""
    reader, writer = os.pipe()
    fake.answer = lambda submit: []
    fake.on_submitted = lambda: os.close(reader)
    with (
        contextlib.suppress(BrokenPipeError),
        os.fdopen(writer, "w") as stdout,
        contextlib.redirect_stdout(stdout),
    ):
        cli.run(["ask", "A story, please", *options])
    assert [cancel.request for cancel in fake.cancelled] == [fake.submitted[0].request]


@pytest.mark.parametrize(
    ("reason", "max_tokens", "mark", "code"),
    [
        ("stop", 2, "", 0),
        ("length", 2, "[cut: 2 tokens]\n", 0),
        ("length", 9, "[cut: the context is full after 2 tokens]\n", 0),
        ("cancelled", 9, "[cut: cancelled after 2 tokens]\n", 130),
    ],
)
def test_an_answer_that_is_not_whole_is_marked(
    fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str], reason: str, max_tokens: int, mark: str, code: int
) -> None:
    fake.answer = lambda submit: [piece(submit.request, "Par"), end(submit.request, reason)]
    assert cli.run(["ask", "Capital of France?", "--max-tokens", str(max_tokens)]) == code
    assert capsys.readouterr() == ("Par\n", mark)
    assert cli.run(["ask", "Capital of France?", "--json"]) == code
    printed = capsys.readouterr()
    assert (json.loads(printed.out)["finish_reason"], printed.err) == (reason, "")


def test_ask_without_a_prompt_reads_stdin_unless_that_is_a_terminal(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_lines(monkeypatch, "A question")
    assert cli.run(["ask"]) == 0
    assert fake.submitted[0].messages[0].content == "A question\n"
    type_lines(monkeypatch, "A question")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    capsys.readouterr()
    assert cli.run(["ask"]) == 2
    assert capsys.readouterr().err == "Error: Missing argument 'PROMPT'. (see: linguabus ask --help)\n"
    assert len(fake.submitted) == 1


def test_ask_says_on_stderr_what_it_waits_for(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line when that changes, though not for every megabyte; on a terminal one line that counts."""
    monkeypatch.setattr("orchestrator.commands.waiting_line._TELL_AFTER_S", 0.0)
    waits = [f"a plan: rolling out, phone has {done} of 9 MB" for done in (4, 5)]

    def goes_on(renew: RenewRequest) -> list[StreamMessage]:
        if waits:
            return [StreamStatus(request=renew.request, waits_for=waits.pop(0))]
        return [piece(renew.request, "Paris."), end(renew.request, before=("Paris.",))]

    fake.answer = lambda submit: []
    fake.on_renewed = goes_on
    assert cli.run(["ask", "Capital of France?"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("Paris.\n", "waiting for a plan: rolling out, phone has 4 of 9 MB, 0 s\n")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_what_is_waited_for_is_said_once_and_then_for_how_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    """A long one wraps on a terminal, where a line that wraps can't be taken back."""
    clock = SimpleNamespace(now_s=0.0, monotonic=lambda: clock.now_s)
    monkeypatch.setattr(waiting_line, "time", clock)
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    monkeypatch.setenv("COLUMNS", "80")
    line = waiting_line.WaitingLine()
    memory = f"a plan: needs 378 MB, the fleet has 200 MB{', or more' * 9}"
    for now_s, text in ((2.0, memory), (8.0, memory), (12.0, memory), (13.0, "a plan: rolling out")):
        clock.now_s = now_s
        line.tell(Waiting(text, 0.0))
    said = capsys.readouterr().err.replace("\r\033[K", "|")
    if is_terminal:
        short = "|still waiting, 8 s|still waiting, 12 s|waiting for a plan: rolling out, 13 s"
        assert said == f"\n|waiting for {memory}, 2 s\n{short}"
    else:
        last = "waiting for a plan: rolling out, 13 s"
        assert said.splitlines() == [f"waiting for {memory}, 2 s", "still waiting, 12 s", last]


@pytest.mark.parametrize("command", [["ask", "Capital of France?"], ["chat"]])
def test_patience_goes_to_the_orchestrator(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    typed = iter(["Capital of France?", "/exit"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(typed))
    assert cli.run([*command, "--patience", "7"]) == 0
    assert [submit.patience_s for submit in fake.submitted] == [7.0]


def test_chat_keeps_the_history(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_lines(monkeypatch, "Capital of France?", "", "And of Italy?", "/reset", "Hello", "/exit", "not reached")
    assert cli.run(["chat", "--system", "Be brief."]) == 0
    conversations = [[(turn.role, turn.content) for turn in submit.messages] for submit in fake.submitted]
    system = ("system", "Be brief.")
    france = ("user", "Capital of France?")
    assert conversations == [
        [system, france],
        [system, france, ("assistant", "Paris."), ("user", "And of Italy?")],
        [system, ("user", "Hello")],
    ]
    assert capsys.readouterr().out.count("Paris.") == 3


def test_chat_goes_on_after_a_failed_answer(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer = fail("failed")  # type: ignore[assignment]
    type_lines(monkeypatch, "one", "two", "/dance")
    assert cli.run(["chat"]) == 0
    assert [len(submit.messages) for submit in fake.submitted] == [1, 1]
    errors = capsys.readouterr().err
    assert errors.count("Error: the reason") == 2
    assert "no such command: /dance" in errors


ROOM = 5
"""Messages in the context of `only_so_many`."""


def only_so_many(submit: SubmitRequest) -> list[StreamMessage]:
    if len(submit.messages) > ROOM:
        return [StreamError(request=submit.request, code="too_long", reason="the prompt has too many tokens")]
    return paris(submit)


def contents(submit: SubmitRequest) -> str:
    return " ".join(message.content for message in submit.messages if message.role != "assistant")


def test_chat_drops_the_oldest_turns_when_the_context_is_full(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer = only_so_many
    type_lines(monkeypatch, "one", "two", "three", "four", "five")
    assert cli.run(["chat", "--system", "S"]) == 0
    assert [contents(submit) for submit in fake.submitted] == [
        "S one", "S one two", "S one two three", "S two three", "S two three four", "S three four", "S three four five",
        "S four five",
    ]  # fmt: skip
    printed = capsys.readouterr()
    assert printed.out.count("Paris.") == 5
    assert printed.err.count("the oldest turns are dropped") == 1


def test_chat_keep_all_refuses_instead(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer = only_so_many
    type_lines(monkeypatch, "one", "two", "three", "four", "/reset", "five")
    assert cli.run(["chat", "--keep-all"]) == 0
    assert [contents(submit) for submit in fake.submitted[2:]] == ["one two three", "one two three four", "five"]
    assert capsys.readouterr().err == "Error: the prompt has too many tokens; /reset forgets the conversation\n"


def test_chat_says_what_no_context_can_hold(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer = lambda submit: [StreamError(request=submit.request, code="too_long", reason="too long")]
    type_lines(monkeypatch, "one")
    assert cli.run(["chat"]) == 0
    assert capsys.readouterr().err == "Error: too long\n"


def test_chat_makes_room_after_an_answer_that_the_context_cut(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(submit: SubmitRequest) -> list[StreamMessage]:
        return [piece(submit.request, "Par"), end(submit.request, "length" if "two" in contents(submit) else "stop")]

    fake.answer = answer
    type_lines(monkeypatch, "one", "two", "three")
    assert cli.run(["chat"]) == 0
    assert [contents(submit) for submit in fake.submitted] == ["one", "one two", "two three"]
    marks = [line for line in capsys.readouterr().err.splitlines() if "cut" in line]
    assert marks == ["[cut: the context is full after 2 tokens]"] * 2


@pytest.mark.parametrize(
    ("typed", "code"), [(["^C", "^C", "not reached"], 130), (["^C", "Hello", "^C", "/exit"], 0), (["^C"], 0)]
)
def test_two_ctrl_c_at_an_empty_prompt_leave(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, typed: list[str], code: int
) -> None:
    lines = iter(typed)

    def read(_prompt: str) -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        if line == "^C":
            raise KeyboardInterrupt
        return line

    monkeypatch.setattr("builtins.input", read)
    assert cli.run(["chat"]) == code
    assert [contents(submit) for submit in fake.submitted] == [line for line in typed if line == "Hello"]


def test_help_answers_in_a_chat(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_lines(monkeypatch, "/help")
    assert cli.run(["chat"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("/reset", "/exit", "/help", "Ctrl-C"))
    assert fake.submitted == []


NO_TEXT = os.fsdecode(b"caf\xe9")  # as the command line gives bytes that are no UTF-8


@pytest.mark.parametrize("arguments", [[NO_TEXT], ["Hello", "--system", NO_TEXT], [NO_TEXT, "--raw"]])
def test_ask_says_what_is_wrong_with_bytes_that_are_no_text(
    fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.run(["ask", *arguments]) == 2
    assert capsys.readouterr().err == (
        "Error: request.submit can't be sent: it has bytes that are no UTF-8 text, leave them out\n"
    )


def test_chat_goes_on_after_bytes_that_are_no_text(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_lines(monkeypatch, NO_TEXT, "Capital of\0 France?")
    assert cli.run(["chat"]) == 0
    assert [submit.messages[-1].content for submit in fake.submitted] == ["Capital of\0 France?"]
    assert "no UTF-8 text" in capsys.readouterr().err


def type_bytes(monkeypatch: pytest.MonkeyPatch, data: bytes, encoding: str = "utf-8") -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding=encoding))


def test_what_is_not_text_ends_a_line_and_not_the_conversation(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_bytes(monkeypatch, "Grüße\n".encode() + b"\xff\xfe broken\nstill there?\n")
    assert cli.run(["chat"]) == 0
    assert [submit.messages[-1].content for submit in fake.submitted] == ["Grüße", "still there?"]
    assert capsys.readouterr().err.count("no UTF-8 text") == 1


def test_where_nobody_chose_ascii_text_is_utf_8(fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    type_bytes(monkeypatch, "Grüße".encode(), "ascii")
    assert cli.run(["ask", "-"]) == 0
    type_bytes(monkeypatch, "Grüße".encode("latin-1"), "latin-1")
    assert cli.run(["ask", "-"]) == 0
    assert cli.run(["ask", "Grüße".encode().decode("ascii", "surrogateescape")]) == 0
    assert [submit.messages[-1].content for submit in fake.submitted] == ["Grüße"] * 3


def test_ask_says_so_of_what_comes_from_stdin(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_bytes(monkeypatch, b"\xff")
    assert cli.run(["ask", "-"]) == 2
    assert "no UTF-8 text" in capsys.readouterr().err


def test_letters_that_the_terminal_does_not_have_are_replaced(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "né à 東京 🙂"
    fake.answer = lambda submit: [piece(submit.request, text), end(submit.request)]
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="latin-1", write_through=True))
    assert cli.run(["ask", "Where?"]) == 0
    assert printed.getvalue() == "né à ?? ?\n".encode("latin-1")
    assert cli.run(["ask", "Where?", "--json"]) == 0
    assert json.loads(printed.getvalue().split(b"\n", 1)[1])["text"] == text


def test_chat_ctrl_c_cancels_the_answer_not_the_session(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(submit: SubmitRequest) -> list[StreamMessage]:
        if len(fake.submitted) == 1:
            return [piece(submit.request, "Once")]
        fake.on_submitted = lambda: None
        return [piece(submit.request, "Yes."), end(submit.request)]

    fake.answer, fake.on_submitted = answer, press_ctrl_c
    type_lines(monkeypatch, "A story, please", "Are you still there?")
    assert cli.run(["chat"]) == 0
    assert len(fake.cancelled) == 1
    assert [turn.content for turn in fake.submitted[1].messages] == ["A story, please", "Once", "Are you still there?"]


# --- forms ------------------------------------------------------------------------------------------------------


def test_a_form_is_passed_on(fake: FakeOrchestrator, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "array"}')
    for options in (["--json-schema", '{"type": "array"}'], ["--json-schema", str(schema)], ["--json-object"], []):
        assert cli.run(["ask", "Hello", *options]) == 0
    asked = [submit.grammar for submit in fake.submitted]
    of_schema = Grammar(kind="json_schema", text='{"type": "array"}')
    assert asked == [of_schema, of_schema, Grammar(kind="json_object"), None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--json-schema", "/nowhere/schema.json"], "neither a JSON object nor a file that can be read"),
        (["--json-schema", '{"a": "' + "x" * 32_000 + '"}'], "32,009 characters, the most are 32,000"),
        (["--json-schema", "{}", "--json-object"], "leave out --json-object"),
    ],
)
def test_what_is_no_form_is_refused_in_a_line(
    fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert cli.run(["ask", "Hello", *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not fake.submitted

"""Who asks where no broker answers hears what to do: on the fleet's host, as its member, and without a fleet."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.credential import FILE, Credential
from orchestrator import cli
from orchestrator.client import Client
from schemas.messages import SubmitRequest
from tests.support.fake_orchestrator import FakeOrchestrator, StreamMessage, piece
from tests.support.fleet_world import make_fleet

REMEDIES = {
    "host": "start it with 'linguabus up'",
    "member": "is the fleet's host on, and does linguabus run there?",
    "alone": "start it there again",
}


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.delenv("LINGUABUS_BROKER", raising=False)
    homes = {name: tmp_path / name for name in REMEDIES}
    make_fleet(homes["host"])
    credential = Credential.load(homes["host"] / FILE)
    assert credential
    credential.save(homes["member"] / FILE)
    return homes


@pytest.mark.parametrize("who", ["host", "member"])
def test_nobody_listens_from_the_start(who: str, homes: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--home", str(homes[who]), "ask", "Hello"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: no MQTT broker at mqtts://127.0.0.1:")
    assert line.endswith(f"connection refused; {REMEDIES[who]}")


@pytest.mark.parametrize("who", ["host", "alone"])
def test_it_goes_away_while_an_answer_comes(
    who: str, homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says at once what to do, and the error after all patience says it again."""
    monkeypatch.setattr("orchestrator.commands.waiting_line._TELL_AFTER_S", 0.0)

    def begin(submit: SubmitRequest) -> list[StreamMessage]:
        return [piece(submit.request, "Once")]

    with FakeOrchestrator(answer=begin) as fake:
        fake.on_submitted = fake.broker.stop
        monkeypatch.setattr(Client, "connect", fake.connect)
        assert cli.run(["--home", str(homes[who]), "ask", "Hello", "--patience", "0.7"]) == 1
    waiting, error = capsys.readouterr().err.splitlines()
    assert waiting.startswith(f"waiting for the broker at mqtt://memory:1883 ({REMEDIES[who]}), ")
    assert error.startswith("Error: the broker at mqtt://memory:1883 can't be reached (waited ")
    assert error.endswith(f"): {REMEDIES[who]}")

"""The broker of ``linguabus serve --with-broker`` is killed: it is started again, and given up when that goes on."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from broker.restarts import MOST_ENDS
from tests.support.fleet_commands import FleetCommands, Running
from tests.support.fleet_world import make_fleet
from tests.support.polling import DEADLINE_S


def kill_broker(serve: Running) -> None:
    family = psutil.Process(serve.process.pid).children(recursive=True)
    (broker,) = (one for one in family if "mosquitto" in one.name())
    broker.kill()


@pytest.mark.parametrize("has_fleet", [True, False])
def test_it_is_started_again_and_given_up_in_the_end(
    has_fleet: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LINGUABUS_BROKER", raising=False)
    if has_fleet:
        make_fleet(tmp_path)
    with FleetCommands().running(tmp_path, "serve", "--with-broker", until="next: ") as serve:
        for times in range(1, MOST_ENDS):
            kill_broker(serve)
            serve.wait_for("the broker was killed", times)
        kill_broker(serve)
        serve.wait_for("Error: the broker was killed")
        assert serve.process.wait(DEADLINE_S) == 1

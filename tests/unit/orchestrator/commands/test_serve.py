"""Where ``linguabus serve`` serves model parts of a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli
from orchestrator.service.config import ServiceConfig
from tests.support.fleet_world import HOST, make_fleet


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServiceConfig]:
    """The settings of what was served; nothing is."""
    found: list[ServiceConfig] = []

    def note(config: ServiceConfig, **_: Any) -> None:
        found.append(config)

    monkeypatch.setattr("orchestrator.service.run.run_service", note)
    monkeypatch.delenv("LINGUABUS_BROKER", raising=False)
    return found


def test_a_fleet_is_served_where_it_was_made_for_or_where_one_says(tmp_path: Path, served: list[ServiceConfig]) -> None:
    fleet = make_fleet(tmp_path)
    serve = ["--home", str(tmp_path), "serve"]
    assert cli.run(serve) == 0
    assert cli.run([*serve, "--take-over", "--blob-port", "0"]) == 0
    assert cli.run([*serve, "--blob-host", "127.0.0.2", "--blob-port", "9004"]) == 0
    where = [(config.blob_host, config.blob_port) for config in served]
    assert where == [(HOST, fleet.settings.http_port), (HOST, 0), ("127.0.0.2", 9004)]


def test_without_a_fleet_it_is_this_machine_alone(tmp_path: Path, served: list[ServiceConfig]) -> None:
    assert cli.run(["--home", str(tmp_path), "serve"]) == 0
    assert (served[0].blob_host, served[0].blob_port) == ("127.0.0.1", 0)


@pytest.mark.parametrize(("options", "expected"), [((), None), (("--kv", "auto"), None), (("--kv", "int8"), "int8")])
def test_keys_and_values_stay_as_they_are_unless_somebody_chose(
    tmp_path: Path, served: list[ServiceConfig], options: tuple[str, ...], expected: str | None
) -> None:
    assert cli.run(["--home", str(tmp_path), "serve", *options]) == 0
    assert served[0].kv_dtype == expected

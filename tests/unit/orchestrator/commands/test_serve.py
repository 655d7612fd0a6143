"""What ``linguabus serve`` makes of its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli
from orchestrator.errors import BadSetting
from orchestrator.service.config import ServiceConfig
from tests.support.fleet_world import HOST, make_fleet
from tests.support.scripted_nodes import make_manifest


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


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose store has a model."""
    folder = tmp_path / "models" / "models" / "small"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(make_manifest("small").to_json(), "utf-8")
    return tmp_path


def test_a_draft_model_is_one_that_is_here(
    home: Path, served: list[ServiceConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    serve = ["--home", str(home), "serve"]
    assert cli.run([*serve, "--draft", "small"]) == 0
    assert cli.run(serve) == 0
    assert [config.draft for config in served] == ["small", None]
    assert cli.run([*serve, "--draft", "smaller"]) == 2
    assert "there is no model 'smaller'" in capsys.readouterr().err
    assert cli.run([*serve, "--draft", "small", "--guess", "0"]) == 2
    assert "--guess 0 guesses none" in capsys.readouterr().err
    assert len(served) == 2


def test_the_configuration_file_may_name_it(
    home: Path, served: list[ServiceConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "linguabus").mkdir()
    (home / "linguabus" / "config.yaml").write_text("serve:\n  draft: small\n", "utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    assert cli.run(["--home", str(home), "serve"]) == 0
    assert served[0].draft == "small"


def test_a_service_guesses_or_has_no_draft_model(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="leave one of them out"):
        ServiceConfig(broker_url="mqtt://127.0.0.1", data_dir=tmp_path, draft="small", draft_tokens=0)

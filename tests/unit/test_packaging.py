"""What is installed is what is here, and what set-up and containers are told fits together."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import yaml

import schemas
from tests.support.repository import ROOT

TOP_LEVEL = {
    "pyproject.toml", "README.md", "broker", "orchestrator", "edge_node", "schemas", "tests", "docker-compose.yml",
    "Makefile", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "benchmarks",
}  # fmt: skip


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return document


def tracked_top_level() -> set[str]:
    ignored = re.compile(r"\.|build$|dist$|.*\.egg-info$|__pycache__$")
    return {path.name for path in ROOT.iterdir() if not ignored.match(path.name)}


def distribution(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return match.group().lower()


def test_the_top_level_is_as_agreed() -> None:
    assert tracked_top_level() == TOP_LEVEL


def test_the_version_is_the_same_everywhere(project: dict[str, Any]) -> None:
    version = project["project"]["version"]
    assert version == schemas.PACKAGE_VERSION
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_every_folder_with_code_is_found(project: dict[str, Any]) -> None:
    tops = ("broker", "edge_node", "orchestrator", "schemas")
    finds = project["tool"]["setuptools"]["packages"]["find"]
    assert finds == {"include": [f"{top}*" for top in tops], "namespaces": False}
    folders = {path.parent for top in tops for path in (ROOT / top).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_data_file_of_a_package_is_listed(project: dict[str, Any]) -> None:
    data = project["tool"]["setuptools"]["package-data"]
    for top in ("broker", "edge_node", "orchestrator", "schemas"):
        listed = {file for pattern in data[top] for file in (ROOT / top).glob(pattern)}
        others = {
            file
            for file in (ROOT / top).rglob("*")
            if file.is_file() and file.suffix not in (".py", ".pyc") and file.name != "Dockerfile"
        }
        examples = {file for file in others if "examples" in file.parts}  # for tests of other implementations
        assert others - examples == listed - examples


def test_console_scripts_exist(project: dict[str, Any]) -> None:
    for name, target in project["project"]["scripts"].items():
        assert callable(EntryPoint(name, target, "console_scripts").load())


def test_a_node_needs_nothing_heavy(project: dict[str, Any]) -> None:
    base = {distribution(line) for line in project["project"]["dependencies"]}
    assert base == {"click", "paho-mqtt", "pyyaml"}
    assert project["project"]["optional-dependencies"]["edge"] == ["numpy", "onnxruntime>=1.24.4"]


def test_torch_is_only_for_conversion(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    assert [name for name, lines in extras.items() if "torch" in map(distribution, lines)] == ["convert"]


def test_compose_starts_broker_orchestrator_and_page_by_default(compose: dict[str, Any]) -> None:
    profiles: dict[str, set[str]] = {}
    for name, service in compose["services"].items():
        for profile in service.get("profiles", [""]):
            profiles.setdefault(profile, set()).add(name)
    assert profiles == {
        "": {"init", "broker", "orchestrator", "api", "model"},
        "demo": {"demo-model", "invitations", "node-1", "node-2", "node-3"},
        "monitoring": {"authority", "prometheus", "grafana"},
    }


def test_containers_that_stay_have_limits_and_change_no_more_than_their_volumes(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["pids_limit"] > 0
        if "restart" in service:
            assert service["restart"] == "unless-stopped"
            assert service["mem_limit"]
            assert service["cpus"] == 1  # more than a machine has is refused
            assert service["healthcheck"] if "ports" in service else True


def test_compose_waits_for_what_is_needed(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            if name in ("init", "invitations", "model", "demo-model", "authority"):  # they run to their end
                assert wait == {"condition": "service_completed_successfully"}
            else:
                assert wait == {"condition": "service_healthy"}
                assert services[name]["healthcheck"]["test"][0] == "CMD"


def test_compose_opens_the_fleets_ports_where_it_is_told_to_and_others_on_this_machine(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports.keys() == {"broker", "orchestrator", "api", "prometheus", "grafana"}
    told = {"broker": "${LISTEN_ADDRESS:-0.0.0.0}", "api": "${API_ADDRESS:-127.0.0.1}"}
    told["orchestrator"] = told["broker"]
    for name, (port,) in ports.items():
        assert port.startswith(f"{told.get(name, '127.0.0.1')}:")


def test_images_of_others_have_a_version(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in ("broker", "prometheus", "grafana"):
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", services[name]["image"])
    for dockerfile in ("orchestrator/Dockerfile", "edge_node/Dockerfile"):
        lines = (ROOT / dockerfile).read_text("utf-8").splitlines()
        first = next(line for line in lines if line.startswith("FROM "))
        assert re.fullmatch(r"FROM python:\$\{PYTHON\}-slim-[a-z]+( AS serve)?", first)


def test_monitoring_sees_no_secret(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in ("prometheus", "grafana"):
        mounted = {volume.split(":")[0] for volume in services[name]["volumes"]}
        assert not mounted & {"data", "broker", "invitations"}
    dashboard = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert any(volume.split(":")[1] == dashboard for volume in services["grafana"]["volumes"])


def test_nothing_in_the_compose_file_is_insecure_or_secret() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert "insecure" not in text
    assert "mqtt://" not in text
    assert "linguabus://" not in text


def test_the_containers_broker_sees_its_own_files_only_and_changes_none(compose: dict[str, Any]) -> None:
    volumes = [volume for volume in compose["services"]["broker"]["volumes"] if not volume.startswith("./")]
    assert volumes == ["broker:/broker:ro"]
    assert "--broker-files=/broker" in compose["services"]["init"]["command"]
    uid = compose["services"]["broker"]["user"].split(":")[0]
    assert f"--uid {uid} " in (ROOT / "orchestrator/Dockerfile").read_text("utf-8")
    assert f"--uid {uid} " in (ROOT / "edge_node/Dockerfile").read_text("utf-8")


def test_compose_names_files_and_volumes_that_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (ROOT / source).is_file()


def test_nodes_of_the_compose_demo_are_told_apart(compose: dict[str, Any]) -> None:
    for name in ("node-1", "node-2", "node-3"):
        command = compose["services"][name]["command"]
        assert command[:2] == ["join", f"@/invitations/{name}"]
        assert f"{name}:/data" in compose["services"][name]["volumes"]

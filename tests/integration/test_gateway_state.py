"""The gateway's metrics and its view of the fleet."""

from __future__ import annotations

import gc
import itertools
import json
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.mqtt import MqttBus
from orchestrator.gateway.access import Guard, key_access
from orchestrator.gateway.gateway import GatewayLimits
from orchestrator.gateway.server import serving_gateway
from tests.support.gateway_world import HOST, GatewayWorld
from tests.support.members import as_operator, as_orchestrator
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT
from tests.support.scripted_fleet import ScriptedFleet, TinyStore
from tests.support.scripted_nodes import make_birth
from tests.support.scripted_service import ScriptedService
from tests.support.secured_broker import SecuredBroker

QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "a secret"}], "max_tokens": 6}


def scraped(root: str) -> dict[str, float]:
    """Samples by name and labels."""
    text = httpx.get(f"{root}/metrics", timeout=DEADLINE_S).text
    assert "secret" not in text
    return {
        sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_is_answered(root: str) -> None:
    before = scraped(root)
    assert httpx.post(f"{root}/v1/chat/completions", json=QUESTION, timeout=DEADLINE_S).status_code == 200
    assert httpx.post(f"{root}/v1/chat/completions", json={}, timeout=DEADLINE_S).status_code == 422
    assert httpx.get(f"{root}/nothing/of/the/kind").status_code == 404
    now = scraped(root)

    def grown(name: str) -> float:
        return now.get(name, 0.0) - before.get(name, 0.0)

    assert grown("linguabus_tokens_generated_total") == 6
    assert grown("linguabus_prompt_tokens_total") == len("a secret")
    assert grown("linguabus_answers_total,outcome=length") == 1
    assert grown("linguabus_time_to_first_token_seconds_count") == 1
    assert grown("linguabus_time_per_output_token_seconds_count") == 1
    assert grown("linguabus_http_requests_total,route=/v1/chat/completions,status=200") == 1
    assert grown("linguabus_http_requests_total,route=/v1/chat/completions,status=422") == 1
    assert grown("linguabus_http_requests_total,route=none,status=404") == 1
    assert now["linguabus_answers_open"] == 0


@pytest.mark.parametrize("wanted", [{}, {"n": 3}, {"stream": True}])
def test_a_question_that_is_refused_is_no_answer_that_broke_off(root: str, wanted: dict[str, object]) -> None:
    before = scraped(root)
    too_long = {"model": "tiny", "prompt": "a" * 300} | wanted
    response = httpx.post(f"{root}/v1/completions", json=too_long, timeout=DEADLINE_S)
    assert "context_length_exceeded" in response.text
    now = scraped(root)
    outcomes = {name: value - before.get(name, 0) for name, value in now.items() if "answers_total," in name}
    assert {name: count for name, count in outcomes.items() if count} == {
        "linguabus_answers_total,outcome=refused": wanted.get("n", 1)
    }


def test_metrics_show_the_fleet(root: str) -> None:
    shown = scraped(root)
    assert shown["linguabus_up"] == 1
    assert shown["linguabus_pipeline_serving,model=tiny,pipeline=main"] == 1
    assert sum(value for name, value in shown.items() if name.startswith("linguabus_node_online")) == 4
    assert any(name.startswith("linguabus_stage_predicted_seconds,node=") for name in shown)


@pytest.mark.long
def test_prometheus_own_check_has_nothing_to_say(root: str) -> None:
    text = httpx.get(f"{root}/metrics").content
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_fleet_by_http(root: str) -> None:
    def got(path: str) -> dict[str, object]:
        response = httpx.get(f"{root}/api/fleet/{path}", timeout=DEADLINE_S)
        assert response.status_code == 200, response.text
        found: dict[str, object] = response.json()
        return found

    assert got("status")["state"] == "serving"
    assert len(got("nodes")["nodes"]) == 4  # type: ignore[arg-type]
    assert got("plan")["pipelines"]
    assert got("overview")["pipelines"]
    assert "pipelines" in got("moves")
    assert got("plans")["plans"]


def test_a_preview_changes_nothing(root: str) -> None:
    url = f"{root}/api/fleet/preview"
    preview = httpx.post(url, json={"exclude": ["a"]}, timeout=DEADLINE_S)
    assert preview.status_code == 200
    assert "a" not in {stage["node"] for stage in preview.json()["explanation"]["stages"]}
    wrong = httpx.post(url, json={"exclude": 5})
    assert (wrong.status_code, "exclude" in wrong.json()["error"]) == (422, True)
    assert httpx.post(url, content=b"{", headers={"content-type": "application/json"}).status_code == 400


def test_events_as_they_happen(gateway_world: GatewayWorld, root: str) -> None:
    with httpx.stream("GET", f"{root}/api/fleet/events", timeout=DEADLINE_S) as response:
        lines = response.iter_lines()
        kinds = []
        for line in lines:
            if line == ": still there":
                break
            if line.startswith("data: "):
                kinds.append(json.loads(line.removeprefix("data: "))["kind"])
        assert "joined" in kinds
        gateway_world.operator.drain("a")
        drained = next(json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))
        assert (drained["kind"], drained["node"]) == ("drained", "a")
    gateway_world.operator.drain("a", undo=True)


def test_readers_of_events_leave_nothing_behind(gateway_world: GatewayWorld, caplog: pytest.LogCaptureFixture) -> None:
    """Neither one that reads nothing, nor one that has read some, nor one that is there when the gateway ends."""
    with ExitStack() as last:
        with gateway_world.gateway(quiet_s=0.1) as root:
            for lines in (0, 1, 5):
                with httpx.stream("GET", f"{root}/api/fleet/events", timeout=DEADLINE_S) as response:
                    assert len(list(itertools.islice(response.iter_lines(), lines))) == lines
            staying = last.enter_context(httpx.stream("GET", f"{root}/api/fleet/events", timeout=DEADLINE_S))
            left = staying.iter_lines()
            assert next(left) == ": linguabus"
        list(left)  # it is ended as a response is
    gc.collect()  # tasks that nobody holds any more complain then
    assert [record.getMessage() for record in caplog.records if record.name.startswith(("asyncio", "uvicorn"))] == []


@pytest.mark.parametrize("path", ["events", "live"])
def test_a_stream_waits_for_an_orchestrator_and_ends_with_the_gateway(tmp_path: Path, path: str) -> None:
    with SecuredBroker() as broker, ExitStack() as stack:
        gateway = stack.enter_context(ExitStack())
        limits = GatewayLimits(quiet_s=0.1)
        server = gateway.enter_context(serving_gateway(as_operator(broker.url), host=HOST, port=0, limits=limits))
        url = f"http://{HOST}:{server.port}/api/fleet/{path}"
        lines = stack.enter_context(httpx.stream("GET", url, timeout=DEADLINE_S)).iter_lines()
        # Longer than the question for what has happened, which nobody answers.
        assert len(list(itertools.islice((line for line in lines if line == ": still there"), 60))) == 60
        buses = []
        for name in ("nodes", "orchestrator"):
            buses.append(MqttBus(as_orchestrator(broker.url), client_id=name))
            buses[-1].connect()
        stack.enter_context(ScriptedFleet(buses[0], [make_birth("a")]))
        service = ScriptedService(buses[1], tmp_path, TinyStore(), context_tokens=256)
        stack.callback(service.end)
        said = (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))
        assert next(one for one in said if one.get("kind") == "joined")["node"] == "a"
        gateway.close()
        list(lines)


def test_only_who_has_a_key_sees_the_fleet(gateway_world: GatewayWorld) -> None:
    with gateway_world.gateway(guard=Guard(key_access(lambda *_: False))) as root:
        for path in ("nodes", "events", "status"):
            refused = httpx.get(f"{root}/api/fleet/{path}")
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="linguabus"')


def test_the_dashboard_shows_metrics_that_there_are(root: str) -> None:
    text = httpx.get(f"{root}/metrics", timeout=DEADLINE_S).text
    names = {family.name for family in text_string_to_metric_families(text)}
    dashboard = json.loads((ROOT / "docs" / "monitoring" / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"linguabus_[a-z_]+", query)}
    assert len(asked) > 10
    assert {name.removesuffix("_bucket").removesuffix("_total") for name in asked} <= names

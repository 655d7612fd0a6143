"""The page's files, its stream, and what changes the fleet by HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.gateway.access import Guard, key_access
from orchestrator.gateway.access_key import key_text
from orchestrator.gateway.fleet_picture import picture
from orchestrator.gateway.page_routes import page_files
from orchestrator.identity.fleet_folder import FleetFolder
from schemas.parts import UnitsOnNode
from schemas.plan_views import PlanOnItsWay
from tests.support.fleet_world import enrol, make_fleet
from tests.support.gateway_world import GatewayWorld
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

MOST_BYTES = 300_000
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


@pytest.fixture
def hosted(gateway_world: GatewayWorld, tmp_path: Path) -> Iterator[str]:
    """The root of a gateway on a fleet's host."""
    make_fleet(tmp_path)
    with gateway_world.gateway(home=tmp_path) as root:
        yield root


def post(root: str, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{root}/api/fleet/{path}", json=body, headers=headers, timeout=DEADLINE_S)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_browser_gets_the_page_and_others_a_word(root: str) -> None:
    page = httpx.get(f"{root}/", headers=BROWSER)
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
    for accept in ("*/*", "application/json"):
        assert httpx.get(f"{root}/", headers={"accept": accept}).text == "linguabus is running"
    assert httpx.head(f"{root}/").status_code == 200


def test_its_files_are_few_bytes_and_asked_for_again_only_when_they_change(root: str) -> None:
    total_bytes = 0
    for path in page_files():
        got = httpx.get(f"{root}/page/{path}")
        assert (got.status_code, got.headers["x-content-type-options"]) == (200, "nosniff")
        total_bytes += len(got.content)
        again = httpx.get(f"{root}/page/{path}", headers={"if-none-match": got.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert total_bytes < MOST_BYTES
    for wrong in ("nothing.js", "../app.py", "vendor/LICENSE.marked", ""):
        assert httpx.get(f"{root}/page/{wrong}").status_code == 404


def test_the_page_names_no_other_host() -> None:
    own = {path: text for path, text in page_files().items() if not path.startswith("vendor/")}
    for path, text in own.items():
        addresses = re.findall(r"""https?://[^"'\s)]+|["'(]//[^"'\s)]+""", text.decode())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, path


def test_libraries_come_with_their_licences() -> None:
    vendor = ROOT / "orchestrator" / "gateway" / "page" / "vendor"
    for path in vendor.glob("*.js"):
        assert (vendor / f"LICENSE.{path.stem}").is_file()


# --- the stream -----------------------------------------------------------------------------------------------------


def told(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, value) of each event."""
    kind = ""
    for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


def test_the_fleet_is_told_whole_and_then_what_changes(gateway_world: GatewayWorld, root: str) -> None:
    with httpx.stream("GET", f"{root}/api/fleet/live", timeout=DEADLINE_S) as response:
        events = told(response.iter_lines())
        whole = next(value for kind, value in events if kind == "fleet")
        assert whole["service"]["state"] == "serving"
        assert set(whole["nodes"]) == set("abcd")
        (pipeline,) = whole["pipelines"].values()
        assert pipeline["unit_count"] == 6
        gateway_world.operator.drain("a")
        change = next(value for kind, value in events if kind == "fleet" and "drained" in str(value))
        assert set(change["nodes"]) == {"a"}
        assert "memory_bytes" not in change["nodes"]["a"]
    gateway_world.operator.drain("a", undo=True)


def test_a_plan_on_its_way_is_in_the_picture(gateway_world: GatewayWorld) -> None:
    operator = gateway_world.operator
    plan = operator.plan()
    coming = PlanOnItsWay(
        state="rolling out", epoch="9-9", model="tiny", stages=(UnitsOnNode(node="a", start=0, stop=6, units="all"),)
    )
    plan = replace(plan, pipelines=(replace(plan.pipelines[0], next=coming),))
    shown = picture(operator.status(), operator.overview(), plan)["pipelines"]["main"]
    assert shown["next"]["stages"] == [{"node": "a", "start": 0, "stop": 6, "units": "all"}]
    assert "next" not in picture(operator.status(), operator.overview(), operator.plan())["pipelines"]["main"]


def test_a_watcher_is_told_that_nobody_serves(gateway_world: GatewayWorld, root: str) -> None:
    with httpx.stream("GET", f"{root}/api/fleet/live", timeout=DEADLINE_S) as response:
        events = told(response.iter_lines())
        next(value for kind, value in events if kind == "fleet")
        gateway_world.end_service()
        states = (value.get("service", {}).get("state") for kind, value in events if kind == "fleet")
        assert "away" in states
        gateway_world.serve()
        assert "serving" in states


# --- what changes the fleet -----------------------------------------------------------------------------------------


def test_a_node_is_drained_and_restored(root: str) -> None:
    assert post(root, "drain", {"node": "b"}).json()["drained"]
    assert post(root, "drain", {"node": "b", "undo": True}).json()["drained"] == ""
    refused = post(root, "drain", {"node": "nobody"})
    assert (refused.status_code, "nobody" in refused.json()["error"]) == (409, True)
    assert post(root, "drain", {"node": 5}).status_code == 422


def test_a_node_is_called_something_else(root: str) -> None:
    assert post(root, "rename", {"node": "b", "label": "<b>Anna's</b>"}).json() == {
        "node": "b",
        "label": "<b>Anna's</b>",
    }
    shown = {node["node"]: node.get("label") for node in httpx.get(f"{root}/api/fleet/nodes").json()["nodes"]}
    assert shown == {"a": None, "b": "<b>Anna's</b>", "c": None, "d": None}
    for wrong in ({"node": "a", "label": "c"}, {"node": "nobody", "label": "x"}):
        assert post(root, "rename", wrong).status_code == 409
    for wrong in ({"node": "b", "label": 65 * "x"}, {"node": "b", "label": None}, {"label": "x"}):
        assert post(root, "rename", wrong).status_code == 422
    assert post(root, "rename", {"node": "b"}).json()["label"] == ""


def test_plans_are_put_in_force(root: str) -> None:
    assert post(root, "apply", {"exclude": ["a"]}).status_code == 200
    assert "a" not in {stage["node"] for stage in httpx.get(f"{root}/api/fleet/plan").json()["stages"]}
    assert post(root, "apply", {}).status_code == 200
    assert "changed" in post(root, "replan", {}).json()
    assert post(root, "rebalance", {"dry_run": True}).json()["pipelines"]


def test_a_model_that_is_not_there_is_refused(root: str) -> None:
    refused = post(root, "model", {"model": "other"})
    assert (refused.status_code, "other" in refused.json()["error"]) == (409, True)


def test_a_request_s_story_is_told(root: str) -> None:
    answered = httpx.post(f"{root}/v1/chat/completions", json=QUESTION, timeout=DEADLINE_S).json()
    request = answered["id"].removeprefix("chatcmpl-")
    story = httpx.get(f"{root}/api/fleet/trace", params={"request": request}).json()
    assert story["request"] == request
    assert httpx.get(f"{root}/api/fleet/trace").json()["request"] == request
    assert httpx.get(f"{root}/api/fleet/trace", params={"request": "x"}).status_code == 422


@pytest.mark.parametrize("path", ["api/fleet/drain", "api/fleet/members/invite", "v1/chat/completions", "api/pull"])
def test_another_pages_requests_change_nothing(hosted: str, path: str) -> None:
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        refused = httpx.post(f"{hosted}/{path}", json=QUESTION, headers=headers)
        assert (refused.status_code, "another host" in refused.text) == (403, True)


def test_a_form_changes_nothing(hosted: str) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        refused = httpx.post(f"{hosted}/api/fleet/drain", content='{"node": "a"}', headers={"content-type": kind})
        assert refused.status_code == 415


# --- the host -------------------------------------------------------------------------------------------------------


def test_the_host_invites_and_revokes(hosted: str) -> None:
    invited = post(hosted, "members/invite", {"name": "phone"}).json()
    assert invited["line"].startswith("linguabus join linguabus://phone@")
    assert len({len(row) for row in invited["squares"]}) == 1
    roll = httpx.get(f"{hosted}/api/fleet/members").json()
    assert [one["name"] for one in roll["invited"]] == ["phone"]
    assert roll["door"]["open"]
    assert post(hosted, "members/door", {"open_s": None}).json() == {"open": False, "open_until": None}
    assert post(hosted, "members/door", {"open_s": 60}).json()["open"]
    assert post(hosted, "members/revoke", {"name": "phone"}).status_code == 200
    assert post(hosted, "members/revoke", {"name": "phone"}).status_code == 404
    assert post(hosted, "members/door", {"open_s": 60}).status_code == 409
    assert post(hosted, "members/revoke", {"name": "orchestrator"}).status_code == 409


@pytest.mark.parametrize(
    "wrong",
    [{"name": "a b"}, {"name": ""}, {"name": "a", "role": "orchestrator"}, {"name": "a", "expires_s": 0}, {},
     {"name": "a", "role": "client", "phone": True}, {"name": "a", "more": 1}],
)  # fmt: skip
def test_wrong_invitations_are_refused(hosted: str, wrong: dict[str, Any]) -> None:
    assert post(hosted, "members/invite", wrong).status_code == 422


def test_who_is_invited_again_or_is_a_member_is_told_in_words_of_the_request(hosted: str, tmp_path: Path) -> None:
    first, second = (post(hosted, "members/invite", {"name": "phone"}).json() for _ in range(2))
    assert (first["ends_another"], second["ends_another"]) == (False, True)
    enrol(FleetFolder.of(tmp_path), "tablet", "node")
    refused = post(hosted, "members/invite", {"name": "tablet"})
    assert (refused.status_code, "has lost its key (again)" in refused.json()["error"]) == (409, True)
    assert "--" not in refused.json()["error"]


def test_elsewhere_nobody_is_invited(root: str) -> None:
    rights = httpx.get(f"{root}/api/fleet/rights").json()
    assert rights == {
        "caller": "local", "commands": True, "models": False, "members": False, "upload_bytes": None,
    }  # fmt: skip
    refused = post(root, "members/invite", {"name": "phone"})
    assert (refused.status_code, "host" in refused.json()["error"]) == (409, True)
    assert httpx.get(f"{root}/api/fleet/models").json() == {"served": "tiny", "models": None, "adding": None}


@pytest.mark.parametrize("source", ["/etc/passwd", "../model", "--help", "a/b/c", "C:\\model", "a b/c", ".", "x"])
def test_files_of_the_host_are_no_models_to_add(hosted: str, source: str) -> None:
    refused = post(hosted, "models/add", {"source": source})
    assert (refused.status_code, "linguabus model add FILE" in refused.json()["error"]) == (422, True)


def test_who_may_only_ask_commands_nothing(gateway_world: GatewayWorld, tmp_path: Path) -> None:
    make_fleet(tmp_path)
    keys = {"notebook": "one", "owner": "two"}
    guard = Guard(key_access(lambda name, key: keys.get(name) == key), lambda name: name == "owner")
    with gateway_world.gateway(guard=guard, home=tmp_path) as root:
        for name, may in (("notebook", False), ("owner", True)):
            key = {"authorization": f"Bearer {key_text(name, keys[name])}"}
            assert httpx.get(f"{root}/api/fleet/rights", headers=key).json()["commands"] is may
            drained = post(root, "drain", {"node": "a", "undo": True}, **key)
            assert drained.status_code == (200 if may else 403), drained.text
            assert httpx.get(f"{root}/api/fleet/members", headers=key).status_code == (200 if may else 403)
            for path in ("members/invite", "members/revoke"):
                assert post(root, path, {"name": "orchestrator"}, **key).status_code == (409 if may else 403)
        for path in ("live", "rights", "members", "models", "trace"):
            assert httpx.get(f"{root}/api/fleet/{path}").status_code == 401
        assert httpx.get(f"{root}/", headers=BROWSER).status_code == 200
